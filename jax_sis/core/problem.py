"""The problem that a search is given, checked: a classifier, its images, and what counts as an answer."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped, UInt32

from jax_sis.core import masking, validation
from jax_sis.core.chunks import settle_chunk_size
from jax_sis.core.completion_checks import check_completion, check_keys
from jax_sis.core.completions import Distribution
from jax_sis.core.drawing import (
  Purpose,
  aggregate_logits,
  divide_draws,
  draw_fills,
  keeping_class,
  repeat_images,
)
from jax_sis.core.features import Features, check_features, from_stored, to_stored
from jax_sis.core.label_maps import LabelMap
from jax_sis.core.meshes import vary_alike
from jax_sis.core.order import FeatureOrder
from jax_sis.core.questions import PASS_MARK, Question
from jax_sis.core.removal import check_removal, find_presence_fn
from jax_sis.core.scores import predict_logits, score_logits
from jax_sis.core.subsets import Subsets
from jax_sis.core.types import Params, PredictFn, Removal, ScoreName


class Prediction(NamedTuple):
  """What the classifier says of masked images, on each side of them that a question has.

  Attributes:
    logits: what confidences are about; over the draws of a distribution, those of the mean probability unless it
      aggregates to one draw.
    ranking: what features are chosen by; over draws, those that the distribution aggregates to.
    rate: the share of the draws on which the target is predicted; None where masked features show a constant.
  """

  logits: Float[Array, "N *S K"]
  ranking: Float[Array, "N *S K"]
  rate: Float[Array, "N *S"] | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
  """What a search is asked. Its arrays are leaves of the pytree; the rest is static.

  Attributes:
    params: the model's arrays.
    inputs: the normalised batch.
    targets: the class in question.
    baseline: what masked features show, as `masking.check_baseline` returns it; where there is a distribution, what
      they are painted in.
    available: the features that may be kept at all.
    distribution: what masked features show in its place.
    keys: of the images, for its draws.
    predict_fn: the classifier.
    features: what a mask means.
    score: what is kept up, or raised.
    removal: how masked features are removed.
    question: what a subset is asked; None for whether it suffices. Others are asked of the sides S of a subset.
  """

  params: Params
  inputs: Float[Array, "B ..."]
  targets: Int[Array, "B"]
  baseline: Float[Array, "B ..."]
  available: Bool[Array, "B F"]
  distribution: Distribution | None = None
  keys: Key[Array, "B"] | None = None
  features: Features
  predict_fn: PredictFn = dataclasses.field(metadata={"static": True})
  score: ScoreName = dataclasses.field(metadata={"static": True})
  removal: Removal = dataclasses.field(default="value", metadata={"static": True})
  question: Question | None = dataclasses.field(default=None, metadata={"static": True})

  @property
  def num_images(self) -> int:
    return self.inputs.shape[0]

  @property
  def grid(self) -> tuple[int, ...]:
    """The mask's shape."""
    return self.features.shape

  @property
  def num_features(self) -> int:
    return masking.num_features(self.grid)

  def in_log_odds(self) -> "Problem":
    """The same problem, with scores that are never rounded to a common 1.0."""
    return dataclasses.replace(self, score="log_odds")

  def restrict(self, available: Bool[Array, "B #F"]) -> "Problem":
    """The same problem with only those of its features available that are True here, too."""
    return dataclasses.replace(self, available=self.available & available)

  @property
  def key_data(self) -> UInt32[Array, "B N"] | None:
    """The images' keys as numbers, which can be stored."""
    return None if self.keys is None else jax.random.key_data(self.keys)

  @property
  def draws_tried(self) -> int:
    """The draws that a candidate is tried on, or one."""
    return self.distribution.num_tried or self.distribution.num_draws if self.distribution else 1

  @property
  def copies_tried(self) -> int:
    """Evaluations that a candidate costs."""
    return self.draws_tried * self.num_sides

  @property
  def num_sides(self) -> int:
    """Masked images that say whether a subset is what is asked for."""
    return 1 if self.question is None else self.question.num_sides

  def mark(self, threshold: Float[Array, "B"]) -> Float[Array, "B"]:
    """What the probability that a score stands for must reach: this threshold, unless the question holds its own."""
    return threshold if self.question is None else jnp.full_like(threshold, PASS_MARK)

  def take(self, images: Int[Array, "N"]) -> "Problem":
    inputs, targets, baseline, available = (
      array[images] for array in (self.inputs, self.targets, self.baseline, self.available)
    )
    features, keys = jax.tree.map(lambda array: array[images], (self.features, self.keys))
    return dataclasses.replace(
      self,
      inputs=inputs,
      targets=targets,
      baseline=baseline,
      available=available,
      keys=keys,
      features=features,
    )

  def predict_masked(self, masks: Shaped[Array, "N F"]) -> Float[Array, "N *S K"]:
    """The logits of N // B masked variants of each image, one image after the other.

    Args:
      masks: what is kept, Boolean or between 0 and 1.
    """
    return self.predict(masks).logits

  def predict(
    self,
    masks: Shaped[Array, "N F"],
    *,
    drawn_at: Shaped[Array, "N F"] | None = None,
    num_draws: int | None = None,
    purpose: Purpose = Purpose.SEARCH,
  ) -> Prediction:
    """`predict_masked`, and how often the target is predicted; the last three arguments are for a distribution alone.

    Args:
      masks: what is kept, Boolean or between 0 and 1.
      drawn_at: the masks whose draws are meant; by default their own.
      num_draws: the first of them; by default all that the distribution has.
      purpose: what the draws are for.
    """
    masks = masks.astype(jnp.result_type(float))
    repeats = masks.shape[0] // self.num_images
    if self.distribution is not None:
      count = num_draws or self.distribution.num_draws
      logits = self.predict_draws(masks, masks if drawn_at is None else drawn_at, count, purpose=purpose)
      targets = repeat_images(self.targets, repeats)
      summarise = functools.partial(summarise_draws, targets=targets, distribution=self.distribution)
      return summarise(logits) if self.question is None else jax.vmap(summarise, in_axes=2, out_axes=1)(logits)
    inputs, baseline = (repeat_images(array, repeats) for array in (self.inputs, self.baseline))
    logits = self.classify_sides(inputs, masks, baseline)
    return Prediction(logits, logits, None)

  def predict_both(self, masks: Bool[Array, "B F"]) -> Float[Array, "B 2 K"]:
    """The logits on each image's subset alone and without it, whichever the question asks, on draws to confirm it."""
    assert self.question is not None
    both = dataclasses.replace(self, question=dataclasses.replace(self.question, kind="both"))
    return both.predict(masks, purpose=Purpose.CONFIRM).logits

  def predict_draws(
    self, masks: Shaped[Array, "N F"], drawn_at: Shaped[Array, "N F"], num_draws: int, *, purpose: Purpose
  ) -> Float[Array, "N M *S K"]:
    """The logits on each of the first draws of the distribution, as many copies at a time as suit the platform."""
    assert self.distribution is not None
    assert self.keys is not None
    distribution = self.distribution
    num_masks = masks.shape[0]
    inputs, keys = (repeat_images(array, num_masks // self.num_images) for array in (self.inputs, self.keys))

    def predict_chunk(numbers: Int[Array, "C"]) -> Float[Array, "N C *S K"]:
      fills = draw_fills(distribution, keys, inputs, drawn_at, numbers, features=self.features, purpose=purpose)
      images, shown = repeat_images(inputs, numbers.size), fills.reshape(-1, *fills.shape[2:])
      logits = self.classify_sides(images, repeat_images(masks, numbers.size), shown)
      return logits.reshape(num_masks, numbers.size, *logits.shape[1:])

    chunks = divide_draws(num_draws, num_masks * self.num_sides, settle_chunk_size(None, self.inputs))
    if len(chunks) == 1:
      return predict_chunk(chunks[0])
    logits = jax.lax.map(predict_chunk, chunks)
    return jnp.moveaxis(logits, 0, 1).reshape(num_masks, num_draws, *logits.shape[3:])

  def classify_sides(
    self, inputs: Float[Array, "N ..."], masks: Shaped[Array, "N F"], shown: Float[Array, "N ..."]
  ) -> Float[Array, "N *S K"]:
    """`classify`, of all sides that the question has in one call."""
    if self.question is None:
      return self.classify(inputs, masks, shown)
    sides = self.question.sides(masks)
    inputs, shown = (repeat_images(array, self.num_sides) for array in (inputs, shown))
    logits = self.classify(inputs, sides.reshape(-1, sides.shape[-1]), shown)
    return logits.reshape(*sides.shape[:2], -1)

  def classify(
    self, inputs: Float[Array, "N ..."], masks: Shaped[Array, "N F"], shown: Float[Array, "N ..."]
  ) -> Float[Array, "N K"]:
    """The logits of images on their masks and of what is shown elsewhere, if anything is."""
    if self.removal != "value":
      present = self.features.spread(masks, inputs.shape[1:])[..., 0].astype(inputs.dtype)
      return find_presence_fn(self.predict_fn, self.removal)(self.params, inputs, present)
    return self.predict_fn(self.params, self.features.mix(inputs, masks, shown))

  def score_logits(self, logits: Float[Array, "B M *S K"]) -> Float[Array, "B M"]:
    """The scores of M variants of each image."""
    if self.question is not None:
      return jax.vmap(self.question.score, in_axes=(1, None), out_axes=1)(logits, self.targets)
    score_fn = functools.partial(score_logits, score=self.score)
    return jax.vmap(score_fn, in_axes=(1, None), out_axes=1)(logits, self.targets)

  def score_masks(
    self, masks: Shaped[Array, "B M F"], *, drawn_at: Shaped[Array, "B F"] | None = None
  ) -> Float[Array, "B M"]:
    """The scores of each image under M masks of its own, which are tried where a search has come to `drawn_at`."""
    num_variants, num_features = masks.shape[1:]
    tried_at = None if self.distribution is None or drawn_at is None else repeat_images(drawn_at, num_variants)
    logits = self.predict(masks.reshape(-1, num_features), drawn_at=tried_at, num_draws=self.draws_tried).ranking
    return self.score_logits(logits.reshape(*masks.shape[:2], *logits.shape[1:]))

  def confirm(self, masks: Bool[Array, "B F"]) -> Float[Array, "B"]:
    """The score of each image under a mask, on draws that played no part in choosing it."""
    return self.score_logits(self.predict(masks, purpose=Purpose.CONFIRM).logits[:, None])[:, 0]

  def make_order(
    self,
    *,
    rank: Int[Array, "B F"],
    confidence: Float[Array, "B T"],
    finite: Bool[Array, "B"],
    sizes: tuple[int, ...],
    rate: Float[Array, "B T"] | None = None,
  ) -> FeatureOrder:
    """An order of the features as the answer; arguments as in FeatureOrder."""
    return FeatureOrder(
      rank=rank,
      confidence=confidence,
      target=self.targets,
      finite=finite,
      baseline=self.baseline,
      rate=rate,
      keys=self.key_data,
      sizes=sizes,
      features=to_stored(self.features),
      grid=self.grid,
      score=self.score,
      removal=self.removal,
      question=self.question,
    )


def summarise_draws(
  logits: Float[Array, "N M K"], *, targets: Int[Array, "N"], distribution: Distribution
) -> Prediction:
  """What the logits on all draws come to."""
  rate = keeping_class(logits, targets).mean(1, dtype=jnp.result_type(float))
  ranking = aggregate_logits(logits, targets, aggregate=distribution.aggregate)
  judged = aggregate_logits(logits, targets, aggregate=distribution.judged_by)
  return Prediction(judged, ranking, rate)


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
  completion: Any = None,
  keys: Any = None,
  removal: Removal = "value",
  question: Question | None = None,
  features: Any = None,
) -> Problem:
  """Checks the arguments that all searches share, and fills in targets, baseline, grid and available features.

  Raises:
    ValueError: as for `backselect`.
  """
  inputs = validation.check_inputs(inputs)
  checked = check_features(features, grid, inputs)
  validation.check_score(score)
  num_classes = validation.check_predict_fn(predict_fn, params, inputs)
  targets = validation.check_targets(targets, num_images=inputs.shape[0], num_classes=num_classes)
  available = check_available(available, checked, num_images=inputs.shape[0])
  check_removal(removal, predict_fn, params, inputs, features=checked, completion=completion)
  baseline, distribution = check_completion(completion, baseline, inputs, checked)
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
    distribution=distribution,
    keys=None if distribution is None else check_keys(keys, inputs.shape[0]),
    features=checked,
    predict_fn=predict_fn,
    score=score,
    removal=removal,
    question=question,
  )
  return vary_alike(problem)


def check_available(available: Any, features: Features, *, num_images: int) -> Bool[Array, "B F"]:
  """The features that may be kept, of those that an image has; ValueError as for `validation.check_available`."""
  allowed = validation.check_available(available, num_images=num_images, grid=features.shape)
  existing = features.existing()
  return allowed if existing is None else allowed & existing


def make_problem(
  predict_fn: PredictFn,
  params: Params,
  inputs: Float[Array, "B ..."],
  targets: Int[Array, "B"],
  *,
  baseline: float,
  grid: tuple[int, ...],
  score: ScoreName,
  distribution: Distribution | None = None,
  keys: Key[Array, "B"] | None = None,
  removal: Removal = "value",
  question: Question | None = None,
  features: LabelMap | None = None,
) -> Problem:
  """A problem with all features available, of parts that are known to fit: `check_problem` without a trace of them."""
  meant = from_stored(features, grid)
  return Problem(
    params=params,
    inputs=inputs,
    targets=targets,
    baseline=masking.check_baseline(baseline, inputs),
    available=check_available(None, meant, num_images=inputs.shape[0]),
    distribution=distribution,
    keys=keys,
    features=meant,
    predict_fn=predict_fn,
    score=score,
    removal=removal,
    question=question,
  )


def check_answered(
  predict_fn: PredictFn,
  params: Any,
  inputs: Any,
  answer: FeatureOrder | Subsets,
  *,
  available: Any = None,
  completion: Any = None,
  keys: Any = None,
  removal: Removal | None = None,
) -> Problem:
  """The problem that an order or subsets answer, scored by log-odds, as whatever reads them again does.

  Without a completion masked features show the answer's own baseline; without that and a removal, they are removed as
  they were for the answer.

  Raises:
    ValueError: the classifier or the inputs cannot be those that they are of.
  """
  inputs = validation.check_inputs(inputs)
  num_classes = validation.check_predict_fn(predict_fn, params, inputs)
  num_answered = answer.target.shape[0]
  if num_answered != inputs.shape[0]:
    subject = "the order is" if isinstance(answer, FeatureOrder) else "the subsets are"
    raise ValueError(f"inputs must be the {num_answered} that {subject} of, got {inputs.shape[0]}.")
  features = check_features(answer.features, None if answer.features is not None else answer.grid, inputs)
  validation.check_targets(answer.target, num_images=num_answered, num_classes=num_classes)
  if removal is None:
    removal = answer.removal if completion is None else "value"
  check_removal(removal, predict_fn, params, inputs, features=features, completion=completion)
  baseline, distribution = check_completion(completion, 0.0, inputs, features)
  is_other_constant = completion is not None and distribution is None
  problem = Problem(
    params=params,
    inputs=inputs,
    targets=answer.target,
    baseline=masking.check_baseline(baseline, inputs) if is_other_constant else answer.baseline,
    available=check_available(available, features, num_images=num_answered),
    distribution=distribution,
    keys=None if distribution is None else check_keys(keys, num_answered),
    features=features,
    predict_fn=predict_fn,
    score="log_odds",
    removal=removal,
    question=answer.question,
  )
  return vary_alike(problem)
