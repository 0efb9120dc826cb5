"""What the study of photographs asks, and what its stages are called."""

import dataclasses

from jax_sis.core.searches import Gradient
from jax_sis.reproduction.config import OF_PHOTOGRAPHS
from jax_sis.runs.config import RANDOM_TARGET, FindConfig

PURPOSE = (
  "Trained classifiers of ImageNet on photographs: how few pixels suffice, whether they lie at the border, and what "
  "border, centre and random pixels say by themselves. The paper's search: Batched Gradient SIS, 100 pixels a step."
)
# The paper's own: 10 % subsets, and sufficient ones at 0.9. Beside these, sizes at a threshold that more images reach.
FRACTION, THRESHOLD, LOWER_THRESHOLD = 0.1, 0.9, 0.5
PER_STEP = 100
# Images searched for a random class, of those that the classifier is sure of: the claims are about these.
NUM_RANDOM_CLASS = 32
# Subsets of each kind whose leaks are looked at.
NUM_CONTROLLED = 100
NOT_RUN = (
  ("Inception v3 and ResNet-50", "their weights are not at hand; a checkpoint of either can be named"),
  ("training on 10 % subsets", "it takes the training images and days of an accelerator"),
  ("accuracy", "the photographs may be training images, so that being right on them says little"),
  ("the human study", "no program can run it"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
  """The study in numbers, as `presets.Preset` is that of CIFAR-10.

  Attributes:
    name: what `--preset` takes.
    purpose: what it is for.
    is_plumbing: whether it says nothing about classifiers.
    per_step: pixels that a step of the search masks.
    fraction: the share of the pixels that subsets show.
    threshold: the confidence of the sufficient subsets.
    lower_threshold: another one, at which their sizes are given too.
    num_random_class: images of the threshold or more that are searched for a class at random, at most.
    num_controlled: subsets of each kind whose leaks are looked at.
    not_run: what of the paper the study leaves out, with the reason.
  """

  name: str = OF_PHOTOGRAPHS
  purpose: str = PURPOSE
  is_plumbing: bool = False
  per_step: int = PER_STEP
  fraction: float = FRACTION
  threshold: float = THRESHOLD
  lower_threshold: float = LOWER_THRESHOLD
  num_random_class: int = NUM_RANDOM_CLASS
  num_controlled: int = NUM_CONTROLLED
  not_run: tuple[tuple[str, str], ...] = NOT_RUN


IMAGENET = Study()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stages:
  """The names of the stages of one classifier, which `label` names."""

  label: str

  @property
  def classifier(self) -> str:
    return f"{self.label}-classifier"

  @property
  def orders(self) -> str:
    """The search for the predicted class."""
    return f"{self.label}-orders"

  @property
  def random_class(self) -> str:
    """The search for a class at random."""
    return f"{self.label}-random-class"

  @property
  def parts(self) -> str:
    """What the classifier says of parts of the images."""
    return f"{self.label}-parts"

  @property
  def controls(self) -> str:
    return f"{self.orders}-controls"

  def transfer(self, other: str) -> str:
    """The pixels that this classifier needs, shown to another one."""
    return f"{self.label}-shown-to-{other}"


def make_search(*, is_random_class: bool = False) -> FindConfig:
  """The settings of a search; the stages fill in folders and images."""
  return FindConfig(
    out="",
    search=Gradient(per_step=PER_STEP),
    smallest=None,
    threshold=THRESHOLD,
    target=RANDOM_TARGET if is_random_class else FindConfig.target,
    certificate="alone",
    saved="mask",
    mask_thresholds=(THRESHOLD, LOWER_THRESHOLD),
    mask_fractions=(FRACTION,),
    resize=True,
    gallery=0,
  )
