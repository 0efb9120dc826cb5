"""Attributions of a classifier as a study asks for them, which depend on nothing but the image, its id and a seed."""

import functools
import zlib
from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Int

from jax_sis.classifiers import frozen
from jax_sis.classifiers.on_images import ClassifierOnImages
from jax_sis.core.attribution import attribute
from jax_sis.core.attribution_methods import AttributionMethod, GradCam
from jax_sis.core.types import Params, ScoreName


class Attribution(NamedTuple):
  """An attribution of the class that is predicted."""

  method: AttributionMethod
  score: ScoreName = "log_odds"
  baseline: float = 0.0

  def __call__(
    self, images: ClassifierOnImages, params: Params, inputs: Float[Array, "B H W C"], numbers: Int[Array, "B"]
  ) -> Float[Array, "B F"]:
    """Its scores; `numbers` as `hash_id` gives them."""
    return attribute(
      images.predict_fn,
      params,
      inputs,
      method=self.method,
      baseline=self.baseline,
      score=self.score,
      grid=images.grid,
      image_ids=numbers,
    )


class Random(NamedTuple):
  """What chance gives, by the image's number."""

  seed: int

  def __call__(
    self, images: ClassifierOnImages, params: Params, inputs: Float[Array, "B H W C"], numbers: Int[Array, "B"]
  ) -> Float[Array, "B F"]:
    """As those of an Attribution."""
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(self.seed)))(numbers)
    return jax.vmap(lambda key: jax.random.uniform(key, (images.num_features,)))(keys)


def split_for_grad_cam(images: ClassifierOnImages) -> GradCam:
  """Raises ValueError if the classifier cannot be split."""
  features_fn, head_fn = frozen.split(images.predict_fn, images.params)
  return GradCam(features_fn=features_fn, head_fn=head_fn)


def hash_id(name: str) -> int:
  """A number for an id, the same on every machine."""
  return zlib.crc32(name.encode()) & 0x7FFFFFFF
