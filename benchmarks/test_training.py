"""Training steps of ResNet-20, batch 128, all cores: images a second beside PyTorch, and with the input pipeline."""

import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from jax_sis import classifiers
from jax_sis.data import normalisation, training_sets
from jax_sis.runtime import device_program, devices
from jax_sis.training.config import Stage, StepSchedule, TrainConfig
from jax_sis.training.train_step import TrainState, make_optimizer, make_train_step

BATCH_SIZE = 128
NUM_IMAGES = 50_000
NUM_STEPS = 12
NUM_ROUNDS = 8
# More than the pipeline keeps ready.
NUM_READ_AHEAD = 16

CONFIG = TrainConfig(
  model="resnet20", dataset="cifar10", stages=(Stage(epochs=1, resolution=32),), schedule=StepSchedule()
)


def make_jax_runs() -> tuple[Callable[[], float], Callable[[], float]]:
  """`NUM_STEPS` steps with augmentation, on one batch again and again, and on those of the input pipeline."""
  local_devices = devices.local_devices()
  graphdef, params, batch_stats = nnx.split(classifiers.build("resnet20", num_classes=10), nnx.Param, nnx.BatchStat)
  optimizer = make_optimizer(CONFIG, NUM_IMAGES // BATCH_SIZE)
  step_fn = make_train_step(CONFIG, graphdef, optimizer, normalisation.CIFAR_NORMALISATION, local_devices)
  state = device_program.stack_replicas(TrainState(params, batch_stats, optimizer.init(params)), len(local_devices))
  rng = np.random.default_rng(0)
  training_set = training_sets.InMemory(
    images=rng.integers(0, 256, (NUM_IMAGES, 32, 32, 3), np.uint8),
    labels=rng.integers(0, 10, NUM_IMAGES, np.int32),
    ids=tuple(map(str, range(NUM_IMAGES))),
    description={},
    class_names=tuple("abcdefghij"),
    normalisation=normalisation.CIFAR_NORMALISATION,
  )
  constant = training_set.read(np.arange(BATCH_SIZE), None)

  def run(next_batch_fn: Callable[[], training_sets.Batch]) -> float:
    nonlocal state
    started = time.perf_counter()
    metrics = None
    for step in range(NUM_STEPS):
      batch = device_program.shard(next_batch_fn(), len(local_devices))
      state, metrics = step_fn(state, batch.images, batch.labels, batch.indices, np.int32(0), np.int32(step), 32, None)
    jax.block_until_ready(metrics)
    return time.perf_counter() - started

  batches = training_sets.training_batches(
    training_set, np.arange(NUM_IMAGES), batch_size=BATCH_SIZE, num_epochs=NUM_ROUNDS, seed=0
  )

  def run_pipeline() -> float:
    # What was read ahead while another variant ran does not count.
    for _ in range(NUM_READ_AHEAD):
      next(batches)
    return run(lambda: next(batches))

  return lambda: run(lambda: constant), run_pipeline


def make_pytorch_runs() -> dict[str, Callable[[], float]]:
  """The same steps on one batch, without augmentation; activations as PyTorch lays them out, and channels last."""
  sys.path.insert(0, str(pathlib.Path(__file__).parent))
  import pytorch_peer

  pytorch_peer.use_all_cores()
  return {
    f"PyTorch{', channels last' if channels_last else ''}": pytorch_peer.make_training_fn(
      BATCH_SIZE, num_steps=NUM_STEPS, channels_last=channels_last
    )
    for channels_last in (False, True)
  }


def time_in_turn(benchmark: Any, runs: dict[str, Callable[[], float]]) -> dict[str, np.ndarray]:
  """The seconds of every variant by round; the first round only warms up."""
  times: dict[str, list[float]] = {name: [] for name in runs}

  def run_round() -> None:
    for name, run in runs.items():
      times[name].append(run())

  benchmark.pedantic(run_round, rounds=NUM_ROUNDS, warmup_rounds=1)
  return {name: np.array(values[1:]) for name, values in times.items()}


def report(benchmark: Any, seconds: dict[str, np.ndarray], ratios: dict[str, np.ndarray]) -> None:
  """Prints and stores speeds, and the median ratios of runs that followed one another, since the machine drifts."""
  rates = {name: NUM_STEPS * BATCH_SIZE / float(np.median(values)) for name, values in seconds.items()}
  medians = {name: float(np.median(values)) for name, values in ratios.items()}
  benchmark.extra_info.update(images_per_second=rates, ratios=medians)
  print()
  for name, rate in rates.items():
    print(f"{rate:8.0f} images/s  {name}")
  for name, ratio in medians.items():
    print(f"{ratio:8.2f} x {name}")


def test_training_images_beside_pytorch(benchmark: Any):
  pytest.importorskip("torch", reason="the peer needs PyTorch: pip install torch")
  ours, _ = make_jax_runs()
  seconds = time_in_turn(benchmark, {"jax_sis": ours, **make_pytorch_runs()})
  jax_sis, plain, channels_last = seconds.values()
  report(
    benchmark,
    seconds,
    {"of PyTorch's speed": plain / jax_sis, "of PyTorch's speed with channels last": channels_last / jax_sis},
  )


def test_training_images_with_the_input_pipeline(benchmark: Any):
  constant_fn, pipeline_fn = make_jax_runs()
  seconds = time_in_turn(benchmark, {"one batch": constant_fn, "input pipeline": pipeline_fn})
  constant, pipeline = seconds.values()
  report(benchmark, seconds, {"of the speed on one batch": constant / pipeline})
