"""Convolutions without groups and their gradients, in forms that are fast on XLA:CPU, and the platform's own forms."""

import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

DIMENSION_NUMBERS = ("NHWC", "HWIO", "NHWC")
# Up to this many output channels XLA:CPU (jaxlib 0.10) uses Eigen, above that YNNPACK, which is about twice as fast.
SLOW_WIDTH = 16
# If the input channels are not a multiple of four, as in pictures, YNNPACK is also slow, below 64.
SLOW_WIDTH_OF_ODD_INPUTS = 63
# Numbers gathered at a time for a kernel's gradient: as many as stay in a core's cache.
GATHERED_AT_ONCE = 2**18
# Up to this many input channels, an input gradient is a sum of products instead of a narrow convolution.
FEW_INPUTS = 4


class Window(NamedTuple):
  """Where the windows of a convolution lie; pairs are for rows and columns.

  Attributes:
    strides: steps in pixels.
    pads: zeros before and after, in pixels.
    dilation: steps between the taps of the kernel, in pixels.
    groups: into how many the channels are split.
    precision: of products, on accelerators.
  """

  strides: tuple[int, int]
  pads: tuple[tuple[int, int], tuple[int, int]]
  dilation: tuple[int, int]
  groups: int
  precision: lax.PrecisionLike


def own_conv(
  inputs: Float[Array, "B H W C"], kernel: Float[Array, "h w I D"], *, window: Window
) -> Float[Array, "B P Q D"]:
  """`lax.conv_general_dilated` in NHWC and HWIO."""
  return lax.conv_general_dilated(
    inputs,
    kernel,
    window.strides,
    window.pads,
    rhs_dilation=window.dilation,
    dimension_numbers=DIMENSION_NUMBERS,
    feature_group_count=window.groups,
    precision=window.precision,
  )


def own_input_gradient(
  cotangent: Float[Array, "B P Q D"], kernel: Float[Array, "h w I D"], *, window: Window, size: tuple[int, int]
) -> Float[Array, "B H W C"]:
  """JAX's gradient with respect to inputs of height and width `size`."""
  shape = (len(cotangent), *size, kernel.shape[2] * window.groups)
  transposed = jax.linear_transpose(
    lambda inputs: own_conv(inputs, kernel, window=window), jax.ShapeDtypeStruct(shape, cotangent.dtype)
  )
  return transposed(cotangent)[0]


def own_kernel_gradient(
  inputs: Float[Array, "B H W C"], cotangent: Float[Array, "B P Q D"], *, kernel_size: tuple[int, int], window: Window
) -> Float[Array, "h w I D"]:
  """JAX's gradient: a convolution of the inputs with the cotangent, with the batch in place of the channels."""
  shape = (*kernel_size, inputs.shape[-1] // window.groups, cotangent.shape[-1])
  transposed = jax.linear_transpose(
    lambda kernel: own_conv(inputs, kernel, window=window), jax.ShapeDtypeStruct(shape, inputs.dtype)
  )
  return transposed(cotangent)[0]


def tap_slices(
  inputs: Float[Array, "B H W C"], kernel_size: tuple[int, ...], window: Window
) -> list[Float[Array, "B P Q C"]]:
  """For each tap of the kernel, row by row, the inputs that it meets."""
  padded = jnp.pad(inputs, ((0, 0), *window.pads, (0, 0)))
  rows, columns = (padded.shape[1 + axis] - (kernel_size[axis] - 1) * window.dilation[axis] for axis in (0, 1))
  firsts = [range(0, size * step, step) for size, step in zip(kernel_size, window.dilation, strict=True)]
  return [
    padded[:, row : row + rows : window.strides[0], column : column + columns : window.strides[1]]
    for row in firsts[0]
    for column in firsts[1]
  ]


def run_conv(
  inputs: Float[Array, "B H W C"], kernel: Float[Array, "h w C D"], window: Window
) -> Float[Array, "B P Q D"]:
  """`own_conv`; on CPU a narrow one of stride 1 computes several columns at once."""
  plain = functools.partial(own_conv, window=window)
  num_columns = inputs.shape[2] + sum(window.pads[1]) - kernel.shape[1] + 1
  block = columns_at_once(*kernel.shape[2:])
  if window.strides != (1, 1) or window.dilation != (1, 1) or block == 1 or num_columns % block:
    return plain(inputs, kernel)
  return lax.platform_dependent(
    inputs, kernel, cpu=functools.partial(blocked_conv, window=window, block=block), default=plain
  )


def columns_at_once(in_width: int, out_width: int) -> int:
  """The smallest power of two of output columns that together have enough channels for XLA:CPU's fast convolution."""
  slow_width = SLOW_WIDTH_OF_ODD_INPUTS if in_width % 4 else SLOW_WIDTH
  return next(block for block in itertools.count(1) if block * out_width > slow_width and block & (block - 1) == 0)


def blocked_conv(
  inputs: Float[Array, "B H W C"], kernel: Float[Array, "h w C D"], *, window: Window, block: int
) -> Float[Array, "B P Q D"]:
  """A convolution of stride 1 as one of horizontal stride `block`, with `block` columns side by side as channels.

  Parts of its wider kernel are zero, but the faster convolution more than makes up for that.
  """
  height, width, in_width, out_width = kernel.shape
  shifted = [jnp.pad(kernel, ((0, 0), (shift, block - 1 - shift), (0, 0), (0, 0))) for shift in range(block)]
  wide_kernel = jnp.stack(shifted, axis=3).reshape(height, width + block - 1, in_width, block * out_width)
  outputs = own_conv(inputs, wide_kernel, window=window._replace(strides=(1, block)))
  return outputs.reshape(*outputs.shape[:2], -1, out_width)


def input_gradient(
  cotangent: Float[Array, "B P Q D"], kernel: Float[Array, "h w C D"], *, window: Window, size: tuple[int, int]
) -> Float[Array, "B H W C"]:
  """The gradient with respect to inputs of height and width `size`, in a form that is fast on the platform."""
  convolved = functools.partial(convolved_gradient, window=window, size=size)
  if window.strides != (1, 1):
    own = functools.partial(own_input_gradient, window=window, size=size)
    return lax.platform_dependent(cotangent, kernel, cpu=convolved, default=own)
  if window.dilation != (1, 1) or kernel.shape[2] > FEW_INPUTS:
    return convolved(cotangent, kernel)
  summed = functools.partial(summed_gradient, window=window, size=size)
  return lax.platform_dependent(cotangent, kernel, cpu=summed, default=convolved)


def summed_gradient(
  cotangent: Float[Array, "B P Q D"], kernel: Float[Array, "h w C D"], *, window: Window, size: tuple[int, int]
) -> Float[Array, "B H W C"]:
  """The input gradient of stride 1: one matrix product for all taps, whose parts are then shifted and added.

  Channels come first, so that the sums run along rows of the image.
  """
  height, width, in_width, out_width = kernel.shape
  products = lax.dot_general(kernel.reshape(-1, out_width), cotangent, (((1,), (3,)), ((), ())))
  products = products.reshape(height, width, in_width, *cotangent.shape[:3])
  margins = [
    (length - 1 - low, length - 1 - high, 0) for length, (low, high) in zip((height, width), window.pads, strict=True)
  ]
  products = lax.pad(products, jnp.zeros((), products.dtype), [(0, 0, 0)] * 4 + margins)
  shifted = [
    products[row, column, :, :, height - 1 - row :, width - 1 - column :][..., : size[0], : size[1]]
    for row in range(height)
    for column in range(width)
  ]
  return functools.reduce(jnp.add, shifted).transpose(1, 2, 3, 0)


def convolved_gradient(
  cotangent: Float[Array, "B P Q D"], kernel: Float[Array, "h w C D"], *, window: Window, size: tuple[int, int]
) -> Float[Array, "B H W C"]:
  """The input gradient as a plain convolution of the cotangent.

  Input rows with the same remainder modulo the stride meet the same kernel rows. So each cotangent position gives a
  rectangle of input positions, as large as the strides, as channels, which are then laid out in space.
  """
  rows, columns = axes = meeting_taps(kernel.shape, window)
  empty = jnp.zeros(kernel.shape[:1:-1], kernel.dtype)
  # Stacked tap by tap, because XLA moves a stack out of loops, but not a reversal with a transposition.
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
  phases = phases.reshape(*window.strides, num_rows, num_columns, kernel.shape[3], in_width)
  phases = phases.transpose(2, 3, 4, 0, 1, 5).reshape(num_rows, num_columns, kernel.shape[3], -1)
  blocks = count_blocks(size, window)
  pads = cotangent_pads(axes, blocks, cotangent.shape[1:3])
  steps = (rows.step, columns.step)
  outputs = run_conv(cotangent, phases, window._replace(strides=(1, 1), pads=pads, dilation=steps))
  if window.strides != (1, 1):
    outputs = outputs.reshape(-1, *blocks, *window.strides, in_width).transpose(0, 1, 3, 2, 4, 5)
    outputs = outputs.reshape(
      -1, *(count * stride for count, stride in zip(blocks, window.strides, strict=True)), in_width
    )
  return outputs[:, : size[0], : size[1]]


def count_blocks(size: tuple[int, int], window: Window) -> tuple[int, int]:
  """Into how many rows and columns of blocks as large as the strides inputs are divided; the last may jut out."""
  rows, columns = (-(-length // stride) for length, stride in zip(size, window.strides, strict=True))
  return rows, columns


class MeetingTaps(NamedTuple):
  """Which kernel taps meet which cotangent positions, along one axis.

  Input position `stride * a + phase` meets cotangent position `a + first + step * i` through tap `taps[phase][i]`, if
  any.
  """

  first: int
  step: int
  taps: list[list[int | None]]


def meeting_taps(kernel_shape: tuple[int, ...], window: Window) -> tuple[MeetingTaps, MeetingTaps]:
  """The taps of both axes of the kernel, by the remainder of the input position."""
  rows, columns = (
    meeting_taps_of_axis(size, stride, low, step)
    for size, stride, (low, _), step in zip(kernel_shape[:2], window.strides, window.pads, window.dilation, strict=True)
  )
  return rows, columns


def meeting_taps_of_axis(kernel_size: int, stride: int, padding: int, dilation: int) -> MeetingTaps:
  reaches = [[phase + padding - tap * dilation for tap in range(kernel_size)] for phase in range(stride)]
  offsets = [{reach // stride: tap for tap, reach in enumerate(by_tap) if reach % stride == 0} for by_tap in reaches]
  present = [offset for by_offset in offsets for offset in by_offset]
  first = min(present)
  step = math.gcd(*(offset - first for offset in present)) or 1
  span = range(first, max(present) + 1, step)
  return MeetingTaps(first, step, [[by_offset.get(offset) for offset in span] for by_offset in offsets])


def cotangent_pads(
  axes: tuple[MeetingTaps, MeetingTaps], blocks: tuple[int, int], lengths: tuple[int, ...]
) -> tuple[tuple[int, int], tuple[int, int]]:
  """What to pad a cotangent with, or to cut off where negative, so that each block finds what it meets."""
  rows, columns = (
    (-axis.first, count - 1 + axis.first + axis.step * (len(axis.taps[0]) - 1) + 1 - length)
    for axis, count, length in zip(axes, blocks, lengths, strict=True)
  )
  return rows, columns


def gathered_kernel_gradient(
  inputs: Float[Array, "B H W C"], cotangent: Float[Array, "B P Q D"], *, kernel_size: tuple[int, int], window: Window
) -> Float[Array, "h w C D"]:
  """The sum of the cotangent's products with the input windows, over a few images at a time.

  The cotangent is on the left, because XLA:CPU transposes that side, and it is the narrower one.
  """
  in_width, out_width = inputs.shape[-1], cotangent.shape[-1]
  window_size = math.prod(kernel_size) * in_width
  num_gathered = math.prod(cotangent.shape[1:3]) * window_size
  most = max(1, GATHERED_AT_ONCE // num_gathered)
  num_images = next(count for count in range(min(most, len(inputs)), 0, -1) if len(inputs) % count == 0)

  def add_images(index: Array, total: Array) -> Array:
    some_inputs, some_cotangent = (
      lax.dynamic_slice_in_dim(array, index * num_images, num_images) for array in (inputs, cotangent)
    )
    windows = jnp.concatenate(tap_slices(some_inputs, kernel_size, window), axis=-1)
    return total + lax.dot_general(some_cotangent, windows, (((0, 1, 2), (0, 1, 2)), ((), ())))

  start = jnp.zeros((out_width, window_size), inputs.dtype)
  total = lax.fori_loop(0, len(inputs) // num_images, add_images, start)
  return total.T.reshape(*kernel_size, in_width, out_width)
