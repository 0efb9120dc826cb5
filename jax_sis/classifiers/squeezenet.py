"""SqueezeNet 1.1 (Iandola et al. 2016) for ImageNet, which has no norms."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jax_sis.classifiers.layers import ConvNet, ConvNorm, max_pool


@dataclasses.dataclass(frozen=True, kw_only=True)
class SqueezeNetConfig:
  """Width of a SqueezeNet.

  Attributes:
    stem_width: channels of the first convolution.
    squeezed: for each stage, each of its blocks' narrow width; both wide halves of a block have four times as many
      channels. Every stage begins by halving the resolution.
    num_classes: K.

  Examples:
    >>> from jax_sis import classifiers
    >>> [len(stage) for stage in classifiers.SqueezeNetConfig().squeezed]
    [2, 2, 4]
  """

  stem_width: int = 64
  squeezed: tuple[tuple[int, ...], ...] = ((16, 16), (32, 32), (48, 48, 64, 64))
  num_classes: int = 1000


class Fire(nnx.Module):
  """A narrow 1x1 convolution, then a 1x1 and a 3x3 one side by side, their channels joined."""

  def __init__(self, in_width: int, squeezed: int, *, rngs: nnx.Rngs):
    options = {"has_bias": True, "has_norm": False, "rngs": rngs}
    self.squeeze = ConvNorm(in_width, squeezed, 1, **options)
    self.expand1x1 = ConvNorm(squeezed, 4 * squeezed, 1, **options)
    self.expand3x3 = ConvNorm(squeezed, 4 * squeezed, 3, padding=1, **options)

  def __call__(self, inputs: Float[Array, "B H W C"]) -> Float[Array, "B H W D"]:
    hidden = jax.nn.relu(self.squeeze(inputs))
    return jax.nn.relu(jnp.concatenate([self.expand1x1(hidden), self.expand3x3(hidden)], axis=-1))


class SqueezeNet(ConvNet):
  """Normalised images `[B, H, W, 3]`, H and W at least 17, -> logits `[B, K]`, none of which is negative.

  SqueezeNet 1.1 (Iandola et al. 2016).

  Args:
    config: its width.
    rngs: for the initial weights.

  Examples:
    In shapes alone, which takes a moment, with its number of parameters:

    >>> import jax
    >>> from flax import nnx
    >>> from jax_sis import classifiers
    >>> module = classifiers.build_abstract("squeezenet1_1", num_classes=1000)
    >>> isinstance(module, classifiers.SqueezeNet)
    True
    >>> sum(one.size for one in jax.tree.leaves(nnx.state(module, nnx.Param)))
    1235496
  """

  def __init__(self, config: SqueezeNetConfig, *, rngs: nnx.Rngs):
    self.config = config
    width = config.stem_width
    self.stem = ConvNorm(3, width, 3, stride=2, has_bias=True, has_norm=False, rngs=rngs)
    stages: list[nnx.List] = []
    for squeezed_widths in config.squeezed:
      blocks: list[Fire] = []
      for squeezed in squeezed_widths:
        blocks.append(Fire(width, squeezed, rngs=rngs))
        width = 8 * squeezed
      stages.append(nnx.List(blocks))
    self.stages = nnx.List(stages)
    self.head = nnx.Linear(width, config.num_classes, rngs=rngs)

  def features(self, inputs: Float[Array, "B H W 3"]) -> Float[Array, "B h w D"]:
    """The output of the last block."""
    hidden = jax.nn.relu(self.stem(inputs))
    for stage in self.stages:
      hidden = pool(hidden)
      for block in stage:
        hidden = block(hidden)
    return hidden

  def classify(self, features: Float[Array, "B h w D"]) -> Float[Array, "B K"]:
    """The means of maps of the classes, rectified."""
    return jax.nn.relu(self.head(features)).mean((1, 2))

  def pool(self, features: Float[Array, "B h w D"]) -> Float[Array, "B E"]:
    raise ValueError("the logits of SqueezeNet are means of rectified maps, which are no linear function of features.")


def pool(inputs: Float[Array, "B H W C"]) -> Float[Array, "B P Q C"]:
  """The maximum of 3x3 windows of stride 2, the last of which may reach beyond the edge, as in Caffe and torchvision.

  There it meets zeros, which change no maximum of rectified numbers.
  """
  rows, columns = (int(size % 2 == 0) for size in inputs.shape[1:3])
  return max_pool(jnp.pad(inputs, ((0, 0), (0, rows), (0, columns), (0, 0))), 3, stride=2)
