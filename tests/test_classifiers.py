"""The convolution against JAX's own, and the frozen network against the trainable one."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from jax_sis import classifiers
from jax_sis.classifiers import resnet
from jax_sis.classifiers.conv import DIMENSION_NUMBERS, conv2d

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")

TINY = resnet.ResNetCifarConfig(blocks_per_stage=1, widths=(4, 6, 12), num_classes=5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
  ("size", "kernel_size", "stride", "padding"),
  [
    ((8, 8), (3, 3), 1, 1),
    ((8, 8), (3, 3), 2, 1),
    ((7, 9), (3, 3), 1, 1),
    ((7, 9), (3, 3), 2, 1),
    ((9, 7), (3, 3), 2, 0),
    ((8, 7), (3, 3), 3, 1),
    ((6, 5), (1, 1), 1, 0),
    ((6, 5), (1, 1), 2, 0),
    ((6, 5), (1, 1), 2, 1),
    ((9, 8), (5, 5), 1, 2),
    ((9, 8), (5, 3), 2, 2),
    ((8, 9), (2, 2), 2, 0),
    ((5, 12), (3, 3), 1, 1),
  ],
)
def test_a_convolution_and_both_its_gradients_equal_jaxs_own(
  size: tuple[int, int], kernel_size: tuple[int, int], stride: int, padding: int, dtype: str
):
  check_convolution(size, kernel_size, stride, padding, dtype, widths=(3, 4))


# On CPU, narrow convolutions take a way of their own, which depends on the number of channels and of columns.
@pytest.mark.parametrize("columns", [8, 9, 10])
@pytest.mark.parametrize(
  "widths", [(1, 16), (3, 8), (3, 16), (3, 32), (4, 16), (16, 3), (8, 8), (16, 16), (16, 32), (32, 16)]
)
def test_a_convolution_of_any_width_equals_jaxs_own(widths: tuple[int, int], columns: int):
  check_convolution((6, columns), (3, 3), 1, 1, "float32", widths=widths)


def check_convolution(
  size: tuple[int, int],
  kernel_size: tuple[int, int],
  stride: int,
  padding: int,
  dtype: str,
  *,
  widths: tuple[int, int],
) -> None:
  """Outputs and gradients, ours and JAX's."""
  rng = np.random.default_rng(0)
  with jax.enable_x64(dtype == "float64"):
    inputs = jnp.asarray(rng.normal(size=(2, *size, widths[0])), dtype)
    kernel = jnp.asarray(rng.normal(size=(*kernel_size, *widths)), dtype)

    def ours(inputs: Any, kernel: Any) -> Any:
      return conv2d(inputs, kernel, stride=stride, padding=padding)

    def theirs(inputs: Any, kernel: Any) -> Any:
      return lax.conv_general_dilated(
        inputs, kernel, (stride, stride), ((padding, padding),) * 2, dimension_numbers=DIMENSION_NUMBERS
      )

    def value_and_gradients(conv_fn: Any, inputs: Any, kernel: Any, cotangent: Any) -> Any:
      outputs, vjp_fn = jax.vjp(conv_fn, inputs, kernel)
      return outputs, *vjp_fn(cotangent)

    shape = jax.eval_shape(theirs, inputs, kernel).shape
    cotangent = jnp.asarray(rng.normal(size=shape), dtype)
    run = jax.jit(value_and_gradients, static_argnums=0)
    tolerance = 1e-12 if dtype == "float64" else 1e-4
    for name, actual, expected in zip(
      ("outputs", "inputs", "kernel"),
      run(ours, inputs, kernel, cotangent),
      run(theirs, inputs, kernel, cotangent),
      strict=True,
    ):
      assert actual.dtype == dtype
      assert actual.shape == expected.shape, name
      np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance, err_msg=name)


def test_the_gradients_are_right_inside_a_scan():
  rng = np.random.default_rng(1)
  inputs = jnp.asarray(rng.normal(size=(2, 7, 7, 3)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 4)), jnp.float32)
  gradient_fn = jax.grad(lambda inputs, conv_fn: (conv_fn(inputs) ** 2).sum())

  def ours(inputs: Any) -> Any:
    return conv2d(inputs, kernel, stride=2, padding=1)

  def theirs(inputs: Any) -> Any:
    return lax.conv_general_dilated(inputs, kernel, (2, 2), ((1, 1),) * 2, dimension_numbers=DIMENSION_NUMBERS)

  def looped(conv_fn: Any) -> Any:
    return jax.jit(lambda start: lax.scan(lambda x, _: (x - 1e-3 * gradient_fn(x, conv_fn), None), start, None, 3)[0])

  np.testing.assert_allclose(looped(ours)(inputs), looped(theirs)(inputs), rtol=1e-4, atol=1e-5)


def randomise_norms(module: resnet.ResNetCifar, seed: int = 0) -> None:
  """Batch statistics, scales and biases that differ from those of a fresh module."""
  rng = np.random.default_rng(seed)
  norms = [module.stem_norm, *(norm for block in module.blocks for norm in (block.norm1, block.norm2))]
  for norm in norms:
    assert norm.scale is not None
    assert norm.bias is not None
    width = norm.mean.shape
    norm.mean[...] = jnp.asarray(rng.normal(size=width), jnp.float32)
    norm.var[...] = jnp.asarray(rng.uniform(0.2, 3, width), jnp.float32)
    norm.scale[...] = jnp.asarray(rng.uniform(-1.5, 1.5, width), jnp.float32)
    norm.bias[...] = jnp.asarray(rng.normal(size=width), jnp.float32)


def logits_of_both(module: resnet.ResNetCifar, images: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
  """Logits of the trainable module in evaluation mode, and of its frozen form, all in this dtype."""
  with jax.enable_x64(dtype == "float64"):
    graph, state = nnx.split(module)
    module = nnx.merge(graph, jax.tree.map(lambda array: jnp.asarray(array, dtype), state))
    predict_fn, params = classifiers.freeze(module)
    inputs = jnp.asarray(images, dtype)
    trainable, frozen = jax.jit(module)(inputs), jax.jit(predict_fn)(params, inputs)
    assert trainable.dtype == frozen.dtype == dtype
    return np.asarray(trainable), np.asarray(frozen)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-4)])
def test_a_frozen_network_has_the_logits_of_the_trainable_one(dtype: str, tolerance: float):
  module = resnet.ResNetCifar(TINY, rngs=nnx.Rngs(0))
  randomise_norms(module)
  module.eval()
  images = np.random.default_rng(2).normal(size=(3, 9, 8, 3))
  trainable, frozen = logits_of_both(module, images, dtype)
  assert trainable.shape == (3, 5)
  assert np.ptp(trainable, axis=0).max() > 0.1
  np.testing.assert_allclose(frozen, trainable, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-4)])
def test_the_published_network_keeps_its_logits_when_frozen(published_module: Any, dtype: str, tolerance: float):
  images = np.random.default_rng(3).normal(size=(2, 32, 32, 3))
  trainable, frozen = logits_of_both(published_module, images, dtype)
  np.testing.assert_allclose(frozen, trainable, rtol=0, atol=tolerance)


def test_new_channels_of_a_shortcut_are_zero_on_both_sides():
  inputs = jnp.asarray(np.random.default_rng(4).normal(size=(1, 5, 4, 2)), jnp.float32)
  outputs = np.asarray(resnet.subsample_and_pad(inputs, 2, 5))
  assert outputs.shape == (1, 3, 2, 5)
  np.testing.assert_array_equal(outputs[..., 1:3], inputs[:, ::2, ::2])
  assert not outputs[..., [0, 3, 4]].any()


def test_resnet20_has_its_twenty_layers_and_published_number_of_parameters():
  module = classifiers.build("resnet20", num_classes=10)
  # He et al. 2016, table 6: 0.27 million.
  assert sum(array.size for array in jax.tree.leaves(nnx.state(module, nnx.Param))) == 269_722
  kernels = [module.stem_conv, *(conv for block in module.blocks for conv in (block.conv1, block.conv2)), module.head]
  assert len(kernels) == 20


def test_a_seed_decides_the_initial_weights():
  first, again, other = (classifiers.build("resnet20", num_classes=3, seed=seed) for seed in (1, 1, 2))
  np.testing.assert_array_equal(first.stem_conv.kernel[...], again.stem_conv.kernel[...])
  assert (first.stem_conv.kernel[...] != other.stem_conv.kernel[...]).any()
  assert first.head.kernel.shape == (64, 3)


def test_an_unknown_architecture_is_refused():
  message = f"model must be one of {sorted(classifiers.ARCHITECTURES)}, got 'resnet19'."
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    classifiers.build("resnet19", num_classes=10)
