"""`jax-sis plan --on`: what a run will take on accelerators that are not at hand."""

import dataclasses
import time
from collections.abc import Sequence
from typing import NamedTuple

from jax_sis import results
from jax_sis.core.certified import NUM_SIZES
from jax_sis.core.searches import Exact, Phase, Screened
from jax_sis.runs.cluster_forecast import ClusterForecast, describe_cluster, forecast_cluster
from jax_sis.runs.cluster_simulation import Fleet
from jax_sis.runs.config import FindConfig
from jax_sis.runs.presets import describe_preset, settle_preset
from jax_sis.runs.roofline import (
  ACCELERATORS,
  GIGA,
  MATMUL_SHARE,
  MEMORY_SHARE,
  Accelerator,
  Work,
  count_work,
  estimate_seconds,
)
from jax_sis.runs.setup import FITTING_SHARE, Job, compile_search, make_job, read_stored_spec, resize, with_settings
from jax_sis.runs.sizes import Open, choose_unit_size, default_batch_size, find_open, settle_chunks, shrink
from jax_sis.runtime import devices
from jax_sis.runtime.progress import format_seconds


class Evaluations(NamedTuple):
  """Gradients, and model evaluations beside them, that a backward search takes an image."""

  gradients: int
  forwards: int


class Forecast(NamedTuple):
  """What a run will take elsewhere.

  Attributes:
    batch_size: images a chip at a time.
    num_bytes: memory that the program needs on each.
    num_left: images that are not done yet.
    seconds: time of the backward search of these.
    is_memory_bound: whether the chip's memory says so, and not its products.
    cluster: what machines that come and go take, where that is asked; their start is timed here.
  """

  batch_size: int
  num_bytes: int
  num_left: int
  seconds: float
  is_memory_bound: bool
  cluster: ClusterForecast | None = None


def forecast(config: FindConfig, name: str, *, num_workers: int, fleet: Fleet | None = None) -> Forecast:
  """Estimates and prints what a run takes on `num_workers` machines with as many of these chips as the settings say.

  Raises:
    ValueError: as for `find`, or there is no backward search, whose work alone can be counted.
  """
  if config.search is None:
    raise ValueError("--on must come with a backward search, whose steps can be counted, but --search has none.")
  accelerator, num_chips = ACCELERATORS[name], config.num_devices or 1
  print("Opening and compiling ...", flush=True)
  started = time.perf_counter()
  job, num_bytes = size_for(config, accelerator, num_chips=num_chips)
  startup_seconds = time.perf_counter() - started
  num_done = 0 if job.is_new else results.open(config.out).count_done()
  counted = count_evaluations(job)
  work = count_work(job.predict_fn, job.params, job.classifier.input_shape)
  # A gradient goes forward and back.
  num_passes = 2 * counted.gradients + counted.forwards
  of_image = Work(num_passes * work.flops, num_passes * work.numbers)
  estimate = estimate_seconds(accelerator, config.precision, of_image)
  num_left = job.num_images - num_done
  num_launches = -(-num_left // (job.batch_size * num_chips * num_workers))
  found = Forecast(
    batch_size=job.batch_size,
    num_bytes=num_bytes,
    num_left=num_left,
    seconds=num_launches * job.batch_size * estimate.seconds,
    is_memory_bound=estimate.is_memory_bound,
  )
  lines = describe_forecast(job, found, counted, of_image, name=name, num_chips=num_chips, num_workers=num_workers)
  print("\n".join(lines), flush=True)
  if fleet is None:
    return found
  cluster = forecast_cluster(
    job,
    fleet,
    num_left=num_left,
    launch_seconds=job.batch_size * estimate.seconds,
    launch_size=job.batch_size * num_chips,
    startup_seconds=startup_seconds,
  )
  print("\n".join(describe_cluster(cluster)), flush=True)
  return found._replace(cluster=cluster)


def describe_forecast(
  job: Job, found: Forecast, counted: Evaluations, work: Work, *, name: str, num_chips: int, num_workers: int
) -> list[str]:
  gigabytes = ACCELERATORS[name].gigabytes
  fits = "" if found.num_bytes <= gigabytes * GIGA else "; IT DOES NOT FIT"
  bound = (
    f"{MEMORY_SHARE:.2f} of its memory's rate"
    if found.is_memory_bound
    else f"{MATMUL_SHARE:.2f} of its rate of products"
  )
  preset = describe_preset(job.config, job.classifier.input_shape)
  return [
    *([preset] if preset else []),
    f"images       {job.num_images}, of which {found.num_left} are not done",
    f"batch        {job.sizes} at a time, {num_chips} {name} a machine, {num_workers} machine(s); units of "
    f"{job.unit_size}",
    f"steps        {counted.gradients} gradients and {counted.forwards} evaluations an image, {job.config.search}",
    f"operations   {work.flops:.3g} an image, {work.flops * found.num_left:.3g} for those that are left (products and "
    "sums of the layers, backward search only)",
    f"memory       {devices.format_bytes(found.num_bytes)} of {gigabytes:g} GB a chip, as this machine's compiler lays "
    f"the program out{fits}",
    f"time         about {format_seconds(found.seconds)} for the backward search at precision {job.config.precision}, "
    f"if the chip reaches {bound} by the data sheet, as an H100 with 1,024 images of 32x32 at a time and a ResNet-20; "
    "with 64 it took 1.8 (float32) to 4.7 times (TF32) as long an image. Certificates and the smallest evidence depend "
    "on the images and are not in it",
  ]


def size_for(config: FindConfig, accelerator: Accelerator, *, num_chips: int) -> tuple[Job, int]:
  """The job with the sizes that it gets there, and the bytes that it needs on each chip."""
  folder = results.open_folder(config.out)
  stored = read_stored_spec(folder)
  job = make_job(dataclasses.replace(config, batch_size=1, num_devices=1), folder)
  shape = job.classifier.input_shape
  config = settle_preset(config, shape)
  job = with_settings(job, settle_chunks(config, accelerator.platform, shape, stored=stored))
  if stored is None:
    default = default_batch_size(
      accelerator.platform,
      shape,
      num_images=job.num_images,
      num_devices=num_chips,
      num_draws=config.num_draws,
    )
    batch_size = config.batch_size or default
    unit_size = config.unit_size or choose_unit_size(job.num_images, batch_size)
  else:
    batch_size, unit_size = stored["batch_size"], stored["unit_size"]
  job = dataclasses.replace(job, batch_size=batch_size, unit_size=unit_size)
  is_open = find_open(config) if stored is None else Open(batch=False, chunk=False)
  while True:
    needed = devices.program_bytes(compile_search(job, checks_memory=False).compiled)
    fitting_share = FITTING_SHARE * accelerator.gigabytes * GIGA / needed
    smaller = shrink(job.sizes, accelerator.platform, is_open, fitting_share=fitting_share)
    if fitting_share >= 1 or smaller is None:
      return job, needed
    job = resize(job, config, smaller)


def count_evaluations(job: Job) -> Evaluations:
  """What the backward search of this job takes, and a lattice; where there are draws, their certificates at most."""
  draws = job.config.completion
  if draws is None:
    searched = count_phases(job.search.phases)
    return searched._replace(forwards=searched.forwards + (1 << job.num_features)) if job.config.lattice else searched
  searched = count_phases(job.search.phases, num_draws=draws.num_draws, num_tried=draws.num_tried or draws.num_draws)
  # Each size is tested on draws of its own, and the rate of the one that is found is measured on others.
  num_certified = (NUM_SIZES + 1) * draws.num_tested
  return searched._replace(forwards=searched.forwards + num_certified)


def count_phases(phases: Sequence[Phase], *, num_draws: int = 1, num_tried: int = 1) -> Evaluations:
  """What these phases take where a mask is evaluated, or a candidate tried, on so many draws."""
  num_gradients = num_forwards = 0
  for phase in phases:
    if isinstance(phase.search, Exact):
      num_forwards += num_draws * len(phase.sizes) + num_tried * sum(phase.sizes)
    else:
      num_gradients += num_draws * len(phase.sizes)
    if isinstance(phase.search, Screened):
      num_forwards += num_tried * sum(min(phase.search.candidates, size) for size in phase.sizes)
  return Evaluations(num_gradients, num_forwards)
