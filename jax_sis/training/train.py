"""Trains a classifier, restartable to the bit: the same command goes on from the last saved state."""

import collections
import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Int

from jax_sis import classifiers
from jax_sis.classifiers import checkpoint
from jax_sis.data import training_sets
from jax_sis.data.images import CENTRAL_FRAMING, WHOLE_FRAMING
from jax_sis.data.normalisation import Normalisation
from jax_sis.results import pixel_subsets
from jax_sis.results.folder import write_atomically
from jax_sis.results.pixel_subsets import PixelMasks
from jax_sis.runtime import devices
from jax_sis.runtime.device_program import first_replica, shard, stack_replicas
from jax_sis.runtime.progress import Progress
from jax_sis.training.config import TrainConfig, settings_to_dict
from jax_sis.training.metrics_log import MetricsLog
from jax_sis.training.train_step import (
  StepMetrics,
  TrainState,
  make_evaluate_step,
  make_optimizer,
  make_schedule,
  make_train_step,
)

RECIPE_FILE = "recipe.json"


@dataclasses.dataclass(kw_only=True)
class Totals:
  """What an epoch has added up to so far; saved with the state, so that a resumed epoch reports the same."""

  num_images: int = 0
  num_correct: int = 0
  loss: float = 0.0
  largest_gradient_norm: float = 0.0
  seconds: float = 0.0


@dataclasses.dataclass(kw_only=True)
class Position:
  """Where a run is: finished steps, the epoch's totals, the order's iterator, and the best accuracy so far."""

  step: int = 0
  totals: Totals = dataclasses.field(default_factory=Totals)
  iterator: dict[str, Any] | None = None
  best_accuracy: float | None = None

  @classmethod
  def from_dict(cls, values: dict[str, Any]) -> "Position":
    """The inverse of `dataclasses.asdict`."""
    return cls(**{**values, "totals": Totals(**values["totals"])})


class Training(NamedTuple):
  """A recipe with everything that it names opened.

  Attributes:
    training_set: the images.
    masks: which of their pixels are shown; None for all.
    train_indices: the places to train on.
    validation_indices: the places that are held out.
    normalisation: how inputs are made.
    local_devices: where it runs.
    graphdef: the module without its arrays.
    initial_state: the arrays before the first step.
    schedule: the learning rate by step.
    train_step_fn: the compiled step, see `train_step.make_train_step`.
    evaluate_fn: the compiled evaluation, see `train_step.make_evaluate_step`.
    steps_per_epoch: full batches.
  """

  training_set: training_sets.TrainingSet
  masks: PixelMasks | None
  train_indices: Int[np.ndarray, "N"]
  validation_indices: Int[np.ndarray, "M"]
  normalisation: Normalisation
  local_devices: list[devices.Device]
  graphdef: Any
  initial_state: TrainState
  schedule: optax.Schedule
  train_step_fn: Callable[..., tuple[TrainState, StepMetrics]]
  evaluate_fn: Callable[..., tuple[Array, Array]]
  steps_per_epoch: int


def train(
  config: TrainConfig,
  *,
  data_dir: str | None,
  out_dir: str | os.PathLike[str],
  tensorboard: bool = False,
) -> pathlib.Path:
  """Runs (or resumes) the training that `config` describes and returns the folder of the final classifier.

  The state is saved after every epoch, and every `save_every_steps`; the same command again goes on from the last one
  and, on the same machine, ends with the same bits.

  Args:
    config: the recipe.
    data_dir: the TFDS data folder; None for TFDS's own default.
    out_dir: gets `state/` (resumable), `metrics.jsonl`, at the end `classifier/` and, where images are held out,
      `best/`, the classifier that did best on them.
    tensorboard: write the metrics as TensorBoard events, too, into `tensorboard/`.

  Raises:
    ValueError: the data, the subset or the devices do not fit, the folder holds a run of another recipe, training
      diverged, or a state could not be saved.
  """
  out_dir = pathlib.Path(out_dir)
  training = open_training(config, data_dir)
  claim_folder(out_dir, config, training)
  with (
    checkpoint.TrainingCheckpoints(out_dir / "state") as checkpoints,
    MetricsLog(out_dir, tensorboard=tensorboard) as log,
  ):
    state, values = checkpoints.restore_latest(training.initial_state)
    position = Position() if values is None else Position.from_dict(values)
    log.forget_after(position.step)
    state = run(config, training, state, position, checkpoints=checkpoints, log=log, out_dir=out_dir)
  checkpoint.save_classifier(out_dir / "classifier", make_classifier(config, training, state))
  return out_dir / "classifier"


def open_training(config: TrainConfig, data_dir: str | None) -> Training:
  """Opens and checks the data and the devices, and builds the module."""
  local_devices = devices.local_devices(config.num_devices)
  if config.batch_size % len(local_devices):
    raise ValueError(
      f"batch_size must be a multiple of the {len(local_devices)} devices, got {config.batch_size}; "
      "set num_devices, or another batch_size."
    )
  training_set = training_sets.open_training_set(
    config.dataset, config.split, data_dir=data_dir, image_size=config.image_size, on_error=config.on_error
  )
  training_set, masks = show_subset(config, training_set)
  train_indices, validation_indices = training_sets.split_off_validation(
    len(training_set), config.num_validation, seed=config.seed
  )
  steps_per_epoch = len(train_indices) // config.batch_size
  if not steps_per_epoch:
    raise ValueError(
      f"batch_size must be at most the {len(train_indices)} images to train on, got {config.batch_size}."
    )
  module = classifiers.build(config.model, num_classes=len(training_set.class_names), seed=config.seed)
  graphdef, params, batch_stats = nnx.split(module, nnx.Param, nnx.BatchStat)
  normalisation = config.normalisation or training_set.normalisation
  optimizer = make_optimizer(config, steps_per_epoch)
  return Training(
    training_set=training_set,
    masks=masks,
    train_indices=train_indices,
    validation_indices=validation_indices,
    normalisation=normalisation,
    local_devices=local_devices,
    graphdef=graphdef,
    initial_state=TrainState(params, batch_stats, optimizer.init(params)),
    schedule=make_schedule(config.schedule, steps_per_epoch=steps_per_epoch, num_epochs=config.num_epochs),
    train_step_fn=make_train_step(config, graphdef, optimizer, normalisation, local_devices),
    evaluate_fn=make_evaluate_step(config, graphdef, normalisation, local_devices),
    steps_per_epoch=steps_per_epoch,
  )


def show_subset(
  config: TrainConfig, training_set: training_sets.TrainingSet
) -> tuple[training_sets.TrainingSet, PixelMasks | None]:
  """The images with the pixels that the recipe shows of each, and their masks.

  Raises:
    ValueError: the images are not held in memory, a stage resizes them, or the subset does not fit them.
  """
  if config.subset is None:
    return training_set, None
  if not isinstance(training_set, training_sets.InMemory):
    raise ValueError(
      f"subset must be of images of one size that fit the memory, got dataset {config.dataset!r}, which is streamed."
    )
  size = training_set.image_shape[0]
  resized = [stage.resolution for stage in config.stages if stage.resolution != size]
  if resized:
    raise ValueError(
      f"stages must show the images' own resolution, {size}, where a subset of their pixels is shown, got "
      f"{resized[0]}; resizing would mix the pixels with what stands for the others."
    )
  masks = pixel_subsets.open_masks(
    config.subset,
    ids=training_set.ids,
    images=training_set.description,
    image_shape=training_set.image_shape,
    normalisation=config.normalisation or training_set.normalisation,
  )
  return dataclasses.replace(training_set, kept_fn=masks.kept), masks


def claim_folder(out_dir: pathlib.Path, config: TrainConfig, training: Training) -> None:
  """Writes the recipe into a new folder; ValueError, with the differences, if the folder's run has another."""
  recipe = {
    **settings_to_dict(config),
    "subset": training.masks and training.masks.description,
    "num_devices": len(training.local_devices),
    "num_images": len(training.training_set),
    "class_names": training.training_set.class_names,
    "image_shape": training.training_set.image_shape,
    "normalisation": dataclasses.asdict(training.normalisation),
  }
  recipe = json.loads(json.dumps(recipe))
  path = out_dir / RECIPE_FILE
  if not path.exists():
    out_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(recipe, indent=2) + "\n").encode())
    return
  earlier = json.loads(path.read_text())
  different = [name for name in sorted(recipe | earlier) if recipe.get(name) != earlier.get(name)]
  if different:
    changes = "; ".join(f"{name} was {earlier.get(name)} and is {recipe.get(name)}" for name in different)
    raise ValueError(f"--out {str(out_dir)!r} holds a run of another recipe ({changes}); name another folder.")


def run(
  config: TrainConfig,
  training: Training,
  state: TrainState,
  position: Position,
  *,
  checkpoints: checkpoint.TrainingCheckpoints,
  log: MetricsLog,
  out_dir: pathlib.Path,
) -> TrainState:
  """All steps that are left; the arrays after the last one."""
  batches = training_sets.training_batches(
    training.training_set,
    training.train_indices,
    batch_size=config.batch_size,
    num_epochs=config.num_epochs,
    seed=config.seed,
  )
  if position.iterator is not None:
    batches.set_state(position.iterator)
  num_steps = config.num_epochs * training.steps_per_epoch
  state = stack_replicas(state, len(training.local_devices))
  if training.masks is not None:
    print(f"Shown of each image: {pixel_subsets.describe_subset(training.masks.description)}.", flush=True)
  images_before = position.step * config.batch_size
  with Progress("train", total=num_steps * config.batch_size, start=images_before, unit="image") as progress:
    training.training_set.report_fn = progress.log
    while position.step < num_steps:
      started = time.perf_counter()
      state = run_to_save(config, training, state, position, batches, progress)
      position.totals.seconds += time.perf_counter() - started
      if position.step % training.steps_per_epoch == 0:
        record = end_epoch(config, training, state, position, out_dir=out_dir)
        log.write(record)
        progress.log(json.dumps(record))
        position.totals = Totals()
      position.iterator = batches.get_state()
      checkpoints.save(position.step, first_replica(state), dataclasses.asdict(position))
  return first_replica(state)


def run_to_save(
  config: TrainConfig,
  training: Training,
  state: TrainState,
  position: Position,
  batches: Iterator[training_sets.Batch],
  progress: Progress,
) -> TrainState:
  """The steps up to the next at which the state is to be saved; the arrays of all devices after it."""
  unchecked: collections.deque[StepMetrics] = collections.deque()
  saved_step, is_saved = position.step, False
  while not is_saved:
    epoch = position.step // training.steps_per_epoch
    batch = shard(next(batches), len(training.local_devices))
    state, metrics = training.train_step_fn(
      state,
      batch.images,
      batch.labels,
      batch.indices,
      np.int32(epoch),
      np.int32(position.step),
      config.resolution(epoch),
      batch.kept,
    )
    unchecked.append(metrics)
    position.step += 1
    ends_epoch = position.step % training.steps_per_epoch == 0
    is_saved = ends_epoch or bool(config.save_every_steps and position.step % config.save_every_steps == 0)
    # One step is left to run while the host looks at the one before.
    while len(unchecked) > (0 if is_saved else 1):
      add_step(position.totals, unchecked.popleft(), config, step=position.step - len(unchecked), saved=saved_step)
    progress.advance(config.batch_size)
  return state


def add_step(totals: Totals, metrics: StepMetrics, config: TrainConfig, *, step: int, saved: int) -> None:
  """Counts one finished step.

  Raises:
    ValueError: its loss or gradient is not finite, or the gradient too large.
  """
  metrics = first_replica(metrics)
  loss, gradient_norm = float(metrics.loss), float(metrics.gradient_norm)
  if not (np.isfinite(loss) and gradient_norm <= config.gradient_norm_limit):
    raise ValueError(
      f"training diverged at step {step}: the loss is {loss:.6g} and the gradient's norm {gradient_norm:.6g} "
      f"(gradient_norm_limit is {config.gradient_norm_limit:.6g}). The state of step {saved} stays as it was saved; "
      "start again elsewhere with a lower learning rate or a longer warm-up."
    )
  totals.num_images += config.batch_size
  totals.num_correct += int(metrics.num_correct)
  totals.loss += loss
  totals.largest_gradient_norm = max(totals.largest_gradient_norm, gradient_norm)


def end_epoch(
  config: TrainConfig, training: Training, state: TrainState, position: Position, *, out_dir: pathlib.Path
) -> dict[str, Any]:
  """The epoch's line of metrics; evaluates where it is due, and keeps the best classifier."""
  epoch = position.step // training.steps_per_epoch
  totals = position.totals
  record = {
    "epoch": epoch,
    "step": position.step,
    "resolution": config.resolution(epoch - 1),
    "learning_rate": float(np.asarray(training.schedule(position.step - 1))),
    "train_loss": totals.loss * config.batch_size / totals.num_images,
    "train_accuracy": totals.num_correct / totals.num_images,
    "largest_gradient_norm": totals.largest_gradient_norm,
    "seconds": totals.seconds,
    "images_per_second": totals.num_images / totals.seconds,
  }
  is_due = epoch % config.evaluate_every == 0 or epoch == config.num_epochs
  if not (len(training.validation_indices) and is_due):
    return record
  accuracy, loss = evaluate(training, state, batch_size=config.batch_size)
  if position.best_accuracy is None or accuracy > position.best_accuracy:
    position.best_accuracy = accuracy
    checkpoint.save_classifier(out_dir / "best", make_classifier(config, training, first_replica(state)))
  return record | {
    "validation_accuracy": accuracy,
    "validation_loss": loss,
    "best_validation_accuracy": position.best_accuracy,
  }


def evaluate(training: Training, state: TrainState, *, batch_size: int) -> tuple[float, float]:
  """Accuracy and mean loss (nats) on the held-out images, of the arrays of all devices."""
  num_correct, total_loss = 0, 0.0
  for start in range(0, len(training.validation_indices), batch_size):
    indices = training.validation_indices[start : start + batch_size]
    padded = np.resize(indices, batch_size)
    batch = training.training_set.read(padded, None)
    valid = np.arange(batch_size) < len(indices)
    arrays = (batch.images, batch.labels, valid, batch.kept)
    sharded = shard(arrays, len(training.local_devices))
    correct, loss = first_replica(training.evaluate_fn(state, *sharded))
    num_correct += int(correct)
    total_loss += float(loss)
  return num_correct / len(training.validation_indices), total_loss / len(training.validation_indices)


def make_classifier(config: TrainConfig, training: Training, state: TrainState) -> classifiers.Classifier:
  return classifiers.Classifier(
    model_name=config.model,
    module=nnx.merge(training.graphdef, state.params, state.batch_stats),
    class_names=training.training_set.class_names,
    normalisation=training.normalisation,
    input_shape=training.training_set.image_shape,
    framing=WHOLE_FRAMING if config.image_size is None else CENTRAL_FRAMING,
  )
