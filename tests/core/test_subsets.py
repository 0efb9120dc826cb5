"""From an order to the subset of each image: every status, the sizes, and what is refused."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_sis
from jax_sis import Status

FIELDS = ("mask", "num_kept", "confidence", "target", "threshold", "status")


def make_order(
  confidence: list[list[float]], *, sizes: tuple[int, ...] = (0, 1, 2, 4), finite: bool = True, rank: Any = None
) -> jax_sis.FeatureOrder:
  """An order of 2x2 pixels, by default 3, 1, 0, 2 from the most to the least needed, with these confidences."""
  num_images = len(confidence)
  return jax_sis.FeatureOrder(
    rank=jnp.asarray([[2, 1, 3, 0]] * num_images if rank is None else rank, jnp.int32),
    confidence=jnp.asarray(confidence, jnp.float32),
    target=jnp.arange(num_images, dtype=jnp.int32),
    finite=jnp.full(num_images, finite),
    baseline=jnp.zeros((num_images, 1, 1, 1)),
    sizes=sizes,
    grid=(2, 2, 1),
    score="log_odds",
  )


def test_the_smallest_size_that_passes_is_taken():
  subsets = jax_sis.sufficient_subsets(make_order([[0.1, 0.6, 0.9, 0.95]]), 0.8)
  assert subsets.mask.shape == (1, 2, 2, 1)
  assert subsets.mask.ravel().tolist() == [False, True, False, True]
  assert subsets.num_kept.tolist() == [2]
  assert subsets.status.tolist() == [Status.OK]
  assert subsets.target.tolist() == [0]
  np.testing.assert_allclose(subsets.confidence, [0.9])
  np.testing.assert_allclose(subsets.threshold, [0.8])


def test_a_confidence_equal_to_the_threshold_passes():
  subsets = jax_sis.sufficient_subsets(make_order([[0.1, 0.5, 0.9, 0.95]]), 0.5)
  assert subsets.num_kept.tolist() == [1]
  assert subsets.status.tolist() == [Status.OK]


def test_the_first_size_that_passes_is_taken_even_if_a_larger_one_fails():
  subsets = jax_sis.sufficient_subsets(make_order([[0.1, 0.9, 0.3, 0.95]]), 0.8)
  assert subsets.num_kept.tolist() == [1]


@pytest.mark.parametrize(
  ("order", "expected"),
  [
    pytest.param(make_order([[0.1, 0.2, 0.3, 0.4]]), Status.BELOW_THRESHOLD, id="the whole input fails"),
    # Carter et al. 2019: without f(x) >= threshold there is no SIS, whatever the masked input gives.
    pytest.param(make_order([[0.1, 0.9, 0.9, 0.4]]), Status.BELOW_THRESHOLD, id="only a part passes"),
    pytest.param(make_order([[0.9, 0.9, 0.9, 0.4]]), Status.BELOW_THRESHOLD, id="the baseline passes, the whole fails"),
    pytest.param(make_order([[0.9, 0.2, 0.3, 0.95]]), Status.BASELINE_SUFFICIENT, id="the baseline passes"),
    pytest.param(make_order([[0.1, 0.2]], sizes=(0, 1)), Status.NOT_REACHED, id="a search that stopped"),
    pytest.param(make_order([[0.9, 0.2]], sizes=(0, 1)), Status.BASELINE_SUFFICIENT, id="stopped, the baseline passes"),
    pytest.param(make_order([[0.1, 0.9, 0.9, 0.9]], finite=False), Status.NON_FINITE, id="not finite"),
    pytest.param(make_order([[np.nan] * 4], finite=False), Status.NON_FINITE, id="confidence is NaN"),
    pytest.param(make_order([[0.9] * 4], finite=False), Status.NON_FINITE, id="not finite, the baseline passes"),
  ],
)
def test_an_image_without_a_subset_says_why(order: jax_sis.FeatureOrder, expected: Status):
  subsets = jax_sis.sufficient_subsets(order, 0.8)
  assert [Status(status) for status in subsets.status.tolist()] == [expected]
  assert not subsets.mask.any()
  assert subsets.num_kept.tolist() == [0]
  assert np.isnan(subsets.confidence).all()


def test_a_search_that_stopped_gives_the_subset_that_it_found():
  subsets = jax_sis.sufficient_subsets(
    make_order([[0.1, 0.9]], sizes=(0, 1), rank=[[jax_sis.NOT_RANKED, 0, jax_sis.NOT_RANKED, jax_sis.NOT_RANKED]]), 0.8
  )
  assert subsets.status.tolist() == [Status.OK]
  assert subsets.mask.ravel().tolist() == [False, True, False, False]


def test_images_are_judged_one_by_one():
  order = make_order([[0.1, 0.9, 0.9, 0.9], [0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.9], [0.9] * 4])
  subsets = jax_sis.sufficient_subsets(order, 0.8)
  assert subsets.num_kept.tolist() == [1, 0, 4, 0]
  assert subsets.status.tolist() == [Status.OK, Status.BELOW_THRESHOLD, Status.OK, Status.BASELINE_SUFFICIENT]
  assert subsets.target.tolist() == [0, 1, 2, 3]


def test_num_kept_counts_the_features_that_were_available():
  # Two features were available; sizes 2 and 4 show the same two.
  rank = [[1, jax_sis.NOT_RANKED, jax_sis.NOT_RANKED, 0]]
  subsets = jax_sis.sufficient_subsets(make_order([[0.1, 0.2, 0.9]], sizes=(0, 1, 4), rank=rank), 0.8)
  assert subsets.num_kept.tolist() == [2]
  assert subsets.mask.ravel().tolist() == [True, False, False, True]


@settings(max_examples=12, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), threshold=st.floats(0.05, 0.95))
def test_sufficient_subsets_equal_find_sis(seed: int, threshold: float):
  rng = np.random.default_rng(seed)
  params = toys.make_params("tanh", rng, 8)
  images = rng.normal(size=(3, 8))
  with jax.enable_x64(True):
    order = jax_sis.backselect(
      toys.predict_tanh, toys.to_jax(params, jnp.float64), jnp.asarray(images), search=jax_sis.Gradient(per_step=3)
    )
    subsets = jax_sis.sufficient_subsets(order, threshold)
  for index, image in enumerate(images):
    problem = reference.Problem(
      model=toys.make_reference("tanh", params),
      x=image,
      target=int(order.target[index]),
      grid=(8,),
      baseline=np.zeros(()),
    )
    selection = reference.gradient(problem, 3)
    expected = reference.find_sis(selection, threshold)
    actual = frozenset(np.flatnonzero(subsets.mask[index]).tolist())
    if selection.confidence[8] < threshold:
      assert subsets.status[index] == Status.BELOW_THRESHOLD
    elif not expected:
      assert subsets.status[index] == Status.BASELINE_SUFFICIENT
    else:
      assert (subsets.status[index], actual) == (Status.OK, expected)


@pytest.mark.parametrize("threshold", [0, 1, -0.5, 1.5, float("nan"), 99])
@pytest.mark.usefixtures("without_type_checks")
def test_a_threshold_that_is_no_probability_is_refused(threshold: float):
  message = f"threshold must be a probability strictly between 0 and 1, got {threshold!r}."
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    jax_sis.sufficient_subsets(make_order([[0.1, 0.2, 0.3, 0.4]]), threshold)


@pytest.mark.parametrize("as_given", [list, np.asarray, jnp.asarray])
def test_every_image_may_have_a_threshold_of_its_own(as_given: Any):
  order = make_order([[0.1, 0.6, 0.9, 0.95]] * 3)
  subsets = jax_sis.sufficient_subsets(order, as_given([0.5, 0.8, 0.99]))
  assert subsets.num_kept.tolist() == [1, 2, 0]
  np.testing.assert_allclose(subsets.threshold, [0.5, 0.8, 0.99])
  traced = jax.jit(jax_sis.sufficient_subsets)(order, jnp.array([0.5, 0.8, 0.99]))
  assert traced.num_kept.tolist() == [1, 2, 0]


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
  ("threshold", "message"),
  [
    ([0.5, 0.6], "threshold must be one number, or one for each of the 3 images, got float32[2]."),
    ([[0.5]], "threshold must be one number, or one for each of the 3 images, got float32[1, 1]."),
    ([0.5, 1.5, 0.5], "threshold must be a probability strictly between 0 and 1, got 1.5."),
    ("0.9", "threshold must be a probability strictly between 0 and 1, got '0.9'."),
    (None, "threshold must be a probability strictly between 0 and 1, got None."),
  ],
)
def test_thresholds_of_another_kind_are_refused(threshold: Any, message: str):
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    jax_sis.sufficient_subsets(make_order([[0.1, 0.6, 0.9, 0.95]] * 3), threshold)


def test_thresholds_may_be_traced_and_vmapped():
  order = make_order([[0.1, 0.6, 0.9, 0.95]])
  num_kept = jax.vmap(lambda threshold: jax_sis.sufficient_subsets(order, threshold).num_kept)(
    jnp.array([0.5, 0.8, 0.93, 0.99])
  )
  assert num_kept.ravel().tolist() == [1, 2, 4, 0]


# A share of the features.


def order_of(num_features: int, *, per_step: int = 1) -> jax_sis.FeatureOrder:
  return jax_sis.backselect(
    toys.predict_linear,
    toys.linear_params(np.linspace(0.1, 1, num_features)),
    jnp.ones((2, num_features)) / num_features,
    search=jax_sis.Gradient(per_step=per_step),
  )


@pytest.mark.parametrize(
  ("num_features", "fraction", "expected"),
  [
    (1024, 0.05, 52),
    (1024, 0.1, 103),
    (100, 0.07, 7),
    (100, 0.29, 29),
    (100, 0.071, 8),
    (10, 0.01, 1),
    (10, 1.0, 10),
    (3, 1 / 3, 1),
  ],
)
def test_the_number_of_features_is_rounded_up_but_not_for_rounding_errors(
  num_features: int, fraction: float, expected: int
):
  subsets = jax_sis.keep_fraction(order_of(num_features, per_step=64), fraction)
  assert subsets.num_kept.tolist() == [expected, expected]
  # Weights ascend, so that the last features are needed most.
  np.testing.assert_array_equal(subsets.mask[0], np.arange(num_features) >= num_features - expected)
  assert subsets.status.tolist() == [Status.OK, Status.OK]
  assert np.isnan(subsets.threshold).all()


def test_the_confidence_is_nan_at_a_size_that_the_search_did_not_evaluate():
  order = order_of(10, per_step=4)
  assert order.sizes == (0, 2, 6, 10)
  np.testing.assert_array_equal(jax_sis.keep_fraction(order, 0.6).confidence, order.confidence[:, 2])
  assert np.isnan(jax_sis.keep_fraction(order, 0.5).confidence).all()
  np.testing.assert_array_equal(jax_sis.keep_fraction(order, 1.0).confidence, order.confidence[:, 3])


def test_a_share_that_holds_more_features_than_were_ranked_is_not_reached():
  images, params = toys.images_and_params(0, num_images=2)
  available = np.ones((2, 12), bool)
  available[1, :7] = False
  order = jax_sis.backselect(toys.predict_tanh, params, images, available=jnp.asarray(available))
  subsets = jax_sis.keep_fraction(order, 0.5)
  assert subsets.status.tolist() == [Status.OK, Status.NOT_REACHED]
  assert subsets.num_kept.tolist() == [6, 0]
  assert jax_sis.keep_fraction(order, 5 / 12).num_kept.tolist() == [5, 5]


def test_an_image_that_is_not_finite_keeps_nothing():
  subsets = jax_sis.keep_fraction(make_order([[0.5] * 4], finite=False), 0.5)
  assert subsets.status.tolist() == [Status.NON_FINITE]
  assert subsets.num_kept.tolist() == [0]
  assert np.isnan(subsets.confidence).all()


@pytest.mark.parametrize("fraction", [0, -0.1, 1.1, 5, float("nan")])
@pytest.mark.usefixtures("without_type_checks")
def test_a_share_out_of_range_is_refused(fraction: float):
  message = f"fraction must be above 0 and at most 1, got {fraction!r}."
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    jax_sis.keep_fraction(make_order([[0.5] * 4]), fraction)


def test_subsets_work_under_jit():
  order = order_of(10, per_step=4)
  for run in (lambda order: jax_sis.sufficient_subsets(order, 0.52), lambda order: jax_sis.keep_fraction(order, 0.6)):
    for name in FIELDS:
      np.testing.assert_array_equal(getattr(jax.jit(run)(order), name), getattr(run(order), name), err_msg=name)
