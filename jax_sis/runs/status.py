"""`jax-sis status`: what a run has done, is doing and still lacks, read from its folder while workers write to it."""

import collections
import dataclasses
import datetime
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped
from rich.console import Console

from jax_sis import results
from jax_sis.core.subsets import Status
from jax_sis.results import schema
from jax_sis.results.schema import KIND_TITLES, NOT_SEARCHED, STATUS_NAMES
from jax_sis.runs import worker_records
from jax_sis.runs.config import describe_precision
from jax_sis.runs.worker_records import DEAD, LOST, RUNNING, SILENT, WorkerRecord
from jax_sis.runs.workers import RATE_SECONDS, Shard, parse_shard
from jax_sis.runtime.progress import format_seconds

MAX_WORKERS_SHOWN = 32
MAX_PARTS_SHOWN = 16
MAX_REASONS_SHOWN = 5
MAX_IDS_SHOWN = 3
# Units whose statuses are read; of larger runs some, since each is a file or a request of its own.
MAX_UNITS_READ = 20_000
# Images whose statuses are in memory at once.
IMAGES_AT_ONCE = 2**20
# What a state that a reader finds means for the worker.
JUDGEMENTS = {
  DEAD: "its process is gone",
  SILENT: "its process is there, but cannot write",
  LOST: "on another machine, where it is dead or cannot write",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
  """The state of a run at one time, as its folder shows it.

  Attributes:
    store: the run.
    now: the time.
    done_units: the finished units.
    num_units_read: of how many finished units, spread over all, the statuses were read.
    damaged_units: of these, those that cannot be read.
    statuses: for each kind of subset, how many images of these have which status.
    reasons: for each reason why images could not be searched, how many there are and the first ids.
    non_finite: how many images gave a number that is not finite, and the first ids.
    workers: the records of the workers.
    damaged_records: the names of those that cannot be read.
  """

  store: results.Results
  now: datetime.datetime
  done_units: Int[np.ndarray, "U"]
  num_units_read: int
  damaged_units: Int[np.ndarray, "V"]
  statuses: dict[str, dict[str, int]]
  reasons: dict[str, tuple[int, list[str]]]
  non_finite: tuple[int, list[str]]
  workers: list[WorkerRecord]
  damaged_records: list[str]

  @property
  def num_done(self) -> int:
    return self.store.count_images(self.done_units)

  @property
  def missing_units(self) -> Int[np.ndarray, "U"]:
    return np.setdiff1d(np.arange(self.store.num_units), self.done_units)

  @property
  def running(self) -> list[WorkerRecord]:
    return [worker for worker in self.workers if worker.state == RUNNING]

  @property
  def rate(self) -> float:
    """Images a second by all workers; 0 where nobody knows."""
    return sum(worker.rate or 0 for worker in self.running)


def status(run_dir: str, *, watch_seconds: float | None = None, is_json: bool = False) -> None:
  """Prints the state of a run once, or every `watch_seconds` until all images are done; as JSON, a line each time.

  Raises:
    ValueError: the folder holds no run, or the time is not positive.
    StorageError: it cannot be read.
  """
  if watch_seconds is not None and not watch_seconds > 0:
    raise ValueError(f"--watch must be positive, got {watch_seconds}.")
  store = results.open(run_dir)
  console = Console()
  while True:
    state = read_state(store)
    if watch_seconds is not None and not is_json:
      console.clear()
    print(json.dumps(state_to_json(state)) if is_json else describe_state(state), flush=True)
    if watch_seconds is None or not len(state.missing_units):
      return
    time.sleep(watch_seconds)
    if not console.is_terminal and not is_json:
      print(flush=True)


def read_state(store: results.Results) -> State:
  done_units = store.done_units()
  units_read = spread(done_units, MAX_UNITS_READ)
  answers = schema.kinds_of(store.fields)
  statuses = {answer: dict.fromkeys(STATUS_NAMES.values(), 0) for answer in answers}
  damaged, unsearched, non_finite = [units_read[:0]], [units_read[:0]], [units_read[:0]]
  num_at_once = max(1, IMAGES_AT_ONCE // store.unit_size)
  for start in range(0, len(units_read), num_at_once):
    units = units_read[start : start + num_at_once]
    columns, damaged_units = read_columns(store, [f"{answer}_status" for answer in answers], units)
    for answer, values in zip(answers, columns.values(), strict=True):
      for code, name in STATUS_NAMES.items():
        statuses[answer][name] += int((values == code).sum())
    indices = store.images_of(np.setdiff1d(units, damaged_units))
    damaged.append(damaged_units)
    unsearched.append(indices[columns[f"{answers[0]}_status"] == NOT_SEARCHED])
    non_finite.append(indices[np.any([values == Status.NON_FINITE for values in columns.values()], axis=0)])
  reasons, damaged_reasons = read_reasons(store, np.concatenate(unsearched))
  not_finite = np.concatenate(non_finite)
  return State(
    store=store,
    now=datetime.datetime.now(datetime.UTC),
    done_units=done_units,
    num_units_read=len(units_read),
    damaged_units=np.union1d(np.concatenate(damaged), damaged_reasons),
    statuses=statuses,
    reasons=reasons,
    non_finite=(len(not_finite), read_ids(store, not_finite)),
    workers=worker_records.read_workers(store.folder),
    damaged_records=worker_records.find_damaged(store.folder),
  )


def spread(units: Int[np.ndarray, "U"], most: int) -> Int[np.ndarray, "V"]:
  """So many of the units at most, evenly spread over them."""
  return units[np.linspace(0, len(units) - 1, min(most, len(units))).astype(int)]


def read_columns(
  store: results.Results, names: Sequence[str], units: Int[np.ndarray, "U"]
) -> tuple[dict[str, Shaped[np.ndarray, "M ..."]], Int[np.ndarray, "V"]]:
  """The fields of all images of these units, and the units that cannot be read, which are left out."""
  try:
    indices = store.images_of(units)
    return {name: store.read(name, indices) for name in names}, units[:0]
  except results.StorageError:
    if len(units) == 1:
      return {name: store.read(name, slice(0, 0)) for name in names}, units
  # The error does not say which chunk is damaged.
  halves = [read_columns(store, names, half) for half in np.array_split(units, 2)]
  joined = {name: np.concatenate([columns[name] for columns, _ in halves]) for name in names}
  return joined, np.concatenate([damaged for _, damaged in halves])


def read_reasons(
  store: results.Results, indices: Int[np.ndarray, "M"]
) -> tuple[dict[str, tuple[int, list[str]]], Int[np.ndarray, "V"]]:
  """Why these images could not be searched, the most frequent reason first, and the units that cannot be read."""
  units = np.unique(indices // store.unit_size)
  columns, damaged_units = read_columns(store, ["error", "id"], units)
  read = store.images_of(np.setdiff1d(units, damaged_units))
  is_asked = np.isin(read, indices)
  ids: dict[str, list[str]] = collections.defaultdict(list)
  errors, texts = (schema.decode_text(columns[name][is_asked]).tolist() for name in ("error", "id"))
  for error, text in zip(errors, texts, strict=True):
    ids[error].append(text)
  ordered = sorted(ids.items(), key=lambda item: -len(item[1]))
  return {error: (len(texts), texts[:MAX_IDS_SHOWN]) for error, texts in ordered}, damaged_units


def read_ids(store: results.Results, indices: Int[np.ndarray, "M"]) -> list[str]:
  """The ids of the first of these images, or their indices if the ids cannot be read."""
  first = indices[:MAX_IDS_SHOWN]
  try:
    return store.read_text("id", first)
  except results.StorageError:
    return [f"image {index}" for index in first.tolist()]


def state_to_json(state: State) -> dict[str, Any]:
  """The same as the text says, in JSON types."""
  store, num_left = state.store, state.store.num_images - state.num_done
  missing = state.missing_units
  return {
    "run": store.folder.location,
    "spec": {name: value for name, value in store.spec.items() if name not in ("fields", "sizes")},
    "num_images": store.num_images,
    "num_done": state.num_done,
    "is_finished": not num_left,
    "num_units": store.num_units,
    "num_missing_units": len(missing),
    "images_per_second": state.rate or None,
    "seconds_left": num_left / state.rate if num_left and state.rate else None,
    "workers": [
      {**dataclasses.asdict(worker), "seconds_since_seen": seconds_since(worker.updated, state.now)}
      for worker in state.workers
    ],
    "parts": [
      {"shard": str(shard), "num_missing_units": count, "state": what} for shard, count, what in missing_parts(state)
    ],
    "num_units_read": state.num_units_read,
    "statuses": state.statuses,
    "not_searched": {reason: {"num_images": count, "ids": ids} for reason, (count, ids) in state.reasons.items()},
    "non_finite": {"num_images": state.non_finite[0], "ids": state.non_finite[1]},
    "damaged_units": state.damaged_units.tolist(),
    "damaged_records": state.damaged_records,
  }


def seconds_since(time_text: str, now: datetime.datetime) -> float:
  return max((now - datetime.datetime.fromisoformat(time_text)).total_seconds(), 0)


def describe_state(state: State) -> str:
  blocks = [
    describe_run(state.store.folder.location, state.store.spec),
    describe_progress(state),
    describe_workers(state),
    describe_missing(state),
    describe_answers(state),
    describe_failures(state),
  ]
  return "\n".join(line for block in blocks for line in block)


def describe_run(location: str, spec: Mapping[str, Any]) -> list[str]:
  """What is searched, how, and where masked pixels show draws, which."""
  searches = [describe_search(spec[name], spec["threshold"]) for name in ("search", "smallest") if spec[name]]
  data = spec["data"]
  name = data.get("data", data.get("name", "?"))
  split = f" {data['split']}" if "split" in data else ""
  return [
    f"{location}: {spec['model']['name']} on {name}{split}, {spec['num_images']} images, target {spec['target']}, "
    f"threshold {spec['threshold']:g}",
    f"{' and '.join(searches)}, certificate {spec['certificate']}, {spec['batch_size']} images per device at a time, "
    f"{spec['device']}{describe_precision(spec)}",
    *describe_drawn(spec),
  ]


def describe_drawn(spec: Mapping[str, Any]) -> list[str]:
  """A line on what masked pixels show where that is no baseline."""
  if "removal" in spec:
    return [f"masked pixels are absent, removal {spec['removal']}"]
  if "completion" not in spec:
    return []
  asked = spec["completion"]
  images = asked.get("images")
  pool = f" of {images['data']} ({images['num_own']} of the run among them)" if images else ""
  claim = f"rate {asked['rate']:g} at level {asked['level']:g} by {asked['num_tested']} unseen ones"
  return [f"masked pixels show {asked['kind']}{pool}, {asked['num_draws']} draws a step; {claim}"]


def describe_search(settings: Mapping[str, Any], threshold: float) -> str:
  """A search as written in Python; a threshold is shown as the run's."""
  values = {name: threshold if name == "threshold" else value for name, value in settings.items() if name != "name"}
  options = ", ".join(f"{name}={value}" for name, value in values.items())
  return f"{settings['name']}({options})"


def describe_progress(state: State) -> list[str]:
  """One line: images done, speed and time left."""
  num_images, num_done = state.store.num_images, state.num_done
  line = f"{num_done} of {num_images} images done ({percentage(num_done, num_images)})"
  if num_done == num_images:
    return [f"{line}; the run is finished"]
  if state.rate:
    return [f"{line}, {state.rate:.3g} images/s, {format_seconds((num_images - num_done) / state.rate)} left"]
  return [f"{line}, time left unknown" if state.running else f"{line}; no worker is running"]


def percentage(part: int, whole: int) -> str:
  """One decimal, never rounded up to 100."""
  return f"{1000 * part // whole / 10:.1f}%"


def describe_workers(state: State) -> list[str]:
  """A line for each worker: those running, by part, then the others, latest first."""
  rest = sorted((worker for worker in state.workers if worker not in state.running), key=lambda worker: worker.updated)
  ordered = [*sorted(state.running, key=part_of), *reversed(rest)]
  lines = [describe_worker(worker, state.now) for worker in ordered[:MAX_WORKERS_SHOWN]]
  num_more = len(ordered) - len(lines)
  lines += more(num_more, "workers")
  if state.damaged_records:
    names = ", ".join(state.damaged_records[:MAX_IDS_SHOWN])
    lines.append(f"  {plural(len(state.damaged_records), 'record')} cannot be read, such as {names}")
  return ["workers:", *lines] if lines else []


def part_of(worker: WorkerRecord) -> int:
  return parse_shard(worker.shard).index if worker.shard else 0


def describe_worker(worker: WorkerRecord, now: datetime.datetime) -> str:
  part = f" part {worker.shard}" if worker.shard else ""
  rate = f", {worker.rate:.3g} images/s" if worker.rate and worker.state == RUNNING else ""
  judgement = f" ({JUDGEMENTS[worker.state]})" if worker.state in JUDGEMENTS else ""
  # Records of older versions do not say when.
  advanced = worker.advanced or (None if worker.num_images else worker.started)
  idle = seconds_since(advanced, now) if advanced else 0
  slow = f", slow: none finished for {format_seconds(idle)}" if worker.state == RUNNING and idle > RATE_SECONDS else ""
  message = f": {worker.message}" if worker.message else ""
  return (
    f"  {worker.host} pid {worker.pid}{part}: {worker.state}{judgement}, {worker.num_images} images{rate}{slow}, "
    f"seen {format_seconds(seconds_since(worker.updated, now))} ago{message}"
  )


def describe_missing(state: State) -> list[str]:
  """What is not done, by part if the workers have parts, and how to finish what no worker is doing."""
  missing = state.missing_units
  if not len(missing):
    return []
  lines = [f"missing: {plural(len(missing), 'unit')}, {state.store.count_images(missing)} images"]
  if find_num_parts(state.workers) is None:
    return lines if state.running else [*lines, "  the same command goes on where it stopped"]
  parts = missing_parts(state)
  for shard, num_missing, what in parts[:MAX_PARTS_SHOWN]:
    help_text = "" if what == RUNNING else f"; finish it by --shard {shard}, or --take-over on another worker"
    lines.append(f"  part {shard}: {plural(num_missing, 'unit')}, {what}{help_text}")
  return [*lines, *more(len(parts) - MAX_PARTS_SHOWN, "parts")]


def missing_parts(state: State) -> list[tuple[Shard, int, str]]:
  """The parts that are not finished, how many units each lacks and what its worker does; those at work come last."""
  num_parts = find_num_parts(state.workers) or 0
  # A part's latest record counts, since its worker may have been restarted.
  states = {worker.shard: worker.state for worker in sorted(state.workers, key=lambda worker: worker.updated)}
  states |= {worker.shard: worker.state for worker in state.running}
  shards = [Shard(index, num_parts) for index in range(num_parts)]
  parts = [(shard, len(shard.select(state.missing_units)), states.get(str(shard), "not started")) for shard in shards]
  return sorted((part for part in parts if part[1]), key=lambda part: part[2] == RUNNING)


def find_num_parts(records: Sequence[WorkerRecord]) -> int | None:
  """Into how many parts the run is divided, by a running worker or else the latest; None if it is not divided."""
  latest = sorted(records, key=lambda worker: (worker.state == RUNNING, worker.updated))
  shards = [worker.shard for worker in latest]
  return parse_shard(shards[-1]).count if shards and shards[-1] is not None else None


def describe_answers(state: State) -> list[str]:
  lines = []
  num_done = len(state.done_units)
  if state.num_units_read < num_done:
    lines.append(f"below, the images of {state.num_units_read} of {num_done} finished units, spread evenly over them")
  for answer, counts in state.statuses.items():
    present = [f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count]
    lines.append(f"{KIND_TITLES[answer]}: {', '.join(present) or 'none yet'}")
  return lines


def describe_failures(state: State) -> list[str]:
  lines = []
  if state.reasons:
    lines.append(f"not searched: {plural(sum(count for count, _ in state.reasons.values()), 'image')}")
    for reason, (count, ids) in list(state.reasons.items())[:MAX_REASONS_SHOWN]:
      lines.append(f"  {count} x {reason} ({list_ids(ids, count)})")
    lines += more(len(state.reasons) - MAX_REASONS_SHOWN, "reasons")
  count, ids = state.non_finite
  if count:
    lines.append(f"not finite: {plural(count, 'image')} ({list_ids(ids, count)})")
  if len(state.damaged_units):
    lines.append(
      f"damaged: {plural(len(state.damaged_units), 'finished unit')} cannot be read, starting with unit "
      f"{state.damaged_units[0]}; `jax-sis verify` lists all of them, and `find` computes them again"
    )
  return lines


def list_ids(ids: Sequence[str], count: int) -> str:
  return ", ".join(ids) + (", ..." if count > len(ids) else "")


def plural(count: int, noun: str) -> str:
  """`1 unit`, `2 units`."""
  return f"{count} {noun}{'' if count == 1 else 's'}"


def more(count: int, noun: str) -> list[str]:
  """A line that counts what is left out, if anything is."""
  return [f"  and {count} more {noun}"] if count > 0 else []
