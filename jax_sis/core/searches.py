"""How a step chooses: what to mask next (backward), or what to add next (forward).

A backward search turns the features that are still kept into preferences: the highest are masked first. The driver in
`backselect.py` does the rest, so a new way to choose is a new class here and nothing else. `Forward` is the settings of
the driver in `forward.py`.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jax_sis.core import validation
from jax_sis.core.chunks import COPIES_ALONE_ON_CPU, check_chunk_size, settle_chunk_size
from jax_sis.core.problem import Prediction, Problem
from jax_sis.core.trials import best_features, differentiate_score, score_flips, scores_without_each, spread_scores
from jax_sis.core.validation import check_positive_integer

# Of 64 CIFAR-10 test images, the class held on 90 % of unseen images as background with 412 pixels in the mean without
# memory, and with 337, 344 and 357 at 0.75, 0.9 and 0.95 (benchmarks/backgrounds.py).
MEMORY_OF_DRAWS = 0.9


class Evaluation(NamedTuple):
  """What a search sees at the current mask.

  Attributes:
    prediction: on what is kept.
    preference: the higher, the earlier a feature is masked.
    remembered: what the search wants to be given at the next step; NaN at the first.
  """

  prediction: Prediction
  preference: Float[Array, "B F"]
  remembered: Float[Array, "B F"]


class Phase(NamedTuple):
  """A stretch of a backward search: who chooses at which sizes."""

  search: "Gradient | Screened | Exact"
  sizes: tuple[int, ...]


def backward_sizes(num_features: int, per_step: int, *, share: float = 0.0, down_to: int = 0) -> tuple[int, ...]:
  """The sizes a backward search goes through, ascending.

  Down from `num_features`, each step takes `share` of what is left, and `per_step` features at least.

  >>> backward_sizes(10, 4)
  (0, 2, 6, 10)
  >>> backward_sizes(20, 2, share=0.5)
  (0, 1, 3, 5, 10, 20)
  """
  sizes = [num_features]
  while sizes[-1] > down_to:
    sizes.append(max(sizes[-1] - max(per_step, int(share * sizes[-1])), down_to))
  return tuple(reversed(sizes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gradient:
  """Batched Gradient SIS: one gradient ranks all features (Carter et al. 2021, section 3 and algorithm 2).

  The score is differentiated with respect to the mask, and the `per_step` features whose loss costs least are
  masked together. With `share` and `memory`, which are not in the papers, it is fast on large images. It is blind to
  saturated evidence: what is there in full, so that its gradient is 0, goes early; `Screened` and `Exact` try.

  Attributes:
    per_step: features masked a step, or where there is a share, at least. The authors use 1, and 100 on ImageNet.
    share: of the features that are left, how many a step masks, at least 0 and below 1. Many go at once while there are
      many, and few at the end: from 50,176 pixels, 0.05 takes a tenth as many steps as 100 pixels at a time.
    memory: the share of what earlier steps said in what ranks the features, at least 0 and below 1: their gradients go
      on to count, each by this factor less than the one after it. By default 0 for a constant, as in the paper, and
      0.9 under a distribution, where each step sees few draws, and ten steps ten times as many.

  Examples:
    With `share=0.5` half of what is left goes at a step, and in the end a feature at a time:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights, search = jnp.eye(16)[:, :2], jax_sis.Gradient(share=0.5)
    >>> jax_sis.backselect(predict_fn, weights, jnp.ones((1, 16)), search=search).sizes
    (0, 1, 2, 4, 8, 16)
  """

  per_step: int = 1
  share: float = 0.0
  memory: float | None = None

  def __post_init__(self) -> None:
    check_positive_integer("Gradient.per_step", self.per_step)
    for name, value in (("share", self.share), ("memory", self.memory)):
      if value is not None and not 0 <= value < 1:
        raise ValueError(f"Gradient.{name} must be at least 0 and below 1, got {value!r}.")

  def __repr__(self) -> str:
    share = f", share={self.share}" if self.share else ""
    memory = "" if self.memory is None else f", memory={self.memory}"
    return f"Gradient(per_step={self.per_step}{share}{memory})"

  def largest_step(self, num_features: int) -> int:
    """The most features that a step masks."""
    return max(self.per_step, int(self.share * num_features))

  def phases(self, num_features: int) -> tuple[Phase, ...]:
    """One way to choose throughout."""
    return (Phase(self, backward_sizes(num_features, self.per_step, share=self.share)),)

  def evaluate(self, problem: Problem, kept: Bool[Array, "B F"], remembered: Float[Array, "B F"]) -> Evaluation:
    """What is said at the current mask, and minus the gradient of the score."""
    prediction, gradient = differentiate_score(problem, kept)
    default = 0.0 if problem.distribution is None else MEMORY_OF_DRAWS
    memory = default if self.memory is None else self.memory
    if memory == 0:
      return Evaluation(prediction, -gradient, remembered)
    is_first = jnp.isnan(remembered)
    preference = jnp.where(is_first, -gradient, memory * remembered - (1 - memory) * gradient)
    return Evaluation(prediction, preference, preference)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Screened:
  """Much smaller subsets than the gradient's, for a small part of the exact cost: it names, forward passes choose.

  At each step the `candidates` features that seem to cost least are tried, each masked alone, and the one whose loss
  leaves the score highest is masked. What a feature seems to cost is the mean of the gradient's answer and of what its
  loss really cost when it was last tried; the gradient's alone where it never was. A plain gradient search may lead
  down to `gradient_until` features first: faster, and the subsets are larger. With as many candidates as features and
  no gradient phase this is `Exact`. Not in the papers.

  Attributes:
    candidates: features tried at each step.
    gradient_until: features left when screening begins; None screens from the first step on.
    gradient_per_step: features masked a step before that.
    chunk_size: masked copies at a time, over all images of the batch together; it bounds the memory. By default
      what suits the platform.

  Examples:
    The two features that seem to cost least are tried at each step:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights, search = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), jax_sis.Screened(candidates=2)
    >>> jax_sis.backselect(predict_fn, weights, jnp.ones((1, 3)), search=search).rank.tolist()
    [[0, 2, 1]]
  """

  candidates: int = 16
  gradient_until: int | None = None
  gradient_per_step: int = 4
  chunk_size: int | None = None

  def __post_init__(self) -> None:
    check_positive_integer("Screened.candidates", self.candidates)
    check_positive_integer("Screened.gradient_per_step", self.gradient_per_step)
    check_chunk_size("Screened.chunk_size", self.chunk_size)
    if self.gradient_until is not None:
      check_positive_integer("Screened.gradient_until", self.gradient_until)

  def largest_step(self, num_features: int) -> int:
    """One feature a step, while screening."""
    return 1

  def phases(self, num_features: int) -> tuple[Phase, ...]:
    """The gradient phase, where there are features enough for one, and the screening."""
    if self.gradient_until is None or self.gradient_until >= num_features:
      return (Phase(self, backward_sizes(num_features, 1)),)
    leading = Gradient(per_step=self.gradient_per_step)
    leading_sizes = backward_sizes(num_features, leading.per_step, down_to=self.gradient_until)[1:]
    return Phase(leading, leading_sizes), Phase(self, backward_sizes(self.gradient_until, 1))

  def evaluate(self, problem: Problem, kept: Bool[Array, "B F"], remembered: Float[Array, "B F"]) -> Evaluation:
    """What is said at the current mask, the score without each candidate, and the changes that were last measured."""
    prediction, gradient = differentiate_score(problem, kept)
    estimate = jnp.where(jnp.isnan(remembered), -gradient, (remembered - gradient) / 2)
    candidates = best_features(estimate, kept, self.candidates)
    chunk_size = settle_chunk_size(self.chunk_size, problem.inputs)
    scores = score_flips(problem, kept, candidates, chunk_size=chunk_size)
    changes = (scores - problem.score_logits(prediction.ranking[:, None])).astype(remembered.dtype)
    images = jnp.arange(kept.shape[0])[:, None]
    # A gradient that is no number must show in the result, as it does in a plain gradient search.
    scores = jnp.where(jnp.isfinite(gradient).all(1, where=kept)[:, None], scores, jnp.nan)
    return Evaluation(
      prediction, spread_scores(scores, candidates, kept), remembered.at[images, candidates].set(changes, mode="drop")
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exact:
  """BackSelect: every remaining feature is tried, and the one whose loss leaves the score highest is masked.

  F (F + 1) / 2 evaluations an image (Carter et al. 2019, algorithm 1): 524,800 for 1,024 pixels.

  Attributes:
    chunk_size: masked copies at a time, over all images of the batch together; it bounds the memory. By default
      what suits the platform.

  Examples:
    Either of the first two features gives most of the logit. As long as both are there their gradients are 0, so that
    `Gradient` masks both at once, where `Exact` keeps one of them to the end:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(params, inputs):
    ...   logit = 4 * jnp.minimum(inputs[:, 0] + inputs[:, 1], 1) + inputs[:, 2]
    ...   return jnp.stack([logit, jnp.zeros_like(logit)], axis=1)
    >>> searches = jax_sis.Gradient(per_step=2), jax_sis.Exact()
    >>> [jax_sis.backselect(predict_fn, (), jnp.ones((1, 3)), search=one).rank.tolist() for one in searches]
    [[[2, 1, 0]], [[2, 0, 1]]]
  """

  chunk_size: int | None = None

  def __post_init__(self) -> None:
    check_chunk_size("Exact.chunk_size", self.chunk_size)

  def largest_step(self, num_features: int) -> int:
    """One feature a step, always."""
    return 1

  def phases(self, num_features: int) -> tuple[Phase, ...]:
    """One way to choose throughout."""
    return (Phase(self, backward_sizes(num_features, 1)),)

  def evaluate(self, problem: Problem, kept: Bool[Array, "B F"], remembered: Float[Array, "B F"]) -> Evaluation:
    """What is said at the current mask, and the score without each kept feature."""
    prediction = problem.predict(kept)
    chunk_size = settle_chunk_size(self.chunk_size, problem.inputs, on_cpu=COPIES_ALONE_ON_CPU)
    scores = scores_without_each(problem, kept, chunk_size=chunk_size)
    return Evaluation(prediction, scores, remembered)


BackwardSearch = Gradient | Screened | Exact
BACKWARD_NAMES = "Gradient(...), Screened(...) or Exact(...)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forward:
  """The smallest evidence: start from the masked input and add one feature a step until the classifier is confident.

  At each step the gradient names the `candidates` features that would add most, forward passes try each of them, and
  the one that raises the score most is added. Not in the papers; the subsets are smaller than those of backward
  searches, and there is no order beyond them.

  Attributes:
    candidates: features tried at each step. More give smaller subsets and cost as much more time.
    threshold: the softmax probability at which an image is done, strictly between 0 and 1.
    max_features: features at which an image that is not done is given up.
    chunk_size: masked copies at a time. It bounds the memory, and says how many images are worked on at a time: as many
      as have their candidates in it. By default what suits the platform.

  Examples:
    At most two features, whatever the classifier says of them; its confidence is in per cent:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights, search = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), jax_sis.Forward(max_features=2)
    >>> order = jax_sis.forward_select(predict_fn, weights, jnp.ones((1, 3)), search=search)
    >>> order.sizes, (100 * order.confidence).round().astype(int).tolist()
    ((0, 1, 2), [[50, 95, 99]])
  """

  candidates: int = 256
  threshold: float = 0.99
  max_features: int = 128
  chunk_size: int | None = None

  def __post_init__(self) -> None:
    check_positive_integer("Forward.candidates", self.candidates)
    check_positive_integer("Forward.max_features", self.max_features)
    check_chunk_size("Forward.chunk_size", self.chunk_size)
    validation.check_threshold(self.threshold, "Forward.threshold")
