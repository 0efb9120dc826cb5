"""Layer masking: a convolutional network without a part of its image (Balasubramanian and Feizi, ICCV 2023).

Which positions are there goes through the network beside the activations. Before a convolution, positions that are
missing are filled from those around them, as far as the kernel reaches; after it, a position is there if any in its
window was. Pooling is over what is there. So neither a colour nor an edge stands where the image is masked.

The network is taken as JAX traced it (`layer_rules.py` has the table of primitives). Convolutions in a form of our own,
with their own gradients, are called as they are.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_sis.core import traced
from jax_sis.core.layer_rules import step
from jax_sis.core.masked import Masked
from jax_sis.core.types import Params, PredictFn


@dataclasses.dataclass(frozen=True)
class LayerMasked:
  """The PresenceFn of a network of convolutions."""

  predict_fn: PredictFn

  def __call__(
    self, params: Params, inputs: Float[Array, "N H W C"], present: Float[Array, "N H W"]
  ) -> Float[Array, "N K"]:
    """The logits without the positions that are not present; what the inputs hold there changes nothing.

    A position is present from 0.5 on. The derivative by `present` is that of a factor of the inputs: none flows through
    what the mask does further on.

    Raises:
      ValueError: the network has a step to which layer masking cannot be applied, which is named.
    """
    closed, shapes = jax.make_jaxpr(self.predict_fn, return_shape=True)(params, inputs)
    is_there = (present >= 0.5)[..., None]
    # Exactly zero, with the derivative of the product.
    slope = (present - jax.lax.stop_gradient(present))[..., None]
    shown = jnp.where(is_there, inputs, 0) + slope * jnp.where(jnp.isfinite(inputs), inputs, 0)
    image = Masked(value=shown, mask=is_there.astype(inputs.dtype), roles="nhwc", is_hidden=True)
    outputs = traced.evaluate(traced.as_program(closed), [*jax.tree.leaves(params), image], step)
    return jax.tree.unflatten(jax.tree.structure(shapes), outputs)
