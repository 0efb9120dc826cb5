"""`find --completion`: what masked pixels show where that is more than one colour, and how sure certificates are."""

import dataclasses
from typing import Annotated, Any, Literal, Self, get_args

import numpy as np
from jaxtyping import Array, Float

from jax_sis.core.completions import Blur, Constant, Distribution, Images, Mixture, Noise, Reveal
from jax_sis.core.guarantees import Claim
from jax_sis.core.validation import require_one_of, require_positive
from jax_sis.runtime.command_line import Option

CompletionName = Literal["images", "noise", "blur", "reveal", "mixture"]
# Those that other images are drawn from.
OF_POOLS = ("images", "mixture")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompletionSettings:
  """What masked pixels show, and what is claimed of the subsets that suffice under it.

  Attributes:
    kind: masked pixels show draws in place of --baseline. images: other images, of --pool; noise: normal noise of the
      data's deviation; blur: the image itself, blurred by 1 to 8 pixels; reveal: the mean colour and up to a tenth of
      the masked pixels as they are; mixture: images, noise, blur or the mean colour. Pixels are ranked by the
      geometric mean of the probabilities over the draws, and confidences are the mean. The order is certified on draws
      that it was not found by, in place of --certificate, and there is no smallest evidence.
    pool: for images and mixture, other images: whatever --data takes. Half of them are for the search, half
      for its certificates.
    pool_split: the TFDS split of --pool.
    num_pooled: images of the pool that are taken, at most.
    num_draws: draws at each step of the search, fresh ones at each.
    num_tried: of those, how many each candidate of a screened or exact search is tried on (default: all).
    rate: the share of unseen draws on which a robust subset must keep the class.
    level: how sure that must be, of each image by itself.
    num_tested: unseen draws by which each size is tested.
    seed: of the draws, and of which images of the pool are taken for what.
  """

  kind: Annotated[CompletionName | None, Option(name="completion")] = None
  pool: Annotated[str | None, Option(metavar="DATA")] = None
  pool_split: str | None = None
  num_pooled: Annotated[int, Option(name="pool-images")] = 4096
  num_draws: Annotated[int, Option(name="draws")] = 32
  num_tried: Annotated[int | None, Option(name="draws-tried")] = None
  rate: float = 0.9
  level: float = 0.95
  num_tested: Annotated[int, Option(name="certify-draws")] = 500
  seed: int = 0

  def __post_init__(self) -> None:
    if self.kind is None:
      given = [name for name, value in vars(self).items() if value != getattr(type(self), name)]
      if given:
        raise ValueError(f"{name_option(given[0])} must come with --completion, which is left out.")
      return
    require_one_of("--completion", self.kind, get_args(CompletionName))
    self._check_pool()
    for name in ("num_draws", "num_tested", "num_pooled"):
      require_positive(name_option(name), getattr(self, name))
    if self.num_tried is not None and not 0 < self.num_tried <= self.num_draws:
      raise ValueError(f"--draws-tried must be 1 to --draws, {self.num_draws}, got {self.num_tried}.")
    try:
      _ = self.claim
    except ValueError as error:
      raise ValueError(
        f"--rate, --level and --certify-draws must make a claim that draws can bear out: {error}"
      ) from error
    if not 0 <= self.seed < 2**31:
      raise ValueError(f"--seed must lie in 0..2**31 - 1, got {self.seed}.")

  def _check_pool(self) -> None:
    if self.kind in OF_POOLS and self.pool is None:
      raise ValueError(
        f"--completion {self.kind} must come with --pool, the images that masked pixels show; without others at hand, "
        "take --completion noise or blur."
      )
    if self.kind not in OF_POOLS and (self.pool is not None or self.pool_split is not None):
      raise ValueError(f"--pool is for --completion {' and '.join(OF_POOLS)}, got it with {self.kind}; leave it out.")

  @property
  def claim(self) -> Claim:
    """What is to be certified of robust subsets."""
    return Claim(rate=self.rate, level=self.level, num_draws=self.num_tested)

  def make(self) -> dict[str, Any]:
    """The field of the settings of a run."""
    return {"completion": None if self.kind is None else self}

  @classmethod
  def of(cls, settings: Any) -> Self:
    """The options of settings that have a `completion`."""
    return settings.completion or cls()

  def distribution(self, pool: Float[Array | np.ndarray, "P H W C"] | None) -> Distribution:
    """The completion with this part of the pool."""
    draws: dict[str, Any] = {"num_draws": self.num_draws, "num_tried": self.num_tried}
    if self.kind == "images":
      return Images(pool=pool, **draws)
    if self.kind == "noise":
      return Noise(**draws)
    if self.kind == "blur":
      return Blur(**draws)
    if self.kind == "reveal":
      return Reveal(**draws)
    return Mixture(parts=(Images(pool=pool, **draws), Noise(), Blur(), Constant()), **draws)

  def __str__(self) -> str:
    of_pool = "" if self.pool is None else f" of {self.pool}{f' {self.pool_split}' if self.pool_split else ''}"
    return f"{self.kind}{of_pool}, {self.num_draws} draws a step"


def name_option(field: str) -> str:
  """What a setting is called on the command line."""
  hint = CompletionSettings.__annotations__[field]
  option = next((note for note in getattr(hint, "__metadata__", ()) if isinstance(note, Option)), Option())
  return f"--{option.name or field.replace('_', '-')}"
