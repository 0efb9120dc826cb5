"""What is judged, opened and checked: runs, the images that they share, and the pool of backgrounds."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jax_sis import results
from jax_sis.core.subsets import Status
from jax_sis.results.answer import hash_spec
from jax_sis.results.schema import has_order
from jax_sis.results.spec import refuse_label_maps
from jax_sis.results.store import Results
from jax_sis.runs import pools
from jax_sis.runs.setup import Job, make_job_again, read_inputs
from jax_sis.studies.holds.config import HoldsConfig

# Of all features; the last one is what is left where no size does.
SHARES = (1, 2, 4, 6, 8, 10, 12, 16, 20, 24, 28, 32, 40, 48, 56)
OF = 64
# What the runs must have in common.
SHARED = ("model", "class_names", "grid", "baseline")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """A run whose order is judged.

  Attributes:
    label: what tables call it.
    store: its results.
    sha256: of its specification.
  """

  label: str
  store: Results
  sha256: str

  @property
  def searched(self) -> Mapping[str, Any] | None:
    """The data that the search drew what masked pixels show from; None where it did not."""
    return (self.store.spec.get("completion") or {}).get("images")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
  """The images that all orders are asked about.

  Attributes:
    ids: their names.
    targets: the class in question, which is the predicted one.
    inputs: normalised.
    places: where each run has them, by label.
  """

  ids: list[str]
  targets: Int[np.ndarray, "N"]
  inputs: Float[np.ndarray, "N H W C"]
  places: dict[str, Int[np.ndarray, "N"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pool:
  """Images to draw backgrounds from.

  Attributes:
    name: what people call the data.
    images: normalised.
    num_judged: judged images that were in it, and are left out.
    num_unreadable: images that could not be read, likewise.
    description: the data that they come from, and which of its images they are, in JSON types.
  """

  name: str
  images: Float[np.ndarray, "P H W C"]
  num_judged: int
  num_unreadable: int
  description: dict[str, Any]

  def is_of(self, data: Mapping[str, Any] | None) -> bool:
    """Whether it comes from this data, by its name and split."""
    return data is not None and all(data.get(name) == self.description.get(name) for name in ("data", "split"))


def open_runs(config: HoldsConfig) -> list[Run]:
  """The runs. Raises ValueError if one has no order, or they are not of one question."""
  stores = [results.open(run_dir) for run_dir in config.run_dirs]
  names = [pathlib.PurePath(run_dir.rstrip("/")).name for run_dir in config.run_dirs]
  labels = config.labels or (names if len(set(names)) == len(names) else config.run_dirs)
  runs = [
    Run(label=label, store=store, sha256=hash_spec(store.folder)) for label, store in zip(labels, stores, strict=True)
  ]
  for run in runs:
    refuse_label_maps(run.store.spec, run.store.folder.location)
    if "rank" not in run.store.fields:
      raise ValueError(
        f"RUN_DIR must hold orders, but {run.store.folder.location!r} has none; find keeps them with --save order or "
        "both, of any search but smallest."
      )
    others = [name for name in SHARED if run.store.spec[name] != runs[0].store.spec[name]]
    if others:
      raise ValueError(
        f"RUN_DIR must name runs of one classifier and one kind of mask, but {run.store.folder.location!r} has another "
        f"{' and '.join(others).replace('_', ' ')} than {runs[0].store.folder.location!r}."
      )
  if len({run.sha256 for run in runs}) < len(runs):
    raise ValueError(f"RUN_DIR must name each run once, got {', '.join(config.run_dirs)}.")
  if len(set(labels)) < len(labels):
    raise ValueError(f"--labels must tell the runs apart, got {', '.join(labels)}.")
  return runs


def open_job(config: HoldsConfig, run: Run) -> Job:
  """The first run's classifier and data as they are now, in batches of this study."""
  job = make_job_again(
    run.store,
    checkpoint=config.checkpoint,
    model_function=config.model_function,
    data_dir=config.data_dir,
    num_devices=config.num_devices,
    is_computing=False,
  )
  return dataclasses.replace(job, batch_size=config.batch_size)


def choose_sizes(config: HoldsConfig, grid: Sequence[int]) -> tuple[int, ...]:
  """The sizes that are asked for, below that of the whole image. Raises ValueError if one is not."""
  num_features = math.prod(grid)
  sizes = config.sizes or tuple(
    size for size in dict.fromkeys(round(share * num_features / OF) for share in SHARES) if size
  )
  if sizes[-1] >= num_features:
    raise ValueError(f"--sizes must be below the {num_features} of the whole image, got {sizes[-1]}.")
  return sizes


def choose_images(config: HoldsConfig, runs: Sequence[Run], job: Job) -> Judged:
  """The first images that every run has an order of, confident as a whole, in the class that is predicted.

  Raises:
    ValueError: there is none, or they are other images by the same names.
  """
  found = [find_usable(run.store) for run in runs]
  ids = [name for name in found[0] if all(name in others for others in found[1:])][: config.num_images]
  if not ids:
    raise ValueError(
      "RUN_DIR must name runs with finished images in common of whose predicted class the classifier is confident "
      f"enough, got {', '.join(f'{len(one)} such images in {run.label}' for one, run in zip(found, runs, strict=True))}"
      " and none in all."
    )
  places = {
    run.label: np.array([images[name] for name in ids], np.int64) for run, images in zip(runs, found, strict=True)
  }
  if all(run.store.has_checksums for run in runs):
    digests = [run.store.read(results.PIXEL_DIGEST, places[run.label]) for run in runs]
    for run, others in zip(runs, digests, strict=True):
      if (others != digests[0]).any():
        name = ids[int((others != digests[0]).any(1).argmax())]
        raise ValueError(f"RUN_DIR must name runs of the same images, but {name!r} is another one in {run.label}.")
  first = runs[0]
  return Judged(
    ids=ids,
    targets=first.store.read("target", places[first.label]),
    inputs=read_inputs(job, first.store, places[first.label]),
    places=places,
  )


def find_usable(store: Results) -> dict[str, int]:
  """Where a run has the images that can be judged, by id."""
  done = store.done_images()
  status, target, predicted = (store.read(name, done) for name in ("sis_status", "target", "predicted"))
  is_usable = has_order(status) & (status != Status.BELOW_THRESHOLD) & (target == predicted)
  usable = done[is_usable]
  return dict(zip(store.read_text("id", usable), usable.tolist(), strict=True))


def open_pool(config: HoldsConfig, job: Job, judged: Judged) -> Pool | None:
  """The images to draw backgrounds from, none of those that are judged; None where none is asked for.

  Raises:
    ValueError: it cannot be opened, or holds fewer images than there are draws.
  """
  if config.pool is None or "images" not in config.conditions:
    return None
  # As many more as may have to be left out.
  count = config.num_pool + len(judged.ids)
  drawn = pools.draw_pool(job.config, job, config.pool, config.pool_split, seed=config.seed, count=count)
  images, known = job.normalise(drawn.pixels), {image.tobytes() for image in judged.inputs}
  is_judged = np.array([image.tobytes() in known for image in images], bool)
  taken = np.flatnonzero(~is_judged)[: config.num_pool]
  least = max(config.num_draws, 2)
  if len(taken) < least:
    raise ValueError(
      f"--pool must hold at least as many images as there are draws, {least}, without those that are judged "
      f"({is_judged.sum()}) or cannot be read ({len(drawn.reasons)}), got {len(taken)}; name more images, or fewer "
      "--draws."
    )
  return Pool(
    name=" ".join(filter(None, (drawn.data["data"], drawn.data.get("split")))),
    images=images[taken],
    num_judged=int(is_judged.sum()),
    num_unreadable=len(drawn.reasons),
    description={**drawn.data, **pools.describe_part([drawn.digests[place] for place in taken])},
  )
