"""Settings of `jax-sis labels`."""

import dataclasses
from typing import Annotated, ClassVar

from jax_sis.core import validation
from jax_sis.core.validation import require_positive
from jax_sis.data.config import BatchSize, Folder, ImageSetConfig
from jax_sis.results.schema import KINDS
from jax_sis.runtime.command_line import NOT_AN_OPTION, FolderCommand, Option, name_folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelsConfig(FolderCommand, ImageSetConfig):
  """One run of `jax-sis labels`; see ImageSetConfig for the images, which the classifier must not be trained on.

  Attributes:
    out: results folder; the same folder again goes on with an unfinished run (default: jax-sis-labels, and in its name
      what is asked beyond the defaults).
    num_images: the first N images (default: all).
    planted: the share of the labels that is changed, to see how well such are found; 0 for none.
    votes: a file of people's votes on candidate label errors, as cleanlab's label-errors has them for CIFAR-10.
    human: a file of human labels: an .npy of counts [N, K] in the order of the data's ids, or a dictionary of label
      arrays [N], one a person, as .npz, .pt or .pkl; an array `id` in it joins it by the images' ids.
    people: the arrays of that dictionary that are asked (default: all).
    runs: runs of find on the same classifier, whose subset sizes are joined by the images' ids.
    kind: which subsets of them: sis, smallest or robust.
    at: the confidence that these must reach (default: each run's own).
    seed: of the labels that are changed, the folds, and of intervals.
  """

  COMMAND: ClassVar[str] = "labels"

  out: Folder = ""
  num_images: Annotated[int | None, Option(name="images")] = None
  planted: float = 0.02
  votes: Annotated[str | None, Option(metavar="FILE")] = None
  human: Annotated[str | None, Option(metavar="FILE")] = None
  people: Annotated[tuple[str, ...], Option(metavar="NAME [NAME ...]")] = ()
  runs: Annotated[tuple[str, ...], Option(metavar="RUN_DIR [RUN_DIR ...]")] = ()
  kind: str = "sis"
  at: float | None = None
  batch_size: BatchSize = 32
  patch: Annotated[int, NOT_AN_OPTION] = 1
  threshold: Annotated[float, NOT_AN_OPTION] = ImageSetConfig.threshold

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.num_images is not None:
      require_positive("--images", self.num_images)
    if not 0 <= self.planted < 0.5:
      raise ValueError(f"--planted must be at least 0 and below 0.5, got {self.planted:g}.")
    if self.people and self.human is None:
      raise ValueError(f"--people must come with --human, got {' '.join(self.people)} alone.")
    if len(set(self.runs)) < len(self.runs):
      raise ValueError(f"--runs must name each run once, got {' '.join(self.runs)}.")
    validation.require_one_of("--kind", self.kind, KINDS)
    if self.at is not None:
      validation.check_threshold(self.at, "--at")
    name_folder(self, "jax-sis-labels")
