"""PyTorch's arrays go to their places, to the same logits, and whatever does not fit is named."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights

from jax_sis import classifiers
from jax_sis.classifiers import torch_weights

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")

MODEL_NAMES = {"resnet18_torchvision": "resnet18"}
CIFAR_REPOSITORIES = "pytorch_resnet_cifar10 (Idelbayev) and pytorch-cifar (kuangliu)"


def golden_state_dict(name: str = "resnet20") -> dict[str, np.ndarray]:
  """A state dict under PyTorch's names, with random arrays."""
  return random_weights.read_golden_logits(name).state_dict()


@pytest.mark.parametrize("name", random_weights.slow_but_resnet20(random_weights.golden_names()))
def test_logits_are_those_of_pytorch(name: str):
  golden = random_weights.read_golden_logits(name)
  model_name = torch_weights.identify(golden.state_dict())
  assert model_name == MODEL_NAMES.get(name, name)
  module = torch_weights.load_module(model_name, golden.state_dict())
  inputs = jnp.asarray(golden.inputs().transpose(0, 2, 3, 1), jnp.float32)
  np.testing.assert_allclose(jax.jit(module)(inputs), golden.logits, rtol=0, atol=1e-4)


def test_the_last_layer_tells_the_number_of_classes():
  state_dict = golden_state_dict()
  state_dict["linear.weight"], state_dict["linear.bias"] = np.ones((7, 64), np.float32), np.ones(7, np.float32)
  module = torch_weights.load_module("resnet20", state_dict)
  assert module.head.kernel.shape == (64, 7)


def test_arrays_keep_their_numbers_and_the_module_evaluates():
  state_dict = golden_state_dict()
  module = torch_weights.load_module("resnet20", state_dict)
  conv = module.stages[1][0].convs[1]
  np.testing.assert_array_equal(conv.kernel[...], np.einsum("oihw->hwio", state_dict["layer2.0.conv2.weight"]))
  np.testing.assert_array_equal(conv.norm.scale[...], state_dict["layer2.0.bn2.weight"])
  np.testing.assert_array_equal(conv.norm.bias[...], state_dict["layer2.0.bn2.bias"])
  np.testing.assert_array_equal(conv.norm.mean[...], state_dict["layer2.0.bn2.running_mean"])
  np.testing.assert_array_equal(conv.norm.var[...], state_dict["layer2.0.bn2.running_var"])
  np.testing.assert_array_equal(module.head.kernel[...], state_dict["linear.weight"].T)
  assert conv.norm.use_running_average


def refuses(message: str) -> pytest.RaisesExc[ValueError]:
  return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def test_every_missing_unused_and_misshapen_array_is_named():
  state_dict = golden_state_dict()
  del state_dict["conv1.weight"], state_dict["layer1.0.bn1.bias"]
  state_dict["extra.a"] = state_dict["extra.b"] = np.zeros(1, np.float32)
  state_dict["layer3.0.conv1.weight"] = np.zeros((64, 16, 3, 3), np.float32)
  with refuses(
    f"state_dict must hold exactly the arrays of resnet20, in the names of {CIFAR_REPOSITORIES}; "
    "missing: layer1.0.bn1.bias, conv1.weight; not used: extra.a, extra.b; "
    "layer3.0.conv1.weight must have the shape (64, 32, 3, 3), got (64, 16, 3, 3)."
  ):
    torch_weights.load_module("resnet20", state_dict)


@pytest.mark.parametrize(
  ("asked", "given", "source"),
  [
    ("resnet20", "resnet56", CIFAR_REPOSITORIES),
    ("resnet56", "resnet20", CIFAR_REPOSITORIES),
    ("resnet50", "inception_v3", "torchvision"),
    ("vgg16", "wrn28_10", "WideResNet-pytorch (xternalz)"),
    ("resnet20", "resnet18_torchvision", "torchvision and timm"),
  ],
)
def test_a_state_dict_of_another_architecture_is_recognised(asked: str, given: str, source: str):
  message = f"; it is a state dict of {MODEL_NAMES.get(given, given)} in the names of {source}."
  with pytest.raises(ValueError, match=f"^state_dict must hold exactly the arrays of {asked}, .*{re.escape(message)}$"):
    torch_weights.load_module(asked, golden_state_dict(given))


def test_a_damaged_state_dict_of_another_architecture_is_recognised():
  state_dict = golden_state_dict("resnet32")
  del state_dict["conv1.weight"]
  with pytest.raises(
    ValueError, match=r"; it looks most like \(9\d% of the names fit\) a state dict of resnet32 in the names of .*\.$"
  ):
    torch_weights.load_module("resnet20", state_dict)


def test_a_foreign_state_dict_says_what_it_looks_like_most():
  state_dict = golden_state_dict("resnet20") | {"layer2.0.downsample.0.weight": np.zeros((32, 16, 1, 1), np.float32)}
  with pytest.raises(ValueError, match=r"arrays of resnet20, .* not used: layer2\.0\.downsample\.0\.weight\.$"):
    torch_weights.identify(state_dict)


def test_nothing_is_built_from_a_state_dict_that_does_not_fit(monkeypatch: pytest.MonkeyPatch):
  built = []
  monkeypatch.setattr(torch_weights.nnx, "merge", lambda *arguments: built.append(arguments))
  with pytest.raises(ValueError, match="must hold exactly"):
    torch_weights.load_module("resnet20", {"a": np.zeros(1, np.float32)})
  assert built == []


def test_every_part_of_every_architecture_has_a_name_of_its_own():
  for model_name in classifiers.ARCHITECTURES:
    for naming in torch_weights.NAMINGS[type(classifiers.architecture(model_name))]:
      names = torch_weights.torch_names(model_name, naming, 10)
      assert len(set(names.values())) == len(names)


def test_an_unknown_architecture_is_refused():
  with pytest.raises(ValueError, match=r"^model must be one of \[.*\], got 'alexnet'\.$"):
    torch_weights.load_module("alexnet", golden_state_dict())
