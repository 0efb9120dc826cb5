"""FeatureOrder + a threshold or a budget -> the subset of each image."""

import dataclasses
import enum
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int8, Integer, UInt32

from jax_sis.core import masking, validation
from jax_sis.core.batch import PerImage, make_picture
from jax_sis.core.features import check_features, describe_features, lay_out
from jax_sis.core.label_maps import LabelMap
from jax_sis.core.linear import Linear
from jax_sis.core.meshes import on_any_mesh
from jax_sis.core.order import FeatureOrder
from jax_sis.core.questions import PASS_MARK, Question, refuse_question
from jax_sis.core.types import Removal


class Status(enum.IntEnum):
  """Why an image has the subset that it has; every one but OK comes with an empty mask.

  * `OK`: the subset answers the question asked.
  * `BELOW_THRESHOLD`: the classifier is not confident enough on the whole input, so that nothing can be sufficient;
    or it does not predict the class there, so that it cannot be lost.
  * `NOT_REACHED`: a search that stopped early found no subset that passes, or holds none of the size asked for.
  * `BASELINE_SUFFICIENT`: the classifier passes with every feature masked; nothing is needed.
  * `NON_FINITE`: a logit or gradient was NaN or infinite; the image or the model holds such a value.

  Examples:
    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights, inputs = jnp.array([[2.0, 0.0], [1.0, 0.0]]), jnp.array([[1.0, 1.0], [9.0, 9.0]])
    >>> subsets = jax_sis.sufficient_subsets(jax_sis.backselect(predict_fn, weights, inputs), 0.99)
    >>> [jax_sis.Status(int(status)).name for status in subsets.status]
    ['BELOW_THRESHOLD', 'OK']
  """

  OK = 0
  BELOW_THRESHOLD = 1
  NOT_REACHED = 2
  BASELINE_SUFFICIENT = 3
  NON_FINITE = 4


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Subsets(PerImage):
  """One subset of features for each image.

  Attributes:
    mask: True where a feature is kept, in the grid's shape.
    num_kept: how many features are kept.
    confidence: softmax probability of the target on the subset alone, as the search saw it; NaN where the search
      did not evaluate a subset of this size alone (`certify` does), or there is no subset.
    target: the class in question.
    threshold: the confidence asked for; NaN for a subset of a given size, and a contrastive one.
    status: see Status.
    baseline: what masked features show; where that was a distribution, what they are painted in.
    keys: under a distribution, the data of the keys that the search had; else None.
    removal: how masked features were removed.
    lost_by: of contrastive subsets and of both: by how much the strongest other class is ahead of the target with the
      subset alone masked, in log-odds of the two, as the search saw it; NaN as for `confidence`. Else None.
    question: what was asked of them; None for sufficient subsets.
    features: what a feature is, where that is no part of a grid: a label map or a basis.

  Examples:
    What the classifier is shown of an image of four pixels:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, images):
    ...   return images.reshape(len(images), -1) @ weights
    >>> weights, images = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 0.0]]), jnp.ones((1, 2, 2, 1))
    >>> subsets = jax_sis.sufficient_subsets(jax_sis.backselect(predict_fn, weights, images), 0.97)
    >>> subsets.num_kept.tolist(), subsets.apply(images)[0, :, :, 0].tolist()
    ([2], [[1.0, 0.0], [1.0, 0.0]])
  """

  mask: Bool[Array, "B ..."]
  num_kept: Int[Array, "B"]
  confidence: Float[Array, "B"]
  target: Int[Array, "B"]
  threshold: Float[Array, "B"]
  status: Int8[Array, "B"]
  baseline: Float[Array, "B ..."]
  keys: UInt32[Array, "B N"] | None = None
  removal: Removal = dataclasses.field(default="value", metadata={"static": True})
  lost_by: Float[Array, "B"] | None = None
  question: Question | None = dataclasses.field(default=None, metadata={"static": True})
  features: LabelMap | Linear | None = None

  @property
  def grid(self) -> tuple[int, ...]:
    """The mask's shape."""
    return self.mask.shape[1:]

  @property
  def kept(self) -> Bool[Array, "B F"]:
    """The mask, with its features in one row."""
    return self.mask.reshape(self.mask.shape[0], -1)

  def apply(self, inputs: Float[Array, "B ..."] | Float[np.ndarray, "B ..."]) -> Float[Array, "B ..."]:
    """The inputs with only the subsets kept and the rest masked, as the classifier is shown them.

    Args:
      inputs: those of the search, normalised.

    Raises:
      ValueError: they are not as many images, or do not fit the grid.
    """
    inputs = validation.check_inputs(inputs)
    if inputs.shape[0] != len(self):
      raise ValueError(f"inputs must be the {len(self)} images of the subsets, got {inputs.shape[0]}.")
    features = check_features(self.features, self.grid if self.features is None else None, inputs)
    return features.mix(inputs, self.kept, masking.check_baseline(self.baseline, inputs))

  @property
  def num_pixels(self) -> Int[Array, "B"] | None:
    """How many pixels are kept, where features differ in size, as those of a label map do; else None."""
    return self.features.count_places(self.kept) if isinstance(self.features, LabelMap) else None

  def _describe(self) -> str:
    threshold, num_kept = np.unique(np.asarray(self.threshold)), np.asarray(self.num_kept)
    asked = f", threshold {threshold[0]:g}" if len(threshold) == 1 and threshold[0] == threshold[0] else ""
    if self.question is not None:
      asked += f", {self.question.kind} with a margin of {self.question.margin:g}"
    found = f"{self._count()}, {describe_features(self.features, self.grid)}{asked}: {count_statuses(self.status)}"
    num_kept = num_kept[np.asarray(self.status) == Status.OK]
    if not len(num_kept):
      return found
    sizes = f"median {np.median(num_kept):g}, {num_kept.min()} to {num_kept.max()}"
    return f"{found}; features kept: {sizes} of {math.prod(self.grid)}"

  def _make_table(self) -> tuple[Sequence[str], list[list[str]]]:
    target, num_kept, confidence = (np.asarray(one) for one in (self.target, self.num_kept, self.confidence))
    names = [Status(int(status)).name.lower() for status in self.status]
    masks = lay_out(np.asarray(self.kept, float), self.features, self.grid)
    rows = [
      [str(i), str(target[i]), names[i], str(num_kept[i]), f"{confidence[i]:.4f}", make_picture(masks[i])]
      for i in range(len(self))
    ]
    return ("image", "target", "status", "features kept", "confidence", "mask, white is kept"), rows


@on_any_mesh
def sufficient_subsets(
  order: FeatureOrder,
  threshold: float | Float[Array, ""] | Float[Array, "B"] | Float[np.ndarray, "B"] | Sequence[float] | None = None,
) -> Subsets:
  """The smallest subset of each order on which the classifier alone is confident (FindSIS, Carter et al. 2019).

  Smallest among the sizes that the search evaluated: with k features a step, at most k - 1 too large.

  Args:
    order: what a search returned.
    threshold: the softmax probability that the target must reach, strictly between 0 and 1, in each image or in all.
      An order of another question holds what was asked, and takes none.

  Returns:
    A subset for each image, or an empty one with its reason in `status`.

  Raises:
    ValueError: the threshold is out of range.

  Examples:
    One order answers every threshold:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    >>> order = jax_sis.backselect(predict_fn, weights, jnp.ones((1, 3)))
    >>> [jax_sis.sufficient_subsets(order, threshold).num_kept.tolist() for threshold in (0.9, 0.99, 0.999)]
    [[1], [2], [0]]
  """
  check_order(order)
  if order.question is not None:
    return read_answers(order, threshold)
  checked: Any = validation.check_thresholds(threshold, order.target.shape[0])
  at_each_size = checked[:, None].astype(order.confidence.dtype) if np.ndim(checked) else checked
  first, status = find_sufficient(order.confidence, at_each_size, is_complete=order.is_complete)
  sizes = jnp.asarray(order.sizes, jnp.int32)
  confidence = jnp.take_along_axis(order.confidence, first[:, None], axis=1)[:, 0]
  return make_subsets(order, sizes[first], confidence, status, checked)


def read_answers(order: FeatureOrder, threshold: Any) -> Subsets:
  """The smallest subset of each order that answers another question, which the order holds."""
  assert order.question is not None
  if threshold is not None:
    raise ValueError(
      f'threshold must be left out for an order of question="{order.question.kind}", which was searched at its own, '
      f"got {threshold!r}."
    )
  first, status = find_sufficient(order.confidence, PASS_MARK, is_complete=False)
  unknown = jnp.full_like(order.confidence, jnp.nan, shape=status.shape)
  return make_subsets(order, jnp.asarray(order.sizes, jnp.int32)[first], unknown, status, order.question.asked_alone)


def check_order(order: Any) -> None:
  """Raises ValueError unless it is what a search returns."""
  validation.check_kind("order", order, FeatureOrder, "a FeatureOrder, as backselect gives")


def count_statuses(status: Int8[Array, "B"] | Int8[np.ndarray, "B"]) -> str:
  """`7 ok, 1 below_threshold`."""
  found, counts = np.unique(np.asarray(status), return_counts=True)
  pairs = zip(found.tolist(), counts.tolist(), strict=True)
  return ", ".join(f"{count} {Status(value).name.lower()}" for value, count in pairs) or "none"


def find_sufficient(
  confidence: Float[Array | np.ndarray, "B T"],
  threshold: float | Float[Array, ""] | Float[Array, "B 1"],
  *,
  is_complete: bool,
) -> tuple[Any, Any]:
  """Which of the evaluated sizes is the smallest sufficient one, if any is.

  The arrays of a search and those of a store, JAX's and NumPy's, are read by this one piece of code.

  Args:
    confidence: with the features of each size kept; the sizes ascend from 0.
    threshold: the confidence to reach.
    is_complete: whether the last size is the whole input.

  Returns:
    The place of that size, and a Status that knows nothing of orders that are not finite, `[B]` both.
  """
  numpy = confidence.__array_namespace__()
  passes = confidence >= threshold
  first = passes.argmax(1)
  status = numpy.where(passes.any(1), Status.OK, Status.NOT_REACHED)
  status = numpy.where(passes[:, 0], Status.BASELINE_SUFFICIENT, status)
  if is_complete:
    status = numpy.where(passes[:, -1], status, Status.BELOW_THRESHOLD)
  return first, status


def find_ranked(rank: Integer[Array | np.ndarray, "B F"], count: int) -> Any:
  """OK where an order ranks so many features, else NOT_REACHED; of JAX arrays and NumPy's, see `find_sufficient`."""
  num_ranked = (rank < rank.shape[1]).sum(1)
  return rank.__array_namespace__().where(num_ranked >= count, Status.OK, Status.NOT_REACHED)


def explain_unsearched(subsets: Subsets, confidence: Float[Array, "B"], threshold: float) -> Subsets:
  """Says why of images that a forward search was not asked to look at, for they do not pass as a whole.

  Args:
    subsets: what the search found.
    confidence: of the whole image.
    threshold: what it should reach.
  """
  is_unsearched = ~(confidence >= threshold) & (subsets.status == Status.NOT_REACHED)
  reason = jnp.where(jnp.isnan(confidence), Status.NON_FINITE, Status.BELOW_THRESHOLD)
  status = jnp.where(is_unsearched, reason, subsets.status).astype(subsets.status.dtype)
  return dataclasses.replace(subsets, status=status)


@on_any_mesh
def keep_fraction(order: FeatureOrder, fraction: float) -> Subsets:
  """The most needed `fraction` of the features, their number rounded up: 0.05 of 1,024 are 52.

  Args:
    order: what a search returned.
    fraction: the share of all features to keep, above 0 and at most 1.

  Returns:
    Subsets without a threshold, or an empty one where the order ranks fewer features: NOT_REACHED. Their confidence is
    NaN where the search did not evaluate this size.

  Raises:
    ValueError: the fraction is out of range, or the order is one of another question.

  Examples:
    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    >>> order = jax_sis.backselect(predict_fn, weights, jnp.ones((1, 3)))
    >>> jax_sis.keep_fraction(order, 0.3).mask.tolist()
    [[True, False, False]]
  """
  check_order(order)
  refuse_question(order.question, "order", "keep_fraction")
  check_fraction(fraction)
  count = count_of_fraction(fraction, order.num_features)
  if isinstance(order.features, LabelMap):
    return keep_ragged_fraction(order, order.features, fraction)
  status = find_ranked(order.rank, count)
  if count in order.sizes:
    confidence = order.confidence[:, order.sizes.index(count)]
  else:
    confidence = jnp.full(order.target.shape, jnp.nan, order.confidence.dtype)
  return make_subsets(order, jnp.full(order.target.shape, count, jnp.int32), confidence, status, np.nan)


def keep_ragged_fraction(order: FeatureOrder, features: LabelMap, fraction: float) -> Subsets:
  """`keep_fraction` where images have different numbers of features: the share of those that each has."""
  counts = np.array([0, *(count_of_fraction(fraction, number) for number in range(1, order.num_features + 1))])
  wanted = jnp.asarray(counts, jnp.int32)[features.existing().sum(1)]
  sizes = jnp.asarray(order.sizes, jnp.int32)
  place = jnp.minimum(jnp.searchsorted(sizes, wanted), len(order.sizes) - 1)
  confidence = jnp.take_along_axis(order.confidence, place[:, None], axis=1)[:, 0]
  confidence = jnp.where(sizes[place] == wanted, confidence, jnp.nan)
  num_ranked = (order.rank < order.num_features).sum(1)
  return make_subsets(order, wanted, confidence, jnp.where(num_ranked >= wanted, Status.OK, Status.NOT_REACHED), np.nan)


def check_fraction(fraction: float) -> None:
  """Raises ValueError unless `fraction` is a share of the features that can be kept."""
  if not 0 < fraction <= 1:
    raise ValueError(f"fraction must be above 0 and at most 1, got {fraction!r}.")


def count_of_fraction(fraction: float, num_features: int) -> int:
  """How many features are a fraction of them all, rounded up."""
  # 0.07 * 100 is 7.000000000000001: rounding errors must not add a feature.
  return max(1, math.ceil(round(fraction * num_features, 6)))


def make_subsets(
  order: FeatureOrder,
  num_kept: Int[Array, "B"],
  confidence: Float[Array, "B"],
  status: Int[Array, "B"],
  threshold: float | Float[Array, ""] | Float[Array, "B"],
) -> Subsets:
  """Keeps the `num_kept` most needed features of each image whose status is OK, and none of the others."""
  status = jnp.where(order.finite, status, Status.NON_FINITE).astype(jnp.int8)
  is_ok = status == Status.OK
  mask = (order.rank < num_kept[:, None]) & is_ok[:, None]
  return Subsets(
    mask=mask.reshape(-1, *order.grid),
    # Counted, since fewer features than num_kept may have been available.
    num_kept=mask.sum(1, dtype=jnp.int32),
    confidence=jnp.where(is_ok, confidence, jnp.nan),
    target=order.target,
    threshold=jnp.broadcast_to(jnp.asarray(threshold, confidence.dtype), status.shape),
    status=status,
    baseline=order.baseline,
    keys=order.keys,
    removal=order.removal,
    lost_by=None if order.question is None else jnp.full_like(confidence, jnp.nan),
    question=order.question,
    features=order.features,
  )
