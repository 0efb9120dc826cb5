"""`jax-sis controls`: do the subsets of a run still work when what may leak is taken away?

Reads the subsets from the run's folder and their images from where the run had them, shows the classifier each subset
under every control (see `outcomes`), and on some images looks for evidence of classes that are not predicted.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

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
from jax_sis.runtime.engines import LOCAL, Engine, Workers, open_workers
from jax_sis.runtime.progress import Progress
from jax_sis.runtime.provenance import all_versions
from jax_sis.runtime.task_size import first_task_size
from jax_sis.studies.controls.config import ControlsConfig
from jax_sis.studies.controls.kept import Kept, decode_arrays, encode_arrays, join
from jax_sis.studies.controls.outcomes import Outcomes, Showing
from jax_sis.studies.controls.report import FORMAT, LEVEL, Controlled, Kind, report_classes, report_kind, write_files
from jax_sis.studies.controls.summaries import FILL_RULE, summarise, summarise_fills
from jax_sis.studies.controls.views import NAMES, SUBSET
from jax_sis.studies.controls.wrong_class import ClassSearch, Towards

# Images at a time, each with all its controls, and searches at a time; accelerators want more than a CPU.
SHOWN_AT_ONCE, SEARCHED_AT_ONCE = {"cpu": 4}, {"cpu": 8}
ON_ACCELERATORS = 64
# Of each host.
NUM_DEVICES = 1
# In the place of a kind of subset: the search for evidence of other classes.
WRONG_CLASS = "wrong_class"


class Batch(NamedTuple):
  """Images that are worked on together: those from `start` on of a kind of subset, or of WRONG_CLASS."""

  name: str
  start: int
  num_images: int


def controls(config: ControlsConfig, engine: Engine = LOCAL) -> dict[str, Any]:
  """Evaluates the controls of a run, or goes on with it; prints a table a kind, writes JSON, CSV and a figure.

  Args:
    config: what to look at, see ControlsConfig.
    engine: where.

  Returns:
    What `controls.json` holds.

  Raises:
    ValueError: there is no run, it has no subsets, or the classifier or images at hand are not those of the run.
    StorageError: the folder cannot be read or written.
  """
  started = time.perf_counter()
  store = results.open(config.run_dir)
  folder.check_writable(store.folder, "RUN_DIR")
  refuse_label_maps(store.spec, store.folder.location)
  kinds = read_kinds(store, config)
  if not kinds:
    raise ValueError(
      f"{config.run_dir!r} must hold the subset of at least one image, but of its {len(store.done_images())} finished "
      "images it holds none; jax-sis status says how they ended."
    )
  print(f"{config.run_dir}: {', '.join(kind.heading for kind in kinds)}.", flush=True)
  make_fn = functools.partial(Controlling, config, kinds)
  claim = results.claim(store.folder, "controls")
  with open_workers(engine, make_fn, claim=claim, num_devices=NUM_DEVICES) as workers:
    about: About = workers.about
    kept = Kept(store.folder, about.spec)
    found = find_batches(workers, about.batches, kept)
  threshold = store.spec["threshold"]
  controlled = [read_controlled(kind, found[kind.name], threshold) for kind in kinds]
  towards = read_towards(found[WRONG_CLASS]) if WRONG_CLASS in found else None
  answer = {
    "format": FORMAT,
    "provenance": {
      "spec_sha256": hash_spec(store.folder),
      "versions": all_versions(),
      "device": about.spec["device"],
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
  written = write_files(store, answer, controlled)
  kept.remove()
  return written


def find_batches(workers: Workers, batches: Sequence[Batch], kept: Kept) -> dict[str, list[dict[str, Any]]]:
  """What is found of all batches, those that are kept among them, by the name of what is shown, in their order."""
  found = {(record["name"], record["start"]): record["found"] for record in kept.records}
  for title, is_search in (("controls", False), ("other classes", True)):
    numbers = [number for number, batch in enumerate(batches) if (batch.name == WRONG_CLASS) == is_search]
    missing = [number for number in numbers if batches[number][:2] not in found]
    if not missing:
      continue
    total, left = (sum(batches[number].num_images for number in some) for some in (numbers, missing))
    with Progress(title, total=total, start=total - left, unit="image") as progress:
      for number, content in workers.run(missing, progress, title):
        name, start, _ = batches[number]
        kept.append({"name": name, "start": start, "found": content})
        found[name, start] = content
  ordered: dict[str, list[dict[str, Any]]] = {}
  for name, start, _ in batches:
    ordered.setdefault(name, []).append(found[name, start])
  return ordered


def read_controlled(kind: Kind, found: Sequence[Mapping[str, Any]], threshold: float) -> Controlled:
  """What the controls of a kind say, from its batches."""
  outcomes = join([Outcomes(**decode_arrays(content), threshold=threshold) for content in found])
  return Controlled(
    kind=kind,
    outcomes=outcomes,
    summaries=summarise(outcomes, level=LEVEL),
    fill_summary=summarise_fills(outcomes, level=LEVEL),
  )


def read_towards(found: Sequence[Mapping[str, Any]]) -> dict[str, Towards]:
  """What was found towards each class, from the batches."""
  return {name: join([Towards(**decode_arrays(content[name])) for content in found]) for name in found[0]}


def split(name: str, num_images: int, batch_size: int) -> list[Batch]:
  return [Batch(name, start, min(batch_size, num_images - start)) for start in range(0, num_images, batch_size)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
  """What a worker says of itself: what fixes what it finds, and of what."""

  spec: dict[str, Any]
  num_first: int = first_task_size(1, 1)
  batches: tuple[Batch, ...]


class Controlling:
  """A worker, whose units are batches, see `About.batches`; what it finds of them is in JSON types."""

  def __init__(self, config: ControlsConfig, kinds: Sequence[Kind]):
    self._config = config
    self._store = store = results.open(config.run_dir)
    self._job = job = open_job(store, config)
    self._kinds = {kind.name: kind for kind in kinds}
    self._indices = np.unique(np.concatenate([kind.indices for kind in kinds]))
    self._inputs = read_inputs(job, store, self._indices)
    # Of one kind at a time, since each has images of its own.
    self._opened = ""
    self._find_fn: Callable[[int], Any]
    self._sizes = [sizes.get(job.platform, ON_ACCELERATORS) for sizes in (SHOWN_AT_ONCE, SEARCHED_AT_ONCE)]
    batches = [batch for kind in kinds for batch in split(kind.name, len(kind.indices), self._sizes[0])]
    num_searched = min(len(kinds[0].indices), config.num_wrong_class)
    self.about = About(
      spec={
        **make_spec(job),
        "run": hash_spec(store.folder),
        "kinds": [kind.sha256 for kind in kinds],
        "seed": config.seed,
        "num_wrong_class": config.num_wrong_class,
        "max_features": config.max_features,
        "sizes_at_once": self._sizes,
      },
      batches=(*batches, *split(WRONG_CLASS, num_searched, self._sizes[1])),
    )

  def get_ready(self) -> None:
    """As for `Worker`; programs are compiled as they are needed."""

  def __call__(self, units: Sequence[int], advance_fn: Callable[[int], Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The batches, and what Outcomes or, for each class, Towards say of them."""
    for unit in units:
      name, start, num_images = self.about.batches[unit]
      if self._opened != name:
        self._opened, self._find_fn = name, self._open(name)
      found: Any = self._find_fn(start)
      if name == WRONG_CLASS:
        content = {towards: encode_arrays(one) for towards, one in found.items()}
      else:
        check_reproduced(self._store, self._kinds[name], start, found, self._job.config.certificate_tolerance)
        content = encode_arrays(found)
      advance_fn(num_images)
      yield unit, content

  def _open(self, name: str) -> Showing | ClassSearch:
    """What finds something of a batch, for a kind of subset or WRONG_CLASS."""
    config, job, kinds = self._config, self._job, self._kinds
    asked: dict[str, Any] = {
      "threshold": job.config.threshold,
      "baseline": job.config.baseline,
      "removal": job.config.removal,
      "seed": config.seed,
    }
    if name == WRONG_CLASS:
      first = next(iter(kinds.values()))
      return ClassSearch(
        predict_fn=job.search.predict_fn,
        params=job.params,
        inputs=self._read(first.indices[: config.num_wrong_class]),
        ids=first.ids[: config.num_wrong_class],
        grid=job.search.grid,
        max_features=config.max_features,
        batch_size=self._sizes[1],
        **asked,
      )
    kind = kinds[name]
    return Showing(
      predict_fn=job.search.predict_fn,
      params=job.params,
      inputs=self._read(kind.indices),
      masks=kind.masks,
      targets=kind.targets,
      ids=kind.ids,
      predicted=kind.predicted,
      normalisation=job.classifier.normalisation,
      batch_size=self._sizes[0],
      **asked,
    )

  def _read(self, indices: Int[np.ndarray, "M"]) -> Float[np.ndarray, "M H W C"]:
    return self._inputs[np.searchsorted(self._indices, indices)]


def open_job(store: results.Results, config: ControlsConfig) -> Job:
  """The run's classifier and data as they are now.

  Raises:
    ValueError: the classifier is not the run's.
  """
  job = make_job_again(
    store,
    checkpoint=config.checkpoint,
    model_function=config.model_function,
    data_dir=config.data_dir,
    num_devices=NUM_DEVICES,
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


def check_reproduced(store: results.Results, kind: Kind, start: int, outcomes: Outcomes, tolerance: float) -> None:
  """Raises ValueError if a subset's confidence is not the one that the run certified, unless it did so on draws.

  The outcomes are those of a batch of the kind, which begins with the image at `start`.
  """
  if kind.name not in KINDS or "completion" in store.spec:
    return
  indices = kind.indices[start : start + len(outcomes.confidence)]
  certified = store.read(f"{kind.name}_certified_confidence", indices)
  now = outcomes.confidence[:, NAMES.index(SUBSET)]
  is_other = ~(np.abs(now - certified) <= tolerance)
  if is_other.any():
    worst = int(is_other.argmax())
    raise ValueError(
      f"the subsets must have the confidence that the run certified, but image {indices[worst]} has "
      f"{certified[worst]:.6g} stored and {now[worst]:.6g} now (tolerance {tolerance:g}); see by jax-sis verify "
      "whether the run is damaged."
    )
