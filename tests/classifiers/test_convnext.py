"""ConvNeXt against three libraries', whose names are known, in a size that compiles at once."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights
from flax import nnx
from jax import lax

import jax_sis
from jax_sis import classifiers
from jax_sis.classifiers import torch_weights, transformer_layers
from jax_sis.classifiers.convnext import ConvNextConfig
from jax_sis.classifiers.dense_conv import DIMENSION_NUMBERS
from jax_sis.classifiers.frozen import freeze, split
from jax_sis.classifiers.torch_namings import find_namings

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")

TINY = ConvNextConfig(blocks=(1, 2, 1, 1), widths=(6, 8, 10, 12), num_classes=10)


@pytest.fixture(autouse=True)
def tiny_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
  """A tiny network beside the one of its kind, without others, which would take seconds to be compared with."""
  kept = {"convnext_t": classifiers.ARCHITECTURES["convnext_t"]}
  monkeypatch.setattr(classifiers, "ARCHITECTURES", {"convnext_test": TINY} | kept)


def load(name: str) -> tuple[Any, Any, np.ndarray]:
  """The tiny network with the weights of golden logits, their inputs, and the logits."""
  golden = random_weights.read_golden_logits(name)
  assert torch_weights.identify(golden.state_dict()) == "convnext_test"
  module = torch_weights.load_module("convnext_test", golden.state_dict())
  return module, jnp.asarray(golden.inputs().transpose(0, 2, 3, 1)), golden.logits


@pytest.mark.parametrize("name", ["convnext_torchvision", "convnext_timm", "convnext_transformers"])
def test_logits_are_those_of_each_library(name: str):
  module, inputs, logits = load(name)
  predict_fn, params = freeze(module)
  np.testing.assert_allclose(jax.jit(predict_fn)(params, inputs), logits, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_search_runs_and_its_parts_and_the_trainable_network_have_the_same_logits():
  module, inputs, logits = load("convnext_timm")
  predict_fn, params = freeze(module)
  order = jax_sis.backselect(predict_fn, params, inputs, search=jax_sis.Gradient(per_step=5), grid=(4, 4, 1))
  assert order.finite.all()
  np.testing.assert_array_equal(np.sort(order.rank), [np.arange(16)] * 2)
  features_fn, head_fn = split(predict_fn, params)
  for function in (module, lambda inputs: head_fn(params, features_fn(params, inputs))):
    np.testing.assert_allclose(jax.jit(function)(inputs), logits, rtol=0, atol=1e-5)


def test_the_names_of_the_authors_are_known():
  shapes = torch_weights.needed_shapes("convnext_t", find_namings(TINY)[2], 1000)
  for name, shape in {
    "downsample_layers.0.0.weight": (96, 3, 4, 4),
    "downsample_layers.3.0.bias": (384,),
    "downsample_layers.3.1.weight": (768, 384, 2, 2),
    "stages.2.8.dwconv.weight": (384, 1, 7, 7),
    "stages.2.8.norm.weight": (384,),
    "stages.0.0.pwconv1.weight": (384, 96),
    "stages.0.0.gamma": (96,),
    "norm.bias": (768,),
    "head.weight": (1000, 768),
  }.items():
    assert shapes[name] == shape


@pytest.mark.parametrize("size", [(8, 12), (9, 15)])
def test_a_convolution_of_squares_side_by_side_equals_jaxs_own(size: tuple[int, int]):
  conv = transformer_layers.PatchConv(3, 5, 4, rngs=nnx.Rngs(0))
  inputs = jnp.asarray(random_weights.random_inputs((2, *size, 3), 1))
  expected = lax.conv_general_dilated(
    inputs, conv.kernel[...], (4, 4), "VALID", dimension_numbers=DIMENSION_NUMBERS, precision="highest"
  )
  np.testing.assert_allclose(conv(inputs), expected, rtol=0, atol=1e-5)
