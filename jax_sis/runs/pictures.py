"""Pictures of a run's subsets, each at the size of the image that the user has: masks, and overlays on the image."""

import math
import pathlib
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Bool

from jax_sis.core.subsets import Status
from jax_sis.data import batches
from jax_sis.data.images import find_central_box, place_mask, read_framing
from jax_sis.display import pixels
from jax_sis.results import schema
from jax_sis.results.query import StoredSubsets, own_queries
from jax_sis.results.store import Results
from jax_sis.runs.identity import COMPARED, find_changes, refuse_changes
from jax_sis.runs.setup import Job

IMAGES_AT_ONCE = 64


def find_own(store: Results) -> dict[str, StoredSubsets]:
  """The kinds of subset that a run holds at its own threshold, by name."""
  stored = [store.find_subsets(query) for query in own_queries(store.spec, store.fields)]
  return {one.query.kind: one for one in stored if one.mask_fields}


def write_pictures(
  store: Results,
  job: Job,
  subsets: Mapping[str, StoredSubsets],
  *,
  name_fn: Callable[[int, str], str],
  write_fn: Callable[[pathlib.Path, bytes], None],
  advance_fn: Callable[[int], object],
) -> int:
  """Writes a mask and an overlay of each subset of each finished image.

  A mask is white where a pixel is kept, else black. An overlay shows the kept pixels as they are, on the darkened
  image in tones of a colour that they do not have. What the classifier was not shown, outside its crop, is not kept.

  Args:
    store: the run.
    job: the same, opened again, see `setup.make_job_again`.
    subsets: by the name that stands in the files' names.
    name_fn: gives for an image's number and id the path of its files, which `_NAME_mask.png` is added to.
    write_fn: writes a file.
    advance_fn: called with the number of images that are done.

  Returns:
    How many images have pictures.

  Raises:
    ValueError: the images at hand are not those of the run.
  """
  compared = [name for name in COMPARED if name in store.fields]
  fields = {*compared, *(name for one in subsets.values() for name in (*one.mask_fields, *one.size_fields))}
  # Without one, all images have the size that the classifier takes.
  framing = read_framing(store.spec["data"])
  height, width = job.classifier.input_shape[:2]
  grid = store.spec["grid"][:2] if job.maps is None else (height, width)
  num_written = 0
  for indices, rows in store.iterate(max(1, min(IMAGES_AT_ONCE, 2**20 // math.prod(grid))), names=sorted(fields)):
    ids = schema.decode_text(rows["id"]).tolist()
    masks = {name: one.masks(rows) for name, one in subsets.items()}
    if job.maps is not None:
      masks = {name: job.maps.spread(kept, indices)[..., 0] for name, kept in masks.items()}
    masks = {name: kept.reshape(-1, *grid) for name, kept in masks.items()}
    is_found = {name: one.sizes(rows)[1] == Status.OK for name, one in subsets.items()}
    for i, index in enumerate(indices.tolist()):
      found = {name: masks[name][i] for name in subsets if is_found[name][i]}
      if found:
        refuse_changes(
          store.folder.location,
          find_changes({name: rows[name][i : i + 1] for name in compared}, batches.join_records([job.source[index]])),
          num_compared=1,
        )
        image = job.source.read_whole(index)
        name_of_image = name_fn(index, ids[i])
        box = find_central_box(image.shape[:2], (height, width), framing)
        for name, mask in found.items():
          kept = place_mask(mask, image.shape[:2], box)
          write_fn(pathlib.Path(f"{name_of_image}_{name}_mask.png"), encode_mask(kept))
          write_fn(pathlib.Path(f"{name_of_image}_{name}_overlay.png"), pixels.encode_png(draw_overlay(image, kept)))
        num_written += 1
    advance_fn(len(indices))
  return num_written


def encode_mask(kept: Bool[np.ndarray, "H W"]) -> bytes:
  return pixels.encode_png(np.where(kept, 255, 0).astype(np.uint8)[..., None])


def draw_overlay(image: np.ndarray, kept: Bool[np.ndarray, "H W"]) -> np.ndarray:
  colour = pixels.choose_colour(pixels.to_rgb(image)[kept])
  return pixels.paint_over(image, kept[..., None], colour)
