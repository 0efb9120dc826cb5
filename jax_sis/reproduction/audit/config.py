"""Settings of `jax-sis audit`, and how large each of its sizes is."""

import dataclasses
from typing import Annotated, Literal, get_args

from jax_sis.core.validation import require_one_of, require_positive
from jax_sis.data.config import Background, Folder, ModelFunction, NumDevices, OptionalFolder
from jax_sis.runtime.command_line import Option, command_line, name_folder

SizeName = Literal["full", "smoke"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
  """How much an audit looks at.

  Attributes:
    num_ranked: images on which accuracy and what the border says are measured, at most.
    num_draws: other images that are shown in place of what is not the border, for each.
    num_searched: images whose subsets are searched, at most.
    per_step: pixels that a step of that search masks.
    num_judged: images, or pairs of them, on which a cluster's region is masked and pasted.
    num_controlled: subsets of which leaks are controlled.
    num_components: of each class, as many components are looked at.
    num_sought: of these, the pixels of so many are looked for, those of the largest share.
    num_sought_on: on so many images each.
    smallest: whether that is the search for the smallest evidence, or the gradient's.
  """

  num_ranked: int
  num_draws: int
  num_searched: int
  per_step: int
  num_judged: int
  num_controlled: int
  num_components: int
  num_sought: int
  num_sought_on: int
  smallest: bool


SIZES: dict[SizeName, Size] = {
  "full": Size(
    num_ranked=10_000,
    num_draws=8,
    num_searched=5_000,
    per_step=16,
    num_judged=400,
    num_controlled=300,
    num_components=8,
    num_sought=2,
    num_sought_on=8,
    smallest=True,
  ),
  "smoke": Size(
    num_ranked=1_000,
    num_draws=2,
    num_searched=600,
    per_step=64,
    num_judged=100,
    num_controlled=40,
    num_components=4,
    num_sought=1,
    num_sought_on=4,
    smallest=False,
  ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditConfig:
  """One run of `jax-sis audit`.

  Attributes:
    checkpoint: the classifier's folder, or `imagenet` for EfficientNet-Lite0 (default: the embedded ResNet-20).
    model_function: instead of a folder, a function of yours that returns a `jax_sis.classifiers.ImageModel`:
      package.module:function or file.py:function, looked for from the current folder.
    data: the images that it is judged on, with labels and best ones that it was not trained on: a TFDS name such as
      cifar10, a folder of a folder a class, or an .npy of 8-bit pixels with labels beside it.
    split: their TFDS split (default: test).
    train_split: the TFDS split of the same data that the classifier was trained on, in which its components are looked
      for (default: the images that it is judged on).
    data_dir: the folder that holds the TFDS data set (default: TFDS's own).
    resize: show the middle of images of another size, brought to the classifier's.
    background: what shows through transparent pixels of image files (default: the mean colour).
    out: results folder; the same again goes on with an unfinished audit (default: jax-sis-audit, and in its name what
      is asked beyond the defaults).
    size: how much is looked at.
    num_devices: devices to use (default: all; on a CPU one device a core).
    seed: of all that is random.
  """

  checkpoint: Annotated[str | None, Option(metavar="CHECKPOINT", is_positional=True)] = None
  model_function: ModelFunction = None
  data: str
  split: str | None = None
  train_split: str | None = None
  data_dir: OptionalFolder = None
  resize: bool = False
  background: Background = None
  out: Folder = ""
  size: Annotated[SizeName, Option(name="preset")] = "full"
  num_devices: NumDevices = None
  seed: int = 0

  def __post_init__(self) -> None:
    require_one_of("--preset", self.size, get_args(SizeName))
    if self.num_devices is not None:
      require_positive("--devices", self.num_devices)
    if not 0 <= self.seed < 2**31:
      raise ValueError(f"--seed must lie in 0..2**31 - 1, got {self.seed}.")
    name_folder(self, "jax-sis-audit")

  @property
  def command(self) -> str:
    """The command line that does the same, on any devices; DATA stands for the data's folder."""
    place = {} if self.data_dir is None else {"data_dir": "DATA"}
    return command_line("audit", dataclasses.replace(self, **place, num_devices=None))
