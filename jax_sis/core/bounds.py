"""What draws allow to claim: bounds and p-values of a rate and of a mean, and of many claims at once.

Those of a rate are tables over the number of successes, made in double precision when a function is traced.
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

Inequality = Literal["bernstein", "hoeffding"]
Correction = Literal["holm", "bonferroni"]
# Halvings of an interval of length 1: to double precision.
NUM_HALVINGS = 60


@functools.cache
def log_factorials(count: int) -> Float[np.ndarray, "N"]:
  """Of 0..count."""
  return np.concatenate([np.zeros(1), np.cumsum(np.log(np.arange(1, count + 1)))])


@functools.cache
def binomial_p_values(num_draws: int, rate: float) -> Float[np.ndarray, "N"]:
  """How likely at least 0, 1, ..., num_draws successes are where each draw is one with probability `rate`."""
  successes = np.arange(num_draws + 1)
  logs = log_factorials(num_draws)
  logs = logs[-1] - logs - logs[::-1] + successes * np.log(rate) + (num_draws - successes) * np.log1p(-rate)
  return np.minimum(np.cumsum(np.exp(logs)[::-1])[::-1], 1)


@functools.cache
def clopper_pearson(num_draws: int, level: float) -> Float[np.ndarray, "N"]:
  """The lower bounds of a rate, at this level, that 0, 1, ..., num_draws successes allow.

  Each is the rate at which so many successes or more have probability 1 - level (Clopper and Pearson 1934).

  >>> clopper_pearson(500, 0.95)[[450, 475, 500]].round(4).tolist()
  [0.8751, 0.9309, 0.994]

  Args:
    num_draws: how many there are.
    level: at least 0.5.
  """
  successes = np.arange(1, num_draws + 1)
  failures = num_draws - successes
  logs = log_factorials(num_draws)
  log_choices = logs[-1] - logs[1:] - logs[-2::-1]
  # At a rate of k / N, k successes or more have at least an even chance.
  low, high = np.zeros(num_draws), successes / num_draws
  for _ in range(NUM_HALVINGS):
    middle = (low + high) / 2
    term = total = np.ones(num_draws)
    odds = middle / (1 - middle)
    for more in range(num_draws):
      term = term * np.maximum(failures - more, 0) / (successes + more + 1) * odds
      total = total + term
      if (term < 1e-17 * total).all():
        break
    probability = np.exp(log_choices + successes * np.log(middle) + failures * np.log1p(-middle)) * total
    low, high = np.where(probability <= 1 - level, middle, low), np.where(probability <= 1 - level, high, middle)
  return np.concatenate([np.zeros(1), low])


def needed_successes(num_draws: int, *, rate: float, level: float) -> int:
  """With how many successes or more a rate is certified; num_draws + 1 where so many draws cannot certify it."""
  return int((binomial_p_values(num_draws, rate) > 1 - level).sum())


def needed_draws(*, rate: float, level: float) -> int:
  """With how many draws a rate can be certified at all: when all of them succeed."""
  return int(np.ceil(np.log(1 - level) / np.log(rate)))


def as_table(values: Float[np.ndarray, "N"], *, towards: float | int) -> Float[Array, "N"]:
  """The table in JAX's precision, rounded towards a number, so that it claims no more than in double precision."""
  dtype: Any = jnp.result_type(float)
  rounded = values.astype(dtype)
  is_wrong = (rounded > values) if towards < 0 else (rounded < values)
  return jnp.asarray(np.where(is_wrong, np.nextafter(rounded, np.asarray(towards, dtype)), rounded), dtype)


def bound_mean(
  mean: Float[Array, "B"], variance: Float[Array, "B"], num_draws: int, *, level: float, inequality: Inequality
) -> Float[Array, "B"]:
  """A lower bound of the mean of numbers between 0 and 1.

  Args:
    mean: over the draws.
    variance: the sample variance, the sum of squares over num_draws - 1.
    num_draws: how many there are.
    level: of the bound.
    inequality: Hoeffding's (1963), or the empirical Bernstein inequality of Maurer and Pontil (2009, theorem 4).
  """
  if inequality == "hoeffding":
    margin = jnp.full_like(mean, np.sqrt(np.log(1 / (1 - level)) / (2 * num_draws)))
  else:
    term = np.log(2 / (1 - level))
    margin = jnp.sqrt(variance * float(2 * term / num_draws)) + float(7 * term / (3 * (num_draws - 1)))
  return jnp.maximum(mean - margin, 0)


def mean_p_values(
  mean: Float[Array, "B"],
  variance: Float[Array, "B"],
  num_draws: int,
  *,
  at_least: Float[Array, "B"],
  inequality: Inequality,
) -> Float[Array, "B"]:
  """The smallest error at which `bound_mean` reaches `at_least`; 1 where none does, or where that is NaN."""
  gap = jnp.maximum(mean - at_least, 0)
  if inequality == "hoeffding":
    p_values = jnp.exp(-2 * num_draws * gap**2)
  else:
    linear, square = jnp.sqrt(variance * (2 / num_draws)), 7 / (3 * (num_draws - 1))
    root = (jnp.sqrt(linear**2 + 4 * square * gap) - linear) / (2 * square)
    p_values = 2 * jnp.exp(-(root**2))
  return jnp.where(gap > 0, jnp.minimum(p_values, 1), 1)


def hold_together(
  p_values: Float[Array | np.ndarray, "B"] | Sequence[float], level: float, *, correction: Correction = "holm"
) -> Bool[np.ndarray, "B"]:
  """Which of the claims can be made when all that are made must hold at once, with probability `level`.

  Args:
    p_values: of the claims; NaN where there is none, which counts as none.
    level: of all together.
    correction: Holm's (1979), for claims that were fixed before the draws. Where the draws chose each claim, as those
      of `certified_subsets` do, it would claim too much, and Bonferroni's is right.

  >>> hold_together([0.01, 0.04, 0.02, 0.5], 0.95).tolist()
  [True, False, False, False]
  """
  values = np.asarray(p_values, np.float64)
  order = np.argsort(values, kind="stable")
  num_claims = int((~np.isnan(values)).sum())
  left = np.maximum(num_claims - np.arange(len(values)), 1) if correction == "holm" else max(num_claims, 1)
  passes = np.logical_and.accumulate(values[order] <= (1 - level) / left)
  held = np.zeros(len(values), bool)
  held[order] = passes
  return held
