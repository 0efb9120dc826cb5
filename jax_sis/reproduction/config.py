"""Settings of `jax-sis reproduce`."""

import dataclasses
from typing import Annotated, Literal, get_args

from jax_sis.core.validation import require_one_of
from jax_sis.data.config import Folder, OptionalFolder
from jax_sis.runtime.command_line import Option, command_line

PresetName = Literal["smoke", "budget", "paper", "imagenet"]

# The preset for photographs, and the checkpoint that it takes where none is named.
OF_PHOTOGRAPHS = "imagenet"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReproduceConfig:
  """One run of `jax-sis reproduce`.

  Attributes:
    preset: the size of the study.
    out: the study's folder; the same again goes on with an unfinished study (default: jax-sis-study-PRESET).
    data_dir: the folder that holds TFDS's cifar10 (default: TFDS's own).
    data: of the preset imagenet, the folder of photographs.
    checkpoints: of the preset imagenet, the classifiers, each after an option of its own (default: imagenet).
    until: stop after this stage, which --plan names: the searches come first, and may be done on another machine.
    is_summary: run nothing: write tables and report of the stages that are done.
  """

  preset: PresetName
  out: Folder = ""
  data_dir: OptionalFolder = None
  data: OptionalFolder = None
  checkpoints: Annotated[tuple[str, ...], Option(name="checkpoint", metavar="DIR", is_repeated=True)] = ()
  until: Annotated[str | None, Option(metavar="STAGE")] = None
  is_summary: Annotated[bool, Option(name="summary")] = False

  def __post_init__(self) -> None:
    require_one_of("--preset", self.preset, get_args(PresetName))
    self._check_photographs()
    if not self.out:
      object.__setattr__(self, "out", f"jax-sis-study-{self.preset}")

  def _check_photographs(self) -> None:
    if self.preset == OF_PHOTOGRAPHS:
      if self.data is None:
        raise ValueError("--preset imagenet must come with --data, the folder of photographs.")
      if self.data_dir is not None:
        raise ValueError("--preset imagenet must come without --data-dir; --data names the folder of photographs.")
      if not self.checkpoints:
        object.__setattr__(self, "checkpoints", (OF_PHOTOGRAPHS,))
    elif self.data is not None or self.checkpoints or self.until is not None:
      raise ValueError(f"--data, --checkpoint and --until are for --preset imagenet, got --preset {self.preset}.")

  @property
  def command(self) -> str:
    """The command line that does the same; DATA stands for the data's folder."""
    place = {"data": "DATA", "until": None} if self.preset == OF_PHOTOGRAPHS else {"data_dir": "DATA"}
    return command_line("reproduce", dataclasses.replace(self, **place, is_summary=False))
