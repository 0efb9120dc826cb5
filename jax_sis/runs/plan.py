"""`jax-sis plan`: what a run of `find` will cost, from its settings and a short timed probe."""

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jax_sis import results
from jax_sis.core import masking
from jax_sis.core.backselect import run_backward
from jax_sis.core.problem import make_logits_fn
from jax_sis.core.searches import Exact, Gradient, Phase, Screened
from jax_sis.core.types import Params, PredictFn
from jax_sis.core.validation import require_positive
from jax_sis.data import batches
from jax_sis.results.folder import open_folder
from jax_sis.runs.config import FindConfig
from jax_sis.runs.options import PlanOptions
from jax_sis.runs.setup import Job, compile_search, launch_arguments, make_job, read_stored_spec
from jax_sis.runtime import devices
from jax_sis.runtime.progress import format_seconds

# A launch that takes longer is not run as a probe: its steps are timed, some of each kind.
LONGEST_PROBE_SECONDS = 60.0
# Steps of a kind that are timed.
NUM_PROBED_STEPS = {Gradient: 16, Screened: 4, Exact: 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
  """What a run will cost.

  Attributes:
    num_images: images in all.
    num_left: those that are not done yet.
    num_gradients: gradients of the backward search an image.
    num_forwards: further model evaluations of the backward search an image.
    flops_per_image: floating-point operations of that.
    num_bytes: what is stored, before compression.
    num_files: of the store.
    seconds_per_launch: of a batch on every device of this machine.
    is_whole: whether that was timed with the smallest evidence and the certificates, and not the backward search alone.
    startup_seconds: until the first launch: opening, tracing and compiling.
    images_read_per_second: what reading and decoding reach by themselves.
    seconds: of the run, on all workers together.
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


def plan(config: FindConfig, *, num_workers: int = PlanOptions.num_workers) -> Estimate:
  """Says what a run will cost, prints it and returns it; writes nothing.

  Args:
    config: what the run is.
    num_workers: machines like this one that share it.

  Raises:
    ValueError: as for `find`.
  """
  require_positive("--workers", num_workers)
  folder = open_folder(config.out)
  print("Opening and compiling ...", flush=True)
  started = time.perf_counter()
  job = make_job(config, folder)
  compiled = job.compiled or compile_search(job)
  startup_seconds = time.perf_counter() - started
  num_done = 0
  if read_stored_spec(folder) is not None:
    num_done = len(results.open(config.out).done_images())
  print(f"Timing a probe on {len(job.local_devices)} {job.local_devices[0].platform} device(s) ...", flush=True)
  estimate = make_estimate(job, compiled, num_done=num_done, num_workers=num_workers, startup_seconds=startup_seconds)
  print("\n".join(describe_estimate(job, estimate, num_workers=num_workers)), flush=True)
  return estimate


def make_estimate(
  job: Job, compiled: jax.stages.Compiled, *, num_done: int, num_workers: int, startup_seconds: float
) -> Estimate:
  """Counts what can be counted, and times the rest."""
  num_left = job.num_images - num_done
  num_gradients, num_forwards = count_evaluations(job)
  batch, images_read_per_second = read_first_images(job)
  devices.check_memory(compiled, batch_size=job.batch_size, devices=job.local_devices, argument="--batch")
  seconds_per_launch = time_backward(job, batch)
  is_whole = seconds_per_launch <= LONGEST_PROBE_SECONDS
  if is_whole:
    seconds_per_launch = time_launch(job, compiled, batch)
  images_per_launch = job.batch_size * len(job.local_devices)
  seconds_per_image = max(seconds_per_launch / images_per_launch, 1 / images_read_per_second)
  fields = job.search.fields()
  return Estimate(
    num_images=job.num_images,
    num_left=num_left,
    num_gradients=num_gradients,
    num_forwards=num_forwards,
    flops_per_image=count_flops(job, num_gradients=num_gradients, num_forwards=num_forwards),
    num_bytes=job.num_images * sum(field.num_bytes for field in fields.values()),
    num_files=-(-job.num_images // job.unit_size) * (len(fields) + 1),
    seconds_per_launch=seconds_per_launch,
    is_whole=is_whole,
    startup_seconds=startup_seconds,
    images_read_per_second=images_read_per_second,
    # Every worker starts up, at the same time.
    seconds=startup_seconds + num_left * seconds_per_image / num_workers,
  )


def count_evaluations(job: Job) -> tuple[int, int]:
  """Gradients, and model evaluations beside them, that a backward search takes an image."""
  num_gradients = num_forwards = 0
  for phase in job.config.search.phases(job.num_features) if job.config.search is not None else ():
    if isinstance(phase.search, Exact):
      num_forwards += len(phase.sizes) + sum(phase.sizes)
    else:
      num_gradients += len(phase.sizes)
    if isinstance(phase.search, Screened):
      num_forwards += sum(min(phase.search.candidates, size) for size in phase.sizes)
  return num_gradients, num_forwards


def count_flops(job: Job, *, num_gradients: int, num_forwards: int) -> float:
  """Floating-point operations of so many gradients and evaluations, by XLA's count of one of each."""
  if not num_gradients + num_forwards:
    return 0.0
  inputs = jax.ShapeDtypeStruct((1, *job.classifier.input_shape), np.float32)
  forward = jax.jit(functools.partial(top_logit, job.search.predict_fn, job.search.grid))
  mask = jax.ShapeDtypeStruct((1, job.num_features), np.float32)
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
  return make_logits_fn(predict_fn, params, inputs, masking.check_baseline(0.0, inputs), grid)(mask).max(1).sum()


def analysed_flops(lowered: jax.stages.Lowered) -> float:
  """What XLA counts in a program, before it optimises it."""
  analysis: Any = lowered.cost_analysis()
  return float(analysis["flops"]) if analysis else float("nan")


def read_first_images(job: Job) -> tuple[dict[str, np.ndarray], float]:
  """The first launch's images, repeated where there are fewer, and how many a second reading gives."""
  num_images = job.batch_size * len(job.local_devices)
  indices = np.arange(num_images) % job.num_images
  next(batches.iterate_batches(job.source, indices, num_images))
  started = time.perf_counter()
  batch = next(batches.iterate_batches(job.source, indices, num_images))
  return batch, num_images / (time.perf_counter() - started)


def time_launch(job: Job, compiled: jax.stages.Compiled, batch: dict[str, np.ndarray]) -> float:
  """Seconds of one launch of the whole program."""
  arguments = launch_arguments(job, batch)
  started = time.perf_counter()
  jax.block_until_ready(compiled(*arguments))
  return time.perf_counter() - started


def time_backward(job: Job, batch: dict[str, np.ndarray]) -> float:
  """Seconds of the backward search of one launch, from some steps of each kind."""
  seconds = 0.0
  for phase in job.config.search.phases(job.num_features) if job.config.search is not None else ():
    num_steps = min(NUM_PROBED_STEPS[type(phase.search)], len(phase.sizes))
    # Sizes ascend, so that the last are the first steps, of which each tries the most features.
    probed = Phase(phase.search, phase.sizes[-num_steps:])
    search_steps = functools.partial(
      search_phase, job.search.predict_fn, grid=job.search.grid, score=job.config.score, phase=probed
    )
    steps = jax.pmap(search_steps, in_axes=(None, 0, 0), devices=job.local_devices)
    arguments = launch_arguments(job, batch)
    jax.block_until_ready(steps(*arguments))
    started = time.perf_counter()
    jax.block_until_ready(steps(*arguments))
    work = sum(step_cost(phase.search, size) for size in phase.sizes)
    probed_work = sum(step_cost(phase.search, size) for size in probed.sizes)
    seconds += (time.perf_counter() - started) * work / probed_work
  return seconds


def step_cost(search: Gradient | Screened | Exact, size: int) -> int:
  """What a step costs in relation to others of its kind: exact ones try every feature that is left."""
  return max(size, 1) if isinstance(search, Exact) else 1


def search_phase(
  predict_fn: PredictFn,
  params: Params,
  inputs: Float[Array, "B H W C"],
  requested: Int[Array, "B"],
  *,
  grid: tuple[int, ...],
  score: Any,
  phase: Phase,
) -> Array:
  """The ranks that some steps of a backward search give, on one device."""
  num_images = inputs.shape[0]
  order = run_backward(
    predict_fn,
    params,
    inputs,
    jnp.maximum(requested, 0),
    masking.check_baseline(0.0, inputs),
    jnp.ones((num_images, masking.num_features(grid)), bool),
    grid=grid,
    score=score,
    phases=(phase,),
  )
  return order.rank


def describe_estimate(job: Job, estimate: Estimate, *, num_workers: int) -> list[str]:
  """The estimate, some lines."""
  config = job.config
  num_devices = len(job.local_devices)
  images_per_launch = job.batch_size * num_devices
  rate = images_per_launch / estimate.seconds_per_launch
  lines = [
    f"images       {estimate.num_images}, of which {estimate.num_left} are not done",
    f"batch        {job.batch_size} a device, {num_devices} {job.local_devices[0].device_kind} device(s), "
    f"{num_workers} worker(s); units of {job.unit_size}",
  ]
  if config.search is not None:
    lines += [
      f"steps        {estimate.num_gradients} gradients and {estimate.num_forwards} evaluations an image, "
      f"{config.search}",
      f"operations   {estimate.flops_per_image:.3g} an image, {estimate.flops_per_image * estimate.num_left:.3g} for "
      "those that are left (XLA's count, backward search only)",
    ]
  lines += [
    f"results      {devices.format_bytes(estimate.num_bytes)} before compression, {estimate.num_files} files",
    f"probe        {estimate.seconds_per_launch:.3g} s for {images_per_launch} images, {rate:.3g} images/s"
    + ("" if estimate.is_whole else "; from some steps of the backward search, without what comes after it"),
    f"reading      {estimate.images_read_per_second:.3g} images/s",
    f"time         about {format_seconds(estimate.seconds)}, {estimate.startup_seconds:.3g} s to start up included"
    + ("; certificates and the smallest evidence depend on the images" if config.certificate == "full" else ""),
  ]
  return lines
