"""How long a device waits for the host in the loop of `find`, for devices of known speed.

python benchmarks/host_work.py --data-dir DATA

The loop is that of `find`: it reads, decodes and hands over real images, fetches, and writes a store. Only the search
is replaced: what the stand-in finds was computed before, and it is busy for as long as the search would take at the
speed that is asked for. It takes no time of the CPU, as an accelerator takes none, and does one launch after the other.
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import io
import pathlib
import tempfile
import time
from typing import Any

import cost_model
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jax_sis.core.searches import Gradient
from jax_sis.results import folder
from jax_sis.runs import find, setup
from jax_sis.runtime import devices
from jax_sis.runtime.device_program import DeviceProgram, Launch

# Steps of the embedded ResNet-20 for one image that one CPU core makes in a second, about.
IMAGE_STEPS_A_CORE = 1_100
NUM_CORES = 2


@dataclasses.dataclass(frozen=True)
class Case:
  """Devices `speed` times as fast as two cores, `batch` images a launch, `per_step` pixels a step."""

  speed: int
  batch: int
  per_step: int
  images: int

  @property
  def launch_seconds(self) -> float:
    """What a launch takes."""
    num_steps = len(Gradient(per_step=self.per_step).phases(32 * 32)[0].sizes)
    return self.batch * num_steps / (self.speed * NUM_CORES * IMAGE_STEPS_A_CORE)


CASES = (
  Case(speed=10, batch=16, per_step=1, images=640),
  Case(speed=10, batch=16, per_step=16, images=10000),
  Case(speed=100, batch=16, per_step=1, images=10000),
  Case(speed=100, batch=256, per_step=1, images=10000),
  Case(speed=100, batch=256, per_step=16, images=10000),
)


class TimedProgram(DeviceProgram):
  """A program that is busy for a known time, one launch after the other.

  Attributes:
    seconds: what a launch takes.
    waited: seconds between the launches in which there was nothing to do.
    busy: seconds from the first launch's start to the last one's end, but for these.
  """

  def __init__(self, *arguments: Any, seconds: float, **options: Any):
    super().__init__(*arguments, **options)
    self.seconds = seconds
    self.waited = self.busy = 0.0
    self._ends: collections.deque[float] = collections.deque()
    self._free_at: float | None = None

  def start(self, *arrays: np.ndarray) -> Launch:
    """Hands the images over for real, and takes note of when the search would end."""
    launch = super().start(*arrays)
    now = time.perf_counter()
    free_at = now if self._free_at is None else self._free_at
    self.waited += max(0.0, now - free_at)
    self.busy += self.seconds
    self._free_at = max(now, free_at) + self.seconds
    self._ends.append(self._free_at)
    return launch

  def fetch(self, launch: Launch) -> Any:
    """Sleeps until then."""
    time.sleep(max(0.0, self._ends.popleft() - time.perf_counter()))
    return super().fetch(launch)


def recall(found: dict[str, Array], images: Array, requested: Array) -> dict[str, Array]:
  """What was found before, of as many images; it depends on the arguments, so that they are handed over."""
  return {**found, "target": found["target"] + 0 * (images[:, 0, 0, 0].astype(jnp.int32) + requested)}


def open_case(case: Case, data_dir: str, out: pathlib.Path) -> setup.Job:
  sizes = {"images": case.images, "per_step": case.per_step, "batch_size": case.batch}
  config = cost_model.make_config(data_dir, out, **sizes, num_devices=1)
  return setup.make_job(config, folder.open_folder(out))


def search_once(per_step: int, data_dir: str, out: pathlib.Path) -> dict[str, np.ndarray]:
  """What a search finds in 16 images."""
  job = open_case(Case(speed=1, batch=16, per_step=per_step, images=16), data_dir, out)
  return setup.compile_search(job).run(*job.launch_arrays(next(job.read(range(16))))).found


def run_case(case: Case, found: dict[str, np.ndarray], data_dir: str, out: pathlib.Path) -> tuple[TimedProgram, float]:
  """The device as the run leaves it, and the CPU seconds of the host."""
  job = open_case(case, data_dir, out)
  repeated = {name: np.concatenate([values] * (case.batch // 16)) for name, values in found.items()}
  program = TimedProgram(
    recall, repeated, local_devices=job.local_devices, batch_size=case.batch, seconds=case.launch_seconds
  )
  arrays = job.launch_arrays(next(job.read(range(case.batch))))
  program.compile(*arrays)
  store = setup.create_or_resume(job, job.config)
  worker = find.Worker(dataclasses.replace(job, program=program), store, is_printed=False)
  started = time.process_time()
  with contextlib.redirect_stderr(io.StringIO()):
    worker.run(find.missing_units(store))
  cpu_seconds = time.process_time() - started
  assert len(store.done_images()) == case.images
  return program, cpu_seconds


def main() -> None:
  """Prints a line for each case."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--data-dir", required=True, help="the TFDS folder with cifar10")
  options = parser.parse_args()
  devices.use_one_cpu_device_per_core(1)
  print("| times two cores | images a launch | pixels a step | images | s a launch | CPU ms an image | device waits |")
  print("|---|---|---|---|---|---|---|", flush=True)
  with tempfile.TemporaryDirectory() as directory:
    root = pathlib.Path(directory)
    search = functools.cache(lambda per_step: search_once(per_step, options.data_dir, root / f"search{per_step}"))
    for number, case in enumerate(CASES):
      program, cpu_seconds = run_case(case, search(case.per_step), options.data_dir, root / str(number))
      print(
        f"| {case.speed} | {case.batch} | {case.per_step} | {case.images} | {case.launch_seconds:.3f} "
        f"| {1e3 * cpu_seconds / case.images:.2f} | {program.waited / (program.waited + program.busy):.2%} |",
        flush=True,
      )


if __name__ == "__main__":
  main()
