"""`jax_sis.show`: what is drawn of images, subsets, orders and attributions."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jax_sis
from jax_sis.core.pictures import find_grid, make_columns, to_pixels
from jax_sis.display.pixels import BORDER

IMAGES = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)


@pytest.fixture(scope="module")
def order() -> jax_sis.FeatureOrder:
  """Of two images in four squares; the second one is not finite."""
  return jax_sis.FeatureOrder(
    rank=jnp.array([[0, 1, 2, 3], [0, 1, 2, jax_sis.NOT_RANKED]], jnp.int32),
    confidence=jnp.array([[0.1, 0.95, 0.96, 0.97, 0.98], [0.1, 0.2, 0.3, 0.4, 0.5]]),
    target=jnp.array([1, 0], jnp.int32),
    finite=jnp.array([True, False]),
    baseline=jnp.zeros((2, 1, 1, 1)),
    sizes=(0, 1, 2, 3, 4),
    grid=(2, 2, 1),
    score="log_odds",
  )


def test_a_figure_in_one_line(order: jax_sis.FeatureOrder):
  subsets = jax_sis.sufficient_subsets(order, 0.9)
  figure = jax_sis.show(IMAGES, subsets, class_names=["cat", "dog"])
  (axis,) = figure.axes
  assert len(axis.images) == 3, "two images and one subset"
  kept = np.asarray(axis.images[1].get_array())
  np.testing.assert_array_equal(kept[:2, :2], IMAGES[0, :2, :2])
  assert len(np.unique(kept[2:].reshape(-1, 3), axis=0)) == 1
  texts = [text.get_text() for text in axis.texts]
  assert "1 of 4 (25.0%)\ndog\nconfidence 0.9500" in texts
  assert "none: NaN or inf in image or\nmodel" in texts
  assert texts[-1] == "What is painted magenta is masked."
  assert figure._repr_png_().startswith(b"\x89PNG")  # pyright: ignore[reportAttributeAccessIssue]
  first = jax_sis.show(IMAGES, subsets, max_images=1).axes[0]
  assert (len(first.images), first.texts[-1].get_text()[-28:]) == (2, "1 more images are not shown.")


def test_orders_attributions_and_collections_are_columns(order: jax_sis.FeatureOrder):
  subsets = jax_sis.sufficient_subsets(order, 0.9)
  columns = make_columns((subsets, subsets), IMAGES.shape)
  assert [heading for heading, _, _ in columns] == ["1. subset", "2. subset"]
  scores = np.arange(32.0).reshape(2, 16)
  columns = make_columns({"mine": scores, "squares": scores[:, :4], "plane": scores.reshape(2, 4, 4)}, IMAGES.shape)
  np.testing.assert_array_equal(columns[0][1], columns[2][1])
  np.testing.assert_array_equal(columns[1][1][0, ..., 0], [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]])
  ((heading, heat, captions),) = make_columns(order, IMAGES.shape)
  assert heading == "order"
  assert heat[0, 0, 0, 0] == heat[0].max() == 1
  assert np.isnan(heat[1]).all()
  assert captions == ["class 1\nconfidence 0.9800\non 4 of 4", "none: not finite"]
  assert len(jax_sis.show(IMAGES, [subsets, order, scores]).axes[0].images) == 6
  flat = dataclasses.replace(order, grid=(2, 2))
  np.testing.assert_array_equal(make_columns(flat, (2, 4, 4, 1))[0][1], heat)


def test_the_features_of_a_label_map_are_lines_on_the_image(order: jax_sis.FeatureOrder):
  labels = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 3, 3, 3], [2, 3, 3, 3]])
  features = jax_sis.features.make_label_map(labels, IMAGES.shape)
  order = dataclasses.replace(order, grid=features.shape, features=features)
  pictures = jax_sis.show(IMAGES, {"mine": np.zeros((2, 16)), "order": order}).axes[0].images
  drawn = np.asarray(pictures[0].get_array())
  factor = len(drawn) // 4
  is_line = (drawn == BORDER).all(-1)
  # The last line of a feature's pixels, on the left and above the border.
  assert is_line[factor - 1, 2 * factor - 1] and is_line[3 * factor, factor - 1] and is_line[2 * factor - 1, 0]
  assert not is_line[: 2 * factor - 1, : 2 * factor - 1].any() and not is_line[2 * factor :, factor:].any()
  np.testing.assert_array_equal(
    np.asarray(jax_sis.show(IMAGES, np.zeros((2, 16))).axes[0].images[0].get_array()), IMAGES[0]
  )


def test_images_are_bytes_shares_or_stretched():
  np.testing.assert_array_equal(to_pixels(IMAGES), IMAGES)
  assert to_pixels(np.full((1, 2, 2), 0.2)).tolist() == [[[[51], [51]], [[51], [51]]]]
  stretched = to_pixels(jnp.array([-2.0, 0.0, 2.0, jnp.nan]).reshape(1, 2, 2, 1))
  assert stretched.ravel().tolist() == [0, 128, 255, 0]
  assert find_grid((16,), (4, 4, 3)) == (4, 4, 1)


@pytest.mark.parametrize(
  ("images", "found", "message"),
  [
    (IMAGES[:1], np.zeros((2, 16)), "found must be of the 1 images, got 2"),
    (IMAGES, np.zeros((2, 7)), "attributions must be a number for each pixel or square"),
    (IMAGES, "subsets", "found must be an order, subsets, attributions, or several of them, got str"),
    (IMAGES, [], "or several of them, got none"),
    (IMAGES[..., 0, 0], np.zeros((2, 4)), "images must be"),
    (np.zeros((2, 4, 4, 5)), np.zeros((2, 16)), "of one or three channels"),
    ("x", np.zeros((2, 4)), "images must be an array"),
  ],
)
def test_what_cannot_be_drawn_is_refused(images: Any, found: Any, message: str, without_type_checks: None):
  with pytest.raises(ValueError, match=message):
    jax_sis.show(images, found)
  with pytest.raises(ValueError, match="max_images must be at least 1, got 0"):
    jax_sis.show(images, found, max_images=0)
