"""The sizes of a new run, proved by its first launch: what runs out of memory is made smaller before the run begins."""

import functools

import numpy as np

from jax_sis import results
from jax_sis.runs.config import FindConfig
from jax_sis.runs.presets import settle_preset
from jax_sis.runs.setup import (
  Job,
  after_out_of_memory,
  create_or_resume,
  fit_memory,
  make_job,
  read_stored_spec,
)
from jax_sis.runs.shards import Shard
from jax_sis.runs.unit_search import read_launches
from jax_sis.runtime import devices


def open_run(config: FindConfig, folder: results.Folder, shard: Shard) -> tuple[Job, results.Results]:
  """The job, and its store, which is only made once the sizes in its specification are known to fit the memory.

  Raises:
    ValueError: as for `find`.
  """
  job = make_job(config, folder)
  config = settle_preset(config, job.classifier.input_shape)
  if job.is_new:
    job = prove_sizes(job, config, shard)
  try:
    return job, create_or_resume(job, config)
  except ValueError:
    if not job.is_new or read_stored_spec(folder) is None:
      raise
  # Another worker has begun the run meanwhile, and its sizes count.
  job = make_job(config, folder)
  return job, create_or_resume(job, config)


def prove_sizes(job: Job, asked: FindConfig, shard: Shard) -> Job:
  """The job with sizes that fit the memory, compiled, and on accelerators after this worker's first launch."""
  while True:
    job = job if job.program else fit_memory(job, asked)
    # On a CPU, what the compiled program says it needs is all there is to know.
    if job.platform == "cpu" or devices.unless_out_of_memory(functools.partial(run_first_launch, job, shard)):
      return job
    job = after_out_of_memory(job, asked)


def run_first_launch(job: Job, shard: Shard) -> bool:
  """Runs what the worker begins with, whose results its program keeps; True."""
  assert job.program is not None
  units = np.arange(-(-job.num_images // job.unit_size))
  own = shard.select(units)
  # A worker whose part is empty must prove the sizes, too: others go on with them.
  for _, arrays in read_launches(job, own if len(own) else units):
    job.program.try_launch(*arrays)
    break
  return True
