"""Settings of `jax-sis soundness`, and the orders that it asks about."""

import dataclasses
from typing import Annotated, ClassVar

from jax_sis.core.validation import require_positive
from jax_sis.data.config import BatchSize, Folder, ImageSetConfig
from jax_sis.runtime.command_line import FolderCommand, Option, name_folder

ORDERS = {
  "gradient": "SIS, gradient",
  "gradient_images": "SIS, other images",
  "gradient_x_input": "gradient x input",
  "integrated_gradients": "integrated gradients",
  "grad_cam": "Grad-CAM",
  "random": "random order",
}
# Its steps take as many gradients each as there are draws.
DEFAULT_ORDERS = tuple(name for name in ORDERS if name != "gradient_images")
NUM_DRAWS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoundnessConfig(FolderCommand, ImageSetConfig):
  """One run of `jax-sis soundness`; see ImageSetConfig for the images.

  Attributes:
    out: results folder; the same folder again goes on with an unfinished run (default: jax-sis-soundness, and in its
      name what is asked beyond the defaults).
    num_images: the first N images.
    orders: which orders are asked about, each of them made for each class.
    num_classes: the predicted class and the N - 1 that are likeliest after it; a search costs as much for each.
    per_step: pixels that a step of the gradient search masks.
  """

  COMMAND: ClassVar[str] = "soundness"

  out: Folder = ""
  num_images: Annotated[int, Option(name="images")] = 64
  orders: Annotated[tuple[str, ...], Option(metavar="NAME [NAME ...]")] = DEFAULT_ORDERS
  num_classes: Annotated[int, Option(name="classes")] = 10
  per_step: int = 16
  batch_size: BatchSize = 4

  def __post_init__(self) -> None:
    super().__post_init__()
    require_positive("--images", self.num_images)
    require_positive("--per-step", self.per_step)
    if self.num_classes < 2:
      raise ValueError(f"--classes must be 2 at least, the predicted one and another, got {self.num_classes}.")
    unknown = [name for name in self.orders if name not in ORDERS]
    if unknown or not self.orders:
      raise ValueError(f"--orders must be of {', '.join(ORDERS)}, got {unknown[0] if unknown else 'none'}.")
    if len(set(self.orders)) < len(self.orders):
      raise ValueError(f"--orders must name each order once, got {' '.join(self.orders)}.")
    name_folder(self, "jax-sis-soundness")
