"""What steps of a search cost on an accelerator that is not at hand: counted work over rates of its data sheet."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# What a gradient search of a ResNet-20 at 32x32 reached of an H100's data sheet with 1,024 images at a time: 12.3 of 67
# TFLOP/s in float32, and in TF32 0.59 of 3.35 TB/s. Of what a product of 8,192 x 8,192 and a copy reach there (50.2
# TFLOP/s, 2.81 TB/s), these are 0.25 and 0.21. See docs/results/accelerators/h100-orders-and-resnet20.jsonl.
MATMUL_SHARE = 0.184
MEMORY_SHARE = 0.176
# A number is read and written in float32, whatever the products are in.
BYTES_A_NUMBER = 4
TERA, GIGA = 1e12, 1e9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accelerator:
  """A chip, by its vendor's data sheet.

  Attributes:
    platform: as JAX names it.
    tflops: the peak rate of matrix products, without sparsity, by JAX's matmul precision.
    gigabytes_per_s: of its memory.
    gigabytes: of its memory.
  """

  platform: str
  tflops: Mapping[str, float]
  gigabytes_per_s: float
  gigabytes: float


def make_gpu(*, float32: float, tf32: float, gigabytes_per_s: float, gigabytes: float) -> Accelerator:
  # On an H100, high is as fast as default.
  tflops = {"highest": float32, "high": tf32, "default": tf32}
  return Accelerator(platform="gpu", tflops=tflops, gigabytes_per_s=gigabytes_per_s, gigabytes=gigabytes)


def make_tpu(*, bfloat16: float, gigabytes_per_s: float, gigabytes: float) -> Accelerator:
  # XLA makes a float32 product of six in bfloat16, and one of precision high of three.
  tflops = {"highest": bfloat16 / 6, "high": bfloat16 / 3, "default": bfloat16}
  return Accelerator(platform="tpu", tflops=tflops, gigabytes_per_s=gigabytes_per_s, gigabytes=gigabytes)


ACCELERATORS = {
  "a100": make_gpu(float32=19.5, tf32=156, gigabytes_per_s=2039, gigabytes=80),
  "h100": make_gpu(float32=67, tf32=495, gigabytes_per_s=3350, gigabytes=80),
  "h200": make_gpu(float32=67, tf32=495, gigabytes_per_s=4800, gigabytes=141),
  "l4": make_gpu(float32=30.3, tf32=60, gigabytes_per_s=300, gigabytes=24),
  "v4": make_tpu(bfloat16=275, gigabytes_per_s=1228, gigabytes=32),
  "v5e": make_tpu(bfloat16=197, gigabytes_per_s=819, gigabytes=16),
  "v5p": make_tpu(bfloat16=459, gigabytes_per_s=2765, gigabytes=95),
  "v6e": make_tpu(bfloat16=918, gigabytes_per_s=1640, gigabytes=32),
}


class Work(NamedTuple):
  """What a forward pass of one image takes: floating-point operations, and numbers that its products touch."""

  flops: float
  numbers: float


class Estimate(NamedTuple):
  """Seconds that some work takes, and whether products or memory say so."""

  seconds: float
  is_memory_bound: bool


def estimate_seconds(accelerator: Accelerator, precision: str, work: Work) -> Estimate:
  """The time of this work where many images are worked on at a time, by the slower of products and memory."""
  of_products = work.flops / (MATMUL_SHARE * accelerator.tflops[precision] * TERA)
  of_memory = work.numbers * BYTES_A_NUMBER / (MEMORY_SHARE * accelerator.gigabytes_per_s * GIGA)
  return Estimate(max(of_products, of_memory), of_memory > of_products)


def count_work(predict_fn: Any, params: Any, input_shape: tuple[int, ...]) -> Work:
  """Of convolutions and matrix products alone; each reads its inputs and writes its outputs once."""
  closed = jax.make_jaxpr(predict_fn)(params, jnp.zeros((1, *input_shape)))
  return count_jaxpr(closed.jaxpr)


def count_terms(equation: Any) -> float:
  """Of how many products a number of the output is the sum."""
  left, right = (variable.aval.shape for variable in equation.invars)
  layout = equation.params["dimension_numbers"]
  if equation.primitive.name == "dot_general":
    return math.prod(left[axis] for axis in layout[0][0])
  # All of a kernel but the axis of the output's channels.
  return math.prod(right) / right[layout.rhs_spec[0]]


def count_jaxpr(jaxpr: Any) -> Work:
  flops = numbers = 0.0
  for equation in jaxpr.eqns:
    if equation.primitive.name in ("conv_general_dilated", "dot_general"):
      left, output = equation.invars[0].aval, equation.outvars[0].aval
      flops += 2.0 * output.size * count_terms(equation)
      numbers += left.size + output.size
      continue
    # Of the forms by platform the last is the default one; all compute the same.
    inner = equation.params["branches"][-1:] if "branches" in equation.params else equation.params.values()
    for value in inner:
      body = getattr(value, "jaxpr", value)
      if hasattr(body, "eqns"):
        more = count_jaxpr(body)
        flops, numbers = flops + more.flops, numbers + more.numbers
        break
  return Work(flops, numbers)
