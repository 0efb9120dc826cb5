"""How confidence goes along an order, features shown or masked from the most needed one on, and the areas under it.

Any complete order can be looked at so, whoever made it: a backward search, or attributions (`attribution.py`).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jax_sis.core.chunks import COPIES_ALONE_ON_CPU, check_chunk_size, settle_chunk_size
from jax_sis.core.meshes import on_any_mesh
from jax_sis.core.order import NOT_RANKED, FeatureOrder
from jax_sis.core.problem import Problem, check_answered
from jax_sis.core.questions import refuse_question
from jax_sis.core.subsets import check_order
from jax_sis.core.types import PredictFn


@on_any_mesh
def insertion_area(order: FeatureOrder) -> Float[Array, "B"]:
  """The mean confidence while features are shown one after the other, the most needed one first.

  The area under `order.confidence` over the share of all features that is kept, by trapezoids between `order.sizes`:
  from 0 to 1, and the larger, the sooner what is shown suffices. The insertion metric of Petsiuk et al. 2018 (RISE,
  arXiv 1806.07421, section 4), which starts from a blurred image; here every feature not yet shown has the order's
  baseline, as in a search.

  Args:
    order: one that reaches the full input. Areas of orders with different `sizes` differ by the trapezoids' error too.

  Returns:
    The area of each image; NaN for one that is not finite.

  Raises:
    ValueError: the order stops before the full input, as those of `forward_select` do.

  Examples:
    The sooner the needed features come, the larger the area; here from the most needed one on, and the other way round:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights, inputs, scores = jnp.array([[3.0, 0.0], [2.0, 0.0]]), jnp.ones((1, 2)), jnp.array([[3.0, 2.0]])
    >>> orders = [jax_sis.order_by_scores(predict_fn, weights, inputs, one) for one in (scores, -scores)]
    >>> [round(float(jax_sis.insertion_area(order)[0]), 2) for order in orders]
    [0.85, 0.81]
  """
  check_complete(order)
  return area_under(order, order.confidence)


@on_any_mesh
def deletion_confidence(
  predict_fn: PredictFn,
  params: Any,
  inputs: Float[Array, "B ..."] | Float[np.ndarray, "B ..."],
  order: FeatureOrder,
  *,
  chunk_size: int | None = None,
) -> Float[Array, "B T"]:
  """The confidence with the `order.sizes[t]` most needed features masked and the others shown.

  It can be called under `jit`, `vmap` and `pmap`.

  Args:
    predict_fn: as for `backselect`.
    params: the model's arrays.
    inputs: the inputs that the order is of.
    order: one that reaches the full input. Features that were not available to it stay masked.
    chunk_size: masked copies at a time, over all images of the batch together; it bounds the memory. By default
      what suits the platform.

  Returns:
    The softmax probability of the target; NaN for an image with a logit that is NaN or infinite.

  Raises:
    ValueError: the order stops before the full input, or the inputs do not fit it.

  Examples:
    In per cent, on the whole input, without the most needed feature, without the two most needed ones, and on nothing:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights, inputs = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), jnp.ones((1, 3))
    >>> order = jax_sis.backselect(predict_fn, weights, inputs)
    >>> confidence = jax_sis.deletion_confidence(predict_fn, weights, inputs, order)
    >>> (100 * confidence).round().astype(int).tolist()
    [[100, 95, 73, 50]]
  """
  check_chunk_size("chunk_size", chunk_size)
  check_complete(order)
  problem = check_answered(predict_fn, params, inputs, order)
  chunk_size = settle_chunk_size(chunk_size, problem.inputs, on_cpu=COPIES_ALONE_ON_CPU)
  return run_deletion(problem, order, chunk_size=chunk_size)


@on_any_mesh
def deletion_area(order: FeatureOrder, confidence: Float[Array, "B T"]) -> Float[Array, "B"]:
  """The mean confidence while features are masked one after the other, the most needed one first.

  The area under what `deletion_confidence` returns over the share of all features that is masked, by trapezoids
  between `order.sizes`: from 0 to 1, and the smaller, the sooner the classifier loses the class. The deletion metric of
  Petsiuk et al. 2018, section 4.

  Args:
    order: the order.
    confidence: what `deletion_confidence` returned for it.

  Returns:
    The area of each image; NaN for one that is not finite.

  Raises:
    ValueError: the order stops before the full input, or the confidences are not those of its sizes.

  Examples:
    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights, inputs = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), jnp.ones((1, 3))
    >>> order = jax_sis.backselect(predict_fn, weights, inputs)
    >>> confidence = jax_sis.deletion_confidence(predict_fn, weights, inputs, order)
    >>> round(float(jax_sis.deletion_area(order, confidence)[0]), 2)
    0.81
  """
  check_complete(order)
  if confidence.shape != order.confidence.shape:
    raise ValueError(
      f"confidence must be what deletion_confidence returns for this order, of shape {order.confidence.shape}, "
      f"got {confidence.shape}."
    )
  return area_under(order, confidence)


@functools.partial(jax.jit, static_argnames="chunk_size")
def run_deletion(problem: Problem, order: FeatureOrder, *, chunk_size: int) -> Float[Array, "B T"]:
  """`deletion_confidence` on checked arguments."""
  confidence, finite = confidence_along(problem, order.rank, order.sizes, is_shown=False, chunk_size=chunk_size)
  return jnp.where(finite[:, None], confidence, jnp.nan)


def confidence_along(
  problem: Problem,
  rank: Int[Array, "B F"],
  sizes: tuple[int, ...],
  *,
  is_shown: bool,
  chunk_size: int,
) -> tuple[Float[Array, "B T"], Bool[Array, "B"]]:
  """The confidence at each size, and whether all logits of an image were finite.

  Args:
    problem: the classifier and its images.
    rank: as in a FeatureOrder.
    sizes: how many of the most needed features are meant.
    is_shown: show those and mask the others, or mask those and show the others that are ranked.
    chunk_size: masked copies a model call, over all images together.
  """
  num_images, num_features = rank.shape
  problem = problem.in_log_odds()

  def evaluate_chunk(numbers: Int[Array, "P"]) -> tuple[Float[Array, "B P"], Bool[Array, "B"]]:
    # A chunk that is filled up repeats the last size.
    chunk = jnp.asarray(sizes, jnp.int32)[jnp.minimum(numbers, len(sizes) - 1)]
    is_needed = rank[:, None] < chunk[None, :, None]
    masks = is_needed if is_shown else ~is_needed & (rank != NOT_RANKED)[:, None]
    logits = problem.predict_masked(masks.reshape(-1, num_features))
    logits = logits.reshape(num_images, len(numbers), -1)
    return jax.nn.sigmoid(problem.score_logits(logits)), jnp.isfinite(logits).all((1, 2))

  confidence, finite = jax.lax.map(evaluate_chunk, chunk_numbers(len(sizes), num_images, chunk_size))
  return join_chunks(confidence, len(sizes)), finite.all(0)


def chunk_numbers(count: int, num_images: int, chunk_size: int) -> Int[Array, "N P"]:
  """The numbers 0 to `count - 1`, and some more to fill up the last of equal chunks.

  Args:
    count: variants of each image.
    num_images: images of a batch.
    chunk_size: variants a chunk, over all images together, but at least one of each.
  """
  per_image = min(max(chunk_size // num_images, 1), count)
  num_chunks = -(-count // per_image)
  return jnp.arange(num_chunks * per_image, dtype=jnp.int32).reshape(num_chunks, per_image)


def join_chunks(values: Float[Array, "N B P"], count: int) -> Float[Array, "B count"]:
  """What was found out in chunks, one after the other, without what filled up the last."""
  return jnp.moveaxis(values, 0, 1).reshape(values.shape[1], -1)[:, :count]


def area_under(order: FeatureOrder, confidence: Float[Array, "B T"]) -> Float[Array, "B"]:
  """The area under a curve over the order's sizes, as a share of the number of features."""
  widths = jnp.asarray(np.diff(order.sizes) / order.num_features, confidence.dtype)
  area = ((confidence[:, 1:] + confidence[:, :-1]) / 2 * widths[None]).sum(1)
  return jnp.where(order.finite, area, jnp.nan)


def check_complete(order: FeatureOrder) -> None:
  """Raises ValueError unless the order reaches from the baseline to the full input."""
  check_order(order)
  refuse_question(order.question, "order", "curves and areas")
  if not order.is_complete:
    raise ValueError(
      f"order must reach the full input of {order.num_features} features, got one that stops at {order.sizes[-1]}; "
      "use a backward search or order_by_scores."
    )
