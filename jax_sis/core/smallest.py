"""The smallest evidence: grow, prune and exchange in one loop."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int8, Key, Shaped

from jax_sis.core import validation
from jax_sis.core.backselect import run_backward
from jax_sis.core.chunks import settle_chunk_size
from jax_sis.core.completions import Completion
from jax_sis.core.features import Shape
from jax_sis.core.forward import grow, read_growth
from jax_sis.core.local_search import Exchanges, LocalSettings
from jax_sis.core.meshes import on_any_mesh
from jax_sis.core.minimise import DEFAULT_SETTINGS, check_exchanges, read_smallest, run_minimise
from jax_sis.core.problem import Problem, check_problem
from jax_sis.core.questions import DEFAULT_MARGIN, PASS_MARK, QuestionName, check_question
from jax_sis.core.scores import log_odds, lost_by
from jax_sis.core.searches import Forward, Screened
from jax_sis.core.subsets import Status, Subsets, explain_unsearched, sufficient_subsets
from jax_sis.core.types import PredictFn, Removal, ScoreName, Targets


class Effort(NamedTuple):
  """How long to look for the smallest evidence.

  Attributes:
    forward: how subsets grow, at the threshold that is asked for, whatever its own is.
    exchanges: what is tried to make them smaller, as for `minimise`.

  Examples:
    A quicker look than `QUICK`: fewer candidates, and no exchanges; pass it as `effort=` to `smallest_subsets`.

    >>> import jax_sis
    >>> effort = jax_sis.Effort(forward=jax_sis.Forward(candidates=8), exchanges=())
    >>> [one.forward.candidates for one in (effort, jax_sis.QUICK, jax_sis.THOROUGH)]
    [8, 64, 256]
  """

  forward: Forward
  exchanges: Exchanges


QUICK = Effort(Forward(candidates=DEFAULT_SETTINGS.candidates), DEFAULT_SETTINGS.exchanges)


THOROUGH = Effort(Forward(candidates=256), ((2, 8), (4, 16), (6, 16)))

# Of absent features one alone often says nothing, so that growth does not get on; docs/removal.md has the figures. What
# has not grown to the threshold by so many features is searched for backwards.
GROWN_INSIDE = 32
BACKWARDS = Screened(candidates=16, gradient_until=256, gradient_per_step=8)


@on_any_mesh
def smallest_subsets(
  predict_fn: PredictFn,
  params: Any,
  inputs: Float[Array, "B ..."] | Float[np.ndarray, "B ..."],
  targets: Targets = None,
  *,
  threshold: float = 0.99,
  effort: Effort = QUICK,
  baseline: float | Shaped[Array, "..."] | np.ndarray = 0.0,
  grid: tuple[int, ...] | None = None,
  available: Bool[Array, "..."] | Bool[np.ndarray, "..."] | None = None,
  score: ScoreName = "log_odds",
  completion: Completion | None = None,
  keys: Key[Array, "B"] | None = None,
  removal: Removal = "value",
  question: QuestionName = "sufficient",
  margin: float = DEFAULT_MARGIN,
  features: Shape | None = None,
) -> Subsets:
  """The smallest evidence that a search finds: few features on which the classifier alone is confident.

  Or, by `question`, few features without which the class is lost, or few that are both.

  From the masked input, the feature that raises the score most is added until the threshold is reached
  (`forward_select`). Then features are dropped and exchanged (`minimise`) until nothing that is tried gives a smaller
  subset. No single feature can be dropped from the result; that no smaller subset exists, only `certify` can say, for
  very small ones. Each image goes through this at its own speed.

  Where removed features are absent (`removal`), a sufficient subset that does not grow is instead what a backward
  search leaves, which is then made smaller in the same way.

  It can be called under `jit`, `vmap` and `pmap`, as `backselect` can.

  Args:
    predict_fn: `(params, inputs) -> logits [B, K]`, see PredictFn. It must be hashable, as functions are. Programs are
      compiled for the object: a lambda or `functools.partial` made anew for each call is compiled anew.
    params: the model's arrays.
    inputs: normalised inputs, floating point, with a leading batch axis.
    targets: the class in question; by default the class predicted on the whole input.
    threshold: the softmax probability that each subset must reach, strictly between 0 and 1. Contrastive subsets need
      reach none.
    effort: `QUICK`, `THOROUGH`, or settings of your own.
    baseline: as for `backselect`.
    grid: as for `backselect`.
    available: features that subsets may hold, `[B, F]` or `[B, *grid]`.
    score: as for `backselect`.
    completion: as for `backselect`.
    keys: as for `backselect`.
    removal: as for `backselect`.
    question: what a subset must do: "sufficient": alone it makes the classifier confident; "contrastive": with it alone
      masked, whatever is available to subsets, another class is predicted; "both": one subset does both.
    margin: by how much that class must then be ahead of the target, in log-odds of the two, above 0: 1 is e times as
      probable.
    features: as for `backselect`.

  Returns:
    A subset for each image, or an empty one with its reason in `status`: BELOW_THRESHOLD where all available features
    together do not reach the threshold, or the class is not predicted on the whole input and cannot be lost;
    NOT_REACHED where `effort.forward.max_features` do not (sufficient subsets of absent features may be larger).

  Raises:
    ValueError: as for `backselect`, or a setting is out of range.

  Examples:
    The two strongest of three features make this classifier certain to 97 %; without the second of them it is not:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    >>> subsets = jax_sis.smallest_subsets(predict_fn, weights, jnp.ones((1, 3)), threshold=0.97)
    >>> subsets.mask.tolist()
    [[True, False, True]]
  """
  threshold = validation.check_static_threshold(threshold, "smallest_subsets")
  validation.check_kind("effort", effort, Effort, "QUICK, THOROUGH or Effort(forward=Forward(...), exchanges=...)")
  validation.check_kind("effort.forward", effort.forward, Forward, "Forward(...)")
  exchanges = check_exchanges(effort.exchanges)
  problem = check_problem(
    predict_fn,
    params,
    inputs,
    targets,
    baseline=baseline,
    grid=grid,
    available=available,
    score=score,
    completion=completion,
    keys=keys,
    removal=removal,
    question=check_question(question, threshold, margin, score),
    features=features,
  )
  search = dataclasses.replace(effort.forward, threshold=threshold)
  return search_smallest(problem, confidence_of_available(problem), search=search, exchanges=exchanges)


@jax.jit
def confidence_of_available(problem: Problem) -> Float[Array, "B"]:
  """The softmax probability of the target with all available features shown; of another question, see below."""
  if problem.question is not None:
    return jax.nn.sigmoid(score_whole(problem))
  return jax.nn.sigmoid(log_odds(problem.predict_masked(problem.available), problem.targets))


def score_whole(problem: Problem) -> Float[Array, "B"]:
  """At least 0 where another question can be asked: the class is predicted on the whole input, and suffices there."""
  assert problem.question is not None
  plain = dataclasses.replace(problem, question=None)
  leads = -lost_by(plain.predict_masked(jnp.ones_like(problem.available)), problem.targets)
  if problem.question.kind == "contrastive":
    return leads
  asked = math.log(problem.question.threshold / (1 - problem.question.threshold))
  return jnp.minimum(leads, log_odds(plain.predict_masked(problem.available), problem.targets) - asked)


def search_smallest(
  problem: Problem, confidence: Float[Array, "B"], *, search: Forward, exchanges: Exchanges
) -> Subsets:
  """`smallest_subsets` on a checked problem and its `confidence_of_available`.

  Images that do not reach the search's threshold as a whole are not searched, and say so.
  """
  threshold = search.threshold if problem.question is None else PASS_MARK
  suffices = confidence >= threshold
  asked = problem.restrict(suffices[:, None])
  if problem.removal == "value" or problem.question is not None:
    subsets = run_smallest(asked, search=search, exchanges=exchanges)
  else:
    growth = dataclasses.replace(search, max_features=min(search.max_features, GROWN_INSIDE))
    subsets = run_smallest(asked, search=growth, exchanges=exchanges)
    is_stuck = suffices & (subsets.status == Status.NOT_REACHED)
    subsets = search_backwards(asked, subsets, is_stuck, search=search, exchanges=exchanges)
  if problem.question is not None:
    # A class that is lost on the whole input is lost without any subset.
    status = jnp.where(suffices, subsets.status, Status.NOT_REACHED).astype(subsets.status.dtype)
    subsets = dataclasses.replace(subsets, status=status)
  return explain_unsearched(subsets, confidence, threshold)


@functools.partial(jax.jit, static_argnames=("search", "exchanges"))
def run_smallest(problem: Problem, *, search: Forward, exchanges: Exchanges) -> Subsets:
  """`forward_select`, `sufficient_subsets` and `minimise` in one loop, in which no image waits for another.

  Trials are compared by the problem's score throughout.
  """
  state = grow(problem, search, is_pruned=True, exchanges=exchanges)
  order = read_growth(state, problem)
  subsets = sufficient_subsets(order, search.threshold if problem.question is None else None)
  return read_smallest(state, subsets, problem)


@functools.partial(jax.jit, static_argnames=("search", "exchanges"))
def search_backwards(
  problem: Problem, subsets: Subsets, is_stuck: Bool[Array, "B"], *, search: Forward, exchanges: Exchanges
) -> Subsets:
  """What a backward search leaves of the images whose subsets did not grow, made smaller; the others as they are."""
  chunk_size = settle_chunk_size(search.chunk_size, problem.inputs)
  num_lanes = min(max(chunk_size // BACKWARDS.candidates, 1), problem.num_images)
  backwards = dataclasses.replace(BACKWARDS, chunk_size=chunk_size).phases(problem.num_features)

  def search_lanes(
    carry: tuple[Bool[Array, "B"], Bool[Array, "B F"], Int8[Array, "B"]],
  ) -> tuple[Bool[Array, "B"], Bool[Array, "B F"], Int8[Array, "B"]]:
    is_left, kept, status = carry
    lanes = jnp.argsort(~is_left, stable=True)[:num_lanes]
    order = run_backward(problem.take(lanes).restrict(is_left[lanes, None]), phases=backwards)
    found = sufficient_subsets(order, search.threshold)
    is_new = is_left[lanes]
    kept = kept.at[lanes].set(jnp.where(is_new[:, None], found.kept, kept[lanes]))
    status = status.at[lanes].set(jnp.where(is_new, found.status, status[lanes]))
    return is_left.at[lanes].set(False), kept, status

  carry = is_stuck, jnp.zeros_like(problem.available), subsets.status
  _, kept, status = jax.lax.while_loop(lambda carry: carry[0].any(), search_lanes, carry)
  found = dataclasses.replace(
    subsets,
    mask=kept.reshape(subsets.mask.shape),
    status=jnp.where(is_stuck, status, Status.NOT_REACHED).astype(status.dtype),
  )
  settings = LocalSettings(candidates=search.candidates, chunk_size=chunk_size, is_pruned=True, exchanges=exchanges)
  smaller = run_minimise(problem, found, None, settings=settings)
  choose = functools.partial(jnp.where, is_stuck)
  return dataclasses.replace(
    subsets,
    mask=jnp.where(is_stuck.reshape(-1, *[1] * len(problem.grid)), smaller.mask, subsets.mask),
    num_kept=choose(smaller.num_kept, subsets.num_kept),
    confidence=choose(smaller.confidence, subsets.confidence),
    status=choose(smaller.status, subsets.status),
  )
