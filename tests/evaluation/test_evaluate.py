"""Evaluation: the numbers are those of the classifier, runs go on where they stopped, and wrong data is refused."""

import csv
import dataclasses
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
from listening import LISTENING
from PIL import Image
from scipy import special

import jax_sis
from jax_sis import results
from jax_sis.classifiers import checkpoint
from jax_sis.core.searches import Gradient
from jax_sis.data import cifar_c, corruptions, normalisation, tfds
from jax_sis.evaluation import evaluate, metrics, predictions, report, setup
from jax_sis.evaluation.config import EvaluateConfig
from jax_sis.results import pixel_subsets
from jax_sis.results.query import PixelSubset
from jax_sis.runs import find
from jax_sis.runs.config import FindConfig
from jax_sis.statistics.estimates import paired_bootstrap, share_of

SAMPLE = pathlib.Path(jax_sis.__file__).parent / "assets" / "cifar10_test_sample"
# Of the sample the first eight images are enough.
OPTIONS = ["--corruptions", "made", "--limit", "8", "--batch", "4", "--devices", "2"]
COMMAND = [sys.executable, "-m", "jax_sis", "evaluate"]

# Finite weights, and logits that are not.
NOT_FINITE = """
import jax.numpy as jnp

from jax_sis.classifiers import ImageModel, Normalisation
from jax_sis.data.cifar_c import CLASS_NAMES

def load():
  return ImageModel(
    predict_fn=lambda params, images: jnp.sqrt(images.reshape(images.shape[0], -1) @ params - 1e9),
    params=jnp.ones((3072, 10)),
    input_shape=(32, 32, 3),
    normalisation=Normalisation(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
    class_names=CLASS_NAMES,
  )
"""

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")


def run_evaluate(out: pathlib.Path, **options: Any) -> dict[str, Any]:
  evaluate.evaluate(EvaluateConfig(out=str(out), **{"num_devices": 2, "batch_size": 8, **options}))
  return json.loads((out / "metrics.json").read_text())


def find_condition(content: dict[str, Any], corruption: str, severity: int) -> dict[str, Any]:
  (condition,) = [
    row for row in content["conditions"] if (row["corruption"], row["severity"]) == (corruption, severity)
  ]
  return condition


def read_sample() -> tuple[np.ndarray, np.ndarray, list[str]]:
  paths = sorted(SAMPLE.glob("*/*.png"), key=lambda path: path.stem)
  labels = np.array([cifar_c.CLASS_NAMES.index(path.parent.name) for path in paths])
  return np.stack([np.asarray(Image.open(path)) for path in paths]), labels, [path.stem for path in paths]


@pytest.fixture(scope="module")
def made_run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  out = tmp_path_factory.mktemp("run") / "out"
  with jax.numpy_rank_promotion("allow"):
    run_evaluate(out, corruptions="made", limit=8, batch_size=4)
  return out


def predict_logits(images: np.ndarray) -> np.ndarray:
  """What the embedded classifier says as it was trained, before anything is folded or sharded."""
  classifier = checkpoint.load_classifier(checkpoint.EMBEDDED_CLASSIFIER)
  return np.asarray(classifier.module(jnp.asarray(classifier.normalisation.apply(images))))


def read_metrics(out: pathlib.Path) -> dict[str, Any]:
  return json.loads((out / "metrics.json").read_text())


@pytest.mark.parametrize(("corruption", "severity"), [("clean", 0), ("gaussian_noise", 5), ("saturate", 2)])
def test_the_numbers_are_those_of_the_unfolded_classifier_on_these_images(
  made_run: pathlib.Path, corruption: str, severity: int
):
  images, labels, ids = read_sample()
  images, labels, ids = images[:8], labels[:8], ids[:8]
  if severity:
    images = corruptions.corrupt(images, corruption, severity, ids=ids)
  logits = predict_logits(images)
  probabilities = special.softmax(logits.astype(np.float64), 1)
  row = find_condition(read_metrics(made_run), corruption, severity)
  is_correct = np.equal(probabilities.argmax(1), labels)
  assert row["num_examples"] == 8
  assert row["num_correct"] == is_correct.sum()
  assert row["accuracy"] == pytest.approx(is_correct.mean())
  assert (row["accuracy"], row["accuracy_low"], row["accuracy_high"]) == share_of(is_correct).numbers
  assert row["negative_log_likelihood"] == pytest.approx(-np.log(probabilities[np.arange(8), labels]).mean(), abs=1e-4)
  expected = metrics.calibration(logits, labels)
  assert row["expected_calibration_error"] == pytest.approx(expected.expected_calibration_error, abs=1e-4)
  assert row["bin_count"] == expected.count.tolist()
  for index, name in enumerate(cifar_c.CLASS_NAMES):
    of_class = np.equal(labels, index)
    assert row["class_count"][name] == of_class.sum()
    if of_class.any():
      assert row["class_accuracy"][name] == pytest.approx(is_correct[of_class].mean())
    else:
      assert name not in row["class_accuracy"]


def test_every_condition_is_there_once_in_json_and_csv(made_run: pathlib.Path):
  content = read_metrics(made_run)
  expected = [("clean", 0), *((name, severity) for name in corruptions.MADE_CORRUPTIONS for severity in range(1, 6))]
  assert [(row["corruption"], row["severity"]) for row in content["conditions"]] == expected
  with open(made_run / "metrics.csv") as file:
    lines = list(csv.DictReader(file))
  assert [(line["corruption"], int(line["severity"])) for line in lines] == expected
  assert [float(line["accuracy"]) for line in lines] == [row["accuracy"] for row in content["conditions"]]
  assert content["clean"] == content["conditions"][0]


def test_the_mean_is_over_the_benchmarks_corruptions_without_the_extra_ones(made_run: pathlib.Path):
  content = read_metrics(made_run)
  main = [row for row in content["conditions"] if row["corruption"] in corruptions.MAIN_CORRUPTIONS]
  assert len(main) == 14 * 5
  summary = content["corruptions"]
  assert summary["accuracy"] == pytest.approx(np.mean([row["accuracy"] for row in main]))
  hardest = [row["negative_log_likelihood"] for row in main if row["severity"] == 5]
  assert summary["by_severity"]["5"]["negative_log_likelihood"] == pytest.approx(np.mean(hardest))
  assert summary["mean_over"] == [name for name in corruptions.MAIN_CORRUPTIONS if name != "frost"]


def test_what_is_made_here_is_never_called_by_the_name_of_the_published_files(made_run: pathlib.Path):
  summary = read_metrics(made_run)["corruptions"]
  assert summary["what"] == "Corruptions made by jax_sis with CIFAR-10-C's constants"
  assert set(summary["left_out"]) == {"frost", "spatter"}


def test_the_figures_are_pictures(made_run: pathlib.Path, tmp_path: pathlib.Path):
  for name, width in (("calibration.png", 1200), ("corruptions.png", 800)):
    with Image.open(made_run / name) as picture:
      assert picture.format == "PNG" and picture.width > width
  run_evaluate(tmp_path)
  assert (tmp_path / "calibration.png").exists() and not (tmp_path / "corruptions.png").exists()


def test_one_device_and_eight_give_the_same_numbers(tmp_path: pathlib.Path):
  one = run_evaluate(tmp_path / "one", num_devices=1)
  eight = run_evaluate(tmp_path / "eight", num_devices=8)
  assert one == eight


@pytest.mark.slow
def test_a_tfds_split_gives_the_predictions_of_the_classifier(
  tmp_path: pathlib.Path, shared_dir: pathlib.Path, cifar_test
):
  content = run_evaluate(
    tmp_path, data="cifar10", data_dir=str(shared_dir / "data/tfds"), split="test[:70]", limit=67, batch_size=16
  )
  source = tfds.open_data_source("cifar10", "test[:70]", shared_dir / "data/tfds")
  indices = [int(source[index]["id"].decode().removeprefix("test_")) for index in range(67)]
  images, labels = cifar_test[0][indices], cifar_test[1][indices]
  predicted = predict_logits(images).argmax(1)
  assert content["clean"]["num_examples"] == 67
  assert content["clean"]["num_correct"] == (predicted == labels).sum()


@pytest.mark.slow
def test_the_embedded_classifier_is_right_9179_times_in_10000(tmp_path: pathlib.Path, shared_dir: pathlib.Path):
  content = run_evaluate(tmp_path, data="cifar10", data_dir=str(shared_dir / "data/tfds"), batch_size=64)
  assert (content["clean"]["num_correct"], content["clean"]["num_examples"]) == (9179, 10_000)


def mask_by_hand(images: np.ndarray, ids: list[str], *, fraction: float, seed: int = 0) -> np.ndarray:
  """Normalised images of which random pixels are shown."""
  packed = pixel_subsets.draw_random(ids, fraction=fraction, seed=seed, num_features=1024)
  kept = np.unpackbits(packed, axis=1, bitorder="little").reshape(-1, 32, 32, 1).astype(bool)
  return np.where(kept, normalisation.CIFAR_NORMALISATION.apply(images), np.float32(0))


def predict_inputs(inputs: np.ndarray) -> np.ndarray:
  classifier = checkpoint.load_classifier(checkpoint.EMBEDDED_CLASSIFIER)
  return np.asarray(classifier.module(jnp.asarray(inputs)))


@pytest.mark.slow
def test_a_subset_of_a_run_is_what_the_classifier_is_shown(tmp_path: pathlib.Path, shared_dir: pathlib.Path):
  options: dict[str, Any] = {"data": "cifar10", "data_dir": str(shared_dir / "data/tfds"), "split": "test[:40]"}
  search = {"search": Gradient(per_step=64), "smallest": None, "certificate": "alone", "gallery": 0, "num_devices": 2}
  find.find(FindConfig(out=str(tmp_path / "sis"), batch_size=8, **options, **search))
  subset = PixelSubset(run=str(tmp_path / "sis"), fraction=0.05)
  content = run_evaluate(tmp_path / "out", subset=subset, **options)
  # By hand: image by image, from the stored orders.
  store = results.open(tmp_path / "sis")
  source = tfds.open_data_source("cifar10", "test[:40]", shared_dir / "data/tfds")
  stored_ids, rank = store.read_text("id"), store.read("rank")
  inputs, labels, ids = [], [], []
  for index in range(40):
    example = source[index]
    ids.append(example["id"].decode())
    labels.append(int(example["label"]))
    kept = (rank[stored_ids.index(ids[-1])] < 52).reshape(32, 32, 1)
    inputs.append(np.where(kept, normalisation.CIFAR_NORMALISATION.apply(example["image"]), np.float32(0)))
  logits = predict_inputs(np.stack(inputs))
  assert content["clean"]["num_correct"] == (logits.argmax(1) == labels).sum()
  # The pixels that gradients keep for 16 steps of 64 hold the answer of the whole image.
  whole = predict_logits(np.stack([source[index]["image"] for index in range(40)])).argmax(1)
  assert (logits.argmax(1) == whole).mean() > 0.5
  stored = predictions.read(tmp_path / "out")
  assert stored.id.tolist() == ids
  np.testing.assert_array_equal(stored.label, labels)
  np.testing.assert_array_equal(stored.predicted, logits.argmax(1))
  np.testing.assert_allclose(stored.confidence, special.softmax(logits, 1).max(1), atol=1e-4)
  described = content["spec"]["subset"]
  assert (described["fraction"], described["answer"], described["fill"]) == (0.05, "sis", 0.0)
  assert described["model"] == content["spec"]["model"]
  with pytest.raises(ValueError, match=re.escape("is not (split: 'test[:40]' there, 'test[:20]' asked)")):
    run_evaluate(tmp_path / "other", subset=subset, **{**options, "split": "test[:20]"})


@pytest.mark.slow
def test_random_pixels_leave_a_full_image_model_near_chance(
  tmp_path: pathlib.Path, shared_dir: pathlib.Path, cifar_test
):
  content = run_evaluate(
    tmp_path,
    data="cifar10",
    data_dir=str(shared_dir / "data/tfds"),
    limit=500,
    subset=PixelSubset(random_seed=0, fraction=0.05),
    batch_size=50,
  )
  stored = predictions.read(tmp_path)
  places = [int(name.removeprefix("test_")) for name in stored.id]
  inputs = mask_by_hand(cifar_test[0][places], stored.id.tolist(), fraction=0.05)
  np.testing.assert_array_equal(stored.predicted, predict_inputs(inputs).argmax(1))
  np.testing.assert_array_equal(stored.label, cifar_test[1][places])
  assert content["clean"]["num_correct"] == stored.is_correct.sum()
  assert content["clean"]["accuracy"] < 0.2


@pytest.mark.slow
def test_a_corrupted_image_shows_the_pixels_of_the_clean_one(tmp_path: pathlib.Path):
  subset = PixelSubset(random_seed=4, fraction=0.3)
  content = run_evaluate(tmp_path / "made", corruptions="made", limit=8, batch_size=4, subset=subset)
  images, labels, ids = read_sample()
  fogged = corruptions.corrupt(images[:8], "fog", 3, ids=ids[:8])
  logits = predict_inputs(mask_by_hand(fogged, ids[:8], fraction=0.3, seed=4))
  row = find_condition(content, "fog", 3)
  assert row["num_correct"] == (logits.argmax(1) == labels[:8]).sum()
  assert row["negative_log_likelihood"] == pytest.approx(metrics.negative_log_likelihood(logits, labels[:8]), abs=1e-4)
  stored = predictions.read(tmp_path / "made", "fog", 3)
  np.testing.assert_array_equal(stored.predicted, logits.argmax(1))
  # The published files number their images as the test split does.
  make_published_folder(tmp_path / "CIFAR-10-C", ["fog"])
  published = run_evaluate(
    tmp_path / "published", corruptions=str(tmp_path / "CIFAR-10-C"), limit=8, batch_size=4, subset=subset
  )
  assert find_condition(published, "fog", 3) == row
  assert predictions.read(tmp_path / "published", "fog", 3).id.tolist() == ids[:8] == stored.id.tolist()
  with pytest.raises(ValueError, match=re.escape("but has none of 'test_00024', 'test_00025', 'test_00026'")):
    run_evaluate(tmp_path / "all", corruptions=str(tmp_path / "CIFAR-10-C"), subset=subset)


def test_another_subset_in_the_same_folder_is_refused(tmp_path: pathlib.Path):
  subset = PixelSubset(random_seed=0, fraction=0.05)
  run_evaluate(tmp_path, subset=subset, limit=8)
  message = r"holds another run \(other subset masks, subset random seed 0 there, 1 here\); this command"
  with pytest.raises(ValueError, match=message):
    run_evaluate(tmp_path, subset=dataclasses.replace(subset, random_seed=1), limit=8)
  with pytest.raises(ValueError, match=r"holds another run \(subset {'random_seed': 0, 'fraction': 0\.05"):
    run_evaluate(tmp_path, limit=8)


def test_every_condition_has_its_predictions(made_run: pathlib.Path):
  for row in read_metrics(made_run)["conditions"]:
    stored = predictions.read(made_run, row["corruption"], row["severity"])
    assert len(stored.id) == row["num_examples"]
    assert stored.is_correct.sum() == row["num_correct"]
  with pytest.raises(
    ValueError, match=r"^directory must hold the predictions of an evaluation under frost at severity 1"
  ):
    predictions.read(made_run, "frost", 1)


def test_two_evaluations_are_paired_by_id(made_run: pathlib.Path):
  clean, noisy = predictions.read(made_run), predictions.read(made_run, "gaussian_noise", 5)
  turned = noisy.select(np.array([3, 1, 0, 2, 7, 6, 5, 4]))
  first, second = predictions.pair(clean, turned)
  assert first.id.tolist() == second.id.tolist() == sorted(clean.id.tolist())
  estimate = paired_bootstrap(first.is_correct, second.is_correct)
  assert estimate.value == pytest.approx(clean.is_correct.mean() - noisy.is_correct.mean())
  with pytest.raises(ValueError, match=re.escape("but 1 of 8 are of the first alone and 0 of 7 of the second;")):
    predictions.pair(clean, noisy.select(np.arange(7)))
  relabelled = dataclasses.replace(noisy, label=np.where(noisy.id == "test_00002", 9 - noisy.label, noisy.label))
  with pytest.raises(ValueError, match=re.escape("with the same labels, but 1 differ, as of 'test_00002'.")):
    predictions.pair(clean, relabelled)


def test_damaged_predictions_are_refused(tmp_path: pathlib.Path, made_run: pathlib.Path):
  (tmp_path / "predictions").mkdir()
  content = (made_run / "predictions" / "clean.npz").read_bytes()
  (tmp_path / "predictions" / "clean.npz").write_bytes(content[:-50])
  with pytest.raises(ValueError, match=r"predictions/clean\.npz' cannot be read \(BadZipFile: "):
    predictions.read(tmp_path)


def wait_for_line(process: subprocess.Popen[str], start: str) -> None:
  assert process.stdout is not None
  for line in process.stdout:
    if line.startswith(start):
      return
  pytest.fail(f"the program ended without a line that starts with {start!r}")


def check_screen(text: str, snow: dict[str, Any]) -> None:
  """A line for each condition, the table, and no line too wide for a terminal."""
  lines = text.splitlines()
  accuracy = f"{snow['accuracy']:.4f}"
  assert ["snow", "3", "8", accuracy] in [line.split()[:4] for line in lines]
  (row,) = [line for line in lines if line.startswith("│ snow")]
  assert [cell.strip() for cell in row.strip("│").split("│")][3] == f"{100 * snow['accuracy']:.2f}"
  assert [line for line in lines if line.startswith("│ mean of 14")]
  assert max(len(line) for line in lines if line.startswith(("│", "snow"))) <= 80


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path: pathlib.Path, made_run: pathlib.Path):
  command = [*COMMAND, "--out", str(tmp_path), *OPTIONS]
  with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
    wait_for_line(process, "shot_noise")
    process.kill()
  assert not (tmp_path / "metrics.json").exists()
  num_done = len(report.read_conditions(tmp_path))
  assert 7 <= num_done < 86
  # The kill may also come in the middle of a line.
  with open(tmp_path / report.CONDITIONS_FILE, "a") as file:
    file.write('{"corruption": "snow", "sever')
  resumed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
  assert f"{num_done} of 86 conditions are done already" in resumed.stdout
  check_screen(resumed.stdout, find_condition(read_metrics(made_run), "snow", 3))
  for name in ("metrics.json", "metrics.csv", report.CONDITIONS_FILE):
    assert (tmp_path / name).read_bytes() == (made_run / name).read_bytes(), name
  files, expected = (sorted((run / "predictions").iterdir()) for run in (tmp_path, made_run))
  assert [path.name for path in files] == [path.name for path in expected]
  assert [path.read_bytes() for path in files] == [path.read_bytes() for path in expected]


@pytest.mark.slow
def test_ctrl_c_leaves_within_seconds_and_says_how_to_go_on(tmp_path: pathlib.Path):
  command = [*LISTENING, "evaluate", "--out", str(tmp_path), *OPTIONS]
  with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
    wait_for_line(process, "gaussian_noise")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
  assert process.returncode == 130
  assert "jax-sis evaluate: interrupted; the same command goes on where it stopped." in errors
  assert "Traceback" not in errors
  assert 1 <= len(report.read_conditions(tmp_path)) < 86


def test_a_damaged_line_in_the_middle_is_refused(tmp_path: pathlib.Path, made_run: pathlib.Path):
  lines = (made_run / report.CONDITIONS_FILE).read_bytes().splitlines(keepends=True)
  (tmp_path / report.CONDITIONS_FILE).write_bytes(lines[0] + b"{\n" + lines[2])
  with pytest.raises(ValueError, match=re.escape("conditions.jsonl' is damaged (")):
    report.read_conditions(tmp_path)


@pytest.mark.parametrize(
  ("options", "difference"),
  [
    ({"num_bins": 10}, "num bins 15 there, 10 here"),
    ({"limit": 5}, "limit none there, 5 here"),
    ({"data": str(SAMPLE)}, "data 'sample' there, '"),
    ({"corruptions": "made"}, "corruptions none there, {'what': \"Corruptions made by jax_sis"),
  ],
)
def test_other_settings_in_the_same_folder_are_refused(tmp_path: pathlib.Path, options: Any, difference: str):
  config = EvaluateConfig(out=str(tmp_path), num_devices=2, batch_size=8)
  evaluate.results.settle_spec(tmp_path, setup.make_spec(setup.open_evaluation(config)))
  with pytest.raises(ValueError, match=re.escape(f"holds another run ({difference}")):
    run_evaluate(tmp_path, **options)


def test_another_checkpoint_in_the_same_folder_is_refused(tmp_path: pathlib.Path):
  run_evaluate(tmp_path / "out")
  save_changed_classifier(tmp_path / "other", lambda bias: bias + 1)
  with pytest.raises(ValueError, match=re.escape("holds another run (other weights of the model); this")):
    run_evaluate(tmp_path / "out", checkpoint=str(tmp_path / "other"))


def test_the_folder_of_a_search_is_refused(tmp_path: pathlib.Path):
  (tmp_path / "spec.json").write_text(json.dumps({"format": "jax_sis.results/1"}))
  with pytest.raises(
    ValueError, match=re.escape("must be the specification of a run in the format 'jax_sis.evaluation/2'.")
  ):
    run_evaluate(tmp_path)


def save_changed_classifier(directory: pathlib.Path, change_fn: Any) -> None:
  classifier = checkpoint.load_classifier(checkpoint.EMBEDDED_CLASSIFIER)
  bias = classifier.module.head.bias
  assert bias is not None
  bias[...] = change_fn(bias[...])
  checkpoint.save_classifier(directory, classifier)


def test_logits_that_are_not_finite_are_refused(tmp_path: pathlib.Path):
  (tmp_path / "broken.py").write_text(NOT_FINITE)
  with pytest.raises(
    ValueError, match="the checkpoint's logits must be finite, but those of image 'test_00000' are not"
  ):
    run_evaluate(tmp_path / "out", model_function=f"{tmp_path / 'broken.py'}:load")


@pytest.fixture
def photos(tmp_path: pathlib.Path) -> pathlib.Path:
  """Five images of the sample in folders of their classes; the second is cut off, the fourth of another size."""
  folder = tmp_path / "photos"
  images, labels, ids = read_sample()
  for number in range(5):
    path = folder / cifar_c.CLASS_NAMES[labels[number]] / f"{ids[number]}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(images[number]).resize((50, 40) if number == 3 else (32, 32)).save(path)
    if number == 1:
      path.write_bytes(path.read_bytes()[:300])
  return folder


def test_images_that_cannot_be_read_are_named_and_left_out(
  tmp_path: pathlib.Path, photos: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  clean = run_evaluate(tmp_path / "out", data=str(photos))["clean"]
  assert clean["num_examples"] == 3
  assert sorted(clean["skipped"]) == ["airplane/test_00003.png", "ship/test_00001.png"]
  assert clean["skipped"]["airplane/test_00003.png"] == "50x40 pixels, but the classifier takes 32x32; use --resize"
  assert "Skipped 2 of 5 images, which cannot be read: airplane/test_00003.png: 50x40" in capsys.readouterr().out
  images, labels, _ = read_sample()
  expected = metrics.negative_log_likelihood(predict_logits(images[[0, 2, 4]]), labels[[0, 2, 4]])
  assert clean["negative_log_likelihood"] == pytest.approx(expected, abs=1e-4)


def test_images_that_cannot_be_read_are_refused_if_asked(tmp_path: pathlib.Path, photos: pathlib.Path):
  message = (
    "image 'airplane/test_00003.png' cannot be read: 50x40 pixels, but the classifier takes 32x32; use --resize; "
  )
  with pytest.raises(ValueError, match=re.escape(message + "--on-error skip leaves it out.")):
    run_evaluate(tmp_path / "out", data=str(photos), on_error="refuse")


def test_a_set_without_any_readable_image_is_refused(tmp_path: pathlib.Path):
  (tmp_path / "cat").mkdir()
  (tmp_path / "cat" / "a.png").write_text("no image")
  with pytest.raises(
    ValueError, match=re.escape("--data must hold at least one image that can be read. Skipped 1 of 1")
  ):
    run_evaluate(tmp_path / "out", data=str(tmp_path / "cat"))


def test_unlabelled_images_are_refused_by_name(tmp_path: pathlib.Path, photos: pathlib.Path):
  for number in range(7):
    Image.new("RGB", (32, 32)).save(photos / f"{number}.png")
  message = "every image must have a label to be evaluated, but 0.png, 1.png, 2.png, 3.png, 4.png and 2 more have none;"
  with pytest.raises(ValueError, match=re.escape(message)):
    run_evaluate(tmp_path / "out", data=str(photos))


def test_labels_that_are_no_class_are_refused_by_name():
  evaluation = setup.open_evaluation(EvaluateConfig(out="unused"))
  batch = {
    "id": np.array(["a", "b", "c"]),
    "error": np.array(["", "", "cut off"]),
    "label": np.array([9, 10, 11]),
  }
  message = "labels must lie in 0..9, the checkpoint's classes, but those of b do not."
  with pytest.raises(ValueError, match=re.escape(message)):
    setup.check_records(evaluation, batch)
  batch["label"][1] = 0
  assert setup.check_records(evaluation, batch).tolist() == [True, True, False]


def save_labels(folder: pathlib.Path, labels: np.ndarray) -> None:
  folder.mkdir(exist_ok=True)
  np.save(folder / "labels.npy", labels)


def make_published_folder(folder: pathlib.Path, names: list[str]) -> None:
  """A folder in the published form, whose first 24 images of each severity are the corrupted sample."""
  images, labels, ids = read_sample()
  block = np.zeros(cifar_c.NUM_IMAGES, np.uint8)
  block[:24] = labels
  save_labels(folder, np.tile(block, 5))
  for name in names:
    # Sparse: what is not written takes no room.
    file = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, cifar_c.SHAPE)
    for severity in range(1, 6):
      start = (severity - 1) * cifar_c.NUM_IMAGES
      file[start : start + 24] = corruptions.corrupt(images, name, severity, ids=ids)


def test_the_published_files_give_what_their_images_give(tmp_path: pathlib.Path, made_run: pathlib.Path):
  names = ["fog", "gaussian_noise", "speckle_noise"]
  make_published_folder(tmp_path / "CIFAR-10-C", names)
  content = run_evaluate(tmp_path / "out", corruptions=str(tmp_path / "CIFAR-10-C"), limit=8, batch_size=4)
  assert content["corruptions"]["what"] == "CIFAR-10-C"
  assert content["corruptions"]["included"] == ["gaussian_noise", "fog", "speckle_noise"]
  assert len(content["corruptions"]["left_out"]) == 16
  assert content["corruptions"]["mean_over"] == ["gaussian_noise", "fog"]
  assert len(content["conditions"]) == 16
  made = read_metrics(made_run)
  for row in content["conditions"]:
    assert row == find_condition(made, row["corruption"], row["severity"])


@pytest.mark.parametrize(
  ("labels", "message"),
  [
    (
      np.zeros(10_000, np.uint8),
      "must hold one integer label for each of the 50000 images of a file, got uint8[10000];",
    ),
    (np.zeros(50_000), "must hold one integer label for each of the 50000 images of a file, got float64[50000];"),
    (np.arange(50_000) % 100, "must hold labels in 0..9, got 10; this is not CIFAR-10-C."),
    (
      np.repeat(np.arange(10), 5_000),
      "but the labels of severity 2 differ from those of 1; this is not CIFAR-10-C.",
    ),
  ],
)
def test_labels_that_do_not_fit_the_published_files_are_refused(
  tmp_path: pathlib.Path, labels: np.ndarray, message: str
):
  save_labels(tmp_path, labels)
  with pytest.raises(ValueError, match=re.escape(message)):
    cifar_c.read_labels(tmp_path / "labels.npy")


def test_a_folder_that_is_not_cifar_10_c_is_refused(tmp_path: pathlib.Path):
  with pytest.raises(ValueError, match=re.escape(f"of CIFAR-10-C, got {str(tmp_path / 'none')!r}, not a folder.")):
    cifar_c.open_cifar_c(tmp_path / "none")
  save_labels(tmp_path, np.zeros(50_000, np.uint8))
  with pytest.raises(
    ValueError, match=re.escape(f"such as gaussian_noise.npy, but {str(tmp_path)!r} has none of them.")
  ):
    cifar_c.open_cifar_c(tmp_path)
  np.save(tmp_path / "fog.npy", np.zeros((50, 32, 32, 3), np.uint8))
  with pytest.raises(
    ValueError, match=re.escape("at each of 5 severities, got uint8[50, 32, 32, 3]; this is not CIFAR-10-C.")
  ):
    cifar_c.open_cifar_c(tmp_path)
  np.save(tmp_path / "fog.npy", np.zeros((50, 32, 32, 3), np.float32))
  with pytest.raises(ValueError, match=re.escape("got float32[50, 32, 32, 3]; this is not CIFAR-10-C.")):
    cifar_c.open_cifar_c(tmp_path)


def test_a_published_folder_without_labels_is_refused(tmp_path: pathlib.Path):
  make_published_folder(tmp_path / "c", ["fog"])
  (tmp_path / "c" / "labels.npy").unlink()
  with pytest.raises(ValueError, match=re.escape("the folder of CIFAR-10-C must hold labels.npy, but ")):
    cifar_c.open_cifar_c(tmp_path / "c")


def test_a_file_that_is_cut_off_is_refused(tmp_path: pathlib.Path):
  make_published_folder(tmp_path / "c", ["fog"])
  os.truncate(tmp_path / "c" / "fog.npy", 10_000_000)
  with pytest.raises(ValueError, match=re.escape("fog.npy' must be a .npy file, but cannot be read: ")):
    cifar_c.open_cifar_c(tmp_path / "c")
  (tmp_path / "c" / "fog.npy").write_text("")
  with pytest.raises(ValueError, match=re.escape("fog.npy' must be a .npy file, but cannot be read: ")):
    cifar_c.open_cifar_c(tmp_path / "c")


def test_corruptions_are_for_images_and_classes_that_they_were_made_of():
  classifier = checkpoint.load_classifier(checkpoint.EMBEDDED_CLASSIFIER)
  large = dataclasses.replace(classifier, input_shape=(224, 224, 3))
  with pytest.raises(
    ValueError, match=re.escape("constants for images of (32, 32, 3), but the checkpoint takes (224, 224, 3)")
  ):
    setup.check_corruptible(large, "made")
  other = dataclasses.replace(classifier, class_names=("a", "b", "c"))
  with pytest.raises(
    ValueError, match=re.escape("CIFAR-10's classes, got 3 classes (a, b, c, ...) in the checkpoint.")
  ):
    setup.check_corruptible(other, "folder")
  setup.check_corruptible(other, "made")


def test_several_conditions_are_calibrated_as_if_they_were_one():
  generator = np.random.default_rng(0)
  logits, labels = generator.normal(0, 2, (90, 3)), generator.integers(0, 3, 90)
  rows = [
    report.measure_condition(
      ("fog", severity),
      logits[part],
      labels[part],
      class_names=("a", "b", "c"),
      skipped={},
      num_bins=12,
      level=0.95,
    )
    for severity, part in ((1, slice(0, 20)), (2, slice(20, 90)))
  ]
  pooled, expected = report.pool_calibration(rows), metrics.calibration(logits, labels, 12)
  assert pooled.expected_calibration_error == pytest.approx(expected.expected_calibration_error)
  np.testing.assert_array_equal(pooled.count, expected.count)
  np.testing.assert_allclose(pooled.confidence, expected.confidence)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"on_error": "stop"}, "--on-error must be 'skip' or 'refuse', got 'stop'."),
    ({"level": 95.0}, "--level must be a probability strictly between 0 and 1, got 95.0."),
    ({"num_bins": 0}, "--bins must be positive, got 0."),
    ({"limit": 0}, "--limit must be positive, got 0."),
    ({"batch_size": -1}, "--batch must be positive, got -1."),
  ],
)
def test_settings_that_make_no_sense_are_refused(options: Any, message: str):
  with pytest.raises(ValueError, match=re.escape(message)):
    EvaluateConfig(out="unused", **options)
