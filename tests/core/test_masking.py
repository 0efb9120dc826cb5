"""Feature grids and masked inputs, against loops."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

import jax_sis
from jax_sis.core import masking

BASELINES = {
  "number": lambda rng, shape, batch: 0.25,
  "channel vector": lambda rng, shape, batch: rng.normal(size=shape[-1:]),
  "full array": lambda rng, shape, batch: rng.normal(size=shape),
  "one an image": lambda rng, shape, batch: rng.normal(size=(batch, *shape)),
  "one number an image": lambda rng, shape, batch: rng.normal(size=(batch, *[1] * len(shape))),
  "integers": lambda rng, shape, batch: np.arange(shape[-1]),
}


def masked_by_loop(inputs: np.ndarray, kept: np.ndarray, baseline: Any, grid: tuple[int, ...]) -> np.ndarray:
  """Image by image, element by element."""
  features = reference.feature_map(grid, inputs.shape[1:])
  is_per_image = np.ndim(baseline) == inputs.ndim
  results = []
  for index, image in enumerate(inputs):
    image_baseline = baseline[index] if is_per_image else baseline
    results.append(reference.masked(image, set(np.flatnonzero(kept[index]).tolist()), image_baseline, features))
  return np.stack(results)


def masked_by_library(inputs: np.ndarray, kept: np.ndarray, baseline: Any, grid: tuple[int, ...]) -> np.ndarray:
  array = jnp.asarray(inputs, jnp.float32)
  checked = masking.check_baseline(baseline, array)
  return np.asarray(jax_sis.mask_inputs(array, jnp.asarray(kept), baseline=checked, grid=grid))


GRIDS = {
  "pixels": ((4, 6, 3), (4, 6, 1)),
  "square patches": ((4, 6, 3), (2, 3, 1)),
  "wide patches": ((4, 6, 3), (1, 2, 1)),
  "channels": ((4, 6, 3), (1, 1, 3)),
  "patches of channel pairs": ((4, 6, 4), (2, 3, 2)),
  "elements": ((4, 6, 3), (4, 6, 3)),
  "one feature": ((4, 6, 3), (1, 1, 1)),
  "tokens of a sequence": ((7, 5), (7, 1)),
  "a vector": ((9,), (9,)),
  "runs of a vector": ((9,), (3,)),
  "blocks of a video": ((2, 4, 6, 3), (2, 2, 2, 1)),
}


@pytest.mark.parametrize(
  ("name", "baseline"),
  [(name, "one an image") for name in GRIDS] + [(name, kind) for name in list(GRIDS)[1:2] for kind in BASELINES],
)
def test_masked_inputs_equal_a_loop_over_elements(name: str, baseline: str):
  shape, grid = GRIDS[name]
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(3, *shape)).astype(np.float32)
  values = BASELINES[baseline](rng, shape, 3)
  values = values if isinstance(values, float) else values.astype(np.float32 if values.dtype.kind == "f" else np.int32)
  kept = rng.random((3, int(np.prod(grid)))) < 0.5
  kept[0], kept[1] = True, False
  np.testing.assert_array_equal(
    masked_by_library(inputs, kept, values, grid), masked_by_loop(inputs, kept, values, grid).astype(np.float32)
  )


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_grid_that_divides_the_input_equals_the_loop(data: st.DataObject):
  grid = tuple(data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3), label="grid"))
  shape = tuple(size * data.draw(st.integers(1, 3), label="repeats") for size in grid)
  rng = np.random.default_rng(data.draw(st.integers(0, 99), label="seed"))
  inputs = rng.normal(size=(2, *shape)).astype(np.float32)
  kept = rng.random((2, int(np.prod(grid)))) < 0.5
  np.testing.assert_array_equal(
    masked_by_library(inputs, kept, 0.5, grid), masked_by_loop(inputs, kept, 0.5, grid).astype(np.float32)
  )


def test_the_gradient_of_a_mask_sums_over_the_elements_of_each_feature():
  rng = np.random.default_rng(1)
  inputs, baseline = rng.normal(size=(2, 2, 4, 6, 3)).astype(np.float32)
  weights = rng.normal(size=(2, 4, 6, 3)).astype(np.float32)

  def weighted_sum(mask: Any) -> Any:
    shown = jax_sis.mask_inputs(jnp.asarray(inputs), mask, baseline=jnp.asarray(baseline), grid=(2, 3, 1))
    return (shown * weights).sum()

  actual = jax.grad(weighted_sum)(jnp.full((2, 6), 0.3))
  features = reference.feature_map((2, 3, 1), (4, 6, 3))
  by_element = weights * (inputs - baseline)
  expected = [[image[features == feature].sum() for feature in range(6)] for image in by_element]
  np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_masking_keeps_the_dtype_of_the_inputs():
  inputs = jnp.ones((1, 2, 2, 1), jnp.bfloat16)
  baseline = masking.check_baseline(np.zeros(1, np.float32), inputs)
  assert baseline.dtype == jnp.bfloat16
  assert jax_sis.mask_inputs(inputs, jnp.ones((1, 4)), baseline=baseline, grid=(2, 2, 1)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
  ("shape", "expected"), [((32, 32, 3), (32, 32, 1)), ((7, 5), (7, 1)), ((9,), (9,)), ((2, 4, 6, 3), (2, 4, 6, 1))]
)
def test_the_default_grid_has_a_feature_a_position(shape: tuple[int, ...], expected: tuple[int, ...]):
  assert masking.check_grid(None, shape) == expected
  assert masking.num_features(expected) == int(np.prod(shape)) // (shape[-1] if len(shape) > 1 else 1)


@pytest.mark.usefixtures("without_type_checks")
def test_a_checked_grid_holds_plain_integers():
  grid = masking.check_grid(tuple(np.array([2, 3, 1])), (4, 6, 3))
  assert grid == (2, 3, 1)
  assert all(type(size) is int for size in grid)


@pytest.mark.parametrize("grid", [(3, 6, 1), (4,), (4, 6, 1, 1), (0, 6, 1), (-1, 6, 1), (8, 6, 1)])
def test_a_grid_that_does_not_divide_the_input_is_refused(grid: tuple[int, ...]):
  message = (
    f"grid must have one entry for each input axis and divide it, got grid {grid} for inputs of shape (4, 6, 3) "
    "(without the batch axis); a feature a position is (4, 6, 1)."
  )
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    masking.check_grid(grid, (4, 6, 3))


def test_a_grid_without_the_last_axis_takes_all_channels_together():
  assert masking.check_grid((2, 3), (4, 6, 3)) == (2, 3, 1)
  assert masking.check_grid((7,), (7, 5)) == (7, 1)
  assert masking.check_grid((9,), (9,)) == (9,)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("grid", [4, (4.0, 6, 1), "4x6"])
def test_a_grid_that_is_no_tuple_of_integers_is_refused(grid: Any):
  message = f"grid must be a tuple of integers, such as (4, 6, 1) for a feature a position, got {grid!r}."
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    masking.check_grid(grid, (4, 6, 3))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 20), (4, 8, 9), (3, 16, 112, 112)])
def test_inputs_that_look_channels_first_are_refused_with_the_shape_that_was_meant(shape: tuple[int, ...]):
  first, *others = shape
  message = (
    f"inputs of shape {shape} (without the batch axis) look channels first, and features would be whole rows; give "
    f"inputs of shape [B, {', '.join(map(str, others))}, {first}], by jnp.moveaxis(inputs, 1, -1), or for a classifier "
    f"of channels first grid={(1, *others)}, a feature a position; grid={(*shape[:-1], 1)} if the last axis is the "
    "channels."
  )
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    jax_sis.backselect(lambda params, inputs: inputs[:, 0, 0, :2], {}, jnp.ones((2, *shape)))
  assert masking.check_grid((1, *others), shape) == (1, *others)
  assert masking.check_grid((*shape[:-1], 1), shape) == (*shape[:-1], 1)


@pytest.mark.parametrize("shape", [(3, 64), (4, 4, 512), (3, 3, 512), (1, 1, 2048), (32, 32, 3), (7, 7, 512)])
def test_feature_maps_and_sequences_are_not_taken_for_channels_first(shape: tuple[int, ...]):
  assert masking.check_grid(None, shape) == (*shape[:-1], 1)


def test_images_without_a_channel_axis_are_warned_of():
  with pytest.warns(UserWarning, match=r"are taken for 28 positions of 28 numbers; .* grid=\(28, 28\) for a feature a"):
    assert masking.check_grid(None, (28, 28)) == (28, 1)
  assert masking.check_grid((28, 28), (28, 28)) == (28, 28)


@pytest.mark.parametrize("shape", [(2,), (6, 1, 4), (3, 4, 6, 3), (1, 2, 4, 6, 3)])
def test_a_baseline_that_does_not_broadcast_is_refused(shape: tuple[int, ...]):
  message = f"baseline must be a number or an array that broadcasts against inputs (2, 4, 6, 3), got shape {shape}."
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    masking.check_baseline(np.zeros(shape), jnp.zeros((2, 4, 6, 3)))
