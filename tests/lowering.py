"""Programs as they are handed to XLA for a GPU or a TPU, lowered on any machine, and what must not be in them."""

import collections
import re
import unittest.mock
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax

from jax_sis.classifiers import dense_conv, layers
from jax_sis.classifiers.conv import Padding

PLATFORMS = ("cuda", "tpu")
OUTSIDE_CALLS = ("custom_call", "send", "recv", "infeed", "outfeed")
COLLECTIVES = (
  "all_gather",
  "all_reduce",
  "all_to_all",
  "collective_broadcast",
  "collective_permute",
  "cross-replica-sum",
  "reduce_scatter",
)


class Convolution(NamedTuple):
  """What a convolution computes, however its axes are named: sizes, and the steps in outputs and in inputs."""

  batch: int
  inputs: tuple[int, int]
  in_width: int
  out_width: int
  window: tuple[int, int]
  stride: tuple[int, int]
  dilation: tuple[int, int]


def lower(function: Callable[..., Any], *arguments: Any, platforms: Sequence[str] = PLATFORMS) -> dict[str, str]:
  """The function's program for each platform, in StableHLO."""
  traced = jax.jit(function).trace(*arguments)
  return {platform: traced.lower(lowering_platforms=(platform,)).as_text() for platform in platforms}


def check_programs(programs: dict[str, str], plain_program: str) -> None:
  """That they can run on accelerators at full speed.

  Args:
    programs: by platform.
    plain_program: what computes the same with JAX's own convolutions, see `with_plain_convolutions`.
  """
  expected = convolutions(plain_program)
  assert expected
  for platform, program in programs.items():
    assert find_faults(program) == [], platform
    assert convolutions(program) == expected, platform


def find_faults(program: str) -> list[str]:
  """What keeps a program from running on an accelerator at full speed: calls out of it, collectives, float64."""
  operations = set(re.findall(r"\bstablehlo\.([\w-]+)", program))
  faults = [f"calls out of the program: {name}" for name in OUTSIDE_CALLS if name in operations]
  faults += [f"a collective: {name}" for name in COLLECTIVES if name in operations]
  return faults + (["float64"] if re.search(r"[<x]f64\b", program) else [])


def precisions(program: str) -> set[str]:
  """Those of all its convolutions and matrix products."""
  of_products = re.findall(r"stablehlo\.dot_general.* precision = \[(\w+), (\w+)\]", program)
  of_convolutions = re.findall(r"#stablehlo<precision (\w+)>", program)
  return {name for pair in of_products for name in pair} | set(of_convolutions)


def convolutions(program: str) -> collections.Counter[Convolution]:
  """Those of a program, and how often each stands there."""
  return collections.Counter(
    read_convolution(line) for line in program.splitlines() if "stablehlo.convolution(" in line
  )


def read_convolution(line: str) -> Convolution:
  names = re.search(r"dim_numbers = \[(.*?)\]x\[(.*?)\]->", line)
  types = re.search(r": \(tensor<([\dx]+)x\w+>, tensor<([\dx]+)x\w+>\)", line)
  assert names and types, line
  inputs, kernel = (
    dict(zip(axes.split(", "), map(int, lengths.split("x")), strict=True))
    for axes, lengths in zip(names.groups(), types.groups(), strict=True)
  )
  stride, dilation = (
    tuple(map(int, found[1].split(","))) if (found := re.search(rf"\b{name} = \[([\d, ]+)\]", line)) else (1, 1)
    for name in ("stride", "lhs_dilate")
  )
  return Convolution(
    batch=inputs["b"],
    inputs=(inputs["0"], inputs["1"]),
    in_width=kernel["i"],
    out_width=kernel["o"],
    window=(kernel["0"], kernel["1"]),
    stride=(stride[0], stride[1]),
    dilation=(dilation[0], dilation[1]),
  )


def with_plain_convolutions(predict_fn: Callable[..., Any]) -> Callable[..., Any]:
  """The same network with JAX's own convolutions and gradients."""

  def predict_plain(params: Any, inputs: Any) -> Any:
    with unittest.mock.patch.object(layers, "conv2d", plain_conv2d):
      return predict_fn(params, inputs)

  return predict_plain


def plain_conv2d(
  inputs: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: Padding = 0, groups: int = 1
) -> jax.Array:
  """`conv.conv2d` without groups by JAX's own convolution and gradients."""
  assert groups == 1
  pads = (padding, padding) if isinstance(padding, int) else padding
  return _plain_conv2d(stride, pads, inputs, kernel)


def _run_plain(stride: int, pads: tuple[int, int], inputs: jax.Array, kernel: jax.Array) -> jax.Array:
  return lax.conv_general_dilated(
    inputs, kernel, (stride, stride), [(pad, pad) for pad in pads], dimension_numbers=dense_conv.DIMENSION_NUMBERS
  )


def _plain_gradients(
  stride: int, pads: tuple[int, int], arrays: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Both, as ours makes them: in a while loop JAX leaves it to XLA to drop the one that nobody uses."""
  inputs, kernel = arrays
  (of_inputs,) = jax.linear_transpose(lambda inputs: _run_plain(stride, pads, inputs, kernel), inputs)(cotangent)
  (of_kernel,) = jax.linear_transpose(lambda kernel: _run_plain(stride, pads, inputs, kernel), kernel)(cotangent)
  return of_inputs, of_kernel


_plain_conv2d = jax.custom_vjp(_run_plain, nondiff_argnums=(0, 1))
_plain_conv2d.defvjp(
  lambda stride, pads, *arrays: (_run_plain(stride, pads, *arrays), arrays),
  _plain_gradients,
)
