"""PyTorch state dicts -> our modules, by tables of names.

For each part of our modules (a convolution with its norm, a norm, a linear layer), a table has PyTorch's names of the
convolution or linear layer and of the norm.
"""

import dataclasses
import functools
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_sis import classifiers
from jax_sis.classifiers import inception, resnet, vgg, wide_resnet

Shapes = dict[str, tuple[int, ...]]
Parts = dict[str, tuple[str | None, str | None]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Naming:
  """How one family of repositories names the parts of an architecture.

  Attributes:
    source: whose names these are.
    parts: the path of a part of ours -> the names of its convolution or linear layer, and of its norm; None if it has
      none. `{a}` stands for one step of a path, and `{a+1}` for that number counted from one.
    not_used: prefixes of names that evaluation does not need.
  """

  source: str
  parts: Parts
  not_used: tuple[str, ...] = ()


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Match:
  """How well a state dict fits an architecture under one naming.

  Attributes:
    model_name: a key of `classifiers.ARCHITECTURES`.
    naming: the table.
    num_classes: K, from the last layer of the state dict.
    missing: names that the architecture needs and the state dict lacks.
    unused: names that the state dict has and the architecture does not need.
    misshapen: name -> the shape that it must have, in PyTorch's layout.
    num_fitting: how many names are there in the right shape.
  """

  model_name: str
  naming: Naming
  num_classes: int
  missing: tuple[str, ...]
  unused: tuple[str, ...]
  misshapen: Shapes
  num_fitting: int

  @property
  def is_exact(self) -> bool:
    return not (self.missing or self.unused or self.misshapen)

  @property
  def likeness(self) -> float:
    """The share that fits, of all names that are present or needed."""
    num_wrong = len(self.missing) + len(self.unused) + len(self.misshapen)
    return self.num_fitting / max(1, self.num_fitting + num_wrong)


def load_module(model_name: str, state_dict: dict[str, np.ndarray]) -> Any:
  """Builds an architecture of ours with the arrays of a PyTorch state dict, in evaluation mode.

  Args:
    model_name: a key of `classifiers.ARCHITECTURES`.
    state_dict: names -> arrays, from `state_dicts.read_state_dict`; the last layer decides the number of classes.

  Raises:
    ValueError: there is no such architecture, or names are missing, not needed or of another shape. The message lists
      all of them, and the architecture that the state dict looks like.
  """
  match = best_match(state_dict, model_names=(model_name,))
  if not match.is_exact:
    raise ValueError(explain(match, state_dict))
  module = abstract_module(model_name, match.num_classes)
  graphdef, state = nnx.split(module)
  names = torch_names(model_name, match.naming, match.num_classes)
  flat_state = dict(nnx.to_flat_state(state))
  arrays = {
    path: variable.replace(jnp.asarray(to_our_layout(state_dict[names[path]]), variable.dtype))
    for path, variable in flat_state.items()
  }
  module = nnx.merge(graphdef, nnx.from_flat_state(arrays))
  module.eval()
  return module


def identify(state_dict: dict[str, np.ndarray]) -> str:
  """The architecture whose state dict this is.

  Raises:
    ValueError: it is none of ours; the message names the most similar one, and what differs.
  """
  match = best_match(state_dict)
  if not match.is_exact:
    raise ValueError(explain(match, state_dict))
  return match.model_name


def best_match(state_dict: dict[str, np.ndarray], *, model_names: tuple[str, ...] | None = None) -> Match:
  """The architecture and naming that a state dict fits best, among all or among `model_names`."""
  names = tuple(classifiers.ARCHITECTURES) if model_names is None else model_names
  matches = [
    compare(state_dict, name, naming) for name in names for naming in NAMINGS[type(classifiers.architecture(name))]
  ]
  return max(matches, key=lambda match: match.likeness)


def compare(state_dict: dict[str, np.ndarray], model_name: str, naming: Naming) -> Match:
  """Compares the names and shapes of a state dict with those that an architecture needs."""
  present = {
    name: array.shape
    for name, array in state_dict.items()
    if not name.endswith(COUNTER) and not name.startswith(naming.not_used or ("\0",))
  }
  head, _ = naming.parts["head"]
  num_classes = present.get(f"{head}.bias", (classifiers.architecture(model_name).num_classes,))[0]
  needed = needed_shapes(model_name, naming, num_classes)
  misshapen = {name: shape for name, shape in needed.items() if name in present and present[name] != shape}
  return Match(
    model_name=model_name,
    naming=naming,
    num_classes=num_classes,
    missing=tuple(name for name in needed if name not in present),
    unused=tuple(name for name in present if name not in needed),
    misshapen=misshapen,
    num_fitting=sum(present.get(name) == shape for name, shape in needed.items()),
  )


def explain(match: Match, state_dict: dict[str, np.ndarray]) -> str:
  """Why a state dict does not fit, name by name, and which architecture fits better."""
  lines = [f"state_dict must hold exactly the arrays of {match.model_name}, in the names of {match.naming.source}"]
  if match.missing:
    lines.append(f"missing: {', '.join(match.missing)}")
  if match.unused:
    lines.append(f"not used: {', '.join(match.unused)}")
  for name, shape in match.misshapen.items():
    lines.append(f"{name} must have the shape {shape}, got {state_dict[name].shape}")
  likely = best_match(state_dict)
  if likely.model_name != match.model_name and likely.likeness > match.likeness:
    how = "is" if likely.is_exact else f"looks most like ({likely.likeness:.0%} of the names fit)"
    lines.append(f"it {how} a state dict of {likely.model_name} in the names of {likely.naming.source}")
  return "; ".join(lines) + "."


def needed_shapes(model_name: str, naming: Naming, num_classes: int) -> Shapes:
  """The names and shapes, in PyTorch's layout, of all arrays that an architecture needs."""
  names = torch_names(model_name, naming, num_classes)
  state = nnx.state(abstract_module(model_name, num_classes))
  return {names[path]: torch_shape(variable.shape) for path, variable in nnx.to_flat_state(state)}


def torch_names(model_name: str, naming: Naming, num_classes: int) -> dict[tuple[Any, ...], str]:
  """The path of each of our variables -> PyTorch's name."""
  names = {}
  for path, _ in nnx.to_flat_state(nnx.state(abstract_module(model_name, num_classes))):
    tail = path[-2:] if path[-2:] in VARIABLES and path[-1:] not in (("kernel",),) else path[-1:]
    is_norm, suffix = VARIABLES[tail]
    part = ".".join(map(str, path[: -len(tail)]))
    names[path] = f"{part_names(naming, part)[is_norm]}.{suffix}"
  return names


def part_names(naming: Naming, part: str) -> tuple[str | None, str | None]:
  for pattern, names in naming.parts.items():
    found = re.fullmatch(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^.]+)", re.escape(pattern)), part)
    if found:
      conv_name, norm_name = (name and fill_in(name, found.groupdict()) for name in names)
      return conv_name, norm_name
  raise KeyError(f"{naming.source} has no name for {part}")


def fill_in(name: str, steps: dict[str, str]) -> str:
  """`layer{s+1}.{b}` with `s=0, b=2` -> `layer1.2`."""
  return re.sub(r"\{(\w+)(\+1)?\}", lambda found: str(int(steps[found[1]]) + 1) if found[2] else steps[found[1]], name)


@functools.cache
def abstract_module(model_name: str, num_classes: int) -> Any:
  return nnx.eval_shape(lambda: classifiers.build(model_name, num_classes=num_classes))


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
  """HWIO -> OIHW for kernels; linear layers are transposed."""
  return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def to_our_layout(array: np.ndarray) -> np.ndarray:
  """OIHW -> HWIO for kernels; linear layers are transposed."""
  return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
