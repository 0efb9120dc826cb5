"""`jax-sis bench`: how fast this machine's devices search, before one commits to a run."""

import dataclasses
import functools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jax_sis.classifiers import Classifier
from jax_sis.classifiers.model_function import LoadedModel
from jax_sis.classifiers.on_images import describe_model, open_classifier
from jax_sis.core import masking
from jax_sis.core.backselect import run_backward
from jax_sis.core.problem import make_problem
from jax_sis.core.searches import BackwardSearch, Exact, Gradient, Phase, Screened
from jax_sis.core.smallest import QUICK, smallest_subsets
from jax_sis.core.types import Params, PredictFn
from jax_sis.data import sources
from jax_sis.runs.config import SearchOptions
from jax_sis.runs.forecast import count_phases
from jax_sis.runs.options import BenchOptions
from jax_sis.runs.plan import step_cost
from jax_sis.runs.roofline import count_work
from jax_sis.runtime import devices
from jax_sis.runtime.device_program import DeviceProgram
from jax_sis.runtime.provenance import library_versions

MATMUL_SIZE = 2048
FORMAT = "jax_sis.bench/1"
# Steps of a timed run.
NUM_STEPS = {Gradient: 32, Screened: 4, Exact: 1}
COLUMNS = ("batch/device", "image-steps/s", "spread", "s/image", "of matmul", "temporary", "compile")
WIDTHS = (12, 14, 7, 8, 9, 10, 8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
  """One line of the benchmark.

  Attributes:
    batch_size: images a device.
    num_devices: devices at work.
    compile_seconds: time to trace and compile.
    image_steps_per_second: steps times images a second, all devices together; the median of the runs. None where
      images go their own ways.
    spread: half the range of the runs, as a share of the median.
    seconds_per_image: what the whole search of one image costs, by this rate.
    matmul_share: the counted products and sums a second over the matmul rate; None where they depend on the images.
    temporary_bytes: peak temporary memory a device.
  """

  batch_size: int
  num_devices: int
  compile_seconds: float
  image_steps_per_second: float | None
  spread: float
  seconds_per_image: float
  matmul_share: float | None
  temporary_bytes: int

  @property
  def cells(self) -> tuple[str, ...]:
    """Its line of the table."""
    rate, share = self.image_steps_per_second, self.matmul_share
    return (
      str(self.batch_size),
      "-" if rate is None else f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}",
      f"{self.spread:.1%}",
      f"{self.seconds_per_image:.3g}",
      "-" if share is None else f"{share:.0%}",
      devices.format_bytes(self.temporary_bytes),
      f"{self.compile_seconds:.1f} s",
    )


def bench(options: BenchOptions) -> list[Measurement]:
  """Times a search, prints a table of it, and with `is_json` JSON instead; returns the lines.

  Raises:
    ValueError: the classifier cannot be opened, or a batch does not fit the memory.
  """
  classifier, predict_fn, params = open_classifier(options.checkpoint_dir, options.model_function)
  local_devices = devices.local_devices(options.num_devices)
  search = SearchOptions(search=options.search, per_step=options.per_step).make()["search"]
  device = local_devices[0]
  # Where JSON is asked for, it stands alone.
  tell = functools.partial(print, file=sys.stderr if options.is_json else sys.stdout, flush=True)
  tell(
    f"{len(local_devices)} {device.platform} device(s) ({device.device_kind}), jax {jax.__version__}, "
    f"{classifier.model_name} on {'x'.join(map(str, classifier.input_shape))}, {search or QUICK.forward}, "
    f"float32, matmul precision {devices.matmul_precision()}"
  )
  matmul_rate = measure_matmul(local_devices)
  tell(f"float32 matmul of {MATMUL_SIZE}: {matmul_rate / 1e9:.0f} GFLOP/s on all devices")
  tell(format_line(COLUMNS))
  measure_fn = functools.partial(
    measure_search, predict_fn, params, classifier.input_shape, search=search, num_steps=options.num_steps
  )
  if search is None:
    measure_fn = functools.partial(measure_smallest, predict_fn, params, read_sample(classifier))
  measurements = []
  for batch_size in options.batch_sizes:
    measured = measure_fn(
      batch_size=batch_size, num_runs=options.num_runs, local_devices=local_devices, matmul_rate=matmul_rate
    )
    tell(format_line(measured.cells))
    measurements.append(measured)
  if options.is_json:
    found = {
      "format": FORMAT,
      "device": device.device_kind,
      "platform": device.platform,
      "num_devices": len(local_devices),
      "versions": library_versions("jax", "jaxlib"),
      **describe_model(classifier),
      "input_shape": list(classifier.input_shape),
      "search": {"name": options.search, **dataclasses.asdict(search or QUICK.forward)},
      "matmul_precision": devices.matmul_precision(),
      "matmul_flops_per_second": matmul_rate,
      "measurements": [dataclasses.asdict(measured) for measured in measurements],
    }
    print(json.dumps(found, indent=2, allow_nan=False))
  return measurements


def format_line(cells: Sequence[str]) -> str:
  return " ".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True))


def read_sample(classifier: Classifier | LoadedModel) -> Float[np.ndarray, "N H W C"]:
  """The embedded images as inputs, in the classifier's size; ValueError if it does not take images in colour."""
  if classifier.input_shape[2] != 3:
    raise ValueError(
      "--search smallest is timed on the embedded images in red, green and blue, but the classifier takes "
      f"{classifier.input_shape[2]} channel(s); the other searches take random ones."
    )
  source = sources.open_source(
    sources.SAMPLE,
    split=None,
    data_dir=None,
    class_names=(),
    input_shape=classifier.input_shape,
    framing=classifier.framing,
    mean_colour=classifier.normalisation.mean_colour,
  )
  images = np.stack([source[index]["image"] for index in range(len(source))])
  return classifier.normalisation.apply(images)


def measure_search(
  predict_fn: PredictFn,
  params: Params,
  input_shape: tuple[int, ...],
  *,
  search: BackwardSearch,
  num_steps: int | None,
  batch_size: int,
  num_runs: int,
  local_devices: list[devices.Device],
  matmul_rate: float,
) -> Measurement:
  """Times the first steps of a backward search on random images."""
  (phase,) = search.phases(masking.num_features(masking.default_grid(input_shape)))
  timed = Phase(search, phase.sizes[-(num_steps or NUM_STEPS[type(search)]) :])
  started = time.perf_counter()
  program = compile_steps(
    predict_fn,
    params,
    input_shape,
    batch_size=batch_size,
    search=search,
    sizes=timed.sizes,
    local_devices=local_devices,
  )
  compile_seconds = time.perf_counter() - started
  shape = (program.launch_size, *input_shape)
  inputs = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  rate, spread = time_runs(program, inputs, num_runs)
  counted = count_phases((timed,))
  # A gradient goes forward and back.
  flops = (2 * counted.gradients + counted.forwards) * count_work(predict_fn, params, input_shape).flops
  work, timed_work = (sum(step_cost(search, size) for size in sizes) for sizes in (phase.sizes, timed.sizes))
  return Measurement(
    batch_size=batch_size,
    num_devices=len(local_devices),
    compile_seconds=compile_seconds,
    image_steps_per_second=rate * len(timed.sizes),
    spread=spread,
    seconds_per_image=work / timed_work / rate,
    matmul_share=flops * rate / matmul_rate,
    temporary_bytes=temporary_bytes(program),
  )


def measure_smallest(
  predict_fn: PredictFn,
  params: Params,
  inputs: Float[np.ndarray, "N H W C"],
  *,
  batch_size: int,
  num_runs: int,
  local_devices: list[devices.Device],
  matmul_rate: float,
) -> Measurement:
  """Times the whole search for the smallest evidence of these images, each of which takes as many steps as it does."""
  started = time.perf_counter()
  program = DeviceProgram(
    functools.partial(search_smallest, predict_fn), params, local_devices=local_devices, batch_size=batch_size
  )
  program.compile(inputs)
  compile_seconds = time.perf_counter() - started
  rate, spread = time_runs(program, np.resize(inputs, (program.launch_size, *inputs.shape[1:])), num_runs)
  return Measurement(
    batch_size=batch_size,
    num_devices=len(local_devices),
    compile_seconds=compile_seconds,
    image_steps_per_second=None,
    spread=spread,
    seconds_per_image=1 / rate,
    matmul_share=None,
    temporary_bytes=temporary_bytes(program),
  )


def search_smallest(predict_fn: PredictFn, params: Params, inputs: Float[Array, "B ..."]) -> Array:
  """The sizes of the smallest evidence on one device."""
  return smallest_subsets(predict_fn, params, inputs).num_kept


def time_runs(program: DeviceProgram, inputs: Float[np.ndarray, "N ..."], num_runs: int) -> tuple[float, float]:
  """Images a second, the median of some runs after one that warms up, and half their range as a share of it."""
  program.run(inputs)
  rates = [program.launch_size / program.run(inputs).seconds for _ in range(num_runs)]
  rate = statistics.median(rates)
  return rate, (max(rates) - min(rates)) / 2 / rate


def temporary_bytes(program: DeviceProgram) -> int:
  memory: Any = program.compiled.memory_analysis()
  return memory.temp_size_in_bytes


def compile_steps(
  predict_fn: PredictFn,
  params: Params,
  input_shape: tuple[int, ...],
  *,
  batch_size: int,
  search: BackwardSearch,
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
  search: BackwardSearch,
  sizes: tuple[int, ...],
) -> tuple[Array, Array, Array]:
  """Ranks, confidences and `finite` of a search through `sizes` on one device."""
  grid = masking.default_grid(inputs.shape[1:])
  targets = predict_fn(params, inputs).argmax(-1).astype(jnp.int32)
  problem = make_problem(predict_fn, params, inputs, targets, baseline=0.0, grid=grid, score="log_odds")
  order = run_backward(problem, phases=(Phase(search, sizes),))
  # Without the last, XLA leaves out the trials of the last step, which removes nothing.
  return order.rank, order.confidence, order.finite


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
