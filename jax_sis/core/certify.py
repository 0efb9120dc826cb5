"""An independent look at each subset: does it really suffice alone, and could any of it be spared?"""

import dataclasses
import functools
import html
from collections.abc import Sequence
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jax_sis.core import validation
from jax_sis.core.batch import PerImage
from jax_sis.core.bounds import Inequality
from jax_sis.core.certificate_words import describe_certificate
from jax_sis.core.chunks import COPIES_ALONE_ON_CPU, check_chunk_size, settle_chunk_size
from jax_sis.core.completions import Completion, Constant, Distribution, DrawFn, OwnMean
from jax_sis.core.guarantees import (
  Bound,
  Claim,
  Guarantee,
  certify_on_draws,
  check_completion_given,
  check_held_out,
  check_threshold_of,
  stored_keys,
)
from jax_sis.core.local_search import passing
from jax_sis.core.meshes import on_any_mesh
from jax_sis.core.problem import Problem, check_answered
from jax_sis.core.questions import Question
from jax_sis.core.scores import log_odds, lost_by
from jax_sis.core.smaller import score_smaller
from jax_sis.core.subsets import Status, Subsets
from jax_sis.core.types import PredictFn, Removal
from jax_sis.core.validation import check_positive_integer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Certificate(PerImage):
  """What a fresh evaluation says of each subset. An image without a subset (status not OK) is certified nothing.

  Attributes:
    confidence: softmax probability of the target on the subset alone.
    predicted: the class predicted on the subset alone.
    keeps_class: whether that is the target.
    is_sufficient: whether the confidence reaches the subset's threshold; False where it has none.
    is_droppable: the kept features each of which could be masked alone with the rest still sufficient.
    is_minimal: sufficient, and no kept feature is droppable (1-minimal). It does not exclude a smaller subset.
    lower_bound: no subset of fewer features suffices: all of them were tried, see `certify`. 0 without a threshold.
    is_smallest: sufficient, and of as many features as the lower bound: no smaller subset exists.
    has_smaller: a smaller subset that was tried suffices.
    num_pairs_tried: pairs of features that were tried in search of one.
    is_reproduced: whether the stored confidence agrees with this one, and where there is one, the stored `lost_by`.
    status: the subsets' own status.
    lost_by: of contrastive subsets and of both: with the subset alone masked, by how much the strongest other class is
      ahead of the target, in log-odds of the two; else None.
    loses_class: whether another class is predicted then; else None.
    is_contrastive: whether `lost_by` reaches the margin asked for; else None.
    question: what was asked of the subsets; None for sufficient ones. Of another question, a feature is droppable, a
      subset minimal or the smallest, and a smaller one found, where the subset meant `answers` it.

  Examples:
    A threshold that the first two features reach without the third, which a search of three features a step keeps:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights, inputs = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), jnp.ones((1, 3))
    >>> order = jax_sis.backselect(predict_fn, weights, inputs, search=jax_sis.Gradient(per_step=3))
    >>> certificate = jax_sis.certify(predict_fn, weights, inputs, jax_sis.sufficient_subsets(order, 0.97))
    >>> certificate.is_sufficient.tolist(), certificate.is_droppable.tolist()
    ([True], [[False, True, True]])
  """

  confidence: Float[Array, "B"]
  predicted: Int[Array, "B"]
  keeps_class: Bool[Array, "B"]
  is_sufficient: Bool[Array, "B"]
  is_droppable: Bool[Array, "B ..."]
  is_minimal: Bool[Array, "B"]
  lower_bound: Int[Array, "B"]
  is_smallest: Bool[Array, "B"]
  has_smaller: Bool[Array, "B"]
  num_pairs_tried: Int[Array, "B"]
  is_reproduced: Bool[Array, "B"]
  status: Int[Array, "B"]
  lost_by: Float[Array, "B"] | None = None
  loses_class: Bool[Array, "B"] | None = None
  is_contrastive: Bool[Array, "B"] | None = None
  question: Question | None = dataclasses.field(default=None, metadata={"static": True})

  @property
  def answers(self) -> Bool[Array, "B"]:
    """Whether each subset is what was asked for: sufficient, contrastive, or both."""
    return find_answers(self.question, self.is_sufficient, self.is_contrastive)

  def describe(self, index: int) -> str:
    """The certificate of one image in a few words, such as `sufficient, 12 of 65 droppable`."""
    return describe_certificate(
      status=Status(int(self.status[index])),
      keeps_class=bool(self.keeps_class[index]),
      is_reproduced=bool(self.is_reproduced[index]),
      is_sufficient=bool(self.answers[index]),
      is_minimal=bool(self.is_minimal[index]),
      is_smallest=bool(self.is_smallest[index]),
      has_smaller=bool(self.has_smaller[index]),
      num_pairs_tried=int(self.num_pairs_tried[index]),
      num_droppable=int(np.sum(self.is_droppable[index])),
      question="sufficient" if self.question is None else self.question.kind,
    )

  def _describe(self) -> str:
    judged = {"sufficient": self.is_sufficient, "1-minimal": self.is_minimal, "keep the class": self.keeps_class}
    if self.question is not None:
      judged |= {"contrastive": self.is_contrastive, "lose the class when masked": self.loses_class}
    counts = ", ".join(f"{int(np.sum(np.asarray(values)))} {name}" for name, values in judged.items())
    return f"{self._count()}, {int(np.sum(np.asarray(self.status) == Status.OK))} with a subset: {counts}"

  def _make_table(self) -> tuple[Sequence[str], list[list[str]]]:
    confidence, predicted = np.asarray(self.confidence), np.asarray(self.predicted)
    rows = [
      [str(i), f"{confidence[i]:.4f}", str(predicted[i]), html.escape(self.describe(i))] for i in range(len(self))
    ]
    return ("image", "confidence alone", "predicted", "certificate"), rows


@overload
def certify(
  predict_fn: PredictFn,
  params: Any,
  inputs: Float[Array, "B ..."] | Float[np.ndarray, "B ..."],
  subsets: Subsets,
  *,
  tolerance: float = 1e-3,
  pair_partners: int = 0,
  chunk_size: int | None = None,
  completion: Constant | OwnMean | None = None,
  removal: Removal | None = None,
) -> Certificate: ...


@overload
def certify(
  predict_fn: PredictFn,
  params: Any,
  inputs: Float[Array, "B ..."] | Float[np.ndarray, "B ..."],
  subsets: Subsets,
  *,
  completion: Distribution | DrawFn,
  keys: Key[Array, "B"] | None = None,
  searched: Completion | None = None,
  rate: float = 0.9,
  num_draws: int = 500,
  level: float = 0.95,
  bound: Bound = "rate",
  inequality: Inequality = "bernstein",
) -> Guarantee: ...


@on_any_mesh
def certify(
  predict_fn: PredictFn,
  params: Any,
  inputs: Float[Array, "B ..."] | Float[np.ndarray, "B ..."],
  subsets: Subsets,
  *,
  tolerance: float = 1e-3,
  pair_partners: int = 0,
  chunk_size: int | None = None,
  removal: Removal | None = None,
  completion: Completion | None = None,
  keys: Key[Array, "B"] | None = None,
  searched: Completion | None = None,
  rate: float = 0.9,
  num_draws: int = 500,
  level: float = 0.95,
  bound: Bound = "rate",
  inequality: Inequality = "bernstein",
) -> Certificate | Guarantee:
  """Evaluates every subset alone: without each of its features, or on draws that no search had.

  On a constant, which is the subsets' own baseline unless another is given, it looks at each subset and at it without
  each of its features, at the highest matmul precision. Where it can, it counts smaller subsets out. A subset of one
  feature is the smallest if the masked input does not pass. For a subset of two, every single feature is tried. For a
  subset of three, `pair_partners=m` tries every pair that holds one of the m features with the highest score alone:
  any that passes shows that there is a smaller one, but only all pairs (m = F, of which there are F (F - 1) / 2) prove
  that there is none.

  Contrastive subsets, and those that are both, are looked at alone and masked, and each side is judged afresh;
  droppable, minimal and smallest are said of the question as a whole.

  On a distribution it makes `num_draws` independent draws, with replacement, for a purpose of their own, and says how
  often the class is kept, and how probable it is in the mean, with lower bounds. The claim is about that completion.
  Of a contrastive subset it says how often the class is lost with the draw in the place of the subset; of both, how
  often that is so and the class is kept with the draw everywhere else.

  Args:
    predict_fn: as for `backselect`.
    params: the model's arrays.
    inputs: the inputs that the subsets were found on.
    subsets: what to check.
    tolerance: how far a stored confidence may be from the new one. The default covers searches in
      float32; in TF32 confidences were up to 0.0012 off (an H100), where 0.01 leaves room.
    pair_partners: features that are paired with every other one, for subsets of three.
    chunk_size: masked copies at a time; it bounds the memory. By default what suits the platform.
    removal: as for `backselect`; by default that of the subsets, or by value where a completion is given.
    completion: what masked features show; by default the subsets' baseline. The arguments before it are for constants,
      those after it for distributions.
    keys: as for `backselect`; by default those of the search.
    searched: the completion of the search. None of its images may be among those of `completion`; they are compared.
    rate: the share of draws on which the class is to be kept.
    num_draws: of each image.
    level: the probability with which the claim about an image holds, as long as one looks at that image alone.
    bound: what is bounded from below, and claimed to reach what is asked for: the "rate"; the "confidence", that is the
      mean probability, which is to reach the subset's threshold; or "both", at half the error each.
    inequality: which bound of the mean: "bernstein", tight where draws agree, or "hoeffding".

  Returns:
    A certificate for each image; on a distribution, a Guarantee.

  Raises:
    ValueError: the inputs do not fit the subsets, or a stored confidence cannot be reproduced: the classifier, its
      parameters or the inputs are not those of the search. Under `jit`, read `is_reproduced` instead. The subsets were
      found under a distribution and no completion is given, or it draws images that the search had.

  Examples:
    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights, inputs = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), jnp.ones((1, 3))
    >>> subsets = jax_sis.sufficient_subsets(jax_sis.backselect(predict_fn, weights, inputs), 0.97)
    >>> jax_sis.certify(predict_fn, weights, inputs, subsets).describe(0)
    'sufficient, no smaller exists'
  """
  validation.check_kind("subsets", subsets, Subsets, "Subsets, as sufficient_subsets(order, threshold) gives")
  check_completion_given(subsets, completion, "subsets")
  keys = stored_keys(subsets, keys)
  problem = check_answered(predict_fn, params, inputs, subsets, completion=completion, keys=keys, removal=removal)
  if problem.distribution is not None:
    claim = Claim(rate=rate, level=level, num_draws=num_draws, bound=bound, inequality=inequality)
    check_threshold_of(subsets, claim)
    check_held_out(problem.distribution, searched, problem.inputs, subsets, "subsets")
    return certify_on_draws(problem, subsets, claim=claim)
  return certify_alone(problem, subsets, tolerance, pair_partners=pair_partners, chunk_size=chunk_size)


def certify_alone(
  problem: Problem, subsets: Subsets, tolerance: float, *, pair_partners: int, chunk_size: int | None
) -> Certificate:
  """`certify` on a constant."""
  check_chunk_size("chunk_size", chunk_size)
  chunk_size = settle_chunk_size(chunk_size, problem.inputs, on_cpu=COPIES_ALONE_ON_CPU)
  if pair_partners != 0:
    check_positive_integer("pair_partners", pair_partners)
  if subsets.keys is not None or subsets.removal != problem.removal:
    # What is stored was said on draws, or of another removal.
    unknown = jnp.full_like(subsets.confidence, jnp.nan)
    subsets = dataclasses.replace(subsets, confidence=unknown, lost_by=None if subsets.question is None else unknown)
  report = run_certify(problem, subsets, tolerance, pair_partners=pair_partners, chunk_size=chunk_size)
  if validation.is_concrete(report) and not bool(report.is_reproduced.all()):
    index = int(np.argmin(report.is_reproduced))
    raise ValueError(
      f"subsets.confidence must be reproducible, but image {index} has {float(subsets.confidence[index]):.6g} stored "
      f"and {float(report.confidence[index]):.6g} now (tolerance {tolerance:g}); certify with the predict_fn, params "
      "and inputs of the search."
    )
  return report


class Alone(NamedTuple):
  """What one evaluation of each subset alone says; see Certificate."""

  confidence: Float[Array, "B"]
  predicted: Int[Array, "B"]
  keeps_class: Bool[Array, "B"]
  is_sufficient: Bool[Array, "B"]
  is_reproduced: Bool[Array, "B"]


def judge_alone(logits: Float[Array, "B K"], subsets: Subsets, tolerance: float | Float[Array, ""]) -> Alone:
  """What the logits on the subsets alone say of them."""
  is_ok = subsets.status == Status.OK
  confidence = jnp.where(is_ok, jax.nn.sigmoid(log_odds(logits, subsets.target)), jnp.nan)
  predicted = logits.argmax(-1).astype(jnp.int32)
  difference = jnp.abs(confidence - subsets.confidence)
  return Alone(
    confidence=confidence,
    predicted=predicted,
    keeps_class=is_ok & (predicted == subsets.target),
    # Comparisons with a NaN threshold are False: a subset of a given size is neither sufficient nor droppable.
    is_sufficient=is_ok & (confidence >= subsets.threshold),
    is_reproduced=~is_ok | jnp.isnan(subsets.confidence) | (difference <= tolerance),
  )


class Without(NamedTuple):
  """What one evaluation with each subset alone masked says; see Certificate."""

  lost_by: Float[Array, "B"]
  loses_class: Bool[Array, "B"]
  is_contrastive: Bool[Array, "B"]


def judge(
  logits: Float[Array, "B *S K"], subsets: Subsets, tolerance: float | Float[Array, ""]
) -> tuple[Alone, Without | None]:
  """The same, and for another question, whose logits are those of `predict_both`, what is said without the subsets."""
  if subsets.question is None:
    return judge_alone(logits, subsets, tolerance), None
  alone = judge_alone(logits[:, 0], subsets, tolerance)
  is_ok = subsets.status == Status.OK
  lead = jnp.where(is_ok, lost_by(logits[:, 1], subsets.target), jnp.nan)
  assert subsets.lost_by is not None
  difference = jnp.abs(jax.nn.sigmoid(lead) - jax.nn.sigmoid(subsets.lost_by))
  is_reproduced = ~is_ok | jnp.isnan(subsets.lost_by) | (difference <= tolerance)
  without = Without(
    lost_by=lead,
    loses_class=is_ok & (logits[:, 1].argmax(-1).astype(jnp.int32) != subsets.target),
    is_contrastive=is_ok & (lead >= subsets.question.margin),
  )
  return alone._replace(is_reproduced=alone.is_reproduced & is_reproduced), without


def find_answers(
  question: Question | None, is_sufficient: Bool[Array, "B"], is_contrastive: Bool[Array, "B"] | None
) -> Bool[Array, "B"]:
  """Which subsets are what their question asks for."""
  if question is None or is_contrastive is None:
    return is_sufficient
  return is_contrastive if question.kind == "contrastive" else is_sufficient & is_contrastive


def predict_subsets(problem: Problem, kept: Bool[Array, "B F"]) -> Float[Array, "B *S K"]:
  """The logits that `judge` wants."""
  return problem.predict_masked(kept) if problem.question is None else problem.predict_both(kept)


@jax.jit
def evaluate_alone(
  problem: Problem, subsets: Subsets, tolerance: float | Float[Array, ""]
) -> tuple[Alone, Without | None]:
  """The part of `certify` that costs one model call, on checked arguments: is each subset what was asked for?"""
  with jax.default_matmul_precision("highest"):
    logits = predict_subsets(problem, subsets.kept)
  return judge(logits, subsets, tolerance)


@functools.partial(jax.jit, static_argnames=("pair_partners", "chunk_size"))
def run_certify(
  problem: Problem,
  subsets: Subsets,
  tolerance: float | Float[Array, ""],
  *,
  pair_partners: int = 0,
  chunk_size: int,
) -> Certificate:
  """`certify` on checked arguments, by log-odds, whatever the score of the search was."""
  problem = problem.in_log_odds()
  kept, threshold = subsets.kept, problem.mark(subsets.threshold)
  with jax.default_matmul_precision("highest"):
    logits = predict_subsets(problem, kept)
    is_ok = subsets.status == Status.OK
    without_each, smaller = score_smaller(
      problem,
      kept,
      jnp.where(is_ok, kept.sum(1, dtype=jnp.int32), 0),
      threshold,
      pair_partners=pair_partners,
      chunk_size=chunk_size,
    )
  alone, without = judge(logits, subsets, tolerance)
  answers = find_answers(subsets.question, alone.is_sufficient, None if without is None else without.is_contrastive)
  is_droppable = kept & passing(without_each, threshold[:, None], problem.score) & is_ok[:, None]
  return Certificate(
    **alone._asdict(),
    **({} if without is None else without._asdict()),
    is_droppable=is_droppable.reshape(subsets.mask.shape),
    is_minimal=answers & ~is_droppable.any(1),
    lower_bound=smaller.lower_bound,
    is_smallest=answers & (smaller.lower_bound == kept.sum(1)),
    has_smaller=answers & smaller.is_found,
    num_pairs_tried=smaller.num_pairs_tried,
    status=subsets.status,
    question=subsets.question,
  )
