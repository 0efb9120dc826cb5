"""Forward selection: show the most useful features step by step until the classifier is confident."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from jax_sis.core.local_search import LocalState, Settings, Stage, run_local_search, start
from jax_sis.core.order import NOT_RANKED, FeatureOrder
from jax_sis.core.problem import check_question
from jax_sis.core.searches import Forward
from jax_sis.core.types import PredictFn, ScoreName


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
  threshold, when no feature is left, or at `max_features`, and the next image takes its place: none waits for another.
  Read the subsets with `sufficient_subsets(order, threshold)`, at the search's threshold or below.

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
  state = run_local_search(
    predict_fn,
    params,
    inputs,
    targets,
    baseline,
    available,
    state=start_growth(available, search),
    threshold=jnp.full(inputs.shape[0], search.threshold, jnp.result_type(float)),
    settings=Settings(candidates=search.candidates, chunk_size=search.chunk_size),
    grid=grid,
    score=score,
  )
  return read_growth(state, targets, baseline, grid=grid, score=score)


def start_growth(available: Bool[Array, "B F"], search: Forward) -> LocalState:
  """Every image at its masked input."""
  return start(jnp.zeros_like(available), jnp.full(available.shape[0], Stage.GROW), search.max_features)


def read_growth(
  state: LocalState,
  targets: Int[Array, "B"],
  baseline: Float[Array, "B ..."],
  *,
  grid: tuple[int, ...],
  score: ScoreName,
) -> FeatureOrder:
  """The order of the first growth."""
  sizes = np.arange(state.confidence.shape[1], dtype=np.int32)
  num_added = (state.rank != NOT_RANKED).sum(1, dtype=jnp.int32)
  last = jnp.minimum(sizes[None], num_added[:, None])
  return FeatureOrder(
    rank=state.rank,
    confidence=jnp.take_along_axis(state.confidence, last, axis=1),
    target=targets,
    finite=state.finite,
    baseline=baseline,
    sizes=tuple(sizes.tolist()),
    grid=grid,
    score=score,
  )
