"""Several processes work on one run: which units each one does, how they find each other, and when they report."""

import collections
import contextlib
import dataclasses
import json
import os
import re
import socket
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import jax
import numpy as np
from jaxtyping import Int

from jax_sis.runs.worker_records import (
  FAILED,
  FINISHED,
  INTERRUPTED,
  RUNNING,
  WORKERS_PREFIX,
  WRITE_SECONDS,
  WorkerRecord,
  WorkersFolder,
  utc_now,
)
from jax_sis.runtime import interrupts

RATE_SECONDS = 180.0

CONNECT_SECONDS = 300
# When a time limit of JAX's own passes, JAX ends this process and all others.
CONNECT_MARGIN_SECONDS = 60
FINISH_SECONDS = 30 * 24 * 3600

ONE_PROCESS = "one process"
# The variables with a process's index and the number of processes. Open MPI comes first: under SLURM it starts one
# helper on each machine by srun, and its processes inherit the helper's SLURM variables.
LAUNCHERS = (
  ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
  # Not SLURM_NTASKS, which is also set in batch scripts and salloc shells, which run as one process.
  ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
  ("TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES"),
  # Kubernetes gives a pod of an Indexed Job its index; how many there are, only the manifest can say. Last, since pods
  # on the machines of a TPU slice have that, too.
  ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"),
)


@dataclasses.dataclass(frozen=True)
class Shard:
  """The part of a run that one of `count` workers does; `index` counts from 0."""

  index: int
  count: int

  def __post_init__(self):
    if not 0 <= self.index < self.count:
      raise ValueError(
        f"a shard's index must be from 0 to one less than its count, got index {self.index} and count {self.count}."
      )

  def __str__(self) -> str:
    return f"{self.index}/{self.count}"

  def select(self, units: Int[np.ndarray, "U"]) -> Int[np.ndarray, "V"]:
    """The units that belong to this shard; every unit belongs to exactly one."""
    return units[units % self.count == self.index]


def parse_shard(text: str) -> Shard:
  """`"2/8"` -> the third of eight; ValueError for text of another form."""
  match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
  if match is None or int(match[1]) >= int(match[2]):
    raise ValueError(f"--shard must be I/N with I from 0 to N - 1, such as 0/8 for the first of eight, got {text!r}.")
  return Shard(int(match[1]), int(match[2]))


def find_shard(environ: Mapping[str, str]) -> tuple[Shard, str]:
  """This process's shard, if Open MPI, SLURM, Kubernetes or a TPU pod started it as one of several.

  The tasks of a SLURM array, which SLURM starts apart, may each be several processes.

  Args:
    environ: the environment's variables.

  Returns:
    The shard, 0/1 if nothing says that there are other processes, and where it comes from, to tell the user.

  Raises:
    ValueError: a variable is missing or not a number.
  """
  shard, origin = find_launched(environ)
  array = read_array(environ)
  if array.count == 1:
    return shard, origin
  name = "SLURM_ARRAY_TASK_ID of SLURM_ARRAY_TASK_COUNT"
  nested = Shard(array.index * shard.count + shard.index, array.count * shard.count)
  return nested, name if shard.count == 1 else f"{name}, and {origin}"


def read_array(environ: Mapping[str, str]) -> Shard:
  """Which task of a SLURM array this is; ValueError if its indices are not evenly spaced."""
  if "SLURM_ARRAY_TASK_ID" not in environ:
    return Shard(0, 1)
  names = [f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "COUNT")]
  values = [environ.get(name, "") for name in names]
  for name, value in zip(names, values, strict=True):
    if not value.isdecimal():
      raise ValueError(f"{name} must be a whole number, got {value!r}; correct it, or give the shard by --shard I/N.")
  number, first, last, count = map(int, values)
  step, rest = divmod(last - first, max(count - 1, 1))
  index, beside = divmod(number - first, max(step, 1))
  if rest or beside or not 0 <= index < count:
    raise ValueError(
      f"a SLURM array must have evenly spaced indices, such as --array=0-7, got {number} of {count} from {first} to "
      f"{last}; give the shard by --shard I/N."
    )
  return Shard(index, count)


def find_launched(environ: Mapping[str, str]) -> tuple[Shard, str]:
  """As `find_shard`, without arrays."""
  if environ.get("SLURM_PROCID") == "0" and "SLURM_STEP_NUM_TASKS" not in environ:
    # A batch script, which srun did not start.
    environ = {name: value for name, value in environ.items() if name != "SLURM_PROCID"}
  for index_name, count_name in LAUNCHERS:
    if (index_name in environ) != (count_name in environ):
      missing, present = (index_name, count_name) if count_name in environ else (count_name, index_name)
      raise ValueError(f"{missing} must be set, since {present} is; set it, or give the shard by --shard I/N.")
    if index_name in environ:
      shard = read_shard(environ, index_name, count_name)
      if shard.count > 1:
        return shard, f"{index_name} of {count_name}"
  num_tasks = environ.get("SLURM_NTASKS", "1")
  if num_tasks != "1":
    return Shard(0, 1), f"{ONE_PROCESS}; only srun starts all {num_tasks} of SLURM_NTASKS"
  return Shard(0, 1), ONE_PROCESS


def read_shard(environ: Mapping[str, str], index_name: str, count_name: str) -> Shard:
  """The shard that these two variables give; the count may be a list of host names."""
  index, count = environ[index_name], environ[count_name]
  if count_name.endswith("HOSTNAMES"):
    count = str(len([name for name in count.split(",") if name.strip()]))
  for name, value in ((index_name, index), (count_name, count)):
    if not value.isdecimal():
      raise ValueError(f"{name} must be a whole number, got {value!r}; correct it, or give the shard by --shard I/N.")
  if int(index) >= int(count):
    raise ValueError(
      f"{index_name} must be less than the {count} of {count_name}, got {index}; give the shard by --shard I/N."
    )
  return Shard(int(index), int(count))


def start_distributed(*, timeout_seconds: int = CONNECT_SECONDS) -> Shard:
  """Joins the processes of a job by `jax.distributed`, for devices that only start together, such as a TPU pod's.

  JAX finds the other processes under SLURM (srun), under Open MPI and on TPUs. Elsewhere, set JAX_COORDINATOR_ADDRESS
  (HOST:PORT of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID for each process. Under SLURM and Open MPI, JAX expects
  one process per GPU, unless JAX_LOCAL_DEVICE_IDS names the GPUs of this one.

  If one process then dies, JAX ends the others. Call this function before JAX is first used, compute on
  `jax.local_devices()` only, and call `finish_distributed` at the end.

  Args:
    timeout_seconds: how long to wait for the others.

  Returns:
    This process's shard.

  Raises:
    ValueError: the processes did not find each other.
  """
  process_id = read_number("JAX_PROCESS_ID")
  num_processes = read_number("JAX_NUM_PROCESSES")
  # The service would catch SIGTERM and do nothing.
  jax.config.update("jax_enable_preemption_service", False)
  outcome: list[Shard | Exception] = []

  def connect() -> None:
    try:
      jax.distributed.initialize(
        num_processes=num_processes,
        process_id=process_id,
        initialization_timeout=timeout_seconds + CONNECT_MARGIN_SECONDS,
      )
      outcome.append(Shard(jax.process_index(), jax.process_count()))
    except Exception as error:
      outcome.append(error)

  # In a thread: JAX waits in compiled code, and aborts the process at its own time limit.
  thread = threading.Thread(target=connect, daemon=True)
  thread.start()
  thread.join(timeout_seconds)
  result = outcome[0] if outcome else TimeoutError(f"they did not all start within {timeout_seconds} s.")
  if isinstance(result, Shard):
    return result
  reason = str(result).strip().split("\n")[0].rstrip(".")
  raise ValueError(
    f"--distributed must find the other processes, but {reason}; start them all by srun, by mpirun or on a TPU pod, "
    "or set JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES=N and JAX_PROCESS_ID=I."
  ) from result


def finish_distributed() -> None:
  """Waits until all processes are done, then disconnects.

  Otherwise JAX waits only five minutes when Python exits, and then aborts the processes that are still working.
  """
  from orbax.checkpoint import multihost

  multihost.get_barrier_sync_fn()(key="jax_sis_finish", timeout_ms=FINISH_SECONDS * 1000)
  jax.distributed.shutdown()


def read_number(name: str) -> int | None:
  value = os.environ.get(name)
  if value is not None and not value.isdecimal():
    raise ValueError(f"{name} must be a whole number, got {value!r}; correct it.")
  return None if value is None else int(value)


class Heartbeat:
  """Keeps a worker's record in the run's folder: written at the start, every few seconds, and at the end.

  Use it as a context manager around the work. The last record says `finished`, `interrupted` if a signal ended the
  work, or `failed`. A thread writes, so that records also appear during compilation. A record that cannot be written
  does not stop the run: its results meet the same fault, and report it.

  Args:
    folder: the run's folder.
    shard: this worker's part.
    interval_seconds: time between two records.
  """

  def __init__(self, folder: WorkersFolder, shard: Shard, *, interval_seconds: float = WRITE_SECONDS):
    self._folder = folder
    self._shard = shard
    self._interval_seconds = interval_seconds
    self._host = socket.gethostname()
    self._started = utc_now()
    self._advanced: str | None = None
    self._rate = RecentRate()
    self._writing = threading.Lock()
    self._is_over = threading.Event()
    self._thread = threading.Thread(target=self._write_repeatedly, name="heartbeat", daemon=True)
    self._stack = contextlib.ExitStack()

  @property
  def name(self) -> str:
    return f"{WORKERS_PREFIX}{self._host}-{os.getpid()}.json"

  def __enter__(self) -> Self:
    self._write(RUNNING)
    self._thread.start()
    self._stack.enter_context(interrupts.on_interrupt(lambda: self._end(INTERRUPTED)))
    return self

  def __exit__(
    self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    self._stack.__exit__(error_type, error, trace)
    if error is None:
      self._end(FINISHED)
    else:
      self._end(FAILED, str(error) or type(error).__name__)

  def advance(self, num_images: int) -> None:
    """Counts more images as finished."""
    self._rate.add(time.monotonic(), num_images)
    self._advanced = utc_now()

  def _end(self, state: str, message: str = "") -> None:
    """Writes the last record; later calls do nothing."""
    if not self._is_over.is_set():
      self._is_over.set()
      self._write(state, message)

  def _write_repeatedly(self) -> None:
    while not self._is_over.wait(self._interval_seconds):
      self._write(RUNNING)

  def _write(self, state: str, message: str = "") -> None:
    with self._writing:
      if state == RUNNING and self._is_over.is_set():
        return
      record = WorkerRecord(
        host=self._host,
        pid=os.getpid(),
        shard=str(self._shard) if self._shard.count > 1 else None,
        started=self._started,
        updated=utc_now(),
        num_images=self._rate.total,
        rate=self._rate.at(time.monotonic()),
        state=state,
        message=message,
        advanced=self._advanced,
      )
      # Storage raises many kinds of errors; none may stop the run.
      with contextlib.suppress(Exception):
        self._folder.write(self.name, json.dumps(dataclasses.asdict(record), indent=2).encode() + b"\n")


class RecentRate:
  """Counts, and gives the recent rate, without the time before the first count, which is mostly compilation."""

  def __init__(self):
    self.total = 0
    self._counting = threading.Lock()
    self._points: collections.deque[tuple[float, int]] = collections.deque()

  def add(self, now: float, amount: int) -> None:
    """Counts `amount` more at the time `now`, in seconds."""
    with self._counting:
      self.total += amount
      self._points.append((now, self.total))
      # The newest two always stay, however far apart, for units that take long.
      while len(self._points) > 1 and self._points[1][0] <= now - RATE_SECONDS:
        self._points.popleft()

  def at(self, now: float) -> float | None:
    """The rate per second over RATE_SECONDS or the last two counts, whichever is longer; None before two counts."""
    with self._counting:
      if len(self._points) < 2:
        return None
      first, total = self._points[0]
      return (self.total - total) / max(now - first, 1e-9)
