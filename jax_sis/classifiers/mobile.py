"""Networks of inverted residual blocks: EfficientNet-Lite (Tan and Le 2019; TensorFlow's lite builder).

A block widens its channels by a 1x1 convolution, filters each by itself, and narrows them again without a rectifier
(Sandler et al. 2018).
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jax_sis.classifiers.conv import Padding
from jax_sis.classifiers.layers import ConvNet, ConvNorm

Activation = Literal["relu6"]


def relu6(inputs: Float[Array, "..."]) -> Float[Array, "..."]:
  """The rectifier that ends at six; as in PyTorch its gradient at 0 is 0."""
  return jnp.minimum(jax.nn.relu(inputs), 6.0)


ACTIVATIONS = {"relu6": relu6}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockConfig:
  """One inverted residual block.

  Attributes:
    width: channels that it gives.
    hidden: channels in its middle; as many as it gets for no 1x1 convolution before.
    kernel_size: of the depthwise convolution, which carries the stride.
  """

  width: int
  hidden: int
  kernel_size: int = 3
  stride: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class MobileConfig:
  """A network of inverted residual blocks.

  Attributes:
    stem: channels of the first convolution, 3x3 of stride 2.
    stages: the blocks, by stages as timm counts them.
    last: channels of the 1x1 convolution behind the blocks.
    activation: of the stem, the blocks and the last convolution.
    padding: `same` is TensorFlow's, `half` as much on both sides.
    epsilon: of all batch norms.
    num_classes: K.
  """

  stem: int
  stages: tuple[tuple[BlockConfig, ...], ...]
  last: int = 1280
  activation: Activation
  padding: Literal["same", "half"]
  epsilon: float
  num_classes: int = 1000


# A stage of EfficientNet-B0: blocks, kernel size, stride, how much wider the middle is, channels.
EFFICIENTNET_STAGES = (
  (1, 3, 1, 1, 16),
  (2, 3, 2, 6, 24),
  (2, 5, 2, 6, 40),
  (3, 3, 2, 6, 80),
  (3, 5, 1, 6, 112),
  (4, 5, 2, 6, 192),
  (1, 3, 1, 6, 320),
)


def scale_efficientnet_lite(*, width: float, depth: float) -> MobileConfig:
  """EfficientNet-Lite, `width` times as wide and `depth` times as deep as the smallest; both ends keep their size."""
  stages: list[tuple[BlockConfig, ...]] = []
  in_width = stem = 32
  for number, (num_blocks, kernel_size, stride, expansion, base_width) in enumerate(EFFICIENTNET_STAGES):
    is_end = number in (0, len(EFFICIENTNET_STAGES) - 1)
    blocks: list[BlockConfig] = []
    for index in range(num_blocks if is_end else math.ceil(depth * num_blocks)):
      blocks.append(
        BlockConfig(
          width=round_width(width * base_width),
          hidden=expansion * in_width,
          kernel_size=kernel_size,
          stride=stride if index == 0 else 1,
        )
      )
      in_width = blocks[-1].width
    stages.append(tuple(blocks))
  return MobileConfig(stem=stem, stages=tuple(stages), activation="relu6", padding="same", epsilon=1e-3)


def round_width(width: float) -> int:
  """The nearest multiple of eight that is not under 90 % of a number of channels."""
  rounded = max(8, int(width + 4) // 8 * 8)
  return rounded if rounded >= 0.9 * width else rounded + 8


class InvertedBlock(nnx.Module):
  """1x1, depthwise and 1x1 convolutions with batch norm, and a shortcut around them where shapes allow it."""

  def __init__(self, in_width: int, block: BlockConfig, config: MobileConfig, *, rngs: nnx.Rngs):
    self.activation = config.activation
    self.is_residual = block.stride == 1 and in_width == block.width
    self.expand = nnx.data(
      None if block.hidden == in_width else ConvNorm(in_width, block.hidden, 1, epsilon=config.epsilon, rngs=rngs)
    )
    self.depthwise = ConvNorm(
      block.hidden,
      block.hidden,
      block.kernel_size,
      stride=block.stride,
      padding=find_padding(config, block.kernel_size),
      groups=block.hidden,
      epsilon=config.epsilon,
      rngs=rngs,
    )
    self.project = ConvNorm(block.hidden, block.width, 1, epsilon=config.epsilon, rngs=rngs)

  def __call__(self, inputs: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
    activate = ACTIVATIONS[self.activation]
    hidden = inputs if self.expand is None else activate(self.expand(inputs))
    hidden = self.project(activate(self.depthwise(hidden)))
    return hidden + inputs if self.is_residual else hidden


def find_padding(config: MobileConfig, kernel_size: int) -> Padding | Literal["same"]:
  return "same" if config.padding == "same" else kernel_size // 2


class MobileNet(ConvNet):
  """Normalised images `[B, H, W, 3]` -> logits `[B, K]`."""

  def __init__(self, config: MobileConfig, *, rngs: nnx.Rngs):
    self.config = config
    self.stem = ConvNorm(
      3, config.stem, 3, stride=2, padding=find_padding(config, 3), epsilon=config.epsilon, rngs=rngs
    )
    width = config.stem
    stages: list[nnx.List] = []
    for stage in config.stages:
      blocks: list[InvertedBlock] = []
      for block in stage:
        blocks.append(InvertedBlock(width, block, config, rngs=rngs))
        width = block.width
      stages.append(nnx.List(blocks))
    self.stages = nnx.List(stages)
    self.last = ConvNorm(width, config.last, 1, epsilon=config.epsilon, rngs=rngs)
    self.head = nnx.Linear(config.last, config.num_classes, rngs=rngs)

  def features(self, inputs: Float[Array, "B H W 3"]) -> Float[Array, "B h w D"]:
    """The output of the last convolution, rectified."""
    activate = ACTIVATIONS[self.config.activation]
    hidden = activate(self.stem(inputs))
    for stage in self.stages:
      for block in stage:
        hidden = block(hidden)
    return activate(self.last(hidden))


EFFICIENTNET_LITE = {
  f"efficientnet_lite{number}": scale_efficientnet_lite(width=width, depth=depth)
  for number, (width, depth) in enumerate(((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8)))
}
