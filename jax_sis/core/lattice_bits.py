"""Functions on the 2 ** F masks of F features, of one image, by transforms over the digits of their numbers.

Mask m keeps feature f where the digit 2 ** f of m is 1. A transform looks from each mask with a feature at that without
it, feature after feature: F * 2 ** F operations in all.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


def count_features(num_masks: int) -> int:
  """F, of 2 ** F masks."""
  return num_masks.bit_length() - 1


def unpack(numbers: Int[Array | np.ndarray, "N"], num_features: int) -> Any:
  """The masks of these numbers, `[N, F]`, of JAX's arrays or NumPy's as those are."""
  return numbers[:, None] >> np.arange(num_features, dtype=np.int32)[None] & 1 == 1


def pack(masks: Bool[np.ndarray, "N F"]) -> Int[np.ndarray, "N"]:
  """The numbers of masks."""
  return masks @ (1 << np.arange(masks.shape[1]))


def count_kept(num_masks: int) -> Int[np.ndarray, "M"]:
  """How many features each mask keeps."""
  return np.bitwise_count(np.arange(num_masks)).astype(np.int32)


def find_minimal(is_one: Bool[Array, "M"]) -> Bool[Array, "M"]:
  """Which of the sets have no proper subset among them."""
  numbers = jnp.arange(is_one.size, dtype=jnp.int32)

  def look_without(feature: Int[Array, ""], seen: tuple[Array, Array]) -> tuple[Array, Array]:
    # Whether the set or a subset of it is one, by features before this one; and whether a proper subset is.
    has_one, has_smaller = seen
    digit = jnp.int32(1) << feature
    without = (numbers & digit > 0) & has_one[numbers & ~digit]
    return has_one | without, has_smaller | without

  _, has_smaller = jax.lax.fori_loop(0, count_features(is_one.size), look_without, (is_one, jnp.zeros_like(is_one)))
  return is_one & ~has_smaller


def find_gains(values: Float[Array, "M"]) -> Float[Array, "F N"]:
  """The change of the value as a feature is added, for each feature and each of the M / 2 masks without it."""
  num_features = count_features(values.size)
  features = jnp.arange(num_features, dtype=jnp.int32)[:, None]
  others = jnp.arange(values.size // 2, dtype=jnp.int32)[None]
  # The digits of the other features, with a 0 put in between.
  without = (others >> features << features + 1) | (others & (1 << features) - 1)
  return values[without | 1 << features] - values[without]


def share_falling(gains: Float[Array, "F N"]) -> Float[Array, ""]:
  """The share of all pairs of a mask and a feature that it lacks where the value falls as the feature is added."""
  return (gains < 0).sum(dtype=jnp.int32).astype(gains.dtype) * (1 / gains.size)


def banzhaf_values(gains: Float[Array, "F N"]) -> Float[Array, "F"]:
  """The mean gain of each feature."""
  return sum_halves(gains) * (1 / gains.shape[1])


def shapley_values(gains: Float[Array, "F N"]) -> Float[Array, "F"]:
  """The mean gain of each feature over all orders in which features can be added."""
  num_features, num_masks = gains.shape
  # The share of the orders in which just so many features come before one, and these ones.
  of_size = [1 / (num_features * math.comb(num_features - 1, size)) for size in range(num_features)]
  weights = np.asarray(of_size)[count_kept(num_masks)]
  return sum_halves(gains * jnp.asarray(weights, gains.dtype)[None])


def sum_halves(values: Float[Array, "F N"]) -> Float[Array, "F"]:
  """The sum over a power of two of numbers, half and half: one after the other, 2 ** 15 of them lose three digits."""
  while values.shape[1] > 1:
    half = values.shape[1] // 2
    values = values[:, :half] + values[:, half:]
  return values[:, 0]
