"""Backward selection: mask the least needed features step by step until none is left."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from jax_sis.core.completions import Completion
from jax_sis.core.drawing import smooth
from jax_sis.core.features import Shape
from jax_sis.core.meshes import on_any_mesh
from jax_sis.core.order import NOT_RANKED, FeatureOrder
from jax_sis.core.problem import Problem, check_problem
from jax_sis.core.scores import log_odds
from jax_sis.core.searches import BACKWARD_NAMES, BackwardSearch, Evaluation, Gradient, Phase
from jax_sis.core.trials import sort_keys
from jax_sis.core.types import PredictFn, Removal, ScoreName, Targets
from jax_sis.core.validation import check_kind


@on_any_mesh
def backselect(
  predict_fn: PredictFn,
  params: Any,
  inputs: Float[Array, "B ..."] | Float[np.ndarray, "B ..."],
  targets: Targets = None,
  *,
  search: BackwardSearch = Gradient(),
  baseline: float | Shaped[Array, "..."] | np.ndarray = 0.0,
  grid: tuple[int, ...] | None = None,
  available: Bool[Array, "..."] | Bool[np.ndarray, "..."] | None = None,
  score: ScoreName = "log_odds",
  completion: Completion | None = None,
  keys: Key[Array, "B"] | None = None,
  removal: Removal = "value",
  features: Shape | None = None,
) -> FeatureOrder:
  """Orders the features of each input by how much the classifier needs them.

  Starts from the whole input and masks, a step at a time, the features whose loss the target's score survives best
  (BackSelect of Carter et al. 2019, or Batched Gradient SIS of Carter et al. 2021, by `search`). The arithmetic is
  that of the inputs' dtype, at JAX's matmul precision; scores are formed in at least float32.

  It can be called under `jit`, `vmap` and `pmap`. Called directly on concrete arrays it compiles itself, once for
  each shape, and also checks values: targets in range, and a classifier whose examples do not see each other.

  Args:
    predict_fn: `(params, inputs) -> logits [B, K]`, see PredictFn. It must be hashable, as functions are. Programs are
      compiled for the object: a lambda or `functools.partial` made anew for each call is compiled anew.
    params: the model's arrays.
    inputs: normalised inputs, floating point, with a leading batch axis.
    targets: the class whose score is kept up, of each input or of all; by default that predicted on the whole input.
    search: `Gradient(per_step=k)`, `Screened()` or `Exact()`.
    baseline: what a masked feature shows: a number or an array that broadcasts against the inputs. 0.0 is the data's
      mean colour where inputs are normalised by it.
    grid: the mask's shape, of which every input axis is a multiple: of images `[32, 32, 3]`, `(8, 8, 1)` has a feature
      for each 4x4 patch, and `(T, 1)` one for each token of `[T, D]`. Features are numbered row by row. By default a
      feature a position, all channels together, as where the last entry is left out.
    available: features that may be kept at all, `[B, F]` or `[B, *grid]`, such as `[B, H, W]`, or without B for all
      inputs alike; the others are masked from the start and never ranked.
    score: "log_odds" (target logit minus logsumexp of the others) or "probability" (softmax; the authors' choice,
      which rounds to exactly 1 for confident inputs and leaves the order to ties). Ties go to the lowest index.
    completion: what a masked feature shows where that is more than a baseline: `completions.Images(pool)`, `Noise`,
      `Blur`, `Reveal`, ..., or a function `(key, image) -> image`. Of a distribution, each step makes fresh draws,
      common to all that is tried in it.
    keys: for the draws, one typed key an image, `[B]`; by default those of their places in the batch.
    removal: how masked features are removed. "value": they show the baseline or the completion. "layer" and "tokens":
      they are absent from images `[B, H, W, C]`, and have no value at all; of a convolutional network by layer masking,
      of a transformer by leaving its tokens out, see `with_presence`.
    features: in place of a grid, the label of each pixel, `[H, W]` or `[B, H, W]`: whole numbers, such as superpixels;
      or `features.Dct(...)` or `features.Basis(...)`, whose features are groups of coefficients. Features are
      numbered in the order of the labels, in each image.

  Returns:
    The order, with the confidence at the sizes that the search went through, such as F, F - k, F - 2k, ..., 0.

  Raises:
    ValueError: an argument has the wrong type, shape or value, or `predict_fn` is not a classifier of that kind.

  Examples:
    A linear classifier, which needs its first feature most and its second one least:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, inputs):
    ...   return inputs @ weights
    >>> weights = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    >>> order = jax_sis.backselect(predict_fn, weights, jnp.ones((1, 3)))
    >>> order.rank.tolist()
    [[0, 2, 1]]
  """
  check_kind("search", search, BackwardSearch, f"{BACKWARD_NAMES}; forward_select takes Forward(...)")
  problem = check_problem(
    predict_fn,
    params,
    inputs,
    targets,
    baseline=baseline,
    grid=grid,
    available=available,
    score=score,
    completion=completion,
    keys=keys,
    removal=removal,
    features=features,
  )
  return run_backward(problem, phases=search.phases(problem.num_features))


@functools.partial(jax.jit, static_argnames="phases")
def run_backward(problem: Problem, *, phases: tuple[Phase, ...]) -> FeatureOrder:
  """`backselect` through the sizes of the phases; features below the lowest stay unranked."""

  def step(
    search: BackwardSearch,
    carry: tuple[Bool[Array, "B F"], Int[Array, "B F"], Bool[Array, "B"], Float[Array, "B F"]],
    next_size: Int[Array, ""],
  ) -> tuple[Any, tuple[Float[Array, "B"], Float[Array, "B"] | None]]:
    kept, rank, finite, remembered = carry
    evaluation = search.evaluate(problem, kept, remembered)
    finite = finite & is_finite(evaluation, kept)
    remove = functools.partial(remove_features, next_size=next_size, at_most=search.largest_step(kept.shape[1]))
    kept, rank = jax.vmap(remove)(kept, rank, evaluation.preference)
    confidence = jax.nn.sigmoid(log_odds(evaluation.prediction.logits, problem.targets))
    return (kept, rank, finite, evaluation.remembered), (confidence, evaluation.prediction.rate)

  sizes = tuple(size for phase in reversed(phases) for size in phase.sizes)
  # The last evaluation, at the smallest size, removes nothing.
  next_sizes = iter((*sizes[-2::-1], sizes[0]))
  rank = jnp.full_like(problem.available, NOT_RANKED, jnp.int32)
  remembered = jnp.full_like(problem.available, jnp.nan, jnp.result_type(float))
  carry = problem.available, rank, jnp.full_like(problem.targets, True, bool), remembered
  seen = []
  for phase in phases:
    following = jnp.asarray(list(itertools.islice(next_sizes, len(phase.sizes))), jnp.int32)
    carry, seen_now = jax.lax.scan(functools.partial(step, phase.search), carry, following)
    seen.append(seen_now)
  _, rank, finite, _ = carry
  confidence, rate = jax.tree.map(lambda *parts: jnp.concatenate(parts)[::-1].T, *seen)
  if rate is not None:
    confidence, rate = smooth(confidence), smooth(rate)
  return problem.make_order(rank=rank, confidence=confidence, finite=finite, sizes=sizes, rate=rate)


def remove_features(
  kept: Bool[Array, "F"],
  rank: Int[Array, "F"],
  preference: Float[Array, "F"],
  *,
  next_size: Int[Array, ""],
  at_most: int,
) -> tuple[Bool[Array, "F"], Int[Array, "F"]]:
  """Masks the most preferred kept features of one image until `next_size` are left, `at_most` of them.

  Ties go to the lowest index. The feature masked first gets the highest rank, the number of kept features less one.
  """
  num_kept = kept.sum(dtype=jnp.int32)
  preference = sort_keys(preference, kept)
  if at_most == 1:
    chosen = preference.argmax(keepdims=True)
  else:
    _, chosen = jax.lax.top_k(preference, min(at_most, kept.size))
  position = jnp.arange(chosen.size, dtype=jnp.int32)
  is_removed = position < num_kept - next_size
  chosen = jnp.where(is_removed, chosen, kept.size)
  kept = kept.at[chosen].set(False, mode="drop")
  rank = rank.at[chosen].set(num_kept - 1 - position, mode="drop")
  return kept, rank


def is_finite(evaluation: Evaluation, kept: Bool[Array, "B F"]) -> Bool[Array, "B"]:
  """Whether the logits and the preferences of all kept features are numbers.

  A search may give -inf to features that it did not look at.
  """
  preference = evaluation.preference
  is_number = ~jnp.isnan(preference) & (preference < jnp.inf)
  return jnp.isfinite(evaluation.prediction.logits).all(1) & (is_number | ~kept).all(1)
