"""Settings that say which images are looked at, by which classifier, and where."""

import collections
import dataclasses
import os
import pathlib
from typing import Annotated

from jax_sis.core import validation
from jax_sis.core.validation import require_positive
from jax_sis.runtime.command_line import Option


def read_ids(path: str | os.PathLike[str]) -> tuple[str, ...]:
  """The ids in a text file, one per line; blank lines are skipped; ValueError if it cannot be read as text."""
  try:
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(f"--ids must be a text file with one id per line, got {str(path)!r} ({error}).") from error
  return tuple(line.strip() for line in lines if line.strip())


def check_ids(ids: tuple[str, ...] | None) -> None:
  """Raises ValueError unless these name at least one image, and each once; None is for all images."""
  if ids is None:
    return
  if not ids:
    raise ValueError("--ids must name at least one image, got none.")
  name, count = collections.Counter(ids).most_common(1)[0]
  if count > 1:
    raise ValueError(f"--ids must name each image once, got {name!r} {count} times.")


# Types of settings that many programs have.
Folder = Annotated[str, Option(metavar="DIR")]
OptionalFolder = Annotated[str | None, Option(metavar="DIR")]
ModelFunction = Annotated[str | None, Option(name="model", metavar="MODULE:FUNCTION")]
RunFolder = Annotated[str, Option(metavar="RUN_DIR", is_positional=True)]
Ids = Annotated[tuple[str, ...] | None, Option(metavar="FILE", read_fn=read_ids)]
Background = Annotated[str | None, Option(metavar="COLOUR")]
BatchSize = Annotated[int, Option(name="batch")]
NumDevices = Annotated[int | None, Option(name="devices")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSetConfig:
  """Which classifier, which images, and where they are worked on.

  Attributes:
    out: results folder; the same folder again goes on with an unfinished run.
    checkpoint: a classifier's folder, or `imagenet` for EfficientNet-Lite0 (default: the embedded ResNet-20).
    model_function: instead of a folder, a function of yours that returns a `jax_sis.classifiers.ImageModel`:
      package.module:function or file.py:function, looked for from the current folder.
    data: `sample` (embedded CIFAR-10 test images; for classifiers of 128 pixels a side or more, photographs), an image
      file, a folder of images, an .npy of 8-bit pixels [N, H, W, C] with labels in `NAME_labels.npy` (of
      `NAME_data.npy`, too) or `labels.npy` beside it, or a TFDS name such as cifar10.
    split: the TFDS split, for example `test[:64]`, which counts in the order that the data set is stored in and TFDS
      shuffles (default: test).
    data_dir: the folder that holds the TFDS data set (default: TFDS's own). It and --split say that --data is one.
    ids: only these images, in this order; on the command line a text file with one id per line (default: all).
    resize: show the middle of images of another size, brought to the classifier's; by a recipe of the classifier they
      always are.
    background: what shows through transparent pixels of image files, by name or as #RRGGBB (default: the mean colour).
    patch: mask squares of N x N pixels together.
    threshold: the probability that a subset must reach.
    batch_size: images per device at a time; it is part of what the run is.
    num_devices: devices to use (default: all; on a CPU one device a core).
    seed: of all that is random, intervals among it.
  """

  out: Folder
  checkpoint: OptionalFolder = None
  model_function: ModelFunction = None
  data: str = "sample"
  split: str | None = None
  data_dir: OptionalFolder = None
  ids: Ids = None
  resize: bool = False
  background: Background = None
  patch: int = 1
  threshold: float = 0.99
  batch_size: BatchSize = 4
  num_devices: NumDevices = None
  seed: int = 0

  def __post_init__(self) -> None:
    check_ids(self.ids)
    require_positive("--patch", self.patch)
    validation.check_threshold(self.threshold, "--threshold")
    require_positive("--batch", self.batch_size)
    if self.num_devices is not None:
      require_positive("--devices", self.num_devices)
    if not 0 <= self.seed < 2**31:
      raise ValueError(f"--seed must lie in 0..2**31 - 1, got {self.seed}.")
