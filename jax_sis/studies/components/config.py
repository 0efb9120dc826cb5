"""Settings of `jax-sis components`."""

import dataclasses
from typing import Annotated, ClassVar, Literal

from jax_sis.core.validation import require_positive
from jax_sis.data.config import BatchSize, Folder, ImageSetConfig
from jax_sis.runtime.command_line import FolderCommand, Option, name_folder

SearchName = Literal["smallest", "gradient", "screened"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComponentsConfig(FolderCommand, ImageSetConfig):
  """One run of `jax-sis components`; see ImageSetConfig for the images, best those that the classifier was trained on.

  Attributes:
    out: results folder; the same folder again goes on with an unfinished run (default: jax-sis-components, and in its
      name what is asked beyond the defaults).
    classes: which classes, by name (default: all that have enough images).
    validation: other images, named as --data are, on which all is judged but the components themselves: those that the
      classifier was trained on say little of its mistakes (default: the same).
    validation_split: their TFDS split; without --validation, of the same data set.
    num_components: of each class, the first N principal components are shown.
    labels: the file in which a person marks components spurious (default: labels.json in the results folder, which the
      command writes as a template).
    num_searched: of each class, look for the pixels that raise the N components of the largest share; 0 leaves it out.
    num_images: for each of these, on N images: half of them of the class, half of others, those that raise it most.
    search: `smallest` as in find, or a backward search.
    per_step: pixels that a step of the gradient search masks.
    completion: what masked pixels show in the search: the `mean` colour, or `images` drawn from the data.
    threshold: the probability, by the component's own head, that pixels must reach.
    batch_size: images per device at a time, where the whole data go through the classifier.
  """

  COMMAND: ClassVar[str] = "components"

  out: Folder = ""
  classes: Annotated[tuple[str, ...], Option(metavar="CLASS [CLASS ...]")] = ()
  validation: Annotated[str | None, Option(metavar="DATA")] = None
  validation_split: str | None = None
  num_components: Annotated[int, Option(name="components")] = 10
  labels: Annotated[str | None, Option(metavar="FILE")] = None
  num_searched: Annotated[int, Option(name="searched")] = 2
  num_images: Annotated[int, Option(name="images")] = 8
  search: SearchName = "smallest"
  per_step: int = 4
  completion: Literal["mean", "images"] = "mean"
  threshold: float = 0.5
  batch_size: BatchSize = 64

  def __post_init__(self) -> None:
    super().__post_init__()
    require_positive("--components", self.num_components)
    require_positive("--per-step", self.per_step)
    if self.num_searched < 0:
      raise ValueError(f"--searched must not be negative, got {self.num_searched}.")
    if self.num_images < 2 or self.num_images % 2:
      raise ValueError(f"--images must be even, half of them of the class, got {self.num_images}.")
    if len(set(self.classes)) < len(self.classes):
      raise ValueError(f"--classes must name each class once, got {' '.join(self.classes)}.")
    name_folder(self, "jax-sis-components")
