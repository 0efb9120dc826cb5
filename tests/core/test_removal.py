"""Removal inside the network: which classifiers, images and other settings it goes with, and where it is kept."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

import jax_sis
from jax_sis.core import completions

IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32))
WEIGHTS = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32))


def predict(weights: Array, inputs: Array) -> Array:
  return inputs.mean((1, 2)) @ weights


def predict_present(weights: Array, inputs: Array, present: Array) -> Array:
  """The mean of what is there."""
  there = jnp.where(present[..., None] > 0, inputs, 0) * present[..., None]
  return there.sum((1, 2)) / jnp.maximum(present.sum((1, 2)), 1)[:, None] @ weights


def predict_less(weights: Array, inputs: Array, present: Array) -> Array:
  return predict_present(weights, inputs, present)[:, :1]


NO_PRESENCE: Any = predict
MEAN_OF_PRESENT = jax_sis.with_presence(predict, predict_present)
ORDER = jax_sis.backselect(MEAN_OF_PRESENT, WEIGHTS, IMAGES, removal="tokens")


def test_presence_is_what_is_asked() -> None:
  kept = np.asarray(ORDER.rank).reshape(2, 4, 4) < 5
  logits = [WEIGHTS.T @ IMAGES[i][kept[i]].mean(0) for i in range(2)]
  expected = [1 / (1 + np.exp(one[1 - target] - one[target])) for one, target in zip(logits, ORDER.target, strict=True)]
  np.testing.assert_allclose(ORDER.confidence[:, 5], expected, rtol=1e-5)


def test_subsets_remember_their_removal(tmp_path) -> None:
  subsets = jax_sis.sufficient_subsets(ORDER, 0.6)
  assert subsets.removal == ORDER.removal == "tokens"
  jax_sis.save(tmp_path / "subsets.npz", subsets)
  assert jax_sis.load(tmp_path / "subsets.npz").removal == "tokens"
  # Both take the removal of the subsets; by value, the confidences would not be reproduced.
  assert bool(jax_sis.certify(MEAN_OF_PRESENT, WEIGHTS, IMAGES, subsets).is_sufficient.any())
  assert jax_sis.minimise(MEAN_OF_PRESENT, WEIGHTS, IMAGES, subsets).removal == "tokens"
  with pytest.raises(ValueError, match="reproducible"):
    jax_sis.certify(MEAN_OF_PRESENT, WEIGHTS, IMAGES, dataclasses.replace(subsets, removal="value"))
  # Asked of another removal, there is nothing to reproduce.
  assert jax_sis.certify(MEAN_OF_PRESENT, WEIGHTS, IMAGES, subsets, removal="value").is_reproduced.all()


def test_lattices_and_orders_by_scores_are_read_with_features_absent() -> None:
  options: Any = {"grid": (2, 2), "removal": "tokens"}
  found = jax_sis.lattice(MEAN_OF_PRESENT, WEIGHTS, IMAGES, threshold=0.6, **options)
  scores = jnp.array([[4.0, 1.0, 3.0, 2.0]])
  order = jax_sis.order_by_scores(MEAN_OF_PRESENT, WEIGHTS, IMAGES, jnp.broadcast_to(scores, (2, 4)), **options)
  # Features 0 and 2, the left half, are mask 5.
  expected = jax.nn.softmax(IMAGES[:, :, :2].mean((1, 2)) @ WEIGHTS)[jnp.arange(2), order.target]
  np.testing.assert_allclose(found.confidence[:, 5], expected, rtol=1e-5)
  np.testing.assert_allclose(order.confidence[:, 2], expected, rtol=1e-5)
  assert found.smallest("both").removal == order.removal == "tokens"


def predict_pair(weight: Array, inputs: Array, present: Array) -> Array:
  """Two positions together speak for class 0, and nothing else says anything."""
  del inputs
  flat = present.reshape(len(present), -1)
  together = weight * (flat[:, 40] * flat[:, 50] - 0.5)
  return jnp.stack([together, jnp.zeros_like(together), jnp.zeros_like(together)], axis=1)


def predict_whole(weight: Array, inputs: Array) -> Array:
  return predict_pair(weight, inputs, jnp.ones_like(inputs[..., 0]))


def test_what_does_not_grow_is_searched_for_backwards() -> None:
  predict_fn = jax_sis.with_presence(predict_whole, predict_pair)
  images, weight = jnp.zeros((2, 8, 8, 3)), jnp.float32(8)
  subsets = jax_sis.smallest_subsets(predict_fn, weight, images, [0, 1], threshold=0.9, removal="tokens")
  # The other class does not suffice on the whole image, and has nothing to search for.
  assert subsets.status.tolist() == [jax_sis.Status.OK, jax_sis.Status.BELOW_THRESHOLD]
  assert np.flatnonzero(subsets.kept[0]).tolist() == [40, 50] and not subsets.kept[1].any()
  np.testing.assert_allclose(subsets.confidence[0], jax.nn.softmax(jnp.array([4.0, 0, 0]))[0], rtol=1e-5)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"removal": "tokens", "completion": completions.Noise()}, "completion must not be given with removal"),
    ({"removal": "tokens", "completion": completions.Constant(0.0)}, "completion must not be given with removal"),
    ({"removal": "tokens", "grid": (4, 4, 3)}, "whole positions of images"),
    ({"removal": "tokens", "predict_fn": predict}, "has no presence_fn; give jax_sis.with_presence"),
    ({"removal": "tokens", "predict_fn": jax_sis.with_presence(predict, predict_less)}, "logits of shape"),
    ({"removal": "tokens", "predict_fn": jax_sis.with_presence(predict, NO_PRESENCE)}, "presence_fn must accept"),
  ],
)
def test_what_does_not_fit_is_refused(options, message) -> None:
  predict_fn = options.pop("predict_fn", MEAN_OF_PRESENT)
  with pytest.raises(ValueError, match=message):
    jax_sis.backselect(predict_fn, WEIGHTS, IMAGES, **options)
