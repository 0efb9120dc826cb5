"""Searches on eight devices, by `jax.shard_map` and by explicit axes: what one device says of the same images."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jax_sis

# Inside shard_map JAX's own types are what is under test, and tracers have more of them than the annotations know.
pytestmark = pytest.mark.usefixtures("without_type_checks")

PREDICT_FN = toys.predict_tanh
COARSE = jax_sis.Gradient(per_step=4)


def order_of(params: Any, images: Any, search: Any = COARSE) -> jax_sis.FeatureOrder:
  return jax_sis.backselect(PREDICT_FN, params, images, search=search)


def subsets_of(params: Any, images: Any) -> jax_sis.Subsets:
  return jax_sis.sufficient_subsets(order_of(params, images), 0.5)


def deletion_of(params: Any, images: Any) -> Any:
  order = order_of(params, images)
  confidence = jax_sis.deletion_confidence(PREDICT_FN, params, images, order)
  return jax_sis.deletion_area(order, confidence), jax_sis.insertion_area(order), jax_sis.keep_fraction(order, 0.5)


def collection_of(params: Any, images: Any, search: Any) -> Any:
  return jax_sis.sis_collection(PREDICT_FN, params, images, threshold=0.5, max_subsets=2, search=search, minimised=True)


def attribution_of(params: Any, images: Any, method: Any) -> Any:
  return jax_sis.attribute(PREDICT_FN, params, images, method=method)


def certified_of(params: Any, images: Any) -> Any:
  order, noise = order_of(params, images), jax_sis.completions.Noise()
  # Keys of the images' own, wherever they lie.
  keys = jax.vmap(jax.random.key)((1e4 * jnp.abs(images).sum((1, 2, 3))).astype(jnp.int32))
  found = jax_sis.certified_subsets(
    PREDICT_FN, params, images, order, completion=noise, keys=keys, rate=0.6, num_draws=40, sizes=(10, 6, 2)
  )
  return found, jax_sis.stability(PREDICT_FN, params, images, found[0], (1, 2), num_draws=20, keys=keys)


SEARCHES: dict[str, Callable[[Any, Any], Any]] = {
  "gradient": order_of,
  "gradient times input": lambda params, images: attribution_of(params, images, jax_sis.GradientTimesInput()),
  "certify": lambda params, images: jax_sis.certify(
    PREDICT_FN, params, images, subsets_of(params, images), pair_partners=2
  ),
  "screened": lambda params, images: order_of(
    params, images, jax_sis.Screened(candidates=4, gradient_until=7, chunk_size=3)
  ),
  "exact": lambda params, images: order_of(params, images, jax_sis.Exact()),
  "forward": lambda params, images: jax_sis.forward_select(
    PREDICT_FN, params, images, search=jax_sis.Forward(candidates=4)
  ),
  "smallest": lambda params, images: jax_sis.smallest_subsets(PREDICT_FN, params, images, threshold=0.5),
  "collection": lambda params, images: collection_of(params, images, COARSE),
  "forward collection": lambda params, images: collection_of(params, images, jax_sis.Forward(candidates=4)),
  "minimise": lambda params, images: jax_sis.minimise(PREDICT_FN, params, images, subsets_of(params, images)),
  "scores": lambda params, images: jax_sis.order_by_scores(
    PREDICT_FN, params, images, attribution_of(params, images, jax_sis.IntegratedGradients(num_steps=4))
  ),
  "rise": lambda params, images: attribution_of(params, images, jax_sis.Rise(num_masks=8)),
  "curves": deletion_of,
  "certified": certified_of,
}


def every_search(*quick: str) -> pytest.MarkDecorator:
  """All of them as `name`; only these are quick."""
  return pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in quick else pytest.mark.slow) for name in SEARCHES]
  )


def make_mesh(axis_type: AxisType) -> jax.sharding.Mesh:
  return jax.make_mesh((8,), ("data",), axis_types=(axis_type,))


def assert_same(actual: Any, expected: Any) -> None:
  """Ranks, masks and counts exactly, confidences to rounding, since batches have other sizes."""
  for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    if jnp.issubdtype(theirs.dtype, jnp.floating):
      np.testing.assert_allclose(ours, theirs, atol=1e-5)
    else:
      np.testing.assert_array_equal(ours, theirs)


@every_search("gradient", "gradient times input")
def test_a_part_of_the_images_in_shard_map_has_the_answers_of_one_device(name: str):
  images, params = toys.images_and_params(1, num_images=16)
  mapped = jax.shard_map(
    SEARCHES[name],
    mesh=make_mesh(AxisType.Auto),
    in_specs=(PartitionSpec(), PartitionSpec("data")),
    out_specs=PartitionSpec("data"),
  )
  assert_same(jax.jit(mapped)(params, images), SEARCHES[name](params, images))


@every_search("gradient")
def test_images_along_an_explicit_axis_have_the_answers_of_one_device(name: str):
  images, params = toys.images_and_params(2, num_images=16)
  expected = SEARCHES[name](params, images)
  mesh = make_mesh(AxisType.Explicit)
  placed = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
  with jax.set_mesh(mesh):
    answers = SEARCHES[name](params, placed)
  assert_same(answers, expected)
  assert {jax.typeof(leaf).sharding.spec[0] for leaf in jax.tree.leaves(answers)} == {"data"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gradient", "certify"])
def test_images_along_an_explicit_axis_need_no_mesh_set(name: str):
  # They come from `jax.make_mesh` so, which makes such axes by default.
  images, params = toys.images_and_params(2, num_images=16)
  expected = SEARCHES[name](params, images)
  placed = jax.device_put(images, NamedSharding(make_mesh(AxisType.Explicit), PartitionSpec("data")))
  for function in (SEARCHES[name], jax.jit(SEARCHES[name])):
    assert_same(function(params, placed), expected)


@pytest.mark.slow
def test_images_on_one_device_keep_their_answers_under_an_explicit_mesh():
  images, params = toys.images_and_params(3)
  expected = order_of(params, images)
  with jax.set_mesh(make_mesh(AxisType.Explicit)):
    assert_same(order_of(params, images), expected)
    keywords = jax_sis.backselect(predict_fn=PREDICT_FN, params=params, inputs=np.asarray(images), search=COARSE)
  assert_same(keywords, expected)
