"""Means, shares and differences over images that write themselves, with an interval or the reason for none."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy
from jaxtyping import Bool, Shaped

__all__ = [
  "Estimate",
  "bootstrap_mean",
  "difference_of",
  "mean_of",
  "median_interval",
  "paired_bootstrap",
  "rank_correlation",
  "share_of",
  "share_of_count",
]

# The bootstrap of fewer images gives an interval that is far too narrow, and of one image none at all.
MIN_IMAGES = 5
NO_IMAGES = "no images"
TOO_FEW = f"fewer than {MIN_IMAGES} images give no interval"
ALL_ALIKE = "all images have the same number or confidence"
# Resamples held in memory at once, in numbers.
MOST_NUMBERS = 10_000_000
# Resamples of a rank correlation, which cost a sort each.
NUM_RANK_RESAMPLES = 2_000
# What tables show where there is nothing.
DASH = "-"
# What a format may begin with.
SIGNS = ("+", "-", " ")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
  """A mean over images, of a number or of a difference, or a share of them.

  `f"{estimate:.1f}"` is `12.3 [11.0, 13.6]`, `f"{estimate:.1%}"` is `60.0% [59.0, 60.9]`: the format is that of each
  number, and 0 has no sign of its own: never `-0.0`. Without an interval it is the number alone, without a number the
  reason.

  Attributes:
    value: the mean, or the share, 0..1; None where `reason` says why.
    low: the lower end of its interval, by bootstrap or of a share Wilson's; None likewise.
    high: the upper end.
    num_images: how many images it is of.
    count: of a share, the images that are so; None of a mean.
    reason: why a number is missing; None where none is.

  Examples:
    >>> from jax_sis.statistics import estimates
    >>> estimate = estimates.Estimate(value=0.6, low=0.55, high=0.65, num_images=400)
    >>> f"{estimate:.0%}", f"{estimate.percent:.1f}", estimate.is_beyond(0.5)
    ('60% [55, 65]', '60.0 [55.0, 65.0]', 1)
  """

  value: float | None
  low: float | None
  high: float | None
  num_images: int
  count: int | None = None
  reason: str | None = None

  def __format__(self, form: str) -> str:
    if self.value is None:
      return self.reason or DASH
    sign = form[:1] if form[:1] in SIGNS else ""
    form = f"{sign}z{form.removeprefix(sign)}"
    text = format(self.value, form)
    if self.low is None or self.high is None:
      return text
    low, high = (format(end, form).removesuffix("%") for end in (self.low, self.high))
    return f"{text} [{low}, {high}]"

  @property
  def percent(self) -> "Estimate":
    """The same in per cent, or in points, for cells below a heading that says so."""
    return self.scale(100)

  @property
  def numbers(self) -> tuple[float, float, float]:
    """The value and the ends of its interval, NaN where there is none, for what draws or computes."""
    value, low, high = (math.nan if number is None else number for number in (self.value, self.low, self.high))
    return value, low, high

  def scale(self, factor: float) -> "Estimate":
    """The number and its interval times a factor; by -1, a difference becomes that of the second minus the first."""
    value, *ends = (None if number is None else factor * number for number in (self.value, self.low, self.high))
    low, high = ends if factor > 0 else reversed(ends)
    return dataclasses.replace(self, value=value, low=low, high=high)

  def is_beyond(self, bound: float = 0.0) -> int:
    """1 where the interval lies above the bound, -1 where it lies below, 0 where it holds it or there is none."""
    if self.low is None or self.high is None:
      return 0
    return (self.low > bound) - (self.high < bound)

  def to_json(self) -> dict[str, Any]:
    """Its form in JSON, where the name of the value says what it is: `mean` or `share`."""
    interval = {"low": self.low, "high": self.high}
    if self.count is None:
      return {"mean": self.value, **interval, "num_images": self.num_images, "reason": self.reason}
    counts = {"count": self.count, "num_images": self.num_images}
    return {"share": self.value, **interval, **counts, "reason": self.reason}

  @staticmethod
  def from_json(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of which `to_json` made this, for whatever reads records of files."""
    return {"value" if name in ("mean", "share") else name: value for name, value in content.items()}


def show(estimate: Estimate | None, form: str = ".1f", *, nothing: str = DASH) -> str:
  return nothing if estimate is None else format(estimate, form)


def show_percent(estimate: Estimate | None, form: str = ".1f", *, nothing: str = DASH) -> str:
  """A share in per cent, or a difference of shares in points, without the sign."""
  return show(estimate and estimate.percent, form, nothing=nothing)


def mean_of(values: Shaped[np.ndarray, "N"], *, seed: int = 0) -> Estimate:
  """The mean of one finite number per image; the order of the images does not matter.

  Args:
    values: the numbers, in any unit.
    seed: of the resamples.

  Returns:
    The mean in the same unit, with the interval of `bootstrap_mean`, or without one where there are fewer than five
    images.

  Examples:
    Fewer than five images give no interval:

    >>> import numpy as np
    >>> from jax_sis.statistics import estimates
    >>> estimate = estimates.mean_of(np.array([1.0, 2.0, 6.0]))
    >>> f"{estimate:.1f}", estimate.reason
    ('3.0', 'fewer than 5 images give no interval')
  """
  if not len(values):
    return no_mean(NO_IMAGES)
  if len(values) < MIN_IMAGES:
    mean = float(np.mean(np.sort(values), dtype=np.float64))
    return Estimate(value=mean, low=None, high=None, num_images=len(values), reason=TOO_FEW)
  return bootstrap_mean(np.sort(values), seed=seed)


def difference_of(first: Shaped[np.ndarray, "N"], second: Shaped[np.ndarray, "N"], *, seed: int = 0) -> Estimate:
  """The mean of first minus second, which are finite numbers or truth values of the same images in the same order.

  Where truth values differ alike on every image, all resamples are alike, too, and the interval is that of Wilson for
  the share of images that are so.

  Args:
    first: one value per image.
    second: the same.
    seed: of the resamples.

  Returns:
    The mean difference, as `mean_of` gives means.

  Examples:
    >>> import numpy as np
    >>> from jax_sis.statistics import estimates
    >>> before, after = np.arange(8.0), np.arange(8.0) - 0.5
    >>> f"{estimates.difference_of(before, after):.2f}"
    '0.50 [0.50, 0.50]'
  """
  differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
  are_truths = all(np.asarray(values).dtype == bool for values in (first, second))
  if are_truths and len(differences) >= MIN_IMAGES and (differences == differences[0]).all():
    others = share_of_count(0, len(differences)).numbers[-1]
    value = float(differences[0])
    return Estimate(
      value=value, low=max(value - others, -1.0), high=min(value + others, 1.0), num_images=len(differences)
    )
  return mean_of(differences, seed=seed)


def no_mean(reason: str, num_images: int = 0) -> Estimate:
  return Estimate(value=None, low=None, high=None, num_images=num_images, reason=reason)


def share_of(is_so: Bool[np.ndarray, "N"], *, level: float = 0.95) -> Estimate:
  """`share_of_count` of truth values.

  Args:
    is_so: one per image.
    level: as for `share_of_count`.

  Examples:
    >>> import numpy as np
    >>> from jax_sis.statistics import estimates
    >>> f"{estimates.share_of(np.arange(10) < 6):.0%}"
    '60% [31, 83]'
  """
  return share_of_count(int(np.count_nonzero(is_so)), len(is_so), level=level)


def share_of_count(count: int, num_images: int, *, level: float = 0.95) -> Estimate:
  """The share of images that are so, with its Wilson interval.

  The interval holds all shares p for which the observed one is within z standard errors, sqrt(p (1 - p) / n), of p.
  Unlike one that puts the observed share into the standard error, it keeps its level near 0 and 1, and stays between
  them.

  Args:
    count: images that are so, 0..num_images.
    num_images: all of them.
    level: how often such an interval holds the true share, between 0 and 1.

  Raises:
    ValueError: the count or the level is out of range.

  Source: Wilson 1927, Probable inference, the law of succession, and statistical inference.

  Examples:
    All of ten images may still be as few as 72 % of all that there are:

    >>> from jax_sis.statistics import estimates
    >>> f"{estimates.share_of_count(10, 10):.0%}"
    '100% [72, 100]'
  """
  if not 0 <= count <= num_images:
    raise ValueError(f"count must lie in 0..{num_images}, the number of images, got {count}.")
  check_level(level)
  if not num_images:
    return Estimate(value=None, low=None, high=None, count=0, num_images=0, reason=NO_IMAGES)
  interval = scipy.stats.binomtest(count, num_images).proportion_ci(level, "wilson")
  low, high = float(interval.low), float(interval.high)
  return Estimate(value=count / num_images, low=low, high=high, count=count, num_images=num_images)


def check_level(level: float) -> None:
  """Raises ValueError unless the level lies between 0 and 1."""
  if not 0 < level < 1:
    raise ValueError(f"level must lie strictly between 0 and 1, got {level!r}.")


def bootstrap_mean(
  values: Shaped[np.ndarray, "N"], *, level: float = 0.95, num_resamples: int = 10_000, seed: int = 0
) -> Estimate:
  """The mean over images, with the percentile bootstrap interval of resampled images.

  Args:
    values: one number or truth value per image, all finite.
    level: how often such an interval holds the true mean, between 0 and 1.
    num_resamples: resamples of the images.
    seed: of the resamples.

  Raises:
    ValueError: there are no values, one is not finite, or the level or the number of resamples is out of range.

  Source: Efron 1979, Bootstrap methods: another look at the jackknife.

  Examples:
    >>> import numpy as np
    >>> from jax_sis.statistics import estimates
    >>> estimate = estimates.bootstrap_mean(np.arange(100.0), num_resamples=1000)
    >>> estimate.value, estimate.low < 49.5 < estimate.high
    (49.5, True)
  """
  numbers = np.asarray(values, np.float64)
  if numbers.ndim != 1 or not len(numbers):
    raise ValueError(f"values must be one number for each of at least one image, got the shape {numbers.shape}.")
  if not np.isfinite(numbers).all():
    raise ValueError(
      f"values must be finite, got {(~np.isfinite(numbers)).sum()} that are not; leave these images out."
    )
  check_level(level)
  if num_resamples < 1:
    raise ValueError(f"num_resamples must be at least 1, got {num_resamples}.")
  mean = float(numbers.mean())
  if (numbers == numbers[0]).all():
    # SciPy warns of such samples; all resamples are alike.
    return Estimate(value=mean, low=mean, high=mean, num_images=len(numbers))
  interval = scipy.stats.bootstrap(
    (numbers,),
    np.mean,
    n_resamples=num_resamples,
    batch=max(1, MOST_NUMBERS // len(numbers)),
    confidence_level=level,
    method="percentile",
    rng=np.random.default_rng(seed),
  ).confidence_interval
  return Estimate(value=mean, low=float(interval.low), high=float(interval.high), num_images=len(numbers))


def paired_bootstrap(
  first: Shaped[np.ndarray, "N"],
  second: Shaped[np.ndarray, "N"],
  *,
  level: float = 0.95,
  num_resamples: int = 10_000,
  seed: int = 0,
) -> Estimate:
  """The mean of first minus second on the same images, with the interval of resampled images; see `bootstrap_mean`.

  Pairs stay together, so that an image that is hard for both counts for neither.

  Args:
    first: one number or truth value per image, all finite.
    second: the same.
    level: as for `bootstrap_mean`.
    num_resamples: resamples of the images.
    seed: of the resamples.

  Raises:
    ValueError: the two are not of the same images, or as for `bootstrap_mean`.

  Examples:
    Images differ much, but the second number is always about one less:

    >>> import numpy as np
    >>> from jax_sis.statistics import estimates
    >>> first = 10.0 * np.arange(20)
    >>> second = first - 1 + 0.1 * np.cos(first)
    >>> estimates.paired_bootstrap(first, second, num_resamples=1000).is_beyond(0)
    1
  """
  if np.shape(first) != np.shape(second):
    raise ValueError(
      f"first and second must be of the same images, got the shapes {np.shape(first)} and {np.shape(second)}."
    )
  difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
  return bootstrap_mean(difference, level=level, num_resamples=num_resamples, seed=seed)


def median_interval(values: Shaped[np.ndarray, "N"], *, level: float = 0.95) -> tuple[float, float] | None:
  """The interval of the median, which assumes nothing of how the values are distributed: two of them are its ends.

  How many values lie below the true median is binomially distributed with probability 1/2.

  Args:
    values: one number per image.
    level: how often such an interval holds the true median, at least; between 0 and 1.

  Returns:
    Its ends; None for so few values that not even the smallest and the largest one reach the level: up to 5, at 95 %.

  Examples:
    >>> import numpy as np
    >>> from jax_sis.statistics import estimates
    >>> estimates.median_interval(np.arange(1, 21)), estimates.median_interval(np.arange(5))
    ((6.0, 15.0), None)
  """
  rank = int(scipy.stats.binom.ppf((1 - level) / 2, len(values), 0.5)) if len(values) else 0
  if rank < 1:
    return None
  ordered = np.sort(values)
  return float(ordered[rank - 1]), float(ordered[-rank])


def rank_correlation(
  first: Shaped[np.ndarray, "N"], second: Shaped[np.ndarray, "N"], *, level: float = 0.95, seed: int = 0
) -> Estimate:
  """Spearman's rank correlation with the percentile bootstrap interval of resampled images.

  Args:
    first: one number per image.
    second: another, of the same images.
    level: how often such an interval holds the true one, between 0 and 1.
    seed: of the resamples.

  Returns:
    The correlation, -1..1; without a value where all of either are alike, and without an interval where there are fewer
    than five images.

  Examples:
    Ranks agree where one number grows with the other, however unevenly:

    >>> import numpy as np
    >>> from jax_sis.statistics import estimates
    >>> numbers = np.arange(4.0)
    >>> round(estimates.rank_correlation(numbers, np.exp(numbers)).value, 4)
    1.0
  """
  if len(np.unique(first)) < 2 or len(np.unique(second)) < 2:
    return no_mean(ALL_ALIKE, len(first))
  # Sorted, so that the resamples do not depend on the order of the images.
  order = np.lexsort((second, first))
  first, second = first[order], second[order]
  whole = correlate_ranks(first, second)
  if len(first) < MIN_IMAGES:
    return Estimate(value=whole, low=None, high=None, num_images=len(first), reason=TOO_FEW)
  rng = np.random.default_rng(seed)
  draws = (rng.integers(0, len(first), len(first)) for _ in range(NUM_RANK_RESAMPLES))
  found = [correlate_ranks(first[drawn], second[drawn]) for drawn in draws]
  low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2]).tolist()
  return Estimate(value=whole, low=low, high=high, num_images=len(first))


def correlate_ranks(first: Shaped[np.ndarray, "N"], second: Shaped[np.ndarray, "N"]) -> float:
  """Spearman's correlation; NaN where all of either are alike, as a resample may be.

  SciPy's spearmanr takes two to three times as long, for a p-value, and warns of such resamples.
  """
  ranks = [scipy.stats.rankdata(values) - (len(values) + 1) / 2 for values in (first, second)]
  scale = np.linalg.norm(ranks[0]) * np.linalg.norm(ranks[1])
  return float(ranks[0] @ ranks[1] / scale) if scale > 0 else np.nan
