"""`jax-sis`: hands the options of each command to its program, and ends as a command should."""

import argparse
import dataclasses
import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from jax_sis.cli import parser
from jax_sis.runtime import devices, interrupts

if TYPE_CHECKING:
  from jax_sis.results.query import PixelSubset
  from jax_sis.runs.config import FindConfig

# What a shell calls a command that SIGPIPE ended.
BROKEN_PIPE = 141
AFTER_INTERRUPT = {
  "bench": "the same command begins anew",
  "checkpoint import": "the same command begins anew",
  "checkpoint ensemble": "the same command begins anew",
  "data prepare": "nothing was kept, and the same command begins anew",
  "verify": "the same command begins anew",
  "controls": "no half file was kept, and the same command begins anew",
  "export": "no half file was kept, and the same command begins anew",
  "status": "the run itself is not touched",
  "analyse": "the same command begins anew",
  "report": "no half file was kept, and the same command begins anew",
}


def main(command_line: Sequence[str] | None = None) -> int:
  """Runs a command line and returns its exit code."""
  try:
    try:
      return run(command_line)
    finally:
      sys.stdout.flush()
  except BrokenPipeError:
    # Whoever read the output has seen enough, as `| head` does. Python flushes once more as it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


def run(command_line: Sequence[str] | None) -> int:
  """Runs a command line; what a user has to hear goes to standard error."""
  options = parser.make_parser().parse_args(command_line)
  # TFDS recommends another decoder of images whenever it opens a data set.
  logging.getLogger("absl").setLevel(logging.ERROR)
  what_now = AFTER_INTERRUPT.get(options.command, "the same command goes on where it stopped")
  try:
    with interrupts.leave_on_signals(options.command, what_now):
      return RUNNERS[options.command](options) or 0
  except ValueError as error:
    print(f"jax-sis {options.command}: {error}", file=sys.stderr)
    return 2


def run_find(options: argparse.Namespace) -> None:
  """Hands the options of `find` over."""
  config = make_find_config(options)
  devices.use_one_cpu_device_per_core(options.devices)
  devices.use_compilation_cache()
  from jax_sis.runs import find, workers

  if options.distributed:
    if options.shard:
      raise ValueError("--shard and --distributed must not both be given; a distributed job knows its parts.")
    shard = workers.start_distributed()
  else:
    shard = workers.parse_shard(options.shard) if options.shard else workers.find_shard(os.environ)[0]
  find.find(config, shard=shard, takes_over=options.take_over)
  if options.distributed:
    workers.finish_distributed()


def run_plan(options: argparse.Namespace) -> None:
  """Hands the options of `plan` over."""
  config = make_find_config(options)
  devices.use_one_cpu_device_per_core(options.devices)
  devices.use_compilation_cache()
  from jax_sis.runs import plan

  plan.plan(config, num_workers=options.workers)


def run_status(options: argparse.Namespace) -> None:
  """Hands the options of `status` over."""
  from jax_sis.runs import status

  status.status(options.run_dir, watch_seconds=options.watch)


def run_export(options: argparse.Namespace) -> None:
  """Hands the options of `export` over."""
  from jax_sis.runs import export

  print(export.export(options.run_dir, to=options.to, masks=tuple(options.masks), is_partial=options.partial))


def run_analyse(options: argparse.Namespace) -> None:
  """Hands the options of `analyse` over."""
  from jax_sis.studies.analysis import program

  program.analyse(
    program.StudyConfig(
      run_dirs=tuple(options.run_dirs),
      out=options.out,
      labels=tuple(options.labels),
      thresholds=tuple(options.thresholds),
      fraction=options.fraction,
      has_class_curves=options.class_curves,
      seed=options.seed,
    )
  )


def run_attributions(options: argparse.Namespace) -> None:
  """Hands the options of `attributions` over."""
  devices.use_one_cpu_device_per_core(options.devices)
  devices.use_compilation_cache()
  from jax_sis.studies.attributions import program as attributions_program

  attributions_program.attributions(
    attributions_program.AttributionsConfig(
      **image_set_options(options),
      num_images=options.images,
      methods=tuple(options.methods or attributions_program.DEFAULT_METHODS),
      per_step=options.per_step,
    )
  )


def run_report(options: argparse.Namespace) -> None:
  """Hands the options of `report` over."""
  from jax_sis.report import program as report_program

  report_program.report(
    report_program.ReportConfig(
      run_dir=options.run_dir,
      out=options.out,
      analysis=options.analysis,
      title=options.title,
      gallery=options.gallery,
      checkpoint=options.checkpoint,
      data_dir=options.data_dir,
    )
  )


def run_disjoint(options: argparse.Namespace) -> None:
  """Hands the options of `disjoint` over."""
  devices.use_one_cpu_device_per_core(options.devices)
  devices.use_compilation_cache()
  from jax_sis.studies.disjoint import program as disjoint_program

  disjoint_program.disjoint(
    disjoint_program.DisjointConfig(
      **image_set_options(options),
      num_images=options.images,
      per_step=options.per_step,
      max_subsets=options.max_subsets,
      is_minimised=options.minimised,
    )
  )


def image_set_options(options: argparse.Namespace) -> dict[str, Any]:
  """The options on classifier, images and devices that studies without a run share."""
  from jax_sis.data.sources import read_ids

  return {
    "out": options.out,
    "checkpoint": options.checkpoint,
    "data": options.data,
    "split": options.split,
    "data_dir": options.data_dir,
    "ids": read_ids(options.ids) if options.ids is not None else None,
    "resize": options.resize,
    "patch": options.patch,
    "threshold": options.threshold,
    "batch_size": options.batch,
    "num_devices": options.devices,
    "seed": options.seed,
  }


def make_find_config(options: argparse.Namespace) -> "FindConfig":
  """The options on a search as its settings."""
  finds_smallest = options.search in ("both", "smallest")
  if options.thorough and not finds_smallest:
    raise ValueError(f"--thorough must come with --search both or smallest, got --search {options.search}.")
  if options.per_step != 1 and options.search not in ("both", "gradient"):
    raise ValueError(f"--per-step must come with --search both or gradient, got --search {options.search}.")
  from jax_sis.core.searches import Exact, Gradient, Screened
  from jax_sis.core.smallest import QUICK, THOROUGH
  from jax_sis.data.sources import read_ids
  from jax_sis.runs.config import FindConfig

  backward = {
    "gradient": Gradient(per_step=options.per_step),
    "screened": Screened(),
    "exact": Exact(),
    "both": Gradient(per_step=options.per_step),
  }
  effort = THOROUGH if options.thorough else QUICK
  ids = read_ids(options.ids) if options.ids is not None else None
  return FindConfig(
    out=options.out,
    checkpoint=options.checkpoint,
    data=options.data,
    split=options.split,
    data_dir=options.data_dir,
    ids=ids,
    search=backward.get(options.search),
    smallest=effort.forward if finds_smallest else None,
    exchanges=effort.exchanges,
    score=options.score,
    threshold=options.threshold,
    target=options.target,
    baseline=options.baseline,
    patch=options.patch,
    certificate=options.certificate,
    precision=options.precision,
    saved=options.save,
    mask_thresholds=tuple(options.mask_threshold),
    mask_fractions=tuple(options.mask_fraction),
    batch_size=options.batch,
    unit_size=options.unit,
    num_devices=options.devices,
    resize=options.resize,
    gallery=options.gallery,
  )


def make_subset(options: argparse.Namespace) -> "PixelSubset | None":
  """The options on which pixels are shown as a setting; None shows all."""
  from jax_sis.results.query import PixelSubset

  of_run = {"fraction": options.subset_fraction, "threshold": options.subset_threshold, "answer": options.subset_answer}
  given = [f"--subset-{name}" for name, value in of_run.items() if value is not None]
  if options.subset is not None and options.random_fraction is not None:
    raise ValueError("--subset and --random-fraction must not both be given; each says which pixels are shown.")
  if given and options.subset is None:
    raise ValueError(f"{given[0]} must come with --subset RUN.")
  if options.subset_seed is not None and options.random_fraction is None:
    raise ValueError("--subset-seed must come with --random-fraction.")
  fill = 0.0 if options.fill is None else options.fill
  if options.subset is not None:
    of_run["answer"] = options.subset_answer or "sis"
    return PixelSubset(run=options.subset, fill=fill, allows_other_baseline=options.fill is not None, **of_run)
  if options.random_fraction is not None:
    return PixelSubset(random_seed=options.subset_seed or 0, fraction=options.random_fraction, fill=fill)
  if options.fill is not None:
    raise ValueError("--fill must come with --subset or --random-fraction.")
  return None


def run_verify(options: argparse.Namespace) -> int:
  """Hands the options of `verify` over; 1 says that something is damaged."""
  devices.use_one_cpu_device_per_core(options.devices)
  devices.use_compilation_cache()
  from jax_sis.runs import verify

  is_sound = verify.verify(
    options.run_dir,
    num_sampled=options.sample,
    seed=options.seed,
    checkpoint=options.checkpoint,
    data_dir=options.data_dir,
    is_report_only=options.report_only,
    num_devices=options.devices,
  )
  return 0 if is_sound else 1


def run_controls(options: argparse.Namespace) -> None:
  """Hands the options of `controls` over."""
  devices.use_compilation_cache()
  from jax_sis.studies.controls import program as controls_program

  controls_program.controls(
    controls_program.ControlsConfig(
      run_dir=options.run_dir,
      limit=options.limit,
      num_wrong_class=options.wrong_class,
      max_features=options.max_features,
      mask_fractions=tuple(options.mask_fraction),
      seed=options.seed,
      checkpoint=options.checkpoint,
      data_dir=options.data_dir,
    )
  )


def run_evaluate(options: argparse.Namespace) -> None:
  """Hands the options of `evaluate` over."""
  from jax_sis.evaluation.config import EvaluateConfig

  config = EvaluateConfig(
    out=options.out,
    checkpoint=options.checkpoint,
    data=options.data,
    split=options.split,
    data_dir=options.data_dir,
    resize=options.resize,
    limit=options.limit,
    on_error=options.on_error,
    corruptions=options.corruptions,
    subset=make_subset(options),
    seed=options.seed,
    num_bins=options.bins,
    level=options.level,
    batch_size=options.batch,
    num_devices=options.devices,
  )
  devices.use_one_cpu_device_per_core(options.devices)
  from jax_sis.evaluation import evaluate

  evaluate.evaluate(config)


def run_reproduce(options: argparse.Namespace) -> None:
  """Hands the options of `reproduce` over."""
  devices.use_one_cpu_device_per_core()
  devices.use_compilation_cache()
  from jax_sis.reproduction import program as reproduction_program

  config = reproduction_program.ReproduceConfig(
    preset=options.preset,
    out=options.out or f"jax-sis-study-{options.preset}",
    data_dir=options.data_dir,
    is_summary=options.summary,
  )
  if options.plan:
    reproduction_program.show_plan(config)
  else:
    reproduction_program.reproduce(config)


def run_bench(options: argparse.Namespace) -> None:
  """Hands the options of `bench` over."""
  devices.use_one_cpu_device_per_core(options.devices)
  from jax_sis.runs import bench

  bench.bench(
    checkpoint_dir=options.checkpoint,
    batch_sizes=tuple(options.batch),
    per_step=options.per_step,
    num_steps=options.steps,
    num_runs=options.runs,
    num_devices=options.devices,
  )


def run_train(options: argparse.Namespace) -> None:
  """Hands the options of `train` over."""
  from jax_sis.training import train
  from jax_sis.training.config import load_config

  config = load_config(options.config, options.set)
  config = dataclasses.replace(config, subset=make_subset(options) or config.subset)
  devices.use_one_cpu_device_per_core(config.num_devices)
  directory = train.train(config, data_dir=options.data_dir, out_dir=options.out, tensorboard=options.tensorboard)
  print(f"Written to {directory}; use it by jax-sis find --checkpoint {directory}")


def run_data_prepare(options: argparse.Namespace) -> None:
  """Hands the options of `data prepare` over."""
  from jax_sis.data import prepare

  directory = prepare.prepare(options.name, source=options.source, data_dir=options.data_dir)
  # The embedded classifier knows the classes of CIFAR-10 only.
  checkpoint = "" if options.name == "cifar10" else "--checkpoint CLASSIFIER "
  place = f" --data-dir {shlex.quote(options.data_dir)}" if options.data_dir else ""
  print(f"It lies in {directory}; use it by jax-sis find {checkpoint}--data {options.name}{place}")


def run_import(options: argparse.Namespace) -> None:
  """Hands the options of `checkpoint import` over."""
  from jax_sis.classifiers import import_checkpoint

  class_names = options.classes and import_checkpoint.read_class_names(options.classes, data_dir=options.data_dir)
  classifier = import_checkpoint.import_weights(
    options.file,
    out_dir=options.out,
    normalisation=import_checkpoint.parse_normalisation(options.normalisation),
    model_name=options.model,
    class_names=class_names,
    image_size=options.size,
    key=options.key,
  )
  print(f"{classifier.model_name}, {len(classifier.class_names)} classes; use it by --checkpoint {options.out}")


def run_ensemble(options: argparse.Namespace) -> None:
  """Hands the options of `checkpoint ensemble` over."""
  from jax_sis.classifiers import import_checkpoint

  classifier = import_checkpoint.join_ensemble(options.members, average=options.average, out_dir=options.out)
  print(f"{classifier.model_name}, mean of {options.average}; use it by --checkpoint {options.out}")


RUNNERS: dict[str, Callable[[argparse.Namespace], int | None]] = {
  "find": run_find,
  "plan": run_plan,
  "verify": run_verify,
  "controls": run_controls,
  "status": run_status,
  "export": run_export,
  "analyse": run_analyse,
  "attributions": run_attributions,
  "disjoint": run_disjoint,
  "report": run_report,
  "bench": run_bench,
  "evaluate": run_evaluate,
  "train": run_train,
  "reproduce": run_reproduce,
  "checkpoint import": run_import,
  "checkpoint ensemble": run_ensemble,
  "data prepare": run_data_prepare,
}
