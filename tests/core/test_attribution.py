"""Attributions against slow NumPy versions and known answers, and the orders that are made of them."""

import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import toys

import jax_sis
from jax_sis import GradCam, GradientTimesInput, IntegratedGradients, Occlusion, Rise, classifiers
from jax_sis.classifiers import frozen
from jax_sis.core.attribution import rank_scores
from jax_sis.core.attribution_methods import AttributionMethod

SHAPE = (4, 3, 2)
GRID = (4, 3, 1)
NUM_FEATURES = 12
SMALL_RISE = Rise(num_masks=7, num_cells=2, keep_probability=0.6, seed=3, chunk_size=4)


def pooled_features(params: Any, inputs: Any) -> Any:
  """2x2 means of the pixels, mixed and rectified: `[B, 4, 4, 3] -> [B, 2, 2, D]`."""
  means = inputs.reshape(-1, 2, 2, 2, 2, 3).mean((2, 4))
  return jax.nn.relu(means @ params["mix"])


def pooled_head(params: Any, features: Any) -> Any:
  """A squared mean of each feature map, so that gradients differ from place to place with the maps, -> logits."""
  return (features**2).mean((1, 2)) @ params["head"]


def predict_pooled(params: Any, inputs: Any) -> Any:
  return pooled_head(params, pooled_features(params, inputs))


POOLED = GradCam(features_fn=pooled_features, head_fn=pooled_head)
ANY_NETWORK = [GradientTimesInput(), IntegratedGradients(num_steps=5), Occlusion(window=3, chunk_size=5), SMALL_RISE]


def pooled_case(seed: int = 0, num_images: int = 2) -> tuple[Any, Any]:
  """A batch `[B, 4, 4, 3]` and parameters of the pooled network."""
  rng = np.random.default_rng(seed)
  params = toys.to_jax({"mix": rng.normal(size=(3, 5)), "head": 5 * rng.normal(size=(5, 3))})
  return toys.to_jax(rng.normal(size=(num_images, 4, 4, 3))), params


def score_at(problem: reference.Problem, mask: np.ndarray) -> float:
  """The score of an input that a mask of numbers between 0 and 1 shows."""
  return reference.SCORES[problem.score](problem.model.logits(shown(problem, mask)), problem.target)


def shown(problem: reference.Problem, mask: np.ndarray) -> np.ndarray:
  by_element = mask[problem.features]
  return by_element * problem.x + (1 - by_element) * np.broadcast_to(problem.baseline, problem.x.shape)


def gradient_at(problem: reference.Problem, mask: np.ndarray) -> np.ndarray:
  """d(score)/d(mask), by hand."""
  x = shown(problem, mask)
  slope = reference.score_gradient(problem.model.logits(x), problem.target, problem.score)
  by_element = problem.model.input_gradient(x, slope) * (problem.x - np.broadcast_to(problem.baseline, problem.x.shape))
  return np.array([by_element[problem.features == feature].sum() for feature in range(problem.num_features)])


def slow_occlusion(problem: reference.Problem, window: int) -> np.ndarray:
  """Each feature's window masked in turn, cell by cell."""
  everything = set(range(problem.num_features))
  places = list(np.ndindex(problem.grid))
  drops = []
  for centre in places:
    near = {
      number
      for number, place in enumerate(places)
      if all(abs(one - other) <= (window - 1) / 2 for one, other in zip(place, centre, strict=True))
    }
    drops.append(problem.score_of(everything) - problem.score_of(everything - near))
  return np.array(drops)


def slow_attribution(problem: reference.Problem, method: AttributionMethod, image_id: int) -> np.ndarray:
  """One image, one evaluation at a time, in float64."""
  ones = np.ones(problem.num_features)
  if isinstance(method, GradientTimesInput):
    return gradient_at(problem, ones)
  if isinstance(method, IntegratedGradients):
    shares = [(step + 0.5) / method.num_steps for step in range(method.num_steps)]
    return np.mean([gradient_at(problem, share * ones) for share in shares], axis=0)
  if isinstance(method, Occlusion):
    return slow_occlusion(problem, method.window)
  assert isinstance(method, Rise)
  masks = rise_masks(method, problem.grid, image_id)
  values = [score_at(problem, mask) for mask in masks]
  attributions = []
  for feature in range(problem.num_features):
    amounts = [mask[feature] for mask in masks]
    is_shown = sum(amounts) > 1e-9
    attributions.append(np.average(values, weights=amounts) if is_shown else np.mean(values))
  return np.array(attributions)


def rise_masks(method: Rise, grid: tuple[int, ...], image_id: int) -> list[np.ndarray]:
  """Every mask of an image: the same random numbers, then plain interpolation of the whole, from which it is cut."""
  masks = []
  for number in range(method.num_masks):
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(method.seed), image_id), number)
    cells_key, shift_key = jax.random.split(key)
    counts = [min(method.num_cells, size) for size in grid]
    lengths = [int(np.ceil(size / count)) for size, count in zip(grid, counts, strict=True)]
    mask = np.asarray(jax.random.bernoulli(cells_key, method.keep_probability, counts), float)
    shifts = np.asarray(jax.random.randint(shift_key, (len(grid),), 0, jnp.asarray(lengths, jnp.int32)))
    for axis, (size, length, shift) in enumerate(zip(grid, lengths, shifts, strict=True)):
      mask = np.apply_along_axis(stretched, axis, mask, length).take(range(shift, shift + size), axis)
    masks.append(mask.reshape(-1))
  return masks


def stretched(cells: np.ndarray, length: int) -> np.ndarray:
  """Linear interpolation of n cells to n + 1 times `length` points, both being spread evenly over the same stretch."""
  num_points = (len(cells) + 1) * length
  places = (np.arange(num_points) + 0.5) / num_points
  return np.interp(places, (np.arange(len(cells)) + 0.5) / len(cells), cells)


# Against the slow versions.


@pytest.mark.parametrize(
  ("grid", "score"), [(GRID, "log_odds"), pytest.param((2, 3, 2), "probability", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("method", [*ANY_NETWORK, Rise(num_masks=3, num_cells=9)], ids=repr)
def test_every_method_equals_its_slow_version(method: AttributionMethod, grid: tuple[int, ...], score: Any):
  rng = np.random.default_rng(1)
  params = toys.make_params("tanh", rng, 24)
  images, baseline, targets, ids = rng.normal(size=(2, *SHAPE)), rng.normal(size=SHAPE), [2, 0], [5, 1]
  with jax.enable_x64(True):
    actual = jax_sis.attribute(
      toys.predict_tanh,
      toys.to_jax(params, jnp.float64),
      jnp.asarray(images),
      jnp.asarray(targets),
      method=method,
      baseline=baseline,
      grid=grid,
      score=score,
      image_ids=np.array(ids),
    )
    for index, image in enumerate(images):
      problem = reference.Problem(
        model=toys.make_reference("tanh", params),
        x=image,
        target=targets[index],
        grid=grid,
        baseline=baseline,
        score=score,
      )
      np.testing.assert_allclose(actual[index], slow_attribution(problem, method, ids[index]), atol=1e-10)


def test_the_gradients_of_a_step_and_of_an_attribution_rank_alike():
  images, params = toys.images_and_params(2)
  scores = jax_sis.attribute(toys.predict_tanh, params, images, method=GradientTimesInput())
  order = jax_sis.order_by_scores(toys.predict_tanh, params, images, scores)
  searched = jax_sis.backselect(toys.predict_tanh, params, images, search=jax_sis.Gradient(per_step=NUM_FEATURES))
  np.testing.assert_array_equal(order.rank, searched.rank)


# Known answers.


@pytest.mark.parametrize(
  "method", [GradientTimesInput(), IntegratedGradients(num_steps=3), Occlusion(chunk_size=2)], ids=repr
)
def test_on_a_linear_model_every_method_gives_the_contributions(method: AttributionMethod):
  params = toys.linear_params([1, -0.25, 0.25, 2])
  scores = jax_sis.attribute(
    toys.predict_linear, params, jnp.array([[1.0, 2.0, 2.0, 2.0]]), method=method, baseline=jnp.array([0.0, 0, 4, 1])
  )
  np.testing.assert_allclose(scores, [[1, -0.5, -0.5, 2]], atol=1e-5)
  assert scores.dtype == jnp.float32


@pytest.mark.parametrize("score", toys.SCORES)
def test_integrated_gradients_add_up_to_the_difference_of_the_scores(score: Any):
  images, params = toys.images_and_params(3, num_images=4)
  targets, ones = jnp.array([0, 1, 2, 1]), np.ones(NUM_FEATURES)
  method = IntegratedGradients(num_steps=400)
  scores = jax_sis.attribute(toys.predict_tanh, params, images, targets, method=method, baseline=0.5, score=score)
  model = toys.make_reference("tanh", {name: np.asarray(array, float) for name, array in params.items()})
  for index, image in enumerate(np.asarray(images, float)):
    problem = reference.Problem(
      model=model, x=image, target=int(targets[index]), grid=GRID, baseline=np.array(0.5), score=score
    )
    difference = score_at(problem, ones) - score_at(problem, 0 * ones)
    assert abs(difference) > 0.01
    assert scores[index].sum() == pytest.approx(difference, abs=1e-3)


def test_a_window_masks_its_neighbours_too():
  # A row of five; the windows of three hold 1 2, 1 2 4, 2 4 8, 4 8 16 and 8 16.
  params = toys.linear_params([1, 2, 4, 8, 16])
  scores = jax_sis.attribute(toys.predict_linear, params, jnp.ones((1, 5)), method=Occlusion(window=3))
  np.testing.assert_allclose(scores, [[3, 7, 14, 28, 24]], rtol=1e-6)


@pytest.mark.slow
def test_what_decides_alone_stands_out_under_random_masks():
  weights = np.zeros(64)
  weights[27] = 6
  image = jnp.ones((1, 8, 8, 1))
  scores = jax_sis.attribute(
    toys.predict_linear, toys.linear_params(weights), image, method=Rise(num_masks=600, num_cells=8)
  )
  assert scores[0].argmax() == 27
  # Its own mask decides: 6 E[m^2] / E[m], here 3.83; features that are far know nothing of it: 6 E[m] = 3.
  assert scores[0, 27] == pytest.approx(3.83, abs=0.2)
  assert scores[0, 63] == pytest.approx(3, abs=0.3)


@pytest.mark.slow
def test_a_feature_that_no_mask_shows_has_the_mean_of_all_masks():
  image, params = jnp.ones((1, 6)), toys.linear_params([1, 2, 3, 4, 5, 6])
  method = Rise(num_masks=2, num_cells=6, keep_probability=0.2, seed=1)
  masks = np.array(rise_masks(method, (6,), 0))
  is_shown = masks.sum(0) > 0
  assert is_shown.any()
  assert not is_shown.all()
  values = masks @ np.arange(1, 7)
  assert values[0] != values[1]
  scores = jax_sis.attribute(toys.predict_linear, params, image, method=method)
  np.testing.assert_allclose(scores[0, ~is_shown], values.mean(), rtol=1e-5)


# Grad-CAM.


def test_grad_cam_equals_a_computation_by_hand():
  images, params = pooled_case(num_images=3)
  targets, seen = [0, 1, 2], []
  scores = jax_sis.attribute(predict_pooled, params, images, jnp.array(targets), method=POOLED)
  mix, head = np.asarray(params["mix"], float), np.asarray(params["head"], float)
  # Two numbers to four, each standing for a quarter of the same stretch.
  enlarge = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
  for index, image in enumerate(np.asarray(images, float)):
    features = np.zeros((2, 2, 5))
    for row, column in itertools.product(range(2), repeat=2):
      patch = image[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
      features[row, column] = np.maximum(patch.mean((0, 1)) @ mix, 0)
    slope = reference.score_gradient((features**2).mean((0, 1)) @ head, targets[index], "log_odds")
    weights = np.mean([2 * features[place] / 4 * (head @ slope) for place in np.ndindex(2, 2)], axis=0)
    expected = enlarge @ (features @ weights) @ enlarge.T
    np.testing.assert_allclose(scores[index].reshape(4, 4), expected, rtol=1e-4, atol=1e-5)
    seen += expected.ravel().tolist()
  # What counts against a class keeps its sign.
  assert min(seen) < 0 < max(seen)


def test_grad_cam_treats_all_channels_and_a_coarser_grid_alike():
  images, params = pooled_case()
  by_grid = {
    grid: np.asarray(jax_sis.attribute(predict_pooled, params, images, method=POOLED, grid=grid)).reshape(2, *grid)
    for grid in [(4, 4, 1), (4, 4, 3), (2, 2, 1)]
  }
  np.testing.assert_array_equal(by_grid[4, 4, 3], np.repeat(by_grid[4, 4, 1], 3, axis=3))
  # At the resolution of the maps, nothing is interpolated: the corners are the same.
  np.testing.assert_allclose(by_grid[2, 2, 1], by_grid[4, 4, 1][:, ::3, ::3], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("allow_rank_promotion")
def test_grad_cam_of_a_network_with_one_linear_layer_is_its_class_activation_map():
  # Zhou et al. 2016: the maps weighted by the last layer; here by that of the log-odds, over the number of places.
  module = classifiers.build("resnet20", num_classes=4, seed=1)
  module.eval()
  predict_fn, params = frozen.freeze(module)
  features_fn, head_fn = frozen.split(predict_fn, params)
  inputs = jnp.asarray(np.random.default_rng(7).normal(size=(2, 32, 32, 3)), jnp.float32)
  targets = jnp.array([3, 0])
  method = GradCam(features_fn=features_fn, head_fn=head_fn)
  scores = jax_sis.attribute(predict_fn, params, inputs, targets, method=method, grid=(8, 8, 1))
  maps, logits = np.asarray(module.features(inputs), float), np.asarray(module(inputs), float)
  kernel = np.asarray(module.head.kernel[...], float)
  for index, target in enumerate(targets.tolist()):
    weights = kernel @ reference.score_gradient(logits[index], target, "log_odds") / 64
    np.testing.assert_allclose(scores[index].reshape(8, 8), maps[index] @ weights, rtol=1e-3, atol=1e-5)


# What random masks depend on.


@pytest.mark.slow
def test_random_masks_do_not_depend_on_the_batch():
  images, params = toys.images_and_params(5, num_images=6)
  ids = np.array([9, 2, 7, 40, 0, 3])
  run = lambda rows, method: jax_sis.attribute(  # noqa: E731
    toys.predict_tanh, params, images[rows], jnp.zeros(len(rows), jnp.int32), method=method, image_ids=ids[rows]
  )
  method = Rise(num_masks=50, num_cells=2, chunk_size=24)
  expected = run(np.arange(6), method)
  shuffled = np.array([4, 1, 5, 0, 2, 3])
  np.testing.assert_allclose(run(shuffled, method), expected[shuffled], atol=1e-5)
  for row in range(6):
    np.testing.assert_allclose(run(np.array([row]), method)[0], expected[row], atol=1e-5)
  for chunk_size in (1, 7, 1000):
    other = Rise(num_masks=50, num_cells=2, chunk_size=chunk_size)
    np.testing.assert_allclose(run(np.arange(6), other), expected, atol=1e-5)


def test_random_masks_depend_on_the_image_and_the_seed():
  images, params = toys.images_and_params(6, num_images=1)
  images = jnp.repeat(images, 2, axis=0)
  run = lambda method, **arguments: np.asarray(  # noqa: E731
    jax_sis.attribute(toys.predict_tanh, params, images, method=method, **arguments)
  )
  same = run(SMALL_RISE)
  np.testing.assert_array_equal(same[0], same[1])
  differ = run(SMALL_RISE, image_ids=np.array([0, 1]))
  np.testing.assert_array_equal(differ[0], same[0])
  assert np.abs(differ[1] - differ[0]).max() > 0.01
  reseeded = run(Rise(num_masks=7, num_cells=2, keep_probability=0.6, seed=4, chunk_size=4))
  assert np.abs(reseeded - same).max() > 0.01


@pytest.mark.slow
def test_masks_show_the_share_that_is_asked_for():
  masks = jax.vmap(lambda number: Rise(keep_probability=0.25).draw_mask(jax.random.key(0), number, grid=(32, 32, 1)))(
    jnp.arange(400)
  )
  assert float(masks.min()) == 0
  assert float(masks.max()) == pytest.approx(1)
  assert float(masks.mean()) == pytest.approx(0.25, abs=0.01)
  # Shifted masks show every place equally often.
  assert np.asarray(masks.mean(0)).std() < 0.03


# Orders.


def test_ranks_go_by_score_and_equal_ones_by_index():
  rng = np.random.default_rng(8)
  scores = rng.integers(-2, 3, (20, 15)) * np.where(rng.random((20, 15)) < 0.5, 1.0, -1.0)
  assert np.signbit(scores[scores == 0]).any()
  expected = np.empty(scores.shape, int)
  for row, values in enumerate(scores):
    for rank, feature in enumerate(sorted(range(15), key=lambda feature: (-values[feature], feature))):
      expected[row, feature] = rank
  np.testing.assert_array_equal(rank_scores(jnp.asarray(scores, jnp.float32)), expected)


def test_numbers_that_cannot_be_compared_come_last():
  scores = jnp.array([[1.0, jnp.nan, -5.0, jnp.inf, 0.0]])
  assert rank_scores(scores).tolist() == [[1, 4, 3, 0, 2]]


@pytest.mark.parametrize("chunk_size", [1, 10, 500])
@pytest.mark.parametrize("sizes", [None, (0, 1, 4, 5, 11, 12)])
def test_the_confidence_is_that_of_the_highest_scores(sizes: Any, chunk_size: int):
  rng = np.random.default_rng(9)
  params = toys.make_params("tanh", rng, 24)
  images, baseline, scores = rng.normal(size=(3, *SHAPE)), rng.normal(size=SHAPE), rng.normal(size=(3, *GRID))
  targets = np.array([0, 2, 1])
  order = jax_sis.order_by_scores(
    toys.predict_tanh,
    toys.to_jax(params),
    toys.to_jax(images),
    toys.to_jax(scores),
    targets,
    sizes=sizes,
    baseline=baseline,
    chunk_size=chunk_size,
  )
  assert order.sizes == (tuple(range(13)) if sizes is None else sizes)
  assert order.is_complete
  assert order.finite.all()
  for index, image in enumerate(images):
    assert sorted(order.rank[index].tolist()) == list(range(NUM_FEATURES))
    problem = reference.Problem(
      model=toys.make_reference("tanh", params), x=image, target=int(targets[index]), grid=GRID, baseline=baseline
    )
    best = np.argsort(-scores[index].reshape(-1))
    expected = [problem.probability(set(best[:size].tolist())) for size in order.sizes]
    np.testing.assert_allclose(order.confidence[index], expected, atol=1e-5)
    assert expected[0] == pytest.approx(reference.probability_of(problem.model.logits(baseline), problem.target))
    assert expected[-1] == pytest.approx(reference.probability_of(problem.model.logits(image), problem.target))


@pytest.mark.slow
def test_what_reads_orders_reads_those_of_attributions():
  images, params = toys.images_and_params(10, num_images=8)
  scores = jax_sis.attribute(toys.predict_tanh, params, images, method=Occlusion())
  order = jax_sis.order_by_scores(toys.predict_tanh, params, images, scores)
  subsets = jax_sis.sufficient_subsets(order, 0.8)
  is_ok = np.asarray(subsets.status) == jax_sis.Status.OK
  assert is_ok.sum() >= 3
  report = jax_sis.certify(toys.predict_tanh, params, images, subsets)
  np.testing.assert_array_equal(report.is_sufficient, is_ok)
  smaller = jax_sis.minimise(toys.predict_tanh, params, images, subsets, order=order)
  assert (np.asarray(smaller.num_kept) <= np.asarray(subsets.num_kept)).all()
  most_needed = jax_sis.keep_fraction(order, 3 / 12)
  np.testing.assert_array_equal(most_needed.mask.reshape(8, -1), order.rank < 3)
  np.testing.assert_array_equal(most_needed.confidence, order.confidence[:, 3])


@pytest.mark.parametrize(
  ("method", "value"),
  [*((method, np.nan) for method in [*ANY_NETWORK, POOLED]), (POOLED, np.inf)],
  # Without the addresses of functions, of which every process has others.
  ids=lambda value: repr(value).partition("(")[0],
)
def test_a_value_that_is_not_finite_stays_with_its_image(method: AttributionMethod, value: float):
  images, params = pooled_case(num_images=3)
  dirty = images.at[1, 2, 0, 1].set(value)
  targets = jnp.array([0, 1, 2])
  with np.errstate(invalid="ignore"):
    found = [jax_sis.attribute(predict_pooled, params, batch, targets, method=method) for batch in (images, dirty)]
    order = jax_sis.order_by_scores(predict_pooled, params, dirty, found[1], targets)
  others = np.array([0, 2])
  np.testing.assert_array_equal(found[0][others], found[1][others])
  assert order.finite.tolist() == [True, False, True]
  assert jax_sis.sufficient_subsets(order, 0.5).status[1] == jax_sis.Status.NON_FINITE


def test_a_score_that_is_no_number_spoils_its_own_image_only():
  images, params = toys.images_and_params(11)
  scores = np.random.default_rng(0).normal(size=(3, NUM_FEATURES)).astype(np.float32)
  scores[2, 4] = np.nan
  order = jax_sis.order_by_scores(toys.predict_tanh, params, images, scores)
  assert order.finite.tolist() == [True, True, False]


# Transformations, and memory.


@pytest.mark.slow
@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("method", [*ANY_NETWORK, POOLED], ids=lambda method: type(method).__name__)
def test_it_works_under_jit_vmap_and_pmap(method: AttributionMethod):
  images, params = pooled_case(4, num_images=8)
  ids = jnp.arange(8)

  def run(params: Any, images: Any, ids: Any) -> tuple[Any, Any, Any]:
    scores = jax_sis.attribute(predict_pooled, params, images, method=method, image_ids=ids)
    order = jax_sis.order_by_scores(predict_pooled, params, images, scores, sizes=(0, 5, 11, 16))
    return scores, order, jax_sis.deletion_confidence(predict_pooled, params, images, order)

  expected = run(params, images, ids)
  found = [jax.jit(run)(params, images, ids)]
  found += [
    transform(run, in_axes=(None, 0, 0))(
      params, images.reshape(rows, 8 // rows, *images.shape[1:]), ids.reshape(rows, -1)
    )
    for transform, rows in ((jax.vmap, 4), (jax.pmap, 2))
  ]
  for scores, order, deletion in found:
    np.testing.assert_allclose(scores.reshape(8, -1), expected[0], atol=1e-4)
    np.testing.assert_array_equal(order.rank.reshape(8, -1), expected[1].rank)
    np.testing.assert_allclose(order.confidence.reshape(8, -1), expected[1].confidence, atol=1e-5)
    np.testing.assert_allclose(deletion.reshape(8, -1), expected[2], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", [*ANY_NETWORK, POOLED], ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("num_images", [2, 6])
def test_the_classifier_never_sees_more_than_a_chunk(method: AttributionMethod, num_images: int):
  seen = []

  def predict_noting(params: Any, inputs: Any) -> Any:
    seen.append(inputs.shape[0])
    return predict_pooled(params, inputs)

  images, params = pooled_case(num_images=num_images)
  scores = jax_sis.attribute(predict_noting, params, images, method=method)
  order = jax_sis.order_by_scores(predict_noting, params, images, scores, chunk_size=4)
  jax_sis.deletion_confidence(predict_noting, params, images, order, chunk_size=4)
  assert max(seen) == max(num_images, 4)


def test_equal_methods_compile_once():
  images, params = toys.images_and_params(12)
  traces = []

  def predict_counted(params: Any, inputs: Any) -> Any:
    traces.append(1)
    return toys.predict_tanh(params, inputs)

  jax_sis.attribute(predict_counted, params, images, method=IntegratedGradients(num_steps=5))
  num_traces = len(traces)
  jax_sis.attribute(predict_counted, params, images, method=IntegratedGradients(num_steps=5))
  # The second time its shapes are looked at again, and nothing else.
  assert len(traces) <= num_traces + 1


# Errors.


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (
      lambda: IntegratedGradients(num_steps=0),
      "IntegratedGradients.num_steps must be an integer of at least 1, got 0.",
    ),
    (lambda: Occlusion(window=0), "Occlusion.window must be an integer of at least 1, got 0."),
    (lambda: Occlusion(window=4), "Occlusion.window must be odd, so that it has a centre, got 4."),
    (lambda: Occlusion(chunk_size=0), "Occlusion.chunk_size must be an integer of at least 1, got 0."),
    (lambda: Rise(num_masks=0), "Rise.num_masks must be an integer of at least 1, got 0."),
    (lambda: Rise(num_cells=0), "Rise.num_cells must be an integer of at least 1, got 0."),
    (
      lambda: Rise(keep_probability=1.0),
      "Rise.keep_probability must be a probability strictly between 0 and 1, got 1.0.",
    ),
    (lambda: Rise(chunk_size=0), "Rise.chunk_size must be an integer of at least 1, got 0."),
  ],
)
def test_settings_out_of_range_are_refused(make: Any, message: str):
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    make()


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
  ("image_ids", "got"), [([0, 1], "int32[2]"), ([0.0, 1.0, 2.0], "float32[3]"), ([[0], [1], [2]], "int32[3, 1]")]
)
def test_image_ids_must_be_an_integer_an_image(image_ids: Any, got: str):
  images, params = toys.images_and_params(0)
  with pytest.raises(
    ValueError, match=f"^{re.escape(f'image_ids must be one integer for each of the 3 inputs, got {got}.')}$"
  ):
    jax_sis.attribute(toys.predict_tanh, params, images, method=SMALL_RISE, image_ids=image_ids)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (
      {"scores": np.zeros((3, 11), np.float32)},
      "scores must be floating point of shape [3, 12] or [3, 4, 3, 1], or [12] or [4, 3, 1] for all images alike, "
      "got float32[3, 11].",
    ),
    (
      {"scores": np.zeros((3, 12), np.int32)},
      "scores must be floating point of shape [3, 12] or [3, 4, 3, 1], or [12] or [4, 3, 1] for all images alike, "
      "got int32[3, 12].",
    ),
    ({"sizes": (1, 12)}, "sizes must ascend from 0 to the number of features, 12, got [1, 12]."),
    ({"sizes": (0, 11)}, "sizes must ascend from 0 to the number of features, 12, got [0, 11]."),
    ({"sizes": (0, 5, 5, 12)}, "sizes must ascend from 0 to the number of features, 12, got [0, 5, 5, 12]."),
    ({"sizes": (0, 1.7, 12)}, "sizes must be integers, numbers of features, got [0, 1.7, 12]."),
    ({"sizes": ()}, "sizes must ascend from 0 to the number of features, 12, got []."),
    ({"chunk_size": 0}, "chunk_size must be an integer of at least 1, got 0."),
    ({"score": "logit"}, "score must be one of ['log_odds', 'probability'], got 'logit'."),
  ],
)
def test_an_order_of_what_does_not_fit_is_refused(arguments: dict[str, Any], message: str):
  images, params = toys.images_and_params(0)
  arguments = {"scores": np.zeros((3, 12), np.float32), **arguments}
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    jax_sis.order_by_scores(toys.predict_tanh, params, images, **arguments)


@pytest.mark.usefixtures("without_type_checks")
def test_the_arguments_are_checked_as_those_of_a_search():
  images, params = toys.images_and_params(0)
  with pytest.raises(ValueError, match=r"^targets must lie in 0\.\.2, the classifier's classes, got 3\.$"):
    jax_sis.attribute(toys.predict_tanh, params, images, jnp.array([0, 1, 3]), method=Occlusion())
  with pytest.raises(ValueError, match=r"^grid must have one entry for each input axis and divide it, got grid \(3,\)"):
    jax_sis.attribute(toys.predict_tanh, params, images, method=Occlusion(), grid=(3,))


def flat_features(params: Any, inputs: Any) -> Any:
  return pooled_features(params, inputs).mean((1, 2))


def halved_head(params: Any, features: Any) -> Any:
  return pooled_head(params, features) / 2


def two_class_head(params: Any, features: Any) -> Any:
  return pooled_head(params, features)[:, :2]


def failing_part(params: Any, inputs: Any) -> Any:
  raise KeyError("weights")


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
  ("features_fn", "head_fn", "message"),
  [
    (None, pooled_head, "GradCam.features_fn must be a function, got NoneType."),
    (pooled_features, None, "GradCam.head_fn must be a function, got NoneType."),
    (
      failing_part,
      pooled_head,
      "GradCam.features_fn must accept (params, inputs) of shape (2, 4, 4, 3), but raised KeyError: 'weights'",
    ),
    (
      pooled_features,
      failing_part,
      "GradCam.head_fn must accept (params, feature maps) of shape (2, 2, 2, 5), but raised KeyError: 'weights'",
    ),
    (
      flat_features,
      pooled_head,
      "GradCam.features_fn must return feature maps with the axes of the inputs, at least three, batch first and "
      "channels last, got shape (2, 5) for inputs of shape (2, 4, 4, 3).",
    ),
    (
      pooled_features,
      two_class_head,
      "GradCam.head_fn must return the classifier's logits, of shape (2, 3), got (2, 2).",
    ),
  ],
)
def test_parts_that_are_not_those_of_the_classifier_are_refused(features_fn: Any, head_fn: Any, message: str):
  images, params = pooled_case()
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    jax_sis.attribute(predict_pooled, params, images, method=GradCam(features_fn=features_fn, head_fn=head_fn))


def test_parts_of_another_classifier_are_refused():
  images, params = pooled_case()
  half = np.abs(np.asarray(predict_pooled(params, images))).max() / 2
  message = (
    f"GradCam's functions must together be predict_fn, but their logits differ by {half:.3g}; "
    "pass both parts of the same classifier."
  )
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    jax_sis.attribute(predict_pooled, params, images, method=GradCam(features_fn=pooled_features, head_fn=halved_head))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("method", ["ig", jax_sis.IntegratedGradients])
def test_what_is_no_method_is_refused(method: Any):
  with pytest.raises(ValueError, match=r"^method must be one such as IntegratedGradients\(\), got "):
    jax_sis.attribute(lambda weights, inputs: inputs @ weights, jnp.ones((3, 2)), jnp.ones((1, 3)), method=method)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("seed", [1.5, -1, 2**31])
def test_a_seed_that_is_no_number_of_a_key_is_refused(seed: Any):
  with pytest.raises(ValueError, match=r"^Rise\.seed must be an integer from 0 to 2\*\*31 - 1, got "):
    jax_sis.Rise(seed=seed)
