"""The stages of a study that make what others need: the images, classifiers, and runs of `find`.

Each is one of the package's programs, its settings and its inputs. In the settings, names of stages stand for what
they make: a classifier's folder in `checkpoint`, a run of `find` in `subset.run`, `run_dir` or `run_dirs`. The paths
are filled in when the stage runs.
"""

import abc
import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

import jax

from jax_sis.classifiers import checkpoint, import_checkpoint
from jax_sis.classifiers.ensemble import Average
from jax_sis.core.messages import name_some
from jax_sis.data import tfds
from jax_sis.data.folders import hash_contents
from jax_sis.reproduction.fingerprints import describe_machine, drop, hash_run, hash_split
from jax_sis.results.answer import encode_json
from jax_sis.results.folder import write_atomically
from jax_sis.results.query import PixelSubset
from jax_sis.runs import find, setup
from jax_sis.runs.config import FindConfig, settings_to_json
from jax_sis.training import train
from jax_sis.training.config import TrainConfig, settings_to_dict

DATA = "data"
DATA_FILE = "data.json"
MAX_NAMED = 5
PLACES = frozenset({"out", "data_dir", "checkpoint", "model_function", "run_dir", "run_dirs"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyStage(abc.ABC):
  """One step of a study.

  Attributes:
    name: in the study, and of its folder.
    title: what it does, in words.
    work: how long it takes, in input gradients of one image by a ResNet-20.
  """

  program: ClassVar[str]
  name: str
  title: str
  work: float

  @property
  @abc.abstractmethod
  def inputs(self) -> dict[str, str]:
    """The names of the stages whose products this one uses, by role."""

  @abc.abstractmethod
  def settings(self, data_dir: str | None) -> dict[str, Any]:
    """What fixes its results, beside its inputs, in JSON types."""

  def machine(self) -> dict[str, Any]:
    """What must be the same for an interrupted attempt to resume; otherwise the stage starts again."""
    return {}

  @abc.abstractmethod
  def run(self, folder: pathlib.Path, inputs: Mapping[str, pathlib.Path], data_dir: str | None) -> None:
    """Runs or resumes the stage in its folder; `inputs` are the products of other stages, by role.

    Raises:
      ValueError: as the program does.
    """

  @abc.abstractmethod
  def fingerprint(self, folder: pathlib.Path) -> str:
    """A SHA-256 of its results.

    Raises:
      ValueError, OSError: they are missing or damaged.
    """

  def product(self, folder: pathlib.Path) -> pathlib.Path:
    """What other stages use of it."""
    return folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataStage(StudyStage):
  """Reads all images of a TFDS data set once: their number and a SHA-256 of ids, labels and pixels."""

  program: ClassVar[str] = "data"
  dataset: str
  splits: tuple[str, ...]

  @property
  def inputs(self) -> dict[str, str]:
    return {}

  def settings(self, data_dir: str | None) -> dict[str, Any]:
    """Includes size and time of the data set's files, so that changed files are read again."""
    files = {}
    version = ""
    for split in self.splits:
      source = tfds.open_data_source(self.dataset, split, data_dir)
      version = str(source.dataset_info.version)
      paths = sorted(pathlib.Path(source.dataset_info.data_dir).iterdir())
      files = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in paths if path.is_file()}
    return {"dataset": self.dataset, "splits": list(self.splits), "version": version, "files": files}

  def run(self, folder: pathlib.Path, inputs: Mapping[str, pathlib.Path], data_dir: str | None) -> None:
    content = {split: hash_split(self.dataset, split, data_dir) for split in self.splits}
    for split, found in content.items():
      empty = [name for name, count in found["num_images_by_class"].items() if not count]
      if empty:
        raise ValueError(
          f"every class must have images, but of {self.dataset} {split} {name_some(empty, most=MAX_NAMED)} have none; "
          "name a larger split, or see whether the data set is whole."
        )
    write_json(folder / DATA_FILE, content)

  def fingerprint(self, folder: pathlib.Path) -> str:
    return hash_contents(folder / DATA_FILE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierStage(StudyStage):
  """A stage that makes a classifier."""

  def product(self, folder: pathlib.Path) -> pathlib.Path:
    return folder / "classifier"

  def fingerprint(self, folder: pathlib.Path) -> str:
    return checkpoint.hash_params(checkpoint.load_classifier(self.product(folder)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainStage(ClassifierStage):
  """Trains a classifier."""

  program: ClassVar[str] = "train"
  config: TrainConfig

  @property
  def inputs(self) -> dict[str, str]:
    return {"data": DATA, **subset_input(self.config.subset)}

  def settings(self, data_dir: str | None) -> dict[str, Any]:
    return plain_settings(settings_to_dict(self.config))

  def machine(self) -> dict[str, Any]:
    """Each device has batch statistics of its own."""
    return {"num_devices": self.config.num_devices or jax.local_device_count()}

  def run(self, folder: pathlib.Path, inputs: Mapping[str, pathlib.Path], data_dir: str | None) -> None:
    config = dataclasses.replace(self.config, subset=place_subset(self.config.subset, inputs))
    train.train(config, data_dir=data_dir, out_dir=folder)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnsembleStage(ClassifierStage):
  """Joins the classifiers of other stages."""

  program: ClassVar[str] = "checkpoint ensemble"
  members: tuple[str, ...]
  average: Average = "probabilities"

  @property
  def inputs(self) -> dict[str, str]:
    return {f"member {number}": name for number, name in enumerate(self.members)}

  def settings(self, data_dir: str | None) -> dict[str, Any]:
    return {"average": self.average}

  def run(self, folder: pathlib.Path, inputs: Mapping[str, pathlib.Path], data_dir: str | None) -> None:
    import_checkpoint.join_ensemble(list(inputs.values()), average=self.average, out_dir=self.product(folder))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FindStage(StudyStage):
  """Searches the subsets of images."""

  program: ClassVar[str] = "find"
  config: FindConfig

  @property
  def inputs(self) -> dict[str, str]:
    assert self.config.checkpoint is not None
    return {"data": DATA, "checkpoint": self.config.checkpoint}

  def machine(self) -> dict[str, Any]:
    return describe_machine(setup.LIBRARIES)

  def settings(self, data_dir: str | None) -> dict[str, Any]:
    return drop(settings_to_json(self.config), PLACES)

  def run(self, folder: pathlib.Path, inputs: Mapping[str, pathlib.Path], data_dir: str | None) -> None:
    placed = dataclasses.replace(self.config, out=str(folder), checkpoint=str(inputs["checkpoint"]), data_dir=data_dir)
    find.find(placed)

  def fingerprint(self, folder: pathlib.Path) -> str:
    return hash_run(folder)


def subset_input(subset: PixelSubset | None) -> dict[str, str]:
  return {} if subset is None or subset.run is None else {"subset": subset.run}


def place_subset(subset: PixelSubset | None, inputs: Mapping[str, pathlib.Path]) -> PixelSubset | None:
  """The subset with its run's folder instead of the stage's name."""
  return subset if subset is None or subset.run is None else dataclasses.replace(subset, run=str(inputs["subset"]))


def plain_settings(config: Any) -> dict[str, Any]:
  """Settings, an object or by name, in JSON types, without folders and names of stages."""
  values = config if isinstance(config, dict) else dataclasses.asdict(config)
  settings = drop(json.loads(json.dumps(values)), PLACES)
  if settings.get("subset") is not None:
    del settings["subset"]["run"]
  return settings


def write_json(path: pathlib.Path, content: Any) -> None:
  """Writes a file, whole or not at all.

  Raises:
    StorageError: it cannot be written.
  """
  write_atomically(path, encode_json(content))
