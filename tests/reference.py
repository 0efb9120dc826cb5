"""Sufficient input subsets in slow, plain NumPy, written from the papers; nothing here comes from the library.

Carter et al. 2019 (arXiv 1810.03805): BackSelect, FindSIS. Carter et al. 2021 (arXiv 2003.08907): Batched Gradient SIS.
Works on one image at a time, in float64, with models whose gradient is written out by hand.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np

UNRANKED = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Linear:
  """Logits = x W, for x of any shape, read in row-major order."""

  weights: np.ndarray

  def logits(self, x: np.ndarray) -> np.ndarray:
    """Logits `[K]` of one input."""
    return x.reshape(-1) @ self.weights

  def input_gradient(self, x: np.ndarray, logits_gradient: np.ndarray) -> np.ndarray:
    """d(score)/dx, from d(score)/d(logits)."""
    return (self.weights @ logits_gradient).reshape(x.shape)


@dataclasses.dataclass(frozen=True)
class TwoLayer:
  """Logits = act(x V + b) W with act = tanh or ReLU."""

  hidden_weights: np.ndarray
  hidden_bias: np.ndarray
  weights: np.ndarray
  activation: str

  def logits(self, x: np.ndarray) -> np.ndarray:
    """Logits `[K]` of one input."""
    hidden = x.reshape(-1) @ self.hidden_weights + self.hidden_bias
    return (np.tanh(hidden) if self.activation == "tanh" else np.maximum(hidden, 0)) @ self.weights

  def input_gradient(self, x: np.ndarray, logits_gradient: np.ndarray) -> np.ndarray:
    """d(score)/dx, from d(score)/d(logits)."""
    hidden = x.reshape(-1) @ self.hidden_weights + self.hidden_bias
    slope = 1 - np.tanh(hidden) ** 2 if self.activation == "tanh" else (hidden > 0).astype(float)
    return (self.hidden_weights @ (slope * (self.weights @ logits_gradient))).reshape(x.shape)


Model = Linear | TwoLayer


def softmax(logits: np.ndarray) -> np.ndarray:
  """Probabilities of one example."""
  exponentials = np.exp(logits - logits.max())
  return exponentials / exponentials.sum()


def probability_of(logits: np.ndarray, target: int) -> float:
  """Softmax probability of the target."""
  return float(softmax(logits)[target])


def log_odds_of(logits: np.ndarray, target: int) -> float:
  """log(p / (1 - p)) of the target's probability p."""
  others = np.delete(logits, target)
  return float(logits[target] - (others.max() + np.log(np.exp(others - others.max()).sum())))


SCORES: dict[str, Callable[[np.ndarray, int], float]] = {"probability": probability_of, "log_odds": log_odds_of}


def score_gradient(logits: np.ndarray, target: int, score: str) -> np.ndarray:
  """d(score)/d(logits), by hand."""
  gradient = np.zeros(len(logits))
  if score == "log_odds":
    gradient[np.arange(len(logits)) != target] = -softmax(np.delete(logits, target))
    gradient[target] = 1.0
  else:
    probabilities = softmax(logits)
    gradient -= probabilities[target] * probabilities
    gradient[target] += probabilities[target]
  return gradient


def feature_map(grid: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
  """For every element of an input, the number of the feature that it belongs to."""
  features = np.zeros(shape, int)
  for position in itertools.product(*(range(length) for length in shape)):
    number = 0
    for index, size, length in zip(position, grid, shape, strict=True):
      number = number * size + index // (length // size)
    features[position] = number
  return features


def masked(x: np.ndarray, kept: set[int], baseline: np.ndarray, features: np.ndarray) -> np.ndarray:
  """The input with all features but the kept ones replaced by the baseline, element by element."""
  result = np.array(np.broadcast_to(baseline, x.shape), float)
  for position in np.ndindex(x.shape):
    if int(features[position]) in kept:
      result[position] = x[position]
  return result


@dataclasses.dataclass(frozen=True)
class Selection:
  """What backward selection says of one image.

  `removed` lists the features in the order of their removal; `confidence` maps every size that was evaluated to the
  probability of the target with that many features kept.
  """

  removed: tuple[int, ...]
  confidence: dict[int, float]
  num_features: int

  def rank(self) -> np.ndarray:
    """0 for the feature removed last; UNRANKED for one that was never there."""
    ranks = np.full(self.num_features, UNRANKED)
    for rank, feature in enumerate(reversed(self.removed)):
      ranks[feature] = rank
    return ranks

  def confidences(self) -> np.ndarray:
    """By ascending size."""
    return np.array([self.confidence[size] for size in sorted(self.confidence)])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
  """One image, the question asked of it, and the features that may be kept."""

  model: Model
  x: np.ndarray
  target: int
  grid: tuple[int, ...]
  baseline: np.ndarray
  score: str = "log_odds"
  available: frozenset[int] | None = None

  @property
  def features(self) -> np.ndarray:
    """The feature of each element."""
    return feature_map(self.grid, self.x.shape)

  @property
  def num_features(self) -> int:
    """How many features there are."""
    return math.prod(self.grid)

  def logits(self, kept: set[int]) -> np.ndarray:
    """Logits on the kept features alone."""
    return self.model.logits(masked(self.x, kept, self.baseline, self.features))

  def score_of(self, kept: set[int]) -> float:
    """The target's score on the kept features alone."""
    return SCORES[self.score](self.logits(kept), self.target)

  def probability(self, kept: set[int]) -> float:
    """The target's probability on the kept features alone."""
    return probability_of(self.logits(kept), self.target)

  def loss_of_each(self, kept: set[int]) -> np.ndarray:
    """d(score)/d(kept mask) of every feature: to first order, what the score loses without it."""
    x = masked(self.x, kept, self.baseline, self.features)
    by_element = self.model.input_gradient(x, score_gradient(self.model.logits(x), self.target, self.score))
    by_element = by_element * (self.x - np.broadcast_to(self.baseline, self.x.shape))
    return np.array([by_element[self.features == feature].sum() for feature in range(self.num_features)])


def backward_selection(
  problem: Problem,
  num_removed_at: Callable[[int], int],
  choose_fn: Callable[[Problem, list[int]], list[int]],
) -> Selection:
  """Removes as many features as `num_removed_at` says for a size; `choose_fn` sorts them, first to go first."""
  everything = range(problem.num_features)
  kept = sorted(everything if problem.available is None else problem.available)
  removed: list[int] = []
  confidence = {}
  size = problem.num_features
  while size > 0:
    confidence[size] = problem.probability(set(kept))
    size = max(size - num_removed_at(size), 0)
    chosen = choose_fn(problem, kept)[: max(len(kept) - size, 0)]
    removed += chosen
    kept = [feature for feature in kept if feature not in chosen]
  confidence[0] = problem.probability(set())
  return Selection(tuple(removed), confidence, problem.num_features)


def exact(problem: Problem) -> Selection:
  """BackSelect: remove the feature without which the score is highest; the lowest index among equals."""

  def choose(problem: Problem, kept: list[int]) -> list[int]:
    best = None
    best_score = -math.inf
    for feature in kept:
      score = problem.score_of(set(kept) - {feature})
      if best is None or score > best_score:
        best, best_score = feature, score
    return [] if best is None else [best]

  return backward_selection(problem, lambda size: 1, choose)


def gradient(problem: Problem, per_step: int, share: float = 0.0, memory: float = 0.0) -> Selection:
  """Batched Gradient SIS: remove the features that the gradient says cost least; the lowest index among equals.

  At least `per_step` of them, or a share of what is left. With a memory, the gradient is a running mean.
  """
  mean: list[np.ndarray] = []

  def choose(problem: Problem, kept: list[int]) -> list[int]:
    loss = problem.loss_of_each(set(kept))
    mean[:] = [memory * mean[0] + (1 - memory) * loss if mean else loss]
    return sorted(kept, key=lambda feature: (mean[0][feature], feature))

  return backward_selection(problem, lambda size: max(per_step, math.floor(share * size)), choose)


def by_gradient(problem: Problem, kept: list[int]) -> list[int]:
  """Kept features by the loss that the gradient foresees, the lowest index first among equals."""
  loss = problem.loss_of_each(set(kept))
  return sorted(kept, key=lambda feature: (loss[feature], feature))


def screened(problem: Problem, candidates: int, gradient_until: int | None, gradient_per_step: int) -> Selection:
  """Of the few features that seem to cost least, remove the one without which the score is highest.

  A feature seems to cost what the gradient foresees; once tried, the mean of that and of what it cost when last tried.
  Down to `gradient_until` features a plain gradient search leads.
  """
  until = problem.num_features if gradient_until is None else gradient_until

  def num_removed_at(size: int) -> int:
    return min(gradient_per_step, size - until) if size > until else 1

  def choose(problem: Problem, kept: list[int]) -> list[int]:
    # Where fewer features are available than the size says, the phase still follows the size.
    if sizes.pop(0) > until:
      return by_gradient(problem, kept)
    loss = problem.loss_of_each(set(kept))
    seems = {feature: (loss[feature] + cost.get(feature, loss[feature])) / 2 for feature in kept}
    few = sorted(kept, key=lambda feature: (seems[feature], feature))[:candidates]
    scores = {feature: problem.score_of(set(kept) - {feature}) for feature in few}
    cost.update({feature: problem.score_of(set(kept)) - scores[feature] for feature in few})
    return sorted(few, key=lambda feature: (-scores[feature], feature))[:1]

  cost: dict[int, float] = {}
  sizes = [problem.num_features]
  while sizes[-1] > 0:
    sizes.append(max(sizes[-1] - num_removed_at(sizes[-1]), 0))
  return backward_selection(problem, num_removed_at, choose)


@dataclasses.dataclass(frozen=True)
class Growth:
  """What forward selection says of one image: features in the order of their adding, confidences at 0, 1, ... ."""

  added: tuple[int, ...]
  confidences: tuple[float, ...]


def forward(problem: Problem, candidates: int, threshold: float, max_features: int) -> Growth:
  """Adds, of the features with the steepest gradient, the one that raises the score most, until one passes."""
  everything = range(problem.num_features)
  available = set(everything if problem.available is None else problem.available)
  added: list[int] = []
  confidences = [problem.probability(set())]
  while confidences[-1] < threshold and len(added) < max_features and available - set(added):
    gain = problem.loss_of_each(set(added))
    few = sorted(available - set(added), key=lambda feature: (-gain[feature], feature))[:candidates]
    added.append(max(few, key=lambda feature: problem.score_of({*added, feature})))
    confidences.append(problem.probability(set(added)))
  return Growth(tuple(added), tuple(confidences))


def smallest_size(problem: Problem, threshold: float) -> int:
  """The size of the smallest sufficient subset there is, by trying all of them."""
  everything = range(problem.num_features)
  return next(
    size
    for size in range(problem.num_features + 1)
    if any(problem.probability(set(subset)) >= threshold for subset in itertools.combinations(everything, size))
  )


def can_be_exchanged(problem: Problem, subset: set[int], threshold: float) -> bool:
  """Whether some two features of a subset can be replaced by one other feature, with the threshold still reached."""
  others = set(range(problem.num_features)) - subset
  return any(
    problem.probability((subset - set(pair)) | {other}) >= threshold
    for pair in itertools.combinations(sorted(subset), 2)
    for other in others
  )


def find_sis(selection: Selection, threshold: float) -> frozenset[int] | None:
  """FindSIS: features added back, last removed first, until the confidence is reached; None if it never is."""
  for size in sorted(selection.confidence):
    if selection.confidence[size] >= threshold:
      return frozenset(selection.removed[len(selection.removed) - min(size, len(selection.removed)) :])
  return None


def sis_collection(
  problem: Problem, select_fn: Callable[[Problem], Selection], threshold: float
) -> list[frozenset[int]]:
  """SIS-collection: subsets found one after the other, each in what the earlier ones left, while that suffices."""
  left = frozenset(range(problem.num_features) if problem.available is None else problem.available)
  found = []
  while problem.probability(set(left)) >= threshold > problem.probability(set()):
    subset = find_sis(select_fn(dataclasses.replace(problem, available=left)), threshold)
    assert subset is not None
    found.append(subset)
    left -= subset
  return found


def droppable(problem: Problem, subset: set[int], threshold: float) -> set[int]:
  """The features of a subset each of which could be masked alone, with the threshold still reached."""
  return {feature for feature in subset if problem.probability(subset - {feature}) >= threshold}
