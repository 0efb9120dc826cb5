"""Networks of inverted residual blocks: EfficientNet (Tan and Le 2019), its Lite ones, and MobileNet v2 and v3.

A block widens its channels by a 1x1 convolution, filters each by itself, may weigh them by their means, and narrows
them again without a rectifier (Sandler et al. 2018; Howard et al. 2019).
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jax_sis.classifiers.conv import Padding
from jax_sis.classifiers.layers import ConvNet, ConvNorm

Activation = Literal["relu", "relu6", "swish", "hard_swish"]
Gate = Literal["sigmoid", "hard_sigmoid"]
Source = Literal["efficientnet-pytorch", "torchvision", "timm", "transformers"]


def relu6(inputs: Float[Array, "..."]) -> Float[Array, "..."]:
  """The rectifier that ends at six; as in PyTorch its gradient at 0 is 0."""
  return jnp.minimum(jax.nn.relu(inputs), 6.0)


def hard_sigmoid(inputs: Float[Array, "..."]) -> Float[Array, "..."]:
  """A sigmoid of straight lines, from 0 at -3 to 1 at 3."""
  return relu6(inputs + 3.0) / 6.0


def hard_swish(inputs: Float[Array, "..."]) -> Float[Array, "..."]:
  """The inputs by their hard sigmoid."""
  return inputs * hard_sigmoid(inputs)


ACTIVATIONS = {"relu": jax.nn.relu, "relu6": relu6, "swish": jax.nn.silu, "hard_swish": hard_swish}
# Of what weighs channels: the rectifier of its narrow layer, and what makes weights of the wide one.
GATES = {"sigmoid": (jax.nn.silu, jax.nn.sigmoid), "hard_sigmoid": (jax.nn.relu, hard_sigmoid)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockConfig:
  """One inverted residual block.

  Attributes:
    width: channels that it gives.
    hidden: channels in its middle; as many as it gets for no 1x1 convolution before.
    kernel_size: of the depthwise convolution.
    stride: of the same.
    squeezed: channels of the narrow layer of what weighs channels; 0 for no weights.
    activation: behind both of its first convolutions.
  """

  width: int
  hidden: int
  kernel_size: int = 3
  stride: int = 1
  squeezed: int = 0
  activation: Activation


@dataclasses.dataclass(frozen=True, kw_only=True)
class MobileConfig:
  """A network of inverted residual blocks.

  Attributes:
    stem: channels of the first convolution, 3x3 of stride 2.
    stages: the blocks, by stages as timm and torchvision's EfficientNet count them.
    last: channels of the 1x1 convolution behind the blocks.
    hidden: numbers of a linear layer between the means and the logits; 0 for none.
    activation: of the stem, the last convolution and that layer.
    gate: how channels are weighed.
    padding: `same` is TensorFlow's, `half` as much on both sides.
    epsilon: of all batch norms.
    sources: whose weights are made for such a network, and so whose names they have.
    num_classes: K.

  Examples:
    MobileNet v2 for ten classes, to be made by `MobileNet`:

    >>> import dataclasses
    >>> from jax_sis import classifiers
    >>> config = dataclasses.replace(classifiers.architecture("mobilenet_v2"), num_classes=10)
    >>> config.stem, config.last, len(config.stages)
    (32, 1280, 7)
  """

  stem: int = 32
  stages: tuple[tuple[BlockConfig, ...], ...]
  last: int = 1280
  hidden: int = 0
  activation: Activation
  gate: Gate = "sigmoid"
  padding: Literal["same", "half"] = "half"
  epsilon: float = 1e-5
  sources: tuple[Source, ...]
  num_classes: int = 1000

  def pad(self, kernel_size: int) -> Padding | Literal["same"]:
    """The padding of a convolution of this size."""
    return "same" if self.padding == "same" else kernel_size // 2


class Squeeze(nnx.Module):
  """Weighs each channel by a number that two layers make of the means of all (Hu et al. 2018)."""

  def __init__(self, width: int, squeezed: int, gate: Gate, *, rngs: nnx.Rngs):
    self.gate = gate
    self.reduce = ConvNorm(width, squeezed, 1, has_bias=True, has_norm=False, rngs=rngs)
    self.expand = ConvNorm(squeezed, width, 1, has_bias=True, has_norm=False, rngs=rngs)

  def __call__(self, inputs: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    rectify, weigh = GATES[self.gate]
    means = inputs.mean((1, 2), keepdims=True)
    return inputs * weigh(self.expand(rectify(self.reduce(means))))


class InvertedBlock(nnx.Module):
  """1x1, depthwise and 1x1 convolutions with batch norm, and a shortcut around them where shapes allow it."""

  def __init__(self, in_width: int, block: BlockConfig, config: MobileConfig, *, rngs: nnx.Rngs):
    self.activation = block.activation
    self.is_residual = block.stride == 1 and in_width == block.width
    hidden, epsilon = block.hidden, config.epsilon
    self.expand = nnx.data(None if hidden == in_width else ConvNorm(in_width, hidden, 1, epsilon=epsilon, rngs=rngs))
    self.depthwise = ConvNorm(
      hidden,
      hidden,
      block.kernel_size,
      stride=block.stride,
      padding=config.pad(block.kernel_size),
      groups=hidden,
      epsilon=epsilon,
      rngs=rngs,
    )
    self.squeeze = nnx.data(Squeeze(hidden, block.squeezed, config.gate, rngs=rngs) if block.squeezed else None)
    self.project = ConvNorm(hidden, block.width, 1, epsilon=epsilon, rngs=rngs)

  def __call__(self, inputs: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
    activate = ACTIVATIONS[self.activation]
    hidden = inputs if self.expand is None else activate(self.expand(inputs))
    hidden = activate(self.depthwise(hidden))
    if self.squeeze is not None:
      hidden = self.squeeze(hidden)
    hidden = self.project(hidden)
    return hidden + inputs if self.is_residual else hidden


class MobileNet(ConvNet):
  """Normalised images `[B, H, W, 3]` -> logits `[B, K]` (Sandler et al. 2018; Howard et al. 2019; Tan and Le 2019).

  Args:
    config: its blocks.
    rngs: for the initial weights.

  Examples:
    In shapes alone, which takes a moment, with its number of parameters:

    >>> import jax
    >>> from flax import nnx
    >>> from jax_sis import classifiers
    >>> module = classifiers.build_abstract("mobilenet_v2", num_classes=1000)
    >>> isinstance(module, classifiers.MobileNet)
    True
    >>> sum(one.size for one in jax.tree.leaves(nnx.state(module, nnx.Param)))
    3504872
  """

  def __init__(self, config: MobileConfig, *, rngs: nnx.Rngs):
    self.config = config
    self.stem = ConvNorm(3, config.stem, 3, stride=2, padding=config.pad(3), epsilon=config.epsilon, rngs=rngs)
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
    self.hidden = nnx.data(nnx.Linear(config.last, config.hidden, rngs=rngs) if config.hidden else None)
    self.head = nnx.Linear(config.hidden or config.last, config.num_classes, rngs=rngs)

  def features(self, inputs: Float[Array, "B H W 3"]) -> Float[Array, "B h w D"]:
    """The output of the last convolution, rectified."""
    activate = ACTIVATIONS[self.config.activation]
    hidden = activate(self.stem(inputs))
    for stage in self.stages:
      for block in stage:
        hidden = block(hidden)
    return activate(self.last(hidden))

  def pool(self, features: Float[Array, "B h w D"]) -> Float[Array, "B E"]:
    """The means of feature maps, through the hidden layer where there is one."""
    means = features.mean((1, 2))
    return means if self.hidden is None else ACTIVATIONS[self.config.activation](self.hidden(means))
