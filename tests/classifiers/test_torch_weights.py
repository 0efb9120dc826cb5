"""PyTorch's arrays go to their places, to the same logits, and whatever does not fit is named."""

import re
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights

from jax_sis import classifiers
from jax_sis.classifiers import torch_weights
from jax_sis.classifiers.torch_namings import NAMINGS, find_namings

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")

MODEL_NAMES = {
  "resnet18_torchvision": "resnet18",
  "efficientnet_lite0_timm": "efficientnet_lite0",
  "efficientnet_b0_timm": "efficientnet_b0",
  "mobilenet_v2_timm": "mobilenet_v2",
  "convnext_t_timm": "convnext_t",
  "deit_base_distilled_transformers": "deit_base_distilled",
}
CIFAR_REPOSITORIES = "pytorch_resnet_cifar10 (Idelbayev) and pytorch-cifar (kuangliu)"


def golden_shapes(name: str) -> list[str]:
  shapes = random_weights.read_golden_logits(name).shapes
  return [name for name in shapes if not name.endswith("num_batches_tracked")]


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


@pytest.mark.slow
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
  with refuses(
    f"state_dict looks most like resnet20, in the names of {CIFAR_REPOSITORIES} (99% of the names fit), but must hold "
    "exactly its arrays; not used: layer2.0.downsample.0.weight."
  ):
    torch_weights.identify(state_dict)


def behind(prefix: str, state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  return {prefix + name: array for name, array in state_dict.items()}


BESIDE = {
  "encoder.": {},
  "learner.student.resnet.": {},
  "module.": {"n_averaged": np.array(5)},
  "model.": {"criterion.weight": np.ones(10, np.float32), "train_acc.tp": np.ones(10, np.int64)},
  "": {"n_averaged": np.array(5), "criterion.weight": np.ones(10, np.float32), "steps": np.arange(3)},
  "encoder_q.": {"queue": np.ones((128, 99), np.float32), "projector.0.weight": np.ones((7, 64), np.float32)},
}


@pytest.mark.parametrize("prefix", BESIDE)
def test_a_network_is_found_behind_any_prefix_and_what_is_beside_it_is_said(prefix: str):
  state_dict = behind(prefix, golden_state_dict()) | BESIDE[prefix]
  match = torch_weights.find_match(state_dict, "resnet20")
  assert (match.prefix, match.left_out) == (prefix, tuple(BESIDE[prefix]))
  module = torch_weights.load_module("resnet20", state_dict)
  np.testing.assert_array_equal(module.head.kernel[...], golden_state_dict()["linear.weight"].T)
  said = torch_weights.describe(match)
  assert len(said) == bool(BESIDE[prefix])
  assert all(name in said[0] for name in BESIDE[prefix])


def test_the_architecture_is_recognised_behind_a_prefix():
  assert torch_weights.identify(behind("encoder.", golden_state_dict("resnet32"))) == "resnet32"
  without_head = golden_state_dict("resnet32")
  del without_head["linear.weight"], without_head["linear.bias"]
  with refuses(
    f"state_dict looks most like resnet32, in the names of {CIFAR_REPOSITORIES}, behind 'encoder.' (99% of the names "
    "fit), but must hold exactly its arrays; missing: linear.bias, linear.weight."
  ):
    torch_weights.identify(behind("encoder.", without_head) | {"decoder.a": np.zeros(3, np.float32)})


def test_what_would_change_the_answer_is_not_left_out():
  state_dict = golden_state_dict()
  for prefix, name, shape in (
    ("", "attention.weight", (64, 64)),
    ("", "temperature", ()),
    ("model.", "model.layer4.weight", (64, 64)),
    # It takes the ten logits further.
    ("model.", "classifier.weight", (2, 10)),
  ):
    with pytest.raises(ValueError, match=rf"not used: {re.escape(name.removeprefix(prefix))}\.$"):
      torch_weights.load_module("resnet20", behind(prefix, state_dict) | {name: np.ones(shape, np.float32)})


@pytest.mark.parametrize("prefixes", [("student.", "teacher."), ("", "ema.")])
def test_two_networks_are_chosen_from_by_key(prefixes: tuple[str, str]):
  state_dict = behind(prefixes[0], golden_state_dict()) | behind(prefixes[1], golden_state_dict())
  names = ", ".join(repr(prefix.rstrip(".")) for prefix in prefixes)
  with refuses(
    f"state_dict must hold one network, got several of resnet20, whose names begin with {names}; say by key which is "
    "meant."
  ):
    torch_weights.load_module("resnet20", state_dict)


@pytest.mark.parametrize("model_name", [None, "resnet20"])
def test_a_refusal_has_under_fifteen_lines_and_says_that_none_is_near(model_name: str | None):
  long = "blocks.{}.attention.projection_of_queries_keys_and_values." + "x" * 200
  foreign = {long.format(number): np.zeros((3, 3), np.float32) for number in range(100)}
  # Anchors of ours in many places, too.
  foreign |= {f"blocks.{number}.linear.bias": np.zeros(3, np.float32) for number in range(100)}
  with pytest.raises(ValueError, match=r"none is near|no other architecture of ours is near") as error:
    torch_weights.find_match(foreign, model_name)
  assert len(textwrap.wrap(str(error.value), 80)) < 15
  misshapen = {name: np.zeros((1, *array.shape), np.float32) for name, array in golden_state_dict("resnet32").items()}
  with pytest.raises(ValueError, match="more have another shape") as error:
    torch_weights.find_match(misshapen | behind("w", foreign), "resnet32")
  assert len(textwrap.wrap(str(error.value), 80)) < 15


def test_the_names_of_transformers_are_known():
  (naming,) = (naming for naming in NAMINGS[classifiers.ResNetConfig] if naming.source == "transformers")
  shapes = torch_weights.needed_shapes("resnet50", naming, 1000)
  for name, shape in {
    "resnet.embedder.embedder.convolution.weight": (64, 3, 7, 7),
    "resnet.embedder.embedder.normalization.running_var": (64,),
    "resnet.encoder.stages.1.layers.0.shortcut.convolution.weight": (512, 256, 1, 1),
    "resnet.encoder.stages.3.layers.2.layer.1.convolution.weight": (512, 512, 3, 3),
    "resnet.encoder.stages.3.layers.2.layer.1.normalization.bias": (512,),
    "classifier.1.weight": (1000, 2048),
  }.items():
    assert shapes[name] == shape
  assert len(shapes) == len(golden_shapes("resnet50"))
  state_dict = golden_state_dict()
  theirs = {
    path: state_dict[name]
    for path, name in torch_weights.torch_names("resnet20", NAMINGS[classifiers.ResNetConfig][0], 10).items()
  }
  renamed = {name: theirs[path] for path, name in torch_weights.torch_names("resnet20", naming, 10).items()}
  module = torch_weights.load_module("resnet20", renamed)
  kernel = module.stages[1][0].convs[1].kernel[...]
  np.testing.assert_array_equal(kernel, np.einsum("oihw->hwio", state_dict["layer2.0.conv2.weight"]))


def test_a_single_logit_becomes_two():
  state_dict = golden_state_dict()
  state_dict["linear.weight"], state_dict["linear.bias"] = np.full((1, 64), 3, np.float32), np.full(1, 2, np.float32)
  module = torch_weights.load_module("resnet20", state_dict)
  np.testing.assert_array_equal(module.head.kernel[...], np.stack([np.zeros(64), np.full(64, 3)], 1))
  np.testing.assert_array_equal(module.head.bias[...], [0, 2])
  assert "z speaks for the second" in torch_weights.describe(torch_weights.find_match(state_dict, "resnet20"))[0]


def test_nothing_is_built_from_a_state_dict_that_does_not_fit(monkeypatch: pytest.MonkeyPatch):
  built = []
  monkeypatch.setattr(torch_weights.nnx, "merge", lambda *arguments: built.append(arguments))
  with pytest.raises(ValueError, match="must hold exactly"):
    torch_weights.load_module("resnet20", {"a": np.zeros(1, np.float32)})
  assert built == []


def test_every_part_of_every_architecture_has_a_name_of_its_own():
  for model_name in classifiers.ARCHITECTURES:
    config = classifiers.architecture(model_name)
    for naming in find_namings(config):
      names = torch_weights.torch_names(model_name, naming, config.num_classes)
      assert len(set(names.values())) == len(names)


def test_an_unknown_architecture_is_refused():
  with pytest.raises(ValueError, match=r"^model must be one of \[.*\], got 'alexnet'\.$"):
    torch_weights.load_module("alexnet", golden_state_dict())
