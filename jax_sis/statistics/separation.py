"""How well a score tells two groups apart: area under the ROC curve, and average precision."""

import dataclasses

import numpy as np
from jaxtyping import Float

from jax_sis.statistics.auc import auc_of

__all__ = ["Separation", "separate"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Separation:
  """How well a score tells positives from negatives; None where a group is empty.

  Attributes:
    area: under the ROC curve: the chance that a positive scores higher than a negative, ties counted half.
    precision: average precision of the positives, ranked by the score, ties as one rank.
    num_positives: how many.
    num_negatives: how many.

  Examples:
    >>> import numpy as np
    >>> from jax_sis.statistics import separation
    >>> separation.separate(np.array([2.0]), np.array([]))
    Separation(area=None, precision=None, num_positives=1, num_negatives=0)
  """

  area: float | None
  precision: float | None
  num_positives: int
  num_negatives: int


def separate(positives: Float[np.ndarray, "P"], negatives: Float[np.ndarray, "N"]) -> Separation:
  """How well these finite scores tell the groups apart.

  Args:
    positives: a score for each positive, in any unit; positives should have the higher ones.
    negatives: the same of the negatives.

  Returns:
    The area and the average precision; None where a group is empty.

  Examples:
    >>> import numpy as np
    >>> from jax_sis.statistics import separation
    >>> separation.separate(np.array([3.0, 1.0]), np.array([2.0, 0.0])).area
    0.75
  """
  counts = {"num_positives": len(positives), "num_negatives": len(negatives)}
  if not len(positives) or not len(negatives):
    return Separation(area=None, precision=None, **counts)
  scores = np.concatenate([positives, negatives])
  area = auc_of(scores, np.arange(len(scores)) < len(positives)).value
  values, places = np.unique(-scores, return_inverse=True)
  hits = np.bincount(places[: len(positives)], minlength=len(values))
  precision = hits.cumsum() / np.bincount(places, minlength=len(values)).cumsum()
  return Separation(area=area, precision=float((hits * precision).sum() / len(positives)), **counts)
