"""PyTorch's names of the parts of networks of inverted residual blocks."""

from jax_sis.classifiers.mobile import MobileConfig
from jax_sis.classifiers.naming import Naming, Parts


def make_namings(config: MobileConfig) -> tuple[Naming, ...]:
  """The namings of a network, whose blocks some libraries count through and others by stages."""
  return (name_like_authors(config), name_like_timm())


def name_like_authors(config: MobileConfig) -> Naming:
  """The names of the EfficientNet in PyTorch that others' ports are made from."""
  parts: Parts = {"stem": ("_conv_stem", "_bn0"), "last": ("_conv_head", "_bn1"), "head": ("_fc", None)}
  places = [(stage, index) for stage, blocks in enumerate(config.stages) for index in range(len(blocks))]
  for number, (stage, index) in enumerate(places):
    ours, theirs = f"stages.{stage}.{index}", f"_blocks.{number}"
    parts |= {
      f"{ours}.expand": (f"{theirs}._expand_conv", f"{theirs}._bn0"),
      f"{ours}.depthwise": (f"{theirs}._depthwise_conv", f"{theirs}._bn1"),
      f"{ours}.project": (f"{theirs}._project_conv", f"{theirs}._bn2"),
    }
  return Naming(source="efficientnet-lite-pytorch", parts=parts)


def name_like_timm() -> Naming:
  """Timm's names, of which those of a block depend on whether it widens its channels."""
  return Naming(
    source="timm",
    parts={
      "stem": ("conv_stem", "bn1"),
      "stages.0.{b}.depthwise": ("blocks.0.{b}.conv_dw", "blocks.0.{b}.bn1"),
      "stages.0.{b}.project": ("blocks.0.{b}.conv_pw", "blocks.0.{b}.bn2"),
      "stages.{s}.{b}.expand": ("blocks.{s}.{b}.conv_pw", "blocks.{s}.{b}.bn1"),
      "stages.{s}.{b}.depthwise": ("blocks.{s}.{b}.conv_dw", "blocks.{s}.{b}.bn2"),
      "stages.{s}.{b}.project": ("blocks.{s}.{b}.conv_pwl", "blocks.{s}.{b}.bn3"),
      "last": ("conv_head", "bn2"),
      "head": ("classifier", None),
    },
  )
