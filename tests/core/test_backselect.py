"""The backward driver and its searches: against the reference, against hand-worked cases, and by its invariants."""

import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import toys
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_sis
from jax_sis.core import masking, validation
from jax_sis.core.searches import BackwardSearch

SHAPE = (4, 3, 2)
NUM_FEATURES = 12
SCREENED = jax_sis.Screened(candidates=4, gradient_until=7, gradient_per_step=2, chunk_size=3)
SEARCHES = [jax_sis.Gradient(), jax_sis.Gradient(per_step=5), SCREENED, jax_sis.Exact(chunk_size=10)]
EDGE_SEARCHES = [
  jax_sis.Screened(candidates=3, gradient_until=None),
  jax_sis.Screened(candidates=500, gradient_until=500),
  *(jax_sis.Gradient(per_step=k) for k in (4, 12, 20)),
  jax_sis.Gradient(share=0.4),
  jax_sis.Gradient(per_step=2, share=0.25, memory=0.7),
  *(jax_sis.Exact(chunk_size=size) for size in (1, 500)),
]


def reference_orders(problems: list[reference.Problem], search: BackwardSearch) -> tuple[np.ndarray, np.ndarray]:
  """Ranks and confidences of the slow search, for each problem."""
  if isinstance(search, jax_sis.Exact):
    selections = [reference.exact(problem) for problem in problems]
  elif isinstance(search, jax_sis.Screened):
    settings = search.candidates, search.gradient_until, search.gradient_per_step
    selections = [reference.screened(problem, *settings) for problem in problems]
  else:
    settings = search.per_step, search.share, search.memory or 0.0
    selections = [reference.gradient(problem, *settings) for problem in problems]
  return np.stack([found.rank() for found in selections]), np.stack([found.confidences() for found in selections])


def assert_equals_reference(
  kind: str,
  params: dict[str, np.ndarray],
  images: np.ndarray,
  targets: np.ndarray,
  *,
  search: BackwardSearch,
  grid: tuple[int, ...],
  score: Any = "log_odds",
  baseline: Any = 0.0,
  available: np.ndarray | None = None,
  dtype: Any = jnp.float64,
) -> None:
  """Runs both and compares: ranks exactly, confidences to rounding."""
  problems = [
    reference.Problem(
      model=toys.make_reference(kind, params),
      x=image,
      target=int(target),
      grid=grid,
      baseline=np.asarray(baseline, float),
      score=score,
      available=None if available is None else frozenset(np.flatnonzero(available[index]).tolist()),
    )
    for index, (image, target) in enumerate(zip(images, targets, strict=True))
  ]
  rank, confidence = reference_orders(problems, search)
  with jax.enable_x64(dtype == jnp.float64):
    order = jax_sis.backselect(
      toys.PREDICT_FNS[kind],
      toys.to_jax(params, dtype),
      jnp.asarray(images, dtype),
      jnp.asarray(targets, jnp.int32),
      search=search,
      grid=grid,
      score=score,
      baseline=baseline,
      available=None if available is None else jnp.asarray(available),
    )
    assert order.confidence.dtype == dtype
  np.testing.assert_array_equal(order.rank, rank)
  np.testing.assert_allclose(order.confidence, confidence, atol=1e-12 if dtype == jnp.float64 else 1e-6)


def per_image(order: jax_sis.FeatureOrder) -> dict[str, np.ndarray]:
  """The arrays of an order that belong to single images."""
  return {name: np.asarray(getattr(order, name)) for name in ("rank", "confidence", "target", "finite")}


def assert_same_order(actual: jax_sis.FeatureOrder, expected: jax_sis.FeatureOrder, rows: Any = slice(None)) -> None:
  """Bitwise, `rows` of the expected one."""
  for name, array in per_image(expected).items():
    np.testing.assert_array_equal(per_image(actual)[name], array[rows], err_msg=name)


# Against the reference.


@pytest.mark.parametrize("score", toys.SCORES)
@pytest.mark.parametrize("search", [*SEARCHES, *EDGE_SEARCHES], ids=repr)
def test_every_search_equals_the_reference(search: BackwardSearch, score: str):
  rng = np.random.default_rng(3)
  params = toys.make_params("tanh", rng, 24)
  images = rng.normal(size=(2, *SHAPE))
  assert_equals_reference("tanh", params, images, np.array([0, 2]), search=search, grid=(4, 3, 1), score=score)


@pytest.mark.parametrize(
  "grid", [(2, 3, 1), *(pytest.param(grid, marks=pytest.mark.slow) for grid in ((4, 1, 2), (1, 1, 2), (1, 1, 1)))]
)
@pytest.mark.parametrize("search", [jax_sis.Gradient(per_step=2), SCREENED, jax_sis.Exact(chunk_size=7)], ids=repr)
def test_grids_and_baselines_equal_the_reference(grid: tuple[int, ...], search: BackwardSearch):
  rng = np.random.default_rng(4)
  params = toys.make_params("tanh", rng, 24)
  images, baseline = rng.normal(size=(2, *SHAPE)), rng.normal(size=SHAPE)
  assert_equals_reference("tanh", params, images, np.array([1, 1]), search=search, grid=grid, baseline=baseline)


@pytest.mark.slow
@pytest.mark.parametrize("score", toys.SCORES)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
  seed=st.integers(0, 10_000),
  kind=st.sampled_from(["linear", "relu"]),
  num_features=st.sampled_from([1, 8]),
  search=st.sampled_from([jax_sis.Gradient(), jax_sis.Gradient(per_step=3), SCREENED, jax_sis.Exact(chunk_size=5)]),
)
def test_ties_and_signed_zeros_go_to_the_lowest_index(
  seed: int, kind: str, num_features: int, search: BackwardSearch, score: str
):
  # Integers and two classes make log-odds and their gradients exact, so that ties are true ties; so does a second
  # logit of zero for the probability of a linear model.
  rng = np.random.default_rng(seed)
  kind = "linear" if score == "probability" else kind
  params = toys.make_params(kind, rng, num_features, num_classes=2, integers=True)
  if score == "probability":
    params["weights"][:, 1] = 0
  images = rng.integers(-1, 2, (2, num_features)).astype(float)
  assert_equals_reference(kind, params, images, np.array([0, 0]), search=search, grid=(num_features,), score=score)


@pytest.mark.parametrize(
  "search", [jax_sis.Gradient(), jax_sis.Gradient(per_step=4), jax_sis.Exact(chunk_size=6)], ids=repr
)
def test_ties_and_signed_zeros_go_to_the_lowest_index_in_float32(search: BackwardSearch):
  for seed in range(5):
    rng = np.random.default_rng(seed)
    params = toys.make_params("relu", rng, 12, num_classes=2, integers=True)
    images = rng.integers(-1, 2, (3, 12)).astype(float)
    assert_equals_reference("relu", params, images, np.array([0, 1, 0]), search=search, grid=(12,), dtype=jnp.float32)


@pytest.mark.parametrize("search", [jax_sis.Gradient(), jax_sis.Gradient(per_step=4), jax_sis.Exact()], ids=repr)
def test_among_equal_features_the_lowest_index_is_removed_first(search: BackwardSearch):
  # +0 and -0 weights: gradients of both signs of zero, which are equal.
  params = toys.to_jax({"weights": np.array([[0.0, 0.0], [-0.0, 0.0], [0.0, -0.0], [-0.0, -0.0], [0.0, 0.0]])})
  order = jax_sis.backselect(toys.predict_linear, params, jnp.array([[1.0, -1.0, 1.0, -1.0, 1.0]]), search=search)
  assert order.rank.tolist() == [[4, 3, 2, 1, 0]]


@pytest.mark.parametrize("search", SEARCHES, ids=repr)
def test_available_features_equal_the_reference(search: BackwardSearch):
  rng = np.random.default_rng(6)
  params = toys.make_params("tanh", rng, 24)
  images = rng.normal(size=(4, *SHAPE))
  available = rng.random((4, NUM_FEATURES)) < 0.6
  available[1], available[2] = False, True
  available[3] = np.arange(NUM_FEATURES) == 7
  assert_equals_reference(
    "tanh", params, images, np.array([0, 1, 2, 0]), search=search, grid=(4, 3, 1), available=available
  )


# Worked out by hand.


@pytest.mark.parametrize("search", [jax_sis.Gradient(), jax_sis.Exact()], ids=repr)
@pytest.mark.parametrize("score", ["log_odds", "probability"])
def test_a_linear_model_keeps_its_largest_contributions(search: BackwardSearch, score: Any):
  # Contributions to the log-odds: 1, -0.5, 0.5, 4. Removed: -0.5 first, then 0.5, 1 and 4. Sums from the end:
  # 0, 4, 5, 5.5, 5. sigmoid: 0.5, 0.982, 0.9933, 0.9959, 0.9933.
  order = jax_sis.backselect(
    toys.predict_linear,
    toys.linear_params([1, -0.25, 0.25, 2]),
    jnp.array([[1.0, 2.0, 2.0, 2.0]]),
    search=search,
    score=score,
  )
  assert order.rank.tolist() == [[1, 3, 2, 0]]
  assert order.sizes == (0, 1, 2, 3, 4)
  assert order.target.tolist() == [0]
  np.testing.assert_allclose(order.confidence, 1 / (1 + np.exp([[0.0, -4, -5, -5.5, -5]])), rtol=1e-6)
  assert jax_sis.sufficient_subsets(order, 0.99).mask.tolist() == [[True, False, False, True]]
  assert jax_sis.sufficient_subsets(order, 0.98).mask.tolist() == [[False, False, False, True]]


def test_exact_search_sees_an_interaction_that_the_gradient_cannot():
  # Feature 0 makes feature 1 useless: the logit is max(3 x0, 2 x1). The gradient of feature 1 is zero at the start, as
  # is the loss of it; feature 2 costs a little at once.
  def predict_max(params: Any, inputs: Any) -> Any:
    logit = jnp.maximum(3 * inputs[:, 0], params * inputs[:, 1]) + 0.5 * inputs[:, 2]
    return jnp.stack([logit, jnp.zeros_like(logit)], axis=1)

  def predict_and(params: Any, inputs: Any) -> Any:
    logit = params * inputs[:, 0] * inputs[:, 1] + 2 * inputs[:, 2] + 3 * inputs[:, 3]
    return jnp.stack([logit, jnp.zeros_like(logit)], axis=1)

  inputs = jnp.ones((1, 3))
  for search in (jax_sis.Gradient(), jax_sis.Exact()):
    assert jax_sis.backselect(predict_max, jnp.float32(2), inputs, search=search).rank.tolist() == [[0, 2, 1]]
  # x0 and x1 only count together: losing either costs all 10, so both stay to the end, and the last step breaks them.
  for search in (jax_sis.Gradient(), jax_sis.Exact()):
    order = jax_sis.backselect(predict_and, jnp.float32(10), jnp.ones((1, 4)), search=search)
    assert order.rank.tolist() == [[1, 0, 3, 2]]


def test_screening_every_feature_is_exact_and_one_candidate_is_the_gradient():
  images, params = toys.images_and_params(13, num_images=4)
  run = lambda search: jax_sis.backselect(toys.predict_tanh, params, images, search=search)  # noqa: E731
  every = run(jax_sis.Screened(candidates=NUM_FEATURES, gradient_until=None, chunk_size=7))
  np.testing.assert_array_equal(every.rank, run(jax_sis.Exact()).rank)
  one = run(jax_sis.Screened(candidates=1, gradient_until=None))
  np.testing.assert_array_equal(one.rank, run(jax_sis.Gradient()).rank)


def test_the_gradient_phase_ends_where_screening_begins():
  search = jax_sis.Screened(gradient_until=6, gradient_per_step=4)
  images, params = toys.images_and_params(14)
  order = jax_sis.backselect(toys.predict_tanh, params, images, search=search)
  assert order.sizes == (0, 1, 2, 3, 4, 5, 6, 8, 12)
  assert order.is_complete


def test_the_target_is_the_class_predicted_on_the_whole_input():
  images, params = toys.images_and_params(7, num_images=5)
  expected = np.argmax(toys.predict_tanh(params, images), axis=1)
  assert len(set(expected.tolist())) > 1
  by_default = jax_sis.backselect(toys.predict_tanh, params, images)
  np.testing.assert_array_equal(by_default.target, expected)
  assert_same_order(jax_sis.backselect(toys.predict_tanh, params, images, jnp.asarray(expected)), by_default)


@pytest.mark.parametrize(
  ("num_features", "per_step", "expected"),
  [
    (10, 4, (0, 2, 6, 10)),
    (10, 5, (0, 5, 10)),
    (3, 1, (0, 1, 2, 3)),
    (3, 3, (0, 3)),
    (3, 9, (0, 3)),
    (1, 1, (0, 1)),
  ],
)
def test_every_step_removes_k_features_and_the_last_one_the_remainder(num_features: int, per_step: int, expected: Any):
  order = jax_sis.backselect(
    toys.predict_linear,
    toys.linear_params(np.arange(num_features)),
    jnp.ones((1, num_features)),
    search=jax_sis.Gradient(per_step=per_step),
  )
  assert order.sizes == expected
  assert order.num_features == num_features
  assert order.is_complete


# Invariants.


@pytest.mark.parametrize("search", SEARCHES, ids=repr)
def test_the_rank_is_a_permutation_and_the_confidence_that_of_its_prefixes(search: BackwardSearch):
  rng = np.random.default_rng(8)
  params = toys.make_params("tanh", rng, 24)
  images = rng.normal(size=(3, *SHAPE))
  order = jax_sis.backselect(toys.predict_tanh, toys.to_jax(params), toys.to_jax(images), search=search)
  model = toys.make_reference("tanh", params)
  for index, image in enumerate(images):
    rank = np.asarray(order.rank[index])
    assert sorted(rank.tolist()) == list(range(NUM_FEATURES))
    problem = reference.Problem(
      model=model, x=image, target=int(order.target[index]), grid=(4, 3, 1), baseline=np.zeros(())
    )
    for size, confidence in zip(order.sizes, np.asarray(order.confidence[index]), strict=True):
      assert problem.probability(set(np.flatnonzero(rank < size).tolist())) == pytest.approx(confidence, abs=1e-5)
  assert len(set(order.confidence.ravel().tolist())) > len(order.sizes)


@pytest.mark.parametrize("search", SEARCHES, ids=repr)
def test_a_feature_that_is_not_available_is_never_ranked_nor_kept(search: BackwardSearch):
  images, params = toys.images_and_params(9)
  available = np.random.default_rng(9).random((3, NUM_FEATURES)) < 0.5
  order = jax_sis.backselect(toys.predict_tanh, params, images, search=search, available=jnp.asarray(available))
  rank = np.asarray(order.rank)
  assert (rank[~available] == jax_sis.NOT_RANKED).all()
  for row, may_be_kept in zip(rank, available, strict=True):
    assert sorted(row[may_be_kept].tolist()) == list(range(may_be_kept.sum()))
  assert not (jax_sis.keep_fraction(order, 0.01).mask.reshape(3, -1) & ~available).any()
  for threshold in (0.1, 0.4, 0.8):
    assert not (np.asarray(jax_sis.sufficient_subsets(order, threshold).mask).reshape(3, -1) & ~available).any()


def test_available_may_have_the_shape_of_the_grid():
  images, params = toys.images_and_params(10)
  available = jnp.asarray(np.random.default_rng(10).random((3, 4, 3, 1)) < 0.5)
  checked = validation.check_available(available, num_images=3, grid=(4, 3, 1))
  np.testing.assert_array_equal(checked, np.asarray(available).reshape(3, 12))
  order = jax_sis.backselect(toys.predict_tanh, params, images, available=available)
  assert_same_order(order, jax_sis.backselect(toys.predict_tanh, params, images, available=checked))


@pytest.mark.parametrize("search", SEARCHES, ids=repr)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_stays_with_its_image(search: BackwardSearch, value: float):
  images, params = toys.images_and_params(11)
  targets = jnp.array([0, 1, 2])
  clean = jax_sis.backselect(toys.predict_tanh, params, images, targets, search=search)
  dirty = jax_sis.backselect(toys.predict_tanh, params, images.at[1, 2, 0, 1].set(value), targets, search=search)
  assert clean.finite.tolist() == [True, True, True]
  assert dirty.finite.tolist() == [True, False, True]
  others = np.array([0, 2])
  for name, array in per_image(clean).items():
    np.testing.assert_array_equal(per_image(dirty)[name][others], array[others], err_msg=name)
  assert sorted(dirty.rank[1].tolist()) == list(range(NUM_FEATURES))


@pytest.mark.parametrize("search", [jax_sis.Gradient(), jax_sis.Exact()], ids=repr)
def test_a_logit_that_is_not_finite_at_a_masked_input_is_noticed(search: BackwardSearch):
  def predict_reciprocal(params: Any, inputs: Any) -> Any:
    total = params * inputs.sum(1)
    return jnp.stack([total, 1 / total], axis=1)

  # The first image's baseline is all zero, where the second logit is infinite; the second's is not.
  order = jax_sis.backselect(
    predict_reciprocal, jnp.float32(1), jnp.ones((2, 3)), baseline=jnp.array([[0.0], [0.5]]), search=search
  )
  assert order.finite.tolist() == [False, True]


@pytest.mark.parametrize("search", SEARCHES, ids=repr)
def test_the_order_of_an_image_does_not_depend_on_its_neighbours(search: BackwardSearch):
  images, params = toys.images_and_params(12, num_images=4)
  run = lambda batch: jax_sis.backselect(toys.predict_tanh, params, batch, search=search)  # noqa: E731
  together = run(images)
  permutation = np.array([2, 0, 3, 1])
  assert_same_order(run(images[permutation]), together, permutation)
  for index in range(4):
    alone = run(jnp.zeros_like(images).at[0].set(images[index]))
    for name, array in per_image(together).items():
      np.testing.assert_array_equal(per_image(alone)[name][0], array[index], err_msg=name)


# Unchecked, since under vmap and pmap the fields of the result have one axis more.
@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("search", SEARCHES, ids=repr)
def test_one_device_equals_eight(search: BackwardSearch):
  assert jax.local_device_count() == 8
  images, params = toys.images_and_params(13, num_images=16)
  run = lambda params, batch: jax_sis.backselect(toys.predict_tanh, params, batch, search=search)  # noqa: E731
  eight = jax.pmap(run, in_axes=(None, 0))(params, images.reshape(8, 2, *SHAPE))
  one_by_one = [
    jax.pmap(run, in_axes=(None, 0), devices=jax.local_devices()[:1])(params, images[None, 2 * part : 2 * part + 2])
    for part in range(8)
  ]
  for name in ("rank", "confidence", "target", "finite"):
    expected = np.concatenate([np.asarray(getattr(order, name)) for order in one_by_one])
    np.testing.assert_array_equal(getattr(eight, name), expected, err_msg=name)


# Unchecked, since under vmap and pmap the fields of the result have one axis more.
@pytest.mark.slow
@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("search", [jax_sis.Gradient(per_step=5), jax_sis.Exact(chunk_size=10)], ids=repr)
def test_it_works_under_jit_vmap_and_pmap(search: BackwardSearch):
  images, params = toys.images_and_params(14, num_images=8)
  other = jax.tree.map(lambda array: array[::-1], params)
  run = lambda params, batch: jax_sis.backselect(toys.predict_tanh, params, batch, search=search)  # noqa: E731
  expected = run(params, images)
  transformed = {
    "jit": jax.jit(run)(params, images),
    "vmap over images": jax.vmap(run, in_axes=(None, 0))(params, images[:, None]),
    "pmap": jax.pmap(run, in_axes=(None, 0))(params, images[:, None]),
    "jit of vmap": jax.jit(jax.vmap(run, in_axes=(None, 0)))(params, images.reshape(4, 2, *SHAPE)),
  }
  for name, order in transformed.items():
    assert order.sizes == expected.sizes
    np.testing.assert_array_equal(order.rank.reshape(8, -1), expected.rank, err_msg=name)
    np.testing.assert_allclose(order.confidence.reshape(8, -1), expected.confidence, atol=1e-6, err_msg=name)
  both = jax.vmap(run, in_axes=(0, None))(jax.tree.map(lambda *arrays: jnp.stack(arrays), params, other), images)
  np.testing.assert_array_equal(both.rank[0], expected.rank)
  np.testing.assert_array_equal(both.rank[1], run(other, images).rank)
  assert (both.rank[0] != both.rank[1]).any()


def test_an_nnx_module_a_linen_module_and_a_function_give_the_same_order():
  images, params = toys.images_and_params(15)

  class NnxModel(nnx.Module):
    def __init__(self) -> None:
      self.first = nnx.Linear(24, 4, rngs=nnx.Rngs(0))
      self.second = nnx.Linear(4, 3, use_bias=False, rngs=nnx.Rngs(0))

    def __call__(self, inputs: Any) -> Any:
      return self.second(jnp.tanh(self.first(inputs.reshape(inputs.shape[0], -1))))

  class LinenModel(nn.Module):
    @nn.compact
    def __call__(self, inputs: Any) -> Any:
      hidden = jnp.tanh(nn.Dense(4)(inputs.reshape(inputs.shape[0], -1)))
      return nn.Dense(3, use_bias=False)(hidden)

  module = NnxModel()
  assert module.first.bias is not None
  module.first.kernel[...], module.first.bias[...] = params["hidden_weights"], params["hidden_bias"]
  module.second.kernel[...] = params["weights"]
  graph, state = nnx.split(module)
  linen = LinenModel()
  variables = {
    "params": {
      "Dense_0": {"kernel": params["hidden_weights"], "bias": params["hidden_bias"]},
      "Dense_1": {"kernel": params["weights"]},
    }
  }

  def predict_nnx(state: Any, inputs: Any) -> Any:
    return nnx.merge(graph, state)(inputs)

  expected = jax_sis.backselect(toys.predict_tanh, params, images)
  for order in (
    jax_sis.backselect(predict_nnx, state, images),
    jax_sis.backselect(linen.apply, variables, images),  # pyright: ignore[reportArgumentType]
  ):
    np.testing.assert_array_equal(order.rank, expected.rank)
    np.testing.assert_allclose(order.confidence, expected.confidence, atol=1e-6)


# Compilation.


def counting(predict_fn: Callable[[Any, Any], Any]) -> tuple[Callable[[Any, Any], Any], list[tuple[int, ...]]]:
  """The function, and the shapes of inputs that it was traced with, which grow at each trace."""
  traced: list[tuple[int, ...]] = []

  def counted(params: Any, inputs: Any) -> Any:
    traced.append(inputs.shape)
    return predict_fn(params, inputs)

  return counted, traced


@pytest.mark.parametrize("search", [jax_sis.Gradient(per_step=2), jax_sis.Exact(chunk_size=6)], ids=repr)
def test_a_second_call_with_the_same_shapes_traces_nothing(search: BackwardSearch):
  predict_fn, traced = counting(toys.predict_tanh)
  images, params = toys.images_and_params(16)
  jax_sis.backselect(predict_fn, params, images, search=search)
  num_first = len(traced)
  jax.eval_shape(predict_fn, params, images)
  num_for_shapes = len(traced) - num_first
  assert num_for_shapes <= 1
  before = len(traced)
  jax_sis.backselect(predict_fn, jax.tree.map(jnp.negative, params), images + 1, search=search, baseline=0.5)
  assert len(traced) - before <= num_for_shapes
  before = len(traced)
  jax_sis.backselect(predict_fn, params, images[:2], search=search)
  assert len(traced) - before > 1


@pytest.mark.parametrize("search", [jax_sis.Gradient(), jax_sis.Exact(chunk_size=6)], ids=repr)
def test_the_number_of_traces_does_not_grow_with_the_number_of_steps(search: BackwardSearch):
  counts = []
  for num_features in (2, 40):
    predict_fn, traced = counting(toys.predict_linear)
    jax_sis.backselect(
      predict_fn, toys.linear_params(np.arange(num_features)), jnp.ones((2, num_features)), search=search
    )
    counts.append(len(traced))
  assert counts[0] == counts[1] <= 6


def test_padded_batches_share_one_trace_under_jit():
  predict_fn, traced = counting(toys.predict_tanh)
  images, params = toys.images_and_params(17, num_images=7)
  run = jax.jit(lambda params, batch: jax_sis.backselect(predict_fn, params, batch).rank)
  expected = jax_sis.backselect(toys.predict_tanh, params, images).rank
  padded = jnp.concatenate([images, jnp.zeros((2, *SHAPE))])
  ranks = [run(params, padded[:3])]
  num_first = len(traced)
  ranks += [run(params, padded[start : start + 3]) for start in (3, 6)]
  assert len(traced) == num_first
  np.testing.assert_array_equal(np.concatenate(ranks)[:7], expected)
  run(params, images[6:])
  assert len(traced) > num_first


# Refused arguments. Beartype is off, so that our own messages show.


def refuses(message: str) -> Any:
  return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def predict_training_mode(params: Any, inputs: Any) -> Any:
  """Batch norm with the statistics of the batch, by hand."""
  hidden = inputs.reshape(inputs.shape[0], -1) @ params
  return (hidden - hidden.mean(0, keepdims=True)) * 3


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
  ("inputs", "message"),
  [
    ([[1.0, 2.0]], "inputs must be an array, got list."),
    (
      np.zeros((1, 2, 2, 1), np.uint8),
      "inputs must be floating point and normalised as the classifier expects, got dtype uint8; "
      "8-bit pixels are normalised by (pixels / 255 - mean) / std.",
    ),
    (
      np.zeros(24, np.float32),
      "inputs must have a batch axis and at least one more, got shape (24,); add inputs[None].",
    ),
    (
      np.zeros((0, 24), np.float32),
      "inputs must hold at least one example and no empty axis, got shape (0, 24).",
    ),
    (
      np.zeros((1, 0), np.float32),
      "inputs must hold at least one example and no empty axis, got shape (1, 0).",
    ),
  ],
)
def test_inputs_of_another_kind_are_refused(inputs: Any, message: str):
  with refuses(message):
    jax_sis.backselect(toys.predict_tanh, {}, inputs)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"score": "logit"}, "score must be one of ['log_odds', 'probability'], got 'logit'."),
    (
      {"targets": jnp.array([0, 1])},
      "targets must be one integer class for each of the 3 inputs, got int32[2].",
    ),
    (
      {"targets": jnp.zeros(3)},
      "targets must be one integer class for each of the 3 inputs, got float32[3].",
    ),
    ({"targets": jnp.array([0, 3, 1])}, "targets must lie in 0..2, the classifier's classes, got 3."),
    ({"targets": [0, -1, 1]}, "targets must lie in 0..2, the classifier's classes, got -1."),
    (
      {"available": jnp.ones((3, 12))},
      "available must be Boolean of shape [3, 12] or [3, 4, 3, 1], or [12] or [4, 3, 1] for all images alike, "
      "got float32[3, 12].",
    ),
    (
      {"available": jnp.ones((3, 4, 3, 2), bool)},
      "available must be Boolean of shape [3, 12] or [3, 4, 3, 1], or [12] or [4, 3, 1] for all images alike, "
      "got bool[3, 4, 3, 2].",
    ),
    (
      {"grid": (3, 3, 1)},
      "grid must have one entry for each input axis and divide it, got grid (3, 3, 1) for inputs of shape (4, 3, 2) "
      "(without the batch axis); a feature a position is (4, 3, 1).",
    ),
    (
      {"baseline": jnp.zeros(3)},
      "baseline must be a number or an array that broadcasts against inputs (3, 4, 3, 2), got shape (3,).",
    ),
  ],
)
def test_options_of_the_wrong_shape_or_value_are_refused(options: dict[str, Any], message: str):
  images, params = toys.images_and_params(18)
  with refuses(message):
    jax_sis.backselect(toys.predict_tanh, params, images, **options)


@pytest.mark.usefixtures("without_type_checks")
def test_targets_out_of_range_are_not_looked_for_under_jit():
  images, params = toys.images_and_params(18)
  order = jax.jit(lambda targets: jax_sis.backselect(toys.predict_tanh, params, images, targets))(jnp.array([0, 1, 2]))
  assert order.target.tolist() == [0, 1, 2]


class Unhashable:
  """A callable with an array in it that compares by value."""

  __hash__ = None  # pyright: ignore[reportAssignmentType]

  def __call__(self, params: Any, inputs: Any) -> Any:
    """A linear classifier."""
    return inputs @ params


def predict_raising(params: Any, inputs: Any) -> Any:
  raise TypeError("kernel has 4 axes\nand more on a second line")


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
  ("predict_fn", "message"),
  [
    (3, "predict_fn must be a function (params, inputs) -> logits, got int."),
    (
      Unhashable(),
      "predict_fn must be hashable, got a Unhashable that is not; pass a function, and the model's arrays as params.",
    ),
    (
      predict_raising,
      "predict_fn must accept (params, inputs) with inputs float32[2, 6] (channels last for images), but raised "
      "TypeError: kernel has 4 axes",
    ),
    (
      lambda params, inputs: (inputs, inputs),
      "predict_fn must return logits of shape [2, K] with K >= 2 for 2 inputs, got tuple; return the logits alone.",
    ),
    (
      lambda params, inputs: inputs[:, :1],
      "predict_fn must return logits of shape [2, K] with K >= 2 for 2 inputs, got shape (2, 1); "
      "a model with one logit z becomes two by stacking [0, z].",
    ),
    (
      lambda params, inputs: inputs[0],
      "predict_fn must return logits of shape [2, K] with K >= 2 for 2 inputs, got shape (6,).",
    ),
    (
      lambda params, inputs: inputs[:1],
      "predict_fn must return logits of shape [2, K] with K >= 2 for 2 inputs, got shape (1, 6).",
    ),
    (
      lambda params, inputs: inputs.astype(jnp.int32),
      "predict_fn must return floating-point logits, got dtype int32.",
    ),
  ],
)
def test_what_is_not_a_classifier_is_refused(predict_fn: Any, message: str):
  with refuses(message):
    jax_sis.backselect(predict_fn, jnp.zeros(()), jnp.ones((2, 6)))


NEIGHBOURS = (
  r"^predict_fn must treat each example on its own, but an example's logits changed by [0-9.e+-]+ with its neighbours "
  r"in the batch; put batch norm and dropout in evaluation mode\.$"
)


@pytest.mark.parametrize("num_images", [1, 2, 5])
def test_a_classifier_whose_examples_see_each_other_is_refused(num_images: int):
  images, _ = toys.images_and_params(19, num_images=num_images)
  params = jnp.asarray(np.random.default_rng(0).normal(size=(24, 3)), jnp.float32)
  with pytest.raises(ValueError, match=NEIGHBOURS):
    jax_sis.backselect(predict_training_mode, params, images)


@pytest.mark.parametrize("num_images", [1, 4])
def test_an_nnx_batch_norm_in_training_mode_is_refused_and_in_evaluation_mode_accepted(num_images: int):
  class Model(nnx.Module):
    def __init__(self) -> None:
      self.first = nnx.Linear(24, 8, rngs=nnx.Rngs(0))
      self.norm = nnx.BatchNorm(8, use_running_average=False, rngs=nnx.Rngs(0))
      self.second = nnx.Linear(8, 3, rngs=nnx.Rngs(1))

    def __call__(self, inputs: Any) -> Any:
      return self.second(self.norm(self.first(inputs.reshape(inputs.shape[0], -1))))

  images, _ = toys.images_and_params(20, num_images=num_images)
  module = Model()
  for mode in ("training", "evaluation"):
    if mode == "evaluation":
      module.eval()
    graph, state = nnx.split(module)

    def predict_fn(state: Any, inputs: Any, graph: Any = graph) -> Any:
      return nnx.merge(graph, state)(inputs)

    if mode == "training":
      with pytest.raises(ValueError, match=NEIGHBOURS):
        jax_sis.backselect(predict_fn, state, images)
    else:
      order = jax_sis.backselect(predict_fn, state, images)
      assert sorted(order.rank[0].tolist()) == list(range(NUM_FEATURES))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "1", None])
def test_counts_of_a_search_must_be_positive_integers(value: Any):
  with refuses(f"Gradient.per_step must be an integer of at least 1, got {value!r}."):
    jax_sis.Gradient(per_step=value)
  if value is None:
    assert jax_sis.Exact(chunk_size=value) == jax_sis.Exact()
    return
  with refuses(f"Exact.chunk_size must be an integer of at least 1, got {value!r}."):
    jax_sis.Exact(chunk_size=value)


@pytest.mark.parametrize("name", ["share", "memory"])
@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_shares_of_a_search_must_be_below_one(name: str, value: float):
  options: dict[str, Any] = {name: value}
  with refuses(f"Gradient.{name} must be at least 0 and below 1, got {value!r}."):
    jax_sis.Gradient(**options)


def test_steps_in_proportion_take_many_features_at_first_and_few_at_the_end():
  (phase,) = jax_sis.Gradient(per_step=10, share=0.05).phases(224 * 224)
  assert (len(phase.sizes), phase.sizes[:4], phase.sizes[-3:]) == (130, (0, 7, 17, 27), (45285, 47668, 50176))


def test_numpy_inputs_are_taken_as_they_are():
  images, params = toys.images_and_params(21)
  expected = jax_sis.backselect(toys.predict_tanh, params, images)
  order = jax_sis.backselect(toys.predict_tanh, params, np.asarray(images), np.asarray(expected.target))
  assert_same_order(order, expected)


def test_an_order_says_what_it_was_found_with():
  images, params = toys.images_and_params(22)
  order = jax_sis.backselect(
    toys.predict_tanh, params, images, grid=(2, 3, 1), score="probability", baseline=jnp.array([0.5, -0.5])
  )
  assert (order.grid, order.score, order.num_features) == ((2, 3, 1), "probability", 6)
  shown = jax_sis.mask_inputs(images, jnp.zeros((3, 6)), baseline=order.baseline, grid=order.grid)
  np.testing.assert_array_equal(shown, np.broadcast_to([0.5, -0.5], images.shape))
  assert masking.num_features(order.grid) == order.rank.shape[1]
