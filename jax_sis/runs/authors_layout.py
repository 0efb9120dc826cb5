"""Orders as the arrays that the programs of Carter et al. store, for comparing with theirs and for reading by them.

Two of their programs store results, each an image a file, and their arrays are here under their names:

* `imagenet_backselect.py`: `original_confidences`, `target_class_idx`, `confidences_over_backselect`, `mask_order`, in
  the form that holds the target's confidences only.
* `sis_util.py`, for searches that remove one feature a step: `sis`, `ordering_over_entire_backselect`,
  `values_over_entire_backselect`, `mask`.

What their files leave open is settled here so:

* The moment of a confidence. `confidences_over_backselect[t]` is taken before step t removes its features, so that the
  first is that of the whole input and that of the fully masked one has no place; `values_over_entire_backselect[t]`
  after it, so that the last is that of the fully masked input.
* Zero. In `mask_order` it says "removed at step 0". Theirs says so of features that were never removed too; here the
  search always runs to the end, and there are none.
* Polarity. `mask` is True where the feature is kept. Where there is no subset, `mask` is all False and `sis` empty;
  theirs is then all True.
* Axes. The channel comes first, `[1, H, W]`, and an index is `(0, row, column)`.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Shaped


def to_authors_arrays(
  rank: Int[np.ndarray, "M F"],
  confidence: Float[np.ndarray, "M T"],
  target: Int[np.ndarray, "M"],
  num_kept: Int[np.ndarray, "M"],
  *,
  sizes: Sequence[int],
  grid: tuple[int, ...],
) -> dict[str, Shaped[np.ndarray, "M ..."]]:
  """Whole backward orders of M images in the authors' layout, but for `sis`, whose length differs between images.

  Args:
    rank: of each feature, 0 is the last removed.
    confidence: with the `sizes[t]` lowest ranks kept.
    target: the class.
    num_kept: the size of each image's subset, 0 where it has none.
    sizes: the T sizes from 0 to F, ascending.
    grid: the mask's shape, the channel last.

  Returns:
    For each of their names the arrays of all images, see above; those of one feature a step only where they have sense.
  """
  num_steps = len(sizes) - 1
  rank = rank.astype(np.int64)
  # Rank r is removed by the step that leaves the largest size that is not above r.
  step_of_rank = num_steps - np.searchsorted(np.asarray(sizes), np.arange(rank.shape[1]), side="right")
  descending = confidence[:, ::-1]
  arrays = {
    "original_confidences": descending[:, 0].astype(np.float32),
    "target_class_idx": target.astype(np.int64),
    "confidences_over_backselect": descending[:, :-1].astype(np.float32),
    "mask_order": channel_first(step_of_rank[rank].astype(np.int32), grid),
  }
  if num_steps == rank.shape[1]:
    arrays["ordering_over_entire_backselect"] = indices_by_rank(rank, grid)[:, ::-1]
    arrays["values_over_entire_backselect"] = descending[:, 1:].astype(np.float64)
    arrays["mask"] = channel_first(rank < num_kept[:, None], grid)
  return arrays


def channel_first(values: Shaped[np.ndarray, "M F"], grid: tuple[int, ...]) -> Shaped[np.ndarray, "M ..."]:
  """A value a feature in the grid's shape, its last axis first."""
  return np.moveaxis(values.reshape(-1, *grid), -1, 1)


def indices_by_rank(rank: Int[np.ndarray, "M F"], grid: tuple[int, ...]) -> Int[np.ndarray, "M F A"]:
  """Where in the authors' mask the feature of each rank lies, ranks ascending."""
  *places, channels = np.unravel_index(np.argsort(rank, axis=1), grid)
  return np.stack([channels, *places], axis=-1).astype(np.int64)


def select_image(arrays: dict[str, Shaped[np.ndarray, "M ..."]], i: int) -> dict[str, Shaped[np.ndarray, "..."]]:
  """The arrays of one image, `sis` among them: what one of their files holds."""
  of_image = {name: values[i] for name, values in arrays.items()}
  if "mask" in of_image:
    num_kept = int(of_image["mask"].sum())
    of_image["sis"] = of_image["ordering_over_entire_backselect"][::-1][:num_kept]
  return of_image
