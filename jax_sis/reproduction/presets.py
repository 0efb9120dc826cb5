"""The sizes that a study comes in: what can be found in minutes, in hours, and on accelerators."""

import dataclasses

from jax_sis.core.searches import BackwardSearch, Exact, Forward, Gradient
from jax_sis.core.smallest import QUICK
from jax_sis.training.config import Augmentation, Pgd, Stage, StepSchedule, TrainConfig, TriangularSchedule

CIFAR10 = "cifar10"


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
    sample_split: test images that are searched one pixel at a step and by screening, too.
    exact_split: test images that are searched by exact backward selection, too.
    tied_split: of these the ones that are ranked by probability as well, as the authors' code does.
    exact_patch: pixels a side of the squares that the searches of these samples mask together.
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
  sample_split: str
  exact_split: str
  tied_split: str
  exact_patch: int = 1
  num_controlled: int = 500
  num_wrong_class: int
  disjoint_split: str
  num_attributed: int
  attributed_patch: int = 1
  not_run: tuple[tuple[str, str], ...] = ()


def make_recipe(epochs: int, *, batch_size: int = 128, peak: float = 0.15, warmup_epochs: float = 2) -> TrainConfig:
  """A short training of ResNet-20 at the images' own size."""
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
  sample_split="test[:16]",
  exact_split="test[:16]",
  tied_split="test[:8]",
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
  sample_split="test[:32]",
  exact_split="test[:8]",
  tied_split="test[:4]",
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
  sample_split="test[:1000]",
  exact_split="test[:1000]",
  tied_split="test[:1000]",
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


def count_images(split: str) -> int:
  """The number of images in a split of CIFAR-10: `train`, `test` or the first of either, such as `test[:64]`."""
  name, _, end = split.rstrip("]").partition("[:")
  return int(end) if end else {"train": 50_000, "test": 10_000}[name]
