"""The loop of `find`: what waits for what, on a classifier that takes no time."""

import dataclasses
import pathlib
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_sis.results.folder import open_folder
from jax_sis.runs import find, setup, unit_search
from jax_sis.runs.config import FindConfig
from jax_sis.runs.unit_search import LAUNCHES_TO_STORE, UnitSearch
from jax_sis.runtime.device_program import DeviceProgram

NUM_UNITS = 24
pytestmark = pytest.mark.usefixtures("allow_rank_promotion")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: str) -> setup.Job:
  """24 units of one image, a launch each, in which nothing is found."""
  config = FindConfig(
    out=str(tmp_path_factory.mktemp("job")),
    checkpoint=tiny_checkpoint,
    patch=8,
    smallest=None,
    certificate="alone",
    num_devices=1,
    batch_size=1,
    unit_size=1,
  )
  with jax.numpy_rank_promotion("allow"):
    opened = setup.make_job(config, open_folder(config.out))
    arrays = opened.launch_arrays(next(opened.read(range(1))))
    found = jax.eval_shape(opened.search, opened.params, opened.normalise(arrays[0]), arrays[1])
    program = opened.make_program(lambda *_: jax.tree.map(lambda field: jnp.zeros(field.shape, field.dtype), found))
    program.compile(*arrays)
    return dataclasses.replace(opened, program=program)


def start_search(job: setup.Job, out: pathlib.Path) -> tuple[UnitSearch, np.ndarray]:
  config = dataclasses.replace(job.config, out=str(out))
  store = setup.create_or_resume(dataclasses.replace(job, config=config), config)
  return UnitSearch(job), find.missing_units(store)


def test_pixels_go_to_the_devices_in_8_bits_and_are_normalised_there(job: setup.Job):
  batch = next(job.read(range(1)))
  images, requested = job.launch_arrays(batch)
  assert images.dtype == np.uint8
  inputs = job.make_program(lambda params, inputs, requested: inputs).run(images, requested).found
  np.testing.assert_array_equal(inputs, job.normalise(batch["image"]))


def test_a_slow_write_holds_up_the_devices_only_after_some_launches(
  job: setup.Job, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  # One is stored, LAUNCHES_TO_STORE - 1 wait for it, one is fetched, and one is at the devices.
  expected = LAUNCHES_TO_STORE + 2
  started: list[int] = []
  is_full, is_written = threading.Event(), threading.Event()
  start = DeviceProgram.start

  def noted(self: DeviceProgram, *arrays: Any) -> Any:
    started.append(len(started))
    if len(started) == expected:
      is_full.set()
    return start(self, *arrays)

  monkeypatch.setattr(DeviceProgram, "start", noted)
  search, units = start_search(job, tmp_path)
  stored: list[int] = []
  counts: list[int] = []

  def store_slowly(unit: int, rows: dict[str, np.ndarray]) -> None:
    del rows
    if not unit:
      assert is_full.wait(timeout=30)
      is_written.wait(timeout=0.2)
      counts.append(len(started))
    stored.append(unit)

  search.run(units, store_slowly)
  assert counts == [expected]
  assert stored == list(range(NUM_UNITS))


def test_a_write_that_fails_ends_the_work_and_drops_what_waits_for_it(job: setup.Job, tmp_path: pathlib.Path):
  search, units = start_search(job, tmp_path)
  tried: list[int] = []

  def fail(unit: int, rows: dict[str, np.ndarray]) -> None:
    del rows
    tried.append(unit)
    if unit == 2:
      raise ValueError("no space")

  with pytest.raises(ValueError, match="no space"):
    search.run(units, fail)
  assert tried[:3] == [0, 1, 2]
  assert len(tried) < NUM_UNITS


def test_an_interrupt_stores_what_is_being_stored_and_drops_what_waits(
  job: setup.Job, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  is_storing, is_interrupted = threading.Event(), threading.Event()
  read = unit_search.read_launches

  def read_some(*arguments: Any) -> Any:
    for number, launch in enumerate(read(*arguments)):
      if number == 4:
        assert is_storing.wait(timeout=30)
        is_interrupted.set()
        raise KeyboardInterrupt
      yield launch

  monkeypatch.setattr(unit_search, "read_launches", read_some)
  search, units = start_search(job, tmp_path)
  stored: list[int] = []

  def store_slowly(unit: int, rows: dict[str, np.ndarray]) -> None:
    del rows
    is_storing.set()
    assert is_interrupted.wait(timeout=30)
    # The main thread has left the loop by then.
    threading.Event().wait(0.3)
    stored.append(unit)

  with pytest.raises(KeyboardInterrupt):
    search.run(units, store_slowly)
  assert stored == [0]
