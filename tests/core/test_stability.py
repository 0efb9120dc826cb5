"""Stability of subsets: shares that can be counted out, and the smallest prefix that is certified stable."""

import dataclasses
import itertools
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

import jax_sis
from jax_sis import Status, Verdict

# The first feature alone gives 0.95; of the seven others, three take the class away alone, and four do not.
WEIGHTS = [3.0, -4.0, -4.0, -4.0, 0.4, 0.4, 0.4, 0.4]
NUM_DRAWS = 400


def make_case(count: int = 2) -> tuple[Any, Any, jax_sis.FeatureOrder]:
  sums = np.concatenate([[0], np.cumsum(np.sort(WEIGHTS)[::-1])])
  order = jax_sis.FeatureOrder(
    rank=jnp.tile(jnp.asarray(np.argsort(np.argsort(-np.array(WEIGHTS), kind="stable")), jnp.int32)[None], (count, 1)),
    confidence=jnp.tile(jax.nn.sigmoid(jnp.asarray(sums, jnp.float32))[None], (count, 1)),
    target=jnp.zeros(count, jnp.int32),
    finite=jnp.ones(count, bool),
    baseline=jnp.zeros((count, 1)),
    sizes=tuple(range(9)),
    grid=(8,),
    score="log_odds",
  )
  return toys.linear_params(WEIGHTS), jnp.ones((count, 8)), order


def count_out(num_added: int) -> tuple[float, float]:
  """The share of additions to the first feature after which the class is kept, and 0.9 reached."""
  sums = [WEIGHTS[0] + sum(added) for added in itertools.combinations(WEIGHTS[1:], min(num_added, 7))]
  return float(np.mean(np.array(sums) > 0)), float(np.mean(np.array(sums) > np.log(9)))


def test_shares_are_those_that_can_be_counted_out(tmp_path: pathlib.Path):
  params, images, order = make_case()
  # The whole input would not pass.
  subsets = dataclasses.replace(jax_sis.keep_fraction(order, 1 / 8), threshold=jnp.full(2, 0.9))
  added = (1, 3, 50)
  report = jax_sis.stability(toys.predict_linear, params, images, subsets, added, num_draws=NUM_DRAWS)
  for place, count in enumerate(added):
    for share, expected in zip((report.keeps_class, report.is_sufficient), count_out(count), strict=True):
      error = 4 * np.sqrt(max(expected * (1 - expected), 1e-12) / NUM_DRAWS) + 1e-6
      np.testing.assert_allclose(share[:, place], expected, atol=error, err_msg=f"{count} added")
  # Each image has draws of its own.
  assert report.keeps_class[0, 1] != report.keeps_class[1, 1]
  assert (report.keeps_class_bound <= report.keeps_class).all()
  assert report.keeps_class[:, 2].tolist() == [0, 0]
  assert "2 with a subset, 400 draws each; class kept after 1 more: 0." in repr(report)
  assert "class kept after 50 more" in str(report._repr_html_())
  jax_sis.save(tmp_path / "report.npz", report)
  assert jax_sis.load(tmp_path / "report.npz").num_added == added
  part = jax_sis.stability(toys.predict_linear, params, images[:1], subsets[:1], added, num_draws=NUM_DRAWS, keys=None)
  np.testing.assert_array_equal(part.keeps_class, report.keeps_class[:1])


def test_the_smallest_stable_prefix_is_where_few_additions_harm():
  params, images, order = make_case()
  # Four of those that speak for the class, 4.2 together, stand one of the others, and never two.
  subsets, report = jax_sis.stable_subsets(
    toys.predict_linear, params, images, order, num_added=1, sizes=(5, 4, 3, 2, 1), num_draws=60
  )
  assert subsets.num_kept.tolist() == [4, 4]
  assert report.verdict.tolist() == [Verdict.CERTIFIED] * 2
  assert report.rate.tolist() == [1.0, 1.0]
  none, report = jax_sis.stable_subsets(
    toys.predict_linear, params, images, order, num_added=2, sizes=(5, 4, 3, 2, 1), num_draws=60
  )
  assert none.status.tolist() == [Status.NOT_REACHED] * 2
  assert report.num_judged.tolist() == [5, 5]


def test_what_is_not_stability():
  params, images, order = make_case()
  subsets = jax_sis.keep_fraction(order, 1 / 8)

  def refused(message: str, *args: Any, **options: Any) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
      jax_sis.stability(toys.predict_linear, params, images, *args, **options)

  refused("num_added must be an integer of at least 1, got 0.", subsets, (1, 0))
  refused("num_added must hold at least one number of features, got none.", subsets, ())
  searched = dataclasses.replace(subsets, keys=jnp.zeros((2, 2), jnp.uint32))
  refused("completion must be given for subsets that were found under a distribution", searched)
