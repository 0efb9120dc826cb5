"""Checks of the kernel's arguments: each failure names the argument, the rule, what came and what to do.

Shapes and dtypes are checked whenever a function is traced; values only where they are concrete.
"""

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
    raise ValueError(f"predict_fn must be a function (params, inputs) -> logits, got {type(predict_fn).__name__}.")
  try:
    hash(predict_fn)
  except TypeError:
    raise ValueError(
      f"predict_fn must be hashable, got a {type(predict_fn).__name__} that is not; "
      "pass a function, and the model's arrays as params."
    ) from None
  try:
    logits = jax.eval_shape(predict_fn, params, inputs)
  except Exception as error:
    raise ValueError(
      f"predict_fn must accept (params, inputs) with inputs {inputs.dtype}{list(inputs.shape)} (channels last for "
      f"images), but raised {type(error).__name__}: {first_line(error)}"
    ) from error
  shape = getattr(logits, "shape", None)
  if shape is None or len(shape) != 2 or shape[0] != inputs.shape[0] or shape[1] < 2:
    got = f"{type(logits).__name__}" if shape is None else f"shape {shape}"
    raise ValueError(
      f"predict_fn must return logits of shape [{inputs.shape[0]}, K] with K >= 2 for {inputs.shape[0]} inputs, "
      f"got {got}; a model with one logit z becomes two by stacking [0, z]."
    )
  if not jnp.issubdtype(logits.dtype, jnp.floating):
    raise ValueError(f"predict_fn must return floating-point logits, got dtype {logits.dtype}.")
  return shape[1]


def check_targets(targets: Any, *, num_images: int, num_classes: int) -> Int[Array, "B"] | None:
  """Returns the targets as int32, or None.

  Raises:
    ValueError: not one class index in 0..K-1 for each image.
  """
  if targets is None:
    return None
  targets = jnp.asarray(targets)
  if not jnp.issubdtype(targets.dtype, jnp.integer) or targets.shape != (num_images,):
    raise ValueError(
      f"targets must be one integer class for each of the {num_images} inputs, "
      f"got {targets.dtype}{list(targets.shape)}."
    )
  if is_concrete(targets):
    values = np.asarray(targets)
    wrong = values[(values < 0) | (values >= num_classes)]
    if wrong.size:
      raise ValueError(f"targets must lie in 0..{num_classes - 1}, the classifier's classes, got {wrong[0]}.")
  return targets.astype(jnp.int32)


def check_available(available: Any, *, num_images: int, grid: tuple[int, ...]) -> Bool[Array, "B F"]:
  """Returns the features that may be kept, `[B, F]`; all of them for None.

  Raises:
    ValueError: not Boolean, or neither `[B, F]` nor `[B, *grid]`.
  """
  num_features = masking.num_features(grid)
  if available is None:
    return jnp.ones((num_images, num_features), bool)
  available = jnp.asarray(available)
  if available.dtype != bool or available.shape not in ((num_images, num_features), (num_images, *grid)):
    raise ValueError(
      f"available must be Boolean of shape {[num_images, num_features]} or {[num_images, *grid]}, "
      f"got {available.dtype}{list(available.shape)}."
    )
  return available.reshape(num_images, num_features)


def check_threshold(threshold: Any, name: str = "threshold") -> None:
  """Raises ValueError unless `threshold`, where concrete, is a probability strictly between 0 and 1."""
  if is_concrete(threshold) and not 0 < float(threshold) < 1:
    raise ValueError(f"{name} must be a probability strictly between 0 and 1, got {threshold!r}.")


def check_static_threshold(threshold: Any, caller: str) -> float:
  """The threshold as a number, for a function that compiles it into its search.

  Raises:
    ValueError: it is traced, or out of range.
  """
  if not is_concrete(threshold):
    raise ValueError(f"threshold must be a number when {caller} is traced, got a traced array; close over it.")
  check_threshold(threshold)
  return float(threshold)


def check_examples_independent(
  predict_fn: PredictFn, params: Any, inputs: Float[Array, "B ..."], baseline: Float[Array, "B ..."]
) -> None:
  """Evaluates the batch twice, the second time with every second example masked and all of them moved on by one.

  Does nothing where values are traced.

  Raises:
    ValueError: the logits of an example changed with its neighbours, as in training mode.
  """
  if not is_concrete(params, inputs, baseline):
    return
  if inputs.shape[0] == 1:
    inputs, baseline = (jnp.concatenate([array, array]) for array in (inputs, baseline))
  is_masked = (jnp.arange(inputs.shape[0]) % 2 == 1).reshape(-1, *[1] * (inputs.ndim - 1))
  others = jnp.roll(jnp.where(is_masked, jnp.broadcast_to(baseline, inputs.shape), inputs), 1, axis=0)
  expected = np.asarray(predict_logits(predict_fn, params, inputs))[::2]
  actual = np.roll(np.asarray(predict_logits(predict_fn, params, others)), -1, axis=0)[::2]
  finite = np.isfinite(expected).all(1) & np.isfinite(actual).all(1)
  difference = np.abs(expected - actual)[finite].max(initial=0.0)
  if difference > INDEPENDENCE_TOLERANCE * max(1.0, np.abs(expected[finite]).max(initial=0.0)):
    raise ValueError(
      "predict_fn must treat each example on its own, but an example's logits changed by "
      f"{difference:.3g} with its neighbours in the batch; put batch norm and dropout in evaluation mode."
    )


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
