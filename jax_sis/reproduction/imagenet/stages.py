"""The stages of the study of photographs, and their order: first all that searches, which wants an accelerator."""

import abc
import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from jax_sis.classifiers import on_images
from jax_sis.data import folders
from jax_sis.reproduction.asking_stages import ControlStage
from jax_sis.reproduction.fingerprints import describe_machine, drop, hash_answer
from jax_sis.reproduction.imagenet import asking, reading
from jax_sis.reproduction.imagenet.reading import Searched
from jax_sis.reproduction.imagenet.setting import (
  FRACTION,
  NUM_CONTROLLED,
  NUM_RANDOM_CLASS,
  THRESHOLD,
  Stages,
  make_search,
)
from jax_sis.reproduction.stages import DATA, DATA_FILE, FindStage, StudyStage, write_json
from jax_sis.runs.config import FindConfig
from jax_sis.studies.controls.config import ControlsConfig

CLASSIFIER_FILE = "classifier.json"
# Gradients of a ResNet-20 on 32x32 pixels that one of a network of ImageNet takes as long as, and of one search.
WORK_A_GRADIENT = 30
STEPS = 502


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotographsStage(StudyStage):
  """A folder of images as it is: their number and a SHA-256 of the files.

  Attributes:
    place: the folder. What the study is does not depend on where it lies.
  """

  program: ClassVar[str] = "photographs"
  place: str

  @property
  def inputs(self) -> dict[str, str]:
    return {}

  def settings(self, data_dir: str | None) -> dict[str, Any]:
    paths = self.list_paths()
    ids = [str(path.relative_to(self.place)) for path in paths]
    return {"files": folders.hash_files(paths, ids), "num_images": len(paths)}

  def list_paths(self) -> list[pathlib.Path]:
    if not pathlib.Path(self.place).is_dir():
      raise ValueError(f"--data must be a folder of images, got {self.place!r}.")
    return folders.list_images(pathlib.Path(self.place)).paths

  def run(self, folder: pathlib.Path, inputs: Mapping[str, pathlib.Path], data_dir: str | None) -> None:
    paths = self.list_paths()
    write_json(folder / DATA_FILE, {"photographs": {"num_images": len(paths), "sha256": folders.hash_contents(*paths)}})

  def fingerprint(self, folder: pathlib.Path) -> str:
    return folders.hash_contents(folder / DATA_FILE)

  def product(self, folder: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(self.place)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GivenClassifierStage(StudyStage):
  """A trained classifier as it is: its name and a SHA-256 of its arrays.

  Attributes:
    place: its folder, or its name. What the study is does not depend on it.
  """

  program: ClassVar[str] = "classifier"
  place: str

  @property
  def inputs(self) -> dict[str, str]:
    return {}

  def settings(self, data_dir: str | None) -> dict[str, Any]:
    return describe_classifier(self.place)

  def run(self, folder: pathlib.Path, inputs: Mapping[str, pathlib.Path], data_dir: str | None) -> None:
    write_json(folder / CLASSIFIER_FILE, describe_classifier(self.place))

  def fingerprint(self, folder: pathlib.Path) -> str:
    return folders.hash_contents(folder / CLASSIFIER_FILE)

  def product(self, folder: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(self.place)


@functools.lru_cache(maxsize=8)
def describe_classifier(place: str) -> dict[str, Any]:
  """Name, arrays, classes and size of a classifier, in JSON types; ValueError if it cannot be opened."""
  classifier, _, _ = on_images.open_classifier(place, None)
  return {
    **on_images.describe_model(classifier)["model"],
    "num_classes": len(classifier.class_names),
    "input_shape": list(classifier.input_shape),
  }


@dataclasses.dataclass(frozen=True, kw_only=True)
class OrdersStage(FindStage):
  """Searches all images for the predicted class."""

  def settings(self, data_dir: str | None) -> dict[str, Any]:
    return drop(super().settings(data_dir), frozenset({"data"}))

  def run(self, folder: pathlib.Path, inputs: Mapping[str, pathlib.Path], data_dir: str | None) -> None:
    placed = dataclasses.replace(self, config=dataclasses.replace(self.config, data=str(inputs["data"])))
    FindStage.run(placed, folder, inputs, None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomClassStage(OrdersStage):
  """Searches images of another search that are sure of their class, for a class at random.

  Attributes:
    orders: the stage of that search.
    num_images: how many at most, spread over them.
  """

  orders: str
  num_images: int

  @property
  def inputs(self) -> dict[str, str]:
    return {**super().inputs, "orders": self.orders}

  def settings(self, data_dir: str | None) -> dict[str, Any]:
    return {**super().settings(data_dir), "num_images": self.num_images, "confidence": THRESHOLD}

  def run(self, folder: pathlib.Path, inputs: Mapping[str, pathlib.Path], data_dir: str | None) -> None:
    ids = choose_confident(reading.read_searched(inputs["orders"]), self.num_images)
    config = dataclasses.replace(self.config, ids=ids)
    OrdersStage.run(dataclasses.replace(self, config=config), folder, inputs, None)


def choose_confident(searched: Searched, num_images: int) -> tuple[str, ...]:
  """The images of THRESHOLD or more, at most so many, spread over them; of all images where none reaches it."""
  confident = np.flatnonzero(searched.confidence >= THRESHOLD)
  rows = confident if len(confident) else np.arange(len(searched))
  places = np.unique(np.linspace(0, len(rows) - 1, min(num_images, len(rows))).astype(int))
  return tuple(searched.ids[row] for row in rows[places])


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskingStage(StudyStage):
  """Asks a classifier of parts of images of finished searches.

  Attributes:
    classifier: the stage that gives it.
    runs: the searches that say which parts, by role.
  """

  file: ClassVar[str]
  format: ClassVar[str]
  shown: ClassVar[Mapping[str, str]]
  classifier: str
  runs: Mapping[str, str]

  @property
  def inputs(self) -> dict[str, str]:
    return {"data": DATA, "classifier": self.classifier, **self.runs}

  def settings(self, data_dir: str | None) -> dict[str, Any]:
    return {"fraction": FRACTION, "shown": list(self.shown)}

  def machine(self) -> dict[str, Any]:
    return describe_machine(on_images.LIBRARIES)

  def run(self, folder: pathlib.Path, inputs: Mapping[str, pathlib.Path], data_dir: str | None) -> None:
    write_json(folder / self.file, self.ask(inputs))

  @abc.abstractmethod
  def ask(self, inputs: Mapping[str, pathlib.Path]) -> dict[str, Any]:
    """The answer, in JSON types."""

  def fingerprint(self, folder: pathlib.Path) -> str:
    return hash_answer(folder / self.file, self.format)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartsStage(AskingStage):
  """Shows a classifier parts of its images; see `asking.ask_parts`."""

  program: ClassVar[str] = "parts"
  file: ClassVar[str] = asking.PARTS_FILE
  format: ClassVar[str] = asking.PARTS_FORMAT
  shown: ClassVar[Mapping[str, str]] = asking.PARTS

  def ask(self, inputs: Mapping[str, pathlib.Path]) -> dict[str, Any]:
    return asking.ask_parts(inputs["orders"], inputs["random_class"], inputs["classifier"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShownToStage(AskingStage):
  """Shows a classifier what another one needs; see `asking.ask_of_others`."""

  program: ClassVar[str] = "shown to"
  file: ClassVar[str] = asking.TRANSFER_FILE
  format: ClassVar[str] = asking.TRANSFER_FORMAT
  shown: ClassVar[Mapping[str, str]] = asking.SHOWN_TO

  def ask(self, inputs: Mapping[str, pathlib.Path]) -> dict[str, Any]:
    return asking.ask_of_others(inputs["chooser"], inputs["orders"], inputs["classifier"])


def name_classifiers(checkpoints: Sequence[str]) -> list[Stages]:
  """The names of the stages of each classifier, by its model; of several of one model, with a number."""
  names: list[str] = []
  for checkpoint in checkpoints:
    name = re.sub(r"[^a-z0-9.]+", "-", describe_classifier(checkpoint)["name"].lower()).strip("-")
    names.append(name if name not in names else f"{name}-{len(names) + 1}")
  return [Stages(label=name) for name in names]


def make_stages(data: str, checkpoints: Sequence[str]) -> list[StudyStage]:
  """All stages of the study, each after its inputs; the searches for predicted classes come first.

  Raises:
    ValueError: there is no such folder or classifier.
  """
  named = name_classifiers(checkpoints)
  photographs = PhotographsStage(name=DATA, title="the photographs, counted and hashed", work=0, place=data)
  num_images = len(photographs.list_paths())
  num_random = min(NUM_RANDOM_CLASS, num_images)
  made: list[StudyStage] = [photographs]
  for names, place in zip(named, checkpoints, strict=True):
    made.append(GivenClassifierStage(name=names.classifier, title=f"the classifier {place}", work=0, place=place))
  made += [make_orders(names, num_images) for names in named]
  made += [make_random_class(names, num_random) for names in named]
  for names in named:
    runs = {"orders": names.orders, "random_class": names.random_class}
    title = f"{names.label} shown borders, centres and pixels at random"
    work = WORK_A_GRADIENT * len(asking.PARTS) * num_images
    made.append(PartsStage(name=names.parts, title=title, work=work, classifier=names.classifier, runs=runs))
  for names in named:
    for other in named:
      if other != names:
        made.append(make_transfer(names, other, num_images))
  return [*made, *(make_controls(names, num_images) for names in named)]


def make_orders(names: Stages, num_images: int) -> OrdersStage:
  return OrdersStage(
    name=names.orders,
    title=f"what {names.label} needs of {num_images} photographs",
    work=WORK_A_GRADIENT * STEPS * num_images,
    config=place_search(names),
  )


def place_search(names: Stages, *, is_random_class: bool = False) -> FindConfig:
  return dataclasses.replace(make_search(is_random_class=is_random_class), checkpoint=names.classifier)


def make_random_class(names: Stages, num_images: int) -> RandomClassStage:
  return RandomClassStage(
    name=names.random_class,
    title=f"what {names.label} needs for a class at random, of at most {num_images} that it is sure of",
    work=WORK_A_GRADIENT * STEPS * num_images,
    config=place_search(names, is_random_class=True),
    orders=names.orders,
    num_images=num_images,
  )


def make_transfer(names: Stages, other: Stages, num_images: int) -> ShownToStage:
  return ShownToStage(
    name=names.transfer(other.label),
    title=f"{other.label} shown what {names.label} needs",
    work=WORK_A_GRADIENT * len(asking.SHOWN_TO) * num_images,
    classifier=other.classifier,
    runs={"chooser": names.orders, "orders": other.orders},
  )


def make_controls(names: Stages, num_images: int) -> ControlStage:
  return ControlStage(
    name=names.controls,
    title=f"subsets of {names.label} with what may leak taken away",
    work=WORK_A_GRADIENT * 40 * min(NUM_CONTROLLED, num_images),
    config=ControlsConfig(
      run_dir=names.orders,
      checkpoint=names.classifier,
      limit=NUM_CONTROLLED,
      num_wrong_class=0,
      mask_fractions=(FRACTION,),
    ),
  )


def read_answer(folder: pathlib.Path, stage: AskingStage) -> dict[str, Any]:
  """What a finished stage wrote."""
  return json.loads((folder / stage.file).read_bytes())
