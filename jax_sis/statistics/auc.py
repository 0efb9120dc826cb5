"""How well a number tells one kind of image from the others: the area under the ROC curve, with its interval."""

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float, Shaped

from jax_sis.statistics.estimates import MIN_IMAGES, Estimate, no_mean

__all__ = ["auc_difference", "auc_of"]

NO_BOTH = "not both kinds of images"
TOO_FEW = f"fewer than {MIN_IMAGES} images of a kind give no interval"
# Of a normal distribution, within 95 %.
NUM_DEVIATIONS = float(scipy.stats.norm.ppf(0.975))


def auc_of(scores: Shaped[np.ndarray, "N"], is_so: Bool[np.ndarray, "N"]) -> Estimate:
  """How often an image that is so has the higher score, of one that is and one that is not; ties count half.

  Source: DeLong, DeLong and Clarke-Pearson 1988, Comparing the areas under two or more correlated receiver operating
  characteristic curves, for the interval.

  Args:
    scores: a number for each image, in any unit.
    is_so: which kind each is of.

  Returns:
    The area, 0..1, with its interval at 95 %; without a value where there are not both kinds, and without an interval
    where there are fewer than five of one.

  Examples:
    The two that are so come first and third of four:

    >>> import numpy as np
    >>> from jax_sis.statistics import auc
    >>> auc.auc_of(np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False])).value
    0.75
  """
  return summarise(*make_parts(scores, is_so), low=0.0)


def auc_difference(
  first: Shaped[np.ndarray, "N"], second: Shaped[np.ndarray, "N"], is_so: Bool[np.ndarray, "N"]
) -> Estimate:
  """The area of the first score minus that of the second on the same images, with the interval of paired images.

  Args:
    first: a number for each image.
    second: another, of the same images.
    is_so: which kind each is of.

  Returns:
    The difference, -1..1, as `auc_of` gives areas.

  Examples:
    The first score tells both kinds apart, the second not at all:

    >>> import numpy as np
    >>> from jax_sis.statistics import auc
    >>> is_so = np.arange(12) % 2 == 0
    >>> difference = auc.auc_difference(is_so.astype(float), np.zeros(12), is_so)
    >>> f"{difference:.2f}"
    '0.50 [0.50, 0.50]'
  """
  pairs = zip(make_parts(first, is_so), make_parts(second, is_so), strict=True)
  return summarise(*(one - other for one, other in pairs), low=-1.0)


def make_parts(
  scores: Shaped[np.ndarray, "N"], is_so: Bool[np.ndarray, "N"]
) -> tuple[Float[np.ndarray, "P"], Float[np.ndarray, "Q"]]:
  """Of each image that is so the share of the others below it, and of each other one the share of those above it."""
  rank_fn = scipy.stats.rankdata
  num_so, num_others = int(is_so.sum()), int((~is_so).sum())
  ranks = rank_fn(scores)
  below = (ranks[is_so] - rank_fn(scores[is_so])) / max(num_others, 1)
  above = 1 - (ranks[~is_so] - rank_fn(scores[~is_so])) / max(num_so, 1)
  return below, above


def summarise(below: Float[np.ndarray, "P"], above: Float[np.ndarray, "Q"], *, low: float) -> Estimate:
  """The mean of the parts, with an interval that stays between `low` and 1."""
  num_images = len(below) + len(above)
  if not len(below) or not len(above):
    return no_mean(NO_BOTH, num_images)
  value = float(below.mean())
  if min(len(below), len(above)) < MIN_IMAGES:
    return Estimate(value=value, low=None, high=None, num_images=num_images, reason=TOO_FEW)
  wide = NUM_DEVIATIONS * float(np.sqrt(below.var(ddof=1) / len(below) + above.var(ddof=1) / len(above)))
  return Estimate(value=value, low=max(value - wide, low), high=min(value + wide, 1.0), num_images=num_images)
