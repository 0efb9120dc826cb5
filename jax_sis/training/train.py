"""Trains a classifier, restartable to the bit: the same command goes on from the last saved state."""

import collections
import dataclasses
import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Int

from jax_sis import classifiers
from jax_sis.classifiers import checkpoint
from jax_sis.data import training_sets
from jax_sis.data.images import CENTRAL_CROP
from jax_sis.data.normalisation import Normalisation
from jax_sis.results import pixel_subsets
from jax_sis.results.folder import write_atomically
from jax_sis.results.pixel_subsets import PixelMasks
from jax_sis.runtime import devices
from jax_sis.runtime.progress import Progress
from jax_sis.training.config import TrainConfig
from jax_sis.training.metrics_log import MetricsLog
from jax_sis.training.train_step import (
  DEVICE_AXIS,
  StepMetrics,
  TrainState,
  make_optimizer,
  make_schedule,
  make_train_step,
  show_pixels,
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


class Plan(NamedTuple):
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
    evaluate_fn: the compiled evaluation, see `make_evaluate_step`.
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
  plan = open_plan(config, data_dir)
  claim_folder(out_dir, config, plan)
  with (
    checkpoint.TrainingCheckpoints(out_dir / "state") as checkpoints,
    MetricsLog(out_dir, tensorboard=tensorboard) as log,
  ):
    state, values = checkpoints.restore_latest(plan.initial_state)
    position = Position() if values is None else Position.from_dict(values)
    log.forget_after(position.step)
    state = run(config, plan, state, position, checkpoints=checkpoints, log=log, out_dir=out_dir)
  checkpoint.save_classifier(out_dir / "classifier", make_classifier(config, plan, state))
  return out_dir / "classifier"


def open_plan(config: TrainConfig, data_dir: str | None) -> Plan:
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
  return Plan(
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
    evaluate_fn=make_evaluate_step(graphdef, normalisation, local_devices, fill=config.fill),
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


def claim_folder(out_dir: pathlib.Path, config: TrainConfig, plan: Plan) -> None:
  """Writes the recipe into a new folder, or makes sure that the folder's run has the same one.

  Raises:
    ValueError: it has another one; what differs is named.
  """
  recipe = {
    **dataclasses.asdict(config),
    "subset": plan.masks and plan.masks.description,
    "num_devices": len(plan.local_devices),
    "num_images": len(plan.training_set),
    "class_names": plan.training_set.class_names,
    "image_shape": plan.training_set.image_shape,
    "normalisation": dataclasses.asdict(plan.normalisation),
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
  plan: Plan,
  state: TrainState,
  position: Position,
  *,
  checkpoints: checkpoint.TrainingCheckpoints,
  log: MetricsLog,
  out_dir: pathlib.Path,
) -> TrainState:
  """All steps that are left; the arrays after the last one."""
  batches = training_sets.training_batches(
    plan.training_set,
    plan.train_indices,
    batch_size=config.batch_size,
    num_epochs=config.num_epochs,
    seed=config.seed,
  )
  if position.iterator is not None:
    batches.set_state(position.iterator)
  num_devices = len(plan.local_devices)
  num_steps = config.num_epochs * plan.steps_per_epoch
  state = devices.stack_replicas(state, num_devices)
  unchecked: collections.deque[StepMetrics] = collections.deque()
  saved_step = position.step
  images_before = position.step * config.batch_size
  if plan.masks is not None:
    print(f"Shown of each image: {pixel_subsets.describe_subset(plan.masks.description)}.", flush=True)
  with Progress("train", total=num_steps * config.batch_size, start=images_before, unit="image") as progress:
    plan.training_set.report_fn = progress.log
    started = time.perf_counter()
    while position.step < num_steps:
      epoch = position.step // plan.steps_per_epoch
      batch = devices.shard(next(batches), num_devices)
      state, metrics = plan.train_step_fn(
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
      ends_epoch = position.step % plan.steps_per_epoch == 0
      saves = ends_epoch or (config.save_every_steps and position.step % config.save_every_steps == 0)
      # One step is left to run while the host looks at the one before.
      while len(unchecked) > (0 if saves else 1):
        add_step(position.totals, unchecked.popleft(), config, step=position.step - len(unchecked), saved=saved_step)
      progress.advance(config.batch_size)
      if not saves:
        continue
      position.totals.seconds += time.perf_counter() - started
      if ends_epoch:
        record = end_epoch(config, plan, state, position, out_dir=out_dir)
        log.write(record)
        progress.log(json.dumps(record))
        position.totals = Totals()
      position.iterator = batches.get_state()
      checkpoints.save(position.step, devices.first_replica(state), dataclasses.asdict(position))
      saved_step = position.step
      started = time.perf_counter()
  return devices.first_replica(state)


def add_step(totals: Totals, metrics: StepMetrics, config: TrainConfig, *, step: int, saved: int) -> None:
  """Counts one finished step.

  Raises:
    ValueError: its loss or gradient is not finite, or the gradient too large.
  """
  loss, gradient_norm = float(metrics.loss[0]), float(metrics.gradient_norm[0])
  if not (np.isfinite(loss) and gradient_norm <= config.gradient_norm_limit):
    raise ValueError(
      f"training diverged at step {step}: the loss is {loss:.6g} and the gradient's norm {gradient_norm:.6g} "
      f"(gradient_norm_limit is {config.gradient_norm_limit:.6g}). The state of step {saved} stays as it was saved; "
      "start again elsewhere with a lower learning rate or a longer warm-up."
    )
  totals.num_images += config.batch_size
  totals.num_correct += int(metrics.num_correct[0])
  totals.loss += loss
  totals.largest_gradient_norm = max(totals.largest_gradient_norm, gradient_norm)


def end_epoch(
  config: TrainConfig, plan: Plan, state: TrainState, position: Position, *, out_dir: pathlib.Path
) -> dict[str, Any]:
  """The epoch's line of metrics; evaluates where it is due, and keeps the best classifier."""
  epoch = position.step // plan.steps_per_epoch
  totals = position.totals
  record = {
    "epoch": epoch,
    "step": position.step,
    "resolution": config.resolution(epoch - 1),
    "learning_rate": float(np.asarray(plan.schedule(position.step - 1))),
    "train_loss": totals.loss * config.batch_size / totals.num_images,
    "train_accuracy": totals.num_correct / totals.num_images,
    "largest_gradient_norm": totals.largest_gradient_norm,
    "seconds": totals.seconds,
    "images_per_second": totals.num_images / totals.seconds,
  }
  is_due = epoch % config.evaluate_every == 0 or epoch == config.num_epochs
  if not (len(plan.validation_indices) and is_due):
    return record
  accuracy, loss = evaluate(plan, state, batch_size=config.batch_size)
  if position.best_accuracy is None or accuracy > position.best_accuracy:
    position.best_accuracy = accuracy
    checkpoint.save_classifier(out_dir / "best", make_classifier(config, plan, devices.first_replica(state)))
  return record | {
    "validation_accuracy": accuracy,
    "validation_loss": loss,
    "best_validation_accuracy": position.best_accuracy,
  }


def make_evaluate_step(
  graphdef: Any, normalisation: Normalisation, local_devices: list[devices.Device], *, fill: float
) -> Callable[..., tuple[Array, Array]]:
  """The pmapped `(state, images, labels, valid, kept) -> (images right, summed loss in nats)`, in evaluation mode."""

  def evaluate_step(
    state: TrainState,
    images: Array,
    labels: Array,
    valid: Bool[Array, "B"],
    kept: Bool[Array, "B H W 1"] | None,
  ) -> tuple[Array, Array]:
    model = nnx.merge(graphdef, state.params, state.batch_stats, copy=True)
    model.eval()
    logits = model(show_pixels(normalisation.apply(images), kept, fill))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    num_correct = ((logits.argmax(-1) == labels) & valid).sum()
    return jax.lax.psum((num_correct, (losses * valid.astype(losses.dtype)).sum()), DEVICE_AXIS)

  return jax.pmap(evaluate_step, axis_name=DEVICE_AXIS, devices=local_devices)


def evaluate(plan: Plan, state: TrainState, *, batch_size: int) -> tuple[float, float]:
  """Accuracy and mean loss (nats) on the held-out images, of the arrays of all devices."""
  num_correct, total_loss = 0, 0.0
  for start in range(0, len(plan.validation_indices), batch_size):
    indices = plan.validation_indices[start : start + batch_size]
    padded = np.resize(indices, batch_size)
    batch = plan.training_set.read(padded, None)
    valid = np.arange(batch_size) < len(indices)
    arrays = (batch.images, batch.labels, valid, batch.kept)
    correct, loss = plan.evaluate_fn(state, *devices.shard(arrays, len(plan.local_devices)))
    num_correct += int(correct[0])
    total_loss += float(loss[0])
  return num_correct / len(plan.validation_indices), total_loss / len(plan.validation_indices)


def make_classifier(config: TrainConfig, plan: Plan, state: TrainState) -> classifiers.Classifier:
  """The trained module with what one must know to use it."""
  return classifiers.Classifier(
    model_name=config.model,
    module=nnx.merge(plan.graphdef, state.params, state.batch_stats),
    class_names=plan.training_set.class_names,
    normalisation=plan.normalisation,
    input_shape=plan.training_set.image_shape,
    crop=1.0 if config.image_size is None else CENTRAL_CROP,
  )
