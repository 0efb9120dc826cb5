"""`jax-sis find`: the sufficient input subset of every image of a set, on all local devices and any number of machines.

Three things happen at once: threads read and decode images, the devices search, and another thread stores what they
found. A run is stored in units of some images; what a unit holds depends on the run's specification alone, and not on
the worker or the devices that computed it.
"""

import os

import numpy as np
from jaxtyping import Int

from jax_sis import results
from jax_sis.runs.backgrounds import BACKGROUNDS_FILE, draw_backgrounds
from jax_sis.runs.config import FindConfig, describe_precision
from jax_sis.runs.first_launch import open_run
from jax_sis.runs.gallery import draw_gallery
from jax_sis.runs.identity import find_changes, read_compared, refuse_changes
from jax_sis.runs.long_runs import warn_of_long_run
from jax_sis.runs.presets import describe_preset
from jax_sis.runs.setup import Job, explain_out_of_memory
from jax_sis.runs.shards import Shard
from jax_sis.runs.shared_storage import warn_of_local_folder
from jax_sis.runs.table import GALLERY_FILE, describe_outcome, make_rows, make_summary, print_header, print_rows
from jax_sis.runs.unit_search import UnitSearch, read_images
from jax_sis.runtime import devices
from jax_sis.runtime.progress import Progress

# Longer tables are left to summary.csv.
MAX_PRINTED_IMAGES = 512
# Finished images that are compared with those at hand before a run goes on, spread over it.
NUM_COMPARED = 256
ALL_UNITS = Shard(index=0, count=1)


def find(config: FindConfig, *, shard: Shard | None = None) -> str:
  """Runs or resumes a search over a set of images; prints the table, writes gallery, results and summary.

  Args:
    config: what to search, see FindConfig.
    shard: the part of the units that this worker does; None for all that are left.

  Returns:
    The folder of the results, as given.

  Raises:
    ValueError: a setting is wrong, does not fit the checkpoint or the data, the batch does not fit the memory, images
      have changed since the run searched them, or the results cannot be written.
  """
  part = shard or ALL_UNITS
  job, store = begin(config, shard)
  if len(missing_units(store)):
    with explain_out_of_memory(job):
      Worker(job, store, is_printed=is_printed(job.num_images)).run(part.select(missing_units(store)))
  num_left = store.num_images - store.count_done()
  if num_left:
    print(f"This worker's part is done; {num_left} images of other workers are not. `jax-sis status` counts them.")
  else:
    write_outcome(job, store)
  return config.out


def begin(config: FindConfig, shard: Shard | None) -> tuple[Job, results.Results]:
  """The run and its store, new or gone on with, for one worker; prints what it is and what is done already.

  Raises:
    ValueError: as for `find`.
  """
  folder = results.open_folder(config.out)
  results.check_writable(folder)
  is_part = shard is not None and shard.count > 1
  if is_part and folder.path is not None and (warning := warn_of_local_folder(folder.path, os.environ)):
    print(warning, flush=True)
  job, store = open_run(config, folder, shard or ALL_UNITS)
  notes = [describe_preset(job.config, job.classifier.input_shape), *job.source.notes]
  print("\n".join([headline(job, store, shard), *filter(None, notes)]), flush=True)
  done = store.done_units()
  num_done = store.count_images(done)
  if num_done:
    check_done_images(job, store, done)
    print(f"{num_done} of {store.num_images} images are done already in {config.out}.", flush=True)
  own = (shard or ALL_UNITS).select(np.setdiff1d(np.arange(store.num_units), done))
  if warning := warn_of_long_run(job, store.count_images(own)):
    print(warning, flush=True)
  if is_printed(job.num_images):
    print_header(job.search.kinds, job.class_names)
    for _, fields in store.iterate():
      print_rows(make_rows(fields, job.class_names, num_features=job.num_features), job.class_names)
  return job, store


def is_printed(num_images: int) -> bool:
  """Whether a run's table is short enough to be printed."""
  return num_images <= MAX_PRINTED_IMAGES


def check_done_images(job: Job, store: results.Results, units: Int[np.ndarray, "U"]) -> None:
  """Compares some of the images of these finished units with those at hand; ValueError names those that changed.

  Otherwise a run would go on with other images than it was begun with.
  """
  places = np.unique(np.linspace(0, store.count_images(units) - 1, NUM_COMPARED).astype(int))
  # Only the last unit may be shorter.
  some = units[places // store.unit_size] * store.unit_size + places % store.unit_size
  changes = []
  for batch in read_images(job, some, job.launch_size):
    changes += find_changes(read_compared(store, batch["index"]), batch)
  refuse_changes(store.folder.location, changes, len(some))


def headline(job: Job, store: results.Results, shard: Shard | None) -> str:
  config = job.config
  searches = " and ".join(map(str, filter(None, (config.search, config.smallest, config.lattice and "every subset"))))
  num_bytes = store.num_bytes_per_image
  part = f", part {shard.index} of {shard.count} (counted from 0)" if shard is not None and shard.count > 1 else ""
  return (
    f"Sufficient input subsets: pixels that alone make {job.classifier.model_name} at least {config.threshold:g} "
    f"confident.{describe_question(config)}{describe_draws(job)}\n"
    f"{job.num_images} images, {searches}, {job.devices_name}, "
    f"{job.batch_size} images per device at a time{describe_precision(store.spec)}{part}.\n"
    f"Results: {devices.format_bytes(num_bytes)} an image, {devices.format_bytes(num_bytes * job.num_images)} before "
    f"compression, in {store.num_units} units."
  )


def describe_question(config: FindConfig) -> str:
  """What is asked of the smallest evidence, where that is not that it suffices alone."""
  if config.asked is None:
    return ""
  also = " and that are sufficient" if config.question == "both" else ""
  return (
    f"\nSmallest evidence: pixels without which, under this fill, another class is ahead by {config.margin:g} "
    f"in log-odds{also}."
  )


def describe_draws(job: Job) -> str:
  """A line on what masked pixels show, where that is drawn."""
  completion, pools = job.config.completion, job.pools
  if completion is None:
    return ""
  line = (
    f"\nMasked pixels show {completion}; certified is what keeps the class on {completion.rate:g} of all draws, at "
    f"level {completion.level:g} by {completion.num_tested} that the search never saw."
  )
  if pools is None:
    return line
  own = f"; {pools.num_own} images of the run are in it, and never their own background" if pools.num_own else ""
  unused = pools.description["num_unusable"]
  return (
    f"{line}\nThe pool has {len(pools.searched)} images for the search and {len(pools.tested)} for the certificates"
    f"{f', {unused} cannot be used' if unused else ''}{own}."
  )


class Worker:
  """One process at work on a run: it reads, searches and stores units, and prints them if asked."""

  def __init__(self, job: Job, store: results.Results, *, is_printed: bool):
    self._job = job
    self._store = store
    self._is_printed = is_printed

  def run(self, units: Int[np.ndarray, "U"]) -> None:
    """Does these units, in their order."""
    with Progress("compiling", total=self._store.count_images(units), unit="image") as self._progress:
      search = UnitSearch(self._job)
      self._progress.restart("search")
      search.run(units, self._store_unit)

  def _store_unit(self, unit: int, rows: dict[str, np.ndarray]) -> None:
    self._store.write_unit(unit, rows)
    if self._is_printed:
      names = self._job.class_names
      print_rows(make_rows(rows, names, num_features=self._job.num_features), names)
    self._progress.advance(len(rows["id"]))


def missing_units(store: results.Results) -> Int[np.ndarray, "U"]:
  return np.setdiff1d(np.arange(store.num_units), store.done_units())


def write_outcome(job: Job, store: results.Results) -> None:
  """Writes the pictures and tables of a finished run, and removes what its killed workers left."""
  folder = store.folder.patient
  files, totals = make_summary(store, job.class_names)
  for name, content in files.items():
    folder.write(name, content)
  pictures = ""
  if job.config.gallery:
    folder.write(GALLERY_FILE, draw_gallery(job, store, num_images=job.config.gallery))
    pictures = f"{GALLERY_FILE}, "
  if job.config.gallery and job.config.completion is not None:
    folder.write(BACKGROUNDS_FILE, draw_backgrounds(job, store, num_images=job.config.gallery))
    pictures += f"{BACKGROUNDS_FILE}, "
  folder.remove_leftovers()
  print(describe_outcome(totals, job.config.threshold))
  print(f"Written to {job.config.out}: {pictures}summary.csv, summary.json, results.zarr", flush=True)
