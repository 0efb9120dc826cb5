"""Bounds and p-values against SciPy, their coverage summed exactly, and many claims at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jax_sis.core import bounds

NUM_DRAWS = 500


@pytest.mark.parametrize(("num_draws", "level"), [(1, 0.95), (29, 0.9), (500, 0.95), (997, 0.975)])
def test_clopper_pearson_is_that_of_scipy(num_draws: int, level: float):
  successes = np.arange(num_draws + 1)
  lower = bounds.clopper_pearson(num_draws, level)
  assert lower[0] == 0
  np.testing.assert_allclose(lower[1:], scipy.stats.beta.ppf(1 - level, successes[1:], successes[:0:-1]), rtol=1e-10)
  k = num_draws * 3 // 4
  interval = scipy.stats.binomtest(k, num_draws, alternative="greater").proportion_ci(level)
  assert lower[k] == pytest.approx(interval.low, rel=1e-9)
  for rate in (0.5, 0.9):
    expected = scipy.stats.binom.sf(successes - 1, num_draws, rate)
    np.testing.assert_allclose(bounds.binomial_p_values(num_draws, rate), expected, rtol=1e-9)


@pytest.mark.parametrize("rate", [0.5, 0.7, 0.9, 0.95])
def test_the_coverage_of_clopper_pearson_summed_by_the_binomial(rate: float):
  weights = scipy.stats.binom.pmf(np.arange(NUM_DRAWS + 1), NUM_DRAWS, rate)
  assert 0.95 <= weights[bounds.clopper_pearson(NUM_DRAWS, 0.95) <= rate].sum() <= 0.98


def test_bounds_p_values_and_needed_successes_say_the_same():
  lower, p_values = bounds.clopper_pearson(NUM_DRAWS, 0.95), bounds.binomial_p_values(NUM_DRAWS, 0.9)
  needed = bounds.needed_successes(NUM_DRAWS, rate=0.9, level=0.95)
  passes = np.arange(NUM_DRAWS + 1) >= needed
  assert 0 < needed < NUM_DRAWS
  np.testing.assert_array_equal(passes, p_values <= 0.05)
  np.testing.assert_array_equal(passes, lower >= 0.9)
  fewest = bounds.needed_draws(rate=0.9, level=0.95)
  assert bounds.needed_successes(fewest, rate=0.9, level=0.95) == fewest
  assert bounds.needed_successes(fewest - 1, rate=0.9, level=0.95) == fewest
  # Rounded to JAX's precision, a table claims no more.
  assert (np.asarray(bounds.as_table(lower, towards=-1), np.float64) <= lower).all()
  assert (np.asarray(bounds.as_table(p_values, towards=2), np.float64) >= p_values).all()


@pytest.mark.parametrize("inequality", ["hoeffding", "bernstein"])
def test_bounds_of_a_mean_are_the_formulas_and_their_p_values_the_inverse(inequality: bounds.Inequality):
  mean, variance = np.array([0.95, 0.6, 0.02], np.float32), np.array([0.01, 0.2, 0.01], np.float32)
  arrays = jnp.asarray(mean), jnp.asarray(variance)
  lower = bounds.bound_mean(*arrays, 200, level=0.95, inequality=inequality)
  if inequality == "hoeffding":
    margin = np.sqrt(np.log(20) / 400) * np.ones(3)
  else:
    margin = np.sqrt(2 * variance * np.log(40) / 200) + 7 * np.log(40) / (3 * 199)
  np.testing.assert_allclose(lower, np.maximum(mean - margin, 0), atol=1e-6)
  at_least = jnp.array([0.8, 0.7, jnp.nan])
  p_values = bounds.mean_p_values(*arrays, 200, at_least=at_least, inequality=inequality)
  assert p_values[1:].tolist() == [1, 1]
  level = 1 - float(p_values[0])
  exact = bounds.bound_mean(*arrays, 200, level=level, inequality=inequality)
  assert float(exact[0]) == pytest.approx(0.8, abs=1e-3)


def test_holm_is_that_of_a_plain_loop():
  rng = np.random.default_rng(0)
  for _ in range(20):
    p_values = rng.uniform(size=9) ** 4
    held = np.zeros(9, bool)
    for number, place in enumerate(np.argsort(p_values)):
      if p_values[place] > 0.05 / (9 - number):
        break
      held[place] = True
    # What was not searched is no claim.
    with_missing = np.insert(p_values, 4, np.nan)
    np.testing.assert_array_equal(bounds.hold_together(with_missing, 0.95), np.insert(held, 4, False))
    fewer = bounds.hold_together(p_values, 0.95, correction="bonferroni")
    np.testing.assert_array_equal(fewer, p_values <= 0.05 / 9)


def test_holm_claims_too_much_of_sizes_that_the_draws_chose():
  # Each image has a size that surely suffices and a smaller one that does not, which passes in one of twenty.
  rng = np.random.default_rng(1)
  is_wrong = {"holm": 0, "bonferroni": 0}
  for _ in range(400):
    small = rng.uniform(size=20)
    claimed = np.where(small <= 0.05, small, 1e-9)
    for correction in ("holm", "bonferroni"):
      held = bounds.hold_together(claimed, 0.95, correction=correction)
      is_wrong[correction] += int((held & (small <= 0.05)).any())
  assert is_wrong["holm"] > 0.5 * 400
  assert is_wrong["bonferroni"] < 0.09 * 400


def test_tables_are_made_while_a_function_is_traced():
  run = jax.jit(lambda count: bounds.as_table(bounds.clopper_pearson(30, 0.95), towards=-1)[count])
  assert float(run(jnp.array(30))) == pytest.approx(0.05 ** (1 / 30), rel=1e-6)
