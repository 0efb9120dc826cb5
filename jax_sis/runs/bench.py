"""`jax-sis bench`: how many image-steps a second this machine's devices do, before one commits to a run."""

import dataclasses
import functools
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jax_sis.classifiers import checkpoint, frozen
from jax_sis.core import masking
from jax_sis.core.backselect import run_backward
from jax_sis.core.problem import make_problem
from jax_sis.core.searches import Gradient, Phase, backward_sizes
from jax_sis.core.types import Params, PredictFn
from jax_sis.core.validation import require_positive
from jax_sis.runs.options import BenchOptions
from jax_sis.runtime import devices
from jax_sis.runtime.device_program import DeviceProgram

MATMUL_SIZE = 2048


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
  """One line of the benchmark.

  Attributes:
    batch_size: images a device.
    num_devices: devices at work.
    compile_seconds: time to trace and compile.
    image_steps_per_second: gradient steps times images a second, all devices together; the median of the runs.
    spread: half the range of the runs, as a share of the median.
    seconds_per_image: what a whole order of one image costs, by this rate.
    temporary_bytes: peak temporary memory a device.
  """

  batch_size: int
  num_devices: int
  compile_seconds: float
  image_steps_per_second: float
  spread: float
  seconds_per_image: float
  temporary_bytes: int


def bench(
  *,
  checkpoint_dir: str | None = None,
  batch_sizes: tuple[int, ...] = BenchOptions.batch_sizes,
  per_step: int = BenchOptions.per_step,
  num_steps: int = BenchOptions.num_steps,
  num_runs: int = BenchOptions.num_runs,
  num_devices: int | None = None,
) -> list[Measurement]:
  """Measures gradient searches of `num_steps` steps on random images, prints a table and returns its lines.

  Args:
    checkpoint_dir: a classifier's folder; None for the embedded one.
    batch_sizes: images a device, a line each.
    per_step: pixels masked a step.
    num_steps: steps of each timed run; a whole order has features / per_step.
    num_runs: timed runs, after one that warms up.
    num_devices: devices to use; None for all local ones.

  Raises:
    ValueError: a setting is out of range, or a batch does not fit the memory.
  """
  for name, value in (("--steps", num_steps), ("--runs", num_runs), *(("--batch", size) for size in batch_sizes)):
    require_positive(name, value)
  local_devices = devices.local_devices(num_devices)
  classifier = checkpoint.load_classifier(checkpoint_dir or checkpoint.EMBEDDED_CLASSIFIER)
  predict_fn, params = frozen.freeze(classifier.module)
  device = local_devices[0]
  print(
    f"{len(local_devices)} {device.platform} device(s) ({device.device_kind}), jax {jax.__version__}, "
    f"{classifier.model_name} on {'x'.join(map(str, classifier.input_shape))}, Gradient(per_step={per_step}), "
    f"float32, matmul precision {devices.matmul_precision()}"
  )
  print(
    f"float32 matmul of {MATMUL_SIZE}: {measure_matmul(local_devices) / 1e9:.0f} GFLOP/s on all devices", flush=True
  )
  print(f"{'batch/device':>12} {'image-steps/s':>14} {'spread':>7} {'s/image':>8} {'temporary':>10} {'compile':>8}")
  measurements = []
  for batch_size in batch_sizes:
    measurement = measure_search(
      predict_fn,
      params,
      classifier.input_shape,
      batch_size=batch_size,
      search=Gradient(per_step=per_step),
      num_steps=num_steps,
      num_runs=num_runs,
      local_devices=local_devices,
    )
    print(
      f"{measurement.batch_size:>12} {measurement.image_steps_per_second:>14.0f} {measurement.spread:>7.1%} "
      f"{measurement.seconds_per_image:>8.3g} {devices.format_bytes(measurement.temporary_bytes):>10} "
      f"{measurement.compile_seconds:>6.1f} s",
      flush=True,
    )
    measurements.append(measurement)
  return measurements


def measure_search(
  predict_fn: PredictFn,
  params: Params,
  input_shape: tuple[int, ...],
  *,
  batch_size: int,
  search: Gradient,
  num_steps: int,
  num_runs: int,
  local_devices: list[devices.Device],
) -> Measurement:
  """Times the first `num_steps` steps of a gradient search on random images, after a run that warms up."""
  num_features = masking.num_features(masking.default_grid(input_shape))
  all_sizes = backward_sizes(num_features, search.per_step)
  started = time.perf_counter()
  program = compile_steps(
    predict_fn,
    params,
    input_shape,
    batch_size=batch_size,
    search=search,
    sizes=all_sizes[-num_steps:],
    local_devices=local_devices,
  )
  compile_seconds = time.perf_counter() - started
  shape = (program.launch_size, *input_shape)
  inputs = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  program.run(inputs)
  num_image_steps = program.launch_size * min(num_steps, len(all_sizes))
  rates = [num_image_steps / program.run(inputs).seconds for _ in range(num_runs)]
  rate = statistics.median(rates)
  memory: Any = program.compiled.memory_analysis()
  return Measurement(
    batch_size=batch_size,
    num_devices=len(local_devices),
    compile_seconds=compile_seconds,
    image_steps_per_second=rate,
    spread=(max(rates) - min(rates)) / 2 / rate,
    seconds_per_image=len(all_sizes) / rate,
    temporary_bytes=memory.temp_size_in_bytes,
  )


def compile_steps(
  predict_fn: PredictFn,
  params: Params,
  input_shape: tuple[int, ...],
  *,
  batch_size: int,
  search: Gradient,
  sizes: tuple[int, ...],
  local_devices: list[devices.Device],
) -> DeviceProgram:
  """Compiles a search through `sizes` towards the predicted class; ValueError if the batch does not fit the memory."""
  steps = functools.partial(search_steps, predict_fn, search=search, sizes=sizes)
  program = DeviceProgram(steps, params, local_devices=local_devices, batch_size=batch_size)
  program.compile(jax.ShapeDtypeStruct((1, *input_shape), np.float32))
  return program


def search_steps(
  predict_fn: PredictFn,
  params: Params,
  inputs: Float[Array, "B ..."],
  *,
  search: Gradient,
  sizes: tuple[int, ...],
) -> tuple[Array, Array]:
  """Ranks and confidences of a search through `sizes` on one device."""
  grid = masking.default_grid(inputs.shape[1:])
  targets = predict_fn(params, inputs).argmax(-1).astype(jnp.int32)
  problem = make_problem(predict_fn, params, inputs, targets, baseline=0.0, grid=grid, score="log_odds")
  order = run_backward(problem, phases=(Phase(search, sizes),))
  return order.rank, order.confidence


def measure_matmul(local_devices: list[devices.Device], num_runs: int = 5) -> float:
  """FLOP/s of float32 matrix products on all devices at once, the best of some runs."""
  matrix = np.random.default_rng(0).normal(size=(MATMUL_SIZE, MATMUL_SIZE)).astype(np.float32)
  program = DeviceProgram(multiply, matrix, local_devices=local_devices, batch_size=1)
  scales = np.ones(program.launch_size, np.float32)
  program.run(scales)
  best = min(program.run(scales).seconds for _ in range(num_runs))
  return len(local_devices) * 2 * MATMUL_SIZE**3 / best


def multiply(matrix: Float[Array, "N N"], scales: Float[Array, "1"]) -> Float[Array, "1 N N"]:
  return jnp.matmul(scales[:, None, None] * matrix[None], matrix)
