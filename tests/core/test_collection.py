"""Disjoint subsets against the reference, for every search, and images that need different numbers of rounds."""

import dataclasses
import functools
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
from jax_sis.core import collection as core_collection
from jax_sis.core.problem import make_problem

NUM_FEATURES = 12
THRESHOLD = 0.6
GRID = (4, 3, 1)
NUM_IMAGES = 10
MAX_SUBSETS = 5


@functools.cache
def question(seed: int = 1) -> tuple[Any, Any, Any, Any]:
  """Parameters in NumPy, images, features to use, and the classes asked for."""
  rng = np.random.default_rng(seed)
  params = toys.make_params("tanh", rng, 24)
  images = rng.normal(size=(NUM_IMAGES, 4, 3, 2))
  available = rng.random((NUM_IMAGES, NUM_FEATURES)) < 0.9
  logits = toys.predict_tanh(params, images * available.reshape(-1, *GRID))
  return params, images, available, np.asarray(logits).argmax(1)


def collect(**arguments: Any) -> tuple[jax_sis.Subsets, ...]:
  """Of the images above, in float64."""
  params, images, available, targets = question()
  with jax.enable_x64(True):
    return jax_sis.sis_collection(
      toys.predict_tanh,
      toys.to_jax(params, jnp.float64),
      jnp.asarray(images),
      jnp.asarray(targets),
      **{"available": jnp.asarray(available), "threshold": THRESHOLD, "max_subsets": MAX_SUBSETS, **arguments},
    )


def problem_of(index: int) -> reference.Problem:
  params, images, available, targets = question()
  return reference.Problem(
    model=toys.make_reference("tanh", params),
    x=images[index],
    target=int(targets[index]),
    grid=GRID,
    baseline=np.zeros(()),
    available=frozenset(np.flatnonzero(available[index]).tolist()),
  )


def found_for(collection: tuple[jax_sis.Subsets, ...], index: int) -> list[frozenset[int]]:
  return [
    frozenset(np.flatnonzero(subsets.mask[index]).tolist())
    for subsets in collection
    if subsets.status[index] == Status.OK
  ]


@pytest.mark.parametrize("batch_size", [3, 100])
@pytest.mark.parametrize(
  ("search", "select_fn"),
  [
    (jax_sis.Gradient(per_step=2), functools.partial(reference.gradient, per_step=2)),
    (
      jax_sis.Screened(candidates=3, gradient_until=6),
      functools.partial(reference.screened, candidates=3, gradient_until=6, gradient_per_step=4),
    ),
    (jax_sis.Exact(), reference.exact),
  ],
)
def test_a_collection_equals_the_reference(search: Any, select_fn: Any, batch_size: int):
  collection = collect(search=search, batch_size=batch_size)
  assert len(collection) == MAX_SUBSETS
  num_found = []
  for index in range(NUM_IMAGES):
    expected = reference.sis_collection(problem_of(index), select_fn, THRESHOLD)
    assert found_for(collection, index) == expected[:MAX_SUBSETS]
    num_found.append(len(expected))
  # Images differ in their number of rounds, so that batches were put together anew.
  assert len(set(num_found)) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("minimised", [False, True])
@pytest.mark.parametrize("search", [jax_sis.Forward(candidates=4), jax_sis.Gradient(per_step=3)])
def test_subsets_are_disjoint_sufficient_and_minimal_where_asked(search: Any, minimised: bool):
  collection = collect(search=search, minimised=minimised, batch_size=4)
  num_found = 0
  for index in range(NUM_IMAGES):
    problem = problem_of(index)
    usable = set(np.flatnonzero(question()[2][index]).tolist())
    subsets = found_for(collection, index)
    num_found += len(subsets)
    assert sum(map(len, subsets)) == len(frozenset().union(*subsets))
    for number, subset in enumerate(subsets):
      assert subset <= usable
      assert problem.probability(set(subset)) >= THRESHOLD
      np.testing.assert_allclose(collection[number].confidence[index], problem.probability(set(subset)), rtol=1e-9)
      assert not minimised or not reference.droppable(problem, set(subset), THRESHOLD)
    # It ends where nothing is left that suffices, or at the limit; a forward search may also get stuck.
    left = usable - set().union(*subsets)
    statuses = [int(subsets.status[index]) for subsets in collection]
    assert statuses == sorted(statuses)
    if Status.BELOW_THRESHOLD in statuses:
      assert problem.probability(left) < THRESHOLD
    else:
      assert len(subsets) == MAX_SUBSETS or statuses[-1] in (Status.NOT_REACHED, Status.BASELINE_SUFFICIENT)
  assert num_found > NUM_IMAGES


def test_an_image_gets_what_it_gets_alone():
  together = collect(search=jax_sis.Forward(candidates=4), batch_size=4)
  params, images, available, targets = question()
  for index in range(0, NUM_IMAGES, 3):
    with jax.enable_x64(True):
      alone = jax_sis.sis_collection(
        toys.predict_tanh,
        toys.to_jax(params, jnp.float64),
        jnp.asarray(images[index : index + 1]),
        jnp.asarray(targets[index : index + 1]),
        search=jax_sis.Forward(candidates=4),
        available=jnp.asarray(available[index : index + 1]),
        threshold=THRESHOLD,
        max_subsets=MAX_SUBSETS,
      )
    assert found_for(alone, 0) == found_for(together, index)
    assert [subsets.status[0] for subsets in alone] == [subsets.status[index] for subsets in together]


@pytest.mark.slow
@pytest.mark.usefixtures("without_type_checks")
def test_it_works_under_jit_and_pmap_and_is_certified():
  images, params = toys.images_and_params(2, num_images=8)
  run = functools.partial(jax_sis.sis_collection, toys.predict_tanh, threshold=THRESHOLD, max_subsets=2)
  expected = run(params, images)
  jitted = jax.jit(run)(params, images)
  pmapped = jax.pmap(run, in_axes=(None, 0))(params, images.reshape(8, 1, *images.shape[1:]))
  for first, second, third in zip(expected, jitted, pmapped, strict=True):
    np.testing.assert_array_equal(first.mask, second.mask)
    np.testing.assert_array_equal(first.mask, third.mask[:, 0])
    report = jax_sis.certify(toys.predict_tanh, params, images, first)
    np.testing.assert_array_equal(report.is_sufficient, first.status == Status.OK)


@pytest.mark.usefixtures("without_type_checks")
def test_a_traced_threshold_is_refused():
  images, params = toys.images_and_params(2, num_images=2)
  with pytest.raises(ValueError, match=r"^threshold must be a number when sis_collection is traced"):
    jax.jit(lambda threshold: jax_sis.sis_collection(toys.predict_tanh, params, images, threshold=threshold))(0.5)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"max_subsets": 0}, "max_subsets must be an integer of at least 1, got 0."),
    ({"batch_size": -1}, "batch_size must be an integer of at least 1, got -1."),
    ({"threshold": 1.0}, "threshold must be a probability strictly between 0 and 1, got 1.0."),
  ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_settings_out_of_range_are_refused(arguments: dict[str, Any], message: str):
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    collect(**arguments)


def overlapping_reference(problem: reference.Problem, max_overlap: float) -> list[frozenset[int]]:
  """As `reference.sis_collection`, where the features of each subset that it needs most stay, as many as may."""
  assert problem.available is not None
  free, found = problem.available, []
  while problem.probability(set(free)) >= THRESHOLD > problem.probability(set()):
    subset = reference.find_sis(reference.exact(dataclasses.replace(problem, available=free)), THRESHOLD)
    assert subset is not None
    found.append(subset)
    most_needed = reference.by_gradient(problem, sorted(subset))[::-1]
    free -= subset - set(most_needed[: int(max_overlap * len(subset) / (2 - max_overlap) + 1e-9)])
  return found[:MAX_SUBSETS]


def test_subsets_overlap_as_much_as_is_allowed():
  max_overlap, num_disjoint, num_found, num_shared = 0.9, 0, 0, 0
  overlapping = collect(search=jax_sis.Exact(), max_overlap=max_overlap)
  for index in range(NUM_IMAGES):
    problem, found = problem_of(index), found_for(overlapping, index)
    assert found == overlapping_reference(problem, max_overlap)
    for first, second in itertools.combinations(found, 2):
      assert 2 * len(first & second) / (len(first) + len(second)) <= max_overlap + 1e-9
      num_shared += bool(first & second)
    num_found += len(found)
    num_disjoint += len(reference.sis_collection(problem, reference.exact, THRESHOLD)[:MAX_SUBSETS])
  # What may be used again is used.
  assert num_found >= num_disjoint and num_shared


def test_so_many_features_may_be_used_again_that_no_other_subset_shares_too_much():
  weights = jnp.arange(1.0, 9.0)
  problem = make_problem(
    lambda weights, inputs: jnp.stack([inputs @ weights, jnp.zeros(len(inputs))], 1),
    weights,
    jnp.ones((8, 8)),
    jnp.zeros(8, jnp.int32),
    baseline=0.0,
    grid=(8,),
    score="log_odds",
  )
  kept = jnp.arange(8)[None] <= jnp.arange(8)[:, None]
  for max_overlap in (0.1, 0.5, 2 / 3, 0.9):
    reusable = core_collection.find_reusable(problem, kept, max_overlap)
    for size, mask in enumerate(np.asarray(reusable), start=1):
      count = mask.sum()
      # One that holds nothing else shares as much as is allowed, and with one feature more it would be too much.
      assert 2 * count / (size + count) <= max_overlap + 1e-9
      assert 2 * (count + 1) / (size + count + 1) > max_overlap
      assert mask[size - count : size].all()


@pytest.mark.parametrize("max_overlap", [-0.1, 1.0, True])
def test_an_overlap_that_allows_the_same_subset_is_refused(max_overlap: Any):
  with pytest.raises(ValueError, match="max_overlap must be a Dice coefficient of at least 0"):
    core_collection.check_overlap(max_overlap)
