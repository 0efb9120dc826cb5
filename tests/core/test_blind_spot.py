"""Saturated evidence, at which the gradient is 0: what gradient searches drop early, and what does not."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jax_sis

SATURATED = [5, 6, 9, 10]
NUM_FEATURES = 16
STRENGTHS = (0.25, 0.5, 0.75, 1.0)


def predict(params: Any, inputs: Any) -> Any:
  """Class 0 by four features that must be 1 and need no more, worth 2 each; the others are worth 0.1 each."""
  parts = inputs.reshape(-1, NUM_FEATURES)
  found = params["worth"][None] * jnp.where(params["is_saturated"][None], 1 - (parts - 1) ** 2, parts)
  return jnp.stack([found.sum(1), jnp.zeros(len(parts))], axis=1)


def predict_at_strengths(params: Any, inputs: Any) -> Any:
  """The same of the image at several strengths of what is kept."""
  return jnp.stack([predict(params, strength * inputs) for strength in STRENGTHS]).mean(0)


def order_features(predict_fn: Any, search: Any) -> Any:
  is_saturated = np.isin(np.arange(NUM_FEATURES), SATURATED)
  params = {"is_saturated": is_saturated, "worth": np.where(is_saturated, 2.0, 0.1).astype(np.float32)}
  order = jax_sis.backselect(predict_fn, params, jnp.ones((1, 4, 4, 1)), 0, search=search)
  return np.asarray(order.rank)[0]


@pytest.mark.parametrize("per_step", [1, 4])
def test_gradient_searches_are_blind_to_saturated_evidence(per_step: int):
  rank = order_features(predict, jax_sis.Gradient(per_step=per_step))
  # Its gradient is 0 where it is whole, and so it goes first, though it is all but the whole evidence.
  assert (rank[SATURATED] >= NUM_FEATURES - len(SATURATED)).all()


@pytest.mark.parametrize(
  ("predict_fn", "search"),
  [
    (predict, jax_sis.Screened(candidates=8)),
    (predict, jax_sis.Exact()),
    (predict_at_strengths, jax_sis.Gradient()),
  ],
  ids=["screened", "exact", "strengths"],
)
def test_searches_that_try_and_gradients_at_several_strengths_see_it(predict_fn: Any, search: Any):
  assert (order_features(predict_fn, search)[SATURATED] < len(SATURATED)).all()
