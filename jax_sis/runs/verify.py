"""`jax-sis verify`: are a run's results whole and consistent, and does computing them again give the same bits?"""

import dataclasses
import functools
import io
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int, Shaped
from PIL import Image

from jax_sis import results
from jax_sis.runs.identity import find_changes, refuse_changes
from jax_sis.runs.invariants import check_rows
from jax_sis.runs.options import VerifyOptions
from jax_sis.runs.setup import Job, make_job_again
from jax_sis.runs.table import GALLERY_FILE, make_summary
from jax_sis.runs.unit_search import UnitSearch, read_images
from jax_sis.runtime.progress import Progress

# Images whose rows are in memory at the same time.
IMAGES_AT_ONCE = 256
MAX_PRINTED = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Damage:
  """What is wrong with a field of a unit, or with its `done`, and for which images where they are known."""

  unit: int
  field: str
  reason: str
  images: tuple[int, ...] = ()


def verify(
  directory: str,
  *,
  num_sampled: int = VerifyOptions.num_sampled,
  seed: int = VerifyOptions.seed,
  checkpoint: str | None = None,
  model_function: str | None = None,
  data_dir: str | None = None,
  is_report_only: bool = False,
  num_devices: int | None = None,
) -> bool:
  """Checks every finished unit of a run and the files beside them, and computes some units again.

  Damaged units are marked as not done, and what killed workers left is removed.

  Args:
    directory: the run's folder, see `results.open_folder`.
    num_sampled: how many units are computed again and compared bit by bit.
    seed: of their choice.
    checkpoint: the classifier's folder, if it has moved since the run.
    model_function: the function that makes it, if that has moved.
    data_dir: the TFDS folder, if it has moved.
    is_report_only: mark and remove nothing.
    num_devices: how many local devices compute; None for all.

  Returns:
    Whether nothing is damaged.

  Raises:
    ValueError: there is no run, its description is damaged, or the classifier, the data or the machine at hand are not
      those of the run; images that have changed are named.
    StorageError: the folder cannot be read.
  """
  if num_sampled < 0:
    raise ValueError(f"--sample must not be negative, got {num_sampled}.")
  store = results.open(directory)
  job = make_job_again(
    store,
    checkpoint=checkpoint,
    model_function=model_function,
    data_dir=data_dir,
    num_devices=num_devices,
    is_computing=num_sampled > 0,
  )
  # The run may go on meanwhile; units that are done later are not checked.
  flagged = store.flags.flagged()
  done = store.flags.done_among(flagged)
  damages = find_damages(job, store, flagged, done)
  sampled = sample_units(np.setdiff1d(done, [damage.unit for damage in damages]), num_sampled, seed)
  if len(sampled):
    damages += compute_again(job, store, sampled)
  print_damages(store, damages)
  damaged = sorted({damage.unit for damage in damages})
  print(
    f"{len(np.setdiff1d(done, damaged))} of {len(done)} finished units are sound ({len(sampled)} were computed again); "
    f"{store.num_units - len(done)} units are not done yet.",
    flush=True,
  )
  if damaged:
    unmark(store, damaged, is_report_only=is_report_only)
  is_whole = not damages and len(done) == store.num_units
  files = find_damaged_files(job, store, is_whole=is_whole)
  describe_files(store, files, is_report_only=is_report_only)
  return not (damaged or files)


def find_damages(
  job: Job, store: results.Results, flagged: Int[np.ndarray, "V"], done: Int[np.ndarray, "U"]
) -> list[Damage]:
  """Says how much of the run is done, and reads all of it; `flagged` units have a flag, readable or not."""
  num_images = store.count_images(done)
  print(
    f"{store.folder.location}: {len(done)} of {store.num_units} units are done, "
    f"{num_images} of {store.num_images} images.",
    flush=True,
  )
  damages = [
    Damage(unit=unit, field=results.DONE, reason="cannot be read; the unit counts as not done")
    for unit in np.setdiff1d(flagged, done).tolist()
  ]
  with Progress("check", total=num_images, unit="image") as progress:
    return damages + check_units(job, store, done, progress)


def check_units(job: Job, store: results.Results, units: Int[np.ndarray, "U"], progress: Progress) -> list[Damage]:
  """Reads all that is stored of these units, and checks it against the images and for contradictions."""
  if not len(units):
    return []
  num_at_once = max(1, IMAGES_AT_ONCE // store.unit_size)
  images = read_images(job, store.images_of(units), num_at_once * store.unit_size)
  hashes = [np.zeros(0, np.int64)]
  damages, changes = [], []
  for start, batch in zip(range(0, len(units), num_at_once), images, strict=True):
    some = units[start : start + num_at_once]
    rows, unreadable = read_rows(store, some)
    damages += unreadable
    indices = batch["index"]
    hashes.append(np.array([hash(str(text)) for text in batch["id"]], np.int64))
    is_whole = ~np.isin(indices // store.unit_size, [damage.unit for damage in unreadable])
    if is_whole.any():
      whole = {name: values[is_whole] for name, values in batch.items()}
      damages += find_contradictions(job, store, whole, rows)
      # What has its checksum is what was stored.
      changes += find_changes(rows, whole) if store.has_checksums else []
    progress.advance(len(indices))
  num_images = store.count_images(units)
  refuse_changes(store.folder.location, changes, num_images)
  num_shared = num_images - len(np.unique(np.concatenate(hashes)))
  if num_shared:
    print(f"{num_shared} images share their id with another image; refer to these by number.", flush=True)
  return damages


def read_rows(
  store: results.Results, units: Int[np.ndarray, "U"]
) -> tuple[dict[str, Shaped[np.ndarray, "M ..."]], list[Damage]]:
  """All fields of the units that can be read whole, unit by unit, and what cannot be read.

  Raises:
    StorageError: the storage fails, and not what it holds.
  """
  fields = store.fields
  futures = {
    unit: {name: store[name][slice(*store.unit_range(unit))].read() for name in fields}
    | ({results.CHECKSUMS: store[results.CHECKSUMS][unit].read()} if store.has_checksums else {})
    for unit in units.tolist()
  }
  whole: dict[str, list[Shaped[np.ndarray, "M ..."]]] = {name: [] for name in fields}
  damages = []
  for unit, of_unit in futures.items():
    stored = {}
    for name, future in of_unit.items():
      try:
        stored[name] = store.folder.wait(future, "read", name)
      except results.StorageError as error:
        is_missing = store.folder.read(store.chunk_name(name, unit)) is None
        # The place stands in front.
        _, _, reason = error.reason.rpartition('": ')
        damages.append(
          Damage(unit=unit, field=name, reason="is missing" if is_missing else f"cannot be read: {reason}")
        )
    if len(stored) == len(of_unit):
      foreign = find_foreign(store, unit, stored)
      damages += [Damage(unit=unit, field=name, reason="is not what was stored for this unit") for name in foreign]
      for name in () if foreign else fields:
        whole[name].append(fields[name].decode(stored[name]))
  return {name: np.concatenate(pieces) for name, pieces in whole.items() if pieces}, damages


def find_foreign(store: results.Results, unit: int, stored: dict[str, Shaped[np.ndarray, "M ..."]]) -> Sequence[str]:
  """The fields of a unit that do not have its checksums, or these, if they fit none of the fields."""
  if not store.has_checksums:
    return ()
  is_foreign = store.checksums(unit, stored) != stored[results.CHECKSUMS]
  return [results.CHECKSUMS] if is_foreign.all() else np.array(sorted(store.fields))[is_foreign].tolist()


def find_contradictions(
  job: Job, store: results.Results, batch: dict[str, np.ndarray], rows: dict[str, Shaped[np.ndarray, "M ..."]]
) -> list[Damage]:
  """Where the rows of these images contradict the images, or each other."""
  expected_id = results.encode_text([str(text) for text in batch["id"]])
  # Another version of the library that reads images may word it differently.
  has_wrong_error = rows["error"].any(1) != (batch["error"] != "")
  broken = [
    ("error", "must be given exactly where the image cannot be used", has_wrong_error),
    *check_rows(rows, store.spec, target=job.target, num_classes=len(job.class_names)),
  ]
  if not store.has_checksums:
    broken += [
      ("id", "must be that of the image", (rows["id"] != expected_id).any(1)),
      ("label", "must be that of the image", rows["label"] != batch["label"]),
    ]
  damages = []
  for field, rule, is_broken in broken:
    images = batch["index"][is_broken]
    for unit in np.unique(images // store.unit_size).tolist():
      of_unit = tuple(images[images // store.unit_size == unit].tolist())
      damages.append(Damage(unit=unit, field=field, reason=rule, images=of_unit))
  return damages


def sample_units(units: Int[np.ndarray, "U"], num_sampled: int, seed: int) -> Int[np.ndarray, "V"]:
  """Units drawn at random, ascending."""
  generator = np.random.default_rng(seed)
  return np.sort(generator.choice(units, min(num_sampled, len(units)), replace=False))


def compute_again(job: Job, store: results.Results, units: Int[np.ndarray, "U"]) -> list[Damage]:
  """Computes units as `find` does, and compares each field bit by bit."""
  damages: list[Damage] = []
  with Progress("compiling", total=store.count_images(units), unit="image") as progress:
    search = UnitSearch(job)
    progress.restart("compute again")
    search.run(units, functools.partial(compare_unit, store, damages, progress))
  return damages


def compare_unit(
  store: results.Results, damages: list[Damage], progress: Progress, unit: int, rows: dict[str, np.ndarray]
) -> None:
  """Adds the fields of a unit whose stored bits differ from those computed now."""
  start, stop = store.unit_range(unit)
  for name, field in store.fields.items():
    now = as_bytes(field.encode(name, rows[name], stop - start))
    stored = as_bytes(store.folder.wait(store[name][start:stop].read(), "read", store.chunk_name(name, unit)))
    different = start + np.flatnonzero((now != stored).any(1))
    if len(different):
      reason = "differs from what was computed again"
      damages.append(Damage(unit=unit, field=name, reason=reason, images=tuple(different.tolist())))
  progress.advance(len(rows["id"]))


def as_bytes(rows: Shaped[np.ndarray, "M ..."]) -> Shaped[np.ndarray, "M W"]:
  """The bytes of each row, so that NaNs can be compared too."""
  return np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)


def print_damages(store: results.Results, damages: Sequence[Damage]) -> None:
  for damage in damages[:MAX_PRINTED]:
    start, stop = store.unit_range(damage.unit)
    images = f"image {start}" if stop == start + 1 else f"images {start} to {stop - 1}"
    which = ""
    if damage.images:
      more = ", ..." if len(damage.images) > 4 else ""
      which = f" (wrong for {', '.join(map(str, damage.images[:4]))}{more})"
    print(f"unit {damage.unit} ({images}), {damage.field}: {damage.reason}{which}")
  if len(damages) > MAX_PRINTED:
    print(f"and {len(damages) - MAX_PRINTED} more")


def unmark(store: results.Results, units: Sequence[int], *, is_report_only: bool) -> None:
  """Marks damaged units as not done, and says so, or why not."""
  count = f"{len(units)} unit{'s are' if len(units) > 1 else ' is'} damaged"
  if is_report_only:
    print(
      f"{count}, and nothing was changed; run verify without --report-only, then `jax-sis find` computes them again."
    )
    return
  try:
    store.unmark(units)
  except results.StorageError as error:
    print(f"{count}, but could not be marked as not done: {error}")
    return
  print(f"{count} and now marked as not done; the same `jax-sis find` as before computes them again.")


def find_damaged_files(job: Job, store: results.Results, *, is_whole: bool) -> dict[str, str]:
  """What is wrong with files that `find` writes beside the units, by name; `is_whole` says that all units are sound."""
  expected = {results.GROUP_FILE: results.make_group(store.spec["format"])}
  if is_whole and store.has_checksums:
    expected |= make_summary(store, job.class_names)[0]
  names = [*expected, GALLERY_FILE]
  found = dict(zip(names, store.folder.read_many(names), strict=True))
  picture = found.pop(GALLERY_FILE)
  damages = {}
  for name, content in found.items():
    if content != expected[name]:
      damages[name] = "is missing" if content is None else "is not what the arrays and their description give"
  try:
    if picture is not None:
      Image.open(io.BytesIO(picture)).load()
  # Decoders of damaged pictures raise whatever their numbers lead to.
  except Exception as error:
    damages[GALLERY_FILE] = f"is no picture any more ({error})"
  return damages


def describe_files(store: results.Results, files: Mapping[str, str], *, is_report_only: bool) -> None:
  """Says which files are damaged and what mends them, and removes what mends itself by that."""
  for name, reason in files.items():
    print(f"{name} {reason}; the same `jax-sis find` as before writes it again.")
  if is_report_only:
    return
  try:
    num_removed = store.folder.remove_leftovers()
  except results.StorageError as error:
    print(f"What workers left could not be removed: {error}")
    return
  if num_removed:
    print(f"{num_removed} file{'s' if num_removed > 1 else ''} that killed workers left are removed.")
