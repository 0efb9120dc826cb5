"""Writes `torch_logits_mobile.npz`, as `make_torch_logits.py` does, for networks of inverted residual blocks.

Needs what that needs, and efficientnet-lite-pytorch.

  python tests/golden/make_mobile_logits.py [--sensitivity]
"""

from collections.abc import Callable

import efficientnet_lite_pytorch
import make_torch_logits as golden
import timm
import torchvision
from torch import nn

# Sizes that are halved to even and odd numbers where those of the published weights are: 224, 240, 260, 280 and 300.
LITE_SIZES = (64, 80, 68, 88, 76)


def make_authors(name: str) -> Callable[[], nn.Module]:
  return lambda: efficientnet_lite_pytorch.EfficientNet.from_name(name)


def make_timm(name: str) -> Callable[[], nn.Module]:
  return lambda: timm.create_model(name)


def small(make_fn: Callable[[], nn.Module], *, size: int = 64, kernel_gain: float = 0.8) -> golden.Architecture:
  return golden.Architecture(make_fn=make_fn, input_shape=(1, 3, size, size), kernel_gain=kernel_gain)


ARCHITECTURES = {
  **{
    f"efficientnet_lite{number}": small(make_authors(f"efficientnet-lite{number}"), size=size)
    for number, size in enumerate(LITE_SIZES)
  },
  "efficientnet_lite0_timm": small(make_timm("tf_efficientnet_lite0")),
  "efficientnet_b0": small(torchvision.models.efficientnet_b0, kernel_gain=1.03),
  "efficientnet_b0_timm": small(make_timm("efficientnet_b0"), kernel_gain=1.03),
  "tf_efficientnet_b0": small(make_authors("efficientnet-b0"), kernel_gain=1.03),
  "mobilenet_v2": small(torchvision.models.mobilenet_v2),
  "mobilenet_v2_timm": small(make_timm("mobilenetv2_100")),
  "mobilenet_v3_large": small(torchvision.models.mobilenet_v3_large, kernel_gain=0.88),
  "mobilenet_v3_small": small(torchvision.models.mobilenet_v3_small, kernel_gain=1.0),
  "mobilenetv3_large_100": small(make_timm("mobilenetv3_large_100"), kernel_gain=0.88),
  "mobilenetv3_small_100": small(make_timm("mobilenetv3_small_100"), kernel_gain=1.0),
}

if __name__ == "__main__":
  golden.write_logits(golden.GOLDEN_DIR / "torch_logits_mobile.npz", ARCHITECTURES, {})
