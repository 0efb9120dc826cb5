"""Fixed-sequence tests: a plain loop over the same draws, what stops them, and their coverage."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jax_sis
from jax_sis import Status, Verdict, completions
from jax_sis.core import certified
from jax_sis.core.drawing import Purpose, draw_fills
from jax_sis.core.features import Grid
from jax_sis.core.unseen import CHOOSING

NUM_FEATURES = 8
SHARP = 300.0
CHOOSE = jax.jit(lambda order: certified.choose_sizes(order, 0.9))
# At 0, 1, ..., 8 kept features.
RATES = np.array([0.1, 0.2, 0.5, 0.95, 0.85, 0.93, 0.96, 0.99, 1.0], np.float32)


def draw_evenly(key: Any, image: Any) -> Any:
  return jnp.full_like(image, jax.random.uniform(key))


def predict_by_size(rates: Any, inputs: Any) -> Any:
  """Kept features show 2, the others what is drawn: the class is kept where that is below the rate of the size."""
  num_kept = (inputs > 1.5).sum(1)
  logit = SHARP * (rates[num_kept] - jnp.where(num_kept == inputs.shape[1], 0, inputs.min(1)))
  return jnp.stack([logit, jnp.zeros_like(logit)], axis=1)


def make_order(count: int, *, rate: Any = None, sizes: tuple[int, ...] = tuple(range(9))) -> jax_sis.FeatureOrder:
  rng = np.random.default_rng(0)
  return jax_sis.FeatureOrder(
    rank=jnp.asarray(np.stack([rng.permutation(NUM_FEATURES) for _ in range(count)]).astype(np.int32)),
    confidence=jnp.full((count, len(sizes)), 0.75),
    target=jnp.zeros(count, jnp.int32),
    finite=jnp.ones(count, bool),
    baseline=jnp.zeros((count, 1)),
    rate=None if rate is None else jnp.tile(jnp.asarray(rate, jnp.float32)[None], (count, 1)),
    sizes=sizes,
    grid=(NUM_FEATURES,),
    score="log_odds",
  )


def find(order: jax_sis.FeatureOrder, rates: Any = RATES, **options: Any) -> tuple[jax_sis.Subsets, jax_sis.Guarantee]:
  images = jnp.full((len(order), NUM_FEATURES), 2.0)
  options = {"completion": draw_evenly, "num_draws": 60, **options}
  return jax_sis.certified_subsets(predict_by_size, jnp.asarray(rates), images, order, **options)


def test_a_plain_loop_over_the_same_draws_comes_to_the_same():
  order = make_order(12)
  keys = jax.random.split(jax.random.key(4), 12)
  subsets, report = find(order, keys=keys)
  images = jnp.full((12, NUM_FEATURES), 2.0)
  folded = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, CHOOSING)
  distribution = completions.check_part("completion", draw_evenly, images)

  def count_kept(size: int, purpose: Purpose) -> Any:
    kept = (order.rank < size).astype(jnp.float32)
    fills = draw_fills(
      distribution, folded, images, kept, jnp.arange(60), features=Grid((NUM_FEATURES,)), purpose=purpose
    )
    return (np.asarray(fills)[:, :, 0] < RATES[size]).sum(1)

  tested = {size: count_kept(size, Purpose.TEST) for size in range(1, NUM_FEATURES)}
  measured = {size: count_kept(size, Purpose.MEASURE) for size in range(1, NUM_FEATURES)}
  seen = set()
  for index in range(12):
    found, worst = 0, 0.0
    for size in range(NUM_FEATURES - 1, 0, -1):
      p_value = scipy.stats.binomtest(int(tested[size][index]), 60, 0.9, alternative="greater").pvalue
      if found == 0 or p_value <= 0.05:
        worst = max(worst, p_value)
      if p_value > 0.05:
        break
      found = size
    seen.add(found)
    assert int(subsets.num_kept[index]) == found
    assert subsets.status[index] == (Status.OK if found else Status.NOT_REACHED)
    np.testing.assert_array_equal(subsets.mask[index], (order.rank[index] < found))
    assert float(report.p_value[index]) == pytest.approx(worst, rel=1e-4)
    judged = found or NUM_FEATURES - 1
    assert int(report.num_judged[index]) == judged
    assert float(report.rate[index]) == pytest.approx(measured[judged][index] / 60)
    assert float(report.rate_bound[index]) == pytest.approx(0.9 if found else 0.0)
  # Some stop early, and none gets below the dip at 4, though 3 would pass.
  assert len(seen) > 2
  assert 3 not in seen
  np.testing.assert_array_equal(report.verdict == Verdict.CERTIFIED, subsets.status == Status.OK)
  assert report.correction == "bonferroni"


def test_a_rate_that_no_size_reaches_has_a_status_and_what_the_largest_reaches():
  subsets, report = find(make_order(12), rates=0.5 * RATES)
  assert subsets.status.tolist() == [Status.NOT_REACHED] * 12
  assert not subsets.mask.any()
  assert report.verdict.tolist() == [Verdict.NOT_CERTIFIED] * 12
  assert report.num_judged.tolist() == [NUM_FEATURES - 1] * 12
  np.testing.assert_allclose(report.rate, 0.495, atol=0.25)
  assert report.rate_bound.tolist() == [0] * 12


def test_an_image_whose_order_is_not_finite_is_not_searched():
  order = dataclasses.replace(make_order(12), finite=jnp.arange(12) > 0)
  subsets, report = find(order)
  assert subsets.status[0] == Status.NON_FINITE
  assert report.verdict[0] == Verdict.NOT_SEARCHED
  assert np.isnan(report.rate[0])
  assert np.isnan(report.p_value[0])


def test_only_what_is_needed_is_evaluated():
  calls = []

  def predict_fn(rates: Any, inputs: Any) -> Any:
    jax.debug.callback(lambda: calls.append(inputs.shape[0]))
    return predict_by_size(rates, inputs)

  images, order = jnp.full((3, NUM_FEATURES), 2.0), make_order(3)
  for rates, num_tests in ((0.5 * RATES, 1), (np.ones(9, np.float32), 2)):
    calls.clear()
    found = jax_sis.certified_subsets(
      predict_fn, jnp.asarray(rates), images, order, completion=draw_evenly, num_draws=64, sizes=(5, 6)
    )
    jax.block_until_ready(found)
    jax.effects_barrier()
    # The looks at the whole batch that check the arguments, one call a test and image, and one to measure.
    assert calls.count(64) == 3 * (num_tests + 1)


def test_sizes_are_near_the_estimate_of_the_search_and_each_once():
  sizes = tuple(range(0, 1025, 4))
  rate = np.interp(sizes, [0, 400, 1024], [0.1, 0.9, 1.0])
  plain, estimated = (np.asarray(CHOOSE(order_of_many(sizes, rates))) for rates in (None, [rate, 0.5 * rate]))
  # A dip far above what is needed costs nothing.
  dipping = np.where(np.array(sizes) == 1016, 0.85, rate)
  np.testing.assert_array_equal(CHOOSE(order_of_many(sizes, [dipping, 0.5 * rate])), estimated)
  for chosen in (plain[0], estimated[0], estimated[1]):
    used = chosen[chosen > 0]
    assert (np.diff(used) < 0).all()
    assert set(used.tolist()) <= set(sizes)
    assert len(used) == 16
  assert plain[0, 0] == 1020
  assert plain[0, -1] == 64
  assert estimated[0, 0] == 700
  assert 280 <= estimated[0, -1] <= 284
  # Where the search never saw the rate, all sizes.
  np.testing.assert_array_equal(estimated[1], plain[0])
  few = np.asarray(CHOOSE(make_order(1)))[0]
  assert few[:8].tolist() == [7, 6, 5, 4, 3, 2, 1, 0]


def order_of_many(sizes: tuple[int, ...], rates: Any) -> jax_sis.FeatureOrder:
  rates = None if rates is None else jnp.asarray(np.array(rates, np.float32))
  return jax_sis.FeatureOrder(
    rank=jnp.zeros((2, 1024), jnp.int32),
    confidence=jnp.zeros((2, len(sizes))),
    target=jnp.zeros(2, jnp.int32),
    finite=jnp.ones(2, bool),
    baseline=jnp.zeros((2, 1)),
    rate=rates,
    sizes=sizes,
    grid=(1024,),
    score="log_odds",
  )


@pytest.mark.slow
def test_the_level_holds_over_all_sizes():
  # Just too rare at two sizes, one behind the other, and once more behind a dip.
  rates = np.array([0.1, 0.899, 0.5, 0.899, 0.8999, 0.93, 0.8999, 0.97, 1.0], np.float32)
  for sizes in (None, (5, 4, 3, 1), (7, 6)):
    subsets, report = find(make_order(2000), rates=rates, num_draws=500, sizes=sizes)
    found = np.asarray(subsets.num_kept)
    is_wrong = (found > 0) & (rates[found] < 0.9)
    assert 1 - is_wrong.mean() >= 0.935, sizes
    assert is_wrong.any()
    assert not (is_wrong & report.certified_together()).any()
