"""`jax-sis reproduce`: the paper's study of CIFAR-10, by stages that are done once and go on where they were."""

import dataclasses
import pathlib

from jax_sis.config import require_one_of
from jax_sis.reproduction import engine
from jax_sis.reproduction.presets import PRESETS, make_stages


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReproduceConfig:
  """One run of `jax-sis reproduce`.

  Attributes:
    preset: a key of `presets.PRESETS`.
    out: the study's folder; the same again goes on with an unfinished study.
    data_dir: the TFDS folder that holds CIFAR-10; None for TFDS's default.
  """

  preset: str
  out: str
  data_dir: str | None = None

  def __post_init__(self) -> None:
    require_one_of("--preset", self.preset, tuple(PRESETS))


def reproduce(config: ReproduceConfig) -> pathlib.Path:
  """Runs or resumes a study.

  Args:
    config: which, see ReproduceConfig.

  Returns:
    The study's folder.

  Raises:
    ValueError: another process works in the folder, the data set is not there, or a stage cannot be done.
  """
  directory = pathlib.Path(config.out)
  preset = PRESETS[config.preset]
  print(f"Preset {preset.name}. {preset.purpose}", flush=True)
  with engine.hold(directory):
    engine.run_stages(make_stages(preset), directory, config.data_dir)
  return directory


def show_plan(config: ReproduceConfig) -> None:
  """Prints the stages of a study, what is done of them, and how long the rest takes.

  Raises:
    ValueError: the data set is not there, or what was done cannot be read.
  """
  preset = PRESETS[config.preset]
  print(f"Preset {preset.name}. {preset.purpose}")
  engine.list_stages(make_stages(preset), pathlib.Path(config.out), config.data_dir)
