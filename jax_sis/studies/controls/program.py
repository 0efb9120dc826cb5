"""`jax-sis controls`: do the subsets of a run still work when what may leak is taken away?

Reads the subsets from the run's folder and their images from where the run had them, shows the classifier each subset
under every control (see `outcomes`), and on some images looks for evidence of classes that are not predicted.
"""

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from jax_sis import results
from jax_sis.core.subsets import Status
from jax_sis.results import folder
from jax_sis.results.answer import hash_spec
from jax_sis.results.query import own_queries
from jax_sis.results.schema import KIND_TITLES, KINDS, QUESTION_KINDS, has_order
from jax_sis.results.spec import refuse_label_maps
from jax_sis.runs.setup import Job, make_job_again, make_spec, read_inputs
from jax_sis.runtime.progress import Progress
from jax_sis.runtime.provenance import all_versions
from jax_sis.studies.controls.config import ControlsConfig
from jax_sis.studies.controls.outcomes import Outcomes, evaluate_controls
from jax_sis.studies.controls.report import FORMAT, LEVEL, Controlled, Kind, report_classes, report_kind, write_files
from jax_sis.studies.controls.summaries import FILL_RULE, summarise, summarise_fills
from jax_sis.studies.controls.views import NAMES, SUBSET
from jax_sis.studies.controls.wrong_class import Towards, search_classes

# Images at a time, each with all its controls, and searches at a time; accelerators want more than a CPU.
EVALUATED_AT_ONCE, SEARCHED_AT_ONCE = {"cpu": 4}, {"cpu": 8}
ON_ACCELERATORS = 64


def controls(config: ControlsConfig) -> dict[str, Any]:
  """Evaluates the controls of a run; prints a table for each kind of subset, writes JSON, CSV and a figure.

  Args:
    config: what to look at, see ControlsConfig.

  Returns:
    What `controls.json` holds.

  Raises:
    ValueError: there is no run, it has no subsets, or the classifier or images at hand are not those of the run.
    StorageError: the folder cannot be read or written.
  """
  started = time.perf_counter()
  store = results.open(config.run_dir)
  folder.check_writable(store.folder, "RUN_DIR")
  job = open_job(store, config)
  kinds = read_kinds(store, config)
  if not kinds:
    raise ValueError(
      f"{config.run_dir!r} must hold the subset of at least one image, but of its {len(store.done_images())} finished "
      "images it holds none; jax-sis status says how they ended."
    )
  print(f"{config.run_dir}: {', '.join(kind.heading for kind in kinds)}.", flush=True)
  indices = np.unique(np.concatenate([kind.indices for kind in kinds]))
  inputs = read_inputs(job, store, indices)
  outcomes = evaluate_kinds(job, store, kinds, indices, inputs, seed=config.seed)
  chosen = kinds[0].indices[: config.num_wrong_class]
  towards = search_wrong_classes(job, store, chosen, inputs[np.searchsorted(indices, chosen)], config)
  controlled = [
    Controlled(
      kind=kind,
      outcomes=of_kind,
      summaries=summarise(of_kind, level=LEVEL),
      fill_summary=summarise_fills(of_kind, level=LEVEL),
    )
    for kind, of_kind in zip(kinds, outcomes, strict=True)
  ]
  threshold = job.config.threshold
  answer = {
    "format": FORMAT,
    "provenance": {
      "spec_sha256": hash_spec(store.folder),
      "versions": all_versions(),
      "device": jax.local_devices()[0].device_kind,
      "command": config.command,
      "seed": config.seed,
      "seconds": round(time.perf_counter() - started, 1),
    },
    "run": store.folder.location,
    "threshold": threshold,
    "level": LEVEL,
    "fill_rule": FILL_RULE,
    "kinds": {one.kind.name: report_kind(one) for one in controlled},
    "wrong_class": report_classes(towards, max_features=config.max_features, threshold=threshold) if towards else None,
  }
  return write_files(store, answer, controlled)


def open_job(store: results.Results, config: ControlsConfig) -> Job:
  """The run's classifier and data as they are now.

  Raises:
    ValueError: the classifier is not the run's, or the run's features are label maps.
  """
  refuse_label_maps(store.spec, store.folder.location)
  job = make_job_again(
    store,
    checkpoint=config.checkpoint,
    model_function=config.model_function,
    data_dir=config.data_dir,
    num_devices=1,
    is_computing=False,
  )
  model = make_spec(job)["model"]
  if model != store.spec["model"]:
    option = "--model" if job.config.model_function else "--checkpoint"
    raise ValueError(
      f"{option} must be the classifier of the run, {store.spec['model']['name']} with the SHA-256 "
      f"{store.spec['model']['sha256'][:12]}..., got {model['name']} with {model['sha256'][:12]}...."
    )
  return job


def read_kinds(store: results.Results, config: ControlsConfig) -> list[Kind]:
  """The subsets of every kind that the run holds. Raises ValueError if a fraction's masks are missing."""
  done = store.done_images()
  kinds = []
  for query in own_queries(store.spec, store.fields):
    if not store.find_subsets(query).mask_fields:
      print(f"{KIND_TITLES[query.kind]}: the run did not keep these subsets (--save); they are left out.", flush=True)
      continue
    if query.kind in QUESTION_KINDS:
      print(f"{KIND_TITLES[query.kind]}: the controls are of what is shown, and not of this; left out.", flush=True)
      continue
    indices = done[store.read(f"{query.kind}_status", done) == Status.OK][: config.limit]
    kinds.append(read_kind(store, query.kind, KIND_TITLES[query.kind], indices, kind=query.kind))
  for fraction in config.mask_fractions:
    # Asked for none, it says whether the run holds them.
    store.masks([], fraction=fraction)
    indices = done[has_order(store.read("sis_status", done))][: config.limit]
    title = f"most needed {100 * fraction:g}%"
    kinds.append(read_kind(store, results.mask_name(fraction=fraction), title, indices, fraction=fraction))
  return [kind for kind in kinds if len(kind.indices)]


def read_kind(store: results.Results, name: str, title: str, indices: Int[np.ndarray, "M"], **asked: Any) -> Kind:
  """The subsets of some images; `asked` selects them as in `Results.masks`."""
  ids = store.read_text("id", indices)
  return Kind(
    name=name,
    title=title,
    indices=indices,
    ids=ids,
    targets=store.read("target", indices),
    predicted=store.read("predicted", indices),
    masks=store.masks(ids, **asked),
  )


def evaluate_kinds(
  job: Job,
  store: results.Results,
  kinds: Sequence[Kind],
  indices: Int[np.ndarray, "M"],
  inputs: Float[np.ndarray, "M H W C"],
  *,
  seed: int,
) -> list[Outcomes]:
  outcomes = []
  batch_size = EVALUATED_AT_ONCE.get(job.local_devices[0].platform, ON_ACCELERATORS)
  with Progress("controls", total=sum(len(kind.indices) for kind in kinds), unit="image") as progress:
    for kind in kinds:
      of_kind = evaluate_controls(
        job.search.predict_fn,
        job.params,
        inputs[np.searchsorted(indices, kind.indices)],
        kind.masks,
        kind.targets,
        ids=kind.ids,
        predicted=kind.predicted,
        normalisation=job.classifier.normalisation,
        threshold=job.config.threshold,
        baseline=job.config.baseline,
        removal=job.config.removal,
        seed=seed,
        batch_size=batch_size,
        advance_fn=progress.advance,
      )
      check_reproduced(store, kind, of_kind, job.config.certificate_tolerance)
      outcomes.append(of_kind)
  return outcomes


def check_reproduced(store: results.Results, kind: Kind, outcomes: Outcomes, tolerance: float) -> None:
  """Raises ValueError if a subset's confidence is not the one that the run certified, unless it did so on draws."""
  if kind.name not in KINDS or "completion" in store.spec:
    return
  certified = store.read(f"{kind.name}_certified_confidence", kind.indices)
  now = outcomes.confidence[:, NAMES.index(SUBSET)]
  is_other = ~(np.abs(now - certified) <= tolerance)
  if is_other.any():
    worst = int(is_other.argmax())
    raise ValueError(
      f"the subsets must have the confidence that the run certified, but image {kind.indices[worst]} has "
      f"{certified[worst]:.6g} stored and {now[worst]:.6g} now (tolerance {tolerance:g}); see by jax-sis verify "
      "whether the run is damaged."
    )


def search_wrong_classes(
  job: Job,
  store: results.Results,
  indices: Int[np.ndarray, "M"],
  inputs: Float[np.ndarray, "M H W C"],
  config: ControlsConfig,
) -> dict[str, Towards]:
  if not len(indices):
    return {}
  with Progress("other classes", total=3 * len(indices), unit="question") as progress:
    return search_classes(
      job.search.predict_fn,
      job.params,
      inputs,
      ids=store.read_text("id", indices),
      threshold=job.config.threshold,
      grid=job.search.grid,
      baseline=job.config.baseline,
      removal=job.config.removal,
      max_features=config.max_features,
      seed=config.seed,
      batch_size=SEARCHED_AT_ONCE.get(job.local_devices[0].platform, ON_ACCELERATORS),
      advance_fn=progress.advance,
    )
