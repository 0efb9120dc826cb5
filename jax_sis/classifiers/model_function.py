"""A classifier that a function of the user's makes, as `--model package.module:function` names it."""

import dataclasses
import difflib
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jax_sis.core import validation
from jax_sis.core.messages import first_line, name_some
from jax_sis.core.types import Params, PredictFn
from jax_sis.data import sources
from jax_sis.data.images import Framing
from jax_sis.data.normalisation import Normalisation

FORMS = "package.module:function or file.py:function"
# An image has colours on its last axis; more values on it than this, with fewer on the first, are its columns.
MOST_CHANNELS = 4
MAX_NAMED = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageModel:
  """Any JAX classifier of images, as a function for `jax-sis find --model` and other commands returns it.

  Attributes:
    predict_fn: `(params, inputs [B, H, W, C]) -> logits [B, K]`, float32 in, pure, each image on its own, in evaluation
      mode. `jax_sis.classifiers.adapters` make it and `params` of Flax and Equinox modules.
    params: a pytree with all arrays that the model needs. Runs know the model by them, so that none may be closed over.
    input_shape: height, width and channels of an image; 3 channels for image files, which are read as RGB.
    normalisation: how inputs are made from 8-bit pixels; mean 0 and std 1 leave `pixel / 255`.
    class_names: a name for each logit; none for their numbers.
    crop: with --resize, the share of the shorter side that is shown of an image of another size.
    features_fn: `(params, inputs) -> features [B, E]`, what the last layer is a linear function of, for commands that
      look into the classifier (`jax-sis components`).
    head_fn: `(params, features) -> logits [B, K]`, that last layer.

  Raises:
    ValueError: one of these is not that.

  Examples:
    A function such as `load`, in a file of one's own, is what `jax-sis find --model my_model.py:load` calls:

    >>> import jax.numpy as jnp
    >>> from jax_sis.classifiers import ImageModel, Normalisation
    >>> def predict(params, images):
    ...   return images.mean((1, 2)) @ params["kernel"]
    >>> def load():
    ...   plain, params = Normalisation(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)), {"kernel": jnp.eye(3)}
    ...   return ImageModel(predict_fn=predict, params=params, input_shape=(32, 32, 3), normalisation=plain)
    >>> load().input_shape
    (32, 32, 3)
  """

  predict_fn: PredictFn
  params: Params
  input_shape: tuple[int, ...]
  normalisation: Normalisation
  class_names: tuple[str, ...] = ()
  crop: float = 1.0
  features_fn: Callable[[Params, Array], Array] | None = None
  head_fn: Callable[[Params, Array], Array] | None = None

  def __post_init__(self) -> None:
    for name in ("input_shape", "class_names"):
      value: Any = getattr(self, name)
      if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise ValueError(f"ImageModel.{name} must be a tuple, got {value!r}.")
      object.__setattr__(self, name, tuple(value))
    self._check_shape()
    if not isinstance(self.normalisation, Normalisation):
      raise ValueError(
        "ImageModel.normalisation must be a jax_sis.classifiers.Normalisation(mean=..., std=...), got "
        f"{type(self.normalisation).__name__}."
      )
    mean, std = (tuple(map(float, values)) for values in (self.normalisation.mean, self.normalisation.std))
    object.__setattr__(self, "normalisation", Normalisation(mean=mean, std=std))
    if len(mean) != self.input_shape[2]:
      raise ValueError(
        f"ImageModel.normalisation must have a mean for each of the {self.input_shape[2]} channels of input_shape "
        f"{self.input_shape}, got {len(mean)}."
      )
    wrong = [name for name in self.class_names if not isinstance(name, str)]
    if wrong:
      raise ValueError(f"ImageModel.class_names must be strings, got {wrong[0]!r}.")
    try:
      assert self.framing
    except ValueError as error:
      raise ValueError(f"ImageModel.{error}") from error
    check_arrays(self.params)

  @property
  def framing(self) -> Framing:
    """What it is shown of an image of another size."""
    return Framing(crop=self.crop)

  def _check_shape(self) -> None:
    shape = self.input_shape
    if len(shape) != 3 or not all(isinstance(size, int | np.integer) and size > 0 for size in shape):
      raise ValueError(f"ImageModel.input_shape must be height, width and channels of an image, got {shape}.")
    object.__setattr__(self, "input_shape", tuple(map(int, shape)))
    if shape[0] <= MOST_CHANNELS < shape[2]:
      raise ValueError(
        f"ImageModel.input_shape must have channels last, got {shape}; give {(*shape[1:], shape[0])}, and begin "
        "predict_fn with inputs = inputs.transpose(0, 3, 1, 2)."
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedModel(ImageModel):
  """An ImageModel with a name for each logit.

  Attributes:
    model_name: module and function; of a file, its stem stands for the module, wherever it lies.
  """

  model_name: str


def check_arrays(params: Any) -> None:
  """Raises ValueError unless these are arrays or numbers, all finite, and at least one."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  if not leaves:
    raise ValueError(
      "ImageModel.params must hold the model's arrays, got none; a run knows the model by them, so that predict_fn "
      "must take them as its argument and not close over them."
    )
  for path, leaf in leaves:
    place = jax.tree_util.keystr(path) or "it"
    is_array = isinstance(leaf, jax.Array | np.ndarray | np.generic) and leaf.dtype != object
    if not is_array and not isinstance(leaf, bool | int | float):
      raise ValueError(
        f"ImageModel.params must be arrays in dictionaries, lists, tuples or registered classes, but {place} is "
        f"{type(leaf).__name__}; what is no array belongs into predict_fn."
      )
    if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) and not np.isfinite(np.asarray(leaf)).all():
      raise ValueError(f"ImageModel.params must be finite, but {place} holds numbers that are not.")


def make_arrays(params: Any) -> Any:
  """The same, with an array in the place of each number."""
  return jax.tree.map(lambda leaf: leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf), params)


def load_model(name: str) -> LoadedModel:
  """Calls the function that `name` names, in a module or a file looked for from the current folder on.

  Raises:
    ValueError: there is no such function, it fails, or what it returns is no classifier.
  """
  place, colon, function_name = name.rpartition(":")
  if not (place and colon and function_name.isidentifier()):
    parts = name.removesuffix("()").rpartition(":" if colon else ".")
    meant = f"; did you mean {parts[0]}:{parts[2]}?" if parts[0] and parts[2].isidentifier() else "."
    raise ValueError(f"--model must be {FORMS}, got {name!r}{meant}")
  module = import_file(place) if place.endswith(".py") else import_module(place)
  function = getattr(module, function_name, None)
  if not callable(function):
    functions = [key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")]
    nearest = difflib.get_close_matches(function_name, functions, n=1)
    got = f"holds something of type {type(function).__name__} there" if hasattr(module, function_name) else "has none"
    hint = f"did you mean {nearest[0]}?" if nearest else f"it has {name_some(functions, most=MAX_NAMED) or 'none'}."
    raise ValueError(f"--model must name a function of {place}, got {function_name!r}, but it {got}; {hint}")
  model = call(function, name)
  if not isinstance(model, ImageModel):
    raise ValueError(
      f"--model {name}: the function must return a jax_sis.classifiers.ImageModel(predict_fn=..., params=..., "
      f"input_shape=..., normalisation=...), got {type(model).__name__}."
    )
  stem = pathlib.Path(place).stem if place.endswith(".py") else place
  try:
    return name_classes(model, model_name=f"{stem}:{function_name}")
  except ValueError as error:
    raise ValueError(f"--model {name}: {error}") from error


def call(function: Any, name: str) -> Any:
  """What the function returns; ValueError if it takes arguments, or fails."""
  wanted = find_arguments(function)
  if wanted:
    raise ValueError(
      f"--model {name}: the function must take no arguments, but wants {', '.join(wanted)}; name one that returns the "
      "ImageModel."
    )
  try:
    return function()
  except (Exception, SystemExit) as error:
    raise ValueError(f"--model {name}: the function raised {tell(error)}.") from error


def find_arguments(function: Any) -> list[str]:
  """The names of the arguments without which it cannot be called; none where Python does not know them."""
  try:
    parameters = inspect.signature(function).parameters.values()
  except (TypeError, ValueError):
    return []
  optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
  return [one.name for one in parameters if one.default is one.empty and one.kind not in optional]


def name_classes(model: ImageModel, *, model_name: str) -> LoadedModel:
  """The model with a name for each of its logits; ValueError if it gives no logits, or another number of them."""
  params = make_arrays(model.params)
  num_logits = validation.check_predict_fn(model.predict_fn, params, jnp.zeros((2, *model.input_shape), np.float32))
  class_names = model.class_names or sources.number_classes(num_logits)
  if len(class_names) != num_logits:
    raise ValueError(
      f"ImageModel.class_names must name each of the {num_logits} logits that predict_fn gives, got {len(class_names)} "
      f"names ({name_some(class_names, most=3)})."
    )
  return LoadedModel(**{**vars(model), "params": params, "class_names": class_names}, model_name=model_name)


def hash_program(model: LoadedModel) -> str:
  """SHA-256 of what `predict_fn` computes with whatever parameters, as JAX writes it for these devices."""
  inputs = jax.ShapeDtypeStruct((1, *model.input_shape), np.float32)
  lowered = jax.jit(model.predict_fn).lower(model.params, inputs)
  return hashlib.sha256(lowered.as_text().encode()).hexdigest()


def import_module(name: str) -> ModuleType:
  """Imports a module as `python -m` finds it: the current folder comes first."""
  if os.sep in name:
    raise ValueError(f"--model must be {FORMS}, got {name!r} before the colon; a file's name ends in .py.")
  prepend_path(os.getcwd())
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as error:
    if error.name is None or not f"{name}.".startswith(f"{error.name}."):
      raise ValueError(f"--model: {name} could not be imported, since it raised {tell(error)}.") from error
    raise ValueError(
      f"--model must name a module in the current folder ({os.getcwd()}) or an installed one, got {name!r}, but there "
      f"is no module {error.name!r}; a file elsewhere is named as path/to/file.py:function."
    ) from error
  except (Exception, SystemExit) as error:
    raise ValueError(f"--model: {name} could not be imported, since it raised {tell(error)}.") from error


class SourceLoader(importlib.machinery.SourceFileLoader):
  """Reads the file, and not what Python keeps compiled, which is an old one's of the same size and second, too."""

  def get_code(self, fullname: str) -> CodeType:
    path = self.get_filename(fullname)
    return self.source_to_code(self.get_data(path), path)


def import_file(name: str) -> ModuleType:
  """Runs a file as a module, beside which it finds its neighbours."""
  path = pathlib.Path(name).absolute()
  if not path.is_file():
    raise ValueError(f"--model must name an existing file, got {name!r}, which is none in {os.getcwd()}.")
  prepend_path(str(path.parent))
  # No other module has such a name.
  own_name = re.sub(r"\W", "_", str(path))
  spec = importlib.util.spec_from_file_location(own_name, path, loader=SourceLoader(own_name, str(path)))
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  sys.modules[own_name] = module
  try:
    spec.loader.exec_module(module)
  except (Exception, SystemExit) as error:
    raise ValueError(f"--model: {name} could not be run, since it raised {tell(error)}.") from error
  return module


def prepend_path(folder: str) -> None:
  """Lets Python look here first, also when a function imports something later."""
  if folder not in sys.path:
    sys.path.insert(0, folder)
  importlib.invalidate_caches()


def tell(error: BaseException) -> str:
  """An error of a user's code, and where in that code it came from."""
  not_theirs = (str(pathlib.Path(__file__).parents[1]), "<")
  frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(not_theirs)]
  own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
  # The message of a SyntaxError says where it is.
  where = f" ({own[-1].filename}, line {own[-1].lineno})" if own and not isinstance(error, SyntaxError) else ""
  return f"{type(error).__name__}: {first_line(error).rstrip('.')}{where}"
