"""`jax-sis status`: what a run has done, is doing and still lacks, read from its folder while workers write to it."""

import collections
import dataclasses
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from rich.console import Console

from jax_sis import results
from jax_sis.core.subsets import Status
from jax_sis.results import schema
from jax_sis.results.schema import KIND_TITLES, NOT_SEARCHED, STATUS_NAMES
from jax_sis.runs.config import describe_precision
from jax_sis.runtime.progress import format_seconds

MAX_REASONS_SHOWN = 5
MAX_IDS_SHOWN = 3
RATE_SECONDS = 180.0
# Who has stored nothing for so many times as long as the rate is of is not taken to be at work.
NUM_QUIET = 2
# Units whose statuses are read; of larger runs some, since each is a file or a request of its own.
MAX_UNITS_READ = 20_000
# Images whose statuses are in memory at once.
IMAGES_AT_ONCE = 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
  """The state of a run at one time, as its folder shows it.

  Attributes:
    store: the run.
    now: the time, in seconds since 1970.
    done_units: the finished units.
    times: when each of these was stored; in a bucket, which does not say, when this command first saw it.
    num_units_read: of how many finished units, spread over all, the statuses were read.
    damaged_units: of these, those that cannot be read.
    statuses: for each kind of subset, how many images of these have which status.
    reasons: for each reason why images could not be searched, how many there are and the first ids.
    non_finite: how many images gave a number that is not finite, and the first ids.
  """

  store: results.Results
  now: float
  done_units: Int[np.ndarray, "U"]
  times: Float[np.ndarray, "U"]
  num_units_read: int
  damaged_units: Int[np.ndarray, "V"]
  statuses: dict[str, dict[str, int]]
  reasons: dict[str, tuple[int, list[str]]]
  non_finite: tuple[int, list[str]]

  @property
  def num_done(self) -> int:
    return self.store.count_images(self.done_units)

  @property
  def missing_units(self) -> Int[np.ndarray, "U"]:
    return np.setdiff1d(np.arange(self.store.num_units), self.done_units)

  @property
  def idle_seconds(self) -> float | None:
    """Since the last unit was stored; None where there is none, or nobody knows."""
    if self.store.folder.path is None or not len(self.times):
      return None
    return max(self.now - self.times.max(), 0.0)

  @property
  def rate(self) -> float | None:
    """Images a second since RATE_SECONDS before the last, or the last before that; None where there is no work."""
    if not len(self.times):
      return None
    last = self.times.max()
    # Units that take long, and several devices that end theirs together, have no two within that time.
    earlier = self.times[self.times <= last - RATE_SECONDS]
    start = earlier.max() if len(earlier) else self.times.min()
    is_quiet = self.now - last > NUM_QUIET * max(last - start, RATE_SECONDS)
    later = self.done_units[self.times > start]
    return None if is_quiet or not len(later) else self.store.count_images(later) / (max(self.now, last) - start)


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
  state = None
  while True:
    state = read_state(store, state)
    if watch_seconds is not None and not is_json:
      console.clear()
    print(json.dumps(state_to_json(state)) if is_json else describe_state(state), flush=True)
    if watch_seconds is None or not len(state.missing_units):
      return
    time.sleep(watch_seconds)
    if not console.is_terminal and not is_json:
      print(flush=True)


def read_state(store: results.Results, before: State | None = None) -> State:
  """The state now; `before` is what this command saw last."""
  now, done_units = time.time(), store.done_units()
  times = read_times(store, done_units)
  if times is None:
    times = np.full(len(done_units), now)
    if before is not None:
      _, here, there = np.intersect1d(done_units, before.done_units, return_indices=True)
      times[here] = before.times[there]
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
    now=now,
    done_units=done_units,
    times=times,
    num_units_read=len(units_read),
    damaged_units=np.union1d(np.concatenate(damaged), damaged_reasons),
    statuses=statuses,
    reasons=reasons,
    non_finite=(len(not_finite), read_ids(store, not_finite)),
  )


def read_times(store: results.Results, units: Int[np.ndarray, "U"]) -> Float[np.ndarray, "U"] | None:
  """When these units were stored, in seconds since 1970, by the dates of their flags; None in a bucket."""
  if store.folder.path is None:
    return None
  names = [store.chunk_name(results.DONE, unit) for unit in units.tolist()]
  return np.array([date_of(os.path.join(store.folder.path, name)) for name in names], float)


def date_of(path: str) -> float:
  try:
    return os.stat(path).st_mtime
  except FileNotFoundError:
    # Not done any more, since it was found to be damaged.
    return 0.0


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
    "images_per_second": state.rate,
    "seconds_left": num_left / state.rate if num_left and state.rate else None,
    "seconds_since_stored": state.idle_seconds,
    "num_units_read": state.num_units_read,
    "statuses": state.statuses,
    "not_searched": {reason: {"num_images": count, "ids": ids} for reason, (count, ids) in state.reasons.items()},
    "non_finite": {"num_images": state.non_finite[0], "ids": state.non_finite[1]},
    "damaged_units": state.damaged_units.tolist(),
  }


def describe_state(state: State) -> str:
  blocks = [
    describe_run(state.store.folder.location, state.store.spec),
    describe_progress(state),
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
  """One line: images done, speed and time left, and when something was stored."""
  num_images, num_done = state.store.num_images, state.num_done
  line = f"{num_done} of {num_images} images done ({percentage(num_done, num_images)})"
  if num_done == num_images:
    return [f"{line}; the run is finished"]
  if state.rate:
    line += f", {state.rate:.3g} images/s, {format_seconds((num_images - num_done) / state.rate)} left"
  elif state.store.folder.path is None:
    line += "; how fast it goes, --watch sees"
  if state.idle_seconds is not None:
    line += f"; the last were stored {format_seconds(state.idle_seconds)} ago"
  return [line]


def percentage(part: int, whole: int) -> str:
  """One decimal, never rounded up to 100."""
  return f"{1000 * part // whole / 10:.1f}%"


def describe_missing(state: State) -> list[str]:
  """What is not done."""
  missing = state.missing_units
  if not len(missing):
    return []
  line = f"missing: {plural(len(missing), 'unit')}, {state.store.count_images(missing)} images"
  return [line if state.rate else f"{line}; if nobody is at work, the same command goes on where it stopped"]


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
