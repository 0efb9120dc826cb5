"""The Zarr arrays of a run, by TensorStore: one per field, in chunks of a unit, and `checksums` and `done` of units."""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorstore as ts
from jaxtyping import Shaped

from jax_sis.results.folder import Folder, StorageError, patient_context
from jax_sis.results.schema import Field, name_axes

ZARR_DIR = "results.zarr"
# What says to the zarr package that the arrays belong together.
GROUP_FILE = f"{ZARR_DIR}/zarr.json"
DONE = "done"
# Of each unit a number per field, sorted by name: a chunk of another unit, too, has its right crc32c.
CHECKSUMS = "checksums"
# Beside the fields, a chunk a unit each.
OF_UNITS = (CHECKSUMS, DONE)


def open_arrays(
  folder: Folder,
  fields: Mapping[str, Field],
  num_images: int,
  unit_size: int,
  *,
  has_checksums: bool,
  create: bool = False,
  assume_metadata: bool = False,
) -> dict[str, ts.TensorStore]:
  """Opens every array of a store.

  Args:
    folder: the run's.
    fields: the arrays but `checksums` and `done`.
    num_images: the length of them.
    unit_size: images in a chunk.
    has_checksums: whether there is an array of them.
    create: make those that are not there.
    assume_metadata: do not look whether they are there, and as what.

  Raises:
    StorageError: one of them is not there or is another, or cannot be made.
  """
  layouts = {
    name: ([num_images, *field.shape], [unit_size, *field.shape], field.dtype) for name, field in fields.items()
  }
  num_units = -(-num_images // unit_size)
  if has_checksums:
    layouts[CHECKSUMS] = ([num_units, len(fields)], [1, len(fields)], "uint32")
  layouts[DONE] = ([num_units], [1], "uint8")
  specs, futures = {}, {}
  for name, (shape, chunk_shape, dtype) in layouts.items():
    spec = specs[name] = {
      "driver": "zarr3",
      "kvstore": folder.kvstore_spec(f"{ZARR_DIR}/{name}"),
      "metadata": {
        "shape": shape,
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
        "codecs": [
          {"name": "bytes", "configuration": {"endian": "little"}},
          {"name": "zstd", "configuration": {"level": 1}},
          {"name": "crc32c"},
        ],
      },
      # Otherwise zeros are not stored, and a chunk that was lost reads as zeros.
      "store_data_equal_to_fill_value": True,
      "fill_missing_data_reads": name == DONE,
    }
    named = name_dimensions(spec, name, fields) if create else spec
    context = patient_context()
    futures[name] = ts.open(named, open=True, create=create, assume_metadata=assume_metadata, context=context)
  arrays = {}
  for name, future in futures.items():
    place = f"{ZARR_DIR}/{name}"
    try:
      arrays[name] = folder.wait(future, "opened", place)
    except StorageError:
      if not create:
        raise
      # Earlier versions gave the axes no names; what else differs is refused here again.
      arrays[name] = folder.wait(ts.open(specs[name], open=True, context=patient_context()), "opened", place)
  return arrays


def make_group(run_format: str) -> bytes:
  """What stands in `GROUP_FILE`: the metadata of a Zarr group.

  Args:
    run_format: the kind of run, which it names.

  Examples:
    >>> from jax_sis import results
    >>> results.make_group("my.results/1")
    b'{"zarr_format": 3, "node_type": "group", "attributes": {"format": "my.results/1"}}'
  """
  return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {"format": run_format}}).encode()


def checksum(unit: int, stored: Shaped[np.ndarray, "M ..."]) -> int:
  """That of a field's rows, as they are stored in this unit and in no other."""
  return zlib.crc32(stored.tobytes(), unit)


def name_dimensions(spec: Mapping[str, Any], name: str, fields: Mapping[str, Field]) -> dict[str, Any]:
  """The specification of an array with the names of its axes, by which xarray reads the store."""
  of_units = {DONE: ["unit"], CHECKSUMS: ["unit", "field"]}
  axes = of_units.get(name) or name_axes(name, fields[name])
  return {**spec, "metadata": {**spec["metadata"], "dimension_names": axes}}
