"""The parts of a training step, each against what it says it does."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jax_sis import classifiers
from jax_sis.classifiers import frozen, resnet
from jax_sis.data import normalisation
from jax_sis.data.normalisation import Normalisation
from jax_sis.results.query import PixelSubset
from jax_sis.runtime import device_program, devices
from jax_sis.training import train_step
from jax_sis.training.config import (
  Augmentation,
  CosineSchedule,
  Pgd,
  Schedule,
  Stage,
  StepSchedule,
  TrainConfig,
  TriangularSchedule,
)

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")

NORMALISATION = Normalisation(mean=(0.5, 0.4, 0.3), std=(0.25, 0.5, 1.0))
TINY = TrainConfig(
  model="resnet20",
  dataset="none",
  stages=(Stage(epochs=1, resolution=8),),
  batch_size=8,
  schedule=StepSchedule(initial=0.1, milestones=()),
  augmentation=Augmentation(crop_padding=0, flip="none"),
)
ALTERNATING = Augmentation(crop_padding=0, flip="alternating")


def augment(
  images: np.ndarray, indices: list[int], epoch: int, augmentation: Augmentation, seed: int = 0
) -> np.ndarray:
  return np.asarray(
    train_step.augment(jnp.asarray(images), jnp.array(indices), jnp.int32(epoch), seed=seed, augmentation=augmentation)
  )


def test_alternating_flips_show_both_sides_in_two_epochs():
  images = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3), np.uint8)
  indices = list(range(32))
  first, second, third = (augment(images, indices, epoch, ALTERNATING) for epoch in range(3))
  flipped = [bool((first[i] == images[i, :, ::-1]).all()) for i in indices]
  assert 4 < sum(flipped) < 28
  for i in indices:
    np.testing.assert_array_equal(first[i], images[i, :, ::-1] if flipped[i] else images[i])
  np.testing.assert_array_equal(second, first[:, :, ::-1])
  np.testing.assert_array_equal(third, first)


def test_random_flips_come_half_of_the_time_and_change_between_epochs():
  images = np.random.default_rng(0).integers(0, 256, (400, 4, 4, 3), np.uint8)
  random = Augmentation(crop_padding=0, flip="random")
  flipped = np.array(
    [
      [bool((shown[i] == images[i, :, ::-1]).all()) for i in range(400)]
      for shown in (augment(images, list(range(400)), epoch, random) for epoch in range(2))
    ]
  )
  # Five standard deviations of a fair coin.
  assert abs(flipped.mean(1) - 0.5).max() < 0.125
  assert abs((flipped[0] == flipped[1]).mean() - 0.5) < 0.125
  none = Augmentation(crop_padding=0, flip="none")
  np.testing.assert_array_equal(augment(images, list(range(400)), 0, none), images)


@pytest.mark.parametrize(("border", "copies"), [("reflect", 2), ("zero", 1)])
def test_shifts_reach_from_end_to_end_and_show_the_border_asked_for(border: Any, copies: int):
  augmentation = Augmentation(crop_padding=3, border=border, flip="alternating")
  # Far enough from the border not to be mirrored.
  image = np.zeros((1, 16, 16, 3), np.uint8)
  image[0, 8, 8] = 255
  shifted = augment(np.repeat(image, 400, axis=0), list(range(400)), 0, augmentation)[..., 0]
  rows, columns = np.nonzero(shifted == 255)[1:]
  assert len(rows) == 400
  assert set(rows - 8) == set(range(-3, 4))
  # Unflipped around 8, flipped around 7.
  assert set(columns) == set(range(4, 12))
  corner = np.zeros((1, 16, 16, 3), np.uint8)
  corner[0, 1, 8] = 255
  assert max((augment(corner, [index], 0, augmentation) == 255).sum() for index in range(40)) == copies * 3


def test_augmentation_does_not_depend_on_the_batch():
  images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
  together = augment(images, [5, 6, 7, 8], 3, Augmentation())
  np.testing.assert_array_equal(augment(images[2:3], [7], 3, Augmentation())[0], together[2])
  assert (augment(images, [5, 6, 7, 8], 4, Augmentation()) != together).any()
  assert (augment(images, [5, 6, 7, 8], 3, Augmentation(), seed=1) != together).any()


def draw_kept(shape: tuple[int, ...], share: float) -> np.ndarray:
  return np.random.default_rng(9).random((*shape, 1)) < share


def find_sources(shape: tuple[int, int, int], epoch: int, augmentation: Augmentation) -> np.ndarray:
  """The row and the column that each augmented pixel came from, counted from 1; 0 beyond the border."""
  num_images, height, width = shape
  coordinates = np.zeros((*shape, 3), np.uint8)
  coordinates[..., 0], coordinates[..., 1] = np.mgrid[1 : height + 1, 1 : width + 1]
  framed = dataclasses.replace(augmentation, border="zero")
  return augment(coordinates, list(range(num_images)), epoch, framed, seed=5)[..., :2]


@pytest.mark.parametrize("flip", ["random", "alternating", "none"])
@pytest.mark.parametrize("border", ["reflect", "zero"])
@pytest.mark.parametrize("crop_padding", [0, 3])
def test_masks_move_with_their_images_and_the_rest_shows_the_fill(flip: Any, border: Any, crop_padding: int):
  augmentation = Augmentation(crop_padding=crop_padding, border=border, flip=flip)
  config = dataclasses.replace(
    TINY, augmentation=augmentation, subset=PixelSubset(random_seed=0, fraction=0.5, fill=0.25), seed=5
  )
  images = np.random.default_rng(8).integers(0, 256, (6, 12, 10, 3), np.uint8)
  kept = draw_kept((6, 12, 10), 0.4)
  inputs, moved = train_step.make_inputs(
    jnp.asarray(images), jnp.asarray(kept), jnp.arange(6), jnp.int32(1), config=config, normalisation=NORMALISATION
  )
  masked = np.where(kept, NORMALISATION.apply(images), np.float32(0.25))
  sources = find_sources((6, 12, 10), 1, augmentation)
  num_beyond = 0
  for image, row, column in np.ndindex(6, 12, 10):
    source_row, source_column = sources[image, row, column].astype(int) - 1
    num_beyond += source_row < 0
    is_kept = source_row >= 0 and kept[image, source_row, source_column, 0]
    expected = masked[image, source_row, source_column] if source_row >= 0 else np.full(3, 0.25)
    np.testing.assert_allclose(inputs[image, row, column], expected, rtol=1e-6, atol=1e-6)
    assert np.asarray(moved)[image, row, column, 0] == is_kept
    if not is_kept:
      np.testing.assert_array_equal(inputs[image, row, column], np.full(3, 0.25, np.float32))
  assert (num_beyond > 0) == (crop_padding > 0)


@functools.cache
def make_step(config: TrainConfig) -> tuple[Any, train_step.TrainState]:
  """The step on two devices of a tiny network, and the state before it."""
  module = resnet.ResNet(resnet.ResNetConfig(blocks=(1,), widths=(4,), num_classes=3), rngs=nnx.Rngs(0))
  graphdef, params, stats = nnx.split(module, nnx.Param, nnx.BatchStat)
  optimizer = train_step.make_optimizer(config, 10)
  step_fn = train_step.make_train_step(
    config, graphdef, optimizer, normalisation.CIFAR_NORMALISATION, devices.local_devices(2)
  )
  return step_fn, device_program.stack_replicas(train_step.TrainState(params, stats, optimizer.init(params)), 2)


def take_step(config: TrainConfig, images: np.ndarray, kept: np.ndarray | None) -> list[np.ndarray]:
  """The parameters after one step."""
  step_fn, state = make_step(config)
  labels, indices = np.arange(8, dtype=np.int32) % 3, np.arange(8, dtype=np.int32)
  images, labels, indices, kept = device_program.shard((images, labels, indices, kept), 2)
  state, _ = step_fn(state, images, labels, indices, np.int32(0), np.int32(0), 8, kept)
  return jax.tree.leaves(device_program.first_replica((state.params, state.batch_stats)))


def differ(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
  return any((left != right).any() for left, right in zip(first, second, strict=True))


ATTACKED = {"adversarial": Pgd(radius=0.3, num_steps=3, step_size=0.1)}
ALL_AT_ONCE = {
  **ATTACKED,
  "keep_pixels": 0.5,
  "augmentation": Augmentation(crop_padding=2, border="reflect", flip="random"),
}


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, ALL_AT_ONCE])
def test_a_step_knows_nothing_of_the_pixels_that_are_not_shown(changes: dict[str, Any]):
  config = dataclasses.replace(TINY, subset=PixelSubset(random_seed=0, fraction=0.5, fill=0.7), **changes)
  images = np.random.default_rng(6).integers(0, 256, (8, 8, 8, 3), np.uint8)
  kept = draw_kept((8, 8, 8), 0.3)
  others = np.where(kept, images, 255 - images)
  expected = take_step(config, images, kept)
  assert not differ(take_step(config, others, kept), expected)
  assert differ(take_step(config, np.where(kept, 255 - images, images), kept), expected)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [ATTACKED, {"keep_pixels": 0.5}])
def test_attacks_and_dropout_concern_the_shown_pixels_only(changes: dict[str, Any]):
  plain = dataclasses.replace(TINY, subset=PixelSubset(random_seed=0, fraction=0.5, fill=0.7))
  changed = dataclasses.replace(plain, **changes)
  images = np.random.default_rng(6).integers(0, 256, (8, 8, 8, 3), np.uint8)
  nothing, everything = np.zeros((8, 8, 8, 1), bool), np.ones((8, 8, 8, 1), bool)
  for left, right in zip(take_step(changed, images, nothing), take_step(plain, images, nothing), strict=True):
    np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)
  assert differ(take_step(changed, images, everything), take_step(plain, images, everything))


def test_a_dropped_pixel_shows_the_fill():
  inputs = jnp.asarray(np.random.default_rng(1).normal(size=(4, 8, 8, 3)), jnp.float32)
  options = {"seed": 0, "keep_pixels": 0.5}
  filled = np.asarray(train_step.drop_pixels(inputs, jnp.arange(4), jnp.int32(0), fill=0.7, **options))
  zeroed = np.asarray(train_step.drop_pixels(inputs, jnp.arange(4), jnp.int32(0), **options))
  np.testing.assert_array_equal(filled, np.where(zeroed == 0, np.float32(0.7), inputs))


def test_dropped_pixels_lose_all_channels_and_are_not_made_up_for():
  inputs = jnp.asarray(np.random.default_rng(1).normal(size=(16, 32, 32, 3)), jnp.float32)
  indices = jnp.arange(16)

  def drop(epoch: int, part: slice = slice(None)) -> np.ndarray:
    return np.asarray(train_step.drop_pixels(inputs[part], indices[part], jnp.int32(epoch), seed=0, keep_pixels=0.8))

  dropped = drop(0)
  kept = (dropped != 0).all(-1)
  np.testing.assert_array_equal(kept, (dropped != 0).any(-1))
  np.testing.assert_array_equal(dropped[kept], np.asarray(inputs)[kept])
  # Five standard deviations of 16,384 draws.
  assert abs(kept.mean() - 0.8) < 0.016
  np.testing.assert_array_equal(drop(0, slice(3, 5)), dropped[3:5])
  assert (drop(1) != dropped).any()


def test_an_attack_on_a_linear_loss_reaches_the_corner_of_the_radius():
  weights = jnp.asarray(np.random.default_rng(2).normal(size=(4, 4, 3)), jnp.float32)
  images = np.random.default_rng(3).integers(60, 200, (2, 4, 4, 3), np.uint8)
  inputs = jnp.asarray(NORMALISATION.apply(images))
  adversarial = train_step.attack(
    lambda moved: (moved * weights).sum(),
    inputs,
    jax.random.key(0),
    pgd=Pgd(radius=8 / 255, num_steps=8, step_size=2 / 255),
    normalisation=NORMALISATION,
  )
  moved = (NORMALISATION.invert(np.asarray(adversarial)) - images) / 255
  np.testing.assert_allclose(moved, np.broadcast_to(8 / 255 * np.sign(weights), moved.shape), atol=1e-5)


@pytest.mark.slow
def test_an_attack_stays_within_the_radius_and_the_range_of_pixels_and_raises_the_loss():
  module = classifiers.build("resnet20", num_classes=10)
  module.eval()
  predict_fn, params = frozen.freeze(module)
  images = np.random.default_rng(4).integers(0, 256, (4, 32, 32, 3), np.uint8)
  images[0], images[1] = 0, 255
  labels = jnp.arange(4)
  inputs = jnp.asarray(NORMALISATION.apply(images))

  def loss_fn(moved: Any) -> Any:
    return train_step.smooth_cross_entropy(predict_fn(params, moved), labels, label_smoothing=0.0)

  def run(inputs: Any, key: Any) -> Any:
    return train_step.attack(loss_fn, inputs, key, pgd=Pgd(), normalisation=NORMALISATION)

  adversarial = jax.jit(run)(inputs, jax.random.key(0))
  pixels = NORMALISATION.invert(np.asarray(adversarial)) / 255
  assert pixels.min() > -1e-5
  assert pixels.max() < 1 + 1e-5
  distance = np.abs(pixels - images / 255)
  assert 7.9 / 255 < distance.max() < 8 / 255 + 1e-5
  assert loss_fn(adversarial) > loss_fn(inputs) + 0.01


def test_labels_are_smoothed_over_all_classes():
  logits = np.random.default_rng(5).normal(size=(6, 4))
  labels = np.array([0, 1, 2, 3, 0, 1])
  targets = 0.9 * np.eye(4)[labels] + 0.1 / 4
  log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  expected = -(targets * log_probabilities).sum(1).mean()
  actual = train_step.smooth_cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(labels), label_smoothing=0.1)
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize(
  ("schedule", "rates"),
  [
    (StepSchedule(initial=0.1, milestones=(2, 5), factor=0.2), {0: 0.1, 19: 0.1, 20: 0.02, 49: 0.02, 50: 0.004}),
    (TriangularSchedule(peak=0.4, warmup_epochs=2), {0: 0.0, 10: 0.2, 20: 0.4, 60: 0.2, 99: 0.005}),
    (CosineSchedule(peak=0.4, warmup_epochs=2), {0: 0.0, 20: 0.4, 60: 0.2, 40: 0.2 * (1 + 0.5**0.5)}),
    (CosineSchedule(peak=0.4), {0: 0.4, 50: 0.2}),
  ],
)
def test_learning_rates_follow_their_schedule(schedule: Schedule, rates: dict[int, float]):
  rate_fn = train_step.make_schedule(schedule, steps_per_epoch=10, num_epochs=10)
  for step, rate in rates.items():
    np.testing.assert_allclose(rate_fn(step), rate, rtol=1e-5, atol=1e-7)


def test_adamw_moves_each_number_by_the_rate_and_decays_it_apart_from_its_gradient():
  config = dataclasses.replace(TINY, optimizer="adamw", momentum=0.8, weight_decay=0.5)
  optimizer = train_step.make_optimizer(config, 10)
  weight: Any = jnp.array([2.0, 2.0])
  grads: Any = jnp.array([1e-3, -4.0])
  first: Any
  second: Any
  # Optax counts steps in whole numbers.
  with jax.numpy_dtype_promotion("standard"):
    first, state = optimizer.update(grads, optimizer.init(weight), weight)
    second, _ = optimizer.update(0 * grads, state, weight)
  # The first step has the mean gradient and its size from one gradient alone.
  np.testing.assert_allclose(first, -0.1 * (np.sign(grads) + 0.5 * weight), rtol=0, atol=1e-5)
  left = (0.8 * 0.2 / (1 - 0.8**2)) / np.sqrt(0.999 * 0.001 / (1 - 0.999**2))
  np.testing.assert_allclose(second, -0.1 * (left * np.sign(grads) + 0.5 * weight), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_step_is_sgd_with_nesterov_momentum_and_weight_decay_on_the_mean_gradient():
  config = TrainConfig(
    model="resnet20",
    dataset="none",
    stages=(Stage(epochs=1, resolution=8),),
    batch_size=8,
    schedule=StepSchedule(initial=0.1, milestones=()),
    momentum=0.9,
    weight_decay=0.01,
    augmentation=Augmentation(crop_padding=0, flip="none"),
  )
  module = resnet.ResNet(resnet.ResNetConfig(blocks=(1,), widths=(4,), num_classes=3), rngs=nnx.Rngs(0))
  graphdef, params, stats = nnx.split(module, nnx.Param, nnx.BatchStat)
  optimizer = train_step.make_optimizer(config, 10)
  images = np.random.default_rng(6).integers(0, 256, (8, 8, 8, 3), np.uint8)
  labels = np.arange(8, dtype=np.int32) % 3
  local_devices = devices.local_devices(2)
  step_fn = train_step.make_train_step(config, graphdef, optimizer, normalisation.CIFAR_NORMALISATION, local_devices)
  state = device_program.stack_replicas(train_step.TrainState(params, stats, optimizer.init(params)), 2)
  batch = device_program.shard((images, labels, np.arange(8, dtype=np.int32)), 2)
  losses = []
  for step in range(2):
    state, metrics = step_fn(state, *batch, np.int32(0), np.int32(step), 8, None)
    losses.append(float(metrics.loss[0]))

  # The same by hand: each device has batch statistics of its own half.
  def loss_fn(params: Any, half: slice) -> Any:
    model = nnx.merge(graphdef, params, stats, copy=True)
    model.train()
    logits = model(jnp.asarray(normalisation.CIFAR_NORMALISATION.apply(images[half])))
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(labels[half])[:, None], 1).mean()

  velocity = jax.tree.map(jnp.zeros_like, params)
  for step in range(2):
    halves = [jax.value_and_grad(loss_fn)(params, half) for half in (slice(0, 4), slice(4, 8))]
    np.testing.assert_allclose(losses[step], (halves[0][0] + halves[1][0]) / 2, rtol=1e-5)
    gradient = jax.tree.map(lambda p, a, b: (a + b) / 2 + 0.01 * p, params, halves[0][1], halves[1][1])
    velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, gradient)
    params = jax.tree.map(lambda p, v, g: p - 0.1 * (g + 0.9 * v), params, velocity, gradient)
  for actual, expected in zip(
    jax.tree.leaves(device_program.first_replica(state.params)), jax.tree.leaves(params), strict=True
  ):
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
