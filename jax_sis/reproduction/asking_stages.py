"""The stages of a study that ask something of classifiers and runs; see `stages` for those that make them."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

from jax_sis.classifiers import on_images
from jax_sis.data.folders import hash_contents
from jax_sis.evaluation import evaluate, predictions, report
from jax_sis.evaluation import setup as evaluation_setup
from jax_sis.evaluation.config import EvaluateConfig
from jax_sis.reproduction.fingerprints import describe_machine, hash_answer
from jax_sis.reproduction.stages import DATA, StudyStage, place_subset, plain_settings, subset_input
from jax_sis.results.folder import write_atomically
from jax_sis.results.spec import read_spec
from jax_sis.studies.analysis.program import FORMAT, StudyConfig, analyse
from jax_sis.studies.attributions import program as attributions_program
from jax_sis.studies.attributions.program import AttributionsConfig
from jax_sis.studies.controls import program as controls_program
from jax_sis.studies.controls.program import ControlsConfig
from jax_sis.studies.disjoint import program as disjoint_program
from jax_sis.studies.disjoint.program import DisjointConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateStage(StudyStage):
  """Evaluates a classifier.

  Attributes:
    trained_on: what the classifier was trained on, in words.
    shown: what it is shown here, in words.
  """

  program: ClassVar[str] = "evaluate"
  config: EvaluateConfig
  trained_on: str
  shown: str

  @property
  def model(self) -> str:
    """The name of the stage that made the classifier."""
    assert self.config.checkpoint is not None
    return self.config.checkpoint

  @property
  def inputs(self) -> dict[str, str]:
    return {"data": DATA, "checkpoint": self.model, **subset_input(self.config.subset)}

  def machine(self) -> dict[str, Any]:
    return describe_machine(evaluation_setup.LIBRARIES)

  def settings(self, data_dir: str | None) -> dict[str, Any]:
    return plain_settings(self.config)

  def run(self, folder: pathlib.Path, inputs: Mapping[str, pathlib.Path], data_dir: str | None) -> None:
    placed = dataclasses.replace(
      self.config,
      out=str(folder),
      checkpoint=str(inputs["checkpoint"]),
      data_dir=data_dir,
      subset=place_subset(self.config.subset, inputs),
    )
    evaluate.evaluate(placed)

  def fingerprint(self, folder: pathlib.Path) -> str:
    read_spec(folder, report.FORMAT)
    files = [folder / "conditions.jsonl", folder / "metrics.json"]
    num_conditions = len(files[0].read_bytes().splitlines())
    predicted = sorted((folder / predictions.PREDICTIONS_DIR).glob("*.npz"))
    if len(predicted) != num_conditions:
      raise ValueError(f"predictions must hold a file for each of {num_conditions} conditions, got {len(predicted)}.")
    return hash_contents(*files, *predicted)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnalyseStage(StudyStage):
  """Says what the subsets of runs show."""

  program: ClassVar[str] = "analyse"
  config: StudyConfig

  @property
  def inputs(self) -> dict[str, str]:
    return {f"run {number}": name for number, name in enumerate(self.config.run_dirs)}

  def settings(self, data_dir: str | None) -> dict[str, Any]:
    return plain_settings(self.config)

  def run(self, folder: pathlib.Path, inputs: Mapping[str, pathlib.Path], data_dir: str | None) -> None:
    analyse(dataclasses.replace(self.config, run_dirs=tuple(map(str, inputs.values())), out=str(folder)))

  def fingerprint(self, folder: pathlib.Path) -> str:
    return hash_answer(folder / "analysis.json", FORMAT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ControlStage(StudyStage):
  """Takes away what may leak; the files stay in the run that is controlled, and a copy of the answer is kept here."""

  program: ClassVar[str] = "controls"
  config: ControlsConfig

  @property
  def inputs(self) -> dict[str, str]:
    assert self.config.checkpoint is not None
    return {"data": DATA, "run": self.config.run_dir, "checkpoint": self.config.checkpoint}

  def settings(self, data_dir: str | None) -> dict[str, Any]:
    return plain_settings(self.config)

  def run(self, folder: pathlib.Path, inputs: Mapping[str, pathlib.Path], data_dir: str | None) -> None:
    placed = dataclasses.replace(
      self.config, run_dir=str(inputs["run"]), checkpoint=str(inputs["checkpoint"]), data_dir=data_dir
    )
    controls_program.controls(placed)
    for name in ("controls.png", "controls.json"):
      write_atomically(folder / name, (inputs["run"] / name).read_bytes())

  def fingerprint(self, folder: pathlib.Path) -> str:
    return hash_answer(folder / "controls.json", controls_program.FORMAT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnImagesStage(StudyStage):
  """A study of a classifier on images, without a run of `find`."""

  config: AttributionsConfig | DisjointConfig

  @property
  def inputs(self) -> dict[str, str]:
    assert self.config.checkpoint is not None
    return {"data": DATA, "checkpoint": self.config.checkpoint}

  def machine(self) -> dict[str, Any]:
    return describe_machine(on_images.LIBRARIES)

  def settings(self, data_dir: str | None) -> dict[str, Any]:
    return plain_settings(self.config)

  def place(self, folder: pathlib.Path, inputs: Mapping[str, pathlib.Path], data_dir: str | None) -> Any:
    return dataclasses.replace(self.config, out=str(folder), checkpoint=str(inputs["checkpoint"]), data_dir=data_dir)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttributionStage(OnImagesStage):
  """Compares attributions with searches."""

  program: ClassVar[str] = "attributions"
  config: AttributionsConfig

  def run(self, folder: pathlib.Path, inputs: Mapping[str, pathlib.Path], data_dir: str | None) -> None:
    attributions_program.attributions(self.place(folder, inputs, data_dir))

  def fingerprint(self, folder: pathlib.Path) -> str:
    return hash_answer(folder / "attributions.json", attributions_program.FORMAT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DisjointStage(OnImagesStage):
  """Counts the disjoint subsets of images."""

  program: ClassVar[str] = "disjoint"
  config: DisjointConfig

  def run(self, folder: pathlib.Path, inputs: Mapping[str, pathlib.Path], data_dir: str | None) -> None:
    disjoint_program.disjoint(self.place(folder, inputs, data_dir))

  def fingerprint(self, folder: pathlib.Path) -> str:
    return hash_answer(folder / "disjoint.json", disjoint_program.FORMAT)
