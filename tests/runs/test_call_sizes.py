"""A dry model of a GPU: how often a run of `find` calls the network, and with how many inputs.

What keeps an accelerator busy is the size of a call, and their number is what a launch waits for. Both are those of the
compiled program, so they can be counted on a CPU with the sizes that a GPU would get.
"""

import collections
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from jax_sis.runs import sizes
from jax_sis.runs.config import FindConfig
from jax_sis.runs.device_search import ImageSearch

SHAPE, GRID = (8, 8, 3), (8, 8, 1)
NUM_IMAGES, NUM_CLASSES = 1000, 10
# Of the logits, so that some pixels make the network sure, but not one.
SCALE = 20.0


@dataclasses.dataclass(frozen=True, eq=False)
class CountedNetwork:
  """Compares images with patterns; notes the number of inputs of each call of the compiled program."""

  calls: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)

  def __call__(self, params: Any, inputs: Array) -> Array:
    """Logits."""
    jax.debug.callback(self.note, np.int32(len(inputs)))
    return SCALE * jnp.tanh(inputs.reshape(len(inputs), -1) @ params.reshape(NUM_CLASSES, -1).T / params[0].size)

  def note(self, size: Any) -> None:
    """One call."""
    self.calls[int(size)] += 1


def make_images() -> tuple[np.ndarray, np.ndarray]:
  """Noisy images, and the patterns of the classes, of which each holds one."""
  draws = np.random.default_rng(0)
  patterns = draws.normal(size=(NUM_CLASSES, *SHAPE)).astype(np.float32)
  noise = draws.normal(size=(NUM_IMAGES, *SHAPE)).astype(np.float32)
  return patterns[np.arange(NUM_IMAGES) % NUM_CLASSES] + noise, patterns


def count_calls(platform: str) -> tuple[collections.Counter[int], dict[str, np.ndarray]]:
  """The calls by size of `find --search both` with one device of a platform, and what it finds."""
  batch_size = sizes.default_batch_size(platform, SHAPE, num_images=NUM_IMAGES, num_devices=1)
  network = CountedNetwork()
  search = ImageSearch(config=sizes.settle_chunks(FindConfig(), platform, SHAPE), predict_fn=network, grid=GRID)
  run = jax.jit(search.__call__)
  images, patterns = make_images()
  launches = []
  for start in range(0, NUM_IMAGES, batch_size):
    batch = images[start : start + batch_size]
    missing = batch_size - len(batch)
    batch = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
    found = run(patterns, batch, np.full(batch_size, -1, np.int32))
    launches.append({name: np.asarray(array)[: batch_size - missing] for name, array in found.items()})
  jax.effects_barrier()
  return network.calls, {name: np.concatenate([launch[name] for launch in launches]) for name in launches[0]}


@pytest.mark.slow
def test_a_gpu_is_called_seldom_and_with_many_inputs():
  on_cpu, found_on_cpu = count_calls("cpu")
  on_gpu, found_on_gpu = count_calls("gpu")
  print(f"\ncalls by size, CPU: {sorted(on_cpu.items())}\ncalls by size, GPU: {sorted(on_gpu.items())}")
  assert np.median(found_on_gpu["smallest_num_kept"]) > 3
  assert np.mean(found_on_gpu["smallest_num_kept"] == found_on_cpu["smallest_num_kept"]) > 0.99
  # The smallest calls are the gradients of the local search, a call all images that it works on at a time.
  assert min(on_gpu) >= 64
  assert on_gpu.total() * 30 <= on_cpu.total()
