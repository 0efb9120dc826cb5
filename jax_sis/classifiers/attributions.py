"""Attributions of a classifier as a study asks for them, which depend on nothing but the image, its id and a seed."""

import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jax_sis.classifiers import frozen
from jax_sis.classifiers.on_images import ClassifierOnImages
from jax_sis.core.attribution import attribute
from jax_sis.core.attribution_methods import AttributionMethod, GradCam
from jax_sis.core.backselect import backselect
from jax_sis.core.completions import Distribution
from jax_sis.core.searches import BackwardSearch
from jax_sis.core.types import Params, ScoreName, Targets

Made = TypeVar("Made")


class Attribution(NamedTuple):
  """An attribution as a study's scores: the larger, the more a feature is needed."""

  method: AttributionMethod
  score: ScoreName = "log_odds"
  baseline: float = 0.0

  def __call__(
    self,
    images: ClassifierOnImages,
    params: Params,
    inputs: Float[Array, "B H W C"],
    numbers: Int[Array, "B"],
    targets: Targets = None,
  ) -> Float[Array, "B F"]:
    """Its scores for a class, by default the one predicted; `numbers` as `hash_id` gives them."""
    return attribute(
      images.predict_fn,
      params,
      inputs,
      targets,
      method=self.method,
      baseline=self.baseline,
      score=self.score,
      grid=images.grid,
      image_ids=numbers,
    )


class Search(NamedTuple):
  """The order of a backward search as scores; under a completion with draws of the seed and the image's number."""

  search: BackwardSearch
  completion: Distribution | None = None
  seed: int = 0

  def __call__(
    self,
    images: ClassifierOnImages,
    params: Params,
    inputs: Float[Array, "B H W C"],
    numbers: Int[Array, "B"],
    targets: Targets = None,
  ) -> Float[Array, "B F"]:
    """As those of an Attribution."""
    drawn: dict[str, Any] = {}
    if self.completion is not None:
      drawn = {"completion": self.completion, "keys": make_keys(self.seed, numbers)}
    order = backselect(images.predict_fn, params, inputs, targets, search=self.search, grid=images.grid, **drawn)
    return -order.rank.astype(jnp.float32)


class Random(NamedTuple):
  """What chance gives, by the image's number."""

  seed: int

  def __call__(
    self,
    images: ClassifierOnImages,
    params: Params,
    inputs: Float[Array, "B H W C"],
    numbers: Int[Array, "B"],
    targets: Targets = None,
  ) -> Float[Array, "B F"]:
    """As those of an Attribution, the same for all classes."""
    return jax.vmap(lambda key: jax.random.uniform(key, (images.num_features,)))(make_keys(self.seed, numbers))


def make_keys(seed: int, numbers: Int[Array, "B"]) -> Key[Array, "B"]:
  """A key for each image, by its number."""
  return jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(numbers)


def split_for_grad_cam(images: ClassifierOnImages) -> GradCam:
  """Raises ValueError if the classifier cannot be split."""
  features_fn, head_fn = frozen.split(images.predict_fn, images.params)
  return GradCam(features_fn=features_fn, head_fn=head_fn)


def make_allowed(
  makers: Mapping[str, Callable[[], Made]], names: Sequence[str]
) -> tuple[dict[str, Made], dict[str, str]]:
  """What is made of those of these names that the classifier allows, and of the others the reason."""
  made, left_out = {}, {}
  for name in names:
    try:
      made[name] = makers[name]()
    except ValueError as error:
      left_out[name] = str(error).rstrip(".")
  return made, left_out


def hash_id(name: str) -> int:
  """A number for an id, the same on every machine."""
  return zlib.crc32(name.encode()) & 0x7FFFFFFF
