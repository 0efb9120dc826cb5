"""Wide residual networks (Zagoruyko and Komodakis 2016), whose norms precede the convolutions."""

import dataclasses

import jax
from flax import nnx
from jaxtyping import Array, Float

from jax_sis.classifiers.layers import ConvNet, ConvNorm, PreNorm


@dataclasses.dataclass(frozen=True, kw_only=True)
class WideResNetConfig:
  """Depth and width of a wide residual network.

  Attributes:
    blocks_per_stage: blocks in each of three stages: there are `6 * blocks_per_stage + 4` layers.
    factor: how many times as wide as the CIFAR ResNet it is.
    num_classes: K.

  Examples:
    >>> from jax_sis import classifiers
    >>> config = classifiers.architecture("wrn28_10")
    >>> 6 * config.blocks_per_stage + 4, config.factor
    (28, 10)
  """

  blocks_per_stage: int = 4
  factor: int = 10
  num_classes: int = 10


class PreActivationBlock(nnx.Module):
  """Norm, rectifier and convolution, twice; the shortcut starts before the norm, or after it if it is a convolution."""

  def __init__(self, in_width: int, width: int, stride: int, *, rngs: nnx.Rngs):
    self.norm = PreNorm(in_width, rngs=rngs)
    # The norm in the middle follows a convolution and can be folded into it.
    self.conv1 = ConvNorm(in_width, width, 3, stride=stride, padding=1, rngs=rngs)
    self.conv2 = ConvNorm(width, width, 3, padding=1, has_norm=False, rngs=rngs)
    self.shortcut = nnx.data(
      ConvNorm(in_width, width, 1, stride=stride, has_norm=False, rngs=rngs) if in_width != width else None
    )

  def __call__(self, inputs: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
    hidden = jax.nn.relu(self.norm(inputs))
    shortcut = inputs if self.shortcut is None else self.shortcut(hidden)
    return self.conv2(jax.nn.relu(self.conv1(hidden))) + shortcut


class WideResNet(ConvNet):
  """Normalised images `[B, H, W, 3]` -> logits `[B, K]` (Zagoruyko and Komodakis 2016).

  Args:
    config: its depth and width.
    rngs: for the initial weights.

  Examples:
    In shapes alone, which takes a moment, with its number of parameters:

    >>> import jax
    >>> from flax import nnx
    >>> from jax_sis import classifiers
    >>> module = classifiers.build_abstract("wrn28_10", num_classes=10)
    >>> isinstance(module, classifiers.WideResNet)
    True
    >>> sum(one.size for one in jax.tree.leaves(nnx.state(module, nnx.Param)))
    36479194
  """

  def __init__(self, config: WideResNetConfig, *, rngs: nnx.Rngs):
    self.config = config
    width = 16
    self.stem = ConvNorm(3, width, 3, padding=1, has_norm=False, rngs=rngs)
    stages: list[nnx.List] = []
    for stage in range(3):
      blocks: list[PreActivationBlock] = []
      for index in range(config.blocks_per_stage):
        out_width = 16 * 2**stage * config.factor
        blocks.append(PreActivationBlock(width, out_width, 2 if stage > 0 and index == 0 else 1, rngs=rngs))
        width = out_width
      stages.append(nnx.List(blocks))
    self.stages = nnx.List(stages)
    self.norm = PreNorm(width, rngs=rngs)
    self.head = nnx.Linear(width, config.num_classes, rngs=rngs)

  def features(self, inputs: Float[Array, "B H W 3"]) -> Float[Array, "B h w D"]:
    """The output of the last block, normalised and rectified."""
    hidden = self.stem(inputs)
    for stage in self.stages:
      for block in stage:
        hidden = block(hidden)
    return jax.nn.relu(self.norm(hidden))
