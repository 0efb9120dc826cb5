"""VGG with batch norm (Simonyan and Zisserman 2015) for 32x32 images, with one linear layer after the convolutions."""

import dataclasses

import jax
from flax import nnx
from jaxtyping import Array, Float

from jax_sis.classifiers.layers import ConvNet, ConvNorm, max_pool


@dataclasses.dataclass(frozen=True, kw_only=True)
class VggConfig:
  """Width of a VGG.

  Attributes:
    widths: channels of the 3x3 convolutions, stage by stage; each stage ends with halving the resolution.
    num_classes: K.

  Examples:
    The thirteen convolutions of VGG-16:

    >>> from jax_sis import classifiers
    >>> config = classifiers.VggConfig(widths=((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3))
    >>> config == classifiers.architecture("vgg16"), sum(len(stage) for stage in config.widths)
    (True, 13)
  """

  widths: tuple[tuple[int, ...], ...]
  num_classes: int = 10


class Vgg(ConvNet):
  """Normalised images `[B, H, W, 3]`, H and W multiples of 2 to the number of stages, -> logits `[B, K]`.

  The feature maps that are left (one pixel for 32x32 images) are averaged (after Simonyan and Zisserman 2015).

  Args:
    config: its width.
    rngs: for the initial weights.

  Examples:
    Each stage halves the resolution:

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from jax_sis import classifiers
    >>> module = classifiers.Vgg(classifiers.VggConfig(widths=((4,), (8,)), num_classes=3), rngs=nnx.Rngs(0))
    >>> module(jnp.ones((1, 8, 8, 3))).shape, module.features(jnp.ones((1, 8, 8, 3))).shape
    ((1, 3), (1, 4, 4, 8))
  """

  def __init__(self, config: VggConfig, *, rngs: nnx.Rngs):
    self.config = config
    width = 3
    stages: list[nnx.List] = []
    for stage_widths in config.widths:
      convs: list[ConvNorm] = []
      for conv_width in stage_widths:
        convs.append(ConvNorm(width, conv_width, 3, padding=1, has_bias=True, rngs=rngs))
        width = conv_width
      stages.append(nnx.List(convs))
    self.stages = nnx.List(stages)
    self.head = nnx.Linear(width, config.num_classes, rngs=rngs)

  def features(self, inputs: Float[Array, "B H W 3"]) -> Float[Array, "B h w D"]:
    """The output of the last convolution, before the last pooling: 2x2 pixels for 32x32 images."""
    hidden = inputs
    for stage in self.stages:
      if hidden is not inputs:
        hidden = max_pool(hidden, 2, stride=2)
      for conv in stage:
        hidden = jax.nn.relu(conv(hidden))
    return hidden

  def pool(self, features: Float[Array, "B h w D"]) -> Float[Array, "B D"]:
    return super().pool(max_pool(features, 2, stride=2))
