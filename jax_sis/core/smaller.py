"""What a look at smaller subsets says: is there one, and can it be ruled out?"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jax_sis.core.local_search import passing
from jax_sis.core.problem import Problem
from jax_sis.core.trials import best_features, score_flips, spread_scores


class Smaller(NamedTuple):
  """What was found out about subsets that are smaller than those to certify; see Certificate."""

  lower_bound: Int[Array, "B"]
  is_found: Bool[Array, "B"]
  num_pairs_tried: Int[Array, "B"]


def score_smaller(
  problem: Problem,
  kept: Bool[Array, "B F"],
  num_kept: Int[Array, "B"],
  threshold: Float[Array, "B"],
  *,
  pair_partners: int,
  chunk_size: int,
) -> tuple[Float[Array, "B F"], Smaller]:
  """The score without each kept feature, and a look at all subsets of none, one and two features where asked for."""
  num_features = kept.shape[1]
  is_paired = (num_kept == 3) & (pair_partners > 0)
  is_single_tried = (num_kept == 2) | is_paired
  # Two batches of the same shape through one loop, which is compiled once: one feature less, and one or none alone.
  dropped = jnp.argsort(~kept, axis=1, stable=True).astype(jnp.int32)
  dropped = jnp.pad(dropped, ((0, 0), (0, 1)), constant_values=num_features)
  added = jnp.roll(jnp.arange(num_features + 1, dtype=jnp.int32), 1)
  added = jnp.broadcast_to(added[None], dropped.shape)
  num_needed = jnp.where(is_single_tried, num_features + 1, 1)

  def score_batch(batch: tuple[Array, Array, Array]) -> Float[Array, "B P"]:
    start, features, num_needed = batch
    return score_flips(problem, start, features, chunk_size=chunk_size, num_needed=num_needed)

  starts = jnp.stack([kept, jnp.zeros_like(kept)])
  batches = starts, jnp.stack([dropped, added]), jnp.stack([num_kept, num_needed])
  less, alone = jax.lax.map(score_batch, batches)
  nothing, alone = alone[:, :1], jnp.where(is_single_tried[:, None], alone[:, 1:], -jnp.inf)

  pair, num_pairs = best_pair(problem, alone, is_paired, count=pair_partners, chunk_size=chunk_size)
  # A score that is not a number proves nothing, and passes nowhere.
  tried = nothing, alone, pair
  passes = jnp.stack([passing(scores, threshold[:, None], problem.score).any(1) for scores in tried])
  is_number = jnp.stack([~jnp.isnan(scores).any(1) for scores in tried])
  is_all = jnp.stack(
    [jnp.ones_like(is_paired), is_single_tried, is_paired & (num_pairs == num_features * (num_features - 1) // 2)]
  )
  # A larger size is excluded only where all smaller ones are.
  is_excluded = jax.lax.cummin((is_all & is_number & ~passes & ~jnp.isnan(threshold)[None]).astype(jnp.int32))
  smaller = Smaller(
    lower_bound=is_excluded.sum(0),
    is_found=passes.any(0),
    num_pairs_tried=jnp.where(is_paired, num_pairs, 0),
  )
  return spread_scores(less, dropped, kept), smaller


def best_pair(
  problem: Problem,
  alone: Float[Array, "B F"],
  is_asked: Bool[Array, "B"],
  *,
  count: int,
  chunk_size: int,
) -> tuple[Float[Array, "B 1"], int]:
  """The best score of the pairs that hold one of the `count` best single features, and how many those are."""
  num_images, num_features = alone.shape
  partners = best_features(alone, jnp.ones_like(alone, bool), count)
  features = jnp.broadcast_to(jnp.arange(num_features, dtype=jnp.int32)[None], alone.shape)
  num_needed = jnp.where(is_asked, num_features, 0)

  def try_partner(best: Float[Array, "B"], partner: Int[Array, "B"]) -> tuple[Float[Array, "B"], None]:
    is_partner = features == partner[:, None]
    # The partner itself is taken out by its own change, and is no pair.
    scores = score_flips(problem, is_partner, features, chunk_size=chunk_size, num_needed=num_needed)
    return jnp.maximum(best, jnp.where(is_partner, -jnp.inf, scores).max(1)), None

  best = jnp.full_like(alone, -jnp.inf, shape=num_images)
  if count:
    best, _ = jax.lax.scan(try_partner, best, partners.T)
  num_partners = partners.shape[1]
  num_pairs = num_partners * (num_features - 1) - num_partners * (num_partners - 1) // 2
  return jnp.where(is_asked, best, -jnp.inf)[:, None], num_pairs
