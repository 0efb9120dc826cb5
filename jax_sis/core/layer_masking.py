"""Layer masking: a convolutional network without a part of its image (Balasubramanian and Feizi, ICCV 2023)."""

import dataclasses

from jaxtyping import Array, Float

from jax_sis.core.types import Params, PredictFn


@dataclasses.dataclass(frozen=True)
class LayerMasked:
  """The PresenceFn of a network of convolutions."""

  predict_fn: PredictFn

  def __call__(
    self, params: Params, inputs: Float[Array, "N H W C"], present: Float[Array, "N H W"]
  ) -> Float[Array, "N K"]:
    """The logits without what is not present."""
    raise ValueError('removal "layer" is not there yet.')
