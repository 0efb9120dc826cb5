"""Writes `torch_logits_imagenet.npz` and `tiny_logits.npz` as `make_torch_logits.py` does; needs transformers as well.

Of the tiny networks, each library's own definition is used in a size that quick tests can compile.

  python tests/golden/make_imagenet_logits.py [--sensitivity]
"""

from typing import Any

import make_torch_logits
import random_weights
import timm
import torchvision
import transformers
from make_torch_logits import Architecture
from torch import nn
from torchvision.models.convnext import CNBlockConfig

# Widths and depths of the tiny networks, for images of 32 pixels with 10 classes.
CONVNEXT = {"widths": (6, 8, 10, 12), "depths": (1, 2, 1, 1)}
VIT = {"image_size": 32, "width": 24, "depth": 2, "heads": 3, "patch_size": 8}


def timm_vit(**options: Any) -> nn.Module:
  """Timm's vision transformer, tiny."""
  make_fn = timm.models.deit.VisionTransformerDistilled if options.pop("distilled", False) else None
  make_fn = make_fn or timm.models.vision_transformer.VisionTransformer
  return make_fn(
    img_size=VIT["image_size"],
    patch_size=VIT["patch_size"],
    embed_dim=VIT["width"],
    depth=VIT["depth"],
    num_heads=VIT["heads"],
    num_classes=10,
  )


def transformers_config(config_class: Any, **options: Any) -> Any:
  """A configuration of transformers, tiny, with its own epsilon, 1e-12 instead of 1e-6."""
  return config_class(
    hidden_size=VIT["width"],
    num_hidden_layers=VIT["depth"],
    num_attention_heads=VIT["heads"],
    intermediate_size=4 * VIT["width"],
    image_size=VIT["image_size"],
    patch_size=VIT["patch_size"],
    num_labels=10,
    **options,
  )


def torchvision_vit() -> nn.Module:
  """Torchvision's vision transformer, tiny."""
  return torchvision.models.VisionTransformer(
    image_size=VIT["image_size"],
    patch_size=VIT["patch_size"],
    num_layers=VIT["depth"],
    num_heads=VIT["heads"],
    hidden_dim=VIT["width"],
    mlp_dim=4 * VIT["width"],
    num_classes=10,
  )


def torchvision_convnext() -> nn.Module:
  """Torchvision's ConvNeXt, tiny."""
  widths = [*CONVNEXT["widths"], None]
  settings = [CNBlockConfig(widths[stage], widths[stage + 1], depth) for stage, depth in enumerate(CONVNEXT["depths"])]
  return torchvision.models.ConvNeXt(settings, num_classes=10)


def transformers_convnext() -> nn.Module:
  """Transformers' ConvNeXt, tiny, with scales by channel."""
  config = transformers.ConvNextConfig(
    hidden_sizes=list(CONVNEXT["widths"]), depths=list(CONVNEXT["depths"]), num_labels=10, image_size=32
  )
  return transformers.ConvNextForImageClassification(config)


TINY = {
  "vit_torchvision": Architecture(make_fn=torchvision_vit, kernel_gain=0.7),
  "vit_timm": Architecture(make_fn=timm_vit, kernel_gain=0.7),
  "vit_transformers": Architecture(
    make_fn=lambda: transformers.ViTForImageClassification(transformers_config(transformers.ViTConfig)),
    kernel_gain=0.7,
  ),
  "deit_timm": Architecture(make_fn=lambda: timm_vit(distilled=True), kernel_gain=0.7),
  "deit_transformers": Architecture(
    make_fn=lambda: transformers.DeiTForImageClassificationWithTeacher(transformers_config(transformers.DeiTConfig)),
    kernel_gain=0.7,
  ),
  "convnext_torchvision": Architecture(make_fn=torchvision_convnext, kernel_gain=0.7),
  "convnext_timm": Architecture(
    make_fn=lambda: timm.models.ConvNeXt(depths=CONVNEXT["depths"], dims=CONVNEXT["widths"], num_classes=10),
    kernel_gain=0.7,
  ),
  "convnext_transformers": Architecture(make_fn=transformers_convnext, kernel_gain=0.7),
}
SHAPE = (1, 3, 224, 224)
IMAGENET = {
  "resnet18_imagenet": Architecture(make_fn=torchvision.models.resnet18, input_shape=SHAPE, kernel_gain=0.7),
  "resnet34": Architecture(make_fn=torchvision.models.resnet34, input_shape=SHAPE, kernel_gain=0.65),
  "resnet101": Architecture(make_fn=torchvision.models.resnet101, input_shape=SHAPE, kernel_gain=0.6),
  # Of a size at which the windows of pooling reach beyond the edge.
  "squeezenet1_1": Architecture(make_fn=torchvision.models.squeezenet1_1, input_shape=(2, 3, 34, 34)),
  "convnext_t": Architecture(make_fn=torchvision.models.convnext_tiny, input_shape=SHAPE, kernel_gain=0.6),
  "convnext_t_timm": Architecture(
    make_fn=lambda: timm.create_model("convnext_tiny"), input_shape=SHAPE, kernel_gain=0.6
  ),
  "vit_b_16": Architecture(make_fn=torchvision.models.vit_b_16, input_shape=SHAPE, kernel_gain=0.6),
  "vit_s_16": Architecture(
    make_fn=lambda: timm.create_model("vit_small_patch16_224"), input_shape=SHAPE, kernel_gain=0.6
  ),
  "deit_small_distilled": Architecture(
    make_fn=lambda: timm.create_model("deit_small_distilled_patch16_224"), input_shape=SHAPE, kernel_gain=0.6
  ),
  "deit_base_distilled_transformers": Architecture(
    make_fn=lambda: transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(num_labels=1000)),
    input_shape=SHAPE,
    kernel_gain=0.6,
  ),
}

if __name__ == "__main__":
  make_torch_logits.write_logits(random_weights.TINY_LOGITS_FILE, TINY, {})
  make_torch_logits.write_logits(make_torch_logits.GOLDEN_DIR / "torch_logits_imagenet.npz", IMAGENET, {})
  print(f"transformers {transformers.__version__}")
