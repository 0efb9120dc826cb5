"""Disjoint sufficient subsets: one is found, its features are taken away for good, and the next is looked for."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int8, Key, Shaped

from jax_sis.core import validation
from jax_sis.core.backselect import run_backward
from jax_sis.core.completions import Completion
from jax_sis.core.features import Shape, to_stored
from jax_sis.core.forward import run_forward
from jax_sis.core.meshes import on_any_mesh
from jax_sis.core.minimise import DEFAULT_SETTINGS, run_minimise
from jax_sis.core.problem import Problem, check_problem
from jax_sis.core.searches import BACKWARD_NAMES, BackwardSearch, Forward, Gradient
from jax_sis.core.smallest import confidence_of_available, search_smallest
from jax_sis.core.subsets import Status, Subsets, explain_unsearched, sufficient_subsets
from jax_sis.core.types import PredictFn, ScoreName, Targets
from jax_sis.core.validation import check_kind, check_positive_integer

# The round of a feature that is in none of an image's subsets.
IN_NO_SUBSET = -1


@on_any_mesh
def sis_collection(
  predict_fn: PredictFn,
  params: Any,
  inputs: Float[Array, "B ..."] | Float[np.ndarray, "B ..."],
  targets: Targets = None,
  *,
  threshold: float = 0.99,
  search: BackwardSearch | Forward = Gradient(),
  max_subsets: int = 8,
  minimised: bool = False,
  batch_size: int = 8,
  baseline: float | Shaped[Array, "..."] | np.ndarray = 0.0,
  grid: tuple[int, ...] | None = None,
  available: Bool[Array, "..."] | Bool[np.ndarray, "..."] | None = None,
  score: ScoreName = "log_odds",
  completion: Completion | None = None,
  keys: Key[Array, "B"] | None = None,
  features: Shape | None = None,
) -> tuple[Subsets, ...]:
  """Disjoint sufficient subsets of each image, one after the other (SIS-collection, Carter et al. 2019, section 3).

  A subset is searched, its features are masked for good, and the next one is searched in what is left, until what is
  left does not suffice. All of it runs on the device. Images need different numbers of rounds: each round works on the
  first `batch_size` images that are not done, so that the batch is full until the last few.

  Works under `jit`, `vmap` and `pmap`, as `backselect` does.

  >>> import jax.numpy as jnp
  >>> def predict_fn(weights, inputs):
  ...   return inputs @ weights
  >>> weights = jnp.array([[5.0, 0.0], [3.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
  >>> collection = sis_collection(predict_fn, weights, jnp.ones((1, 4)), max_subsets=3)
  >>> [subsets.mask.tolist() for subsets in collection]
  [[[True, False, False, False]], [[False, True, True, False]], [[False, False, False, False]]]

  Args:
    predict_fn: `(params, inputs) -> logits [B, K]`, see PredictFn. It must be hashable, as functions are. Programs are
      compiled for the object: a lambda or `functools.partial` made anew for each call is compiled anew.
    params: the model's arrays.
    inputs: normalised inputs, floating point, with a leading batch axis.
    targets: the class in question; by default the class predicted on the whole input.
    threshold: the softmax probability that every subset must reach, strictly between 0 and 1. It stands in for that of
      a `Forward` search.
    search: how each subset is found: `Gradient`, `Screened`, `Exact` or `Forward`.
    max_subsets: rounds after which an image is done.
    minimised: make each subset smaller by `minimise` with its defaults before its features are taken away.
    batch_size: images searched at a time.
    baseline: as for `backselect`.
    grid: as for `backselect`.
    available: features that subsets may hold, `[B, F]` or `[B, *grid]`.
    score: as for `backselect`.
    completion: as for `backselect`.
    keys: as for `backselect`.
    features: as for `backselect`.

  Returns:
    The subsets by round, `max_subsets` of them. An image that has no more says why in `status`, from that round on; one
    that is OK in the last round may have more.

  Raises:
    ValueError: as for `backselect`, or a setting is out of range.
  """
  threshold = validation.check_static_threshold(threshold, "sis_collection")
  check_kind("search", search, BackwardSearch | Forward, f"Forward(...), {BACKWARD_NAMES}")
  check_positive_integer("max_subsets", max_subsets)
  check_positive_integer("batch_size", batch_size)
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
    features=features,
  )
  state = run_collection(
    problem,
    threshold=threshold,
    search=dataclasses.replace(search, threshold=threshold) if isinstance(search, Forward) else search,
    max_subsets=max_subsets,
    minimised=minimised,
    batch_size=min(batch_size, problem.num_images),
  )
  return tuple(read_round(state, number, problem, threshold) for number in range(max_subsets))


class CollectionState(NamedTuple):
  """Where each image stands.

  Attributes:
    round_of: the round that took a feature, or IN_NO_SUBSET.
    num_rounds: how many rounds there were.
    is_done: whether the last round found none, or was the last one allowed.
    status: of each round.
    confidence: of each round's subset.
  """

  round_of: Int[Array, "B F"]
  num_rounds: Int[Array, "B"]
  is_done: Bool[Array, "B"]
  status: Int8[Array, "B R"]
  confidence: Float[Array, "B R"]


@functools.partial(jax.jit, static_argnames=("threshold", "search", "max_subsets", "minimised", "batch_size"))
def run_collection(
  problem: Problem,
  *,
  threshold: float,
  search: BackwardSearch | Forward,
  max_subsets: int,
  minimised: bool,
  batch_size: int,
) -> CollectionState:
  """`sis_collection` on a checked problem."""

  def goes_on(state: CollectionState) -> Bool[Array, ""]:
    return ~state.is_done.all()

  def advance_batch(state: CollectionState) -> CollectionState:
    # A stable sort: the images that are not done come first, in their order.
    batch = jnp.argsort(state.is_done, stable=True)[:batch_size]
    batch_problem, batch_state = problem.take(batch), jax.tree.map(lambda array: array[batch], state)
    # A batch that is filled up with images that are done has nothing to search in them.
    is_left = (batch_state.round_of == IN_NO_SUBSET) & ~batch_state.is_done[:, None]
    subsets = find_subsets(batch_problem.restrict(is_left), threshold=threshold, search=search, minimised=minimised)
    advanced = jax.vmap(add_round)(batch_state, subsets.kept, subsets.status, subsets.confidence)
    return jax.tree.map(lambda array, values: array.at[batch].set(values), state, advanced)

  available, num_images = problem.available, problem.num_images
  state = CollectionState(
    round_of=jnp.full_like(available, IN_NO_SUBSET, jnp.int32),
    num_rounds=jnp.full_like(available, 0, jnp.int32, num_images),
    is_done=jnp.full_like(available, False, shape=num_images),
    status=jnp.full_like(available, 0, jnp.int8, (num_images, max_subsets)),
    confidence=jnp.full_like(available, jnp.nan, jnp.result_type(float), (num_images, max_subsets)),
  )
  return jax.lax.while_loop(goes_on, advance_batch, state)


def add_round(
  state: CollectionState, mask: Bool[Array, "F"], status: Int8[Array, ""], confidence: Float[Array, ""]
) -> CollectionState:
  """One image after a round. The status of a round without a subset stands for all rounds after it."""
  number, max_subsets = state.num_rounds, state.status.size
  is_ok = status == Status.OK
  rounds = jnp.arange(max_subsets, dtype=jnp.int32)
  added = CollectionState(
    round_of=jnp.where(mask & is_ok, number, state.round_of),
    num_rounds=number + 1,
    is_done=~is_ok | (number + 1 == max_subsets),
    status=jnp.where(rounds >= number, status, state.status),
    confidence=jnp.where(rounds == number, confidence.astype(state.confidence.dtype), state.confidence),
  )
  return jax.tree.map(functools.partial(jnp.where, state.is_done), state, added)


def read_round(state: CollectionState, number: int, problem: Problem, threshold: float) -> Subsets:
  mask = state.round_of == number
  confidence = state.confidence[:, number]
  return Subsets(
    mask=mask.reshape(-1, *problem.grid),
    num_kept=mask.sum(1, dtype=jnp.int32),
    confidence=confidence,
    target=problem.targets,
    threshold=jnp.full(confidence.shape, threshold, confidence.dtype),
    status=state.status[:, number],
    baseline=problem.baseline,
    keys=problem.key_data,
    features=to_stored(problem.features),
  )


def find_subsets(problem: Problem, *, threshold: float, search: BackwardSearch | Forward, minimised: bool) -> Subsets:
  """One subset of the available features of each image, by any search."""
  if isinstance(search, Forward):
    # A backward search sees by itself that all features together do not suffice; a forward one must be told.
    confidence = confidence_of_available(problem)
    if minimised:
      return search_smallest(problem, confidence, search=search, exchanges=DEFAULT_SETTINGS.exchanges)
    order = run_forward(problem.restrict((confidence >= threshold)[:, None]), search=search)
    return explain_unsearched(sufficient_subsets(order, threshold), confidence, threshold)
  order = run_backward(problem, phases=search.phases(problem.num_features))
  subsets = sufficient_subsets(order, threshold)
  return run_minimise(problem, subsets, order, settings=DEFAULT_SETTINGS) if minimised else subsets
