"""Convolutions with groups, uneven pads and strides, and dilation against JAX's own; the forms of each platform."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jax_sis.classifiers.conv import conv2d
from jax_sis.classifiers.dense_conv import DIMENSION_NUMBERS

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")

# Input channels, output channels, groups.
WIDTHS = {
  "dense": (3, 4, 1),
  "depthwise": (5, 5, 5),
  "multiplied": (3, 6, 3),
  "grouped": (6, 4, 2),
  "wide groups": (40, 60, 2),
  "parts of four": (32, 32, 8),
}


def make(kind: str, size: tuple[int, int], kernel_size: tuple[int, int], dtype: str, **options: Any) -> Any:
  """Ours, JAX's, and inputs, a kernel and a cotangent for both."""
  in_width, out_width, groups = WIDTHS[kind]
  rng = np.random.default_rng(0)

  def draw(*shape: int) -> Any:
    return jnp.asarray(rng.normal(size=shape), dtype)

  def ours(inputs: Any, kernel: Any) -> Any:
    return conv2d(inputs, kernel, groups=groups, **options)

  def theirs(inputs: Any, kernel: Any) -> Any:
    return lax.conv_general_dilated(
      inputs,
      kernel,
      options.get("stride", (1, 1)),
      options.get("padding", ((0, 0), (0, 0))),
      rhs_dilation=options.get("dilation"),
      dimension_numbers=DIMENSION_NUMBERS,
      feature_group_count=groups,
    )

  inputs, kernel = draw(2, *size, in_width), draw(*kernel_size, in_width // groups, out_width)
  return ours, theirs, (inputs, kernel, draw(*jax.eval_shape(theirs, inputs, kernel).shape))


def value_and_gradients(conv_fn: Any, inputs: Any, kernel: Any, cotangent: Any) -> Any:
  outputs, vjp_fn = jax.vjp(conv_fn, inputs, kernel)
  return outputs, *vjp_fn(cotangent)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
  ("kind", "size", "kernel_size", "options"),
  [
    ("dense", (8, 7), (3, 3), {"stride": (2, 2), "padding": ((0, 1), (1, 0))}),
    ("dense", (8, 7), (3, 2), {"stride": (1, 2), "padding": ((1, 0), (2, 1))}),
    ("dense", (9, 9), (3, 3), {"dilation": (2, 1), "padding": ((2, 2), (0, 1))}),
    ("dense", (9, 11), (3, 3), {"stride": (2, 2), "dilation": (2, 3), "padding": ((1, 2), (3, 0))}),
    ("depthwise", (8, 8), (3, 3), {"padding": ((1, 1), (1, 1))}),
    ("depthwise", (8, 7), (3, 3), {"stride": (2, 2), "padding": ((0, 1), (1, 1))}),
    ("depthwise", (7, 7), (5, 5), {"stride": (2, 2), "padding": ((2, 2), (2, 2))}),
    ("depthwise", (6, 6), (1, 1), {"stride": (2, 2)}),
    ("depthwise", (8, 9), (3, 3), {"dilation": (2, 3), "padding": ((2, 2), (3, 3))}),
    ("depthwise", (9, 12), (2, 3), {"stride": (3, 2), "dilation": (2, 2), "padding": ((0, 0), (1, 3))}),
    ("multiplied", (7, 6), (3, 3), {"stride": (2, 1), "padding": ((1, 1), (0, 0))}),
    ("grouped", (7, 6), (3, 3), {"stride": (2, 2), "padding": ((0, 1), (1, 1))}),
    ("grouped", (7, 6), (1, 3), {"stride": (1, 2), "dilation": (1, 2), "padding": ((0, 0), (2, 2))}),
    ("wide groups", (5, 6), (3, 3), {"padding": ((1, 1), (1, 1))}),
    ("parts of four", (6, 6), (3, 3), {"padding": ((1, 1), (1, 1))}),
  ],
)
def test_convolutions_of_every_kind_and_their_gradients_equal_jaxs_own(
  kind: str, size: tuple[int, int], kernel_size: tuple[int, int], options: dict[str, Any], dtype: str
):
  with jax.enable_x64(dtype == "float64"):
    ours, theirs, arrays = make(kind, size, kernel_size, dtype, **options)
    run = jax.jit(value_and_gradients, static_argnums=0)
    tolerance = 1e-11 if dtype == "float64" else 1e-4
    names = ("outputs", "inputs", "kernel")
    for name, actual, expected in zip(names, run(ours, *arrays), run(theirs, *arrays), strict=True):
      assert actual.dtype == dtype
      np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
@pytest.mark.parametrize("kind", ["depthwise", "grouped"])
def test_groups_are_right_inside_a_scan(kind: str, stride: tuple[int, int]):
  ours, theirs, (inputs, kernel, _) = make(kind, (7, 7), (3, 3), "float32", stride=stride)

  def looped(conv_fn: Any) -> Any:
    gradient_fn = jax.grad(lambda inputs: (conv_fn(inputs, kernel) ** 2).sum())
    return jax.jit(lambda start: lax.scan(lambda x, _: (x - 1e-3 * gradient_fn(x), None), start, None, 3)[0])(inputs)

  np.testing.assert_allclose(looped(ours), looped(theirs), rtol=1e-4, atol=1e-5)


def convolutions(conv_fn: Any, arrays: Any, platform: str) -> list[str]:
  """The convolutions of a forward and a backward pass as they are lowered, in order."""
  run = jax.jit(lambda *arrays: value_and_gradients(conv_fn, *arrays))
  text = run.trace(*arrays).lower(lowering_platforms=(platform,)).as_text()
  lines = re.findall(r"stablehlo.convolution\(.*?\) (.*)", text)
  assert "while" not in text or platform == "cpu"
  return sorted(lines)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("kind", ["dense", "depthwise", "grouped", "parts of four"])
def test_accelerators_get_jaxs_own_forms(kind: str, platform: str):
  ours, theirs, arrays = make(kind, (8, 8), (3, 3), "float32", stride=(2, 2), padding=((1, 1), (1, 1)))
  assert len(convolutions(theirs, arrays, platform)) == 3
  assert convolutions(ours, arrays, platform) == convolutions(theirs, arrays, platform)


@pytest.mark.parametrize("kind", ["depthwise", "parts of four"])
def test_cpus_get_no_groups(kind: str):
  ours, theirs, arrays = make(kind, (8, 8), (3, 3), "float32")
  has_groups = re.compile("feature_group_count = [^1]|batch_group_count = [^1]").search
  assert any(map(has_groups, convolutions(theirs, arrays, "cpu")))
  assert not any(map(has_groups, convolutions(ours, arrays, "cpu")))


def test_the_gradient_of_a_dilated_convolution_has_no_more_taps():
  ours, _, arrays = make("dense", (9, 9), (3, 3), "float32", dilation=(2, 2))
  forward_and_back = convolutions(ours, arrays, "cpu")
  assert len(forward_and_back) == 2
  assert all("rhs_dilate = [2, 2]" in line for line in forward_and_back)


def test_groups_that_do_not_fit_are_named():
  expected = "groups must divide .* got groups=2, a kernel \\(3, 3, 4, 6\\) and inputs \\(1, 8, 8, 4\\)"
  with pytest.raises(ValueError, match=expected):
    conv2d(jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 6)), groups=2)
