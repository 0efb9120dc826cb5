"""Forward selection against the reference, by hand, and each image's own stop."""

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
from jax_sis import Forward, Status

NUM_FEATURES = 12
SHAPE = (4, 3, 2)
GRID = (4, 3, 1)


def run(params: Any, images: Any, search: Forward, **arguments: Any) -> jax_sis.FeatureOrder:
  """On the tanh toy."""
  return jax_sis.forward_select(toys.predict_tanh, params, images, search=search, **arguments)


@pytest.mark.parametrize("score", toys.SCORES)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(
  seed=st.integers(0, 10_000),
  search=st.sampled_from(
    [
      Forward(candidates=3, threshold=0.9, max_features=5, chunk_size=4),
      Forward(candidates=NUM_FEATURES, threshold=0.8, max_features=100, chunk_size=500),
      Forward(candidates=1, threshold=0.95, max_features=1),
    ]
  ),
)
def test_a_forward_search_equals_the_reference(seed: int, search: Forward, score: Any):
  rng = np.random.default_rng(seed)
  params = toys.make_params("tanh", rng, 24)
  images, baseline = rng.normal(size=(3, *SHAPE)), rng.normal(size=SHAPE)
  available = rng.random((3, NUM_FEATURES)) < 0.7
  available[1], available[2] = True, False
  targets = np.array([0, 1, 2])
  with jax.enable_x64(True):
    order = jax_sis.forward_select(
      toys.predict_tanh,
      toys.to_jax(params, jnp.float64),
      jnp.asarray(images),
      jnp.asarray(targets),
      search=search,
      grid=GRID,
      baseline=baseline,
      available=jnp.asarray(available),
      score=score,
    )
  max_features = min(search.max_features, NUM_FEATURES)
  assert order.sizes == tuple(range(max_features + 1))
  for index, image in enumerate(images):
    problem = reference.Problem(
      model=toys.make_reference("tanh", params),
      x=image,
      target=int(targets[index]),
      grid=GRID,
      baseline=baseline,
      score=score,
      available=frozenset(np.flatnonzero(available[index]).tolist()),
    )
    growth = reference.forward(problem, search.candidates, search.threshold, search.max_features)
    rank = np.full(NUM_FEATURES, jax_sis.NOT_RANKED)
    rank[list(growth.added)] = np.arange(len(growth.added))
    np.testing.assert_array_equal(order.rank[index], rank)
    # Beyond the last feature, the confidence of all of them.
    missing = max_features + 1 - len(growth.confidences)
    confidences = [*growth.confidences, *growth.confidences[-1:] * missing]
    np.testing.assert_allclose(order.confidence[index], confidences, atol=1e-12)


def test_a_linear_model_gets_its_largest_contributions_and_no_more():
  # Contributions to the log-odds: 1, -0.5, 0.5, 4: sigmoid(4) is 0.982, sigmoid(5) is 0.9933.
  params, image = toys.linear_params([1, -0.25, 0.25, 2]), jnp.array([[1.0, 2.0, 2.0, 2.0]])
  order = jax_sis.forward_select(toys.predict_linear, params, image, search=Forward(threshold=0.99, candidates=2))
  assert order.rank.tolist() == [[1, jax_sis.NOT_RANKED, jax_sis.NOT_RANKED, 0]]
  np.testing.assert_allclose(order.confidence, 1 / (1 + np.exp([[0.0, -4, -5, -5, -5]])), rtol=1e-6)
  subsets = jax_sis.sufficient_subsets(order, 0.99)
  assert subsets.mask.tolist() == [[True, False, False, True]]
  assert jax_sis.certify(toys.predict_linear, params, image, subsets).is_minimal.all()


def test_every_image_stops_for_itself_and_says_why():
  # Log-odds of class 0 by sum: 6 at once, 6 after two, never above 3, and a baseline that passes.
  params = toys.linear_params([1.0, 1.0, 1.0])
  images = jnp.array([[6.0, 1, 1], [3, 3, 3], [1, 1, 1], [0, 0, 0]])
  baseline = jnp.array([[0.0], [0], [0], [9]]) * jnp.ones((1, 3))
  order = jax_sis.forward_select(
    toys.predict_linear, params, images, jnp.zeros(4, jnp.int32), search=Forward(max_features=2), baseline=baseline
  )
  subsets = jax_sis.sufficient_subsets(order, 0.99)
  assert subsets.num_kept.tolist() == [1, 2, 0, 0]
  assert subsets.status.tolist() == [Status.OK, Status.OK, Status.NOT_REACHED, Status.BASELINE_SUFFICIENT]
  # What one image gets does not depend on when the others stop.
  for index in range(4):
    alone = jax_sis.forward_select(
      toys.predict_linear,
      params,
      images[index : index + 1],
      jnp.zeros(1, jnp.int32),
      search=Forward(max_features=2),
      baseline=baseline[index],
    )
    np.testing.assert_array_equal(alone.rank[0], order.rank[index])
    np.testing.assert_allclose(alone.confidence[0], order.confidence[index], rtol=1e-6)


def test_a_number_that_is_not_finite_spoils_its_own_image_only():
  images, params = toys.images_and_params(3, num_images=3)
  spoiled = images.at[1, 0, 0, 0].set(jnp.nan)
  search = Forward(candidates=4, threshold=0.97, max_features=6)
  targets = jnp.zeros(3, jnp.int32)
  expected, actual = (run(params, batch, search, targets=targets) for batch in (images, spoiled))
  assert actual.finite.tolist() == [True, False, True]
  for index in (0, 2):
    np.testing.assert_array_equal(actual.rank[index], expected.rank[index])
    np.testing.assert_array_equal(actual.confidence[index], expected.confidence[index])
  assert jax_sis.sufficient_subsets(actual, 0.97).status[1] == Status.NON_FINITE


@pytest.mark.slow
@pytest.mark.usefixtures("without_type_checks")
def test_it_works_under_jit_vmap_and_pmap():
  images, params = toys.images_and_params(4, num_images=8)
  search = Forward(candidates=4, threshold=0.9, max_features=6)
  expected = run(params, images, search)
  jitted = jax.jit(lambda params, images: run(params, images, search))(params, images)
  pmapped = jax.pmap(lambda params, images: run(params, images, search), in_axes=(None, 0))(
    params, images.reshape(8, 1, *SHAPE)
  )
  vmapped = jax.vmap(lambda params, images: run(params, images, search), in_axes=(None, 0))(
    params, images.reshape(4, 2, *SHAPE)
  )
  for actual in (jitted, pmapped, vmapped):
    np.testing.assert_array_equal(actual.rank.reshape(8, -1), expected.rank)
    np.testing.assert_allclose(actual.confidence.reshape(8, -1), expected.confidence, rtol=1e-5)


def test_the_loop_ends_when_the_last_image_stops():
  calls = []

  def predict_fn(params: Any, inputs: Any) -> Any:
    jax.debug.callback(lambda: calls.append(inputs.shape[0]))
    return toys.predict_linear(params, inputs)

  images = jnp.array([[9.0, 0, 0, 0]])
  order = jax_sis.forward_select(predict_fn, toys.linear_params([1.0] * 4), images, jnp.zeros(1, jnp.int32))
  jax.block_until_ready(order)
  jax.effects_barrier()
  assert order.rank.min() == 0
  # One feature was enough: its gradient and its candidates, and no second round. Two calls check independence.
  assert calls.count(4) == 1


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"candidates": 0}, "Forward.candidates must be an integer of at least 1, got 0."),
    ({"max_features": 2.5}, "Forward.max_features must be an integer of at least 1, got 2.5."),
    ({"threshold": 1.0}, "Forward.threshold must be a probability strictly between 0 and 1, got 1.0."),
  ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_settings_out_of_range_are_refused(arguments: dict[str, Any], message: str):
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    Forward(**arguments)
