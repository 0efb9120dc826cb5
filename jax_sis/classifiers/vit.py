"""Vision transformers (Dosovitskiy et al. 2021), and DeiT (Touvron et al. 2021) with and without its second token.

They can be told which pixels of an image are there. A token of which none is leaves the attention (Jain et al., ICLR
2022): no token looks at it, and the others keep their places.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jax_sis.classifiers.transformer_layers import INITIAL_STD, Activation, LayerNorm, Mlp, PatchConv, make_linear


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig:
  """Size of a vision transformer.

  Attributes:
    width: numbers a token.
    depth: blocks.
    num_heads: heads of attention, which divide the width.
    image_size: pixels a side of the images, which the position embeddings fix.
    patch_size: pixels a side of a patch, which divides the image's.
    is_distilled: whether there is a distillation token beside the class token, with a last layer of its own.
    activation: between the linear layers of a block.
    num_classes: K.

  Raises:
    ValueError: a number does not divide what it must.

  Examples:
    A token for each of 14x14 patches, and the class token:

    >>> from jax_sis import classifiers
    >>> classifiers.ViTConfig(width=192, depth=12, num_heads=3).num_tokens
    197
  """

  width: int
  depth: int
  num_heads: int
  image_size: int = 224
  patch_size: int = 16
  is_distilled: bool = False
  activation: Activation = "gelu"
  num_classes: int = 1000

  def __post_init__(self) -> None:
    for part, whole in (("num_heads", "width"), ("patch_size", "image_size")):
      if getattr(self, whole) % getattr(self, part):
        raise ValueError(f"{part} must divide {whole}, got {getattr(self, part)} and {getattr(self, whole)}.")

  @property
  def num_tokens(self) -> int:
    """T: a token a patch, after the class token and the distillation token."""
    return (self.image_size // self.patch_size) ** 2 + 1 + self.is_distilled


SMALL = ViTConfig(width=384, depth=12, num_heads=6)
BASE = ViTConfig(width=768, depth=12, num_heads=12)
TINY = ViTConfig(width=192, depth=12, num_heads=3)
# For CIFAR-10. On a CPU GELU costs as much as all products of a block, and a rectifier next to nothing.
OF_CIFAR = ViTConfig(width=128, depth=6, num_heads=4, image_size=32, patch_size=4, activation="relu", num_classes=10)
# DeiT without distillation is a ViT of another training; a name of its own keeps the recipe of its inputs apart.
VITS = {
  "vit_cifar": OF_CIFAR,
  "vit_s_16": SMALL,
  "vit_b_16": BASE,
  "deit_tiny": TINY,
  "deit_small": SMALL,
  "deit_base": BASE,
  "deit_tiny_distilled": dataclasses.replace(TINY, is_distilled=True),
  "deit_small_distilled": dataclasses.replace(SMALL, is_distilled=True),
  "deit_base_distilled": dataclasses.replace(BASE, is_distilled=True),
}


class Attention(nnx.Module):
  """Attention of all tokens to all, by several heads: `[B, T, D]` -> `[B, T, D]`.

  `qkv` gives the queries of all heads, then all keys, then all values. Each token weighs in by its presence, whose
  logarithm is 0 where it is there and minus infinity where it is not; None has all there.
  """

  def __init__(self, width: int, num_heads: int, *, rngs: nnx.Rngs):
    self.num_heads = num_heads
    self.qkv = make_linear(width, 3 * width, rngs)
    self.out = make_linear(width, width, rngs)

  def __call__(
    self, tokens: Float[Array, "B T D"], log_presence: Float[Array, "B T"] | None = None
  ) -> Float[Array, "B T D"]:
    batch_size, num_tokens, width = tokens.shape
    head_width = width // self.num_heads
    parts = self.qkv(tokens).reshape(batch_size, num_tokens, 3, self.num_heads, head_width)
    queries, keys, values = jnp.moveaxis(parts, 2, 0)
    scores = jnp.einsum("bqhd,bkhd->bhqk", queries, keys) / math.sqrt(head_width)
    if log_presence is not None:
      scores += log_presence[:, None, None]
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), values)
    return self.out(mixed.reshape(tokens.shape))


class EncoderBlock(nnx.Module):
  """Attention, then two linear layers: `[B, T, D]` -> `[B, T, D]`; each follows a norm and has a shortcut around."""

  def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
    width = config.width
    self.attention_norm = LayerNorm(width)
    self.attention = Attention(width, config.num_heads, rngs=rngs)
    self.mlp_norm = LayerNorm(width)
    self.mlp = Mlp(width, 4 * width, rngs=rngs, activation=config.activation)

  def __call__(
    self, tokens: Float[Array, "B T D"], log_presence: Float[Array, "B T"] | None = None
  ) -> Float[Array, "B T D"]:
    tokens = tokens + self.attention(self.attention_norm(tokens), log_presence)
    return tokens + self.mlp(self.mlp_norm(tokens))


class ViT(nnx.Module):
  """Normalised images `[B, S, S, 3]` -> logits `[B, K]`; of a distilled network, the mean of both last layers'.

  Dosovitskiy et al. 2021 and Touvron et al. 2021. It can be told which pixels are there, for `removal="tokens"`.

  Args:
    config: its size.
    rngs: for the initial weights.

  Examples:
    In shapes alone, which takes a moment, with its number of parameters:

    >>> import jax
    >>> from flax import nnx
    >>> from jax_sis import classifiers
    >>> module = classifiers.build_abstract("deit_tiny", num_classes=1000)
    >>> isinstance(module, classifiers.ViT)
    True
    >>> sum(one.size for one in jax.tree.leaves(nnx.state(module, nnx.Param)))
    5717416
  """

  takes_presence = True

  def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs):
    self.config = config
    width = config.width
    init_fn = nnx.initializers.truncated_normal(INITIAL_STD)
    self.patches = PatchConv(3, width, config.patch_size, rngs=rngs)
    self.class_token = nnx.Param(init_fn(rngs.params(), (1, 1, width), jnp.float32))
    self.distillation_token = nnx.data(
      nnx.Param(init_fn(rngs.params(), (1, 1, width), jnp.float32)) if config.is_distilled else None
    )
    self.positions = nnx.Param(init_fn(rngs.params(), (1, config.num_tokens, width), jnp.float32))
    self.blocks = nnx.List([EncoderBlock(config, rngs=rngs) for _ in range(config.depth)])
    self.last_norm = LayerNorm(width)
    self.head = make_linear(width, config.num_classes, rngs)
    self.head_distilled = nnx.data(make_linear(width, config.num_classes, rngs) if config.is_distilled else None)

  def __call__(
    self, inputs: Float[Array, "B S S 3"], present: Float[Array, "B S S"] | None = None
  ) -> Float[Array, "B K"]:
    """The logits, with `present` 1 where a pixel is there, 0 where it is not; None has all there.

    What the inputs hold at pixels that are not there changes nothing. In a token of which others are there, they show
    0, the mean colour.
    """
    return self.classify(self.encode_present(inputs, present))

  def encode_present(
    self, inputs: Float[Array, "B S S 3"], present: Float[Array, "B S S"] | None
  ) -> Float[Array, "B T D"]:
    """The tokens after the last norm, of images of which all pixels or some are there."""
    if present is None:
      return self.encode(self.embed(inputs))
    there = present[..., None]
    # Not by the product alone, which leaves what is not finite.
    shown = jnp.where(there > 0, inputs, 0) * there
    return self.encode(self.embed(shown), self.log_presence(present))

  def log_presence(self, present: Float[Array, "B S S"]) -> Float[Array, "B T"]:
    """The logarithm of the presence of each token: of a patch, that of the pixel that is there most.

    It can be differentiated where something is present.
    """
    count, size = self.config.image_size // self.config.patch_size, self.config.patch_size
    patches = present.reshape(-1, count, size, count, size).max((2, 4)).reshape(-1, count**2)
    is_there = patches > 0
    logarithms = jnp.where(is_there, jnp.log(jnp.where(is_there, patches, 1)), -jnp.inf)
    return jnp.pad(logarithms, ((0, 0), (self.config.num_tokens - count**2, 0)))

  def embed(self, inputs: Float[Array, "B S S 3"]) -> Float[Array, "B T D"]:
    """The class token, the distillation token if there is one, and a token a patch, row by row, each with its place.

    Raises:
      ValueError: the images have another size than the position embeddings are for.
    """
    size = self.config.image_size
    if inputs.shape[1:3] != (size, size):
      raise ValueError(
        f"inputs must be {size}x{size} pixels, for which this network has position embeddings, got "
        f"{inputs.shape[2]}x{inputs.shape[1]}."
      )
    patches = self.patches(inputs).reshape(len(inputs), -1, self.config.width)
    extra = [token[...] for token in (self.class_token, self.distillation_token) if token is not None]
    starts = [jnp.broadcast_to(token, (len(inputs), 1, self.config.width)) for token in extra]
    return jnp.concatenate([*starts, patches], axis=1) + self.positions[...]

  def encode(
    self, tokens: Float[Array, "B T D"], log_presence: Float[Array, "B T"] | None = None
  ) -> Float[Array, "B T D"]:
    """The tokens after all blocks and the last norm."""
    for block in self.blocks:
      tokens = block(tokens, log_presence)
    return self.last_norm(tokens)

  def penultimate(
    self, inputs: Float[Array, "B S S 3"], present: Float[Array, "B S S"] | None = None
  ) -> Float[Array, "B E"]:
    """The class token, and behind it the distillation token, which the logits are a linear function of."""
    tokens = self.encode_present(inputs, present)
    return tokens[:, 0] if self.head_distilled is None else tokens[:, :2].reshape(len(tokens), -1)

  def read_out(self, penultimate: Float[Array, "B E"]) -> Float[Array, "B K"]:
    """Logits from these."""
    return self.classify(penultimate.reshape(len(penultimate), -1, self.config.width))

  def classify(self, tokens: Float[Array, "B T D"]) -> Float[Array, "B K"]:
    """Logits from the class token, and the distillation token."""
    logits = self.head(tokens[:, 0])
    return logits if self.head_distilled is None else (logits + self.head_distilled(tokens[:, 1])) / 2
