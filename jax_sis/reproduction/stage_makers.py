"""One stage each, from the size of a study: its settings, its name, and how long it takes."""

import dataclasses
from typing import Any

from jax_sis.core.searches import Exact, Gradient, Screened
from jax_sis.evaluation.config import EvaluateConfig
from jax_sis.reproduction import asking_stages, stages
from jax_sis.reproduction.names import Names
from jax_sis.reproduction.presets import CIFAR10, Preset, count_images
from jax_sis.results.query import PixelSubset
from jax_sis.runs.config import FindConfig
from jax_sis.studies.attributions.config import AttributionsConfig
from jax_sis.studies.controls.config import ControlsConfig
from jax_sis.studies.disjoint.config import DisjointConfig
from jax_sis.training.config import Pgd

# Costs in input gradients of one image, measured on two cores.
GRADIENTS_PER_TRAINED_IMAGE = 3.5
GRADIENTS_PER_EVALUATED_IMAGE = 1.0
GRADIENTS_PER_FORWARD = 0.6
GRADIENTS_PER_IMAGE_READ = 0.4
# Multiplications of a forward pass of one 32x32 image, relative to a ResNet-20 (40.6 million).
RELATIVE_COST = {"resnet20": 1.0, "resnet18": 13.7, "vgg16": 7.7, "wrn28_10": 129.0}


def attribution_stage(preset: Preset, names: Names) -> asking_stages.AttributionStage:
  search = preset.search if isinstance(preset.search, Gradient) else Gradient()
  return asking_stages.AttributionStage(
    name=f"{names.architecture}-attributions",
    title=f"attributions beside searches on {preset.num_attributed} images",
    work=40_000 * preset.num_attributed,
    config=AttributionsConfig(
      out="",
      checkpoint=names.full(0),
      data=CIFAR10,
      split=preset.test_split,
      threshold=preset.threshold,
      num_images=preset.num_attributed,
      per_step=search.per_step,
      patch=preset.attributed_patch,
    ),
  )


def disjoint_stage(preset: Preset, model: str, title: str, *, cost: int) -> asking_stages.DisjointStage:
  """Counts disjoint subsets; `cost` is that of an evaluation, relative to a single classifier."""
  search = preset.search if isinstance(preset.search, Gradient) else Gradient()
  return asking_stages.DisjointStage(
    name=f"{model}-disjoint",
    title=title,
    work=cost * 5 * 1024 / search.per_step * count_images(preset.disjoint_split),
    config=DisjointConfig(
      out="",
      checkpoint=model,
      data=CIFAR10,
      split=preset.disjoint_split,
      threshold=preset.threshold,
      per_step=search.per_step,
    ),
  )


def train_stage(
  preset: Preset,
  names: Names,
  name: str,
  what: str,
  *,
  seed: int = 0,
  subset: PixelSubset | None = None,
  keep_pixels: float = 1.0,
  adversarial: Pgd | None = None,
) -> stages.TrainStage:
  config = dataclasses.replace(
    preset.recipe,
    model=names.architecture,
    split=preset.train_split,
    seed=seed,
    subset=subset,
    keep_pixels=keep_pixels,
    adversarial=adversarial,
  )
  num_passes = 1 if adversarial is None else 1 + adversarial.num_steps
  return stages.TrainStage(
    name=name,
    title=f"{names.architecture} trained on {what}",
    work=GRADIENTS_PER_TRAINED_IMAGE * num_passes * config.num_epochs * count_images(preset.train_split),
    config=config,
  )


def find_config(preset: Preset, **changes: Any) -> FindConfig:
  """The settings that the searches of a study share, with changes."""
  search = {"search": preset.search, "smallest": None, "threshold": preset.threshold, "certificate": "alone"}
  return FindConfig(**{"out": "", "data": CIFAR10, **search, **changes})


def find_stage(name: str, title: str, config: FindConfig, *, cost: int = 1) -> stages.FindStage:
  """A search; `cost` is that of an evaluation, relative to a single classifier."""
  num_features = (32 // config.patch) ** 2
  work = 0.0
  match config.search:
    case Gradient(per_step=per_step):
      work += num_features / per_step + 2.5
    case Screened(candidates=candidates):
      work += num_features * (1 + GRADIENTS_PER_FORWARD * candidates)
    case Exact():
      work += GRADIENTS_PER_FORWARD * num_features * (num_features + 1) / 2
  if config.smallest is not None:
    work += 3500
  assert config.split is not None
  return stages.FindStage(name=name, title=title, work=cost * work * count_images(config.split), config=config)


def control_stage(preset: Preset, run: str, model: str, *, cost: int = 1) -> asking_stages.ControlStage:
  """Leak controls of the subsets of a search, and of its most needed pixels, which every image has."""
  return asking_stages.ControlStage(
    name=f"{run}-controls",
    title=f"subsets of {run} with what may leak taken away",
    work=100 * cost * preset.num_controlled,
    config=ControlsConfig(
      run_dir=run, checkpoint=model, limit=preset.num_controlled, num_wrong_class=0, mask_fractions=(preset.fraction,)
    ),
  )


def evaluate_stage(
  preset: Preset,
  model: str,
  view: str,
  shown: str,
  subset: PixelSubset | None,
  trained_on: str,
  *,
  is_corrupted: bool = False,
) -> asking_stages.EvaluateStage:
  num_images = count_images(preset.test_split)
  config = EvaluateConfig(
    out="", checkpoint=model, data=CIFAR10, split=preset.test_split, on_error="refuse", subset=subset
  )
  name, what, work = f"{model}-on-{view}", shown, num_images
  if is_corrupted:
    num_corrupted = min(preset.num_corrupted, num_images)
    config = dataclasses.replace(config, corruptions="made", limit=num_corrupted)
    name, what, work = f"{name}-corrupted", f"{shown} of corrupted images", 4 * 85 * num_corrupted
  return asking_stages.EvaluateStage(
    name=name,
    title=f"{model} shown {what}",
    work=GRADIENTS_PER_EVALUATED_IMAGE * work + 10_000,
    config=config,
    trained_on=trained_on,
    shown=shown,
  )


def subset_views(preset: Preset, names: Names) -> dict[str, tuple[str, PixelSubset]]:
  """What is shown beside whole test images, in words and as a setting."""
  share = f"{100 * preset.fraction:g} %"
  return {
    "subsets": (
      f"{share} that {names.full(0)} needs most",
      PixelSubset(run=names.orders("test"), fraction=preset.fraction),
    ),
    "random": (f"{share} at random", PixelSubset(random_seed=0, fraction=preset.fraction)),
  }


def scale_work(stage: stages.StudyStage) -> stages.StudyStage:
  """The stage with its work scaled from a ResNet-20 to its own architecture, which its name begins with."""
  if isinstance(stage, stages.DataStage | asking_stages.AnalyseStage):
    return stage
  return dataclasses.replace(stage, work=RELATIVE_COST[stage.name.split("-")[0]] * stage.work)


def thresholds_below(preset: Preset) -> tuple[float, ...]:
  """Confidences beside the preset's own at which sizes are given."""
  return tuple(threshold for threshold in (0.9,) if threshold < preset.threshold)
