"""Stability: does a subset keep its class when other true features of the same image come in?"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int8, Key

from jax_sis.core import bounds, validation
from jax_sis.core.batch import PerImage
from jax_sis.core.certified import check_sizes, find_certified
from jax_sis.core.completion_checks import check_keys
from jax_sis.core.completions import Completion
from jax_sis.core.drawing import Purpose
from jax_sis.core.guarantees import Claim, Guarantee, check_completion_given, check_held_out, stored_keys
from jax_sis.core.meshes import on_any_mesh
from jax_sis.core.order import FeatureOrder
from jax_sis.core.problem import Problem, check_answered
from jax_sis.core.questions import refuse_question
from jax_sis.core.subsets import Status, Subsets, check_order
from jax_sis.core.types import PredictFn
from jax_sis.core.unseen import draw


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Stability(PerImage):
  """What becomes of each subset when A numbers of other features show their true value. NaN without a subset.

  Attributes:
    keeps_class: the share of draws on which the target is still predicted.
    keeps_class_bound: its lower bound (Clopper and Pearson), of each image and number on its own.
    is_sufficient: the share on which the confidence still reaches the subset's threshold; NaN where it has none.
    confidence: the mean probability of the target.
    status: the subsets' own status.
    num_added: how many features were added.
    num_draws: of each image and number.
    level: of the bounds.

  Examples:
    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights, inputs = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), jnp.ones((1, 3))
    >>> subsets = jax_sis.sufficient_subsets(jax_sis.backselect(predict_fn, weights, inputs), 0.9)
    >>> jax_sis.stability(predict_fn, weights, inputs, subsets, (1, 2))
    Stability(1 image, 1 with a subset, 100 draws each; class kept after 1 more: 1.000, 2 more: 1.000)
  """

  keeps_class: Float[Array, "B A"]
  keeps_class_bound: Float[Array, "B A"]
  is_sufficient: Float[Array, "B A"]
  confidence: Float[Array, "B A"]
  status: Int8[Array, "B"]
  num_added: tuple[int, ...] = dataclasses.field(metadata={"static": True})
  num_draws: int = dataclasses.field(metadata={"static": True})
  level: float = dataclasses.field(metadata={"static": True})

  def _describe(self) -> str:
    is_ok = np.asarray(self.status) == Status.OK
    found = f"{self._count()}, {is_ok.sum()} with a subset, {self.num_draws} draws each"
    if not is_ok.any():
      return found
    means = zip(self.num_added, np.asarray(self.keeps_class)[is_ok].mean(0), strict=True)
    return f"{found}; class kept after {', '.join(f'{count} more: {share:.3f}' for count, share in means)}"

  def _make_table(self) -> tuple[Sequence[str], list[list[str]]]:
    shares, lower = np.asarray(self.keeps_class), np.asarray(self.keeps_class_bound)
    rows = [
      [str(i), *(f"{share:.3f}, at least {bound:.3f}" for share, bound in zip(shares[i], lower[i], strict=True))]
      for i in range(len(self))
    ]
    return ("image", *(f"class kept after {count} more" for count in self.num_added)), rows


@on_any_mesh
def stability(
  predict_fn: PredictFn,
  params: Any,
  inputs: Float[Array, "B ..."] | Float[np.ndarray, "B ..."],
  subsets: Subsets,
  num_added: Sequence[int] = (1, 3, 10, 50),
  *,
  num_draws: int = 100,
  level: float = 0.95,
  completion: Completion | None = None,
  keys: Key[Array, "B"] | None = None,
  searched: Completion | None = None,
) -> Stability:
  """How often each subset keeps its class after so many other features, at random, show their true value as well.

  Where it does so too rarely, more of the same order is the first remedy: subsets at a higher threshold, or with a
  margin m in log-odds, `sufficient_subsets(order, sigmoid(logit(threshold) + m))`, or those of `stable_subsets`.

  Args:
    predict_fn: as for `backselect`.
    params: the model's arrays.
    inputs: the inputs that the subsets were found on.
    subsets: what to add to.
    num_added: how many features are added; where fewer are masked, all of these.
    num_draws: of each image and number; a larger addition holds the smaller ones of the same draw.
    level: of the lower bounds, each on its own.
    completion: what the other masked features show; by default the subsets' baseline.
    keys: as for `backselect`; by default those of the search.
    searched: as for `certify`.

  Returns:
    The shares of draws for each image and number, with lower bounds.

  Raises:
    ValueError: the arguments do not fit together.

  Examples:
    The second feature speaks against the class: where it comes in, the first alone loses it.

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights, inputs = jnp.array([[3.0, 0.0], [-4.0, 0.0], [2.0, 0.0]]), jnp.ones((1, 3))
    >>> subsets = jax_sis.keep_fraction(jax_sis.backselect(predict_fn, weights, inputs), 0.3)
    >>> found = jax_sis.stability(predict_fn, weights, inputs, subsets, (1, 2))
    >>> bool(0.3 < found.keeps_class[0, 0] < 0.7), float(found.keeps_class[0, 1])
    (True, 1.0)
  """
  validation.check_kind("subsets", subsets, Subsets, "Subsets, as sufficient_subsets(order, threshold) gives")
  for count in num_added:
    validation.check_positive_integer("num_added", count)
  if not len(num_added):
    raise ValueError("num_added must hold at least one number of features, got none.")
  validation.check_positive_integer("num_draws", num_draws)
  validation.check_threshold(level, "level")
  problem = check_adding(predict_fn, params, inputs, subsets, completion, keys, searched, name="subsets")
  return measure_stability(problem, subsets, num_added=tuple(num_added), num_draws=num_draws, level=level)


def check_adding(
  predict_fn: PredictFn,
  params: Any,
  inputs: Any,
  found: FeatureOrder | Subsets,
  completion: Completion | None,
  keys: Any,
  searched: Completion | None,
  *,
  name: str,
) -> Problem:
  """The problem, with keys of its images also where masked features show a constant.

  Raises:
    ValueError: the arguments do not fit together.
  """
  refuse_question(found.question, name, "stability")
  check_completion_given(found, completion, name)
  keys = stored_keys(found, keys)
  problem = check_answered(predict_fn, params, inputs, found, completion=completion, keys=keys)
  check_held_out(problem.distribution, searched, problem.inputs, found, name)
  return dataclasses.replace(problem, keys=check_keys(keys, problem.num_images))


@functools.partial(jax.jit, static_argnames=("num_added", "num_draws", "level"))
def measure_stability(
  problem: Problem, subsets: Subsets, *, num_added: tuple[int, ...], num_draws: int, level: float
) -> Stability:
  """`stability` on checked arguments."""
  threshold = subsets.threshold[:, None]
  lower_bounds = bounds.as_table(bounds.clopper_pearson(num_draws, level), towards=-1)

  def measure(count: Int[Array, ""]) -> tuple[Float[Array, "B"], ...]:
    draws = draw(problem, subsets.kept, num_draws, purpose=Purpose.TEST, num_added=count)
    num_keeping = draws.keeps_class.sum(1, dtype=jnp.int32)
    passing = (draws.confidence >= threshold).mean(1, dtype=lower_bounds.dtype)
    passing = jnp.where(jnp.isnan(threshold[:, 0]), jnp.nan, passing)
    return num_keeping / num_draws, lower_bounds[num_keeping], passing, draws.confidence.mean(1)

  is_ok = (subsets.status == Status.OK)[:, None]
  measured = jax.lax.map(measure, jnp.asarray(num_added, jnp.int32))
  shares, lower, passing, confidence = (jnp.where(is_ok, values.T, jnp.nan) for values in measured)
  return Stability(
    keeps_class=shares,
    keeps_class_bound=lower,
    is_sufficient=passing,
    confidence=confidence,
    status=subsets.status,
    num_added=num_added,
    num_draws=num_draws,
    level=level,
  )


@on_any_mesh
def stable_subsets(
  predict_fn: PredictFn,
  params: Any,
  inputs: Float[Array, "B ..."] | Float[np.ndarray, "B ..."],
  order: FeatureOrder,
  *,
  num_added: int = 10,
  completion: Completion | None = None,
  keys: Key[Array, "B"] | None = None,
  searched: Completion | None = None,
  rate: float = 0.9,
  level: float = 0.95,
  num_draws: int = 500,
  sizes: Sequence[int] | None = None,
) -> tuple[Subsets, Guarantee]:
  """The smallest prefix of each order that is certified to keep its class after other true features come in.

  By the test of `certified_subsets`, on draws of the features that are added.

  Args:
    predict_fn: as for `backselect`.
    params: the model's arrays.
    inputs: the inputs that the orders are of.
    order: of any search, or of attributions.
    num_added: how many features are added, as for `stability`.
    completion: what the other masked features show; by default the order's baseline.
    keys: as for `backselect`; by default those of the search.
    searched: as for `certify`.
    rate: the share of draws on which the class is to be kept.
    level: the probability with which that holds, of each image.
    num_draws: of each test, and of the measurement.
    sizes: as for `certified_subsets`.

  Returns:
    As `certified_subsets` does.

  Raises:
    ValueError: the arguments do not fit together.

  Examples:
    With the third feature beside the first, the second takes the class away no more:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights, inputs = jnp.array([[3.0, 0.0], [-4.0, 0.0], [2.0, 0.0]]), jnp.ones((1, 3))
    >>> order = jax_sis.backselect(predict_fn, weights, inputs)
    >>> subsets, guarantee = jax_sis.stable_subsets(predict_fn, weights, inputs, order, num_added=1)
    >>> subsets.mask.tolist(), guarantee.is_certified.tolist()
    ([[True, False, True]], [True])
  """
  check_order(order)
  validation.check_positive_integer("num_added", num_added)
  claim = Claim(rate=rate, level=level, num_draws=num_draws)
  sizes = check_sizes(sizes, order)
  problem = check_adding(predict_fn, params, inputs, order, completion, keys, searched, name="order")
  return find_certified(problem, order, jnp.asarray(num_added, jnp.int32), claim=claim, sizes=sizes)
