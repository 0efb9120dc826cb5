"""Certified subsets: the smallest prefix of an order that passes a fixed-sequence test on draws that no search had."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jax_sis.core import bounds
from jax_sis.core.completions import Completion
from jax_sis.core.drawing import Purpose
from jax_sis.core.guarantees import Claim, Guarantee, check_held_out, make_guarantee, stored_keys
from jax_sis.core.meshes import on_any_mesh
from jax_sis.core.order import FeatureOrder
from jax_sis.core.problem import Problem, check_answered
from jax_sis.core.questions import refuse_question
from jax_sis.core.subsets import Status, Subsets, check_order, make_subsets
from jax_sis.core.types import PredictFn
from jax_sis.core.unseen import CHOOSING, count_lanes, draw, draw_some, fold_keys

# Sizes that are tested by default, and how many times smaller than the largest the smallest of them is.
NUM_SIZES, RANGE_OF_SIZES = 16, 16
# Where the search has an estimate of the size needed: between which multiples of that all sizes lie.
HIGHEST, LOWEST = 1.75, 0.7


@on_any_mesh
def certified_subsets(
  predict_fn: PredictFn,
  params: Any,
  inputs: Float[Array, "B ..."] | Float[np.ndarray, "B ..."],
  order: FeatureOrder,
  *,
  completion: Completion,
  keys: Key[Array, "B"] | None = None,
  searched: Completion | None = None,
  rate: float = 0.9,
  level: float = 0.95,
  num_draws: int = 500,
  sizes: Sequence[int] | None = None,
) -> tuple[Subsets, Guarantee]:
  """The smallest prefix of each order that is certified to keep its class on so many draws of a completion.

  A fixed-sequence test: the sizes are fixed before the draws are made, and tested from the largest down, each at the
  full level on draws of its own, until the first that fails. The last that passed is certified, and the level holds
  over all of them. A size below one that failed is never claimed, since the rate is not monotone in the size. A further
  set of draws measures the rate of the subset that was found.

  Where the orders have an estimate of the rate (they were searched under a distribution), sizes near the one that it
  says is needed are tested; else sizes from the largest to a sixteenth of it, evenly in their logarithm. Both are
  among those that the search evaluated, without that of the whole input, which shows nothing of the completion.

  Args:
    predict_fn: as for `backselect`.
    params: the model's arrays.
    inputs: the inputs that the orders are of.
    order: of any search, or of attributions.
    completion: a distribution, such as `Images` of a pool that the search did not draw from.
    keys: as for `backselect`; by default those of the search.
    searched: as for `certify`.
    rate: the share of draws on which the class is to be kept.
    level: the probability with which that holds, of each image.
    num_draws: of each test, and of the measurement.
    sizes: what to test instead, in any order.

  Returns:
    The subsets, whose status is NOT_REACHED where no size was certified, and a certificate: its `rate` is what was
    measured, its bound the rate that was asked for, and 0 where nothing was certified. Those that hold together are
    counted by Bonferroni's correction, since it is the draws that chose the sizes.

  Raises:
    ValueError: the arguments do not fit together, or the completion is a constant or draws images that the search had.

  Examples:
    Two features keep the class on at least 90 % of normal noise in the place of the third:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights, inputs = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), jnp.ones((1, 3))
    >>> order, noise = jax_sis.backselect(predict_fn, weights, inputs), jax_sis.completions.Noise()
    >>> subsets, certificate = jax_sis.certified_subsets(predict_fn, weights, inputs, order, completion=noise)
    >>> subsets.mask.tolist(), certificate.is_certified.tolist()
    ([[True, False, True]], [True])
  """
  check_order(order)
  refuse_question(order.question, "order", "certified_subsets")
  claim = Claim(rate=rate, level=level, num_draws=num_draws)
  keys = stored_keys(order, keys)
  problem = check_answered(predict_fn, params, inputs, order, completion=completion, keys=keys)
  if problem.distribution is None:
    raise ValueError(
      "completion must be a distribution for certified_subsets, got a constant, on which a single look is enough; use "
      "sufficient_subsets(order, threshold) and certify."
    )
  check_held_out(problem.distribution, searched, problem.inputs, order, "order")
  return find_certified(problem, order, claim=claim, sizes=check_sizes(sizes, order))


def check_sizes(sizes: Any, order: FeatureOrder) -> tuple[int, ...] | None:
  """The sizes from the largest down.

  Raises:
    ValueError: they are not sizes that the order has.
  """
  if sizes is None:
    return None
  is_right = len(sizes) > 0 and all(
    isinstance(size, int | np.integer) and 0 < size <= order.sizes[-1] for size in sizes
  )
  if not is_right:
    raise ValueError(f"sizes must be integers between 1 and {order.sizes[-1]}, as the order has, got {sizes!r}.")
  return tuple(sorted({int(size) for size in sizes}, reverse=True))


def choose_sizes(order: FeatureOrder, rate: float) -> Int[Array, "B S"]:
  """The sizes to test in each image, from the largest down, each once; 0 stands after the last."""
  known = np.array([size for size in order.sizes if 0 < size < order.num_features] or [order.sizes[-1]])
  largest = int(known[-1])
  steps = np.linspace(0, 1, NUM_SIZES)
  wanted = jnp.broadcast_to(jnp.asarray(largest / RANGE_OF_SIZES**steps), (order.rank.shape[0], NUM_SIZES))
  if order.rate is not None:
    # The smallest size of which all sizes up to the highest one near it have estimates as high as asked.
    sizes = np.array(order.sizes)
    ends = np.searchsorted(sizes, HIGHEST * sizes, side="right")
    misses = jnp.pad(jnp.cumsum((order.rate < rate).astype(jnp.int32), axis=1), ((0, 0), (1, 0)))
    holds = (misses[:, ends] == misses[:, :-1]) & jnp.asarray((sizes > 0) & (sizes < order.num_features))[None]
    needed = jnp.asarray(sizes.astype(np.int32))[holds.argmax(1)]
    ratios = HIGHEST * (LOWEST / HIGHEST) ** np.linspace(0, 1, NUM_SIZES)
    near = jnp.minimum(needed[:, None].astype(wanted.dtype) * jnp.asarray(ratios, wanted.dtype)[None], largest)
    wanted = jnp.where(holds.any(1, keepdims=True), near, wanted)
  places = jnp.searchsorted(jnp.asarray(known), jnp.ceil(wanted).astype(jnp.int32))
  chosen = jnp.asarray(known.astype(np.int32))[jnp.minimum(places, len(known) - 1)]
  is_again = jnp.pad(chosen[:, 1:] == chosen[:, :-1], ((0, 0), (1, 0)))
  return -jnp.sort(-jnp.where(is_again, 0, chosen), axis=1)


class Progress(NamedTuple):
  """Where each image stands in its sequence of tests.

  Attributes:
    step: which size is next.
    is_done: whether its sequence is over.
    certified: the last size that passed; 0 where none did.
    p_value: the largest so far of those that passed; of the first where that failed.
  """

  step: Int[Array, "B"]
  is_done: Bool[Array, "B"]
  certified: Int[Array, "B"]
  p_value: Float[Array, "B"]


@functools.partial(jax.jit, static_argnames=("claim", "sizes"))
def find_certified(
  problem: Problem,
  order: FeatureOrder,
  num_added: Int[Array, ""] | None = None,
  *,
  claim: Claim,
  sizes: tuple[int, ...] | None,
) -> tuple[Subsets, Guarantee]:
  """`certified_subsets` on checked arguments; `num_added` as for `draw`."""
  if sizes is None:
    chosen = choose_sizes(order, claim.rate)
  else:
    chosen = jnp.broadcast_to(jnp.asarray(sizes, jnp.int32), (problem.num_images, len(sizes)))
  choosing = dataclasses.replace(problem, keys=fold_keys(problem, CHOOSING))
  progress = test_sizes(choosing, order, chosen, num_added, claim=claim)
  is_certified = progress.certified > 0
  num_judged = jnp.where(is_certified, progress.certified, chosen[:, 0])
  kept = order.rank < num_judged[:, None]
  draws = draw(choosing, kept, claim.num_draws, purpose=Purpose.MEASURE, num_added=num_added)
  measured = draws.confidence.mean(1)
  guarantee = make_guarantee(
    claim,
    is_judged=order.finite,
    is_certified=is_certified,
    rate=draws.keeps_class.mean(1, dtype=measured.dtype),
    rate_bound=jnp.where(is_certified, claim.rate, 0.0),
    confidence=measured,
    confidence_bound=jnp.full_like(measured, jnp.nan),
    num_judged=jnp.where(order.finite, kept.sum(1, dtype=jnp.int32), 0),
    p_value=progress.p_value,
    correction="bonferroni",
  )
  return read_certified(order, progress.certified), guarantee


def test_sizes(
  problem: Problem,
  order: FeatureOrder,
  sizes: Int[Array, "B S"],
  num_added: Int[Array, ""] | None,
  *,
  claim: Claim,
) -> Progress:
  """Tests the sizes of each image until one fails. Every image goes at its own speed: none waits for another."""
  num_lanes = count_lanes(problem, claim.num_draws)
  num_sizes = sizes.shape[1]
  needed = bounds.needed_successes(claim.num_draws, rate=claim.rate, level=claim.level)
  p_values = bounds.as_table(bounds.binomial_p_values(claim.num_draws, claim.rate), towards=2)

  def goes_on(progress: Progress) -> Bool[Array, ""]:
    return ~progress.is_done.all()

  def test_lanes(progress: Progress) -> Progress:
    # A stable sort: the images that are not done come first, in their order.
    lanes = jnp.argsort(progress.is_done, stable=True)[:num_lanes]
    step, is_done, certified, p_value = (array[lanes] for array in progress)
    size = sizes[lanes, step]
    kept = order.rank[lanes] < size[:, None]
    draws = draw_some(problem.take(lanes), kept, claim.num_draws, purpose=Purpose.TEST, num_added=num_added)
    num_keeping = draws.keeps_class.sum(1, dtype=jnp.int32)
    passes = num_keeping >= needed
    following = jnp.minimum(step + 1, num_sizes - 1)
    is_last = (step + 1 == num_sizes) | (sizes[lanes, following] == 0)
    counts = ~is_done & (passes | (step == 0))
    tested = Progress(
      step=following,
      is_done=is_done | ~passes | is_last,
      certified=jnp.where(~is_done & passes, size, certified),
      p_value=jnp.where(counts, jnp.maximum(p_value, p_values[num_keeping]), p_value),
    )
    return jax.tree.map(lambda array, lane: array.at[lanes].set(lane), progress, tested)

  nothing = jnp.full_like(order.target, 0, jnp.int32)
  p_value = jnp.full_like(order.confidence[:, 0], 0, jnp.result_type(float))
  start = Progress(step=nothing, is_done=~order.finite, certified=nothing, p_value=p_value)
  return jax.lax.while_loop(goes_on, test_lanes, start)


def read_certified(order: FeatureOrder, certified: Int[Array, "B"]) -> Subsets:
  """The prefixes of these sizes; none where the size is 0."""
  is_evaluated = jnp.asarray(order.sizes, jnp.int32)[None] == certified[:, None]
  confidence = jnp.where(is_evaluated, order.confidence, 0).sum(1)
  confidence = jnp.where(is_evaluated.any(1), confidence, jnp.nan)
  status = jnp.where(certified > 0, Status.OK, Status.NOT_REACHED)
  return make_subsets(order, certified, confidence, status, np.nan)
