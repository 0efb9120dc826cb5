"""Settings of `jax-sis report`."""

import dataclasses
from typing import Annotated

from jax_sis.data.config import ModelFunction, OptionalFolder, RunFolder
from jax_sis.runtime.command_line import Option, command_line

ENDINGS = (".html", ".htm")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportConfig:
  """One run of `jax-sis report`.

  Attributes:
    run_dir: the run's folder, what find calls --out.
    out: the file (default: report.html in RUN_DIR).
    analysis: the folder that jax-sis analyse wrote of this run, whose numbers are shown (default: it is analysed here).
    soundness: the folder that jax-sis soundness wrote of this classifier, which is shown beside the sizes (default: not
      shown, since it costs a search a class).
    title: the title of the page (default: it names the model and the data).
    gallery: of each kind of subset, the images with the N smallest and the N largest are shown.
    checkpoint: the classifier's folder (default: where the run had it).
    model_function: the function that makes the classifier, file.py:function where the file has moved.
    data_dir: the TFDS folder (default: where the run had it).
  """

  run_dir: RunFolder
  out: Annotated[str | None, Option(metavar="FILE")] = None
  analysis: OptionalFolder = None
  soundness: OptionalFolder = None
  title: str | None = None
  gallery: int = 6
  checkpoint: OptionalFolder = None
  model_function: ModelFunction = None
  data_dir: OptionalFolder = None

  def __post_init__(self) -> None:
    if self.out is not None and not self.out.endswith(ENDINGS):
      raise ValueError(f"--out must be a file that ends in {' or '.join(ENDINGS)}, got {self.out!r}.")
    if self.gallery < 0:
      raise ValueError(f"--gallery must not be negative, got {self.gallery}.")
    if self.title is not None and not self.title.strip():
      raise ValueError("--title must not be empty; leave it out to name the model and the data.")

  @property
  def command(self) -> str:
    return command_line("report", self)
