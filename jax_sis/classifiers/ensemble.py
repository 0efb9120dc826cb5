"""An ensemble: several classifiers of the same classes, whose answers are averaged."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

Average = Literal["logits", "probabilities"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnsembleConfig:
  """What an ensemble is made of.

  Attributes:
    members: the members' architectures, keys of ARCHITECTURES.
    average: what is averaged; with `probabilities`, the softmax of the ensemble's logits is the mean of the members'.

  Examples:
    >>> from jax_sis import classifiers
    >>> classifiers.EnsembleConfig(members=("resnet20", "vgg16"), average="logits").members
    ('resnet20', 'vgg16')
  """

  members: tuple[str, ...]
  average: Average = "probabilities"

  def __post_init__(self) -> None:
    if not self.members:
      raise ValueError("members must hold at least one classifier, got none.")
    if self.average not in ("logits", "probabilities"):
      raise ValueError(f"average must be 'logits' or 'probabilities', got {self.average!r}.")


class Ensemble(nnx.Module):
  """Normalised images `[B, H, W, C]` -> logits `[B, K]`; all members see the same input.

  Args:
    members: classifiers with the same input and classes.
    config: their architectures, and what is averaged.

  Examples:
    The members' mean probabilities, which add up to 1:

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from jax_sis import classifiers
    >>> members = [nnx.Linear(4, 3, rngs=nnx.Rngs(seed)) for seed in range(2)]
    >>> ensemble = classifiers.Ensemble(members, classifiers.EnsembleConfig(members=("first", "second")))
    >>> round(float(jnp.exp(ensemble(jnp.ones((1, 4)))).sum()), 4)
    1.0
  """

  def __init__(self, members: Sequence[nnx.Module], config: EnsembleConfig):
    self.config = config
    self.members = nnx.List(members)

  @property
  def takes_presence(self) -> bool:
    """Whether all members can be told which pixels are there."""
    return all(getattr(member, "takes_presence", False) for member in self.members)

  def __call__(self, inputs: Float[Array, "B H W C"], *present: Float[Array, "B H W"]) -> Float[Array, "B K"]:
    """The mean logits, or the logarithm of the mean probabilities."""
    logits = jnp.stack([member(inputs, *present) for member in self.members])
    if self.config.average == "logits":
      return logits.mean(0)
    # By logarithms, so that no small probability is rounded to zero.
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - math.log(len(self.members))

  def penultimate(self, inputs: Float[Array, "B H W C"]) -> Float[Array, "B E"]:
    """Raises ValueError."""
    raise ValueError("the members of an ensemble have features of their own; ask each of them.")
