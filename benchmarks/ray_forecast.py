"""Runs on a real Ray cluster of one, two and three hosts on this machine, and what the simulation says of each.

python benchmarks/ray_forecast.py --hosts 1 2 3 --rounds 2

What hands out units, Ray, its workers and their deaths are those of `find --engine ray`; only the search is replaced by
sleep, so that hosts that are one machine do not slow each other down. A worker ends itself by SIGKILL at an exponential
time. How long Ray takes to start a worker, and to notice that one is dead, is measured in the run itself and given to
the simulation. Of a run whose workers die, two things are said: what is expected without knowing when, and what the
simulation makes of the lives that they had.
"""

import argparse
import contextlib
import functools
import math
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jax_sis import results
from jax_sis.runs.cluster_forecast import TURN_SECONDS
from jax_sis.runs.cluster_simulation import Costs, Fleet, Simulation
from jax_sis.runtime import ray_cluster
from jax_sis.runtime.task_size import first_task_size

FIELDS = {"label": results.Field(shape=(), dtype="int32")}
HOSTS = pathlib.Path(__file__).parents[1] / "tests/ray_hosts.py"
MOST_HOSTS = 3
NUM_SIMULATED = 300


def make_worker_fn(options: argparse.Namespace, place: str, flag: bytes, life: float) -> Callable[[], Any]:
  """Makes workers that sleep; all in one function, which Ray hands over as it is."""
  startup, seconds, spread = options.startup, options.seconds, options.spread

  class Sleeper:
    def __init__(self):
      pathlib.Path(place, f"born-{os.getpid()}").write_text(str(time.time()))
      if life < math.inf:
        timer = threading.Timer(random.expovariate(1 / life), self.die)
        timer.daemon = True
        timer.start()
      time.sleep(startup)
      self.about = types.SimpleNamespace(spec={}, num_first=first_task_size(1, 1))

    def get_ready(self) -> None:
      pass

    def die(self) -> None:
      pathlib.Path(place, f"died-{os.getpid()}").write_text(str(time.time()))
      os.kill(os.getpid(), signal.SIGKILL)

    def __call__(self, units: Sequence[int], advance_fn: Callable[[int], Any]) -> Iterator[tuple[int, None]]:
      for unit in units:
        path = pathlib.Path(place, "results.zarr/done/c", str(unit))
        # Those that a worker stored before it died are there.
        if not path.exists():
          time.sleep(seconds * random.lognormvariate(-spread * spread / 2, spread))
          path.with_suffix(".new").write_bytes(flag)
          path.with_suffix(".new").rename(path)
        yield unit, None

  return Sleeper


class Told:
  """What the cluster says of its hosts, with the times: in the place of a progress line and of standard error."""

  def __init__(self):
    self.lines: list[tuple[float, str]] = []

  def log(self, line: str) -> None:
    self.lines.append((time.time(), line))

  write = log

  def restart(self, title: str) -> None:
    pass

  def advance(self, amount: int) -> None:
    pass

  def flush(self) -> None:
    pass


class Real:
  """A run that is timed, and what Ray did in it.

  Attributes:
    seconds: from the first host's start to the last unit.
    first_starts: seconds that Ray took to start each host's first worker, without the worker's own start.
    later_starts: the same of the others.
    notices: seconds from each death until it was known.
    lives: seconds that each worker lived, in the order of their births; infinite of those that outlived the run.
  """

  def __init__(self, options: argparse.Namespace, address: str, *, num_units: int, life: float):
    self.seconds = 0.0
    self.first_starts: list[float] = []
    self.later_starts: list[float] = []
    self._gone: list[float] = []
    with tempfile.TemporaryDirectory() as place:
      store = results.create_or_resume(place, spec={}, num_images=num_units, unit_size=1, fields=FIELDS)
      store.write_unit(0, {"label": np.zeros(1, np.int32)})
      flag = pathlib.Path(place, store.chunk_name("done", 0)).read_bytes()
      store.unmark([0])
      make_fn = make_worker_fn(options, place, flag, life)
      with ray_cluster.connect(address) as ray:
        self._run(ray, make_fn, num_units=num_units, startup=options.startup)
      assert len(results.open(place).done_units()) == num_units
      born, died = (read_times(pathlib.Path(place), what) for what in ("born", "died"))
    self.lives = [died.get(pid, math.inf) - start for pid, start in sorted(born.items(), key=lambda item: item[1])]
    known = zip(self._gone, sorted(died.values()), strict=False)
    self.notices = [max(gone - death, 0.0) for gone, death in known]

  def _run(self, ray: Any, make_fn: Callable[[], Any], *, num_units: int, startup: float) -> None:
    told: Any = Told()
    started = time.time()
    with contextlib.redirect_stderr(told):
      cluster = ray_cluster.Cluster(ray, make_fn, num_devices=1)
    for _ in cluster.run(range(num_units), told, ""):
      pass
    self.seconds = time.time() - started
    # When each host lost its worker.
    lost: dict[str, float] = {}
    for when, line in told.lines:
      if " is gone" in line:
        lost[line.removeprefix("The worker of ").partition(" is gone")[0]] = when
        self._gone.append(when)
      elif line.endswith(" is at work."):
        host = line.removesuffix(" is at work.")
        (self.later_starts if host in lost else self.first_starts).append(when - lost.get(host, started) - startup)


def read_times(place: pathlib.Path, what: str) -> dict[str, float]:
  """When each process was born, or died."""
  return {path.name.removeprefix(f"{what}-"): float(path.read_text()) for path in place.glob(f"{what}-*")}


class KnownLives:
  """Draws as a generator does, but for workers' lives, which are given; those beyond them are endless."""

  def __init__(self, seed: int, lives: Sequence[float]):
    self._generator = np.random.default_rng(seed)
    self._lives = iter(lives)
    self.standard_normal = self._generator.standard_normal

  def exponential(self, mean: float) -> float:
    return next(self._lives, math.inf)


def simulate(
  options: argparse.Namespace, real: Real, *, num_hosts: int, num_units: int, life: float, knows_lives: bool
) -> np.ndarray:
  """Seconds of simulated runs of that kind, with the real one's times of Ray."""
  notice, again = (statistics.mean(values or [0.0]) for values in (real.notices, real.later_starts))
  fleet = Fleet(num_workers=num_hosts, preempted_every=life, replaced_after=notice + again, spread=options.spread)
  costs = Costs(
    startup_seconds=options.startup,
    launch_seconds=options.seconds,
    launch_size=1,
    unit_size=1,
    write_seconds=0.0,
    turn_seconds=TURN_SECONDS,
    notice_seconds=notice,
  )
  make_fn: Any = functools.partial(KnownLives, lives=real.lives) if knows_lives else np.random.default_rng
  runs = [Simulation(fleet, costs, num_units, make_fn(seed)).run() for seed in range(NUM_SIMULATED)]
  return np.array([run.seconds for run in runs]) + statistics.mean(real.first_starts)


@contextlib.contextmanager
def cluster_process(worker_path: str | None) -> Iterator["subprocess.Popen[str]"]:
  """The cluster of tests/ray_hosts.py, whose address is the first line that it says."""
  environ = os.environ if worker_path is None else {**os.environ, "PYTHONPATH": worker_path}
  command = [sys.executable, str(HOSTS)]
  with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
    yield process
    process.communicate()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--hosts", type=int, nargs="+", default=[3, 2, 1], help="in this order (default: %(default)s)")
  parser.add_argument("--units", type=int, default=90, help="of each host (default: %(default)s)")
  parser.add_argument("--seconds", type=float, default=1.0, help="that a unit takes (default: %(default)s)")
  parser.add_argument("--spread", type=float, default=0.1, help="of these, as a share (default: %(default)s)")
  parser.add_argument("--startup", type=float, default=5.0, help="seconds of a worker's start (default: %(default)s)")
  parser.add_argument("--life", type=float, default=45.0, help="seconds of a worker on average (default: %(default)s)")
  parser.add_argument("--rounds", type=int, default=1, help="(default: %(default)s)")
  parser.add_argument("--dying-only", action="store_true", help="leave out the runs in which no worker dies")
  parser.add_argument("--worker-path", help="PYTHONPATH of the workers (default: as here)")
  options = parser.parse_args()
  print("hosts deaths  real s  expected s (5 to 95 %)  with these lives  real/that  starts s", flush=True)
  with cluster_process(options.worker_path) as process:
    assert process.stdout is not None and process.stdin is not None
    address, num_there = process.stdout.readline().strip(), MOST_HOSTS
    for num_hosts in sorted(options.hosts, reverse=True):
      while num_there > num_hosts:
        print("remove", file=process.stdin, flush=True)
        process.stdout.readline()
        num_there -= 1
      for life in ([] if options.dying_only else [math.inf]) + [options.life] * options.rounds:
        asked = {"num_units": options.units * num_hosts, "life": life}
        real = Real(options, address, **asked)
        blind, knowing = (
          simulate(options, real, num_hosts=num_hosts, knows_lives=knows, **asked) for knows in (False, True)
        )
        low, median, high = np.quantile(blind, (0.05, 0.5, 0.95))
        known = float(np.median(knowing))
        starts = [f"{start:.0f}" for start in (*real.first_starts, *real.later_starts)]
        print(
          f"{num_hosts:>5} {len(real.notices):>6}  {real.seconds:>6.1f}  {median:>6.1f} ({low:.1f} to {high:.1f})  "
          f"{known:>16.1f}  {real.seconds / known:>9.2f}  {' '.join(starts)}",
          flush=True,
        )


if __name__ == "__main__":
  main()
