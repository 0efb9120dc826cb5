"""`jax-sis holds`: on which backgrounds do the first pixels of an order keep the class, and how many does that take?

Orders of runs and of attributions are judged on the same images and the same draws: other images, noise, the image's
own blur, and true pixels that come in.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

from jax_sis import results
from jax_sis.classifiers.attributions import Attribution, Random, hash_id, make_allowed, split_for_grad_cam
from jax_sis.classifiers.on_images import describe_set
from jax_sis.core.attribution import rank_scores
from jax_sis.core.attribution_methods import GradientTimesInput, IntegratedGradients, Rise
from jax_sis.core.types import Params
from jax_sis.runs.setup import Job
from jax_sis.runtime.device_program import DeviceProgram
from jax_sis.runtime.progress import Progress
from jax_sis.runtime.records import append_record, read_records
from jax_sis.studies.holds import report
from jax_sis.studies.holds.asked import Judged, Pool, Run, choose_images, choose_sizes, open_job, open_pool, open_runs
from jax_sis.studies.holds.config import ATTRIBUTIONS, HoldsConfig
from jax_sis.studies.holds.judge import Judge
from jax_sis.studies.holds.summaries import Held, Order

FORMAT = "jax_sis.holds/1"
LINES_FILE = "holds.jsonl"

Scores = Attribution | Random
# By the order and the condition, for each image and size the draws on which the class is kept.
Counts = dict[tuple[str, str], list[list[int]]]


def holds(config: HoldsConfig) -> dict[str, Any]:
  """Judges orders, or goes on with it; prints the table and its reading, writes JSON, CSV and figures.

  Args:
    config: what to judge, see HoldsConfig.

  Returns:
    What `holds.json` holds.

  Raises:
    ValueError: a setting is wrong or does not fit the runs, the classifier or images at hand are not theirs, the pool
      is too small, or the folder holds another run.
    StorageError: a run cannot be read, or the folder not be written.
  """
  folder = results.open_folder(config.out)
  results.check_writable(folder)
  runs = open_runs(config)
  job = open_job(config, runs[0])
  sizes = choose_sizes(config, job.grid)
  judged = choose_images(config, runs, job)
  pool = open_pool(config, job, judged)
  attributions, left_out = make_attributions(config, job)
  conditions = [name for name in config.conditions if name != "images" or pool is not None]
  if not conditions:
    raise ValueError("--pool must name images for the condition 'images', the only one that is asked for, got none.")
  spec = results.settle_spec(config.out, make_spec(config, job, judged, pool, sizes), command_fn=config.command_in)
  orders = {run.sha256: Order(title=run.label, kind="search") for run in runs}
  orders |= {name: Order(title=ATTRIBUTIONS[name], kind="attribution") for name in attributions}
  rank_fns: dict[str, Callable[[], Int[np.ndarray, "N F"]]] = {
    run.sha256: functools.partial(read_rank, run, judged) for run in runs
  }
  rank_fns |= {name: functools.partial(rank_images, job, scores, judged) for name, scores in attributions.items()}
  notes = [*describe_pool(pool, runs), *(f"Left out: {reason}." for reason in left_out)]
  for line in (describe_asked(job, judged), *notes):
    print(line, flush=True)
  lines = pathlib.Path(config.out) / LINES_FILE
  counts: Counts = {(record["order"], record["condition"]): record["num_kept"] for record in read_records(lines)}
  judges = {name: make_judge(config, job, pool, name, sizes) for name in conditions}
  judge_missing(judges, judged, rank_fns, counts, lines)
  return report.write_report(
    folder,
    Held(
      orders=orders,
      conditions=tuple(conditions),
      ids=judged.ids,
      sizes=sizes,
      num_features=job.num_features,
      num_draws=config.num_draws,
      num_added=config.num_added,
      rate=config.rate,
      kept={place: np.array(counts[place]) / config.num_draws for place in product(orders, conditions)},
    ),
    spec=spec,
    notes=notes,
    subject=f"{job.classifier.model_name} on {job.data_name}",
    command=config.command,
  )


def make_spec(config: HoldsConfig, job: Job, judged: Judged, pool: Pool | None, sizes: Sequence[int]) -> dict[str, Any]:
  """What fixes the results, in JSON types; not the orders and conditions, since more can be added later."""
  return {
    "format": FORMAT,
    **describe_set(job),
    "baseline": job.config.baseline,
    "ids": hashlib.sha256("\0".join(judged.ids).encode()).hexdigest(),
    "pool": pool and pool.description,
    "sizes": list(sizes),
    "num_draws": config.num_draws,
    "num_added": config.num_added,
    "seed": config.seed,
  }


def make_attributions(config: HoldsConfig, job: Job) -> tuple[dict[str, Scores], list[str]]:
  """Those that are asked for, and what is left out and why."""
  makers: Mapping[str, Callable[[], Scores]] = {
    "gradient_x_input": lambda: Attribution(GradientTimesInput(), baseline=job.config.baseline),
    "integrated_gradients": lambda: Attribution(IntegratedGradients(), baseline=job.config.baseline),
    "grad_cam": lambda: Attribution(split_for_grad_cam(job), baseline=job.config.baseline),
    # Of the probability, as in its source.
    "rise": lambda: Attribution(Rise(seed=config.seed), "probability", job.config.baseline),
    "random": lambda: Random(config.seed),
  }
  made, reasons = make_allowed(makers, config.attributions)
  left_out = [f"{ATTRIBUTIONS[name]} ({reason})" for name, reason in reasons.items()]
  if config.pool is None and "images" in config.conditions:
    left_out.append("unseen images (--pool names images to draw from)")
  return made, left_out


def describe_asked(job: Job, judged: Judged) -> str:
  images = f"{len(judged.ids)} images of {job.data_name}"
  return f"Orders of pixels by {job.classifier.model_name} on {images}, {job.devices_name}."


def describe_pool(pool: Pool | None, runs: Sequence[Run]) -> list[str]:
  """Where backgrounds come from, which images are left out, and what a search may have seen of them."""
  if pool is None:
    return []
  unread = f", {pool.num_unreadable} that cannot be read" if pool.num_unreadable else ""
  lines = [
    f"Backgrounds are {len(pool.images)} images of {pool.name}; left out of these: {pool.num_judged} that are among "
    f"the judged images{unread}."
  ]
  seen = [run.label for run in runs if pool.is_of(run.searched)]
  if seen:
    lines.append(f"The search of {' and of '.join(seen)} drew from the same data, so that these are not all unseen.")
  return lines


def product(orders: Mapping[str, Order], conditions: Sequence[str]) -> list[tuple[str, str]]:
  return [(order, condition) for order in orders for condition in conditions]


def make_judge(
  config: HoldsConfig, job: Job, pool: Pool | None, condition: str, sizes: tuple[int, ...]
) -> DeviceProgram:
  """A condition as a program on all devices."""
  judge = Judge(
    condition=condition,
    predict_fn=job.predict_fn,
    grid=job.grid,
    sizes=sizes,
    num_draws=config.num_draws,
    num_added=config.num_added,
    baseline=job.config.baseline,
    seed=config.seed,
  )
  drawn = pool.images if pool is not None and condition == "images" else None
  return dataclasses.replace(job, params=(job.params, drawn)).make_program(judge)


def judge_missing(
  judges: Mapping[str, DeviceProgram],
  judged: Judged,
  rank_fns: Mapping[str, Callable[[], Int[np.ndarray, "N F"]]],
  counts: Counts,
  lines: pathlib.Path,
) -> None:
  """Judges the orders that are missing under a condition, and appends a line to the file for each."""
  num_images = len(judged.ids)
  asked = [(order, condition) for order in rank_fns for condition in judges]
  start = sum(place in counts for place in asked) * num_images
  numbers = np.array([hash_id(name) for name in judged.ids], np.int32)
  with Progress("draws", total=len(asked) * num_images, start=start, unit="image") as progress:
    for order, rank_fn in rank_fns.items():
      missing = [condition for condition in judges if (order, condition) not in counts]
      rank = rank_fn() if missing else None
      for condition in missing:
        found = run_in_batches(judges[condition], progress.advance, judged.inputs, rank, judged.targets, numbers)
        append_record(lines, {"order": order, "condition": condition, "num_kept": found.tolist()})
        counts[order, condition] = found.tolist()


def run_in_batches(program: DeviceProgram, advance_fn: Callable[[int], None], *arrays: Any) -> Any:
  """What a program finds of arrays that are longer than a launch."""
  starts = range(0, len(arrays[0]), program.launch_size)
  launches = ((start, [array[start : start + program.launch_size] for array in arrays]) for start in starts)
  found = []
  for _, rows in program.run_all(launches):
    found.append(rows)
    advance_fn(len(rows))
  return np.concatenate(found)


def read_rank(run: Run, judged: Judged) -> Int[np.ndarray, "N F"]:
  """The order of a run."""
  return run.store.read("rank", judged.places[run.label]).astype(np.int32)


def rank_images(job: Job, scores: Scores, judged: Judged) -> Int[np.ndarray, "N F"]:
  """The order that scores make."""

  def rank(params: Params, inputs: Float[Array, "B H W C"], numbers: Int[Array, "B"]) -> Int[Array, "B F"]:
    return rank_scores(scores(job, params, inputs, numbers))

  numbers = np.array([hash_id(name) for name in judged.ids], np.int32)
  return run_in_batches(job.make_program(rank), lambda count: None, judged.inputs, numbers)
