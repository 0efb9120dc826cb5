"""Classifiers on disk: read as they were written, and every kind of damage explained."""

import dataclasses
import json
import pathlib
import re
import shutil
from collections.abc import Callable

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jax_sis import classifiers
from jax_sis.classifiers import checkpoint, frozen
from jax_sis.data.images import CENTRAL_FRAMING
from jax_sis.data.normalisation import Normalisation


@pytest.fixture
def saved(tmp_path: pathlib.Path) -> tuple[pathlib.Path, classifiers.Classifier]:
  classifier = classifiers.Classifier(
    model_name="resnet20",
    module=classifiers.build("resnet20", num_classes=4, seed=3),
    class_names=("a", "b", "c", "d"),
    normalisation=Normalisation(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)),
    input_shape=(32, 32, 3),
    framing=CENTRAL_FRAMING,
  )
  checkpoint.save_classifier(tmp_path / "classifier", classifier)
  return tmp_path / "classifier", classifier


def test_a_classifier_is_read_as_it_was_written(saved: tuple[pathlib.Path, classifiers.Classifier]):
  directory, classifier = saved
  loaded = checkpoint.load_classifier(directory)
  assert loaded.class_names == classifier.class_names
  assert loaded.normalisation == classifier.normalisation
  assert loaded.input_shape == classifier.input_shape
  assert loaded.framing == classifier.framing == CENTRAL_FRAMING
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
    ("{}", "must have the format 'jax_sis.classifier/2' in classifier.json."),
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


def change_arrays(directory: pathlib.Path, change_fn: Callable[[str, np.ndarray], None]) -> None:
  """Writes the arrays again, after `change_fn(name, array)` has changed some."""
  with ocp.StandardCheckpointer() as checkpointer:
    variables = jax.tree.map(lambda array: np.array(array, copy=True), checkpointer.restore(directory))
    for path, array in jax.tree.leaves_with_path(variables):
      change_fn(jax.tree_util.keystr(path), array)
    checkpointer.save(directory, variables, force=True)


def flip(name: str, array: np.ndarray) -> None:
  if name == "['stem']['kernel']":
    array.view(np.uint32)[0, 0, 0, 0] ^= 1


def add_much(name: str, array: np.ndarray) -> None:
  if name == "['head']['bias']":
    array[2] += 1e22


def spoil(name: str, array: np.ndarray) -> None:
  if name == "['head']['bias']":
    array[2] = np.nan


@pytest.mark.parametrize(
  ("change_fn", "reason"),
  [
    (flip, "must be as it was written, but has another checksum: classifier.json or numbers in variables have"),
    (add_much, "must hold finite weights, but 1 of 97 arrays hold NaN, infinity or numbers beyond 1e+18, first"),
    (spoil, "must hold finite weights, but 1 of 97 arrays hold NaN, infinity or numbers beyond 1e+18, first"),
  ],
)
def test_changed_weights_are_refused(
  saved: tuple[pathlib.Path, classifiers.Classifier], change_fn: Callable[[str, np.ndarray], None], reason: str
):
  directory, _ = saved
  change_arrays(directory / "variables", change_fn)
  with pytest.raises(ValueError, match=f"^checkpoint '.*' {re.escape(reason)}"):
    checkpoint.load_classifier(directory)


def test_a_changed_description_is_refused_unless_it_is_said_to_be_meant(
  saved: tuple[pathlib.Path, classifiers.Classifier],
):
  directory, _ = saved
  path = directory / "classifier.json"
  path.write_text(path.read_text().replace("0.875", "0.874"))
  with pytest.raises(ValueError, match=r"has another checksum: .* give it the format 'jax_sis\.classifier/1', which"):
    checkpoint.load_classifier(directory)
  path.write_text(path.read_text().replace("classifier/2", "classifier/1"))
  assert checkpoint.load_classifier(directory).framing.crop == 0.874


def test_a_classifier_that_is_not_finite_is_not_written(
  saved: tuple[pathlib.Path, classifiers.Classifier], tmp_path: pathlib.Path
):
  _, classifier = saved
  classifier.module.head.bias[...] = classifier.module.head.bias[...].at[1].set(np.inf)
  with pytest.raises(ValueError, match=r"^the classifier must hold finite weights, but 1 of 97 arrays hold NaN"):
    checkpoint.save_classifier(tmp_path / "other", classifier)
  assert not (tmp_path / "other").exists()


def test_the_embedded_classifier_carries_its_checksum(tmp_path: pathlib.Path):
  assert checkpoint.read_description(checkpoint.EMBEDDED_CLASSIFIER)["format"] == checkpoint.FORMAT
  copy = shutil.copytree(checkpoint.EMBEDDED_CLASSIFIER, tmp_path / "copy")
  text = (copy / "classifier.json").read_text()
  # Line ends may change on the way, and say nothing.
  (copy / "classifier.json").write_bytes(text.replace("\n", "\r\n").encode())
  checkpoint.load_classifier(copy)
  (copy / "classifier.json").write_text(text.replace('"bird"', '"bire"'))
  with pytest.raises(ValueError, match="has another checksum"):
    checkpoint.load_classifier(copy)


def test_a_changed_training_state_is_refused(tmp_path: pathlib.Path):
  state = {"weight": np.arange(6, dtype=np.float32), "count": np.int32(7)}
  with checkpoint.TrainingCheckpoints(tmp_path / "state") as checkpoints:
    checkpoints.save(4, state, {"step": 4, "loss": 0.5})

  def change(name: str, array: np.ndarray) -> None:
    if array.ndim:
      array.view(np.uint32)[3] ^= 1

  change_arrays(tmp_path / "state" / "4" / "arrays", change)
  with checkpoint.TrainingCheckpoints(tmp_path / "state") as checkpoints:
    with pytest.raises(ValueError, match=r"^the state of step 4 .* it is not as it was saved, since its checksum is"):
      checkpoints.restore_latest(state)


def test_a_changed_position_of_a_training_run_is_refused(tmp_path: pathlib.Path):
  state = {"weight": np.arange(6, dtype=np.float32)}
  with checkpoint.TrainingCheckpoints(tmp_path / "state") as checkpoints:
    checkpoints.save(4, state, {"step": 4, "loss": 0.5})
  (path,) = (path for path in (tmp_path / "state/4/position").iterdir() if "loss" in path.read_text())
  path.write_text(path.read_text().replace("0.5", "0.7"))
  with checkpoint.TrainingCheckpoints(tmp_path / "state") as checkpoints:
    with pytest.raises(ValueError, match=r"^the state of step 4 .* it is not as it was saved, since its checksum is"):
      checkpoints.restore_latest(state)


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
