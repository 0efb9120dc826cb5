"""The comparison of orders: its numbers by a plain loop, its reading, what it goes on with, and what it refuses."""

import csv
import dataclasses
import json
import pathlib
import re
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_classifier
from PIL import Image
from scipy import special

import jax_sis
from jax_sis import classifiers
from jax_sis.classifiers import Classifier, checkpoint, frozen, on_images
from jax_sis.classifiers.ensemble import EnsembleConfig
from jax_sis.cli import main
from jax_sis.data.sources import SAMPLE_DIR
from jax_sis.studies.attributions import program, report
from jax_sis.studies.attributions.program import AttributionsConfig
from jax_sis.studies.attributions.report import METHODS, Judged

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")
GRID = (4, 4, 1)
THRESHOLD = 0.9
NUM_IMAGES = 5
SETTINGS: dict[str, Any] = {
  "num_images": NUM_IMAGES,
  "threshold": THRESHOLD,
  "methods": ("sis_batched", "random"),
  "per_step": 3,
  "patch": 8,
  "batch_size": 2,
  "num_devices": 1,
  "seed": 5,
}


@pytest.fixture(scope="module")
def folder(tiny_checkpoint: str) -> str:
  """That of the classifier."""
  return tiny_checkpoint


def compare(out: pathlib.Path, folder: str, **options: Any) -> dict[str, Any]:
  with jax.numpy_rank_promotion("allow"):
    config = AttributionsConfig(out=str(out), checkpoint=folder, **{**SETTINGS, **options})
    return program.attributions(config)


@pytest.fixture(scope="module")
def run(folder: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict[str, Any]]:
  out = tmp_path_factory.mktemp("run") / "out"
  return out, compare(out, folder)


def predict_probabilities(classifier: Classifier, inputs: np.ndarray) -> np.ndarray:
  """What the classifier says before anything is folded or sharded."""
  return special.softmax(np.asarray(classifier.module(jnp.asarray(inputs, jnp.float32)), np.float64), axis=1)


def read_sample(classifier: Classifier) -> tuple[list[str], np.ndarray]:
  """Ids and normalised images of the sample."""
  paths = sorted(SAMPLE_DIR.glob("*/*.png"), key=lambda path: path.stem)
  pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
  return [path.stem for path in paths], classifier.normalisation.apply(pixels)


def rank_at_random(names: list[str]) -> np.ndarray:
  """From the most to the least needed feature."""
  keys = [
    jax.random.fold_in(jax.random.key(SETTINGS["seed"]), zlib.crc32(name.encode()) & 0x7FFFFFFF) for name in names
  ]
  return np.stack([np.argsort(-np.asarray(jax.random.uniform(key, (16,)))) for key in keys])


def rank_by_search(classifier: Classifier, inputs: np.ndarray) -> np.ndarray:
  """The same by a search without devices or batches."""
  predict_fn, params = frozen.freeze(classifier.module)
  search = jax_sis.Gradient(per_step=SETTINGS["per_step"])
  order = jax_sis.backselect(predict_fn, params, jnp.asarray(inputs), search=search, grid=GRID)
  return np.argsort(np.asarray(order.rank), axis=1)


def curve(
  classifier: Classifier, image: np.ndarray, features: np.ndarray, target: int, *, is_shown: bool
) -> np.ndarray:
  """The confidence with the first 0, 1, ... 16 features shown, or masked, cell by cell."""
  masks = np.full((17, 4, 4), not is_shown)
  for size in range(17):
    masks[size].reshape(-1)[features[:size]] = is_shown
  pixels = masks.repeat(8, axis=1).repeat(8, axis=2)[..., None]
  return predict_probabilities(classifier, image[None] * pixels)[:, target]


def test_the_numbers_are_those_of_a_plain_loop(run: tuple[pathlib.Path, dict[str, Any]], folder: str):
  _, answer = run
  classifier = checkpoint.load_classifier(folder)
  names, inputs = read_sample(classifier)
  probabilities = predict_probabilities(classifier, inputs)
  chosen = np.flatnonzero(probabilities.max(1) >= THRESHOLD)[:NUM_IMAGES]
  assert chosen.tolist() == [0, 1, 2, 3, 5]
  assert [image["id"] for image in answer["images"]] == [names[index] for index in chosen]
  assert answer["num_seen"] == 6
  ranked = {
    "random": rank_at_random([names[index] for index in chosen]),
    "sis_batched": rank_by_search(classifier, inputs[chosen]),
  }
  for method, features in ranked.items():
    found = answer["methods"][method]["per_image"]
    for place, index in enumerate(chosen):
      target = int(probabilities[index].argmax())
      insertion, deletion = (
        curve(classifier, inputs[index], features[place], target, is_shown=is_shown) for is_shown in (True, False)
      )
      assert found["num_kept"][place] == np.argmax(insertion >= THRESHOLD)
      assert found["insertion_area"][place] == pytest.approx(np.trapezoid(insertion, dx=1 / 16), abs=1e-5)
      assert found["deletion_area"][place] == pytest.approx(np.trapezoid(deletion, dx=1 / 16), abs=1e-5)


def test_what_is_summed_up_is_paired(run: tuple[pathlib.Path, dict[str, Any]]):
  _, answer = run
  first, second = (answer["methods"][name] for name in SETTINGS["methods"])
  assert answer["reference"] == "sis_batched"
  assert second["pixels"]["mean"] == pytest.approx(np.mean(second["per_image"]["num_kept"]))
  for number, difference in (
    ("num_kept", "difference"),
    ("insertion_area", "insertion_difference"),
    ("deletion_area", "deletion_difference"),
  ):
    expected = np.subtract(second["per_image"][number], first["per_image"][number]).mean()
    assert second[difference]["mean"] == pytest.approx(expected)
    assert second[difference]["low"] <= expected <= second[difference]["high"]
  assert first["with_subset"]["count"] == NUM_IMAGES
  assert first["per_image"]["core_seconds"] > 0
  assert first["per_image"]["evaluation_core_seconds"] > 0


def test_the_files_hold_what_is_returned(run: tuple[pathlib.Path, dict[str, Any]], folder: str):
  out, answer = run
  assert json.loads((out / "attributions.json").read_text()) == answer
  with (out / "attributions.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
  assert [row["method"] for row in rows] == ["sis_batched"] * NUM_IMAGES + ["random"] * NUM_IMAGES
  of_random = answer["methods"]["random"]["per_image"]
  assert [int(row["pixels"]) for row in rows[NUM_IMAGES:]] == of_random["num_kept"]
  assert [float(row["deletion_area"]) for row in rows[NUM_IMAGES:]] == of_random["deletion_area"]
  with Image.open(out / "attributions.png") as picture:
    assert picture.format == "PNG"
    assert picture.width > 1000
  provenance = answer["provenance"]
  assert provenance["command"] == (
    f"jax-sis attributions --out {out} --checkpoint {folder} --data sample --patch 8 --threshold 0.9 "
    "--batch 2 --seed 5 --images 5 --methods sis_batched random --per-step 3"
  )
  assert provenance["versions"]["jax"] == jax.__version__
  assert len(provenance["spec_sha256"]) == 64


def test_it_goes_on_after_a_kill_with_the_methods_that_are_missing(
  run: tuple[pathlib.Path, dict[str, Any]], folder: str, tmp_path: pathlib.Path
):
  out, answer = run
  lines = (out / program.LINES_FILE).read_bytes().splitlines(keepends=True)
  assert len(lines) == 2
  tmp_path.joinpath("spec.json").write_bytes((out / "spec.json").read_bytes())
  # What a kill leaves in the middle of the second line.
  tmp_path.joinpath(program.LINES_FILE).write_bytes(lines[0] + lines[1][:40])
  resumed = compare(tmp_path, folder)
  # The seconds tell that the first method was not computed again.
  assert resumed["methods"]["sis_batched"] == answer["methods"]["sis_batched"]
  for number in ("num_kept", "insertion_area", "deletion_area"):
    assert resumed["methods"]["random"]["per_image"][number] == answer["methods"]["random"]["per_image"][number]
  with pytest.raises(ValueError, match=re.escape("holds another run (per step 3 there, 4 here)")):
    compare(tmp_path, folder, per_step=4)


def test_grad_cam_is_left_out_where_the_classifier_cannot_be_split(folder: str):
  config = AttributionsConfig(out="", checkpoint=folder, **{**SETTINGS, "methods": ("grad_cam", "random")})
  images = on_images.open_image_set(config)
  methods, left_out = program.make_methods(images, config)
  assert (set(methods), left_out) == ({"grad_cam", "random"}, {})
  members = EnsembleConfig(members=(tiny_classifier.NAME,) * 2, average="logits")
  predict_fn, params = frozen.freeze(classifiers.build_ensemble(members, num_classes=10))
  images = dataclasses.replace(images, predict_fn=predict_fn, params=params)
  methods, left_out = program.make_methods(images, config)
  assert set(methods) == {"random"}
  assert left_out["grad_cam"].startswith("predict_fn must be one convolutional network, got Ensemble")
  with pytest.raises(ValueError, match="--methods must name one that this classifier allows: predict_fn must be one"):
    program.make_methods(images, dataclasses.replace(config, methods=("grad_cam",)))


def make_judged(method: str, num_kept: list[int | None], *, has_order: bool = True) -> Judged:
  areas: list[float | None] | None = [0.5 for _ in num_kept] if has_order else None
  return Judged(
    method=method,
    num_kept=num_kept,
    insertion_area=areas,
    deletion_area=areas,
    core_seconds=0.25,
    seconds=0.125,
    evaluation_core_seconds=1.5 if has_order else None,
    evaluation_seconds=0.75 if has_order else None,
  )


def test_the_reading_says_what_the_intervals_say():
  judged = {
    "sis": make_judged("sis", [20, 21, 22, 23, 24, 25]),
    "smallest": make_judged("smallest", [5, 6, 7, 8, 9, None], has_order=False),
    "rise": make_judged("rise", [30, 31, 32, 33, 34, 35]),
    "grad_cam": make_judged("grad_cam", [19, 22, 21, 24, 23, 26]),
  }
  judged["rise"] = dataclasses.replace(judged["rise"], deletion_area=[0.25] * 6)
  summaries = report.summarise(judged, seed=0)
  assert summaries["smallest"].difference.value == -15
  assert summaries["smallest"].difference.num_images == 5
  assert summaries["smallest"].insertion_area is None
  assert summaries["smallest"].with_subset.count == 5
  assert report.describe_reading(summaries, 0.99, num_images=6) == (
    "On these 6 images, 22.5 [21.2, 23.8] pixels of the order 'SIS, gradient' reach 0.99, in the mean; another order "
    "needs more or fewer where the interval of its difference leaves 0 out."
  )
  table = report.make_table(summaries, judged, 0.99).splitlines()
  assert table[2].split() == "smallest evidence 5 7.0 [5.8, 8.2] 7 -15.0 [-15.0, -15.0] - - 0.250".split()
  assert report.describe_seconds(judged).endswith("for 1.500 core-seconds an image.")


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--methods", "sis", "lime"], f"--methods must be of {', '.join(METHODS)}, got lime."),
    (["--methods", "sis", "sis"], "--methods must name each method once, got sis sis."),
    (["--images", "0"], "--images must be positive, got 0."),
    (["--threshold", "1"], "--threshold must be a probability strictly between 0 and 1, got 1.0."),
    (["--seed", "-1"], "--seed must lie in 0..2**31 - 1, got -1."),
    (["--patch", "5"], "--patch must divide the image's sides, 32 and 32, got 5."),
  ],
)
def test_wrong_options_are_refused(
  options: list[str], message: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  assert main.main(["attributions", "--out", str(tmp_path), "--devices", "8", *options]) == 2
  assert capsys.readouterr().err == f"jax-sis attributions: {message}\n"


def test_a_threshold_that_no_image_reaches_is_refused(folder: str, tmp_path: pathlib.Path):
  with pytest.raises(
    ValueError, match="--threshold must be one that the classifier reaches on an image, but of the 2 "
  ):
    compare(tmp_path, folder, ids=("test_00004", "test_00022"))
