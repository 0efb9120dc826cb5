"""What was found, as numbers over the images that it was found on: for `show`, which draws them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped, UInt8

from jax_sis.core import masking
from jax_sis.core.certificate_words import explain_status
from jax_sis.core.features import Grid
from jax_sis.core.label_maps import LabelMap, check_label_map
from jax_sis.core.linear import Linear
from jax_sis.core.order import NOT_RANKED, FeatureOrder, rank_to_heat
from jax_sis.core.subsets import Status, Subsets

# A heading, an array over the images (Booleans: kept; numbers: the more, the more needed), and a caption an image.
Column = tuple[str, Shaped[np.ndarray, "B H W c"], list[str]]


def to_pixels(images: Any) -> UInt8[np.ndarray, "B H W C"]:
  """Images as bytes: numbers in 0..1 are shares of white, others go from the batch's smallest to its largest.

  Raises:
    ValueError: not images `[B, H, W]` or `[B, H, W, C]` with one or three channels.
  """
  if not hasattr(images, "shape"):
    raise ValueError(f"images must be an array [B, H, W, C], got {type(images).__name__}.")
  pixels = np.asarray(images)
  pixels = pixels[..., None] if pixels.ndim == 3 else pixels
  if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3) or not pixels.size:
    raise ValueError(f"images must be [B, H, W, C] of one or three channels, or [B, H, W], got {list(images.shape)}.")
  if pixels.dtype == np.uint8:
    return pixels
  values = pixels.astype(np.float32)
  known = values[np.isfinite(values)]
  low, high = (known.min(), known.max()) if len(known) else (0, 1)
  if low >= 0 and high <= 1:
    low, high = 0, 1
  return np.rint(255 * np.nan_to_num((values - low) / ((high - low) or 1)).clip(0, 1)).astype(np.uint8)


def make_columns(found: Any, shape: tuple[int, ...], class_names: Sequence[str] | None = None) -> list[Column]:
  """What is drawn beside images of this shape `[B, H, W, C]`, a column for each thing that was found.

  Raises:
    ValueError: it is nothing that can be drawn, or of other images.
  """
  if isinstance(found, Mapping):
    named = {str(name): one for name, one in found.items()}
  elif isinstance(found, list | tuple):
    named = {f"{number}. {name_kind(one)}": one for number, one in enumerate(found, 1)}
  else:
    named = {name_kind(found): found}
  if not named:
    raise ValueError("found must be an order, subsets or attributions, or several of them, got none.")
  return [(name, *make_column(one, shape, class_names)) for name, one in named.items()]


def find_labels(found: Any, shape: tuple[int, ...]) -> Shaped[np.ndarray, "B H W"] | None:
  """The labels of the pixels of images of this shape, where something that was found is of a label map: the first."""
  parts = list(found.values()) if isinstance(found, Mapping) else found if isinstance(found, list | tuple) else [found]
  maps = [one.features for one in parts if isinstance(one, FeatureOrder | Subsets)]
  labels = next(
    (np.asarray(one.labels) for one in maps if isinstance(one, LabelMap) and one.holds_whole_positions), None
  )
  return None if labels is None else np.broadcast_to(labels[..., 0], shape[:3])


def name_kind(found: Any) -> str:
  return {FeatureOrder: "order", Subsets: "subset"}.get(type(found), "attribution")


def make_column(
  found: Any, shape: tuple[int, ...], class_names: Sequence[str] | None
) -> tuple[Shaped[np.ndarray, "B H W c"], list[str]]:
  if isinstance(found, FeatureOrder | Subsets):
    check_count(len(found), shape)
    features = find_features(found, shape)
    if isinstance(found, Subsets):
      return spread(np.asarray(found.kept), features, shape), describe_subsets(found, class_names)
    rank = np.asarray(found.rank)
    heat = np.where((rank == NOT_RANKED) | ~np.asarray(found.finite)[:, None], np.nan, rank_to_heat(rank))
    return spread(heat, features, shape), describe_orders(found, class_names)
  if not hasattr(found, "shape") or np.asarray(found).dtype.kind not in "fiub":
    raise ValueError(f"found must be an order, subsets, attributions, or several of them, got {type(found).__name__}.")
  scores = np.asarray(found, float)
  check_count(len(scores) if scores.ndim else 0, shape)
  grid = find_grid(scores.shape[1:], shape[1:])
  return spread(scores.reshape(len(scores), -1), Grid(grid), shape), [""] * len(scores)


def find_features(found: FeatureOrder | Subsets, shape: tuple[int, ...]) -> Grid | LabelMap:
  """What a mask means in images of this shape; ValueError where it is no part of them."""
  if isinstance(found.features, Linear):
    raise ValueError(
      f"found must be of features that are pixels, got {found.features}; subsets.apply(inputs) is what is left of "
      "the images."
    )
  if found.features is not None:
    return check_label_map(found.features, shape)
  # Of images [B, H, W] the grid has two axes.
  return Grid(masking.check_grid((*found.grid, 1) if len(found.grid) == 2 else found.grid, shape[1:]))


def check_count(count: int, shape: tuple[int, ...]) -> None:
  if count != shape[0]:
    raise ValueError(f"found must be of the {shape[0]} images, got {count}; use images[...] and found[...].")


def find_grid(scores: tuple[int, ...], image: tuple[int, ...]) -> tuple[int, ...]:
  """The grid of attributions: as they are, or of squares where they are one row an image.

  Raises:
    ValueError: they fit no grid of the image.
  """
  height, width, _ = image
  if len(scores) == 1:
    patch = math.isqrt(max(1, height * width // max(1, scores[0])))
    grid = (height // patch, width // patch, 1)
  else:
    grid = (*scores, 1)[:3]
  fits = math.prod(grid) == math.prod(scores)
  if not fits or any(length % size for size, length in zip(grid, image, strict=True)):
    raise ValueError(
      f"attributions must be a number for each pixel or square of images {list(image)}, got {list(scores)} an image; "
      "reshape them to [B, h, w]."
    )
  return grid


def spread(
  values: Shaped[np.ndarray, "B F"], features: Grid | LabelMap, shape: tuple[int, ...]
) -> Shaped[np.ndarray, "B H W c"]:
  """One value a feature as one a pixel, of one channel where all are masked together."""
  return np.asarray(features.spread(jnp.asarray(values), shape[1:]))


def name_class(target: int, class_names: Sequence[str] | None) -> str:
  return f"class {target}" if class_names is None else class_names[target]


def count_kept(subsets: Subsets) -> list[str]:
  """How much of each image is kept, in features, and where these differ in size in pixels."""
  num_kept = np.asarray(subsets.num_kept).tolist()
  if not isinstance(subsets.features, LabelMap):
    num_features = math.prod(subsets.grid)
    return [f"{count} of {num_features} ({count / num_features:.1%})" for count in num_kept]
  existing = np.asarray(subsets.features.existing()).sum(1).tolist()
  shares = np.asarray(subsets.num_pixels) / math.prod(subsets.features.labels.shape[1:])
  return [
    f"{count} of {number} ({share:.1%} of the pixels)"
    for count, number, share in zip(num_kept, existing, shares.tolist(), strict=True)
  ]


def describe_subsets(subsets: Subsets, class_names: Sequence[str] | None) -> list[str]:
  counts = count_kept(subsets)
  captions = []
  for i in range(len(subsets)):
    status = Status(int(subsets.status[i]))
    if status != Status.OK:
      captions.append(explain_status(status, "sufficient" if subsets.question is None else subsets.question.kind))
      continue
    confidence = float(subsets.confidence[i])
    shown = "" if math.isnan(confidence) else f"\nconfidence {confidence:.4f}"
    lost_by = math.nan if subsets.lost_by is None else float(subsets.lost_by[i])
    shown += "" if math.isnan(lost_by) else f"\nlost by {lost_by:.2f} without"
    name = name_class(int(subsets.target[i]), class_names)
    captions.append(f"{counts[i]}\n{name}{shown}")
  return captions


def describe_orders(order: FeatureOrder, class_names: Sequence[str] | None) -> list[str]:
  shown = zip(np.asarray(order.target).tolist(), np.asarray(order.confidence[:, -1]).tolist(), strict=True)
  captions = [
    f"{name_class(target, class_names)}\nconfidence {confidence:.4f}\non {order.sizes[-1]} of {order.num_features}"
    for target, confidence in shown
  ]
  return [
    text if finite else "none: not finite" for text, finite in zip(captions, np.asarray(order.finite), strict=True)
  ]
