"""From PyTorch's names to our modules."""

import functools
import pathlib
import re
from typing import Any

import numpy as np
import pytest

from jax_sis import classifiers, state_dicts, torch_weights


def refuses(message: str) -> Any:
  return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


@functools.cache
def our_shapes(num_classes: int) -> dict[str, tuple[int, ...]]:
  """PyTorch's name of every array -> the shape of ours."""
  names = torch_weights.resnet_cifar_names(classifiers.build("resnet20", num_classes=num_classes))
  return {name: variable.shape for name, variable in names.items()}


def make_state_dict(num_classes: int = 10) -> dict[str, np.ndarray]:
  """Random arrays under PyTorch's names and in its layout."""
  rng = np.random.default_rng(0)
  state_dict = {}
  for name, shape in our_shapes(num_classes).items():
    torch_shape = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]
    state_dict[name] = rng.normal(size=torch_shape).astype(np.float32)
  return state_dict


def test_arrays_go_to_their_places_in_our_layout():
  state_dict = make_state_dict(num_classes=7)
  module = torch_weights.load_resnet_cifar("resnet20", state_dict)
  block = module.blocks[3]
  assert block.norm2.scale is not None
  assert block.norm2.bias is not None
  np.testing.assert_array_equal(block.conv1.kernel[...], np.einsum("oihw->hwio", state_dict["layer2.0.conv1.weight"]))
  np.testing.assert_array_equal(module.stem_conv.kernel[0, 2, 1], state_dict["conv1.weight"][:, 1, 0, 2])
  np.testing.assert_array_equal(block.norm2.scale[...], state_dict["layer2.0.bn2.weight"])
  np.testing.assert_array_equal(block.norm2.bias[...], state_dict["layer2.0.bn2.bias"])
  np.testing.assert_array_equal(block.norm2.mean[...], state_dict["layer2.0.bn2.running_mean"])
  np.testing.assert_array_equal(block.norm2.var[...], state_dict["layer2.0.bn2.running_var"])
  np.testing.assert_array_equal(module.head.kernel[...], state_dict["linear.weight"].T)
  assert module.head.bias is not None
  np.testing.assert_array_equal(module.head.bias[...], state_dict["linear.bias"])
  assert block.norm2.use_running_average


def test_missing_and_unused_keys_are_listed():
  state_dict = make_state_dict()
  del state_dict["conv1.weight"], state_dict["layer1.0.bn1.bias"]
  state_dict["fc.weight"] = np.zeros((10, 64), np.float32)
  with refuses(
    "state_dict must hold exactly the arrays of resnet20; missing: ['conv1.weight', 'layer1.0.bn1.bias']; "
    "not used: ['fc.weight']."
  ):
    torch_weights.load_resnet_cifar("resnet20", state_dict)
  state_dict = make_state_dict() | {"extra": np.zeros(1, np.float32)}
  with refuses("state_dict must hold exactly the arrays of resnet20; missing: none; not used: ['extra']."):
    torch_weights.load_resnet_cifar("resnet20", state_dict)


def test_an_array_of_another_shape_is_refused():
  state_dict = make_state_dict()
  state_dict["layer3.0.conv1.weight"] = np.zeros((64, 16, 3, 3), np.float32)
  with refuses(
    "state_dict['layer3.0.conv1.weight'] must have the shape (3, 3, 32, 64) in our layout, got (3, 3, 16, 64)."
  ):
    torch_weights.load_resnet_cifar("resnet20", state_dict)


def test_the_published_file_holds_resnet20(shared_dir: pathlib.Path):
  tensors = state_dicts.read_state_dict(shared_dir / "data/weights/resnet20-12fca82f.th")
  assert set(tensors) == set(our_shapes(10))
  assert tensors["conv1.weight"].shape == (16, 3, 3, 3)
  assert all(np.isfinite(array).all() and array.dtype == np.float32 for array in tensors.values())
  assert all((array > 0).all() for name, array in tensors.items() if name.endswith("running_var"))
  module = torch_weights.load_resnet_cifar("resnet20", tensors)
  np.testing.assert_array_equal(module.head.kernel[...], tensors["linear.weight"].T)
