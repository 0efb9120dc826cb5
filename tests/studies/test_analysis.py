"""What whole runs say, against plain loops, known answers and simulation, on made-up stores."""

import dataclasses
import itertools
import pathlib
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from made_runs import CLASS_NAMES, GRID, NUM_FEATURES, SIZES, SPEC, find_subset, make_rows, make_run, reorder
from scipy import stats

import jax_sis
from jax_sis import results
from jax_sis.core.order import FeatureOrder
from jax_sis.core.subsets import Status
from jax_sis.evaluation.metrics import calibration
from jax_sis.results.query import SubsetQuery, find_subsets
from jax_sis.runtime.records import to_json
from jax_sis.statistics.estimates import difference_of, mean_of, share_of, share_of_count
from jax_sis.statistics.matching import confidence_bins, match_by_confidence
from jax_sis.studies.analysis.comparison import compare_runs
from jax_sis.studies.analysis.confidence_curves import RemovalCounts, choose_points
from jax_sis.studies.analysis.overlap import expected_overlap
from jax_sis.studies.analysis.positions import PositionCounts
from jax_sis.studies.analysis.run import MOST_NEEDED, analyse_run
from jax_sis.studies.analysis.sizes import accuracy_by_size, make_columns

SIS = SubsetQuery(threshold=0.9)


# Numbers with intervals.


def test_means_and_shares_say_why_they_have_no_interval():
  assert to_json(mean_of(np.array([]))) == {
    "mean": None,
    "low": None,
    "high": None,
    "num_images": 0,
    "reason": "no images",
  }
  few = mean_of(np.array([1, 2, 6, 7]))
  assert (few.value, few.low, few.high, few.num_images) == (4.0, None, None, 4)
  assert few.reason == "fewer than 5 images give no interval"
  assert share_of(np.zeros(0, bool)).reason == "no images"
  share = share_of(np.array([True, False, False]))
  assert share == share_of_count(1, 3)


def test_intervals_do_not_depend_on_the_order_of_the_images():
  values, order = np.random.default_rng(0).normal(size=(2, 60)), np.random.default_rng(1).permutation(60)
  assert mean_of(values[0]) == mean_of(values[0][order])
  assert difference_of(*values) == difference_of(*values[:, order])


# Sizes.


@pytest.mark.parametrize(
  ("threshold", "others"), [(0.5, {Status.BASELINE_SUFFICIENT}), (0.97, {Status.BELOW_THRESHOLD})]
)
def test_sizes_at_another_threshold_are_those_of_the_kernel(threshold: float, others: set[Status]):
  rows = make_rows(300, threshold=0.7)
  order = FeatureOrder(
    rank=jnp.asarray(rows["rank"].astype(np.int32)),
    confidence=jnp.asarray(rows["confidence"]),
    target=jnp.asarray(rows["target"].astype(np.int32)),
    finite=jnp.ones(300, bool),
    baseline=jnp.zeros((300, 1, 1, 1), np.float32),
    sizes=SIZES,
    grid=GRID,
    score="log_odds",
  )
  subsets = jax_sis.sufficient_subsets(order, threshold)
  query = SubsetQuery(threshold=threshold)
  columns = make_columns(rows, [find_subsets(query, {**SPEC, "threshold": 0.7}, rows)])
  np.testing.assert_array_equal(columns.status[query], subsets.status)
  np.testing.assert_array_equal(columns.num_kept[query], subsets.num_kept)
  assert set(columns.status[query].tolist()) == {Status.OK, *others}


def test_the_sizes_of_a_run_are_those_of_a_plain_loop(tmp_path: pathlib.Path):
  rows = make_rows(90, has_odd_ones=True)
  analysis = analyse_run(make_run(tmp_path, rows), thresholds=(0.9, 0.6))
  assert [(sizes.answer, sizes.threshold, sizes.group) for sizes in analysis.sizes] == [
    ("sis", 0.9, "all"),
    ("sis", 0.6, "all"),
  ]
  for sizes in analysis.sizes:
    found = [find_subset(row, SIZES, sizes.threshold) for row in rows["confidence"][2:]]
    kept = [size for status, size in found if status == Status.OK]
    assert sizes.status["not_searched"] == sizes.status["non_finite"] == 1
    assert sum(sizes.status.values()) == 90
    assert sizes.status["ok"] == sizes.with_subset.count == sizes.pixels.num_images == len(kept)
    for status in (Status.BELOW_THRESHOLD, Status.BASELINE_SUFFICIENT):
      assert sizes.status.get(status.name.lower(), 0) == sum(status == one for one, _ in found)
    assert sizes.pixels.value == pytest.approx(np.mean(kept))
    assert sizes.mean_share == pytest.approx(np.mean(kept) / NUM_FEATURES)
    assert sizes.median == np.median(kept)
    assert sizes.percentiles is not None and sizes.distribution is not None
    assert (sizes.percentiles["0"], sizes.percentiles["100"]) == (min(kept), max(kept))
    for percent in (0, 30, 55, 100):
      size = sizes.distribution[percent]
      assert np.mean([one <= size for one in kept]) >= percent / 100 >= np.mean([one < size for one in kept])
  assert analysis.num_unlabelled == 2


def test_classes_are_those_that_the_subsets_are_for_and_empty_ones_are_said(tmp_path: pathlib.Path):
  rows = make_rows(60)
  rows["target"] = rows["predicted"] = np.where(rows["predicted"] == 2, 1, rows["predicted"])
  is_dog = rows["predicted"] == 1
  rows["sis_status"][is_dog] = Status.BELOW_THRESHOLD
  rows["sis_num_kept"][is_dog] = 0
  analysis = analyse_run(make_run(tmp_path, rows))
  assert analysis.classes_without_images == ("eel",)
  assert analysis.classes_without_subset == {"sis": ("dog",)}
  by_class = {sizes.group: sizes for sizes in analysis.sizes_by_class}
  assert list(by_class) == ["cat", "dog", "fox"]
  assert by_class["dog"].pixels.reason == "no images"
  assert (by_class["dog"].percentiles, by_class["dog"].mean_share) == (None, None)
  chosen = (rows["predicted"] == 3) & (rows["sis_status"] == Status.OK)
  assert by_class["fox"].pixels.value == pytest.approx(rows["sis_num_kept"][chosen].mean())
  assert by_class["fox"].with_subset.num_images == (rows["predicted"] == 3).sum()


# Correctness.


def test_bins_of_confidence_are_half_a_decade_wide():
  edges = [0.0, 0.683, 0.684, 0.899, 0.9, 0.99, 0.9968, 0.9969, 0.999, 1 - 1e-6 + 1e-9, 1.0]
  assert confidence_bins(np.array(edges)).tolist() == [0, 3, 4, 7, 8, 16, 19, 20, 24, 48, 48]
  # The threshold of a run, as float32 has it.
  assert confidence_bins(np.array([0.99], np.float32)).tolist() == [16]


def test_matching_weights_the_right_ones_as_the_wrong_ones():
  confidence = np.array([0.91] * 5 + [0.991] * 4 + [0.9999999] * 3)
  is_right = np.array([0, 0, 0, 1, 1, 0, 1, 1, 1, 1, 1, 1], bool)
  sizes = np.array([10, 20, 30, 30, 50, 100, 40, 60, 80, 7, 8, 9])
  matched = match_by_confidence(sizes, is_right, confidence)
  assert [(one.num_wrong, one.num_right, one.mean_wrong, one.mean_right) for one in matched.bins] == [
    (3, 2, 20.0, 40.0),
    (1, 3, 100.0, 60.0),
    (0, 3, None, 8.0),
  ]
  assert [one.low for one in matched.bins] == [0.9, 0.99, 0.999999]
  assert (matched.num_wrong, matched.num_right, matched.num_left_out) == (4, 5, 3)
  assert matched.mean_wrong == 160 / 4
  assert matched.mean_right == pytest.approx((3 * 40 + 60) / 4)
  assert matched.difference.value == pytest.approx(-5)
  assert matched.unmatched.value == pytest.approx(40 - np.mean([30, 50, 40, 60, 80, 7, 8, 9]))


def test_a_difference_that_is_owed_to_confidence_goes_away():
  rng = np.random.default_rng(0)
  decades = rng.uniform(1, 5, 3000)
  # The surer, the smaller; and the surer, the more often right.
  sizes = 100 / decades + rng.normal(0, 2, 3000)
  is_right = rng.random(3000) < 0.6 + 0.08 * decades
  matched = match_by_confidence(sizes, is_right, 1 - 10**-decades)
  assert matched.unmatched.low is not None and matched.unmatched.low > 3
  difference = matched.difference
  assert difference.value is not None and difference.low is not None and difference.high is not None
  # Within a bin confidence still differs a little.
  assert abs(difference.value) < 1
  smaller = match_by_confidence(sizes - 20 * ~is_right, is_right, 1 - 10**-decades).difference
  assert smaller.value == pytest.approx(difference.value - 20)
  assert smaller.high is not None and smaller.high < -18


def test_size_that_depends_on_confidence_alone_makes_no_difference():
  rng = np.random.default_rng(0)
  decades = rng.uniform(0, 6, 20_000)
  confidence = 1 - 10**-decades
  is_right = rng.random(20_000) < confidence
  is_sure = confidence >= 0.9
  difference = match_by_confidence(100 * decades[is_sure], is_right[is_sure], confidence[is_sure]).difference
  assert difference.low is not None
  assert difference.high is not None
  assert difference.low < 0 < difference.high
  assert difference.high - difference.low < 3


def test_the_matched_interval_is_that_of_a_plain_loop():
  rng = np.random.default_rng(3)
  confidence, is_right = 1 - 10 ** -rng.uniform(1, 1.5, 40), rng.random(40) < 0.7
  sizes = rng.integers(1, 60, 40).astype(float)
  bins, differences = confidence_bins(confidence), []
  for _ in range(4000):
    drawn = rng.integers(0, 40, 40)
    total, summed = 0, 0.0
    for number in set(bins[drawn]):
      of_bin = drawn[bins[drawn] == number]
      wrong, right = sizes[of_bin[~is_right[of_bin]]], sizes[of_bin[is_right[of_bin]]]
      if len(wrong) and len(right):
        total += len(wrong)
        summed += len(wrong) * (wrong.mean() - right.mean())
    if total:
      differences.append(summed / total)
  difference = match_by_confidence(sizes, is_right, confidence).difference
  matched = np.isin(bins, bins[~is_right]) & np.isin(bins, bins[is_right])
  assert matched.all(), "the loop resamples the images of all bins"
  interval = np.array([difference.low, difference.high], float)
  np.testing.assert_allclose(interval, np.quantile(differences, [0.025, 0.975]), atol=1.2)


@pytest.mark.parametrize(("num_wrong", "num_right"), [(0, 9), (9, 0), (0, 0)])
def test_predictions_of_one_kind_have_no_difference(num_wrong: int, num_right: int):
  is_right = np.array([False] * num_wrong + [True] * num_right, bool)
  matched = match_by_confidence(np.arange(len(is_right)), is_right, np.full(len(is_right), 0.95))
  assert matched.difference.value is None
  assert matched.difference.reason == "no wrong and right predictions of the same confidence"
  assert matched.unmatched.reason == "no wrong predictions, or no right ones"


def test_few_wrong_predictions_have_no_interval():
  is_right = np.arange(20) >= 4
  difference = match_by_confidence(np.arange(20), is_right, np.full(20, 0.95)).difference
  assert (difference.value, difference.low, difference.high) == (1.5 - 11.5, None, None)
  assert difference.reason == "fewer than 5 wrong or right predictions give no interval"


def test_accuracy_by_size_keeps_equal_sizes_together():
  rows = make_rows(400)
  columns = make_columns(rows, [find_subsets(SIS, SPEC, rows)])
  bins = accuracy_by_size(columns, SIS, max_bins=3)
  chosen = (rows["sis_status"] == Status.OK) & (rows["label"] != -1)
  sizes, is_right = rows["sis_num_kept"][chosen], (rows["predicted"] == rows["label"])[chosen]
  assert sum(one.accuracy.num_images for one in bins) == len(sizes)
  assert 1 < len(bins) <= 3
  for one, following in itertools.pairwise(bins):
    assert one.largest < following.smallest
  for one in bins:
    of_bin = (sizes >= one.smallest) & (sizes <= one.largest)
    count, total = int(is_right[of_bin].sum()), int(of_bin.sum())
    assert one.accuracy == share_of_count(count, total)
    assert one.mean_pixels == pytest.approx(sizes[of_bin].mean())
    assert one.mean_confidence == pytest.approx(rows["full_confidence"][chosen][of_bin].astype(float).mean())


def test_distinct_sizes_give_bins_of_equal_counts():
  rows = {name: values.copy() for name, values in make_rows(100).items()}
  rows["sis_status"][:] = Status.OK
  rows["sis_num_kept"] = np.random.default_rng(0).permutation(100) + 1
  bins = accuracy_by_size(make_columns(rows, [find_subsets(SIS, SPEC, rows)]), SIS)
  assert [one.accuracy.num_images for one in bins] == [10] * 10
  rows["sis_status"][:] = Status.BELOW_THRESHOLD
  assert accuracy_by_size(make_columns(rows, [find_subsets(SIS, SPEC, rows)]), SIS) == []


def test_few_images_make_few_bins():
  rows = make_rows(24)
  columns = make_columns(rows, [find_subsets(SIS, SPEC, rows)])
  assert len(accuracy_by_size(columns, SIS)) <= 2


def test_accuracy_and_calibration_are_those_of_the_metrics(tmp_path: pathlib.Path):
  rng = np.random.default_rng(0)
  logits, rows = rng.normal(0, 3, (80, 4)), make_rows(80)
  rows["predicted"] = rows["target"] = logits.argmax(1)
  probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  rows["full_confidence"] = probabilities.max(1).astype(np.float32)
  trust = analyse_run(make_run(tmp_path, rows)).trust
  assert trust.accuracy.value == (rows["predicted"] == rows["label"]).mean()
  expected = calibration(logits, rows["label"]).expected_calibration_error
  assert trust.expected_calibration_error == pytest.approx(expected, abs=1e-6)
  assert trust.mean_confidence == pytest.approx(probabilities.max(1).mean(), abs=1e-6)


def test_a_run_about_the_labels_says_nothing_of_correctness(tmp_path: pathlib.Path):
  rows = make_rows(40)
  rows["target"] = rows["label"]
  analysis = analyse_run(make_run(tmp_path, rows, target="label"))
  assert analysis.correctness == ()
  assert analysis.trust.expected_calibration_error is None
  assert analysis.trust.accuracy.value == (rows["predicted"] == rows["label"]).mean()
  assert analysis.removal is not None
  assert [curve.group for curve in analysis.removal.curves] == ["all"]
  assert analysis.left_out == (
    "size against correctness, curves of right and wrong predictions, calibration: the run's target is 'label', and "
    "not each image's predicted class",
  )


# Places.


def count_positions(masks: np.ndarray, num_at_once: int = 7) -> PositionCounts:
  counts = PositionCounts((*masks.shape[1:], 1))
  for start in range(0, len(masks), num_at_once):
    counts.add(masks[start : start + num_at_once].reshape(-1, masks[0].size))
  return counts


def test_positions_are_counted_as_by_a_plain_loop():
  masks = np.random.default_rng(0).random((30, 4, 5)) < 0.2
  masks[3] = False
  found = count_positions(masks).describe("sis")
  kept = [mask for mask in masks if mask.any()]
  assert found.num_images == len(kept) < 30
  for row, column in itertools.product(range(4), range(5)):
    assert found.shares[row][column] == sum(mask[row, column] for mask in kept) / len(kept)
  assert found.mean_row.value == pytest.approx(np.mean([np.argwhere(mask)[:, 0].mean() for mask in kept]))
  assert found.mean_column.value == pytest.approx(np.mean([np.argwhere(mask)[:, 1].mean() for mask in kept]))
  assert (found.even_row, found.even_column) == (1.5, 2.0)
  at_border = [np.mean([row in (0, 3) or column in (0, 4) for row, column in np.argwhere(mask)]) for mask in kept]
  assert found.border.value == pytest.approx(np.mean(at_border))
  assert found.even_border == 14 / 20
  # The variance over places by that of independent draws: a clustering of pixels changes its spread, not its mean.
  shares = np.array([mask.mean() for mask in kept])
  counts = np.sum(kept, axis=0)
  expected = (shares * (1 - shares)).sum()
  assert found.evenness.dispersion == pytest.approx(counts.var() / expected)


@pytest.mark.parametrize(("shape", "even_border"), [((1, 5), 1), ((2, 2), 1), ((3, 3), 8 / 9), ((5, 1), 1)])
def test_small_grids_have_a_border_too(shape: tuple[int, int], even_border: float):
  found = count_positions(np.ones((6, *shape), bool)).describe("sis")
  assert (found.even_border, found.border.value) == pytest.approx((even_border, even_border))


@pytest.mark.parametrize("shape", [(8, 8), (7, 9)])
def test_the_test_of_even_use_keeps_its_level_for_clustered_subsets(shape: tuple[int, int]):
  rng = np.random.default_rng(0)
  p_values = []
  for seed in range(120):
    masks = np.zeros((25, *shape), bool)
    masks[:, :3, :2] = True
    masks[12:, 4, 3] = True
    moved = [np.roll(mask, rng.integers(0, shape), (0, 1)) for mask in masks]
    p_values.append(count_positions(np.array(moved)).describe("sis", seed=seed).evenness.p_value)
  values = np.array(p_values, float)
  assert (values < 0.05).mean() < 0.12
  assert 0.35 < values.mean() < 0.65


def test_subsets_at_the_border_are_seen():
  rng = np.random.default_rng(0)
  masks = rng.random((40, 8, 8)) < 0.1
  masks[:, 7] |= rng.random((40, 8)) < 0.3
  found = count_positions(masks).describe("sis")
  assert found.evenness.p_value is not None and found.evenness.p_value < 0.001
  assert found.evenness.dispersion is not None and found.evenness.dispersion > 2
  assert found.mean_row.low is not None and found.mean_row.low > 3.5


def test_what_cannot_be_tested_says_why():
  assert count_positions(np.ones((9, 4, 5), bool)).describe("sis").evenness.reason == "fewer than 10 images"
  whole = count_positions(np.ones((12, 4, 5), bool)).describe("sis")
  assert whole.evenness.reason == "every subset is the whole image"
  nothing = count_positions(np.zeros((12, 4, 5), bool)).describe("sis")
  assert (nothing.num_images, nothing.mean_row.reason) == (0, "no images")


def test_the_places_of_a_run_are_those_of_its_masks(tmp_path: pathlib.Path):
  rows = make_rows(50, has_odd_ones=True)
  store = make_run(tmp_path, rows)
  found = {positions.what: positions for positions in analyse_run(store, fraction=0.12).positions}
  masks = store.masks(threshold=0.9)[..., 0]
  np.testing.assert_allclose(found["sis"].shares, masks[masks.any((1, 2))].mean(0))
  # Three of 20 features, of the 48 images that have an order.
  assert found[MOST_NEEDED].num_images == 48
  np.testing.assert_allclose(found[MOST_NEEDED].shares, (rows["rank"][2:] < 3).mean(0).reshape(4, 5))


# Along the removal.


def test_confidence_along_the_removal_is_that_of_a_plain_loop(tmp_path: pathlib.Path):
  rows = make_rows(70, has_odd_ones=True)
  removal = analyse_run(make_run(tmp_path, rows), has_class_curves=True).removal
  assert removal is not None
  assert removal.sizes == SIZES
  assert removal.shares == tuple(size / NUM_FEATURES for size in SIZES)
  is_known = rows["label"] != -1
  is_right = rows["predicted"] == rows["label"]
  is_ordered = np.arange(70) >= 2
  groups = {"all": is_ordered, "right": is_ordered & is_known & is_right, "wrong": is_ordered & is_known & ~is_right}
  assert [curve.group for curve in removal.curves] == list(groups)
  for curve in removal.curves:
    confidence = rows["confidence"][groups[curve.group]].astype(float)
    assert curve.num_images == len(confidence)
    np.testing.assert_allclose(curve.mean, confidence.mean(0))
    for share, values in curve.quantiles.items():
      expected = np.quantile(confidence, float(share), axis=0, method="inverted_cdf")
      np.testing.assert_allclose(values, expected, atol=0.0003)
  for curve in removal.classes:
    chosen = is_ordered & (rows["target"] == CLASS_NAMES.index(curve.group))
    np.testing.assert_allclose(curve.mean, rows["confidence"][chosen].astype(float).mean(0))
    assert curve.num_images == chosen.sum()


def test_curves_of_many_sizes_show_some_of_them():
  sizes = tuple(range(1025))
  points = choose_points(sizes, 1024)
  assert {0, 1, 2, 3, 512, 1024} <= set(points.tolist())
  assert len(points) <= 101
  assert np.diff(points).max() <= 21
  counts = RemovalCounts(sizes, num_features=1024, groups=("all",))
  confidence = np.linspace(0, 1, 1025)[None].astype(np.float32)
  counts.add(confidence, {"all": np.array([True])}, np.array([0]))
  removal = counts.describe()
  np.testing.assert_allclose(removal.curves[0].mean, removal.shares, atol=1e-6)


# Whole runs.


def flatten(value: Any) -> list[Any]:
  if isinstance(value, dict):
    return [leaf for name in value for leaf in [name, *flatten(value[name])]]
  if isinstance(value, list | tuple):
    return [leaf for item in value for leaf in flatten(item)]
  return [value]


def assert_same(first: Any, second: Any) -> None:
  """Two dataclasses agree but for the rounding of sums."""
  leaves = [flatten(to_json(one)) for one in (first, second)]
  assert len(leaves[0]) == len(leaves[1])
  for here, there in zip(*leaves, strict=True):
    assert here == (pytest.approx(there, rel=1e-9) if isinstance(there, float) else there)


def test_the_order_of_the_images_does_not_matter(tmp_path: pathlib.Path):
  rows = make_rows(60, has_odd_ones=True)
  shuffled = reorder(rows, np.random.default_rng(5).permutation(60))
  options: dict[str, Any] = {"thresholds": (0.6,), "has_class_curves": True, "seed": 3}
  assert_same(
    analyse_run(make_run(tmp_path / "a", rows), **options),
    analyse_run(make_run(tmp_path / "b", shuffled, unit_size=7), **options),
  )


def test_only_finished_images_count(tmp_path: pathlib.Path):
  rows = make_rows(30)
  part = analyse_run(make_run(tmp_path / "part", rows, num_done=20))
  whole = analyse_run(make_run(tmp_path / "whole", reorder(rows, np.arange(20))))
  assert (part.num_images, part.num_finished) == (30, 20)
  assert_same(dataclasses.replace(part, num_images=20), whole)


def test_memory_does_not_grow_with_the_images(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
  store = make_run(tmp_path, make_rows(64))
  expected = analyse_run(store)
  monkeypatch.setattr("jax_sis.studies.analysis.run.FEATURES_AT_ONCE", 8 * NUM_FEATURES)
  read = []
  assert_same(analyse_run(store, advance_fn=read.append), expected)
  assert read == [8] * 8


def test_without_orders_masks_are_read_and_the_rest_is_left_out(tmp_path: pathlib.Path):
  rows = make_rows(40)
  masks = {
    "mask_threshold_0.9": rows["rank"] < rows["sis_num_kept"][:, None],
    "mask_fraction_0.05": rows["rank"] < 1,
  }
  kept = {name: values for name, values in rows.items() if name not in ("rank", "confidence")}
  bare = analyse_run(make_run(tmp_path / "bare", kept), thresholds=(0.95, 0.99))
  assert bare.left_out == (
    "sizes at 0.95, 0.99: the run holds no orders; search backward with --save order or both",
    "positions of sis: the run holds neither orders nor mask_threshold_0.9",
    "positions of most_needed: the run holds neither orders nor mask_fraction_0.05",
    "confidence along the removal: the run holds no orders; search backward with --save order or both",
  )
  assert (bare.positions, bare.removal) == ((), None)
  with_masks = analyse_run(make_run(tmp_path / "masks", {**kept, **masks}))
  with_orders = analyse_run(make_run(tmp_path / "orders", rows))
  assert with_masks.positions == with_orders.positions
  assert with_masks.sizes == with_orders.sizes
  assert len(with_masks.left_out) == 1


def test_a_run_of_which_nothing_is_done_is_refused(tmp_path: pathlib.Path):
  store = make_run(tmp_path, make_rows(8), num_done=0)
  message = (
    f"{str(tmp_path)!r} must hold finished images, but none of its 8 is done; jax-sis status shows who is at work."
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    analyse_run(store)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"thresholds": (1.0,)}, "thresholds must be a probability strictly between 0 and 1, got 1.0."),
    ({"fraction": 0.0}, "fraction must be above 0 and at most 1, got 0.0."),
  ],
)
def test_wrong_options_are_refused(tmp_path: pathlib.Path, options: dict[str, Any], message: str):
  with pytest.raises(ValueError, match=re.escape(message)):
    analyse_run(make_run(tmp_path, make_rows(8)), **options)


# Several runs.


def make_pair(
  tmp_path: pathlib.Path,
) -> tuple[dict[str, results.Results], dict[str, np.ndarray], dict[str, np.ndarray]]:
  """Two runs of 50 images each, 40 of which are the same, in other orders."""
  first, second = make_rows(50), make_rows(50, seed=1)
  second["id"] = np.array([f"image_{index:04}" for index in range(10, 60)])
  second["label"][:40] = first["label"][10:]
  stores = {
    "first": make_run(tmp_path / "first", first),
    "second": make_run(tmp_path / "second", reorder(second, np.random.default_rng(0).permutation(50)), unit_size=8),
  }
  return stores, reorder(first, np.arange(10, 50)), reorder(second, np.arange(40))


def test_runs_are_compared_on_the_images_that_both_have(tmp_path: pathlib.Path):
  stores, first, second = make_pair(tmp_path)
  comparison = compare_runs(stores)
  assert comparison.num_images == 40
  assert [(missing.label, missing.count, missing.ids[0]) for missing in comparison.missing] == [
    ("first", 10, "image_0050"),
    ("second", 10, "image_0000"),
  ]
  is_right = [rows["predicted"] == rows["label"] for rows in (first, second)]
  assert [run.trust.accuracy.value for run in comparison.runs] == [right.mean() for right in is_right]
  assert comparison.runs[1].accuracy_difference == difference_of(is_right[1], is_right[0])
  assert comparison.runs[1].num_same_target == (first["target"] == second["target"]).sum()
  has_both = (first["sis_status"] == Status.OK) & (second["sis_status"] == Status.OK)
  sizes = [rows["sis_num_kept"][has_both] for rows in (first, second)]
  compared = comparison.sizes[1]
  assert compared.label == "second"
  assert compared.with_subset.count == (second["sis_status"] == Status.OK).sum()
  assert compared.difference == difference_of(sizes[1], sizes[0])
  assert compared.median_pixels == np.median(sizes[1])
  assert comparison.sizes[0].difference.value == comparison.sizes[0].difference.high == 0
  (overlap,) = comparison.overlaps
  shared = []
  for one, other in zip(*(reorder(rows, np.flatnonzero(has_both)) for rows in (first, second)), strict=True):
    assert one == other
  for i in np.flatnonzero(has_both):
    kept = [set(np.flatnonzero(rows["rank"][i] < rows["sis_num_kept"][i])) for rows in (first, second)]
    shared.append(len(kept[0] & kept[1]) / len(kept[0] | kept[1]))
  assert overlap.observed == mean_of(np.array(shared))
  assert overlap.expected == pytest.approx(expected_overlap(sizes[0], sizes[1], NUM_FEATURES).mean())
  # Random orders overlap as chance does.
  assert overlap.excess.low is not None and overlap.excess.high is not None
  assert overlap.excess.low < 0 < overlap.excess.high


def test_runs_with_orders_are_compared_at_further_confidences(tmp_path: pathlib.Path):
  """By plain loops over the orders; runs without orders take part at their own confidence alone."""
  stores, first, second = make_pair(tmp_path)
  comparison = compare_runs(stores, thresholds=(0.9, 0.6, 0.75))
  assert [(sizes.label, sizes.threshold) for sizes in comparison.sizes] == [
    ("first", 0.9),
    ("second", 0.9),
    ("first", 0.75),
    ("second", 0.75),
    ("first", 0.6),
    ("second", 0.6),
  ]
  assert len(comparison.overlaps) == 1
  assert comparison.sizes[:2] == compare_runs(stores).sizes
  found = [[find_subset(confidence, SIZES, 0.6) for confidence in rows["confidence"]] for rows in (first, second)]
  pairs = [(one[1], other[1]) for one, other in zip(*found, strict=True) if one[0] == other[0] == Status.OK]
  at_lower = comparison.sizes[-1]
  assert at_lower.with_subset.count == sum(status == Status.OK for status, _ in found[1])
  assert at_lower.pixels.num_images == len(pairs)
  assert at_lower.difference.value == pytest.approx(np.mean([other - one for one, other in pairs]))
  masks = {name: values for name, values in second.items() if name not in ("rank", "confidence")}
  stores["second"] = make_run(tmp_path / "masks", masks)
  comparison = compare_runs(stores, thresholds=(0.6,))
  assert {sizes.threshold for sizes in comparison.sizes} == {0.9}
  assert comparison.left_out[-1] == "sis subsets at 0.6: only first holds them"


def test_equal_runs_are_equal(tmp_path: pathlib.Path):
  rows = make_rows(30)
  comparison = compare_runs({"a": make_run(tmp_path / "a", rows), "b": make_run(tmp_path / "b", rows)})
  assert (comparison.overlaps[0].observed.low, comparison.overlaps[0].observed.value) == (1, 1)
  assert comparison.sizes[1].difference.high == 0
  assert [missing.count for missing in comparison.missing] == [0, 0]


def test_the_overlap_by_chance_is_that_of_all_pairs_of_subsets():
  for first, second in itertools.product((1, 2, 3, 6), repeat=2):
    fixed = set(range(first))
    drawn = [set(other) for other in itertools.combinations(range(6), second)]
    mean = np.mean([len(fixed & other) / len(fixed | other) for other in drawn])
    assert expected_overlap(np.array([first]), np.array([second]), 6) == pytest.approx(mean)


def test_the_overlap_by_chance_of_large_subsets_is_that_of_draws():
  rng = np.random.default_rng(0)
  first, second, num_features = 4000, 6000, 50_176
  both = rng.hypergeometric(first, num_features - first, second, 200_000)
  mean = (both / (first + second - both)).mean()
  found = expected_overlap(np.array([first, first]), np.array([second, num_features]), num_features)
  np.testing.assert_allclose(found, [mean, first / num_features], rtol=1e-4)


def test_the_overlap_by_chance_is_scipys_hypergeometric_mean():
  for num_features in (1, 7, 64, 300):
    sizes = sorted({1, 2, num_features // 3, num_features // 2, num_features - 1, num_features} & {*range(1, 301)})
    first, second = np.array([(a, b) for a in sizes for b in sizes if max(a, b) <= num_features]).T
    expected = []
    for a, b in zip(first, second, strict=True):
      both = np.arange(min(a, b) + 1)
      expected.append(stats.hypergeom.pmf(both, num_features, a, b) @ (both / (a + b - both)))
    np.testing.assert_allclose(expected_overlap(first, second, num_features), expected, rtol=1e-11)


def test_a_run_at_another_threshold_takes_part_by_its_orders(tmp_path: pathlib.Path):
  first, second = make_rows(40), make_rows(40, seed=1, threshold=0.6)
  second["label"] = first["label"]
  masks = {name: values for name, values in second.items() if name not in ("rank", "confidence")}
  stores = {
    "first": make_run(tmp_path / "first", first),
    "ordered": make_run(tmp_path / "ordered", second, threshold=0.6),
    "bare": make_run(tmp_path / "bare", masks, threshold=0.6),
  }
  comparison = compare_runs(stores)
  assert [sizes.label for sizes in comparison.sizes] == ["first", "ordered"]
  expected = [find_subset(row, SIZES, 0.9)[0] == Status.OK for row in second["confidence"]]
  assert comparison.sizes[1].with_subset.count == sum(expected)
  assert comparison.left_out == ("sis subsets of bare: they are at 0.6, and the first run's at 0.9",)
  assert len(comparison.overlaps) == 1


def test_runs_of_other_grids_are_compared_in_shares(tmp_path: pathlib.Path):
  first = make_rows(40)
  second = make_rows(40, seed=1, num_features=80, sizes=(0, 40, 80))
  second["label"] = first["label"]
  stores = {
    "first": make_run(tmp_path / "first", first),
    "second": make_run(tmp_path / "second", second, grid=[8, 10, 1], sizes=[0, 40, 80]),
  }
  comparison = compare_runs(stores)
  compared = comparison.sizes[1]
  assert compared.difference.reason == "its grid is (8, 10, 1), and the first run's (4, 5, 1)"
  has_both = (first["sis_status"] == Status.OK) & (second["sis_status"] == Status.OK)
  shares = second["sis_num_kept"][has_both] / 80 - first["sis_num_kept"][has_both] / 20
  assert compared.share_difference.value == pytest.approx(shares.mean())
  assert comparison.left_out == (
    "overlap of sis subsets of first and second: their grids are (4, 5, 1) and (8, 10, 1)",
  )


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"data": {"data": "other", "split": "test"}},
      "runs must be of the same images, but 'first' is of 'made' and 'second' of 'other'; analyse them apart.",
    ),
    (
      {"class_names": ["a", "b", "c", "d"]},
      "runs must have the same classes, but those of 'first' and 'second' differ; analyse them apart.",
    ),
  ],
)
def test_runs_of_other_data_are_refused(tmp_path: pathlib.Path, changes: dict[str, Any], message: str):
  stores = {
    "first": make_run(tmp_path / "first", make_rows(8)),
    "second": make_run(tmp_path / "second", make_rows(8), **changes),
  }
  with pytest.raises(ValueError, match=re.escape(message)):
    compare_runs(stores)


def test_images_of_one_id_with_other_labels_are_refused(tmp_path: pathlib.Path):
  rows = make_rows(8)
  other = {**rows, "label": (rows["label"] + (np.arange(8) < 3)) % 4}
  stores = {"first": make_run(tmp_path / "first", rows), "second": make_run(tmp_path / "second", other)}
  message = (
    "runs must be of the same images, but 3 of 8 ids have other labels in 'second' than in 'first'; analyse them apart."
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    compare_runs(stores)


def test_runs_without_a_common_image_list_what_is_missing(tmp_path: pathlib.Path):
  rows = make_rows(8)
  stores = {
    "first": make_run(tmp_path / "first", rows),
    "second": make_run(tmp_path / "second", {**rows, "id": np.array([f"other_{index}" for index in range(8)])}),
  }
  message = (
    "runs must have finished images in common, but they have none: 'first' lacks 'other_0', 'other_1', 'other_2', "
    "'other_3', 'other_4' and 3 more; 'second' lacks 'image_0000', 'image_0001'"
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    compare_runs(stores)


def test_ids_that_are_only_places_need_one_split(tmp_path: pathlib.Path):
  rows = {**make_rows(8), "id": np.array([f"{index:08}" for index in range(8)])}
  stores = {
    "first": make_run(tmp_path / "first", rows),
    "second": make_run(tmp_path / "second", rows, data={"data": "made", "split": "train"}),
  }
  message = (
    "ids must name images, but these data give places only, in the splits 'test', 'train'; compare runs of one split."
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    compare_runs(stores)


def test_an_id_of_several_images_is_refused(tmp_path: pathlib.Path):
  rows = make_rows(8)
  rows["id"][5] = rows["id"][2]
  stores = {"first": make_run(tmp_path / "first", rows), "second": make_run(tmp_path / "second", make_rows(8))}
  message = "ids must name one image each, but 'image_0002' stands for several of run 'first'."
  with pytest.raises(ValueError, match=re.escape(message)):
    compare_runs(stores)


def test_one_run_cannot_be_compared(tmp_path: pathlib.Path):
  with pytest.raises(ValueError, match=re.escape("stores must be at least two runs, got 1.")):
    compare_runs({"first": make_run(tmp_path, make_rows(8))})
