"""What one device computes for its images: searches, subsets and certificates, as fields of the store."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jax_sis.core import masking
from jax_sis.core.backselect import run_backward
from jax_sis.core.certify import evaluate_alone, run_certify
from jax_sis.core.order import FeatureOrder
from jax_sis.core.problem import Problem, make_problem
from jax_sis.core.scores import log_odds, predict_logits
from jax_sis.core.smallest import search_smallest
from jax_sis.core.subsets import Subsets, keep_fraction, sufficient_subsets
from jax_sis.core.types import Params, PredictFn
from jax_sis.results.query import mask_name
from jax_sis.results.schema import ALONE_DTYPES, ANSWERS, FULL_DTYPES, NO_CLASS, SMALLEST_MASK, TEXT, Field, mask_field
from jax_sis.runs.config import FindConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSearch:
  """The searches of a run on one classifier.

  Attributes:
    config: what is searched for.
    predict_fn: the classifier's frozen form.
    grid: the mask's shape.
  """

  config: FindConfig
  predict_fn: PredictFn
  grid: tuple[int, ...]

  @property
  def num_features(self) -> int:
    """F, the number of features of an image."""
    return masking.num_features(self.grid)

  @property
  def sizes(self) -> tuple[int, ...]:
    """The subset sizes that the backward search evaluates, ascending."""
    if self.config.search is None:
      return ()
    return tuple(sorted(size for phase in self.config.search.phases(self.num_features) for size in phase.sizes))

  @property
  def answers(self) -> tuple[str, ...]:
    """The kinds of subset that are found."""
    searches = (self.config.search, self.config.smallest)
    return tuple(answer for answer, search in zip(ANSWERS, searches, strict=True) if search is not None)

  def __call__(self, params: Params, inputs: Float[Array, "B H W C"], requested: Int[Array, "B"]) -> dict[str, Array]:
    """Searches the images of one device.

    Args:
      params: the classifier's arrays.
      inputs: normalised images.
      requested: the class to keep up, or NO_CLASS for the predicted one.

    Returns:
      The fields of the store that are computed, see `fields`.
    """
    with jax.default_matmul_precision(self.config.precision):
      return search_images(self, params, inputs, requested)

  def fields(self) -> dict[str, Field]:
    """The arrays of a run."""
    fields = {
      "id": TEXT,
      "error": TEXT,
      "label": Field(shape=(), dtype="int32"),
      "target": Field(shape=(), dtype="int32"),
      "predicted": Field(shape=(), dtype="int32"),
      "full_confidence": Field(shape=(), dtype="float32"),
    }
    if self.config.saves_order:
      rank_dtype = "uint16" if self.num_features <= np.iinfo(np.uint16).max else "uint32"
      fields["rank"] = Field(shape=(self.num_features,), dtype=rank_dtype)
      fields["confidence"] = Field(shape=(len(self.sizes),), dtype="float32")
    masks = [mask_name(threshold=threshold) for threshold in self.config.saved_thresholds]
    masks += [mask_name(fraction=fraction) for fraction in self.config.mask_fractions]
    masks += [SMALLEST_MASK] if self.config.smallest is not None else []
    fields |= dict.fromkeys(masks, mask_field(self.num_features))
    dtypes = FULL_DTYPES if self.config.certificate == "full" else ALONE_DTYPES
    for answer in self.answers:
      fields |= {f"{answer}_{name}": Field(shape=(), dtype=dtype) for name, dtype in dtypes.items()}
    return fields


def search_images(
  search: ImageSearch, params: Params, inputs: Float[Array, "B H W C"], requested: Int[Array, "B"]
) -> dict[str, Array]:
  """As ImageSearch, at the precision that is set."""
  config = search.config
  logits = predict_logits(search.predict_fn, params, inputs)
  predicted = logits.argmax(-1).astype(jnp.int32)
  targets = jnp.where(requested == NO_CLASS, predicted, requested)
  full_confidence = jax.nn.sigmoid(log_odds(logits, targets))
  fields = {"target": targets, "predicted": predicted, "full_confidence": full_confidence}
  problem = make_problem(
    search.predict_fn, params, inputs, targets, baseline=config.baseline, grid=search.grid, score=config.score
  )
  found = {}
  if config.search is not None:
    order = run_backward(problem, phases=config.search.phases(search.num_features))
    fields |= order_fields(config, order)
    found["sis"] = sufficient_subsets(order, config.threshold)
  if config.smallest is not None:
    forward = dataclasses.replace(config.smallest, threshold=config.threshold)
    found["smallest"] = search_smallest(problem, full_confidence, search=forward, exchanges=config.exchanges)
    fields[SMALLEST_MASK] = found["smallest"].kept
  return fields | certified_fields(config, problem, found)


def order_fields(config: FindConfig, order: FeatureOrder) -> dict[str, Array]:
  """What the store keeps of an order."""
  fields = {"rank": order.rank, "confidence": order.confidence} if config.saves_order else {}
  for threshold in config.saved_thresholds:
    fields[mask_name(threshold=threshold)] = sufficient_subsets(order, threshold).kept
  for fraction in config.mask_fractions:
    fields[mask_name(fraction=fraction)] = keep_fraction(order, fraction).kept
  return fields


def certified_fields(config: FindConfig, problem: Problem, found: dict[str, Subsets]) -> dict[str, Array]:
  """What the store holds of each kind of subset, with a certificate."""
  num_images = problem.num_images
  joined = jax.tree.map(lambda *kinds: jnp.concatenate(kinds), *found.values())

  def certify_kind(number: Int[Array, ""]) -> dict[str, Array]:
    subsets = jax.tree.map(lambda array: jax.lax.dynamic_slice_in_dim(array, number * num_images, num_images), joined)
    return certify_subsets(config, problem, subsets)

  # One kind after the other by one piece of program, which is compiled once.
  values = jax.lax.map(certify_kind, jnp.arange(len(found)))
  return {f"{answer}_{name}": array[number] for number, answer in enumerate(found) for name, array in values.items()}


def certify_subsets(config: FindConfig, problem: Problem, subsets: Subsets) -> dict[str, Array]:
  """The certificate that the run asks for, as fields of the store."""
  fields = {"num_kept": subsets.num_kept, "status": subsets.status}
  if config.certificate == "alone":
    report = evaluate_alone(problem, subsets, config.tolerance)
  else:
    report = run_certify(problem, subsets, config.tolerance, chunk_size=config.chunk_size)
    fields |= {
      "is_minimal": report.is_minimal,
      "is_smallest": report.is_smallest,
      "has_smaller": report.has_smaller,
      "num_droppable": report.is_droppable.reshape(subsets.mask.shape[0], -1).sum(1),
    }
  return fields | {
    "certified_confidence": report.confidence,
    "is_sufficient": report.is_sufficient,
    "keeps_class": report.keeps_class,
    "is_reproduced": report.is_reproduced,
  }
