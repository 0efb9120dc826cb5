"""A convolution whose input gradient stays fast inside XLA:CPU loops, and whose kernel gradient is fast at all."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

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

Padding: TypeAlias = int | tuple[int, int]


def conv2d(
  inputs: Float[Array, "B H W C"], kernel: Float[Array, "h w C D"], *, stride: int = 1, padding: Padding = 0
) -> Float[Array, "B P Q D"]:
  """2-D convolution with the same stride on both axes.

  JAX's own input gradient hands XLA a kernel with swapped feature axes. At the top level XLA:CPU swaps them back;
  inside a loop it does not, and falls back to a naive convolution, many times slower (jax-ml/jax#12868). Here the
  gradient is a plain HWIO convolution like the forward pass, both in a form that is fast on XLA:CPU. There, the
  kernel's gradient is a sum of matrix products, because JAX's convolution would transpose whole activations. For
  float64, which serves to check results, XLA:CPU has no fast convolution at all; there the convolution is one matrix
  product.

  Args:
    inputs: images or feature maps.
    kernel: weights.
    stride: step in pixels.
    padding: zeros on each side in pixels: one number, or one for rows and one for columns.
  """
  pads = (padding, padding) if isinstance(padding, int) else padding
  if inputs.dtype == jnp.float64:
    return matmul_conv2d(inputs, kernel, stride=stride, padding=pads)
  return _conv2d(stride, pads, inputs, kernel)


def matmul_conv2d(
  inputs: Float[Array, "B H W C"], kernel: Float[Array, "h w C D"], *, stride: int, padding: tuple[int, int]
) -> Float[Array, "B P Q D"]:
  """`conv2d` by gathering each output's window and multiplying it by the kernel as a matrix."""
  windows = gather_windows(inputs, kernel.shape[:2], stride=stride, padding=padding)
  return windows @ kernel.reshape(-1, kernel.shape[-1])


def gather_windows(
  inputs: Float[Array, "B H W C"], kernel_size: tuple[int, ...], *, stride: int, padding: tuple[int, int]
) -> Float[Array, "B P Q N"]:
  """The inputs that each output depends on, in the order of a kernel's axes: N = h * w * C."""
  padded = jnp.pad(inputs, ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)))
  rows, columns = (padded.shape[1 + axis] - kernel_size[axis] + 1 for axis in (0, 1))
  windows = [
    padded[:, row : row + rows : stride, column : column + columns : stride]
    for row in range(kernel_size[0])
    for column in range(kernel_size[1])
  ]
  return jnp.concatenate(windows, axis=-1)


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
  """The smallest power of two of output columns that together have enough channels for XLA:CPU's fast convolution."""
  slow_width = SLOW_WIDTH_OF_ODD_INPUTS if in_width % 4 else SLOW_WIDTH
  return next(block for block in itertools.count(1) if block * out_width > slow_width and block & (block - 1) == 0)


def blocked_conv(
  inputs: Float[Array, "B H W C"], kernel: Float[Array, "h w C D"], *, pads: Sequence[tuple[int, int]], block: int
) -> Float[Array, "B P Q D"]:
  """A convolution of stride 1 as one of horizontal stride `block`, with `block` columns side by side as channels.

  Parts of its wider kernel are zero, but the faster convolution more than makes up for that.
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
  padding: tuple[int, int],
  size: tuple[int, int],
) -> Float[Array, "B H W C"]:
  """The gradient with respect to inputs of height and width `size`, in a form that is fast on the platform."""
  convolved = functools.partial(convolved_gradient, stride=stride, padding=padding, size=size)
  if stride > 1 or kernel.shape[2] > FEW_INPUTS:
    return convolved(cotangent, kernel)
  summed = functools.partial(summed_gradient, padding=padding, size=size)
  return lax.platform_dependent(cotangent, kernel, cpu=summed, default=convolved)


def summed_gradient(
  cotangent: Float[Array, "B P Q D"],
  kernel: Float[Array, "h w C D"],
  *,
  padding: tuple[int, int],
  size: tuple[int, int],
) -> Float[Array, "B H W C"]:
  """The input gradient of stride 1: one matrix product for all taps, whose parts are then shifted and added.

  Channels come first, so that the sums run along rows of the image.
  """
  height, width, in_width, out_width = kernel.shape
  products = lax.dot_general(kernel.reshape(-1, out_width), cotangent, (((1,), (3,)), ((), ())))
  products = products.reshape(height, width, in_width, *cotangent.shape[:3])
  margins = [(length - 1 - pad, length - 1 - pad, 0) for length, pad in zip((height, width), padding, strict=True)]
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
  padding: tuple[int, int],
  size: tuple[int, int],
) -> Float[Array, "B H W C"]:
  """The input gradient as a plain convolution of the cotangent.

  Input rows with the same remainder modulo the stride meet the same kernel rows. So each cotangent position gives a
  square of `stride` x `stride` input positions as channels, which are then laid out in space.
  """
  rows, columns = (meeting_taps(kernel.shape[axis], stride, padding[axis]) for axis in (0, 1))
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


def kernel_gradient(
  inputs: Float[Array, "B H W C"],
  cotangent: Float[Array, "B P Q D"],
  *,
  kernel_size: tuple[int, int],
  stride: int,
  padding: tuple[int, int],
) -> Float[Array, "h w C D"]:
  """The gradient with respect to a kernel of this height and width, in a form that is fast on the platform."""
  options = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
  return lax.platform_dependent(
    inputs,
    cotangent,
    cpu=functools.partial(gathered_kernel_gradient, **options),
    default=functools.partial(convolved_kernel_gradient, **options),
  )


def convolved_kernel_gradient(
  inputs: Float[Array, "B H W C"],
  cotangent: Float[Array, "B P Q D"],
  *,
  kernel_size: tuple[int, int],
  stride: int,
  padding: tuple[int, int],
) -> Float[Array, "h w C D"]:
  """JAX's own gradient: a convolution of the inputs with the cotangent, with the batch in place of the channels."""

  def convolve(kernel: Array) -> Array:
    pads = [(pad, pad) for pad in padding]
    return lax.conv_general_dilated(inputs, kernel, (stride, stride), pads, dimension_numbers=DIMENSION_NUMBERS)

  kernel_shape = (*kernel_size, inputs.shape[-1], cotangent.shape[-1])
  (gradient,) = jax.linear_transpose(convolve, jax.ShapeDtypeStruct(kernel_shape, inputs.dtype))(cotangent)
  return gradient


def gathered_kernel_gradient(
  inputs: Float[Array, "B H W C"],
  cotangent: Float[Array, "B P Q D"],
  *,
  kernel_size: tuple[int, int],
  stride: int,
  padding: tuple[int, int],
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
    windows = gather_windows(some_inputs, kernel_size, stride=stride, padding=padding)
    return total + lax.dot_general(some_cotangent, windows, (((0, 1, 2), (0, 1, 2)), ((), ())))

  start = jnp.zeros((out_width, window_size), inputs.dtype)
  total = lax.fori_loop(0, len(inputs) // num_images, add_images, start)
  return total.T.reshape(*kernel_size, in_width, out_width)


def _run_conv2d(stride: int, padding: tuple[int, int], inputs: Array, kernel: Array) -> Array:
  return run_conv(inputs, kernel, stride, [(pad, pad) for pad in padding])


_conv2d = jax.custom_vjp(_run_conv2d, nondiff_argnums=(0, 1))


def _conv2d_forward(
  stride: int, padding: tuple[int, int], inputs: Array, kernel: Array
) -> tuple[Array, tuple[Array, Array]]:
  return _run_conv2d(stride, padding, inputs, kernel), (inputs, kernel)


def _conv2d_backward(
  stride: int, padding: tuple[int, int], residuals: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
  inputs, kernel = residuals
  height, width = inputs.shape[1], inputs.shape[2]
  # If only the input gradient is needed, XLA drops the kernel's as dead code.
  return (
    input_gradient(cotangent, kernel, stride=stride, padding=padding, size=(height, width)),
    kernel_gradient(inputs, cotangent, kernel_size=(kernel.shape[0], kernel.shape[1]), stride=stride, padding=padding),
  )


_conv2d.defvjp(_conv2d_forward, _conv2d_backward)
