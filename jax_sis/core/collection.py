"""Several sufficient subsets: one is found, its features are taken away for good, or most of them, and so on."""

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
from jax_sis.core.trials import differentiate_score, sort_keys
from jax_sis.core.types import PredictFn, Removal, ScoreName, Targets
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
  max_overlap: float = 0.0,
  batch_size: int = 8,
  baseline: float | Shaped[Array, "..."] | np.ndarray = 0.0,
  grid: tuple[int, ...] | None = None,
  available: Bool[Array, "..."] | Bool[np.ndarray, "..."] | None = None,
  score: ScoreName = "log_odds",
  completion: Completion | None = None,
  keys: Key[Array, "B"] | None = None,
  removal: Removal = "value",
  features: Shape | None = None,
) -> tuple[Subsets, ...]:
  """Sufficient subsets of each image, one after the other (SIS-collection, Carter et al. 2019, section 3).

  A subset is searched, its features are masked for good, and the next one is searched in what is left, until what is
  left does not suffice: the subsets are disjoint. With `max_overlap` some of its features may be used again: of those
  that the classifier needs most, by the gradient at the subset, as many as no later subset can share too much with it
  by, however small it is. So the subsets differ by construction, and none is thrown away.

  All of it runs on the device. Images need different numbers of rounds: each round works on the
  first `batch_size` images that are not done, so that the batch is full until the last few.

  Works under `jit`, `vmap` and `pmap`, as `backselect` does.

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
    max_overlap: how alike any two subsets may be: the Dice coefficient, twice the number of features in both over that
      of the features of each, at least 0 and below 1. 0 makes them disjoint.
    minimised: make each subset smaller by `minimise` with its defaults before its features are taken away.
    batch_size: images searched at a time.
    baseline: as for `backselect`.
    grid: as for `backselect`.
    available: features that subsets may hold, `[B, F]` or `[B, *grid]`.
    score: as for `backselect`.
    completion: as for `backselect`.
    keys: as for `backselect`.
    removal: as for `backselect`.
    features: as for `backselect`.

  Returns:
    The subsets by round, `max_subsets` of them. An image that has no more says why in `status`, from that round on; one
    that is OK in the last round may have more.

  Raises:
    ValueError: as for `backselect`, or a setting is out of range.

  Examples:
    There are two disjoint subsets, and what is left after them does not suffice:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights = jnp.array([[5.0, 0.0], [3.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    >>> collection = jax_sis.sis_collection(predict_fn, weights, jnp.ones((1, 4)), max_subsets=3)
    >>> [subsets.mask[0].astype(int).tolist() for subsets in collection]
    [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
  """
  threshold = validation.check_static_threshold(threshold, "sis_collection")
  check_kind("search", search, BackwardSearch | Forward, f"Forward(...), {BACKWARD_NAMES}")
  check_positive_integer("max_subsets", max_subsets)
  check_positive_integer("batch_size", batch_size)
  check_overlap(max_overlap)
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
    features=features,
  )
  state = run_collection(
    problem,
    threshold=threshold,
    search=dataclasses.replace(search, threshold=threshold) if isinstance(search, Forward) else search,
    max_subsets=max_subsets,
    minimised=minimised,
    max_overlap=float(max_overlap),
    batch_size=min(batch_size, problem.num_images),
  )
  return tuple(read_round(state, number, problem, threshold) for number in range(max_subsets))


def check_overlap(max_overlap: Any) -> None:
  """Raises ValueError unless subsets can be so much alike and still differ."""
  if isinstance(max_overlap, bool) or not isinstance(max_overlap, int | float) or not 0 <= max_overlap < 1:
    raise ValueError(
      f"max_overlap must be a Dice coefficient of at least 0 (disjoint subsets) and below 1, got {max_overlap!r}."
    )


class Shared(NamedTuple):
  """What is known of subsets that may overlap.

  Attributes:
    masks: of each round.
    is_free: the features that the next subset may hold.
  """

  masks: Bool[Array, "B R F"]
  is_free: Bool[Array, "B F"]


class CollectionState(NamedTuple):
  """Where each image stands.

  Attributes:
    round_of: the round that took a feature, the last one where several did, or IN_NO_SUBSET.
    num_rounds: how many rounds there were.
    is_done: whether the last round found none, or was the last one allowed.
    status: of each round.
    confidence: of each round's subset.
    shared: where subsets may overlap; else None.
  """

  round_of: Int[Array, "B F"]
  num_rounds: Int[Array, "B"]
  is_done: Bool[Array, "B"]
  status: Int8[Array, "B R"]
  confidence: Float[Array, "B R"]
  shared: Shared | None = None


@functools.partial(
  jax.jit, static_argnames=("threshold", "search", "max_subsets", "minimised", "max_overlap", "batch_size")
)
def run_collection(
  problem: Problem,
  *,
  threshold: float,
  search: BackwardSearch | Forward,
  max_subsets: int,
  minimised: bool,
  max_overlap: float,
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
    is_free = batch_state.round_of == IN_NO_SUBSET if batch_state.shared is None else batch_state.shared.is_free
    is_left = is_free & ~batch_state.is_done[:, None]
    subsets = find_subsets(batch_problem.restrict(is_left), threshold=threshold, search=search, minimised=minimised)
    kept = subsets.kept
    reusable = None if batch_state.shared is None else find_reusable(batch_problem, kept, max_overlap)
    advanced = jax.vmap(add_round)(batch_state, kept, subsets.status, subsets.confidence, reusable)
    return jax.tree.map(lambda array, values: array.at[batch].set(values), state, advanced)

  available, num_images = problem.available, problem.num_images
  state = CollectionState(
    round_of=jnp.full_like(available, IN_NO_SUBSET, jnp.int32),
    num_rounds=jnp.full_like(available, 0, jnp.int32, num_images),
    is_done=jnp.full_like(available, False, shape=num_images),
    status=jnp.full_like(available, 0, jnp.int8, (num_images, max_subsets)),
    confidence=jnp.full_like(available, jnp.nan, jnp.result_type(float), (num_images, max_subsets)),
    shared=make_shared(available, max_subsets) if max_overlap else None,
  )
  return jax.lax.while_loop(goes_on, advance_batch, state)


def make_shared(available: Bool[Array, "B F"], max_subsets: int) -> Shared:
  """The beginning, where every feature is free."""
  num_images, num_features = available.shape
  masks = jnp.full_like(available, False, shape=(num_images, max_subsets, num_features))
  return Shared(masks=masks, is_free=jnp.full_like(available, True))


def find_reusable(problem: Problem, kept: Bool[Array, "B F"], max_overlap: float) -> Bool[Array, "B F"]:
  """The features of each subset that others may hold as well: those that the gradient says it needs most.

  Of |A| features n may be used again: a subset that holds them and m others shares n with A, and the Dice coefficient
  2 n / (|A| + n + m) is largest where m is 0. It is at most d for n up to |A| d / (2 - d).
  """
  _, gradient = differentiate_score(problem, kept)
  ranked = jnp.argsort(-sort_keys(gradient, kept), axis=1, stable=True)
  rank = jnp.argsort(ranked, axis=1, stable=True)
  # Rounded, so that a product just below a whole number counts as that.
  share = kept.sum(1, dtype=gradient.dtype) * (max_overlap / (2 - max_overlap))
  return kept & (rank < jnp.floor(share + 1e-4).astype(rank.dtype)[:, None])


def add_round(
  state: CollectionState,
  mask: Bool[Array, "F"],
  status: Int8[Array, ""],
  confidence: Float[Array, ""],
  reusable: Bool[Array, "F"] | None,
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
    shared=None if state.shared is None or reusable is None else share(state.shared, number, mask & is_ok, reusable),
  )
  return jax.tree.map(functools.partial(jnp.where, state.is_done), state, added)


def share(shared: Shared, number: Int[Array, ""], mask: Bool[Array, "F"], reusable: Bool[Array, "F"]) -> Shared:
  """What is known after the round of this number. A feature stays free while all its subsets leave it so."""
  return Shared(masks=shared.masks.at[number].set(mask), is_free=shared.is_free & (~mask | reusable))


def read_round(state: CollectionState, number: int, problem: Problem, threshold: float) -> Subsets:
  mask = state.round_of == number if state.shared is None else state.shared.masks[:, number]
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
    removal=problem.removal,
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
