"""Trains a classifier: SGD with Nesterov momentum, data-parallel by `pmap`, restartable at every epoch."""

import json
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from jax_sis import checkpoint, classifiers, data, devices
from jax_sis.config import Normalisation, TrainConfig
from jax_sis.progress import Progress

DEVICE_AXIS = "devices"


class TrainState(NamedTuple):
  """Everything that a resumed run needs besides the epoch number."""

  params: Any
  batch_stats: Any
  opt_state: Any


def augment(
  images: UInt8[Array, "B H W 3"],
  indices: Int[Array, "B"],
  epoch: Int[Array, ""],
  *,
  seed: int,
  crop_padding: int,
) -> UInt8[Array, "B H W 3"]:
  """Shifts each image by up to `crop_padding` pixels (the border is mirrored) and flips it in every second epoch.

  The draw of an image depends on the seed, the epoch and its index alone, never on the batch it is in.
  """
  height, width = images.shape[1:3]

  def augment_one(image: Array, index: Array) -> Array:
    key = jax.random.fold_in(jax.random.key(seed), index)
    first_flip = jax.random.bernoulli(key).astype(jnp.int32)
    shift_key = jax.random.fold_in(key, epoch)
    rows, columns = jax.random.randint(shift_key, (2,), 0, 2 * crop_padding + 1)
    padded = jnp.pad(image, ((crop_padding, crop_padding), (crop_padding, crop_padding), (0, 0)), mode="reflect")
    shifted = jax.lax.dynamic_slice(padded, (rows, columns, 0), (height, width, 3))
    return jnp.where((epoch + first_flip) % 2 == 1, shifted[:, ::-1], shifted)

  return jax.vmap(augment_one)(images, indices)


def make_optimizer(config: TrainConfig, steps_per_epoch: int) -> optax.GradientTransformation:
  """SGD with Nesterov momentum and L2 weight decay under a triangular learning rate."""
  warmup_steps = round(config.warmup_epochs * steps_per_epoch)
  schedule = optax.join_schedules(
    [
      optax.linear_schedule(0.0, config.peak_learning_rate, warmup_steps),
      optax.linear_schedule(config.peak_learning_rate, 0.0, config.num_epochs * steps_per_epoch - warmup_steps),
    ],
    [warmup_steps],
  )
  return optax.chain(
    optax.add_decayed_weights(config.weight_decay),
    optax.sgd(schedule, momentum=config.momentum, nesterov=True),
  )


def make_train_step(
  config: TrainConfig, graphdef: Any, optimizer: optax.GradientTransformation, normalisation: Normalisation
) -> Any:
  """Returns the pmapped step `(state, images, labels, indices, epoch, resolution) -> (state, loss, num_correct)`."""

  def loss_fn(params: Any, batch_stats: Any, inputs: Array, labels: Array) -> tuple[Array, tuple[Any, Array]]:
    model = nnx.merge(graphdef, params, batch_stats, copy=True)
    model.train()
    logits = model(inputs)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    num_correct = (logits.argmax(-1) == labels).sum()
    return loss, (nnx.state(model, nnx.BatchStat), num_correct)

  def train_step(
    state: TrainState, images: Array, labels: Array, indices: Array, epoch: Array, resolution: int
  ) -> tuple[TrainState, Float[Array, ""], Int[Array, ""]]:
    images = augment(images, indices, epoch, seed=config.seed, crop_padding=config.crop_padding)
    inputs = normalisation.apply(images)
    if resolution != inputs.shape[1]:
      inputs = jax.image.resize(inputs, (inputs.shape[0], resolution, resolution, 3), "linear", antialias=True)
    (loss, (batch_stats, num_correct)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
      state.params, state.batch_stats, inputs, labels
    )
    grads, batch_stats, loss = jax.lax.pmean((grads, batch_stats, loss), DEVICE_AXIS)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(params, batch_stats, opt_state), loss, jax.lax.psum(num_correct, DEVICE_AXIS)

  return jax.pmap(
    train_step,
    axis_name=DEVICE_AXIS,
    in_axes=(0, 0, 0, 0, None, None),
    static_broadcasted_argnums=5,
    donate_argnums=0,
    devices=devices.local_devices(config.num_shards),
  )


def epoch_batches(num_examples: int, batch_size: int, *, seed: int, epoch: int) -> Iterator[Int[np.ndarray, "B"]]:
  """The shuffled indices of one epoch in full batches; the remainder waits for another epoch's shuffle."""
  order = np.random.default_rng([seed, epoch]).permutation(num_examples)
  for start in range(0, num_examples - batch_size + 1, batch_size):
    yield order[start : start + batch_size]


def train(config: TrainConfig, *, data_dir: str | None, out_dir: str | os.PathLike[str]) -> pathlib.Path:
  """Runs (or resumes) the training that `config` describes and returns the folder of the final classifier.

  The state is saved after every epoch; the same command again goes on from the last one.

  Args:
    config: the recipe.
    data_dir: the TFDS data folder; None for TFDS's own default.
    out_dir: gets `state/` (resumable), `metrics.jsonl` and, at the end, `classifier/`.
  """
  out_dir = pathlib.Path(out_dir)
  out_dir.mkdir(parents=True, exist_ok=True)
  images, labels, info = data.load_arrays(config.dataset, config.split, data_dir=data_dir)
  model = classifiers.build(config.model, num_classes=info.num_classes, seed=config.seed)
  graphdef, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)
  steps_per_epoch = len(images) // config.batch_size
  optimizer = make_optimizer(config, steps_per_epoch)
  state = TrainState(params, batch_stats, optimizer.init(params))
  train_step = make_train_step(config, graphdef, optimizer, info.normalisation)

  with checkpoint.TrainingCheckpoints(out_dir / "state") as checkpoints:
    first_epoch, state = checkpoints.restore_latest(state)
    state = devices.stack_replicas(state, config.num_shards)
    total = config.num_epochs * steps_per_epoch
    with Progress("train", total=total, start=first_epoch * steps_per_epoch, unit="step") as progress:
      for epoch in range(first_epoch, config.num_epochs):
        started = time.perf_counter()
        losses, counts = [], []
        for indices in epoch_batches(len(images), config.batch_size, seed=config.seed, epoch=epoch):
          batch = devices.shard((images[indices], labels[indices], indices.astype(np.int32)), config.num_shards)
          state, loss, num_correct = train_step(state, *batch, np.int32(epoch), config.resolution(epoch))
          losses.append(loss)
          counts.append(num_correct)
          if len(losses) > 1:
            losses[-2].block_until_ready()
          progress.advance(1)
        record = {
          "epoch": epoch + 1,
          "resolution": config.resolution(epoch),
          "train_loss": float(np.mean([loss[0] for loss in losses])),
          "train_accuracy": float(np.sum([count[0] for count in counts])) / (steps_per_epoch * config.batch_size),
          "seconds": time.perf_counter() - started,
        }
        if not np.isfinite(record["train_loss"]):
          raise ValueError(f"training loss is {record['train_loss']} in epoch {epoch + 1}; lower peak_learning_rate.")
        checkpoints.save(epoch + 1, devices.first_replica(state))
        with open(out_dir / "metrics.jsonl", "a") as metrics_file:
          metrics_file.write(json.dumps(record) + "\n")
        progress.log(json.dumps(record))

  final = devices.first_replica(state)
  classifier = classifiers.Classifier(
    model_name=config.model,
    module=nnx.merge(graphdef, final.params, final.batch_stats),
    class_names=info.class_names,
    normalisation=info.normalisation,
    input_shape=images.shape[1:],
  )
  checkpoint.save_classifier(out_dir / "classifier", classifier)
  return out_dir / "classifier"
