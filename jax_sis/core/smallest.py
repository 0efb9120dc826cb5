"""The smallest evidence: grow, prune and exchange in one loop."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jax_sis.core.forward import read_growth, start_growth
from jax_sis.core.local_search import Exchanges, Settings, run_local_search
from jax_sis.core.minimise import DEFAULT_SETTINGS, read_smallest
from jax_sis.core.searches import Forward
from jax_sis.core.subsets import Subsets, sufficient_subsets
from jax_sis.core.types import Params, PredictFn, ScoreName


class Effort(NamedTuple):
  """How long a run looks for the smallest evidence: its forward search and exchanges."""

  forward: Forward
  exchanges: Exchanges


QUICK = Effort(Forward(candidates=DEFAULT_SETTINGS.candidates), DEFAULT_SETTINGS.exchanges)


THOROUGH = Effort(Forward(candidates=256), ((2, 8), (4, 16), (6, 16)))


@functools.partial(jax.jit, static_argnums=0, static_argnames=("search", "exchanges", "grid", "score"))
def run_smallest(
  predict_fn: PredictFn,
  params: Params,
  inputs: Float[Array, "B ..."],
  targets: Int[Array, "B"],
  baseline: Float[Array, "B ..."],
  available: Bool[Array, "B F"],
  *,
  search: Forward,
  exchanges: Exchanges,
  grid: tuple[int, ...],
  score: ScoreName,
) -> Subsets:
  """`forward_select`, `sufficient_subsets` and `minimise` in one loop, in which no image waits for another.

  Growing compares trials by `score`, as all of it does here.
  """
  state = run_local_search(
    predict_fn,
    params,
    inputs,
    targets,
    baseline,
    available,
    state=start_growth(available, search),
    threshold=jnp.full(inputs.shape[0], search.threshold, jnp.result_type(float)),
    settings=Settings(candidates=search.candidates, chunk_size=search.chunk_size, is_pruned=True, exchanges=exchanges),
    grid=grid,
    score=score,
  )
  subsets = sufficient_subsets(read_growth(state, targets, baseline, grid=grid, score=score), search.threshold)
  return read_smallest(state, subsets, score=score)
