"""Forward selection: show the most useful features step by step until the classifier is confident."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from jax_sis.backselect import check_question
from jax_sis.order import NOT_RANKED, FeatureOrder
from jax_sis.scores import to_probability
from jax_sis.search import Forward, Gradient, best_features, make_logits_fn, make_score_fn, score_flips
from jax_sis.types import PredictFn, ScoreName


def forward_select(
  predict_fn: PredictFn,
  params: Any,
  inputs: Float[Array, "B ..."] | Float[np.ndarray, "B ..."],
  targets: Int[Array, "B"] | Int[np.ndarray, "B"] | None = None,
  *,
  search: Forward = Forward(),
  baseline: float | Shaped[Array, "..."] | np.ndarray = 0.0,
  grid: tuple[int, ...] | None = None,
  available: Bool[Array, "B ..."] | Bool[np.ndarray, "B ..."] | None = None,
  score: ScoreName = "log_odds",
) -> FeatureOrder:
  """Orders the few features of each input that make the classifier confident, in the order of their adding.

  Starts from the masked input. Each image stops for itself, when the target's probability reaches the search's
  threshold, when no feature is left, or at `max_features`; the batch goes on until all have stopped. Read the subsets
  with `sufficient_subsets(order, threshold)`, at the search's threshold or below.

  It can be called under `jit`, `vmap` and `pmap`, as `backselect` can, and takes the same arguments.

  >>> import jax.numpy as jnp
  >>> def predict_fn(weights, inputs):
  ...   return inputs @ weights
  >>> weights = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
  >>> forward_select(predict_fn, weights, jnp.ones((1, 3)), search=Forward(threshold=0.97)).rank
  Array([[         0, 2147483647,          1]], dtype=int32)

  Args:
    predict_fn: `(params, inputs) -> logits [B, K]`, see PredictFn. It must be hashable, as functions are.
    params: the model's arrays.
    inputs: normalised inputs, floating point, with a leading batch axis.
    targets: the class whose score is raised; by default the class predicted on the whole input.
    search: `Forward(...)`.
    baseline: as for `backselect`.
    grid: as for `backselect`.
    available: features that may be added, `[B, F]` or `[B, *grid]`.
    score: as for `backselect`.

  Returns:
    The order: rank 0 was added first, and features that were not added are NOT_RANKED. Confidences at sizes 0, 1, ...,
    `max_features`; beyond an image's last feature, that of all its features.

  Raises:
    ValueError: as for `backselect`.
  """
  question = check_question(predict_fn, params, inputs, targets, baseline, grid, available, score)
  return run_forward(predict_fn, params, *question.arrays, search=search, grid=question.grid, score=score)


class ForwardState(NamedTuple):
  """Where a forward search stands."""

  size: Int[Array, ""]
  kept: Bool[Array, "B F"]
  rank: Int[Array, "B F"]
  confidence: Float[Array, "T B"]
  finite: Bool[Array, "B"]
  stopped: Bool[Array, "B"]


@functools.partial(jax.jit, static_argnums=0, static_argnames=("search", "grid", "score"))
def run_forward(
  predict_fn: PredictFn,
  params: Any,
  inputs: Float[Array, "B ..."],
  targets: Int[Array, "B"],
  baseline: Float[Array, "B ..."],
  available: Bool[Array, "B F"],
  *,
  search: Forward,
  grid: tuple[int, ...],
  score: ScoreName,
) -> FeatureOrder:
  """`forward_select` on checked arguments."""
  num_images, num_features = available.shape
  max_size = min(search.max_features, num_features)
  logits_fn = make_logits_fn(predict_fn, params, inputs, baseline, grid)
  score_fn = make_score_fn(targets, score)

  def goes_on(state: ForwardState) -> Bool[Array, ""]:
    return (state.size < max_size) & ~state.stopped.all()

  def add_one(state: ForwardState) -> ForwardState:
    evaluation = Gradient().evaluate(logits_fn, score_fn, state.kept)
    # Gradient prefers what costs least to mask; what would add most is at the other end.
    allowed = available & ~state.kept
    candidates = best_features(-evaluation.preference, allowed, search.candidates)
    scores = score_flips(logits_fn, score_fn, state.kept, candidates, chunk_size=search.chunk_size)
    is_candidate = candidates < num_features
    is_number = jnp.isfinite(evaluation.preference).all(1, where=allowed) & jnp.isfinite(scores).all(1)
    finite = state.finite & (is_number | state.stopped)
    best = jnp.where(is_candidate, scores, -jnp.inf).argmax(1)[:, None]
    chosen, best_score = (jnp.take_along_axis(array, best, axis=1)[:, 0] for array in (candidates, scores))
    adds = ~state.stopped & finite & is_candidate.any(1)
    images = jnp.arange(num_images)
    chosen = jnp.where(adds, chosen, num_features)
    confidence = jnp.where(adds, to_probability(best_score, score=score), state.confidence[state.size])
    return ForwardState(
      size=state.size + 1,
      kept=state.kept.at[images, chosen].set(True, mode="drop"),
      rank=state.rank.at[images, chosen].set(state.size, mode="drop"),
      confidence=state.confidence.at[state.size + 1].set(confidence),
      finite=finite,
      stopped=~adds | (confidence >= search.threshold),
    )

  kept = jnp.zeros(available.shape, bool)
  first_score = score_fn(logits_fn(kept.astype(jnp.result_type(float)))[:, None])[:, 0]
  first_confidence = to_probability(first_score, score=score)
  state = ForwardState(
    size=jnp.zeros((), jnp.int32),
    kept=kept,
    rank=jnp.full(available.shape, NOT_RANKED, jnp.int32),
    confidence=jnp.broadcast_to(first_confidence[None], (max_size + 1, num_images)),
    finite=jnp.isfinite(first_score),
    stopped=~jnp.isfinite(first_score) | (first_confidence >= search.threshold),
  )
  state = jax.lax.while_loop(goes_on, add_one, state)
  # The loop may end early; from there on nothing was added.
  is_reached = jnp.arange(max_size + 1, dtype=jnp.int32)[:, None] <= state.size
  confidence = jnp.where(is_reached, state.confidence, state.confidence[state.size][None])
  return FeatureOrder(
    rank=state.rank,
    confidence=confidence.T,
    target=targets,
    finite=state.finite,
    baseline=baseline,
    sizes=tuple(range(max_size + 1)),
    grid=grid,
    score=score,
  )
