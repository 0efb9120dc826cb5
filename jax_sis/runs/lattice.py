"""`find --lattice`: every subset of each image, what the store holds of it, and how it is checked and told."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array, Bool, Shaped

from jax_sis.classifiers.on_images import ClassifierOnImages
from jax_sis.core import lattice_bits
from jax_sis.core.lattice import check_num_features, run_lattice
from jax_sis.core.problem import Problem
from jax_sis.core.subsets import Status, Subsets
from jax_sis.results.schema import CONTRASTIVE_MASK, OWN_MASKS
from jax_sis.results.store import Results
from jax_sis.runs.config import FindConfig

# What the cells of the table are made from.
TABLE_FIELDS = (
  "lattice_falling",
  "lattice_num_sufficient",
  "lattice_num_contrastive",
  "lattice_shapley",
  CONTRASTIVE_MASK,
  OWN_MASKS["optimum"],
)

# Of confidences on a device, which say there what suffices.
ROUNDING = 1e-6

Rows = Mapping[str, Shaped[np.ndarray, "M ..."]]


def check_patch(images: ClassifierOnImages) -> None:
  """Raises ValueError where the squares are too many for all of their subsets."""
  sides = [side for side in range(1, 65) if all(length % side == 0 for length in images.classifier.input_shape[:2])]
  height, width = images.classifier.input_shape[:2]
  fitting = next((side for side in sides if height * width <= 16 * side**2), max(height, width))
  check_num_features(
    images.grid, images.local_devices[0].platform, advice=f"take larger squares, such as --patch {fitting}"
  )


def find_optimum(config: FindConfig, problem: Problem) -> tuple[dict[str, Array], Subsets]:
  """The fields of the lattices, and the smallest subset of each."""
  assert config.chunk_size is not None
  found = run_lattice(problem.in_log_odds(), threshold=config.threshold, margin=0.0, chunk_size=config.chunk_size)
  optimum, contrastive = found.smallest("sufficient"), found.smallest("contrastive")
  fields = {
    "lattice_log_odds": found.log_odds,
    "lattice_lead": found.lead,
    "lattice_shapley": found.shapley,
    "lattice_banzhaf": found.banzhaf,
    "lattice_falling": found.falling,
    "lattice_num_sufficient": found.minimal_sufficient.sum(1, dtype=jnp.int32),
    "lattice_num_contrastive": found.minimal_contrastive.sum(1, dtype=jnp.int32),
    "lattice_contrastive_size": contrastive.num_kept,
    CONTRASTIVE_MASK: contrastive.kept,
    OWN_MASKS["optimum"]: optimum.kept,
  }
  return fields, optimum


def clear_lattice(fields: Rows, is_excluded: Bool[np.ndarray, "M"]) -> dict[str, Shaped[np.ndarray, "M ..."]]:
  """The numbers of lattices without those of images that could not be searched; none of other runs."""
  cleared = {}
  for name, values in fields.items():
    if name.startswith("lattice_") and values.dtype != bool:
      nothing = np.nan if values.dtype.kind == "f" else 0
      is_out = is_excluded.reshape(-1, *[1] * (values.ndim - 1))
      cleared[name] = np.where(is_out, nothing, values).astype(values.dtype)
  return cleared


def check_lattice(rows: Rows, spec: Mapping[str, Any]) -> Iterator[tuple[str, str, Bool[np.ndarray, "M"]]]:
  """The fields, rules and which images break them: masks are the smallest that the log-odds and leads allow."""
  log_odds, lead, status = rows["lattice_log_odds"], rows["lattice_lead"], rows["optimum_status"]
  places = np.arange(len(status))
  num_kept = lattice_bits.count_kept(log_odds.shape[1])
  has_finite = np.isfinite(log_odds).all(1) & np.isfinite(lead).all(1)
  optimum, is_ok = rows[OWN_MASKS["optimum"]], (status == Status.OK) & has_finite
  confidence = scipy.special.expit(log_odds.astype(np.float64))
  has_smaller = ((confidence > spec["threshold"] + ROUNDING) & (num_kept[None] < optimum.sum(1)[:, None])).any(1)
  is_wrong = is_ok & (has_smaller | (confidence[places, lattice_bits.pack(optimum)] < spec["threshold"] - ROUNDING))
  yield OWN_MASKS["optimum"], "must be the smallest that log-odds allow", is_wrong
  contrastive = rows[CONTRASTIVE_MASK]
  is_there = rows["lattice_contrastive_size"] > 0
  yield "lattice_contrastive_size", "must be that of the mask", rows["lattice_contrastive_size"] != contrastive.sum(1)
  is_lost = lead[:, ::-1] < 0
  fewest = np.where(is_lost, num_kept[None], len(num_kept)).min(1)
  is_wrong = has_finite & is_there & ((fewest != contrastive.sum(1)) | ~is_lost[places, lattice_bits.pack(contrastive)])
  yield CONTRASTIVE_MASK, "must be the smallest that loses the class", is_wrong
  change = log_odds[:, -1] - log_odds[:, 0]
  is_wrong = has_finite & ~np.isclose(rows["lattice_shapley"].sum(1), change, atol=1e-3, rtol=1e-4)
  yield "lattice_shapley", "must add up to the change of the log-odds", is_wrong


def lattice_cells(fields: Rows, i: int) -> dict[str, Any]:
  """What the table says of the lattice of an image, by column; sets by the numbers of their features."""
  if not set(TABLE_FIELDS) <= set(fields):
    return {}
  return {
    "optimum_features": name_features(fields[OWN_MASKS["optimum"]][i]),
    "minimal_sufficient_sets": int(fields["lattice_num_sufficient"][i]),
    "minimal_contrastive_sets": int(fields["lattice_num_contrastive"][i]),
    "contrastive_features": name_features(fields[CONTRASTIVE_MASK][i]),
    "falling_pairs": float(fields["lattice_falling"][i]),
    "shapley": " ".join(f"{value:.4g}" for value in fields["lattice_shapley"][i].tolist()),
  }


def name_features(mask: Bool[np.ndarray, "F"]) -> str:
  return " ".join(map(str, np.flatnonzero(mask).tolist()))


def count_lattices(store: Results, is_searched: Bool[np.ndarray, "M"]) -> dict[str, Any]:
  """What a finished run's lattices say of its images together; medians and means of those that were searched."""
  indices = store.done_images()[is_searched]
  values = {name: store.read(name, indices) for name in store.table_fields if name.startswith("lattice_")}
  sizes = values["lattice_contrastive_size"]
  has_some = len(indices) > 0
  return {
    "median_minimal_sufficient_sets": float(np.median(values["lattice_num_sufficient"])) if has_some else None,
    "median_minimal_contrastive_sets": float(np.median(values["lattice_num_contrastive"])) if has_some else None,
    "median_contrastive_pixels": float(np.median(sizes[sizes > 0])) if (sizes > 0).any() else None,
    "num_contrastive": int((sizes > 0).sum()),
    "mean_falling": float(values["lattice_falling"].mean(dtype=np.float64)) if has_some else None,
  }


def describe_lattices(totals: Mapping[str, Any]) -> str:
  """The same in a sentence or two."""
  if totals["mean_falling"] is None:
    return "lattice: no image could be searched."
  smallest = totals["median_contrastive_pixels"]
  lost = "" if smallest is None else f", of which the smallest has {smallest:g} pixels in the median"
  return (
    f"lattice: an image has {totals['median_minimal_sufficient_sets']:g} minimal sufficient sets and "
    f"{totals['median_minimal_contrastive_sets']:g} whose masking loses the class (medians){lost}. "
    f"{totals['mean_falling']:.1%} of single pixels lower the confidence where they are added."
  )
