"""PyTorch's names of the parts of our modules, by tables."""

import functools
from typing import Any

from jax_sis.classifiers import inception, mobile, mobile_namings, resnet, vgg, wide_resnet
from jax_sis.classifiers.naming import Naming, Parts

# A block's two or three convolutions are numbered from one.
RESNET_PARTS: Parts = {
  "stem": ("conv1", "bn1"),
  "stages.{s}.{b}.convs.{c}": ("layer{s+1}.{b}.conv{c+1}", "layer{s+1}.{b}.bn{c+1}"),
}
RESNET_NAMINGS = (
  Naming(
    source="pytorch_resnet_cifar10 (Idelbayev) and pytorch-cifar (kuangliu)",
    parts=RESNET_PARTS
    | {
      "stages.{s}.{b}.shortcut": ("layer{s+1}.{b}.shortcut.0", "layer{s+1}.{b}.shortcut.1"),
      "head": ("linear", None),
    },
  ),
  Naming(
    source="torchvision and timm",
    parts=RESNET_PARTS
    | {
      "stages.{s}.{b}.shortcut": ("layer{s+1}.{b}.downsample.0", "layer{s+1}.{b}.downsample.1"),
      "head": ("fc", None),
    },
  ),
  Naming(
    source="transformers",
    parts={
      "stem": ("resnet.embedder.embedder.convolution", "resnet.embedder.embedder.normalization"),
      "stages.{s}.{b}.convs.{c}": (
        "resnet.encoder.stages.{s}.layers.{b}.layer.{c}.convolution",
        "resnet.encoder.stages.{s}.layers.{b}.layer.{c}.normalization",
      ),
      "stages.{s}.{b}.shortcut": (
        "resnet.encoder.stages.{s}.layers.{b}.shortcut.convolution",
        "resnet.encoder.stages.{s}.layers.{b}.shortcut.normalization",
      ),
      "head": ("classifier.1", None),
    },
  ),
)
# The places of each stage's convolutions among the numbered features. A norm follows each, then rectifiers and pooling.
VGG16_FEATURES = ((0, 3), (7, 10), (14, 17, 20), (24, 27, 30), (34, 37, 40))
VGG_PARTS: Parts = {
  f"stages.{stage}.{index}": (f"features.{number}", f"features.{number + 1}")
  for stage, numbers in enumerate(VGG16_FEATURES)
  for index, number in enumerate(numbers)
}
VGG_NAMINGS = (Naming(source="pytorch-cifar (kuangliu)", parts=VGG_PARTS | {"head": ("classifier", None)}),)
WIDE_RESNET_NAMINGS = (
  Naming(
    source="WideResNet-pytorch (xternalz)",
    parts={
      "stem": ("conv1", None),
      "stages.{s}.{b}.norm": (None, "block{s+1}.layer.{b}.bn1"),
      "stages.{s}.{b}.conv1": ("block{s+1}.layer.{b}.conv1", "block{s+1}.layer.{b}.bn2"),
      "stages.{s}.{b}.conv2": ("block{s+1}.layer.{b}.conv2", None),
      "stages.{s}.{b}.shortcut": ("block{s+1}.layer.{b}.convShortcut", None),
      "norm": (None, "bn1"),
      "head": ("fc", None),
    },
  ),
)
INCEPTION_NAMINGS = (
  Naming(
    source="torchvision",
    parts={
      "stem.{conv}": ("{conv}.conv", "{conv}.bn"),
      "mixed.{layer}.layers.{conv}": ("{layer}.{conv}.conv", "{layer}.{conv}.bn"),
      "head": ("fc", None),
    },
    not_used=("AuxLogits.",),
  ),
)
NAMINGS: dict[type, tuple[Naming, ...]] = {
  resnet.ResNetConfig: RESNET_NAMINGS,
  vgg.VggConfig: VGG_NAMINGS,
  wide_resnet.WideResNetConfig: WIDE_RESNET_NAMINGS,
  inception.InceptionConfig: INCEPTION_NAMINGS,
}


@functools.cache
def find_namings(config: Any) -> tuple[Naming, ...]:
  """How an architecture with this configuration is named; where blocks are counted through, depth decides."""
  if isinstance(config, mobile.MobileConfig):
    return mobile_namings.make_namings(config)
  return NAMINGS[type(config)]


# Our variable of a part -> whether it belongs to the norm, and PyTorch's name for it.
VARIABLES = {
  ("kernel",): (False, "weight"),
  ("bias",): (False, "bias"),
  ("norm", "scale"): (True, "weight"),
  ("norm", "bias"): (True, "bias"),
  ("norm", "mean"): (True, "running_mean"),
  ("norm", "var"): (True, "running_var"),
}
# A counter that PyTorch keeps for norms without a momentum; evaluation does not use it.
COUNTER = "num_batches_tracked"
