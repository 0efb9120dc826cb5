"""Settings of an evaluation."""

import dataclasses
from typing import Literal

from jax_sis.core import validation
from jax_sis.core.validation import require_positive
from jax_sis.results.query import PixelSubset


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
    subset: show these pixels alone; of a corrupted image those of the same image before its corruption.
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
  subset: PixelSubset | None = None
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
