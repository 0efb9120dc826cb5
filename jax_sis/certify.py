"""An independent look at each subset: does it really suffice alone, and could any of it be spared?"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jax_sis import validation
from jax_sis.minimise import check_subsets
from jax_sis.scores import log_odds
from jax_sis.search import check_positive_integer, make_logits_fn, make_score_fn, scores_without_each
from jax_sis.subsets import Status, Subsets
from jax_sis.types import PredictFn


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Certificate:
  """What a fresh evaluation says of each subset. An image without a subset (status not OK) is certified nothing.

  Attributes:
    confidence: softmax probability of the target on the subset alone.
    predicted: the class predicted on the subset alone.
    keeps_class: whether that is the target.
    is_sufficient: whether the confidence reaches the subset's threshold; False where it has none.
    is_droppable: the kept features each of which could be masked alone with the rest still sufficient.
    is_minimal: sufficient, and no kept feature is droppable (1-minimal). It does not exclude a smaller subset.
    is_reproduced: whether the stored confidence agrees with this one.
    status: the subsets' own status.
  """

  confidence: Float[Array, "B"]
  predicted: Int[Array, "B"]
  keeps_class: Bool[Array, "B"]
  is_sufficient: Bool[Array, "B"]
  is_droppable: Bool[Array, "B ..."]
  is_minimal: Bool[Array, "B"]
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
      num_droppable=int(np.sum(self.is_droppable[index])),
    )


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
  num_droppable: int,
) -> str:
  """One image's certificate in a few words; arguments as in Certificate."""
  if status != Status.OK:
    return REASONS[status]
  if not is_reproduced:
    return "FAILED: confidence not reproduced"
  if not is_sufficient:
    return f"not sufficient, class {'kept' if keeps_class else 'lost'}"
  return "sufficient, 1-minimal" if is_minimal else f"sufficient, {num_droppable} droppable"


def certify(
  predict_fn: PredictFn,
  params: Any,
  inputs: Float[Array, "B ..."] | Float[np.ndarray, "B ..."],
  subsets: Subsets,
  *,
  tolerance: float = 1e-3,
  chunk_size: int = 128,
) -> Certificate:
  """Evaluates every subset alone, and without each of its features, at the highest matmul precision.

  Args:
    predict_fn: as for `backselect`.
    params: the model's arrays.
    inputs: the inputs that the subsets were found on.
    subsets: what to check.
    tolerance: how far a stored confidence may be from the new one. The default covers float32 and TF32 searches.
    chunk_size: masked copies a model call; it bounds the memory.

  Returns:
    A certificate for each image.

  Raises:
    ValueError: the inputs do not fit the subsets, or a stored confidence cannot be reproduced: the classifier, its
      parameters or the inputs are not those of the search. Under `jit`, read `is_reproduced` instead.
  """
  inputs = validation.check_inputs(inputs)
  validation.check_predict_fn(predict_fn, params, inputs)
  check_positive_integer("chunk_size", chunk_size)
  check_subsets(subsets, inputs)
  report = run_certify(predict_fn, params, inputs, subsets, tolerance, chunk_size=chunk_size)
  if validation.is_concrete(report) and not bool(report.is_reproduced.all()):
    index = int(np.argmin(report.is_reproduced))
    raise ValueError(
      f"subsets.confidence must be reproducible, but image {index} has {float(subsets.confidence[index]):.6g} stored "
      f"and {float(report.confidence[index]):.6g} now (tolerance {tolerance:g}); certify with the predict_fn, params "
      "and inputs of the search."
    )
  return report


@functools.partial(jax.jit, static_argnums=0, static_argnames="chunk_size")
def run_certify(
  predict_fn: PredictFn,
  params: Any,
  inputs: Float[Array, "B ..."],
  subsets: Subsets,
  tolerance: float | Float[Array, ""],
  *,
  chunk_size: int,
) -> Certificate:
  """`certify` on checked arguments."""
  grid = subsets.mask.shape[1:]
  kept = subsets.mask.reshape(subsets.mask.shape[0], -1)
  with jax.default_matmul_precision("highest"):
    logits_fn = make_logits_fn(predict_fn, params, inputs, subsets.baseline, grid)
    logits = logits_fn(kept.astype(jnp.result_type(float)))
    score_fn = make_score_fn(subsets.target, "log_odds")
    without_each = scores_without_each(logits_fn, score_fn, kept, chunk_size=chunk_size)
  is_ok = subsets.status == Status.OK
  confidence = jnp.where(is_ok, jax.nn.sigmoid(log_odds(logits, subsets.target)), jnp.nan)
  predicted = logits.argmax(-1).astype(jnp.int32)
  # Comparisons with a NaN threshold are False: a subset of a given size is neither sufficient nor droppable.
  is_sufficient = is_ok & (confidence >= subsets.threshold)
  is_droppable = (
    kept & (jax.nn.sigmoid(without_each).astype(confidence.dtype) >= subsets.threshold[:, None]) & is_ok[:, None]
  )
  difference = jnp.abs(confidence - subsets.confidence)
  return Certificate(
    confidence=confidence,
    predicted=predicted,
    keeps_class=is_ok & (predicted == subsets.target),
    is_sufficient=is_sufficient,
    is_droppable=is_droppable.reshape(subsets.mask.shape),
    is_minimal=is_sufficient & ~is_droppable.any(1),
    is_reproduced=~is_ok | jnp.isnan(subsets.confidence) | (difference <= tolerance),
    status=subsets.status,
  )
