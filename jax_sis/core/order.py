"""FeatureOrder: the nested family of subsets that one search finds."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jax_sis.core import masking
from jax_sis.core.types import ScoreName

# The rank of a feature that the search did not order: one that was not available, or that a search which stops
# early did not reach. Above every count, so that `rank < count` never keeps it.
NOT_RANKED = np.iinfo(np.int32).max


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureOrder:
  """Features of each image from the most to the least needed, and the confidence on each prefix of that order.

  The subset of size n keeps the features of rank below n. One order answers every threshold and every budget.

  Attributes:
    rank: 0 is the feature needed most (backward: the one removed last). A permutation of 0..F-1 where all features
      were available; NOT_RANKED for a feature that was never ordered.
    confidence: softmax probability of the target with the `sizes[t]` most needed features kept and the rest masked.
      Where fewer features were available than `sizes[t]`, that of all the available ones.
    target: the class whose confidence the search kept up.
    finite: False where a logit or gradient was NaN or infinite on the way; the order of such an image means nothing.
    baseline: what masked features show, with as many axes as the inputs (of length 1 where it broadcasts).
    sizes: the subset sizes that were evaluated, ascending, from 0 (the baseline alone) and, backward, to F.
    grid: the mask's shape.
    score: what the search maximised.
  """

  rank: Int[Array, "B F"]
  confidence: Float[Array, "B T"]
  target: Int[Array, "B"]
  finite: Bool[Array, "B"]
  baseline: Float[Array, "B ..."]
  sizes: tuple[int, ...] = dataclasses.field(metadata={"static": True})
  grid: tuple[int, ...] = dataclasses.field(metadata={"static": True})
  score: ScoreName = dataclasses.field(metadata={"static": True})

  @property
  def num_features(self) -> int:
    """F, the number of features of an image."""
    return masking.num_features(self.grid)

  @property
  def is_complete(self) -> bool:
    """Whether the order reaches the full input, as every backward search does."""
    return self.sizes[-1] == self.num_features
