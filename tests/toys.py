"""Tiny classifiers in JAX that mirror the models of `reference.py`, and how to make both from random numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

# The quick tests do with the one that is the default.
SCORES = ["log_odds", pytest.param("probability", marks=pytest.mark.slow)]


def predict_linear(params: Any, inputs: Any) -> Any:
  """`reference.Linear` on a batch."""
  return inputs.reshape(inputs.shape[0], -1) @ params["weights"]


def predict_tanh(params: Any, inputs: Any) -> Any:
  """`reference.TwoLayer` with tanh on a batch."""
  hidden = inputs.reshape(inputs.shape[0], -1) @ params["hidden_weights"] + params["hidden_bias"][None]
  return jnp.tanh(hidden) @ params["weights"]


def predict_relu(params: Any, inputs: Any) -> Any:
  """`reference.TwoLayer` with ReLU on a batch."""
  hidden = inputs.reshape(inputs.shape[0], -1) @ params["hidden_weights"] + params["hidden_bias"][None]
  return jax.nn.relu(hidden) @ params["weights"]


PREDICT_FNS = {"linear": predict_linear, "tanh": predict_tanh, "relu": predict_relu}


def make_params(
  kind: str,
  rng: np.random.Generator,
  num_elements: int,
  *,
  num_classes: int = 3,
  num_hidden: int = 4,
  integers: bool = False,
) -> dict[str, np.ndarray]:
  """Random weights in float64: normal ones, or small integers, so that sums are exact and ties happen."""

  def draw(*shape: int) -> np.ndarray:
    return rng.integers(-2, 3, shape).astype(float) if integers else rng.normal(size=shape)

  if kind == "linear":
    return {"weights": draw(num_elements, num_classes)}
  return {
    "hidden_weights": draw(num_elements, num_hidden),
    "hidden_bias": draw(num_hidden),
    "weights": draw(num_hidden, num_classes),
  }


def make_reference(kind: str, params: dict[str, np.ndarray]) -> reference.Model:
  """The same model in NumPy."""
  if kind == "linear":
    return reference.Linear(params["weights"])
  return reference.TwoLayer(params["hidden_weights"], params["hidden_bias"], params["weights"], kind)


def to_jax(tree: Any, dtype: Any = jnp.float32) -> Any:
  """Every array as a JAX array of this dtype."""
  return jax.tree.map(lambda array: jnp.asarray(array, dtype), tree)


def images_and_params(
  seed: int = 0,
  *,
  kind: str = "tanh",
  num_images: int = 3,
  shape: tuple[int, ...] = (4, 3, 2),
  num_classes: int = 3,
) -> tuple[Any, Any]:
  """A float32 batch and the parameters of a random toy."""
  rng = np.random.default_rng(seed)
  params = make_params(kind, rng, int(np.prod(shape)), num_classes=num_classes)
  return to_jax(rng.normal(size=(num_images, *shape))), to_jax(params)


def linear_params(weights: Any) -> Any:
  """Two classes: the logit of class 0 is the weighted sum of the features, that of class 1 is 0."""
  weights = np.asarray(weights, np.float32)
  return to_jax({"weights": np.stack([weights, np.zeros_like(weights)], axis=1)})
