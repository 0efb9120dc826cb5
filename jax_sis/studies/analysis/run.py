"""What the subsets of a whole run say: how large they are, where they lie, and how that goes with being right.

Everything is read some images at a time, and what is kept of an image is a few numbers.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
from jaxtyping import Shaped

from jax_sis.core import validation
from jax_sis.core.subsets import check_fraction
from jax_sis.results.query import StoredSubsets, SubsetQuery, own_queries
from jax_sis.results.schema import NO_CLASS, NOT_SEARCHED, has_order
from jax_sis.results.store import Results
from jax_sis.statistics.matching import Matched, match_by_confidence
from jax_sis.studies.analysis.confidence_curves import Removal, RemovalCounts
from jax_sis.studies.analysis.positions import PositionCounts, Positions
from jax_sis.studies.analysis.sizes import (
  COLUMN_FIELDS,
  PREDICTED,
  Columns,
  SizeBin,
  Sizes,
  Trust,
  accuracy_by_size,
  describe_sizes,
  describe_sizes_by_class,
  describe_trust,
  join_columns,
  make_columns,
)

# Positions are also given of the most needed pixels.
MOST_NEEDED = "most_needed"
# Features of images that are in memory at once.
FEATURES_AT_ONCE = 2**22
WITHOUT_ORDER = "the run holds no orders; search backward with --save order or both"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Correctness:
  """Subsets of one kind against whether the model is right.

  Attributes:
    answer: the kind of subset.
    threshold: the confidence that it reaches alone.
    num_images: images with such a subset and a label.
    matched: sizes in features, of wrong and right predictions of the same confidence.
    accuracy_by_size: by bins of size, ascending.
  """

  answer: str
  threshold: float
  num_images: int
  matched: Matched
  accuracy_by_size: tuple[SizeBin, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunAnalysis:
  """What the subsets of one run say.

  Attributes:
    num_images: of the run.
    num_finished: those that are done, of which everything here is.
    num_unlabelled: finished images that were searched and have no label.
    num_features: F, of an image.
    trust: accuracy and calibration on the full images.
    sizes: by kind and threshold.
    sizes_by_class: at the run's threshold by kind and class, those without a finished image left out.
    classes_without_images: the classes that no subset was looked for.
    classes_without_subset: by kind those that images were searched for without any subset.
    correctness: by kind and threshold, as `sizes`; none where the run's target is not the predicted class.
    fraction: the share of the pixels that `positions` calls MOST_NEEDED.
    positions: of the subsets of each kind, and of the most needed pixels.
    removal: confidence along the orders; None without orders.
    left_out: what is not here, with the reason.
  """

  num_images: int
  num_finished: int
  num_unlabelled: int
  num_features: int
  trust: Trust
  sizes: tuple[Sizes, ...]
  sizes_by_class: tuple[Sizes, ...]
  classes_without_images: tuple[str, ...]
  classes_without_subset: dict[str, tuple[str, ...]]
  correctness: tuple[Correctness, ...]
  fraction: float
  positions: tuple[Positions, ...]
  removal: Removal | None
  left_out: tuple[str, ...]


def analyse_run(
  store: Results,
  *,
  thresholds: Sequence[float] = (),
  fraction: float = 0.05,
  has_class_curves: bool = False,
  seed: int = 0,
  advance_fn: Callable[[int], object] = lambda _: None,
) -> RunAnalysis:
  """Analyses the finished images of a run.

  Args:
    store: the run.
    thresholds: confidences beside the run's own at which sizes are given, where the run holds orders.
    fraction: the share of the pixels, the most needed ones, whose places are counted.
    has_class_curves: whether confidence along the removal is also given by class.
    seed: of all intervals and tests.
    advance_fn: is called with the number of images just read.

  Raises:
    ValueError: nothing is finished, or a threshold or the fraction is out of range.
    StorageError: the run cannot be read.
  """
  check_arguments(store, thresholds, fraction)
  reader = RunReader(store, thresholds=thresholds, fraction=fraction, has_class_curves=has_class_curves)
  num_at_once = max(1, FEATURES_AT_ONCE // math.prod(store.spec["grid"]))
  for indices, rows in store.iterate(num_at_once, names=reader.names):
    reader.add(rows)
    advance_fn(len(indices))
  return reader.describe(seed=seed)


def check_arguments(store: Results, thresholds: Sequence[float], fraction: float) -> None:
  """Raises ValueError as `analyse_run` does."""
  for threshold in thresholds:
    validation.check_threshold(threshold, "thresholds")
  check_fraction(fraction)
  if not len(store.done_units()):
    raise ValueError(
      f"{store.folder.location!r} must hold finished images, but none of its {store.num_images} is done; "
      "jax-sis status shows who is at work."
    )


class RunReader:
  """Takes a run's rows, some images at a time, and then says what they hold. See `analyse_run` for the arguments.

  Attributes:
    names: the fields that it needs.
  """

  def __init__(self, store: Results, *, thresholds: Sequence[float], fraction: float, has_class_curves: bool):
    self._store, self._spec = store, store.spec
    self._fraction = fraction
    self._num_features = math.prod(store.spec["grid"])
    self._left_out: list[str] = []
    own = store.spec["threshold"]
    self._own = own_queries(store.spec, store.fields)
    self._has_order = "rank" in store.fields
    others = sorted({float(threshold) for threshold in thresholds} - {own})
    if others and not self._has_order:
      self._leave_out(f"sizes at {', '.join(f'{threshold:g}' for threshold in others)}", WITHOUT_ORDER)
      others = []
    queries = [*self._own, *(SubsetQuery(threshold=threshold) for threshold in others)]
    self._subsets = [store.find_subsets(query) for query in queries]
    self._columns: list[Columns] = []
    self._located = self._locate()
    grid = cast(tuple[int, int, int], tuple(store.spec["grid"]))
    self._positions = {what: PositionCounts(grid) for what in self._located}
    self._removal = self._make_removal(has_class_curves)
    names = [*COLUMN_FIELDS, *(("confidence", "sis_status") if self._has_order else ())]
    names += [name for stored in self._located.values() for name in stored.mask_fields]
    names += [name for stored in self._subsets for name in stored.size_fields]
    self.names = tuple(dict.fromkeys(names))

  def _leave_out(self, what: str, reason: str) -> None:
    self._left_out.append(f"{what}: {reason}")

  def _locate(self) -> dict[str, StoredSubsets]:
    """The subsets whose places are counted: of each kind, and the most needed pixels, if the run holds them."""
    wanted = {query.kind: query for query in self._own}
    if "sis" in wanted:
      wanted[MOST_NEEDED] = SubsetQuery(fraction=self._fraction)
    if "features" in self._spec:
      self._leave_out("positions of subsets", "the features of the run are those of label maps, and lie in no grid")
      return {}
    located = {what: self._store.find_subsets(query) for what, query in wanted.items()}
    for what, stored in located.items():
      if not stored.mask_fields:
        self._leave_out(f"positions of {what}", f"the run holds neither orders nor {stored.query.mask_field}")
    return {what: stored for what, stored in located.items() if stored.mask_fields}

  def _make_removal(self, has_class_curves: bool) -> RemovalCounts | None:
    if not self._has_order:
      self._leave_out("confidence along the removal", WITHOUT_ORDER)
      return None
    return RemovalCounts(
      self._spec["sizes"],
      num_features=self._num_features,
      groups=("all", "right", "wrong"),
      class_names=self._spec["class_names"] if has_class_curves else (),
    )

  def add(self, rows: Mapping[str, Shaped[np.ndarray, "M ..."]]) -> None:
    """Takes some images, with the fields in `names`."""
    columns = make_columns(rows, self._subsets)
    self._columns.append(columns)
    for what, counts in self._positions.items():
      counts.add(self._located[what].masks(rows))
    if self._removal is not None:
      is_ordered = has_order(rows["sis_status"])
      is_asked = columns.is_of_prediction & (self._spec["target"] == PREDICTED)
      groups = {"all": is_ordered, "right": is_asked & columns.is_right, "wrong": is_asked & ~columns.is_right}
      self._removal.add(
        rows["confidence"][is_ordered],
        {group: belongs[is_ordered] for group, belongs in groups.items()},
        columns.target[is_ordered],
      )

  def describe(self, *, seed: int) -> RunAnalysis:
    """What the added images hold; `seed` is that of all intervals and tests."""
    columns = join_columns(self._columns)
    class_names, target = self._spec["class_names"], self._spec["target"]
    if target != PREDICTED:
      reason = f"the run's target is {target!r}, and not each image's predicted class"
      self._leave_out("size against correctness, curves of right and wrong predictions, calibration", reason)
    is_searched = columns.status[self._own[0]] != NOT_SEARCHED
    by_class = {
      query.kind: describe_sizes_by_class(
        columns, query, num_features=self._num_features, class_names=class_names, seed=seed
      )
      for query in self._own
    }
    present = {class_names[index] for index in np.unique(columns.target[is_searched]).tolist()}
    return RunAnalysis(
      num_images=self._store.num_images,
      num_finished=len(columns),
      num_unlabelled=int((is_searched & (columns.label == NO_CLASS)).sum()),
      num_features=self._num_features,
      trust=describe_trust(columns, target=target),
      sizes=tuple(
        describe_sizes(columns, stored.query, num_features=self._num_features, seed=seed) for stored in self._subsets
      ),
      sizes_by_class=tuple(sizes for of_kind in by_class.values() for sizes in of_kind),
      classes_without_images=tuple(name for name in class_names if name not in present),
      classes_without_subset={
        kind: tuple(sizes.group for sizes in of_kind if not sizes.with_subset.count)
        for kind, of_kind in by_class.items()
      },
      correctness=tuple(
        describe_correctness(columns, stored.query, seed=seed) for stored in self._subsets if target == PREDICTED
      ),
      fraction=self._fraction,
      positions=tuple(counts.describe(what, seed=seed) for what, counts in self._positions.items()),
      removal=None if self._removal is None else self._removal.describe(),
      left_out=tuple(self._left_out),
    )


def describe_correctness(columns: Columns, query: SubsetQuery, *, seed: int) -> Correctness:
  assert query.threshold is not None
  chosen = columns.has_subset(query) & columns.is_of_prediction
  return Correctness(
    answer=query.kind,
    threshold=query.threshold,
    num_images=int(chosen.sum()),
    matched=match_by_confidence(
      columns.num_kept[query][chosen], columns.is_right[chosen], columns.full_confidence[chosen], seed=seed
    ),
    accuracy_by_size=tuple(accuracy_by_size(columns, query)),
  )
