"""Masked copies of the inputs, tried: gradients, single flips, and the ranking of what they say."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from jax_sis.core.chunks import LARGEST_CALL
from jax_sis.core.problem import Prediction, Problem


def differentiate_score(problem: Problem, kept: Shaped[Array, "B F"]) -> tuple[Prediction, Float[Array, "B F"]]:
  """What is said at a mask, Boolean or between 0 and 1, and the gradient of each image's score with respect to it."""

  def total_score(mask: Float[Array, "B F"]) -> tuple[Float[Array, ""], Prediction]:
    prediction = problem.predict(mask)
    return problem.score_logits(prediction.ranking[:, None]).sum(), prediction

  gradient, prediction = jax.grad(total_score, has_aux=True)(kept.astype(jnp.result_type(float)))
  return prediction, gradient


def differentiate_additions(problem: Problem, kept: Shaped[Array, "B F"]) -> tuple[Prediction, Float[Array, "B F"]]:
  """The same for features that are not kept, to see which to add.

  Under layer masking nothing is said of what is missing, far from what is there. So the gradient is that of the whole
  network with the baseline in its place: it only names what is then tried.
  """
  if problem.removal != "layer":
    return differentiate_score(problem, kept)
  _, gradient = differentiate_score(dataclasses.replace(problem, removal="value"), kept)
  return problem.predict(kept), gradient


def best_features(preference: Float[Array, "B F"], allowed: Bool[Array, "B F"], count: int) -> Int[Array, "B P"]:
  """The `count` most preferred of the allowed features of each image; F stands where there are fewer."""
  num_features = preference.shape[1]
  best, features = jax.lax.top_k(sort_keys(preference, allowed), min(count, num_features))
  return jnp.where(best == -jnp.inf, num_features, features)


def sort_keys(preference: Float[Array, "*B F"], allowed: Bool[Array, "*B F"]) -> Float[Array, "*B F"]:
  """Preferences that can be ranked: equal zeros, NaN as the last resort, and -inf for features that are not allowed.

  `top_k` alone puts +0.0 before -0.0 and NaN before everything.
  """
  limits = jnp.finfo(preference.dtype)
  preference = jnp.where(preference == 0, 0.0, preference)
  preference = jnp.nan_to_num(preference, nan=limits.min, posinf=limits.max, neginf=limits.min)
  return jnp.where(allowed, preference, -jnp.inf)


def scores_without_each(problem: Problem, kept: Bool[Array, "B F"], *, chunk_size: int) -> Float[Array, "B F"]:
  """The score of each image with one kept feature masked in addition, for every kept feature; -inf elsewhere.

  Args:
    problem: the classifier and its images.
    kept: the features that are kept now.
    chunk_size: masked copies at a time, over all images together.
  """
  # Kept features first, in ascending order; a stable sort keeps them so.
  candidates = jnp.argsort(~kept, axis=1, stable=True)
  num_needed = kept.sum(1, dtype=jnp.int32)
  scores = score_flips(problem, kept, candidates, chunk_size=chunk_size, num_needed=num_needed)
  return spread_scores(scores, candidates, kept)


def score_flips(
  problem: Problem,
  kept: Bool[Array, "B F"],
  features: Int[Array, "B P"],
  *,
  chunk_size: int,
  num_needed: Int[Array, "B"] | None = None,
) -> Float[Array, "B P"]:
  """The score of each image with one feature changed from kept to masked or back: P such variants, or fewer.

  What the images need is tried one after the other, so that no model call is filled up but the last. The draws of a
  distribution are those of `kept`, common to all variants.

  Args:
    problem: the classifier and its images.
    kept: the features that are kept now.
    features: which to change; the number F changes nothing.
    chunk_size: masked copies at a time, over all images together; a call takes LARGEST_CALL at most, or one an image.
    num_needed: how many of the P columns matter in each image, all by default; the scores of later ones are -inf.
  """
  num_images, num_features = kept.shape
  num_columns = features.shape[1]
  per_image = min(max(min(chunk_size, LARGEST_CALL) // (num_images * problem.copies_tried), 1), num_columns)
  call_size = per_image * num_images
  num_needed = jnp.full_like(kept, num_columns, jnp.int32, num_images) if num_needed is None else num_needed
  ends = jnp.cumsum(num_needed)
  numbers = jnp.arange(num_features, dtype=features.dtype)

  def score_call(index: Array, scores: Float[Array, "B P"]) -> Float[Array, "B P"]:
    places = index * call_size + jnp.arange(call_size, dtype=ends.dtype)
    images = (places[:, None] >= ends[None]).sum(1, dtype=jnp.int32)
    # What fills up the last call changes nothing, in the last image, and goes nowhere.
    images = jnp.minimum(images, num_images - 1)
    columns = jnp.where(places < ends[-1], places - (ends - num_needed)[images], num_columns)
    flipped = features.at[images, columns].get(mode="fill", fill_value=num_features)
    kept_now = kept[images]
    masks = kept_now ^ (numbers[None] == flipped[:, None])
    call_scores = problem.take(images).score_masks(masks[:, None], drawn_at=kept_now)[:, 0]
    return scores.at[images, columns].set(call_scores.astype(scores.dtype), mode="drop")

  scores = jnp.full_like(kept, -jnp.inf, jnp.result_type(float), features.shape)
  return jax.lax.fori_loop(0, -(-ends[-1] // call_size), score_call, scores)


def spread_scores(
  scores: Float[Array, "B P"], features: Int[Array, "B P"], allowed: Bool[Array, "B F"]
) -> Float[Array, "B F"]:
  """Scores by feature number, -inf for features that have none or are not allowed."""
  rows = jnp.arange(allowed.shape[0])[:, None]
  by_feature = jnp.full(allowed.shape, -jnp.inf, scores.dtype).at[rows, features].set(scores, mode="drop")
  return jnp.where(allowed, by_feature, -jnp.inf)
