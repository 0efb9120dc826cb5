"""The parts that vision transformers and ConvNeXt share: patches, layer norm, and two linear layers."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

LAYER_NORM_EPSILON = 1e-6
# Dosovitskiy et al. (2021) and Liu et al. (2022) start from such a truncated normal distribution.
INITIAL_STD = 0.02
Activation = Literal["gelu", "relu"]
ACTIVATIONS = {"gelu": functools.partial(jax.nn.gelu, approximate=False), "relu": jax.nn.relu}


class PatchConv(nnx.Module):
  """A convolution of squares side by side, `[B, H, W, C]` -> `[B, H // size, W // size, D]`, as one matrix product.

  Pixels that fill no square are left out, as in PyTorch.
  """

  def __init__(self, in_width: int, width: int, size: int, *, rngs: nnx.Rngs):
    init_fn = nnx.initializers.truncated_normal(INITIAL_STD)
    self.kernel = nnx.Param(init_fn(rngs.params(), (size, size, in_width, width), jnp.float32))
    self.bias = nnx.Param(jnp.zeros(width))

  def __call__(self, inputs: Float[Array, "B H W C"]) -> Float[Array, "B P Q D"]:
    kernel = self.kernel[...]
    size, channels = kernel.shape[0], kernel.shape[2]
    rows, columns = inputs.shape[1] // size, inputs.shape[2] // size
    whole = inputs[:, : rows * size, : columns * size]
    squares = whole.reshape(-1, rows, size, columns, size, channels).swapaxes(2, 3)
    return (
      squares.reshape(-1, rows, columns, kernel[..., 0].size) @ kernel.reshape(-1, kernel.shape[3]) + self.bias[...]
    )


class LayerNorm(nnx.Module):
  """Layer norm over the last axis, by the biased variance, in the type of the inputs; Flax's own refuses float64."""

  def __init__(self, width: int):
    self.scale = nnx.Param(jnp.ones(width))
    self.bias = nnx.Param(jnp.zeros(width))

  def __call__(self, inputs: Float[Array, "... C"]) -> Float[Array, "... C"]:
    centred = inputs - inputs.mean(-1, keepdims=True)
    inverse = lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + LAYER_NORM_EPSILON)
    return centred * inverse * self.scale[...] + self.bias[...]


class Mlp(nnx.Module):
  """Two linear layers over the last axis with an activation between them: `[..., C]` -> `[..., C]`.

  `gelu` is that by the error function.
  """

  def __init__(self, width: int, hidden_width: int, *, rngs: nnx.Rngs, activation: Activation = "gelu"):
    self.activation = activation
    self.expand = make_linear(width, hidden_width, rngs)
    self.project = make_linear(hidden_width, width, rngs)

  def __call__(self, inputs: Float[Array, "... C"]) -> Float[Array, "... C"]:
    return self.project(ACTIVATIONS[self.activation](self.expand(inputs)))


def make_linear(in_width: int, width: int, rngs: nnx.Rngs) -> nnx.Linear:
  """A linear layer with the initial weights of transformers."""
  return nnx.Linear(in_width, width, kernel_init=nnx.initializers.truncated_normal(INITIAL_STD), rngs=rngs)
