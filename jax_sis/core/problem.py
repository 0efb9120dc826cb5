"""The problem that a search is given, checked: a classifier, its images, and what counts as an answer."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from jax_sis.core import masking, validation
from jax_sis.core.meshes import vary_alike
from jax_sis.core.order import FeatureOrder
from jax_sis.core.scores import predict_logits, score_logits
from jax_sis.core.subsets import Subsets
from jax_sis.core.types import Params, PredictFn, ScoreName


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
  """What a search is asked. Its arrays are leaves of the pytree; the rest is static.

  Attributes:
    params: the model's arrays.
    inputs: the normalised batch.
    targets: the class in question.
    baseline: what masked features show, as `masking.check_baseline` returns it.
    available: the features that may be kept at all.
    predict_fn: the classifier.
    grid: the mask's shape.
    score: what is kept up, or raised.
  """

  params: Params
  inputs: Float[Array, "B ..."]
  targets: Int[Array, "B"]
  baseline: Float[Array, "B ..."]
  available: Bool[Array, "B F"]
  predict_fn: PredictFn = dataclasses.field(metadata={"static": True})
  grid: tuple[int, ...] = dataclasses.field(metadata={"static": True})
  score: ScoreName = dataclasses.field(metadata={"static": True})

  @property
  def num_images(self) -> int:
    return self.inputs.shape[0]

  @property
  def num_features(self) -> int:
    return masking.num_features(self.grid)

  def in_log_odds(self) -> "Problem":
    """The same problem, with scores that are never rounded to a common 1.0."""
    return dataclasses.replace(self, score="log_odds")

  def restrict(self, available: Bool[Array, "B #F"]) -> "Problem":
    """The same problem with only those of its features available that are True here, too."""
    return dataclasses.replace(self, available=self.available & available)

  def take(self, images: Int[Array, "N"]) -> "Problem":
    inputs, targets, baseline, available = (
      array[images] for array in (self.inputs, self.targets, self.baseline, self.available)
    )
    return dataclasses.replace(self, inputs=inputs, targets=targets, baseline=baseline, available=available)

  def predict_masked(self, masks: Shaped[Array, "N F"]) -> Float[Array, "N K"]:
    """The logits of N // B masked variants of each image, one image after the other.

    Args:
      masks: what is kept, Boolean or between 0 and 1.
    """
    masks = masks.astype(jnp.result_type(float))
    repeats = masks.shape[0] // self.num_images
    inputs, baseline = (repeat_images(array, repeats) for array in (self.inputs, self.baseline))
    return self.predict_fn(self.params, masking.mask_inputs(inputs, masks, baseline=baseline, grid=self.grid))

  def score_logits(self, logits: Float[Array, "B M K"]) -> Float[Array, "B M"]:
    """The scores of M variants of each image."""
    score_fn = functools.partial(score_logits, score=self.score)
    return jax.vmap(score_fn, in_axes=(1, None), out_axes=1)(logits, self.targets)

  def score_masks(self, masks: Shaped[Array, "B M F"]) -> Float[Array, "B M"]:
    """The scores of each image under M masks of its own."""
    logits = self.predict_masked(masks.reshape(-1, masks.shape[2]))
    return self.score_logits(logits.reshape(*masks.shape[:2], -1))

  def make_order(
    self, *, rank: Int[Array, "B F"], confidence: Float[Array, "B T"], finite: Bool[Array, "B"], sizes: tuple[int, ...]
  ) -> FeatureOrder:
    """An order of the features as the answer; arguments as in FeatureOrder."""
    return FeatureOrder(
      rank=rank,
      confidence=confidence,
      target=self.targets,
      finite=finite,
      baseline=self.baseline,
      sizes=sizes,
      grid=self.grid,
      score=self.score,
    )


def repeat_images(array: Shaped[Array, "B ..."], repeats: int) -> Shaped[Array, "N ..."]:
  """Each image `repeats` times, next to each other."""
  shape = (array.shape[0], repeats, *array.shape[1:])
  return jnp.broadcast_to(array[:, None], shape).reshape(-1, *array.shape[1:])


def check_problem(
  predict_fn: PredictFn,
  params: Any,
  inputs: Any,
  targets: Any,
  *,
  baseline: Any,
  grid: tuple[int, ...] | None,
  available: Any,
  score: ScoreName,
) -> Problem:
  """Checks the arguments that all searches share, and fills in targets, baseline, grid and available features.

  Raises:
    ValueError: as for `backselect`.
  """
  inputs = validation.check_inputs(inputs)
  grid = masking.check_grid(grid, inputs.shape[1:])
  validation.check_score(score)
  num_classes = validation.check_predict_fn(predict_fn, params, inputs)
  targets = validation.check_targets(targets, num_images=inputs.shape[0], num_classes=num_classes)
  available = validation.check_available(available, num_images=inputs.shape[0], grid=grid)
  baseline = masking.check_baseline(baseline, inputs)
  validation.check_values(predict_fn, params, inputs, baseline)
  if targets is None:
    targets = predict_logits(predict_fn, params, inputs).argmax(-1).astype(jnp.int32)
  problem = Problem(
    params=params,
    inputs=inputs,
    targets=targets,
    baseline=baseline,
    available=available,
    predict_fn=predict_fn,
    grid=grid,
    score=score,
  )
  return vary_alike(problem)


def make_problem(
  predict_fn: PredictFn,
  params: Params,
  inputs: Float[Array, "B ..."],
  targets: Int[Array, "B"],
  *,
  baseline: float,
  grid: tuple[int, ...],
  score: ScoreName,
) -> Problem:
  """A problem with all features available, of parts that are known to fit: `check_problem` without a trace of them."""
  return Problem(
    params=params,
    inputs=inputs,
    targets=targets,
    baseline=masking.check_baseline(baseline, inputs),
    available=validation.check_available(None, num_images=inputs.shape[0], grid=grid),
    predict_fn=predict_fn,
    grid=grid,
    score=score,
  )


def check_answered(
  predict_fn: PredictFn, params: Any, inputs: Any, answer: FeatureOrder | Subsets, *, available: Any = None
) -> Problem:
  """The problem that an order or subsets answer, scored by log-odds, as whatever reads them again does.

  Raises:
    ValueError: the classifier or the inputs cannot be those that they are of.
  """
  inputs = validation.check_inputs(inputs)
  num_classes = validation.check_predict_fn(predict_fn, params, inputs)
  num_answered = answer.target.shape[0]
  if num_answered != inputs.shape[0]:
    subject = "the order is" if isinstance(answer, FeatureOrder) else "the subsets are"
    raise ValueError(f"inputs must be the {num_answered} that {subject} of, got {inputs.shape[0]}.")
  masking.check_grid(answer.grid, inputs.shape[1:])
  validation.check_targets(answer.target, num_images=num_answered, num_classes=num_classes)
  problem = Problem(
    params=params,
    inputs=inputs,
    targets=answer.target,
    baseline=answer.baseline,
    available=validation.check_available(available, num_images=num_answered, grid=answer.grid),
    predict_fn=predict_fn,
    grid=answer.grid,
    score="log_odds",
  )
  return vary_alike(problem)
