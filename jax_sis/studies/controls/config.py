"""Settings of `jax-sis controls`."""

import dataclasses
from typing import Annotated

from jax_sis.core.validation import require_positive
from jax_sis.data.config import ModelFunction, OptionalFolder, RunFolder
from jax_sis.runtime.command_line import Option, command_line


@dataclasses.dataclass(frozen=True, kw_only=True)
class ControlsConfig:
  """One run of `jax-sis controls`.

  Attributes:
    run_dir: the run's folder, or the URL of one in a bucket; it gets the files.
    limit: of each kind of subset, only the first N images that have one.
    num_wrong_class: images on which evidence of other classes is looked for, the first ones; 0 leaves it out.
    max_features: the size at which that is given up.
    mask_fractions: also the subsets of these shares of the pixels, the most needed ones, such as 0.05.
    seed: of all that is drawn at random.
    checkpoint: the classifier's folder (default: where the run had it).
    model_function: the function that makes the classifier, file.py:function where the file has moved.
    data_dir: the TFDS folder (default: where the run had it).
  """

  run_dir: RunFolder
  limit: int = 500
  num_wrong_class: Annotated[int, Option(name="wrong-class")] = 64
  max_features: int = 64
  mask_fractions: Annotated[tuple[float, ...], Option(name="mask-fraction")] = ()
  seed: int = 0
  checkpoint: OptionalFolder = None
  model_function: ModelFunction = None
  data_dir: OptionalFolder = None

  def __post_init__(self) -> None:
    require_positive("--limit", self.limit)
    require_positive("--max-features", self.max_features)
    for name, value in (("--wrong-class", self.num_wrong_class), ("--seed", self.seed)):
      if value < 0:
        raise ValueError(f"{name} must not be negative, got {value}.")
    for fraction in self.mask_fractions:
      if not 0 < fraction <= 1:
        raise ValueError(f"--mask-fraction must be above 0 and at most 1, got {fraction}.")
    if len(set(self.mask_fractions)) < len(self.mask_fractions):
      raise ValueError(f"--mask-fraction must name each share once, got {list(self.mask_fractions)}.")

  @property
  def command(self) -> str:
    return command_line("controls", self)
