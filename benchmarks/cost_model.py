"""What a run over a data set costs against images, steps, batch and devices, and a model of it.

python benchmarks/cost_model.py --data-dir DATA

Every case reads, searches and stores real images through the whole pipeline; compilation is timed apart from it. All
cases take turns, so that the machine's drift meets all of them.
"""

import argparse
import dataclasses
import pathlib
import statistics
import tempfile
import time

import numpy as np

from jax_sis.core.searches import Gradient
from jax_sis.results import folder
from jax_sis.runs import find, plan, setup, unit_search
from jax_sis.runs.config import FindConfig
from jax_sis.runtime import devices


@dataclasses.dataclass(frozen=True)
class Case:
  """A size of a run."""

  images: int
  per_step: int
  batch: int
  devices: int


MIDDLE = Case(images=1024, per_step=128, batch=16, devices=2)
CASES = {
  "images": [dataclasses.replace(MIDDLE, images=images) for images in (256, 512, 1024, 2048, 4096)],
  "pixels a step": [dataclasses.replace(MIDDLE, images=256, per_step=per_step) for per_step in (1024, 256, 64, 16, 8)],
  "batch": [dataclasses.replace(MIDDLE, images=512, batch=batch) for batch in (1, 2, 4, 8, 16, 32)],
  "devices": [dataclasses.replace(MIDDLE, devices=number) for number in (1, 2)],
}


def parse_options() -> argparse.Namespace:
  """Where the images are."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--data-dir", required=True, help="the TFDS folder with cifar10")
  parser.add_argument("--rounds", type=int, default=3, help="times that every case is run (default: %(default)s)")
  return parser.parse_args()


def make_config(
  data_dir: str,
  out: pathlib.Path,
  *,
  images: int,
  per_step: int,
  batch_size: int,
  num_devices: int,
  unit_size: int | None = None,
) -> FindConfig:
  """A gradient search of the first of CIFAR-10's test images."""
  return FindConfig(
    out=str(out),
    data="cifar10",
    data_dir=data_dir,
    split=f"test[:{images}]",
    search=Gradient(per_step=per_step),
    smallest=None,
    certificate="alone",
    batch_size=batch_size,
    unit_size=unit_size,
    num_devices=num_devices,
    gallery=0,
  )


def open_job(case: Case, data_dir: str, out: pathlib.Path) -> tuple[setup.Job, float]:
  """The run, and the seconds that compiling its search took."""
  sizes = {"images": case.images, "per_step": case.per_step, "batch_size": case.batch, "num_devices": case.devices}
  config = make_config(data_dir, out, **sizes, unit_size=64)
  opened = setup.make_job(config, folder.open_folder(out))
  started = time.perf_counter()
  program = setup.compile_search(opened)
  return dataclasses.replace(opened, program=program), time.perf_counter() - started


def time_run(opened: setup.Job, out: pathlib.Path) -> float:
  """Seconds of reading, searching and storing all images."""
  opened = dataclasses.replace(opened, config=dataclasses.replace(opened.config, out=str(out)))
  store = setup.create_or_resume(opened, opened.config)
  search = unit_search.UnitSearch(opened)
  started = time.perf_counter()
  search.run(find.missing_units(store), store.write_unit)
  return time.perf_counter() - started


def fit_seconds(gradients: list[int], images: list[int], seconds: list[float]) -> tuple[float, float]:
  """Seconds a gradient and seconds an image beside them, least squares of the relative errors."""
  columns = np.stack([gradients, images], axis=1) / np.array(seconds)[:, None]
  (per_gradient, per_image), *_ = np.linalg.lstsq(columns, np.ones(len(seconds)))
  return float(per_gradient), float(per_image)


def main() -> None:
  """Prints a table for each of the four, and the model that the cases at one batch and all devices give."""
  options = parse_options()
  devices.use_one_cpu_device_per_core()
  cases = list(dict.fromkeys(case for group in CASES.values() for case in group))
  seconds: dict[Case, list[float]] = {case: [] for case in cases}
  with tempfile.TemporaryDirectory() as directory:
    jobs = {}
    compile_seconds = {}
    for number, case in enumerate(cases):
      jobs[case], compile_seconds[case] = open_job(case, options.data_dir, pathlib.Path(directory, f"open{number}"))
    for round_number in range(options.rounds):
      for number, case in enumerate(cases):
        seconds[case].append(time_run(jobs[case], pathlib.Path(directory, f"{round_number}-{number}")))
      print(f"round {round_number + 1} of {options.rounds}", flush=True)
  gradients = {case: case.images * plan.count_evaluations(jobs[case])[0] for case in cases}
  medians = {case: statistics.median(seconds[case]) for case in cases}
  fitted = [case for case in cases if (case.batch, case.devices) == (MIDDLE.batch, MIDDLE.devices)]
  per_gradient, per_image = fit_seconds(
    [gradients[case] for case in fitted], [case.images for case in fitted], [medians[case] for case in fitted]
  )
  for name, group in CASES.items():
    print(
      f"\nagainst {name}\n| images | pixels a step | gradients an image | batch | devices | s | gradients/s | model |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for case in group:
      modelled = per_gradient * gradients[case] + per_image * case.images
      is_modelled = case in fitted
      print(
        f"| {case.images} | {case.per_step} | {gradients[case] // case.images} | {case.batch} | {case.devices} "
        f"| {medians[case]:.2f} | {gradients[case] / medians[case]:.0f} "
        f"| {f'{modelled:.2f} ({modelled / medians[case] - 1:+.0%})' if is_modelled else ''} |"
      )
  print(
    f"\nseconds = {1e3 * per_gradient:.3f} ms x gradients + {1e3 * per_image:.2f} ms x images, at batch "
    f"{MIDDLE.batch} on {MIDDLE.devices} devices; compiling {min(compile_seconds.values()):.1f} to "
    f"{max(compile_seconds.values()):.1f} s"
  )


if __name__ == "__main__":
  main()
