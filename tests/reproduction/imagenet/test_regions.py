"""Parts of an image that nobody chose by looking at it."""

import numpy as np
import pytest

from jax_sis.reproduction.imagenet import regions


@pytest.mark.parametrize(("size", "width"), [((224, 224), 11), ((227, 227), 11), ((240, 260), 12), ((8, 8), 1)])
def test_the_border_is_as_wide_as_11_of_224_pixels(size: tuple[int, int], width: int):
  border = regions.make_border(size)
  rows, columns = np.indices(size)
  distance = np.minimum.reduce([rows, columns, size[0] - 1 - rows, size[1] - 1 - columns])
  np.testing.assert_array_equal(border, distance < width)
  if size == (224, 224):
    assert border.mean() == pytest.approx(0.1868, abs=5e-5)


@pytest.mark.parametrize("size", [(224, 224), (227, 227), (240, 260)])
def test_the_centre_has_the_borders_area(size: tuple[int, int]):
  centre = regions.make_centre(size)
  assert centre.mean() == pytest.approx(regions.make_border(size).mean(), rel=0.02)
  rows, columns = np.nonzero(centre)
  assert (rows.min() + rows.max()) / 2 == pytest.approx((size[0] - 1) / 2, abs=0.5)
  assert (columns.min() + columns.max()) / 2 == pytest.approx((size[1] - 1) / 2, abs=0.5)


@pytest.mark.parametrize("draw_fn", [regions.draw_pixels, regions.draw_squares])
def test_what_is_drawn_at_random_has_its_size_and_depends_on_the_name(draw_fn):
  first, same, other = (draw_fn((56, 84), 471, name=name) for name in ("a", "a", "b"))
  assert first.sum() == other.sum() == 471
  np.testing.assert_array_equal(first, same)
  assert (first != other).any()


def test_squares_are_whole_but_for_the_last():
  kept = regions.draw_squares((56, 84), 6 * 100 + 2, name="a")
  counts = kept.reshape(28, 2, 28, 3).sum((1, 3))
  assert sorted(np.unique(counts).tolist()) == [0, 2, 6]
  assert (counts == 6).sum() == 100


def test_the_share_in_the_border_is_counted_mask_by_mask():
  masks = np.random.default_rng(0).random((3, 30, 40)) < [[[0.1]], [[0.5]], [[0.02]]]
  expected = []
  for mask in masks:
    places = np.argwhere(mask)
    expected.append(np.mean([row in (0, 29) or column in (0, 39) for row, column in places.tolist()]))
  np.testing.assert_allclose(regions.measure_border(masks), expected)
