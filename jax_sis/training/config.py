"""Settings of the programs: frozen dataclasses that check themselves, and the loader of `configs/*.py`."""

import dataclasses
import difflib
import pathlib
import re
import runpy
from collections.abc import Sequence
from typing import Any, Literal

from jax_sis.core.validation import require_one_of, require_positive
from jax_sis.data.normalisation import Normalisation
from jax_sis.results.query import PixelSubset
from jax_sis.training.overrides import override

# The recipes that come with the package; in the repository a link to the folder of that name at its top.
CONFIGS = pathlib.Path(__file__).parents[1] / "assets" / "configs"
# Sets the epochs of all stages together.
EPOCHS = "epochs"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
  """A stretch of training at one image resolution (pixels a side)."""

  epochs: int
  resolution: int

  def __post_init__(self) -> None:
    require_positive("Stage.epochs", self.epochs)
    require_positive("Stage.resolution", self.resolution)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TriangularSchedule:
  """A learning rate that rises linearly to `peak` for `warmup_epochs`, then falls linearly to zero."""

  peak: float
  warmup_epochs: float = 0.0

  def __post_init__(self) -> None:
    require_positive("TriangularSchedule.peak", self.peak)

  def scale(self, share: float) -> "TriangularSchedule":
    """The same for this share of the epochs."""
    return dataclasses.replace(self, warmup_epochs=self.warmup_epochs * share)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CosineSchedule:
  """A learning rate that rises linearly to `peak` for `warmup_epochs`, then falls to zero along a half cosine."""

  peak: float
  warmup_epochs: float = 0.0

  def __post_init__(self) -> None:
    require_positive("CosineSchedule.peak", self.peak)

  def scale(self, share: float) -> "CosineSchedule":
    """The same for this share of the epochs."""
    return dataclasses.replace(self, warmup_epochs=self.warmup_epochs * share)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSchedule:
  """A learning rate that is multiplied by `factor` after each of the epochs in `milestones`."""

  initial: float = 0.1
  milestones: tuple[int, ...] = (60, 120, 160)
  factor: float = 0.2

  def __post_init__(self) -> None:
    require_positive("StepSchedule.initial", self.initial)
    require_positive("StepSchedule.factor", self.factor)
    if list(self.milestones) != sorted(set(self.milestones)):
      raise ValueError(f"StepSchedule.milestones must ascend, got {self.milestones}.")

  def scale(self, share: float) -> "StepSchedule":
    """The same for this share of the epochs, in whole ones."""
    return dataclasses.replace(self, milestones=tuple(sorted({round(epoch * share) for epoch in self.milestones})))


Schedule = TriangularSchedule | CosineSchedule | StepSchedule


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pgd:
  """Adversarial training by projected gradient descent (Madry et al. 2018), L-infinity, in pixels of 0..1.

  Attributes:
    radius: how far each channel of a pixel may move.
    num_steps: gradient steps, from a random point within the radius.
    step_size: how far each step moves.
  """

  radius: float = 8 / 255
  num_steps: int = 7
  step_size: float = 2 / 255

  def __post_init__(self) -> None:
    require_positive("Pgd.radius", self.radius)
    require_positive("Pgd.num_steps", self.num_steps)
    require_positive("Pgd.step_size", self.step_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
  """How training images are varied: shifted by up to `crop_padding` pixels, and flipped.

  Attributes:
    crop_padding: pixels added on each side before the random crop; 0 for no crop.
    border: what the padding shows: `zero` (black pixels, as in most recipes) or `reflect`.
    flip: `random` (with probability 1/2 each time), `alternating` (in every second epoch, from a random first, so that
      two epochs in a row show both sides) or `none`.
  """

  crop_padding: int = 4
  border: Literal["zero", "reflect"] = "zero"
  flip: Literal["random", "alternating", "none"] = "random"

  def __post_init__(self) -> None:
    if self.crop_padding < 0:
      raise ValueError(f"Augmentation.crop_padding must not be negative, got {self.crop_padding}.")
    require_one_of("Augmentation.border", self.border, ("zero", "reflect"))
    require_one_of("Augmentation.flip", self.flip, ("random", "alternating", "none"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """One training run: the model, the data and the recipe.

  Attributes:
    model: a key of `classifiers.ARCHITECTURES`.
    dataset: a TFDS name, or a folder of images with a directory for each class.
    split: the TFDS split.
    num_validation: images of the split to hold out, chosen by seed; `best` is the classifier that does best on them.
    image_size: pixels a side to which images are resized: random crops in training, the centre elsewhere. None for data
      sets whose images all have one size.
    normalisation: how the classifier's input is made; None for the data set's own.
    on_error: `refuse` a data set with an image that cannot be read, or `skip` the image: the next one takes its place.
    stages: resolutions and epochs; low resolutions come first, because they are cheap.
    batch_size: images in a step, on all devices together.
    num_devices: devices that share a batch, each with the batch statistics of its own part; None for all.
    schedule: the learning rate.
    optimizer: `sgd` with Nesterov momentum, or `adamw` (Loshchilov and Hutter 2019), which transformers need.
    momentum: of the gradient; AdamW's first beta.
    weight_decay: of all parameters, as part of the gradient; AdamW's is apart from it.
    label_smoothing: the share of each label that is spread over all classes.
    augmentation: how images are varied.
    keep_pixels: input dropout: the probability that a pixel of a training image is kept, all channels together; others
      show the mean colour (Carter et al. 2021, section 4.5, use 0.8).
    adversarial: train on adversarial examples.
    subset: train, and evaluate the held-out images, on these pixels alone. They move and flip with the image; pixels
      that move in from beyond the border show the fill. Input dropout and attacks then act on the shown pixels only.
    gradient_norm_limit: training stops if a gradient's norm exceeds this.
    evaluate_every: epochs between evaluations on the held-out images.
    save_every_steps: steps between saved states; None for the end of each epoch only.
    seed: decides initial weights, order, augmentation and everything else that is random.
  """

  model: str
  dataset: str
  split: str = "train"
  num_validation: int = 0
  image_size: int | None = None
  normalisation: Normalisation | None = None
  on_error: Literal["refuse", "skip"] = "refuse"
  stages: tuple[Stage, ...]
  batch_size: int = 128
  num_devices: int | None = None
  schedule: Schedule
  optimizer: Literal["sgd", "adamw"] = "sgd"
  momentum: float = 0.9
  weight_decay: float = 5e-4
  label_smoothing: float = 0.0
  augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
  keep_pixels: float = 1.0
  adversarial: Pgd | None = None
  subset: PixelSubset | None = None
  gradient_norm_limit: float = 1e4
  evaluate_every: int = 1
  save_every_steps: int | None = None
  seed: int = 0

  def __post_init__(self) -> None:
    if not isinstance(self.subset, PixelSubset | None):
      raise ValueError(f"TrainConfig.subset must be a PixelSubset, got {self.subset!r}; the command line has --subset.")
    if not self.stages:
      raise ValueError("TrainConfig.stages must name at least one Stage, got none.")
    require_positive("TrainConfig.batch_size", self.batch_size)
    require_positive("TrainConfig.gradient_norm_limit", self.gradient_norm_limit)
    require_positive("TrainConfig.evaluate_every", self.evaluate_every)
    for name in ("num_devices", "image_size", "save_every_steps"):
      if getattr(self, name) is not None:
        require_positive(f"TrainConfig.{name}", getattr(self, name))
    if self.num_validation < 0:
      raise ValueError(f"TrainConfig.num_validation must not be negative, got {self.num_validation}.")
    if not 0 < self.keep_pixels <= 1:
      raise ValueError(f"TrainConfig.keep_pixels must be above 0 and at most 1, got {self.keep_pixels}.")
    if not 0 <= self.label_smoothing < 1:
      raise ValueError(f"TrainConfig.label_smoothing must be at least 0 and below 1, got {self.label_smoothing}.")
    require_one_of("TrainConfig.optimizer", self.optimizer, ("sgd", "adamw"))
    require_one_of("TrainConfig.on_error", self.on_error, ("refuse", "skip"))
    if self.subset is not None and self.image_size is not None:
      raise ValueError(
        f"TrainConfig.subset must come with images of one size, image_size=None, got image_size={self.image_size}; "
        "crops of a random size have no pixels of their own to show."
      )
    if self.num_devices is not None and self.batch_size % self.num_devices:
      raise ValueError(
        f"TrainConfig.batch_size must be a multiple of num_devices, got {self.batch_size} and {self.num_devices}."
      )

  @property
  def fill(self) -> float:
    """What hidden and dropped pixels show, in normalised units: the subset's fill, or else the mean colour."""
    return 0.0 if self.subset is None else self.subset.fill

  @property
  def num_epochs(self) -> int:
    return sum(stage.epochs for stage in self.stages)

  def for_epochs(self, num_epochs: int) -> "TrainConfig":
    """The recipe for another number of epochs, of which each stage and each part of the schedule has the same share.

    Stages that get none are left out.
    """
    ends = [sum(stage.epochs for stage in self.stages[: place + 1]) for place in range(len(self.stages))]
    ends = [end * num_epochs // self.num_epochs for end in ends]
    stages = tuple(
      dataclasses.replace(stage, epochs=end - start)
      for stage, start, end in zip(self.stages, [0, *ends], ends, strict=False)
      if end > start
    )
    share = num_epochs / self.num_epochs
    return dataclasses.replace(self, stages=stages, schedule=self.schedule.scale(share))

  def resolution(self, epoch: int) -> int:
    """Pixels a side in the 0-based `epoch`."""
    for stage in self.stages:
      if epoch < stage.epochs:
        return stage.resolution
      epoch -= stage.epochs
    raise ValueError(f"epoch must be below num_epochs ({self.num_epochs}), got {epoch + self.num_epochs}.")


def settings_to_dict(config: TrainConfig) -> dict[str, Any]:
  """The settings by name, as runs keep them."""
  settings = dataclasses.asdict(config)
  if config.optimizer == TrainConfig.optimizer:
    # Earlier versions had no other.
    del settings["optimizer"]
  return settings


def load_config(path: str | pathlib.Path, overrides: Sequence[str] = ()) -> TrainConfig:
  """Runs a Python file and returns the TrainConfig that it binds to `config`.

  Args:
    path: the file, or the name of one of CONFIGS such as `cifar10_resnet20`.
    overrides: settings to change, each as `name=value`, the value a Python literal or a plain word, such as `seed=1`,
      `schedule.peak=0.3` or `stages.0.resolution=24`; `epochs=30` is `TrainConfig.for_epochs(30)`.

  Raises:
    ValueError: there is no such file, it binds no TrainConfig, or a setting is unknown or of another type.
  """
  shipped = {file.stem: file for file in sorted(CONFIGS.glob("*.py"))}
  path = shipped.get(str(path), pathlib.Path(path))
  if not path.is_file():
    raise ValueError(f"config must be an existing Python file or one of {', '.join(shipped)}, got {str(path)!r}.")
  try:
    config = runpy.run_path(str(path)).get("config")
  except TypeError as error:
    raise ValueError(f"config file {str(path)!r}: {explain_unknown_setting(error)}") from error
  if not isinstance(config, TrainConfig):
    raise ValueError(f"config file {str(path)!r} must bind `config` to a TrainConfig, got {type(config).__name__}.")
  for text in overrides:
    name, _, written = text.partition("=")
    if name == EPOCHS:
      if not (written.isdecimal() and int(written)):
        raise ValueError(f"--set {text}: {EPOCHS} must be a positive whole number, got {written!r}.")
      config = config.for_epochs(int(written))
    else:
      config = override(config, text, extra=EPOCHS)
  return config


def explain_unknown_setting(error: TypeError) -> str:
  """The error of a wrong keyword for one of this module's classes, with the nearest right one; others as they are."""
  found = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", str(error))
  settings = globals().get(found[1]) if found else None
  if found is None or not dataclasses.is_dataclass(settings):
    return str(error)
  known = [field.name for field in dataclasses.fields(settings)]
  nearest = difflib.get_close_matches(found[2], known, n=1, cutoff=0)[0]
  return f"{found[1]} has no setting {found[2]!r}; did you mean {nearest!r}? It has {', '.join(known)}."
