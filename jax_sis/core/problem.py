"""What a search is asked, checked, and a classifier bound to it as a function of masks."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from jax_sis.core import masking, validation
from jax_sis.core.scores import predict_logits, score_logits
from jax_sis.core.types import PredictFn, ScoreName


class Question(NamedTuple):
  """What a search is asked, checked: the arrays in the order in which searches take them, and the grid."""

  arrays: tuple[Float[Array, "B ..."], Int[Array, "B"], Float[Array, "B ..."], Bool[Array, "B F"]]
  grid: tuple[int, ...]


def check_question(
  predict_fn: PredictFn,
  params: Any,
  inputs: Any,
  targets: Any,
  baseline: Any,
  grid: tuple[int, ...] | None,
  available: Any,
  score: ScoreName,
) -> Question:
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
  validation.check_examples_independent(predict_fn, params, inputs, baseline)
  if targets is None:
    targets = predict_logits(predict_fn, params, inputs).argmax(-1).astype(jnp.int32)
  return Question((inputs, targets, baseline, available), grid)


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


def make_score_fn(targets: Int[Array, "B"], score: ScoreName) -> ScoreFn:
  """Binds the named score to the targets of a batch."""

  def score_fn(logits: Float[Array, "B M K"]) -> Float[Array, "B M"]:
    return jax.vmap(functools.partial(score_logits, score=score), in_axes=(1, None), out_axes=1)(logits, targets)

  return score_fn


def repeat_images(array: Shaped[Array, "B ..."], repeats: int) -> Shaped[Array, "N ..."]:
  """Each image `repeats` times, next to each other."""
  shape = (array.shape[0], repeats, *array.shape[1:])
  return jnp.broadcast_to(array[:, None], shape).reshape(-1, *array.shape[1:])
