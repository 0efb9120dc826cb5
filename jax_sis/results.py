"""The on-disk store of a run: what it is, what is done, and one row of arrays an image.

A folder with `spec.json`, which fixes what the run computes, and `results.zarr`, a Zarr v3 group written through
TensorStore and readable by the zarr package alone. Every array has the images along its first axis, in chunks of one
unit; a unit is what one device handles at once. `done` has a flag a unit, written after everything else of it.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorstore as ts
from jaxtyping import Int, Shaped

SPEC_FILE = "spec.json"
ZARR_DIR = "results.zarr"
TEXT_BYTES = 128
FORMAT = "jax_sis.results/1"


class Results:
  """The store of one run, for writing and for reading back. Use `create_or_resume` or `open_results`."""

  def __init__(self, directory: pathlib.Path, spec: dict[str, Any], arrays: dict[str, ts.TensorStore]):
    self.directory = directory
    self.spec = spec
    self._arrays = arrays

  @property
  def num_images(self) -> int:
    """N, finished or not."""
    return self.spec["num_images"]

  @property
  def num_units(self) -> int:
    """Units in all."""
    return -(-self.num_images // self.unit_size)

  @property
  def unit_size(self) -> int:
    """Images in a unit; the last unit may have fewer."""
    return self.spec["unit_size"]

  @property
  def fields(self) -> tuple[str, ...]:
    """The names of the arrays."""
    return tuple(name for name in self._arrays if name != "done")

  def done_units(self) -> Int[np.ndarray, "U"]:
    """The units whose every array is written."""
    return np.flatnonzero(self._arrays["done"].read().result())

  def done_images(self) -> Int[np.ndarray, "M"]:
    """The images of the finished units."""
    indices = np.arange(self.num_images)
    return indices[np.isin(indices // self.unit_size, self.done_units())]

  def write_unit(self, unit: int, rows: Mapping[str, Shaped[np.ndarray, "M ..."]]) -> None:
    """Writes the rows of one unit, then marks it done.

    Args:
      unit: its number.
      rows: for each field the values of the unit's images.

    Raises:
      ValueError: the fields or the number of rows are not those of the store.
    """
    start = unit * self.unit_size
    stop = min(start + self.unit_size, self.num_images)
    if set(rows) != set(self.fields):
      raise ValueError(f"rows must have the fields {sorted(self.fields)}, got {sorted(rows)}.")
    writes = []
    for name, values in rows.items():
      if len(values) != stop - start:
        raise ValueError(f"rows[{name!r}] must have {stop - start} rows for unit {unit}, got {len(values)}.")
      array = self._arrays[name]
      writes.append(array[start:stop].write(np.asarray(values).astype(array.dtype.numpy_dtype)))
    for write in writes:
      write.result()
    self._arrays["done"][unit].write(np.uint8(1)).result()

  def read(self, name: str, indices: Int[np.ndarray, "M"] | slice = slice(None)) -> Shaped[np.ndarray, "M ..."]:
    """The values of a field, for all images or the given ones.

    Raises:
      ValueError: there is no such field.
    """
    if name not in self._arrays:
      raise ValueError(f"name must be one of {sorted(self._arrays)}, got {name!r}.")
    return self._arrays[name][indices].read().result()

  def read_text(self, name: str, indices: Int[np.ndarray, "M"] | slice = slice(None)) -> list[str]:
    """The values of a text field such as `id`."""
    return [bytes(row).rstrip(b"\0").decode() for row in self.read(name, indices)]


def encode_text(texts: list[str]) -> Shaped[np.ndarray, "M W"]:
  """Texts as fixed-width UTF-8, padded by zeros; of a longer one the end, after three dots."""
  rows = np.zeros((len(texts), TEXT_BYTES), np.uint8)
  for row, text in zip(rows, texts, strict=True):
    data = text.encode()
    if len(data) > TEXT_BYTES:
      data = b"..." + data[len(data) - TEXT_BYTES + 3 :].decode(errors="ignore").encode()
    row[: len(data)] = list(data)
  return rows


def create_or_resume(
  directory: str | os.PathLike[str],
  *,
  spec: Mapping[str, Any],
  num_images: int,
  unit_size: int,
  fields: Mapping[str, tuple[tuple[int, ...], str]],
) -> Results:
  """Opens the store of this run, or makes it.

  Args:
    directory: the run's folder.
    spec: what fixes the results, in JSON types.
    num_images: N.
    unit_size: images in a unit.
    fields: for each array its shape after the first axis, and its dtype.

  Raises:
    ValueError: the folder belongs to another run, whose differences are named, or cannot be written.
  """
  directory = pathlib.Path(directory)
  full_spec = {"format": FORMAT, **spec, "num_images": num_images, "unit_size": unit_size}
  full_spec["fields"] = {name: {"shape": list(shape), "dtype": dtype} for name, (shape, dtype) in fields.items()}
  full_spec = settle_spec(directory, full_spec)
  return Results(directory, full_spec, open_arrays(directory, full_spec, create=True))


def settle_spec(directory: pathlib.Path, spec: Mapping[str, Any]) -> dict[str, Any]:
  """Writes the specification of a run into its folder, or finds the same one there.

  Args:
    directory: the run's folder, which is made.
    spec: what fixes the results; `format` names the kind of run.

  Returns:
    The specification as JSON gives it back.

  Raises:
    ValueError: the folder belongs to another run, whose differences are named, or cannot be written.
  """
  asked: dict[str, Any] = json.loads(json.dumps(spec))
  path = directory / SPEC_FILE
  if path.exists():
    stored = read_spec(directory, asked["format"])
    if stored != asked:
      keys = sorted(key for key in {*stored, *asked} if stored.get(key) != asked.get(key))
      differences = "; ".join(f"{key}: {stored.get(key)!r} there, {asked.get(key)!r} asked" for key in keys)
      raise ValueError(
        f"out {str(directory)!r} holds a run of another kind ({differences}); name another folder, or remove this one."
      )
    return stored
  try:
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(asked, indent=2).encode() + b"\n")
  except OSError as error:
    raise ValueError(f"out must be a folder that can be written, but {str(directory)!r}: {error.strerror}.") from error
  return asked


def open_results(directory: str | os.PathLike[str]) -> Results:
  """Opens a run for reading.

  Raises:
    ValueError: the folder holds no run.
  """
  directory = pathlib.Path(directory)
  if not (directory / SPEC_FILE).is_file():
    raise ValueError(f"directory must hold the results of a run ({SPEC_FILE}), got {str(directory)!r}.")
  spec = read_spec(directory)
  return Results(directory, spec, open_arrays(directory, spec, create=False))


def read_spec(directory: pathlib.Path, expected_format: str = FORMAT) -> dict[str, Any]:
  """The specification of the run in this folder.

  Raises:
    ValueError: the file is not one of ours.
  """
  path = directory / SPEC_FILE
  try:
    spec = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise ValueError(f"{str(path)!r} must be the specification of a run, but cannot be read: {error}.") from error
  if not isinstance(spec, dict) or spec.get("format") != expected_format:
    raise ValueError(f"{str(path)!r} must be the specification of a run in the format {expected_format!r}.")
  return spec


def open_arrays(directory: pathlib.Path, spec: dict[str, Any], *, create: bool) -> dict[str, ts.TensorStore]:
  """Opens, or creates, every array of the store."""
  num_images, unit_size = spec["num_images"], spec["unit_size"]
  group = directory / ZARR_DIR
  if create and not (group / "zarr.json").exists():
    group.mkdir(parents=True, exist_ok=True)
    metadata = {"zarr_format": 3, "node_type": "group", "attributes": {"format": FORMAT}}
    write_atomically(group / "zarr.json", json.dumps(metadata).encode())
  layouts = {
    name: ([num_images, *field["shape"]], [unit_size, *field["shape"]], field["dtype"])
    for name, field in spec["fields"].items()
  }
  layouts["done"] = ([-(-num_images // unit_size)], [1], "uint8")
  futures = {}
  for name, (shape, chunk_shape, dtype) in layouts.items():
    futures[name] = ts.open(
      {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(group.absolute() / name)},
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
      },
      open=True,
      create=create,
    )
  return {name: future.result() for name, future in futures.items()}


def write_atomically(path: pathlib.Path, content: bytes) -> None:
  """Replaces a file whole or not at all."""
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  with open(temporary, "wb") as file:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)
