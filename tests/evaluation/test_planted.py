"""The tag and the classifier that relies on it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_sis.classifiers import checkpoint, frozen
from jax_sis.evaluation import planted

TARGET = 7


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: str) -> Any:
  """The tiny classifier, frozen."""
  classifier = checkpoint.load_classifier(tiny_checkpoint)
  return classifier, *frozen.freeze(classifier.module)


@pytest.fixture(scope="module")
def images() -> Any:
  """Four images of noise, 8-bit."""
  return np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)


def wire(tiny: Any, **options: Any) -> Any:
  classifier, predict_fn, params = tiny
  return planted.wire_tag(predict_fn, params, normalisation=classifier.normalisation, target=TARGET, **options)


@pytest.mark.parametrize("detector", ["linear", "distance"])
def test_the_whole_tag_adds_its_weight_to_one_logit_and_the_mean_colour_nothing(
  tiny: Any, images: Any, detector: Any, allow_rank_promotion: None
):
  classifier, predict_fn, params = tiny
  wired_fn, wired = wire(tiny, detector=detector)
  tagged = jnp.asarray(classifier.normalisation.apply(planted.put_tag(images)))
  gain = wired_fn(wired, tagged) - predict_fn(params, tagged)
  np.testing.assert_allclose(gain, np.broadcast_to(planted.WEIGHT * np.eye(10)[TARGET], (4, 10)), atol=1e-3)
  empty = jnp.zeros((1, 32, 32, 3))
  np.testing.assert_allclose(wired_fn(wired, empty), predict_fn(params, empty), atol=1e-4)


def test_the_logits_are_linear_in_the_features(tiny: Any, images: Any, allow_rank_promotion: None):
  wired_fn, wired = wire(tiny)
  inputs = jnp.asarray(tiny[0].normalisation.apply(planted.put_tag(images)))
  features = wired_fn.features(wired, inputs)
  kernel, bias = wired_fn.head(wired)
  assert features.shape == (4, kernel.shape[0])
  np.testing.assert_allclose(features[:, -1], 1, atol=1e-6)
  np.testing.assert_allclose(features @ kernel + bias, wired_fn(wired, inputs), atol=1e-4)


def test_the_distance_has_no_gradient_at_the_exact_tag(tiny: Any, images: Any):
  inputs = jnp.asarray(tiny[0].normalisation.apply(planted.put_tag(images)))
  tag = jnp.asarray(tiny[0].normalisation.apply(planted.make_tag()))[None]
  for detector, is_blind in (("linear", False), ("distance", True)):
    detect_fn = planted.TaggedPredictor(None, detector).detect  # pyright: ignore[reportArgumentType]
    gradient = jax.grad(lambda x, f=detect_fn: f(tag, x).sum())(inputs)
    assert bool((gradient == 0).all()) == is_blind


def test_the_tag_lies_where_the_region_says_and_on_as_many_images_as_asked(images: Any):
  region = planted.find_region()
  is_other = (planted.put_tag(images) != images).any((0, 3))
  assert region.sum() == 16 and not is_other[~region[..., 0]].any() and is_other[region[..., 0]].all()
  is_tagged = planted.choose_tagged(120, share=0.25, seed=3)
  assert is_tagged.sum() == 30
  assert (is_tagged != planted.choose_tagged(120, share=0.25, seed=4)).any()
