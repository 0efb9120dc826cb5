"""What each completion draws, and what it refuses."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

import jax_sis
from jax_sis import completions
from jax_sis.core.completion_checks import check_completion, check_keys
from jax_sis.core.drawing import Purpose, draw_fills, hash_mask
from jax_sis.core.features import Grid

GRID = (4, 3, 1)


def images_of(seed: int, count: int, shape: tuple[int, ...] = (4, 3, 2)) -> Any:
  return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def draw_many(completion: Any, image: Any, count: int, *, grid: tuple[int, ...] = GRID) -> np.ndarray:
  _, distribution = check_completion(completion, 0.0, jnp.asarray(image)[None], Grid(grid))
  assert distribution is not None
  keys = jax.random.split(jax.random.key(7), count)
  return np.asarray(jax.vmap(lambda key: distribution.draw(key, jnp.asarray(image), Grid(grid)))(keys))


def test_images_are_drawn_evenly_from_all_others():
  pool = images_of(0, 6)
  draws = draw_many(completions.Images(pool, num_draws=4), pool[2], 6000)
  is_drawn = (draws[:, None] == pool[None]).all((2, 3, 4))
  assert (is_drawn.sum(1) == 1).all()
  counts = is_drawn.sum(0)
  assert counts[2] == 0
  # Each of five others: 1,200, with a standard deviation of 31.
  assert (np.abs(np.delete(counts, 2) - 1200) < 130).all()


def test_noise_is_normal_around_its_mean():
  draws = draw_many(completions.Noise(0.5, 2.0), images_of(0, 1)[0], 4000)
  assert draws.mean() == pytest.approx(2, abs=0.01)
  assert draws.std() == pytest.approx(0.5, abs=0.01)
  assert abs(np.corrcoef(draws[:, 0, 0, 0], draws[:, 0, 0, 1])[0, 1]) < 0.06


def test_a_blur_is_a_gaussian_sum_over_the_image():
  image = images_of(0, 1, (5, 4, 2))[0]
  baseline, distribution = check_completion(completions.Blur(1.5), 0.0, jnp.asarray(image)[None], Grid((5, 4, 1)))
  assert distribution is None
  expected = np.zeros_like(image)
  for row in range(5):
    for column in range(4):
      weights = [[np.exp(-((row - i) ** 2 + (column - j) ** 2) / (2 * 1.5**2)) for j in range(4)] for i in range(5)]
      expected[row, column] = np.einsum("ij,ijc->c", np.array(weights), image) / np.sum(weights)
  np.testing.assert_allclose(baseline[0], expected, rtol=1e-5)


def test_a_blur_of_two_sigmas_lies_between_them():
  image = images_of(0, 1, (8, 8, 1))[0]
  draws = draw_many(completions.Blur((0.5, 4.0)), image, 64, grid=(8, 8, 1))
  spread = draws.std((1, 2, 3))
  sharp, soft = (np.asarray(completions.blur(jnp.asarray(image), jnp.asarray(s))).std() for s in (0.5, 4.0))
  assert soft <= spread.min() < spread.max() <= sharp


def test_the_mean_of_the_image_itself_is_a_baseline_of_its_own():
  images = images_of(0, 3)
  baseline, distribution = check_completion(completions.OwnMean(), 0.0, jnp.asarray(images), Grid(GRID))
  assert distribution is None
  np.testing.assert_allclose(baseline, images.mean((1, 2), keepdims=True), rtol=1e-5)


def test_whole_features_are_revealed_as_often_as_asked_for():
  image = images_of(0, 1)[0]
  draws = draw_many(completions.Reveal(0.3, completions.Constant(9.0)), image, 3000)
  is_true, is_other = draws == image, draws == 9.0
  assert (is_true ^ is_other).all()
  assert (is_true.all(-1) == is_true.any(-1)).all()
  assert is_true.mean() == pytest.approx(0.3, abs=0.01)


def test_a_mixture_draws_its_parts_by_their_weights():
  image = images_of(0, 1)[0]
  parts = (completions.Constant(1.0), completions.Constant(2.0))
  draws = draw_many(completions.Mixture(parts, (3.0, 1.0)), image, 4000)
  assert (draws == draws[:, :1, :1, :1]).all()
  assert (draws[:, 0, 0, 0] == 1).mean() == pytest.approx(0.75, abs=0.03)


def test_draws_belong_to_key_mask_number_and_purpose_and_to_nothing_else():
  inputs, noise = jnp.asarray(images_of(0, 3)), completions.Noise()
  keys = jax.random.split(jax.random.key(0), 3)
  masks = jnp.asarray(np.random.default_rng(0).random((3, 12)) < 0.5)
  numbers = jnp.arange(4)

  def draw(places: list[int], masks: Any = masks, purpose: Purpose = Purpose.SEARCH, numbers: Any = numbers) -> Any:
    chosen = np.array(places)
    return np.asarray(
      draw_fills(noise, keys[chosen], inputs[chosen], masks[chosen], numbers, features=Grid(GRID), purpose=purpose)
    )

  whole = draw([0, 1, 2])
  np.testing.assert_array_equal(draw([2, 0]), whole[[2, 0]])
  np.testing.assert_array_equal(draw([1], numbers=numbers[2:]), whole[[1], 2:])
  others = draw([0, 1, 2], purpose=Purpose.TEST), draw([0, 1, 2], masks=masks.at[:, 5].set(~masks[:, 5]))
  flat = np.concatenate([part.reshape(12, -1) for part in (whole, *others)])
  assert len(np.unique(flat, axis=0)) == 36


def test_masks_have_hashes_of_their_own():
  masks = np.array([[number >> place & 1 for place in range(12)] for number in range(4096)])
  hashes = np.asarray(jax.vmap(hash_mask)(jnp.asarray(masks)))
  assert len(np.unique(hashes)) == 4096


POOL = images_of(3, 40)
REFUSED = [
  (
    completions.Images(images_of(0, 40, (4, 3, 3))),
    "Images.pool must hold normalised images like the inputs, [P, 4",
  ),
  (completions.Images((POOL * 50).astype(np.uint8)), "and floating point, got uint8[40, 4, 3, 2]."),
  (completions.Images(POOL, num_draws=41), "at least as many images as there are draws, 41, got 40; give more images"),
  (completions.Images(), "Images.pool must be given"),
  (completions.Noise(0.0), "completion Noise must vary, but all draws are the same: this is a constant; use Constant("),
  (completions.Noise(np.nan), "completion Noise must draw finite numbers, got NaN or infinite ones."),
  (lambda key, image: image[:2], "completion Drawn must draw images of shape (4, 3, 2), as the inputs, got (2, 3, 2)."),
  (lambda key: key, "completion Drawn must draw, but raised TypeError: "),
  (completions.Mixture(()), "Mixture.parts must hold at least one completion, got none."),
  (completions.Mixture((completions.Images(POOL[:, :2]),)), "Images.pool must hold normalised images like"),
  (
    completions.Reveal(0.1, "grey"),
    "Reveal.other must be Constant, OwnMean, Blur, Images, Noise, Reveal",
  ),
  ("images", "completion must be Constant, OwnMean, Blur, Images, Noise, Reveal, Mixture, or a function"),
  (completions.Images, "completion must be Constant, OwnMean, Blur, Images, Noise, Reveal, Mixture, or a function"),
]


@pytest.mark.parametrize(("completion", "message"), REFUSED)
def test_what_is_no_completion_of_these_inputs_is_refused(completion: Any, message: str):
  images, _ = toys.images_and_params(0)
  with pytest.raises(ValueError, match=re.escape(message)):
    check_completion(completion, 0.0, images, Grid(GRID))


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: completions.Noise(num_draws=0), "Noise.num_draws must be an integer of at least 1, got 0."),
    (
      lambda: completions.Noise(aggregate=1.0),
      "a quantile strictly between 0 and 1, got 1.0.",
    ),
    (lambda: completions.Noise(num_tried=33), "Noise.num_tried must be at most num_draws, 32, got 33."),
    (lambda: completions.Blur((4.0, 1.0)), "Blur.sigma must be positive, or two of which the second is larger"),
    (lambda: completions.Reveal(1.5), "Reveal.probability must lie in 0..1"),
    (lambda: completions.Mixture((completions.Constant(),), (1.0, 2.0)), "Mixture.weights must be one positive number"),
  ],
)
def test_settings_out_of_range_are_refused(make: Any, message: str):
  with pytest.raises(ValueError, match=re.escape(message)):
    make()


def test_a_baseline_beside_a_completion_and_keys_of_another_kind_are_refused():
  images, params = toys.images_and_params(0)
  with pytest.raises(ValueError, match="baseline and completion must not both be given"):
    jax_sis.backselect(toys.predict_tanh, params, images, baseline=0.5, completion=completions.Noise())
  for keys in (jax.random.PRNGKey(0), jax.random.split(jax.random.key(0), 4)):
    with pytest.raises(ValueError, match="keys must be one typed key for each of the 3 inputs"):
      check_keys(keys, 3)


def test_a_constant_is_the_same_program_as_its_baseline():
  images, params = toys.images_and_params(0)

  def lower(**arguments: Any) -> str:
    search = jax_sis.Gradient(per_step=5)
    return (
      jax.jit(lambda params, images: jax_sis.backselect(toys.predict_tanh, params, images, search=search, **arguments))
      .lower(params, images)
      .as_text()
    )

  assert lower(completion=completions.Constant(0.5)) == lower(baseline=0.5)


def test_settings_are_static_and_pools_are_arrays():
  leaves, structure = jax.tree.flatten(completions.Images(POOL, num_draws=8))
  assert len(leaves) == 1
  changed = dataclasses.replace(completions.Images(POOL), num_draws=9)
  assert structure != jax.tree.structure(changed)
