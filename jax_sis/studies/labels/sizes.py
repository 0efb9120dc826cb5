"""The sizes of the subsets that runs of `find` hold of the images."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from jax_sis import results
from jax_sis.classifiers.on_images import ClassifierOnImages, describe_model
from jax_sis.core import masking
from jax_sis.core.subsets import Status
from jax_sis.results.query import make_query
from jax_sis.studies.labels.config import LabelsConfig

# Of an image that a run does not hold.
NO_SIZE = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSizes:
  """The sizes of a run.

  Attributes:
    title: what tables call it.
    threshold: what the subsets reach.
    size: of each image's subset in features, all of them where there is none; NO_SIZE where the run lacks the image.
    has_subset: whether there is one.
  """

  title: str
  threshold: float
  size: Int[np.ndarray, "N"]
  has_subset: Bool[np.ndarray, "N"]

  @property
  def is_known(self) -> Bool[np.ndarray, "N"]:
    return self.size != NO_SIZE

  @property
  def log_size(self) -> Float[np.ndarray, "N"]:
    """Of the images that are known; a subset of nothing counts as one feature."""
    return np.log(np.maximum(self.size, 1))


def read_runs(
  config: LabelsConfig, images: ClassifierOnImages, ids: Sequence[str], digests: Sequence[str]
) -> list[RunSizes]:
  """The sizes of the runs that are asked for.

  Args:
    config: which runs and subsets.
    images: the classifier.
    ids: of the images.
    digests: of their pixels, in hexadecimal.

  Raises:
    ValueError: a run is of another classifier or other images, or does not hold such subsets.
  """
  names = [pathlib.PurePath(run.rstrip("/")).name for run in config.runs]
  titles = names if len(set(names)) == len(names) else config.runs
  return [read_run(run, title, config, images, ids, digests) for run, title in zip(config.runs, titles, strict=True)]


def read_run(
  run: str, title: str, config: LabelsConfig, images: ClassifierOnImages, ids: Sequence[str], digests: Sequence[str]
) -> RunSizes:
  """The sizes of one run; ValueError as for `read_runs`."""
  store = results.open(run)
  model = describe_model(images.classifier)
  if {name: store.spec.get(name) for name in model} != model or store.spec["class_names"] != list(images.class_names):
    raise ValueError(
      f"--runs must be of the classifier that is asked, {model['model']['name']} ({model['model']['sha256'][:8]}), but "
      f"{run!r} is of {store.spec['model']['name']} ({store.spec['model']['sha256'][:8]}), or with other classes; name "
      "its classifier by --checkpoint."
    )
  query = make_query(store.spec, kind=config.kind, threshold=config.at)
  stored = store.find_subsets(query)
  if not stored.size_fields:
    raise ValueError(
      f"--runs must hold sizes of the subsets that are asked for ({query}), but {run!r} does not; find keeps orders, "
      "from which all sizes are read, with --save order or both."
    )
  done = store.done_images()
  place_of = {name: place for place, name in enumerate(ids)}
  shared = [
    (index, place_of[name]) for index, name in zip(done, store.read_text("id", done), strict=True) if name in place_of
  ]
  if not shared:
    raise ValueError(f"--runs must be of images of --data, but none that {run!r} has finished is among them by its id.")
  indices, places = map(np.array, zip(*shared, strict=True))
  if store.has_checksums:
    own = [row.tobytes().hex() for row in store.read(results.PIXEL_DIGEST, indices)]
    other = [ids[place] for place, digest in zip(places, own, strict=True) if digest != digests[place]]
    if other:
      raise ValueError(f"--runs must be of the images of --data, but {other[0]!r} is another picture in {run!r}.")
  size, has_subset = np.full(len(ids), NO_SIZE), np.zeros(len(ids), bool)
  found = [stored.sizes(store.read_many(stored.size_fields, some)) for some in store.split_images(indices)]
  num_kept, status = (np.concatenate(parts) for parts in zip(*found, strict=True))
  has_subset[places] = status == Status.OK
  size[places] = np.where(status == Status.OK, np.maximum(num_kept, 1), masking.num_features(tuple(store.spec["grid"])))
  return RunSizes(title=title, threshold=float(query.threshold or 0), size=size, has_subset=has_subset)
