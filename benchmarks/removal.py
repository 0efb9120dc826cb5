"""What a classifier makes of images of which squares are missing: by the mean colour, and removed inside the network.

    python benchmarks/removal.py --checkpoint CLASSIFIER --data-dir DATA --out FOLDER --removal layer [--side 1]
      [--search gradient]

First table: accuracy on CIFAR-10 test images, by id, with a share of each image's squares kept at random, and the
entropy of the predicted classes (2.30 nats if all are alike). Second table: sets of squares that reach 0.9 on the first
confident images, the smallest ones or those of the gradient's order, found on the mean colour, with removal inside the
network (by layer masking, or of a transformer's tokens), and on draws of other images. On how many images is the class
kept when they are read in each of these ways (on other images: the mean share of 20), on plain colours, and when their
shape in white is, in its place and moved? And what does a search cost? A line an image is kept in the folder, so that
the same command goes on where it was stopped, also with more images.
"""

import argparse
import collections
import json
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jax_sis
from jax_sis.classifiers import checkpoint, freeze
from jax_sis.core.removal import find_presence_fn
from jax_sis.core.types import Removal
from jax_sis.data import training_sets
from jax_sis.statistics.estimates import mean_of, share_of

THRESHOLD = 0.9
# Images read at a time, and searched at a time.
BATCH_SIZE, UNIT = 100, 20
# Other images: of the end of the test set, for the search and for reading.
POOL_SIZE, NUM_DRAWS, NUM_READ = 500, 16, 20
# Of the gradient's search.
NUM_STEPS = 128
# Plain colours behind the squares, 8-bit; in these readings what is missing is never removed.
FILLS = {"on black": 0, "on grey": 128, "on white": 255}
# The arguments of a search -> subsets.
FindFn = Callable[..., jax_sis.Subsets]
READINGS = ("value", "removed", "others", *FILLS, "white", "moved", "less moved")


class Reader:
  """The classifier, asked for images of which squares are missing."""

  def __init__(self, folder: str, removal: Removal, side: int):
    classifier = checkpoint.load_classifier(folder)
    self.predict_fn, self.params = freeze(classifier.module)
    self.removal, self.side = removal, side
    self.normalisation = classifier.normalisation
    self.grid = tuple(length // side for length in classifier.input_shape[:2])
    self._plain_fn = jax.jit(self.predict_fn)
    self._present_fn = jax.jit(find_presence_fn(self.predict_fn, removal))

  def read(self, images: np.ndarray, kept: np.ndarray, *, removed: bool, behind: Any = 0.0) -> np.ndarray:
    """The probability of all classes, with `kept` `[N, *grid]` saying which squares are there."""
    present = kept.repeat(self.side, 1).repeat(self.side, 2).astype(np.float32)
    shown = images if removed else np.where(present[..., None] > 0, images, behind)
    padding = -len(images) % BATCH_SIZE
    shown, present = (np.concatenate([array, array[:1].repeat(padding, 0)]) for array in (shown, present))
    logits = []
    for start in range(0, len(shown), BATCH_SIZE):
      some, there = shown[start : start + BATCH_SIZE], present[start : start + BATCH_SIZE]
      logits.append(self._present_fn(self.params, some, there) if removed else self._plain_fn(self.params, some))
    return np.asarray(jax.nn.softmax(np.concatenate(logits)))[: len(images)]


def main() -> None:
  """Prints both tables."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--checkpoint", required=True, help="the folder of a classifier")
  parser.add_argument("--data-dir", required=True, help="the TFDS folder with cifar10")
  parser.add_argument("--out", required=True, type=pathlib.Path, help="the folder for subsets.jsonl")
  parser.add_argument("--removal", required=True, choices=("layer", "tokens"))
  parser.add_argument("--side", type=int, default=4, help="pixels a side of a square (default: %(default)s)")
  parser.add_argument(
    "--search", choices=("smallest", "gradient"), default="smallest", help="of the second table (default: %(default)s)"
  )
  parser.add_argument("--images", type=int, default=2000, help="of the first table (default: %(default)s)")
  parser.add_argument("--searched", type=int, default=500, help="of the second table (default: %(default)s)")
  parser.add_argument(
    "--ways", nargs="+", default=["value", "removed", "others"], help="how subsets are found (default: all three)"
  )
  options = parser.parse_args()
  reader = Reader(options.checkpoint, options.removal, options.side)
  find_fn = FINDERS[options.search]
  test_set: Any = training_sets.open_training_set(
    "cifar10", "test", data_dir=options.data_dir, image_size=None, on_error="refuse"
  )
  images = reader.normalisation.apply(test_set.images, dtype=np.float32)
  print_accuracy(reader, images[: options.images], test_set.labels[: options.images])
  options.out.mkdir(parents=True, exist_ok=True)
  search_missing(reader, find_fn, images, options.out / "subsets.jsonl", options.searched, options.ways)
  print_subsets(options.out / "subsets.jsonl", options.searched)


def print_accuracy(reader: Reader, images: np.ndarray, labels: np.ndarray) -> None:
  print(f"{'kept':>5} {'missing':<12} {'accuracy':>8} {'entropy':>8}", flush=True)
  # The rank of each square by chance, so that what is kept of a quarter is kept of a half, too.
  ranks = np.random.default_rng(0).random((len(images), int(np.prod(reader.grid)))).argsort(1).argsort(1)
  for share in (1.0, 0.75, 0.5, 0.25):
    kept = (ranks < share * ranks.shape[1]).reshape(-1, *reader.grid)
    for removed, name in ((False, "mean colour"), (True, reader.removal)):
      predicted = reader.read(images, kept, removed=removed).argmax(1)
      shares = np.bincount(predicted, minlength=10) / len(predicted)
      entropy = -(shares[shares > 0] * np.log(shares[shares > 0])).sum()
      print(f"{share:>5.0%} {name:<12} {(predicted == labels).mean():>8.1%} {entropy:>8.2f}", flush=True)


def search_missing(
  reader: Reader, find_fn: FindFn, images: np.ndarray, lines: pathlib.Path, num_searched: int, ways: list[str]
) -> None:
  """Searches and reads what has no line yet, unit by unit."""
  everything = np.ones((len(images), *reader.grid), bool)
  whole = reader.read(images, everything, removed=False)
  is_pool = np.arange(len(images)) >= len(images) - 2 * POOL_SIZE
  ids = np.flatnonzero((whole.max(1) >= THRESHOLD) & ~is_pool)[:num_searched]
  searched, tested = np.split(images[is_pool], 2)
  done = {(row["way"], row["id"]) for row in read_lines(lines)}
  for start in range(0, len(ids), UNIT):
    some = ids[start : start + UNIT]
    some = np.concatenate([some, some[-1:].repeat(UNIT - len(some))])
    for way in ways:
      if (way, int(some[0])) in done:
        continue
      rows = search_unit(reader, find_fn, images[some], whole[some].argmax(1), way, searched, tested)
      with lines.open("a") as file:
        for one, row in dict(zip(some.tolist(), rows, strict=True)).items():
          print(json.dumps({"way": way, "id": one, **row}), file=file)


def find_smallest(*arguments: Any, grid: tuple[int, int], **options: Any) -> jax_sis.Subsets:
  return jax_sis.smallest_subsets(*arguments, threshold=THRESHOLD, grid=grid, **options)


def find_by_gradient(*arguments: Any, grid: tuple[int, int], **options: Any) -> jax_sis.Subsets:
  search = jax_sis.Gradient(per_step=max(math.prod(grid) // NUM_STEPS, 1))
  return jax_sis.sufficient_subsets(jax_sis.backselect(*arguments, search=search, grid=grid, **options), THRESHOLD)


FINDERS: dict[str, FindFn] = {"smallest": find_smallest, "gradient": find_by_gradient}


def search_unit(
  reader: Reader,
  find_fn: FindFn,
  images: np.ndarray,
  targets: np.ndarray,
  way: str,
  searched: np.ndarray,
  tested: np.ndarray,
) -> list[dict[str, Any]]:
  """The set of each image found in one way, and whether the class is kept by each reading of it."""
  options: dict[str, Any] = {"removal": reader.removal} if way == "removed" else {}
  if way == "others":
    options["completion"] = jax_sis.completions.Images(pool=searched, num_draws=NUM_DRAWS)
  arguments = reader.predict_fn, reader.params, jnp.asarray(images), jnp.asarray(targets)
  before = time.process_time()
  subsets = find_fn(*arguments, grid=reader.grid, **options)
  kept = np.asarray(subsets.mask).reshape(-1, *reader.grid)
  seconds = time.process_time() - before
  rng = np.random.default_rng(1)
  moved = np.stack([np.roll(mask, divmod(rng.integers(1, mask.size), mask.shape[1]), (0, 1)) for mask in kept])
  fills = {name: reader.normalisation.apply(np.full((1, 1, 1, 3), level, np.uint8)) for name, level in FILLS.items()}
  white = np.broadcast_to(fills["on white"], images.shape)
  # In white, what is missing is missing as it was in the search.
  behind = tested[rng.integers(len(tested), size=len(images))] if way == "others" else 0.0
  removed = way == "removed"

  def is_kept(shown: np.ndarray, mask: np.ndarray, **how: Any) -> np.ndarray:
    return reader.read(shown, mask, **how).argmax(1) == targets

  others = [
    is_kept(images, kept, removed=False, behind=tested[rng.integers(len(tested), size=len(images))])
    for _ in range(NUM_READ)
  ]
  found = {
    "status": np.asarray(subsets.status),
    "squares": kept.sum((1, 2)),
    "seconds": np.full(len(images), seconds / len(images)),
    "value": is_kept(images, kept, removed=False),
    "removed": is_kept(images, kept, removed=True),
    "others": np.mean(others, axis=0),
    **{name: is_kept(images, kept, removed=False, behind=fill) for name, fill in fills.items()},
    "white": is_kept(white, kept, removed=removed, behind=behind),
    "moved": is_kept(white, moved, removed=removed, behind=behind),
  }
  return [{name: float(values[place]) for name, values in found.items()} for place in range(len(images))]


def read_lines(lines: pathlib.Path) -> list[dict[str, Any]]:
  return [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []


def print_subsets(lines: pathlib.Path, num_searched: int) -> None:
  """Sizes, cost, and the share of the images that keep their class by each reading."""
  by_way: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
  for row in read_lines(lines):
    by_way[row["way"]].append(row)
  print(
    f"\n{'found by':<9} {'images':>10} {'CPU s each':>10} {'squares':>16} " + " ".join(f"{one:>13}" for one in READINGS)
  )
  for way, all_rows in by_way.items():
    rows = all_rows[:num_searched]
    found = [row for row in rows if row["status"] == jax_sis.Status.OK]
    sizes = mean_of(np.array([row["squares"] for row in found]))
    readings = []
    for name in READINGS:
      # By image, so that the interval is that of pairs.
      values = np.array([row["white"] - row["moved"] if name == "less moved" else row[name] for row in found])
      estimate = mean_of(values) if name in ("others", "less moved") else share_of(values == 1)
      readings.append(f"{estimate.percent:.0f}")
    print(
      f"{way:<9} {f'{len(found)} of {len(rows)}':>10} {np.median([row['seconds'] for row in rows]):>10.2f} "
      f"{f'{sizes:.1f}':>16} " + " ".join(f"{one:>13}" for one in readings)
    )


if __name__ == "__main__":
  main()
