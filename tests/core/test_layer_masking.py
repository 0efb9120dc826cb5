"""Layer masking against a plain reading of the paper, and one way to write a network against another."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_classifier
from flax import linen
from jax import lax

import jax_sis
from jax_sis import classifiers
from jax_sis.classifiers import conv, layers
from jax_sis.core.layer_masking import LayerMasked

SIZE, WIDTH, NUM_CLASSES = 8, 4, 3


def make_net() -> dict[str, np.ndarray]:
  rng = np.random.default_rng(3)
  shapes = {
    "stem": (3, 3, 3, WIDTH),
    "scale": (WIDTH,),
    "shift": (WIDTH,),
    "first": (3, 3, WIDTH, WIDTH),
    "second": (5, 5, WIDTH, WIDTH),
    "short": (1, 1, WIDTH, WIDTH),
    "head": (WIDTH, NUM_CLASSES),
  }
  return {name: rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])) for name, shape in shapes.items()}


NET = make_net()
RNG = np.random.default_rng(5)
IMAGES = RNG.normal(size=(4, SIZE, SIZE, 3))
# A few positions, some, most, and a patch.
PRESENT = RNG.random((4, SIZE, SIZE)) < np.array([0.05, 0.3, 0.8, 0])[:, None, None]
PRESENT[3, 2:4, 5:8] = True


def convolve(inputs: Any, kernel: Any, *, stride: int = 1, padding: int = 0) -> Any:
  layout = ("NHWC", "HWIO", "NHWC")
  pads = [(padding, padding)] * 2
  return lax.conv_general_dilated(inputs, kernel, (stride, stride), pads, dimension_numbers=layout)


def predict(params: Any, inputs: Any) -> Any:
  """Convolution, norm, a residual block with a stride, a pool of maxima, the mean, a layer."""
  hidden = (
    convolve(inputs, params["stem"], padding=1) * params["scale"][None, None, None] + params["shift"][None, None, None]
  )
  hidden = jax.nn.relu(hidden)
  branch = convolve(jax.nn.relu(convolve(hidden, params["first"], stride=2, padding=1)), params["second"], padding=2)
  hidden = jax.nn.relu(branch + convolve(hidden, params["short"], stride=2))
  return linen.max_pool(hidden, (2, 2), strides=(2, 2)).mean((1, 2)) @ params["head"]


def as_dtype(tree: Any, dtype: Any) -> Any:
  return jax.tree.map(lambda array: jnp.asarray(array, dtype), tree)


def windows(array: np.ndarray, size: int, stride: int, padding: int, value: float = 0.0) -> np.ndarray:
  """`[h, w, size, size, ...]`."""
  pads = [(padding, padding)] * 2 + [(0, 0)] * (array.ndim - 2)
  padded = np.pad(array, pads, constant_values=value)
  places = range(0, padded.shape[0] - size + 1, stride)
  return np.stack([np.stack([padded[row : row + size, column : column + size] for column in places]) for row in places])


def masked_convolution(
  value: np.ndarray, mask: np.ndarray, kernel: np.ndarray, *, stride: int = 1, padding: int = 0
) -> tuple[np.ndarray, np.ndarray]:
  """One convolution of one image as the paper has it."""
  size = kernel.shape[0]
  value, grown = value * mask[..., None], mask
  for _ in range(size):
    around = windows(grown, 3, 1, 1).sum((2, 3))
    mean = windows(value, 3, 1, 1).sum((2, 3)) / (around + 1e-5)[..., None]
    value = value + (1 - grown)[..., None] * mean
    grown = np.minimum(grown + around, 1)
  outputs = np.einsum("hwijc,ijcd->hwd", windows(value, size, stride, padding), kernel)
  mask = windows(mask, size, stride, padding).max((2, 3))
  return outputs * mask[..., None], mask


def reference(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """`predict` on one image with positions missing."""
  hidden, mask = masked_convolution(image, mask, NET["stem"], padding=1)
  hidden = np.maximum(hidden * NET["scale"] + NET["shift"], 0) * mask[..., None]
  branch, branch_mask = masked_convolution(hidden, mask, NET["first"], stride=2, padding=1)
  branch, branch_mask = masked_convolution(np.maximum(branch, 0), branch_mask, NET["second"], padding=2)
  short, _ = masked_convolution(hidden, mask, NET["short"], stride=2)
  hidden = np.maximum(branch + short, 0) * branch_mask[..., None]
  hidden, mask = (windows(array, 2, 2, 0).max((2, 3)) for array in (hidden, branch_mask))
  mean = hidden.mean((0, 1)) / mask.mean() if mask.any() else np.zeros(WIDTH)
  return mean @ NET["head"]


def test_it_is_what_a_plain_reading_of_the_paper_gives():
  present = np.concatenate([PRESENT.astype(float), np.zeros((1, SIZE, SIZE))])
  images = np.concatenate([IMAGES, IMAGES[:1]])
  with jax.enable_x64(True):
    logits = jax.jit(LayerMasked(predict))(as_dtype(NET, jnp.float64), jnp.asarray(images), jnp.asarray(present))
  expected = [reference(image, mask) for image, mask in zip(images, present, strict=True)]
  np.testing.assert_allclose(logits, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-12)])
def test_with_nothing_missing_it_is_the_network(dtype: Any, tolerance: float):
  tiny_classifier.register()
  with jax.enable_x64(dtype == np.float64), jax.numpy_rank_promotion("allow"):
    predict_fn, params = classifiers.freeze(classifiers.build(tiny_classifier.NAME, num_classes=10))
    params, images = as_dtype(params, dtype), jnp.asarray(IMAGES, dtype)
    logits = jax.jit(LayerMasked(predict_fn))(params, images, jnp.ones(images.shape[:3], dtype))
    np.testing.assert_allclose(logits, jax.jit(predict_fn)(params, images), rtol=tolerance, atol=tolerance)
    assert logits.dtype == dtype


def test_what_the_image_holds_where_it_is_missing_changes_no_bit():
  params, present = as_dtype(NET, jnp.float32), jnp.asarray(PRESENT, jnp.float32)
  ask = jax.jit(LayerMasked(predict))
  images = jnp.asarray(IMAGES, jnp.float32)
  logits = ask(params, images, present)
  for value in (jnp.nan, jnp.inf, 1e30):
    np.testing.assert_array_equal(ask(params, jnp.where(present[..., None] > 0, images, value), present), logits)
  assert np.isfinite(logits).all()


def head(hidden: Any) -> Any:
  return hidden.mean((1, 2))[:, :NUM_CLASSES]


def strided(params: Any, inputs: Any) -> Any:
  return convolve(inputs, params["stem"], stride=2, padding=1)


def channels_first(params: Any, inputs: Any) -> Any:
  layout = ("NCHW", "OIHW", "NCHW")
  kernel = params["stem"].transpose(3, 2, 0, 1)
  outputs = lax.conv_general_dilated(
    inputs.transpose(0, 3, 1, 2), kernel, (2, 2), [(1, 1)] * 2, dimension_numbers=layout
  )
  return jax.nn.relu(outputs).transpose(0, 2, 3, 1)


def one_by_one(params: Any, inputs: Any) -> Any:
  return jax.vmap(lambda image: strided(params, image[None])[0])(inputs)


def by_parts(params: Any, inputs: Any) -> Any:
  return jnp.concatenate([strided({"stem": part}, inputs) for part in jnp.split(params["stem"], 2, -1)], -1)


def repeated(params: Any, inputs: Any) -> Any:
  layer = functools.partial(convolve, padding=1)
  hidden = layer(inputs, params["stem"])
  for _ in range(2):
    hidden = jax.nn.gelu(layer(hidden, params["first"]))
  return hidden


def scanned(params: Any, inputs: Any) -> Any:
  @jax.checkpoint
  def layer(hidden: Any, kernel: Any) -> Any:
    return jax.nn.gelu(convolve(hidden, kernel, padding=1))

  kernels = jnp.stack([params["first"]] * 2)
  return lax.scan(
    lambda hidden, kernel: (layer(hidden, kernel), None), convolve(inputs, params["stem"], padding=1), kernels
  )[0]


def normalised(inputs: Any) -> Any:
  """By the mean and variance of each position's channels."""
  centred = inputs - inputs.mean(-1, keepdims=True)
  return centred * lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-3)


def depthwise(params: Any, inputs: Any, *, is_own: bool) -> Any:
  kernel = params["stem"][:, :, :1, :3]
  if is_own:
    return conv.conv2d(inputs, kernel, padding=2, dilation=2, groups=3)
  options: Any = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": 3, "rhs_dilation": (2, 2)}
  return lax.conv_general_dilated(inputs, kernel, (1, 1), [(2, 2)] * 2, **options)


def padded_pool(hidden: Any) -> Any:
  padding: Any = ((1, 1), (1, 1))
  return linen.max_pool(hidden, (3, 3), strides=(2, 2), padding=padding)


def mean_pool(hidden: Any) -> Any:
  padding: Any = ((1, 1), (1, 1))
  return linen.avg_pool(hidden, (3, 3), strides=(2, 2), padding=padding)


Maps = Callable[[Any, Any], Any]
# Networks of which each pair is the same, written in two ways.
PAIRS: dict[str, tuple[Maps, Maps]] = {
  "channels first": (channels_first, lambda params, inputs: jax.nn.relu(strided(params, inputs))),
  "image by image": (one_by_one, strided),
  "channels by parts": (by_parts, strided),
  "our convolution": (lambda params, inputs: conv.conv2d(inputs, params["stem"], stride=2, padding=1), strided),
  "our depthwise convolution": (functools.partial(depthwise, is_own=True), functools.partial(depthwise, is_own=False)),
  "padded by hand": (
    lambda params, inputs: convolve(jnp.pad(inputs, ((0, 0), (1, 1), (1, 1), (0, 0))), params["stem"], stride=2),
    strided,
  ),
  "a pool of shifted slices": (
    lambda params, inputs: layers.max_pool(strided(params, inputs), 3, stride=2, padding=1),
    lambda params, inputs: padded_pool(strided(params, inputs)),
  ),
  "a mean of shifted slices": (
    lambda params, inputs: layers.mean_pool(strided(params, inputs), 3, stride=2, padding=1),
    lambda params, inputs: mean_pool(strided(params, inputs)),
  ),
  "layers in a loop": (scanned, repeated),
  "a layer at each position": (
    lambda params, inputs: normalised(strided(params, inputs)) @ params["head"],
    lambda params, inputs: convolve(normalised(strided(params, inputs)), params["head"][None, None]),
  ),
  "gated channels": (
    lambda params, inputs: (
      strided(params, inputs) * jax.nn.sigmoid(strided(params, inputs).mean((1, 2), keepdims=True))
    ),
    lambda params, inputs: (
      strided(params, inputs) * jax.nn.sigmoid(strided(params, inputs).mean((1, 2)))[:, None, None]
    ),
  ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_two_ways_to_write_a_network_are_one_network(name: str):
  params, images, present = as_dtype((NET, IMAGES, PRESENT), jnp.float32)

  def ask(maps: Maps, present: Any) -> Any:
    return LayerMasked(lambda params, inputs: head(maps(params, inputs)))(params, images, present)

  def ask_all(present: Any) -> Any:
    return [ask(maps, present) for maps in PAIRS[name]], head(PAIRS[name][1](params, images))

  with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
    ((one, other), whole), ((full, _), _) = jax.jit(lambda: (ask_all(present), ask_all(jnp.ones_like(present))))()
  np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(full, whole, rtol=1e-5, atol=1e-6)
  assert np.abs(one - whole).max() > 1e-3


@pytest.mark.parametrize(
  ("maps", "named"),
  [
    (lambda params, inputs: strided(params, inputs).reshape(len(inputs), -1)[:, :3], "reshape"),
    (lambda params, inputs: head(jnp.sort(inputs, 1)), "sort"),
    (lambda params, inputs: head(jnp.cumsum(inputs, 2)), "cumsum"),
    (lambda params, inputs: inputs.mean(1)[:, 0], "reduce_sum"),
    (lambda params, inputs: head(inputs - inputs.mean(0, keepdims=True)), "reduce_sum"),
    (lambda params, inputs: head(jnp.einsum("nhwc,nijc->nhwij", inputs, inputs)[..., 0]), "dot_general"),
    (lambda params, inputs: head(lax.conv_transpose(inputs, params["stem"], (2, 2), "SAME")), "conv_general_dilated"),
  ],
)
def test_another_step_is_refused_by_name(maps: Maps, named: str):
  params, images = as_dtype((NET, IMAGES), jnp.float32)
  with pytest.raises(ValueError, match=f"the step {named} of this network"):
    jax_sis.backselect(maps, params, images, removal="layer")


def test_our_convolutions_stay_ours():
  tiny_classifier.register()
  predict_fn, params = classifiers.freeze(classifiers.build(tiny_classifier.NAME, num_classes=10))
  images = jnp.asarray(IMAGES, jnp.float32)
  with jax.numpy_rank_promotion("allow"):
    program = jax.make_jaxpr(LayerMasked(predict_fn))(params, images, images[..., 0])
    plain = jax.make_jaxpr(predict_fn)(params, images)
  counts = [[step.primitive.name for step in one.jaxpr.eqns].count("custom_vjp_call") for one in (program, plain)]
  assert counts[0] == counts[1] > 4
  assert "conv_general_dilated" not in {step.primitive.name for step in program.jaxpr.eqns}


def test_derivatives_are_those_of_what_is_there():
  params, images = as_dtype((NET, IMAGES), jnp.float32)
  ask = LayerMasked(predict)
  gradient = jax.jit(jax.grad(lambda present: ask(params, images, present)[:, 0].sum()))(
    jnp.asarray(PRESENT, jnp.float32)
  )
  # Each position that is there, made darker.
  step = 1e-2
  darker = [
    ask(params, images.at[:, row, column].multiply(1 - step), jnp.asarray(PRESENT, jnp.float32))
    for row, column in ((3, 6), (2, 5))
  ]
  logits = ask(params, images, jnp.asarray(PRESENT, jnp.float32))
  for found, (row, column) in zip(darker, ((3, 6), (2, 5)), strict=True):
    expected = (logits - found)[3, 0] / step
    np.testing.assert_allclose(gradient[3, row, column], expected, rtol=0.05, atol=2e-3)


def search(params: Any, images: Any) -> tuple[jax_sis.FeatureOrder, jax_sis.Subsets]:
  search = jax_sis.Gradient(per_step=8)
  order = jax_sis.backselect(predict, params, images, search=search, grid=(4, 4, 1), removal="layer")
  return order, jax_sis.smallest_subsets(predict, params, images, threshold=0.4, grid=(4, 4, 1), removal="layer")


@pytest.mark.slow
@pytest.mark.usefixtures("without_type_checks")
def test_searches_work_under_jit_vmap_and_pmap():
  params = as_dtype(NET, jnp.float32)
  images = jnp.asarray(np.random.default_rng(0).normal(size=(8, SIZE, SIZE, 3)), jnp.float32)
  expected = search(params, images)
  jitted = jax.jit(search)(params, images)
  vmapped = jax.vmap(search, in_axes=(None, 0))(params, images[:, None])
  pmapped = jax.pmap(search, in_axes=(None, 0))(params, images[:, None])
  for order, subsets in (jitted, vmapped, pmapped):
    np.testing.assert_array_equal(order.rank.reshape(8, -1), expected[0].rank)
    np.testing.assert_array_equal(subsets.mask.reshape(8, -1), expected[1].kept)
    np.testing.assert_allclose(order.confidence.reshape(8, -1), expected[0].confidence, rtol=1e-4)
  certificate = jax_sis.certify(predict, params, images, expected[1])
  is_ok = np.asarray(expected[1].status) == jax_sis.Status.OK
  assert is_ok.any() and certificate.is_minimal[is_ok].all()
