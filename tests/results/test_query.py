"""Which stored field is the subset that is meant, and that the store and the kernel say the same of an order."""

import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_sis.core.order import FeatureOrder
from jax_sis.core.subsets import Status
from jax_sis.results.query import SubsetQuery, find_subsets, make_query, parse_mask_name, parse_query
from jax_sis.results.schema import NOT_SEARCHED

GRID = (2, 3, 1)
NUM_FEATURES = 6
SPEC = {"threshold": 0.9, "grid": list(GRID), "sizes": [0, 1, 2, 4, 6]}
SIS_FIELDS = ("sis_num_kept", "sis_status")
ORDER_FIELDS = ("rank", "confidence")
SMALLEST_FIELDS = ("smallest_num_kept", "smallest_status")
OWN = SubsetQuery(threshold=0.9)
SMALLEST = SubsetQuery(kind="smallest", threshold=0.9)


@st.composite
def orders(draw: st.DrawFn) -> tuple[dict[str, Any], np.ndarray]:
  """Orders of a backward search or a stopped forward one, some not finite, and which images were searched.

  They are given as the fields of a FeatureOrder: the type checks of its tuples draw random numbers of their own, which
  Hypothesis forbids here.
  """
  # Few shapes: for each, JAX compiles anew.
  num_images = draw(st.sampled_from([1, 4]))
  is_complete = draw(st.booleans())
  inner = sorted(draw(st.sets(st.integers(1, NUM_FEATURES - 1), min_size=1)))
  sizes = (0, *inner, *([NUM_FEATURES] if is_complete else []))
  # Few values, so that a threshold often equals a confidence.
  values = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0, float("nan")])
  confidence = draw(st.lists(values, min_size=num_images * len(sizes), max_size=num_images * len(sizes)))
  ranks = [draw(st.permutations(range(NUM_FEATURES))) for _ in range(num_images)]
  num_ranked = [NUM_FEATURES if is_complete else draw(st.integers(0, sizes[-1])) for _ in range(num_images)]
  rank = np.array(ranks, np.int32)
  rank = np.where(rank < np.array(num_ranked)[:, None], rank, NUM_FEATURES)
  flags = st.lists(st.booleans(), min_size=num_images, max_size=num_images)
  order = dict(
    rank=jnp.asarray(rank),
    confidence=jnp.asarray(np.array(confidence, np.float32).reshape(num_images, len(sizes))),
    target=jnp.zeros(num_images, jnp.int32),
    finite=jnp.asarray(draw(flags)),
    baseline=jnp.zeros((num_images, 1, 1, 1)),
    sizes=sizes,
    grid=GRID,
    score="log_odds",
  )
  return order, np.array(draw(flags))


def find_by_loop(order: FeatureOrder, threshold: float, image: int) -> tuple[int, int]:
  """Status and size of the subset of a finite order, by the definition."""
  values = np.asarray(order.confidence[image])
  level = np.float32(threshold)
  if order.sizes[-1] == NUM_FEATURES and not values[-1] >= level:
    return Status.BELOW_THRESHOLD, 0
  for size, value in zip(order.sizes, values, strict=True):
    if value >= level:
      return (Status.OK, size) if size else (Status.BASELINE_SUFFICIENT, 0)
  return Status.NOT_REACHED, 0


@settings(max_examples=100, deadline=None)
@given(found=orders(), threshold=st.sampled_from([0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95]), own=st.booleans())
def test_the_store_and_the_kernel_say_the_same_of_an_order(
  found: tuple[dict[str, Any], np.ndarray], threshold: float, own: bool
):
  fields, is_searched = found
  order = FeatureOrder(**fields)
  stored_at = SubsetQuery(threshold=threshold if own else 0.6)
  spec = {"threshold": stored_at.threshold, "grid": GRID, "sizes": order.sizes}
  status = np.where(is_searched, stored_at.read_order(order).status, NOT_SEARCHED)
  rows = {"rank": np.asarray(order.rank), "confidence": np.asarray(order.confidence), "sis_status": status}
  queries = [SubsetQuery(threshold=threshold)]
  queries += [SubsetQuery(fraction=fraction) for fraction in (0.01, 1 / 6, 0.34, 0.5, 1.0)]
  for query in queries:
    subsets = query.read_order(order)
    stored = find_subsets(query, spec, rows)
    num_kept, statuses = stored.sizes({name: rows[name] for name in stored.size_fields})
    masks = stored.masks({name: rows[name] for name in stored.mask_fields})
    expected = np.where(is_searched, subsets.status, NOT_SEARCHED)
    np.testing.assert_array_equal(statuses, expected)
    np.testing.assert_array_equal(masks, subsets.mask.reshape(-1, NUM_FEATURES) & is_searched[:, None])
    # A forward order may rank fewer features than a size that passes.
    np.testing.assert_array_equal(np.minimum(num_kept, (rows["rank"] < NUM_FEATURES).sum(1)), masks.sum(1))
    if query.threshold is not None:
      for image in np.flatnonzero(is_searched & np.asarray(order.finite)).tolist():
        assert (statuses[image], num_kept[image]) == find_by_loop(order, threshold, image)


@pytest.mark.parametrize(
  ("query", "fields", "size_fields", "mask_fields"),
  [
    (OWN, (*ORDER_FIELDS, *SIS_FIELDS), SIS_FIELDS, ("rank", *SIS_FIELDS)),
    (OWN, SIS_FIELDS, SIS_FIELDS, ()),
    (OWN, (*SIS_FIELDS, "mask_threshold_0.9"), SIS_FIELDS, ("mask_threshold_0.9",)),
    (OWN, (*ORDER_FIELDS, *SIS_FIELDS, "mask_threshold_0.9"), SIS_FIELDS, ("mask_threshold_0.9",)),
    (OWN, (*SIS_FIELDS, "mask_threshold_0.99"), SIS_FIELDS, ()),
    (OWN, SMALLEST_FIELDS, (), ()),
    (
      SubsetQuery(threshold=0.5),
      (*ORDER_FIELDS, *SIS_FIELDS),
      ("confidence", "sis_status"),
      ("rank", "confidence", "sis_status"),
    ),
    (SubsetQuery(threshold=0.5), (*SIS_FIELDS, "mask_threshold_0.9"), (), ()),
    (SubsetQuery(threshold=0.5), (*SIS_FIELDS, "mask_threshold_0.5"), (), ("mask_threshold_0.5",)),
    (SubsetQuery(fraction=0.5), (*ORDER_FIELDS, *SIS_FIELDS), ("rank", "sis_status"), ("rank", "sis_status")),
    (SubsetQuery(fraction=0.5), (*ORDER_FIELDS, "mask_threshold_0.5", *SIS_FIELDS), None, ("rank", "sis_status")),
    (SubsetQuery(fraction=0.5), (*SIS_FIELDS, "mask_fraction_0.5"), (), ("mask_fraction_0.5",)),
    (SMALLEST, (*SMALLEST_FIELDS, "smallest_mask"), SMALLEST_FIELDS, ("smallest_mask",)),
    (SMALLEST, (*ORDER_FIELDS, *SIS_FIELDS, "mask_threshold_0.9"), (), ()),
    (SubsetQuery(kind="smallest", threshold=0.5), (*ORDER_FIELDS, *SMALLEST_FIELDS, "smallest_mask"), (), ()),
    (SubsetQuery(kind="smallest", fraction=0.5), (*ORDER_FIELDS, *SMALLEST_FIELDS, "smallest_mask"), (), ()),
  ],
)
def test_a_query_names_the_fields_that_it_is_read_from(
  query: SubsetQuery, fields: tuple[str, ...], size_fields: tuple[str, ...] | None, mask_fields: tuple[str, ...]
):
  stored = find_subsets(query, SPEC, fields)
  if size_fields is not None:
    assert stored.size_fields == size_fields
  assert stored.mask_fields == mask_fields


def test_sizes_at_the_runs_threshold_are_those_that_are_stored_and_zero_without_a_subset():
  rows = {"sis_num_kept": np.array([3, 5, 7, 9]), "sis_status": np.array([0, 1, NOT_SEARCHED, 4])}
  num_kept, status = find_subsets(OWN, SPEC, rows).sizes(rows)
  assert num_kept.tolist() == [3, 0, 0, 0]
  assert status.tolist() == [0, 1, NOT_SEARCHED, 4]


def test_a_mask_that_is_stored_is_taken_as_it_is():
  mask = np.array([[True, False, True, False, False, True]])
  rows = {"mask_fraction_0.5": mask, "rank": np.arange(6)[None], "sis_status": np.array([0])}
  np.testing.assert_array_equal(find_subsets(SubsetQuery(fraction=0.5), SPEC, rows).masks(rows), mask)


@pytest.mark.parametrize(
  ("name", "expected"),
  [
    ("smallest_mask", SMALLEST),
    ("mask_threshold_0.5", SubsetQuery(threshold=0.5)),
    ("mask_threshold_0.50", SubsetQuery(threshold=0.5)),
    ("mask_fraction_0.05", SubsetQuery(fraction=0.05)),
    ("mask_other_0.5", None),
    ("rank", None),
    ("mask_threshold_0.5_0.6", None),
  ],
)
def test_the_name_of_masks_says_which_they_are(name: str, expected: SubsetQuery | None):
  assert parse_mask_name(name, SPEC) == expected


@pytest.mark.parametrize("query", [OWN, SMALLEST, SubsetQuery(fraction=0.05)])
def test_a_query_has_the_name_of_its_masks_and_comes_back_from_a_file(query: SubsetQuery):
  assert parse_mask_name(query.mask_field, SPEC) == query
  assert parse_query(query.to_json()) == query
  assert list(query.to_json()) == ["answer", "threshold", "fraction"]


def test_a_query_without_numbers_is_at_the_runs_threshold():
  assert make_query(SPEC) == OWN
  assert make_query(SPEC, kind="smallest") == SMALLEST
  assert make_query(SPEC, fraction=1) == SubsetQuery(fraction=1.0)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({}, "threshold and fraction must not both be None."),
    ({"threshold": 0.5, "fraction": 0.5}, "threshold and fraction must not both be given, got 0.5 and 0.5."),
    ({"threshold": 1.0}, "threshold must be a probability strictly between 0 and 1, got 1.0."),
    ({"fraction": 0.0}, "fraction must be above 0 and at most 1, got 0.0."),
    ({"kind": "all", "threshold": 0.5}, "kind must be one of sis, smallest, robust, optimum, got 'all'."),
  ],
)
def test_a_query_of_no_subset_is_refused(options: dict[str, Any], message: str):
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    SubsetQuery(**options)
