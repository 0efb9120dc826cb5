"""What the classifier says of subsets on draws that no search had, a few images at a time."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jax_sis.core.chunks import settle_chunk_size
from jax_sis.core.drawing import Purpose, draw_fills, hash_mask, keeping_class, repeat_images
from jax_sis.core.problem import Problem
from jax_sis.core.scores import probability

# Folded into the images' keys, so that what is drawn is independent of all else: which features are added, and what
# chose a subset's size, which a certificate of that subset must not see again.
ADDING, CHOOSING = 0x61646473, 0x63686F73


class Draws(NamedTuple):
  """What is said on each draw. Where a logit is not a finite number, the class is lost.

  Attributes:
    keeps_class: whether the target is predicted; of another question, whether each side says what is asked: the target
      on the subset alone, another class without it.
    confidence: the target's probability; of a contrastive subset, without it.
  """

  keeps_class: Bool[Array, "B N"]
  confidence: Float[Array, "B N"]


def fold_keys(problem: Problem, number: int) -> Key[Array, "B"]:
  """Keys of the images for another purpose."""
  assert problem.keys is not None
  return jax.vmap(jax.random.fold_in, in_axes=(0, None))(problem.keys, number)


def count_lanes(problem: Problem, num_draws: int) -> int:
  """How many images are drawn for at a time."""
  return min(max(settle_chunk_size(None, problem.inputs) // num_draws, 1), problem.num_images)


def draw(
  problem: Problem,
  kept: Bool[Array, "B F"],
  num_draws: int,
  *,
  purpose: Purpose,
  num_added: Int[Array, ""] | None = None,
) -> Draws:
  """What is said of each image's subset on that many draws.

  Args:
    problem: with keys; without a distribution, the draws differ in the features that are added alone.
    kept: the subsets.
    num_draws: of each image.
    purpose: what they are for.
    num_added: how many other features, drawn at random, show their true value as well.
  """

  def draw_lanes(places: Int[Array, "L"]) -> Draws:
    return draw_some(problem.take(places), kept[places], num_draws, purpose=purpose, num_added=num_added)

  num_images, num_lanes = problem.num_images, count_lanes(problem, num_draws)
  num_groups = -(-num_images // num_lanes)
  # The last group is filled up with the last image.
  places = np.minimum(np.arange(num_groups * num_lanes, dtype=np.int32), num_images - 1).reshape(num_groups, num_lanes)
  grouped = jax.lax.map(draw_lanes, jnp.asarray(places))
  return jax.tree.map(lambda array: array.reshape(-1, num_draws)[:num_images], grouped)


def draw_some(
  problem: Problem,
  kept: Bool[Array, "B F"],
  num_draws: int,
  *,
  purpose: Purpose,
  num_added: Int[Array, ""] | None = None,
) -> Draws:
  """`draw` for all images at once, in chunks of draws that suit the platform."""
  num_images, drawn_at = problem.num_images, kept.astype(jnp.result_type(float))
  existing = problem.features.existing()
  fitting = max(settle_chunk_size(None, problem.inputs) // num_images, 1)
  num_chunks = -(-num_draws // fitting)
  numbers = np.arange(num_chunks * -(-num_draws // num_chunks), dtype=np.int32).reshape(num_chunks, -1)

  def draw_chunk(numbers: Int[Array, "C"]) -> Draws:
    images, masks = (repeat_images(array, numbers.size) for array in (problem.inputs, kept))
    targets = repeat_images(problem.targets, numbers.size)
    if num_added is not None:
      add = functools.partial(add_features, numbers=numbers, num_added=num_added, purpose=purpose)
      # What an image does not have counts as there: it is not added.
      shown = kept if existing is None else kept | ~existing
      masks = jax.vmap(add)(fold_keys(problem, ADDING), shown).reshape(masks.shape)
    logits = problem.classify_sides(images, masks, fill_chunk(numbers))
    is_finite = jnp.isfinite(logits).all(range(1, logits.ndim))
    if problem.question is None:
      first, is_kept = logits, keeping_class(logits[:, None], targets)[:, 0]
    else:
      first, is_kept = logits[:, 0], problem.question.holds_class(logits, targets)
    draws = Draws(keeps_class=is_finite & is_kept, confidence=jnp.where(is_finite, probability(first, targets), 0))
    return jax.tree.map(lambda array: array.reshape(num_images, numbers.size), draws)

  def fill_chunk(numbers: Int[Array, "C"]) -> Float[Array, "N ..."]:
    if problem.distribution is None:
      return repeat_images(problem.baseline, numbers.size)
    assert problem.keys is not None
    fills = draw_fills(
      problem.distribution, problem.keys, problem.inputs, drawn_at, numbers, features=problem.features, purpose=purpose
    )
    return fills.reshape(-1, *fills.shape[2:])

  with jax.default_matmul_precision("highest"):
    chunks = jax.lax.map(draw_chunk, jnp.asarray(numbers))
  return jax.tree.map(lambda array: jnp.moveaxis(array, 0, 1).reshape(num_images, -1)[:, :num_draws], chunks)


def add_features(
  key: Key[Array, ""],
  kept: Bool[Array, "F"],
  *,
  numbers: Int[Array, "C"],
  num_added: Int[Array, ""],
  purpose: Purpose,
) -> Bool[Array, "C F"]:
  """A subset with so many other features at random, once for each number; a larger addition holds the smaller ones."""
  key = jax.random.fold_in(jax.random.fold_in(key, purpose), hash_mask(kept.astype(jnp.result_type(float))))

  def add(number: Int[Array, ""]) -> Bool[Array, "F"]:
    lots = jnp.where(kept, jnp.inf, jax.random.uniform(jax.random.fold_in(key, number), kept.shape))
    return kept | (lots <= jnp.sort(lots)[num_added - 1])

  return jax.vmap(add)(numbers)
