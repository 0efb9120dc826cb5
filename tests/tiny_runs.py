"""Runs of `find` on the tiny classifier. Those with the same settings share their compiled programs."""

import pathlib
from typing import Any

import jax

from jax_sis import results
from jax_sis.runs import find
from jax_sis.runs.config import FindConfig
from jax_sis.runs.shards import Shard

PATCH = 8
THRESHOLD = 0.9
SETTINGS: dict[str, Any] = {
  "patch": PATCH,
  "threshold": THRESHOLD,
  "batch_size": 5,
  "num_devices": 2,
  "gallery": 0,
  "saved": "both",
  "mask_thresholds": (0.5, 0.9),
  "mask_fractions": (0.25,),
}
# For a run that finds the gradient's subsets alone.
GRADIENT: dict[str, Any] = {"smallest": None, "certificate": "alone"}


def find_tiny(
  out: pathlib.Path | str, checkpoint: str, *, shard: Shard | None = None, **options: Any
) -> results.Results:
  """A run in units of five images, with both kinds of subset, orders and masks where no option says otherwise."""
  with jax.numpy_rank_promotion("allow"):
    find.find(FindConfig(out=str(out), checkpoint=checkpoint, **{**SETTINGS, **options}), shard=shard)
  return results.open(out)
