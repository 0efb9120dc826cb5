"""PyTorch's names of the parts of networks of inverted residual blocks.

Some libraries count a network's blocks through, and some the parts of a block, of which not all have each.
"""

import itertools

from jax_sis.classifiers.mobile import MobileConfig
from jax_sis.classifiers.naming import Naming, Parts


def make_namings(config: MobileConfig) -> tuple[Naming, ...]:
  """The namings of a network, one for each library that has weights for it."""
  return tuple(Naming(source=source, parts=NAMERS[source](config)) for source in config.sources)


def list_blocks(config: MobileConfig) -> list[tuple[int, int, bool, bool]]:
  """Of each block its stage, its place there, whether it widens its channels, and whether it weighs them."""
  blocks = [(stage, index, block) for stage, row in enumerate(config.stages) for index, block in enumerate(row)]
  in_widths = [config.stem, *(block.width for _, _, block in blocks)]
  return [
    (stage, index, block.hidden != in_width, block.squeezed > 0)
    for (stage, index, block), in_width in zip(blocks, in_widths, strict=False)
  ]


def name_like_authors(config: MobileConfig) -> Parts:
  """As EfficientNet-PyTorch has them, from which efficientnet-lite-pytorch is made."""
  parts: Parts = {"stem": ("_conv_stem", "_bn0"), "last": ("_conv_head", "_bn1"), "head": ("_fc", None)}
  for number, (stage, index, *_) in enumerate(list_blocks(config)):
    ours, theirs = f"stages.{stage}.{index}", f"_blocks.{number}"
    parts |= {
      f"{ours}.expand": (f"{theirs}._expand_conv", f"{theirs}._bn0"),
      f"{ours}.depthwise": (f"{theirs}._depthwise_conv", f"{theirs}._bn1"),
      f"{ours}.squeeze.{{layer}}": (f"{theirs}._se_{{layer}}", None),
      f"{ours}.project": (f"{theirs}._project_conv", f"{theirs}._bn2"),
    }
  return parts


def name_like_transformers(config: MobileConfig) -> Parts:
  parts: Parts = {
    "stem": ("efficientnet.embeddings.convolution", "efficientnet.embeddings.batchnorm"),
    "last": ("efficientnet.encoder.top_conv", "efficientnet.encoder.top_bn"),
    "head": ("classifier", None),
  }
  for number, (stage, index, *_) in enumerate(list_blocks(config)):
    ours, theirs = f"stages.{stage}.{index}", f"efficientnet.encoder.blocks.{number}"
    parts |= {
      f"{ours}.expand": (f"{theirs}.expansion.expand_conv", f"{theirs}.expansion.expand_bn"),
      f"{ours}.depthwise": (f"{theirs}.depthwise_conv.depthwise_conv", f"{theirs}.depthwise_conv.depthwise_norm"),
      f"{ours}.squeeze.{{layer}}": (f"{theirs}.squeeze_excite.{{layer}}", None),
      f"{ours}.project": (f"{theirs}.projection.project_conv", f"{theirs}.projection.project_bn"),
    }
  return parts


def name_like_timm(config: MobileConfig) -> Parts:
  parts: Parts = {"stem": ("conv_stem", "bn1"), "head": ("classifier", None)}
  for stage, index, has_expand, _ in list_blocks(config):
    ours, theirs = f"stages.{stage}.{index}", f"blocks.{stage}.{index}"
    numbers = itertools.count(1)
    # What only narrows is called as what widens is elsewhere.
    if has_expand:
      parts[f"{ours}.expand"] = (f"{theirs}.conv_pw", f"{theirs}.bn{next(numbers)}")
    parts |= {
      f"{ours}.depthwise": (f"{theirs}.conv_dw", f"{theirs}.bn{next(numbers)}"),
      f"{ours}.squeeze.{{layer}}": (f"{theirs}.se.conv_{{layer}}", None),
      f"{ours}.project": (f"{theirs}.{'conv_pwl' if has_expand else 'conv_pw'}", f"{theirs}.bn{next(numbers)}"),
    }
  if config.hidden:
    last = f"blocks.{len(config.stages)}.0"
    return parts | {"last": (f"{last}.conv", f"{last}.bn1"), "hidden": ("conv_head", None)}
  return parts | {"last": ("conv_head", "bn2")}


def name_like_torchvision(config: MobileConfig) -> Parts:
  blocks = list_blocks(config)
  # EfficientNet counts by stages, MobileNet counts blocks through; in v2 they end in a bare convolution and its norm.
  is_by_stage = config.activation == "swish"
  is_v2 = config.activation == "relu6"
  end = (len(config.stages) if is_by_stage else len(blocks)) + 1
  parts: Parts = {"stem": ("features.0.0", "features.0.1"), "last": (f"features.{end}.0", f"features.{end}.1")}
  for number, (stage, index, has_expand, has_squeeze) in enumerate(blocks):
    ours = f"stages.{stage}.{index}"
    theirs = (
      f"features.{stage + 1}.{index}.block" if is_by_stage else f"features.{number + 1}.{'conv' if is_v2 else 'block'}"
    )
    places = itertools.count()
    if has_expand:
      place = next(places)
      parts[f"{ours}.expand"] = (f"{theirs}.{place}.0", f"{theirs}.{place}.1")
    place = next(places)
    parts[f"{ours}.depthwise"] = (f"{theirs}.{place}.0", f"{theirs}.{place}.1")
    if has_squeeze:
      place = next(places)
      parts |= {
        f"{ours}.squeeze.reduce": (f"{theirs}.{place}.fc1", None),
        f"{ours}.squeeze.expand": (f"{theirs}.{place}.fc2", None),
      }
    place = next(places)
    parts[f"{ours}.project"] = (
      (f"{theirs}.{place}", f"{theirs}.{place + 1}") if is_v2 else (f"{theirs}.{place}.0", f"{theirs}.{place}.1")
    )
  if config.hidden:
    return parts | {"hidden": ("classifier.0", None), "head": ("classifier.3", None)}
  return parts | {"head": ("classifier.1", None)}


NAMERS = {
  "efficientnet-pytorch": name_like_authors,
  "torchvision": name_like_torchvision,
  "timm": name_like_timm,
  "transformers": name_like_transformers,
}
