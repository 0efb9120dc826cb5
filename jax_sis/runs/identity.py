"""Are the images at hand those that a run searched? By their ids, labels and pixels: names and sizes say too little."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int, Shaped

from jax_sis import results
from jax_sis.core.messages import name_some
from jax_sis.results.schema import decode_text

COMPARED = ("id", "label", "error", results.PIXEL_DIGEST)
MAX_NAMED = 10


def read_compared(store: results.Results, indices: Int[np.ndarray, "M"]) -> dict[str, Shaped[np.ndarray, "M ..."]]:
  """What a run stored of who these images are; runs of older versions lack their pixels."""
  return store.read_many([name for name in COMPARED if name in store.fields], indices)


def find_changes(rows: Mapping[str, Shaped[np.ndarray, "M ..."]], batch: Mapping[str, np.ndarray]) -> list[str]:
  """In which images those at hand differ from what a run stored of them, in words.

  An image that the run could not use may be whole by now, and is not compared by its pixels.

  Args:
    rows: as `read_compared` gives them.
    batch: the same images as they are read now.
  """
  names = [decode_text(ids).tolist() for ids in (rows["id"], results.encode_text([str(name) for name in batch["id"]]))]
  digests = results.digest_pixels(batch["image"])
  has_other_pixels = ~rows["error"].any(1) & (rows.get(results.PIXEL_DIGEST, digests) != digests).any(1)
  changes = []
  for i, (there, here) in enumerate(zip(*names, strict=True)):
    if there != here:
      changes.append(f"{there!r} in the run is {here!r}")
    elif rows["label"][i] != batch["label"][i]:
      changes.append(f"{there!r} had the label {rows['label'][i]}, and has {batch['label'][i]}")
    elif has_other_pixels[i] and batch["error"][i]:
      changes.append(f"{there!r} cannot be used any more ({batch['error'][i]})")
    elif has_other_pixels[i]:
      changes.append(f"{there!r} has other pixels")
  return changes


def refuse_changes(location: str, changes: Sequence[str], num_compared: int) -> None:
  """Raises ValueError if there are any of the images of the run at `location`, and names them."""
  if changes:
    raise ValueError(
      f"the images at hand must be those that the run in {location!r} searched, but {len(changes)} of the "
      f"{num_compared} that were compared are not: {name_some(list(changes), most=MAX_NAMED)}; bring these back, name "
      "the right --data-dir, or begin anew with another --out."
    )
