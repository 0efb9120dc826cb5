"""Vision transformers that are told which pixels are there, against a network that gets the other tokens alone."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import Array

import jax_sis
from jax_sis import classifiers
from jax_sis.classifiers.adapters import from_nnx
from jax_sis.classifiers.ensemble import Ensemble, EnsembleConfig
from jax_sis.classifiers.frozen import freeze
from jax_sis.classifiers.resnet import ResNet, ResNetConfig
from jax_sis.classifiers.vit import ViT, ViTConfig

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")

TINY = ViTConfig(
  width=12, depth=2, num_heads=2, image_size=12, patch_size=4, is_distilled=True, activation="relu", num_classes=5
)


@pytest.fixture(scope="module")
def module() -> ViT:
  """Weights so large that every token counts."""
  module = nnx.eval_shape(lambda: ViT(TINY, rngs=classifiers.OneKey()))
  rng = np.random.default_rng(0)
  state = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 2, leaf.dtype), nnx.state(module))
  nnx.update(module, state)
  return module


@pytest.fixture(scope="module")
def images() -> Array:
  return jnp.asarray(np.random.default_rng(1).normal(size=(4, 12, 12, 3)), np.float32)


@pytest.fixture(scope="module")
def present() -> Array:
  """All, a third of the pixels, a token and a pixel of another, and none."""
  present = np.zeros((4, 12, 12), np.float32)
  present[0] = 1
  present[1, :, 4:8] = np.random.default_rng(2).random((12, 4)) < 0.7
  present[2, :4, 8:] = present[2, 5, 5] = 1
  return jnp.asarray(present)


@pytest.fixture
def wide() -> Iterator[None]:
  with jax.enable_x64(True):
    yield


def presence_of(predict_fn: Any) -> Any:
  return predict_fn.presence_fn


def in_float64(tree: Any) -> Any:
  return jax.tree.map(lambda leaf: jnp.asarray(leaf, np.float64), tree)


def normalise(tokens: np.ndarray, norm: dict[str, np.ndarray]) -> np.ndarray:
  centred = tokens - tokens.mean(-1, keepdims=True)
  return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * norm["scale"] + norm["bias"]


def connect(tokens: np.ndarray, linear: dict[str, np.ndarray]) -> np.ndarray:
  return tokens @ linear["kernel"] + linear["bias"]


def attend(tokens: np.ndarray, layer: dict[str, Any]) -> np.ndarray:
  width, head = TINY.width, TINY.width // TINY.num_heads
  parts = connect(tokens, layer["qkv"])
  mixed = []
  for start in range(0, width, head):
    query, key, value = (parts[:, place * width + start :][:, :head] for place in range(3))
    weights = np.exp(query @ key.T / math.sqrt(head))
    mixed.append(weights @ value / weights.sum(1, keepdims=True))
  return connect(np.concatenate(mixed, 1), layer["out"])


def slow_logits(params: dict[str, Any], image: np.ndarray, present: np.ndarray) -> np.ndarray:
  """Of one image, by a sequence of those tokens alone that have a pixel."""
  kernel, positions = params["patches"]["kernel"], params["positions"][0]
  tokens = [params["class_token"][0, 0] + positions[0], params["distillation_token"][0, 0] + positions[1]]
  for place in range(9):
    rows, columns = (slice(4 * part, 4 * part + 4) for part in divmod(place, 3))
    if present[rows, columns].any():
      shown = np.where(present[rows, columns, None], image[rows, columns], 0)
      tokens.append(np.tensordot(shown, kernel, 3) + params["patches"]["bias"] + positions[2 + place])
  sequence = np.stack(tokens)
  for number in range(TINY.depth):
    block = params["blocks"][number]
    sequence = sequence + attend(normalise(sequence, block["attention_norm"]), block["attention"])
    hidden = connect(normalise(sequence, block["mlp_norm"]), block["mlp"]["expand"])
    sequence = sequence + connect(np.maximum(hidden, 0), block["mlp"]["project"])
  sequence = normalise(sequence, params["last_norm"])
  return (connect(sequence[0], params["head"]) + connect(sequence[1], params["head_distilled"])) / 2


@pytest.mark.usefixtures("wide")
def test_tokens_that_are_not_there_might_as_well_be_left_out_of_the_sequence(
  module: ViT, images: Array, present: Array
):
  predict_fn, params = freeze(module)
  arguments = in_float64((params, images, present))
  logits = jax.jit(presence_of(predict_fn))(*arguments)
  params, images, present = jax.device_get(arguments)
  expected = np.stack([slow_logits(params, *one) for one in zip(images, present, strict=True)])
  np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-12)
  np.testing.assert_allclose(logits[:1], jax.jit(predict_fn)(*arguments[:2])[:1], rtol=0, atol=1e-12)
  assert np.ptp(expected, axis=0).min() > 0.05


def test_what_an_image_holds_where_it_is_not_present_changes_nothing(module: ViT, images: Array, present: Array):
  predict_fn, params = freeze(module)

  @jax.jit
  def answer(images: Any) -> Any:
    def total(present: Any) -> Any:
      logits = presence_of(predict_fn)(params, images, present)
      return logits[:, 0].sum(), logits

    (_, logits), gradient = jax.value_and_grad(total, has_aux=True)(present)
    return logits, gradient

  expected = answer(images)
  np.testing.assert_allclose(expected[0][0], jax.jit(predict_fn)(params, images)[0], rtol=0, atol=1e-6)
  assert np.isfinite(expected[1]).all()
  for other in (-3.0, np.inf, np.nan):
    found = answer(jnp.where(present[..., None] > 0, images, other))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_whatever_is_made_of_the_network_can_be_asked_in_its_way(module: ViT, images: Array, present: Array):
  predict_fn, params = freeze(module)
  assert presence_of(from_nnx(module)[0]) == presence_of(predict_fn)
  expected = jax.jit(presence_of(predict_fn))(params, images, present)
  pair = Ensemble([module, module], EnsembleConfig(members=("vit", "vit"), average="logits"))
  predict_fn, params = freeze(pair)
  np.testing.assert_allclose(jax.jit(presence_of(predict_fn))(params, images, present), expected, rtol=0, atol=1e-6)


def test_a_network_without_tokens_has_no_such_way():
  convolutional = ResNet(ResNetConfig(blocks=(1,), widths=(4,), num_classes=2), rngs=nnx.Rngs(0))
  pair = Ensemble([convolutional, convolutional], EnsembleConfig(members=("resnet20", "resnet20")))
  for module in (convolutional, pair):
    predict_fn, params = freeze(module)
    assert presence_of(predict_fn) is None
    with pytest.raises(ValueError, match=r"^removal \"tokens\" is for classifiers that can leave tokens out"):
      jax_sis.backselect(predict_fn, params, jnp.zeros((1, 8, 8, 3)), removal="tokens")


@pytest.mark.slow
@pytest.mark.parametrize("grid", [(3, 3), (12, 12)])
def test_a_search_reads_the_network_without_the_tokens(module: ViT, images: Array, grid: tuple[int, int]):
  predict_fn, params = freeze(module)
  search = jax_sis.Gradient(per_step=grid[0])
  order = jax_sis.backselect(predict_fn, params, images, search=search, grid=grid, removal="tokens")
  for place, size in enumerate(order.sizes):
    kept = np.repeat(np.repeat((order.rank < size).reshape(-1, *grid), 12 // grid[0], 1), 12 // grid[0], 2)
    probabilities = jax.nn.softmax(presence_of(predict_fn)(params, images, jnp.asarray(kept, np.float32)))
    confidence = probabilities[np.arange(4), np.asarray(order.target)]
    np.testing.assert_allclose(order.confidence[:, place], confidence, rtol=0, atol=1e-5)
