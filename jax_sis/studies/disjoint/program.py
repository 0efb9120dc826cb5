"""`jax-sis disjoint`: how many disjoint sufficient subsets images have, how large, and how often their class is right.

Each subset is found in what the ones before it have left (SIS-collection, Carter et al. 2019).
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jax_sis import results
from jax_sis.classifiers.on_images import ClassifierOnImages, describe_set, open_image_set
from jax_sis.core.collection import sis_collection
from jax_sis.core.scores import log_odds, predict_logits
from jax_sis.core.searches import Gradient
from jax_sis.core.subsets import Status
from jax_sis.core.types import Params
from jax_sis.results.schema import NOT_SEARCHED, STATUS_NAMES
from jax_sis.runtime.engines import LOCAL, Engine, in_order, open_workers
from jax_sis.runtime.progress import Progress
from jax_sis.runtime.records import append_record, read_records
from jax_sis.runtime.task_size import first_task_size
from jax_sis.studies.disjoint import report
from jax_sis.studies.disjoint.config import DisjointConfig
from jax_sis.studies.disjoint.report import Collected

FORMAT = "jax_sis.disjoint/1"
LINES_FILE = "disjoint.jsonl"


def disjoint(config: DisjointConfig, engine: Engine = LOCAL) -> dict[str, Any]:
  """Runs or resumes the search for disjoint subsets; prints tables and their reading, writes JSON, CSV and a figure.

  Args:
    config: what to search, see DisjointConfig.
    engine: where.

  Returns:
    What `disjoint.json` holds.

  Raises:
    ValueError: a setting is wrong or does not fit the checkpoint or the data, or the folder holds another run.
    StorageError: the folder cannot be written.
  """
  folder = results.open_folder(config.out)
  results.check_writable(folder)
  lines = pathlib.Path(config.out) / LINES_FILE
  make_fn = functools.partial(Searcher, config)
  claim = results.claim(folder, "disjoint")
  with open_workers(engine, make_fn, claim=claim, num_devices=config.num_devices) as workers:
    about: About = workers.about
    spec = results.settle_spec(config.out, about.spec, command_fn=config.command_in)
    print(about.headline, flush=True)
    done = read_records(lines)
    # A line depends on its batch alone: neither a kill nor the number of devices changes it.
    missing = range(len(done), -(-about.num_images // config.batch_size))
    num_done = sum(len(record["images"]) for record in done)
    with Progress("compiling", total=about.num_images, start=num_done, unit="image") as progress:
      for record in in_order(workers.run(missing, progress, "disjoint subsets"), len(done)):
        append_record(lines, record)
        done.append(record)
  collected = [Collected(**image) for record in done for image in record["images"]]
  return report.write_report(
    folder,
    collected,
    spec=spec,
    seed=config.seed,
    subject=about.subject,
    command=config.command,
  )


def make_spec(images: ClassifierOnImages, config: DisjointConfig) -> dict[str, Any]:
  return {
    "format": FORMAT,
    **describe_set(images),
    "num_images": config.num_images,
    "threshold": config.threshold,
    "per_step": config.per_step,
    "max_subsets": config.max_subsets,
    "is_minimised": config.is_minimised,
  }


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
  """What a worker says of itself; `subject` is the classifier and the data."""

  spec: dict[str, Any]
  num_first: int
  num_images: int
  headline: str
  subject: str


class Searcher:
  """A worker, whose units are the batches of a device, and what it finds their lines in the file."""

  def __init__(self, config: DisjointConfig):
    self._config = config
    self._images = images = open_image_set(config)
    self._program = images.make_program(CollectionSearch(images, config))
    self._is_ready = False
    num_images = min(len(images.source), config.num_images or len(images.source))
    minimised = ", each minimised" if config.is_minimised else ""
    self.about = About(
      spec=make_spec(images, config),
      num_first=first_task_size(len(images.local_devices), 1),
      num_images=num_images,
      headline=(
        f"Disjoint subsets that each make {images.classifier.model_name} at least {config.threshold:g} confident: "
        f"{num_images} images of {images.data_name}, {Gradient(per_step=config.per_step)}{minimised}, at most "
        f"{config.max_subsets} an image, {images.devices_name}."
      ),
      subject=f"{images.classifier.model_name} on {images.data_name}",
    )

  def get_ready(self) -> None:
    """Compiles the search."""
    if not self._is_ready:
      self._program.compile(jax.ShapeDtypeStruct((1, *self._images.classifier.input_shape), np.uint8))
      self._is_ready = True

  def __call__(self, units: Sequence[int], advance_fn: Callable[[int], Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The batches and their lines; the last batch may be shorter, and comes last."""
    size, ordered = self._config.batch_size, sorted(units)
    numbers = (np.array(ordered)[:, None] * size + np.arange(size)).ravel()
    read = self._images.read(numbers[numbers < self.about.num_images])
    following = iter(ordered)
    for batch, found in self._program.run_all((batch, (batch["image"],)) for batch in read):
      described = [describe_image(self._images, batch, found, place) for place in range(len(batch["id"]))]
      advance_fn(len(described))
      for start in range(0, len(described), size):
        yield next(following), {"images": described[start : start + size]}


class CollectionSearch:
  """What a device computes for its images."""

  def __init__(self, images: ClassifierOnImages, config: DisjointConfig):
    self._predict_fn = images.predict_fn
    self._grid = images.grid
    self._config = config

  def __call__(self, params: Params, inputs: Float[Array, "B H W C"]) -> dict[str, Array]:
    """The predicted class and its confidence `[B]`; sizes, confidences and statuses of its subsets `[B, R]`."""
    config = self._config
    logits = predict_logits(self._predict_fn, params, inputs)
    predicted = logits.argmax(-1).astype(jnp.int32)
    collection = sis_collection(
      self._predict_fn,
      params,
      inputs,
      predicted,
      threshold=config.threshold,
      search=Gradient(per_step=config.per_step),
      max_subsets=config.max_subsets,
      minimised=config.is_minimised,
      batch_size=-(-config.batch_size // 2),
      grid=self._grid,
    )
    return {
      "predicted": predicted,
      "confidence": jax.nn.sigmoid(log_odds(logits, predicted)),
      "num_kept": jnp.stack([subsets.num_kept for subsets in collection], axis=1),
      "alone": jnp.stack([subsets.confidence for subsets in collection], axis=1),
      "status": jnp.stack([subsets.status for subsets in collection], axis=1),
    }


def describe_image(
  images: ClassifierOnImages, batch: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], place: int
) -> dict[str, Any]:
  """The fields of Collected for one image, in JSON types."""
  error = str(batch["error"][place])
  described = {
    "index": int(batch["index"][place]),
    "id": str(batch["id"][place]),
    "error": error,
    "label": images.name_class(int(batch["label"][place])) or None,
  }
  if error:
    nothing = {"predicted": None, "confidence": None, "num_kept": [], "alone": []}
    return {**described, **nothing, "end": STATUS_NAMES[NOT_SEARCHED]}
  is_ok = found["status"][place] == Status.OK
  confidence = float(found["confidence"][place])
  # The status of the first round without a subset; OK where the last round has one.
  end = Status(int(found["status"][place][-1] if is_ok.all() else found["status"][place][~is_ok][0]))
  return {
    **described,
    "predicted": images.name_class(int(found["predicted"][place])),
    "confidence": confidence if np.isfinite(confidence) else None,
    "num_kept": found["num_kept"][place][is_ok].tolist(),
    "alone": found["alone"][place][is_ok].tolist(),
    "end": STATUS_NAMES[end],
  }
