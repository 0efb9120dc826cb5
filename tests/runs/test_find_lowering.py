"""The program of `find`, as it is built for all devices, lowers for GPUs and TPUs; see tests/core/test_lowering.py."""

import dataclasses
import pathlib
import unittest.mock
from collections.abc import Callable
from typing import Any

import jax
import lowering
import pytest

from jax_sis import results
from jax_sis.runs import setup
from jax_sis.runs.config import FindConfig, SearchOptions
from jax_sis.runs.setup import Job
from jax_sis.runtime import device_program

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")

SEARCHES = ("gradient", "screened", "exact", "smallest", "both")
CERTIFICATES = ("full", "alone")


class StoppedError(Exception):
  """Ends compiling where the programs are known."""


def make_job(out: pathlib.Path, name: str, *, checkpoint: str | None = None, **settings: Any) -> Job:
  searches = SearchOptions(search=name).make()  # pyright: ignore[reportArgumentType]
  config = FindConfig(out=str(out), checkpoint=checkpoint, batch_size=4, num_devices=2, **searches, **settings)
  return setup.make_job(config, results.open_folder(config.out))


def lower_job(job: Job) -> dict[str, str]:
  """What `find` would compile, for accelerators instead of the devices that are there."""
  programs: dict[str, str] = {}
  map_devices = device_program.map_devices

  def map_and_stop(*arguments: Any, **options: Any) -> Any:
    mapped = map_devices(*arguments, **options)

    def lower(*arrays: Any) -> None:
      programs.update(lowering.lower(mapped, *arrays))
      raise StoppedError

    return unittest.mock.Mock(lower=lower)

  with unittest.mock.patch.object(device_program, "map_devices", map_and_stop), pytest.raises(StoppedError):
    setup.compile_search(job)
  return programs


def with_predict_fn(job: Job, predict_fn: Callable[..., Any]) -> Job:
  return dataclasses.replace(job, search=dataclasses.replace(job.search, predict_fn=predict_fn))


def check_job(job: Job) -> None:
  programs = lower_job(job)
  plain = lower_job(with_predict_fn(job, lowering.with_plain_convolutions(job.search.predict_fn)))
  lowering.check_programs(programs, plain["tpu"])
  for program in programs.values():
    assert 'sdy.mesh @mesh = <["devices"=2]>' in program
    assert lowering.precisions(program) == {"HIGHEST"}


@pytest.mark.parametrize(("name", "certificate"), [("both", "full"), ("gradient", "alone"), ("screened", "alone")])
def test_find_lowers_for_accelerators(name: str, certificate: Any, tiny_checkpoint: str, tmp_path: pathlib.Path):
  check_job(make_job(tmp_path, name, checkpoint=tiny_checkpoint, certificate=certificate, patch=4, saved="order"))


@pytest.mark.slow
@pytest.mark.parametrize("certificate", CERTIFICATES)
@pytest.mark.parametrize("name", SEARCHES)
def test_find_with_the_embedded_network_lowers_for_accelerators(name: str, certificate: Any, tmp_path: pathlib.Path):
  check_job(make_job(tmp_path, name, certificate=certificate))


def test_searches_at_another_precision_have_certificates_at_the_highest(tiny_checkpoint: str, tmp_path: pathlib.Path):
  job = make_job(tmp_path, "gradient", checkpoint=tiny_checkpoint, certificate="alone", patch=4, precision="default")
  assert lowering.precisions(lower_job(job)["tpu"]) == {"DEFAULT", "HIGHEST"}


def test_a_collective_in_the_program_is_seen(tiny_checkpoint: str, tmp_path: pathlib.Path):
  job = make_job(tmp_path, "gradient", checkpoint=tiny_checkpoint, certificate="alone", patch=4)

  def predict(params: Any, inputs: Any) -> Any:
    return jax.lax.pmean(job.search.predict_fn(params, inputs), device_program.DEVICE_AXIS)

  programs = lower_job(with_predict_fn(job, predict))
  assert {platform: lowering.find_faults(program) for platform, program in programs.items()} == {
    platform: ["a collective: all_reduce"] for platform in lowering.PLATFORMS
  }
