"""The commands `find` and `plan`."""

import dataclasses
import os
from typing import Annotated

from jax_sis.cli.options import DEVICE, IMAGE, WORKER, get_devices_ready
from jax_sis.cli.parsing import Command
from jax_sis.runs.config import FindConfig
from jax_sis.runs.options import PlanOptions
from jax_sis.runtime.command_line import Option
from jax_sis.runtime.engines import Engine

GROUPS = {
  "image": f"{IMAGE} ids",
  "search": "preset threshold target search thorough per_step lattice score baseline removal patch certificate "
  "precision",
  "completion": "kind pool pool_split num_pooled num_draws num_tried rate level num_tested seed",
  "output": "out saved mask_thresholds mask_fractions unit_size gallery",
  "device": f"{DEVICE} chunk_size",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerOptions(Engine):
  """How one process of several takes part in a run.

  Attributes:
    shard: do part I of N, counted from 0 (default: as a job array or srun of SLURM, mpirun, an Indexed Job of
      Kubernetes or a TPU pod started this process; else all).
  """

  shard: Annotated[str | None, Option(metavar="I/N")] = None

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.engine == "ray" and self.shard:
      raise ValueError("--engine ray must come without --shard: it hands out the work.")


def run_find(config: FindConfig, options: WorkerOptions) -> None:
  if options.engine == "ray":
    from jax_sis.runs import on_ray

    on_ray.find_on_ray(config, options)
    return
  get_devices_ready(config.num_devices)
  from jax_sis.runs import find, shards

  shard = shards.parse_shard(options.shard) if options.shard else shards.find_shard(os.environ)[0]
  find.find(config, shard=shard)


def run_plan(config: FindConfig, options: PlanOptions) -> None:
  get_devices_ready(config.num_devices)
  from jax_sis.runs import plan

  plan.plan(config, options)


COMMANDS = {
  "find": Command(
    settings=(FindConfig, WorkerOptions),
    run_fn=run_find,
    description="""\
Finds the sufficient input subset of every image and the smallest evidence for the same answer, prints a table as it
goes and writes a folder: gallery.png (image, subsets, order), summary.csv, summary.json, and results.zarr with the
whole order, its confidences and the smallest subsets. The same command again goes on with an unfinished run.

Columns of the table: confidence is that of the target class on the whole image. For each kind of subset (SIS: read from
the search's order of all pixels; smallest: the smallest evidence found) pixels and share are its size, and "alone" is
the confidence on the subset with the rest masked, from a fresh evaluation. The certificate says whether that suffices,
and how many of the pixels could each be dropped (1-minimal: none) or that no smaller subset exists (known of one pixel,
and of two once every single pixel was tried).

With --removal layer, masked pixels are absent from a convolutional network and show nothing; the baseline is only what
pictures paint them in. It answers another question than a background: docs/removal.md.

With --lattice, every subset of few squares is evaluated: optimum is the smallest that there is, by which the others can
be judged. results.zarr and summary.csv hold how many minimal sufficient and contrastive sets there are, the smallest
set whose masking alone loses the class, and exact Shapley and Banzhaf values of the log-odds.

With --completion, masked pixels show draws in place of one colour. Robust subsets are the smallest of each order that
are certified to keep the class on --rate of draws that the search never saw, each image at --level; "kept on" is the
rate measured on still others, of the largest subset tested where none is certified. backgrounds.png shows six of these.
""",
    examples=(
      "find",
      "find --search smallest --thorough --out smallest",
      "find --checkpoint runs/mine/classifier --data cifar10 --data-dir DATA --split 'test[:64]' --out runs/sis",
      "find --data photos/ --resize --target cat --threshold 0.9",
      "find --lattice --patch 8 --data cifar10 --data-dir DATA --split 'test[:64]'",
      "find --completion images --pool DATA/other-photos --draws 32 --rate 0.9 --per-step 8",
    ),
    groups={**GROUPS, "worker": f"{WORKER} shard"},
  ),
  "plan": Command(
    settings=(FindConfig, PlanOptions),
    run_fn=run_plan,
    description="""\
Says what `find` with the same options will do, before it does: images, steps, floating-point operations, bytes, and an
estimate of the time from a short timed probe on this machine. It writes nothing into the results folder.

With --on, the time is that of an accelerator that need not be here: the products and sums of the backward search, and
the numbers that they touch, over the shares of a data sheet's rates that one network (ResNet-20) reached on one chip
(H100) with 1,024 images at a time. The memory is what this machine's compiler says that the program needs.

With --preempted-every, it also simulates --engine ray on machines that come and go, from what a launch, the start and
storing a unit take: a line for each size of unit, with the time, the work that is done twice, and which size is best.
""",
    examples=(
      "plan --data cifar10 --data-dir DATA --search gradient --per-step 4 --certificate alone",
      "plan --checkpoint runs/resnet50 --data imagenet2012 --data-dir DATA --split train --resize --search gradient "
      "--per-step 100 --certificate alone --save mask --mask-fraction 0.1 --workers 64",
      "plan --data cifar10 --data-dir DATA --search gradient --precision default --on h100",
      "plan --data cifar10 --data-dir DATA --search gradient --out gs://BUCKET/run --workers 256 --preempted-every 30m",
    ),
    groups={**GROUPS, "worker": "num_workers accelerator preempted_every replaced_after spread"},
  ),
}
