"""Bootstrap intervals: against theory, against a plain loop, and that pairs stay together."""

import math
import re

import numpy as np
import pytest

from jax_sis.statistics.estimates import bootstrap_mean, median_interval, paired_bootstrap


def test_the_interval_of_a_large_sample_is_that_of_the_normal_distribution():
  values = np.random.default_rng(0).normal(3.0, 2.0, 4000)
  estimate = bootstrap_mean(values)
  margin = 1.96 * values.std() / np.sqrt(len(values))
  assert estimate.mean == pytest.approx(values.mean())
  assert estimate.num_images == 4000
  np.testing.assert_allclose(
    [estimate.low, estimate.high], [values.mean() - margin, values.mean() + margin], atol=0.004
  )


def test_resampling_is_that_of_a_plain_loop():
  values = np.array([0.0, 0.0, 1.0, 5.0, 9.0])
  rng = np.random.default_rng(7)
  means = [rng.choice(values, 5).mean() for _ in range(20_000)]
  estimate = bootstrap_mean(values, level=0.8, num_resamples=20_000)
  np.testing.assert_allclose([estimate.low, estimate.high], np.quantile(means, [0.1, 0.9]), atol=0.15)


def test_pairs_stay_together():
  hardness = np.random.default_rng(1).normal(0, 10, 500)
  estimate = paired_bootstrap(hardness + 1, hardness)
  assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((1, 1, 1))
  noise = np.random.default_rng(2).normal(0, 1, 500)
  estimate = paired_bootstrap(hardness + noise, hardness)
  assert estimate.high - estimate.low < 0.2


def test_truth_values_give_shares():
  first, second = np.array([True] * 60 + [False] * 40), np.array([True] * 50 + [False] * 50)
  estimate = paired_bootstrap(first, second)
  assert estimate.mean == pytest.approx(0.1)
  assert 0.02 < estimate.low < 0.1 < estimate.high < 0.18


def test_the_seed_decides_the_interval():
  values = np.random.default_rng(0).normal(size=50)
  assert bootstrap_mean(values, num_resamples=100) == bootstrap_mean(values, num_resamples=100)
  assert bootstrap_mean(values, num_resamples=100) != bootstrap_mean(values, num_resamples=100, seed=1)


def test_many_images_are_resampled_in_parts():
  estimate = bootstrap_mean(np.arange(3_000_000) % 2, num_resamples=20)
  assert estimate.mean == 0.5
  assert 0.499 < estimate.low <= estimate.high < 0.501


@pytest.mark.parametrize(
  ("values", "options", "message"),
  [
    ([], {}, "values must be one number for each of at least one image, got the shape (0,)."),
    ([[1.0]], {}, "values must be one number for each of at least one image, got the shape (1, 1)."),
    ([1.0, np.nan], {}, "values must be finite, got 1 that are not; leave these images out."),
    ([1.0, 2.0], {"level": 1.0}, "level must lie strictly between 0 and 1, got 1.0."),
    ([1.0, 2.0], {"num_resamples": 0}, "num_resamples must be at least 1, got 0."),
  ],
)
def test_samples_that_cannot_be_used_are_refused(values: list[float], options: dict[str, float], message: str):
  with pytest.raises(ValueError, match=re.escape(message)):
    bootstrap_mean(np.array(values), **options)  # pyright: ignore[reportArgumentType]


def test_different_images_are_refused():
  with pytest.raises(ValueError, match=re.escape("got the shapes (3,) and (2,).")):
    paired_bootstrap(np.ones(3), np.ones(2))


def test_the_interval_of_a_median_holds_it_often_enough_and_is_no_wider():
  for count in range(1, 60):
    found = median_interval(np.random.default_rng(count).permutation(count))
    below = [math.comb(count, k) / 2**count for k in range(count + 1)]
    if found is None:
      assert 2 * below[0] > 0.05
      continue
    low, high = map(int, found)
    assert high == count - 1 - low
    # The interval misses a median with at most `low` values below it, or above it.
    assert 2 * sum(below[: low + 1]) <= 0.05
    assert 2 * sum(below[: low + 2]) > 0.05
  assert median_interval(np.zeros(0)) is None
