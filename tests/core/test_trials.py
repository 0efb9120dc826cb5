"""How preferences are ranked, and single flips tried."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from jax_sis.core import trials
from jax_sis.core.problem import Problem, make_problem


def test_what_is_no_number_is_the_last_resort_and_what_is_not_allowed_never_chosen():
  preference = jnp.array([[np.nan, 1.0, np.inf, -0.0, 0.0, -np.inf, 2.0]])
  allowed = jnp.array([[True, True, True, True, True, True, False]])
  keys = np.asarray(trials.sort_keys(preference, allowed))[0]
  assert np.argsort(-keys, kind="stable").tolist() == [2, 1, 3, 4, 0, 5, 6]
  assert np.isfinite(keys[:6]).all()
  assert keys[6] == -np.inf
  assert keys[3] == keys[4]


def make_toy_problem(num_images: int) -> Problem:
  images, params = toys.images_and_params(3, num_images=num_images)
  targets = jnp.zeros(num_images, jnp.int32)
  return make_problem(
    toys.predict_tanh, params, jnp.asarray(images), targets, baseline=0.0, grid=(4, 3, 1), score="log_odds"
  )


@pytest.mark.parametrize("num_needed", [[0, 5, 1], [5, 5, 5], [0, 0, 0], [2, 0, 4], None])
@pytest.mark.parametrize("chunk_size", [1, 4, 7, 64])
def test_flips_are_those_tried_one_by_one_and_no_more_than_are_needed(num_needed: list[int] | None, chunk_size: int):
  problem = make_toy_problem(3)
  generator = np.random.default_rng(5)
  kept = jnp.asarray(generator.random((3, problem.num_features)) < 0.5)
  features = np.stack([generator.permutation(problem.num_features)[:5] for _ in range(3)]).astype(np.int32)
  features[1, 2] = problem.num_features
  needed = None if num_needed is None else jnp.array(num_needed, jnp.int32)
  scores = np.asarray(
    trials.score_flips(problem, kept, jnp.asarray(features), chunk_size=chunk_size, num_needed=needed)
  )
  for image, column in np.ndindex(3, 5):
    if num_needed is not None and column >= num_needed[image]:
      assert scores[image, column] == -np.inf
      continue
    mask = np.array(kept[image])
    if features[image, column] < problem.num_features:
      mask[features[image, column]] ^= True
    alone = problem.take(jnp.array([image]))
    expected = alone.score_masks(jnp.asarray(mask)[None, None])[0, 0]
    np.testing.assert_allclose(scores[image, column], expected, rtol=1e-5)


@pytest.mark.parametrize(
  ("num_needed", "chunk_size", "expected"), [([9, 1, 1], 6, 2), ([9, 9, 9], 6, 5), ([0, 0, 0], 6, 0)]
)
def test_no_model_call_but_the_last_is_filled_up(num_needed: list[int], chunk_size: int, expected: int):
  problem = make_toy_problem(3)
  sizes = []

  def predict_fn(params: dict[str, jax.Array], inputs: jax.Array) -> jax.Array:
    jax.debug.callback(lambda size: sizes.append(int(size)), len(inputs))
    return toys.predict_tanh(params, inputs)

  counted = Problem(**{**vars(problem), "predict_fn": predict_fn})
  kept = jnp.ones((3, problem.num_features), bool)
  features = jnp.tile(jnp.arange(9, dtype=jnp.int32)[None], (3, 1))
  needed = jnp.array(num_needed, jnp.int32)
  jax.block_until_ready(trials.score_flips(counted, kept, features, chunk_size=chunk_size, num_needed=needed))
  jax.effects_barrier()
  assert sizes == [chunk_size] * expected
