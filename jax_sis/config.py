"""Settings of the programs: frozen dataclasses that check themselves, and the loader of `configs/*.py`."""

import dataclasses
import pathlib
import runpy
from typing import Any, Literal, NamedTuple

import numpy as np

from jax_sis import validation
from jax_sis.local_search import Exchanges
from jax_sis.minimise import DEFAULT_SETTINGS
from jax_sis.search import BackwardSearch, Forward, Gradient
from jax_sis.types import ScoreName


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
  """A stretch of training at one image resolution (pixels a side)."""

  epochs: int
  resolution: int

  def __post_init__(self) -> None:
    require_positive("Stage.epochs", self.epochs)
    require_positive("Stage.resolution", self.resolution)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """One training run: the model, the data and the recipe.

  The learning rate rises linearly for `warmup_epochs`, then falls linearly to zero. Images are shifted by up to
  `crop_padding` pixels and flipped; each image is flipped in every second epoch, starting at random, so that two
  epochs in a row show both sides. `stages` gives the resolution, low ones first, because they are cheap.
  """

  model: str
  dataset: str
  split: str = "train"
  stages: tuple[Stage, ...]
  batch_size: int = 128
  num_shards: int = 2
  peak_learning_rate: float = 0.1
  warmup_epochs: float = 2.0
  momentum: float = 0.9
  weight_decay: float = 5e-4
  crop_padding: int = 4
  seed: int = 0

  def __post_init__(self) -> None:
    if not self.stages:
      raise ValueError("TrainConfig.stages must name at least one Stage, got none.")
    require_positive("TrainConfig.batch_size", self.batch_size)
    require_positive("TrainConfig.num_shards", self.num_shards)
    require_positive("TrainConfig.peak_learning_rate", self.peak_learning_rate)
    if self.batch_size % self.num_shards:
      raise ValueError(
        f"TrainConfig.batch_size must be a multiple of num_shards, got {self.batch_size} and {self.num_shards}."
      )

  @property
  def num_epochs(self) -> int:
    """Epochs of all stages together."""
    return sum(stage.epochs for stage in self.stages)

  def resolution(self, epoch: int) -> int:
    """Pixels a side in the 0-based `epoch`."""
    for stage in self.stages:
      if epoch < stage.epochs:
        return stage.resolution
      epoch -= stage.epochs
    raise ValueError(f"epoch must be below num_epochs ({self.num_epochs}), got {epoch + self.num_epochs}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Normalisation:
  """How a classifier's input is made from 8-bit pixels: `(pixel / 255 - mean) / std`, a value a channel."""

  mean: tuple[float, ...]
  std: tuple[float, ...]

  def __post_init__(self) -> None:
    if len(self.mean) != len(self.std):
      raise ValueError(
        f"Normalisation.mean and std must have one value a channel, got {len(self.mean)} and {len(self.std)} values."
      )
    for value in self.std:
      require_positive("Normalisation.std", value)

  def apply(self, images: Any, dtype: Any = np.float32) -> Any:
    """Pixels `[..., C]` in 0..255 -> normalised inputs; NumPy in, NumPy out, and the same for JAX."""
    mean, std = np.asarray(self.mean, dtype), np.asarray(self.std, dtype)
    return (images.astype(dtype) / dtype(255) - mean) / std

  def invert(self, inputs: Any) -> Any:
    """Normalised inputs -> pixels as floats in 0..255."""
    return (inputs * np.asarray(self.std, inputs.dtype) + np.asarray(self.mean, inputs.dtype)) * 255


class Effort(NamedTuple):
  """How long a run looks for the smallest evidence: its forward search and exchanges."""

  forward: Forward
  exchanges: Exchanges


QUICK = Effort(Forward(candidates=DEFAULT_SETTINGS.candidates), DEFAULT_SETTINGS.exchanges)
THOROUGH = Effort(Forward(candidates=256), ((2, 8), (4, 16), (6, 16)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FindConfig:
  """One run of `jax-sis find`: which images, which classifier, which search.

  Attributes:
    out: the folder for the results; the same folder again goes on with an unfinished run.
    checkpoint: a classifier's folder; None for the embedded one.
    data: `sample` (embedded CIFAR-10 test images), an image file, a folder of images, or a TFDS name.
    split: the TFDS split.
    data_dir: the TFDS folder; None for TFDS's default.
    search: the backward search, which orders all pixels; None leaves it out.
    smallest: the forward search for the smallest evidence, at this run's threshold; None leaves it out.
    exchanges: how its subsets are made smaller, see `minimise`.
    score: what the searches keep up.
    threshold: the confidence that a subset must reach.
    target: `predicted`, `label`, or a class by name or number.
    baseline: what a masked pixel shows, in normalised units; 0 is the data's mean colour.
    patch: pixels a side of the squares that are masked together.
    batch_size: images a device at a time.
    num_devices: how many local devices; None for all.
    resize: bring image files to the classifier's size.
    gallery: how many images the gallery shows.
    tolerance: how far a certificate's confidence may be from the search's.
    chunk_size: masked copies a model call when certifying.
  """

  out: str
  checkpoint: str | None = None
  data: str = "sample"
  split: str = "test"
  data_dir: str | None = None
  search: BackwardSearch | None = Gradient()
  smallest: Forward | None = QUICK.forward
  exchanges: Exchanges = QUICK.exchanges
  score: ScoreName = "log_odds"
  threshold: float = 0.99
  target: str = "predicted"
  baseline: float = 0.0
  patch: int = 1
  batch_size: int = 2
  num_devices: int | None = None
  resize: bool = False
  gallery: int = 24
  tolerance: float = 1e-3
  chunk_size: int = 64

  def __post_init__(self) -> None:
    validation.check_threshold(self.threshold)
    validation.check_score(self.score)
    if self.search is None and self.smallest is None:
      raise ValueError("FindConfig.search and FindConfig.smallest must not both be None; there is nothing to find.")
    require_positive("--batch", self.batch_size)
    require_positive("--patch", self.patch)
    if self.num_devices is not None:
      require_positive("--devices", self.num_devices)
    if self.gallery < 0:
      raise ValueError(f"--gallery must not be negative, got {self.gallery}.")
    if not np.isfinite(self.baseline):
      raise ValueError(f"--baseline must be finite, got {self.baseline}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
  """One run of `jax-sis evaluate`: which classifier, which labelled images, which corruptions of them.

  Attributes:
    out: the folder for the results; the same folder again goes on with an unfinished run.
    checkpoint: a classifier's folder; None for the embedded one.
    data: `sample` (embedded CIFAR-10 test images), a folder with a folder of images for each class, or a TFDS name.
    split: the TFDS split.
    data_dir: the TFDS folder; None for TFDS's default.
    resize: bring image files to the classifier's size.
    limit: evaluate only that many first images of the data and of each corruption; None for all.
    on_error: what to do with images that cannot be read: `skip` counts and names them, `refuse` ends the run.
    corruptions: `made` corrupts the images of `data`, a folder is that of the published CIFAR-10-C; None for none.
    seed: of the corruptions made here.
    num_bins: bins of confidence, for the calibration.
    level: of the intervals of accuracies.
    batch_size: images a device at a time.
    num_devices: how many local devices; None for all.
  """

  out: str
  checkpoint: str | None = None
  data: str = "sample"
  split: str = "test"
  data_dir: str | None = None
  resize: bool = False
  limit: int | None = None
  on_error: Literal["skip", "refuse"] = "skip"
  corruptions: str | None = None
  seed: int = 0
  num_bins: int = 15
  level: float = 0.95
  batch_size: int = 64
  num_devices: int | None = None

  def __post_init__(self) -> None:
    if self.on_error not in ("skip", "refuse"):
      raise ValueError(f"--on-error must be 'skip' or 'refuse', got {self.on_error!r}.")
    validation.check_threshold(self.level, "--level")
    require_positive("--bins", self.num_bins)
    require_positive("--batch", self.batch_size)
    if self.limit is not None:
      require_positive("--limit", self.limit)
    if self.num_devices is not None:
      require_positive("--devices", self.num_devices)


def require_positive(name: str, value: float) -> None:
  """Raises ValueError unless `value` is above zero."""
  if not value > 0:
    raise ValueError(f"{name} must be positive, got {value!r}.")


def load_config(path: str | pathlib.Path) -> TrainConfig:
  """Runs a Python file and returns the TrainConfig that it binds to `config`.

  Raises:
    ValueError: there is no such file, or it binds no TrainConfig.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f"config must be an existing Python file, got {str(path)!r}.")
  config = runpy.run_path(str(path)).get("config")
  if not isinstance(config, TrainConfig):
    raise ValueError(f"config file {str(path)!r} must bind `config` to a TrainConfig, got {type(config).__name__}.")
  return config
