"""PyTorch's names of the parts of a ConvNeXt."""

from collections.abc import Sequence

from jax_sis.classifiers.naming import Naming, Parts

# The parts of a block and of a downsampling that have arrays; norms have a name of the second kind.
BLOCK = ("depthwise", "pre_norm", "mlp.expand", "mlp.project", "layer_scale")
DOWNSAMPLING = ("pre_norm", "conv")


def name_parts(ours: str, theirs: str, pairs: dict[str, str]) -> Parts:
  """The names of some parts in one place."""
  return {
    f"{ours}{part}": (None, theirs + name) if part.endswith("norm") else (theirs + name, None)
    for part, name in pairs.items()
  }


def make_naming(source: str, *, ends: Sequence[str], downsampling: str, block: str, layers: Sequence[str]) -> Naming:
  """A naming by stages.

  Args:
    source: whose it is.
    ends: the names of the stem, its norm, the last norm and the last layer.
    downsampling: what a downsampling's begin with; behind it stand 0 and 1.
    block: what a block's begin with.
    layers: the names of a block's parts.
  """
  return Naming(
    source=source,
    parts=name_parts("", "", dict(zip(("stem", "stem_norm", "head_norm", "head"), ends, strict=True)))
    | name_parts("downsamplings.{d}.", downsampling, dict(zip(DOWNSAMPLING, "01", strict=True)))
    | name_parts("stages.{s}.{b}.", block, dict(zip(BLOCK, layers, strict=True))),
  )


def name_like_torchvision() -> Naming:
  """Torchvision's names, in which downsamplings and stages are numbered through."""
  ends = {"stem": "features.0.0", "stem_norm": "features.0.1", "head_norm": "classifier.0", "head": "classifier.2"}
  layers = ("block.0", "block.2", "block.3", "block.5", "layer_scale")
  parts = name_parts("", "", ends)
  for stage in range(4):
    theirs = f"features.{2 * stage + 1}.{{b}}."
    parts |= name_parts(f"stages.{stage}.{{b}}.", theirs, dict(zip(BLOCK, layers, strict=True)))
    theirs = f"features.{2 * stage + 2}."
    parts |= name_parts(f"downsamplings.{stage}.", theirs, dict(zip(DOWNSAMPLING, "01", strict=True)))
  return Naming(source="torchvision", parts=parts)


NAMINGS = (
  name_like_torchvision(),
  make_naming(
    "timm",
    ends=("stem.0", "stem.1", "head.norm", "head.fc"),
    downsampling="stages.{d+1}.downsample.",
    block="stages.{s}.blocks.{b}.",
    layers=("conv_dw", "norm", "mlp.fc1", "mlp.fc2", "gamma"),
  ),
  make_naming(
    "ConvNeXt (facebookresearch)",
    ends=("downsample_layers.0.0", "downsample_layers.0.1", "norm", "head"),
    downsampling="downsample_layers.{d+1}.",
    block="stages.{s}.{b}.",
    layers=("dwconv", "norm", "pwconv1", "pwconv2", "gamma"),
  ),
  make_naming(
    "transformers",
    ends=(
      "convnext.embeddings.patch_embeddings",
      "convnext.embeddings.layernorm",
      "convnext.layernorm",
      "classifier",
    ),
    downsampling="convnext.encoder.stages.{d+1}.downsampling_layer.",
    block="convnext.encoder.stages.{s}.layers.{b}.",
    layers=("dwconv", "layernorm", "pwconv1", "pwconv2", "layer_scale_parameter"),
  ),
)
