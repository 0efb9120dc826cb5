"""Estimates as texts and JSON; their intervals against theory, plain loops and SciPy; and that pairs stay together."""

import itertools
import json
import math
import re
import statistics
from typing import Any

import numpy as np
import pytest
from scipy import optimize, stats

from jax_sis.runtime.records import read_record, to_json
from jax_sis.statistics.estimates import (
  ALL_ALIKE,
  Estimate,
  bootstrap_mean,
  difference_of,
  mean_of,
  median_interval,
  no_mean,
  paired_bootstrap,
  rank_correlation,
  share_of,
  share_of_count,
  show,
  show_percent,
)

DIFFERENCE = Estimate(value=-0.125, low=-0.25, high=0.0625, num_images=20)


def test_an_estimate_is_written_with_its_interval_or_the_reason_for_none():
  assert f"{DIFFERENCE:.2f} {DIFFERENCE:+.1f}" == "-0.12 [-0.25, 0.06] -0.1 [-0.2, +0.1]"
  assert f"{share_of_count(3, 4):.0%}" == "75% [30, 95]"
  assert show_percent(DIFFERENCE, "+.1f") == "-12.5 [-25.0, +6.2]"
  assert (show(None), show_percent(None), show(None, nothing="")) == ("-", "-", "")
  assert f"{mean_of(np.array([1, 2])):.1f}" == "1.5"
  assert f"{share_of(np.zeros(0, bool)):.1%}" == "no images"
  assert f"{no_mean('no pairs'):.1f}" == "no pairs"
  none = Estimate(value=-0.0, low=-0.04, high=0.04, num_images=20)
  assert f"{none:.1f} {none:+.1f} {none:.0%}" == "0.0 [0.0, 0.0] +0.0 [+0.0, +0.0] 0% [-4, 4]"


def test_the_difference_the_other_way_round_has_its_interval_turned_round():
  turned = DIFFERENCE.scale(-1)
  assert (turned.value, turned.low, turned.high, turned.num_images) == (0.125, -0.0625, 0.25, 20)
  assert no_mean("none").scale(-1) == no_mean("none")


@pytest.mark.parametrize(("bound", "side"), [(-0.3, 1), (-0.25, 0), (0.0, 0), (0.0625, 0), (0.1, -1)])
def test_an_interval_lies_on_a_side_of_a_bound_or_holds_it(bound: float, side: int):
  assert DIFFERENCE.is_beyond(bound) == side
  assert no_mean("none").is_beyond(bound) == 0


def test_estimates_keep_their_form_in_json():
  numbers = {"low": -0.25, "high": 0.0625, "num_images": 20}
  assert to_json({"a": (DIFFERENCE,)}) == {"a": [{"mean": -0.125, **numbers, "reason": None}]}
  share = share_of_count(0, 0)
  empty = {"low": None, "high": None, "num_images": 0, "reason": "no images"}
  assert to_json(share) == {"share": None, **empty, "count": 0}
  for one in (DIFFERENCE, share, share_of_count(3, 4)):
    assert read_record(Estimate, json.loads(json.dumps(to_json(one)))) == one
  # As files of earlier versions have it.
  assert read_record(Estimate, {"mean": -0.125, **numbers}) == DIFFERENCE
  with pytest.raises(ValueError, match=r"^file\.low must be float, got '1'\.$"):
    read_record(Estimate, {"mean": 1.0, **numbers, "low": "1"}, "file")


def test_the_interval_of_a_large_sample_is_that_of_the_normal_distribution():
  values = np.random.default_rng(0).normal(3.0, 2.0, 4000)
  estimate = bootstrap_mean(values)
  margin = 1.96 * values.std() / np.sqrt(len(values))
  assert estimate.value == pytest.approx(values.mean())
  assert estimate.num_images == 4000
  np.testing.assert_allclose(estimate.numbers[1:], [values.mean() - margin, values.mean() + margin], atol=0.004)


def test_resampling_is_that_of_a_plain_loop():
  values = np.array([0.0, 0.0, 1.0, 5.0, 9.0])
  rng = np.random.default_rng(7)
  means = [rng.choice(values, 5).mean() for _ in range(20_000)]
  estimate = bootstrap_mean(values, level=0.8, num_resamples=20_000)
  np.testing.assert_allclose(estimate.numbers[1:], np.quantile(means, [0.1, 0.9]), atol=0.15)


def test_pairs_stay_together():
  hardness = np.random.default_rng(1).normal(0, 10, 500)
  estimate = paired_bootstrap(hardness + 1, hardness)
  assert (estimate.value, estimate.low, estimate.high) == pytest.approx((1, 1, 1))
  noise = np.random.default_rng(2).normal(0, 1, 500)
  estimate = paired_bootstrap(hardness + noise, hardness)
  _, low, high = estimate.numbers
  assert high - low < 0.2


def test_truth_values_give_shares():
  first, second = np.array([True] * 60 + [False] * 40), np.array([True] * 50 + [False] * 50)
  estimate = paired_bootstrap(first, second)
  assert estimate.value == pytest.approx(0.1)
  _, low, high = estimate.numbers
  assert 0.02 < low < 0.1 < high < 0.18


@pytest.mark.parametrize(("first", "second"), [(True, False), (True, True), (False, True)])
def test_truth_values_that_all_differ_alike_leave_room_for_images_that_do_not(first: bool, second: bool):
  found = difference_of(np.full(20, first), np.full(20, second))
  room = share_of_count(0, 20).high
  assert room is not None and found.num_images == 20
  value = first - second
  assert (found.low, found.value, found.high) == (max(value - room, -1), value, min(value + room, 1))
  # Numbers may be alike by their nature, and too few images give no interval.
  assert difference_of(np.full(20, 1.0), np.zeros(20)).low == 1
  assert difference_of(np.ones(3, bool), np.zeros(3, bool)).low is None


def test_the_seed_decides_the_interval():
  values = np.random.default_rng(0).normal(size=50)
  assert bootstrap_mean(values, num_resamples=100) == bootstrap_mean(values, num_resamples=100)
  assert bootstrap_mean(values, num_resamples=100) != bootstrap_mean(values, num_resamples=100, seed=1)


def test_many_images_are_resampled_in_parts():
  estimate = bootstrap_mean(np.arange(3_000_000) % 2, num_resamples=20)
  assert estimate.value == 0.5
  _, low, high = estimate.numbers
  assert 0.499 < low <= high < 0.501


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


def test_the_rank_correlation_is_that_of_scipy_and_does_not_depend_on_the_order_of_the_images():
  rng = np.random.default_rng(0)
  first = rng.integers(0, 6, 60)
  second = first + rng.normal(size=60)
  found = rank_correlation(first, second)
  expected: Any = stats.spearmanr(first, second)
  assert found.value == pytest.approx(expected.statistic)
  value, low, high = found.numbers
  assert 0.5 < low < value < high < 1
  order = rng.permutation(60)
  assert rank_correlation(first[order], second[order]) == found
  assert rank_correlation(np.ones(60), second).reason == ALL_ALIKE


# Shares.


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
@pytest.mark.parametrize(("count", "num_images"), [(1, 2), (9179, 10_000), (1, 10_000), (23, 24)])
def test_the_ends_of_a_shares_interval_are_z_standard_errors_from_what_was_seen(
  count: int, num_images: int, level: float
):
  share = count / num_images
  z = stats.norm.ppf(0.5 + level / 2)

  def excess(candidate: float) -> float:
    return float((candidate - share) ** 2 - z**2 * candidate * (1 - candidate) / num_images)

  estimate = share_of_count(count, num_images, level=level)
  assert estimate.low == pytest.approx(optimize.brentq(excess, 0, share, xtol=1e-15), abs=1e-12)
  assert estimate.high == pytest.approx(optimize.brentq(excess, share, 1, xtol=1e-15), abs=1e-12)


@pytest.mark.parametrize(
  ("num_images", "level"), [*itertools.product((1, 2, 3, 5, 10, 37, 1000, 50_000), (0.5, 0.9, 0.95, 0.999))]
)
def test_the_interval_of_a_share_is_wilsons_formula(num_images: int, level: float):
  z = statistics.NormalDist().inv_cdf((1 + level) / 2)
  for count in {0, 1, num_images // 3, num_images // 2, num_images - 1, num_images}:
    share = count / num_images
    radius = z * math.sqrt(share * (1 - share) / num_images + z**2 / (4 * num_images**2))
    ends = (share + z**2 / (2 * num_images) + sign * radius for sign in (-1, 1))
    expected = [end / (1 + z**2 / num_images) for end in ends]
    assert share_of_count(count, num_images, level=level).numbers == pytest.approx((share, *expected), abs=1e-15)


def test_nothing_or_everything_so_leaves_one_end_open():
  # At 0 of n the upper end is z^2 / (n + z^2).
  z_squared = stats.norm.ppf(0.975) ** 2
  assert share_of_count(0, 10).numbers == (0, 0, pytest.approx(z_squared / (10 + z_squared)))
  assert share_of_count(10, 10).numbers == (1, pytest.approx(10 / (10 + z_squared)), 1)


def test_the_interval_holds_the_true_share_as_often_as_it_says():
  num_images, share = 60, 0.9
  counts = np.arange(num_images + 1)
  intervals = [share_of_count(int(count), num_images).numbers for count in counts]
  is_inside = [low <= share <= high for _, low, high in intervals]
  assert 0.94 < stats.binom.pmf(counts, num_images, share) @ is_inside < 0.97


@pytest.mark.parametrize(
  ("count", "num_images", "level", "message"),
  [
    (5, 4, 0.95, "count must lie in 0..4, the number of images, got 5."),
    (-1, 4, 0.95, "count must lie in 0..4, the number of images, got -1."),
    (2, 4, 1.0, "level must lie strictly between 0 and 1, got 1.0."),
  ],
)
def test_a_share_of_impossible_counts_is_refused(count: int, num_images: int, level: float, message: str):
  with pytest.raises(ValueError, match=re.escape(message)):
    share_of_count(count, num_images, level=level)
