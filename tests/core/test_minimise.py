"""Smaller subsets: what remains against brute force, and the exact size inside a removed group."""

import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import toys

import jax_sis
from jax_sis import Status

NUM_FEATURES = 10
NUM_PAIRS = NUM_FEATURES * (NUM_FEATURES - 1) // 2
THRESHOLD = 0.8
EVERY_EXCHANGE = {"exchanges": ((2, NUM_PAIRS),), "candidates": NUM_FEATURES}


def subsets_of(seed: int, *, per_step: int = 1, num_images: int = 12) -> tuple[Any, Any, Any, Any]:
  """Parameters in NumPy, images, a gradient order and its subsets, in float64."""
  rng = np.random.default_rng(seed)
  params = toys.make_params("tanh", rng, NUM_FEATURES, num_hidden=6)
  images = jnp.asarray(rng.normal(size=(num_images, NUM_FEATURES)))
  order = jax_sis.backselect(
    toys.predict_tanh, toys.to_jax(params, jnp.float64), images, search=jax_sis.Gradient(per_step=per_step)
  )
  return params, images, order, jax_sis.sufficient_subsets(order, THRESHOLD)


def minimise(params: Any, images: Any, subsets: Any, **arguments: Any) -> jax_sis.Subsets:
  return jax_sis.minimise(toys.predict_tanh, toys.to_jax(params, jnp.float64), images, subsets, **arguments)


def problems_of(params: Any, images: Any, subsets: Any) -> list[reference.Problem]:
  """The images and their targets, as the reference sees them."""
  return [
    reference.Problem(
      model=toys.make_reference("tanh", params),
      x=np.asarray(image),
      target=int(target),
      grid=(NUM_FEATURES,),
      baseline=np.zeros(()),
    )
    for image, target in zip(images, subsets.target, strict=True)
  ]


def features_of(mask: Any) -> set[int]:
  return set(np.flatnonzero(mask).tolist())


@pytest.mark.parametrize("seed", range(4))
def test_what_remains_can_neither_be_pruned_nor_exchanged(seed: int):
  with jax.enable_x64(True):
    params, images, _, subsets = subsets_of(seed)
    smaller = minimise(params, images, subsets, **EVERY_EXCHANGE, chunk_size=16)
  is_ok = np.asarray(subsets.status) == Status.OK
  assert is_ok.any()
  np.testing.assert_array_equal(smaller.status, subsets.status)
  np.testing.assert_array_equal(smaller.mask[~is_ok], subsets.mask[~is_ok])
  for index, problem in enumerate(problems_of(params, images, subsets)):
    if is_ok[index]:
      subset = features_of(smaller.mask[index])
      assert len(subset) == int(smaller.num_kept[index]) <= int(subsets.num_kept[index])
      assert problem.probability(subset) >= THRESHOLD
      np.testing.assert_allclose(smaller.confidence[index], problem.probability(subset), rtol=1e-12)
      assert not reference.droppable(problem, subset, THRESHOLD)
      assert not reference.can_be_exchanged(problem, subset, THRESHOLD)


def test_exchanges_find_what_pruning_cannot():
  totals = {"start": 0, "pruned": 0, "exchanged": 0}
  with jax.enable_x64(True):
    for seed in range(8):
      params, images, _, subsets = subsets_of(seed)
      pruned = minimise(params, images, subsets, exchanges=())
      exchanged = minimise(params, images, subsets, **EVERY_EXCHANGE)
      for name, found in (("start", subsets), ("pruned", pruned), ("exchanged", exchanged)):
        totals[name] += int(found.num_kept.sum())
      for index, problem in enumerate(problems_of(params, images, subsets)):
        assert not reference.droppable(problem, features_of(pruned.mask[index]), THRESHOLD)
  assert totals["start"] > totals["pruned"] > totals["exchanged"]


def test_an_exchange_by_hand():
  # Log-odds 2, 2 and 1.5 from features 0 to 2, 3.9 from feature 3. 0.97 needs 3.48: {0, 1} passes with 4 and is
  # 1-minimal, and {3} alone passes, which only an exchange finds.
  params = toys.linear_params([2, 2, 1.5, 3.9])
  images = jnp.ones((1, 4))
  rank = jnp.array([[0, 1, 2, 3]], jnp.int32)
  order = jax_sis.FeatureOrder(
    rank=rank,
    confidence=jax.nn.sigmoid(jnp.array([[0, 2, 4, 5.5, 9.4]])),
    target=jnp.zeros(1, jnp.int32),
    finite=jnp.ones(1, bool),
    baseline=jnp.zeros((1, 1)),
    sizes=(0, 1, 2, 3, 4),
    grid=(4,),
    score="log_odds",
  )
  subsets = jax_sis.sufficient_subsets(order, 0.97)
  assert subsets.mask.tolist() == [[True, True, False, False]]
  run = lambda **arguments: jax_sis.minimise(toys.predict_linear, params, images, subsets, **arguments)  # noqa: E731
  assert run(exchanges=()).mask.tolist() == [[True, True, False, False]]
  assert run(exchanges=((2, 1),), candidates=1).mask.tolist() == [[False, False, False, True]]


def test_three_features_are_exchanged_for_two_of_those_that_are_available():
  # Log-odds of 1.6 and 2.4; 0.99 needs 4.6: three of 1.6, or two of 2.4, or one of 2.4 and two of 1.6.
  params, images = toys.linear_params([1.6, 1.6, 1.6, 2.4, 2.4]), jnp.ones((2, 5))
  mask = jnp.tile(jnp.array([[True, True, True, False, False]]), (2, 1))
  subsets = jax_sis.Subsets(
    mask=mask,
    num_kept=mask.sum(1, dtype=jnp.int32),
    confidence=jax.nn.sigmoid(jnp.full(2, 4.8)),
    target=jnp.zeros(2, jnp.int32),
    threshold=jnp.full(2, 0.99),
    status=jnp.full(2, Status.OK, jnp.int8),
    baseline=jnp.zeros((2, 1)),
  )
  run = lambda **arguments: jax_sis.minimise(toys.predict_linear, params, images, subsets, **arguments)  # noqa: E731
  assert run(exchanges=((2, 3),)).num_kept.tolist() == [3, 3]
  found = run(exchanges=((2, 3), (3, 1)), available=jnp.array([[True] * 5, [True] * 4 + [False]]))
  assert found.mask.tolist() == [[False, False, False, True, True], [True, True, True, False, False]]
  np.testing.assert_allclose(found.confidence, jax.nn.sigmoid(jnp.full(2, 4.8)), rtol=1e-6)
  assert run(exchanges=((9, 2),)).num_kept.tolist() == [3, 3]


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [1, 7, 500])
def test_how_many_images_are_worked_on_at_a_time_changes_nothing(chunk_size: int):
  with jax.enable_x64(True):
    params, images, _, subsets = subsets_of(3)
    expected = minimise(params, images, subsets, candidates=3)
    actual = minimise(params, images, subsets, candidates=3, chunk_size=chunk_size)
  np.testing.assert_array_equal(actual.mask, expected.mask)


@pytest.mark.parametrize("exchanges", [((1, 4),), ((2, 0),), ((2,),), (2, 4), ((2, 4.0),)])
@pytest.mark.usefixtures("without_type_checks")
def test_exchanges_that_are_none_are_refused(exchanges: Any):
  with jax.enable_x64(True):
    params, images, _, subsets = subsets_of(0)
    with pytest.raises(ValueError, match=r"^exchanges must be pairs of how many features are taken out, at least 2"):
      minimise(params, images, subsets, exchanges=exchanges)


@pytest.mark.parametrize("per_step", [3, 4])
def test_the_exact_size_inside_a_group_is_the_shortest_prefix_that_passes(per_step: int):
  num_shortened = 0
  with jax.enable_x64(True):
    for seed in range(4):
      params, images, order, subsets = subsets_of(seed, per_step=per_step)
      prefix = jax.jit(jax_sis_shortest_prefix)(toys.to_jax(params, jnp.float64), images, order, subsets)
      for index, problem in enumerate(problems_of(params, images, subsets)):
        if subsets.status[index] != Status.OK:
          continue
        by_rank = np.argsort(order.rank[index]).tolist()
        size = int(subsets.num_kept[index])
        below = max(other for other in order.sizes if other < size)
        expected = next(
          length for length in range(below + 1, size + 1) if problem.probability(set(by_rank[:length])) >= THRESHOLD
        )
        assert features_of(prefix[index]) == set(by_rank[:expected])
        num_shortened += expected < size
  assert num_shortened


def jax_sis_shortest_prefix(params: Any, images: Any, order: Any, subsets: Any) -> Any:
  """Step 1 of minimise alone."""
  from jax_sis.core.minimise import shortest_prefix
  from jax_sis.core.problem import check_answered

  problem = check_answered(toys.predict_tanh, params, images, order)
  return shortest_prefix(problem, order, subsets)


@pytest.mark.slow
@pytest.mark.usefixtures("without_type_checks")
def test_it_works_under_jit_and_pmap_and_images_do_not_see_each_other():
  with jax.enable_x64(True):
    params, images, order, subsets = subsets_of(5, per_step=3, num_images=8)
    expected = minimise(params, images, subsets, order=order)
    jax_params = toys.to_jax(params, jnp.float64)
    run = lambda images, order, subsets: jax_sis.minimise(  # noqa: E731
      toys.predict_tanh, jax_params, images, subsets, order=order
    )
    jitted = jax.jit(run)(images, order, subsets)
    shards = jax.tree.map(lambda array: array.reshape(8, 1, *array.shape[1:]), (images, order, subsets))
    pmapped = jax.pmap(run)(*shards)
  np.testing.assert_array_equal(jitted.mask, expected.mask)
  np.testing.assert_array_equal(pmapped.mask[:, 0], expected.mask)


def test_subsets_of_a_given_size_and_foreign_inputs_are_refused():
  with jax.enable_x64(True):
    params, images, order, subsets = subsets_of(0)
    with pytest.raises(ValueError, match=r"^subsets must have a threshold that they may not fall below, got"):
      minimise(params, images, jax_sis.keep_fraction(order, 0.5))
    with pytest.raises(ValueError, match=f"^{re.escape('inputs must be the 12 that the subsets are of, got 5.')}$"):
      minimise(params, images[:5], subsets)
    _, _, other_order, _ = subsets_of(0, num_images=3)
    with pytest.raises(ValueError, match=r"^order must be what the subsets were read from, got one of 3 inputs"):
      minimise(params, images, subsets, order=other_order)


@pytest.mark.parametrize("name", ["candidates", "chunk_size"])
@pytest.mark.usefixtures("without_type_checks")
def test_settings_out_of_range_are_refused(name: str):
  with jax.enable_x64(True):
    params, images, _, subsets = subsets_of(0)
    with pytest.raises(ValueError, match=f"^{name} must be an integer of at least 1, got -1."):
      minimise(params, images, subsets, **{name: -1})


def test_the_reference_knows_an_exchange():
  # Guards the brute force above: it must be able to say yes.
  problem = reference.Problem(
    model=reference.Linear(np.array([[2.0, 0], [2, 0], [1.5, 0], [3.9, 0]])),
    x=np.ones(4),
    target=0,
    grid=(4,),
    baseline=np.zeros(()),
  )
  assert reference.can_be_exchanged(problem, {0, 1}, 0.97)
  assert not any(
    reference.can_be_exchanged(problem, set(pair), 0.99) for pair in itertools.combinations(range(4), 2) if 3 in pair
  )
