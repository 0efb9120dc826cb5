"""Writes `torch_logits.npz`: what PyTorch makes of random weights, to which our modules are compared.

Needs PyTorch, torchvision, timm and pytorchcv. Every logit is computed in float64 and evaluation mode. Where a library
defines an architecture under the names wanted, its definition is used; the other ones are the twins below, each
compared with an independent definition where there is one.

  python tests/golden/make_torch_logits.py [--sensitivity]
"""

import argparse
import dataclasses
import json
import pathlib
import re
import sys
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

GOLDEN_DIR = pathlib.Path(__file__).parent
sys.path[:0] = [str(GOLDEN_DIR.parent), str(GOLDEN_DIR.parents[1] / "benchmarks")]

# torchvision registers shape rules for its compiled operators, and fails where a CUDA wheel's library does not load
# beside a CPU build of PyTorch. No classifier calls them, so it is enough that their names exist.
for operator in ("nms", "qnms") if torch.version.cuda is None else ():
  torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import pytorch_peer  # noqa: E402
import pytorchcv.model_provider  # noqa: E402
import random_weights  # noqa: E402
import timm  # noqa: E402
import torchvision  # noqa: E402

SEED = 0
# Of logits, so that float32 can be asked for 1e-4.
STD_RANGE = (0.3, 10)


class CifarBlock(nn.Module):
  """A basic block of He et al. (2016), with a shortcut of option A where `shortcut` is None."""

  def __init__(self, in_width: int, width: int, stride: int, *, has_projections: bool):
    super().__init__()
    self.stride, self.missing = stride, width - in_width
    self.conv1 = nn.Conv2d(in_width, width, 3, stride, 1, bias=False)
    self.bn1 = nn.BatchNorm2d(width)
    self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
    self.bn2 = nn.BatchNorm2d(width)
    self.shortcut = None
    if has_projections:
      self.shortcut = nn.Sequential()
      if self.missing:
        self.shortcut.extend([nn.Conv2d(in_width, width, 1, stride, bias=False), nn.BatchNorm2d(width)])

  def forward(self, inputs: torch.Tensor) -> torch.Tensor:
    """Feature maps -> feature maps."""
    hidden = functional.relu(self.bn1(self.conv1(inputs)))
    hidden = self.bn2(self.conv2(hidden))
    if self.shortcut is None:
      before = self.missing // 2
      kept = inputs[:, :, :: self.stride, :: self.stride]
      return functional.relu(hidden + functional.pad(kept, (0, 0, 0, 0, before, self.missing - before)))
    return functional.relu(hidden + self.shortcut(inputs))


class CifarResNet(nn.Module):
  """ResNet for 32x32 images; the names are Idelbayev's, and kuangliu's where shortcuts are projections."""

  def __init__(self, num_blocks: int, widths: tuple[int, ...], *, has_projections: bool = False):
    super().__init__()
    self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
    self.bn1 = nn.BatchNorm2d(widths[0])
    self.num_stages = len(widths)
    in_width = widths[0]
    for stage, width in enumerate(widths):
      strides = [1 if stage == 0 else 2] + [1] * (num_blocks - 1)
      in_widths = [in_width] + [width] * (num_blocks - 1)
      blocks = [
        CifarBlock(*pair, stride, has_projections=has_projections)
        for *pair, stride in zip(in_widths, [width] * num_blocks, strides, strict=True)
      ]
      setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
      in_width = width
    self.linear = nn.Linear(in_width, 10)

  def forward(self, inputs: torch.Tensor) -> torch.Tensor:
    """Images -> logits."""
    hidden = functional.relu(self.bn1(self.conv1(inputs)))
    for stage in range(self.num_stages):
      hidden = getattr(self, f"layer{stage + 1}")(hidden)
    return self.linear(hidden.mean((2, 3)))


class WideBlock(nn.Module):
  """A block of Zagoruyko and Komodakis (2016): norms come before convolutions."""

  def __init__(self, in_width: int, width: int, stride: int):
    super().__init__()
    self.bn1 = nn.BatchNorm2d(in_width)
    self.conv1 = nn.Conv2d(in_width, width, 3, stride, 1, bias=False)
    self.bn2 = nn.BatchNorm2d(width)
    self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
    self.convShortcut = None if in_width == width else nn.Conv2d(in_width, width, 1, stride, bias=False)

  def forward(self, inputs: torch.Tensor) -> torch.Tensor:
    """Feature maps -> feature maps."""
    normed = functional.relu(self.bn1(inputs))
    hidden = self.conv2(functional.relu(self.bn2(self.conv1(normed))))
    return hidden + (inputs if self.convShortcut is None else self.convShortcut(normed))


class WideStage(nn.Module):
  """The blocks of one resolution, under the name that xternalz gives them."""

  def __init__(self, in_width: int, width: int, stride: int, num_blocks: int):
    super().__init__()
    rest = [WideBlock(width, width, 1) for _ in range(num_blocks - 1)]
    self.layer = nn.Sequential(WideBlock(in_width, width, stride), *rest)

  def forward(self, inputs: torch.Tensor) -> torch.Tensor:
    """Feature maps -> feature maps."""
    return self.layer(inputs)


class WideResNet(nn.Module):
  """WRN-28-10 under the names of xternalz/WideResNet-pytorch."""

  def __init__(self):
    super().__init__()
    self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
    self.block1 = WideStage(16, 160, 1, 4)
    self.block2 = WideStage(160, 320, 2, 4)
    self.block3 = WideStage(320, 640, 2, 4)
    self.bn1 = nn.BatchNorm2d(640)
    self.fc = nn.Linear(640, 10)

  def forward(self, inputs: torch.Tensor) -> torch.Tensor:
    """Images -> logits."""
    hidden = self.block3(self.block2(self.block1(self.conv1(inputs))))
    return self.fc(functional.relu(self.bn1(hidden)).mean((2, 3)))


class Vgg16(nn.Module):
  """VGG-16 with batch norm for 32x32 images: torchvision's convolutions, and one linear layer, as in kuangliu's."""

  def __init__(self):
    super().__init__()
    self.features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["D"], batch_norm=True)
    self.classifier = nn.Linear(512, 10)

  def forward(self, inputs: torch.Tensor) -> torch.Tensor:
    """Images -> logits."""
    return self.classifier(self.features(inputs).flatten(1))


def torchvision_resnet18() -> nn.Module:
  """Torchvision's ResNet-18 with a stem for 32x32 images."""
  model = torchvision.models.resnet18(num_classes=10)
  model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
  model.maxpool = nn.Identity()
  return model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
  """How a network is made, and what it is given."""

  make_fn: Callable[[], nn.Module]
  input_shape: tuple[int, ...] = (2, 3, 32, 32)
  kernel_gain: float = 1.0


# Gains keep activations near 1, beside which biases and means of 0.1 can be seen: a sum over many blocks grows.
ARCHITECTURES = {
  "resnet20": Architecture(make_fn=lambda: CifarResNet(3, (16, 32, 64)), kernel_gain=0.7),
  "resnet32": Architecture(make_fn=lambda: CifarResNet(5, (16, 32, 64)), kernel_gain=0.65),
  "resnet44": Architecture(make_fn=lambda: CifarResNet(7, (16, 32, 64)), kernel_gain=0.6),
  "resnet56": Architecture(make_fn=lambda: CifarResNet(9, (16, 32, 64)), kernel_gain=0.55),
  "resnet18": Architecture(make_fn=lambda: CifarResNet(2, (64, 128, 256, 512), has_projections=True), kernel_gain=0.7),
  "resnet18_torchvision": Architecture(make_fn=torchvision_resnet18, kernel_gain=0.7),
  "vgg16": Architecture(make_fn=Vgg16),
  "wrn28_10": Architecture(make_fn=WideResNet, kernel_gain=0.65),
  "resnet50": Architecture(make_fn=torchvision.models.resnet50, input_shape=(1, 3, 224, 224), kernel_gain=0.65),
  "inception_v3": Architecture(
    make_fn=lambda: torchvision.models.inception_v3(transform_input=False, aux_logits=True, init_weights=False),
    input_shape=(1, 3, 299, 299),
    kernel_gain=0.9,
  ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Twin:
  """An independent definition of an architecture, and how its names are said in ours."""

  make_fn: Callable[[], nn.Module]
  renaming: tuple[tuple[str, str], ...] = ()


TWINS = {
  "resnet20": Twin(make_fn=pytorch_peer.ResNet20),
  "resnet18": Twin(make_fn=torchvision_resnet18, renaming=((r"\bdownsample\b", "shortcut"), (r"\bfc\b", "linear"))),
  "wrn28_10": Twin(
    make_fn=lambda: pytorchcv.model_provider.get_model("wrn28_10_cifar10"),
    renaming=(
      (r"^features\.init_block\.", "conv1."),
      (r"^features\.post_activ\.bn\.", "bn1."),
      (r"^features\.stage(\d)\.", r"block\1."),
      (r"\bunit1\b", "layer.0"),
      (r"\bunit2\b", "layer.1"),
      (r"\bunit3\b", "layer.2"),
      (r"\bunit4\b", "layer.3"),
      (r"\bbody\.conv(\d)\.(conv|bn)\.", r"\2\1."),
      (r"\bidentity_conv\b", "convShortcut"),
      (r"^output\.", "fc."),
    ),
  ),
  "resnet50": Twin(make_fn=lambda: timm.create_model("resnet50")),
}


def load_random_weights(
  model: nn.Module, kernel_gain: float, renaming: tuple[tuple[str, str], ...] = ()
) -> dict[str, tuple[int, ...]]:
  """Gives the network the random weights of its arrays' names after the renaming, and returns these and the shapes."""
  names = {}
  for key in model.state_dict():
    name = key
    for pattern, replacement in renaming:
      name = re.sub(pattern, replacement, name)
    names[key] = name
  shapes = {names[key]: tuple(array.shape) for key, array in model.state_dict().items()}
  arrays = random_weights.random_state_dict(shapes, kernel_gain=kernel_gain)
  model.load_state_dict({key: torch.tensor(arrays[name]) for key, name in names.items()})
  model.eval()
  return shapes


def compute_logits(model: nn.Module, inputs: np.ndarray, dtype: torch.dtype) -> np.ndarray:
  """The logits of a batch, computed in `dtype`."""
  with torch.no_grad():
    return model.to(dtype)(torch.tensor(inputs, dtype=dtype)).numpy()


def least_change(model: nn.Module, inputs: np.ndarray) -> tuple[float, str]:
  """How far the logits move when one array is disarranged, and the array for which that is least.

  A kernel is transposed in space, or turned where it is not square, and every other array is reversed.
  """
  before = compute_logits(model, inputs, torch.float32)
  changes = []
  for name, array in model.state_dict().items():
    if array.ndim == 0 or name.startswith("AuxLogits."):
      continue
    original = array.clone()
    is_spatial = array.ndim == 4 and array.shape[2:].numel() > 1
    is_square = is_spatial and array.shape[2] == array.shape[3]
    array.copy_(original.mT if is_square else original.flip((2, 3) if is_spatial else (0,)))
    changes.append((float(np.abs(compute_logits(model, inputs, torch.float32) - before).max()), name))
    array.copy_(original)
  return min(changes)


def write_logits(path: pathlib.Path, architectures: dict[str, Architecture], twins: dict[str, Twin]) -> None:
  """Checks every network against its twin, prints what a reader may want to know, and writes the file."""
  parser = argparse.ArgumentParser()
  parser.add_argument("--sensitivity", action="store_true", help="also disarrange one array after another (minutes)")
  options = parser.parse_args()
  content = {}
  for name, architecture in architectures.items():
    model = architecture.make_fn()
    shapes = load_random_weights(model, architecture.kernel_gain)
    inputs = random_weights.random_inputs(architecture.input_shape, SEED)
    if options.sensitivity:
      change, key = least_change(model, inputs)
      print(f"{name}: disarranging {key} moves the logits by {change:.4f}, every other array by more", flush=True)
    rounded = compute_logits(model, inputs, torch.float32)
    logits = compute_logits(model, inputs, torch.float64)
    line = f"{name}: std {logits.std():.3f}, float32 is off by {np.abs(rounded - logits).max():.1e}"
    if not STD_RANGE[0] < logits.std() < STD_RANGE[1]:
      raise SystemExit(f"{line}: change its kernel_gain")
    if name in twins:
      twin = twins[name].make_fn()
      twin_shapes = load_random_weights(twin, architecture.kernel_gain, twins[name].renaming)
      difference = np.abs(compute_logits(twin, inputs, torch.float64) - logits).max()
      line += f", the twin by {difference:.1e}"
      if difference > 1e-10 or twin_shapes != shapes:
        raise SystemExit(line)
    print(line, flush=True)
    description = {
      "shapes": shapes,
      "kernel_gain": architecture.kernel_gain,
      "input_shape": architecture.input_shape,
      "seed": SEED,
    }
    content[f"{name}/description"] = np.array(json.dumps(description))
    content[f"{name}/logits"] = logits
  np.savez_compressed(path, allow_pickle=False, **content)
  print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}")


if __name__ == "__main__":
  write_logits(GOLDEN_DIR / "torch_logits.npz", ARCHITECTURES, TWINS)
