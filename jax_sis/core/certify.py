"""An independent look at each subset: does it really suffice alone, and could any of it be spared?"""

import dataclasses
import functools
import html
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jax_sis.core import validation
from jax_sis.core.batch import PerImage
from jax_sis.core.chunks import COPIES_ALONE_ON_CPU, check_chunk_size, settle_chunk_size
from jax_sis.core.local_search import passing
from jax_sis.core.meshes import on_any_mesh
from jax_sis.core.problem import Problem, check_answered
from jax_sis.core.scores import log_odds
from jax_sis.core.subsets import Status, Subsets
from jax_sis.core.trials import best_features, score_flips, spread_scores
from jax_sis.core.types import PredictFn
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
    is_reproduced: whether the stored confidence agrees with this one.
    status: the subsets' own status.
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

  def describe(self, index: int) -> str:
    """The certificate of one image in a few words, such as `sufficient, 12 of 65 droppable`."""
    return describe_certificate(
      status=Status(int(self.status[index])),
      keeps_class=bool(self.keeps_class[index]),
      is_reproduced=bool(self.is_reproduced[index]),
      is_sufficient=bool(self.is_sufficient[index]),
      is_minimal=bool(self.is_minimal[index]),
      is_smallest=bool(self.is_smallest[index]),
      has_smaller=bool(self.has_smaller[index]),
      num_pairs_tried=int(self.num_pairs_tried[index]),
      num_droppable=int(np.sum(self.is_droppable[index])),
    )

  def _describe(self) -> str:
    judged = {"sufficient": self.is_sufficient, "1-minimal": self.is_minimal, "keep the class": self.keeps_class}
    counts = ", ".join(f"{int(np.sum(np.asarray(values)))} {name}" for name, values in judged.items())
    return f"{self._count()}, {int(np.sum(np.asarray(self.status) == Status.OK))} with a subset: {counts}"

  def _make_table(self) -> tuple[Sequence[str], list[list[str]]]:
    confidence, predicted = np.asarray(self.confidence), np.asarray(self.predicted)
    rows = [
      [str(i), f"{confidence[i]:.4f}", str(predicted[i]), html.escape(self.describe(i))] for i in range(len(self))
    ]
    return ("image", "confidence alone", "predicted", "certificate"), rows


SUFFICIENT = "sufficient"
REASONS = {
  Status.BELOW_THRESHOLD: "none: full image below threshold",
  Status.NOT_REACHED: "none: search stopped before threshold",
  Status.BASELINE_SUFFICIENT: "none needed: masked image passes",
  Status.NON_FINITE: "none: NaN or inf in image or model",
}


def describe_certificate(
  *,
  status: Status,
  keeps_class: bool,
  is_reproduced: bool,
  is_sufficient: bool,
  is_minimal: bool,
  is_smallest: bool,
  has_smaller: bool,
  num_droppable: int,
  num_pairs_tried: int = 0,
) -> str:
  """One image's certificate in a few words; arguments as in Certificate."""
  alone = describe_alone(
    status=status, keeps_class=keeps_class, is_reproduced=is_reproduced, is_sufficient=is_sufficient
  )
  if alone != SUFFICIENT:
    return alone
  if is_smallest:
    size = "no smaller exists"
  elif has_smaller:
    size = "a smaller exists"
  else:
    size = "1-minimal" if is_minimal else f"{num_droppable} droppable"
  pairs = f", {num_pairs_tried} pairs tried" if num_pairs_tried else ""
  return f"{SUFFICIENT}, {size}{pairs}"


def describe_alone(*, status: Status, keeps_class: bool, is_reproduced: bool, is_sufficient: bool) -> str:
  """What one evaluation of a subset alone says of it, in a few words; arguments as in Certificate."""
  if status != Status.OK:
    return REASONS[status]
  if not is_reproduced:
    return "FAILED: confidence not reproduced"
  return SUFFICIENT if is_sufficient else f"not sufficient, class {'kept' if keeps_class else 'lost'}"


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
) -> Certificate:
  """Evaluates every subset alone, and without each of its features, at the highest matmul precision.

  Where it can, it counts smaller subsets out. A subset of one feature is the smallest if the masked input does not
  pass. For a subset of two, every single feature is tried. For a subset of three, `pair_partners=m` tries every pair
  that holds one of the m features with the highest score alone: any that passes shows that there is a smaller one, but
  only all pairs (m = F, of which there are F (F - 1) / 2) prove that there is none.

  Args:
    predict_fn: as for `backselect`.
    params: the model's arrays.
    inputs: the inputs that the subsets were found on.
    subsets: what to check.
    tolerance: how far a stored confidence may be from the new one. The default covers searches in
      float32; in TF32 confidences were up to 0.0012 off (an H100), where 0.01 leaves room.
    pair_partners: features that are paired with every other one, for subsets of three.
    chunk_size: masked copies at a time; it bounds the memory. By default what suits the platform, see `chunks.py`.

  Returns:
    A certificate for each image.

  Raises:
    ValueError: the inputs do not fit the subsets, or a stored confidence cannot be reproduced: the classifier, its
      parameters or the inputs are not those of the search. Under `jit`, read `is_reproduced` instead.
  """
  validation.check_kind("subsets", subsets, Subsets, "Subsets, as sufficient_subsets(order, threshold) gives")
  problem = check_answered(predict_fn, params, inputs, subsets)
  check_chunk_size("chunk_size", chunk_size)
  chunk_size = settle_chunk_size(chunk_size, problem.inputs, on_cpu=COPIES_ALONE_ON_CPU)
  if pair_partners != 0:
    check_positive_integer("pair_partners", pair_partners)
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


@jax.jit
def evaluate_alone(problem: Problem, subsets: Subsets, tolerance: float | Float[Array, ""]) -> Alone:
  """The part of `certify` that costs one model call, on checked arguments: is each subset sufficient alone?"""
  with jax.default_matmul_precision("highest"):
    logits = problem.predict_masked(subsets.kept)
  return judge_alone(logits, subsets, tolerance)


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
  kept = subsets.kept
  with jax.default_matmul_precision("highest"):
    logits = problem.predict_masked(kept)
    is_ok = subsets.status == Status.OK
    without_each, smaller = score_smaller(
      problem,
      kept,
      jnp.where(is_ok, kept.sum(1, dtype=jnp.int32), 0),
      subsets.threshold,
      pair_partners=pair_partners,
      chunk_size=chunk_size,
    )
  alone = judge_alone(logits, subsets, tolerance)
  is_droppable = kept & passing(without_each, subsets.threshold[:, None], problem.score) & is_ok[:, None]
  return Certificate(
    **alone._asdict(),
    is_droppable=is_droppable.reshape(subsets.mask.shape),
    is_minimal=alone.is_sufficient & ~is_droppable.any(1),
    lower_bound=smaller.lower_bound,
    is_smallest=alone.is_sufficient & (smaller.lower_bound == kept.sum(1)),
    has_smaller=alone.is_sufficient & smaller.is_found,
    num_pairs_tried=smaller.num_pairs_tried,
    status=subsets.status,
  )


class Smaller(NamedTuple):
  """What was found out about subsets that are smaller than those to certify; see Certificate."""

  lower_bound: Int[Array, "B"]
  is_found: Bool[Array, "B"]
  num_pairs_tried: Int[Array, "B"]


def score_smaller(
  problem: Problem,
  kept: Bool[Array, "B F"],
  num_kept: Int[Array, "B"],
  threshold: Float[Array, "B"],
  *,
  pair_partners: int,
  chunk_size: int,
) -> tuple[Float[Array, "B F"], Smaller]:
  """The score without each kept feature, and a look at all subsets of none, one and two features where asked for."""
  num_features = kept.shape[1]
  is_paired = (num_kept == 3) & (pair_partners > 0)
  is_single_tried = (num_kept == 2) | is_paired
  # Two batches of the same shape through one loop, which is compiled once: one feature less, and one or none alone.
  dropped = jnp.argsort(~kept, axis=1, stable=True).astype(jnp.int32)
  dropped = jnp.pad(dropped, ((0, 0), (0, 1)), constant_values=num_features)
  added = jnp.roll(jnp.arange(num_features + 1, dtype=jnp.int32), 1)
  added = jnp.broadcast_to(added[None], dropped.shape)
  num_needed = jnp.where(is_single_tried, num_features + 1, 1)

  def score_batch(batch: tuple[Array, Array, Array]) -> Float[Array, "B P"]:
    start, features, num_needed = batch
    return score_flips(problem, start, features, chunk_size=chunk_size, num_needed=num_needed)

  starts = jnp.stack([kept, jnp.zeros_like(kept)])
  batches = starts, jnp.stack([dropped, added]), jnp.stack([num_kept, num_needed])
  less, alone = jax.lax.map(score_batch, batches)
  nothing, alone = alone[:, :1], jnp.where(is_single_tried[:, None], alone[:, 1:], -jnp.inf)

  pair, num_pairs = best_pair(problem, alone, is_paired, count=pair_partners, chunk_size=chunk_size)
  # A score that is not a number proves nothing, and passes nowhere.
  tried = nothing, alone, pair
  passes = jnp.stack([passing(scores, threshold[:, None], problem.score).any(1) for scores in tried])
  is_number = jnp.stack([~jnp.isnan(scores).any(1) for scores in tried])
  is_all = jnp.stack(
    [jnp.ones_like(is_paired), is_single_tried, is_paired & (num_pairs == num_features * (num_features - 1) // 2)]
  )
  # A larger size is excluded only where all smaller ones are.
  is_excluded = jax.lax.cummin((is_all & is_number & ~passes & ~jnp.isnan(threshold)[None]).astype(jnp.int32))
  smaller = Smaller(
    lower_bound=is_excluded.sum(0),
    is_found=passes.any(0),
    num_pairs_tried=jnp.where(is_paired, num_pairs, 0),
  )
  return spread_scores(less, dropped, kept), smaller


def best_pair(
  problem: Problem,
  alone: Float[Array, "B F"],
  is_asked: Bool[Array, "B"],
  *,
  count: int,
  chunk_size: int,
) -> tuple[Float[Array, "B 1"], int]:
  """The best score of the pairs that hold one of the `count` best single features, and how many those are."""
  num_images, num_features = alone.shape
  partners = best_features(alone, jnp.ones_like(alone, bool), count)
  features = jnp.broadcast_to(jnp.arange(num_features, dtype=jnp.int32)[None], alone.shape)
  num_needed = jnp.where(is_asked, num_features, 0)

  def try_partner(best: Float[Array, "B"], partner: Int[Array, "B"]) -> tuple[Float[Array, "B"], None]:
    is_partner = features == partner[:, None]
    # The partner itself is taken out by its own change, and is no pair.
    scores = score_flips(problem, is_partner, features, chunk_size=chunk_size, num_needed=num_needed)
    return jnp.maximum(best, jnp.where(is_partner, -jnp.inf, scores).max(1)), None

  best = jnp.full_like(alone, -jnp.inf, shape=num_images)
  if count:
    best, _ = jax.lax.scan(try_partner, best, partners.T)
  num_partners = partners.shape[1]
  num_pairs = num_partners * (num_features - 1) - num_partners * (num_partners - 1) // 2
  return jnp.where(is_asked, best, -jnp.inf)[:, None], num_pairs
