"""Residual networks (He et al. 2016): small ones for 32x32 images, and those for ImageNet."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jax_sis.classifiers.layers import ConvNet, ConvNorm, max_pool


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetConfig:
  """Depth, width and kind of a residual network.

  Attributes:
    blocks: blocks in each stage; every stage but the first halves the resolution.
    widths: channels of each stage's 3x3 convolutions.
    stem: `small` is a 3x3 convolution, for 32x32 images; `large` is a 7x7 one, then 3x3 pooling, both of stride 2.
    bottleneck: blocks of 1x1, 3x3 (which carries the stride) and 1x1 convolutions instead of two 3x3 ones.
    projection: 1x1 convolutions (option B) where a shortcut's shape changes, instead of subsampling and zero channels
      (option A).
    num_classes: K.

  Examples:
    >>> from jax_sis import classifiers
    >>> config = classifiers.ResNetConfig(blocks=(3, 3, 3), widths=(16, 32, 64))
    >>> config == classifiers.architecture("resnet20")
    True
  """

  blocks: tuple[int, ...]
  widths: tuple[int, ...]
  stem: Literal["small", "large"] = "small"
  bottleneck: bool = False
  projection: bool = False
  num_classes: int = 10


def subsample_and_pad(inputs: Float[Array, "B H W C"], stride: int, width: int) -> Float[Array, "B h w D"]:
  """Option-A shortcut: every `stride`-th pixel, the new channels zero, half of them on each side."""
  outputs = inputs[:, ::stride, ::stride]
  missing = width - inputs.shape[-1]
  if missing:
    before = missing // 2
    outputs = jnp.pad(outputs, ((0, 0), (0, 0), (0, 0), (before, missing - before)))
  return outputs


class Block(nnx.Module):
  """Two or three convolutions with batch norm, and a shortcut around them."""

  def __init__(self, in_width: int, width: int, stride: int, config: ResNetConfig, *, rngs: nnx.Rngs):
    out_width = 4 * width if config.bottleneck else width
    self.stride = stride
    self.out_width = out_width
    if config.bottleneck:
      convs = [
        ConvNorm(in_width, width, 1, rngs=rngs),
        ConvNorm(width, width, 3, stride=stride, padding=1, rngs=rngs),
        ConvNorm(width, out_width, 1, rngs=rngs),
      ]
    else:
      convs = [
        ConvNorm(in_width, width, 3, stride=stride, padding=1, rngs=rngs),
        ConvNorm(width, width, 3, padding=1, rngs=rngs),
      ]
    self.convs = nnx.List(convs)
    changes = stride != 1 or in_width != out_width
    self.shortcut = nnx.data(
      ConvNorm(in_width, out_width, 1, stride=stride, rngs=rngs) if changes and config.projection else None
    )

  def __call__(self, inputs: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
    hidden = inputs
    for conv in self.convs[:-1]:
      hidden = jax.nn.relu(conv(hidden))
    hidden = self.convs[-1](hidden)
    if self.shortcut is not None:
      return jax.nn.relu(hidden + self.shortcut(inputs))
    return jax.nn.relu(hidden + subsample_and_pad(inputs, self.stride, self.out_width))


class ResNet(ConvNet):
  """Normalised images `[B, H, W, 3]` -> logits `[B, K]` (He et al. 2016).

  `train()` and `eval()` switch batch norm between batch and running statistics.

  Args:
    config: its depth, width and kind.
    rngs: for the initial weights.

  Examples:
    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from jax_sis import classifiers
    >>> config = classifiers.ResNetConfig(blocks=(1,), widths=(4,), num_classes=3)
    >>> module = classifiers.ResNet(config, rngs=nnx.Rngs(0))
    >>> module(jnp.ones((1, 8, 8, 3))).shape, module.features(jnp.ones((1, 8, 8, 3))).shape
    ((1, 3), (1, 8, 8, 4))
  """

  def __init__(self, config: ResNetConfig, *, rngs: nnx.Rngs):
    self.config = config
    width = config.widths[0]
    if config.stem == "small":
      self.stem = ConvNorm(3, width, 3, padding=1, rngs=rngs)
    else:
      self.stem = ConvNorm(3, width, 7, stride=2, padding=3, rngs=rngs)
    stages: list[nnx.List] = []
    for stage, (num_blocks, stage_width) in enumerate(zip(config.blocks, config.widths, strict=True)):
      blocks: list[Block] = []
      for index in range(num_blocks):
        stride = 2 if stage > 0 and index == 0 else 1
        blocks.append(Block(width, stage_width, stride, config, rngs=rngs))
        width = blocks[-1].out_width
      stages.append(nnx.List(blocks))
    self.stages = nnx.List(stages)
    self.head = nnx.Linear(width, config.num_classes, rngs=rngs)

  def features(self, inputs: Float[Array, "B H W 3"]) -> Float[Array, "B h w D"]:
    """The output of the last block."""
    hidden = jax.nn.relu(self.stem(inputs))
    if self.config.stem == "large":
      hidden = max_pool(hidden, 3, stride=2, padding=1)
    for stage in self.stages:
      for block in stage:
        hidden = block(hidden)
    return hidden
