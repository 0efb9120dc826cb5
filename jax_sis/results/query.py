"""Which stored field is the subset that is meant."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from jax_sis.core import subsets, validation
from jax_sis.core.subsets import Status
from jax_sis.core.validation import require_one_of
from jax_sis.results.schema import SMALLEST_MASK


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelSubset:
  """Which pixels of each image a classifier is shown; the others show the fill. Those of a run, or random ones.

  Attributes:
    run: the folder or URL of a run of `find`, or a file of its masks that `jax-sis export` wrote; None for random ones.
    fraction: the share of the pixels that is shown, their number rounded up; of a run the most needed ones.
    threshold: of a run, the subset that reaches this confidence; None for the run's own, unless a fraction is given.
    answer: of a run, `sis`, read from the order of all pixels, or `smallest`, the smallest evidence found.
    random_seed: fixes, with an image's id, which pixels are shown at random; None for those of a run.
    fill: what the other pixels show, in the normalised units of the classifier that looks; 0 is the data's mean colour.
    allows_other_baseline: take a run whose masked pixels showed something else than the fill.
    expected_model: what the run must have searched, as `checkpoint.hash_params` says it; None for any classifier.
  """

  run: str | None = None
  fraction: float | None = None
  threshold: float | None = None
  answer: Literal["sis", "smallest"] = "sis"
  random_seed: int | None = None
  fill: float = 0.0
  allows_other_baseline: bool = False
  expected_model: str | None = None

  def __post_init__(self) -> None:
    if (self.run is None) == (self.random_seed is None):
      raise ValueError(
        f"PixelSubset must have either run or random_seed, got run={self.run!r} and random_seed={self.random_seed!r}."
      )
    if self.fraction is not None and not 0 < self.fraction <= 1:
      raise ValueError(f"PixelSubset.fraction must be above 0 and at most 1, got {self.fraction!r}.")
    if self.threshold is not None:
      validation.check_threshold(self.threshold, "PixelSubset.threshold")
    require_one_of("PixelSubset.answer", self.answer, ("sis", "smallest"))
    if not math.isfinite(self.fill):
      raise ValueError(f"PixelSubset.fill must be finite, got {self.fill!r}.")
    if self.fraction is not None and (self.threshold is not None or self.answer == "smallest"):
      raise ValueError(
        f"PixelSubset.fraction must come without threshold, and with answer 'sis', got {self.fraction!r} with "
        f"threshold={self.threshold!r} and answer={self.answer!r}."
      )
    if self.random_seed is not None:
      self._check_random()

  def _check_random(self) -> None:
    if not isinstance(self.random_seed, int) or isinstance(self.random_seed, bool) or self.random_seed < 0:
      raise ValueError(f"PixelSubset.random_seed must be an integer that is not negative, got {self.random_seed!r}.")
    if self.fraction is None:
      raise ValueError("PixelSubset.random_seed must come with a fraction, got None.")
    if self.expected_model is not None or self.allows_other_baseline:
      raise ValueError("PixelSubset.expected_model and allows_other_baseline must come with a run, not a random_seed.")


def mask_name(*, threshold: float | None = None, fraction: float | None = None) -> str:
  """What the stored masks of a threshold, or else of a fraction, are called."""
  return f"mask_threshold_{threshold}" if fraction is None else f"mask_fraction_{fraction}"


def count_kept(
  orders: Mapping[str, np.ndarray], sizes: Sequence[int], *, threshold: float | None, fraction: float | None
) -> Int[np.ndarray, "M"]:
  """How many features of each stored order are kept, as `sufficient_subsets` or else `keep_fraction` says.

  Args:
    orders: `rank` `[M, F]`, `confidence` `[M, T]` and `sis_status` `[M]`.
    sizes: the T sizes that were evaluated.
    threshold: the confidence to reach.
    fraction: instead, the share of the features to keep.
  """
  num_features = orders["rank"].shape[1]
  # Below Status.OK an image was not searched at all.
  is_usable = (orders["sis_status"] >= Status.OK) & (orders["sis_status"] != Status.NON_FINITE)
  if fraction is not None:
    return np.where(is_usable, subsets.count_of_fraction(fraction, num_features), 0)
  passes = orders["confidence"] >= threshold
  # Where the baseline alone passes, nothing is kept: the first size is 0.
  has_subset = passes[:, -1] if sizes[-1] == num_features else passes.any(1)
  return np.where(is_usable & has_subset, np.asarray(sizes)[passes.argmax(1)], 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
  """Which subset of each image of a run: its answer, and the confidence to reach or else the share of the pixels."""

  answer: str
  threshold: float | None
  fraction: float | None

  def __str__(self) -> str:
    asked = f"threshold {self.threshold:g}" if self.fraction is None else f"fraction {self.fraction:g}"
    return f"{asked}, answer {self.answer!r}"


def resolve_question(subset: PixelSubset, spec: Mapping[str, Any]) -> Question:
  """Which subsets of a run are meant."""
  threshold = subset.threshold
  if threshold is None and subset.fraction is None:
    threshold = spec["threshold"]
  return Question(answer=subset.answer, threshold=threshold, fraction=subset.fraction)


def parse_mask_name(name: str, spec: Mapping[str, Any]) -> Question:
  """What `smallest_mask`, `mask_threshold_P` or `mask_fraction_S` means."""
  if name == SMALLEST_MASK:
    return Question(answer="smallest", threshold=spec["threshold"], fraction=None)
  _, kind, number = name.split("_")
  values = {"threshold": None, "fraction": None, kind: float(number)}
  return Question(answer="sis", **values)
