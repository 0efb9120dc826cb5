"""How large the subsets of a run are: overall, by class, at any threshold, and against whether the model is right."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from jax_sis.core.subsets import Status
from jax_sis.evaluation.metrics import make_calibration
from jax_sis.results.query import StoredSubsets, SubsetQuery
from jax_sis.results.schema import NO_CLASS, NOT_SEARCHED, STATUS_NAMES
from jax_sis.statistics.estimates import Estimate, mean_of, median_interval, share_of

PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
COLUMN_FIELDS = ("label", "target", "predicted", "full_confidence")
# What all images are called, beside the classes.
ALL = "all"
MAX_SIZE_BINS = 10
# Fewer images than this make a share that says next to nothing.
MIN_IMAGES_A_BIN = 8
NUM_CONFIDENCE_BINS = 15
# The `target` of a run whose subsets are for the model's own answers.
PREDICTED = "predicted"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
  """What a run says of some of its images, a value each.

  Attributes:
    label: the true class, or NO_CLASS.
    target: the class that the subsets are for.
    predicted: the class of the full image, or NO_CLASS.
    full_confidence: that of the target on the full image; NaN where it was not searched.
    num_kept: by query the size of the subset; 0 where there is none.
    status: by query a Status, or NOT_SEARCHED.
  """

  label: Int[np.ndarray, "N"]
  target: Int[np.ndarray, "N"]
  predicted: Int[np.ndarray, "N"]
  full_confidence: Float[np.ndarray, "N"]
  num_kept: Mapping[SubsetQuery, Int[np.ndarray, "N"]]
  status: Mapping[SubsetQuery, Int[np.ndarray, "N"]]

  def __len__(self) -> int:
    return len(self.label)

  @property
  def is_classified(self) -> Bool[np.ndarray, "N"]:
    """Whether the model's class is known, and with it whether it is right: searched, finite and labelled."""
    return (self.predicted != NO_CLASS) & np.isfinite(self.full_confidence) & (self.label != NO_CLASS)

  @property
  def is_of_prediction(self) -> Bool[np.ndarray, "N"]:
    """Whether the subset and the confidence are those of the model's own, labelled answer."""
    return self.is_classified & (self.target == self.predicted)

  @property
  def is_right(self) -> Bool[np.ndarray, "N"]:
    """Whether the model's class is the true one; False also where `is_classified` is."""
    return self.is_classified & (self.predicted == self.label)

  def has_subset(self, query: SubsetQuery) -> Bool[np.ndarray, "N"]:
    return self.status[query] == Status.OK


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
  """The sizes of the subsets of one kind, of all images or of those of one class.

  Attributes:
    answer: the kind of subset.
    threshold: the confidence that it reaches alone.
    group: `all`, or the name of the class that the subsets are for.
    status: how many images have which status, those that none has left out.
    with_subset: the share of the images that has a subset.
    pixels: mean size, in features.
    mean_share: the same as a share of the image; None without a subset.
    percentiles: by per cent, as PERCENTILES, the size that this many of the images with a subset do not exceed; None
      without one.
    median_interval: the 95 % interval of the median, see `estimates.median_interval`; None for few subsets.
    distribution: at 0, 1, ... 100 % the smallest size that this share does not exceed, of all images; None for a class.
  """

  answer: str
  threshold: float
  group: str
  status: dict[str, int]
  with_subset: Estimate
  pixels: Estimate
  mean_share: float | None
  percentiles: dict[str, float] | None
  median_interval: tuple[float, float] | None
  distribution: tuple[float, ...] | None

  @property
  def median(self) -> float | None:
    return None if self.percentiles is None else self.percentiles["50"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SizeBin:
  """The images whose subsets are about as large, and how often the model is right about them.

  Attributes:
    smallest: the smallest size in the bin.
    largest: the largest one.
    mean_pixels: the mean.
    mean_confidence: mean confidence on the full image, which may explain much of the accuracy.
    accuracy: the share of right predictions.
  """

  smallest: int
  largest: int
  mean_pixels: float
  mean_confidence: float
  accuracy: Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trust:
  """How often a model is right, and how well it knows.

  Attributes:
    accuracy: the share of right predictions among images with a label.
    mean_confidence: in the predicted class; None where the run's target is another, as are the next two.
    expected_calibration_error: see `metrics.calibration`.
    num_images: of these two.
  """

  accuracy: Estimate
  mean_confidence: float | None
  expected_calibration_error: float | None
  num_images: int


def make_columns(rows: Mapping[str, Shaped[np.ndarray, "M ..."]], subsets: Sequence[StoredSubsets]) -> Columns:
  """The columns of some images, from their COLUMN_FIELDS and the `size_fields` of the subsets."""
  num_kept, status = {}, {}
  for stored in subsets:
    num_kept[stored.query], status[stored.query] = stored.sizes(rows)
  return Columns(**{name: rows[name] for name in COLUMN_FIELDS}, num_kept=num_kept, status=status)


def join_columns(parts: Sequence[Columns]) -> Columns:
  queries = parts[0].status
  return Columns(
    **{name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMN_FIELDS},
    num_kept={query: np.concatenate([part.num_kept[query] for part in parts]) for query in queries},
    status={query: np.concatenate([part.status[query] for part in parts]) for query in queries},
  )


def select_columns(columns: Columns, indices: Shaped[np.ndarray, "M"]) -> Columns:
  return Columns(
    **{name: getattr(columns, name)[indices] for name in COLUMN_FIELDS},
    num_kept={query: values[indices] for query, values in columns.num_kept.items()},
    status={query: values[indices] for query, values in columns.status.items()},
  )


def describe_sizes(
  columns: Columns, query: SubsetQuery, *, num_features: int, group: str = ALL, seed: int = 0
) -> Sizes:
  """How the sizes of one kind of subset are distributed over these images, which are called `group`."""
  assert query.threshold is not None
  has_subset = columns.has_subset(query)
  num_kept = columns.num_kept[query][has_subset]
  codes, counts = np.unique(columns.status[query], return_counts=True)
  pixels = mean_of(num_kept, seed=seed)
  return Sizes(
    answer=query.kind,
    threshold=query.threshold,
    group=group,
    status={STATUS_NAMES[code]: count for code, count in zip(codes.tolist(), counts.tolist(), strict=True)},
    with_subset=share_of(has_subset),
    pixels=pixels,
    mean_share=None if pixels.value is None else pixels.value / num_features,
    percentiles=dict(zip(map(str, PERCENTILES), np.percentile(num_kept, PERCENTILES).tolist(), strict=True))
    if len(num_kept)
    else None,
    median_interval=median_interval(num_kept),
    distribution=tuple(np.percentile(num_kept, range(101), method="inverted_cdf").tolist())
    if group == ALL and len(num_kept)
    else None,
  )


def describe_sizes_by_class(
  columns: Columns, query: SubsetQuery, *, num_features: int, class_names: Sequence[str], seed: int = 0
) -> list[Sizes]:
  """As `describe_sizes`, for each class that has images, in the order of the classes.

  An image counts for the class that its subset is for, which is mostly the predicted one.
  """
  is_searched = columns.status[query] != NOT_SEARCHED
  order = np.argsort(columns.target, kind="stable")
  order = order[is_searched[order]]
  classes, starts = np.unique(columns.target[order], return_index=True)
  stops = np.append(starts[1:], len(order))[: len(starts)]
  found = []
  for index, start, stop in zip(map(int, classes), starts, stops, strict=True):
    of_class = select_columns(columns, order[start:stop])
    found.append(describe_sizes(of_class, query, num_features=num_features, group=class_names[index], seed=seed))
  return found


def accuracy_by_size(columns: Columns, query: SubsetQuery, *, max_bins: int = MAX_SIZE_BINS) -> list[SizeBin]:
  """How often the model is right about the images whose subsets are about as large, from the smallest to the largest.

  Bins hold about the same number of images, at least MIN_IMAGES_A_BIN if there are enough, and images with subsets of
  one size share a bin. Only images with a label whose subset is for the predicted class count.
  """
  chosen = columns.has_subset(query) & columns.is_of_prediction
  num_kept, is_right = columns.num_kept[query][chosen], columns.is_right[chosen]
  if not len(num_kept):
    return []
  num_bins = max(1, min(max_bins, len(num_kept) // MIN_IMAGES_A_BIN))
  # The lowest size of each bin.
  edges = np.unique(np.quantile(num_kept, np.arange(num_bins) / num_bins, method="higher"))
  bins = np.searchsorted(edges, num_kept, side="right") - 1
  confidence = columns.full_confidence[chosen].astype(np.float64)
  found = []
  for number in range(len(edges)):
    of_bin = bins == number
    found.append(
      SizeBin(
        smallest=int(num_kept[of_bin].min()),
        largest=int(num_kept[of_bin].max()),
        mean_pixels=float(num_kept[of_bin].mean()),
        mean_confidence=float(confidence[of_bin].mean()),
        accuracy=share_of(is_right[of_bin]),
      )
    )
  return found


def describe_trust(columns: Columns, *, target: str) -> Trust:
  """Accuracy over the images with a label, and calibration over those whose confidence is in the predicted class.

  Only where the run's `target` is `predicted` are the confidences those of the model's own answers.
  """
  chosen = columns.is_of_prediction & (target == PREDICTED)
  confidence = columns.full_confidence[chosen].astype(np.float64)
  is_right = columns.is_right[chosen]
  error = None
  if len(confidence):
    edges = np.linspace(0.0, 1.0, NUM_CONFIDENCE_BINS + 1)
    bins = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, NUM_CONFIDENCE_BINS - 1)
    summed, num_right = (np.bincount(bins, weights, NUM_CONFIDENCE_BINS) for weights in (confidence, is_right))
    count = np.bincount(bins, minlength=NUM_CONFIDENCE_BINS)
    error = make_calibration(edges, summed, num_right, count).expected_calibration_error
  return Trust(
    accuracy=share_of(columns.is_right[columns.is_classified]),
    mean_confidence=float(confidence.mean()) if len(confidence) else None,
    expected_calibration_error=error,
    num_images=len(confidence),
  )
