"""What workers report into a run's folder, and how readers tell a dead worker from a slow one."""

import dataclasses
import datetime
import json
import os
import pathlib
import socket
from collections.abc import Sequence
from typing import Protocol

RUNNING, FINISHED, INTERRUPTED, FAILED = "running", "finished", "interrupted", "failed"
STATES = (RUNNING, FINISHED, INTERRUPTED, FAILED)
# How readers see a worker whose record says that it is running, but is old: its process is gone, or is there and cannot
# write, or is on another machine, from where nobody sees which.
DEAD, SILENT, LOST = "dead", "silent", "lost"
WRITE_SECONDS = 10.0
# Before that, one on this machine may be a process that only its container sees.
SILENT_SECONDS = 3 * WRITE_SECONDS
LOST_SECONDS = 60.0
# A worker that starts says so some time after its process has started.
START_SECONDS = 2.0
WORKERS_PREFIX = "workers/"


class WorkersFolder(Protocol):
  """What workers need of a run's folder; see `results.folder.Folder`."""

  def read(self, name: str) -> bytes | None: ...

  def write(self, name: str, content: bytes) -> None: ...

  def list(self, prefix: str = "") -> Sequence[str]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerRecord:
  """What a worker last reported.

  Attributes:
    host: the machine's name.
    pid: its process there.
    shard: its part, such as "2/8"; None if it works alone.
    started: when it started, ISO 8601 in UTC.
    updated: when this was written.
    num_images: images that it has finished since it started.
    rate: images a second in the last minutes; None until there are two counts to compare.
    state: one of STATES, or DEAD, SILENT or LOST as a reader finds it.
    message: why it failed, else empty.
    advanced: when it last finished images; None before the first, and in records of older versions.
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
  advanced: str | None = None


def read_workers(folder: WorkersFolder, *, now: datetime.datetime | None = None) -> list[WorkerRecord]:
  """The last records of a run's workers, by the names of their files, without damaged ones.

  A worker whose record says `running` but is old at the time `now` is `dead`, `silent` or `lost`.
  """
  now = now or datetime.datetime.now(datetime.UTC)
  records = read_records(folder).values()
  return [dataclasses.replace(record, state=judge(record, now)) for record in records if record is not None]


def find_damaged(folder: WorkersFolder) -> list[str]:
  """The names of the records that cannot be read."""
  return [name for name, record in read_records(folder).items() if record is None]


def read_records(folder: WorkersFolder) -> dict[str, WorkerRecord | None]:
  """The workers' records by the names of their files, sorted; None for damaged ones."""
  names = sorted(name for name in folder.list(WORKERS_PREFIX) if name.endswith(".json"))
  return {name: parse_record(content) for name in names if (content := folder.read(name)) is not None}


def judge(record: WorkerRecord, now: datetime.datetime) -> str:
  """The state of a worker: that of its record, unless that is too old to be true."""
  age = (now - datetime.datetime.fromisoformat(record.updated)).total_seconds()
  if record.state != RUNNING or age <= SILENT_SECONDS:
    return record.state
  if record.host == socket.gethostname() and not is_alive(record):
    return DEAD
  if age <= LOST_SECONDS:
    return RUNNING
  return SILENT if record.host == socket.gethostname() else LOST


def is_alive(record: WorkerRecord) -> bool:
  """Whether a worker of this machine still has its process, and no later one has got its number."""
  try:
    os.kill(record.pid, 0)
  except ProcessLookupError:
    return False
  except OSError:
    # It belongs to somebody else.
    pass
  try:
    state, *fields = pathlib.Path(f"/proc/{record.pid}/stat").read_text().rpartition(")")[2].split()
    boot = next(line for line in pathlib.Path("/proc/stat").read_text().splitlines() if line.startswith("btime "))
    started = int(boot.split()[1]) + int(fields[18]) / os.sysconf("SC_CLK_TCK")
  except (OSError, StopIteration):
    # Only Linux says when a process started.
    return True
  is_own = started <= datetime.datetime.fromisoformat(record.started).timestamp() + START_SECONDS
  return is_own and state != "Z"


def parse_record(content: bytes) -> WorkerRecord | None:
  """The record in a file's content; None if it is damaged."""
  try:
    record = WorkerRecord(**json.loads(content))
    times = [record.started, record.updated, *([] if record.advanced is None else [record.advanced])]
    is_placed = all(datetime.datetime.fromisoformat(text).tzinfo is not None for text in times)
  except (TypeError, ValueError):
    return None
  is_whole = (
    is_placed
    and record.state in STATES
    and all(isinstance(text, str) for text in (record.host, record.message))
    and all(type(number) is int for number in (record.pid, record.num_images))
    and isinstance(record.shard, str | None)
    and isinstance(record.rate, float | None)
  )
  return record if is_whole else None


def utc_now() -> str:
  return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
