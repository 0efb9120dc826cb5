"""A run opened for `jax-sis clusters`: its classifier, its images by class, and their subsets."""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float, Int

from jax_sis.core.subsets import Status
from jax_sis.data.class_names import find_classes
from jax_sis.results import query as queries
from jax_sis.results import store as stores
from jax_sis.results.query import SubsetQuery
from jax_sis.results.schema import NO_CLASS, has_order
from jax_sis.results.spec import refuse_label_maps
from jax_sis.results.store import Results
from jax_sis.runs.setup import Job, make_job_again, read_inputs
from jax_sis.studies.clusters.config import ClustersConfig

TOGETHER = "all classes"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
  """The finished images of a run that have a subset.

  Attributes:
    store: the run.
    job: its classifier and images as they are now.
    query: which subsets are clustered.
    indices: the images, by their numbers in the run, ascending.
    targets: the class of which each one's subset is evidence.
    predicted: the class predicted on the whole image.
    labels: the true class, or NO_CLASS.
    sizes: how many features suffice; NaN where that is not known.
    groups: which of them are clustered together, by the name of the class.
  """

  store: Results
  job: Job
  query: SubsetQuery
  indices: Int[np.ndarray, "N"]
  targets: Int[np.ndarray, "N"]
  predicted: Int[np.ndarray, "N"]
  labels: Int[np.ndarray, "N"]
  sizes: Float[np.ndarray, "N"]
  groups: dict[str, Int[np.ndarray, "M"]]

  def read_masks(self, places: Int[np.ndarray, "M"]) -> Bool[np.ndarray, "M h w 1"]:
    """The subsets of some of the images."""
    masks = np.concatenate(list(self.store.iterate_masks(self.query, self.indices[places])))
    return masks.reshape(-1, *self.job.grid)

  def read_images(self, places: Int[np.ndarray, "M"]) -> Float[np.ndarray, "M H W C"]:
    """Some of the images, normalised, each read once."""
    wanted, inverse = np.unique(places, return_inverse=True)
    return read_inputs(self.job, self.store, self.indices[wanted])[inverse]

  def read_ids(self, places: Int[np.ndarray, "M"]) -> list[str]:
    """The names of some of the images."""
    return self.store.read_text("id", self.indices[places])


def open_run(config: ClustersConfig) -> Opened:
  """Opens the run that is asked for.

  Raises:
    ValueError: there is none, it does not hold these subsets, its features are label maps, a class is unknown, or the
      classifier or images at hand are not its own.
  """
  store = stores.open(config.run_dir)
  refuse_label_maps(store.spec, store.folder.location)
  query = choose_query(store, config)
  kind = config.kind or "sis"
  done = store.done_images()
  status = store.read(f"{kind}_status", done)
  usable = done[has_order(status) if config.kind is None else status == Status.OK]
  if not len(usable):
    raise ValueError(
      f"RUN_DIR must hold the subset of at least one image, but of the {len(done)} finished images of "
      f"{config.run_dir!r} none has one; jax-sis status says how they ended."
    )
  job = make_job_again(
    store,
    checkpoint=config.checkpoint,
    model_function=config.model_function,
    data_dir=config.data_dir,
    num_devices=config.num_devices,
    is_computing=False,
  )
  targets, predicted, labels = (store.read(name, usable) for name in ("target", "predicted", "label"))
  is_sufficient = store.read(f"{kind}_status", usable) == Status.OK
  return Opened(
    store=store,
    job=dataclasses.replace(job, batch_size=config.batch_size),
    query=query,
    indices=usable,
    targets=targets,
    predicted=predicted,
    labels=labels,
    sizes=np.where(is_sufficient, store.read(f"{kind}_num_kept", usable), math.nan),
    groups=group_images(config, job, targets),
  )


def choose_query(store: Results, config: ClustersConfig) -> SubsetQuery:
  """Which subsets are meant. Raises ValueError if the run does not hold them."""
  if config.kind is not None and f"{config.kind}_status" in store.fields:
    query = queries.make_query(store.spec, kind=config.kind)
  else:
    query = queries.make_query(store.spec, fraction=config.fraction)
  if config.kind not in (None, query.kind) or not store.find_subsets(query).mask_fields:
    asked = f"--kind {config.kind}" if config.kind else f"--fraction {config.fraction:g}"
    raise ValueError(
      f"{asked} must be subsets that {store.folder.location!r} holds; it holds "
      f"{queries.describe_masks(store.spec, store.fields)}. Orders, which have all fractions, are kept by find --save "
      "order or both, of any search but smallest."
    )
  return query


def group_images(config: ClustersConfig, job: Job, targets: Int[np.ndarray, "N"]) -> dict[str, Int[np.ndarray, "M"]]:
  """Which images are clustered together. Raises ValueError if a class is unknown."""
  if config.is_together:
    return {TOGETHER: np.arange(len(targets))}
  numbers: list[int] = sorted(set(targets.tolist()) - {NO_CLASS})
  if config.classes:
    named = [find_classes(name, job.class_names) for name in config.classes]
    wrong = [name for name, found in zip(config.classes, named, strict=True) if len(found) != 1]
    if wrong:
      raise ValueError(f"--classes must name classes of the classifier, one each, got {wrong[0]!r}.")
    numbers = sorted({found[0] for found in named})
  return {job.name_class(number): np.flatnonzero(targets == number) for number in numbers}
