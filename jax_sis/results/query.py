"""Which stored field is the subset that is meant, which features it keeps, and its size and status for each image."""

import dataclasses
import math
import re
from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int, Shaped

from jax_sis.core import subsets, validation
from jax_sis.core.order import FeatureOrder
from jax_sis.core.subsets import Status, Subsets
from jax_sis.core.validation import require_one_of
from jax_sis.results.schema import KINDS, OWN_MASKS, has_order, kinds_of, mask_name

MASK_NAME = re.compile(r"mask_(threshold|fraction)_([^_]+)")

Rows = Mapping[str, Shaped[np.ndarray, "M ..."]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubsetQuery:
  """Which subset of each image is meant.

  Attributes:
    kind: `sis`, read from the order of all features, `smallest`, the smallest evidence found, `robust`, the smallest of
      the order that is certified on unseen draws, `optimum`, the smallest that there is, of a complete lattice, or what
      a run found for another question, `contrastive` or `both`.
    threshold: the confidence that it reaches alone, or the rate at which a robust one keeps its class; None for a
      fraction.
    fraction: instead, the share of the features that it keeps, the most needed ones.

  Examples:
    >>> from jax_sis import results
    >>> query = results.SubsetQuery(threshold=0.9)
    >>> str(query), query.mask_field
    ("threshold 0.9, kind 'sis'", 'mask_threshold_0.9')
  """

  kind: str = "sis"
  threshold: float | None = None
  fraction: float | None = None

  def __post_init__(self) -> None:
    require_one_of("kind", self.kind, KINDS)
    if self.threshold is None and self.fraction is None:
      raise ValueError("threshold and fraction must not both be None.")
    if self.threshold is not None and self.fraction is not None:
      raise ValueError(f"threshold and fraction must not both be given, got {self.threshold!r} and {self.fraction!r}.")
    if self.threshold is not None:
      validation.check_threshold(self.threshold)
    if self.fraction is not None:
      subsets.check_fraction(self.fraction)

  def __str__(self) -> str:
    asked = f"threshold {self.threshold:g}" if self.fraction is None else f"fraction {self.fraction:g}"
    return f"{asked}, kind {self.kind!r}"

  @property
  def mask_field(self) -> str:
    """What the field of its masks is called; those of other kinds than `sis` are at what the run asked only."""
    return OWN_MASKS.get(self.kind) or mask_name(threshold=self.threshold, fraction=self.fraction)

  def read_order(self, order: FeatureOrder) -> Subsets:
    """The subsets in an order as a search returned it."""
    if self.fraction is not None:
      return subsets.keep_fraction(order, self.fraction)
    assert self.threshold is not None
    return subsets.sufficient_subsets(order, self.threshold)

  def read_stored_order(self, rows: Rows, spec: Mapping[str, Any]) -> tuple[Int[np.ndarray, "M"], Int[np.ndarray, "M"]]:
    """The same of orders as a run stored them, by the same code.

    Args:
      rows: `sis_status`, and `confidence` for a threshold, `rank` for a fraction.
      spec: the run's specification.

    Returns:
      How many features each subset keeps, 0 where there is none, and its Status, or NOT_SEARCHED.
    """
    num_features = math.prod(spec["grid"])
    if self.fraction is not None:
      num_kept = subsets.count_of_fraction(self.fraction, num_features)
      status = subsets.find_ranked(rows["rank"], num_kept)
    else:
      assert self.threshold is not None
      sizes = np.asarray(spec["sizes"])
      is_complete = bool(sizes[-1] == num_features)
      first, status = subsets.find_sufficient(rows["confidence"], self.threshold, is_complete=is_complete)
      num_kept = sizes[first]
    status = np.where(has_order(rows["sis_status"]), status, rows["sis_status"])
    return np.where(status == Status.OK, num_kept, 0), status

  def to_json(self) -> dict[str, Any]:
    """In JSON types, as files have it."""
    return {"answer": self.kind, "threshold": self.threshold, "fraction": self.fraction}


def parse_query(description: Mapping[str, Any]) -> SubsetQuery:
  return SubsetQuery(kind=description["answer"], threshold=description["threshold"], fraction=description["fraction"])


def make_query(
  spec: Mapping[str, Any], *, kind: str = "sis", threshold: float | None = None, fraction: float | None = None
) -> SubsetQuery:
  """The query of a run; without a threshold and a fraction at what the run asked."""
  if threshold is None and fraction is None:
    threshold = own_threshold(spec, kind)
  return SubsetQuery(
    kind=kind,
    threshold=None if threshold is None else float(threshold),
    fraction=None if fraction is None else float(fraction),
  )


def own_threshold(spec: Mapping[str, Any], kind: str) -> float:
  """What a run asked of this kind: a confidence, or of robust subsets the rate at which they keep their class."""
  return spec["completion"]["rate"] if kind == "robust" else spec["threshold"]


def own_queries(spec: Mapping[str, Any], fields: Collection[str]) -> list[SubsetQuery]:
  """The kinds of subset that a run with these fields holds, at its own threshold."""
  return [make_query(spec, kind=kind) for kind in kinds_of(fields)]


def parse_mask_name(name: str, spec: Mapping[str, Any]) -> SubsetQuery | None:
  """What `smallest_mask`, `robust_mask`, `mask_threshold_P` or `mask_fraction_S` means in a run; None for another name.

  Raises:
    ValueError: P or S is no number, or out of range.
  """
  for kind, own in OWN_MASKS.items():
    if name == own:
      return make_query(spec, kind=kind) if kind != "robust" or "completion" in spec else None
  match = MASK_NAME.fullmatch(name)
  if match is None:
    return None
  number = float(match[2])
  return SubsetQuery(threshold=number) if match[1] == "threshold" else SubsetQuery(fraction=number)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredSubsets:
  """How the subsets that a query means are read from a run; see `find_subsets`.

  Attributes:
    query: which subsets.
    spec: the run's specification.
    size_fields: what their sizes and statuses are read from; empty where the run does not hold them.
    mask_fields: what their features are read from; empty likewise.
  """

  query: SubsetQuery
  spec: Mapping[str, Any]
  size_fields: tuple[str, ...]
  mask_fields: tuple[str, ...]

  def sizes(self, rows: Rows) -> tuple[Int[np.ndarray, "M"], Int[np.ndarray, "M"]]:
    """How many features each subset keeps, 0 where there is none, and its Status, or NOT_SEARCHED.

    Args:
      rows: the `size_fields` of M images.
    """
    if self.size_fields == size_fields_of(self.query.kind):
      num_kept, status = (rows[name] for name in self.size_fields)
      return np.where(status == Status.OK, num_kept, 0), status
    return self.query.read_stored_order(rows, self.spec)

  def masks(self, rows: Rows) -> Bool[np.ndarray, "M F"]:
    """Which features each subset keeps, none where there is none.

    Args:
      rows: the `mask_fields` of M images.
    """
    if self.mask_fields == (self.query.mask_field,):
      return rows[self.query.mask_field]
    return rows["rank"] < self.sizes(rows)[0][:, None]


def size_fields_of(kind: str) -> tuple[str, str]:
  """The fields that hold size and status of each subset of a kind, at the run's threshold."""
  return f"{kind}_num_kept", f"{kind}_status"


def find_subsets(query: SubsetQuery, spec: Mapping[str, Any], fields: Collection[str]) -> StoredSubsets:
  """Where a run holds the subsets that are meant.

  Sizes at the run's own threshold are stored, others are read from the orders. Masks may be stored at any threshold and
  fraction, and else are read from the orders, too. Other kinds are there at what the run asked only.

  Args:
    query: which subsets.
    spec: the run's specification.
    fields: the names of the fields that it has.
  """
  is_own = (query.kind != "robust" or "completion" in spec) and query.threshold == own_threshold(spec, query.kind)
  is_ordered = query.kind == "sis" and "rank" in fields
  size_fields = mask_fields = ()
  if is_own and set(size_fields_of(query.kind)) <= set(fields):
    size_fields = size_fields_of(query.kind)
  elif is_ordered:
    size_fields = ("confidence" if query.fraction is None else "rank", "sis_status")
  if query.mask_field in fields and (query.kind == "sis" or is_own):
    mask_fields = (query.mask_field,)
  elif is_ordered:
    mask_fields = tuple(dict.fromkeys(("rank", *size_fields)))
  return StoredSubsets(query=query, spec=spec, size_fields=size_fields, mask_fields=mask_fields)


def describe_masks(spec: Mapping[str, Any], fields: Collection[str]) -> str:
  held = [f"{name} (kind 'sis')" for name in fields if name.startswith("mask_")]
  if "rank" in fields:
    held.append("those of every threshold and fraction (kind 'sis')")
  for kind, name in OWN_MASKS.items():
    if name in fields:
      held.append(f"those of threshold {own_threshold(spec, kind)} (kind {kind!r})")
  return ", ".join(held) or "none"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelSubset:
  """Which pixels of each image a classifier is shown; the others show the fill. Those of a run, or random ones.

  Attributes:
    run: the folder or URL of a run of `find`, or a file of its masks that `jax-sis export` wrote; None for random ones.
    fraction: the share of the pixels that is shown, their number rounded up; of a run the most needed ones.
    threshold: of a run, the subset that reaches this confidence; None for the run's own, unless a fraction is given.
    answer: of a run, the kind of subset: `sis`, read from the order of all pixels, `smallest`, the smallest evidence
      found, `robust`, the smallest of the order that is certified on unseen draws, or `optimum`, the smallest of all,
      from a complete lattice.
    random_seed: fixes, with an image's id, which pixels are shown at random; None for those of a run.
    fill: what the other pixels show, in the normalised units of the classifier that looks; 0 is the data's mean colour.
    allows_other_baseline: take a run whose masked pixels showed something else than the fill.
    expected_model: the `checkpoint.hash_params` of what the run must have searched; None for any classifier.
  """

  run: str | None = None
  fraction: float | None = None
  threshold: float | None = None
  # Called as in the settings that trainings and studies have stored.
  answer: Literal["sis", "smallest", "robust", "optimum"] = "sis"
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
    require_one_of("PixelSubset.answer", self.answer, KINDS)
    if not math.isfinite(self.fill):
      raise ValueError(f"PixelSubset.fill must be finite, got {self.fill!r}.")
    if self.fraction is not None and (self.threshold is not None or self.answer != "sis"):
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

  def find_query(self, spec: Mapping[str, Any]) -> SubsetQuery:
    """Which subsets of a run with this specification are shown."""
    return make_query(spec, kind=self.answer, threshold=self.threshold, fraction=self.fraction)
