"""What the stages of a study are called."""

import dataclasses

FULL = "all pixels"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Names:
  """Stages of one architecture, a key of `classifiers.ARCHITECTURES`."""

  architecture: str

  def full(self, seed: int) -> str:
    """Trained on whole images."""
    return f"{self.architecture}-full-{seed}"

  @property
  def subsets(self) -> str:
    """Trained on the most needed pixels."""
    return f"{self.architecture}-subsets"

  @property
  def random(self) -> str:
    return f"{self.architecture}-random"

  @property
  def dropout(self) -> str:
    return f"{self.architecture}-dropout"

  @property
  def adversarial(self) -> str:
    return f"{self.architecture}-adversarial"

  @property
  def ensemble(self) -> str:
    """The mean of those trained on whole images."""
    return f"{self.architecture}-ensemble"

  def orders(self, split: str) -> str:
    """The backward search of a split."""
    return f"{self.architecture}-orders-{split}"
