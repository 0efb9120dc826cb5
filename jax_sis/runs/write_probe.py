"""How long the storage of a run takes to store a unit."""

import contextlib
import os
import pathlib
import shutil
import statistics
import time
import uuid
from collections.abc import Iterator, Mapping

import numpy as np

from jax_sis import results
from jax_sis.results.folder import PROBE_PREFIX
from jax_sis.results.schema import Field

NUM_WRITES = 3


def time_writes(out: str, fields: Mapping[str, Field], unit_size: int) -> float:
  """The median of the seconds that some units of random numbers take to be stored beside `out`; nothing stays there.

  Raises:
    StorageError: they cannot be stored.
  """
  generator = np.random.default_rng(0)
  rows = {name: draw_rows(field, unit_size, generator) for name, field in fields.items()}
  seconds = []
  with probe_folder(out) as place:
    store = results.create_or_resume(
      place, spec={}, num_images=NUM_WRITES * unit_size, unit_size=unit_size, fields=fields
    )
    for unit in range(NUM_WRITES):
      started = time.perf_counter()
      store.write_unit(unit, rows)
      seconds.append(time.perf_counter() - started)
  return statistics.median(seconds)


def draw_rows(field: Field, num_rows: int, generator: np.random.Generator) -> np.ndarray:
  """Rows that no compression makes smaller."""
  if field.num_bits is not None:
    return generator.random((num_rows, field.num_bits)) < 0.5
  if np.dtype(field.dtype).kind == "f":
    return generator.random((num_rows, *field.shape), np.float32).astype(field.dtype)
  largest = 1 if field.dtype == "bool" else np.iinfo(field.dtype).max
  return generator.integers(0, largest, (num_rows, *field.shape), np.uint64, endpoint=True).astype(field.dtype)


@contextlib.contextmanager
def probe_folder(out: str) -> Iterator[str]:
  """A folder on the same disk as `out`, or in the same bucket, that is gone afterwards."""
  folder = results.open_folder(out)
  name = f"{PROBE_PREFIX}{uuid.uuid4().hex}"
  if folder.path is None:
    place = folder.join(name)
    try:
      yield place
    finally:
      probe = results.open_folder(place)
      for file in probe.list():
        probe.delete(file)
    return
  path = pathlib.Path(os.path.realpath(folder.path))
  place = next(parent for parent in (path, *path.parents) if parent.is_dir()) / name
  try:
    yield str(place)
  finally:
    shutil.rmtree(place, ignore_errors=True)
