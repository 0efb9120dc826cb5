"""Settings of `jax-sis evaluate`."""

import dataclasses
from typing import Annotated, Literal

from jax_sis.core import validation
from jax_sis.core.validation import require_positive
from jax_sis.data.config import Background, BatchSize, Folder, ModelFunction, NumDevices, OptionalFolder
from jax_sis.results.query import PixelSubset
from jax_sis.results.subset_options import SubsetOptions
from jax_sis.runtime.command_line import MadeBy, Option, command_line, name_folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
  """One run of `jax-sis evaluate`: which classifier, which labelled images, which corruptions of them.

  Attributes:
    out: results folder; the same folder again goes on with an unfinished run (default: jax-sis-evaluation, and in its
      name what is asked beyond the defaults).
    checkpoint: a classifier's folder, or `imagenet` for EfficientNet-Lite0 (default: the embedded ResNet-20).
    model_function: instead of a folder, a function of yours that returns a `jax_sis.classifiers.ImageModel`:
      package.module:function or file.py:function, looked for from the current folder.
    data: `sample` (embedded CIFAR-10 test images; for classifiers of 128 pixels a side or more, photographs), a folder
      with a folder of images for each class or a file of labels, an .npy with labels beside it, or a TFDS name such as
      cifar10.
    split: the TFDS split, for example `test[:64]`, which counts in the order that the data set is stored in and TFDS
      shuffles (default: test).
    data_dir: the folder that holds the TFDS data set (default: TFDS's own). It and --split say that --data is one.
    resize: show the middle of images of another size, brought to the classifier's; by a recipe of the classifier they
      always are.
    background: what shows through transparent pixels of image files, by name or as #RRGGBB (default: the mean colour).
    limit: only the first N images of the data, and of each corruption and severity (default: all).
    on_error: images that cannot be read: `skip` counts and names them, `refuse` ends the run.
    corruptions: `made`: of the images of --data, made on the fly; a folder: the published CIFAR-10-C, with
      gaussian_noise.npy, ... and labels.npy (default: none).
    subset: show these pixels alone; of a corrupted image those of the same image before its corruption.
    seed: of the corruptions that are made.
    num_bins: bins of confidence for the calibration.
    level: of the intervals of accuracies.
    batch_size: images per device at a time.
    num_devices: devices to use (default: all; on a CPU one device a core).
  """

  out: Folder = ""
  checkpoint: OptionalFolder = None
  model_function: ModelFunction = None
  data: str = "sample"
  split: str | None = None
  data_dir: OptionalFolder = None
  resize: bool = False
  background: Background = None
  limit: int | None = None
  on_error: Literal["skip", "refuse"] = "skip"
  corruptions: Annotated[str | None, Option(metavar="made|DIR")] = None
  subset: Annotated[PixelSubset | None, MadeBy(SubsetOptions)] = None
  seed: int = 0
  num_bins: Annotated[int, Option(name="bins")] = 15
  level: float = 0.95
  batch_size: BatchSize = 64
  num_devices: NumDevices = None

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
    name_folder(self, "jax-sis-evaluation")

  def command_in(self, out: str) -> str:
    """The command line that asks for the same in this folder."""
    return command_line("evaluate", dataclasses.replace(self, out=out), has_defaults=False)
