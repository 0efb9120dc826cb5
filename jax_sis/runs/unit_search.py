"""The search of one unit of images after the other, a launch ahead of the host."""

import collections
import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from jaxtyping import Array, Int

from jax_sis import results
from jax_sis.data import batches, sources
from jax_sis.results.schema import FULL_DTYPES, NO_CLASS, NOT_SEARCHED
from jax_sis.runs.setup import Job, check_examples_independent, compile_search, requested_targets
from jax_sis.runtime import devices

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
  for kind in job.search.kinds:
    for name, dtype in FULL_DTYPES.items():
      field = f"{kind}_{name}"
      if field in fields:
        fields[field] = np.where(is_excluded, OF_UNSEARCHED.get(name, 0), fields[field]).astype(dtype)
  for name, field in job.search.fields().items():
    if field.num_bits is not None:
      fields[name] = fields[name] & ~is_excluded[:, None]
  fields["predicted"] = np.where(is_excluded, NO_CLASS, fields["predicted"])
  fields["full_confidence"] = np.where(is_excluded, np.nan, fields["full_confidence"])
  fields["id"] = results.encode_text([str(text) for text in batch["id"]])
  fields["error"] = results.encode_text([str(text) for text in batch["error"]])
  fields["label"] = batch["label"]
  return fields
