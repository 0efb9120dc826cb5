"""Means, differences and shares over images for tables and JSON: with an interval, or with the reason for none."""

import dataclasses
import math
import statistics
from typing import NamedTuple

import numpy as np
import scipy.stats
from jaxtyping import Bool, Shaped

# The bootstrap of fewer images gives an interval that is far too narrow, and of one image none at all.
MIN_IMAGES = 5
NO_IMAGES = "no images"
TOO_FEW = f"fewer than {MIN_IMAGES} images give no interval"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mean:
  """A mean over images, or the mean of a difference.

  Attributes:
    mean: the mean; None where there are no images.
    low: the lower end of its bootstrap interval; None where `reason` says why.
    high: the upper end.
    num_images: how many images it is of.
    reason: why a number is missing; None where none is.
  """

  mean: float | None
  low: float | None
  high: float | None
  num_images: int
  reason: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
  """How many of some images are so.

  Attributes:
    share: 0..1; None where there are no images.
    low: the lower end of its Wilson interval.
    high: the upper end.
    count: the images that are so.
    num_images: all of them.
    reason: why the numbers are missing; None where they are not.
  """

  share: float | None
  low: float | None
  high: float | None
  count: int
  num_images: int
  reason: str | None = None


def mean_of(values: Shaped[np.ndarray, "N"], *, seed: int = 0) -> Mean:
  """The mean of a number an image, which does not depend on the order of the images.

  Args:
    values: finite numbers.
    seed: of the resampled images.

  Raises:
    ValueError: a value is not finite.
  """
  if not len(values):
    return no_mean(NO_IMAGES)
  if len(values) < MIN_IMAGES:
    mean = float(np.mean(np.sort(values), dtype=np.float64))
    return Mean(mean=mean, low=None, high=None, num_images=len(values), reason=TOO_FEW)
  estimate = bootstrap_mean(np.sort(values), seed=seed)
  return Mean(mean=estimate.mean, low=estimate.low, high=estimate.high, num_images=estimate.num_images)


def difference_of(first: Shaped[np.ndarray, "N"], second: Shaped[np.ndarray, "N"], *, seed: int = 0) -> Mean:
  """The mean of first minus second on the same images.

  Args:
    first: a number or a truth value an image.
    second: the same for the other thing, the images in the same order.
    seed: of the resampled images.

  Raises:
    ValueError: a value is not finite.
  """
  return mean_of(np.asarray(first, np.float64) - np.asarray(second, np.float64), seed=seed)


def no_mean(reason: str, num_images: int = 0) -> Mean:
  """What stands where a mean cannot be computed."""
  return Mean(mean=None, low=None, high=None, num_images=num_images, reason=reason)


def share_of(is_so: Bool[np.ndarray, "N"]) -> Share:
  """The share of images that are so."""
  return share_of_count(int(np.count_nonzero(is_so)), len(is_so))


def share_of_count(count: int, num_images: int) -> Share:
  """As `share_of`, of images that are counted already."""
  if not num_images:
    return no_share(NO_IMAGES)
  low, high = wilson_interval(count, num_images)
  return Share(share=count / num_images, low=low, high=high, count=count, num_images=num_images)


def no_share(reason: str) -> Share:
  """What stands where a share cannot be computed."""
  return Share(share=None, low=None, high=None, count=0, num_images=0, reason=reason)


# Resamples held in memory at once, in numbers.
MOST_NUMBERS = 10_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
  """A mean over images and the range that its sample is compatible with.

  Attributes:
    mean: the mean, of a difference that of the first minus the second.
    low: the lower end of the interval.
    high: the upper end.
    num_images: how many images it is of.
  """

  mean: float
  low: float
  high: float
  num_images: int


def bootstrap_mean(
  values: Shaped[np.ndarray, "N"], *, level: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> Estimate:
  """The mean over images, with the percentile bootstrap interval of resampled images.

  Args:
    values: a number or a truth value an image, all finite.
    level: how often such an interval holds the true mean, between 0 and 1.
    num_resamples: resamples of the images.
    seed: of the resamples.

  Raises:
    ValueError: there are no values, one is not finite, or the level or the number of resamples is out of range.

  Source: Efron 1979, Bootstrap methods: another look at the jackknife.
  """
  numbers = np.asarray(values, np.float64)
  if numbers.ndim != 1 or not len(numbers):
    raise ValueError(f"values must be one number for each of at least one image, got the shape {numbers.shape}.")
  if not np.isfinite(numbers).all():
    raise ValueError(
      f"values must be finite, got {(~np.isfinite(numbers)).sum()} that are not; leave these images out."
    )
  if not 0 < level < 1:
    raise ValueError(f"level must lie strictly between 0 and 1, got {level!r}.")
  if num_resamples < 1:
    raise ValueError(f"num_resamples must be at least 1, got {num_resamples}.")
  mean = float(numbers.mean())
  if (numbers == numbers[0]).all():
    # SciPy warns of such samples; all resamples are alike.
    return Estimate(mean=mean, low=mean, high=mean, num_images=len(numbers))
  interval = scipy.stats.bootstrap(
    (numbers,),
    np.mean,
    n_resamples=num_resamples,
    batch=max(1, MOST_NUMBERS // len(numbers)),
    confidence_level=level,
    method="percentile",
    rng=np.random.default_rng(seed),
  ).confidence_interval
  return Estimate(mean=mean, low=float(interval.low), high=float(interval.high), num_images=len(numbers))


def paired_bootstrap(
  first: Shaped[np.ndarray, "N"],
  second: Shaped[np.ndarray, "N"],
  *,
  level: float = 0.95,
  num_resamples: int = 10_000,
  seed: int = 0,
) -> Estimate:
  """The mean of first minus second on the same images, with the interval of resampled images.

  Pairs stay together, so that what makes an image hard for both counts for neither.

  Args:
    first: a number or a truth value an image.
    second: the same for the other thing, the images in the same order.
    level: as for `bootstrap_mean`.
    num_resamples: likewise.
    seed: likewise.

  Raises:
    ValueError: the two are not of the same images, or as for `bootstrap_mean`.
  """
  if np.shape(first) != np.shape(second):
    raise ValueError(
      f"first and second must be of the same images, got the shapes {np.shape(first)} and {np.shape(second)}."
    )
  difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
  return bootstrap_mean(difference, level=level, num_resamples=num_resamples, seed=seed)


def median_interval(values: Shaped[np.ndarray, "N"], *, level: float = 0.95) -> tuple[float, float] | None:
  """The interval of the median that two of the sorted values are, without any assumption on how they are distributed.

  How many values lie below the true median is binomially distributed with probability 1/2.

  Args:
    values: a number an image.
    level: how often such an interval holds the true median, at least; between 0 and 1.

  Returns:
    Its ends; None for so few values that not even the smallest and the largest one reach the level: up to 5, at 95 %.
  """
  rank = int(scipy.stats.binom.ppf((1 - level) / 2, len(values), 0.5)) if len(values) else 0
  if rank < 1:
    return None
  ordered = np.sort(values)
  return float(ordered[rank - 1]), float(ordered[-rank])


class Interval(NamedTuple):
  """A range of shares, 0..1, both ends included."""

  low: float
  high: float


def wilson_interval(num_correct: int, num_examples: int, level: float = 0.95) -> Interval:
  """The share of right answers that a sample is compatible with.

  All shares p for which the observed one is within z standard errors, sqrt(p (1 - p) / n), of p. Unlike the interval
  that puts the observed share into the standard error, it keeps its level near 0 and 1, and stays between them.

  Args:
    num_correct: right answers, 0..num_examples.
    num_examples: all answers, at least one.
    level: how often such an interval holds the true share, between 0 and 1.

  Raises:
    ValueError: a count or the level is out of range.

  Source: Wilson 1927, Probable inference, the law of succession, and statistical inference.
  """
  if num_examples < 1:
    raise ValueError(f"num_examples must be at least 1, got {num_examples}.")
  if not 0 <= num_correct <= num_examples:
    raise ValueError(f"num_correct must lie in 0..{num_examples}, the number of examples, got {num_correct}.")
  if not 0 < level < 1:
    raise ValueError(f"level must lie strictly between 0 and 1, got {level!r}.")
  z = statistics.NormalDist().inv_cdf((1 + level) / 2)
  share = num_correct / num_examples
  centre = share + z**2 / (2 * num_examples)
  radius = z * math.sqrt(share * (1 - share) / num_examples + z**2 / (4 * num_examples**2))
  scale = 1 + z**2 / num_examples
  # At the ends the formula gives 0 and 1 up to rounding.
  low = 0.0 if num_correct == 0 else (centre - radius) / scale
  high = 1.0 if num_correct == num_examples else (centre + radius) / scale
  return Interval(low, high)
