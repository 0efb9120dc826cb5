"""Differences and means of estimates that are of different images, by the intervals that these have already."""

import math
from collections.abc import Sequence

from jax_sis.statistics.estimates import NO_IMAGES, Estimate, no_mean

__all__ = ["difference_of_shares", "mean_of_groups"]


def difference_of_shares(first: Estimate, second: Estimate) -> Estimate:
  """A share minus that of other images, with an interval of the two intervals that stays within -1 and 1.

  Source: Newcombe 1998, Interval estimation for the difference between independent proportions, method 10.

  Args:
    first: a share with its interval, as `share_of_count` gives it.
    second: the same of other images.

  Returns:
    The difference; without a value where one of them has none.

  Examples:
    >>> from jax_sis.statistics import estimates, independent
    >>> first, second = estimates.share_of_count(56, 70), estimates.share_of_count(48, 80)
    >>> f"{independent.difference_of_shares(first, second):.4f}"
    '0.2000 [0.0524, 0.3339]'
  """
  num_images = first.num_images + second.num_images
  if first.value is None or second.value is None:
    return no_mean(NO_IMAGES, num_images)
  value, low, high = first.numbers
  other, other_low, other_high = second.numbers
  return Estimate(
    value=value - other,
    low=value - other - math.hypot(value - low, other_high - other),
    high=value - other + math.hypot(high - value, other - other_low),
    num_images=num_images,
  )


def mean_of_groups(estimates: Sequence[Estimate]) -> Estimate:
  """The mean of estimates of different images, each of the same weight; those without a value are left out.

  Source: Zou and Donner 2008, Construction of confidence limits about effect measures, whose limits of a sum are those
  of its parts, each at its own distance.

  Args:
    estimates: in the same unit, each with its interval.

  Returns:
    Their mean; without a value where none has one.

  Examples:
    >>> from jax_sis.statistics import estimates, independent
    >>> groups = [estimates.share_of_count(count, 100) for count in (40, 60)]
    >>> f"{independent.mean_of_groups(groups):.2f}"
    '0.50 [0.43, 0.57]'
  """
  numbers = [estimate.numbers for estimate in estimates if estimate.value is not None]
  num_images = sum(estimate.num_images for estimate in estimates if estimate.value is not None)
  if not numbers:
    return no_mean(NO_IMAGES, num_images)
  mean = sum(value for value, _, _ in numbers) / len(numbers)
  below = math.hypot(*(value - low for value, low, _ in numbers)) / len(numbers)
  above = math.hypot(*(high - value for value, _, high in numbers)) / len(numbers)
  return Estimate(value=mean, low=mean - below, high=mean + above, num_images=num_images)
