"""A convolution whose input gradient stays fast inside XLA:CPU loops."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

DIMENSION_NUMBERS = ("NHWC", "HWIO", "NHWC")


def conv2d(
  inputs: Float[Array, "B H W C"], kernel: Float[Array, "h w C D"], *, stride: int = 1, padding: int = 0
) -> Float[Array, "B P Q D"]:
  """2-D convolution with the same stride and zero padding on both axes.

  JAX's own input gradient hands XLA a kernel with swapped feature axes. At the top level XLA:CPU turns it back;
  inside a loop it does not, and falls to a naive convolution, many times slower (jax-ml/jax#12868). Here the kernel
  is flipped and transposed in the open, so that forward and backward pass are both plain HWIO convolutions.
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


def _plain_conv2d(stride: int, padding: int, inputs: Array, kernel: Array) -> Array:
  return lax.conv_general_dilated(
    inputs, kernel, (stride, stride), ((padding, padding),) * 2, dimension_numbers=DIMENSION_NUMBERS
  )


_conv2d = jax.custom_vjp(_plain_conv2d, nondiff_argnums=(0, 1))


def _conv2d_forward(stride: int, padding: int, inputs: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
  return _plain_conv2d(stride, padding, inputs, kernel), (inputs, kernel)


def _conv2d_backward(
  stride: int, padding: int, residuals: tuple[Array, Array], cotangent: Array
) -> tuple[Array, Array]:
  inputs, kernel = residuals
  pads = []
  for axis in (0, 1):
    low = kernel.shape[axis] - 1 - padding
    covered = (cotangent.shape[axis + 1] - 1) * stride + 1
    pads.append((low, inputs.shape[axis + 1] - covered - low + kernel.shape[axis] - 1))
  inputs_gradient = lax.conv_general_dilated(
    cotangent,
    jnp.flip(kernel, (0, 1)).swapaxes(2, 3),
    (1, 1),
    pads,
    lhs_dilation=(stride, stride),
    dimension_numbers=DIMENSION_NUMBERS,
  )
  # Where only the input gradient is asked for, XLA drops this as dead code.
  _, kernel_vjp_fn = jax.vjp(lambda kernel: _plain_conv2d(stride, padding, inputs, kernel), kernel)
  return inputs_gradient, kernel_vjp_fn(cotangent)[0]


_conv2d.defvjp(_conv2d_forward, _conv2d_backward)
