"""A run over a data set beside the bare kernel: what reading, storing and reporting cost.

The bare kernel is the run's own compiled search on one batch again and again, with nothing read and nothing stored.
Pairs of runs follow one another, so that the machine is the same for both.
"""

import dataclasses
import pathlib
import statistics
import time
from typing import Any

import jax
import numpy as np
import pytest

from jax_sis.core.searches import Gradient
from jax_sis.data import sources
from jax_sis.results import folder
from jax_sis.runs import find, setup, unit_search
from jax_sis.runs.config import FindConfig
from jax_sis.runtime.device_program import DeviceProgram

DATA_DIR = pathlib.Path(__file__).parents[2] / "shared/data/tfds"
NUM_IMAGES = 2880
# As a run over the 10,000 test images has it.
UNIT_SIZE = 144
NUM_PAIRS = 5


class DelayedSource:
  """A source whose every image comes late."""

  def __init__(self, source: sources.ListedSource, seconds: float):
    self._source = source
    self._seconds = seconds
    self.class_names = source.class_names
    self.description = source.description

  def __len__(self) -> int:
    return len(self._source)

  def ids(self) -> list[str]:
    """The ids of all images, in order."""
    return self._source.ids()

  def __getitem__(self, index: int) -> sources.Record:
    time.sleep(self._seconds)
    return self._source[index]


def open_job(out: pathlib.Path) -> setup.Job:
  config = FindConfig(
    out=str(out),
    data="cifar10",
    split=f"test[:{NUM_IMAGES}]",
    data_dir=str(DATA_DIR),
    search=Gradient(per_step=128),
    smallest=None,
    certificate="alone",
    batch_size=16,
    unit_size=UNIT_SIZE,
    num_devices=2,
    gallery=0,
  )
  return setup.make_job(config, folder.open_folder(out))


def time_kernel(program: DeviceProgram, arrays: tuple[np.ndarray, ...]) -> float:
  """Images a second of as many launches as a run has."""
  started = time.perf_counter()
  pending: list[Any] = []
  for _ in range(NUM_IMAGES // program.launch_size):
    # As many at once as a run has.
    if len(pending) > 1:
      jax.block_until_ready(pending.pop(0))
    pending.append(program.start(*arrays).outputs)
  jax.block_until_ready(pending)
  return NUM_IMAGES / (time.perf_counter() - started)


def time_run(opened: setup.Job, out: pathlib.Path) -> float:
  """Images a second of reading, searching and storing all units, compilation left out."""
  opened = dataclasses.replace(opened, config=dataclasses.replace(opened.config, out=str(out)))
  store = setup.create_or_resume(opened, opened.config)
  search = unit_search.UnitSearch(opened)
  started = time.perf_counter()
  search.run(find.missing_units(store), store.write_unit)
  seconds = time.perf_counter() - started
  assert len(store.done_images()) == NUM_IMAGES
  return NUM_IMAGES / seconds


@pytest.mark.parametrize("delay", [0.0, 0.5], ids=["reader", "reader delayed by half a unit's time"])
def test_run_against_bare_kernel(benchmark: Any, tmp_path: pathlib.Path, delay: float):
  if not DATA_DIR.is_dir():
    pytest.skip("needs CIFAR-10 in the shared material")
  opened = open_job(tmp_path / "first")
  program = setup.compile_search(opened)
  opened = dataclasses.replace(opened, program=program)
  arrays = opened.launch_arrays(next(opened.read(range(opened.launch_size))))
  seconds_per_image = 1 / time_kernel(program, arrays)
  # One image after the other, a unit's images come half of the time late that searching them takes.
  source = DelayedSource(opened.source, delay * seconds_per_image)
  delayed = dataclasses.replace(opened, source=source) if delay else opened
  pairs = []

  def run_pairs() -> None:
    for number in range(NUM_PAIRS):
      kernel = time_kernel(program, arrays)
      run = time_run(delayed, tmp_path / str(number))
      pairs.append((kernel, run))

  benchmark.pedantic(run_pairs, rounds=1)
  ratios = [run / kernel for kernel, run in pairs]
  benchmark.extra_info["pairs"] = pairs
  print("\nkernel and run, images/s: " + ", ".join(f"{kernel:.1f} {run:.1f}" for kernel, run in pairs))
  print(f"run over kernel: {', '.join(f'{ratio:.3f}' for ratio in ratios)}; median {statistics.median(ratios):.3f}")
