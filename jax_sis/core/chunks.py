"""How many masked copies of the inputs are worked on at a time: few on a CPU, thousands on an accelerator."""

import math
from collections.abc import Sequence
from typing import Any

import jax

from jax_sis.core.validation import check_positive_integer, is_concrete

# More copies than fit a CPU's caches are slower there.
ON_CPU = 64
# Where nothing but copies is evaluated: the exact search, certificates, curves and attributions.
COPIES_ALONE_ON_CPU = 128
# On accelerators: 256 images of 64 candidates each in a local search, or 64 of 256, or fewer where copies are large. An
# H100 forms the gradients of 256 images of 32x32 (ResNet-20) in 3.9 ms, in TF32 in 1.6, and those of 64 in 1.5.
LARGEST_CHUNK = 16384
# Numbers in the copies of a chunk: 512 MiB in float32, and some twenty times that within a ResNet-50.
LARGEST_CHUNK_NUMBERS = 2**27
# An H100 is full with so many copies of 32x32 pixels; larger calls would only be filled up with more that nobody needs.
LARGEST_CALL = 1024


def default_chunk_size(platform: str, input_shape: Sequence[int], *, on_cpu: int = ON_CPU) -> int:
  """Masked copies to work on at a time, a power of two.

  Args:
    platform: as JAX names it: cpu, gpu, tpu.
    input_shape: of one input, without the batch axis.
    on_cpu: the answer for a CPU.
  """
  if platform == "cpu":
    return on_cpu
  fitting = max(LARGEST_CHUNK_NUMBERS // math.prod(input_shape), 1)
  return min(1 << (fitting.bit_length() - 1), LARGEST_CHUNK)


def settle_chunk_size(chunk_size: int | None, inputs: Any, *, on_cpu: int = ON_CPU) -> int:
  """The number that was asked for, or where none was, the default where these inputs are."""
  if chunk_size is not None:
    return chunk_size
  return default_chunk_size(find_platform(inputs), inputs.shape[1:], on_cpu=on_cpu)


def find_platform(inputs: Any) -> str:
  """Where these inputs are, as JAX names it; while a function is traced, its default."""
  is_placed = isinstance(inputs, jax.Array) and is_concrete(inputs)
  return next(iter(inputs.devices())).platform if is_placed else jax.default_backend()


def check_chunk_size(name: str, value: Any) -> None:
  """Raises ValueError unless it is a positive integer, or None for the platform's default."""
  if value is not None:
    check_positive_integer(name, value)
