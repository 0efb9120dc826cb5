"""What a device computes: what the classifier says of whole images, and of a region alone or by a component."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jax_sis.classifiers.linear_head import FeaturesFn
from jax_sis.core.drawing import Purpose
from jax_sis.core.problem import make_problem
from jax_sis.core.scores import log_odds, predict_logits, probability
from jax_sis.core.types import PredictFn, Removal
from jax_sis.runs.completion import CompletionSettings
from jax_sis.studies.ranking.summaries import NO_CLASS


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
  """Shows images as a whole, and one region of them.

  Draws are the same for all images, so that luck in them puts no image before another.

  Attributes:
    predict_fn: the classifier.
    region: the pixels that are shown.
    removal: how the others are removed.
    completion: what they show; without a kind, the mean colour.
  """

  predict_fn: PredictFn
  region: Bool[np.ndarray, "H W"]
  removal: Removal
  completion: CompletionSettings

  def __call__(
    self,
    params: tuple[Any, dict[str, Array]],
    inputs: Float[Array, "B H W C"],
    labels: Int[Array, "B"],
  ) -> dict[str, Array]:
    """For each image, the class predicted and the label's probability; of the region the class and its evidence.

    Evidence is the label's log-odds, over draws of the geometric mean of the probabilities, to which every draw has its
    say; the class is that of their mean.

    Args:
      params: the classifier's arrays, and the pool, if there is one.
      inputs: the images.
      labels: the classes whose evidence is asked for.
    """
    classifier_params, beside = params
    distribution = None if self.completion.kind is None else self.completion.distribution(beside.get("pool"))
    whole = predict_logits(self.predict_fn, classifier_params, inputs)
    key = jax.random.key(self.completion.seed)
    problem = make_problem(
      self.predict_fn,
      classifier_params,
      inputs,
      labels,
      baseline=0.0,
      grid=(*self.region.shape, 1),
      score="log_odds",
      distribution=distribution,
      keys=None if distribution is None else jnp.broadcast_to(key, len(inputs)),
      removal=self.removal,
    )
    masks = jnp.broadcast_to(jnp.asarray(self.region.reshape(-1)), (len(inputs), self.region.size))
    alone = problem.predict(masks, purpose=Purpose.MEASURE)
    return {
      "predicted": whole.argmax(-1).astype(jnp.int32),
      "probability": probability(whole, labels),
      "evidence": log_odds(alone.ranking, labels),
      "alone": alone.logits.argmax(-1).astype(jnp.int32),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComponentJudge:
  """Shows whole images, and reads the component of each one's class.

  Attributes:
    predict_fn: the classifier.
    features_fn: what its logits are a linear function of.
  """

  predict_fn: PredictFn
  features_fn: FeaturesFn

  def __call__(
    self,
    params: tuple[Any, dict[str, Array]],
    inputs: Float[Array, "B H W C"],
    labels: Int[Array, "B"],
  ) -> dict[str, Array]:
    """The same as `Judge`; evidence is the component, in units of the logit, and no class is that of a part.

    Args:
      params: the classifier's arrays, and of each class the component's `weights` `[K, E]` and `offsets`.
      inputs: the images.
      labels: the classes whose components are asked for.
    """
    classifier_params, components = params
    whole = predict_logits(self.predict_fn, classifier_params, inputs)
    features = self.features_fn(classifier_params, inputs)
    return {
      "predicted": whole.argmax(-1).astype(jnp.int32),
      "probability": probability(whole, labels),
      "evidence": (features * components["weights"][labels]).sum(-1) - components["offsets"][labels],
      "alone": jnp.full_like(labels, NO_CLASS),
    }
