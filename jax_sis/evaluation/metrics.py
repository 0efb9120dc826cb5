"""Can a classifier be trusted? Accuracy with its interval, likelihood and calibration, from logits and labels."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
  """How often a classifier is right among the predictions of which it is about equally confident.

  Attributes:
    edges: the ends of the bins of confidence, from 0 to 1. A bin holds its upper end and not its lower one.
    confidence: mean probability of the predicted class in each bin; NaN in an empty one.
    accuracy: share of right predictions in each bin; NaN in an empty one.
    count: predictions in each bin.
    expected_calibration_error: the mean of |accuracy - confidence| over all predictions, each counted with its bin's.
  """

  edges: Float[np.ndarray, "M+1"]
  confidence: Float[np.ndarray, "M"]
  accuracy: Float[np.ndarray, "M"]
  count: Int[np.ndarray, "M"]
  expected_calibration_error: float


def negative_log_likelihood(logits: Float[np.ndarray, "N K"], labels: Int[np.ndarray, "N"]) -> float:
  """The mean of -log(probability of the true class), in nats.

  Exact where float32 rounds the probability to 0 or 1, since it is computed from the logits, in float64.

  Raises:
    ValueError: there are no examples, shapes do not fit, a label is no class, or a logit is not finite.
  """
  logits, labels = check_predictions(logits, labels)
  rows = np.arange(len(labels))
  return float(np.mean(-log_probabilities(logits)[rows, labels]))


def calibration(logits: Float[np.ndarray, "N K"], labels: Int[np.ndarray, "N"], num_bins: int = 15) -> Calibration:
  """Compares confidence with accuracy in bins of equal width, and gives the expected calibration error.

  Bin m of M, `num_bins`, takes the confidences p with m / M < p <= (m + 1) / M. With few examples a bin the error is
  far from 0 even for a perfectly calibrated classifier.

  Raises:
    ValueError: as for `negative_log_likelihood`, or there is no bin.

  Source: Guo et al. 2017, On calibration of modern neural networks, section 2.
  """
  logits, labels = check_predictions(logits, labels)
  if num_bins < 1:
    raise ValueError(f"num_bins must be at least 1, got {num_bins}.")
  confidence = np.exp(log_probabilities(logits).max(1))
  is_correct = logits.argmax(1) == labels
  edges = np.linspace(0.0, 1.0, num_bins + 1)
  # A probability may exceed 1 by rounding.
  bins = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, num_bins - 1)
  count = np.bincount(bins, minlength=num_bins)
  summed_confidence = np.bincount(bins, confidence, num_bins)
  num_correct = np.bincount(bins, is_correct, num_bins)
  return make_calibration(edges, summed_confidence, num_correct, count)


def make_calibration(
  edges: Float[np.ndarray, "M+1"],
  summed_confidence: Float[np.ndarray, "M"],
  num_correct: Float[np.ndarray, "M"],
  count: Int[np.ndarray, "M"],
) -> Calibration:
  """A Calibration from the sums over each bin, so that those of several data sets can be added up."""
  is_empty = count == 0
  divisor = np.where(is_empty, 1, count)
  return Calibration(
    edges=edges,
    confidence=np.where(is_empty, np.nan, summed_confidence / divisor),
    accuracy=np.where(is_empty, np.nan, num_correct / divisor),
    count=count,
    expected_calibration_error=float(np.abs(num_correct - summed_confidence).sum() / count.sum()),
  )


def log_probabilities(logits: Float[np.ndarray, "N K"]) -> Float[np.ndarray, "N K"]:
  """Log-softmax in float64."""
  shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
  return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def check_predictions(
  logits: Float[np.ndarray, "N K"], labels: Int[np.ndarray, "N"]
) -> tuple[Float[np.ndarray, "N K"], Int[np.ndarray, "N"]]:
  """Returns both as NumPy arrays; ValueError as for `negative_log_likelihood`."""
  logits, labels = np.asarray(logits), np.asarray(labels)
  if logits.ndim != 2 or 0 in logits.shape:
    raise ValueError(f"logits must have shape [N, K] with at least one example and class, got {list(logits.shape)}.")
  if labels.shape != logits.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(
      f"labels must be one integer class for each of the {len(logits)} examples, "
      f"got {labels.dtype}{list(labels.shape)}."
    )
  wrong = labels[(labels < 0) | (labels >= logits.shape[1])]
  if wrong.size:
    raise ValueError(f"labels must lie in 0..{logits.shape[1] - 1}, the classes of the logits, got {wrong[0]}.")
  is_finite = np.isfinite(logits).all(1)
  if not is_finite.all():
    raise ValueError(f"logits must be finite, but those of example {np.flatnonzero(~is_finite)[0]} are not.")
  return logits, labels
