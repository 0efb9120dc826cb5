r"""The store of a run: what it is, what is done, and one row of arrays an image.

A folder, on disk or in a bucket, with `spec.json`, which fixes what the run computes, and `results.zarr`, a Zarr v3
group written through TensorStore. Every array has the images along its first axis, in chunks of one unit, compressed
by zstd and followed by a crc32c checksum. `checksums` has a row per unit, the crc32 of its rows of each field (by name,
begun at the unit's number), which tells a chunk of another unit. `done` has one flag per unit, in chunks of one, which
is written after all else of the unit; a flag that is missing or damaged says that the unit is to be computed again, and
that writes the same bytes.

The zarr package alone reads it, too:

  group = zarr.open_group("jax-sis-results/results.zarr", mode="r")
  confidence = group["confidence"][:100]
  text = [bytes(row).rstrip(b"\0").decode() for row in group["id"][:100]]
  masks = np.unpackbits(group["smallest_mask"][:100], axis=1, count=num_features, bitorder="little").astype(bool)

So does xarray, with the axes image, feature, feature_byte, size, byte and unit:

  runs = xarray.open_zarr("jax-sis-results/results.zarr", consolidated=False)
"""

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorstore as ts
from jaxtyping import Bool, Int, Shaped

from jax_sis.core import masking, messages
from jax_sis.results import columns
from jax_sis.results.arrays import CHECKSUMS, DONE, GROUP_FILE, ZARR_DIR, checksum, make_group, open_arrays
from jax_sis.results.flags import Flags
from jax_sis.results.folder import Folder, open_folder
from jax_sis.results.query import StoredSubsets, SubsetQuery, describe_masks, find_subsets, make_query
from jax_sis.results.schema import Field, decode_text, describe_field, encode_text, join_bytes, parse_field
from jax_sis.results.spec import FORMAT, SPEC_FILE, read_spec, settle_spec

# Features of images whose orders are in memory at once.
FEATURES_AT_ONCE = 2**20
WHEN_UNREADABLE = "see whether these images are finished; jax-sis verify names what is damaged"


class Results:
  """The store of one run, for writing and for reading back. Use `create_or_resume` or `open`.

  Attributes:
    folder: where it is.
    spec: what fixes the run, in JSON types.
    fields: the arrays, by name.
    flags: which units are done.

  Examples:
    A run of two images, of which the first unit of one is done:

    >>> from jax_sis import results
    >>> fields = {"target": results.Field(shape=(), dtype="int32")}
    >>> run = results.create_or_resume("memory://results-example", spec={}, num_images=2, unit_size=1, fields=fields)
    >>> run.write_unit(0, {"target": [3]})
    >>> run.done_units().tolist(), run.read("target", slice(0, 1)).tolist()
    ([0], [3])
  """

  def __init__(self, folder: Folder, spec: dict[str, Any], *, create: bool):
    self.folder = folder
    self.spec = spec
    self.fields = {name: parse_field(description) for name, description in spec["fields"].items()}
    self._arrays = self._open_arrays(self.num_images, create=create)
    self.flags = Flags(folder, self._arrays[DONE], self.num_units)

  def _open_arrays(self, num_images: int, **options: bool) -> dict[str, ts.TensorStore]:
    return open_arrays(
      self.folder, self.fields, num_images, self.unit_size, has_checksums=self.has_checksums, **options
    )

  def __repr__(self) -> str:
    return columns.describe_run(self)

  def _repr_html_(self) -> str:
    return columns.make_run_html(self)

  def to_pandas(self) -> Any:
    """The finished images as a `pandas.DataFrame`, in the columns of `jax-sis export`; pandas must be installed."""
    return columns.make_frame(self)

  @functools.cached_property
  def _writers(self) -> dict[str, ts.TensorStore]:
    """The arrays, as if the last unit were as long as the others.

    TensorStore overwrites the chunks of these whatever they hold. A chunk that sticks out of its array it reads
    first, for what is to be kept, and cannot then replace one that is damaged.
    """
    return self._open_arrays(self.num_units * self.unit_size, assume_metadata=True)

  @property
  def num_images(self) -> int:
    """N, finished or not."""
    return self.spec["num_images"]

  @property
  def has_checksums(self) -> bool:
    """Whether it holds checksums and digests of pixels; runs of older versions do not."""
    return self.spec["format"] == FORMAT

  @property
  def num_units(self) -> int:
    """Units in all."""
    return -(-self.num_images // self.unit_size)

  @property
  def unit_size(self) -> int:
    """Images in a unit; the last unit may have fewer."""
    return self.spec["unit_size"]

  @property
  def table_fields(self) -> tuple[str, ...]:
    """The names of the fields that hold one value an image, texts among them: all but orders and masks."""
    return tuple(name for name, field in self.fields.items() if field.shape == () or field.is_text)

  @property
  def num_bytes_per_image(self) -> int:
    """Bytes of a row of all fields, before compression."""
    return sum(field.num_bytes for field in self.fields.values())

  def unit_range(self, unit: int) -> tuple[int, int]:
    """The first image of a unit, and one past its last."""
    start = unit * self.unit_size
    return start, min(start + self.unit_size, self.num_images)

  def chunk_name(self, name: str, unit: int) -> str:
    """The file of the folder that holds a field's rows of a unit, or its `checksums` or its flag for `done`."""
    num_axes = {DONE: 0, CHECKSUMS: 1}[name] if name not in self.fields else len(self.fields[name].shape)
    return f"{ZARR_DIR}/{name}/c/{unit}{'/0' * num_axes}"

  def done_units(self) -> Int[np.ndarray, "U"]:
    """The units whose every array is written, ascending. In a bucket, a flag that is there is taken at its word.

    Raises:
      StorageError: the flags cannot be listed or read.
    """
    return self.flags.done()

  def count_images(self, units: Int[np.ndarray, "U"]) -> int:
    """How many images these units have."""
    num_short = self.num_units * self.unit_size - self.num_images
    return len(units) * self.unit_size - num_short * int(np.count_nonzero(units == self.num_units - 1))

  def count_done(self) -> int:
    """How many images are done."""
    return self.count_images(self.done_units())

  def done_images(self) -> Int[np.ndarray, "M"]:
    """The images of the finished units, ascending."""
    return self.images_of(self.done_units())

  def images_of(self, units: Int[np.ndarray, "U"]) -> Int[np.ndarray, "M"]:
    """The images of units, in the order of these."""
    indices = (units[:, None] * self.unit_size + np.arange(self.unit_size)).ravel()
    # Of a large run, a copy takes a gigabyte.
    return indices if len(indices) == self.count_images(units) else indices[indices < self.num_images]

  def write_unit(self, unit: int, rows: Mapping[str, Shaped[np.ndarray, "M ..."]]) -> None:
    """Writes the rows of one unit, then marks it done.

    Args:
      unit: its number.
      rows: for each field the values of the unit's images, of bit-packed masks as Booleans `[M, F]`.

    Raises:
      ValueError: the fields or their rows are not those of the store.
      StorageError: they cannot be written; the unit is not done then.
    """
    if not 0 <= unit < self.num_units:
      raise ValueError(f"unit must be in 0..{self.num_units - 1}, got {unit}.")
    start, stop = self.unit_range(unit)
    if set(rows) != set(self.fields):
      raise ValueError(f"rows must have the fields {sorted(self.fields)}, got {sorted(rows)}.")
    encoded = {name: field.encode(name, rows[name], stop - start) for name, field in self.fields.items()}
    self.folder.clear_leftovers([self.chunk_name(name, unit) for name in self._arrays])
    missing = self.unit_size - (stop - start)
    writes = {}
    for name, values in encoded.items():
      padded = np.pad(values, [(0, missing)] + [(0, 0)] * (values.ndim - 1)) if missing else values
      writes[name] = self._writers[name][start : start + self.unit_size].write(padded)
    if self.has_checksums:
      writes[CHECKSUMS] = self._writers[CHECKSUMS][unit].write(self.checksums(unit, encoded))
    for name, write in writes.items():
      self.folder.wait(write, "written", self.chunk_name(name, unit))
    self.folder.wait(self._writers[DONE][unit].write(np.uint8(1)), "written", self.chunk_name(DONE, unit))

  def checksums(self, unit: int, stored: Mapping[str, Shaped[np.ndarray, "M ..."]]) -> Shaped[np.ndarray, "K"]:
    """What `checksums` holds of a unit with these rows, as they are stored."""
    return np.array([checksum(unit, stored[name]) for name in sorted(self.fields)], np.uint32)

  def unmark(self, units: Sequence[int] | Int[np.ndarray, "U"]) -> None:
    """Says of units that they are not done, so that `find` computes them again.

    Raises:
      StorageError: their flags cannot be removed.
    """
    for unit in units:
      self.folder.patient.delete(self.chunk_name(DONE, int(unit)))

  def __getitem__(self, name: str) -> ts.TensorStore:
    """An array as it is stored, opened and not read.

    Raises:
      ValueError: there is no such field.
    """
    if name not in self._arrays:
      raise ValueError(f"name must be one of {sorted(self._arrays)}, got {name!r}.")
    return self._arrays[name]

  def read(self, name: str, indices: Int[np.ndarray, "M"] | slice = slice(None)) -> Shaped[np.ndarray, "M ..."]:
    """The values of a field, for all images or the given ones, which must be finished; masks as Booleans `[M, F]`.

    Raises:
      ValueError: there is no such field.
      StorageError: a chunk is damaged or missing.
    """
    return self.read_many([name], indices)[name]

  def read_many(
    self, names: Iterable[str], indices: Int[np.ndarray, "M"] | slice
  ) -> dict[str, Shaped[np.ndarray, "M ..."]]:
    """As `read`, for several fields at once."""
    # TensorStore looks at a chunk even where the indices are none.
    selection = indices if isinstance(indices, slice) or len(indices) else slice(0, 0)
    futures = {name: self[name][selection].read() for name in names}
    values = {}
    for name, future in futures.items():
      stored = self.folder.wait(future, "read", f"{ZARR_DIR}/{name}", WHEN_UNREADABLE)
      values[name] = self.fields[name].decode(stored) if name in self.fields else stored
    return values

  def read_text(self, name: str, indices: Int[np.ndarray, "M"] | slice = slice(None)) -> list[str]:
    """The values of a text field such as `id`."""
    return decode_text(self.read(name, indices)).tolist()

  def table(self, indices: Int[np.ndarray, "M"] | None = None) -> dict[str, Shaped[np.ndarray, "M"]]:
    """The `table_fields` of all finished images or the given ones."""
    columns = self.read_many(self.table_fields, self.done_images() if indices is None else indices)
    return {name: decode_text(values) if self.fields[name].is_text else values for name, values in columns.items()}

  def iterate(
    self, num_images_at_once: int = 4096, *, names: Sequence[str] | None = None
  ) -> Iterator[tuple[Int[np.ndarray, "M"], dict[str, Shaped[np.ndarray, "M ..."]]]]:
    """The finished images in order, some at a time.

    Args:
      num_images_at_once: at most; fewer, where whole units then fit.
      names: the fields to read; None for all.

    Yields:
      Which images, and their values by field as `read` gives them.
    """
    units = self.done_units()
    # No unit is read twice.
    num_units_at_once = max(num_images_at_once // self.unit_size, 1)
    for first in range(0, len(units), num_units_at_once):
      indices = self.images_of(units[first : first + num_units_at_once])
      for start in range(0, len(indices), num_images_at_once):
        some = indices[start : start + num_images_at_once]
        yield some, self.read_many(self.fields if names is None else names, some)

  def find_images(self, ids: Sequence[str]) -> Int[np.ndarray, "M"]:
    """Where the images of these ids are.

    Raises:
      ValueError: one of them is not among the finished images, or stands there twice.
    """
    wanted = join_bytes(encode_text(ids)).tolist()
    is_wanted = set(wanted)
    found: dict[bytes, int] = {}
    for indices, rows in self.iterate(names=["id"]):
      for index, text in zip(indices.tolist(), join_bytes(rows["id"]).tolist(), strict=True):
        if text in is_wanted and found.setdefault(text, index) != index:
          raise ValueError(
            f"ids must name one image each, but {text.decode()!r} is the id of images {found[text]} and {index}; "
            "use their numbers."
          )
    missing = [text for text, encoded in zip(ids, wanted, strict=True) if encoded not in found]
    if missing:
      raise ValueError(
        f"ids must be those of finished images, but {self.folder.location!r} has none of "
        f"{messages.name_some([repr(text) for text in missing], most=10)}."
      )
    return np.array([found[text] for text in wanted], np.int64)

  def find_subsets(self, query: SubsetQuery) -> StoredSubsets:
    """Where the subsets that are meant are stored here, if they are."""
    return find_subsets(query, self.spec, self.fields)

  def masks(
    self,
    ids: Sequence[str] | None = None,
    *,
    threshold: float | None = None,
    fraction: float | None = None,
    kind: str = "sis",
  ) -> Bool[np.ndarray, "M ..."]:
    """The subsets of all finished images, or of those with the given ids: True where a feature is kept.

    Args:
      ids: which images; None for all that are finished.
      threshold: the confidence that a subset must reach; None for that of the run.
      fraction: instead, the share of the features to keep.
      kind: `sis`, read from the order, or `smallest`, the smallest evidence found.

    Returns:
      Masks in the shape of the grid; empty where `sufficient_subsets` or `keep_fraction` would say why.

    Raises:
      ValueError: the run does not hold them, or an id is unknown.
    """
    indices = self.done_images() if ids is None else self.find_images(ids)
    query = make_query(self.spec, kind=kind, threshold=threshold, fraction=fraction)
    grid = tuple(self.spec["grid"])
    masks = np.zeros((len(indices), masking.num_features(grid)), bool)
    start = 0
    for some in self.iterate_masks(query, indices):
      masks[start : start + len(some)] = some
      start += len(some)
    return masks.reshape(-1, *grid)

  def iterate_masks(self, query: SubsetQuery, indices: Int[np.ndarray, "M"]) -> Iterator[Bool[np.ndarray, "m F"]]:
    """The masks of the images with these numbers, in order, some at a time.

    Raises:
      ValueError: the run does not hold them.
      StorageError: they cannot be read.
    """
    stored = self.find_subsets(query)
    if not stored.mask_fields:
      raise ValueError(
        f"{self.folder.location!r} must hold the masks that are asked for ({query}); it holds "
        f"{describe_masks(self.spec, self.fields)}."
      )
    for some in self.split_images(indices):
      yield stored.masks(self.read_many(stored.mask_fields, some))

  def split_images(self, indices: Int[np.ndarray, "M"]) -> Iterator[Int[np.ndarray, "m"]]:
    """These images, in groups whose orders fit the memory."""
    step = max(1, FEATURES_AT_ONCE // masking.num_features(tuple(self.spec["grid"])))
    for start in range(0, len(indices), step):
      yield indices[start : start + step]


def create_or_resume(
  directory: str | os.PathLike[str],
  *,
  spec: Mapping[str, Any],
  num_images: int,
  unit_size: int,
  fields: Mapping[str, Field],
  command_fn: Callable[[str], str] | None = None,
) -> Results:
  """Opens the store of this run, or makes it. Several processes may do so at once.

  Args:
    directory: the run's folder, see `open_folder`.
    spec: what fixes the results, in JSON types.
    num_images: N.
    unit_size: images in a unit.
    fields: the arrays.
    command_fn: as for `settle_spec`.

  Raises:
    ValueError: the folder belongs to another run, whose differences are named.
    StorageError: it cannot be written.

  Examples:
    Whoever opens the same run again goes on with it:

    >>> from jax_sis import results
    >>> fields = {"target": results.Field(shape=(), dtype="int32")}
    >>> run = {"spec": {}, "num_images": 2, "unit_size": 1, "fields": fields}
    >>> results.create_or_resume("memory://resume-example", **run).write_unit(0, {"target": [3]})
    >>> results.create_or_resume("memory://resume-example", **run).done_units().tolist()
    [0]
  """
  full_spec = {"format": FORMAT, **spec, "num_images": num_images, "unit_size": unit_size}
  full_spec["fields"] = {name: describe_field(field) for name, field in fields.items()}
  full_spec = settle_spec(directory, full_spec, command_fn=command_fn)
  folder = open_folder(directory)
  if folder.write_new(GROUP_FILE, make_group(FORMAT)) != make_group(FORMAT):
    folder.write(GROUP_FILE, make_group(FORMAT))
  return Results(folder, full_spec, create=True)


def open(directory: str | os.PathLike[str]) -> Results:
  """Opens a run for reading, while it goes on or after it.

  Args:
    directory: the run's folder, see `open_folder`.

  Raises:
    ValueError: the folder holds no run.
    StorageError: it cannot be read.

  Examples:
    A run of one image, as `jax-sis find` leaves one in a folder or a bucket, and its smallest subset:

    >>> import numpy as np
    >>> from jax_sis import results
    >>> fields = {"id": results.TEXT, "smallest_mask": results.mask_field(4)}
    >>> spec = {"threshold": 0.99, "grid": [2, 2, 1]}
    >>> made = results.create_or_resume("memory://open-example", spec=spec, num_images=1, unit_size=1, fields=fields)
    >>> made.write_unit(0, {"id": results.encode_text(["cat"]), "smallest_mask": np.eye(4, dtype=bool)[:1]})
    >>> run = results.open("memory://open-example")
    >>> run.table()["id"].tolist(), run.masks(["cat"], kind="smallest")[0, :, :, 0].tolist()
    (['cat'], [[True, False], [False, False]])
  """
  folder, spec = open_folder(directory), read_spec(directory)
  place = folder.join(SPEC_FILE)
  missing = [name for name in ("num_images", "unit_size", "fields") if name not in spec]
  if missing:
    raise ValueError(f"{place!r} must be the specification of a run, but lacks {', '.join(missing)}.")
  try:
    return Results(folder, spec, create=False)
  except (AttributeError, KeyError, TypeError) as error:
    raise ValueError(
      f"{place!r} must be the specification of a run, but it is damaged ({type(error).__name__}: {error})."
    ) from error
