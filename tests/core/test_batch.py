"""What orders, subsets and certificates say of themselves, and parts of them."""

import base64
import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jax_sis
from jax_sis.core.batch import encode_grey

GRID = (3, 2, 1)


@pytest.fixture(scope="module")
def order() -> jax_sis.FeatureOrder:
  """Of two images, by hand: the second one is not confident."""
  return jax_sis.FeatureOrder(
    rank=jnp.array([[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]], jnp.int32),
    confidence=jnp.array([[0.1, 0.5, 0.95, 0.96, 0.97, 0.98, 0.99], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]]),
    target=jnp.array([1, 0], jnp.int32),
    finite=jnp.array([True, True]),
    baseline=jnp.array([[[[0.5]]], [[[0.25]]]]),
    sizes=tuple(range(7)),
    grid=GRID,
    score="log_odds",
  )


@pytest.fixture(scope="module")
def subsets(order: jax_sis.FeatureOrder) -> jax_sis.Subsets:
  return jax_sis.sufficient_subsets(order, 0.9)


def test_short_texts_say_what_it_is(order: jax_sis.FeatureOrder, subsets: jax_sis.Subsets):
  assert repr(order) == "FeatureOrder(2 images, grid (3, 2, 1), 6 features, log_odds; sizes 0 to 6, 7 of them)"
  assert repr(subsets) == (
    "Subsets(2 images, grid (3, 2, 1), threshold 0.9: 1 ok, 1 below_threshold; features kept: median 2, 2 to 2 of 6)"
  )
  assert repr(jax_sis.keep_fraction(order, 0.5)).startswith("Subsets(2 images, grid (3, 2, 1): 2 ok; features kept")
  assert repr(subsets[1]) == "Subsets(1 image, grid (3, 2, 1), threshold 0.9: 1 below_threshold)"


def test_notebooks_get_a_table_with_pictures(order: jax_sis.FeatureOrder, subsets: jax_sis.Subsets):
  for found, white in ((subsets, [[255, 255], [0, 0], [0, 0]]), (order, None)):
    text = found._repr_html_()
    assert text is not None
    assert text.count("<tr>") == 3
    pictures = re.findall(r"data:image/png;base64,([\w+/=]+)", text)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(pictures[0]))))
    assert picture.shape == (3, 2)
    assert picture.flat[0] == 255
    if white is not None:
      assert picture.tolist() == white


def test_a_certificate_says_how_many_hold(subsets: jax_sis.Subsets):
  is_ok = jnp.array([True, False])
  zeros = jnp.zeros(2, jnp.int32)
  report = jax_sis.Certificate(
    confidence=jnp.array([0.95, jnp.nan]),
    predicted=jnp.array([1, 0], jnp.int32),
    keeps_class=is_ok,
    is_sufficient=is_ok,
    is_droppable=subsets.mask,
    is_minimal=jnp.zeros(2, bool),
    lower_bound=zeros,
    is_smallest=jnp.zeros(2, bool),
    has_smaller=jnp.zeros(2, bool),
    num_pairs_tried=zeros,
    is_reproduced=jnp.ones(2, bool),
    status=subsets.status.astype(jnp.int32),
  )
  assert repr(report) == "Certificate(2 images, 1 with a subset: 1 sufficient, 0 1-minimal, 1 keep the class)"
  assert "<td>sufficient, 2 droppable</td>" in str(report._repr_html_())
  assert report[1].describe(0) == report.describe(1)


def test_traced_and_stacked_ones_are_written_plainly(subsets: jax_sis.Subsets, without_type_checks: None):
  texts = []
  jax.jit(lambda traced: texts.append((repr(traced), traced._repr_html_())))(subsets)
  assert texts[0][0].startswith("Subsets(mask=")
  assert texts[0][1] is None
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), subsets, subsets)
  assert stacked._repr_html_() is None
  assert repr(stacked).startswith("Subsets(mask=")


@pytest.mark.parametrize(
  ("index", "images"),
  [
    (1, [1]),
    (-1, [1]),
    (slice(1), [0]),
    ([1, 0], [1, 0]),
    (np.array([False, True]), [1]),
    (jnp.array([True, False]), [0]),
  ],
)
def test_parts_keep_the_axis_of_the_images(subsets: jax_sis.Subsets, index: object, images: list[int]):
  part = subsets[index]
  assert len(part) == len(images)
  for name in ("mask", "num_kept", "status", "baseline"):
    np.testing.assert_array_equal(getattr(part, name), getattr(subsets, name)[jnp.array(images)])


@pytest.mark.parametrize("index", [2, -3, (0, 1), None, [5]])
def test_images_that_are_not_there_are_refused(subsets: jax_sis.Subsets, index: object):
  with pytest.raises(IndexError):
    subsets[index]
  assert [len(one) for one in subsets] == [1, 1]


def test_apply_shows_the_subset_alone(subsets: jax_sis.Subsets, without_type_checks: None):
  inputs = jnp.arange(12, dtype=jnp.float32).reshape(2, 3, 2, 1)
  alone = subsets.apply(inputs)
  np.testing.assert_array_equal(alone[0, ..., 0], [[0, 1], [0.5, 0.5], [0.5, 0.5]])
  assert (alone[1] == 0.25).all(), "no subset: all is masked"
  np.testing.assert_array_equal(subsets[0].apply(np.asarray(inputs[:1])), alone[:1])
  with pytest.raises(ValueError, match="inputs must be the 2 images of the subsets, got 1"):
    subsets.apply(inputs[:1])
  with pytest.raises(ValueError, match="grid must have one entry"):
    subsets.apply(jnp.ones((2, 4, 4, 1)))


def test_the_own_encoder_writes_png():
  pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
  np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encode_grey(pixels)))), pixels)
