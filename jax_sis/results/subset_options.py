"""The options on which pixels of each image a classifier is shown."""

import dataclasses
from typing import Annotated, Any, Literal, Self

from jax_sis.core import validation
from jax_sis.results.query import PixelSubset
from jax_sis.runtime.command_line import Option


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubsetOptions:
  """A PixelSubset as options; none of them shows all pixels.

  Attributes:
    subset: those of a run of find on these images: its folder, or a file that export --to FILE.npz --masks NAME wrote.
    subset_fraction: of that run, this share of the pixels, the most needed ones.
    subset_threshold: of that run, the subset that reaches this confidence (default: the run's).
    subset_answer: of that run, the subset read from the order of all pixels, the smallest evidence found, or the robust
      one (default: sis).
    random_fraction: instead of --subset, this share of the pixels at random.
    subset_seed: fixes, with an image's id, which random ones these are (default: 0).
    fill: what the other pixels show, in normalised units, also if the run masked with another value (default: 0, the
      data's mean colour, and then the run must have used it, too).
  """

  subset: Annotated[str | None, Option(metavar="RUN")] = None
  subset_fraction: float | None = None
  subset_threshold: float | None = None
  subset_answer: Literal["sis", "smallest", "robust", "optimum"] | None = None
  random_fraction: float | None = None
  subset_seed: int | None = None
  fill: float | None = None

  def __post_init__(self) -> None:
    given = [name for name in ("fraction", "threshold", "answer") if getattr(self, f"subset_{name}") is not None]
    if self.subset is not None and self.random_fraction is not None:
      raise ValueError("--subset and --random-fraction must not both be given; each says which pixels are shown.")
    if given and self.subset is None:
      raise ValueError(f"--subset-{given[0]} must come with --subset RUN.")
    if self.subset_seed is not None and self.random_fraction is None:
      raise ValueError("--subset-seed must come with --random-fraction.")
    if self.fill is not None and self.subset is None and self.random_fraction is None:
      raise ValueError("--fill must come with --subset or --random-fraction.")
    for name in ("subset_fraction", "random_fraction"):
      fraction = getattr(self, name)
      if fraction is not None and not 0 < fraction <= 1:
        raise ValueError(f"--{name.replace('_', '-')} must be above 0 and at most 1, got {fraction}.")
    if self.subset_threshold is not None:
      validation.check_threshold(self.subset_threshold, "--subset-threshold")

  def make(self) -> dict[str, Any]:
    """The setting that they are; None shows all pixels."""
    given: dict[str, Any] = {} if self.fill is None else {"fill": self.fill}
    if self.random_fraction is not None:
      subset = PixelSubset(random_seed=self.subset_seed or 0, fraction=self.random_fraction, **given)
    elif self.subset is not None:
      given |= {} if self.subset_answer is None else {"answer": self.subset_answer}
      subset = PixelSubset(
        run=self.subset,
        fraction=self.subset_fraction,
        threshold=self.subset_threshold,
        allows_other_baseline=self.fill is not None,
        **given,
      )
    else:
      subset = None
    return {"subset": subset}

  @classmethod
  def of(cls, settings: Any) -> Self:
    """The options of settings that have a `subset`; ValueError if no options say this."""
    subset: PixelSubset | None = settings.subset
    if subset is None:
      options = cls()
    elif subset.run is None:
      options = cls(random_fraction=subset.fraction, subset_seed=subset.random_seed, fill=subset.fill)
    else:
      options = cls(
        subset=subset.run,
        subset_fraction=subset.fraction,
        subset_threshold=subset.threshold,
        subset_answer=subset.answer,
        fill=subset.fill if subset.allows_other_baseline else None,
      )
    if options.make()["subset"] != subset:
      raise ValueError(f"the command line has no options for {subset}.")
    return options
