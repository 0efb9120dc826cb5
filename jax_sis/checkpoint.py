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
  """Reads what `save_classifier` wrote."""
  directory = pathlib.Path(directory).absolute()
  description = json.loads((directory / DESCRIPTION_FILE).read_text())
  module = classifiers.build(description["model"], num_classes=len(description["class_names"]))
  with ocp.StandardCheckpointer() as checkpointer:
    variables = checkpointer.restore(directory / VARIABLES_DIR, pure_variables(module))
  state = nnx.state(module, (nnx.Param, nnx.BatchStat))
  nnx.replace_by_pure_dict(state, variables)
  nnx.update(module, state)
  module.eval()
  return classifiers.Classifier(
    model_name=description["model"],
    module=module,
    class_names=tuple(description["class_names"]),
    normalisation=Normalisation(
      mean=tuple(description["normalisation"]["mean"]), std=tuple(description["normalisation"]["std"])
    ),
    input_shape=tuple(description["input_shape"]),
  )


def pure_variables(module: nnx.Module) -> dict[str, Any]:
  """Parameters and batch statistics as nested dictionaries of arrays."""
  return nnx.to_pure_dict(nnx.state(module, (nnx.Param, nnx.BatchStat)))
