"""Settings of `jax-sis ranking`."""

import dataclasses
from typing import Annotated, ClassVar

from jax_sis.core.types import Removal
from jax_sis.core.validation import require_positive
from jax_sis.data.config import BatchSize, Folder, ImageSetConfig, OptionalFolder
from jax_sis.runs.completion import CompletionName, CompletionSettings
from jax_sis.runtime.command_line import NOT_AN_OPTION, FolderCommand, Option, name_folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankingConfig(FolderCommand, ImageSetConfig):
  """One run of `jax-sis ranking`; see ImageSetConfig for the images.

  Attributes:
    out: results folder; the same folder again goes on with an unfinished run (default: jax-sis-ranking, and in its name
      what is asked beyond the defaults).
    num_images: the first N images of each data set (default: all).
    beside: other data sets of the same classes, as --data takes them, which are compared with it.
    region: what is shown of each image: `border` (5/32 of the shorter side), `border:N` (N pixels), `square:R,C,N` (N
      pixels a side, from row R and column C on), or a mask in a file, .npy [H, W] or a picture that is white there.
    component: instead of by a region, rank by how much images hold of component N of their class, as `jax-sis
      components` numbers them.
    components: the folder of that command's results, of the same classifier.
    removal: value: the rest shows the mean colour or the completion; layer: it is absent, by layer masking of a
      convolutional network; tokens: its tokens leave a vision transformer.
    completion: what the rest shows in place of the mean colour, drawn again and again, as for find; the same draws for
      all images.
    pool: for images and mixture, the images to draw from: whatever --data takes.
    pool_split: the TFDS split of --pool.
    num_pooled: images of the pool that are taken, at most.
    num_draws: draws an image.
    ends: the share of a class that is an end of its ranking.
  """

  COMMAND: ClassVar[str] = "ranking"

  out: Folder = ""
  num_images: Annotated[int | None, Option(name="images")] = None
  beside: Annotated[tuple[str, ...], Option(metavar="DATA [DATA ...]")] = ()
  region: str = "border"
  component: int | None = None
  components: OptionalFolder = None
  removal: Removal = "value"
  completion: CompletionName | None = None
  pool: Annotated[str | None, Option(metavar="DATA")] = None
  pool_split: str | None = None
  num_pooled: Annotated[int, Option(name="pool-images")] = 2000
  num_draws: Annotated[int, Option(name="draws")] = 32
  ends: float = 0.1
  batch_size: BatchSize = 32
  patch: Annotated[int, NOT_AN_OPTION] = 1
  threshold: Annotated[float, NOT_AN_OPTION] = ImageSetConfig.threshold

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.num_images is not None:
      require_positive("--images", self.num_images)
    if len({self.data, *self.beside}) <= len(self.beside):
      raise ValueError(f"--beside must name each data set once, and not --data, got {' '.join(self.beside)}.")
    if not 0 < self.ends <= 0.5:
      raise ValueError(f"--ends must be above 0 and at most 0.5, got {self.ends:g}.")
    if self.completion is not None and self.removal != "value":
      raise ValueError(
        f"--completion must not come with --removal {self.removal}, under which the rest shows nothing at all; leave "
        "one of them out."
      )
    if (self.component is None) != (self.components is None):
      raise ValueError("--component and --components must come together, got only one of them.")
    if self.component is not None:
      require_positive("--component", self.component)
      if (self.region, self.removal, self.completion) != (RankingConfig.region, RankingConfig.removal, None):
        raise ValueError(
          "--component must not come with --region, --removal or --completion, which say what a region shows; leave it "
          "or them out."
        )
    _ = self.settings
    name_folder(self, "jax-sis-ranking")

  @property
  def settings(self) -> CompletionSettings:
    """The completion as `find` has it; ValueError where it is wrong."""
    if self.completion is None:
      return CompletionSettings(pool=self.pool, pool_split=self.pool_split)
    return CompletionSettings(
      kind=self.completion,
      pool=self.pool,
      pool_split=self.pool_split,
      num_pooled=self.num_pooled,
      num_draws=self.num_draws,
      seed=self.seed,
    )

  @property
  def ranked_by(self) -> str:
    """What says most or least of a class, in words."""
    return "the region" if self.component is None else f"component {self.component}"

  @property
  def shown_elsewhere(self) -> str:
    """What stands in the place of the rest of a region, in words."""
    if self.removal != "value":
      return f"the rest is absent (--removal {self.removal})"
    if self.completion is None:
      return "the rest shows the mean colour"
    return f"the rest shows {self.settings.kind}, {self.num_draws} draws, the same for all images"
