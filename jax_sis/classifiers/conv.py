"""A convolution whose input gradient stays fast inside XLA:CPU loops."""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

DIMENSION_NUMBERS = ("NHWC", "HWIO", "NHWC")
# Up to this many output channels XLA:CPU (jaxlib 0.10) uses Eigen, above it YNNPACK, which is about twice as fast.
SLOW_WIDTH = 16
# With input channels that are no multiple of four, as those of a picture, YNNPACK in its turn is slow below 64.
SLOW_WIDTH_OF_ODD_INPUTS = 63
# Up to this many input channels, an input gradient sums products instead of convolving for a handful of channels.
FEW_INPUTS = 4


def conv2d(
  inputs: Float[Array, "B H W C"], kernel: Float[Array, "h w C D"], *, stride: int = 1, padding: int = 0
) -> Float[Array, "B P Q D"]:
  """2-D convolution with the same stride and zero padding on both axes.

  JAX's own input gradient hands XLA a kernel with swapped feature axes. At the top level XLA:CPU turns it back;
  inside a loop it does not, and falls to a naive convolution, many times slower (jax-ml/jax#12868). Here the gradient
  is a plain HWIO convolution like the forward pass, and both are given a form that XLA:CPU is fast at.
  For float64, which serves to check results, XLA:CPU has no fast convolution at all; there it is one matrix product.

  Args:
    inputs: images or feature maps.
    kernel: weights.
    stride: step in pixels.
    padding: zeros on each side, in pixels.
  """
  if inputs.dtype == jnp.float64:
    return matmul_conv2d(inputs, kernel, stride=stride, padding=padding)
  return _conv2d(stride, padding, inputs, kernel)


def matmul_conv2d(
  inputs: Float[Array, "B H W C"], kernel: Float[Array, "h w C D"], *, stride: int, padding: int
) -> Float[Array, "B P Q D"]:
  """The same by gathering each output's window and multiplying it with the kernel as a matrix."""
  kernel_height, kernel_width, _, out_width = kernel.shape
  padded = jnp.pad(inputs, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
  rows = padded.shape[1] - kernel_height + 1
  columns = padded.shape[2] - kernel_width + 1
  windows = [
    padded[:, row : row + rows : stride, column : column + columns : stride]
    for row in range(kernel_height)
    for column in range(kernel_width)
  ]
  return jnp.concatenate(windows, axis=-1) @ kernel.reshape(-1, out_width)


def run_conv(
  inputs: Float[Array, "B H W C"],
  kernel: Float[Array, "h w C D"],
  stride: int,
  pads: Sequence[tuple[int, int]],
) -> Float[Array, "B P Q D"]:
  """`lax.conv_general_dilated` in NHWC and HWIO; on CPU a narrow one of stride 1 computes several columns at once."""
  plain = functools.partial(
    lax.conv_general_dilated, window_strides=(stride, stride), padding=pads, dimension_numbers=DIMENSION_NUMBERS
  )
  num_columns = inputs.shape[2] + sum(pads[1]) - kernel.shape[1] + 1
  block = columns_at_once(*kernel.shape[2:])
  if stride != 1 or block == 1 or num_columns % block:
    return plain(inputs, kernel)
  return lax.platform_dependent(
    inputs, kernel, cpu=functools.partial(blocked_conv, pads=pads, block=block), default=plain
  )


def columns_at_once(in_width: int, out_width: int) -> int:
  """The fewest output columns, a power of two, that together have the channels XLA:CPU's fast convolution asks for."""
  slow_width = SLOW_WIDTH_OF_ODD_INPUTS if in_width % 4 else SLOW_WIDTH
  return next(block for block in itertools.count(1) if block * out_width > slow_width and block & (block - 1) == 0)


def blocked_conv(
  inputs: Float[Array, "B H W C"], kernel: Float[Array, "h w C D"], *, pads: Sequence[tuple[int, int]], block: int
) -> Float[Array, "B P Q D"]:
  """The convolution of stride 1 as one of horizontal stride `block`, whose channels are `block` columns side by side.

  Some of the wider kernel is zero; the faster convolution outweighs that.
  """
  height, width, in_width, out_width = kernel.shape
  shifted = [jnp.pad(kernel, ((0, 0), (shift, block - 1 - shift), (0, 0), (0, 0))) for shift in range(block)]
  wide_kernel = jnp.stack(shifted, axis=3).reshape(height, width + block - 1, in_width, block * out_width)
  outputs = lax.conv_general_dilated(inputs, wide_kernel, (1, block), pads, dimension_numbers=DIMENSION_NUMBERS)
  return outputs.reshape(*outputs.shape[:2], -1, out_width)


def input_gradient(
  cotangent: Float[Array, "B P Q D"],
  kernel: Float[Array, "h w C D"],
  *,
  stride: int,
  padding: int,
  size: tuple[int, int],
) -> Float[Array, "B H W C"]:
  """The gradient with respect to inputs of height and width `size`, in a form that is fast on the platform."""
  convolved = functools.partial(convolved_gradient, stride=stride, padding=padding, size=size)
  if stride > 1 or kernel.shape[2] > FEW_INPUTS:
    return convolved(cotangent, kernel)
  summed = functools.partial(summed_gradient, padding=padding, size=size)
  return lax.platform_dependent(cotangent, kernel, cpu=summed, default=convolved)


def summed_gradient(
  cotangent: Float[Array, "B P Q D"], kernel: Float[Array, "h w C D"], *, padding: int, size: tuple[int, int]
) -> Float[Array, "B H W C"]:
  """The input gradient of stride 1: all taps' products as one matrix product, each then added where it belongs.

  Channels come first, so that the sums run along rows of the image.
  """
  height, width, in_width, out_width = kernel.shape
  products = lax.dot_general(kernel.reshape(-1, out_width), cotangent, (((1,), (3,)), ((), ())))
  products = products.reshape(height, width, in_width, *cotangent.shape[:3])
  margins = [(length - 1 - padding, length - 1 - padding, 0) for length in (height, width)]
  products = lax.pad(products, jnp.zeros((), products.dtype), [(0, 0, 0)] * 4 + margins)
  shifted = [
    products[row, column, :, :, height - 1 - row :, width - 1 - column :][..., : size[0], : size[1]]
    for row in range(height)
    for column in range(width)
  ]
  return functools.reduce(jnp.add, shifted).transpose(1, 2, 3, 0)


def convolved_gradient(
  cotangent: Float[Array, "B P Q D"],
  kernel: Float[Array, "h w C D"],
  *,
  stride: int,
  padding: int,
  size: tuple[int, int],
) -> Float[Array, "B H W C"]:
  """The input gradient as a plain convolution of the cotangent.

  Input rows of one remainder modulo the stride meet the same kernel rows. So each cotangent position yields a square
  of `stride` x `stride` input positions as channels, which are then laid out in space.
  """
  rows, columns = (meeting_taps(kernel.shape[axis], stride, padding) for axis in (0, 1))
  empty = jnp.zeros(kernel.shape[:1:-1], kernel.dtype)
  # Stacked tap by tap: XLA moves a stack out of loops, but not a reversal and a transposition.
  phases = jnp.stack(
    [
      jnp.stack([empty if row is None or column is None else kernel[row, column].T for column in column_taps])
      for row_taps in rows.taps
      for column_taps in columns.taps
      for row in row_taps
    ]
  )
  num_rows, num_columns = len(rows.taps[0]), len(columns.taps[0])
  in_width = kernel.shape[2]
  phases = phases.reshape(stride, stride, num_rows, num_columns, kernel.shape[3], in_width)
  phases = phases.transpose(2, 3, 4, 0, 1, 5).reshape(num_rows, num_columns, kernel.shape[3], -1)
  blocks = [-(-length // stride) for length in size]
  pads = [
    (-axis.first, count - 1 + axis.first + len(axis.taps[0]) - length)
    for axis, count, length in zip((rows, columns), blocks, cotangent.shape[1:3], strict=True)
  ]
  outputs = run_conv(cotangent, phases, 1, pads)
  if stride > 1:
    outputs = outputs.reshape(-1, *blocks, stride, stride, in_width).transpose(0, 1, 3, 2, 4, 5)
    outputs = outputs.reshape(-1, blocks[0] * stride, blocks[1] * stride, in_width)
  return outputs[:, : size[0], : size[1]]


class MeetingTaps(NamedTuple):
  """Which kernel taps meet which cotangent positions, along one axis.

  Input position `stride * a + phase` meets cotangent position `a + first + i` through tap `taps[phase][i]`, if any.
  """

  first: int
  taps: list[list[int | None]]


def meeting_taps(kernel_size: int, stride: int, padding: int) -> MeetingTaps:
  """The taps of an axis of the kernel, by the remainder of the input position."""
  offsets = [
    {(phase + padding - tap) // stride: tap for tap in range(kernel_size) if (phase + padding - tap) % stride == 0}
    for phase in range(stride)
  ]
  present = [offset for by_offset in offsets for offset in by_offset]
  span = range(min(present), max(present) + 1)
  return MeetingTaps(span[0], [[by_offset.get(offset) for offset in span] for by_offset in offsets])


def _run_conv2d(stride: int, padding: int, inputs: Array, kernel: Array) -> Array:
  return run_conv(inputs, kernel, stride, ((padding, padding),) * 2)


_conv2d = jax.custom_vjp(_run_conv2d, nondiff_argnums=(0, 1))


def _conv2d_forward(stride: int, padding: int, inputs: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
  return _run_conv2d(stride, padding, inputs, kernel), (inputs, kernel)


def _conv2d_backward(
  stride: int, padding: int, residuals: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
  inputs, kernel = residuals
  size = inputs.shape[1], inputs.shape[2]
  # Where only the input gradient is asked for, XLA drops the kernel's as dead code.
  _, kernel_vjp_fn = jax.vjp(functools.partial(_plain_conv2d, stride, padding, inputs), kernel)
  return (
    input_gradient(cotangent, kernel, stride=stride, padding=padding, size=size),
    kernel_vjp_fn(cotangent)[0],
  )


def _plain_conv2d(stride: int, padding: int, inputs: Array, kernel: Array) -> Array:
  return lax.conv_general_dilated(
    inputs, kernel, (stride, stride), ((padding, padding),) * 2, dimension_numbers=DIMENSION_NUMBERS
  )


_conv2d.defvjp(_conv2d_forward, _conv2d_backward)
