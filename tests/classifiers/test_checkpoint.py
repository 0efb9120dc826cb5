"""Classifiers on disk: read as they were written, and every kind of damage explained."""

import dataclasses
import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest

from jax_sis import classifiers
from jax_sis.classifiers import checkpoint, frozen
from jax_sis.data.normalisation import Normalisation


@pytest.fixture
def saved(tmp_path: pathlib.Path) -> tuple[pathlib.Path, classifiers.Classifier]:
  classifier = classifiers.Classifier(
    model_name="resnet20",
    module=classifiers.build("resnet20", num_classes=4, seed=3),
    class_names=("a", "b", "c", "d"),
    normalisation=Normalisation(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)),
    input_shape=(32, 32, 3),
    crop=0.875,
  )
  checkpoint.save_classifier(tmp_path / "classifier", classifier)
  return tmp_path / "classifier", classifier


def test_a_classifier_is_read_as_it_was_written(saved: tuple[pathlib.Path, classifiers.Classifier]):
  directory, classifier = saved
  loaded = checkpoint.load_classifier(directory)
  assert loaded.class_names == classifier.class_names
  assert loaded.normalisation == classifier.normalisation
  assert loaded.input_shape == classifier.input_shape
  assert loaded.crop == classifier.crop == 0.875
  expected = jax.tree.leaves(checkpoint.pure_variables(classifier.module))
  actual = jax.tree.leaves(checkpoint.pure_variables(loaded.module))
  assert len(actual) == len(expected) == 97
  for left, right in zip(actual, expected, strict=True):
    np.testing.assert_array_equal(left, right)


def test_the_embedded_classifier_knows_how_its_input_is_made():
  classifier = checkpoint.load_classifier(checkpoint.EMBEDDED_CLASSIFIER)
  assert classifier.model_name == "resnet20"
  assert classifier.class_names[3] == "cat"
  assert classifier.input_shape == (32, 32, 3)
  grey = classifier.normalisation.apply(np.full((1, 1, 3), 128, np.uint8))
  np.testing.assert_allclose(classifier.normalisation.invert(grey), 128, rtol=1e-5)


def test_the_assets_stay_small():
  files = [path for path in checkpoint.EMBEDDED_CLASSIFIER.parent.rglob("*") if path.is_file()]
  assert sum(path.stat().st_size for path in files) < 2_000_000


def test_a_missing_checkpoint_is_refused(tmp_path: pathlib.Path):
  message = (
    f"checkpoint must be a folder with classifier.json, as `jax-sis train` writes it, got {str(tmp_path / 'none')!r}."
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    checkpoint.load_classifier(tmp_path / "none")


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ("{", "has a damaged classifier.json"),
    ("{}", "must have the format 'jax_sis.classifier/1' in classifier.json."),
    (json.dumps({"format": checkpoint.FORMAT}), "has a classifier.json that does not fit: 'model'"),
    (
      json.dumps({"format": checkpoint.FORMAT, "model": "resnet9", "class_names": ["a"]}),
      "model must be one of [",
    ),
  ],
)
def test_a_foreign_description_is_refused(
  saved: tuple[pathlib.Path, classifiers.Classifier], content: str, message: str
):
  directory, _ = saved
  (directory / "classifier.json").write_text(content)
  with pytest.raises(ValueError, match=re.escape(message)):
    checkpoint.load_classifier(directory)


def test_missing_arrays_are_refused(saved: tuple[pathlib.Path, classifiers.Classifier]):
  directory, _ = saved
  shutil.rmtree(directory / "variables")
  with pytest.raises(ValueError, match="must hold the arrays of resnet20, but variables is missing, damaged"):
    checkpoint.load_classifier(directory)


def test_truncated_arrays_are_refused(saved: tuple[pathlib.Path, classifiers.Classifier]):
  directory, _ = saved
  largest = max((directory / "variables").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
  largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
  with pytest.raises(ValueError, match="must hold the arrays of resnet20, but variables is missing, damaged"):
    checkpoint.load_classifier(directory)


def test_arrays_of_another_model_are_refused(saved: tuple[pathlib.Path, classifiers.Classifier]):
  directory, _ = saved
  description = json.loads((directory / "classifier.json").read_text())
  description["class_names"].append("e")
  (directory / "classifier.json").write_text(json.dumps(description))
  with pytest.raises(
    ValueError,
    match=r"must hold the arrays of resnet20 with 5 classes, but some in variables have other shapes; copy",
  ):
    checkpoint.load_classifier(directory)


def test_training_state_is_restored_whole(tmp_path: pathlib.Path):
  state = {"params": [np.arange(6.0).reshape(2, 3), np.float32(2)], "count": np.int32(7)}
  with checkpoint.TrainingCheckpoints(tmp_path / "state") as checkpoints:
    assert checkpoints.restore_latest(state) == (state, None)
    for step in (1, 2, 3):
      checkpoints.save(
        step, jax.tree.map(lambda array, step=step: array + step - 2, state), {"step": step, "loss": 0.1}
      )
  assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["2", "3"]
  with checkpoint.TrainingCheckpoints(tmp_path / "state") as checkpoints:
    restored, position = checkpoints.restore_latest(state)
  assert position == {"step": 3, "loss": 0.1}
  np.testing.assert_array_equal(restored["params"][0], state["params"][0] + 1)
  assert restored["count"] == 8


def test_a_damaged_training_state_says_which_folder_to_delete(tmp_path: pathlib.Path):
  state = {"params": np.random.default_rng(0).normal(size=10_000)}
  with checkpoint.TrainingCheckpoints(tmp_path / "state") as checkpoints:
    checkpoints.save(1, state, {"step": 1})
    checkpoints.save(2, state, {"step": 2})
  largest = max((tmp_path / "state/2").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
  largest.write_bytes(largest.read_bytes()[:20])
  with checkpoint.TrainingCheckpoints(tmp_path / "state") as checkpoints:
    with pytest.raises(ValueError, match=r"^the state of step 2 in .* cannot be read .*; delete its folder, 2"):
      checkpoints.restore_latest(state)
  shutil.rmtree(tmp_path / "state/2")
  with checkpoint.TrainingCheckpoints(tmp_path / "state") as checkpoints:
    assert checkpoints.restore_latest(state)[1] == {"step": 1}


def test_a_classifier_is_replaced_whole(saved: tuple[pathlib.Path, classifiers.Classifier]):
  directory, classifier = saved
  # As a kill in the middle of an earlier replacement leaves it.
  (directory.parent / ".classifier.new" / "variables").mkdir(parents=True)
  changed = dataclasses.replace(classifier, class_names=("w", "x", "y", "z"))
  checkpoint.save_classifier(directory, changed)
  assert checkpoint.load_classifier(directory).class_names == ("w", "x", "y", "z")
  assert [path.name for path in directory.parent.iterdir()] == ["classifier"]


@pytest.mark.slow
def test_the_embedded_classifier_is_right_on_91_percent_of_the_test_images(
  cifar_test: tuple[np.ndarray, np.ndarray], allow_rank_promotion: None
):
  classifier = checkpoint.load_classifier(checkpoint.EMBEDDED_CLASSIFIER)
  predict_fn, params = frozen.freeze(classifier.module)
  predict = jax.jit(predict_fn)
  images, labels = cifar_test
  num_correct = 0
  for start in range(0, 10_000, 500):
    logits = predict(params, classifier.normalisation.apply(images[start : start + 500]))
    num_correct += int((np.asarray(logits).argmax(1) == labels[start : start + 500]).sum())
  print(f"{num_correct} of 10,000 right")
  assert num_correct >= 9_100
