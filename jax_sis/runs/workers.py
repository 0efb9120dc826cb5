"""Several processes on one run: which units each does, how they find each other, and what they report."""

import collections
import contextlib
import dataclasses
import datetime
import json
import os
import re
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

import jax
import numpy as np
from jaxtyping import Int

from jax_sis.runtime import interrupts

RUNNING, FINISHED, INTERRUPTED, FAILED = "running", "finished", "interrupted", "failed"
# A worker whose record says that it is running, but is too old.
LOST = "lost"
STATES = (RUNNING, FINISHED, INTERRUPTED, FAILED)
LOST_SECONDS = 60.0
WRITE_SECONDS = 10.0
RATE_SECONDS = 180.0
WORKERS_PREFIX = "workers/"

CONNECT_SECONDS = 300
# JAX aborts the process, and with it all others, when its own time limit passes.
CONNECT_MARGIN_SECONDS = 60
FINISH_SECONDS = 30 * 24 * 3600

ONE_PROCESS = "one process"
# The variables that hold a process's index and the number of processes. Open MPI comes first: under SLURM it starts one
# process on each machine by srun, and all its own processes there inherit that one's SLURM variables.
LAUNCHERS = (
  ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
  # Not SLURM_NTASKS: batch scripts and salloc shells have it too, and are one process each.
  ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
  ("TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES"),
)


@dataclasses.dataclass(frozen=True)
class Shard:
  """The part of one of `count` equal workers on a run.

  Attributes:
    index: which one, from 0.
    count: how many there are.
  """

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
    """The units that belong to this worker; each unit belongs to exactly one."""
    return units[units % self.count == self.index]


def parse_shard(text: str) -> Shard:
  """`"2/8"` -> the third of eight.

  Raises:
    ValueError: it is something else.
  """
  match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
  if match is None or int(match[1]) >= int(match[2]):
    raise ValueError(f"--shard must be I/N with I from 0 to N - 1, as 0/8 for the first of eight, got {text!r}.")
  return Shard(int(match[1]), int(match[2]))


def find_shard(environ: Mapping[str, str]) -> tuple[Shard, str]:
  """This process's part of the job, where Open MPI, SLURM or a TPU pod started it.

  Args:
    environ: the environment's variables.

  Returns:
    The shard, 0/1 unless a launcher reports other processes, and where it was read, to tell the user.

  Raises:
    ValueError: a variable is missing or not a number.
  """
  if environ.get("SLURM_PROCID") == "0" and "SLURM_STEP_NUM_TASKS" not in environ:
    # A batch script has SLURM_PROCID too, although srun did not start it.
    environ = {name: value for name, value in environ.items() if name != "SLURM_PROCID"}
  for index_name, count_name in LAUNCHERS:
    if (index_name in environ) != (count_name in environ):
      missing, present = (index_name, count_name) if count_name in environ else (count_name, index_name)
      raise ValueError(f"{missing} must be set where {present} is, or the shard given by --shard I/N.")
    if index_name in environ:
      shard = read_shard(environ, index_name, count_name)
      if shard.count > 1:
        return shard, f"{index_name} of {count_name}"
  num_tasks = environ.get("SLURM_NTASKS", "1")
  if num_tasks != "1":
    return Shard(0, 1), f"{ONE_PROCESS}; only srun starts all {num_tasks} of SLURM_NTASKS"
  return Shard(0, 1), ONE_PROCESS


def read_shard(environ: Mapping[str, str], index_name: str, count_name: str) -> Shard:
  """The shard that these two variables give; a list of host names counts as its length."""
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
  """Joins the processes of a job by `jax.distributed`; needed where devices only start together, as in a TPU pod.

  JAX finds the other processes under SLURM (srun), under Open MPI and on TPUs. Elsewhere, set JAX_COORDINATOR_ADDRESS
  (HOST:PORT of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID for each process. Under SLURM and Open MPI, JAX assumes
  one process for each GPU, unless JAX_LOCAL_DEVICE_IDS names the GPUs of this process.

  If one process dies, JAX ends all others. Call this before JAX is first used, compute on `jax.local_devices()` only,
  and call `finish_distributed` at the end.

  Args:
    timeout_seconds: how long to wait for the others.

  Returns:
    The part of this process.

  Raises:
    ValueError: the processes did not find each other.
  """
  process_id = read_number("JAX_PROCESS_ID")
  num_processes = read_number("JAX_NUM_PROCESSES")
  # It would catch SIGTERM and ignore it.
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

  # In a thread: JAX waits in compiled code, and aborts the process when it gives up.
  thread = threading.Thread(target=connect, daemon=True)
  thread.start()
  thread.join(timeout_seconds)
  result = outcome[0] if outcome else TimeoutError(f"they did not all come within {timeout_seconds} s.")
  if isinstance(result, Shard):
    return result
  reason = str(result).strip().split("\n")[0].rstrip(".")
  raise ValueError(
    f"--distributed must find the other processes, but {reason}; start all of them by srun, by mpirun or on a TPU pod, "
    "or with JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES=N and JAX_PROCESS_ID=I."
  ) from result


def finish_distributed() -> None:
  """Waits until all processes are done, and disconnects from them.

  Otherwise JAX waits five minutes when Python exits, and then aborts the processes that are still at work.
  """
  from orbax.checkpoint import multihost

  multihost.get_barrier_sync_fn()(key="jax_sis_finish", timeout_ms=FINISH_SECONDS * 1000)
  jax.distributed.shutdown()


def read_number(name: str) -> int | None:
  """The value of an environment variable; None if it is not set."""
  value = os.environ.get(name)
  if value is not None and not value.isdecimal():
    raise ValueError(f"{name} must be a whole number, got {value!r}.")
  return None if value is None else int(value)


class WorkersFolder(Protocol):
  """What a heartbeat needs of a run's folder."""

  def read(self, name: str) -> bytes | None:
    """The content of a file; None if there is none."""
    ...

  def write(self, name: str, content: bytes) -> None:
    """Replaces a file."""
    ...

  def list(self, prefix: str = "") -> Sequence[str]:
    """The names of the files that start with the prefix."""
    ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerRecord:
  """What a worker reports about itself.

  Attributes:
    host: the machine's name.
    pid: its process.
    shard: its part, such as "2/8"; None if it works alone.
    started: when it started, ISO 8601 in UTC.
    updated: when it wrote this.
    num_images: images that it has finished since it started.
    rate: images a second over the last minutes; None until there are two counts to compare.
    state: one of STATES; LOST is set by readers only.
    message: why it failed; else empty.
  """

  host: str
  pid: int
  shard: str | None
  started: str
  updated: str
  num_images: int
  rate: float | None
  state: str
  message: str


class Heartbeat:
  """Writes a worker's record into the run's folder: at the start, at the end, and every few seconds in between.

  Use it as a context manager around the work. The last record says `finished`, `interrupted` if a signal ended the
  block, or `failed`. A thread writes the records, so that a worker that is compiling shows that it is alive. A record
  that cannot be written does not stop the run: the run's own files would meet the same fault and report it.

  Args:
    folder: the run's folder.
    shard: the part of this worker.
    interval_seconds: time between two records.
  """

  def __init__(self, folder: WorkersFolder, shard: Shard, *, interval_seconds: float = WRITE_SECONDS):
    self._folder = folder
    self._shard = shard
    self._interval_seconds = interval_seconds
    self._host = socket.gethostname()
    self._started = utc_now()
    self._rate = RecentRate()
    self._writing = threading.Lock()
    self._is_over = threading.Event()
    self._thread = threading.Thread(target=self._write_repeatedly, name="heartbeat", daemon=True)
    self._stack = contextlib.ExitStack()

  @property
  def name(self) -> str:
    """The file, relative to the folder."""
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
    """Counts images as finished."""
    self._rate.add(time.monotonic(), num_images)

  def _end(self, state: str, message: str = "") -> None:
    """Writes the last record, the first time it is called."""
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
      worker = WorkerRecord(
        host=self._host,
        pid=os.getpid(),
        shard=str(self._shard) if self._shard.count > 1 else None,
        started=self._started,
        updated=utc_now(),
        num_images=self._rate.total,
        rate=self._rate.at(time.monotonic()),
        state=state,
        message=message,
      )
      # Whatever the storage raises, see the class.
      with contextlib.suppress(Exception):
        self._folder.write(self.name, json.dumps(dataclasses.asdict(worker), indent=2).encode() + b"\n")


class RecentRate:
  """A count, and its rate over the last minutes.

  The time before the first count, which compilation takes, does not enter the rate.
  """

  def __init__(self):
    self.total = 0
    self._counting = threading.Lock()
    self._points: collections.deque[tuple[float, int]] = collections.deque()

  def add(self, now: float, amount: int) -> None:
    """Adds `amount` at the time `now`, in seconds."""
    with self._counting:
      self.total += amount
      self._points.append((now, self.total))
      # Two points always stay: where a unit takes long, both may be older.
      while len(self._points) > 1 and self._points[1][0] <= now - RATE_SECONDS:
        self._points.popleft()

  def at(self, now: float) -> float | None:
    """The rate over the last RATE_SECONDS or the last two counts, whichever is longer; None before two counts."""
    with self._counting:
      if len(self._points) < 2:
        return None
      first, total = self._points[0]
      return (self.total - total) / max(now - first, 1e-9)


def read_workers(folder: WorkersFolder, *, now: datetime.datetime | None = None) -> list[WorkerRecord]:
  """The last record of each worker of a run.

  Args:
    folder: the run's folder.
    now: the time to compare with, in a time zone; by default the present.

  Returns:
    The records by file name, damaged files left out. A worker whose record says `running`, but is older than
    LOST_SECONDS, is `lost`.
  """
  now = now or datetime.datetime.now(datetime.UTC)
  workers = []
  for name in sorted(folder.list(WORKERS_PREFIX)):
    content = folder.read(name)
    worker = None if content is None else parse_worker(content)
    if worker is not None:
      silence = now - datetime.datetime.fromisoformat(worker.updated)
      is_lost = worker.state == RUNNING and silence.total_seconds() > LOST_SECONDS
      workers.append(dataclasses.replace(worker, state=LOST) if is_lost else worker)
  return workers


def parse_worker(content: bytes) -> WorkerRecord | None:
  """The record that a file holds; None if it is damaged."""
  try:
    worker = WorkerRecord(**json.loads(content))
    has_zones = all(
      datetime.datetime.fromisoformat(text).tzinfo is not None for text in (worker.started, worker.updated)
    )
  except (TypeError, ValueError):
    return None
  is_whole = (
    has_zones
    and worker.state in STATES
    and all(isinstance(text, str) for text in (worker.host, worker.message))
    and all(type(number) is int for number in (worker.pid, worker.num_images))
    and isinstance(worker.shard, str | None)
    and isinstance(worker.rate, float | None)
  )
  return worker if is_whole else None


def utc_now() -> str:
  """The present time, as records give it."""
  return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
