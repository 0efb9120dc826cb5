"""Convolutions with groups of channels, depthwise ones among them, and their gradients, as they are fast on XLA:CPU.

XLA:CPU has only naive loops for them. With one input channel a group, a sum of shifted products fuses into one pass
over the outputs. With more, each group is a convolution without groups, or a few are together where they are narrow.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jax_sis.classifiers.dense_conv import (
  MeetingTaps,
  Window,
  cotangent_pads,
  count_blocks,
  gathered_kernel_gradient,
  input_gradient,
  meeting_taps,
  run_conv,
  tap_slices,
)

# As many channels as a part of a grouped convolution should have at least.
PART_WIDTH = 16


def depthwise_conv(
  inputs: Float[Array, "B H W C"], kernel: Float[Array, "h w 1 D"], *, window: Window
) -> Float[Array, "B P Q D"]:
  """The convolution with one input channel a group."""
  taps = kernel.reshape(-1, window.groups, kernel.shape[3] // window.groups)
  slices = tap_slices(inputs, kernel.shape[:2], window)
  outputs = functools.reduce(jnp.add, (part[..., None] * tap for part, tap in zip(slices, taps, strict=True)))
  return outputs.reshape(*outputs.shape[:3], -1)


def depthwise_input_gradient(
  cotangent: Float[Array, "B P Q D"], kernel: Float[Array, "h w 1 D"], *, window: Window, size: tuple[int, int]
) -> Float[Array, "B H W C"]:
  """Its gradient with respect to inputs of height and width `size`.

  Input positions with the same remainders modulo the strides meet the same taps; they are summed together.
  """
  taps = kernel.reshape(*kernel.shape[:2], window.groups, -1)
  axes = meeting_taps(kernel.shape, window)
  blocks = count_blocks(size, window)
  pads = [(low, high, 0) for low, high in cotangent_pads(axes, blocks, cotangent.shape[1:3])]
  padded = lax.pad(cotangent, jnp.zeros((), cotangent.dtype), [(0, 0, 0), *pads, (0, 0, 0)])
  padded = padded.reshape(*padded.shape[:3], *taps.shape[2:])
  rows = []
  for row in range(window.strides[0]):
    columns = [
      sum_meeting(padded, taps, axes, phase=(row, column), blocks=blocks) for column in range(window.strides[1])
    ]
    rows.append(jnp.stack(columns, 3).reshape(len(cotangent), blocks[0], -1, window.groups))
  outputs = jnp.stack(rows, 2).reshape(len(cotangent), -1, *rows[0].shape[2:])
  return outputs[:, : size[0], : size[1]]


def sum_meeting(
  padded: Float[Array, "B P Q C m"],
  taps: Float[Array, "h w C m"],
  axes: tuple[MeetingTaps, MeetingTaps],
  *,
  phase: tuple[int, int],
  blocks: tuple[int, int],
) -> Float[Array, "B a b C"]:
  """The gradient at the input positions with these remainders."""
  rows, columns = axes
  total = jnp.zeros((len(padded), *blocks, padded.shape[3]), padded.dtype)
  pairs = itertools.product(enumerate(rows.taps[phase[0]]), enumerate(columns.taps[phase[1]]))
  for (down, row), (across, column) in pairs:
    if row is not None and column is not None:
      top, left = down * rows.step, across * columns.step
      total = total + (padded[:, top : top + blocks[0], left : left + blocks[1]] * taps[row, column]).sum(-1)
  return total


def depthwise_kernel_gradient(
  inputs: Float[Array, "B H W C"], cotangent: Float[Array, "B P Q D"], *, kernel_size: tuple[int, int], window: Window
) -> Float[Array, "h w 1 D"]:
  """Its gradient with respect to a kernel of this height and width, image by image, as these stay in a core's cache."""
  by_group = cotangent.reshape(*cotangent.shape[:3], window.groups, -1)

  def add_image(index: Array, total: Array) -> Array:
    image, own = (lax.dynamic_slice_in_dim(array, index, 1) for array in (inputs, by_group))
    slices = tap_slices(image, kernel_size, window)
    return total + jnp.stack([(part[..., None] * own).sum((0, 1, 2)) for part in slices])

  start = jnp.zeros((kernel_size[0] * kernel_size[1], *by_group.shape[3:]), inputs.dtype)
  return lax.fori_loop(0, len(inputs), add_image, start).reshape(*kernel_size, 1, -1)


def conv_by_parts(
  inputs: Float[Array, "B H W C"], kernel: Float[Array, "h w I D"], *, window: Window
) -> Float[Array, "B P Q D"]:
  """The convolution with several input channels a group."""
  kernels = part_kernels(kernel, window.groups)
  parts = zip(jnp.split(inputs, len(kernels), -1), kernels, strict=True)
  return jnp.concatenate([run_conv(*part, window._replace(groups=1)) for part in parts], -1)


def input_gradient_by_parts(
  cotangent: Float[Array, "B P Q D"], kernel: Float[Array, "h w I D"], *, window: Window, size: tuple[int, int]
) -> Float[Array, "B H W C"]:
  """Its gradient with respect to inputs of height and width `size`."""
  kernels = part_kernels(kernel, window.groups)
  parts = zip(jnp.split(cotangent, len(kernels), -1), kernels, strict=True)
  return jnp.concatenate([input_gradient(*part, window=window._replace(groups=1), size=size) for part in parts], -1)


def kernel_gradient_by_parts(
  inputs: Float[Array, "B H W C"], cotangent: Float[Array, "B P Q D"], *, kernel_size: tuple[int, int], window: Window
) -> Float[Array, "h w I D"]:
  """Its gradient with respect to a kernel of this height and width."""
  shape = (*kernel_size, inputs.shape[-1] // window.groups, cotangent.shape[-1])
  make_parts = functools.partial(part_kernels, groups=window.groups)
  num_parts = window.groups // groups_in_a_part(shape, window.groups)
  parts = zip(*(jnp.split(array, num_parts, -1) for array in (inputs, cotangent)), strict=True)
  options = {"kernel_size": kernel_size, "window": window._replace(groups=1)}
  gradients = [gathered_kernel_gradient(*part, **options) for part in parts]
  return jax.linear_transpose(make_parts, jax.ShapeDtypeStruct(shape, inputs.dtype))(gradients)[0]


def groups_in_a_part(kernel_shape: tuple[int, ...], groups: int) -> int:
  """The smallest divisor of `groups` that makes a part wide enough, or all of them."""
  width = min(kernel_shape[2], kernel_shape[3] // groups)
  divisors = [count for count in range(1, groups + 1) if groups % count == 0]
  return next((count for count in divisors if count * width >= PART_WIDTH), groups)


def part_kernels(kernel: Float[Array, "h w I D"], groups: int) -> list[Float[Array, "h w i d"]]:
  """A kernel without groups for each part, zero between its groups."""
  height, width, in_width, out_width = kernel.shape
  count = groups_in_a_part(kernel.shape, groups)
  by_group = kernel.reshape(height, width, 1, in_width, groups // count, count, out_width // groups)
  is_own = jnp.eye(count, dtype=bool)[:, None, None, :, None]
  blocks = jnp.where(is_own, by_group, jnp.zeros((), kernel.dtype))
  shape = (height, width, count * in_width, count * out_width // groups)
  return [blocks[:, :, :, :, part].reshape(shape) for part in range(groups // count)]
