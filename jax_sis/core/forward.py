"""Forward selection: show the most useful features step by step until the classifier is confident."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, Shaped

from jax_sis.core.chunks import settle_chunk_size
from jax_sis.core.completions import Completion
from jax_sis.core.features import Shape
from jax_sis.core.local_search import Exchanges, LocalSettings, LocalState, Mode, run_local_search, start
from jax_sis.core.meshes import on_any_mesh
from jax_sis.core.order import NOT_RANKED, FeatureOrder
from jax_sis.core.problem import Problem, check_problem
from jax_sis.core.questions import DEFAULT_MARGIN, QuestionName, check_question
from jax_sis.core.searches import BACKWARD_NAMES, Forward
from jax_sis.core.types import PredictFn, Removal, ScoreName, Targets
from jax_sis.core.validation import check_kind


@on_any_mesh
def forward_select(
  predict_fn: PredictFn,
  params: Any,
  inputs: Float[Array, "B ..."] | Float[np.ndarray, "B ..."],
  targets: Targets = None,
  *,
  search: Forward = Forward(),
  baseline: float | Shaped[Array, "..."] | np.ndarray = 0.0,
  grid: tuple[int, ...] | None = None,
  available: Bool[Array, "..."] | Bool[np.ndarray, "..."] | None = None,
  score: ScoreName = "log_odds",
  completion: Completion | None = None,
  keys: Key[Array, "B"] | None = None,
  removal: Removal = "value",
  question: QuestionName = "sufficient",
  margin: float = DEFAULT_MARGIN,
  features: Shape | None = None,
) -> FeatureOrder:
  """Orders the few features of each input that make the classifier confident, in the order of their adding.

  Starts from the masked input. Each image stops for itself, when the target's probability reaches the search's
  threshold, when no feature is left, or at `max_features`, and the next image takes its place: none waits for another.
  Read the subsets with `sufficient_subsets(order, threshold)`, at the search's threshold or below.

  It can be called under `jit`, `vmap` and `pmap`, as `backselect` can, and takes the same arguments.

  Args:
    predict_fn: `(params, inputs) -> logits [B, K]`, see PredictFn. It must be hashable, as functions are. Programs are
      compiled for the object: a lambda or `functools.partial` made anew for each call is compiled anew.
    params: the model's arrays.
    inputs: normalised inputs, floating point, with a leading batch axis.
    targets: the class whose score is raised; by default the class predicted on the whole input.
    search: `Forward(...)`.
    baseline: as for `backselect`.
    grid: as for `backselect`.
    available: features that may be added, `[B, F]` or `[B, *grid]`.
    score: as for `backselect`.
    completion: as for `backselect`.
    keys: as for `backselect`.
    removal: as for `backselect`.
    question: what features are added for, as for `smallest_subsets`; `sufficient_subsets(order)` reads the answer.
    margin: as for `smallest_subsets`.
    features: as for `backselect`.

  Returns:
    The order: rank 0 was added first, and features that were not added are NOT_RANKED. Confidences at sizes 0, 1, ...,
    `max_features`; beyond an image's last feature, that of all its features.

  Raises:
    ValueError: as for `backselect`.

  Examples:
    Two of three features are enough, and the third is never added:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights, inputs = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), jnp.ones((1, 3))
    >>> order = jax_sis.forward_select(predict_fn, weights, inputs, search=jax_sis.Forward(threshold=0.97))
    >>> (order.rank == jax_sis.NOT_RANKED).tolist()
    [[False, True, False]]
  """
  check_kind("search", search, Forward, f"Forward(...); backselect takes {BACKWARD_NAMES}")
  problem = check_problem(
    predict_fn,
    params,
    inputs,
    targets,
    baseline=baseline,
    grid=grid,
    available=available,
    score=score,
    completion=completion,
    keys=keys,
    removal=removal,
    question=check_question(question, search.threshold, margin, score),
    features=features,
  )
  return run_forward(problem, search=search)


@functools.partial(jax.jit, static_argnames="search")
def run_forward(problem: Problem, *, search: Forward) -> FeatureOrder:
  """`forward_select` on a checked problem."""
  return read_growth(grow(problem, search), problem)


def grow(problem: Problem, search: Forward, *, is_pruned: bool = False, exchanges: Exchanges = ()) -> LocalState:
  """A local search from the masked inputs to the search's threshold; the last two arguments as in LocalSettings."""
  available = problem.available
  return run_local_search(
    problem,
    state=start(jnp.zeros_like(available), jnp.full_like(problem.targets, Mode.GROW), search.max_features),
    threshold=problem.mark(jnp.full_like(problem.targets, search.threshold, jnp.result_type(float))),
    settings=LocalSettings(
      candidates=search.candidates,
      chunk_size=settle_chunk_size(search.chunk_size, problem.inputs),
      is_pruned=is_pruned,
      exchanges=exchanges,
    ),
  )


def read_growth(state: LocalState, problem: Problem) -> FeatureOrder:
  """The order of the first growth."""
  sizes = np.arange(state.confidence.shape[1], dtype=np.int32)
  num_added = (state.rank != NOT_RANKED).sum(1, dtype=jnp.int32)
  last = jnp.minimum(sizes[None], num_added[:, None])
  return problem.make_order(
    rank=state.rank,
    confidence=jnp.take_along_axis(state.confidence, last, axis=1),
    finite=state.finite,
    sizes=tuple(sizes.tolist()),
  )
