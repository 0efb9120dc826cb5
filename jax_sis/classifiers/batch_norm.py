"""Flax's batch norm with a handwritten gradient, which reads the activations fewer times."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float


class BatchNorm(nnx.BatchNorm):
  """`nnx.BatchNorm` over all axes but the last; in training several times as fast on CPUs."""

  def __call__(
    self, x: Float[Array, "... C"], use_running_average: bool | None = None, *, mask: Array | None = None
  ) -> Float[Array, "... C"]:
    """The normalised inputs; in training, running statistics move towards the batch's."""
    evaluates = self.use_running_average if use_running_average is None else use_running_average
    if evaluates or mask is not None:
      return super().__call__(x, use_running_average, mask=mask)
    # Flax types the scale and bias of a norm as optional; ours always has them.
    assert self.scale is not None and self.bias is not None
    outputs, mean, variance = normalise(x, self.scale[...], self.bias[...], self.epsilon)
    for running, value in ((self.mean, mean), (self.var, variance)):
      running[...] = self.momentum * running[...] + (1 - self.momentum) * value.astype(running.dtype)
    return outputs


def _normalise(
  inputs: Float[Array, "... C"], scale: Float[Array, "C"], bias: Float[Array, "C"], epsilon: float
) -> tuple[Float[Array, "... C"], Float[Array, "C"], Float[Array, "C"]]:
  return _normalise_forward(inputs, scale, bias, epsilon)[0]


normalise = jax.custom_vjp(_normalise, nondiff_argnums=(3,))
"""The inputs, normalised by the batch's mean and biased variance, scaled and shifted; also that mean and variance.

Mean and variance are for the running statistics: no gradient passes through them.
"""


def _normalise_forward(inputs: Array, scale: Array, bias: Array, epsilon: float) -> tuple[tuple, tuple]:
  axes = tuple(range(inputs.ndim - 1))
  mean = inputs.mean(axes)
  variance = jnp.maximum(jnp.square(inputs).mean(axes) - jnp.square(mean), 0)
  inverse = lax.rsqrt(variance + epsilon)
  factor = scale * inverse
  return (inputs * factor + (bias - mean * factor), mean, variance), (inputs, mean, inverse, scale)


def _normalise_backward(epsilon: float, residuals: tuple, cotangents: tuple) -> tuple[Array, Array, Array]:
  """Ioffe and Szegedy (2015), section 3, sorted by powers of the inputs: one pass for the sums, one for the rest."""
  del epsilon
  inputs, mean, inverse, scale = residuals
  cotangent, _, _ = cotangents
  axes = tuple(range(inputs.ndim - 1))
  num_values = inputs.size // inputs.shape[-1]
  bias_gradient = cotangent.sum(axes)
  scale_gradient = ((cotangent * inputs).sum(axes) - mean * bias_gradient) * inverse
  factor = scale * inverse
  slope = -factor * inverse * scale_gradient / num_values
  offset = -factor * bias_gradient / num_values - mean * slope
  return cotangent * factor + inputs * slope + offset, scale_gradient, bias_gradient


normalise.defvjp(_normalise_forward, _normalise_backward)
