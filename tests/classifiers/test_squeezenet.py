"""SqueezeNet against torchvision's, and the package's weights of it, brought to other inputs."""

import pathlib
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_weights
from jax import lax

import jax_sis
from jax_sis import classifiers
from jax_sis.classifiers import import_checkpoint, ndf_squeezenet, recipes, torch_weights
from jax_sis.classifiers.dense_conv import DIMENSION_NUMBERS
from jax_sis.classifiers.frozen import freeze
from jax_sis.classifiers.squeezenet import SqueezeNetConfig, pool
from jax_sis.classifiers.torch_namings import find_namings
from jax_sis.data.normalisation import IMAGENET_NORMALISATION

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")

TINY = SqueezeNetConfig(stem_width=6, squeezed=((2, 2), (3, 3), (4, 4, 5, 5)), num_classes=10)


@pytest.fixture(autouse=True)
def tiny_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
  """A tiny network in the place of others, which would take seconds to be compared with."""
  monkeypatch.setattr(classifiers, "ARCHITECTURES", {"squeezenet_test": TINY})
  monkeypatch.setitem(recipes.PUBLISHED, "squeezenet_test", recipes.PUBLISHED["squeezenet1_1"])


def tiny_arrays() -> dict[str, list[np.ndarray]]:
  """Random weights of the tiny network, as the package keeps them: a kernel and a bias a layer."""
  (naming,) = find_namings(TINY)
  shapes = torch_weights.needed_shapes("squeezenet_test", naming, 10)
  shapes |= {"classifier.1.weight": (10, 40, 1, 1)}
  state_dict = random_weights.random_state_dict(shapes, kernel_gain=1.5)
  return {
    name: [state_dict[f"{theirs}.weight"].transpose(2, 3, 1, 0), state_dict[f"{theirs}.bias"]]
    for name, theirs in ndf_squeezenet.TORCH_NAMES.items()
  }


def tiny_pixels() -> np.ndarray:
  """Two images of noise."""
  return np.random.default_rng(0).integers(0, 256, (2, 31, 31, 3)).astype(np.uint8)


def run_as_keras(arrays: dict[str, list[np.ndarray]], pixels: np.ndarray) -> Any:
  """The network as it was published, on red, green and blue in 0..255."""

  def convolve(inputs: Any, name: str, *, stride: int = 1, padding: str = "SAME") -> Any:
    kernel, bias = arrays[name]
    outputs = lax.conv_general_dilated(
      inputs, jnp.asarray(kernel), (stride, stride), padding, dimension_numbers=DIMENSION_NUMBERS, precision="highest"
    )
    return np.maximum(outputs + bias, 0)

  hidden = convolve(
    pixels[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32), "conv1", stride=2, padding="VALID"
  )
  for number in range(2, 10):
    if number in (2, 4, 6):
      hidden = lax.reduce_window(hidden, -np.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")
    squeezed = convolve(hidden, f"fire{number}/squeeze1x1")
    hidden = np.concatenate([convolve(squeezed, f"fire{number}/expand{size}") for size in ("1x1", "3x3")], axis=-1)
  return convolve(hidden, "conv10").mean((1, 2))


def test_the_packages_weights_give_the_published_logits_on_normalised_images(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  arrays = tiny_arrays()
  (tmp_path / "weights.pkl").write_bytes(pickle.dumps(arrays, 3))
  pixels = tiny_pixels()
  classifier = import_checkpoint.import_weights(tmp_path / "weights.pkl", out_dir=tmp_path / "out")
  assert (classifier.model_name, classifier.recipe) == ("squeezenet_test", "bilinear-227-256")
  assert "red, green and blue by the normalisation imagenet2012" in capsys.readouterr().out
  inputs = jnp.asarray(classifier.normalisation.apply(pixels))
  logits = jax.jit(classifier.module)(inputs)
  expected = run_as_keras(arrays, pixels.astype(np.float32))
  assert np.std(expected) > 1
  np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
def test_a_search_runs_on_the_frozen_network_whose_logits_are_the_trainable_ones():
  module = torch_weights.load_module("squeezenet_test", ndf_squeezenet.to_torch(numbered(tiny_arrays())))
  predict_fn, params = freeze(module)
  inputs = jnp.asarray(IMAGENET_NORMALISATION.apply(tiny_pixels()))
  np.testing.assert_allclose(jax.jit(predict_fn)(params, inputs), jax.jit(module)(inputs), rtol=1e-6, atol=1e-6)
  order = jax_sis.backselect(predict_fn, params, inputs, search=jax_sis.Gradient(per_step=200))
  assert order.finite.all()


def numbered(arrays: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
  """The arrays as they are read from a pickle."""
  return {f"{name}.{index}": part for name, parts in arrays.items() for index, part in enumerate(parts)}


def test_another_pickle_of_keras_is_none_of_the_package():
  arrays = {f"{name}.{index}": np.zeros(1) for name in ndf_squeezenet.TORCH_NAMES for index in (0, 1)}
  assert ndf_squeezenet.is_ndf(arrays)
  assert not ndf_squeezenet.is_ndf(arrays | {"dense.0": np.zeros(1)})
  del arrays["conv10.1"]
  assert not ndf_squeezenet.is_ndf(arrays)


@pytest.mark.parametrize(("size", "expected"), [(7, 3), (8, 4)])
def test_the_last_window_may_reach_beyond_the_edge(size: int, expected: int):
  inputs = jnp.arange(size * size, dtype=jnp.float32).reshape(1, size, size, 1)
  outputs = np.asarray(pool(inputs))
  assert outputs.shape == (1, expected, expected, 1)
  assert outputs[0, -1, -1, 0] == size * size - 1
