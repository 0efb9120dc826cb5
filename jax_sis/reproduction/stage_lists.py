"""The stages of a study, in the order in which they answer the most."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jax_sis.core.searches import BackwardSearch, Exact, Gradient, Screened
from jax_sis.core.types import ScoreName
from jax_sis.reproduction import asking_stages, stage_makers, stages
from jax_sis.reproduction.names import FULL, Names
from jax_sis.reproduction.presets import CIFAR10, Preset, count_images
from jax_sis.reproduction.stage_makers import (
  attribution_stage,
  control_stage,
  disjoint_stage,
  evaluate_stage,
  find_config,
  find_stage,
  scale_work,
  subset_views,
  thresholds_below,
  train_stage,
)
from jax_sis.results.query import PixelSubset
from jax_sis.studies.analysis.config import StudyConfig
from jax_sis.studies.controls.config import ControlsConfig


def make_stages(preset: Preset) -> list[stages.StudyStage]:
  """All stages of a study, each after its inputs."""
  everything: list[stages.StudyStage] = [
    stages.DataStage(
      name=stages.DATA,
      title=f"the images of {CIFAR10}, counted and hashed",
      work=stage_makers.GRADIENTS_PER_IMAGE_READ * (count_images(preset.train_split) + count_images(preset.test_split)),
      dataset=CIFAR10,
      splits=(preset.train_split, preset.test_split),
    )
  ]
  for architecture in preset.architectures:
    everything += make_main_stages(preset, Names(architecture=architecture))
  everything += make_transfer_stages(preset)
  for architecture in preset.architectures:
    everything += make_mitigation_stages(preset, Names(architecture=architecture))
  first = Names(architecture=preset.architectures[0])
  everything += [attribution_stage(preset, first), *make_sample_stages(preset, first)]
  return [scale_work(stage) for stage in everything]


def make_main_stages(preset: Preset, names: Names) -> list[stages.StudyStage]:
  """Full, subset and random pixels: three classifiers, the orders, and what each says of each."""
  full = names.full(0)
  subset = PixelSubset(run=names.orders("train"), fraction=preset.fraction)
  random = PixelSubset(random_seed=0, fraction=preset.fraction)
  share = f"{100 * preset.fraction:g} %"
  fractions = (preset.fraction,)
  of_training = find_config(
    preset, checkpoint=full, split=preset.train_split, saved="mask", mask_fractions=fractions, gallery=0
  )
  of_test = dataclasses.replace(of_training, split=preset.test_split, saved="order", mask_fractions=(), gallery=24)
  trainings = [
    train_stage(preset, names, full, "whole images", seed=0),
    find_stage(names.orders("train"), "the order of all pixels of every training image", of_training),
    find_stage(names.orders("test"), "the order of all pixels of every test image", of_test),
    train_stage(preset, names, names.subsets, f"the {share} of the pixels that {full} needs most", subset=subset),
    train_stage(preset, names, names.random, f"{share} of the pixels at random", subset=random),
  ]
  evaluations = []
  shown = {"whole": (FULL, None), **subset_views(preset, names)}
  trained = {full: FULL, names.subsets: f"{share} most needed", names.random: f"{share} random"}
  for model, trained_on in trained.items():
    for view, (words, pixels) in shown.items():
      evaluations.append(evaluate_stage(preset, model, view, words, pixels, trained_on))
  own_views = {full: tuple(shown), names.subsets: ("subsets",), names.random: ("random",)}
  for model, views in own_views.items():
    for view in views:
      words, pixels = shown[view]
      evaluations.append(evaluate_stage(preset, model, view, words, pixels, trained[model], is_corrupted=True))
  return [*trainings, *evaluations, *make_reading_stages(preset, names)]


def make_reading_stages(preset: Preset, names: Names) -> list[stages.StudyStage]:
  """What the subsets of the test images show, and whether they leak."""
  run = names.orders("test")
  num_images = count_images(preset.test_split)
  return [
    asking_stages.AnalyseStage(
      name=f"{names.architecture}-analysis",
      title="what the subsets of the test images show",
      work=0.5 * num_images,
      config=StudyConfig(run_dirs=(run,), out="", labels=(names.full(0),), thresholds=thresholds_below(preset)),
    ),
    asking_stages.ControlStage(
      name=f"{names.architecture}-controls",
      title=f"{preset.num_controlled} subsets with what may leak taken away",
      work=100 * preset.num_controlled + 4000 * preset.num_wrong_class,
      config=ControlsConfig(
        run_dir=run,
        checkpoint=names.full(0),
        limit=preset.num_controlled,
        num_wrong_class=preset.num_wrong_class,
        mask_fractions=(preset.fraction,),
      ),
    ),
  ]


def make_transfer_stages(preset: Preset) -> list[stages.StudyStage]:
  """The subsets of every architecture's first classifier, shown to all others that were trained on whole images."""
  transfers: list[stages.StudyStage] = []
  for architecture in preset.architectures:
    names = Names(architecture=architecture)
    for seed in range(1, preset.num_seeds):
      transfers.append(train_stage(preset, names, names.full(seed), f"whole images, seed {seed}", seed=seed))
      transfers.append(evaluate_stage(preset, names.full(seed), "whole", FULL, None, f"{FULL}, seed {seed}"))
    for other in preset.architectures:
      of_other = Names(architecture=other)
      views = subset_views(preset, of_other)
      for seed in range(preset.num_seeds):
        model, trained_on = names.full(seed), f"{FULL}, seed {seed}" if seed else FULL
        if model == of_other.full(0):
          continue
        words, pixels = views["subsets"]
        transfers.append(evaluate_stage(preset, model, of_other.orders("test"), words, pixels, trained_on))
        if other == architecture:
          words, pixels = views["random"]
          transfers.append(evaluate_stage(preset, model, "random", words, pixels, trained_on))
  # Evaluations come last, after all their inputs.
  return sorted(transfers, key=lambda stage: isinstance(stage, asking_stages.EvaluateStage))


class Compared(NamedTuple):
  """A classifier whose subsets are compared with those of the single one.

  Attributes:
    model: the stage that makes it.
    label: what tables call it.
    stage: makes it; None for the single one, which is made before.
    trained_on: what it was trained on, in words.
    cost: of an evaluation, relative to a single classifier.
  """

  model: str
  label: str
  stage: stages.StudyStage | None
  trained_on: str
  cost: int = 1


def list_compared(preset: Preset, names: Names) -> list[Compared]:
  """The single classifier, and those that may need more pixels."""
  members = tuple(names.full(seed) for seed in range(preset.num_seeds))
  ensemble = stages.EnsembleStage(
    name=names.ensemble, title=f"the mean of {len(members)} classifiers", work=1, members=members
  )
  dropout = train_stage(preset, names, names.dropout, "whole images with input dropout", keep_pixels=preset.keep_pixels)
  compared = [
    Compared(names.full(0), "single", None, FULL),
    Compared(names.ensemble, "ensemble", ensemble, f"{FULL}, {len(members)} seeds", cost=len(members)),
    Compared(names.dropout, "input dropout", dropout, "input dropout"),
  ]
  if preset.adversarial is not None:
    attacked = train_stage(preset, names, names.adversarial, "attacked images", adversarial=preset.adversarial)
    compared.append(Compared(names.adversarial, "adversarial", attacked, "attacked images"))
  return compared


def make_mitigation_stages(preset: Preset, names: Names) -> list[stages.StudyStage]:
  """Do an ensemble, input dropout and adversarial training need more pixels? On the same images."""
  compared = list_compared(preset, names)
  made = [one.stage for one in compared if one.stage is not None]
  for one in compared:
    if one.stage is not None:
      made.append(evaluate_stage(preset, one.model, "whole", FULL, None, one.trained_on))
      made.append(evaluate_stage(preset, one.model, "whole", FULL, None, one.trained_on, is_corrupted=True))
  made += [*make_size_stages(preset, names, compared), *make_smallest_stages(preset, names, compared)]
  made += [
    disjoint_stage(preset, one.model, f"{one.label}: disjoint subsets of an image counted", cost=one.cost)
    for one in compared
  ]
  made.append(
    asking_stages.ControlStage(
      name=f"{names.architecture}-smallest-controls",
      title="the smallest evidence with what may leak taken away",
      work=100 * count_images(preset.smallest_split),
      config=ControlsConfig(
        run_dir=f"{names.full(0)}-smallest", checkpoint=names.full(0), limit=preset.num_controlled, num_wrong_class=0
      ),
    )
  )
  return made


def make_size_stages(preset: Preset, names: Names, compared: Sequence[Compared]) -> list[stages.StudyStage]:
  """Subsets from the orders of each classifier, with controls; those of the single one are made before."""
  config = find_config(preset, split=preset.compared_split, gallery=0)
  made: list[stages.StudyStage] = []
  runs = {}
  for one in compared:
    runs[one.label] = names.orders("test") if one.stage is None else f"{one.model}-sizes"
    if one.stage is not None:
      placed = dataclasses.replace(config, checkpoint=one.model)
      title = f"{one.label}: subsets read from its orders"
      made.append(find_stage(runs[one.label], title, placed, cost=one.cost))
      made.append(control_stage(preset, runs[one.label], one.model, cost=one.cost))
  return [*made, compare_stage(preset, names, "sizes", runs, compared="subsets")]


def make_smallest_stages(preset: Preset, names: Names, compared: Sequence[Compared]) -> list[stages.StudyStage]:
  config = find_config(
    preset, split=preset.smallest_split, search=None, smallest=preset.smallest, certificate="full", gallery=0
  )
  runs = {one.label: f"{one.model}-smallest" for one in compared}
  made: list[stages.StudyStage] = [
    find_stage(
      runs[one.label],
      f"{one.label}: smallest evidence",
      dataclasses.replace(config, checkpoint=one.model),
      cost=one.cost,
    )
    for one in compared
  ]
  return [*made, compare_stage(preset, names, "smallest", runs, compared="smallest evidence")]


def make_sample_stages(preset: Preset, names: Names) -> list[stages.StudyStage]:
  """What finer, screened and exact orders change, and the authors' ranking by probability: each on a sample.

  Expensive searches get fewer images, so each is compared on its own: the cheap comparisons do not wait for it.
  """
  single_steps = Gradient()
  fast: dict[str, BackwardSearch] = {}
  if isinstance(preset.search, Gradient) and preset.search != single_steps:
    fast[f"gradient, {preset.search.per_step} a step"] = preset.search
  fast |= {"gradient, one a step": single_steps, "screened": Screened()}
  runs = {label: f"{names.architecture}-sample-{label.replace(', ', '-').replace(' ', '-')}" for label in fast}
  made: list[stages.StudyStage] = [
    sample_stage(preset, names, runs[label], label, search, preset.sample_split) for label, search in fast.items()
  ]
  made.append(control_stage(preset, runs["screened"], names.full(0)))
  made.append(compare_stage(preset, names, "sample", runs))
  exact = {"exact": names.orders("test")}
  if not isinstance(preset.search, Exact):
    exact = {"exact": f"{names.architecture}-sample-exact"}
    made.append(sample_stage(preset, names, exact["exact"], "exact", Exact(), preset.exact_split))
    made.append(control_stage(preset, exact["exact"], names.full(0)))
  made.append(compare_stage(preset, names, "exact", {**runs, **exact}))
  label, run = "exact, by probability", f"{names.architecture}-sample-exact-by-probability"
  made.append(sample_stage(preset, names, run, label, Exact(), preset.tied_split, score="probability"))
  made.append(compare_stage(preset, names, "scores", {**exact, label: run}))
  return made


def sample_stage(
  preset: Preset,
  names: Names,
  name: str,
  label: str,
  search: BackwardSearch,
  split: str,
  *,
  score: ScoreName = "log_odds",
) -> stages.FindStage:
  config = find_config(
    preset, checkpoint=names.full(0), split=split, search=search, score=score, patch=preset.exact_patch
  )
  return find_stage(name, f"a sample of images: {label}", config)


def compare_stage(
  preset: Preset, names: Names, what: str, runs: Mapping[str, str], *, compared: str = "orders"
) -> asking_stages.AnalyseStage:
  """Compares runs on the same images; `runs` maps their labels to the stages that searched."""
  return asking_stages.AnalyseStage(
    name=f"{names.architecture}-{what}-compared",
    title=f"{'; '.join(runs)}: {compared} compared",
    work=500,
    config=StudyConfig(run_dirs=tuple(runs.values()), out="", labels=tuple(runs), thresholds=thresholds_below(preset)),
  )
