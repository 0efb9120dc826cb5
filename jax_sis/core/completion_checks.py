"""What is asked of a completion, and of the keys of its draws, before a search."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jax_sis.core.completions import Blur, Constant, Distribution, OwnMean, check_part
from jax_sis.core.features import Features
from jax_sis.core.messages import first_line
from jax_sis.core.validation import is_concrete


def check_completion(
  completion: Any, baseline: Any, inputs: Float[Array, "B ..."], features: Features
) -> tuple[Any, Distribution | None]:
  """The baseline that a completion comes to, and the distribution if it is one.

  Raises:
    ValueError: both were given, or the completion does not fit the inputs or is not finite.
  """
  if completion is None:
    return baseline, None
  if not (isinstance(baseline, float | int) and baseline == 0):
    raise ValueError("baseline and completion must not both be given; Constant(value) is a baseline as a completion.")
  part = check_part("completion", completion, inputs)
  if isinstance(part, Constant | OwnMean) or (isinstance(part, Blur) and len(set(part.limits)) == 1):
    return part.as_baseline(inputs), None
  assert isinstance(part, Distribution)
  check_draws(part, inputs, features)
  return baseline, part


def check_draws(distribution: Distribution, inputs: Float[Array, "B ..."], features: Features) -> None:
  """Draws a few times for the first image, where values are known.

  Raises:
    ValueError: a draw has another shape, holds NaN or infinite numbers, or all are the same.
  """
  keys = jax.random.split(jax.random.key(0), min(distribution.num_draws, 8))
  name = type(distribution).__name__
  # Of the first image.
  features = jax.tree.map(lambda array: array[:1], features)

  def draw(key: Key[Array, ""]) -> Float[Array, "..."]:
    return distribution.draw(key, inputs[0], features)

  try:
    shape = jax.eval_shape(draw, keys[0]).shape
  except Exception as error:
    raise ValueError(f"completion {name} must draw, but raised {type(error).__name__}: {first_line(error)}") from error
  if shape != inputs.shape[1:]:
    raise ValueError(f"completion {name} must draw images of shape {inputs.shape[1:]}, as the inputs, got {shape}.")
  if not is_concrete(distribution, inputs):
    return
  draws = np.asarray(jax.vmap(draw)(keys))
  if not np.isfinite(draws).all() and np.isfinite(np.asarray(inputs[0])).all():
    raise ValueError(f"completion {name} must draw finite numbers, got NaN or infinite ones.")
  if len(draws) > 1 and (draws == draws[:1]).all():
    raise ValueError(f"completion {name} must vary, but all draws are the same: this is a constant; use Constant(...).")


def check_keys(keys: Any, num_images: int) -> Key[Array, "B"]:
  """The keys, or where none are given those of the images' places in the batch.

  Raises:
    ValueError: they are not one typed key for each image.
  """
  if keys is None:
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(0), jnp.arange(num_images))
  if not hasattr(keys, "dtype") or not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) or keys.shape != (num_images,):
    got = f"{keys.dtype}{list(keys.shape)}" if hasattr(keys, "dtype") else type(keys).__name__
    raise ValueError(
      f"keys must be one typed key for each of the {num_images} inputs, as jax.random.split(jax.random.key(0), "
      f"{num_images}) makes them, got {got}."
    )
  return keys
