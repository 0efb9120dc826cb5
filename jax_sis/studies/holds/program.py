"""`jax-sis holds`: on which backgrounds do the first pixels of an order keep the class, and how many does that take?

Orders of runs and of attributions are judged on the same images and the same draws: other images, noise, the image's
own blur, and true pixels that come in.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from jax_sis.runtime.engines import LOCAL, Engine, open_workers
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


def holds(config: HoldsConfig, engine: Engine = LOCAL) -> dict[str, Any]:
  """Judges orders, or goes on with it; prints the table and its reading, writes JSON, CSV and figures.

  Args:
    config: what to judge, see HoldsConfig.
    engine: where.

  Returns:
    What `holds.json` holds.

  Raises:
    ValueError: a setting is wrong or does not fit the runs, the classifier or images at hand are not theirs, the pool
      is too small, or the folder holds another run.
    StorageError: a run cannot be read, or the folder not be written.
  """
  folder = results.open_folder(config.out)
  results.check_writable(folder)
  lines = pathlib.Path(config.out) / LINES_FILE
  make_fn = functools.partial(Judging, config)
  claim = results.claim(folder, "holds")
  with open_workers(engine, make_fn, claim=claim, num_devices=config.num_devices) as workers:
    about: About = workers.about
    spec = results.settle_spec(config.out, about.spec, command_fn=config.command_in)
    for line in (about.headline, *about.notes):
      print(line, flush=True)
    counts: Counts = {(record["order"], record["condition"]): record["num_kept"] for record in read_records(lines)}
    places, num_images = about.places, len(about.ids)
    missing = [number for number, place in enumerate(places) if place not in counts]
    done = (len(places) - len(missing)) * num_images
    with Progress("draws", total=len(places) * num_images, start=done, unit="image") as progress:
      for number, found in workers.run(missing, progress, "draws"):
        order, condition = places[number]
        append_record(lines, {"order": order, "condition": condition, "num_kept": found})
        counts[places[number]] = found
  return report.write_report(
    folder,
    Held(
      orders=about.orders,
      conditions=about.conditions,
      ids=about.ids,
      sizes=about.sizes,
      num_features=about.num_features,
      num_draws=config.num_draws,
      num_added=config.num_added,
      rate=config.rate,
      kept={place: np.array(counts[place]) / config.num_draws for place in places},
    ),
    spec=spec,
    notes=about.notes,
    subject=about.subject,
    command=config.command,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
  """What a worker says of itself: what is asked, see Held, and the lines on that which are printed."""

  spec: dict[str, Any]
  num_first: int = 1
  orders: dict[str, Order]
  conditions: tuple[str, ...]
  ids: list[str]
  sizes: tuple[int, ...]
  num_features: int
  headline: str
  notes: list[str]
  subject: str

  @property
  def places(self) -> list[tuple[str, str]]:
    """Each order under each condition."""
    return [(order, condition) for order in self.orders for condition in self.conditions]


class Judging:
  """A worker, whose units are orders under a condition, see `About.places`; what it finds are their counts."""

  def __init__(self, config: HoldsConfig):
    runs = open_runs(config)
    self._job = job = open_job(config, runs[0])
    sizes = choose_sizes(config, job.grid)
    self._judged = judged = choose_images(config, runs, job)
    pool = open_pool(config, job, judged)
    attributions, left_out = make_attributions(config, job)
    conditions = tuple(name for name in config.conditions if name != "images" or pool is not None)
    if not conditions:
      raise ValueError("--pool must name images for the condition 'images', the only one that is asked for, got none.")
    self._rank_fns: dict[str, Callable[[], Int[np.ndarray, "N F"]]] = {
      run.sha256: functools.partial(read_rank, run, judged) for run in runs
    }
    self._rank_fns |= {
      name: functools.partial(rank_images, job, scores, judged) for name, scores in attributions.items()
    }
    self._judges = {name: make_judge(config, job, pool, name, sizes) for name in conditions}
    self._ranked: tuple[str, Int[np.ndarray, "N F"] | None] = ("", None)
    self.about = About(
      spec=make_spec(config, job, judged, pool, sizes),
      orders={run.sha256: Order(title=run.label, kind="search") for run in runs}
      | {name: Order(title=ATTRIBUTIONS[name], kind="attribution") for name in attributions},
      conditions=conditions,
      ids=judged.ids,
      sizes=sizes,
      num_features=job.num_features,
      headline=describe_asked(job, judged),
      notes=[*describe_pool(pool, runs), *(f"Left out: {reason}." for reason in left_out)],
      subject=f"{job.classifier.model_name} on {job.data_name}",
    )

  def get_ready(self) -> None:
    """As for `Worker`; programs are compiled as they are needed."""

  def __call__(self, units: Sequence[int], advance_fn: Callable[[int], Any]) -> Iterator[tuple[int, list[list[int]]]]:
    """The draws on which the class is kept, for each image and size."""
    judged = self._judged
    numbers = np.array([hash_id(name) for name in judged.ids], np.int32)
    for unit in units:
      order, condition = self.about.places[unit]
      if self._ranked[0] != order:
        self._ranked = order, self._rank_fns[order]()
      judge, rank = self._judges[condition], self._ranked[1]
      yield unit, run_in_batches(judge, advance_fn, judged.inputs, rank, judged.targets, numbers).tolist()


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
