"""One program on all devices of this process."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_sis.classifiers.on_images import PRECISION, ImageSet
from jax_sis.runtime import devices


class Launched(NamedTuple):
  """What one launch gave.

  Attributes:
    found: the function's results, `[N, ...]`, in NumPy.
    core_seconds: CPU time of all threads of this process for each image that was computed, padding among them.
    seconds: time on the clock for each such image.
  """

  found: Any
  core_seconds: float
  seconds: float


class DeviceProgram:
  """A function of `(params, *arrays [B, ...])` on all devices, compiled when it is first run.

  Args:
    function: gives a pytree of arrays `[B, ...]`.
    images: whose classifier and devices.
  """

  def __init__(self, function: Callable[..., Any], images: ImageSet):
    self._function = function
    self._images = images
    self._compiled: jax.stages.Compiled | None = None

  def compile(self, *arrays: np.ndarray) -> None:
    """Compiles it for arrays `[launch_size, ...]` such as these, so that the first run takes no longer than others.

    Raises:
      ValueError: a batch does not fit the memory.
    """
    images = self._images
    shards = devices.shard(arrays, len(images.local_devices))
    with jax.default_matmul_precision(PRECISION):
      mapped = jax.pmap(self._function, in_axes=(None, *(0 for _ in shards)), devices=images.local_devices)
      compiled = mapped.lower(images.replicated, *shards).compile()
    devices.check_memory(
      compiled, batch_size=images.config.batch_size, devices=images.local_devices, argument="--batch"
    )
    self._compiled = compiled

  def run(self, *arrays: np.ndarray) -> Launched:
    """Runs it once on at most `launch_size` images; fewer are filled up by repeating the last.

    Raises:
      ValueError: as for `compile`, which it does where that was not done.
    """
    count, size = len(arrays[0]), self._images.launch_size
    padded = tuple(np.concatenate([array, np.repeat(array[-1:], size - count, axis=0)]) for array in arrays)
    if self._compiled is None:
      self.compile(*padded)
    compiled: Any = self._compiled
    shards = devices.shard(padded, len(self._images.local_devices))
    started, core_started = time.perf_counter(), time.process_time()
    found = jax.block_until_ready(compiled(self._images.replicated, *shards))
    core_seconds, seconds = time.process_time() - core_started, time.perf_counter() - started
    joined = jax.tree.map(lambda array: np.asarray(array).reshape(size, *array.shape[2:])[:count], found)
    return Launched(joined, core_seconds / size, seconds / size)
