"""The subsets of a run of `find` as masks in bits: read from its folder, or from a file that travels without it.

The file is an .npz with `ids` [N], `masks` [N, ceil(F / 8)] uint8, a bit a feature of the grid, row by row, from each
byte's lowest, and `provenance`, the run's specification and which of its subsets these are, as JSON.
"""

import dataclasses
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
from jaxtyping import UInt8

from jax_sis.core import masking
from jax_sis.core.messages import first_line
from jax_sis.results import store as stores
from jax_sis.results.query import PixelSubset, SubsetQuery, parse_query
from jax_sis.results.store import Results
from jax_sis.runtime.archives import check_npz

FORMAT = "jax_sis.masks/1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunMasks:
  """The subsets of the finished images of a run, and where they were read; `packed` are masks, a bit a feature."""

  location: str
  spec: Mapping[str, Any]
  query: SubsetQuery
  ids: tuple[str, ...]
  packed: UInt8[np.ndarray, "N W"]


def read_masks(subset: PixelSubset) -> RunMasks:
  """The subsets of a run, of its folder or of a file.

  Raises:
    ValueError: there is none, or it does not hold what is asked for.
    StorageError: it cannot be read.
  """
  assert subset.run is not None
  if os.path.isfile(subset.run):
    masks = read_masks_file(subset.run)
    asked = subset.find_query(masks.spec)
    if masks.query != asked:
      raise ValueError(
        f"{subset.run!r} must hold the subsets that are asked for ({asked}), but holds others ({masks.query})."
      )
    return masks
  store = stores.open(subset.run)
  return read_run(store, subset.find_query(store.spec))


def read_run(store: Results, query: SubsetQuery) -> RunMasks:
  """The subsets of all finished images of a run.

  Raises:
    ValueError: it does not hold them.
    StorageError: it cannot be read.
  """
  # Fixed here: a run that goes on may have more images done a moment later.
  indices = store.done_images()
  ids = store.read_text("id", indices)
  parts = [np.packbits(masks, axis=1, bitorder="little") for masks in store.iterate_masks(query, indices)]
  packed = np.concatenate([np.zeros((0, packed_width(store.spec)), np.uint8), *parts])
  return RunMasks(location=store.folder.location, spec=store.spec, query=query, ids=tuple(ids), packed=packed)


def packed_width(spec: Mapping[str, Any]) -> int:
  return -(-masking.num_features(tuple(spec["grid"])) // 8)


def write_masks_file(file: IO[bytes], masks: RunMasks) -> None:
  """Writes masks into an open file, in the form that the module describes."""
  provenance = {"format": FORMAT, "question": masks.query.to_json(), "spec": masks.spec}
  np.savez_compressed(
    file,  # pyright: ignore[reportArgumentType]
    ids=np.array(masks.ids, np.str_),
    masks=masks.packed,
    provenance=np.array(json.dumps(provenance)),
  )


def read_masks_file(path: str | os.PathLike[str]) -> RunMasks:
  """Reads what `write_masks_file` wrote; ValueError if it is no such file, or a damaged one."""
  try:
    with open(path, "rb") as file:
      check_npz(file)
      with np.load(file, allow_pickle=False) as archive:
        ids, packed, provenance = archive["ids"], archive["masks"], json.loads(str(archive["provenance"]))
    if provenance["format"] != FORMAT:
      raise ValueError(f"its format is {provenance['format']!r}")
    query, spec = parse_query(provenance["question"]), provenance["spec"]
    width = packed_width(spec)
    if missing := {"baseline", "data", "model", "normalisation", "search", "smallest"} - set(spec):
      raise ValueError(f"its run's specification lacks {', '.join(sorted(missing))}")
    if packed.dtype != np.uint8 or packed.shape != (len(ids), width):
      raise ValueError(f"masks are {packed.dtype}{list(packed.shape)} for {len(ids)} ids")
  except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
    raise ValueError(
      f"{str(path)!r} must be a file of masks in the format {FORMAT!r}, as jax-sis export RUN_DIR --to FILE.npz "
      f"--masks NAME writes it, but cannot be read ({type(error).__name__}: {first_line(error)})."
    ) from error
  return RunMasks(location=str(path), spec=spec, query=query, ids=tuple(ids.tolist()), packed=packed)
