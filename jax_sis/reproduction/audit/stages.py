"""The stages of an audit, each one of the package's studies on the same classifier and images."""

import abc
import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from jax_sis.classifiers import linear_head, on_images
from jax_sis.classifiers.on_images import ClassifierOnImages
from jax_sis.core.searches import Gradient
from jax_sis.reproduction.audit import fix
from jax_sis.reproduction.audit.config import SIZES, AuditConfig
from jax_sis.reproduction.fingerprints import describe_machine, drop, hash_answer, hash_run
from jax_sis.reproduction.stages import PLACES, StudyStage, plain_settings, write_json
from jax_sis.results.folder import write_atomically
from jax_sis.runs import find
from jax_sis.runs.config import FindConfig, settings_to_json
from jax_sis.studies.clusters import program as clusters
from jax_sis.studies.clusters.config import ClustersConfig
from jax_sis.studies.components import program as components
from jax_sis.studies.components.config import ComponentsConfig
from jax_sis.studies.controls import program as controls
from jax_sis.studies.controls.config import ControlsConfig
from jax_sis.studies.ranking import program as ranking
from jax_sis.studies.ranking.config import RankingConfig

SUBJECT, RANKING, SUBSETS, CLUSTERS, CONTROLS, COMPONENTS, FIX = (
  "subject",
  "border",
  "subsets",
  "clusters",
  "controls",
  "components",
  "fix",
)
SUBJECT_FILE, COMPONENTS_FILE = "subject.json", "components.json"
SUBJECT_FORMAT = "jax_sis.audit_subject/1"
# What a stage takes to begin, most of it to compile, in gradients.
START = 20_000
# In gradients, a forward pass, and a search for the smallest evidence (2.5 s an image on two quiet cores).
FORWARD, SMALLEST = 0.4, 4500
BATCH_SIZE = 64
# What the results do not depend on.
UNIMPORTANT = frozenset({"num_devices"})


@functools.lru_cache(maxsize=2)
def open_subject(config: AuditConfig) -> tuple[ClassifierOnImages, ClassifierOnImages]:
  """The classifier with the images that it is judged on, and with those that its components are looked for in."""
  images = on_images.open_on_images(config, batch_size=BATCH_SIZE)
  images.check_classifier()
  if config.train_split is None:
    return images, images
  source = on_images.open_images(config, images.classifier, config.data, config.train_split)
  return images, dataclasses.replace(images, source=source)


def find_refusal(images: ClassifierOnImages) -> str:
  """Why a classifier has no components; empty where it has."""
  try:
    linear_head.find_linear_head(images.classifier, images.predict_fn, images.params)
  except ValueError as error:
    return str(error)
  return ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditStage(StudyStage):
  """A stage on the classifier and the images of an audit.

  Attributes:
    audit: the settings, whose folders are no part of what the stage is.
    asked: the settings of its study, where it has such; names of stages stand for their folders.
  """

  file: ClassVar[str]
  format: ClassVar[str]
  audit: AuditConfig
  asked: Any = None
  takes: tuple[str, ...] = ()

  @property
  def inputs(self) -> dict[str, str]:
    return {name: name for name in (SUBJECT, *self.takes)}

  def settings(self, data_dir: str | None) -> dict[str, Any]:
    return drop(plain_settings(self.asked), UNIMPORTANT)

  def machine(self) -> dict[str, Any]:
    return describe_machine(on_images.LIBRARIES)

  @abc.abstractmethod
  def run(self, folder: pathlib.Path, inputs: Mapping[str, pathlib.Path], data_dir: str | None) -> None: ...

  def fingerprint(self, folder: pathlib.Path) -> str:
    return hash_answer(folder / self.file, self.format)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubjectStage(AuditStage):
  """What is audited: the classifier's arrays, the images, and how many of them each class has."""

  program: ClassVar[str] = "subject"
  file: ClassVar[str] = SUBJECT_FILE
  format: ClassVar[str] = SUBJECT_FORMAT

  @property
  def inputs(self) -> dict[str, str]:
    return {}

  def machine(self) -> dict[str, Any]:
    return {}

  def settings(self, data_dir: str | None) -> dict[str, Any]:
    images, trained = open_subject(self.audit)
    described = images.describe()
    return {name: described[name] for name in ("model", "class_names", "normalisation", "data")} | {
      "components_of": trained.source.description
    }

  def run(self, folder: pathlib.Path, inputs: Mapping[str, pathlib.Path], data_dir: str | None) -> None:
    content = {"format": SUBJECT_FORMAT, **self.settings(data_dir)}
    for name, images in zip(("judged", "components"), open_subject(self.audit), strict=True):
      labels = np.concatenate([batch["label"] for batch in images.read(range(len(images.source)))])
      counts = np.bincount(labels[labels >= 0], minlength=len(images.class_names))
      content[f"num_images_{name}"] = dict(zip(images.class_names, counts.tolist(), strict=True))
    write_json(folder / SUBJECT_FILE, content)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankingStage(AuditStage):
  """How often each class is right, and whether that goes with what the border alone says."""

  program: ClassVar[str] = "ranking"
  file: ClassVar[str] = "ranking.json"
  format: ClassVar[str] = ranking.FORMAT

  def run(self, folder: pathlib.Path, inputs: Mapping[str, pathlib.Path], data_dir: str | None) -> None:
    ranking.ranking(dataclasses.replace(self.asked, out=str(folder)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubsetsStage(AuditStage):
  """Searches subsets of the images."""

  program: ClassVar[str] = "find"

  def settings(self, data_dir: str | None) -> dict[str, Any]:
    return drop(settings_to_json(self.asked), PLACES | UNIMPORTANT)

  def run(self, folder: pathlib.Path, inputs: Mapping[str, pathlib.Path], data_dir: str | None) -> None:
    find.find(dataclasses.replace(self.asked, out=str(folder)))

  def fingerprint(self, folder: pathlib.Path) -> str:
    return hash_run(folder)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClustersStage(AuditStage):
  """Clusters of the subsets of each class, and what their regions do."""

  program: ClassVar[str] = "clusters"
  file: ClassVar[str] = "clusters.json"
  format: ClassVar[str] = clusters.FORMAT

  def run(self, folder: pathlib.Path, inputs: Mapping[str, pathlib.Path], data_dir: str | None) -> None:
    clusters.clusters(dataclasses.replace(self.asked, out=str(folder), run_dir=str(inputs[SUBSETS])))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ControlsStage(AuditStage):
  """What may leak of the subsets; the files stay in their run, and a copy of the answer is kept here."""

  program: ClassVar[str] = "controls"
  file: ClassVar[str] = "controls.json"
  format: ClassVar[str] = controls.FORMAT

  def run(self, folder: pathlib.Path, inputs: Mapping[str, pathlib.Path], data_dir: str | None) -> None:
    controls.controls(dataclasses.replace(self.asked, run_dir=str(inputs[SUBSETS])))
    write_atomically(folder / self.file, (inputs[SUBSETS] / self.file).read_bytes())


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComponentsStage(AuditStage):
  """What each class's logit is made of; of a classifier that cannot be split, the reason."""

  program: ClassVar[str] = "components"
  file: ClassVar[str] = COMPONENTS_FILE
  format: ClassVar[str] = components.FORMAT

  def run(self, folder: pathlib.Path, inputs: Mapping[str, pathlib.Path], data_dir: str | None) -> None:
    counts = json.loads((inputs[SUBJECT] / SUBJECT_FILE).read_bytes())["num_images_components"]
    refusal = find_refusal(open_subject(self.audit)[0])
    if not refusal and max(counts.values()) <= self.asked.num_components:
      refusal = (
        f"no class has more than {max(counts.values())} images, and {self.asked.num_components} components of a class "
        "take more than as many."
      )
    if refusal:
      print(f"No components: {refusal}", flush=True)
      write_json(folder / COMPONENTS_FILE, {"format": components.FORMAT, "refusal": refusal})
    else:
      components.components(dataclasses.replace(self.asked, out=str(folder)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixStage(AuditStage):
  """What taking each component away does on the images that the classifier is judged on; see `fix`."""

  program: ClassVar[str] = "fix"
  file: ClassVar[str] = fix.FILE
  format: ClassVar[str] = fix.FORMAT

  def settings(self, data_dir: str | None) -> dict[str, Any]:
    return {"seed": self.audit.seed}

  def run(self, folder: pathlib.Path, inputs: Mapping[str, pathlib.Path], data_dir: str | None) -> None:
    found = json.loads((inputs[COMPONENTS] / COMPONENTS_FILE).read_bytes())
    answer: dict[str, Any] = {"format": fix.FORMAT, "components": []}
    if "refusal" not in found:
      judged, trained = open_subject(self.audit)
      answer["components"] = fix.remove_each(judged, trained, found, inputs[COMPONENTS], seed=self.audit.seed)
    write_json(folder / fix.FILE, answer)


def make_stages(config: AuditConfig) -> list[StudyStage]:
  """All stages, each after its inputs.

  Raises:
    ValueError: the classifier or the images cannot be opened.
  """
  images, trained = open_subject(config)
  return [
    SubjectStage(name=SUBJECT, title="the classifier and the images, read once", work=0, audit=config),
    make_ranking(config, images),
    *make_subset_stages(config, images),
    *make_component_stages(config, images, trained),
  ]


def name_subject(config: AuditConfig) -> dict[str, Any]:
  """The settings that every study of the classifier on the images has."""
  names = ("checkpoint", "model_function", "data", "data_dir", "resize", "background", "num_devices")
  return {name: getattr(config, name) for name in names}


def make_ranking(config: AuditConfig, images: ClassifierOnImages) -> StudyStage:
  size = SIZES[config.size]
  num_ranked = min(size.num_ranked, len(images.source))
  return RankingStage(
    name=RANKING,
    title=f"who is right, and what the border alone says, on {num_ranked} images",
    work=START + FORWARD * (size.num_draws + 1) * num_ranked,
    audit=config,
    asked=RankingConfig(
      **name_subject(config),
      split=config.split,
      out="-",
      num_images=num_ranked,
      completion="images",
      pool=config.data,
      pool_split=config.train_split or config.split,
      num_draws=size.num_draws,
      batch_size=BATCH_SIZE,
      seed=config.seed,
    ),
  )


def make_subset_stages(config: AuditConfig, images: ClassifierOnImages) -> list[StudyStage]:
  """The search, and what is asked of its subsets."""
  size = SIZES[config.size]
  num_searched = min(size.num_searched, len(images.source))
  steps, num_classes = images.num_features // size.per_step + 2, len(images.class_names)
  ids = None if num_searched == len(images.source) else choose_ids(images, num_searched, config.seed)
  return [
    SubsetsStage(
      name=SUBSETS,
      title=f"which pixels suffice, of {num_searched} images",
      work=START + steps * num_searched,
      audit=config,
      asked=FindConfig(
        **name_subject(config),
        split=config.split,
        out="-",
        ids=ids,
        search=Gradient(per_step=size.per_step),
        smallest=None,
        threshold=0.9,
        certificate="alone",
        saved="order",
        gallery=0,
      ),
    ),
    ClustersStage(
      name=CLUSTERS,
      title="what the subsets of each class share, and what that place does by itself",
      work=START + FORWARD * 8 * size.num_judged * num_classes,
      audit=config,
      takes=(SUBSETS,),
      asked=ClustersConfig(
        run_dir=SUBSETS, out="-", num_judged=size.num_judged, num_devices=config.num_devices, seed=config.seed
      ),
    ),
    ControlsStage(
      name=CONTROLS,
      title="what may leak of the subsets",
      work=START + FORWARD * 40 * min(size.num_controlled, num_searched),
      audit=config,
      takes=(SUBSETS,),
      asked=ControlsConfig(run_dir=SUBSETS, limit=size.num_controlled, num_wrong_class=0, seed=config.seed),
    ),
  ]


def make_component_stages(
  config: AuditConfig, images: ClassifierOnImages, trained: ClassifierOnImages
) -> list[StudyStage]:
  """The components of each class, and what is without them."""
  size, num_classes = SIZES[config.size], len(images.class_names)
  return [
    ComponentsStage(
      name=COMPONENTS,
      title=f"what each class's logit is made of, from {len(trained.source)} images",
      work=START
      + FORWARD * (len(trained.source) + len(images.source))
      + num_classes * size.num_sought * size.num_sought_on * (SMALLEST if size.smallest else 300),
      audit=config,
      asked=ComponentsConfig(
        **name_subject(config),
        split=config.train_split or config.split,
        validation=None if trained is images else config.data,
        validation_split=None if trained is images else config.split,
        out="-",
        num_components=size.num_components,
        num_searched=size.num_sought,
        num_images=size.num_sought_on,
        search="smallest" if size.smallest else "gradient",
        seed=config.seed,
      ),
    ),
    FixStage(
      name=FIX,
      title="what taking each component away does",
      work=0,
      audit=config,
      takes=(COMPONENTS,),
    ),
  ]


def choose_ids(images: ClassifierOnImages, count: int, seed: int) -> tuple[str, ...]:
  """Some of the images, by chance, in their order."""
  ids = images.source.ids()
  return tuple(ids[place] for place in np.sort(np.random.default_rng(seed).permutation(len(ids))[:count]))
