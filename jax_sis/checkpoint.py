"""Checkpoints by Orbax: the state of a training run, and a finished classifier."""

import dataclasses
import json
import os
import pathlib
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx

from jax_sis import classifiers
from jax_sis.config import Normalisation
from jax_sis.validation import first_line

EMBEDDED_CLASSIFIER = pathlib.Path(__file__).parent / "assets" / "cifar10_resnet20"
DESCRIPTION_FILE = "classifier.json"
VARIABLES_DIR = "variables"
FORMAT = "jax_sis.classifier/1"


class TrainingCheckpoints:
  """The last two epochs of a training run, each saved whole or not at all."""

  def __init__(self, directory: str | os.PathLike[str]):
    self._manager = ocp.CheckpointManager(
      pathlib.Path(directory).absolute(), options=ocp.CheckpointManagerOptions(max_to_keep=2)
    )

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    self._manager.close()

  def save(self, num_epochs: int, state: Any) -> None:
    """Saves `state` as it is after `num_epochs` epochs and waits until it is on disk."""
    leaves = {f"{i:04}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
    self._manager.save(num_epochs, args=ocp.args.StandardSave(leaves))
    self._manager.wait_until_finished()

  def restore_latest(self, state: Any) -> tuple[int, Any]:
    """The number of finished epochs and the state after them; `(0, state)` where nothing is saved yet."""
    num_epochs = self._manager.latest_step()
    if num_epochs is None:
      return 0, state
    leaves, treedef = jax.tree.flatten(state)
    target = {f"{i:04}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
    restored = self._manager.restore(num_epochs, args=ocp.args.StandardRestore(target))
    return num_epochs, jax.tree.unflatten(treedef, [restored[key] for key in sorted(restored)])


def save_classifier(directory: str | os.PathLike[str], classifier: classifiers.Classifier) -> None:
  """Writes a classifier: its arrays by Orbax, and `classifier.json`, which says what they are."""
  directory = pathlib.Path(directory).absolute()
  directory.mkdir(parents=True, exist_ok=True)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(directory / VARIABLES_DIR, pure_variables(classifier.module), force=True)
  description = {
    "format": FORMAT,
    "model": classifier.model_name,
    "class_names": list(classifier.class_names),
    "input_shape": list(classifier.input_shape),
    "normalisation": dataclasses.asdict(classifier.normalisation),
  }
  (directory / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2) + "\n")


def load_classifier(directory: str | os.PathLike[str]) -> classifiers.Classifier:
  """Reads what `save_classifier` wrote, in evaluation mode.

  Raises:
    ValueError: there is no such folder, it is not a classifier of ours, or it is damaged.
  """
  directory = pathlib.Path(directory).absolute()
  description = read_description(directory)
  try:
    # Shapes only: initial values would cost seconds and be overwritten.
    module = nnx.eval_shape(
      lambda: classifiers.build(description["model"], num_classes=len(description["class_names"]))
    )
    normalisation = Normalisation(
      mean=tuple(description["normalisation"]["mean"]), std=tuple(description["normalisation"]["std"])
    )
    class_names, input_shape = tuple(description["class_names"]), tuple(description["input_shape"])
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(f"checkpoint {str(directory)!r} has a {DESCRIPTION_FILE} that does not fit: {error}.") from error
  try:
    with ocp.StandardCheckpointer() as checkpointer:
      variables = checkpointer.restore(directory / VARIABLES_DIR, pure_variables(module))
  except Exception as error:
    raise ValueError(
      f"checkpoint {str(directory)!r} must hold the arrays of {description['model']}, but {VARIABLES_DIR} is missing, "
      f"damaged or of another model ({type(error).__name__}: {first_line(error)}); copy or train it again."
    ) from error
  state = nnx.state(module, (nnx.Param, nnx.BatchStat))
  nnx.replace_by_pure_dict(state, variables)
  nnx.update(module, state)
  module.eval()
  return classifiers.Classifier(
    model_name=description["model"],
    module=module,
    class_names=class_names,
    normalisation=normalisation,
    input_shape=input_shape,
  )


def read_description(directory: pathlib.Path) -> dict[str, Any]:
  """The content of `classifier.json`.

  Raises:
    ValueError: it is missing, or not ours.
  """
  path = directory / DESCRIPTION_FILE
  if not path.is_file():
    raise ValueError(
      f"checkpoint must be a folder with {DESCRIPTION_FILE}, as `jax-sis train` writes it, got {str(directory)!r}."
    )
  try:
    description = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f"checkpoint {str(directory)!r} has a damaged {DESCRIPTION_FILE}: {error}.") from error
  if not isinstance(description, dict) or description.get("format") != FORMAT:
    raise ValueError(f"checkpoint {str(directory)!r} must have the format {FORMAT!r} in {DESCRIPTION_FILE}.")
  return description


def pure_variables(module: nnx.Module) -> dict[str, Any]:
  """Parameters and batch statistics as nested dictionaries of arrays."""
  return nnx.to_pure_dict(nnx.state(module, (nnx.Param, nnx.BatchStat)))
