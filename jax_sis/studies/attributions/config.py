"""Settings of `jax-sis attributions`, and the methods that it compares."""

import dataclasses
from typing import Annotated, ClassVar, Literal

from jax_sis.core.validation import require_positive
from jax_sis.data.config import Folder, ImageSetConfig
from jax_sis.runtime.command_line import FolderCommand, Option, name_folder

Kind = Literal["search", "attribution", "chance"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodTitle:
  """What a method is called, and what kind of thing it is."""

  title: str
  kind: Kind


METHODS = {
  "sis": MethodTitle(title="SIS, gradient", kind="search"),
  "sis_batched": MethodTitle(title="SIS, gradient, batched", kind="search"),
  "screened": MethodTitle(title="SIS, screened", kind="search"),
  "smallest": MethodTitle(title="smallest evidence", kind="search"),
  "gradient_x_input": MethodTitle(title="gradient x input", kind="attribution"),
  "integrated_gradients": MethodTitle(title="integrated gradients", kind="attribution"),
  "grad_cam": MethodTitle(title="Grad-CAM", kind="attribution"),
  "occlusion": MethodTitle(title="occlusion 1x1", kind="attribution"),
  "occlusion_5x5": MethodTitle(title="occlusion 5x5", kind="attribution"),
  "rise": MethodTitle(title="RISE", kind="attribution"),
  "rise_log_odds": MethodTitle(title="RISE of the log-odds", kind="attribution"),
  "random": MethodTitle(title="random order", kind="chance"),
}
# Methods to be asked for by name are left out: one is slow, one repeats another with a different score.
DEFAULT_METHODS = tuple(name for name in METHODS if name not in ("screened", "rise_log_odds"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttributionsConfig(FolderCommand, ImageSetConfig):
  """One run of `jax-sis attributions`; see ImageSetConfig for the images.

  Attributes:
    out: results folder; the same folder again goes on with an unfinished run (default: jax-sis-attributions, and in its
      name what is asked beyond the defaults).
    num_images: the first N images of which the classifier is confident enough.
    methods: see above; the first is what the others are compared with.
    per_step: pixels that a step of sis_batched masks.
  """

  COMMAND: ClassVar[str] = "attributions"

  out: Folder = ""
  num_images: Annotated[int, Option(name="images")] = 16
  methods: Annotated[tuple[str, ...], Option(metavar="NAME [NAME ...]")] = DEFAULT_METHODS
  per_step: int = 16

  def __post_init__(self) -> None:
    super().__post_init__()
    require_positive("--images", self.num_images)
    require_positive("--per-step", self.per_step)
    unknown = [name for name in self.methods if name not in METHODS]
    if unknown or not self.methods:
      raise ValueError(f"--methods must be of {', '.join(METHODS)}, got {unknown[0] if unknown else 'none'}.")
    if len(set(self.methods)) < len(self.methods):
      raise ValueError(f"--methods must name each method once, got {' '.join(self.methods)}.")
    name_folder(self, "jax-sis-attributions")
