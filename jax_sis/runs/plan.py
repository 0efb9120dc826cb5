"""`jax-sis plan`: what a run of `find` will cost, estimated from its settings and a short timed probe."""

import contextlib
import dataclasses
import functools
import json
import math
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jax_sis import results
from jax_sis.core import masking
from jax_sis.core.backselect import run_backward
from jax_sis.core.problem import make_problem
from jax_sis.core.searches import Exact, Gradient, Phase, Screened
from jax_sis.core.types import Params, PredictFn
from jax_sis.core.validation import require_positive
from jax_sis.results.arrays import OF_UNITS
from jax_sis.runs.cluster_forecast import (
  ClusterForecast,
  cluster_to_json,
  describe_cluster,
  forecast_cluster,
  read_fleet,
)
from jax_sis.runs.cluster_simulation import Fleet
from jax_sis.runs.config import FindConfig
from jax_sis.runs.device_search import ImageSearch
from jax_sis.runs.forecast import Forecast, count_evaluations, forecast
from jax_sis.runs.options import PlanOptions
from jax_sis.runs.presets import describe_preset
from jax_sis.runs.setup import Job, compile_search, explain_out_of_memory, make_job, read_stored_spec
from jax_sis.runtime import devices
from jax_sis.runtime.device_program import DeviceProgram
from jax_sis.runtime.progress import format_seconds

# A launch that would take longer is not timed as a whole, but by some steps of each kind of search.
LONGEST_PROBE_SECONDS = 60.0
# How many steps of each kind.
NUM_PROBED_STEPS = {Gradient: 16, Screened: 4, Exact: 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
  """What a run will cost.

  Attributes:
    num_images: all images.
    num_left: images that are not done yet.
    num_gradients: gradients that the backward search takes for an image.
    num_forwards: model evaluations that it takes besides.
    flops_per_image: floating-point operations of both.
    num_bytes: size of the results before compression.
    num_files: files in the store.
    seconds_per_launch: time for a batch on each device of this machine.
    is_whole: whether a whole launch was timed, and not only steps of the backward search.
    startup_seconds: time to open, trace and compile.
    images_read_per_second: how fast images are read and decoded where nothing else is done.
    seconds: time of the run, all workers together.
    cluster: what workers that come and go take, where that is asked.
  """

  num_images: int
  num_left: int
  num_gradients: int
  num_forwards: int
  flops_per_image: float
  num_bytes: int
  num_files: int
  seconds_per_launch: float
  is_whole: bool
  startup_seconds: float
  images_read_per_second: float
  seconds: float
  cluster: ClusterForecast | None = None


def plan(config: FindConfig, options: PlanOptions) -> Cost | Forecast:
  """Estimates what a run will cost, and prints it; ValueError as for `find`."""
  require_positive("--workers", options.num_workers)
  fleet = read_fleet(options)
  with contextlib.redirect_stdout(sys.stderr if options.is_json else sys.stdout):
    if options.accelerator is not None:
      cost = forecast(config, options.accelerator, num_workers=options.num_workers, fleet=fleet)
    else:
      cost = plan_here(config, num_workers=options.num_workers, fleet=fleet)
  if options.is_json:
    described = dict(cost._asdict() if isinstance(cost, Forecast) else vars(cost))
    print(json.dumps({**described, "cluster": cost.cluster and cluster_to_json(cost.cluster)}), flush=True)
  return cost


def plan_here(config: FindConfig, *, num_workers: int, fleet: Fleet | None = None) -> Cost:
  """Estimates what a run will cost on `num_workers` machines like this one, and prints it; ValueError as for `find`."""
  folder = results.open_folder(config.out)
  print("Opening and compiling ...", flush=True)
  started = time.perf_counter()
  job = make_job(config, folder)
  program = job.program or compile_search(job)
  startup_seconds = time.perf_counter() - started
  num_done = 0
  if read_stored_spec(folder) is not None:
    num_done = results.open(config.out).count_done()
  print(f"Timing a probe on {job.devices_name} ...", flush=True)
  with explain_out_of_memory(job):
    cost = estimate_cost(job, program, num_done=num_done, num_workers=num_workers, startup_seconds=startup_seconds)
  print("\n".join(describe_cost(job, cost, num_workers=num_workers)), flush=True)
  if fleet is None:
    return cost
  cluster = forecast_cluster(
    job,
    fleet,
    num_left=cost.num_left,
    launch_seconds=max(cost.seconds_per_launch, job.launch_size / cost.images_read_per_second),
    launch_size=job.launch_size,
    startup_seconds=startup_seconds,
  )
  print("\n".join(describe_cluster(cluster)), flush=True)
  return dataclasses.replace(cost, cluster=cluster)


def estimate_cost(job: Job, program: DeviceProgram, *, num_done: int, num_workers: int, startup_seconds: float) -> Cost:
  num_left = job.num_images - num_done
  num_gradients, num_forwards = count_evaluations(job)
  batch, images_read_per_second = read_first_images(job)
  seconds_per_launch = time_backward(job, batch)
  is_whole = seconds_per_launch <= LONGEST_PROBE_SECONDS
  if is_whole:
    seconds_per_launch = program.run(*job.launch_arrays(batch)).seconds
  seconds_per_image = max(seconds_per_launch / job.launch_size, 1 / images_read_per_second)
  fields = job.search.fields()
  return Cost(
    num_images=job.num_images,
    num_left=num_left,
    num_gradients=num_gradients,
    num_forwards=num_forwards,
    flops_per_image=count_flops(job, num_gradients=num_gradients, num_forwards=num_forwards),
    num_bytes=job.num_images * sum(field.num_bytes for field in fields.values()),
    num_files=-(-job.num_images // job.unit_size) * (len(fields) + len(OF_UNITS)),
    seconds_per_launch=seconds_per_launch,
    is_whole=is_whole,
    startup_seconds=startup_seconds,
    images_read_per_second=images_read_per_second,
    # All workers start up at the same time.
    seconds=startup_seconds + num_left * seconds_per_image / num_workers,
  )


def count_flops(job: Job, *, num_gradients: int, num_forwards: int) -> float:
  """Floating-point operations of these gradients and evaluations, by XLA's count of one of each."""
  if not num_gradients + num_forwards:
    return 0.0
  inputs = jax.ShapeDtypeStruct((1, *job.classifier.input_shape), np.float32)
  # Pixels stand for features of any shape.
  grid = job.grid if job.maps is None else masking.default_grid(job.classifier.input_shape)
  forward = jax.jit(functools.partial(top_logit, job.search.predict_fn, grid))
  mask = jax.ShapeDtypeStruct((1, math.prod(grid)), np.float32)
  per_forward = analysed_flops(forward.lower(mask, job.params, inputs))
  per_gradient = analysed_flops(jax.jit(jax.value_and_grad(forward)).lower(mask, job.params, inputs))
  return num_gradients * per_gradient + num_forwards * per_forward


def top_logit(
  predict_fn: PredictFn,
  grid: tuple[int, ...],
  mask: Float[Array, "B F"],
  params: Params,
  inputs: Float[Array, "B ..."],
) -> Float[Array, ""]:
  """The sum of the largest logits of the masked inputs."""
  targets = jnp.zeros(inputs.shape[0], jnp.int32)
  problem = make_problem(predict_fn, params, inputs, targets, baseline=0.0, grid=grid, score="log_odds")
  return problem.predict_masked(mask).max(1).sum()


def analysed_flops(lowered: jax.stages.Lowered) -> float:
  """What XLA counts in a program, before it optimises it."""
  analysis: Any = lowered.cost_analysis()
  return float(analysis["flops"]) if analysis else float("nan")


def read_first_images(job: Job) -> tuple[dict[str, np.ndarray], float]:
  """The images of the first launch, repeated if there are too few, and how many a second are read the second time."""
  indices = np.arange(job.launch_size) % job.num_images
  next(job.read(indices))
  started = time.perf_counter()
  batch = next(job.read(indices))
  return batch, len(indices) / (time.perf_counter() - started)


def time_backward(job: Job, batch: dict[str, np.ndarray]) -> float:
  """Seconds that the backward search of one launch takes, estimated from some steps of each kind."""
  seconds = 0.0
  for phase in job.search.phases:
    num_steps = min(NUM_PROBED_STEPS[type(phase.search)], len(phase.sizes))
    # Sizes ascend: the last ones belong to the first steps, which try the most features.
    probed = Phase(phase.search, phase.sizes[-num_steps:])
    program = job.make_search_program(functools.partial(search_phase, job.search, phase=probed))
    arrays = job.launch_arrays(batch)
    program.run(*arrays)
    work = sum(step_cost(phase.search, size) for size in phase.sizes)
    probed_work = sum(step_cost(phase.search, size) for size in probed.sizes)
    seconds += program.run(*arrays).seconds * work / probed_work
  return seconds


def step_cost(search: Gradient | Screened | Exact, size: int) -> int:
  """The cost of a step relative to others of its kind: an exact step tries every feature that is left."""
  return max(size, 1) if isinstance(search, Exact) else 1


def search_phase(
  search: ImageSearch,
  params: Params,
  inputs: Float[Array, "B H W C"],
  requested: Int[Array, "B"],
  *beside: Array,
  phase: Phase,
) -> tuple[Array, Array]:
  """The ranks that some steps of a backward search give, and `finite`, on one device."""
  problem = search.make_problem(params, inputs, jnp.maximum(requested, 0), *beside)
  order = run_backward(problem, phases=(phase,))
  # Without the second, XLA leaves out the trials of the last step, which removes nothing.
  return order.rank, order.finite


def describe_cost(job: Job, cost: Cost, *, num_workers: int) -> list[str]:
  config, device = job.config, job.local_devices[0]
  rate = job.launch_size / cost.seconds_per_launch
  preset = describe_preset(config, job.classifier.input_shape)
  lines = [
    *([preset] if preset else []),
    f"images       {cost.num_images}, of which {cost.num_left} are not done",
    f"batch        {job.batch_size} a device, {len(job.local_devices)} {device.device_kind} device(s), "
    f"{num_workers} worker(s); units of {job.unit_size}",
  ]
  if config.search is not None:
    lines += [
      f"steps        {cost.num_gradients} gradients and {cost.num_forwards} evaluations an image, {config.search}",
      f"operations   {cost.flops_per_image:.3g} an image, {cost.flops_per_image * cost.num_left:.3g} for "
      "those that are left (XLA's count, backward search only)",
    ]
  lines += [
    f"results      {devices.format_bytes(cost.num_bytes)} before compression, {cost.num_files} files",
    f"probe        {cost.seconds_per_launch:.3g} s for {job.launch_size} images, {rate:.3g} images/s"
    + ("" if cost.is_whole else "; from some steps of the backward search, without what comes after it"),
    f"reading      {cost.images_read_per_second:.3g} images/s",
    f"time         about {format_seconds(cost.seconds)}, {cost.startup_seconds:.3g} s to start up included"
    + ("; certificates and the smallest evidence depend on the images" if config.certificate == "full" else ""),
  ]
  return lines
