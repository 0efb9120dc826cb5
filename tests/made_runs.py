"""Runs of `find` with made-up results, whose subsets are found by plain loops."""

import pathlib
from typing import Any

import numpy as np

from jax_sis import results
from jax_sis.core.subsets import Status
from jax_sis.results.schema import NO_CLASS, NOT_SEARCHED, Field
from jax_sis.results.store import Results

GRID = (4, 5, 1)
NUM_FEATURES = 20
SIZES = (0, 2, 5, 8, 11, 14, 17, 20)
CLASS_NAMES = ("cat", "dog", "eel", "fox")
SPEC = {
  "model": {"name": "made", "sha256": "0"},
  "class_names": list(CLASS_NAMES),
  "data": {"data": "made", "split": "test"},
  "search": {"name": "Gradient", "per_step": 3},
  "sizes": list(SIZES),
  "smallest": None,
  "score": "log_odds",
  "threshold": 0.9,
  "target": "predicted",
  "baseline": 0.0,
  "grid": list(GRID),
  "certificate": "alone",
  "batch_size": 4,
  "versions": {"jax_sis": "0", "jax": "0"},
  "device": "cpu",
}


def find_subset(confidence: np.ndarray, sizes: tuple[int, ...], threshold: float) -> tuple[int, int]:
  """Status and size of the subset of one order, by the definition."""
  if confidence[-1] < threshold:
    return Status.BELOW_THRESHOLD, 0
  for size, value in zip(sizes, confidence, strict=True):
    if value >= threshold:
      return (Status.OK, size) if size else (Status.BASELINE_SUFFICIENT, 0)
  raise AssertionError


def make_rows(
  num_images: int,
  seed: int = 0,
  *,
  threshold: float = 0.9,
  sizes: tuple[int, ...] = SIZES,
  num_features: int = NUM_FEATURES,
  num_classes: int = len(CLASS_NAMES),
  has_odd_ones: bool = False,
  has_smallest: bool = False,
) -> dict[str, np.ndarray]:
  """Random orders of images of which most have subsets, and with `has_odd_ones` some that were not searched, ..."""
  rng = np.random.default_rng(seed)
  rank = np.stack([rng.permutation(num_features) for _ in range(num_images)])
  confidence = np.sort(rng.beta(2, 1, (num_images, len(sizes))), axis=1).astype(np.float32)
  confidence[:, 0] *= rng.random(num_images) < 0.95
  confidence[:, -1] = np.maximum(confidence[:, -2], 1 - 10 ** -rng.uniform(0.5, 4, num_images))
  label = rng.integers(0, num_classes, num_images)
  predicted = np.where(rng.random(num_images) < 0.7, label, rng.integers(0, num_classes, num_images))
  found = [find_subset(row, sizes, threshold) for row in confidence]
  rows = {
    "id": np.array([f"image_{index:04}" for index in range(num_images)]),
    "label": label,
    "target": predicted,
    "predicted": predicted.copy(),
    "full_confidence": confidence[:, -1],
    "rank": rank,
    "confidence": confidence,
    "sis_status": np.array([status for status, _ in found]),
    "sis_num_kept": np.array([size for _, size in found]),
  }
  if has_smallest:
    rows["smallest_mask"] = rank < (rows["sis_num_kept"][:, None] + 1) // 2
    rows["smallest_num_kept"] = rows["smallest_mask"].sum(1)
    rows["smallest_status"] = rows["sis_status"]
  if has_odd_ones:
    rows["sis_status"][0], rows["predicted"][0], rows["full_confidence"][0] = NOT_SEARCHED, NO_CLASS, np.nan
    rows["sis_status"][1] = Status.NON_FINITE
    rows["sis_num_kept"][:2] = 0
    rows["label"][2:4] = NO_CLASS
  return rows


def make_run(
  directory: pathlib.Path, rows: dict[str, np.ndarray], *, unit_size: int = 4, num_done: int | None = None, **spec: Any
) -> Results:
  """The store of a run with these rows, of which the first units may be all that is done."""
  num_images = len(rows["id"])
  fields = {"id": results.TEXT}
  for name, values in rows.items():
    if name == "id":
      continue
    if "mask" in name:
      fields[name] = results.mask_field(values.shape[1])
    else:
      dtype = {"f": "float32", "b": "bool", "u": "uint8"}.get(values.dtype.kind, "int32")
      fields[name] = Field(shape=values.shape[1:], dtype=dtype)
  store = results.create_or_resume(
    directory, spec={**SPEC, **spec}, num_images=num_images, unit_size=unit_size, fields=fields
  )
  encoded = {**rows, "id": results.encode_text(rows["id"].tolist())}
  for unit in range(store.num_units):
    start, stop = store.unit_range(unit)
    if num_done is None or stop <= num_done:
      store.write_unit(unit, {name: values[start:stop] for name, values in encoded.items()})
  return store


def reorder(rows: dict[str, np.ndarray], order: np.ndarray) -> dict[str, np.ndarray]:
  """The same images in another order, or some of them."""
  return {name: values[order] for name, values in rows.items()}
