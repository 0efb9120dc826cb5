"""How certain a mean, or a difference between two things measured on the same images, is: bootstrap intervals."""

import dataclasses

import numpy as np
import scipy.stats
from jaxtyping import Shaped

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
