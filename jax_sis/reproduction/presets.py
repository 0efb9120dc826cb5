"""What a study consists of: the presets, and the stages of each in the order in which they answer the most."""

import dataclasses

from jax_sis.attribution_study import AttributionsConfig
from jax_sis.config import (
  Augmentation,
  EvaluateConfig,
  Pgd,
  PixelSubset,
  Stage,
  StepSchedule,
  TrainConfig,
  TriangularSchedule,
)
from jax_sis.controls import ControlsConfig
from jax_sis.disjoint import DisjointConfig
from jax_sis.find_config import QUICK, FindConfig
from jax_sis.reproduction import stages
from jax_sis.search import BackwardSearch, Exact, Forward, Gradient
from jax_sis.study import StudyConfig

CIFAR10 = "cifar10"
# What stages cost beside the gradients of a search, in input gradients of one image: measured on two cores.
GRADIENTS_PER_TRAINED_IMAGE = 3.5
GRADIENTS_PER_EVALUATED_IMAGE = 1.0
GRADIENTS_PER_FORWARD = 0.6
GRADIENTS_PER_IMAGE_READ = 0.4
FULL, RANDOM = "all pixels", "random pixels"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
  """The size of a study.

  Attributes:
    name: what `--preset` takes.
    purpose: what it is for, a sentence.
    is_plumbing: whether it proves that everything runs, and nothing about classifiers.
    architectures: keys of `classifiers.ARCHITECTURES`.
    train_split: the images that are trained on.
    test_split: the images that are tested on.
    recipe: of every training; model, seed, input dropout, attack and subset are set by the study.
    num_seeds: classifiers trained on whole images; together they are the ensemble.
    keep_pixels: input dropout of the classifier that has it.
    adversarial: the attack of the classifier that is trained on attacks; None leaves it out.
    search: the backward search.
    fraction: the share of the pixels that subsets show.
    threshold: the confidence of the sufficient subsets.
    smallest: the forward search for the smallest evidence.
    num_corrupted: images of each corruption and severity.
    compared_split: test images on which classifiers are compared by the size of their subsets.
    smallest_split: test images on which the smallest evidence is looked for.
    exact_split: test images that are searched by exact backward selection, too.
    exact_patch: pixels a side of the squares that this masks together.
    num_controlled: subsets whose leaks are looked at.
    num_wrong_class: images on which evidence of wrong classes is looked for.
    disjoint_split: test images whose disjoint subsets are counted.
    attributed_patch: pixels a side of the squares that attributions and these searches rank together.
    num_attributed: confident test images on which attributions are compared with searches.
    not_run: what of the paper the study leaves out, with the reason.
  """

  name: str
  purpose: str
  is_plumbing: bool = False
  architectures: tuple[str, ...] = ("resnet20",)
  train_split: str = "train"
  test_split: str = "test"
  recipe: TrainConfig
  num_seeds: int = 3
  keep_pixels: float = 0.8
  adversarial: Pgd | None = None
  search: BackwardSearch
  fraction: float = 0.05
  threshold: float = 0.99
  smallest: Forward = QUICK.forward
  num_corrupted: int
  compared_split: str
  smallest_split: str
  exact_split: str
  exact_patch: int = 1
  num_controlled: int = 500
  num_wrong_class: int
  disjoint_split: str
  num_attributed: int
  attributed_patch: int = 1
  not_run: tuple[tuple[str, str], ...] = ()


def make_recipe(epochs: int, *, batch_size: int = 128, peak: float = 0.15, warmup_epochs: float = 2) -> TrainConfig:
  """A short training of the first architecture at the images' own size."""
  return TrainConfig(
    model="resnet20",
    dataset=CIFAR10,
    stages=(Stage(epochs=epochs, resolution=32),),
    batch_size=batch_size,
    schedule=TriangularSchedule(peak=peak, warmup_epochs=warmup_epochs),
    weight_decay=5e-4,
    augmentation=Augmentation(crop_padding=3, border="reflect", flip="alternating"),
  )


SMOKE = Preset(
  name="smoke",
  purpose="Every kind of stage on a few images, in minutes. It proves that everything runs, and nothing else.",
  is_plumbing=True,
  train_split="train[:512]",
  test_split="test[:96]",
  recipe=make_recipe(4, batch_size=32, peak=0.05, warmup_epochs=1),
  num_seeds=2,
  adversarial=Pgd(num_steps=2),
  search=Gradient(per_step=64),
  threshold=0.15,
  smallest=Forward(candidates=16, max_features=32),
  num_corrupted=4,
  compared_split="test[:32]",
  smallest_split="test[:32]",
  exact_split="test[:8]",
  exact_patch=4,
  num_controlled=32,
  num_wrong_class=1,
  disjoint_split="test[:8]",
  num_attributed=2,
  attributed_patch=4,
  not_run=(("all that would say something of a classifier", "smoke runs each kind of stage on a few images"),),
)
BUDGET = Preset(
  name="budget",
  purpose="What two cores can do in some hours: ResNet-20, ten epochs a training, sixteen pixels a step.",
  recipe=make_recipe(10),
  search=Gradient(per_step=16),
  num_corrupted=500,
  compared_split="test[:2000]",
  smallest_split="test[:100]",
  exact_split="test[:4]",
  num_wrong_class=16,
  disjoint_split="test[:200]",
  num_attributed=16,
  not_run=(
    ("ResNet-18, VGG-16 and WideResNet-28-10", "ten epochs of the smallest of them take hours on two cores"),
    ("adversarial training", "ten epochs of seven-step attacks take two hours on two cores; smoke runs the kind"),
    ("exact backward selection of every image", "524,800 evaluations an image; a sample of images is compared"),
    ("three seeds of the classifiers trained on subsets", "each takes as long as one on whole images"),
    ("the published CIFAR-10-C", "14 of its 15 corruptions are made here; its frost needs photographs"),
    ("ImageNet", "the data set and its classifiers are not part of this study"),
    ("the human study", "no program can run it"),
  ),
)
PAPER = Preset(
  name="paper",
  purpose="The CIFAR-10 study with the paper's recipes and exact orders, for accelerators.",
  architectures=("resnet20", "resnet18", "vgg16", "wrn28_10"),
  recipe=TrainConfig(
    model="resnet20",
    dataset=CIFAR10,
    stages=(Stage(epochs=200, resolution=32),),
    schedule=StepSchedule(),
    weight_decay=5e-4,
  ),
  adversarial=Pgd(),
  search=Exact(),
  num_corrupted=10_000,
  compared_split="test",
  smallest_split="test",
  exact_split="test[:1000]",
  num_controlled=2000,
  num_wrong_class=500,
  disjoint_split="test",
  num_attributed=500,
  not_run=(
    ("three seeds of the classifiers trained on subsets", "one is trained of each architecture"),
    ("the published CIFAR-10-C", "14 of its 15 corruptions are made here; its frost needs photographs"),
    ("ImageNet", "the data set and its classifiers are not part of this study"),
    ("the human study", "no program can run it"),
  ),
)
PRESETS = {preset.name: preset for preset in (SMOKE, BUDGET, PAPER)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Names:
  """What the stages of one architecture are called.

  Attributes:
    architecture: a key of `classifiers.ARCHITECTURES`.
  """

  architecture: str

  def full(self, seed: int) -> str:
    """Trained on whole images."""
    return f"{self.architecture}-full-{seed}"

  @property
  def subsets(self) -> str:
    """Trained on the most needed pixels."""
    return f"{self.architecture}-subsets"

  @property
  def random(self) -> str:
    """Trained on random pixels."""
    return f"{self.architecture}-random"

  @property
  def dropout(self) -> str:
    """Trained with input dropout."""
    return f"{self.architecture}-dropout"

  @property
  def adversarial(self) -> str:
    """Trained on attacks."""
    return f"{self.architecture}-adversarial"

  @property
  def ensemble(self) -> str:
    """The mean of those trained on whole images."""
    return f"{self.architecture}-ensemble"

  def orders(self, split: str) -> str:
    """The backward search of a split."""
    return f"{self.architecture}-orders-{split}"


def make_stages(preset: Preset) -> list[stages.Stage]:
  """All stages of a study, each after those that it takes something from."""
  everything: list[stages.Stage] = [
    stages.Data(
      name=stages.DATA,
      title=f"the images of {CIFAR10}, counted and hashed",
      work=GRADIENTS_PER_IMAGE_READ * (count_images(preset.train_split) + count_images(preset.test_split)),
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
  return everything


def make_main_stages(preset: Preset, names: Names) -> list[stages.Stage]:
  """Full, subset and random pixels: three classifiers, the orders, and what each says of each."""
  full = names.full(0)
  subset = PixelSubset(run=names.orders("train"), fraction=preset.fraction)
  random = PixelSubset(random_seed=0, fraction=preset.fraction)
  share = f"{100 * preset.fraction:g} %"
  of_training = FindConfig(
    out="",
    checkpoint=full,
    data=CIFAR10,
    split=preset.train_split,
    search=preset.search,
    smallest=None,
    threshold=preset.threshold,
    certificate="alone",
    saved="mask",
    mask_fractions=(preset.fraction,),
    gallery=0,
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


def make_reading_stages(preset: Preset, names: Names) -> list[stages.Stage]:
  """What the subsets of the test images show, and whether they leak."""
  run = names.orders("test")
  num_images = count_images(preset.test_split)
  return [
    stages.Analyse(
      name=f"{names.architecture}-analysis",
      title="what the subsets of the test images show",
      work=0.5 * num_images,
      config=StudyConfig(run_dirs=(run,), out="", labels=(names.full(0),), thresholds=thresholds_below(preset)),
    ),
    stages.Controls(
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


def make_transfer_stages(preset: Preset) -> list[stages.Stage]:
  """The subsets of the first classifier of every architecture shown to all the others that saw whole images."""
  transfers: list[stages.Stage] = []
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
  # Those of later architectures come after all that they take something from.
  return sorted(transfers, key=lambda stage: isinstance(stage, stages.Evaluate))


def make_mitigation_stages(preset: Preset, names: Names) -> list[stages.Stage]:
  """Do an ensemble, input dropout and adversarial training need more pixels? On the same images."""
  members = tuple(names.full(seed) for seed in range(preset.num_seeds))
  made: list[stages.Stage] = [
    stages.Ensemble(name=names.ensemble, title=f"the mean of {len(members)} classifiers", work=1, members=members),
    train_stage(preset, names, names.dropout, "whole images with input dropout", keep_pixels=preset.keep_pixels),
  ]
  models = {names.full(0): "single", names.ensemble: "ensemble", names.dropout: "input dropout"}
  costs = {names.ensemble: len(members)}
  if preset.adversarial is not None:
    made.append(train_stage(preset, names, names.adversarial, "attacked images", adversarial=preset.adversarial))
    models[names.adversarial] = "adversarial"
  words = {
    names.ensemble: f"{FULL}, {len(members)} seeds",
    names.dropout: "input dropout",
    names.adversarial: "attacked images",
  }
  for model in models:
    if model != names.full(0):
      made.append(evaluate_stage(preset, model, "whole", FULL, None, words[model]))
      made.append(evaluate_stage(preset, model, "whole", FULL, None, words[model], is_corrupted=True))
  of_orders = FindConfig(
    out="",
    data=CIFAR10,
    split=preset.compared_split,
    search=preset.search,
    smallest=None,
    threshold=preset.threshold,
    certificate="alone",
    gallery=0,
  )
  of_smallest = dataclasses.replace(
    of_orders, split=preset.smallest_split, search=None, smallest=preset.smallest, certificate="full"
  )
  runs: dict[str, list[str]] = {"sizes": [], "smallest": []}
  for kind, config in (("sizes", of_orders), ("smallest", of_smallest)):
    for model, label in models.items():
      if kind == "sizes" and model == names.full(0):
        runs[kind].append(names.orders("test"))
        continue
      name = f"{model}-{kind}"
      what = "subsets read from its orders" if kind == "sizes" else "smallest evidence"
      placed = dataclasses.replace(config, checkpoint=model)
      made.append(find_stage(name, f"{label}: {what}", placed, cost=costs.get(model, 1)))
      runs[kind].append(name)
    made.append(
      stages.Analyse(
        name=f"{names.architecture}-{kind}-compared",
        title=f"{', '.join(models.values())}: {'subsets' if kind == 'sizes' else 'smallest evidence'} compared",
        work=500,
        config=StudyConfig(
          run_dirs=tuple(runs[kind]), out="", labels=tuple(models.values()), thresholds=thresholds_below(preset)
        ),
      )
    )
  made += [
    disjoint_stage(preset, model, f"{label}: disjoint subsets of an image counted", cost=costs.get(model, 1))
    for model, label in models.items()
  ]
  made.append(
    stages.Controls(
      name=f"{names.architecture}-smallest-controls",
      title="the smallest evidence with what may leak taken away",
      work=100 * count_images(preset.smallest_split),
      config=ControlsConfig(
        run_dir=f"{names.full(0)}-smallest",
        checkpoint=names.full(0),
        limit=preset.num_controlled,
        num_wrong_class=0,
      ),
    )
  )
  return made


def make_sample_stages(preset: Preset, names: Names) -> list[stages.Stage]:
  """What the authors' exact orders, and their ranking by probability, would change: on a sample."""
  searches = {
    "gradient": (preset.search if isinstance(preset.search, Gradient) else Gradient(), "log_odds"),
    "gradient, a feature a step": (Gradient(), "log_odds"),
    "exact": (Exact(), "log_odds"),
    "exact, by probability": (Exact(), "probability"),
  }
  made, runs = [], []
  for label, (search, score) in searches.items():
    name = f"{names.architecture}-sample-{label.replace(', ', '-').replace(' ', '-')}"
    config = FindConfig(
      out="",
      checkpoint=names.full(0),
      data=CIFAR10,
      split=preset.exact_split,
      search=search,
      smallest=None,
      score=score,
      threshold=preset.threshold,
      patch=preset.exact_patch,
      certificate="alone",
    )
    made.append(find_stage(name, f"a sample of images: {label}", config))
    runs.append(name)
  made.append(
    stages.Analyse(
      name=f"{names.architecture}-sample-compared",
      title="the orders of the sample compared",
      work=500,
      config=StudyConfig(run_dirs=tuple(runs), out="", labels=tuple(searches), thresholds=thresholds_below(preset)),
    )
  )
  return made


def attribution_stage(preset: Preset, names: Names) -> stages.Attributions:
  """Attributions as orders of pixels, beside searches."""
  search = preset.search if isinstance(preset.search, Gradient) else Gradient()
  return stages.Attributions(
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


def disjoint_stage(preset: Preset, model: str, title: str, *, cost: int) -> stages.Disjoint:
  """How many separate reasons a classifier has, which costs so many single ones."""
  search = preset.search if isinstance(preset.search, Gradient) else Gradient()
  return stages.Disjoint(
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
) -> stages.Train:
  """A training by the preset's recipe."""
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
  return stages.Train(
    name=name,
    title=f"{names.architecture} trained on {what}",
    work=GRADIENTS_PER_TRAINED_IMAGE * num_passes * config.num_epochs * count_images(preset.train_split),
    config=config,
  )


def find_stage(name: str, title: str, config: FindConfig, *, cost: int = 1) -> stages.Find:
  """A search, by a classifier that costs so many single ones."""
  num_features = (32 // config.patch) ** 2
  work = 0.0
  match config.search:
    case Gradient(per_step=per_step):
      work += num_features / per_step + 2.5
    case Exact():
      work += GRADIENTS_PER_FORWARD * num_features * (num_features + 1) / 2
  if config.smallest is not None:
    work += 3500
  return stages.Find(name=name, title=title, work=cost * work * count_images(config.split), config=config)


def evaluate_stage(
  preset: Preset,
  model: str,
  view: str,
  shown: str,
  subset: PixelSubset | None,
  trained_on: str,
  *,
  is_corrupted: bool = False,
) -> stages.Evaluate:
  """What a classifier says of the test images, or of their corruptions."""
  num_images = count_images(preset.test_split)
  config = EvaluateConfig(
    out="", checkpoint=model, data=CIFAR10, split=preset.test_split, on_error="refuse", subset=subset
  )
  name, what, work = f"{model}-on-{view}", shown, num_images
  if is_corrupted:
    num_corrupted = min(preset.num_corrupted, num_images)
    config = dataclasses.replace(config, corruptions="made", limit=num_corrupted)
    name, what, work = f"{name}-corrupted", f"{shown} of corrupted images", 4 * 85 * num_corrupted
  return stages.Evaluate(
    name=name,
    title=f"{model} shown {what}",
    work=GRADIENTS_PER_EVALUATED_IMAGE * work + 10_000,
    config=config,
    trained_on=trained_on,
    shown=shown,
  )


def subset_views(preset: Preset, names: Names) -> dict[str, tuple[str, PixelSubset]]:
  """What else than whole test images is shown, in words and as a setting."""
  share = f"{100 * preset.fraction:g} %"
  return {
    "subsets": (
      f"{share} that {names.full(0)} needs most",
      PixelSubset(run=names.orders("test"), fraction=preset.fraction),
    ),
    "random": (f"{share} at random", PixelSubset(random_seed=0, fraction=preset.fraction)),
  }


def thresholds_below(preset: Preset) -> tuple[float, ...]:
  """Confidences beside the preset's own at which sizes are given."""
  return tuple(threshold for threshold in (0.9,) if threshold < preset.threshold)


def count_images(split: str) -> int:
  """How many images a split of CIFAR-10 has: `train`, `test` or the first ones of either, as `test[:64]`."""
  name, _, end = split.rstrip("]").partition("[:")
  return int(end) if end else {"train": 50_000, "test": 10_000}[name]
