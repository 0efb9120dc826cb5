"""`jax-sis find`: the sufficient input subset of every image of a set, on all local devices, a part on each machine.

Three things go on at once: threads read and decode images, the devices search, and another thread takes what they found
and stores it. A unit of images is the smallest thing that is stored; what it holds depends on the run's specification
alone, and not on the worker or the devices that computed it.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from jaxtyping import Array, Int

from jax_sis import results
from jax_sis.data import batches, sources
from jax_sis.find_config import FindConfig
from jax_sis.gallery import draw_gallery
from jax_sis.job import Job, check_examples_independent, compile_search, create_or_resume, make_job, requested_targets
from jax_sis.results.folder import check_writable, open_folder
from jax_sis.results.schema import FULL_DTYPES, NO_CLASS, NOT_SEARCHED
from jax_sis.runtime import devices
from jax_sis.runtime.progress import Progress
from jax_sis.summary import describe_outcome, make_rows, print_header, print_rows, write_summary
from jax_sis.workers import Heartbeat, Shard

# A table of more lines is for programs to read, and stands in summary.csv.
MAX_PRINTED_IMAGES = 512
# Launches between looks at what other workers have done.
LAUNCHES_A_ROUND = 8


# What the store says of the subsets of an image that could not be searched; of all else nothing, as of an empty subset.
OF_UNSEARCHED = {"status": NOT_SEARCHED, "certified_confidence": np.nan, "is_reproduced": True}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """The images of one unit that one device searches at once, the last ones of the run perhaps fewer than a batch.

  Attributes:
    unit: the unit.
    start: the first image.
    stop: one past the last.
  """

  unit: int
  start: int
  stop: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch:
  """What all devices do at once.

  Attributes:
    parts: one for each device; at the end of the work perhaps fewer.
    batch: the images and what is known of them, `[D * B, ...]`, short parts padded by repeating an image.
    outputs: what the devices compute, `[D, B, ...]`.
  """

  parts: list[Part]
  batch: dict[str, np.ndarray]
  outputs: dict[str, Array]


def find(config: FindConfig, *, shard: Shard | None = None, takes_over: bool = False) -> str:
  """Runs or resumes a search over a set of images; prints the table, writes gallery, results and summary.

  Args:
    config: what to search, see FindConfig.
    shard: the part of the units that this worker does; None for all that are not done.
    takes_over: when its own part is done, also do what other workers have not done yet.

  Returns:
    The folder of the results, as it was given.

  Raises:
    ValueError: a setting is wrong, does not fit the checkpoint or the data, the batch does not fit the memory, or the
      results cannot be written.
  """
  folder = open_folder(config.out)
  check_writable(folder)
  job = make_job(config, folder)
  store = create_or_resume(job)
  print(headline(job, store, shard), flush=True)
  is_printed = job.num_images <= MAX_PRINTED_IMAGES
  num_done = len(store.done_images())
  if num_done:
    print(f"{num_done} of {store.num_images} images are done already in {config.out}.", flush=True)
  if is_printed:
    print_header(job.search.answers)
    print_stored_rows(job, store)
  if num_done < store.num_images:
    Worker(job, store, shard or Shard(index=0, count=1), is_printed=is_printed).run(takes_over=takes_over)
  num_left = store.num_images - len(store.done_images())
  if num_left:
    print(f"This worker's part is done; {num_left} images of other workers are not. `jax-sis status` shows them.")
  else:
    write_outcome(job, store)
  return config.out


def headline(job: Job, store: results.Results, shard: Shard | None) -> str:
  """What is about to be done, in some lines."""
  config = job.config
  searches = " and ".join(str(search) for search in (config.search, config.smallest) if search)
  num_bytes = store.num_bytes_per_image
  part = f", part {shard.index} of {shard.count} (counted from 0)" if shard is not None and shard.count > 1 else ""
  return (
    f"Sufficient input subsets: pixels that alone make {job.classifier.model_name} at least {config.threshold:g} "
    f"confident.\n{job.num_images} images, {searches}, {len(job.local_devices)} {job.local_devices[0].platform} "
    f"device(s), {job.batch_size} images a device at a time{part}.\n"
    f"Results: {devices.format_bytes(num_bytes)} an image, {devices.format_bytes(num_bytes * job.num_images)} before "
    f"compression, in {store.num_units} units."
  )


class UnitSearch:
  """Computes the rows of units on all local devices.

  Args:
    job: what is searched.
    store: whose units.

  Raises:
    ValueError: the classifier mixes up the images of a batch, or the batch does not fit the memory.
  """

  def __init__(self, job: Job, store: results.Results):
    check_examples_independent(job)
    self._job = job
    self._store = store
    self._params = devices.replicate(job.params, job.local_devices)
    self._compiled = job.compiled or compile_search(job)
    self._parts_of_unit: dict[int, list[dict[str, np.ndarray]]] = collections.defaultdict(list)
    devices.check_memory(self._compiled, batch_size=job.batch_size, devices=job.local_devices, argument="--batch")

  def run(self, units: Int[np.ndarray, "U"], finish_fn: Callable[[int, dict[str, np.ndarray]], None]) -> None:
    """Keeps the devices busy: launch n + 1 is read and started while n is computed and n - 1 finished.

    Args:
      units: which.
      finish_fn: gets each unit with all its rows, by field as `Results.write_unit` takes them, in another thread.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="store") as executor:
      pending: collections.deque[Future[None]] = collections.deque()
      for parts, batch in read_launches(self._job, self._store, units):
        while len(pending) > 1:
          pending.popleft().result()
        pending.append(executor.submit(self._finish, self._start(parts, batch), finish_fn))
      while pending:
        pending.popleft().result()

  def _start(self, parts: list[Part], batch: dict[str, np.ndarray]) -> Launch:
    """Hands one launch to the devices, without waiting for it."""
    job = self._job
    images = job.classifier.normalisation.apply(batch["image"])
    requested = requested_targets(job.target, batch["label"])
    sharded = devices.shard((images, requested), len(job.local_devices))
    del batch["image"]
    return Launch(parts=parts, batch=batch, outputs=self._compiled(self._params, *sharded))

  def _finish(self, launch: Launch, finish_fn: Callable[[int, dict[str, np.ndarray]], None]) -> None:
    """Waits for one launch, and hands on the units that it completes."""
    fields = collect_fields(self._job, launch)
    for place, part in enumerate(launch.parts):
      first = place * self._job.batch_size
      rows = {name: values[first : first + part.stop - part.start] for name, values in fields.items()}
      self._parts_of_unit[part.unit].append(rows)
      if part.stop == self._store.unit_range(part.unit)[1]:
        pieces = self._parts_of_unit.pop(part.unit)
        finish_fn(part.unit, {name: np.concatenate([piece[name] for piece in pieces]) for name in rows})


class Worker:
  """One process at work on a run: reads, searches and stores the units that are its own.

  Args:
    job: what is searched.
    store: where the results go.
    shard: the part of the units that is its own.
    is_printed: whether every image gets a line on the screen.
  """

  def __init__(self, job: Job, store: results.Results, shard: Shard, *, is_printed: bool):
    self._job = job
    self._store = store
    self._shard = shard
    self._is_printed = is_printed

  def run(self, *, takes_over: bool) -> None:
    """Does this worker's units, then with `takes_over` those of others that are not done."""
    job, store = self._job, self._store
    own = self._shard.select(missing_units(store))
    num_images = sum(stop - start for start, stop in map(store.unit_range, own.tolist()))
    with (
      Progress("compiling", total=num_images, unit="image") as self._progress,
      Heartbeat(store.folder, self._shard) as self._heartbeat,
    ):
      search = UnitSearch(job, store)
      self._progress.restart("search")
      search.run(own, self._store_unit)
      while takes_over:
        units = self._next_of_others()
        if not len(units):
          break
        search.run(units, self._store_unit)

  def _next_of_others(self) -> Int[np.ndarray, "U"]:
    """Some units that nobody has done yet, from this worker's own place on, so that helpers do not meet."""
    missing = missing_units(self._store)
    turned = np.roll(missing, -len(missing) * self._shard.index // self._shard.count)
    num_launched = LAUNCHES_A_ROUND * len(self._job.local_devices) * self._job.batch_size
    return turned[: max(1, num_launched // self._job.unit_size)]

  def _store_unit(self, unit: int, rows: dict[str, np.ndarray]) -> None:
    """Stores one unit and says so."""
    self._store.write_unit(unit, rows)
    if self._is_printed:
      print_rows(make_rows(rows, self._job.classifier.class_names, num_features=self._job.num_features))
    self._progress.advance(len(rows["id"]))
    self._heartbeat.advance(len(rows["id"]))


def missing_units(store: results.Results) -> Int[np.ndarray, "U"]:
  """The units that are not done, ascending."""
  return np.setdiff1d(np.arange(store.num_units), store.done_units())


def split_units(job: Job, store: results.Results, units: Int[np.ndarray, "U"]) -> list[Part]:
  """The units' images in batches of one device, none of which holds images of two units."""
  parts = []
  for unit in units.tolist():
    start, stop = store.unit_range(unit)
    for first in range(start, stop, job.batch_size):
      parts.append(Part(unit=unit, start=first, stop=min(first + job.batch_size, stop)))
  return parts


def read_launches(
  job: Job, store: results.Results, units: Int[np.ndarray, "U"]
) -> Iterator[tuple[list[Part], dict[str, np.ndarray]]]:
  """Reads the units' images ahead, a part for each device at a time, padded to whole batches."""
  parts = split_units(job, store, units)
  num_devices = len(job.local_devices)
  indices = np.array([min(part.start + place, part.stop - 1) for part in parts for place in range(job.batch_size)])
  for number, batch in enumerate(read_images(job, indices, num_devices * job.batch_size)):
    missing = num_devices * job.batch_size - len(batch["index"])
    padded = {name: np.concatenate([values, np.repeat(values[-1:], missing, axis=0)]) for name, values in batch.items()}
    yield parts[number * num_devices : (number + 1) * num_devices], padded


def read_images(job: Job, indices: Int[np.ndarray, "N"], batch_size: int) -> Iterator[dict[str, np.ndarray]]:
  """As `data.iterate_batches`; an image that lacks the label that it is to be searched for has this as its error."""
  for batch in batches.iterate_batches(job.source, indices, batch_size):
    if job.target is None:
      is_unlabelled = (batch["label"] == sources.NO_LABEL) & (batch["error"] == "")
      batch["error"] = np.where(is_unlabelled, "no label; use another --target", batch["error"])
    yield batch


def collect_fields(job: Job, launch: Launch) -> dict[str, np.ndarray]:
  """Waits for what the devices computed, and adds what the images said of themselves: all fields of the store."""
  batch = launch.batch
  fields = {name: np.asarray(values).reshape(-1, *values.shape[2:]) for name, values in launch.outputs.items()}
  is_excluded = batch["error"] != ""
  # The devices searched a black image in their place.
  for answer in job.search.answers:
    for name, dtype in FULL_DTYPES.items():
      field = f"{answer}_{name}"
      if field in fields:
        fields[field] = np.where(is_excluded, OF_UNSEARCHED.get(name, 0), fields[field]).astype(dtype)
  for name, values in fields.items():
    if name == results.SMALLEST_MASK or name.startswith("mask_"):
      fields[name] = values & ~is_excluded[:, None]
  fields["predicted"] = np.where(is_excluded, NO_CLASS, fields["predicted"])
  fields["full_confidence"] = np.where(is_excluded, np.nan, fields["full_confidence"])
  fields["id"] = results.encode_text([str(text) for text in batch["id"]])
  fields["error"] = results.encode_text([str(text) for text in batch["error"]])
  fields["label"] = batch["label"]
  return fields


def print_stored_rows(job: Job, store: results.Results) -> None:
  """The lines of the images that are done already."""
  for _, fields in store.iterate():
    print_rows(make_rows(fields, job.classifier.class_names, num_features=job.num_features))


def write_outcome(job: Job, store: results.Results) -> None:
  """Summary and gallery of a finished run, and the answer in a sentence or two."""
  totals = write_summary(store, job.classifier.class_names)
  pictures = ""
  if job.config.gallery:
    store.folder.write("gallery.png", draw_gallery(job, store, num_images=job.config.gallery))
    pictures = "gallery.png, "
  print(describe_outcome(totals, job.config.threshold))
  print(f"Written to {job.config.out}: {pictures}summary.csv, summary.json, results.zarr", flush=True)
