"""Log-odds and probability of a target."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from jax_sis.core import scores

LOGITS = np.random.default_rng(0).normal(scale=4, size=(6, 5))
TARGETS = np.array([0, 1, 2, 3, 4, 0], np.int32)


@pytest.mark.parametrize("score", ["log_odds", "probability"])
def test_scores_equal_the_reference_in_float64(score: str):
  with jax.enable_x64(True):
    actual = scores.score_logits(jnp.asarray(LOGITS), jnp.asarray(TARGETS), score=score)  # pyright: ignore[reportArgumentType]
    assert actual.dtype == jnp.float64
  expected = [reference.SCORES[score](logits, target) for logits, target in zip(LOGITS, TARGETS, strict=True)]
  np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize("score", ["log_odds", "probability"])
def test_gradients_of_scores_equal_the_hand_written_ones(score: str):
  with jax.enable_x64(True):
    total = lambda logits: scores.score_logits(logits, jnp.asarray(TARGETS), score=score).sum()  # noqa: E731  # pyright: ignore[reportArgumentType]
    actual = jax.grad(total)(jnp.asarray(LOGITS))
  expected = [reference.score_gradient(logits, target, score) for logits, target in zip(LOGITS, TARGETS, strict=True)]
  np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-14)


def test_the_sigmoid_of_log_odds_is_the_probability():
  logits, targets = jnp.asarray(LOGITS, jnp.float32), jnp.asarray(TARGETS)
  np.testing.assert_allclose(
    jax.nn.sigmoid(scores.log_odds(logits, targets)), scores.probability(logits, targets), rtol=1e-5
  )


def test_log_odds_tell_apart_what_the_probability_rounds_to_one():
  logits, targets = jnp.array([[60.0, 0.0, 1.0], [50.0, 0.0, 1.0]]), jnp.zeros(2, jnp.int32)
  assert scores.probability(logits, targets).tolist() == [1.0, 1.0]
  first, second = scores.log_odds(logits, targets).tolist()
  assert first - second == pytest.approx(10, abs=1e-4)


def test_log_odds_of_two_classes_are_the_difference_of_the_logits_exactly():
  logits = jnp.array([[3.0, -4.0], [1000.0, 7.0], [-1000.0, 7.0]])
  assert scores.log_odds(logits, jnp.array([0, 0, 0])).tolist() == [7.0, 993.0, -1007.0]
  assert scores.log_odds(logits, jnp.array([1, 1, 1])).tolist() == [-7.0, -993.0, 1007.0]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("score", ["log_odds", "probability"])
def test_scores_are_formed_in_at_least_float32(dtype: jnp.dtype, score: str):
  logits = jnp.asarray(LOGITS, dtype)
  actual = scores.score_logits(logits, jnp.asarray(TARGETS), score=score)  # pyright: ignore[reportArgumentType]
  assert actual.dtype == jnp.float32
  expected = scores.score_logits(logits.astype(jnp.float32), jnp.asarray(TARGETS), score=score)  # pyright: ignore[reportArgumentType]
  np.testing.assert_array_equal(actual, expected)
