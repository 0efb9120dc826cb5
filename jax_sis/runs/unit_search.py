"""Searches one unit of images after the other, a launch ahead of the host."""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from jaxtyping import Int

from jax_sis import results
from jax_sis.data import batches, sources
from jax_sis.results.schema import DRAWN_DTYPES, FULL_DTYPES, NO_CLASS, NOT_SEARCHED, WITHOUT_DTYPES
from jax_sis.runs.lattice import clear_lattice
from jax_sis.runs.setup import Job, compile_search

# Launches whose results may wait to be stored, so that one slow write does not hold up the devices.
LAUNCHES_TO_STORE = 8
# What the store holds for subsets of images that could not be searched; other fields are those of an empty subset.
OF_UNSEARCHED = {
  "status": NOT_SEARCHED,
  "is_reproduced": True,
  **dict.fromkeys(("certified_confidence", "rate", "rate_bound", "p_value", "lost_by"), np.nan),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """The images of a unit, `stop` excluded, that one device searches at once: a batch, or fewer at the unit's end."""

  unit: int
  start: int
  stop: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch:
  """What all devices do at once.

  Attributes:
    parts: one for each device; at the end of the work there may be fewer.
    batch: what is known of their images, `[P * B, ...]`; short parts are padded by repeating an image.
  """

  parts: list[Part]
  batch: dict[str, np.ndarray]


class UnitSearch:
  """Computes the rows of units on all local devices.

  Raises:
    ValueError: the classifier mixes up the images of a batch, or the batch does not fit the memory.
  """

  def __init__(self, job: Job):
    job.check_classifier(job.config.baseline, removal=job.config.removal)
    self._job = job
    self._program = job.program or compile_search(job)
    self._parts_of_unit: dict[int, list[dict[str, np.ndarray]]] = collections.defaultdict(list)

  def run(self, units: Int[np.ndarray, "U"], finish_fn: Callable[[int, dict[str, np.ndarray]], None]) -> None:
    """Keeps the devices busy: while launch n is computed, n + 1 waits at the devices, n + 2 is read, others are stored.

    `finish_fn` gets each unit with all its rows, by field as `Results.write_unit` takes them, in another thread. Where
    it fails, or the work is interrupted, the units that wait for it are dropped.
    """
    launches = batches.read_ahead(read_launches(self._job, units))
    with ThreadPoolExecutor(1, thread_name_prefix="store") as executor:
      pending: collections.deque[Future[None]] = collections.deque()
      try:
        for launch, found in self._program.run_all(launches):
          await_finished(pending, at_most=LAUNCHES_TO_STORE - 1)
          pending.append(executor.submit(self._finish, launch, found, finish_fn))
        await_finished(pending, at_most=0)
      except BaseException:
        executor.shutdown(cancel_futures=True)
        raise

  def _finish(
    self,
    launch: Launch,
    found: dict[str, np.ndarray],
    finish_fn: Callable[[int, dict[str, np.ndarray]], None],
  ) -> None:
    fields = collect_fields(self._job, launch.batch, found)
    for place, part in enumerate(launch.parts):
      first = place * self._job.batch_size
      rows = {name: values[first : first + part.stop - part.start] for name, values in fields.items()}
      self._parts_of_unit[part.unit].append(rows)
      if part.stop == self._job.unit_range(part.unit)[1]:
        pieces = self._parts_of_unit.pop(part.unit)
        finish_fn(part.unit, {name: np.concatenate([piece[name] for piece in pieces]) for name in rows})


def await_finished(pending: collections.deque[Future[None]], *, at_most: int) -> None:
  """Waits until no more than these are left, and raises the first error of those that are over."""
  while pending and (len(pending) > at_most or pending[0].done()):
    pending.popleft().result()


def split_units(job: Job, units: Int[np.ndarray, "U"]) -> list[Part]:
  """The units' images in batches for one device; no batch holds images of two units."""
  parts = []
  for unit in units.tolist():
    start, stop = job.unit_range(unit)
    for first in range(start, stop, job.batch_size):
      parts.append(Part(unit=unit, start=first, stop=min(first + job.batch_size, stop)))
  return parts


def read_launches(job: Job, units: Int[np.ndarray, "U"]) -> Iterator[tuple[Launch, tuple[np.ndarray, ...]]]:
  """Reads the units' images ahead, a launch at a time; each comes with the arrays that the search takes."""
  parts = split_units(job, units)
  num_devices = len(job.local_devices)
  bounds = np.array([(part.start, part.stop) for part in parts], np.int64).reshape(-1, 2)
  indices = np.minimum(bounds[:, :1] + np.arange(job.batch_size), bounds[:, 1:] - 1).ravel()
  for number, batch in enumerate(read_images(job, indices, job.launch_size)):
    arrays = job.launch_arrays(batch)
    batch[results.PIXEL_DIGEST] = results.digest_pixels(batch.pop("image"))
    yield Launch(parts=parts[number * num_devices : (number + 1) * num_devices], batch=batch), arrays


def read_images(job: Job, indices: Int[np.ndarray, "N"], batch_size: int) -> Iterator[dict[str, np.ndarray]]:
  """As `iterate_batches`; where labels are searched for, an image without one gets that as its error."""
  for batch in batches.iterate_batches(job.source, indices, batch_size):
    if job.target is None:
      is_unlabelled = (batch["label"] == sources.NO_LABEL) & (batch["error"] == "")
      batch["error"] = np.where(is_unlabelled, "no label; use another --target", batch["error"])
    yield batch


def collect_fields(job: Job, batch: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """All fields of the store: what the devices found, and what is known of the images."""
  fields = dict(found)
  is_excluded = batch["error"] != ""
  # In place of an image that cannot be used, the devices searched a black one.
  for kind in job.search.kinds:
    for name, dtype in (FULL_DTYPES | DRAWN_DTYPES | WITHOUT_DTYPES).items():
      field = f"{kind}_{name}"
      if field in fields:
        fields[field] = np.where(is_excluded, OF_UNSEARCHED.get(name, 0), fields[field]).astype(dtype)
  fields |= clear_lattice(fields, is_excluded)
  for name, field in job.search.fields().items():
    if field.num_bits is not None:
      fields[name] = fields[name] & ~is_excluded[:, None]
  fields["predicted"] = np.where(is_excluded, NO_CLASS, fields["predicted"])
  fields["full_confidence"] = np.where(is_excluded, np.nan, fields["full_confidence"])
  fields["id"] = results.encode_text([str(text) for text in batch["id"]])
  fields["error"] = results.encode_text([str(text) for text in batch["error"]])
  fields["label"] = batch["label"]
  fields[results.PIXEL_DIGEST] = batch[results.PIXEL_DIGEST]
  return fields
