"""Attributions as orders of features, so that the curves of a search tell what they are worth.

An attribution gives every feature a number, the larger, the more the classifier's answer is said to need it. Ranked by
it, features form nested subsets like those of a search, and `sufficient_subsets`, `keep_fraction`, `certify` and the
areas of `curves.py` read them in the same way:

scores = attribute(predict_fn, params, images, method=IntegratedGradients())
order = order_by_scores(predict_fn, params, images, scores)
subsets = sufficient_subsets(order, 0.99)
"""

import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from jax_sis.core import masking
from jax_sis.core.attribution_methods import AttributionMethod, GradCam
from jax_sis.core.chunks import COPIES_ALONE_ON_CPU, check_chunk_size, settle_chunk_size
from jax_sis.core.curves import confidence_along
from jax_sis.core.meshes import on_any_mesh
from jax_sis.core.order import FeatureOrder
from jax_sis.core.problem import Problem, check_problem
from jax_sis.core.trials import sort_keys
from jax_sis.core.types import PredictFn, Removal, ScoreName, Targets


@on_any_mesh
def attribute(
  predict_fn: PredictFn,
  params: Any,
  inputs: Float[Array, "B ..."] | Float[np.ndarray, "B ..."],
  targets: Targets = None,
  *,
  method: AttributionMethod,
  baseline: float | Shaped[Array, "..."] | np.ndarray = 0.0,
  grid: tuple[int, ...] | None = None,
  score: ScoreName = "log_odds",
  image_ids: Int[Array, "B"] | Int[np.ndarray, "B"] | None = None,
) -> Float[Array, "B F"]:
  """How much the classifier's answer is said to need each feature, by a method that is no search.

  Methods mask by value: none takes `removal`, but `order_by_scores` reads what they say under any.

  It can be called under `jit`, `vmap` and `pmap`, as `backselect` can.

  Args:
    predict_fn: `(params, inputs) -> logits [B, K]`, see PredictFn. It must be hashable, as functions are. Programs are
      compiled for the object: a lambda or `functools.partial` made anew for each call is compiled anew.
    params: the model's arrays.
    inputs: normalised inputs, floating point, with a leading batch axis.
    targets: the class in question; by default the class predicted on the whole input.
    method: `GradientTimesInput()`, `IntegratedGradients()`, `Occlusion()`, `Rise()` or `GradCam(...)`.
    baseline: what a masked feature shows, as for `backselect`.
    grid: the mask's shape, as for `backselect`.
    score: what is attributed, as for `backselect`. Where a method's source has another, the method says so.
    image_ids: a number for each image, which what `Rise` draws for it depends on, whatever the batch. By default all
      images are given the same masks, as in the source.

  Returns:
    A number a feature, the larger, the more it is needed, in the units of the score. NaN or infinite where the
    classifier is.

  Raises:
    ValueError: as for `backselect`, or the parts of `GradCam` are not those of the classifier.

  Examples:
    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    >>> scores = jax_sis.attribute(predict_fn, weights, jnp.ones((1, 3)), method=jax_sis.Occlusion())
    >>> scores.round(2).tolist()
    [[3.0, 1.0, 2.0]]
  """
  if not isinstance(method, AttributionMethod):
    raise ValueError(f"method must be one such as IntegratedGradients(), got {method!r}.")
  problem = check_problem(
    predict_fn, params, inputs, targets, baseline=baseline, grid=grid, available=None, score=score
  )
  if isinstance(method, GradCam):
    method.check(problem)
  return run_attribute(problem, check_image_ids(image_ids, num_images=problem.num_images), method=method)


@on_any_mesh
def order_by_scores(
  predict_fn: PredictFn,
  params: Any,
  inputs: Float[Array, "B ..."] | Float[np.ndarray, "B ..."],
  scores: Float[Array, "..."] | Float[np.ndarray, "..."],
  targets: Targets = None,
  *,
  sizes: Sequence[int] | None = None,
  baseline: float | Shaped[Array, "..."] | np.ndarray = 0.0,
  grid: tuple[int, ...] | None = None,
  score: ScoreName = "log_odds",
  removal: Removal = "value",
  chunk_size: int | None = None,
) -> FeatureOrder:
  """Ranks features by scores, whatever they come from, and evaluates the classifier on the subsets of that order.

  It can be called under `jit`, `vmap` and `pmap`, as `backselect` can.

  Args:
    predict_fn: as for `attribute`.
    params: the model's arrays.
    inputs: the inputs that the scores are of.
    scores: a number a feature, `[B, F]` or `[B, *grid]`, such as `[B, H, W]`, or without B for all images alike; the
      largest is needed most. Equal ones go by their index, the lowest first.
    targets: as for `attribute`.
    sizes: the subset sizes to evaluate, ascending from 0 to the number of features; by default all of them.
    baseline: as for `attribute`.
    grid: as for `attribute`.
    score: what the scores were made of; it does not enter here, but is kept with the order.
    removal: how masked features are removed as the order is read, as for `backselect`.
    chunk_size: masked copies at a time, over all images of the batch together; it bounds the memory. By default
      what suits the platform.

  Returns:
    A complete order, to be read as one of `backselect`. Not finite where a score or a logit is not.

  Raises:
    ValueError: as for `backselect`, or the scores or sizes do not fit the inputs.

  Examples:
    Scores that were found in any way, read as a search's order is:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights, scores = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), jnp.array([[0.5, 0.1, 0.9]])
    >>> order = jax_sis.order_by_scores(predict_fn, weights, jnp.ones((1, 3)), scores)
    >>> order.rank.tolist(), jax_sis.sufficient_subsets(order, 0.9).num_kept.tolist()
    ([[1, 2, 0]], [2])
  """
  check_chunk_size("chunk_size", chunk_size)
  problem = check_problem(
    predict_fn, params, inputs, targets, baseline=baseline, grid=grid, available=None, score=score, removal=removal
  )
  return run_order_by_scores(
    problem,
    check_scores(scores, num_images=problem.num_images, grid=problem.grid),
    sizes=check_sizes(sizes, problem.num_features),
    chunk_size=settle_chunk_size(chunk_size, problem.inputs, on_cpu=COPIES_ALONE_ON_CPU),
  )


@functools.partial(jax.jit, static_argnames="method")
def run_attribute(problem: Problem, image_ids: Int[Array, "B"], *, method: AttributionMethod) -> Float[Array, "B F"]:
  """`attribute` on checked arguments."""
  return method.score_features(problem, image_ids).astype(jnp.result_type(float))


@functools.partial(jax.jit, static_argnames=("sizes", "chunk_size"))
def run_order_by_scores(
  problem: Problem, scores: Float[Array, "B F"], *, sizes: tuple[int, ...], chunk_size: int
) -> FeatureOrder:
  """`order_by_scores` on checked arguments."""
  rank = rank_scores(scores)
  confidence, finite = confidence_along(problem, rank, sizes, is_shown=True, chunk_size=chunk_size)
  finite = finite & jnp.isfinite(scores).all(1)
  return problem.make_order(rank=rank, confidence=confidence, finite=finite, sizes=sizes)


def rank_scores(scores: Float[Array, "B F"]) -> Int[Array, "B F"]:
  """0 for the largest score of an image; of equal ones, and zeros of both signs are, the lowest index comes first."""
  keys = sort_keys(scores, jnp.ones_like(scores, bool))
  features = jnp.argsort(-keys, axis=1, stable=True)
  # The inverse of a permutation.
  return jnp.argsort(features, axis=1).astype(jnp.int32)


def check_image_ids(image_ids: Any, *, num_images: int) -> Int[Array, "B"]:
  """The numbers of the images, all 0 for None.

  Raises:
    ValueError: not one integer for each image.
  """
  if image_ids is None:
    return jnp.zeros(num_images, jnp.int32)
  image_ids = jnp.asarray(image_ids)
  if not jnp.issubdtype(image_ids.dtype, jnp.integer) or image_ids.shape != (num_images,):
    raise ValueError(
      f"image_ids must be one integer for each of the {num_images} inputs, "
      f"got {image_ids.dtype}{list(image_ids.shape)}."
    )
  return image_ids


def check_scores(scores: Any, *, num_images: int, grid: tuple[int, ...]) -> Float[Array, "B F"]:
  """The scores as `[B, F]`.

  Raises:
    ValueError: not floating point, or of another shape.
  """
  scores = jnp.asarray(scores)
  flat = masking.flatten_features(scores, num_images=num_images, grid=grid)
  if flat is None or not jnp.issubdtype(scores.dtype, jnp.floating):
    raise ValueError(
      f"scores must be floating point of {masking.describe_features(num_images=num_images, grid=grid)}, "
      f"got {scores.dtype}{list(scores.shape)}."
    )
  return flat


def check_sizes(sizes: Sequence[int] | None, num_features: int) -> tuple[int, ...]:
  """The sizes as a tuple, all of them for None.

  Raises:
    ValueError: they are not integers, or do not ascend from 0 to the number of features.
  """
  if sizes is None:
    return tuple(range(num_features + 1))
  try:
    checked = tuple(operator.index(size) for size in sizes)
  except TypeError:
    raise ValueError(f"sizes must be integers, numbers of features, got {list(sizes)}.") from None
  if checked[:1] != (0,) or checked[-1] != num_features or (np.diff(checked) <= 0).any():
    raise ValueError(f"sizes must ascend from 0 to the number of features, {num_features}, got {list(checked)}.")
  return checked
