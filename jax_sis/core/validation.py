"""Checks of the kernel's arguments: each failure names the argument, the rule, what came and what to do.

Shapes and dtypes are checked whenever a function is traced; values only where they are concrete.
"""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

from jax_sis.core import masking
from jax_sis.core.messages import first_line
from jax_sis.core.scores import SCORES, predict_logits
from jax_sis.core.types import PredictFn

# Two evaluations of one example may differ by rounding, never by this share of the largest logit.
INDEPENDENCE_TOLERANCE = 1e-2
# How far from 1 probabilities of half precision may sum.
SUM_TOLERANCE = 1e-2
# Where the class of a module comes from, and what makes a pair of it.
ADAPTERS = {
  "flax.nnx": "from_nnx(module)",
  "flax.linen": "from_linen(module, variables)",
  "equinox": "from_equinox(module)",
}


def is_concrete(*trees: Any) -> bool:
  """Whether all arrays have values, that is, none is being traced."""
  return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))


def check_inputs(inputs: Any) -> Float[Array, "B ..."]:
  """Returns the inputs as a JAX array.

  Raises:
    ValueError: not an array of floating-point numbers with a batch axis and at least one other, or empty.
  """
  if not hasattr(inputs, "dtype") or not hasattr(inputs, "shape"):
    raise ValueError(f"inputs must be an array, got {type(inputs).__name__}.")
  if not jnp.issubdtype(inputs.dtype, jnp.floating):
    raise ValueError(
      f"inputs must be floating point and normalised as the classifier expects, got dtype {inputs.dtype}; "
      "8-bit pixels are normalised by (pixels / 255 - mean) / std."
    )
  if len(inputs.shape) < 2:
    raise ValueError(
      f"inputs must have a batch axis and at least one more, got shape {inputs.shape}; add inputs[None]."
    )
  if 0 in inputs.shape:
    raise ValueError(f"inputs must hold at least one example and no empty axis, got shape {inputs.shape}.")
  return jnp.asarray(inputs)


def check_score(score: Any) -> None:
  if score not in SCORES:
    raise ValueError(f"score must be one of {sorted(SCORES)}, got {score!r}.")


def check_predict_fn(predict_fn: Any, params: Any, inputs: Float[Array, "B ..."]) -> int:
  """Traces the classifier without running it and returns K, the number of its classes.

  Raises:
    ValueError: it cannot be called so, or does not return logits `[B, K]` with K of at least 2.
  """
  if not callable(predict_fn):
    check_no_module(predict_fn)
    raise ValueError(f"predict_fn must be a function (params, inputs) -> logits, got {type(predict_fn).__name__}.")
  try:
    hash(predict_fn)
  except TypeError:
    check_no_module(predict_fn)
    raise ValueError(
      f"predict_fn must be hashable, got a {type(predict_fn).__name__} that is not; "
      "pass a function, and the model's arrays as params."
    ) from None
  try:
    logits = jax.eval_shape(predict_fn, params, inputs)
  except Exception as error:
    check_no_module(predict_fn)
    raise ValueError(
      f"predict_fn must accept (params, inputs) with inputs {inputs.dtype}{list(inputs.shape)} (channels last for "
      f"images), but raised {type(error).__name__}: {first_line(error)}"
    ) from error
  shape = getattr(logits, "shape", None)
  if shape is None or len(shape) != 2 or shape[0] != inputs.shape[0] or shape[1] < 2:
    raise ValueError(
      f"predict_fn must return logits of shape [{inputs.shape[0]}, K] with K >= 2 for {inputs.shape[0]} inputs, "
      f"got {describe_outputs(logits, num_images=inputs.shape[0])}."
    )
  if not jnp.issubdtype(logits.dtype, jnp.floating):
    raise ValueError(f"predict_fn must return floating-point logits, got dtype {logits.dtype}.")
  return shape[1]


def check_no_module(predict_fn: Any) -> None:
  """Raises ValueError for a module of a library, which holds its own parameters, where a function is wanted."""
  for base in type(predict_fn).__mro__:
    for library, call in ADAPTERS.items():
      if base.__name__ == "Module" and base.__module__.startswith(library):
        raise ValueError(
          f"predict_fn must be a function (params, inputs) -> logits, got the {library} module "
          f"{type(predict_fn).__name__}; predict_fn, params = jax_sis.classifiers.adapters.{call} makes both of it."
        )


def describe_outputs(outputs: Any, *, num_images: int) -> str:
  """What a classifier returns in the place of logits, and what to do about it."""
  shape = getattr(outputs, "shape", None)
  if shape is None:
    keys = f" of {', '.join(map(str, outputs))}" if isinstance(outputs, dict) else ""
    return f"{type(outputs).__name__}{keys}; return the logits alone"
  is_one_logit = shape in ((num_images,), (num_images, 1))
  return f"shape {shape}" + "; a model with one logit z becomes two by stacking [0, z]" * is_one_logit


def check_targets(targets: Any, *, num_images: int, num_classes: int) -> Int[Array, "B"] | None:
  """Returns the targets as int32, or None. One number is the class in question in all images.

  Raises:
    ValueError: not one class index in 0..K-1 for each image, or one for all.
  """
  if targets is None:
    return None
  # Looked at before JAX makes 32 bits of 64.
  values = np.asarray(targets) if is_concrete(targets) else jnp.asarray(targets)
  if not jnp.issubdtype(values.dtype, jnp.integer) or values.shape not in ((), (num_images,)):
    raise ValueError(
      f"targets must be one integer class for each of the {num_images} inputs, got {values.dtype}{list(values.shape)}."
    )
  if isinstance(values, np.ndarray):
    wrong = values[(values < 0) | (values >= num_classes)]
    if wrong.size:
      raise ValueError(f"targets must lie in 0..{num_classes - 1}, the classifier's classes, got {wrong[0]}.")
  targets = jnp.asarray(targets).astype(jnp.int32)
  return targets if targets.ndim else jnp.broadcast_to(targets, (num_images,))


def check_available(available: Any, *, num_images: int, grid: tuple[int, ...]) -> Bool[Array, "B F"]:
  """Returns the features that may be kept, `[B, F]`; all of them for None.

  Raises:
    ValueError: not Boolean, or of another shape.
  """
  if available is None:
    return jnp.ones((num_images, masking.num_features(grid)), bool)
  available = jnp.asarray(available)
  flat = masking.flatten_features(available, num_images=num_images, grid=grid)
  if flat is None or available.dtype != bool:
    raise ValueError(
      f"available must be Boolean of {masking.describe_features(num_images=num_images, grid=grid)}, "
      f"got {available.dtype}{list(available.shape)}."
    )
  return flat


def check_threshold(threshold: Any, name: str = "threshold") -> None:
  """Raises ValueError unless `threshold`, where concrete, is a probability strictly between 0 and 1."""
  if not is_concrete(threshold):
    return
  value = np.asarray(threshold)
  if value.ndim or not jnp.issubdtype(value.dtype, jnp.number) or not 0 < float(value) < 1:
    raise ValueError(f"{name} must be a probability strictly between 0 and 1, got {threshold!r}.")


def check_thresholds(threshold: Any, num_images: int) -> Any:
  """One threshold as it is, or those of the images as an array `[B]`.

  Raises:
    ValueError: they are not probabilities, or not as many as images.
  """
  if np.ndim(threshold) == 0:
    check_threshold(threshold)
    return threshold
  thresholds = jnp.asarray(threshold)
  if thresholds.shape != (num_images,) or not jnp.issubdtype(thresholds.dtype, jnp.floating):
    raise ValueError(
      f"threshold must be one number, or one for each of the {num_images} images, "
      f"got {thresholds.dtype}{list(thresholds.shape)}."
    )
  if is_concrete(thresholds):
    for value in np.asarray(thresholds).tolist():
      check_threshold(value)
  return thresholds


def check_static_threshold(threshold: Any, caller: str) -> float:
  """The threshold as a number, for a function that compiles it into its search.

  Raises:
    ValueError: it is traced, or out of range.
  """
  if not is_concrete(threshold):
    raise ValueError(f"threshold must be a number when {caller} is traced, got a traced array; close over it.")
  if np.ndim(threshold):
    raise ValueError(
      f"threshold must be one number for {caller}, got shape {np.shape(threshold)}; "
      "sufficient_subsets(order, threshold) takes one for each image."
    )
  check_threshold(threshold)
  return float(threshold)


def check_values(
  predict_fn: PredictFn, params: Any, inputs: Float[Array, "B ..."], baseline: Float[Array, "B ..."]
) -> None:
  """Evaluates the batch twice, the second time with every second example masked and all of them moved on by one.

  Does nothing where values are traced. Warns of outputs that look like those of a sigmoid.

  Raises:
    ValueError: the logits of an example changed with its neighbours, as in training mode, or are probabilities.
  """
  if not is_concrete(params, inputs, baseline):
    return
  if inputs.shape[0] == 1:
    inputs, baseline = (jnp.concatenate([array, array]) for array in (inputs, baseline))
  is_masked = (jnp.arange(inputs.shape[0]) % 2 == 1).reshape(-1, *[1] * (inputs.ndim - 1))
  others = jnp.roll(jnp.where(is_masked, jnp.broadcast_to(baseline, inputs.shape), inputs), 1, axis=0)
  whole = np.asarray(predict_logits(predict_fn, params, inputs))
  moved = np.roll(np.asarray(predict_logits(predict_fn, params, others)), -1, axis=0)
  expected, actual = whole[::2], moved[::2]
  finite = np.isfinite(expected).all(1) & np.isfinite(actual).all(1)
  difference = np.abs(expected - actual)[finite].max(initial=0.0)
  if difference > INDEPENDENCE_TOLERANCE * max(1.0, np.abs(expected[finite]).max(initial=0.0)):
    raise ValueError(
      "predict_fn must treat each example on its own, but an example's logits changed by "
      f"{difference:.3g} with its neighbours in the batch; put batch norm and dropout in evaluation mode."
    )
  check_logits(np.concatenate([whole, moved]).astype(np.float64))


def check_logits(rows: Float[np.ndarray, "N K"]) -> None:
  """Looks for outputs, of whole inputs and of masked ones, that are probabilities and no logits.

  Raises:
    ValueError: all of them lie in 0..1, and every row sums to 1.
  """
  rows = rows[np.isfinite(rows).all(1)]
  if not rows.size or rows.min() < 0 or rows.max() > 1:
    return
  if (np.abs(rows.sum(1) - 1) <= SUM_TOLERANCE).all():
    raise ValueError(
      "predict_fn must return logits, got values that all lie in 0..1 and sum to 1 in each row: these are "
      "probabilities; return what the softmax is taken of, or jnp.log of them."
    )
  # Exact zeros, as of a linear classifier on a masked input, are no sigmoid's.
  if ((rows > 0) & (rows < 1)).any(1).all():
    warnings.warn(
      "predict_fn must return logits, whose softmax is the confidence, and all values that it gave lie in 0..1, as "
      "those of a sigmoid do; return what the sigmoid is taken of, or [0, z] of one label z of several that may hold "
      "together.",
      stacklevel=6,
    )


def check_kind(name: str, value: Any, kinds: Any, rule: str) -> None:
  """Raises ValueError unless the value is of one of these kinds, which the rule names."""
  if not isinstance(value, kinds):
    got = f"the class {value.__name__} itself" if isinstance(value, type) else type(value).__name__
    raise ValueError(f"{name} must be {rule}, got {repr(value) if isinstance(value, str) else got}.")


def require_positive(name: str, value: int | float) -> None:
  if not value > 0:
    raise ValueError(f"{name} must be positive, got {value!r}.")


def require_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
  if value not in allowed:
    raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}.")


def check_positive_integer(name: str, value: int) -> None:
  """Raises ValueError unless `value` is an integer of at least 1."""
  if isinstance(value, bool) or not isinstance(value, int) or value < 1:
    raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")
