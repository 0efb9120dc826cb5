"""PyTorch's names of the parts of vision transformers."""

from jax_sis.classifiers.naming import Naming, Parts
from jax_sis.classifiers.vit import ViTConfig

# Layer norms are named as norms, and tokens and position embeddings alone.
TIMM_PARTS: Parts = {
  "class_token": ("cls_token", None),
  "distillation_token": ("dist_token", None),
  "positions": ("pos_embed", None),
  "patches": ("patch_embed.proj", None),
  "blocks.{b}.attention_norm": (None, "blocks.{b}.norm1"),
  "blocks.{b}.attention.qkv": ("blocks.{b}.attn.qkv", None),
  "blocks.{b}.attention.out": ("blocks.{b}.attn.proj", None),
  "blocks.{b}.mlp_norm": (None, "blocks.{b}.norm2"),
  "blocks.{b}.mlp.expand": ("blocks.{b}.mlp.fc1", None),
  "blocks.{b}.mlp.project": ("blocks.{b}.mlp.fc2", None),
  "last_norm": (None, "norm"),
  "head": ("head", None),
  "head_distilled": ("head_dist", None),
}


def make_namings(config: ViTConfig) -> tuple[Naming, ...]:
  """The namings of a network; torchvision has none with a distillation token, and none has another activation."""
  if config.activation != "gelu":
    return ()
  timm = Naming(source="timm and deit (facebookresearch)", parts=TIMM_PARTS)
  if config.is_distilled:
    return (timm, name_like_transformers("deit", head="cls_classifier"))
  return (
    name_like_torchvision(("0", "3")),
    # As its published files have them, which torchvision renames.
    name_like_torchvision(("linear_1", "linear_2")),
    timm,
    name_like_transformers("vit", head="classifier"),
  )


def name_like_torchvision(linears: tuple[str, str]) -> Naming:
  layer = "encoder.layers.encoder_layer_{b}"
  return Naming(
    source="torchvision",
    parts={
      "class_token": ("class_token", None),
      "positions": ("encoder.pos_embedding", None),
      "patches": ("conv_proj", None),
      "blocks.{b}.attention_norm": (None, f"{layer}.ln_1"),
      "blocks.{b}.attention.qkv": (f"{layer}.self_attention.in_proj_", None),
      "blocks.{b}.attention.out": (f"{layer}.self_attention.out_proj", None),
      "blocks.{b}.mlp_norm": (None, f"{layer}.ln_2"),
      "blocks.{b}.mlp.expand": (f"{layer}.mlp.{linears[0]}", None),
      "blocks.{b}.mlp.project": (f"{layer}.mlp.{linears[1]}", None),
      "last_norm": (None, "encoder.ln"),
      "head": ("heads.head", None),
    },
  )


def name_like_transformers(model: str, *, head: str) -> Naming:
  """The names of transformers, which keeps queries, keys and values apart."""
  layer = f"{model}.encoder.layer.{{b}}"
  return Naming(
    source="transformers",
    parts={
      "class_token": (f"{model}.embeddings.cls_token", None),
      "distillation_token": (f"{model}.embeddings.distillation_token", None),
      "positions": (f"{model}.embeddings.position_embeddings", None),
      "patches": (f"{model}.embeddings.patch_embeddings.projection", None),
      "blocks.{b}.attention_norm": (None, f"{layer}.layernorm_before"),
      "blocks.{b}.attention.qkv": (f"{layer}.attention.attention.(query|key|value)", None),
      "blocks.{b}.attention.out": (f"{layer}.attention.output.dense", None),
      "blocks.{b}.mlp_norm": (None, f"{layer}.layernorm_after"),
      "blocks.{b}.mlp.expand": (f"{layer}.intermediate.dense", None),
      "blocks.{b}.mlp.project": (f"{layer}.output.dense", None),
      "last_norm": (None, f"{model}.layernorm"),
      "head": (head, None),
      "head_distilled": ("distillation_classifier", None),
    },
  )
