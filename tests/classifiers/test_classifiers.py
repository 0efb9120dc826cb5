"""The convolution against JAX's own, and the frozen network against the trainable one."""

import re
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
from jax_sis.classifiers import dense_conv, layers, resnet, torch_weights
from jax_sis.classifiers.batch_norm import BatchNorm
from jax_sis.classifiers.conv import conv2d
from jax_sis.classifiers.dense_conv import DIMENSION_NUMBERS, Window
from jax_sis.classifiers.ensemble import Average, Ensemble, EnsembleConfig
from jax_sis.classifiers.frozen import freeze, split
from jax_sis.classifiers.mobile_sizes import MOBILE_NETWORKS
from jax_sis.classifiers.vit import VITS
from jax_sis.core import scores

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")

SMALL_INPUTS = {"inception_v3": 75} | dict.fromkeys(VITS, 224)
SMALL_INPUTS |= dict.fromkeys(("resnet18_imagenet", "resnet34", "resnet50", "resnet101", "convnext_t"), 64)
WITH_LOGITS = random_weights.names_of(classifiers.ARCHITECTURES)
CONV_NETS = [name for name in WITH_LOGITS if name not in VITS]
# Of networks that differ in depth and width alone, the smallest; test_torch_weights.py has all of them.
OF_OTHER_PARTS = [
  *("resnet20", "resnet18", "resnet18_imagenet", "resnet50", "vgg16", "wrn28_10", "inception_v3", "squeezenet1_1"),
  *("efficientnet_lite0", "efficientnet_b0", "tf_efficientnet_b0", "mobilenet_v2", "mobilenet_v3_small"),
  *("mobilenetv3_small_100", "convnext_t", "vit_s_16", "deit_small_distilled"),
]


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
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
    ((8, 9), (1, 7), 1, (0, 3)),
    ((9, 8), (7, 1), 1, (3, 0)),
    ((9, 8), (3, 5), 2, (0, 2)),
  ],
)
def test_a_convolution_and_both_its_gradients_equal_jaxs_own(
  size: tuple[int, int], kernel_size: tuple[int, int], stride: int, padding: int | tuple[int, int], dtype: str
):
  check_convolution(size, kernel_size, stride, padding, dtype, widths=(3, 4))


# On CPU, narrow convolutions take a way of their own, which depends on the number of channels and of columns.
@pytest.mark.slow
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
  padding: int | tuple[int, int],
  dtype: str,
  *,
  widths: tuple[int, int],
) -> None:
  """Outputs and gradients, ours and JAX's."""
  rng = np.random.default_rng(0)
  pads = [(pad, pad) for pad in ((padding, padding) if isinstance(padding, int) else padding)]
  with jax.enable_x64(dtype == "float64"):
    inputs = jnp.asarray(rng.normal(size=(2, *size, widths[0])), dtype)
    kernel = jnp.asarray(rng.normal(size=(*kernel_size, *widths)), dtype)

    def ours(inputs: Any, kernel: Any) -> Any:
      return conv2d(inputs, kernel, stride=stride, padding=padding)

    def theirs(inputs: Any, kernel: Any) -> Any:
      return lax.conv_general_dilated(inputs, kernel, (stride, stride), pads, dimension_numbers=DIMENSION_NUMBERS)

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


def test_the_kernel_gradient_sums_over_all_groups_of_images(monkeypatch: pytest.MonkeyPatch):
  rng = np.random.default_rng(5)
  inputs, cotangent = (jnp.asarray(rng.normal(size=(6, 8, 8, width)), jnp.float32) for width in (4, 5))
  options = {"kernel_size": (3, 3), "window": Window((1, 1), ((1, 1), (1, 1)), (1, 1), 1, None)}
  expected = dense_conv.own_kernel_gradient(inputs, cotangent, **options)
  # Numbers in the windows of one image: 8 * 8 * 9 * 4. Groups of 1, 2, 3 (as 4 and 5 do not divide 6) and 6.
  for num_images in (0, 1, 2, 4, 5, 7):
    monkeypatch.setattr(dense_conv, "GATHERED_AT_ONCE", num_images * 2304)
    actual = dense_conv.gathered_kernel_gradient(inputs, cotangent, **options)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


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


def logits_of_both(module: Any, images: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
  """Logits of the trainable module in evaluation mode, and of its frozen form, all in this dtype."""
  with jax.enable_x64(dtype == "float64"):
    graph, state = nnx.split(module)
    module = nnx.merge(graph, jax.tree.map(lambda array: jnp.asarray(array, dtype), state))
    predict_fn, params = freeze(module)
    inputs = jnp.asarray(images, dtype)
    # Layer by layer, since deep networks repeat shapes and compile slowly as a whole.
    trainable, frozen = module(inputs), predict_fn(params, inputs)
    assert trainable.dtype == frozen.dtype == dtype
    return np.asarray(trainable), np.asarray(frozen)


def check_frozen(model_name: str, dtype: str, tolerance: float) -> None:
  """Compares the logits of both forms of a network with the golden weights."""
  module = torch_weights.load_module(model_name, random_weights.read_golden_logits(model_name).state_dict())
  size = SMALL_INPUTS.get(model_name, 32)
  images = np.random.default_rng(2).normal(size=(1, size, size, 3))
  trainable, frozen = logits_of_both(module, images, dtype)
  assert np.ptp(trainable) > 0.1
  np.testing.assert_allclose(frozen, trainable, rtol=0, atol=tolerance)


@pytest.mark.parametrize("model_name", random_weights.slow_but_resnet20(OF_OTHER_PARTS))
def test_a_frozen_network_has_the_logits_of_the_trainable_one(model_name: str):
  check_frozen(model_name, "float64", 1e-9)


# Rounding differs, and the ways of a convolution, by its size and groups.
@pytest.mark.parametrize(
  "model_name",
  random_weights.slow_but_resnet20(["resnet20", "inception_v3", "mobilenet_v3_small", "convnext_t", "vit_s_16"]),
)
def test_a_frozen_network_has_the_logits_of_the_trainable_one_in_float32(model_name: str):
  check_frozen(model_name, "float32", 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-4)])
def test_the_published_network_keeps_its_logits_when_frozen(published_module: Any, dtype: str, tolerance: float):
  images = np.random.default_rng(3).normal(size=(2, 32, 32, 3))
  trainable, frozen = logits_of_both(published_module, images, dtype)
  np.testing.assert_allclose(frozen, trainable, rtol=0, atol=tolerance)


@pytest.mark.parametrize("model_name", random_weights.slow_but_resnet20(OF_OTHER_PARTS))
def test_the_kernel_runs_on_every_frozen_network(model_name: str):
  module = torch_weights.load_module(model_name, random_weights.read_golden_logits(model_name).state_dict())
  predict_fn, params = freeze(module)
  size, grid = SMALL_INPUTS.get(model_name, 32), (5, 5, 1) if model_name == "inception_v3" else (4, 4, 1)
  inputs = jnp.asarray(np.random.default_rng(6).normal(size=(2, size, size, 3)), jnp.float32)
  num_features = grid[0] * grid[1]
  order = jax_sis.backselect(predict_fn, params, inputs, search=jax_sis.Gradient(per_step=5), grid=grid)
  assert order.finite.all()
  np.testing.assert_array_equal(np.sort(order.rank), [np.arange(num_features)] * 2)


@pytest.mark.parametrize("model_name", random_weights.slow_but_resnet20(["resnet20", "vgg16", "wrn28_10"]))
def test_the_kernel_masks_first_what_the_trainable_network_can_spare(model_name: str):
  module = torch_weights.load_module(model_name, random_weights.read_golden_logits(model_name).state_dict())
  predict_fn, params = freeze(module)
  grid, num_features = (4, 4, 1), 16
  inputs = jnp.asarray(np.random.default_rng(9).normal(size=(2, 32, 32, 3)), jnp.float32)
  order = jax_sis.backselect(predict_fn, params, inputs, search=jax_sis.Gradient(per_step=5), grid=grid)

  def log_odds(kept: Any) -> Any:
    masked = inputs * jnp.repeat(jnp.repeat(kept, 8, 1), 8, 2)
    return scores.log_odds(module(masked), order.target).sum()

  gradient = np.asarray(jax.jit(jax.grad(log_odds))(jnp.ones((2, *grid)))).reshape(2, -1)
  removed_first = np.argsort(gradient, axis=1)[:, :5]
  expected = np.sort(np.take_along_axis(np.asarray(order.rank), removed_first, 1), axis=1)
  np.testing.assert_array_equal(expected, [np.arange(num_features - 5, num_features)] * 2)


@pytest.mark.parametrize("model_name", random_weights.slow_but_resnet20(CONV_NETS))
def test_the_parts_of_a_frozen_network_have_feature_maps_between_them(model_name: str):
  module = torch_weights.load_module(model_name, random_weights.read_golden_logits(model_name).state_dict())
  predict_fn, params = freeze(module)
  features_fn, head_fn = split(predict_fn, params)
  size = SMALL_INPUTS.get(model_name, 32)
  inputs = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
  features = jax.eval_shape(features_fn, params, inputs)
  # Of 32x32 pixels SqueezeNet and networks of inverted residual blocks leave one place, of 75x75 Inception v3.
  places = dict.fromkeys(("inception_v3", "squeezenet1_1", *MOBILE_NETWORKS), 1) | {"resnet18": 4, "vgg16": 2}
  expected = places.get(model_name, 2 if SMALL_INPUTS.get(model_name) == 64 else 8)
  assert features.shape[:3] == (2, expected, expected)
  assert jax.eval_shape(head_fn, params, features).shape == jax.eval_shape(predict_fn, params, inputs).shape


@pytest.mark.parametrize("model_name", random_weights.slow_but_resnet20(["resnet20", "vgg16"]))
def test_the_parts_of_a_frozen_network_together_are_the_network(model_name: str):
  module = torch_weights.load_module(model_name, random_weights.read_golden_logits(model_name).state_dict())
  predict_fn, params = freeze(module)
  features_fn, head_fn = split(predict_fn, params)
  inputs = jnp.asarray(np.random.default_rng(11).normal(size=(2, 32, 32, 3)), jnp.float32)
  features = jax.jit(features_fn)(params, inputs)
  assert (np.asarray(features) >= 0).all()
  np.testing.assert_allclose(
    jax.jit(head_fn)(params, features), jax.jit(predict_fn)(params, inputs), rtol=1e-4, atol=1e-4
  )


@pytest.mark.slow
def test_an_ensemble_has_no_feature_maps_of_its_own():
  config = EnsembleConfig(members=("resnet20",) * 2)
  frozen = freeze(classifiers.build_ensemble(config, num_classes=3))
  message = (
    "predict_fn must be one convolutional network, got Ensemble, which has no feature maps of its own; "
    "split each member of an ensemble."
  )
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    split(*frozen)


@pytest.mark.slow
def test_equal_architectures_share_a_predict_fn():
  first, second = (freeze(classifiers.build("resnet20", num_classes=3, seed=seed))[0] for seed in (0, 1))
  assert first == second
  assert hash(first) == hash(second)
  assert first != freeze(classifiers.build("resnet32", num_classes=3))[0]


@pytest.mark.slow
def test_freezing_leaves_the_module_trainable():
  module = classifiers.build("wrn28_10", num_classes=3)
  module.train()
  freeze(module)
  assert module.stages[0][0].conv1.norm is not None
  assert module.stages[0][0].norm.norm is not None
  assert not module.norm.norm.use_running_average


@pytest.mark.parametrize("shape", [(6, 5, 4, 3), (16, 3)])
def test_batch_norm_and_its_gradients_equal_flaxs_own(shape: tuple[int, ...]):
  rng = np.random.default_rng(10)
  inputs, cotangent = (jnp.asarray(2 + 3 * rng.normal(size=shape), jnp.float32) for _ in range(2))
  results = []
  for norm_class in (BatchNorm, nnx.BatchNorm):
    norm: Any = norm_class(3, momentum=0.8, epsilon=1e-3, rngs=nnx.Rngs(0))
    norm.scale[...] = jnp.asarray([1.5, -0.5, 2.0], jnp.float32)
    norm.bias[...] = jnp.asarray([0.1, 0.2, 0.3], jnp.float32)
    graphdef, params, stats = nnx.split(norm, nnx.Param, nnx.BatchStat)

    def run(params: Any, inputs: Any, graphdef: Any = graphdef, stats: Any = stats) -> Any:
      norm = nnx.merge(graphdef, params, stats, copy=True)
      return norm(inputs), nnx.state(norm, nnx.BatchStat)

    outputs, vjp_fn, new_stats = jax.vjp(run, params, inputs, has_aux=True)
    results.append(jax.tree.leaves((outputs, vjp_fn(cotangent), new_stats)))
  for ours, flaxs in zip(*results, strict=True):
    assert np.abs(flaxs).max() > 1e-3
    np.testing.assert_allclose(ours, flaxs, rtol=1e-4, atol=1e-5)


def test_new_channels_of_a_shortcut_are_zero_on_both_sides():
  inputs = jnp.asarray(np.random.default_rng(4).normal(size=(1, 5, 4, 2)), jnp.float32)
  outputs = np.asarray(resnet.subsample_and_pad(inputs, 2, 5))
  assert outputs.shape == (1, 3, 2, 5)
  np.testing.assert_array_equal(outputs[..., 1:3], inputs[:, ::2, ::2])
  assert not outputs[..., [0, 3, 4]].any()


@pytest.mark.parametrize(("size", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 2, 0), (3, 1, 1)])
def test_pooling_equals_jaxs_own(size: int, stride: int, padding: int):
  inputs = jnp.asarray(np.random.default_rng(7).normal(size=(2, 8, 9, 3)), jnp.float32)
  window, strides = (1, size, size, 1), (1, stride, stride, 1)
  pads = ((0, 0), (padding, padding), (padding, padding), (0, 0))
  np.testing.assert_array_equal(
    layers.max_pool(inputs, size, stride=stride, padding=padding),
    lax.reduce_window(inputs, -jnp.inf, lax.max, window, strides, pads),
  )
  np.testing.assert_allclose(
    layers.mean_pool(inputs, size, stride=stride, padding=padding),
    lax.reduce_window(inputs, 0.0, lax.add, window, strides, pads) / size**2,
    rtol=1e-5,
    atol=1e-6,
  )


@pytest.mark.parametrize(
  ("model_name", "num_classes", "num_parameters"),
  [
    # He et al. 2016, table 6 says 0.27, 0.46, 0.66 and 0.85 million.
    ("resnet20", 10, 269_722),
    ("resnet32", 10, 464_154),
    ("resnet44", 10, 658_586),
    ("resnet56", 10, 853_018),
    ("resnet18", 10, 11_173_962),
    ("vgg16", 10, 14_728_266),
    # Zagoruyko and Komodakis 2016, table 5 says 36.5 million.
    ("wrn28_10", 10, 36_479_194),
    # torchvision's model page.
    ("resnet18_imagenet", 1000, 11_689_512),
    ("resnet34", 1000, 21_797_672),
    ("resnet50", 1000, 25_557_032),
    ("resnet101", 1000, 44_549_160),
    ("squeezenet1_1", 1000, 1_235_496),
    ("convnext_t", 1000, 28_589_128),
    ("vit_b_16", 1000, 86_567_656),
    # torchvision's 27,161,264 include 3,326,696 of the auxiliary head.
    ("inception_v3", 1000, 23_834_568),
    # As timm's have it.
    ("vit_s_16", 1000, 22_050_664),
    ("deit_tiny", 1000, 5_717_416),
    ("deit_tiny_distilled", 1000, 5_910_800),
    ("deit_small_distilled", 1000, 22_436_432),
    ("deit_base_distilled", 1000, 87_338_192),
  ],
)
def test_every_architecture_has_its_published_number_of_parameters(
  model_name: str, num_classes: int, num_parameters: int
):
  module = torch_weights.abstract_module(model_name, num_classes)
  assert sum(variable.size for _, variable in nnx.to_flat_state(nnx.state(module, nnx.Param))) == num_parameters


@pytest.mark.slow
def test_a_seed_decides_the_initial_weights():
  first, again, other = (classifiers.build("resnet20", num_classes=3, seed=seed) for seed in (1, 1, 2))
  np.testing.assert_array_equal(first.stem.kernel[...], again.stem.kernel[...])
  assert (first.stem.kernel[...] != other.stem.kernel[...]).any()
  assert first.head.kernel.shape == (64, 3)


def test_an_unknown_architecture_is_refused():
  message = f"model must be one of {sorted(classifiers.ARCHITECTURES)}, got 'resnet19'."
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    classifiers.build("resnet19", num_classes=10)


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_an_ensemble_averages_what_it_says(average: Average, monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setitem(classifiers.ARCHITECTURES, "resnet20", resnet.ResNetConfig(blocks=(1, 1), widths=(4, 8)))
  members = [classifiers.build("resnet20", num_classes=3, seed=seed) for seed in range(3)]
  config = EnsembleConfig(members=("resnet20",) * 3, average=average)
  ensemble = Ensemble(members, config)
  ensemble.eval()
  inputs = jnp.asarray(10 * np.random.default_rng(8).normal(size=(4, 8, 8, 3)), jnp.float32)
  member_logits = np.stack([np.asarray(member(inputs), np.float64) for member in members])
  if average == "logits":
    expected = member_logits.mean(0)
  else:
    exponentials = np.exp(member_logits)
    expected = np.log((exponentials / exponentials.sum(-1, keepdims=True)).mean(0))
  np.testing.assert_allclose(ensemble(inputs), expected, rtol=1e-4, atol=1e-4)
  predict_fn, params = freeze(ensemble)
  np.testing.assert_allclose(predict_fn(params, inputs), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("without_type_checks")
def test_an_ensemble_of_nothing_or_of_an_unknown_mean_is_refused():
  with pytest.raises(ValueError, match=r"^members must hold at least one classifier, got none\.$"):
    EnsembleConfig(members=())
  with pytest.raises(ValueError, match=r"^average must be 'logits' or 'probabilities', got 'votes'\.$"):
    EnsembleConfig(members=("resnet20",), average="votes")  # pyright: ignore[reportArgumentType]
