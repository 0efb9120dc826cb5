"""Disjoint subsets of a set of images: by a plain loop, after a kill, summed up, and what is refused."""

import csv
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_classifier
from PIL import Image

import jax_sis
from jax_sis.classifiers import checkpoint, frozen
from jax_sis.cli import main
from jax_sis.core.subsets import Status
from jax_sis.data.sources import SAMPLE_DIR
from jax_sis.statistics.estimates import share_of_count
from jax_sis.studies.disjoint import program, report
from jax_sis.studies.disjoint.program import DisjointConfig
from jax_sis.studies.disjoint.report import Collected

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")
ROOT = pathlib.Path(__file__).parents[2]
GRID = (4, 4, 1)
THRESHOLD = 0.9
MAX_SUBSETS = 2
# Of the sample, one of them with a broken file beside it.
NAMES = (
  "airplane/test_00003",
  "airplane/test_00021",
  "automobile/test_00009",
  "cat/test_00000",
  "dog/test_00012",
  "frog/test_00004",
  "ship/test_00001",
)
BROKEN = "cat/broken"
SETTINGS: dict[str, Any] = {
  "threshold": THRESHOLD,
  "per_step": 2,
  "max_subsets": MAX_SUBSETS,
  "patch": 8,
  "batch_size": 3,
}
# Leaves the first line, and dies in the middle of the second.
DEADLY_COMMAND = """
import os, signal, sys
import tiny_classifier
from jax_sis.cli import main as cli
from jax_sis.studies.disjoint import program as disjoint
tiny_classifier.register()
append_record = disjoint.append_record
def append_or_die(path, record):
  if path.exists():
    with open(path, "ab") as file:
      file.write(b'{"images": [{"index"')
    os.kill(os.getpid(), signal.SIGKILL)
  append_record(path, record)
disjoint.append_record = append_or_die
cli.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
  """The classifier and the images."""
  root = tmp_path_factory.mktemp("where")
  for name in NAMES:
    path = root / "images" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((SAMPLE_DIR / f"{name}.png").read_bytes())
  content = (root / "images" / f"{NAMES[0]}.png").read_bytes()
  (root / "images" / f"{BROKEN}.png").write_bytes(content[: len(content) // 2])
  with jax.numpy_rank_promotion("allow"):
    return {"checkpoint": tiny_classifier.save(root / "tiny"), "data": str(root / "images")}


def collect(out: pathlib.Path, where: dict[str, str], **options: Any) -> dict[str, Any]:
  with jax.numpy_rank_promotion("allow"):
    return program.disjoint(DisjointConfig(out=str(out), **where, **{**SETTINGS, "num_devices": 2, **options}))


@pytest.fixture(scope="module")
def run(where: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict[str, Any]]:
  out = tmp_path_factory.mktemp("run") / "out"
  return out, collect(out, where)


def test_the_subsets_are_those_of_a_plain_loop(run: tuple[pathlib.Path, dict[str, Any]], where: dict[str, str]):
  _, answer = run
  classifier = checkpoint.load_classifier(where["checkpoint"])
  predict_fn, params = frozen.freeze(classifier.module)
  paths = [SAMPLE_DIR / f"{name}.png" for name in NAMES]
  inputs = jnp.asarray(classifier.normalisation.apply(np.stack([np.asarray(Image.open(path)) for path in paths])))
  logits = np.asarray(classifier.module(inputs))
  targets = jnp.asarray(logits.argmax(1), jnp.int32)
  is_available = np.ones((len(paths), *GRID), bool)
  sizes: list[list[int]] = [[] for _ in paths]
  ends = [Status.OK for _ in paths]
  for _ in range(MAX_SUBSETS):
    order = jax_sis.backselect(
      predict_fn, params, inputs, targets, search=jax_sis.Gradient(per_step=2), grid=GRID, available=is_available
    )
    subsets = jax_sis.sufficient_subsets(order, THRESHOLD)
    for place, status in enumerate(np.asarray(subsets.status)):
      if ends[place] == Status.OK and status == Status.OK:
        mask = np.asarray(subsets.mask[place])
        sizes[place].append(int(mask.sum()))
        is_available[place] &= ~mask
      elif ends[place] == Status.OK:
        ends[place] = Status(int(status))
  assert {len(found) for found in sizes} == {0, 1, 2}
  read = [image for image in answer["images"] if not image["error"]]
  for place, image in enumerate(read):
    assert image["id"] == f"{NAMES[place]}.png"
    assert image["label"] == paths[place].parent.name
    assert image["predicted"] == classifier.class_names[targets[place]]
    assert image["confidence"] == pytest.approx(float(jax.nn.softmax(logits[place]).max()), abs=1e-5)
    assert image["num_kept"] == sizes[place]
    assert image["end"] == ends[place].name.lower()
    assert all(alone >= THRESHOLD for alone in image["alone"])
  assert answer["num_censored"] == sum(len(found) == MAX_SUBSETS for found in sizes)
  assert answer["number"]["mean"] == pytest.approx(np.mean([len(found) for found in sizes]))


def test_an_image_that_cannot_be_read_is_left_out(run: tuple[pathlib.Path, dict[str, Any]]):
  _, answer = run
  assert list(answer["left_out"]) == [f"{BROKEN}.png"]
  assert answer["num_images"] == len(NAMES)
  (broken,) = [image for image in answer["images"] if image["error"]]
  assert (broken["end"], broken["num_kept"], broken["confidence"]) == ("not_searched", [], None)


def test_the_files_hold_what_is_returned(run: tuple[pathlib.Path, dict[str, Any]], where: dict[str, str]):
  out, answer = run
  assert json.loads((out / "disjoint.json").read_text()) == answer
  with (out / "disjoint.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
  numbers = ["" if image["error"] else str(len(image["num_kept"])) for image in answer["images"]]
  assert [row["subsets"] for row in rows] == numbers
  assert [row["is_censored"] == "True" for row in rows] == [image["end"] == "ok" for image in answer["images"]]
  with Image.open(out / "disjoint.png") as picture:
    assert picture.format == "PNG"
    assert picture.width > 1000
  assert answer["provenance"]["command"] == (
    f"jax-sis disjoint --out {out} --checkpoint {where['checkpoint']} --data {where['data']} --patch 8 "
    "--threshold 0.9 --batch 3 --seed 0 --per-step 2 --max-subsets 2"
  )


@pytest.mark.slow
def test_after_a_kill_it_goes_on_on_other_devices_and_ends_the_same(
  run: tuple[pathlib.Path, dict[str, Any]], where: dict[str, str], tmp_path: pathlib.Path
):
  out, _ = run
  options = ["--threshold", "0.9", "--per-step", "2", "--max-subsets", "2", "--patch", "8", "--batch", "3"]
  options += ["--checkpoint", where["checkpoint"], "--data", where["data"], "--devices", "1"]
  environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))}
  killed = subprocess.run(
    [sys.executable, "-c", DEADLY_COMMAND, "disjoint", "--out", str(tmp_path), *options],
    capture_output=True,
    text=True,
    check=False,
    timeout=300,
    env=environment,
  )
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  lines = (tmp_path / program.LINES_FILE).read_bytes()
  assert (lines.count(b"\n"), lines.endswith(b'{"images": [{"index"')) == (1, True)
  collect(tmp_path, where)
  assert (tmp_path / program.LINES_FILE).read_bytes() == (out / program.LINES_FILE).read_bytes()
  assert (tmp_path / "disjoint.csv").read_bytes() == (out / "disjoint.csv").read_bytes()
  with pytest.raises(ValueError, match=re.escape("holds another run (max subsets 2 there, 3 here)")):
    collect(tmp_path, where, max_subsets=3)


def make_image(
  place: int, number: int, *, confidence: float = 0.995, is_right: bool = True, end: str = "below_threshold"
) -> Collected:
  return Collected(
    index=place,
    id=f"image_{place:03}",
    error="",
    label="cat",
    predicted="cat" if is_right else "dog",
    confidence=confidence,
    num_kept=[10 * (turn + 1) for turn in range(number)],
    alone=[0.99] * number,
    end=end,
  )


def make_images() -> list[Collected]:
  """Right predictions with 2 or 3 subsets, wrong ones with 1 or 2 and the same confidence; two below the threshold."""
  images = [make_image(place, 2 + place % 2) for place in range(20)]
  images += [make_image(20 + place, 1 + place % 2, is_right=False) for place in range(10)]
  return [*images, *(make_image(30 + place, 0, confidence=0.5, is_right=False) for place in range(2))]


def test_numbers_are_summed_up_by_number_and_round():
  images = [*make_images(), make_image(40, 3, end="ok")]
  summary = report.summarise(images, seed=0)
  assert [(one.number, one.num_images) for one in summary.by_number] == [(0, 2), (1, 5), (2, 15), (3, 11)]
  share = summary.by_number[2].accuracy
  assert share == share_of_count(10, 15)
  assert summary.by_number[0].mean_confidence == 0.5
  assert summary.num_censored == 1
  assert summary.ends == {"below_threshold": 32, "ok": 1}
  assert [one.pixels.num_images for one in summary.rounds] == [31, 26, 11]
  assert [one.difference_to_first.value for one in summary.rounds] == [0, 10, 20]
  assert summary.number.value == pytest.approx((5 + 30 + 33) / 33)


def test_wrong_predictions_are_compared_at_the_same_confidence():
  summary = report.summarise(make_images(), seed=0)
  assert summary.correctness.unmatched.value == pytest.approx(1.5 * 10 / 12 - 2.5)
  assert summary.correctness_with_subset.unmatched.value == pytest.approx(-1)
  matched = summary.correctness_with_subset.difference
  assert matched.value == pytest.approx(-1)
  assert matched.high is not None and matched.high < 0
  reading = report.describe_reading(summary, 16)
  assert reading.startswith("32 images have 2.0 [1.7, 2.3] disjoint subsets each, in the mean; of 0 of them ")
  assert f"{matched:.2f} (10 wrong, 20 right)" in reading


def test_images_without_a_number_are_named_and_not_counted():
  odd = [
    make_image(50, 0, end="baseline_sufficient"),
    make_image(51, 0, end="non_finite"),
    Collected(
      index=52,
      id="torn",
      error="truncated",
      label=None,
      predicted=None,
      confidence=None,
      num_kept=[],
      alone=[],
      end="not_searched",
    ),
  ]
  assert report.summarise([*make_images(), *odd], seed=0) == report.summarise(make_images(), seed=0)
  nothing = report.summarise(odd, seed=0)
  assert nothing.num_images == 0
  assert report.describe_reading(nothing, 16) == "No image has a number of subsets."


def test_right_predictions_alone_leave_nothing_to_compare():
  reading = report.describe_reading(report.summarise(make_images()[:20], seed=0), 16)
  assert "Wrong minus right predictions: no wrong predictions, or no right ones" in reading


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--max-subsets", "0"], "--max-subsets must be positive, got 0."),
    (["--per-step", "0"], "--per-step must be positive, got 0."),
    (["--images", "-1"], "--images must be positive, got -1."),
    (["--batch", "0"], "--batch must be positive, got 0."),
  ],
)
def test_wrong_options_are_refused(
  options: list[str], message: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  assert main.main(["disjoint", "--out", str(tmp_path), "--devices", "8", *options]) == 2
  assert capsys.readouterr().err == f"jax-sis disjoint: {message}\n"
