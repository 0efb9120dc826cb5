"""A convolution whose input gradient stays fast inside XLA:CPU loops, and whose kernel gradient is fast at all."""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jax_sis.classifiers import dense_conv, grouped_conv
from jax_sis.classifiers.dense_conv import Window

Padding: TypeAlias = int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]]


def conv2d(
  inputs: Float[Array, "B H W C"],
  kernel: Float[Array, "h w I D"],
  *,
  stride: int | tuple[int, int] = 1,
  padding: Padding = 0,
  dilation: int | tuple[int, int] = 1,
  groups: int = 1,
  precision: lax.PrecisionLike = None,
) -> Float[Array, "B P Q D"]:
  """2-D convolution.

  JAX's own input gradient hands XLA a kernel with swapped feature axes. At the top level XLA:CPU swaps them back;
  inside a loop it does not, and falls back to a naive convolution, many times slower (jax-ml/jax#12868). Here the
  gradient is a plain HWIO convolution like the forward pass, both in a form that is fast on XLA:CPU. There, the
  kernel's gradient is a sum of matrix products, because JAX's convolution would transpose whole activations, and
  groups never reach XLA, which has naive loops for them. For float64, which serves to check results, XLA:CPU has no
  fast convolution at all; there the convolution is one matrix product.

  Args:
    inputs: images or feature maps.
    kernel: weights, of I = C / groups input channels.
    stride: step in pixels, or one for rows and one for columns.
    padding: zeros on each side in pixels: one number, one for rows and one for columns, or for each of them one before
      and one after.
    dilation: step between taps of the kernel in pixels, or one for rows and one for columns.
    groups: the channels of inputs and outputs are split into so many groups; each sees its own. C groups are a
      depthwise convolution.
    precision: as in `lax.conv_general_dilated`.

  Raises:
    ValueError: `groups` does not fit the channels.
  """
  in_width, (kernel_width, out_width) = inputs.shape[-1], kernel.shape[2:]
  if in_width != kernel_width * groups or out_width % groups:
    raise ValueError(
      "groups must divide the kernel's output channels, and times its input channels be those of the inputs, got "
      f"groups={groups}, a kernel {kernel.shape} and inputs {inputs.shape}; a kernel is [h, w, C / groups, D]"
    )
  rows, columns = (padding, padding) if isinstance(padding, int) else padding
  window = Window(as_pair(stride), (as_pair(rows), as_pair(columns)), as_pair(dilation), groups, precision)
  if inputs.dtype == jnp.float64:
    return by_platform(matmul_conv2d, dense_conv.own_conv, inputs, kernel, window=window)
  return _conv2d(window, inputs, kernel)


def as_pair(number: int | tuple[int, int]) -> tuple[int, int]:
  """One number twice, two as they are."""
  return (number, number) if isinstance(number, int) else number


def matmul_conv2d(
  inputs: Float[Array, "B H W C"], kernel: Float[Array, "h w I D"], window: Window
) -> Float[Array, "B P Q D"]:
  """`conv2d` by gathering each output's window and multiplying it by the kernel as a matrix."""
  slices = dense_conv.tap_slices(inputs, kernel.shape[:2], window)
  if window.groups == 1:
    return jnp.concatenate(slices, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])
  windows = jnp.stack([part.reshape(*part.shape[:3], window.groups, -1) for part in slices], axis=-2)
  matrices = kernel.reshape(-1, kernel.shape[2], window.groups, kernel.shape[3] // window.groups)
  outputs = jnp.einsum("bpqgti,tigd->bpqgd", windows, matrices)
  return outputs.reshape(*outputs.shape[:3], -1)


def _run_conv2d(window: Window, inputs: Array, kernel: Array) -> Array:
  if window.groups == 1:
    return dense_conv.run_conv(inputs, kernel, window)
  by_taps, by_parts = grouped_conv.depthwise_conv, grouped_conv.conv_by_parts
  cpu_fn = by_taps if kernel.shape[2] == 1 else by_parts
  return by_platform(cpu_fn, dense_conv.own_conv, inputs, kernel, window=window)


def by_platform(cpu_fn: Callable[..., Array], own_fn: Callable[..., Array], *arrays: Array, **options: Any) -> Array:
  """One form of a computation on CPU, the platform's own on others."""
  cpu, default = (functools.partial(form, **options) for form in (cpu_fn, own_fn))
  return lax.platform_dependent(*arrays, cpu=cpu, default=default)


_conv2d = jax.custom_vjp(_run_conv2d, nondiff_argnums=(0,))


def _conv2d_forward(window: Window, inputs: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
  return _run_conv2d(window, inputs, kernel), (inputs, kernel)


def _conv2d_backward(window: Window, residuals: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
  inputs, kernel = residuals
  size = (inputs.shape[1], inputs.shape[2])
  kernel_size = (kernel.shape[0], kernel.shape[1])
  own_input_gradient, own_kernel_gradient = dense_conv.own_input_gradient, dense_conv.own_kernel_gradient
  if window.groups == 1:
    input_gradient = dense_conv.input_gradient(cotangent, kernel, window=window, size=size)
    kernel_gradient_fn = dense_conv.gathered_kernel_gradient
  else:
    is_depthwise = kernel.shape[2] == 1
    by_taps, by_parts = grouped_conv.depthwise_input_gradient, grouped_conv.input_gradient_by_parts
    input_gradient_fn = by_taps if is_depthwise else by_parts
    input_gradient = by_platform(input_gradient_fn, own_input_gradient, cotangent, kernel, window=window, size=size)
    by_taps, by_parts = grouped_conv.depthwise_kernel_gradient, grouped_conv.kernel_gradient_by_parts
    kernel_gradient_fn = by_taps if is_depthwise else by_parts
  options = {"kernel_size": kernel_size, "window": window}
  # If only the input gradient is needed, XLA drops the kernel's as dead code.
  return input_gradient, by_platform(kernel_gradient_fn, own_kernel_gradient, inputs, cotangent, **options)


_conv2d.defvjp(_conv2d_forward, _conv2d_backward)
