"""Inception v3 (Szegedy et al. 2016) as in torchvision, with its names of layers.

The auxiliary head, which evaluation does not use, is left out.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jax_sis.classifiers.conv import Padding
from jax_sis.classifiers.layers import ConvNet, ConvNorm, max_pool, mean_pool

EPSILON = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class InceptionConfig:
  """Only the number of classes can be chosen.

  Attributes:
    num_classes: K.

  Examples:
    >>> from jax_sis import classifiers
    >>> classifiers.InceptionConfig() == classifiers.architecture("inception_v3")
    True
  """

  num_classes: int = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvConfig:
  """One convolution with batch norm."""

  name: str
  width: int
  kernel_size: tuple[int, int] = (1, 1)
  stride: int = 1
  padding: Padding = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Branch:
  """Pooling, if any, then convolutions in a row, then `ends`, if any, side by side."""

  pool: Literal["mean", "max"] | None = None
  convs: tuple[ConvConfig, ...] = ()
  ends: tuple[ConvConfig, ...] = ()


def keeping(name: str, width: int, height: int = 1, columns: int = 1) -> ConvConfig:
  return ConvConfig(name=name, width=width, kernel_size=(height, columns), padding=(height // 2, columns // 2))


def shrinking(name: str, width: int, stride: int = 1) -> ConvConfig:
  """A 3x3 convolution without padding."""
  return ConvConfig(name=name, width=width, kernel_size=(3, 3), stride=stride)


def mixed_5(pool_width: int) -> tuple[Branch, ...]:
  """The branches of a layer at 35x35 (figure 5 of the paper)."""
  return (
    Branch(convs=(keeping("branch1x1", 64),)),
    Branch(convs=(keeping("branch5x5_1", 48), keeping("branch5x5_2", 64, 5, 5))),
    Branch(
      convs=(
        keeping("branch3x3dbl_1", 64),
        keeping("branch3x3dbl_2", 96, 3, 3),
        keeping("branch3x3dbl_3", 96, 3, 3),
      )
    ),
    Branch(pool="mean", convs=(keeping("branch_pool", pool_width),)),
  )


def mixed_6(inner_width: int) -> tuple[Branch, ...]:
  """The branches of a layer at 17x17, with rows and columns of seven (figure 6)."""
  return (
    Branch(convs=(keeping("branch1x1", 192),)),
    Branch(
      convs=(
        keeping("branch7x7_1", inner_width),
        keeping("branch7x7_2", inner_width, 1, 7),
        keeping("branch7x7_3", 192, 7, 1),
      )
    ),
    Branch(
      convs=(
        keeping("branch7x7dbl_1", inner_width),
        keeping("branch7x7dbl_2", inner_width, 7, 1),
        keeping("branch7x7dbl_3", inner_width, 1, 7),
        keeping("branch7x7dbl_4", inner_width, 7, 1),
        keeping("branch7x7dbl_5", 192, 1, 7),
      )
    ),
    Branch(pool="mean", convs=(keeping("branch_pool", 192),)),
  )


def mixed_7() -> tuple[Branch, ...]:
  """The branches of a layer at 8x8; two end in a 1x3 and a 3x1 convolution side by side (figure 7)."""
  return (
    Branch(convs=(keeping("branch1x1", 320),)),
    Branch(
      convs=(keeping("branch3x3_1", 384),),
      ends=(keeping("branch3x3_2a", 384, 1, 3), keeping("branch3x3_2b", 384, 3, 1)),
    ),
    Branch(
      convs=(keeping("branch3x3dbl_1", 448), keeping("branch3x3dbl_2", 384, 3, 3)),
      ends=(keeping("branch3x3dbl_3a", 384, 1, 3), keeping("branch3x3dbl_3b", 384, 3, 1)),
    ),
    Branch(pool="mean", convs=(keeping("branch_pool", 192),)),
  )


TO_17 = (
  Branch(convs=(shrinking("branch3x3", 384, 2),)),
  Branch(
    convs=(keeping("branch3x3dbl_1", 64), keeping("branch3x3dbl_2", 96, 3, 3), shrinking("branch3x3dbl_3", 96, 2))
  ),
  Branch(pool="max"),
)
TO_8 = (
  Branch(convs=(keeping("branch3x3_1", 192), shrinking("branch3x3_2", 320, 2))),
  Branch(
    convs=(
      keeping("branch7x7x3_1", 192),
      keeping("branch7x7x3_2", 192, 1, 7),
      keeping("branch7x7x3_3", 192, 7, 1),
      shrinking("branch7x7x3_4", 192, 2),
    )
  ),
  Branch(pool="max"),
)
# A 3x3 maximum of stride 2 follows each run.
STEM = (
  (shrinking("Conv2d_1a_3x3", 32, 2), shrinking("Conv2d_2a_3x3", 32), keeping("Conv2d_2b_3x3", 64, 3, 3)),
  (keeping("Conv2d_3b_1x1", 80), shrinking("Conv2d_4a_3x3", 192)),
)
MIXED = {
  "Mixed_5b": mixed_5(32),
  "Mixed_5c": mixed_5(64),
  "Mixed_5d": mixed_5(64),
  "Mixed_6a": TO_17,
  "Mixed_6b": mixed_6(128),
  "Mixed_6c": mixed_6(160),
  "Mixed_6d": mixed_6(160),
  "Mixed_6e": mixed_6(192),
  "Mixed_7a": TO_8,
  "Mixed_7b": mixed_7(),
  "Mixed_7c": mixed_7(),
}


class Mixed(nnx.Module):
  """Branches side by side, their channels joined."""

  def __init__(self, in_width: int, branches: tuple[Branch, ...], *, rngs: nnx.Rngs):
    self.branches = branches
    self.out_width = 0
    layers: dict[str, ConvNorm] = {}
    for branch in branches:
      width = in_width
      for conv in branch.convs:
        layers[conv.name] = make_conv(width, conv, rngs)
        width = conv.width
      for conv in branch.ends:
        layers[conv.name] = make_conv(width, conv, rngs)
      self.out_width += sum(conv.width for conv in branch.ends) or width
    self.layers = nnx.Dict(layers)

  def __call__(self, inputs: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
    outputs: list[Array] = []
    for branch in self.branches:
      hidden = inputs
      if branch.pool == "mean":
        hidden = mean_pool(inputs, 3, stride=1, padding=1)
      elif branch.pool == "max":
        hidden = max_pool(inputs, 3, stride=2)
      for conv in branch.convs:
        hidden = jax.nn.relu(self.layers[conv.name](hidden))
      ends = [jax.nn.relu(self.layers[conv.name](hidden)) for conv in branch.ends]
      outputs += ends or [hidden]
    return jnp.concatenate(outputs, axis=-1)


class Inception(ConvNet):
  """Inception v3: normalised images `[B, H, W, 3]`, H and W at least 75, -> logits `[B, K]` (Szegedy et al. 2016).

  Args:
    config: the number of classes.
    rngs: for the initial weights.

  Examples:
    In shapes alone, which takes a moment, with its number of parameters:

    >>> import jax
    >>> from flax import nnx
    >>> from jax_sis import classifiers
    >>> module = classifiers.build_abstract("inception_v3", num_classes=1000)
    >>> isinstance(module, classifiers.Inception)
    True
    >>> sum(one.size for one in jax.tree.leaves(nnx.state(module, nnx.Param)))
    23834568
  """

  def __init__(self, config: InceptionConfig, *, rngs: nnx.Rngs):
    self.config = config
    width = 3
    stem: dict[str, ConvNorm] = {}
    for conv in (conv for run in STEM for conv in run):
      stem[conv.name] = make_conv(width, conv, rngs)
      width = conv.width
    self.stem = nnx.Dict(stem)
    mixed: dict[str, Mixed] = {}
    for name, branches in MIXED.items():
      mixed[name] = Mixed(width, branches, rngs=rngs)
      width = mixed[name].out_width
    self.mixed = nnx.Dict(mixed)
    self.head = nnx.Linear(width, config.num_classes, rngs=rngs)

  def features(self, inputs: Float[Array, "B H W 3"]) -> Float[Array, "B h w D"]:
    """The output of the last mixed layer."""
    hidden = inputs
    for run in STEM:
      for conv in run:
        hidden = jax.nn.relu(self.stem[conv.name](hidden))
      hidden = max_pool(hidden, 3, stride=2)
    for name in MIXED:
      hidden = self.mixed[name](hidden)
    return hidden


def make_conv(in_width: int, config: ConvConfig, rngs: nnx.Rngs) -> ConvNorm:
  return ConvNorm(
    in_width,
    config.width,
    config.kernel_size,
    stride=config.stride,
    padding=config.padding,
    epsilon=EPSILON,
    rngs=rngs,
  )
