"""What runs out of memory is made smaller before a run begins, and refused afterwards.

The memory of these tests is a number of images: beyond it, what would fail on an accelerator fails here.
"""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from jax_sis import results
from jax_sis.runs import find, first_launch, setup
from jax_sis.runs.config import FindConfig
from jax_sis.runs.shards import Shard
from jax_sis.runtime.device_program import DeviceProgram, Launch

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes."


class Memory:
  """What fails beyond so many images or copies, and how."""

  def __init__(self, monkeypatch: pytest.MonkeyPatch):
    self.images = self.copies = 10**9
    self.message = OUT_OF_MEMORY
    self._monkeypatch = monkeypatch

  def limit(self, name: str) -> None:
    """Lets `DeviceProgram.<name>` fail for too many images."""
    method = getattr(DeviceProgram, name)

    def limited(program: Any, *arguments: Any, **options: Any) -> Any:
      if program._batch_size > self.images:
        raise jax.errors.JaxRuntimeError(self.message)
      return method(program, *arguments, **options)

    self._monkeypatch.setattr(DeviceProgram, name, limited)

  def limit_copies(self) -> None:
    """Lets compiling fail for too many masked copies."""
    compile_search = setup.compile_search

    def limited(job: setup.Job, **options: Any) -> DeviceProgram:
      if job.sizes.copies > self.copies:
        raise jax.errors.JaxRuntimeError(self.message)
      return compile_search(job, **options)

    self._monkeypatch.setattr(setup, "compile_search", limited)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Memory:
  """That of a device which passes for an accelerator."""
  monkeypatch.setattr(setup.Job, "platform", "gpu")
  return Memory(monkeypatch)


@pytest.fixture
def run(tiny_checkpoint: str, tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
  """Runs `find`, by default without trials."""

  def run_find(name: str, *, shard: Shard | None = None, **options: Any) -> pathlib.Path:
    defaults = {"patch": 8, "gallery": 0, "num_devices": 1, "smallest": None, "certificate": "alone"}
    config = FindConfig(**{"out": str(tmp_path / name), "checkpoint": tiny_checkpoint, **defaults, **options})
    find.find(config, shard=shard)
    return tmp_path / name

  return run_find


def files_of(out: pathlib.Path) -> dict[str, bytes]:
  """What the specification decides."""
  paths = [path for path in out.rglob("*") if path.is_file()]
  return {str(path.relative_to(out)): path.read_bytes() for path in paths if path.name != "settings.json"}


def read_spec(out: pathlib.Path) -> dict[str, Any]:
  return json.loads((out / results.SPEC_FILE).read_text())


@pytest.mark.parametrize("name", ["compile", pytest.param("start", marks=pytest.mark.slow)])
def test_a_batch_that_runs_out_of_memory_is_halved_before_the_run_begins(
  name: str, memory: Memory, run: Any, capsys: pytest.CaptureFixture[str]
):
  memory.limit(name)
  memory.images = 8
  out = run("halved")
  lines = capsys.readouterr().out.splitlines()
  assert lines[:2] == [
    "Out of memory with 32 images a device at a time; trying 16 images a device.",
    "Out of memory with 16 images a device at a time; trying 8 images a device.",
  ]
  assert (read_spec(out)["batch_size"], read_spec(out)["unit_size"]) == (8, 8)
  assert files_of(out) == files_of(run("asked", batch_size=8))
  # The same command again takes the sizes that are stored.
  run("halved")
  assert "24 of 24 images are done already" in capsys.readouterr().out


@pytest.mark.slow
def test_a_chunk_that_runs_out_of_memory_is_halved_before_the_run_begins(
  memory: Memory, run: Any, capsys: pytest.CaptureFixture[str]
):
  memory.limit_copies()
  memory.copies = 256
  searches = {"search": None, "smallest": FindConfig().smallest, "certificate": "full"}
  out = run("halved", **searches)
  assert "and 512 masked copies at a time; trying 32 images a device and 256 masked copies." in capsys.readouterr().out
  spec = read_spec(out)
  assert (spec["batch_size"], spec["smallest"]["chunk_size"], spec["chunk_size"]) == (32, 256, 256)
  assert files_of(out) == files_of(run("asked", **searches, chunk_size=256))


def test_another_error_is_not_taken_for_too_little_memory(memory: Memory, run: Any, tmp_path: pathlib.Path):
  memory.limit("start")
  memory.images, memory.message = 8, "INTERNAL: not RESOURCE_EXHAUSTED"
  with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
    run("out")
  assert not (tmp_path / "out" / results.SPEC_FILE).exists()


@pytest.mark.parametrize(
  ("images", "batch_size", "advice"),
  [(8, 12, "try --batch 4"), pytest.param(0, None, "a larger --patch", marks=pytest.mark.slow)],
)
def test_what_cannot_be_made_smaller_is_refused_and_no_run_begins(
  images: int, batch_size: int | None, advice: str, memory: Memory, run: Any, tmp_path: pathlib.Path
):
  memory.limit("start")
  memory.images = images
  with pytest.raises(ValueError, match=f"--batch and --chunk must be small enough for the memory, but .*{advice}"):
    run("out", batch_size=batch_size)
  assert not (tmp_path / "out" / results.SPEC_FILE).exists()


@pytest.mark.parametrize("name", ["compile", "start"])
def test_a_run_that_has_begun_keeps_its_sizes_and_says_how_to_begin_anew(name: str, memory: Memory, run: Any):
  out = run("out", batch_size=8, shard=Shard(0, 2))
  before = files_of(out)
  memory.limit(name)
  memory.images = 4
  with pytest.raises(
    ValueError, match=r"must hold 8 images a device at a time, .* anew with another --out: try --batch 4"
  ):
    run("out")
  assert files_of(out) == before
  memory.images = 8
  run("out")
  assert files_of(out) == files_of(run("straight", batch_size=8))


@pytest.mark.slow
def test_two_workers_that_begin_at_once_agree_on_the_sizes_of_the_first(
  memory: Memory, run: Any, monkeypatch: pytest.MonkeyPatch
):
  memory.limit("start")
  create, roomy = first_launch.create_or_resume, []

  def create_second(job: setup.Job, asked: FindConfig) -> results.Results:
    if not roomy:
      roomy.append(job.batch_size)
      # Meanwhile, another worker with less memory begins, and does its part.
      memory.images = 4
      run("out", shard=Shard(1, 2))
    return create(job, asked)

  monkeypatch.setattr(first_launch, "create_or_resume", create_second)
  out = run("out", shard=Shard(0, 2))
  assert roomy == [32]
  assert read_spec(out)["batch_size"] == 4
  assert np.array_equal(results.open(out).done_units(), np.arange(6))
  monkeypatch.undo()
  run("out")
  assert files_of(out) == files_of(run("asked", batch_size=4))


def test_the_first_launch_is_computed_once(memory: Memory, run: Any, monkeypatch: pytest.MonkeyPatch):
  waited_for, fetched = [], []
  fetch, block = DeviceProgram.fetch, jax.block_until_ready

  def note_and_block(tree: Any) -> Any:
    waited_for.append(tree)
    return block(tree)

  def note_and_fetch(program: DeviceProgram, launch: Launch) -> Any:
    fetched.append(launch.outputs)
    return fetch(program, launch)

  monkeypatch.setattr(jax, "block_until_ready", note_and_block)
  monkeypatch.setattr(DeviceProgram, "fetch", note_and_fetch)
  run("out", batch_size=8)
  assert len(fetched) == 3
  assert waited_for[0] is fetched[0]
