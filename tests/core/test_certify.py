"""Certificates: the truth against brute force, and the errors of what cannot be reproduced."""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import toys

import jax_sis
from jax_sis import Status
from jax_sis.core.certificate_words import REASONS

NUM_FEATURES = 12
THRESHOLD = 0.7


@functools.cache
def found(
  seed: int,
  *,
  per_step: int = 3,
  num_images: int = 6,
  baseline: tuple[float, float] = (0.0, 0.0),
  threshold: float = THRESHOLD,
) -> tuple[Any, Any, jax_sis.Subsets]:
  """A random toy, a batch and its sufficient subsets."""
  images, params = toys.images_and_params(seed, num_images=num_images)
  order = jax_sis.backselect(
    toys.predict_tanh, params, images, search=jax_sis.Gradient(per_step=per_step), baseline=jnp.array(baseline)
  )
  return params, images, jax_sis.sufficient_subsets(order, threshold)


def problem_of(params: Any, images: Any, subsets: jax_sis.Subsets, index: int, baseline: Any) -> reference.Problem:
  return reference.Problem(
    model=toys.make_reference("tanh", {name: np.asarray(array, float) for name, array in params.items()}),
    x=np.asarray(images[index], float),
    target=int(subsets.target[index]),
    grid=subsets.mask.shape[1:],
    baseline=np.asarray(baseline, float),
  )


@pytest.mark.parametrize("chunk_size", [1, 10, 128])
def test_a_certificate_tells_the_truth(chunk_size: int):
  baseline = (0.25, -0.5)
  params, images, subsets = found(0, per_step=1, num_images=20, baseline=baseline)
  report = jax_sis.certify(toys.predict_tanh, params, images, subsets, chunk_size=chunk_size)
  num_droppable = []
  assert (subsets.status == Status.OK).sum() >= 3
  for index in np.flatnonzero(subsets.status == Status.OK):
    problem = problem_of(params, images, subsets, int(index), baseline)
    kept = set(np.flatnonzero(subsets.mask[index]).tolist())
    confidence = problem.probability(kept)
    assert report.confidence[index] == pytest.approx(confidence, abs=1e-5)
    assert bool(report.is_sufficient[index]) == (confidence >= THRESHOLD)
    assert report.predicted[index] == problem.logits(kept).argmax()
    assert bool(report.keeps_class[index]) == (report.predicted[index] == subsets.target[index])
    expected = reference.droppable(problem, kept, THRESHOLD)
    assert set(np.flatnonzero(report.is_droppable[index]).tolist()) == expected
    assert bool(report.is_minimal[index]) == (not expected)
    num_droppable.append(len(expected))
  # Both kinds came up.
  assert min(num_droppable) == 0 < max(num_droppable)
  assert report.is_reproduced.all()
  np.testing.assert_array_equal(report.status, subsets.status)


def test_an_image_without_a_subset_is_certified_nothing():
  params, images, subsets = found(0)
  without = np.asarray(subsets.status != Status.OK)
  assert without.any()
  report = jax_sis.certify(toys.predict_tanh, params, images, subsets)
  assert np.isnan(report.confidence[without]).all()
  for name in ("keeps_class", "is_sufficient", "is_minimal", "is_droppable"):
    assert not getattr(report, name)[without].any(), name
  assert report.is_reproduced[without].all()


def test_one_feature_too_many_is_droppable_and_none_is_not():
  # Logit 2 + 3 + 0.1 a kept feature of an all-zero baseline: 0.95 needs 2.94, which feature 1 alone gives.
  params, inputs = toys.linear_params([2, 3, 0.1]), jnp.ones((2, 3))
  subsets = jax_sis.Subsets(
    mask=jnp.array([[False, True, True], [False, True, False]]),
    num_kept=jnp.array([2, 1]),
    confidence=jnp.full(2, jnp.nan),
    target=jnp.array([0, 0]),
    threshold=jnp.full(2, 0.95),
    status=jnp.zeros(2, jnp.int8),
    baseline=jnp.zeros((2, 1)),
  )
  report = jax_sis.certify(toys.predict_linear, params, inputs, subsets)
  assert report.is_droppable.tolist() == [[False, False, True], [False, False, False]]
  assert report.is_minimal.tolist() == [False, True]
  assert report.is_sufficient.tolist() == [True, True]
  np.testing.assert_allclose(report.confidence, 1 / (1 + np.exp([-3.1, -3])), rtol=1e-6)


def test_a_subset_that_is_not_sufficient_is_said_to_be_so():
  params, inputs = toys.linear_params([2, 3, 0.1]), jnp.ones((2, 3))
  subsets = jax_sis.Subsets(
    mask=jnp.array([[True, False, True], [True, True, False]]),
    num_kept=jnp.array([2, 2]),
    confidence=jnp.full(2, jnp.nan),
    target=jnp.array([0, 1]),
    threshold=jnp.full(2, 0.95),
    status=jnp.zeros(2, jnp.int8),
    baseline=jnp.zeros((2, 1)),
  )
  report = jax_sis.certify(toys.predict_linear, params, inputs, subsets)
  assert report.is_sufficient.tolist() == [False, False]
  assert report.is_minimal.tolist() == [False, False]
  assert report.predicted.tolist() == [0, 0]
  assert report.keeps_class.tolist() == [True, False]
  assert [report.describe(index) for index in range(2)] == ["not sufficient, class kept", "not sufficient, class lost"]


def test_certificates_in_words():
  params, images, subsets = found(0)
  report = jax_sis.certify(toys.predict_tanh, params, images, subsets)
  for index in range(6):
    status = Status(int(report.status[index]))
    if status != Status.OK:
      assert report.describe(index) == REASONS[status]
    elif report.is_minimal[index]:
      assert report.describe(index) == "sufficient, 1-minimal"
    else:
      assert report.describe(index) == f"sufficient, {int(report.is_droppable[index].sum())} droppable"
  changed = dataclasses.replace(report, is_reproduced=jnp.zeros(6, bool))
  index = int(np.argmax(subsets.status == Status.OK))
  assert changed.describe(index) == "FAILED: confidence not reproduced"


def test_every_status_but_ok_has_its_words():
  assert set(REASONS) == set(Status) - {Status.OK}


def test_the_share_of_a_budget_is_certified_without_a_threshold():
  images, params = toys.images_and_params(1)
  order = jax_sis.backselect(toys.predict_tanh, params, images, search=jax_sis.Gradient(per_step=5))
  for fraction in (0.5, 7 / NUM_FEATURES, 2 / NUM_FEATURES):
    subsets = jax_sis.keep_fraction(order, fraction)
    report = jax_sis.certify(toys.predict_tanh, params, images, subsets)
    for index in range(3):
      kept = set(np.flatnonzero(subsets.mask[index]).tolist())
      problem = problem_of(params, images, subsets, index, 0.0)
      assert report.confidence[index] == pytest.approx(problem.probability(kept), abs=1e-5)
      assert report.predicted[index] == problem.logits(kept).argmax()
    np.testing.assert_array_equal(report.keeps_class, report.predicted == subsets.target)
    for name in ("is_sufficient", "is_minimal", "is_droppable", "is_smallest", "has_smaller", "lower_bound"):
      assert not getattr(report, name).any(), name
    assert report.is_reproduced.all()


def test_a_certificate_is_evaluated_at_the_highest_precision():
  params, images, subsets = found(0)
  precisions = []

  def predict_fn(params: Any, inputs: Any) -> Any:
    precisions.append(jax.config.jax_default_matmul_precision)  # pyright: ignore[reportAttributeAccessIssue]
    return toys.predict_tanh(params, inputs)

  jax_sis.certify(predict_fn, params, images, subsets)
  # The first is the look at shapes.
  assert len(precisions) > 1
  assert set(precisions[1:]) == {"highest"}


def test_another_model_cannot_reproduce_the_stored_confidence():
  params, images, subsets = found(0)
  other = jax.tree.map(lambda array: 0.5 * array, params)
  index = int(np.argmax(subsets.status == Status.OK))
  actual = jax_sis.certify(toys.predict_tanh, other, images, subsets, tolerance=1.0)
  message = (
    f"subsets.confidence must be reproducible, but image {index} has {float(subsets.confidence[index]):.6g} stored and "
    f"{float(actual.confidence[index]):.6g} now (tolerance 0.001); certify with the predict_fn, params and inputs of "
    "the search."
  )
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    jax_sis.certify(toys.predict_tanh, other, images, subsets)


@pytest.mark.parametrize(("error", "is_reproduced"), [(0.0009, True), (0.0011, False)])
def test_the_tolerance_is_that_of_the_confidence(error: float, is_reproduced: bool):
  params, images, subsets = found(0)
  changed = dataclasses.replace(subsets, confidence=subsets.confidence.at[:].add(error))
  report = jax.jit(lambda subsets: jax_sis.certify(toys.predict_tanh, params, images, subsets))(changed)
  np.testing.assert_array_equal(report.is_reproduced, (subsets.status != Status.OK) | is_reproduced)


def test_a_certificate_under_jit_equals_that_outside():
  params, images, subsets = found(0)
  expected = jax_sis.certify(toys.predict_tanh, params, images, subsets)
  run = lambda params, images, subsets: jax_sis.certify(toys.predict_tanh, params, images, subsets)  # noqa: E731
  actual = jax.jit(run)(params, images, subsets)
  for name in ("is_sufficient", "is_droppable", "is_minimal", "is_reproduced", "predicted", "status"):
    np.testing.assert_array_equal(getattr(actual, name), getattr(expected, name), err_msg=name)
  np.testing.assert_allclose(actual.confidence, expected.confidence, atol=1e-6)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("value", [0, -3, 1.5, True])
def test_the_chunk_size_must_be_a_positive_integer(value: Any):
  params, images, subsets = found(0)
  with pytest.raises(
    ValueError, match=f"^{re.escape(f'chunk_size must be an integer of at least 1, got {value!r}.')}$"
  ):
    jax_sis.certify(toys.predict_tanh, params, images, subsets, chunk_size=value)


def test_another_number_of_inputs_is_refused():
  params, images, subsets = found(0)
  with pytest.raises(ValueError, match=r"^inputs must be the 6 that the subsets are of, got 5\.$"):
    jax_sis.certify(toys.predict_tanh, params, images[:5], subsets)


def test_inputs_of_another_shape_are_refused():
  _, _, subsets = found(0)
  message = (
    "grid must have one entry for each input axis and divide it, got grid (4, 3, 1) for inputs of shape (4, 2, 3) "
    "(without the batch axis); a feature a position is (4, 2, 1)."
  )
  images, params = toys.images_and_params(2, num_images=6, shape=(4, 2, 3))
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    jax_sis.certify(toys.predict_tanh, params, images, subsets)


@pytest.mark.usefixtures("without_type_checks")
def test_certified_inputs_must_be_floating_point():
  params, images, subsets = found(0)
  with pytest.raises(ValueError, match=r"^inputs must be floating point and normalised .*, got dtype uint8;"):
    jax_sis.certify(toys.predict_tanh, params, np.zeros(images.shape, np.uint8), subsets)


def test_what_is_said_to_be_the_smallest_is_so_by_brute_force():
  seen, threshold = set(), 0.8
  for seed in range(6):
    params, images, subsets = found(seed, per_step=1, num_images=12, threshold=threshold)
    subsets = jax_sis.minimise(toys.predict_tanh, params, images, subsets, exchanges=())
    screened, full = (
      jax_sis.certify(toys.predict_tanh, params, images, subsets, pair_partners=count) for count in (0, NUM_FEATURES)
    )
    for index in np.flatnonzero(subsets.status == Status.OK):
      problem = problem_of(params, images, subsets, int(index), (0.0, 0.0))
      num_kept, smallest = int(subsets.num_kept[index]), reference.smallest_size(problem, threshold)
      assert full.lower_bound[index] <= smallest
      assert bool(screened.is_smallest[index]) == (num_kept == smallest and num_kept <= 2)
      if num_kept <= 3:
        assert bool(full.is_smallest[index]) == (num_kept == smallest)
        assert bool(full.has_smaller[index]) == (num_kept > smallest)
        seen.add((num_kept, num_kept == smallest))
      assert full.num_pairs_tried[index] == (NUM_FEATURES * (NUM_FEATURES - 1) // 2 if num_kept == 3 else 0)
  # Subsets of one to three features, and of two and three also some that are not the smallest.
  assert seen >= {(1, True), (2, True), (2, False), (3, True), (3, False)}


@pytest.mark.slow
def test_some_pairs_disprove_but_do_not_prove():
  # Log-odds add up; 0.99 needs 4.6. {0, 1, 2} has 4.8, and so has {3, 4}.
  params = toys.linear_params([1.6, 1.6, 1.6, 2.4, 2.4])
  order = jax_sis.FeatureOrder(
    rank=jnp.array([[0, 1, 2, 3, 4]], jnp.int32),
    confidence=jax.nn.sigmoid(jnp.array([[0, 1.6, 3.2, 4.8, 7.2, 9.6]])),
    target=jnp.zeros(1, jnp.int32),
    finite=jnp.ones(1, bool),
    baseline=jnp.zeros((1, 1)),
    sizes=(0, 1, 2, 3, 4, 5),
    grid=(5,),
    score="log_odds",
  )
  subsets = jax_sis.sufficient_subsets(order, 0.99)
  check = functools.partial(jax_sis.certify, toys.predict_linear, params, jnp.ones((1, 5)), subsets)
  assert check().describe(0) == "sufficient, 1-minimal"
  assert check(pair_partners=1).describe(0) == "sufficient, a smaller exists, 4 pairs tried"
  weaker = toys.linear_params([1.6, 1.6, 1.6, 2.4, 2.0])
  check = functools.partial(jax_sis.certify, toys.predict_linear, weaker, jnp.ones((1, 5)), subsets)
  assert check(pair_partners=2).describe(0) == "sufficient, 1-minimal, 7 pairs tried"
  assert check(pair_partners=2).lower_bound.tolist() == [2]
  assert check(pair_partners=5).describe(0) == "sufficient, no smaller exists, 10 pairs tried"
  with pytest.raises(ValueError, match=r"^pair_partners must be an integer of at least 1, got -1\."):
    check(pair_partners=-1)


def test_a_single_feature_is_the_smallest_unless_nothing_is_needed():
  params, image = toys.linear_params([5.0, 1.0]), jnp.ones((1, 2))
  order = jax_sis.backselect(toys.predict_linear, params, image)
  report = jax_sis.certify(toys.predict_linear, params, image, jax_sis.sufficient_subsets(order, 0.99))
  assert report.describe(0) == "sufficient, no smaller exists"
  assert report.lower_bound.tolist() == [1]
