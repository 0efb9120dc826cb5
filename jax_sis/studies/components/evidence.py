"""The pixels that raise each component (its sufficient subsets), searched once, and what is said of them together."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from jax_sis.classifiers.attributions import hash_id
from jax_sis.classifiers.linear_head import LinearHead
from jax_sis.classifiers.on_images import ClassifierOnImages
from jax_sis.core.subsets import Status
from jax_sis.data.batches import join_records
from jax_sis.runtime.progress import Progress
from jax_sis.runtime.records import append_record, read_records
from jax_sis.statistics.estimates import Estimate, mean_of, share_of
from jax_sis.studies.components.config import ComponentsConfig
from jax_sis.studies.components.features import Looked
from jax_sis.studies.components.labels import ComponentName
from jax_sis.studies.components.principal import Direction
from jax_sis.studies.components.seeker import VIEWS, ComponentPredictor, Seeker, draw_offset
from jax_sis.studies.components.summaries import ComponentSummary

LINES_FILE = "evidence.jsonl"
# Images of the data, not those searched, that masked pixels show in the search, and others to judge subsets on.
NUM_POOLED, NUM_UNSEEN = 64, 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvidenceImage:
  """The pixels of one image that raise a component to its level.

  Attributes:
    id: of the image.
    place: in the data.
    label: its true class.
    status: OK, or why there are none.
    features: which, in the grid's order.
    has: under each of VIEWS, whether the component is at its level.
    is_class: whether the classifier calls it the component's class.
    confidence: in that class.
    unseen_has: the share of unseen backgrounds on which the component is at its level.
    unseen_is_class: the share on which the classifier calls it the class.
  """

  id: str
  place: int
  label: str
  status: str
  features: list[int]
  has: dict[str, bool]
  is_class: dict[str, bool]
  confidence: dict[str, float]
  unseen_has: float
  unseen_is_class: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvidenceSummary:
  """The pixels that raise a component, over the images that have such.

  Attributes:
    num_asked: images that were searched.
    size: how many pixels, in the mean.
    smallest: the fewest.
    largest: the most.
    has: under each of VIEWS, images on which the component is at its level.
    is_class: images that are called the class.
    unseen_has: the share of unseen backgrounds on which the component is at its level, in the mean.
    unseen_is_class: that on which the class is kept.
    images: what is known of each.
  """

  num_asked: int
  size: Estimate
  smallest: int | None
  largest: int | None
  has: dict[str, Estimate]
  is_class: dict[str, Estimate]
  unseen_has: Estimate
  unseen_is_class: Estimate
  images: list[EvidenceImage]


def summarise_evidence(images: Sequence[EvidenceImage], *, seed: int) -> EvidenceSummary:
  found = [image for image in images if image.status == Status.OK.name]
  sizes = np.array([len(image.features) for image in found], np.int64)
  return EvidenceSummary(
    num_asked=len(images),
    size=mean_of(sizes, seed=seed),
    smallest=int(sizes.min()) if found else None,
    largest=int(sizes.max()) if found else None,
    has={view: share_of(np.array([image.has[view] for image in found], bool)) for view in VIEWS},
    is_class={view: share_of(np.array([image.is_class[view] for image in found], bool)) for view in VIEWS},
    unseen_has=mean_of(np.array([image.unseen_has for image in found]), seed=seed),
    unseen_is_class=mean_of(np.array([image.unseen_is_class for image in found]), seed=seed),
    images=list(images),
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
  """A component to look for.

  Attributes:
    name: of the component.
    class_number: of its class.
    direction: the component as a function of features.
    level: the value that counts as having it.
    spread: its standard deviation.
    places: the images, by their places in the data.
  """

  name: ComponentName
  class_number: int
  direction: Direction
  level: float
  spread: float
  places: list[int]


def want(summary: ComponentSummary, class_number: int, direction: Direction, num_images: int) -> Wanted:
  """A component on the images in which it is largest, half of them of its class."""
  half = num_images // 2
  return Wanted(
    name=summary.name,
    class_number=class_number,
    direction=direction,
    level=summary.level,
    spread=summary.spread,
    places=[image.place for image in (*summary.own[:half], *summary.others[:half])],
  )


def seek(
  images: ClassifierOnImages,
  head: LinearHead,
  looked: Looked,
  wanted: Sequence[Wanted],
  config: ComponentsConfig,
) -> dict[ComponentName, list[EvidenceImage]]:
  """Looks for the pixels of the components that have no line in the folder's file yet; a component a device.

  Returns:
    What is known of all that are wanted.
  """
  lines = pathlib.Path(config.out) / LINES_FILE
  known = {ComponentName(*line["component"]): line for line in read_records(lines)}
  missing = [one for one in wanted if one.name not in known]
  if missing:
    program = make_program(images, head, looked, wanted, missing, config)
    with Progress("pixels", total=len(wanted), start=len(wanted) - len(missing), unit="component") as progress:
      for group, found in program.run_all(launches(images, missing, config)):
        for number, one in enumerate(group):
          first = number * config.num_images
          batch = [describe(images, place, found, first + i) for i, place in enumerate(one.places)]
          line = {"component": list(one.name), "images": [dataclasses.asdict(image) for image in batch]}
          append_record(lines, line)
          known[one.name] = line
        progress.advance(len(group))
  return {one.name: [EvidenceImage(**image) for image in known[one.name]["images"]] for one in wanted}


def make_program(
  images: ClassifierOnImages,
  head: LinearHead,
  looked: Looked,
  wanted: Sequence[Wanted],
  missing: Sequence[Wanted],
  config: ComponentsConfig,
) -> Any:
  """The search on all devices, each of which takes a batch of one component."""
  asked = [place for one in wanted for place in one.places]
  free = np.setdiff1d(looked.place, asked)
  if not len(free):
    free = looked.place
  drawn = np.random.default_rng(config.seed).permutation(free)
  # Of few images, some are taken again.
  pool, unseen = np.resize(drawn, NUM_POOLED), np.resize(drawn[::-1], NUM_UNSEEN)
  beside = {
    "heads": {
      "weights": np.stack([one.direction.weights for one in missing]).astype(np.float32),
      "offset": np.array([one.direction.offset for one in missing], np.float32),
      "level": np.array([one.level for one in missing], np.float32),
      "spread": np.array([one.spread for one in missing], np.float32),
    },
    "white": images.normalise(np.full((1, *images.classifier.input_shape), 255, np.uint8)),
    "pool": images.normalise(read(images, pool)),
    "unseen": images.normalise(read(images, unseen)),
  }
  seeker = Seeker(
    images=images,
    predictor=ComponentPredictor(head.features_fn),
    search=config.search,
    per_step=config.per_step,
    threshold=config.threshold,
    is_on_images=config.completion == "images",
    seed=config.seed,
  )
  return dataclasses.replace(images, batch_size=config.num_images).make_program(seeker, beside=beside)


def read(images: ClassifierOnImages, places: Sequence[int] | Int[np.ndarray, "N"]) -> np.ndarray:
  return join_records([images.source[int(place)] for place in places])["image"]


def launches(
  images: ClassifierOnImages, missing: Sequence[Wanted], config: ComponentsConfig
) -> Iterator[tuple[Sequence[Wanted], tuple[np.ndarray, ...]]]:
  """The components that the devices take at once, and the arrays of all their images."""
  num_devices = len(images.local_devices)
  for start in range(0, len(missing), num_devices):
    group = missing[start : start + num_devices]
    parts = []
    for place, one in enumerate(group, start):
      # A batch is full: the last image comes again.
      places = [one.places[min(i, len(one.places) - 1)] for i in range(config.num_images)]
      records = join_records([images.source[place] for place in places])
      numbers = [hash_id(str(name)) for name in records["id"]]
      parts.append(
        (
          records["image"],
          np.full(len(places), place, np.int32),
          np.full(len(places), one.class_number, np.int32),
          np.array(numbers, np.int32),
          np.array([draw_offset(config.seed, number, images.grid) for number in numbers], np.int32),
        )
      )
    yield group, tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def describe(images: ClassifierOnImages, place: int, found: Mapping[str, Any], row: int) -> EvidenceImage:
  """What was found on the image at this place, whose results stand in this row."""
  record = images.source[place]
  views = {view: {name: values[row] for name, values in asked.items()} for view, asked in found["views"].items()}
  return EvidenceImage(
    id=record["id"],
    place=place,
    label=images.name_class(record["label"]),
    status=Status(int(found["status"][row])).name,
    features=np.flatnonzero(found["kept"][row]).tolist(),
    has={view: bool(asked["has"]) for view, asked in views.items()},
    is_class={view: bool(asked["is_class"]) for view, asked in views.items()},
    confidence={view: float(asked["confidence"]) for view, asked in views.items()},
    unseen_has=float(found["unseen"]["has"][row]),
    unseen_is_class=float(found["unseen"]["is_class"][row]),
  )
