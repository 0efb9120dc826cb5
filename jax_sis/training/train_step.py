"""One step of training: augmentation, input dropout, adversarial examples, the update; and of evaluation."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8

from jax_sis.data.normalisation import Normalisation
from jax_sis.runtime.device_program import DEVICE_AXIS, map_devices
from jax_sis.runtime.devices import Device
from jax_sis.training.config import Augmentation, CosineSchedule, Pgd, Schedule, StepSchedule, TrainConfig

# What each use of randomness folds into the run's key, so that no two uses share random numbers.
CROPS, DROPOUT, ATTACK = 1, 2, 3


class TrainState(NamedTuple):
  """Everything that a step changes."""

  params: Any
  batch_stats: Any
  opt_state: Any


class StepMetrics(NamedTuple):
  """Metrics of a step over all devices: mean loss (nats), number of correct images, and the gradient's norm."""

  loss: Float[Array, ""]
  num_correct: Int[Array, ""]
  gradient_norm: Float[Array, ""]


def make_schedule(schedule: Schedule, *, steps_per_epoch: int, num_epochs: int) -> optax.Schedule:
  """The learning rate by step."""
  if isinstance(schedule, StepSchedule):
    boundaries = {milestone * steps_per_epoch: schedule.factor for milestone in schedule.milestones}
    return optax.piecewise_constant_schedule(schedule.initial, boundaries)
  num_warmup = round(schedule.warmup_epochs * steps_per_epoch)
  num_decay = max(1, num_epochs * steps_per_epoch - num_warmup)
  if isinstance(schedule, CosineSchedule):
    decay = optax.cosine_decay_schedule(schedule.peak, num_decay)
  else:
    decay = optax.linear_schedule(schedule.peak, 0.0, num_decay)
  return optax.join_schedules([optax.linear_schedule(0.0, schedule.peak, num_warmup), decay], [num_warmup])


def make_optimizer(config: TrainConfig, steps_per_epoch: int) -> optax.GradientTransformation:
  """What turns gradients into updates."""
  schedule = make_schedule(config.schedule, steps_per_epoch=steps_per_epoch, num_epochs=config.num_epochs)
  if config.optimizer == "adamw":
    return optax.adamw(schedule, b1=config.momentum, weight_decay=config.weight_decay)
  return optax.chain(
    optax.add_decayed_weights(config.weight_decay),
    optax.sgd(schedule, momentum=config.momentum, nesterov=True),
  )


def augment(
  images: Shaped[Array, "B H W C"],
  indices: Int[Array, "B"],
  epoch: Int[Array, ""],
  *,
  seed: int,
  augmentation: Augmentation,
) -> Shaped[Array, "B H W C"]:
  """Shifts each image by up to `crop_padding` pixels and flips it.

  The draw for an image depends on the seed, the epoch and its index alone, not on its batch or its content: a mask
  moves exactly as its image does.
  """
  padding = augmentation.crop_padding

  def augment_one(image: Array, index: Array) -> Array:
    image_key = jax.random.fold_in(jax.random.key(seed), index)
    epoch_key = jax.random.fold_in(jax.random.fold_in(image_key, CROPS), epoch)
    shift_key, flip_key = jax.random.split(epoch_key)
    if padding:
      mode = "constant" if augmentation.border == "zero" else "reflect"
      rows, columns = jax.random.randint(shift_key, (2,), 0, 2 * padding + 1)
      padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode=mode)
      image = jax.lax.dynamic_slice(padded, (rows, columns, 0), image.shape)
    if augmentation.flip == "none":
      return image
    if augmentation.flip == "random":
      flipped = jax.random.bernoulli(flip_key)
    else:
      first_flip = jax.random.bernoulli(image_key).astype(jnp.int32)
      flipped = (epoch + first_flip) % 2 == 1
    return jnp.where(flipped, image[:, ::-1], image)

  return jax.vmap(augment_one)(images, indices)


def drop_pixels(
  inputs: Float[Array, "B H W C"],
  indices: Int[Array, "B"],
  epoch: Int[Array, ""],
  *,
  seed: int,
  keep_pixels: float,
  fill: float = 0.0,
) -> Float[Array, "B H W C"]:
  """Input dropout: each pixel is kept with this probability, all channels together; others show the fill.

  Kept pixels are not scaled up, so that the result looks like a search's masked image. The draw for an image depends on
  the seed, the epoch and its index alone.
  """

  def kept(index: Array) -> Array:
    key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), index), DROPOUT), epoch)
    return jax.random.bernoulli(key, keep_pixels, (*inputs.shape[1:3], 1))

  return jnp.where(jax.vmap(kept)(indices), inputs, fill)


def show_pixels(
  inputs: Float[Array, "B H W C"], kept: Bool[Array, "B H W 1"] | None, fill: float
) -> Float[Array, "B H W C"]:
  """The inputs where pixels are kept, the fill elsewhere; None keeps all."""
  return inputs if kept is None else jnp.where(kept, inputs, fill)


def make_inputs(
  images: UInt8[Array, "B H W 3"],
  kept: Bool[Array, "B H W 1"] | None,
  indices: Int[Array, "B"],
  epoch: Int[Array, ""],
  *,
  config: TrainConfig,
  normalisation: Normalisation,
) -> tuple[Float[Array, "B H W 3"], Bool[Array, "B H W 1"] | None]:
  """Augmented, normalised images, and which of their pixels are shown; the others show the subset's fill.

  The fill is set in normalised units, since the mean colour is not an 8-bit pixel.
  """
  images = augment(images, indices, epoch, seed=config.seed, augmentation=config.augmentation)
  inputs = normalisation.apply(images)
  if kept is None:
    return inputs, None
  # Pixels that move in from beyond the border are hidden.
  framed = dataclasses.replace(config.augmentation, border="zero")
  kept = augment(kept, indices, epoch, seed=config.seed, augmentation=framed)
  return show_pixels(inputs, kept, config.fill), kept


def attack(
  loss_fn: Callable[[Array], Float[Array, ""]],
  inputs: Float[Array, "B H W C"],
  key: Array,
  *,
  pgd: Pgd,
  normalisation: Normalisation,
) -> Float[Array, "B H W C"]:
  """Adversarial examples by projected gradient descent (Madry et al. 2018, section 2.1).

  Each step moves every channel of every pixel by `step_size` so that the loss rises, then back into the radius around
  the image and into 0..1. Radius and step are in pixels of 0..1, so in normalised units they differ between channels.

  Args:
    loss_fn: normalised inputs -> their mean loss.
    inputs: normalised images.
    key: of the random start.
    pgd: radius, steps and step size.
    normalisation: how the inputs were made.
  """
  std = jnp.asarray(normalisation.std, inputs.dtype)
  black, white = ((value - jnp.asarray(normalisation.mean, inputs.dtype)) / std for value in (0.0, 1.0))
  radius, step_size = pgd.radius / std, pgd.step_size / std
  lowest = jnp.maximum(inputs - radius, black)
  highest = jnp.minimum(inputs + radius, white)
  start = inputs + radius * jax.random.uniform(key, inputs.shape, inputs.dtype, -1.0, 1.0)

  def step(_: Array, adversarial: Array) -> Array:
    gradient = jax.grad(loss_fn)(adversarial)
    return jnp.clip(adversarial + step_size * jnp.sign(gradient), lowest, highest)

  return jax.lax.fori_loop(0, pgd.num_steps, step, jnp.clip(start, lowest, highest))


def smooth_cross_entropy(
  logits: Float[Array, "B K"], labels: Int[Array, "B"], *, label_smoothing: float
) -> Float[Array, ""]:
  """The mean cross-entropy, in nats, with labels of which `label_smoothing` is spread evenly over all classes."""
  targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[1]), label_smoothing)
  return optax.softmax_cross_entropy(logits, targets).mean()


class StepSetup(NamedTuple):
  """What all steps of a run share.

  Attributes:
    config: the recipe.
    graphdef: the module without its arrays.
    normalisation: how inputs are made.
  """

  config: TrainConfig
  graphdef: Any
  normalisation: Normalisation


def make_train_step(
  config: TrainConfig,
  graphdef: Any,
  optimizer: optax.GradientTransformation,
  normalisation: Normalisation,
  local_devices: list[Device],
) -> Callable[..., tuple[TrainState, StepMetrics]]:
  """The step on all devices: `(state, images, labels, indices, epoch, step, resolution, kept) -> (state, metrics)`.

  Batches have a leading device axis; epoch and step count from 0, and the resolution is a Python number of pixels.
  `kept` says which pixels are shown; None shows all.
  """
  return map_devices(
    functools.partial(train_step, StepSetup(config, graphdef, normalisation), optimizer),
    local_devices,
    in_axes=(0, 0, 0, 0, None, None, None, 0),
    static_argnums=(6,),
    donate_argnums=(0,),
  )


def train_step(
  setup: StepSetup,
  optimizer: optax.GradientTransformation,
  state: TrainState,
  images: Array,
  labels: Array,
  indices: Array,
  epoch: Array,
  step: Array,
  resolution: int,
  kept: Array | None,
) -> tuple[TrainState, StepMetrics]:
  """What one device does in a step."""
  config = setup.config
  inputs, kept = make_inputs(images, kept, indices, epoch, config=config, normalisation=setup.normalisation)
  if resolution != inputs.shape[1]:
    inputs = jax.image.resize(inputs, (len(inputs), resolution, resolution, 3), "linear", antialias=True)
  if config.adversarial is not None:
    inputs = attack_inputs(setup, config.adversarial, state, inputs, labels, step, kept)
  if config.keep_pixels < 1:
    inputs = drop_pixels(inputs, indices, epoch, seed=config.seed, keep_pixels=config.keep_pixels, fill=config.fill)
  (loss, (batch_stats, num_correct)), grads = jax.value_and_grad(training_loss, argnums=1, has_aux=True)(
    setup, state.params, state.batch_stats, inputs, labels
  )
  grads, batch_stats, loss = jax.lax.pmean((grads, batch_stats, loss), DEVICE_AXIS)
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  metrics = StepMetrics(loss, jax.lax.psum(num_correct, DEVICE_AXIS), optax.tree.norm(grads))
  return TrainState(params, batch_stats, opt_state), metrics


def training_loss(
  setup: StepSetup, params: Any, batch_stats: Any, inputs: Array, labels: Array
) -> tuple[Array, tuple[Any, Array]]:
  """The loss in training mode, and with it the new batch statistics and how many images are right."""
  model = nnx.merge(setup.graphdef, params, batch_stats, copy=True)
  model.train()
  logits = model(inputs)
  loss = smooth_cross_entropy(logits, labels, label_smoothing=setup.config.label_smoothing)
  return loss, (nnx.state(model, nnx.BatchStat), (logits.argmax(-1) == labels).sum())


def attack_inputs(
  setup: StepSetup, pgd: Pgd, state: TrainState, inputs: Array, labels: Array, step: Array, kept: Array | None
) -> Array:
  """Adversarial examples for the classifier as it is, of the pixels that are shown."""
  config = setup.config
  key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), ATTACK), step)

  def loss_fn(moved: Array) -> Array:
    shown = show_pixels(moved, kept, config.fill)
    return training_loss(setup, state.params, state.batch_stats, shown, labels)[0]

  key = jax.random.fold_in(key, jax.lax.axis_index(DEVICE_AXIS))
  return show_pixels(attack(loss_fn, inputs, key, pgd=pgd, normalisation=setup.normalisation), kept, config.fill)


def make_evaluate_step(
  config: TrainConfig, graphdef: Any, normalisation: Normalisation, local_devices: list[Device]
) -> Callable[..., tuple[Array, Array]]:
  """On all devices, `(state, images, labels, valid, kept) -> (images right, summed loss in nats)`."""
  return map_devices(functools.partial(evaluate_step, StepSetup(config, graphdef, normalisation)), local_devices)


def evaluate_step(
  setup: StepSetup,
  state: TrainState,
  images: Array,
  labels: Array,
  valid: Bool[Array, "B"],
  kept: Bool[Array, "B H W 1"] | None,
) -> tuple[Array, Array]:
  """What one device does to evaluate a batch."""
  model = nnx.merge(setup.graphdef, state.params, state.batch_stats, copy=True)
  model.eval()
  logits = model(show_pixels(setup.normalisation.apply(images), kept, setup.config.fill))
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  num_correct = ((logits.argmax(-1) == labels) & valid).sum()
  return jax.lax.psum((num_correct, (losses * valid.astype(losses.dtype)).sum()), DEVICE_AXIS)
