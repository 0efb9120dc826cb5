"""Settings of `jax-sis disjoint`."""

import dataclasses
from typing import Annotated, ClassVar

from jax_sis.core.validation import require_positive
from jax_sis.data.config import BatchSize, Folder, ImageSetConfig
from jax_sis.runtime.command_line import FolderCommand, Option, name_folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class DisjointConfig(FolderCommand, ImageSetConfig):
  """One run of `jax-sis disjoint`; see ImageSetConfig for the images.

  Attributes:
    out: results folder; the same folder again goes on with an unfinished run (default: jax-sis-disjoint, and in its
      name what is asked beyond the defaults).
    num_images: the first N images (default: all).
    per_step: pixels that a step of the gradient search masks.
    max_subsets: the number at which an image is done; images that reach it are counted apart.
    is_minimised: drop and exchange pixels of each subset before they are taken away: smaller and more subsets, slower.
    batch_size: images per device at a time, half of which are searched at once, so that few wait for the last.
  """

  COMMAND: ClassVar[str] = "disjoint"

  out: Folder = ""
  num_images: Annotated[int | None, Option(name="images")] = None
  per_step: int = 16
  max_subsets: int = 16
  is_minimised: Annotated[bool, Option(name="minimised")] = False
  batch_size: BatchSize = 16

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.num_images is not None:
      require_positive("--images", self.num_images)
    require_positive("--per-step", self.per_step)
    require_positive("--max-subsets", self.max_subsets)
    name_folder(self, "jax-sis-disjoint")
