"""ConvNeXt (Liu et al. 2022)."""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jax_sis.classifiers.layers import ConvNet, ConvNorm
from jax_sis.classifiers.transformer_layers import LayerNorm, Mlp, PatchConv, make_linear

INITIAL_LAYER_SCALE = 1e-6
STEM_PATCH = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvNextConfig:
  """Depth and width of a ConvNeXt.

  Attributes:
    blocks: blocks in each stage; every stage but the first halves the resolution.
    widths: channels of each stage.
    num_classes: K.

  Examples:
    >>> from jax_sis import classifiers
    >>> tiny = classifiers.ConvNextConfig(blocks=(3, 3, 9, 3), widths=(96, 192, 384, 768))
    >>> tiny == classifiers.architecture("convnext_t")
    True
  """

  blocks: tuple[int, ...]
  widths: tuple[int, ...]
  num_classes: int = 1000


class ConvNextBlock(nnx.Module):
  """A depthwise convolution, layer norm and two linear layers, scaled by channel, and a shortcut around them."""

  def __init__(self, width: int, *, rngs: nnx.Rngs):
    self.depthwise = ConvNorm(width, width, 7, padding=3, groups=width, has_bias=True, has_norm=False, rngs=rngs)
    self.pre_norm = LayerNorm(width)
    self.mlp = Mlp(width, 4 * width, rngs=rngs)
    self.layer_scale = nnx.Param(jnp.full(width, INITIAL_LAYER_SCALE))

  def __call__(self, inputs: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    return inputs + self.layer_scale[...] * self.mlp(self.pre_norm(self.depthwise(inputs)))


class Downsampling(nnx.Module):
  """Layer norm and a 2x2 convolution of stride 2."""

  def __init__(self, in_width: int, width: int, *, rngs: nnx.Rngs):
    self.pre_norm = LayerNorm(in_width)
    self.conv = PatchConv(in_width, width, 2, rngs=rngs)

  def __call__(self, inputs: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
    return self.conv(self.pre_norm(inputs))


class ConvNext(ConvNet):
  """Normalised images `[B, H, W, 3]`, H and W at least 32 with four stages, -> logits `[B, K]` (Liu et al. 2022).

  Args:
    config: its depth and width.
    rngs: for the initial weights.

  Examples:
    In shapes alone, which takes a moment, with its number of parameters:

    >>> import jax
    >>> from flax import nnx
    >>> from jax_sis import classifiers
    >>> module = classifiers.build_abstract("convnext_t", num_classes=1000)
    >>> isinstance(module, classifiers.ConvNext)
    True
    >>> sum(one.size for one in jax.tree.leaves(nnx.state(module, nnx.Param)))
    28589128
  """

  def __init__(self, config: ConvNextConfig, *, rngs: nnx.Rngs):
    self.config = config
    width = config.widths[0]
    self.stem = PatchConv(3, width, STEM_PATCH, rngs=rngs)
    self.stem_norm = LayerNorm(width)
    downsamplings: list[Downsampling] = []
    stages: list[nnx.List] = []
    for stage, (num_blocks, stage_width) in enumerate(zip(config.blocks, config.widths, strict=True)):
      if stage:
        downsamplings.append(Downsampling(width, stage_width, rngs=rngs))
      width = stage_width
      stages.append(nnx.List([ConvNextBlock(width, rngs=rngs) for _ in range(num_blocks)]))
    self.downsamplings = nnx.List(downsamplings)
    self.stages = nnx.List(stages)
    self.head_norm = LayerNorm(width)
    self.head = make_linear(width, config.num_classes, rngs)

  def features(self, inputs: Float[Array, "B H W 3"]) -> Float[Array, "B h w D"]:
    """The output of the last block, which no rectifier follows."""
    hidden = self.stem_norm(self.stem(inputs))
    for stage, blocks in enumerate(self.stages):
      if stage:
        hidden = self.downsamplings[stage - 1](hidden)
      for block in blocks:
        hidden = block(hidden)
    return hidden

  def pool(self, features: Float[Array, "B h w D"]) -> Float[Array, "B D"]:
    return self.head_norm(features.mean((1, 2)))
