"""How masked features are removed: by what they show in their place, or inside the network.

By value, masked features show a baseline or a completion, and the classifier is what it always was. Inside the network
they are absent: what an image holds there changes nothing, and nothing stands in its place. Both are needed, for they
answer two questions, see docs/removal.md.
"""

import dataclasses
from typing import Any, get_args

import jax
from jaxtyping import Array, Float

from jax_sis.core.features import Features, describe_features, to_stored
from jax_sis.core.layer_masking import LayerMasked
from jax_sis.core.messages import first_line
from jax_sis.core.types import Params, PredictFn, PresenceFn, Removal
from jax_sis.core.validation import require_one_of


@dataclasses.dataclass(frozen=True)
class PresentPredictor:
  """A classifier that also knows what to do without a part of its image."""

  predict_fn: PredictFn
  presence_fn: PresenceFn

  def __call__(self, params: Params, inputs: Float[Array, "B ..."]) -> Float[Array, "B K"]:
    """The logits of whole images."""
    return self.predict_fn(params, inputs)


def with_presence(predict_fn: PredictFn, presence_fn: PresenceFn) -> PredictFn:
  """The same classifier, which for `removal="tokens"` is asked through `presence_fn`.

  Args:
    predict_fn: as for `backselect`.
    presence_fn: `(params, inputs [N, H, W, C], present [N, H, W]) -> logits [N, K]`, hashable as `predict_fn` must be.
      `present` is 1 where a position is there, and 0 where it is removed. With nothing removed, the logits must be
      those of `predict_fn`; what the inputs hold at removed positions must change nothing. Searches by gradients
      differentiate by `present`.

  Returns:
    A `predict_fn`, which on whole images is the one that was given. Searches look whether both fit the inputs.

  Examples:
    A mean over the positions that are there. One of two is as good as both (in per cent), where a zero in the place of
    the other would halve the mean:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict(params, inputs):
    ...   return inputs.mean((1, 2)) @ params
    >>> def predict_present(params, inputs, present):
    ...   share = present / present.sum((1, 2), keepdims=True).clip(1e-6)
    ...   return (inputs * share[..., None]).sum((1, 2)) @ params
    >>> predict_fn, params = jax_sis.with_presence(predict, predict_present), jnp.array([[1.0, 0.0]])
    >>> order = jax_sis.backselect(predict_fn, params, jnp.full((1, 2, 1, 1), 5.0), removal="tokens")
    >>> order.sizes, (100 * order.confidence).round().astype(int).tolist()
    ((0, 1, 2), [[50, 99, 99]])
  """
  return PresentPredictor(predict_fn, presence_fn)


def find_presence_fn(predict_fn: PredictFn, removal: Removal) -> PresenceFn:
  """The classifier as it is asked with features removed inside it.

  For tokens that is `presence_fn`, an attribute of `predict_fn`; None for a network without tokens.

  Raises:
    ValueError: there is none.
  """
  if removal == "layer":
    return LayerMasked(predict_fn)
  presence_fn: PresenceFn | None = getattr(predict_fn, "presence_fn", None)
  if presence_fn is None:
    raise ValueError(
      'removal "tokens" is for classifiers that can leave tokens out, and this predict_fn has no presence_fn; give '
      'jax_sis.with_presence(predict_fn, presence_fn), or for a network of convolutions removal="layer".'
    )
  return presence_fn


def check_removal(
  removal: Any, predict_fn: PredictFn, params: Any, inputs: Array, *, features: Features, completion: Any
) -> None:
  """Traces the classifier with features removed, without running it.

  Raises:
    ValueError: there is no such removal, or it fits the classifier, the inputs, the features or the completion not.
  """
  require_one_of("removal", removal, get_args(Removal))
  if removal == "value":
    return
  if completion is not None:
    raise ValueError(
      f'completion must not be given with removal="{removal}", under which masked features show nothing at all, got '
      f"{type(completion).__name__}; leave one of them out."
    )
  if inputs.ndim != 4 or not features.holds_whole_positions:
    raise ValueError(
      f'removal="{removal}" is for whole positions of images [B, H, W, C], with a grid (h, w, 1) or a label map '
      f"[H, W], got inputs of shape {inputs.shape} and {describe_features(to_stored(features), features.shape)}."
    )
  presence_fn = find_presence_fn(predict_fn, removal)
  present = jax.ShapeDtypeStruct(inputs.shape[:3], inputs.dtype)
  expected = jax.eval_shape(predict_fn, params, inputs).shape
  try:
    shape = getattr(jax.eval_shape(presence_fn, params, inputs, present), "shape", None)
  except ValueError:
    raise
  except Exception as error:
    raise ValueError(
      f"presence_fn must accept (params, inputs, present) with present {list(present.shape)}, but raised "
      f"{type(error).__name__}: {first_line(error)}"
    ) from error
  if shape != expected:
    raise ValueError(f"presence_fn must return logits of shape {list(expected)}, as predict_fn does, got {shape}.")
