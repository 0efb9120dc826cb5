"""Deletion against the reference, and areas against sums by hand."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import toys

import jax_sis

GRID = (4, 3, 1)
NUM_FEATURES = 12


def order_of(confidence: Any, sizes: tuple[int, ...], num_features: int, **changes: Any) -> jax_sis.FeatureOrder:
  """An order of which only the curve matters."""
  num_images = len(confidence)
  order = jax_sis.FeatureOrder(
    rank=jnp.broadcast_to(jnp.arange(num_features, dtype=jnp.int32)[None], (num_images, num_features)),
    confidence=jnp.array(confidence, jnp.float32),
    target=jnp.zeros(num_images, jnp.int32),
    finite=jnp.ones(num_images, bool),
    baseline=jnp.zeros((num_images, 1)),
    sizes=sizes,
    grid=(num_features,),
    score="log_odds",
  )
  return dataclasses.replace(order, **changes)


def test_areas_are_sums_of_trapezoids():
  # By hand: of 10 features, steps of 1, 3 and 6: 0.1 * 0.15 + 0.3 * 0.4 + 0.6 * 0.8 = 0.615.
  # Backwards 0.08 + 0.12 + 0.09.
  order = order_of([[0.1, 0.2, 0.6, 1.0], [1, 1, 1, 1], [0, 0, 0, 1]], (0, 1, 4, 10), 10)
  np.testing.assert_allclose(jax_sis.insertion_area(order), [0.615, 1, 0.3], rtol=1e-6)
  np.testing.assert_allclose(jax_sis.deletion_area(order, order.confidence[:, ::-1]), [0.29, 1, 0.05], rtol=1e-6)


def test_the_area_of_an_image_that_is_not_finite_is_not_a_number():
  order = order_of([[0.0, 1.0]] * 2, (0, 4), 4, finite=jnp.array([True, False]))
  for area in (jax_sis.insertion_area(order), jax_sis.deletion_area(order, order.confidence)):
    assert area[0] == 0.5
    assert np.isnan(area[1])


def test_of_a_linear_model_both_curves_are_known():
  # Contributions 4, 1, -0.5: shown one by one the log-odds are 0, 4, 5, 4.5, masked one by one 4.5, 0.5, -0.5, 0.
  params, image = toys.linear_params([1, 4, -0.5]), jnp.ones((1, 3))
  order = jax_sis.backselect(toys.predict_linear, params, image)
  assert order.rank.tolist() == [[1, 0, 2]]
  deletion = jax_sis.deletion_confidence(toys.predict_linear, params, image, order)
  sigmoid = lambda values: 1 / (1 + np.exp(-np.asarray(values)))  # noqa: E731
  np.testing.assert_allclose(deletion[0], sigmoid([4.5, 0.5, -0.5, 0]), rtol=1e-5)
  a, b, c, d = sigmoid([0, 4, 5, 4.5])
  np.testing.assert_allclose(jax_sis.insertion_area(order), [(a / 2 + b + c + d / 2) / 3], rtol=1e-5)
  a, b, c, d = sigmoid([4.5, 0.5, -0.5, 0])
  np.testing.assert_allclose(jax_sis.deletion_area(order, deletion), [(a / 2 + b + c + d / 2) / 3], rtol=1e-5)


@pytest.mark.parametrize("chunk_size", [1, 7, 500])
@pytest.mark.parametrize("per_step", [1, 5])
def test_deletion_masks_the_most_needed_features(per_step: int, chunk_size: int):
  rng = np.random.default_rng(1)
  params = toys.make_params("tanh", rng, 24)
  images, baseline = rng.normal(size=(3, 4, 3, 2)), rng.normal(size=(4, 3, 2))
  # The second image may use half of its features: the others stay masked throughout.
  available = np.ones((3, NUM_FEATURES), bool)
  available[1, ::2] = False
  order = jax_sis.backselect(
    toys.predict_tanh,
    toys.to_jax(params),
    toys.to_jax(images),
    search=jax_sis.Gradient(per_step=per_step),
    baseline=baseline,
    available=available,
  )
  deletion = jax_sis.deletion_confidence(
    toys.predict_tanh, toys.to_jax(params), toys.to_jax(images), order, chunk_size=chunk_size
  )
  for index, image in enumerate(images):
    problem = reference.Problem(
      model=toys.make_reference("tanh", params), x=image, target=int(order.target[index]), grid=GRID, baseline=baseline
    )
    rank = np.asarray(order.rank[index])
    expected = [
      problem.probability(set(np.flatnonzero((rank >= size) & available[index]).tolist())) for size in order.sizes
    ]
    np.testing.assert_allclose(deletion[index], expected, atol=1e-5)
    # Nothing masked, and everything.
    assert deletion[index, 0] == pytest.approx(float(order.confidence[index, -1]), abs=1e-5)
    assert deletion[index, -1] == pytest.approx(float(order.confidence[index, 0]), abs=1e-5)


def test_a_value_that_is_not_finite_stays_with_its_image():
  images, params = toys.images_and_params(2)
  order = jax_sis.backselect(toys.predict_tanh, params, images)
  clean, dirty = (
    jax_sis.deletion_confidence(toys.predict_tanh, params, batch, order)
    for batch in (images, images.at[1, 0, 0, 0].set(jnp.nan))
  )
  assert np.isnan(dirty[1]).all()
  np.testing.assert_array_equal(dirty[np.array([0, 2])], clean[np.array([0, 2])])
  assert np.isnan(jax_sis.deletion_area(order, dirty)).tolist() == [False, True, False]


def test_curves_can_be_traced():
  images, params = toys.images_and_params(3)
  order = jax_sis.backselect(toys.predict_tanh, params, images)

  def areas(params: Any, images: Any, order: Any) -> tuple[Any, Any]:
    deletion = jax_sis.deletion_confidence(toys.predict_tanh, params, images, order)
    return jax_sis.insertion_area(order), jax_sis.deletion_area(order, deletion)

  np.testing.assert_allclose(jax.jit(areas)(params, images, order), areas(params, images, order), rtol=1e-5)


def test_an_order_that_stops_early_has_no_areas():
  images, params = toys.images_and_params(4)
  order = jax_sis.forward_select(toys.predict_tanh, params, images, search=jax_sis.Forward(max_features=3))
  message = re.escape(
    "order must reach the full input of 12 features, got one that stops at 3; use a backward search or order_by_scores."
  )
  with pytest.raises(ValueError, match=f"^{message}$"):
    jax_sis.insertion_area(order)
  with pytest.raises(ValueError, match=f"^{message}$"):
    jax_sis.deletion_confidence(toys.predict_tanh, params, images, order)
  with pytest.raises(ValueError, match=f"^{message}$"):
    jax_sis.deletion_area(order, order.confidence)


def test_what_does_not_fit_the_order_is_refused():
  images, params = toys.images_and_params(5)
  order = jax_sis.backselect(toys.predict_tanh, params, images)
  with pytest.raises(ValueError, match=r"^inputs must be the 3 that the order is of, got 2\.$"):
    jax_sis.deletion_confidence(toys.predict_tanh, params, images[:2], order)
  with pytest.raises(ValueError, match=r"^grid must have one entry for each input axis and divide it"):
    jax_sis.deletion_confidence(toys.predict_tanh, params, jnp.moveaxis(images, 1, 2), order)
  with pytest.raises(ValueError, match=r"^chunk_size must be an integer of at least 1, got 0\.$"):
    jax_sis.deletion_confidence(toys.predict_tanh, params, images, order, chunk_size=0)
  message = "confidence must be what deletion_confidence returns for this order, of shape (3, 13), got (3, 12)."
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    jax_sis.deletion_area(order, order.confidence[:, 1:])


def test_an_order_for_a_class_that_the_classifier_does_not_have_is_refused():
  order = order_of([[0.1, 0.5, 0.9]], (0, 1, 2), 2, target=jnp.array([2]))
  with pytest.raises(ValueError, match=r"targets must lie in 0\.\.1, the classifier.s classes, got 2\."):
    jax_sis.deletion_confidence(lambda weights, inputs: inputs @ weights, jnp.ones((2, 2)), jnp.ones((1, 2)), order)
