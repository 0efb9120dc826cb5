"""Vision transformers against three libraries', whose names are known, in a size that compiles at once."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights
from flax import nnx

import jax_sis
from jax_sis import classifiers
from jax_sis.classifiers import torch_weights
from jax_sis.classifiers.frozen import freeze, split
from jax_sis.classifiers.torch_namings import find_namings
from jax_sis.classifiers.vit import ViTConfig

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")

SIZE: dict[str, Any] = {"width": 24, "depth": 2, "num_heads": 3, "image_size": 32, "patch_size": 8, "num_classes": 10}
TINY = {"vit_test": ViTConfig(**SIZE), "deit_test": ViTConfig(**SIZE, is_distilled=True)}


@pytest.fixture(autouse=True)
def tiny_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
  """Tiny networks in the place of others, which would take seconds to be compared with."""
  kept = {name: classifiers.ARCHITECTURES[name] for name in ("vit_s_16", "deit_small")}
  monkeypatch.setattr(classifiers, "ARCHITECTURES", TINY | kept)


def load(name: str) -> tuple[Any, random_weights.GoldenLogits]:
  """The tiny network with the weights of golden logits, and these."""
  golden = random_weights.read_golden_logits(name)
  model_name = f"{name.partition('_')[0]}_test"
  assert torch_weights.identify(golden.state_dict()) == model_name
  return torch_weights.load_module(model_name, golden.state_dict()), golden


@pytest.mark.parametrize("name", ["vit_torchvision", "vit_timm", "vit_transformers", "deit_timm", "deit_transformers"])
def test_logits_are_those_of_each_library(name: str):
  module, golden = load(name)
  predict_fn, params = freeze(module)
  logits = jax.jit(predict_fn)(params, jnp.asarray(golden.inputs().transpose(0, 2, 3, 1)))
  np.testing.assert_allclose(logits, golden.logits, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_trainable_network_has_the_same_logits_and_a_search_runs_on_the_frozen_one():
  module, golden = load("deit_timm")
  predict_fn, params = freeze(module)
  inputs = jnp.asarray(golden.inputs().transpose(0, 2, 3, 1))
  np.testing.assert_allclose(jax.jit(module)(inputs), golden.logits, rtol=0, atol=1e-5)
  search = jax_sis.Gradient(per_step=5)
  order = jax_sis.backselect(predict_fn, params, inputs, search=search, grid=(4, 4, 1))
  assert order.finite.all()
  np.testing.assert_array_equal(np.sort(order.rank), [np.arange(16)] * 2)


def test_weights_of_another_activation_are_not_taken_for_our_own(monkeypatch: pytest.MonkeyPatch):
  own = dataclasses.replace(TINY["vit_test"], activation="relu")
  monkeypatch.setattr(classifiers, "ARCHITECTURES", {"own": own} | TINY)
  state_dict = random_weights.read_golden_logits("vit_timm").state_dict()
  assert torch_weights.find_match(state_dict).others == ()
  with pytest.raises(ValueError, match=r"^model must be an architecture that other libraries have, too, got 'own'\.$"):
    torch_weights.find_match(state_dict, "own")


def test_torchvisions_published_files_have_names_of_their_own():
  state_dict = random_weights.read_golden_logits("vit_torchvision").state_dict()
  published = {
    name.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): array for name, array in state_dict.items()
  }
  module, renamed = (torch_weights.load_module("vit_test", arrays) for arrays in (state_dict, published))
  assert "encoder.layers.encoder_layer_0.mlp.linear_2.bias" in published
  for ours, theirs in zip(*map(jax.tree.leaves, (nnx.state(module), nnx.state(renamed))), strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_queries_keys_and_values_come_in_this_order():
  module, golden = load("vit_transformers")
  state_dict = golden.state_dict()
  for place, name in enumerate(("query", "key", "value")):
    theirs = state_dict[f"vit.encoder.layer.1.attention.attention.{name}.weight"].T
    ours = module.blocks[1].attention.qkv.kernel[...]
    np.testing.assert_array_equal(ours[:, 24 * place : 24 * (place + 1)], theirs)


def test_what_is_missing_is_named_as_in_the_file():
  state_dict = random_weights.read_golden_logits("vit_transformers").state_dict()
  del state_dict["vit.encoder.layer.0.attention.attention.key.bias"]
  del state_dict["vit.embeddings.cls_token"]
  with pytest.raises(ValueError, match=r"missing: .*\.attention\.key\.bias, vit\.embeddings\.cls_token\.$"):
    torch_weights.load_module("vit_test", state_dict)


def test_both_last_layers_of_a_distilled_network_tell_the_number_of_classes():
  state_dict = random_weights.read_golden_logits("deit_timm").state_dict()
  for name in ("head", "head_dist"):
    state_dict |= {f"{name}.weight": np.ones((1, 24), np.float32), f"{name}.bias": np.ones(1, np.float32)}
  module = torch_weights.load_module("deit_test", state_dict)
  for layer in (module.head, module.head_distilled):
    np.testing.assert_array_equal(layer.kernel[...], np.stack([np.zeros(24), np.ones(24)], 1))


def test_an_image_of_another_size_is_refused():
  module, _ = load("vit_timm")
  message = "inputs must be 32x32 pixels, for which this network has position embeddings, got 40x40."
  with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
    jax.eval_shape(module, jnp.zeros((1, 40, 40, 3)))


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({"num_heads": 5}, "num_heads must divide width, got 5 and 24."),
    ({"patch_size": 7}, "patch_size must divide image_size, got 7 and 32."),
  ],
)
def test_a_size_that_does_not_divide_is_refused(changed: dict[str, Any], message: str):
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    ViTConfig(**(SIZE | changed))


def test_there_are_no_feature_maps():
  with pytest.raises(ValueError, match=r"^predict_fn must be one convolutional network, got ViT, which has no feature"):
    split(*freeze(load("vit_timm")[0]))


def test_architectures_with_the_same_arrays_are_told():
  names = ("deit_small", "vit_s_16")
  shapes = torch_weights.needed_shapes("vit_s_16", find_namings(TINY["vit_test"])[2], 1000)
  state_dict = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
  match = torch_weights.find_match(state_dict)
  assert {match.model_name, *match.others} == set(names)
  assert match.others[0] in torch_weights.describe(match)[0]
  assert torch_weights.find_match(state_dict, "deit_small").others == ()
