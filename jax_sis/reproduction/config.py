"""Settings of `jax-sis reproduce`."""

import dataclasses
from typing import Annotated, Literal, get_args

from jax_sis.core.validation import require_one_of
from jax_sis.data.config import Folder, OptionalFolder
from jax_sis.runtime.command_line import Option, command_line

PresetName = Literal["smoke", "budget", "paper"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReproduceConfig:
  """One run of `jax-sis reproduce`.

  Attributes:
    preset: the size of the study.
    out: the study's folder; the same again goes on with an unfinished study (default: jax-sis-study-PRESET).
    data_dir: the folder that holds TFDS's cifar10 (default: TFDS's own).
    is_summary: run nothing: write tables and report of the stages that are done.
  """

  preset: PresetName
  out: Folder = ""
  data_dir: OptionalFolder = None
  is_summary: Annotated[bool, Option(name="summary")] = False

  def __post_init__(self) -> None:
    require_one_of("--preset", self.preset, get_args(PresetName))
    if not self.out:
      object.__setattr__(self, "out", f"jax-sis-study-{self.preset}")

  @property
  def command(self) -> str:
    """The command line that does the same; DATA stands for the data's folder."""
    return command_line("reproduce", dataclasses.replace(self, data_dir="DATA", is_summary=False))
