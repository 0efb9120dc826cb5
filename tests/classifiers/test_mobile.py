"""Networks of inverted residual blocks: their names in PyTorch, and their parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights
from flax import nnx
from jax import lax

from jax_sis import classifiers
from jax_sis.classifiers import layers, mobile, torch_weights
from jax_sis.classifiers.frozen import freeze
from jax_sis.classifiers.torch_namings import find_namings

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")


@pytest.mark.parametrize("name", ["efficientnet_lite0", "mobilenetv3_small_100"])
def test_every_array_of_pytorch_has_a_place_of_its_shape(name: str):
  shapes = random_weights.read_golden_logits(name).shapes
  (naming, *_) = find_namings(classifiers.architecture(name))
  needed = torch_weights.needed_shapes(name, naming, 1000)
  arrays = {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items() if "num_batches" not in key}
  assert set(needed) == set(arrays)
  assert all(torch_weights.fits(array, needed[key]) for key, array in arrays.items())


def test_the_names_of_transformers_are_known():
  (naming,) = (
    one for one in find_namings(classifiers.architecture("tf_efficientnet_b0")) if one.source == "transformers"
  )
  shapes = torch_weights.needed_shapes("tf_efficientnet_b0", naming, 1000)
  for name, shape in {
    "efficientnet.embeddings.convolution.weight": (32, 3, 3, 3),
    "efficientnet.embeddings.batchnorm.running_mean": (32,),
    "efficientnet.encoder.blocks.1.expansion.expand_conv.weight": (96, 16, 1, 1),
    "efficientnet.encoder.blocks.1.expansion.expand_bn.weight": (96,),
    "efficientnet.encoder.blocks.1.depthwise_conv.depthwise_conv.weight": (96, 1, 3, 3),
    "efficientnet.encoder.blocks.1.depthwise_conv.depthwise_norm.bias": (96,),
    "efficientnet.encoder.blocks.1.squeeze_excite.reduce.weight": (4, 96, 1, 1),
    "efficientnet.encoder.blocks.1.projection.project_conv.weight": (24, 96, 1, 1),
    "efficientnet.encoder.blocks.15.projection.project_bn.running_var": (320,),
    "efficientnet.encoder.top_conv.weight": (1280, 320, 1, 1),
    "efficientnet.encoder.top_bn.weight": (1280,),
    "classifier.bias": (1000,),
  }.items():
    assert shapes[name] == shape


@pytest.mark.parametrize("size", [(7, 8), (8, 7)])
def test_same_padding_is_that_of_tensorflow(size: tuple[int, int]):
  inputs = jnp.asarray(np.random.default_rng(0).normal(size=(1, *size, 4)), jnp.float32)
  conv = layers.ConvNorm(4, 4, 5, stride=2, padding="same", groups=4, has_norm=False, rngs=nnx.Rngs(0))
  expected = lax.conv_general_dilated(
    inputs, conv.kernel[...], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=4
  )
  np.testing.assert_allclose(conv(inputs), expected, rtol=1e-5, atol=1e-5)


def test_rectifiers_are_those_of_pytorch_and_flat_at_zero():
  inputs = jnp.array([-4.0, -3.0, -1.5, 0.0, 1.5, 3.0, 7.0])
  np.testing.assert_allclose(mobile.relu6(inputs), [0, 0, 0, 0, 1.5, 3, 6])
  np.testing.assert_allclose(mobile.hard_swish(inputs), [0, 0, -0.375, 0, 1.125, 3, 7], atol=1e-6)
  assert jax.grad(mobile.relu6)(0.0) == 0


@pytest.mark.slow
def test_a_small_network_of_all_parts_is_the_same_frozen():
  block = mobile.BlockConfig(width=8, hidden=16, kernel_size=5, stride=2, squeezed=4, activation="hard_swish")
  config = mobile.MobileConfig(
    stem=8,
    stages=((mobile.BlockConfig(width=8, hidden=8, activation="relu"), block),),
    last=16,
    hidden=8,
    activation="hard_swish",
    gate="hard_sigmoid",
    sources=(),
    num_classes=3,
  )
  module = mobile.MobileNet(config, rngs=nnx.Rngs(1))
  module.eval()
  for _, node in nnx.iter_graph(module):
    if isinstance(node, nnx.BatchNorm):
      node.mean[...] += 0.1
      node.var[...] *= 0.5
  inputs = jnp.asarray(np.random.default_rng(1).normal(size=(2, 12, 12, 3)), jnp.float32)
  predict_fn, params = freeze(module)
  logits = jax.jit(module)(inputs)
  assert np.ptp(logits) > 1e-3
  np.testing.assert_allclose(jax.jit(predict_fn)(params, inputs), logits, rtol=0, atol=1e-5)
