"""Local search for small sufficient subsets, each image in a mode of its own: grow, prune, exchange.

A round works on the first few images that are not done, so that none waits for another: one gradient names what could
be added, and forward passes try that, or try what could be dropped. Whatever the modes are, the compiled program
holds the classifier three times: for the gradient, forward and back, and for the trials.
"""

import enum
import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int8

from jax_sis.core.chunks import settle_chunk_size
from jax_sis.core.order import NOT_RANKED
from jax_sis.core.problem import Problem
from jax_sis.core.scores import to_probability
from jax_sis.core.trials import best_features, differentiate_additions, score_flips, spread_scores
from jax_sis.core.types import ScoreName

# How many kept features an exchange takes out, and how many such exchanges are tried.
Exchanges = tuple[tuple[int, int], ...]


class Mode(enum.IntEnum):
  """What a search is doing with an image.

  GROW: adds the feature that raises the score most, until the subset passes or is as large as it may be.
  PRUNE: drops the feature whose loss leaves the score highest, as long as the subset passes without it.
  DONE: nothing more to try.
  """

  GROW = 0
  PRUNE = 1
  DONE = 2


class LocalSettings(NamedTuple):
  """How far a local search looks.

  Attributes:
    candidates: masked features that the gradient names and forward passes try.
    chunk_size: masked copies at a time; by default what suits the platform.
    is_pruned: whether a subset that passes is pruned.
    exchanges: what is tried on a subset that cannot be pruned; see Exchanges.
  """

  candidates: int
  chunk_size: int | None = None
  is_pruned: bool = False
  exchanges: Exchanges = ()


class LocalState(NamedTuple):
  """Where each image stands.

  Attributes:
    mode: see Mode.
    kept: the subset that is grown or pruned.
    smallest: the smallest subset so far that passes; empty where there is none.
    score: of that subset; meaningful where it was pruned.
    without_each: the score of that subset without each of its features, once it cannot be pruned; -inf elsewhere.
    num_exchanges: how many were tried on it in vain.
    rank: the order in which the first growth added features.
    confidence: of each prefix of that order, from the empty one; NaN beyond its last feature.
    finite: False where the first growth met a number that is not finite.
  """

  mode: Int8[Array, "B"]
  kept: Bool[Array, "B F"]
  smallest: Bool[Array, "B F"]
  score: Float[Array, "B"]
  without_each: Float[Array, "B F"]
  num_exchanges: Int[Array, "B"]
  rank: Int[Array, "B F"]
  confidence: Float[Array, "B T"]
  finite: Bool[Array, "B"]


class Trial(NamedTuple):
  """What a round found out about the images that it worked on.

  Attributes:
    score: on what is kept now.
    is_finite: whether that and the gradient are numbers.
    features: those tried, each of them added or dropped alone; F where there was none to try.
    scores: on what would be kept then; -inf where there was none to try, or the score is not a number.
    are_finite: whether all scores are numbers.
    confirmed: where masked features show a distribution, the best score again, on draws that did not choose it.
  """

  score: Float[Array, "B"]
  is_finite: Bool[Array, "B"]
  features: Int[Array, "B P"]
  scores: Float[Array, "B P"]
  are_finite: Bool[Array, "B"]
  confirmed: Float[Array, "B"] | None = None

  def deciding_score(self, best: Int[Array, ""]) -> Float[Array, ""]:
    """The score of the best change of one image that says whether the subset passes with it."""
    return self.scores[best] if self.confirmed is None else self.confirmed


def start(subset: Bool[Array, "B F"], mode: Int[Array, "B"], max_features: int) -> LocalState:
  """The beginning: sufficient subsets to prune, empty ones to grow up to `max_features`."""
  num_images, num_features = subset.shape
  unknown = jnp.full_like(subset, -jnp.inf, jnp.result_type(float))
  return LocalState(
    mode=mode.astype(jnp.int8),
    kept=subset,
    smallest=subset,
    score=unknown[:, 0],
    without_each=unknown,
    num_exchanges=jnp.full_like(mode, 0, jnp.int32),
    rank=jnp.full_like(subset, NOT_RANKED, jnp.int32),
    confidence=jnp.full_like(unknown, jnp.nan, shape=(num_images, min(max_features, num_features) + 1)),
    finite=jnp.full_like(mode, True, bool),
  )


def run_local_search(
  problem: Problem, *, state: LocalState, threshold: Float[Array, "B"], settings: LocalSettings
) -> LocalState:
  """Takes every image from its state to the end.

  Args:
    problem: the classifier and its images; features that are available may be added.
    state: where the images start.
    threshold: the probability that a subset must reach.
    settings: how far to look.
  """
  chunk_size = settle_chunk_size(settings.chunk_size, problem.inputs)
  num_lanes = min(max(chunk_size // settings.candidates, 1), problem.num_images)

  def goes_on(state: LocalState) -> Bool[Array, ""]:
    return (state.mode != Mode.DONE).any()

  def advance_lanes(state: LocalState) -> LocalState:
    # A stable sort: the images that are not done come first, in their order.
    lanes = jnp.argsort(state.mode == Mode.DONE, stable=True)[:num_lanes]
    lane_problem = problem.take(lanes)
    lane_threshold, lane_state = jax.tree.map(lambda array: array[lanes], (threshold, state))
    trial = try_changes(lane_problem, lane_state, candidates=settings.candidates, chunk_size=chunk_size)
    step = functools.partial(advance, settings=settings, score=problem.score)
    advanced = jax.vmap(step)(lane_state, trial, lane_threshold)
    return jax.tree.map(lambda array, lane: array.at[lanes].set(lane), state, advanced)

  return jax.lax.while_loop(goes_on, advance_lanes, state)


def try_changes(problem: Problem, state: LocalState, *, candidates: int, chunk_size: int) -> Trial:
  """Scores what each image could do next: keep one feature more while it grows, one less while it is pruned."""
  num_features = state.kept.shape[1]
  prediction, gradient = differentiate_additions(problem, state.kept)
  score = problem.score_logits(prediction.logits[:, None])[:, 0]
  # Features that an exchange has just dropped stay out.
  addable = problem.available & ~state.kept & ~state.smallest
  added = best_features(gradient, addable, candidates)
  added = jnp.pad(added, ((0, 0), (0, num_features - added.shape[1])), constant_values=num_features)
  # Kept features first, in ascending order.
  dropped = jnp.argsort(~state.kept, axis=1, stable=True).astype(added.dtype)
  dropped = jnp.where(jnp.take_along_axis(state.kept, dropped, axis=1), dropped, num_features)
  is_growing, is_done = (state.mode[:, None] == mode for mode in (Mode.GROW, Mode.DONE))
  features = jnp.where(is_done, num_features, jnp.where(is_growing, added, dropped))
  is_tried = features < num_features
  num_needed = is_tried.sum(1, dtype=jnp.int32)
  scores = score_flips(problem, state.kept, features, chunk_size=chunk_size, num_needed=num_needed)
  trial = Trial(
    score=score,
    is_finite=jnp.isfinite(score) & jnp.isfinite(gradient).all(1, where=addable),
    features=features,
    scores=jnp.where(is_tried & ~jnp.isnan(scores), scores, -jnp.inf),
    are_finite=jnp.isfinite(scores).all(1, where=is_tried),
  )
  return trial if problem.distribution is None else trial._replace(confirmed=confirm_best(problem, state.kept, trial))


def confirm_best(problem: Problem, kept: Bool[Array, "B F"], trial: Trial) -> Float[Array, "B"]:
  """The score of each image after its best change, on fresh draws; -inf where there was none to try."""
  best = trial.scores.argmax(1)[:, None]
  features = jnp.take_along_axis(trial.features, best, axis=1)
  confirmed = problem.confirm(kept ^ (jnp.arange(kept.shape[1], dtype=features.dtype)[None] == features))
  is_number = jnp.take_along_axis(trial.scores, best, axis=1)[:, 0] > -jnp.inf
  return jnp.where(is_number & ~jnp.isnan(confirmed), confirmed.astype(trial.scores.dtype), -jnp.inf)


def advance(
  state: LocalState, trial: Trial, threshold: Float[Array, ""], *, settings: LocalSettings, score: ScoreName
) -> LocalState:
  """One image after a round."""
  grown = after_growing(state, trial, threshold, settings=settings, score=score)
  pruned = after_pruning(state, trial, threshold, settings=settings, score=score)
  advanced = choose(state.mode == Mode.GROW, grown, pruned)
  return choose(state.mode == Mode.DONE, state, advanced)


def after_growing(
  state: LocalState, trial: Trial, threshold: Float[Array, ""], *, settings: LocalSettings, score: ScoreName
) -> LocalState:
  """Adds the best feature. Then the subset passes, or goes on growing, or the growth is given up."""
  num_features = state.kept.size
  size = state.kept.sum(dtype=jnp.int32)
  is_first = ~state.smallest.any()
  best = trial.scores.argmax()
  is_finite = trial.is_finite & trial.are_finite
  needs_nothing = is_first & (size == 0) & passing(trial.score, threshold, score)
  adds = (trial.features[best] < num_features) & is_finite & ~needs_nothing
  feature = jnp.where(adds, trial.features[best], num_features)
  kept = state.kept.at[feature].set(True, mode="drop")
  passes = adds & passing(trial.deciding_score(best), threshold, score)

  first = record_growth(state, trial, feature, trial.deciding_score(best), size=size, score=score)
  grown = choose(is_first, first._replace(finite=is_finite), state)._replace(kept=kept)
  found = grown._replace(smallest=kept, mode=as_mode(Mode.PRUNE if settings.is_pruned else Mode.DONE))
  max_size = jnp.where(is_first, state.confidence.size, state.smallest.sum(dtype=jnp.int32)) - 1
  is_given_up = ~adds | (size + 1 >= max_size)
  next_exchange = start_exchange(state, state.num_exchanges + 1, settings)
  given_up = choose(is_first, grown._replace(mode=as_mode(Mode.DONE)), next_exchange)
  return choose(passes, found, choose(is_given_up, given_up, grown))


def record_growth(
  state: LocalState,
  trial: Trial,
  feature: Int[Array, ""],
  score_with: Float[Array, ""],
  *,
  size: Int[Array, ""],
  score: ScoreName,
) -> LocalState:
  """Notes the rank and the confidence of a first growth; a feature of number F adds nothing."""
  now, then = (to_probability(value, score=score).astype(state.confidence.dtype) for value in (trial.score, score_with))
  adds = feature < state.kept.size
  # The trial at size n + 1 has said what the round at that size would say again, in a batch of another shape.
  confidence = state.confidence.at[jnp.where(size == 0, 0, state.confidence.size)].set(now, mode="drop")
  confidence = confidence.at[jnp.where(adds, size + 1, state.confidence.size)].set(then, mode="drop")
  return state._replace(rank=state.rank.at[feature].set(size, mode="drop"), confidence=confidence)


def after_pruning(
  state: LocalState, trial: Trial, threshold: Float[Array, ""], *, settings: LocalSettings, score: ScoreName
) -> LocalState:
  """Drops the feature that is easiest to spare; where none can be spared, an exchange begins."""
  best = trial.scores.argmax()
  kept = state.kept.at[trial.features[best]].set(False, mode="drop")
  without_each = spread_scores(trial.scores[None], trial.features[None], state.kept[None])[0]
  minimal = state._replace(
    score=trial.score.astype(state.score.dtype), without_each=without_each.astype(state.without_each.dtype)
  )
  return choose(
    passing(trial.deciding_score(best), threshold, score),
    state._replace(kept=kept, smallest=kept),
    start_exchange(minimal, jnp.zeros((), jnp.int32), settings),
  )


def start_exchange(state: LocalState, number: Int[Array, ""], settings: LocalSettings) -> LocalState:
  """Takes the features of the exchange of this number out, to grow to one feature less than before; or is done."""
  num_features = state.smallest.size
  exchanges = exchanged_ranks(settings.exchanges)
  if not exchanges.size:
    return state._replace(mode=as_mode(Mode.DONE))
  spared = best_features(state.without_each[None], state.smallest[None], int(exchanges.max()) + 1)[0]
  # A subset smaller than the exchange, or a grid smaller than its ranks, has no such features.
  ranks = jnp.asarray(exchanges)
  exists = (ranks < spared.size) & (spared < num_features)[jnp.minimum(ranks, spared.size - 1)]
  exists = (exists | (ranks < 0)).all(1)
  numbers = jnp.arange(len(exchanges), dtype=jnp.int32)
  number = jnp.where(exists & (numbers >= number), numbers, len(exchanges)).min()
  is_last = number == len(exchanges)
  chosen = ranks[jnp.minimum(number, len(exchanges) - 1)]
  taken = jnp.where((chosen < 0) | is_last, num_features, spared[jnp.clip(chosen, 0, spared.size - 1)])
  return state._replace(
    kept=state.smallest.at[taken].set(False, mode="drop"),
    num_exchanges=number,
    mode=jnp.where(is_last, Mode.DONE, Mode.GROW).astype(jnp.int8),
  )


@functools.cache
def exchanged_ranks(exchanges: Exchanges) -> Int[np.ndarray, "N Q"]:
  """For each exchange the features that it takes out, by how easily they are spared (0 first); filled up with -1.

  Of each size, those of the smallest sum of ranks.

  >>> exchanged_ranks(((2, 2), (3, 1))).tolist()
  [[0, 1, -1], [0, 2, -1], [0, 1, 2]]
  """
  width = max((num_taken for num_taken, _ in exchanges), default=0)
  rows = []
  for num_taken, num_tries in exchanges:
    num_spared = next(count for count in itertools.count(num_taken) if math.comb(count, num_taken) >= num_tries)
    combinations = sorted(itertools.combinations(range(num_spared), num_taken), key=sum)
    rows += [(*ranks, *[-1] * (width - num_taken)) for ranks in combinations[:num_tries]]
  return np.array(rows, np.int32).reshape(len(rows), width)


def passing(value: Float[Array, "..."], threshold: Float[Array, "..."], score: ScoreName) -> Bool[Array, "..."]:
  """Whether a target with this score is as probable as asked for; NaN and -inf are not."""
  return to_probability(value, score=score).astype(threshold.dtype) >= threshold


def as_mode(mode: Mode) -> Int8[Array, ""]:
  """The mode as states hold it."""
  return jnp.asarray(mode, jnp.int8)


def choose(condition: Bool[Array, ""], if_true: LocalState, if_false: LocalState) -> LocalState:
  return jax.tree.map(functools.partial(jnp.where, condition), if_true, if_false)
