"""`jax-sis export`: a run's finished images as CSV, parquet, npz files of the method's authors, masks or pictures.

Everything is read and written some thousand images at a time, so that the memory does not depend on their number.
"""

import contextlib
import csv
import math
import pathlib
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
from jaxtyping import Int, Shaped

from jax_sis import results
from jax_sis.core.subsets import Status
from jax_sis.results import masks_file
from jax_sis.results.answer import neutralise
from jax_sis.results.columns import CLASS_FIELDS, make_columns
from jax_sis.results.query import StoredSubsets, parse_mask_name
from jax_sis.results.schema import KINDS, decode_text, has_order
from jax_sis.results.store import Results
from jax_sis.runs import pictures
from jax_sis.runs.authors_layout import select_image, to_authors_arrays
from jax_sis.runs.feature_maps import open_kept
from jax_sis.runs.setup import make_job_again
from jax_sis.runtime.progress import Progress

SUFFIXES = (".csv", ".parquet", ".npz", ".png")
# Images of a table that are in memory at once, and of images with orders or masks the features.
ROWS_AT_ONCE = 16384
FEATURES_AT_ONCE = 2**20
ORDER_FIELDS = ("rank", "confidence", "sis_status")


def export(
  run_dir: str,
  *,
  to: str,
  masks: Sequence[str] = (),
  is_partial: bool = False,
  checkpoint: str | None = None,
  data_dir: str | None = None,
) -> str:
  """Writes the finished images of a run into a file, or a file each.

  Args:
    run_dir: the run's folder, on disk or in a bucket.
    to: the file, by whose ending it is chosen: `.csv` or `.parquet`, one row per image, see `make_columns`; `.npz`, the
      authors' arrays, see `authors_layout`, with the images along a first axis and beside them `index` and `id`. An
      `{id}` or `{index}` in the name of an `.npz` stands for each image's, and makes a file of each. A `.png` needs
      one of them, and stands for the pictures of each subset, see `pictures`.
    masks: of which subsets a table also has the features: `smallest_mask`, `mask_threshold_P`, `mask_fraction_S`. With
      an `.npz`, the one whose masks alone are written, for training and evaluation, see `masks_file`. With a `.png`,
      those that are drawn; by default each kind that the run holds.
    is_partial: whether the run may be unfinished.
    checkpoint: for pictures, the classifier's folder; None for where the run had it.
    data_dir: for pictures, the TFDS folder; None for where the run had it.

  Returns:
    What was written, in a sentence.

  Raises:
    ValueError: the folder holds no run or an unfinished one, the file cannot be written, or the run does not hold what
      is asked for.
    StorageError: the run cannot be read.
  """
  path = pathlib.Path(to)
  if path.suffix not in SUFFIXES or "://" in to:
    raise ValueError(f"--to must be a file on disk that ends in {', '.join(SUFFIXES)}, got {to!r}.")
  if path.suffix == ".npz" and (len(masks) > 1 or (masks and has_place(to))):
    raise ValueError(f"--masks must name one kind of subset for one .npz file, got {' '.join(masks)} for {to!r}.")
  if path.suffix == ".png" and not has_place(to):
    raise ValueError(f"--to must have {{id}} or {{index}} in the name of a .png, which is one of many, got {to!r}.")
  if path.suffix != ".png" and (checkpoint or data_dir):
    raise ValueError(f"--checkpoint and --data-dir must come with a .png, which needs the images, got {to!r}.")
  store = results.open(run_dir)
  num_missing = store.num_images - store.count_done()
  if num_missing and not is_partial:
    raise ValueError(
      f"{run_dir!r} must be a finished run, but {num_missing} of its {store.num_images} images are missing; finish it "
      "by the same command of find, or use --partial."
    )
  subsets = {name: find_mask(store, name) for name in masks}
  left_out = without = 0
  with explain_writing(to), Progress("export", total=store.num_images - num_missing, unit="image") as progress:
    if path.suffix == ".npz" and masks:
      num_written = write_masks(store, path, subsets[masks[0]], progress)
    elif path.suffix == ".png":
      num_written = write_pngs(store, to, subsets, progress, checkpoint=checkpoint, data_dir=data_dir)
      without = store.num_images - num_missing - num_written
    elif path.suffix == ".npz":
      check_order(store)
      num_written = (write_files if has_place(to) else write_one_npz)(store, to, progress)
      left_out = store.num_images - num_missing - num_written
    else:
      num_written = (write_csv if path.suffix == ".csv" else write_parquet)(store, path, subsets, progress)
  notes = f"; {left_out} left out, not searched or not finite" if left_out else ""
  notes += f"; {without} have no subset" if without else ""
  notes += f"; {num_missing} are missing" if num_missing else ""
  return f"{num_written} images written to {to}{notes}."


@contextlib.contextmanager
def explain_writing(to: str) -> Iterator[None]:
  """Turns what the disk says into an error that names the file."""
  try:
    yield
  except OSError as error:
    raise ValueError(
      f"--to must be a file that can be written, but {to!r} cannot: {error.strerror or error}."
    ) from error


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A file beside this one, which takes its place if all goes well, and else goes."""
  path.parent.mkdir(parents=True, exist_ok=True)
  unfinished = path.with_name(f".{path.name}.unfinished")
  try:
    yield unfinished
    unfinished.replace(path)
  finally:
    unfinished.unlink(missing_ok=True)


def find_mask(store: Results, name: str) -> StoredSubsets:
  """The subsets of which `--masks` gives the name; ValueError if the run does not hold them."""
  try:
    query = parse_mask_name(name, store.spec)
  except ValueError as error:
    raise ValueError(f"--masks must end in a threshold or a fraction, got {name!r}: {error}") from error
  stored = None if query is None else store.find_subsets(query)
  if stored is None or not stored.mask_fields:
    held = [field for field in store.fields if "mask" in field]
    held += ["mask_threshold_P", "mask_fraction_S"] if "rank" in store.fields else []
    raise ValueError(f"--masks must be among {', '.join(held) or 'none'} of this run, got {name!r}.")
  return stored


def check_order(store: Results) -> None:
  """Raises ValueError for a run without whole orders."""
  if "rank" not in store.fields:
    raise ValueError(
      f"{store.folder.location!r} must hold the order of all features for .npz; run find with a backward search "
      "(--search both, gradient, screened or exact) and --save order or both."
    )


def iterate_columns(
  store: Results, subsets: Mapping[str, StoredSubsets], progress: Progress
) -> Iterator[dict[str, np.ndarray | list[Any]]]:
  maps = open_kept(store) if subsets else None
  names = {*store.table_fields, *(name for stored in subsets.values() for name in stored.mask_fields)}
  num_at_once = max(1, FEATURES_AT_ONCE // math.prod(store.spec["grid"])) if subsets else ROWS_AT_ONCE
  for indices, fields in store.iterate(num_at_once, names=sorted(names)):
    columns = make_columns(store.spec, store.table_fields, fields, subsets)
    if maps is not None:
      columns |= {name: maps.name_features(columns[name], indices) for name in subsets}
    yield columns
    progress.advance(len(indices))


def write_csv(store: Results, path: pathlib.Path, subsets: Mapping[str, StoredSubsets], progress: Progress) -> int:
  """Writes the table as CSV, masks as numbers with spaces between. Returns the number of images."""
  num_images = 0
  with replacing(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
    writer = csv.writer(file)
    for columns in iterate_columns(store, subsets, progress):
      if not num_images:
        writer.writerow(columns)
      for name in subsets:
        columns[name] = [" ".join(map(str, features)) for features in columns[name]]
      rows = [list(map(neutralise, row)) for row in zip(*columns.values(), strict=True)]
      writer.writerows(rows)
      num_images += len(rows)
  return num_images


def write_parquet(store: Results, path: pathlib.Path, subsets: Mapping[str, StoredSubsets], progress: Progress) -> int:
  """Writes the table as parquet, masks as lists of numbers. Returns the number of images."""
  try:
    import pyarrow
    from pyarrow import parquet
  except ModuleNotFoundError as error:
    raise ValueError("--to FILE.parquet needs pyarrow; install jax_sis[parquet], or write a .csv.") from error
  types = {
    "id": pyarrow.string(),
    "error": pyarrow.string(),
    **{f"{name}_name": pyarrow.string() for name in CLASS_FIELDS},
    **{f"{kind}_status": pyarrow.string() for kind in KINDS},
    **dict.fromkeys(subsets, pyarrow.list_(pyarrow.int32())),
  }
  num_images = 0
  with replacing(path) as unfinished, contextlib.ExitStack() as stack:
    writer = None
    for columns in iterate_columns(store, subsets, progress):
      schema = pyarrow.schema(
        {name: types.get(name) or pyarrow.from_numpy_dtype(store[name].dtype.numpy_dtype) for name in columns}
      )
      writer = writer or stack.enter_context(parquet.ParquetWriter(unfinished, schema, compression="zstd"))
      table = pyarrow.table(columns, schema=schema)
      writer.write_table(table)
      num_images += len(table)
  return num_images


def write_masks(store: Results, path: pathlib.Path, subsets: StoredSubsets, progress: Progress) -> int:
  """Writes one kind of subset as masks in bits. Returns the number of images."""
  masks = masks_file.read_run(store, subsets.query)
  with replacing(path) as unfinished, unfinished.open("wb") as file:
    masks_file.write_masks_file(file, masks)
  progress.advance(len(masks.ids))
  return len(masks.ids)


def has_place(to: str) -> bool:
  """Whether the name has a place for each image's id or number."""
  return "{id}" in to or "{index}" in to


def iterate_arrays(
  store: Results, progress: Progress
) -> Iterator[tuple[Int[np.ndarray, "M"], list[str], dict[str, Shaped[np.ndarray, "M ..."]]]]:
  """Which images have an order, with their ids and the authors' arrays, some at a time."""
  num_at_once = max(1, FEATURES_AT_ONCE // math.prod(store.spec["grid"]))
  for indices, fields in store.iterate(num_at_once, names=("id", "target", "sis_num_kept", *ORDER_FIELDS)):
    is_ordered = has_order(fields["sis_status"])
    some = {name: values[is_ordered] for name, values in fields.items()}
    arrays = to_authors_arrays(
      some["rank"],
      some["confidence"],
      some["target"],
      np.where(some["sis_status"] == Status.OK, some["sis_num_kept"], 0),
      sizes=store.spec["sizes"],
      grid=tuple(store.spec["grid"]),
    )
    yield indices[is_ordered], decode_text(some["id"]).tolist(), arrays
    progress.advance(len(indices))


def write_files(store: Results, to: str, progress: Progress) -> int:
  """Writes the authors' arrays, one file per image. Returns the number of images."""
  written: set[str] = set()
  for indices, ids, arrays in iterate_arrays(store, progress):
    for i, (index, text) in enumerate(zip(indices.tolist(), ids, strict=True)):
      with replacing(pathlib.Path(name_file(to, index, text, written))) as unfinished, unfinished.open("wb") as file:
        np.savez_compressed(file, **select_image(arrays, i))  # pyright: ignore[reportArgumentType]
  return len(written)


def name_file(to: str, index: int, text: str, written: set[str]) -> str:
  """The path of one image's file, which is added to those that are `written`; ValueError if it is among them."""
  name = to.replace("{index}", str(index)).replace("{id}", text)
  leads_elsewhere = "{id}" in to and (text.startswith("/") or ".." in pathlib.PurePath(text).parts)
  if name in written or leads_elsewhere:
    raise ValueError(f"--to must give each image a file of its own, but {text!r} does not; use {{index}}.")
  written.add(name)
  return name


def write_pngs(
  store: Results,
  to: str,
  subsets: Mapping[str, StoredSubsets],
  progress: Progress,
  *,
  checkpoint: str | None,
  data_dir: str | None,
) -> int:
  """Writes masks and overlays at the size of the images. Returns the number of images that have some."""
  job = make_job_again(store, checkpoint=checkpoint, data_dir=data_dir, num_devices=1, is_computing=False)
  stem, written = to.removesuffix(".png"), set()
  named = {name.removeprefix("mask_").removesuffix("_mask"): one for name, one in subsets.items()}
  return pictures.write_pictures(
    store,
    job,
    named or pictures.find_own(store),
    name_fn=lambda index, text: name_file(stem, index, text, written),
    write_fn=write_bytes,
    advance_fn=progress.advance,
  )


def write_bytes(path: pathlib.Path, content: bytes) -> None:
  with replacing(path) as unfinished:
    unfinished.write_bytes(content)


def write_one_npz(store: Results, to: str, progress: Progress) -> int:
  """Writes the authors' arrays of all images into one file. Returns the number of images."""
  path = pathlib.Path(to)
  num_images, id_length = count_ordered(store)
  with replacing(path) as unfinished, tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
    with contextlib.ExitStack() as stack:
      files: dict[str, IO[bytes]] = {}
      for indices, ids, arrays in iterate_arrays(store, progress):
        arrays |= {"index": indices, "id": np.array(ids, f"U{id_length}")}
        for name, values in arrays.items():
          if name not in files:
            files[name] = stack.enter_context(pathlib.Path(folder, name).open("wb"))
            write_header(files[name], values, num_images)
          files[name].write(np.ascontiguousarray(values).tobytes())
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
      for name in files:
        archive.write(pathlib.Path(folder, name), f"{name}.npy")
  return num_images


def count_ordered(store: Results) -> tuple[int, int]:
  num_images, id_length = 0, 1
  for _, fields in store.iterate(ROWS_AT_ONCE, names=("id", "sis_status")):
    num_images += int(has_order(fields["sis_status"]).sum())
    id_length = max(id_length, *np.strings.str_len(decode_text(fields["id"])).tolist())
  return num_images, id_length


def write_header(file: IO[bytes], values: Shaped[np.ndarray, "M ..."], num_rows: int) -> None:
  """The beginning of an .npy file of `num_rows` rows like these."""
  np.lib.format.write_array_header_1_0(
    file,
    {
      "descr": np.lib.format.dtype_to_descr(values.dtype),
      "fortran_order": False,
      "shape": (num_rows, *values.shape[1:]),
    },
  )
