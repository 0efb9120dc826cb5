"""How many images and masked copies a device works on at a time: by platform, number of images, and memory."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jax_sis.core.chunks import COPIES_ALONE_ON_CPU, LARGEST_CALL, ON_CPU, default_chunk_size
from jax_sis.core.searches import Exact, Gradient
from jax_sis.runs.config import FindConfig

# On two CPU cores batches of 16 to 32 are the fastest; four launches a device let all devices end together.
CPU_BATCH = 16
CPU_LAUNCHES = 4
# An H100 does 65,500 steps a second of 256 images of 32x32 (ResNet-20, float32), 76,000 of 1,024; in TF32 160,000 and
# 196,000. More would gain less than that, and finish nothing for longer.
LARGEST_BATCH = 1024
# Larger images fill it sooner: numbers in the inputs of a batch, for 256 of 224x224 in color.
LARGEST_BATCH_NUMBERS = 2**26
# What a step takes whatever the batch, as images: there, 64 take 1.5 ms, 256 3.9 and 1,024 13.5.
LAUNCH_IMAGES = 64
# Units are small enough to give a run some dozens of them, and large enough to cost little: writing one takes 4 ms of
# CPU, and two CPU cores search an image of 32x32 in 6 ms at 128 pixels a step.
MIN_UNITS = 64
LARGEST_UNIT = 256


class Sizes(NamedTuple):
  """What a device works on at a time: images, and masked copies in one model call at most, 0 where none are tried."""

  batch: int
  copies: int

  def __str__(self) -> str:
    return f"{self.batch} images a device" + (f" and {self.copies} masked copies" if self.copies else "")


def default_batch_size(
  platform: str, input_shape: Sequence[int], *, num_images: int, num_devices: int, num_draws: int = 1
) -> int:
  """Images per device at a time, a power of two, with which a run takes the least time.

  Args:
    platform: as JAX names it: cpu, gpu, tpu.
    input_shape: of one image.
    num_images: of the run.
    num_devices: of one process.
    num_draws: copies of each image that a step evaluates together.
  """
  if platform == "cpu":
    fastest = CPU_BATCH if num_draws == 1 else max(ON_CPU // num_draws, 1)
    return floor_power_of_two(max(min(fastest, num_images // (num_devices * CPU_LAUNCHES)), 1))
  largest = max(min(LARGEST_BATCH, LARGEST_BATCH_NUMBERS // math.prod(input_shape)) // num_draws, 1)
  sizes = [1 << exponent for exponent in range(largest.bit_length())]
  return min(sizes, key=lambda size: -(-num_images // (num_devices * size)) * (size + LAUNCH_IMAGES))


def choose_unit_size(num_images: int, batch_size: int) -> int:
  """A multiple of the batch that gives the run some dozens of units, if it has enough images."""
  return batch_size * max(1, min(LARGEST_UNIT, num_images // MIN_UNITS) // batch_size)


def floor_power_of_two(number: int) -> int:
  """The largest power of two that is not above `number`."""
  return 1 << (number.bit_length() - 1)


def settle_chunks(
  config: FindConfig, platform: str, input_shape: Sequence[int], *, stored: Mapping[str, Any] | None = None
) -> FindConfig:
  """The settings with a number wherever they leave open how many masked copies are worked on at a time.

  Args:
    config: the settings.
    platform: as JAX names it.
    input_shape: of one image.
    stored: the specification of the run that goes on, whose numbers count; None for a new run.
  """
  changes: dict[str, Any] = {}
  for name in ("search", "smallest"):
    search = getattr(config, name)
    if search is None or isinstance(search, Gradient) or search.chunk_size is not None:
      continue
    of_run = ((stored or {}).get(name) or {}).get("chunk_size")
    default = default_chunk_size(
      platform, input_shape, on_cpu=COPIES_ALONE_ON_CPU if isinstance(search, Exact) else ON_CPU
    )
    changes[name] = dataclasses.replace(search, chunk_size=config.chunk_size or of_run or default)
  return dataclasses.replace(config, **changes, chunk_size=certificate_chunk(config, platform, input_shape, stored))


def certificate_chunk(
  config: FindConfig, platform: str, input_shape: Sequence[int], stored: Mapping[str, Any] | None
) -> int:
  if config.chunk_size is not None:
    return config.chunk_size
  if stored is not None:
    return stored.get("chunk_size", ON_CPU)
  return default_chunk_size(platform, input_shape)


def describe_certificate_chunk(config: FindConfig) -> dict[str, int]:
  """What a specification holds of settled settings; nothing of the number that all runs of before had."""
  assert config.chunk_size is not None
  return {} if config.chunk_size == ON_CPU or not config.tries_copies else {"chunk_size": config.chunk_size}


def read_sizes(config: FindConfig, batch_size: int) -> Sizes:
  """The sizes of settled settings."""
  chunks = [chunk for chunk in chunks_of_searches(config) if chunk is not None]
  if config.tries_copies and config.chunk_size is not None:
    chunks.append(config.chunk_size)
  return Sizes(batch_size, min(max(chunks, default=0), LARGEST_CALL))


def chunks_of_searches(config: FindConfig) -> list[int | None]:
  searches = (search for search in (config.search, config.smallest) if search is not None)
  return [search.chunk_size for search in searches if not isinstance(search, Gradient)]


class Open(NamedTuple):
  """Which sizes the settings leave open."""

  batch: bool
  chunk: bool


def find_open(config: FindConfig) -> Open:
  """What the settings of a new run leave open, before anything is filled in."""
  return Open(config.batch_size is None, config.chunk_size is None and not any(chunks_of_searches(config)))


def shrink(sizes: Sizes, platform: str, is_open: Open, *, fitting_share: float = 0.5) -> Sizes | None:
  """The next smaller sizes to try where these need too much memory; None if there are none.

  On accelerators the larger number is made smaller; on a CPU, where copies are few, the batch first.

  Args:
    sizes: what needs too much.
    platform: as JAX names it.
    is_open: which numbers may be another.
    fitting_share: what might fit; at most half is tried.
  """
  share = min(fitting_share, 0.5)
  is_chunk_larger = sizes.batch == 1 if platform == "cpu" else sizes.copies > sizes.batch
  if is_open.chunk and is_chunk_larger and sizes.copies > 1:
    return sizes._replace(copies=floor_power_of_two(max(int(sizes.copies * share), 1)))
  if is_open.batch and sizes.batch > 1:
    return sizes._replace(batch=floor_power_of_two(max(int(sizes.batch * share), 1)))
  return None
