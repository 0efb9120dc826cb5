"""`jax-sis find --engine ray`: hands out the units of a run to the hosts of a Ray cluster.

The driver, which is the command, touches no device and reads no image: hosts open the run as `find` does, search units
and write them into the store, and one of them writes the outcome. What a unit holds does not depend on the host.
"""

import collections
import contextlib
import dataclasses
import functools
import io
import os
import time
import uuid
from collections.abc import Iterator

import numpy as np

from jax_sis import results
from jax_sis.results.folder import PROBE_PREFIX
from jax_sis.runs import find
from jax_sis.runs.config import FindConfig
from jax_sis.runs.setup import explain_out_of_memory
from jax_sis.runs.table import make_rows, print_rows
from jax_sis.runs.task_size import MAX_LOSSES, TaskSize
from jax_sis.runs.unit_search import UnitSearch
from jax_sis.runs.workers import Heartbeat
from jax_sis.runtime import devices, ray_cluster
from jax_sis.runtime.progress import Progress

# The task of writing the outcome.
OUTCOME: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
  """What a host says of the run; `text` is what `find` would have printed, `launch_size` in images."""

  text: str
  launch_size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Done:
  """What a host did with a task; `text` is what `find` would have printed."""

  text: str
  num_images: int
  seconds: float


def find_on_ray(config: FindConfig, address: str | None) -> str:
  """As `find`, on all hosts of a Ray cluster that have the devices; hosts may come, go and die meanwhile.

  Args:
    config: what to search. Paths in it mean the same on all hosts.
    address: of the cluster's head, see `ray_cluster.connect`.

  Returns:
    The folder of the results, as given.

  Raises:
    ValueError: as for `find`; or there is no such cluster, another command hands out the same run there, or a host
      does not see the folder of the results.
  """
  folder = results.open_folder(config.out)
  results.check_writable(folder)
  place = folder.location if folder.path is None else os.path.realpath(folder.path)
  with ray_cluster.connect(address, claim=place) as cluster, shown(folder) as token:
    queue = UnitQueue(config.out)
    make_fn = functools.partial(open_host, config, os.getcwd(), token)
    with Progress("starting", total=1, unit="image") as progress:
      for outcome in cluster.run(make_fn, queue, log_fn=progress.log):
        value = outcome.value
        if isinstance(value, Opened):
          if queue.store is None:
            print(value.text, end="", flush=True)
            progress.restart("search", total=queue.begin(value.launch_size))
          progress.log(f"{outcome.host} is at work.")
        else:
          print(value.text, end="", flush=True)
          queue.finish(outcome.task, value)
          progress.advance(value.num_images)
  return config.out


@contextlib.contextmanager
def shown(folder: results.Folder) -> Iterator[str]:
  """The name of a file in the folder, by which hosts see whether they look at the same one."""
  token = f"{PROBE_PREFIX}{uuid.uuid4().hex}"
  folder.write(token, b"")
  try:
    yield token
  finally:
    folder.delete(token)


class UnitQueue:
  """The units of a run that no host has, in tasks; and at the end, the outcome.

  Attributes:
    store: the run's; None until a host has opened it.
  """

  def __init__(self, out: str):
    self._out = out
    self.store: results.Results | None = None
    self._left: collections.deque[int] = collections.deque()
    self._num_out = 0
    self._size: TaskSize | None = None
    self._num_losses: collections.Counter[tuple[int, ...]] = collections.Counter()
    self._is_over = False

  def begin(self, launch_size: int) -> int:
    """Reads what is missing, and says how many images that is."""
    self.store = results.open(self._out)
    missing = find.missing_units(self.store)
    self._left.extend(missing.tolist())
    self._size = TaskSize(launch_size=launch_size, unit_size=self.store.unit_size)
    return self.store.count_images(missing)

  def take(self, num_hosts: int) -> tuple[int, ...] | None:
    """Some units: fewer towards the end, so that all hosts end together."""
    if self._size is None or self._is_over:
      return None
    if not self._left and self._num_out:
      return None
    count = self._size.choose(len(self._left), num_hosts)
    self._num_out += 1
    return tuple(self._left.popleft() for _ in range(count))

  def finish(self, task: tuple[int, ...], done: Done) -> None:
    """Notes that a host has done a task."""
    self._num_out -= 1
    self._is_over = task == OUTCOME
    if task and self._size is not None:
      self._size.learn(len(task), done.seconds)

  def put_back(self, task: tuple[int, ...]) -> None:
    """Takes back what a dead worker did not store; ValueError where it ended several."""
    assert self.store is not None
    self._num_out -= 1
    rest = tuple(np.setdiff1d(task, self.store.flags.done_among(np.array(task, int))).tolist())
    self._num_losses[rest[:1]] += bool(rest) or task == OUTCOME
    if self._num_losses[rest[:1]] >= MAX_LOSSES:
      what = f"unit {rest[0]}" if rest else "writing the outcome"
      raise ValueError(
        f"workers must outlive their work, but {MAX_LOSSES} of them died of {what}; the logs of Ray say why "
        "(/tmp/ray/session_latest/logs on the host), and memory is the likeliest: begin anew with a smaller --batch."
      )
    self._left.extendleft(reversed(rest))


def open_host(config: FindConfig, cwd: str, token: str, num_devices: int) -> "tuple[HostSearch, Opened]":
  """Opens the run on a host.

  Args:
    config: what to search.
    cwd: the folder that relative paths are relative to, where the host has it.
    token: a file in the run's folder.
    num_devices: devices that are this worker's, where they are a CPU's cores.

  Returns:
    What searches there, and what it says.

  Raises:
    ValueError: as for `find`, or the host does not see the folder.
  """
  if os.path.isdir(cwd):
    os.chdir(cwd)
  if results.open_folder(config.out).read(token) is None:
    raise ValueError(
      f"--out must be a folder that all hosts see, but what was just written into {config.out!r} is not there; "
      "name one on a file system that they share, by the same path, or in a bucket."
    )
  devices.use_one_cpu_device_per_core(config.num_devices or num_devices)
  devices.use_compilation_cache()
  with contextlib.redirect_stdout(io.StringIO()) as text:
    search = HostSearch(config)
  return search, Opened(text=text.getvalue(), launch_size=search.job.launch_size)


class HostSearch:
  """The worker of a host: it searches the units that it is told to."""

  def __init__(self, config: FindConfig):
    self.job, self._store = find.begin(config, None)
    self._search: UnitSearch | None = None
    self._stack = contextlib.ExitStack()
    self._heartbeat = self._stack.enter_context(Heartbeat(self._store.folder, find.ALL_UNITS))

  def __call__(self, task: tuple[int, ...]) -> Done:
    started = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()) as text, explain_out_of_memory(self.job):
      if task == OUTCOME:
        find.write_outcome(self.job, self._store)
      else:
        # Compiled when there is work: a run that is done needs none.
        self._search = self._search or UnitSearch(self.job)
        self._search.run(np.array(task), self._store_unit)
    num_images = self._store.count_images(np.array(task, int))
    return Done(text=text.getvalue(), num_images=num_images, seconds=time.monotonic() - started)

  def close(self) -> None:
    """Says in the run's folder that this worker is done."""
    self._stack.close()

  def _store_unit(self, unit: int, rows: dict[str, np.ndarray]) -> None:
    self._store.write_unit(unit, rows)
    if find.is_printed(self.job.num_images):
      print_rows(make_rows(rows, self.job.class_names, num_features=self.job.num_features), self.job.class_names)
    self._heartbeat.advance(len(rows["id"]))
