"""What `find` says before a run that will take more than an hour: how long, and what would be faster."""

from jax_sis.core.searches import Gradient
from jax_sis.runs.forecast import count_evaluations
from jax_sis.runs.plan import read_first_images, time_backward
from jax_sis.runs.roofline import count_work
from jax_sis.runs.setup import Job, explain_out_of_memory
from jax_sis.runtime.progress import format_seconds

LONG_SECONDS = 3600.0
# Operations a second that a device may reach; a run that is short at a tenth of that is not timed first.
RATES = {"cpu": 1e11, "gpu": 1e14, "tpu": 1e14}
LOWEST_SHARE = 0.1
# Passes times pixels of runs that are short on any network, for which not even operations are counted.
SHORT_WORK = 1e8


def warn_of_long_run(job: Job, num_images: int) -> str:
  """Lines on a run that takes more than an hour on this machine; empty for others. It may time some steps of it.

  Args:
    job: the run.
    num_images: those that this worker will search.
  """
  seconds = estimate_seconds(job, num_images) if may_be_long(job, num_images) else 0.0
  if seconds < LONG_SECONDS:
    return ""
  return "\n".join(
    [
      f"This will take about {format_seconds(seconds)} for {num_images} images on {job.devices_name}, from some timed "
      "steps of the backward search; it can be stopped and goes on by the same command. Faster would be:",
      *(f"  {line}" for line in list_faster(job, num_images)),
    ]
  )


def may_be_long(job: Job, num_images: int) -> bool:
  """Whether the run takes more than an hour where the devices reach a small share of their rate."""
  counted = count_evaluations(job)
  # A gradient goes forward and back.
  num_passes = num_images * (2 * counted.gradients + counted.forwards)
  height, width = job.classifier.input_shape[:2]
  if num_passes * height * width < SHORT_WORK:
    return False
  work = count_work(job.predict_fn, job.params, job.classifier.input_shape)
  rate = RATES.get(job.platform, RATES["gpu"]) * len(job.local_devices) * LOWEST_SHARE
  return num_passes * work.flops / rate >= LONG_SECONDS


def estimate_seconds(job: Job, num_images: int) -> float:
  """The time of the backward search of this many images, from some steps of a launch."""
  batch, _ = read_first_images(job)
  with explain_out_of_memory(job):
    return time_backward(job, batch) * num_images / job.launch_size


def list_faster(job: Job, num_images: int) -> list[str]:
  """What would take less time, an option a line."""
  config = job.config
  search = config.search
  lines = []
  if isinstance(search, Gradient) and search.share:
    lines.append(f"--step-share {min(2 * search.share, 0.5):g}: half as many steps, and larger subsets")
  elif isinstance(search, Gradient):
    lines.append(f"--per-step {4 * search.per_step}: a quarter of the steps, and larger subsets")
  else:
    lines.append("--search gradient: one gradient a step in place of many trials, and larger subsets")
  if config.certificate == "full":
    lines.append("--certificate alone: without dropping each pixel of each subset")
  if num_images > 1:
    lines.append("--ids FILE: fewer images")
  lines.append("--shard I/N: the same command on N machines, each with its own I")
  if job.platform == "cpu":
    lines.append("a GPU or TPU: jax-sis plan --on h100 with these options says how much")
  return lines
