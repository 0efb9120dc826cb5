"""What a classifier says of a batch, and what a search keeps up of it: log-odds, or the softmax probability."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jax_sis.core.types import PredictFn, ScoreName


@functools.partial(jax.jit, static_argnums=0)
def predict_logits(predict_fn: PredictFn, params: Any, inputs: Float[Array, "B ..."]) -> Float[Array, "B K"]:
  """The classifier, compiled once for each shape of inputs."""
  return predict_fn(params, inputs)


def log_odds(logits: Float[Array, "B K"], targets: Int[Array, "B"]) -> Float[Array, "B"]:
  """Log-odds of the target: its logit minus the logsumexp of all others, in at least float32.

  Monotone in the softmax probability, `sigmoid(log_odds)`, but never rounded to a common 1.0.

  >>> log_odds(jnp.array([[60.0, 0.0], [50.0, 0.0]]), jnp.array([0, 0]))
  Array([60., 50.], dtype=float32)
  """
  logits = at_least_float32(logits)
  is_target = jnp.arange(logits.shape[1], dtype=targets.dtype)[None] == targets[:, None]
  target_logit = jnp.where(is_target, logits, 0).sum(1)
  others = jax.nn.logsumexp(jnp.where(is_target, -jnp.inf, logits), axis=1)
  return target_logit - others


def lost_by(logits: Float[Array, "B K"], targets: Int[Array, "B"]) -> Float[Array, "B"]:
  """By how much the strongest other class is ahead of the target, in log-odds of the two; in at least float32.

  Above 0 another class is predicted. With two classes, minus the log-odds of the target.

  >>> lost_by(jnp.array([[4.0, 1.0, 0.0], [1.0, 3.0, 0.0]]), jnp.array([0, 0]))
  Array([-3.,  2.], dtype=float32)
  """
  logits = at_least_float32(logits)
  is_target = jnp.arange(logits.shape[1], dtype=targets.dtype)[None] == targets[:, None]
  return jnp.where(is_target, -jnp.inf, logits).max(1) - jnp.where(is_target, logits, 0).sum(1)


def probability(logits: Float[Array, "B K"], targets: Int[Array, "B"]) -> Float[Array, "B"]:
  """Softmax probability of the target, in at least float32."""
  probabilities = jax.nn.softmax(at_least_float32(logits), axis=1)
  return jnp.take_along_axis(probabilities, targets[:, None], axis=1)[:, 0]


def score_logits(logits: Float[Array, "B K"], targets: Int[Array, "B"], *, score: ScoreName) -> Float[Array, "B"]:
  return SCORES[score](logits, targets)


def at_least_float32(array: Float[Array, "..."]) -> Float[Array, "..."]:
  """The same numbers in float32, or in float64 if they were."""
  return array.astype(np.promote_types(array.dtype, np.float32))


def to_probability(scores: Float[Array, "..."], *, score: ScoreName) -> Float[Array, "..."]:
  """The softmax probability that a value of the named score stands for."""
  return jax.nn.sigmoid(scores) if score == "log_odds" else scores


SCORES = {"log_odds": log_odds, "probability": probability}
