"""The complete lattice: what a classifier says of every subset of a few features, and all that follows from it."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped, UInt32

from jax_sis.core import lattice_bits, validation
from jax_sis.core.batch import PerImage, make_picture
from jax_sis.core.chunks import COPIES_ALONE_ON_CPU, check_chunk_size, find_platform, settle_chunk_size
from jax_sis.core.completions import Completion
from jax_sis.core.drawing import repeat_images
from jax_sis.core.meshes import on_any_mesh
from jax_sis.core.problem import Problem, check_problem
from jax_sis.core.questions import QUESTIONS, Question, QuestionName
from jax_sis.core.scores import log_odds, lost_by
from jax_sis.core.subsets import Status, Subsets, count_statuses
from jax_sis.core.types import PredictFn, Removal, ScoreName, Targets

# 2 ** 16 masks of a ResNet-20 take a minute of one CPU core; an accelerator does 16 times as many in that time.
MOST_FEATURES_ON_CPU = 16
MOST_FEATURES = 20


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Lattice(PerImage):
  """What a classifier says of all M = 2 ** F masks of F features, and which sets are minimal, for each image.

  Mask m keeps feature f where the binary digit 2 ** f of m is 1: mask 0 is the baseline alone, M - 1 the whole input.
  A set is *sufficient* where the target's probability reaches the threshold with the set kept and the rest masked, and
  *contrastive* where the class is lost with the set masked and the rest kept: another class leads, and by the margin at
  least, as log-odds between the two. It is minimal where none of its proper subsets, of any size, is one, too.

  Attributes:
    log_odds: of the target against all other classes, on each mask.
    lead: of the target over the strongest other class on each mask, the difference of their logits.
    minimal_sufficient: which masks keep a minimal sufficient set.
    minimal_contrastive: which are a minimal contrastive set, that is, keep the features whose masking loses the class.
    minimal_both: which are minimal among the sets that are sufficient and contrastive at once.
    shapley: the exact Shapley value of each feature for the score; they add up to its change from the baseline to
      the whole input.
    banzhaf: the exact Banzhaf value: the mean change of the score, over all masks without it, as a feature is added.
    falling: the share of the pairs of a mask and a feature that it lacks where the score falls as the feature is added.
    target: the class in question.
    finite: False where a logit was NaN or infinite; the values of such an image mean nothing.
    baseline: what masked features show; where that was a distribution, what they are painted in.
    keys: under a distribution, the data of the images' keys; else None.
    threshold: the probability of sufficient sets.
    margin: of contrastive sets, in log-odds.
    grid: the mask's shape.
    score: what the Shapley and Banzhaf values are of.
    removal: how masked features are removed, as for `backselect`.

  Examples:
    The same evaluations answer every threshold:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    >>> everything = jax_sis.lattice(predict_fn, weights, jnp.ones((1, 3)), threshold=0.95, grid=(3,))
    >>> [everything.at(threshold=p).sets("sufficient", 0).astype(int).tolist() for p in (0.95, 0.97)]
    [[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [1, 0, 1]]]
  """

  log_odds: Float[Array, "B M"]
  lead: Float[Array, "B M"]
  minimal_sufficient: Bool[Array, "B M"]
  minimal_contrastive: Bool[Array, "B M"]
  minimal_both: Bool[Array, "B M"]
  shapley: Float[Array, "B F"]
  banzhaf: Float[Array, "B F"]
  falling: Float[Array, "B"]
  target: Int[Array, "B"]
  finite: Bool[Array, "B"]
  baseline: Float[Array, "B ..."]
  keys: UInt32[Array, "B N"] | None = None
  threshold: float = dataclasses.field(metadata={"static": True})
  margin: float = dataclasses.field(metadata={"static": True})
  grid: tuple[int, ...] = dataclasses.field(metadata={"static": True})
  score: ScoreName = dataclasses.field(metadata={"static": True})
  removal: Removal = dataclasses.field(default="value", metadata={"static": True})

  @property
  def confidence(self) -> Float[Array, "B M"]:
    """The softmax probability of the target on each mask."""
    return jax.nn.sigmoid(self.log_odds)

  def minimal(self, question: QuestionName) -> Bool[Array, "B M"]:
    """Which masks are the minimal sets of a question: "sufficient", "contrastive" or "both"."""
    validation.require_one_of("question", question, QUESTIONS)
    return getattr(self, f"minimal_{question}")

  def sets(self, question: QuestionName, index: int) -> Bool[np.ndarray, "N ..."]:
    """All minimal sets of one image, in the grid's shape, the smallest first.

    Args:
      question: "sufficient", "contrastive" or "both".
      index: which image.
    """
    numbers = np.flatnonzero(np.asarray(self.minimal(question)[index]))
    masks = lattice_bits.unpack(numbers, self.shapley.shape[1])
    return masks[np.argsort(masks.sum(1), kind="stable")].reshape(-1, *self.grid)

  def smallest(self, question: QuestionName) -> Subsets:
    """The set of the fewest features of each image; of several, the one that answers most clearly.

    Its mask is True in the set itself, and the confidence that with the set alone kept, whatever the question. Of
    contrastive sets and both, `lost_by` is by how much another class leads without it, and the question is that of
    `smallest_subsets`, with the lattice's margin, so that `certify` and `minimise` ask it again. The status says why
    there is none: BELOW_THRESHOLD where no set is sufficient, or the class is lost on the whole input; NOT_REACHED
    where no set is contrastive, or both; BASELINE_SUFFICIENT where nothing need be kept.

    Args:
      question: "sufficient", "contrastive" or "both".
    """
    return choose_smallest(self, self.minimal(question), question=question)

  def at(self, *, threshold: float | None = None, margin: float | None = None) -> "Lattice":
    """The same lattice read at another threshold, or with another margin, without the classifier."""
    threshold = self.threshold if threshold is None else validation.check_static_threshold(threshold, "Lattice.at")
    margin = self.margin if margin is None else check_margin(margin)
    minimal = find_minimal(self.log_odds, self.lead, *at_each(self.log_odds, threshold, margin))
    return dataclasses.replace(self, threshold=threshold, margin=margin, **minimal)

  def _describe(self) -> str:
    numbers = [f"{int(np.sum(np.asarray(self.minimal(question)))):,} {question}" for question in QUESTIONS]
    found = count_statuses(self.smallest("sufficient").status)
    return (
      f"{self._count()}, grid {self.grid}, {self.log_odds.shape[1]:,} masks; smallest sufficient sets: {found}; "
      f"minimal sets: {', '.join(numbers)}"
    )

  def _make_table(self) -> tuple[Sequence[str], list[list[str]]]:
    smallest = [self.smallest(question) for question in QUESTIONS[:2]]
    falling = np.asarray(self.falling)
    rows = []
    for i in range(len(self)):
      cells = [str(i), str(self.target[i])]
      for question, subsets in zip(QUESTIONS[:2], smallest, strict=True):
        num_sets = int(self.minimal(question)[i].sum())
        cells += [str(subsets.num_kept[i]), f"{num_sets:,}", make_picture(np.asarray(subsets.mask[i], float))]
      rows.append([*cells, f"{falling[i]:.1%}"])
    header = ("image", "target", "fewest sufficient", "minimal sets", "white", "fewest contrastive", "minimal sets", "")
    return (*header, "falling pairs"), rows


@on_any_mesh
def lattice(
  predict_fn: PredictFn,
  params: Any,
  inputs: Float[Array, "B ..."] | Float[np.ndarray, "B ..."],
  targets: Targets = None,
  *,
  threshold: float = 0.99,
  margin: float = 0.0,
  grid: tuple[int, ...] = (4, 4),
  baseline: float | Shaped[Array, "..."] | np.ndarray = 0.0,
  score: ScoreName = "log_odds",
  completion: Completion | None = None,
  keys: Key[Array, "B"] | None = None,
  removal: Removal = "value",
  chunk_size: int | None = None,
) -> Lattice:
  """Evaluates every subset of a few features: all minimal sets, the smallest of all, exact Shapley values.

  It is what searches and attributions are judged by where there are so few features: nothing in it is estimated or
  searched for. An image takes 2 ** F evaluations, so that F may be 16 on a CPU and 20 on an accelerator.

  It can be called under `jit`, `vmap` and `pmap`, as `backselect` can.

  Args:
    predict_fn: `(params, inputs) -> logits [B, K]`, see PredictFn. It must be hashable, as functions are. Programs are
      compiled for the object: a lambda or `functools.partial` made anew for each call is compiled anew.
    params: the model's arrays.
    inputs: normalised inputs, floating point, with a leading batch axis.
    targets: the class in question; by default the class predicted on the whole input.
    threshold: the softmax probability that sufficient sets reach, strictly between 0 and 1.
    margin: how far, in log-odds between the two, another class must lead for the class to be lost; not negative.
    grid: as for `backselect`, with few features.
    baseline: as for `backselect`.
    score: what Shapley and Banzhaf values are of, "log_odds" or "probability".
    completion: as for `backselect`; all masks of an image see the same draws.
    keys: as for `backselect`.
    removal: as for `backselect`.
    chunk_size: masked copies to evaluate at a time, over all images together; by default 128 on a CPU, thousands on an
      accelerator.

  Returns:
    The lattice of each image.

  Raises:
    ValueError: as for `backselect`, a setting is out of range, or the grid has too many features.

  Examples:
    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    >>> everything = jax_sis.lattice(predict_fn, weights, jnp.ones((1, 3)), threshold=0.95, grid=(3,))
    >>> everything.smallest("sufficient").mask.tolist(), everything.shapley.round(2).tolist()
    ([[True, False, False]], [[3.0, 1.0, 2.0]])
  """
  threshold = validation.check_static_threshold(threshold, "lattice")
  margin = check_margin(margin)
  check_chunk_size("chunk_size", chunk_size)
  problem = check_problem(
    predict_fn,
    params,
    inputs,
    targets,
    baseline=baseline,
    grid=grid,
    available=None,
    score=score,
    completion=completion,
    keys=keys,
    removal=removal,
  )
  check_num_features(problem.grid, find_platform(problem.inputs))
  chunk_size = settle_chunk_size(chunk_size, problem.inputs, on_cpu=COPIES_ALONE_ON_CPU)
  return run_lattice(problem, threshold=threshold, margin=margin, chunk_size=chunk_size)


def check_margin(margin: Any) -> float:
  """The margin as a number; ValueError unless it is one that is finite and not negative."""
  if not isinstance(margin, int | float) or not 0 <= margin < math.inf:
    raise ValueError(f"margin must be a finite number of at least 0, in log-odds, got {margin!r}.")
  return float(margin)


def check_num_features(
  grid: tuple[int, ...], platform: str, *, advice: str = "take a coarser grid, such as (4, 4)"
) -> None:
  """Raises ValueError where a grid has too many features for all of their masks."""
  most = MOST_FEATURES_ON_CPU if platform == "cpu" else MOST_FEATURES
  count = math.prod(grid)
  if count > most:
    where = "a CPU" if platform == "cpu" else "an accelerator"
    raise ValueError(
      f"grid must have at most {most} features for the complete lattice on {where}, which evaluates 2 ** features "
      f"masks, got {count} of the grid {grid}; {advice}, or look for the smallest subset by smallest_subsets."
    )


@functools.partial(jax.jit, static_argnames=("threshold", "margin", "chunk_size"))
def run_lattice(problem: Problem, *, threshold: float, margin: float, chunk_size: int) -> Lattice:
  """`lattice` on a checked problem."""
  of_target, lead = evaluate_masks(problem, chunk_size=chunk_size)

  def value_features(image: Float[Array, "M"]) -> dict[str, Array]:
    gains = lattice_bits.find_gains(image if problem.score == "log_odds" else jax.nn.sigmoid(image))
    values = {"shapley": lattice_bits.shapley_values(gains), "banzhaf": lattice_bits.banzhaf_values(gains)}
    # Of probabilities that round to the same number none would fall.
    of_log_odds = gains if problem.score == "log_odds" else lattice_bits.find_gains(image)
    return {**values, "falling": lattice_bits.share_falling(of_log_odds)}

  return Lattice(
    log_odds=of_target,
    lead=lead,
    **find_minimal(of_target, lead, *at_each(of_target, threshold, margin)),
    **jax.lax.map(value_features, of_target),
    target=problem.targets,
    threshold=threshold,
    margin=margin,
    finite=(jnp.isfinite(of_target) & jnp.isfinite(lead)).all(1),
    baseline=problem.baseline,
    keys=problem.key_data,
    grid=problem.grid,
    score=problem.score,
    removal=problem.removal,
  )


def at_each(of_target: Float[Array, "B M"], threshold: float, margin: float) -> list[Float[Array, "B"]]:
  """What is asked of each image, as an array."""
  return [jnp.full_like(of_target, value, shape=of_target.shape[:1]) for value in (threshold, margin)]


def evaluate_masks(problem: Problem, *, chunk_size: int) -> tuple[Float[Array, "B M"], Float[Array, "B M"]]:
  """The target's log-odds on every mask, and its lead over the strongest other class; arguments as for `lattice`."""
  num_images, num_features = problem.available.shape
  num_masks = 1 << num_features
  num_draws = problem.distribution.num_draws if problem.distribution else 1
  at_once = min(max(chunk_size // (num_images * num_draws), 1), num_masks)
  at_once = 1 << (at_once.bit_length() - 1)

  def evaluate_chunk(first: Int[Array, ""]) -> tuple[Float[Array, "B C"], Float[Array, "B C"]]:
    masks = lattice_bits.unpack(first + jnp.arange(at_once, dtype=jnp.int32), num_features)
    masks = jnp.broadcast_to(masks[None], (num_images, *masks.shape)).reshape(-1, num_features)
    # The draws of one mask are those of all, so that a feature's gain is not that of other draws.
    logits = problem.predict(masks, drawn_at=jnp.zeros_like(masks)).logits
    targets = repeat_images(problem.targets, at_once)
    values = log_odds(logits, targets), -lost_by(logits, targets)
    return jax.tree.map(lambda array: array.reshape(num_images, at_once), values)

  firsts = jnp.arange(0, num_masks, at_once, dtype=jnp.int32)
  chunks = jax.lax.map(evaluate_chunk, firsts)
  return jax.tree.map(lambda array: jnp.moveaxis(array, 0, 1).reshape(num_images, num_masks), chunks)


@jax.jit
def find_minimal(
  of_target: Float[Array, "B M"], lead: Float[Array, "B M"], threshold: Float[Array, "B"], margin: Float[Array, "B"]
) -> dict[str, Bool[Array, "B M"]]:
  """The minimal sets of each question, as fields of Lattice."""

  def find(image: tuple[Array, Array, Array, Array]) -> dict[str, Bool[Array, "M"]]:
    of_target, lead, threshold, margin = image
    is_sufficient = jax.nn.sigmoid(of_target) >= threshold
    # What is kept as m is masked has the number M - 1 - m.
    is_contrastive = ((lead < 0) & (lead <= -margin))[::-1]
    answers = jnp.stack([is_sufficient, is_contrastive, is_sufficient & is_contrastive])
    minimal = jax.vmap(lattice_bits.find_minimal)(answers)
    return {f"minimal_{question}": minimal[place] for place, question in enumerate(QUESTIONS)}

  return jax.lax.map(find, (of_target, lead, threshold, margin))


@functools.partial(jax.jit, static_argnames="question")
def choose_smallest(lattice: Lattice, minimal: Bool[Array, "B M"], *, question: QuestionName) -> Subsets:
  """`Lattice.smallest`, of the minimal sets of the question."""
  num_masks = minimal.shape[1]
  is_contrastive = question == "contrastive"
  alone, without = lattice.log_odds, -lattice.lead[:, ::-1]
  clearness = {"sufficient": alone, "contrastive": without, "both": jnp.minimum(alone, without)}[question]
  num_kept = jnp.broadcast_to(jnp.asarray(lattice_bits.count_kept(num_masks))[None], minimal.shape)
  fewest = jnp.where(minimal, num_kept, num_masks).min(1)
  best = jnp.where(minimal & (num_kept == fewest[:, None]), clearness, -jnp.inf).argmax(1).astype(jnp.int32)
  none = Status.BELOW_THRESHOLD if question == "sufficient" else Status.NOT_REACHED
  of_empty = Status.BELOW_THRESHOLD if is_contrastive else Status.BASELINE_SUFFICIENT
  status = jnp.where(fewest == 0, of_empty, jnp.where(fewest == num_masks, none, Status.OK))
  status = jnp.where(lattice.finite, status, Status.NON_FINITE).astype(jnp.int8)
  is_ok = status == Status.OK
  mask = lattice_bits.unpack(best, lattice_bits.count_features(num_masks)) & is_ok[:, None]
  confidence, lead = (jnp.take_along_axis(of_masks, best[:, None], axis=1)[:, 0] for of_masks in (alone, without))
  asked = None
  if question != "sufficient":
    asked = Question(kind=question, threshold=lattice.threshold, margin=lattice.margin)
  threshold = lattice.threshold if asked is None else asked.asked_alone
  return Subsets(
    mask=mask.reshape(-1, *lattice.grid),
    num_kept=mask.sum(1, dtype=jnp.int32),
    confidence=jnp.where(is_ok, jax.nn.sigmoid(confidence), jnp.nan),
    target=lattice.target,
    threshold=jnp.full_like(confidence, threshold),
    status=status,
    baseline=lattice.baseline,
    keys=lattice.keys,
    removal=lattice.removal,
    lost_by=None if asked is None else jnp.where(is_ok, lead, jnp.nan),
    question=asked,
  )
