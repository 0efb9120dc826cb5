"""Draws from a completion: which ones belong to a mask, what the classifier says of them, and what it comes to."""

import enum

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped, UInt32

from jax_sis.core.completions import Aggregate, Distribution
from jax_sis.core.features import Features
from jax_sis.core.scores import at_least_float32, log_odds

# Sizes on each side over which confidences along an order are averaged.
SMOOTHED_SIZES = 2


class Purpose(enum.IntEnum):
  """What draws are for: those of one purpose are independent of those of any other, for the same image and mask.

  SEARCH: to choose what comes next.
  CONFIRM: to see whether what seemed best is as good.
  TEST: to certify.
  MEASURE: to say how large a rate is.
  """

  SEARCH = 0
  CONFIRM = 1
  TEST = 2
  MEASURE = 3


def hash_mask(kept: Shaped[Array, "F"]) -> UInt32[Array, ""]:
  """A number for each mask, in all likelihood its own."""
  numbers = jnp.arange(1, kept.size + 1, dtype=jnp.uint32)
  # The finishing steps of MurmurHash3, by Austin Appleby, in the public domain.
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
    numbers = (numbers ^ (numbers >> shift)) * jnp.uint32(factor)
  numbers = numbers ^ (numbers >> 16)
  return jnp.where(kept.astype(jnp.float32) > 0.5, numbers, jnp.uint32(0)).sum(dtype=jnp.uint32)


def draw_fills(
  distribution: Distribution,
  keys: Key[Array, "N"],
  inputs: Float[Array, "N ..."],
  drawn_at: Shaped[Array, "N F"],
  numbers: Int[Array, "C"],
  *,
  features: Features,
  purpose: Purpose,
) -> Float[Array, "N C ..."]:
  """The draws of these numbers that each image has at a mask; soft masks count as what is nearer.

  Args:
    distribution: what is drawn from.
    keys: of the images.
    inputs: the images.
    drawn_at: the mask that a search has come to.
    numbers: which of its draws.
    features: what a mask means.
    purpose: what they are for.
  """

  def draw_image(
    key: Key[Array, ""], image: Float[Array, "..."], mask: Shaped[Array, "F"], own: Features
  ) -> Float[Array, "C ..."]:
    key = jax.random.fold_in(jax.random.fold_in(key, purpose), hash_mask(mask))
    return jax.vmap(lambda number: distribution.draw(jax.random.fold_in(key, number), image, own))(numbers)

  return jax.lax.stop_gradient(jax.vmap(draw_image)(keys, inputs, drawn_at, features.of_copies(inputs.shape[0])))


def repeat_images(array: Shaped[Array, "B ..."], repeats: int) -> Shaped[Array, "N ..."]:
  """Each image `repeats` times, next to each other."""
  shape = (array.shape[0], repeats, *array.shape[1:])
  return jnp.broadcast_to(array[:, None], shape).reshape(-1, *array.shape[1:])


def divide_draws(count: int, num_images: int, chunk_size: int) -> Int[Array, "N C"]:
  """The numbers of the draws in equal chunks, with at most `chunk_size` copies of all images in each where they fit."""
  fitting = max(chunk_size // num_images, 1)
  per_chunk = max(size for size in range(1, count + 1) if count % size == 0 and size <= fitting)
  return jnp.arange(count, dtype=jnp.int32).reshape(-1, per_chunk)


def aggregate_logits(
  logits: Float[Array, "N M K"], targets: Int[Array, "N"], *, aggregate: Aggregate
) -> Float[Array, "N K"]:
  """Logits whose softmax is the mean of the probabilities over M draws, or those of the draw that the aggregate names.

  Means differ by a constant from the logarithms of probabilities, and geometric ones sum to 1 by the softmax alone.
  """
  log_probabilities = jax.nn.log_softmax(at_least_float32(logits), axis=-1)
  if aggregate == "geometric":
    return log_probabilities.mean(1)
  if aggregate == "mean":
    return jax.nn.logsumexp(log_probabilities, axis=1)
  count = logits.shape[1]
  place = 0 if aggregate == "min" else min(int(aggregate * count), count - 1)
  ranked = jnp.argsort(jax.vmap(log_odds, in_axes=(1, None), out_axes=1)(logits, targets), axis=1)
  return jnp.take_along_axis(logits, ranked[:, place, None, None], axis=1)[:, 0]


def keeping_class(logits: Float[Array, "N M K"], targets: Int[Array, "N"]) -> Bool[Array, "N M"]:
  """On which draws the target is predicted."""
  return logits.argmax(-1).astype(targets.dtype) == targets[:, None]


def smooth(values: Float[Array, "B T"]) -> Float[Array, "B T"]:
  """Each with the mean of itself and its neighbours, as many on one side as on the other; the ends are as they were.

  The smallest size that passes is the luckiest of many, where each is an estimate of its own draws. Averaged over five
  sizes, luck has to last.
  """
  count = values.shape[1]
  places = np.arange(count)
  reach = np.minimum(SMOOTHED_SIZES, np.minimum(places, count - 1 - places))
  total = values
  for distance in range(1, SMOOTHED_SIZES + 1):
    is_near = (reach >= distance)[None]
    both = jnp.roll(values, distance, axis=1) + jnp.roll(values, -distance, axis=1)
    total = total + jnp.where(is_near, both, 0)
  # Of a division XLA makes a product in some programs, and not in others.
  return total * (1 / (2 * reach + 1)).astype(values.dtype)[None]
