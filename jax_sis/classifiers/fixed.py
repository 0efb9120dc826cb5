"""A classifier from whose logits components of its features are taken away that a person called spurious (SpuFix)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixConfig:
  """Which components are taken away.

  Attributes:
    base: the architecture of the classifier that is fixed, a key of ARCHITECTURES.
    num_features: E, how many numbers its logits are a linear function of.
    classes: for each component, the number of its class.
    components: for each, its number in that class, from 1, as `jax-sis components` shows it.

  Examples:
    Of a ResNet-20, whose logits are a linear function of 64 numbers, the first component of class 3:

    >>> from jax_sis import classifiers
    >>> config = classifiers.FixConfig(base="resnet20", num_features=64, classes=(3,), components=(1,))
    >>> config.model_name
    'resnet20, 1 component(s) removed'
  """

  base: str
  num_features: int
  classes: tuple[int, ...]
  components: tuple[int, ...]

  def __post_init__(self) -> None:
    if not self.classes or len(self.classes) != len(self.components):
      raise ValueError(
        f"components must be at least one, each with its class, got {self.components} of the classes {self.classes}."
      )

  @property
  def model_name(self) -> str:
    """What the fixed classifier is called."""
    return f"{self.base}, {len(self.components)} component(s) removed"


class Fixed(nnx.Module):
  """Normalised images `[B, H, W, C]` -> logits `[B, K]`, each less the positive part of its class's removed components.

  A component is `features @ direction - offset`, in units of its class's logit (Neuhaus et al. 2023, SpuFix).

  Args:
    base: a classifier with `penultimate` and `read_out`.
    config: which components of which classes.

  Examples:
    A component that is 1 on all images is taken away from the logit of its class:

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from jax_sis import classifiers
    >>> sizes = classifiers.VggConfig(widths=((4,),), num_classes=3)
    >>> base, images = classifiers.Vgg(sizes, rngs=nnx.Rngs(0)), jnp.ones((1, 2, 2, 3))
    >>> config = classifiers.FixConfig(base="vgg16", num_features=4, classes=(1,), components=(1,))
    >>> fixed = classifiers.Fixed(base, config)
    >>> fixed.offsets[...] = jnp.array([-1.0])
    >>> (base(images) - fixed(images)).round(4).tolist()
    [[0.0, 1.0, 0.0]]
  """

  def __init__(self, base: Any, config: FixConfig):
    self.base = base
    self.config = config
    num_removed = len(config.components)
    self.directions = nnx.Param(jnp.zeros((num_removed, config.num_features)))
    self.offsets = nnx.Param(jnp.zeros(num_removed))

  @property
  def takes_presence(self) -> bool:
    """Whether the base can be told which pixels are there."""
    return getattr(self.base, "takes_presence", False)

  def __call__(self, inputs: Float[Array, "B H W C"], *present: Float[Array, "B H W"]) -> Float[Array, "B K"]:
    return self.fix(self.base.penultimate(inputs, *present))

  def features(self, inputs: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
    """The last feature maps of a base of convolutions."""
    return self.base.features(inputs)

  def classify(self, features: Float[Array, "B h w D"]) -> Float[Array, "B K"]:
    """Logits from these."""
    return self.fix(self.base.pool(features))

  def fix(self, penultimate: Float[Array, "B E"]) -> Float[Array, "B K"]:
    """The fixed logits, from the numbers that those of the base are a linear function of."""
    logits = self.base.read_out(penultimate)
    return take_away(logits, penultimate, self.directions[...], self.offsets[...], self.config.classes)

  def penultimate(self, inputs: Float[Array, "B H W C"]) -> Float[Array, "B E"]:
    """Raises ValueError."""
    raise ValueError(
      "components were removed from it, so that its logits are no linear function of features; ask its base."
    )


def take_away(
  logits: Float[Array, "B K"],
  features: Float[Array, "B E"],
  directions: Float[Array, "R E"],
  offsets: Float[Array, "R"],
  classes: tuple[int, ...],
) -> Float[Array, "B K"]:
  """Logits less the positive part of each component in its class."""
  excess = jax.nn.relu(features @ directions.T - offsets[None])
  is_of_class = np.arange(logits.shape[1]) == np.array(classes)[:, None]
  return logits - excess @ is_of_class.astype(np.float32)
