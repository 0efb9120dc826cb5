"""With the classifier at hand: make subsets smaller than the search left them."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jax_sis.core import validation
from jax_sis.core.chunks import check_chunk_size
from jax_sis.core.completions import Completion
from jax_sis.core.drawing import smooth
from jax_sis.core.local_search import Exchanges, LocalSettings, LocalState, Mode, passing, run_local_search, start
from jax_sis.core.meshes import on_any_mesh
from jax_sis.core.order import FeatureOrder
from jax_sis.core.problem import Problem, check_answered
from jax_sis.core.scores import log_odds, lost_by, to_probability
from jax_sis.core.subsets import Status, Subsets
from jax_sis.core.types import PredictFn, Removal
from jax_sis.core.validation import check_positive_integer

DEFAULT_SETTINGS = LocalSettings(candidates=64, is_pruned=True, exchanges=((2, 4), (4, 8)))


@on_any_mesh
def minimise(
  predict_fn: PredictFn,
  params: Any,
  inputs: Float[Array, "B ..."] | Float[np.ndarray, "B ..."],
  subsets: Subsets,
  *,
  order: FeatureOrder | None = None,
  exchanges: Sequence[tuple[int, int]] = DEFAULT_SETTINGS.exchanges,
  candidates: int = DEFAULT_SETTINGS.candidates,
  available: Bool[Array, "..."] | Bool[np.ndarray, "..."] | None = None,
  chunk_size: int | None = None,
  completion: Completion | None = None,
  keys: Key[Array, "B"] | None = None,
  removal: Removal | None = None,
) -> Subsets:
  """Makes each sufficient subset smaller, until the local search below finds nothing more to drop.

  1. With an `order` of several features a step, the exact size inside the last group: the smallest prefix of the order
     between two evaluated sizes that passes. Inside a group the order is that of the gradient.
  2. Pruning: the kept feature whose loss leaves the score highest is dropped, as long as the subset passes without it.
     What remains is 1-minimal: no single feature can be dropped.
  3. Exchanges: Q kept features are taken out, and the subset grows again from other features, as `forward_select` does
     (the gradient names candidates, forward passes choose), to at most Q - 1 of them. If it passes, it is smaller; it
     is pruned and exchanged again. Features are taken in the order in which they are easiest to spare alone: first
     the two, four, ... easiest, then those next to them.

  The result is 1-minimal, and none of the exchanges looked at in the last attempt gives a smaller one. With all pairs
  tried (`exchanges=((2, F * (F - 1) // 2),)`) and all candidates, no exchange of two kept features for one masked one
  does. A smaller subset that differs in more features may exist.

  Every image goes through this at its own speed: none waits for another.

  Args:
    predict_fn: as for `backselect`.
    params: the model's arrays.
    inputs: the inputs that the subsets were found on.
    subsets: sufficient subsets; those whose status is not OK stay as they are.
    order: what the subsets were read from, for step 1.
    exchanges: pairs of Q, at least 2, and how many sets of Q features are tried before the search ends, in this order.
      Empty leaves step 3 out.
    candidates: masked features tried at each step of growing again.
    available: features that may come in, `[B, F]` or `[B, *grid]`; by default all.
    chunk_size: masked copies at a time, as for `Forward`.
    completion: what masked features show, as for `backselect`; by default the baseline of the subsets.
    keys: as for `backselect`.
    removal: as for `backselect`; by default that of the subsets.

  Returns:
    The smaller subsets.

  Raises:
    ValueError: the arguments do not fit together, or the subsets have no threshold.

  Examples:
    A search that masks two features a step keeps one more than is needed:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights, inputs = jnp.array([[4.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]), jnp.ones((1, 4))
    >>> order = jax_sis.backselect(predict_fn, weights, inputs, search=jax_sis.Gradient(per_step=2))
    >>> subsets = jax_sis.sufficient_subsets(order, 0.97)
    >>> smaller = jax_sis.minimise(predict_fn, weights, inputs, subsets, order=order)
    >>> subsets.mask.astype(int).tolist(), smaller.mask.astype(int).tolist()
    ([[1, 0, 0, 1]], [[1, 0, 0, 0]])
  """
  validation.check_kind("subsets", subsets, Subsets, "Subsets, as sufficient_subsets(order, threshold) gives")
  problem = check_answered(
    predict_fn, params, inputs, subsets, available=available, completion=completion, keys=keys, removal=removal
  )
  check_positive_integer("candidates", candidates)
  check_chunk_size("chunk_size", chunk_size)
  exchanges = check_exchanges(exchanges)
  check_minimisable(subsets, order)
  settings = LocalSettings(candidates=candidates, chunk_size=chunk_size, is_pruned=True, exchanges=exchanges)
  smaller = run_minimise(problem, subsets, order, settings=settings)
  return dataclasses.replace(smaller, removal=problem.removal)


def check_minimisable(subsets: Subsets, order: FeatureOrder | None) -> None:
  """Raises ValueError unless the subsets have a threshold, and can have been read from the order."""
  is_known = subsets.question is None and validation.is_concrete(subsets.threshold)
  if is_known and bool(jnp.isnan(subsets.threshold).any()):
    raise ValueError(
      "subsets must have a threshold that they may not fall below, got subsets of a given size (keep_fraction); "
      "use sufficient_subsets."
    )
  if order is not None and (order.grid != subsets.grid or order.target.shape != subsets.target.shape):
    raise ValueError(
      f"order must be what the subsets were read from, got one of {order.rank.shape[0]} inputs and grid {order.grid} "
      f"for subsets of {subsets.mask.shape[0]} and {subsets.grid}."
    )


def check_exchanges(exchanges: Any) -> Exchanges:
  """Exchanges as tuples.

  Raises:
    ValueError: they are not pairs of integers of at least 2 and 1.
  """
  rule = (
    "exchanges must be pairs of how many features are taken out, at least 2, and how often, such as ((2, 4), (4, 8))"
  )
  if not isinstance(exchanges, Sequence) or not all(
    isinstance(pair, Sequence) and len(pair) == 2 and all(isinstance(value, int) for value in pair)
    for pair in exchanges
  ):
    raise ValueError(f"{rule}, got {exchanges!r}.")
  if any(num_taken < 2 or num_tries < 1 for num_taken, num_tries in exchanges):
    raise ValueError(f"{rule}, got {exchanges!r}.")
  return tuple((num_taken, num_tries) for num_taken, num_tries in exchanges)


@functools.partial(jax.jit, static_argnames="settings")
def run_minimise(problem: Problem, subsets: Subsets, order: FeatureOrder | None, *, settings: LocalSettings) -> Subsets:
  """`minimise` on checked arguments, by log-odds, whatever the score of the search was."""
  problem = problem.in_log_odds()
  kept = subsets.kept
  is_ok = subsets.status == Status.OK
  if order is not None:
    prefix = shortest_prefix(problem, order, subsets)
    kept = jnp.where(is_ok[:, None], prefix, kept)
  state = run_local_search(
    problem,
    state=start(kept, jnp.where(is_ok, Mode.PRUNE, Mode.DONE), kept.shape[1]),
    threshold=problem.mark(subsets.threshold),
    settings=settings,
  )
  return read_smallest(state, subsets, problem)


def read_smallest(state: LocalState, subsets: Subsets, problem: Problem) -> Subsets:
  """The subsets after pruning, those that are OK."""
  is_ok = subsets.status == Status.OK
  smallest = state.smallest & is_ok[:, None]
  dtype, looked = subsets.confidence.dtype, {}
  if problem.question is None:
    confidence = to_probability(state.score, score=problem.score).astype(dtype)
  else:
    logits = problem.predict_both(smallest)
    confidence = jax.nn.sigmoid(log_odds(logits[:, 0], problem.targets)).astype(dtype)
    looked = {"lost_by": jnp.where(is_ok, lost_by(logits[:, 1], problem.targets).astype(dtype), jnp.nan)}
  return dataclasses.replace(
    subsets,
    mask=smallest.reshape(subsets.mask.shape),
    num_kept=smallest.sum(1, dtype=jnp.int32),
    confidence=jnp.where(is_ok, confidence, subsets.confidence),
    **looked,
  )


def shortest_prefix(problem: Problem, order: FeatureOrder, subsets: Subsets) -> Bool[Array, "B F"]:
  """The shortest prefix of the order that passes, of those longer than the next smaller size that was evaluated."""
  sizes = jnp.asarray(order.sizes, jnp.int32)
  threshold, num_kept = problem.mark(subsets.threshold), subsets.kept.sum(1, dtype=jnp.int32)
  below = jnp.where(sizes[None] < num_kept[:, None], sizes[None], 0).max(1)
  longest_step = max((after - before for before, after in itertools.pairwise(order.sizes)), default=1)

  def score_at(offset: Int[Array, ""]) -> Float[Array, "B"]:
    prefix = order.rank < (below + offset)[:, None]
    return problem.score_logits(problem.predict_masked(prefix)[:, None])[:, 0]

  def passes_at(offset: Int[Array, ""]) -> Bool[Array, "B"]:
    return passing(score_at(offset), threshold, problem.score)

  offsets = jnp.arange(1, longest_step + 1, dtype=jnp.int32)
  if problem.distribution is None:
    passes = jax.lax.map(passes_at, offsets)
  else:
    scores = smooth(jax.lax.map(score_at, offsets).T).T
    passes = passing(scores, threshold[None], problem.score)
  shortest = jnp.where(passes.any(0), below + offsets[passes.argmax(0)], num_kept)
  return order.rank < jnp.minimum(shortest, num_kept)[:, None]
