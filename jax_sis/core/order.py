"""FeatureOrder: the nested family of subsets that one search finds."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, UInt32

from jax_sis.core import masking
from jax_sis.core.batch import PerImage, make_picture
from jax_sis.core.features import describe_features, lay_out
from jax_sis.core.label_maps import LabelMap
from jax_sis.core.linear import Linear
from jax_sis.core.questions import Question
from jax_sis.core.types import Removal, ScoreName

# The rank of a feature that the search did not order: one that was not available, or that a search which stops
# early did not reach. Above every count, so that `rank < count` never keeps it.
NOT_RANKED = np.iinfo(np.int32).max


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class FeatureOrder(PerImage):
  """Features of each image from the most to the least needed, and the confidence on each prefix of that order.

  The subset of size n keeps the features of rank below n. One order answers every threshold and every budget.

  Attributes:
    rank: 0 is the feature needed most (backward: the one removed last). A permutation of 0..F-1 where all features
      were available; NOT_RANKED for a feature that was never ordered.
    confidence: softmax probability of the target with the `sizes[t]` most needed features kept and the rest masked.
      Where fewer features were available than `sizes[t]`, that of all the available ones. Of another question: 0.5 and
      more where these features answer it.
    target: the class whose confidence the search kept up.
    finite: False where a logit or gradient was NaN or infinite on the way; the order of such an image means nothing.
    baseline: what masked features show, with as many axes as the inputs (of length 1 where it broadcasts). Where they
      showed a distribution, what they are painted in.
    rate: under a distribution, the share of its draws on which the target was predicted at each size; else None. It
      and the confidence are means over five sizes, since the smallest that passes would else be the luckiest.
    keys: under a distribution, the data of the images' keys; else None.
    features: what a feature is, where that is no part of a grid: a label map or a basis.
    sizes: the subset sizes that were evaluated, ascending, from 0 (the baseline alone) and, backward, to F.
    grid: the mask's shape.
    score: what the search maximised.
    removal: how masked features were removed.
    question: what the search asked; None for sufficient subsets.

  Examples:
    The confidence, in per cent, on no feature, on the one needed most, on two, and on all three:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    >>> order = jax_sis.backselect(predict_fn, weights, jnp.ones((1, 3)))
    >>> order.sizes, (100 * order.confidence).round().astype(int).tolist()
    ((0, 1, 2, 3), [[50, 95, 99, 100]])
  """

  rank: Int[Array, "B F"]
  confidence: Float[Array, "B T"]
  target: Int[Array, "B"]
  finite: Bool[Array, "B"]
  baseline: Float[Array, "B ..."]
  rate: Float[Array, "B T"] | None = None
  keys: UInt32[Array, "B N"] | None = None
  features: LabelMap | Linear | None = None
  sizes: tuple[int, ...] = dataclasses.field(metadata={"static": True})
  grid: tuple[int, ...] = dataclasses.field(metadata={"static": True})
  score: ScoreName = dataclasses.field(metadata={"static": True})
  removal: Removal = dataclasses.field(default="value", metadata={"static": True})
  question: Question | None = dataclasses.field(default=None, metadata={"static": True})

  @property
  def num_features(self) -> int:
    """F, the number of features of an image."""
    return masking.num_features(self.grid)

  @property
  def is_complete(self) -> bool:
    """Whether the order reaches the full input, as every backward search does."""
    return self.sizes[-1] == self.num_features

  def _describe(self) -> str:
    found = f"{self._count()}, {describe_features(self.features, self.grid)}, {self.num_features} features"
    found += f", {self.score}; sizes 0 to {self.sizes[-1]}, {len(self.sizes)} of them"
    num_lost = len(self) - int(np.sum(np.asarray(self.finite)))
    return found + (f"; {num_lost} not finite" if num_lost else "")

  def _make_table(self) -> tuple[Sequence[str], list[list[str]]]:
    heat = lay_out(rank_to_heat(np.asarray(self.rank)), self.features, self.grid)
    target, confidence = np.asarray(self.target), np.asarray(self.confidence[:, -1])
    rows = [[str(i), str(target[i]), f"{confidence[i]:.4f}", make_picture(heat[i])] for i in range(len(self))]
    return ("image", "target", f"confidence on {self.sizes[-1]}", "order, white is needed most"), rows


def rank_to_heat(rank: Integer[np.ndarray, "B F"]) -> Float[np.ndarray, "B F"]:
  """1 where a feature is needed most, 0 where it is needed least or was not ordered."""
  # Logarithmic, since the few most needed features matter most.
  largest = np.log1p(rank.shape[1])
  return 1 - np.minimum(np.log1p(rank.astype(np.float64)) / largest, 1)
