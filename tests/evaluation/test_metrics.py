"""Metrics against their defining equations, slow loops and numbers computed by hand."""

import math
import re
from typing import Any

import numpy as np
import pytest
from scipy import special

from jax_sis.evaluation import metrics


def random_predictions(num_examples: int, num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
  generator = np.random.default_rng(seed)
  logits = generator.normal(0, 3, (num_examples, num_classes)).astype(np.float32)
  return logits, generator.integers(0, num_classes, num_examples)


def test_the_likelihood_is_that_of_a_loop_over_the_examples():
  logits, labels = random_predictions(200, 7)
  losses = [
    -math.log(special.softmax(row.astype(np.float64))[label]) for row, label in zip(logits, labels, strict=True)
  ]
  assert metrics.negative_log_likelihood(logits, labels) == pytest.approx(np.mean(losses), rel=1e-12)


def test_the_likelihood_of_equal_logits_is_the_log_of_their_number():
  assert metrics.negative_log_likelihood(np.zeros((3, 10), np.float32), np.arange(3)) == pytest.approx(math.log(10))


def test_the_likelihood_survives_logits_that_overflow_exp():
  logits = np.array([[2000.0, 0.0], [0.0, 2000.0]], np.float32)
  # Right with probability 1 and wrong by 2,000 nats.
  assert metrics.negative_log_likelihood(logits, np.array([0, 0])) == 1000.0


def slow_calibration(logits: np.ndarray, labels: np.ndarray, num_bins: int) -> tuple[list[Any], float]:
  """For each bin the sums of confidence and of right answers and the count, and the error, one example at a time."""
  bins = [[0.0, 0, 0] for _ in range(num_bins)]
  for row, label in zip(logits, labels, strict=True):
    probabilities = special.softmax(row.astype(np.float64))
    confidence = float(probabilities.max())
    for number in range(num_bins):
      if number / num_bins < confidence <= (number + 1) / num_bins:
        bins[number][0] += confidence
        bins[number][1] += int(probabilities.argmax() == label)
        bins[number][2] += 1
  error = sum(count / len(labels) * abs(right / count - total / count) for total, right, count in bins if count)
  return bins, error


@pytest.mark.parametrize("num_bins", [1, 2, 10, 15])
def test_calibration_is_that_of_a_loop_over_examples_and_bins(num_bins: int):
  logits, labels = random_predictions(500, 4)
  bins, error = slow_calibration(logits, labels, num_bins)
  result = metrics.calibration(logits, labels, num_bins)
  assert result.count.tolist() == [count for _, _, count in bins]
  assert result.count.sum() == 500
  for number, (total, right, count) in enumerate(bins):
    if count:
      assert result.confidence[number] == pytest.approx(total / count)
      assert result.accuracy[number] == pytest.approx(right / count)
    else:
      assert math.isnan(result.confidence[number]) and math.isnan(result.accuracy[number])
  assert result.expected_calibration_error == pytest.approx(error, rel=1e-9)


def test_a_calibration_computed_by_hand():
  # Confidences 0.6, 0.8 (right, wrong, right, right) in two bins of four: (0.5, 0.75] and (0.75, 1].
  probabilities = np.array([[0.6, 0.4], [0.4, 0.6], [0.8, 0.2], [0.2, 0.8]])
  result = metrics.calibration(np.log(probabilities), np.array([0, 0, 0, 1]), num_bins=4)
  assert result.count.tolist() == [0, 0, 2, 2]
  np.testing.assert_allclose(result.accuracy[2:], [0.5, 1.0])
  np.testing.assert_allclose(result.confidence[2:], [0.6, 0.8])
  assert result.expected_calibration_error == pytest.approx(0.5 * 0.1 + 0.5 * 0.2)


def test_a_confidence_on_an_edge_belongs_to_the_lower_bin():
  # exp(log(1/2)) is exactly 0.5; a probability of 1 belongs to the last bin.
  logits = np.array([[0.0, 0.0], [1000.0, 0.0]])
  assert metrics.calibration(logits, np.array([0, 0]), num_bins=2).count.tolist() == [1, 1]
  assert metrics.calibration(logits[:1], np.array([0]), num_bins=4).count.tolist() == [0, 1, 0, 0]


def test_a_classifier_that_means_what_it_says_is_calibrated():
  generator = np.random.default_rng(0)
  logits = generator.normal(0, 2, (40_000, 5))
  labels = np.array([generator.choice(5, p=row) for row in special.softmax(logits, 1)])
  assert metrics.calibration(logits, labels).expected_calibration_error < 0.01
  assert metrics.calibration(3 * logits, labels).expected_calibration_error > 0.1


@pytest.mark.parametrize(
  ("logits", "labels", "message"),
  [
    (
      np.zeros((0, 3)),
      np.zeros(0, int),
      "logits must have shape [N, K] with at least one example and class, got [0, 3].",
    ),
    (np.zeros((2, 3)), np.zeros(3, int), "labels must be one integer class for each of the 2 examples, got int64[3]."),
    (np.zeros((2, 3)), np.zeros(2), "labels must be one integer class for each of the 2 examples, got float64[2]."),
    (np.zeros((2, 3)), np.array([0, 3]), "labels must lie in 0..2, the classes of the logits, got 3."),
    (np.zeros((2, 3)), np.array([-1, 0]), "labels must lie in 0..2, the classes of the logits, got -1."),
    (np.array([[0.0, 1.0], [np.nan, 0.0]]), np.array([0, 1]), "logits must be finite, but those of example 1 are not."),
  ],
)
def test_predictions_that_do_not_fit_are_refused(logits: np.ndarray, labels: np.ndarray, message: str):
  for metric_fn in (metrics.negative_log_likelihood, metrics.calibration):
    with pytest.raises(ValueError, match=re.escape(message)):
      metric_fn(logits, labels)


def test_no_bins_are_refused():
  with pytest.raises(ValueError, match=re.escape("num_bins must be at least 1, got 0.")):
    metrics.calibration(np.zeros((1, 2)), np.array([0]), num_bins=0)
