"""How a backward step chooses what to mask next.

A search turns the features that are still kept into preferences: the highest are masked first. The driver in
`backselect.py` does the rest, so a new way to choose is a new function here and nothing else.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from jax_sis import masking
from jax_sis.types import PredictFn

# Kept masks `[N, F]`, as numbers in 0..1, of N // B variants of each of the B images, one image after the other
# -> logits `[N, K]`.
MaskedLogitsFn = Callable[[Float[Array, "N F"]], Float[Array, "N K"]]
# Logits `[B, N // B, K]` -> the score of each image's target `[B, N // B]`.
ScoreFn = Callable[[Float[Array, "B M K"]], Float[Array, "B M"]]


def make_logits_fn(
  predict_fn: PredictFn,
  params: Any,
  inputs: Float[Array, "B ..."],
  baseline: Float[Array, "B ..."],
  grid: tuple[int, ...],
) -> MaskedLogitsFn:
  """Binds a classifier to a batch: what remains is a function of the masks."""

  def logits_fn(masks: Float[Array, "N F"]) -> Float[Array, "N K"]:
    repeats = masks.shape[0] // inputs.shape[0]
    variants, baselines = (repeat_images(array, repeats) for array in (inputs, baseline))
    return predict_fn(params, masking.mask_inputs(variants, masks, baseline=baselines, grid=grid))

  return logits_fn


def repeat_images(array: Shaped[Array, "B ..."], repeats: int) -> Shaped[Array, "N ..."]:
  """Each image `repeats` times, next to each other."""
  shape = (array.shape[0], repeats, *array.shape[1:])
  return jnp.broadcast_to(array[:, None], shape).reshape(-1, *array.shape[1:])


class Evaluation(NamedTuple):
  """What a search sees at the current mask."""

  logits: Float[Array, "B K"]
  preference: Float[Array, "B F"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gradient:
  """Batched Gradient SIS: one gradient ranks all features (Carter et al. 2021, section 3 and algorithm 2).

  The score is differentiated with respect to the mask, and the `per_step` features whose loss costs least are
  masked together.

  Attributes:
    per_step: features masked a step. 1 gives the smallest subsets; the authors use 100 on ImageNet.
  """

  per_step: int = 1

  def __post_init__(self) -> None:
    check_positive_integer("Gradient.per_step", self.per_step)

  def evaluate(self, logits_fn: MaskedLogitsFn, score_fn: ScoreFn, kept: Bool[Array, "B F"]) -> Evaluation:
    """Logits at the current mask, and minus the gradient of the score."""

    def total_score(mask: Float[Array, "B F"]) -> tuple[Float[Array, ""], Float[Array, "B K"]]:
      logits = logits_fn(mask)
      return score_fn(logits[:, None]).sum(), logits

    gradient, logits = jax.grad(total_score, has_aux=True)(kept.astype(jnp.result_type(float)))
    return Evaluation(logits, -gradient)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exact:
  """BackSelect: every remaining feature is tried, and the one whose loss leaves the score highest is masked.

  F (F + 1) / 2 evaluations an image (Carter et al. 2019, algorithm 1): 524,800 for 1,024 pixels.

  Attributes:
    chunk_size: masked copies a model call, over all images of the batch together; it bounds the memory.
  """

  chunk_size: int = 128

  def __post_init__(self) -> None:
    check_positive_integer("Exact.chunk_size", self.chunk_size)

  @property
  def per_step(self) -> int:
    """One feature a step, always."""
    return 1

  def evaluate(self, logits_fn: MaskedLogitsFn, score_fn: ScoreFn, kept: Bool[Array, "B F"]) -> Evaluation:
    """Logits at the current mask, and the score without each kept feature."""
    logits = logits_fn(kept.astype(jnp.result_type(float)))
    return Evaluation(logits, scores_without_each(logits_fn, score_fn, kept, chunk_size=self.chunk_size))


BackwardSearch = Gradient | Exact


def scores_without_each(
  logits_fn: MaskedLogitsFn, score_fn: ScoreFn, kept: Bool[Array, "B F"], *, chunk_size: int
) -> Float[Array, "B F"]:
  """The score of each image with one kept feature masked in addition, for every kept feature; -inf elsewhere.

  Only as many model calls are made as the image with the most kept features needs.

  Args:
    logits_fn: masks -> logits.
    score_fn: logits -> scores.
    kept: the features that are kept now.
    chunk_size: masked copies a model call, over all images together.
  """
  num_images, num_features = kept.shape
  per_image = min(max(chunk_size // num_images, 1), num_features)
  num_chunks = -(-num_features // per_image)
  # Kept features first, in ascending order; a stable sort keeps them so.
  candidates = jnp.argsort(~kept, axis=1, stable=True)
  candidates = jnp.pad(candidates, ((0, 0), (0, num_chunks * per_image - num_features)), constant_values=num_features)
  features = jnp.arange(num_features)[None, None]

  def score_chunk(index: Array, scores: Float[Array, "B P"]) -> Float[Array, "B P"]:
    start = index * per_image
    chunk = jax.lax.dynamic_slice_in_dim(candidates, start, per_image, axis=1)
    masks = kept[:, None] & (features != chunk[:, :, None])
    logits = logits_fn(masks.reshape(-1, num_features).astype(jnp.result_type(float)))
    chunk_scores = score_fn(logits.reshape(num_images, per_image, -1))
    return jax.lax.dynamic_update_slice_in_dim(scores, chunk_scores.astype(scores.dtype), start, axis=1)

  num_needed = -(-kept.sum(1).max() // per_image)
  scores = jnp.full(candidates.shape, -jnp.inf, jnp.result_type(float))
  scores = jax.lax.fori_loop(0, num_needed, score_chunk, scores)
  rows = jnp.arange(num_images)[:, None]
  by_feature = jnp.full(kept.shape, -jnp.inf, scores.dtype).at[rows, candidates].set(scores, mode="drop")
  return jnp.where(kept, by_feature, -jnp.inf)


def check_positive_integer(name: str, value: int) -> None:
  """Raises ValueError unless `value` is an integer of at least 1."""
  if isinstance(value, bool) or not isinstance(value, int) or value < 1:
    raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")
