"""ResNet for 32x32 images (He et al. 2016, section 4.2): trainable in Flax NNX, and frozen for the search.

The trainable module keeps batch norm apart; `freeze` folds it into the convolutions and returns the pair
`(predict_fn, params)` that the kernel runs: no batch statistics, no random state, and convolutions whose
input gradient stays fast inside XLA:CPU loops.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jax_sis.classifiers.conv import conv2d
from jax_sis.types import PredictFn

FrozenParams = dict[str, Any]

BATCH_NORM_EPSILON = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetCifarConfig:
  """Depth and width of a CIFAR ResNet: `6 * blocks_per_stage + 2` layers."""

  blocks_per_stage: int = 3
  widths: tuple[int, ...] = (16, 32, 64)
  num_classes: int = 10


def subsample_and_pad(inputs: Float[Array, "B H W C"], stride: int, width: int) -> Float[Array, "B h w D"]:
  """Option-A shortcut: every `stride`-th pixel, the new channels zero, half of them on each side."""
  outputs = inputs[:, ::stride, ::stride]
  missing = width - inputs.shape[-1]
  if missing:
    before = missing // 2
    outputs = jnp.pad(outputs, ((0, 0), (0, 0), (0, 0), (before, missing - before)))
  return outputs


class BasicBlock(nnx.Module):
  """Two 3x3 convolutions, each followed by batch norm, and a parameter-free shortcut."""

  def __init__(self, in_width: int, width: int, stride: int, *, rngs: nnx.Rngs):
    self.stride = stride
    self.width = width
    self.conv1 = make_conv(in_width, width, stride, rngs)
    self.norm1 = make_norm(width, rngs)
    self.conv2 = make_conv(width, width, 1, rngs)
    self.norm2 = make_norm(width, rngs)

  def __call__(self, inputs: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
    """The block's output."""
    hidden = jax.nn.relu(self.norm1(self.conv1(inputs)))
    hidden = self.norm2(self.conv2(hidden))
    return jax.nn.relu(hidden + subsample_and_pad(inputs, self.stride, self.width))


class ResNetCifar(nnx.Module):
  """CIFAR ResNet with option-A shortcuts: normalised images `[B, H, W, 3]` -> logits `[B, K]`.

  `train()` and `eval()` switch batch norm between batch and running statistics.
  """

  def __init__(self, config: ResNetCifarConfig, *, rngs: nnx.Rngs):
    self.config = config
    self.stem_conv = make_conv(3, config.widths[0], 1, rngs)
    self.stem_norm = make_norm(config.widths[0], rngs)
    blocks: list[BasicBlock] = []
    in_width = config.widths[0]
    for stage, width in enumerate(config.widths):
      for block in range(config.blocks_per_stage):
        stride = 2 if stage > 0 and block == 0 else 1
        blocks.append(BasicBlock(in_width, width, stride, rngs=rngs))
        in_width = width
    self.blocks = nnx.List(blocks)
    self.head = nnx.Linear(in_width, config.num_classes, rngs=rngs)

  def __call__(self, inputs: Float[Array, "B H W 3"]) -> Float[Array, "B K"]:
    """Logits of a batch."""
    hidden = jax.nn.relu(self.stem_norm(self.stem_conv(inputs)))
    for block in self.blocks:
      hidden = block(hidden)
    return self.head(hidden.mean((1, 2)))


def make_conv(in_width: int, width: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
  """A 3x3 convolution without bias, initialised as He et al. (2015) for the backward pass."""
  init_fn = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
  return nnx.Conv(in_width, width, (3, 3), strides=stride, padding=1, use_bias=False, kernel_init=init_fn, rngs=rngs)


def make_norm(width: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
  """Batch norm over all axes but the last."""
  return nnx.BatchNorm(width, momentum=0.9, epsilon=BATCH_NORM_EPSILON, rngs=rngs)


def fold_batch_norm(conv: nnx.Conv, norm: nnx.BatchNorm) -> dict[str, Array]:
  """The kernel and bias of one convolution that does what `conv`, then `norm` in evaluation mode, do."""
  # Flax types the scale and bias of a norm as optional; ours always has them.
  assert norm.scale is not None and norm.bias is not None
  scale = norm.scale[...] / jnp.sqrt(norm.var[...] + norm.epsilon)
  return {"kernel": conv.kernel[...] * scale, "bias": norm.bias[...] - norm.mean[...] * scale}


def freeze(module: ResNetCifar) -> tuple[PredictFn, FrozenParams]:
  """Folds batch norm and returns `(predict_fn, params)`: the same logits, at inference speed.

  `params` is a plain pytree of arrays; `predict_fn` is pure and holds no arrays, so that equal architectures share
  one compilation.
  """
  graphdef, state = nnx.split(module)
  return predict, fold_module(graphdef, state)


@functools.partial(jax.jit, static_argnums=0)
def fold_module(graphdef: Any, state: Any) -> FrozenParams:
  """Folds every batch norm, compiled as a whole."""
  module = nnx.merge(graphdef, state)
  return {
    "stem": fold_batch_norm(module.stem_conv, module.stem_norm),
    "blocks": [
      {"conv1": fold_batch_norm(block.conv1, block.norm1), "conv2": fold_batch_norm(block.conv2, block.norm2)}
      for block in module.blocks
    ],
    "head": {"kernel": module.head.kernel[...], "bias": module.head.bias[...]},
  }


def predict(params: FrozenParams, inputs: Float[Array, "B H W 3"]) -> Float[Array, "B K"]:
  """The frozen network: normalised images -> logits. The stride of a block shows in the widths that it joins."""
  hidden = jax.nn.relu(apply_conv(params["stem"], inputs))
  for block in params["blocks"]:
    width = block["conv1"]["kernel"].shape[-1]
    stride = 1 if width == hidden.shape[-1] else 2
    residual = jax.nn.relu(apply_conv(block["conv1"], hidden, stride))
    residual = apply_conv(block["conv2"], residual)
    hidden = jax.nn.relu(residual + subsample_and_pad(hidden, stride, width))
  return hidden.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]


def apply_conv(params: dict[str, Array], inputs: Float[Array, "B H W C"], stride: int = 1) -> Float[Array, "B h w D"]:
  """A folded convolution: kernel and bias."""
  return conv2d(inputs, params["kernel"], stride=stride, padding=1) + params["bias"]
