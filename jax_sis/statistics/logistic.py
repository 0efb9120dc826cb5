"""Logistic regression on few numbers an image, asked about images that it was not fitted to."""

import numpy as np
import scipy.special
from jaxtyping import Bool, Float

__all__ = ["fit_logistic", "predict_unseen"]

# Of the squared weights of standardised numbers, so that classes that a line separates have a finite fit, too.
RIDGE = 1.0
NUM_STEPS = 25


def fit_logistic(numbers: Float[np.ndarray, "N D"], is_so: Bool[np.ndarray, "N"]) -> Float[np.ndarray, "D+1"]:
  """The weights of each number and the constant, by Newton's steps with a small ridge on the weights.

  Args:
    numbers: D numbers for each of N images, standardised.
    is_so: what is to be predicted.

  Returns:
    D weights, in log-odds for each unit of a number, and the constant.

  Examples:
    The number speaks for it, and the constant is 0 where both kinds lie alike on both sides:

    >>> import numpy as np
    >>> from jax_sis.statistics import logistic
    >>> weight, constant = logistic.fit_logistic(np.array([[-1.0], [1.0]]), np.array([False, True]))
    >>> bool(weight > 0), bool(abs(constant) < 1e-6)
    (True, True)
  """
  design = np.column_stack([numbers, np.ones(len(numbers))])
  ridge = np.diag([RIDGE] * numbers.shape[1] + [0.0])
  weights = np.zeros(design.shape[1])
  for _ in range(NUM_STEPS):
    expected = scipy.special.expit(design @ weights)
    slope = design.T @ (is_so - expected) - ridge @ weights
    curvature = (design * (expected * (1 - expected))[:, None]).T @ design + ridge
    weights = weights + np.linalg.solve(curvature + 1e-9 * np.eye(len(weights)), slope)
  return weights


def predict_unseen(
  numbers: Float[np.ndarray, "N D"], is_so: Bool[np.ndarray, "N"], *, num_folds: int, num_repeats: int, seed: int
) -> Float[np.ndarray, "N"]:
  """The log-odds of each image by fits to the other folds, the mean over several divisions into folds.

  Each fold has its part of both kinds of images. Numbers are standardised by those that are fitted.

  Args:
    numbers: of each image.
    is_so: what is to be predicted.
    num_folds: parts, each of which is predicted by the others.
    num_repeats: divisions.
    seed: of these.

  Examples:
    >>> import numpy as np
    >>> from jax_sis.statistics import logistic
    >>> numbers, is_so = np.arange(8.0)[:, None], np.arange(8) >= 4
    >>> log_odds = logistic.predict_unseen(numbers, is_so, num_folds=2, num_repeats=1, seed=0)
    >>> ((log_odds > 0) == is_so).tolist()
    [True, True, True, True, True, True, True, True]
  """
  rng = np.random.default_rng(seed)
  total = np.zeros(len(numbers))
  for _ in range(num_repeats):
    fold = np.zeros(len(numbers), np.int64)
    for kind in (False, True):
      places = rng.permutation(np.flatnonzero(is_so == kind))
      fold[places] = np.arange(len(places)) % num_folds
    for number in range(num_folds):
      is_left = fold == number
      mean, deviation = numbers[~is_left].mean(0), numbers[~is_left].std(0)
      scaled = (numbers - mean) / np.where(deviation > 0, deviation, 1.0)
      weights = fit_logistic(scaled[~is_left], is_so[~is_left])
      total[is_left] += scaled[is_left] @ weights[:-1] + weights[-1]
  return total / num_repeats
