"""`jax-sis plan --preempted-every`: how long workers that come and go take for a run, and which size of unit suits."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_sis.core.validation import require_positive
from jax_sis.results.arrays import OF_UNITS
from jax_sis.runs.cluster_simulation import Costs, Fleet, Simulation
from jax_sis.runs.options import PlanOptions
from jax_sis.runs.setup import Job
from jax_sis.runs.write_probe import time_writes
from jax_sis.runtime.progress import format_seconds

NUM_RUNS = 50
QUANTILES = (0.05, 0.5, 0.95)
# Sizes that are tried are batches, twice that, and so on.
MOST_BATCHES = 64
# Of sizes that differ less, the largest is taken: it makes the fewest files.
TOLERANCE = 0.01
# Between two tasks, and until Ray says that a worker is gone, see docs/pod_simulation.md.
TURN_SECONDS = 0.1
NOTICE_SECONDS = 2.0
SECONDS_OF = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnitForecast:
  """How a run goes with units of one size.

  Attributes:
    unit_size: images in a unit.
    num_units: of them are left.
    num_files: that the run's store has then.
    write_seconds: what storing a unit takes.
    seconds: 5 %, median and 95 % of what the simulated runs took; infinite where too many did not end.
    share_twice: of the search, what is done once more, on average.
    num_preempted: workers, on average.
    num_ended: of `NUM_RUNS`, those that one unit ended by ending several workers, or that made no progress.
  """

  unit_size: int
  num_units: int
  num_files: int
  write_seconds: float
  seconds: tuple[float, float, float]
  share_twice: float
  num_preempted: float
  num_ended: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterForecast:
  """What workers that come and go take for a run.

  Attributes:
    fleet: the workers.
    startup_seconds: what one takes to begin.
    launch_seconds: what the search of a launch takes it.
    units: each size of unit that was tried, ascending.
    best: the one with which the run takes the least time.
  """

  fleet: Fleet
  startup_seconds: float
  launch_seconds: float
  units: tuple[UnitForecast, ...]
  best: UnitForecast


def read_fleet(options: PlanOptions) -> Fleet | None:
  """The workers that the options describe; None without `--preempted-every`.

  Raises:
    ValueError: one of them is no duration, or negative.
  """
  if options.preempted_every is None:
    return None
  if not 0 <= options.spread < 1:
    raise ValueError(f"--spread must be a share of the mean, from 0 to less than 1, got {options.spread}.")
  every = options.preempted_every
  seconds = math.inf if every == "never" else parse_duration("--preempted-every", every)
  require_positive("--preempted-every", seconds)
  return Fleet(
    num_workers=options.num_workers,
    preempted_every=seconds,
    replaced_after=parse_duration("--replaced-after", options.replaced_after),
    spread=options.spread,
  )


def parse_duration(name: str, text: str) -> float:
  """`90s`, `30m`, `1.5h` or `2d` in seconds; ValueError, with the option's name, for anything else."""
  match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
  if match is None:
    raise ValueError(f"{name} must be a number with s, m, h or d, such as 30m, got {text!r}.")
  return float(match[1]) * SECONDS_OF[match[2]]


def forecast_cluster(
  job: Job, fleet: Fleet, *, num_left: int, launch_seconds: float, launch_size: int, startup_seconds: float
) -> ClusterForecast:
  """Simulates a run with units of several sizes, or with those that it has if it is begun.

  Args:
    job: the run; where it stores its units, storing some is timed.
    fleet: the workers.
    num_left: images that are not done.
    launch_seconds: what a worker's devices take for a launch.
    launch_size: images in it.
    startup_seconds: what a worker takes to begin.

  Raises:
    StorageError: nothing can be stored there.
  """
  units = []
  for unit_size in choose_sizes(job, fleet, num_left):
    costs = Costs(
      startup_seconds=startup_seconds,
      launch_seconds=launch_seconds,
      launch_size=launch_size,
      unit_size=unit_size,
      write_seconds=time_writes(job.config.out, job.search.fields(), unit_size),
      turn_seconds=TURN_SECONDS,
      notice_seconds=NOTICE_SECONDS,
    )
    num_files = -(-job.num_images // unit_size) * (len(job.search.fields()) + len(OF_UNITS))
    units.append(forecast_units(fleet, costs, num_left=num_left, num_files=num_files))
  return ClusterForecast(
    fleet=fleet,
    startup_seconds=startup_seconds,
    launch_seconds=launch_seconds,
    units=tuple(units),
    best=choose_best(units),
  )


def choose_sizes(job: Job, fleet: Fleet, num_left: int) -> list[int]:
  """Which sizes of unit are tried: multiples of the batch that leave each worker a unit."""
  if not job.is_new or job.config.unit_size is not None:
    return [job.unit_size]
  sizes = [job.batch_size << exponent for exponent in range(MOST_BATCHES.bit_length())]
  return [size for size in sizes if size == job.batch_size or size * fleet.num_workers <= num_left]


def forecast_units(fleet: Fleet, costs: Costs, *, num_left: int, num_files: int) -> UnitForecast:
  """Simulates some runs with units of one size."""
  num_units = -(-num_left // costs.unit_size)
  runs = [Simulation(fleet, costs, num_units, np.random.default_rng(seed)).run() for seed in range(NUM_RUNS)]
  searched_seconds = costs.launch_seconds * num_left / costs.launch_size
  low, median, high = np.quantile([run.seconds for run in runs], QUANTILES, method="inverted_cdf").tolist()
  return UnitForecast(
    unit_size=costs.unit_size,
    num_units=num_units,
    num_files=num_files,
    write_seconds=costs.write_seconds,
    seconds=(low, median, high),
    share_twice=float(np.mean([run.lost_seconds for run in runs])) / max(searched_seconds, 1e-9),
    num_preempted=float(np.mean([run.num_preempted for run in runs])),
    num_ended=sum(math.isinf(run.seconds) for run in runs),
  )


def choose_best(units: Sequence[UnitForecast]) -> UnitForecast:
  """The largest size of those with which a run takes about the least time."""
  fewest = min(unit.num_ended for unit in units)
  ending = [unit for unit in units if unit.num_ended == fewest]
  least = min(unit.seconds[1] for unit in ending)
  return max((unit for unit in ending if unit.seconds[1] <= least * (1 + TOLERANCE)), key=lambda unit: unit.unit_size)


def describe_cluster(found: ClusterForecast) -> list[str]:
  """The table of `plan`."""
  fleet = found.fleet
  life = (
    "never preempted"
    if math.isinf(fleet.preempted_every)
    else f"each preempted every {format_seconds(fleet.preempted_every)} on average, another one there "
    f"{format_seconds(fleet.replaced_after)} later"
  )
  lines = [
    f"cluster      {fleet.num_workers} workers, {life}; {found.startup_seconds:.3g} s to start up, "
    f"{found.launch_seconds:.3g} s a launch, a spread of {fleet.spread:g}; {NUM_RUNS} simulated runs a line",
    f"{'unit':>12} {'files':>10} {'to store':>9} {'time':>10} {'5 to 95 %':>23} {'done twice':>11} {'preempted':>10}",
  ]
  for unit in found.units:
    low, median, high = map(format_time, unit.seconds)
    ended = f"; {unit.num_ended} of {NUM_RUNS} end early" if unit.num_ended else ""
    lines.append(
      f"{unit.unit_size:>12} {unit.num_files:>10} {unit.write_seconds:>7.3f} s {median:>10} {f'{low} to {high}':>23} "
      f"{unit.share_twice:>11.2%} {unit.num_preempted:>10.0f}{ended}"
    )
  low, median, high = map(format_time, found.best.seconds)
  return [
    *lines,
    f"best         --unit {found.best.unit_size}: {median} ({low} to {high}), without the summary at its end",
  ]


def format_time(seconds: float) -> str:
  return "-" if math.isinf(seconds) else format_seconds(seconds)


def cluster_to_json(found: ClusterForecast) -> dict[str, Any]:
  """The same in JSON types; None for what is infinite."""
  described = dataclasses.asdict(found)
  every = described["fleet"]["preempted_every"]
  described["fleet"]["preempted_every"] = None if math.isinf(every) else every
  for unit in (*described["units"], described["best"]):
    unit["seconds"] = [None if math.isinf(seconds) else seconds for seconds in unit["seconds"]]
  return described
