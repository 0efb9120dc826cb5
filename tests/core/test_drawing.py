"""Searches under a distribution, against plain loops over its draws."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from jax.sharding import NamedSharding, PartitionSpec

import jax_sis
from jax_sis import completions
from jax_sis.core.drawing import Purpose, aggregate_logits, divide_draws, draw_fills, smooth
from jax_sis.core.features import Grid
from jax_sis.core.problem import check_problem

GRID = (4, 3, 1)
POOL = np.random.default_rng(3).normal(size=(40, 4, 3, 2)).astype(np.float32)
IMAGES, PARAMS = toys.images_and_params(5)
KEYS = jax.random.split(jax.random.key(11), 3)


def softmax(logits: np.ndarray) -> np.ndarray:
  exponentials = np.exp(logits - logits.max(-1, keepdims=True))
  return exponentials / exponentials.sum(-1, keepdims=True)


def aggregate_slowly(logits: np.ndarray, target: int, aggregate: Any) -> float:
  """The probability of the target over the draws `[M, K]`."""
  probabilities = softmax(logits)
  if aggregate == "geometric":
    means = np.exp(np.log(probabilities).mean(0))
    return means[target] / means.sum()
  of_target = np.sort(probabilities[:, target])
  if aggregate == "mean":
    return of_target.mean()
  return of_target[0 if aggregate == "min" else int(aggregate * len(of_target))]


@pytest.mark.parametrize("aggregate", ["geometric", "mean", "min", 0.25])
def test_draws_are_aggregated_as_by_hand(aggregate: Any):
  logits = np.random.default_rng(0).normal(scale=3, size=(5, 8, 3))
  targets = np.array([0, 1, 2, 0, 1])
  combined = aggregate_logits(jnp.asarray(logits, jnp.float32), jnp.asarray(targets), aggregate=aggregate)
  found = softmax(np.asarray(combined, np.float64))[np.arange(5), targets]
  expected = [aggregate_slowly(rows, target, aggregate) for rows, target in zip(logits, targets, strict=True)]
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def show(image: int, kept: np.ndarray, fills: np.ndarray) -> np.ndarray:
  """The image on what is kept and on each of the fills elsewhere."""
  return np.where(kept.reshape(GRID)[None], np.asarray(IMAGES[image])[None], fills)


@functools.partial(jax.jit, static_argnames="purpose")
def draw_all(completion: Any, keys: Any, images: Any, kept: Any, *, purpose: Purpose) -> Any:
  return draw_fills(
    completion, keys, images, kept, jnp.arange(completion.num_draws), features=Grid(GRID), purpose=purpose
  )


def fills_at(completion: Any, image: int, kept: np.ndarray, purpose: Purpose = Purpose.SEARCH) -> np.ndarray:
  arguments = KEYS[image : image + 1], IMAGES[image : image + 1], jnp.asarray(kept)[None]
  return np.asarray(draw_all(completion, *arguments, purpose=purpose))[0]


def log_odds_slowly(image: int, target: int, kept: Any, fills: np.ndarray, aggregate: Any) -> float:
  logits = np.asarray(toys.predict_tanh(PARAMS, jnp.asarray(show(image, kept, fills))), np.float64)
  probability = aggregate_slowly(logits, target, aggregate)
  return np.log(probability / (1 - probability))


@jax.jit
def gradient_slowly(image: Any, is_target: Any, mask: Any, fills: Any) -> Any:
  """Of the log-odds of the geometric mean, with respect to the mask."""

  def score(mask: Any) -> Any:
    mask = mask.reshape(GRID)[None]
    means = jax.nn.log_softmax(toys.predict_tanh(PARAMS, mask * image[None] + (1 - mask) * fills)).mean(0)
    return jnp.where(is_target, means, 0).sum() - jax.nn.logsumexp(jnp.where(is_target, -jnp.inf, means))

  return jax.grad(score)(mask)


@pytest.mark.parametrize("memory", [None, pytest.param(0.0, marks=pytest.mark.slow)])
def test_the_gradient_search_equals_a_plain_loop_over_fresh_draws(memory: float | None):
  completion = completions.Images(jnp.asarray(POOL), num_draws=6)
  search = jax_sis.Gradient(per_step=2, memory=memory)
  order = jax_sis.backselect(toys.predict_tanh, PARAMS, IMAGES, search=search, completion=completion, keys=KEYS)
  share = 0.9 if memory is None else memory
  for image in range(3):
    target, kept = int(order.target[image]), np.ones(12, bool)
    remembered, rank, rates, confidences = None, np.zeros(12, int), [], []
    while kept.any():
      fills = fills_at(completion, image, kept)
      logits = np.asarray(toys.predict_tanh(PARAMS, jnp.asarray(show(image, kept, fills))))
      rates.append((logits.argmax(1) == target).mean())
      # Ranked by the geometric mean, judged by the arithmetic one.
      confidences.append(aggregate_slowly(logits.astype(np.float64), target, "mean"))
      loss = -np.asarray(gradient_slowly(IMAGES[image], np.arange(3) == target, kept.astype(np.float32), fills))
      remembered = loss if remembered is None else share * remembered + (1 - share) * loss
      for place, feature in enumerate(np.argsort(np.where(kept, -remembered, np.inf), kind="stable")[:2]):
        rank[feature] = kept.sum() - 1 - place
      kept = rank < kept.sum() - 2 if kept.sum() > 2 else np.zeros(12, bool)
      kept &= rank < 12
    np.testing.assert_array_equal(order.rank[image], rank)
    for found, expected in ((order.rate, rates), (order.confidence, confidences)):
      smoothed = np.asarray(smooth(jnp.asarray([expected[::-1]], jnp.float32)))[0]
      np.testing.assert_allclose(np.asarray(found)[image, 3:-1], smoothed[2:-1], rtol=1e-5)


@pytest.mark.parametrize("num_tried", [3, pytest.param(None, marks=pytest.mark.slow)])
def test_the_exact_search_tries_all_features_on_the_same_draws(num_tried: int | None):
  completion = completions.Noise(jnp.float32(1.0), jnp.float32(0.0), num_draws=6, num_tried=num_tried)
  order = jax_sis.backselect(
    toys.predict_tanh, PARAMS, IMAGES, search=jax_sis.Exact(), completion=completion, keys=KEYS
  )
  for image in range(3):
    target, kept = int(order.target[image]), np.ones(12, bool)
    while kept.any():
      fills = fills_at(completion, image, kept)[:num_tried]
      scores = np.full(12, -np.inf)
      for feature in np.flatnonzero(kept):
        without = kept & (np.arange(12) != feature)
        scores[feature] = log_odds_slowly(image, target, without, fills, "geometric")
      removed = int(scores.argmax())
      assert order.rank[image, removed] == kept.sum() - 1
      kept[removed] = False


@pytest.mark.slow
def test_what_a_forward_search_adds_passes_on_draws_that_did_not_choose_it():
  completion = completions.Noise(jnp.float32(0.5), jnp.float32(0.0), num_draws=8, num_tried=2)
  search = jax_sis.Forward(candidates=12, threshold=0.6, max_features=12)
  order = jax_sis.forward_select(toys.predict_tanh, PARAMS, IMAGES, search=search, completion=completion, keys=KEYS)
  subsets = jax_sis.sufficient_subsets(order, 0.6)
  found = np.flatnonzero(np.asarray(subsets.status) == jax_sis.Status.OK)
  assert found.size
  for image in found.tolist():
    kept = np.asarray(subsets.kept[image])
    fills = fills_at(completion, image, kept, Purpose.CONFIRM)
    score = log_odds_slowly(image, int(order.target[image]), kept, fills, "mean")
    assert subsets.confidence[image] == pytest.approx(1 / (1 + np.exp(-score)), rel=1e-4)


def test_sizes_are_smoothed_by_as_many_on_either_side():
  values = np.random.default_rng(0).random((2, 9)).astype(np.float32)
  expected = [
    [row[place - reach : place + reach + 1].mean() for place, reach in enumerate((0, 1, 2, 2, 2, 2, 2, 1, 0))]
    for row in values
  ]
  np.testing.assert_allclose(smooth(jnp.asarray(values)), expected, rtol=1e-6)


def test_chunks_of_draws_are_equal_and_fit():
  assert divide_draws(32, 24, 64).shape == (16, 2)
  assert divide_draws(30, 4, 64).shape == (2, 15)
  assert divide_draws(7, 100, 64).shape == (7, 1)
  np.testing.assert_array_equal(divide_draws(6, 16, 64).ravel(), np.arange(6))


@pytest.mark.slow
def test_numbers_depend_on_neither_batch_nor_devices_nor_tracing():
  completion = completions.Images(POOL, num_draws=4)
  search = jax_sis.Gradient(per_step=3)

  def run(images: Any, keys: Any) -> tuple[Any, Any]:
    order = jax_sis.backselect(toys.predict_tanh, PARAMS, images, search=search, completion=completion, keys=keys)
    return order.rank, order.confidence

  rank, confidence = run(IMAGES, KEYS)
  others = {
    "alone": [np.concatenate(parts) for parts in zip(*map(run, IMAGES[:, None], KEYS[:, None]), strict=True)],
    "pmap": [array[:, 0] for array in jax.pmap(run)(IMAGES[:, None], KEYS[:, None])],
    "jit": jax.jit(run)(IMAGES, KEYS),
    "vmap": [array[:, 0] for array in jax.vmap(run)(IMAGES[:, None], KEYS[:, None])],
  }
  for other_rank, other_confidence in others.values():
    np.testing.assert_array_equal(other_rank, rank)
    np.testing.assert_allclose(other_confidence, confidence, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("find", ["smallest_subsets", "sis_collection", "minimise"])
def test_the_other_searches_take_a_completion(find: str):
  parts = completions.Constant(jnp.float32(0.0)), completions.Images(jnp.asarray(POOL))
  completion = completions.Mixture(parts, num_draws=8, num_tried=4, aggregate="mean")
  images, params = toys.images_and_params(0)
  shared = {"completion": completion, "keys": KEYS}
  run = functools.partial(getattr(jax_sis, find), toys.predict_tanh, params, images)
  if find == "minimise":
    order = jax_sis.backselect(toys.predict_tanh, params, images, **shared)
    found = jax_sis.sufficient_subsets(order, 0.9)
    smaller = run(found, order=order, **shared)
    assert (smaller.num_kept <= found.num_kept).all()
    assert (np.asarray(smaller.num_kept)[np.asarray(found.status) == 0] > 0).all()
  elif find == "sis_collection":
    first, second = run(threshold=0.6, max_subsets=2, **shared)
    assert not (first.mask & second.mask).any()
    np.testing.assert_array_equal(first.keys, jax.random.key_data(KEYS))
  else:
    subsets = run(threshold=0.6, **shared)
    found = np.flatnonzero(np.asarray(subsets.status) == jax_sis.Status.OK)
    assert found.size
    # Confidences are of other draws than those that said that the subset passes.
    for image in found.tolist():
      kept = np.asarray(subsets.kept[image])
      fills = fills_at(completion, image, kept, Purpose.CONFIRM)
      logits = toys.predict_tanh(params, jnp.asarray(np.where(kept.reshape(GRID)[None], images[image][None], fills)))
      assert softmax(np.asarray(logits))[:, int(subsets.target[image])].mean() >= 0.6


def test_what_is_not_finite_is_said_of_its_image_alone():
  def draw(key: Any, image: Any) -> Any:
    fill = jax.random.normal(key, image.shape)
    return jnp.where(image[0, 0, 0] == IMAGES[1, 0, 0, 0], jnp.nan, fill)

  order = jax_sis.backselect(toys.predict_tanh, PARAMS, IMAGES, completion=draw, keys=KEYS)
  np.testing.assert_array_equal(order.finite, [True, False, True])


def test_a_search_under_a_distribution_runs_on_a_mesh():
  mesh = jax.make_mesh((3,), ("images",), devices=jax.devices()[:3])
  where = PartitionSpec("images")
  completion = completions.Noise(num_draws=4)

  def run(images: Any, keys: Any) -> Any:
    return jax_sis.backselect(toys.predict_tanh, PARAMS, images, completion=completion, keys=keys).rank

  placed = [jax.device_put(array, NamedSharding(mesh, where)) for array in (IMAGES, KEYS)]
  mapped = jax.shard_map(run, mesh=mesh, in_specs=(where, where), out_specs=where)
  np.testing.assert_array_equal(jax.jit(mapped)(*placed), run(IMAGES, KEYS))


def test_all_features_and_constants_have_no_rate_to_smooth():
  order = jax_sis.backselect(toys.predict_tanh, PARAMS, IMAGES)
  assert order.rate is None
  assert order.keys is None
  problem = check_problem(
    toys.predict_tanh, PARAMS, IMAGES, None, baseline=0.0, grid=None, available=None, score="log_odds"
  )
  assert problem.copies_tried == 1
