"""Checkpoints by Orbax: the state of a training run, and a finished classifier."""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx

from jax_sis import classifiers
from jax_sis.classifiers import Classifier, imagenet
from jax_sis.classifiers.ensemble import Ensemble, EnsembleConfig
from jax_sis.classifiers.fixed import FixConfig, Fixed
from jax_sis.classifiers.state_dicts import name_damaged
from jax_sis.core.messages import first_line
from jax_sis.data.images import read_framing
from jax_sis.data.normalisation import Normalisation

EMBEDDED_CLASSIFIER = pathlib.Path(__file__).parents[1] / "assets" / "cifar10_resnet20"
DESCRIPTION_FILE = "classifier.json"
VARIABLES_DIR = "variables"
FORMAT = "jax_sis.classifier/2"
# What earlier versions wrote: the same without a checksum.
UNSIGNED_FORMAT = "jax_sis.classifier/1"


class TrainingCheckpoints:
  """The last two states of a training run, each saved whole or not at all."""

  def __init__(self, directory: str | os.PathLike[str]):
    self._directory = pathlib.Path(directory).absolute()
    self._manager = ocp.CheckpointManager(
      self._directory,
      item_names=("arrays", "position"),
      options=ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False),
    )

  def __enter__(self) -> "TrainingCheckpoints":
    return self

  def __exit__(
    self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    self._manager.close()

  def save(self, step: int, state: Any, position: dict[str, Any]) -> None:
    """Saves what a run needs to continue from `step`: the arrays of `state`, its `position` as JSON, and a checksum.

    Raises:
      ValueError: it could not be written; earlier saved states stay.
    """
    leaves = {f"{i:04}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
    signed = {"sha256": hash_content(position, leaves), "position": position}
    try:
      self._manager.save(
        step, args=ocp.args.Composite(arrays=ocp.args.StandardSave(leaves), position=ocp.args.JsonSave(signed))
      )
    except Exception as error:
      kept = [kept_step for kept_step in self._manager.all_steps(read=True) if kept_step != step]
      raise ValueError(
        f"the state of step {step} could not be saved in {str(self._directory)!r} "
        f"({type(error).__name__}: {first_line(error)}); "
        f"{f'that of step {max(kept)} stays' if kept else 'there is no earlier one'}. "
        "Free some space, and the same command goes on from there."
      ) from error

  def restore_latest(self, state: Any) -> tuple[Any, dict[str, Any] | None]:
    """The last saved state and position; `(state, None)` if nothing is saved yet; ValueError if it cannot be read."""
    step = self._manager.latest_step()
    if step is None:
      return state, None
    leaves, treedef = jax.tree.flatten(state)
    target = {f"{i:04}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
    try:
      restored = self._manager.restore(
        step,
        args=ocp.args.Composite(arrays=ocp.args.StandardRestore(target), position=ocp.args.JsonRestore()),
      )
      position = restored["position"]
      # Earlier versions saved the position alone.
      if "step" not in position:
        sha256, position = position["sha256"], position["position"]
        if hash_content(position, restored["arrays"]) != sha256:
          raise ValueError("it is not as it was saved, since its checksum is another")
    except Exception as error:
      raise ValueError(
        f"the state of step {step} in {str(self._directory)!r} cannot be read ({type(error).__name__}: "
        f"{first_line(error)}); delete its folder, {step}, to go on from the one before."
      ) from error
    arrays = [restored["arrays"][key] for key in sorted(restored["arrays"])]
    return jax.tree.unflatten(treedef, arrays), dict(position)


def save_classifier(directory: str | os.PathLike[str], classifier: classifiers.Classifier) -> None:
  """Writes a classifier: its arrays with Orbax, and `classifier.json`, which describes them, with a checksum of both.

  A classifier that is already there is replaced once the new one is complete.

  Raises:
    ValueError: it could not be written, or its arrays hold numbers that are not finite.
  """
  directory = pathlib.Path(directory).absolute()
  new, old = (directory.with_name(f".{directory.name}.{suffix}") for suffix in ("new", "old"))
  description = {
    "format": FORMAT,
    "model": classifier.model_name,
    "class_names": list(classifier.class_names),
    "input_shape": list(classifier.input_shape),
    "normalisation": dataclasses.asdict(classifier.normalisation),
    **classifier.framing.describe(),
    **({} if classifier.recipe is None else {"recipe": classifier.recipe}),
    "ensemble": classifier.ensemble and dataclasses.asdict(classifier.ensemble),
    **({} if classifier.fix is None else {"fix": dataclasses.asdict(classifier.fix)}),
  }
  variables = jax.device_get(pure_variables(classifier.module))
  check_numbers(variables, "the classifier", advice="train it again or take earlier weights")
  description["sha256"] = hash_content(description, in_float32(variables))
  try:
    for leftover in (new, old):
      shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(new / VARIABLES_DIR, variables)
    (new / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2) + "\n")
    if directory.exists():
      directory.rename(old)
    new.rename(directory)
    shutil.rmtree(old, ignore_errors=True)
  except Exception as error:
    raise ValueError(
      f"the classifier could not be written to {str(directory)!r} ({type(error).__name__}: {first_line(error)})."
    ) from error


def load_classifier(directory: str | os.PathLike[str]) -> classifiers.Classifier:
  """Reads a classifier that `save_classifier` wrote, in evaluation mode; `imagenet` is the one that a package brings.

  Raises:
    ValueError: there is no such folder, it holds no classifier of ours, or the classifier is damaged: by its checksum,
      or since numbers are not finite; or the package is not installed.
  """
  if directory == imagenet.NAME:
    return imagenet.open_imagenet()
  directory = pathlib.Path(directory).absolute()
  description = read_description(directory)
  try:
    # Shapes only: initial values would take seconds, and be overwritten.
    module = build_abstract(description)
    normalisation = Normalisation(
      mean=tuple(description["normalisation"]["mean"]), std=tuple(description["normalisation"]["std"])
    )
    class_names, input_shape = tuple(description["class_names"]), tuple(description["input_shape"])
    framing = read_framing(description)
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
  expected, found = (jax.tree.map(np.shape, tree) for tree in (pure_variables(module), variables))
  if expected != found:
    raise ValueError(
      f"checkpoint {str(directory)!r} must hold the arrays of {description['model']} with "
      f"{len(class_names)} classes, but some in {VARIABLES_DIR} have other shapes; copy or train it again."
    )
  check_content(directory, description, variables)
  state = nnx.state(module, (nnx.Param, nnx.BatchStat))
  nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, variables))
  nnx.update(module, state)
  module.eval()
  return classifiers.Classifier(
    model_name=description["model"],
    module=module,
    class_names=class_names,
    normalisation=normalisation,
    input_shape=input_shape,
    framing=framing,
    recipe=description.get("recipe"),
    ensemble=module.config if isinstance(module, Ensemble) else None,
    fix=module.config if isinstance(module, Fixed) else None,
  )


def check_content(directory: pathlib.Path, description: dict[str, Any], variables: dict[str, Any]) -> None:
  """Raises ValueError unless arrays are finite, and they and their description give the checksum in it."""
  check_numbers(variables, f"checkpoint {str(directory)!r}", advice="copy, train or import it again")
  if description["format"] == UNSIGNED_FORMAT:
    return
  if hash_content(description, in_float32(variables)) != description.get("sha256"):
    raise ValueError(
      f"checkpoint {str(directory)!r} must be as it was written, but has another checksum: {DESCRIPTION_FILE} or "
      f"numbers in {VARIABLES_DIR} have changed; copy, train or import it again. If you changed {DESCRIPTION_FILE} on "
      f"purpose, give it the format {UNSIGNED_FORMAT!r}, which has no checksum."
    )


def check_numbers(variables: dict[str, Any], what: str, *, advice: str) -> None:
  arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(variables)}
  if damaged := name_damaged(arrays):
    raise ValueError(f"{what} must hold finite weights, but {damaged}; {advice}.")


def build_abstract(description: dict[str, Any]) -> Any:
  """The module of a description, with shapes in place of arrays."""
  model, num_classes = description["model"], len(description["class_names"])
  if description.get("fix"):
    parts: dict[str, Any] = {
      name: tuple(part) if isinstance(part, list) else part for name, part in description["fix"].items()
    }
    fix = FixConfig(**parts)
    return Fixed(classifiers.build_abstract(fix.base, num_classes=num_classes), fix)
  if not description.get("ensemble"):
    return classifiers.build_abstract(model, num_classes=num_classes)
  config = EnsembleConfig(members=tuple(description["ensemble"]["members"]), average=description["ensemble"]["average"])
  return nnx.eval_shape(lambda: classifiers.build_ensemble(config, num_classes=num_classes))


def read_description(directory: pathlib.Path) -> dict[str, Any]:
  """The content of `classifier.json`; ValueError if it is missing, damaged or of another format."""
  path = directory / DESCRIPTION_FILE
  if not path.is_file():
    raise ValueError(
      f"checkpoint must be a folder with {DESCRIPTION_FILE}, as `jax-sis train` writes it, got {str(directory)!r}."
    )
  try:
    description = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f"checkpoint {str(directory)!r} has a damaged {DESCRIPTION_FILE}: {error}.") from error
  if not isinstance(description, dict) or description.get("format") not in (FORMAT, UNSIGNED_FORMAT):
    raise ValueError(f"checkpoint {str(directory)!r} must have the format {FORMAT!r} in {DESCRIPTION_FILE}.")
  return description


def pure_variables(module: nnx.Module) -> dict[str, Any]:
  """Parameters and batch statistics as nested dictionaries of arrays."""
  return nnx.to_pure_dict(nnx.state(module, (nnx.Param, nnx.BatchStat)))


def in_float32(variables: dict[str, Any]) -> dict[str, Any]:
  """The arrays in the type that they are loaded in."""
  return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), variables)


def hash_params(classifier: Classifier) -> str:
  """SHA-256 over the names, shapes and bytes of all arrays of the classifier."""
  return hash_arrays(pure_variables(classifier.module))


def hash_arrays(tree: Any) -> str:
  """SHA-256 over the names, shapes and bytes of all arrays of a pytree."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
    digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
    digest.update(array.tobytes())
  return digest.hexdigest()


def hash_content(description: dict[str, Any], arrays: Any) -> str:
  """SHA-256 over what JSON keeps of a description, but for the checksum in it, and all arrays."""
  kept = json.loads(json.dumps({name: value for name, value in description.items() if name != "sha256"}))
  return hashlib.sha256(f"{json.dumps(kept, sort_keys=True)} {hash_arrays(arrays)}".encode()).hexdigest()
