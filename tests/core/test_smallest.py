"""The smallest evidence against all subsets, against its parts, and each image's reason where there is none."""

import dataclasses
import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

import jax_sis
from jax_sis import Effort, Forward, Status

NUM_FEATURES = 6
THRESHOLD = 0.8
# Every candidate at each step, and every pair and triple of kept features taken out.
EVERYTHING = Effort(Forward(candidates=NUM_FEATURES), ((2, 15), (3, 20)))


def confident(params: Any) -> Any:
  """The toy with logits three times as large, so that many images pass."""
  return {**params, "weights": 3 * params["weights"]}


def smallest(params: Any, images: Any, **arguments: Any) -> jax_sis.Subsets:
  """On the tanh toy."""
  return jax_sis.smallest_subsets(toys.predict_tanh, params, images, **{"threshold": THRESHOLD, **arguments})


def smallest_size(params: Any, image: np.ndarray, target: int) -> int | None:
  """The size of the smallest sufficient subset of all there are."""
  for size in range(NUM_FEATURES + 1):
    for subset in itertools.combinations(range(NUM_FEATURES), size):
      shown = np.zeros_like(image)
      shown[list(subset)] = image[list(subset)]
      logits = np.tanh(shown @ params["hidden_weights"] + params["hidden_bias"]) @ params["weights"]
      if np.exp(logits[target]) / np.exp(logits).sum() >= THRESHOLD:
        return size
  return None


def test_no_subset_of_six_features_is_smaller():
  num_found = []
  with jax.enable_x64(True):
    for seed in range(4):
      rng = np.random.default_rng(seed)
      params = confident(toys.make_params("tanh", rng, NUM_FEATURES))
      images = rng.normal(size=(12, NUM_FEATURES))
      subsets = smallest(toys.to_jax(params, jnp.float64), jnp.asarray(images), effort=EVERYTHING)
      for index, image in enumerate(images):
        size = smallest_size(params, image, int(subsets.target[index]))
        status = int(subsets.status[index])
        if status == Status.OK:
          assert int(subsets.num_kept[index]) == int(subsets.mask[index].sum()) == size
          assert float(subsets.confidence[index]) >= THRESHOLD
          num_found.append(size)
        elif status == Status.BASELINE_SUFFICIENT:
          assert size == 0
        else:
          # A whole image below the threshold is not searched, whatever its subsets may be.
          assert status == Status.BELOW_THRESHOLD
          assert float(subsets.num_kept[index]) == 0
  assert len(num_found) >= 12
  assert max(num_found) >= 3


@pytest.mark.parametrize(
  "effort", [pytest.param(jax_sis.QUICK, marks=pytest.mark.slow), Effort(Forward(candidates=3, chunk_size=7), ())]
)
def test_it_is_what_growing_and_minimising_one_after_the_other_give(effort: Effort):
  images, params = toys.images_and_params(7, num_images=12)
  params = confident(params)
  found = smallest(params, images, effort=effort)
  search = dataclasses.replace(effort.forward, threshold=THRESHOLD)
  order = jax_sis.forward_select(toys.predict_tanh, params, images, search=search)
  expected = jax_sis.minimise(
    toys.predict_tanh,
    params,
    images,
    jax_sis.sufficient_subsets(order, THRESHOLD),
    exchanges=effort.exchanges,
    candidates=search.candidates,
    chunk_size=search.chunk_size,
  )
  is_ok = np.asarray(found.status) == Status.OK
  assert is_ok.sum() >= 4
  np.testing.assert_array_equal(expected.status[is_ok], Status.OK)
  np.testing.assert_array_equal(found.mask[is_ok], expected.mask[is_ok])
  np.testing.assert_allclose(found.confidence[is_ok], expected.confidence[is_ok], rtol=1e-5)
  assert jax_sis.certify(toys.predict_tanh, params, images, found).is_minimal[is_ok].all()


def test_every_image_says_why_it_has_no_subset():
  # Log-odds of class 0 by sum, of which 0.99 needs 4.6. One feature, two, three where two may be had, a whole image
  # that is below, a masked one that passes, and one that is no number.
  params = toys.linear_params([1.0, 1.0, 1.0])
  images = jnp.array([[6.0, 1, 1], [3, 3, 0], [2, 2, 2], [1, 1, 1], [0, 0, 0], [jnp.nan, 6, 6]])
  baseline = jnp.zeros((6, 3)).at[4].set(9.0)
  effort = Effort(Forward(max_features=2), ())
  subsets = jax_sis.smallest_subsets(
    toys.predict_linear, params, images, jnp.zeros(6, jnp.int32), effort=effort, baseline=baseline
  )
  assert subsets.num_kept.tolist() == [1, 2, 0, 0, 0, 0]
  reasons = [Status.OK, Status.OK, Status.NOT_REACHED, Status.BELOW_THRESHOLD, Status.BASELINE_SUFFICIENT]
  assert subsets.status.tolist() == [*reasons, Status.NON_FINITE]


def test_the_threshold_is_the_one_that_is_asked_for_and_not_that_of_the_effort():
  params, images = toys.linear_params([2.0, 2.0, 2.0]), jnp.ones((1, 3))
  for own in (0.6, 0.99):
    effort = Effort(Forward(threshold=own), ())
    subsets = jax_sis.smallest_subsets(toys.predict_linear, params, images, threshold=0.95, effort=effort)
    assert subsets.num_kept.tolist() == [2]
    np.testing.assert_allclose(subsets.threshold, 0.95, rtol=1e-6)


def test_only_available_features_are_kept_and_only_they_must_suffice():
  params, images = toys.linear_params([4.0, 3.0, 3.0]), jnp.ones((2, 3))
  available = jnp.array([[False, True, True], [True, False, False]])
  subsets = jax_sis.smallest_subsets(toys.predict_linear, params, images, available=available)
  assert subsets.mask.tolist() == [[False, True, True], [False, False, False]]
  assert subsets.status.tolist() == [Status.OK, Status.BELOW_THRESHOLD]


@pytest.mark.slow
@pytest.mark.usefixtures("without_type_checks")
def test_it_works_under_jit_vmap_and_pmap():
  images, params = toys.images_and_params(4, num_images=8)
  params = confident(params)
  expected = smallest(params, images)
  assert (np.asarray(expected.status) == Status.OK).sum() >= 3
  jitted = jax.jit(smallest)(params, images)
  pmapped = jax.pmap(smallest, in_axes=(None, 0))(params, images.reshape(8, 1, *images.shape[1:]))
  vmapped = jax.vmap(smallest, in_axes=(None, 0))(params, images.reshape(4, 2, *images.shape[1:]))
  for actual in (jitted, pmapped, vmapped):
    np.testing.assert_array_equal(actual.mask.reshape(expected.mask.shape), expected.mask)
    np.testing.assert_array_equal(actual.status.reshape(-1), expected.status)
    np.testing.assert_allclose(actual.confidence.reshape(-1), expected.confidence, rtol=1e-5)


def test_a_second_call_with_the_same_shapes_compiles_nothing():
  images, params = toys.images_and_params(5)
  traces = []

  def predict_fn(params: Any, inputs: Any) -> Any:
    traces.append(inputs.shape)
    return toys.predict_tanh(params, inputs)

  jax_sis.smallest_subsets(predict_fn, params, images, threshold=THRESHOLD)
  num_traces = len(traces)
  jax_sis.smallest_subsets(predict_fn, params, images, threshold=THRESHOLD)
  # The check of the classifier, which runs nothing.
  assert len(traces) <= num_traces + 1


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"threshold": 1.0}, "threshold must be a probability strictly between 0 and 1, got 1.0."),
    (
      {"effort": Effort(Forward(), ((1, 4),))},
      "exchanges must be pairs of how many features are taken out, at least 2",
    ),
    ({"grid": (5, 1, 1)}, "grid must have one entry for each input axis and divide it"),
    ({"score": "logit"}, "score must be one of"),
  ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str):
  images, params = toys.images_and_params(2, num_images=2)
  with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
    smallest(params, images, **arguments)


@pytest.mark.usefixtures("without_type_checks")
def test_a_traced_threshold_is_refused():
  images, params = toys.images_and_params(2, num_images=2)
  with pytest.raises(ValueError, match=r"^threshold must be a number when smallest_subsets is traced"):
    jax.jit(lambda threshold: smallest(params, images, threshold=threshold))(0.5)
