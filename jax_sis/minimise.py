"""With the classifier at hand: make subsets smaller than the search left them."""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jax_sis import masking, validation
from jax_sis.order import FeatureOrder
from jax_sis.scores import log_odds
from jax_sis.search import (
  Gradient,
  MaskedLogitsFn,
  ScoreFn,
  best_features,
  check_positive_integer,
  make_logits_fn,
  make_score_fn,
  score_flips,
  scores_without_each,
)
from jax_sis.subsets import Status, Subsets
from jax_sis.types import Params, PredictFn


class ExchangeSettings(NamedTuple):
  """How many exchanges one attempt looks at: see `minimise`."""

  num_spared: int
  num_pairs: int
  candidates: int


def minimise(
  predict_fn: PredictFn,
  params: Any,
  inputs: Float[Array, "B ..."] | Float[np.ndarray, "B ..."],
  subsets: Subsets,
  *,
  order: FeatureOrder | None = None,
  num_spared: int = 8,
  num_pairs: int = 8,
  candidates: int = 32,
  chunk_size: int = 128,
) -> Subsets:
  """Makes each sufficient subset smaller, until the local search below finds nothing more to drop.

  1. With an `order` of several features a step, the exact size inside the last group: the smallest prefix of the order
     between two evaluated sizes that passes. Inside a group the order is that of the gradient.
  2. Pruning: the kept feature whose loss leaves the score highest is dropped, as long as the subset passes without it.
     What remains is 1-minimal: no single feature can be dropped.
  3. Exchange of two for one: of the `num_spared` features that are easiest to spare, the `num_pairs` pairs that are
     easiest to spare together; without each such pair, the gradient names `candidates` masked features, and forward
     passes try them. If a subset passes, it is one smaller; it is pruned and exchanged again.

  The result is 1-minimal, and none of the exchanges looked at in the last attempt gives a smaller one. With all pairs
  and all features looked at (`num_spared` and `candidates` of F, `num_pairs` of their pairs), no exchange of two kept
  features for one masked one does. A smaller subset that differs in more features may exist.

  Args:
    predict_fn: as for `backselect`.
    params: the model's arrays.
    inputs: the inputs that the subsets were found on.
    subsets: sufficient subsets; those whose status is not OK stay as they are.
    order: what the subsets were read from, for step 1.
    num_spared: kept features that exchanges may spare; 0 leaves step 3 out.
    num_pairs: pairs of them that are tried.
    candidates: masked features tried for each pair.
    chunk_size: masked copies a model call, over all images together; it bounds the memory.

  Returns:
    The smaller subsets.

  Raises:
    ValueError: the arguments do not fit together, or the subsets have no threshold.
  """
  inputs = validation.check_inputs(inputs)
  validation.check_predict_fn(predict_fn, params, inputs)
  for name, value in (("num_pairs", num_pairs), ("candidates", candidates), ("chunk_size", chunk_size)):
    check_positive_integer(name, value)
  if num_spared != 0:
    check_positive_integer("num_spared", num_spared)
  check_subsets(subsets, inputs)
  if validation.is_concrete(subsets.threshold) and bool(jnp.isnan(subsets.threshold).any()):
    raise ValueError(
      "subsets must have a threshold that they may not fall below, got subsets of a given size (keep_fraction); "
      "use sufficient_subsets."
    )
  if order is not None and (order.grid != subsets.mask.shape[1:] or order.rank.shape[0] != inputs.shape[0]):
    raise ValueError(
      f"order must be what the subsets were read from, got one of {order.rank.shape[0]} inputs and grid {order.grid} "
      f"for subsets of {inputs.shape[0]} and {subsets.mask.shape[1:]}."
    )
  settings = ExchangeSettings(num_spared, num_pairs, candidates)
  return run_minimise(predict_fn, params, inputs, subsets, order, settings=settings, chunk_size=chunk_size)


def check_subsets(subsets: Subsets, inputs: Float[Array, "B ..."]) -> None:
  """Raises ValueError unless the subsets are of as many inputs, and of a grid that fits them."""
  if subsets.mask.shape[0] != inputs.shape[0]:
    raise ValueError(f"inputs must be the {subsets.mask.shape[0]} that the subsets are of, got {inputs.shape[0]}.")
  masking.check_grid(subsets.mask.shape[1:], inputs.shape[1:])


@functools.partial(jax.jit, static_argnums=0, static_argnames=("settings", "chunk_size"))
def run_minimise(
  predict_fn: PredictFn,
  params: Params,
  inputs: Float[Array, "B ..."],
  subsets: Subsets,
  order: FeatureOrder | None,
  *,
  settings: ExchangeSettings,
  chunk_size: int,
) -> Subsets:
  """`minimise` on checked arguments."""
  logits_fn = make_logits_fn(predict_fn, params, inputs, subsets.baseline, subsets.mask.shape[1:])
  score_fn = make_score_fn(subsets.target, "log_odds")
  # The probability passes where its log-odds do; scores are compared as probabilities, as the searches do.
  threshold = subsets.threshold

  def drop_one(state: PruningState) -> PruningState:
    scores = scores_without_each(logits_fn, score_fn, state.kept, chunk_size=chunk_size)
    passes = state.active & passing(scores.max(1), threshold)
    kept = flip(state.kept, jnp.where(passes, scores.argmax(1), state.kept.shape[1])[:, None])
    # The scores of the last round, in which an image drops nothing, say which features are easiest to spare.
    return PruningState(kept, passes, jnp.where(state.active[:, None], scores, state.scores))

  def shrink(state: tuple[Bool[Array, "B F"], Bool[Array, "B"]]) -> tuple[Bool[Array, "B F"], Bool[Array, "B"]]:
    kept, active = state
    start = PruningState(kept, active, jnp.full(kept.shape, -jnp.inf, jnp.result_type(float)))
    pruned = jax.lax.while_loop(lambda pruning: pruning.active.any(), drop_one, start)
    if settings.num_spared < 2:
      return pruned.kept, jnp.zeros_like(active)
    changes, score = best_exchange(
      logits_fn, score_fn, pruned.kept, pruned.scores, settings=settings, chunk_size=chunk_size
    )
    shrinks = active & passing(score, threshold)
    return flip(pruned.kept, jnp.where(shrinks[:, None], changes, kept.shape[1])), shrinks

  kept = subsets.mask.reshape(subsets.mask.shape[0], -1)
  is_ok = subsets.status == Status.OK
  if order is not None:
    kept = jnp.where(is_ok[:, None], shortest_prefix(logits_fn, score_fn, order, kept, threshold), kept)
  kept, _ = jax.lax.while_loop(lambda state: state[1].any(), shrink, (kept, is_ok))
  confidence = jax.nn.sigmoid(log_odds(logits_fn(kept.astype(jnp.result_type(float))), subsets.target))
  return Subsets(
    mask=kept.reshape(subsets.mask.shape),
    num_kept=kept.sum(1, dtype=jnp.int32),
    confidence=jnp.where(is_ok, confidence, subsets.confidence),
    target=subsets.target,
    threshold=subsets.threshold,
    status=subsets.status,
    baseline=subsets.baseline,
  )


class PruningState(NamedTuple):
  """Where pruning stands: what is kept, who dropped a feature in the last round, and the last scores without each."""

  kept: Bool[Array, "B F"]
  active: Bool[Array, "B"]
  scores: Float[Array, "B F"]


def passing(log_odds: Float[Array, "B"], threshold: Float[Array, "B"]) -> Bool[Array, "B"]:
  """Whether a target with these log-odds is as probable as asked for; NaN and -inf are not."""
  return jax.nn.sigmoid(log_odds).astype(threshold.dtype) >= threshold


def flip(kept: Bool[Array, "B F"], features: Int[Array, "B Q"]) -> Bool[Array, "B F"]:
  """Changes the named features from kept to masked or back; a number of F changes nothing."""
  images = jnp.arange(kept.shape[0])[:, None]
  return kept.at[images, features].set(~kept[images, jnp.minimum(features, kept.shape[1] - 1)], mode="drop")


def shortest_prefix(
  logits_fn: MaskedLogitsFn,
  score_fn: ScoreFn,
  order: FeatureOrder,
  kept: Bool[Array, "B F"],
  threshold: Float[Array, "B"],
) -> Bool[Array, "B F"]:
  """The shortest prefix of the order that passes, of those longer than the next smaller size that was evaluated."""
  sizes = jnp.asarray(order.sizes, jnp.int32)
  num_kept = kept.sum(1, dtype=jnp.int32)
  below = jnp.where(sizes[None] < num_kept[:, None], sizes[None], 0).max(1)
  longest_step = max((after - before for before, after in itertools.pairwise(order.sizes)), default=1)

  def passes_at(offset: Int[Array, ""]) -> Bool[Array, "B"]:
    prefix = order.rank < (below + offset)[:, None]
    scores = score_fn(logits_fn(prefix.astype(jnp.result_type(float)))[:, None])[:, 0]
    return passing(scores, threshold)

  offsets = jnp.arange(1, longest_step + 1, dtype=jnp.int32)
  passes = jax.lax.map(passes_at, offsets)
  shortest = jnp.where(passes.any(0), below + offsets[passes.argmax(0)], num_kept)
  return order.rank < jnp.minimum(shortest, num_kept)[:, None]


def best_exchange(
  logits_fn: MaskedLogitsFn,
  score_fn: ScoreFn,
  kept: Bool[Array, "B F"],
  scores_without: Float[Array, "B F"],
  *,
  settings: ExchangeSettings,
  chunk_size: int,
) -> tuple[Int[Array, "B 3"], Float[Array, "B"]]:
  """The best exchange found of two kept features for one masked one, and its score; -inf where there is none."""
  num_images, num_features = kept.shape
  spared = best_features(scores_without, kept, settings.num_spared)
  first, second = np.triu_indices(spared.shape[1], 1)
  pairs = jnp.stack([spared[:, first], spared[:, second]], axis=-1)
  is_pair = (pairs < num_features).all(-1)
  pair_scores = score_flips(logits_fn, score_fn, kept, pairs, chunk_size=chunk_size)
  number = best_features(pair_scores, is_pair, settings.num_pairs)
  has_pair = number < pairs.shape[1]
  pairs = jnp.take_along_axis(pairs, jnp.minimum(number, pairs.shape[1] - 1)[..., None], axis=1)
  pairs = jnp.where(has_pair[..., None], pairs, num_features)

  # What would help most without each pair, by the gradient there.
  num_pairs = pairs.shape[1]
  without = jax.vmap(flip, in_axes=(None, 1), out_axes=1)(kept, pairs)
  preference = gradient_preference(logits_fn, score_fn, without.reshape(-1, num_features), num_images)
  allowed = jnp.broadcast_to(~kept[:, None], without.shape).reshape(-1, num_features)
  added = best_features(-preference, allowed, settings.candidates).reshape(num_images, num_pairs, -1)
  pairs = jnp.broadcast_to(pairs[:, :, None], (*added.shape, 2))
  changes = jnp.concatenate([pairs, added[..., None]], axis=-1).reshape(num_images, -1, 3)
  scores = score_flips(logits_fn, score_fn, kept, changes, chunk_size=chunk_size)
  scores = jnp.where((changes < num_features).all(-1) & ~jnp.isnan(scores), scores, -jnp.inf)
  best = scores.argmax(1)[:, None]
  return (
    jnp.take_along_axis(changes, best[..., None], axis=1)[:, 0],
    jnp.take_along_axis(scores, best, axis=1)[:, 0],
  )


def gradient_preference(
  logits_fn: MaskedLogitsFn, score_fn: ScoreFn, masks: Bool[Array, "N F"], num_images: int
) -> Float[Array, "N F"]:
  """`Gradient`'s preferences for several masks an image, one image after the other."""

  def variant_scores(logits: Float[Array, "N 1 K"]) -> Float[Array, "N 1"]:
    return score_fn(logits.reshape(num_images, -1, logits.shape[-1])).reshape(-1, 1)

  return Gradient().evaluate(logits_fn, variant_scores, masks).preference
