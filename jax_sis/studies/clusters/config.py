"""Settings of `jax-sis clusters`, and of `jax-sis demo shortcut`."""

import dataclasses
from typing import Annotated, ClassVar

from jax_sis.core.validation import require_one_of, require_positive
from jax_sis.data.config import BatchSize, Folder, ModelFunction, NumDevices, OptionalFolder, RunFolder
from jax_sis.results.schema import KINDS
from jax_sis.runtime.command_line import FolderCommand, Option, name_folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClustersConfig(FolderCommand):
  """One run of `jax-sis clusters`.

  Attributes:
    run_dir: the run of find, finished or not, what find calls --out.
    out: results folder; the same folder again goes on with an unfinished run (default: jax-sis-clusters, and in its
      name what is asked beyond the defaults).
    kind: instead of a share of the pixels, the subsets of this kind that the run holds: sis, smallest, ....
    fraction: the share of the pixels that are clustered, the most needed ones of each image.
    classes: only images predicted as these, by name (default: each class that enough images are predicted as).
    is_together: the images of all classes in one, instead of each class on its own.
    max_images: more images of a class are sampled, by the seed.
    region: the share of the pixels that make up a cluster's region, those that most of its subsets keep.
    num_judged: images and pairs of images on which a region is masked and pasted.
    batch_size: images per device at a time.
    num_devices: devices to use (default: all; on a CPU one device a core).
    seed: of all that is random.
    checkpoint: the classifier's folder (default: where the run had it).
    model_function: the function that makes the classifier, file.py:function where the file has moved.
    data_dir: the TFDS folder (default: where the run had it).
  """

  COMMAND: ClassVar[str] = "clusters"

  run_dir: RunFolder
  out: Folder = ""
  kind: Annotated[str | None, Option(metavar="KIND")] = None
  fraction: float = 1 / 64
  classes: Annotated[tuple[str, ...], Option(metavar="NAME [NAME ...]")] = ()
  is_together: Annotated[bool, Option(name="together")] = False
  max_images: int = 10_000
  region: float = 1 / 64
  num_judged: Annotated[int, Option(name="judged")] = 200
  batch_size: BatchSize = 32
  num_devices: NumDevices = None
  seed: int = 0
  checkpoint: OptionalFolder = None
  model_function: ModelFunction = None
  data_dir: OptionalFolder = None

  def __post_init__(self) -> None:
    if self.kind is not None:
      require_one_of("--kind", self.kind, KINDS)
    for name, share in (("--fraction", self.fraction), ("--region", self.region)):
      if not 0 < share < 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {share}.")
    if self.is_together and self.classes:
      raise ValueError(f"--together must come without --classes, got {' '.join(self.classes)}.")
    for name, value in (("--max-images", self.max_images), ("--judged", self.num_judged), ("--batch", self.batch_size)):
      require_positive(name, value)
    if self.num_devices is not None:
      require_positive("--devices", self.num_devices)
    if not 0 <= self.seed < 2**31:
      raise ValueError(f"--seed must lie in 0..2**31 - 1, got {self.seed}.")
    name_folder(self, "jax-sis-clusters")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShortcutConfig:
  """One run of `jax-sis demo shortcut`.

  Attributes:
    data_dir: the TFDS folder with cifar10 (default: TFDS's own).
    out: gets the images, the run of find and the clusters.
    num_images: horses of the test split, a quarter of them with the tag.
    num_others: images of each other class, without it.
    checkpoint: a classifier's folder, such as of one that was trained with the tag (default: the embedded one with a
      detector of the tag wired in).
    num_devices: devices to use (default: all; on a CPU one device a core).
    seed: which images these are.
  """

  data_dir: OptionalFolder = None
  out: Folder = "jax-sis-demo-shortcut"
  num_images: Annotated[int, Option(name="images")] = 120
  num_others: Annotated[int, Option(name="others")] = 20
  checkpoint: OptionalFolder = None
  num_devices: NumDevices = None
  seed: int = 0

  def __post_init__(self) -> None:
    require_positive("--images", self.num_images)
    require_positive("--others", self.num_others)
