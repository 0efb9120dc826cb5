"""What is the class lost without? Contrastive subsets, and those that are both, of the published ResNet-20's images.

    python benchmarks/contrastive.py --weights resnet20-12fca82f.th --data-dir DATA --out FOLDER
      [--confident 12] [--compared 500] [--report]

Subsets of the first test images of 0.9 or more, and of as many wrong predictions of 0.9 or more as there are, up to
half of --compared, each with the right one of the nearest confidence that is left. Every unit of four images is a file,
so that the command goes on where it was stopped; --report tells of what is there. Two quiet CPU cores take some four
seconds an image for those that are both, and under two for the others.
"""

import argparse
import csv
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import published

import jax_sis
from jax_sis.core.questions import DEFAULT_MARGIN
from jax_sis.data import training_sets
from jax_sis.statistics.estimates import mean_of, share_of
from jax_sis.statistics.matching import match_by_confidence

THRESHOLD, UNIT = 0.9, 4
QUESTIONS = ("contrastive", "both", "sufficient")


def choose_pairs(confidence: np.ndarray, is_right: np.ndarray, count: int) -> list[int]:
  """Wrong predictions, each followed by the right one of the nearest confidence, by the log-odds."""
  odds = np.log(confidence) - np.log1p(-np.minimum(confidence, 1 - 1e-7))
  right = dict.fromkeys(np.flatnonzero(is_right & (confidence >= THRESHOLD)).tolist())
  chosen: list[int] = []
  for wrong in np.flatnonzero(~is_right & (confidence >= THRESHOLD))[: count // 2].tolist():
    nearest = min(right, key=lambda one: abs(odds[one] - odds[wrong]))
    del right[nearest]
    chosen += [wrong, nearest]
  return chosen


def look_at_all(options: argparse.Namespace, predict_fn: Any, params: Any, inputs: Any) -> tuple[Any, Any]:
  """The confidence of each prediction on a whole image, and whether it is right; kept beside the units."""
  path = options.out / "whole.npz"
  if not path.exists():
    test_set: Any = training_sets.open_training_set(
      "cifar10", "test", data_dir=options.data_dir, image_size=None, on_error="refuse"
    )
    predict = jax.jit(predict_fn)
    logits = np.concatenate([np.asarray(predict(params, part)) for part in np.split(inputs, 40)])
    is_right = logits.argmax(1) == test_set.labels
    np.savez(
      path, confidence=np.asarray(jax.nn.softmax(logits.astype(np.float32)).max(1), np.float64), is_right=is_right
    )
  with np.load(path) as arrays:
    return arrays["confidence"], arrays["is_right"]


def search(predict_fn: Any, params: Any, inputs: Any, question: Any) -> list[dict[str, Any]]:
  """The subset of each image, with its certificate."""
  subsets = jax_sis.smallest_subsets(predict_fn, params, inputs, threshold=THRESHOLD, question=question)
  certificate = jax_sis.certify(predict_fn, params, inputs, subsets)
  return [
    {
      "target": int(subsets.target[i]),
      "status": int(subsets.status[i]),
      "kept": np.flatnonzero(subsets.kept[i]).tolist(),
      "answers": bool(certificate.answers[i]),
      "is_minimal": bool(certificate.is_minimal[i]),
      "certificate": certificate.describe(i),
    }
    for i in range(len(subsets))
  ]


def run_units(folder: pathlib.Path, classifier: tuple[Any, Any], inputs: Any, question: str, ids: list[int]) -> None:
  """Searches what is not there yet."""
  for start in range(0, len(ids), UNIT):
    some = ids[start : start + UNIT]
    path = folder / f"{question}-{'-'.join(map(str, some))}.json"
    if path.exists():
      continue
    padded = [*some, *some[-1:] * (UNIT - len(some))]
    predict_fn, params = classifier
    rows = search(predict_fn, params, jnp.asarray(inputs[padded]), question)[: len(some)]
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps([{"id": one, **row} for one, row in zip(some, rows, strict=True)]))
    unfinished.replace(path)
    print(question, [len(row["kept"]) for row in rows], flush=True)


def read_rows(folder: pathlib.Path, question: str) -> dict[int, dict[str, Any]]:
  files = sorted(folder.glob(f"{question}-*.json"))
  return {row["id"]: row for path in files for row in json.loads(path.read_text())}


def judge_rows(rows: dict[int, dict[str, Any]], classifier: tuple[Any, Any], inputs: Any) -> None:
  """Adds to each row what float64 says of its subset."""
  ids = list(rows)
  kept = np.zeros((len(ids), 1024), bool)
  for place, one in enumerate(ids):
    kept[place, rows[one]["kept"]] = True
  targets = np.array([rows[one]["target"] for one in ids])
  predict_fn, params = classifier
  confidence, lead = published.judge_in_float64(predict_fn, params, inputs[ids], kept.reshape(-1, 32, 32), targets)
  for place, one in enumerate(ids):
    rows[one] |= {"confidence": float(confidence[place]), "lost_by": float(lead[place])}


def report(
  folder: pathlib.Path, classifier: tuple[Any, Any], inputs: Any, confident: list[int], pairs: list[int], whole: Any
) -> None:
  """Tells of what is there."""
  confidence, is_right = whole
  table = [("question", "id", "is_right", "whole", "pixels", "is_certified", "alone", "lost_by")]
  for question in QUESTIONS:
    rows = read_rows(folder, question)
    if not rows:
      continue
    judge_rows(rows, classifier, inputs)
    table += [
      (
        *(question, one, int(is_right[one]), f"{confidence[one]:.6f}"),
        *(len(row["kept"]), int(row["is_minimal"]), f"{row['confidence']:.6f}", f"{row['lost_by']:.4f}"),
      )
      for one, row in sorted(rows.items())
    ]
    found = [row for row in rows.values() if row["status"] == 0]
    holds = [
      (question == "contrastive" or row["confidence"] >= THRESHOLD)
      and (question == "sufficient" or row["lost_by"] >= DEFAULT_MARGIN)
      for row in found
    ]
    print(
      f"{question}: {len(found)} of {len(rows)} images have one, {sum(row['answers'] for row in found)} certified, "
      f"{sum(row['is_minimal'] for row in found)} 1-minimal, {sum(holds)} hold in float64"
    )
    first = [rows[one] for one in confident if one in rows]
    print(
      "  confident images:",
      [len(row["kept"]) for row in first],
      "lost by",
      [round(row["lost_by"], 2) for row in first],
      "alone",
      [round(row["confidence"], 3) for row in first],
    )
    both = [(wrong, right) for wrong, right in zip(pairs[::2], pairs[1::2], strict=True) if {wrong, right} <= set(rows)]
    places = np.array([one for pair in both for one in pair if rows[one]["status"] == 0], int)
    if not len(places):
      continue
    sizes = np.array([len(rows[one]["kept"]) for one in places])
    matched = match_by_confidence(sizes, is_right[places], confidence[places])
    print(
      f"  {len(places)} images in pairs: wrong {mean_of(sizes[~is_right[places]]):.1f} pixels, "
      f"right {mean_of(sizes[is_right[places]]):.1f}; matched difference {matched.difference:.1f} "
      f"({matched.num_wrong} wrong, {matched.num_right} right)"
    )
    certified = np.array([rows[one]["is_minimal"] for one in places])
    print(f"  certified and 1-minimal: {share_of(certified).percent:.1f} %")
  with (folder / "subsets.csv").open("w", newline="") as file:
    csv.writer(file, lineterminator="\n").writerows(table)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  published.add_options(parser)
  parser.add_argument("--out", required=True, type=pathlib.Path)
  parser.add_argument("--confident", type=int, default=12)
  parser.add_argument("--compared", type=int, default=500)
  parser.add_argument("--report", action="store_true")
  options = parser.parse_args()
  options.out.mkdir(parents=True, exist_ok=True)
  predict_fn, params, inputs = published.load(options)
  confidence, is_right = look_at_all(options, predict_fn, params, inputs)
  confident = np.flatnonzero(confidence >= THRESHOLD)[: options.confident].tolist()
  pairs = choose_pairs(confidence, is_right, options.compared)
  if not options.report:
    for ids in (confident, pairs):
      for question in QUESTIONS:
        run_units(options.out, (predict_fn, params), inputs, question, ids)
  report(options.out, (predict_fn, params), inputs, confident, pairs, (confidence, is_right))


if __name__ == "__main__":
  main()
