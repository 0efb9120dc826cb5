"""The parts of our classifiers: convolutions with batch norm, pooling, and the folding of norms for inference."""

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from jax_sis.classifiers.batch_norm import BatchNorm
from jax_sis.classifiers.conv import Padding, as_pair, conv2d

# PyTorch's defaults; its `momentum` is the share of the new value, 0.1.
BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9


class ConvNorm(nnx.Module):
  """A convolution `[B, H, W, C]` -> `[B, P, Q, D]`, then batch norm if it has one.

  After `fold` the norm is part of the kernel and the bias, and is gone. The padding `same` is TensorFlow's.
  """

  def __init__(
    self,
    in_width: int,
    width: int,
    kernel_size: int | tuple[int, int],
    *,
    rngs: nnx.Rngs,
    stride: int = 1,
    padding: Padding | Literal["same"] = 0,
    groups: int = 1,
    has_bias: bool = False,
    has_norm: bool = True,
    epsilon: float = BATCH_NORM_EPSILON,
  ):
    # He et al. (2015), section 2.2, for the backward pass, in which an input meets the outputs of its own group.
    init_fn = nnx.initializers.variance_scaling(2.0 * groups, "fan_out", "normal")
    self.stride = stride
    self.padding = padding
    self.groups = groups
    shape = (*as_pair(kernel_size), in_width // groups, width)
    self.kernel = nnx.Param(init_fn(rngs.params(), shape, jnp.float32))
    self.bias = nnx.data(nnx.Param(jnp.zeros(width)) if has_bias else None)
    self.norm = nnx.data(make_norm(width, epsilon, rngs) if has_norm else None)

  def __call__(self, inputs: Float[Array, "B H W C"]) -> Float[Array, "B P Q D"]:
    kernel = self.kernel[...]
    padding = same_padding(inputs.shape, kernel.shape, self.stride) if isinstance(self.padding, str) else self.padding
    outputs = conv2d(inputs, kernel, stride=self.stride, padding=padding, groups=self.groups)
    if self.bias is not None:
      outputs = outputs + self.bias[...]
    return outputs if self.norm is None else self.norm(outputs)

  def fold(self) -> None:
    """Makes the norm, as it is in evaluation mode, part of the convolution."""
    if self.norm is None:
      return
    scale, shift = scale_and_shift(self.norm)
    bias = shift if self.bias is None else self.bias[...] * scale + shift
    self.kernel = nnx.Param(self.kernel[...] * scale)
    self.bias = nnx.data(nnx.Param(bias))
    self.norm = nnx.data(None)


def same_padding(
  shape: Sequence[int], kernel_shape: Sequence[int], stride: int
) -> tuple[tuple[int, int], tuple[int, int]]:
  """TensorFlow's padding of inputs `[B, H, W, C]`, with which each stride makes one output; an odd zero comes last."""
  missing = [
    max((-(-size // stride) - 1) * stride + length - size, 0)
    for size, length in zip(shape[1:3], kernel_shape[:2], strict=True)
  ]
  rows, columns = ((pad // 2, pad - pad // 2) for pad in missing)
  return rows, columns


class ConvNet(nnx.Module):
  """A network in two parts: feature maps, and logits from their means.

  Or, where the last layer is linear, `penultimate` and `read_out`.
  """

  head: nnx.Linear

  def __call__(self, inputs: Float[Array, "B H W 3"]) -> Float[Array, "B K"]:
    return self.classify(self.features(inputs))

  def features(self, inputs: Float[Array, "B H W 3"]) -> Float[Array, "B h w D"]:
    """The last feature maps, after their rectifier and before pooling."""
    raise NotImplementedError

  def classify(self, features: Float[Array, "B h w D"]) -> Float[Array, "B K"]:
    """Logits from feature maps."""
    return self.read_out(self.pool(features))

  def pool(self, features: Float[Array, "B h w D"]) -> Float[Array, "B E"]:
    """Of feature maps, the numbers that the head is a linear function of; ValueError where it is none."""
    return features.mean((1, 2))

  def penultimate(self, inputs: Float[Array, "B H W 3"]) -> Float[Array, "B E"]:
    """The numbers that the logits are a linear function of; ValueError where there are none."""
    return self.pool(self.features(inputs))

  def read_out(self, penultimate: Float[Array, "B E"]) -> Float[Array, "B K"]:
    """Logits from these numbers."""
    return self.head(penultimate)


class PreNorm(nnx.Module):
  """Batch norm in front of a convolution, which it cannot be folded into: `[..., C]` -> `[..., C]`."""

  def __init__(self, width: int, *, rngs: nnx.Rngs, epsilon: float = BATCH_NORM_EPSILON):
    self.norm = nnx.data(make_norm(width, epsilon, rngs))
    self.scale = nnx.data(None)
    self.shift = nnx.data(None)

  def __call__(self, inputs: Float[Array, "... C"]) -> Float[Array, "... C"]:
    if self.norm is not None:
      return self.norm(inputs)
    assert self.scale is not None and self.shift is not None  # `fold` sets them when it drops the norm.
    return inputs * self.scale[...] + self.shift[...]

  def fold(self) -> None:
    """Replaces the norm by one product and one sum, which it is in evaluation mode."""
    if self.norm is None:
      return
    scale, shift = scale_and_shift(self.norm)
    self.scale, self.shift = nnx.data(nnx.Param(scale)), nnx.data(nnx.Param(shift))
    self.norm = nnx.data(None)


def make_norm(width: int, epsilon: float, rngs: nnx.Rngs) -> BatchNorm:
  """Batch norm over all axes but the last."""
  return BatchNorm(width, momentum=BATCH_NORM_MOMENTUM, epsilon=epsilon, rngs=rngs)


def scale_and_shift(
  norm: nnx.BatchNorm,
) -> tuple[Float[Array | np.ndarray, "C"], Float[Array | np.ndarray, "C"]]:
  """What the norm multiplies by and adds in evaluation mode."""
  # Flax types the scale and bias of a norm as optional; ours always has them.
  assert norm.scale is not None and norm.bias is not None
  scale = norm.scale[...] / (norm.var[...] + norm.epsilon) ** 0.5
  return scale, norm.bias[...] - norm.mean[...] * scale


def max_pool(inputs: Float[Array, "B H W C"], size: int, *, stride: int, padding: int = 0) -> Float[Array, "B P Q C"]:
  """The maximum of each `size` x `size` window.

  A maximum of shifted slices, because the gradient of JAX's window reduction is slow on CPUs and does not compile
  where a GPU is asked for determinism.
  """
  pads = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
  padded = jnp.pad(inputs, pads, constant_values=-jnp.inf) if padding else inputs
  return functools.reduce(jnp.maximum, window_slices(padded, size, stride))


def mean_pool(inputs: Float[Array, "B H W C"], size: int, *, stride: int, padding: int = 0) -> Float[Array, "B P Q C"]:
  """The mean of each `size` x `size` window; padding counts as zeros, as in PyTorch."""
  padded = jnp.pad(inputs, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
  return functools.reduce(jnp.add, window_slices(padded, size, stride)) / size**2


def window_slices(inputs: Float[Array, "B H W C"], size: int, stride: int) -> Iterable[Float[Array, "B P Q C"]]:
  """For each place in a window, the inputs at that place in all windows."""
  rows, columns = (inputs.shape[axis] - size + 1 for axis in (1, 2))
  for row, column in itertools.product(range(size), repeat=2):
    yield lax.slice(
      inputs,
      (0, row, column, 0),
      (inputs.shape[0], row + rows, column + columns, inputs.shape[3]),
      (1, stride, stride, 1),
    )
