"""On how many draws of a condition an order keeps the class, at each of its sizes; what one device computes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jax_sis.core.chunks import settle_chunk_size
from jax_sis.core.completions import Blur, Distribution, Images, Noise
from jax_sis.core.drawing import Purpose, divide_draws, keeping_class, repeat_images
from jax_sis.core.problem import Problem, make_problem
from jax_sis.core.types import Params, PredictFn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judge:
  """Shows the first pixels of orders under one condition.

  Draws are keyed by the image and the seed alone, at the empty mask whatever is kept, so that all orders and sizes are
  judged on the same ones.

  Attributes:
    condition: a key of CONDITIONS.
    predict_fn: the classifier.
    grid: the mask's shape.
    sizes: how many of the first pixels are kept.
    num_draws: how often.
    num_added: of the pixels that come in, where the condition is `added`.
    baseline: what masked pixels show there.
    seed: of the draws.
  """

  condition: str
  predict_fn: PredictFn
  grid: tuple[int, ...]
  sizes: tuple[int, ...]
  num_draws: int
  num_added: int
  baseline: float
  seed: int

  def __call__(
    self,
    params: tuple[Params, Float[Array, "P H W C"] | None],
    inputs: Float[Array, "B H W C"],
    rank: Int[Array, "B F"],
    targets: Int[Array, "B"],
    numbers: Int[Array, "B"],
  ) -> Int[Array, "B S"]:
    """The number of draws on which the class is kept.

    Args:
      params: the classifier's arrays, and for `images` the pool.
      inputs: the images.
      rank: as in a FeatureOrder.
      targets: the class in question.
      numbers: of the images, of which their keys are made.
    """
    classifier_params, pool = params
    distribution = self.make_distribution(pool)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(self.seed), numbers)
    problem = make_problem(
      self.predict_fn,
      classifier_params,
      inputs,
      targets,
      baseline=self.baseline,
      grid=self.grid,
      score="log_odds",
      distribution=distribution,
      keys=keys,
    )
    kept = rank[:, None] < jnp.asarray(self.sizes, rank.dtype)[None, :, None]
    masks = kept.reshape(-1, kept.shape[-1])
    if distribution is None:
      count = count_after_adding(problem, masks, self.num_draws, self.num_added)
    else:
      count = count_on_draws(problem, masks, self.num_draws)
    return count.reshape(len(inputs), -1)

  def make_distribution(self, pool: Any) -> Distribution | None:
    """What masked pixels show; None where true pixels come in instead."""
    match self.condition:
      case "images":
        return Images(pool=pool, num_draws=self.num_draws)
      case "noise":
        return Noise(num_draws=self.num_draws)
      case "blur":
        return Blur(num_draws=self.num_draws)
    return None


def count_on_draws(problem: Problem, masks: Bool[Array, "N F"], num_draws: int) -> Int[Array, "N"]:
  """On how many draws of its distribution the class is kept, the same draws for all masks of an image."""
  shown = masks.astype(jnp.result_type(float))
  logits = problem.predict_draws(shown, jnp.zeros_like(shown), num_draws, purpose=Purpose.MEASURE)
  return keeping_class(logits, repeat_targets(problem, masks)).sum(1, dtype=jnp.int32)


def count_after_adding(problem: Problem, masks: Bool[Array, "N F"], num_draws: int, num_added: int) -> Int[Array, "N"]:
  """How often the class is kept when so many other pixels of the image come in, on the baseline."""
  assert problem.keys is not None
  num_masks = len(masks)
  keys = repeat_images(problem.keys, num_masks // problem.num_images)
  targets = repeat_targets(problem, masks)

  def count_chunk(numbers: Int[Array, "C"]) -> Int[Array, "N"]:
    grow = jax.vmap(jax.vmap(add_features, in_axes=(None, None, 0, None)), in_axes=(0, 0, None, None))
    grown = grow(masks, keys, numbers, num_added)
    logits = problem.predict_masked(grown.reshape(-1, masks.shape[1]))
    return keeping_class(logits.reshape(num_masks, len(numbers), -1), targets).sum(1, dtype=jnp.int32)

  chunks = divide_draws(num_draws, num_masks, settle_chunk_size(None, problem.inputs))
  return jax.lax.map(count_chunk, chunks).sum(0)


def repeat_targets(problem: Problem, masks: Bool[Array, "N F"]) -> Int[Array, "N"]:
  return repeat_images(problem.targets, len(masks) // problem.num_images)


def add_features(
  kept: Bool[Array, "F"], key: Key[Array, ""], number: Int[Array, ""], num_added: int
) -> Bool[Array, "F"]:
  """The mask and others of its image beside it: the first `num_added` that it lacks, all features put in an order.

  That order depends on the key and the draw alone.
  """
  key = jax.random.fold_in(jax.random.fold_in(key, Purpose.MEASURE), number)
  features = jax.random.permutation(key, len(kept))
  is_missing = ~kept[features]
  is_added = is_missing & (jnp.cumsum(is_missing) <= num_added)
  return kept.at[features].set(~is_missing | is_added)
