"""Are the subsets of wrong predictions smaller than those of right ones at the same confidence?"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from jax_sis.statistics.estimates import MIN_IMAGES, Estimate, no_mean

__all__ = ["Matched", "MatchedBin", "match_by_confidence"]

# Each bin of confidence p spans an eighth of a decade of 1 - p. The last one holds all above, which float32 cannot tell
# apart. In wider bins the wrong predictions would be the less confident ones, and that alone would make a difference.
BINS_A_DECADE = 8
LAST_DECADE = 6
NUM_BINS = BINS_A_DECADE * LAST_DECADE + 1
NO_PAIRS = "no wrong and right predictions of the same confidence"
NOT_BOTH = "no wrong predictions, or no right ones"
TOO_FEW = f"fewer than {MIN_IMAGES} wrong or right predictions give no interval"
NUM_RESAMPLES = 10_000
# Resampled images that are in memory at once.
MOST_NUMBERS = 4_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatchedBin:
  """The images of about one confidence.

  Attributes:
    low: the lower end of the bin, which belongs to it.
    high: the upper end, which does not, except for 1.
    num_wrong: wrong predictions with a subset.
    num_right: right ones.
    mean_wrong: mean of the wrong ones; None where there are none.
    mean_right: that of the right ones.

  Examples:
    >>> import numpy as np
    >>> from jax_sis.statistics import matching
    >>> confidence = np.array([0.5, 0.5, 0.99])
    >>> matched = matching.match_by_confidence(np.array([3.0, 5.0, 9.0]), np.array([False, True, True]), confidence)
    >>> [(one.num_wrong, one.num_right) for one in matched.bins]
    [(1, 1), (0, 1)]
  """

  low: float
  high: float
  num_wrong: int
  num_right: int
  mean_wrong: float | None
  mean_right: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matched:
  """One number, such as the size of the subset, compared between wrong and right predictions.

  Attributes:
    bins: by confidence, those that hold images, ascending.
    num_wrong: wrong predictions in bins that hold both kinds.
    num_right: right ones in these bins.
    num_left_out: images in bins that hold one kind only.
    mean_wrong: the mean over the `num_wrong`; None where there are none.
    mean_right: the mean of the right ones, each bin weighted by its number of wrong ones.
    difference: `mean_wrong` minus `mean_right`.
    unmatched: the mean of all wrong predictions minus that of all right ones, whatever their confidence.

  Examples:
    The right prediction of another confidence is left out:

    >>> import numpy as np
    >>> from jax_sis.statistics import matching
    >>> confidence = np.array([0.5, 0.5, 0.99])
    >>> matched = matching.match_by_confidence(np.array([3.0, 5.0, 9.0]), np.array([False, True, True]), confidence)
    >>> matched.mean_wrong, matched.mean_right, matched.num_left_out
    (3.0, 5.0, 1)
  """

  bins: tuple[MatchedBin, ...]
  num_wrong: int
  num_right: int
  num_left_out: int
  mean_wrong: float | None
  mean_right: float | None
  difference: Estimate
  unmatched: Estimate


def match_by_confidence(
  values: Shaped[np.ndarray, "N"],
  is_right: Bool[np.ndarray, "N"],
  confidence: Float[np.ndarray, "N"],
  *,
  level: float = 0.95,
  num_resamples: int = NUM_RESAMPLES,
  seed: int = 0,
) -> Matched:
  """Compares wrong with right predictions of the same confidence on the full image (Carter et al. 2021).

  Images are put into bins of confidence p, an eighth of a decade of 1 - p wide. Within each the mean of the wrong ones
  is compared with that of the right ones, and bins are weighted by their wrong predictions, so that the right ones
  have the same confidences. Classes are not matched. The interval is that of resampled images; bins that lost one kind
  drop out of a resample.

  Args:
    values: the number that is compared.
    is_right: whether the prediction is right.
    confidence: of the prediction, 0..1.
    level: of the interval.
    num_resamples: how often the images are resampled.
    seed: of the resamples.

  Examples:
    Wrong predictions have two pixels less at the same confidence; that they are less confident makes no difference:

    >>> import numpy as np
    >>> from jax_sis.statistics import matching
    >>> is_right = np.array([False] * 6 + [True] * 12)
    >>> confidence = np.where(np.arange(18) < 12, 0.5, 0.99)
    >>> sizes = np.where(confidence < 0.9, 10.0, 40.0) - 2.0 * ~is_right
    >>> found = matching.match_by_confidence(sizes, is_right, confidence, num_resamples=100)
    >>> f"{found.difference:.1f}", found.unmatched.value
    ('-2.0 [-2.0, -2.0]', -17.0)
  """
  bins = confidence_bins(confidence)
  # Sorted, so that the resamples do not depend on the order of the images.
  order = np.lexsort((values, is_right, bins))
  numbers, right, bins = np.asarray(values, np.float64)[order], is_right[order], bins[order]
  cells = 2 * bins + right
  counts, sums = np.bincount(cells, minlength=2 * NUM_BINS), np.bincount(cells, numbers, 2 * NUM_BINS)
  means = np.divide(sums, counts, out=np.zeros(len(sums)), where=counts > 0)
  (num_wrong, num_right), (mean_wrong, mean_right) = counts.reshape(-1, 2).T, means.reshape(-1, 2).T
  has_both = (num_wrong > 0) & (num_right > 0)
  matched_wrong, matched_right = int(num_wrong[has_both].sum()), int(num_right[has_both].sum())
  resampled = {"level": level, "num_resamples": num_resamples, "seed": seed}
  in_both = has_both[bins]
  weights = num_wrong[has_both] / matched_wrong if matched_wrong else None
  return Matched(
    bins=tuple(describe_bin(number, counts, means) for number in np.flatnonzero(num_wrong + num_right).tolist()),
    num_wrong=matched_wrong,
    num_right=matched_right,
    num_left_out=len(numbers) - matched_wrong - matched_right,
    mean_wrong=None if weights is None else float(mean_wrong[has_both] @ weights),
    mean_right=None if weights is None else float(mean_right[has_both] @ weights),
    difference=estimate_difference(numbers[in_both], cells[in_both], NO_PAIRS, **resampled),
    unmatched=estimate_difference(numbers, right.astype(np.int64), NOT_BOTH, **resampled),
  )


def confidence_bins(confidence: Float[np.ndarray, "N"]) -> Int[np.ndarray, "N"]:
  return np.searchsorted(bin_edges(), confidence.astype(np.float64), side="right")


def bin_edges() -> Float[np.ndarray, "E"]:
  """The confidences at which one bin ends and the next begins."""
  # Rounded, so that 0.99 and 0.999 are edges and not their neighbours.
  return np.round(1 - 10.0 ** (-np.arange(1, NUM_BINS) / BINS_A_DECADE), 9)


def describe_bin(number: int, counts: Int[np.ndarray, "C"], means: Float[np.ndarray, "C"]) -> MatchedBin:
  """One bin, from the counts and means of all cells, where wrong and right predictions alternate."""
  edges = np.concatenate([[0.0], bin_edges(), [1.0]])
  num_wrong, num_right = counts[2 * number : 2 * number + 2].tolist()
  mean_wrong, mean_right = means[2 * number : 2 * number + 2].tolist()
  return MatchedBin(
    low=float(edges[number]),
    high=float(edges[number + 1]),
    num_wrong=num_wrong,
    num_right=num_right,
    mean_wrong=mean_wrong if num_wrong else None,
    mean_right=mean_right if num_right else None,
  )


def estimate_difference(
  numbers: Float[np.ndarray, "N"],
  cells: Int[np.ndarray, "N"],
  reason: str,
  *,
  level: float,
  num_resamples: int,
  seed: int,
) -> Estimate:
  """The matched difference of images in cells 2 * bin + is_right, with its bootstrap interval, or no mean and why."""
  num_right = int((cells % 2).sum())
  num_fewer = min(num_right, len(cells) - num_right)
  if not num_fewer:
    return no_mean(reason, len(numbers))
  # Without empty bins, so that the tables of the resamples are small.
  bins, renumbered = np.unique(cells // 2, return_inverse=True)
  cells, num_cells = 2 * renumbered + cells % 2, 2 * len(bins)
  counts, sums = np.bincount(cells, minlength=num_cells), np.bincount(cells, numbers, num_cells)
  mean = float(weighted_difference(counts[None], sums[None])[0])
  if num_fewer < MIN_IMAGES:
    return Estimate(value=mean, low=None, high=None, num_images=len(numbers), reason=TOO_FEW)
  rng = np.random.default_rng(seed)
  resampled = []
  step = max(1, MOST_NUMBERS // len(numbers))
  for start in range(0, num_resamples, step):
    count = min(step, num_resamples - start)
    drawn = rng.integers(0, len(numbers), (count, len(numbers)), dtype=np.int32)
    places = (cells[drawn] + num_cells * np.arange(count)[:, None]).ravel()
    counts = np.bincount(places, minlength=count * num_cells).reshape(count, num_cells)
    sums = np.bincount(places, numbers[drawn].ravel(), count * num_cells).reshape(count, num_cells)
    resampled.append(weighted_difference(counts, sums))
  differences = np.concatenate(resampled)
  differences = differences[~np.isnan(differences)]
  low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2]).tolist()
  return Estimate(value=mean, low=low, high=high, num_images=len(numbers))


def weighted_difference(counts: Int[np.ndarray, "R C"], sums: Float[np.ndarray, "R C"]) -> Float[np.ndarray, "R"]:
  """Wrong minus right within each bin, weighted by the wrong ones; NaN where no bin has both."""
  means = np.divide(sums, counts, out=np.zeros(sums.shape), where=counts > 0)
  weights = np.where((counts[:, 0::2] > 0) & (counts[:, 1::2] > 0), counts[:, 0::2], 0)
  total = weights.sum(1)
  summed = (weights * (means[:, 0::2] - means[:, 1::2])).sum(1)
  return np.divide(summed, total, out=np.full(len(total), np.nan), where=total > 0)
