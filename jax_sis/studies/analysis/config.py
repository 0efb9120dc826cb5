"""Settings of `jax-sis analyse`."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

from jax_sis.core import validation
from jax_sis.data.config import Folder
from jax_sis.runtime.command_line import Option, command_line


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyConfig:
  """One run of `jax-sis analyse`.

  Attributes:
    run_dirs: the run's folder, what find calls --out; the others are compared with the first.
    out: where tables and pictures go.
    labels: what the runs are called (default: as their folders).
    thresholds: confidences beside the run's own at which sizes are given, where it holds orders.
    fraction: the share of the pixels, the most needed ones, whose places are counted.
    has_class_curves: confidence along the removal also by class, in analysis.json.
    seed: of all intervals and tests.
  """

  run_dirs: Annotated[tuple[str, ...], Option(metavar="RUN_DIR [RUN_DIR ...]", is_positional=True)]
  out: Folder = "jax-sis-analysis"
  labels: Annotated[tuple[str, ...], Option(metavar="NAME [NAME ...]")] = ()
  thresholds: tuple[float, ...] = (0.9, 0.95, 0.99)
  fraction: float = 0.05
  has_class_curves: Annotated[bool, Option(name="class-curves")] = False
  seed: int = 0

  def __post_init__(self) -> None:
    if not self.run_dirs:
      raise ValueError("RUN_DIR must name at least one run, got none.")
    for threshold in self.thresholds:
      validation.check_threshold(threshold, "--thresholds")
    if not 0 < self.fraction <= 1:
      raise ValueError(f"--fraction must be above 0 and at most 1, got {self.fraction}.")
    if self.seed < 0:
      raise ValueError(f"--seed must not be negative, got {self.seed}.")
    if self.labels and len(self.labels) != len(self.run_dirs):
      raise ValueError(
        f"--labels must name each run, got {len(self.labels)} labels for {len(self.run_dirs)} runs; put them in quotes "
        "where they hold spaces."
      )
    twice = find_twice(self.labels)
    if twice is not None:
      raise ValueError(f"--labels must tell the runs apart, got {twice!r} more than once.")

  @property
  def command(self) -> str:
    return command_line("analyse", self)


def find_twice(texts: Sequence[str]) -> str | None:
  """The first text that repeats an earlier one."""
  return next((text for place, text in enumerate(texts) if text in texts[:place]), None)
