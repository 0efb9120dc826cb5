"""What images are ranked by, opened and checked: what a region alone says of their class, or a component of it."""

import dataclasses
import pathlib
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from jaxtyping import Bool

from jax_sis.classifiers import component_file
from jax_sis.classifiers.checkpoint import hash_arrays
from jax_sis.classifiers.linear_head import find_linear_head
from jax_sis.classifiers.on_images import ClassifierOnImages, describe_model
from jax_sis.runs import pools
from jax_sis.studies.ranking.config import RankingConfig
from jax_sis.studies.ranking.judge import ComponentJudge, Judge
from jax_sis.studies.ranking.regions import read_region


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Criterion:
  """What images are ranked by.

  Attributes:
    judge: what a device computes, see `Judge`.
    beside: the arrays that it takes beside the classifier's.
    region: the pixels that are shown alone; None where a component is asked for.
    classes: the numbers of the classes that can be ranked.
    spec: what fixes the results, in JSON types.
  """

  judge: Callable[..., Any]
  beside: dict[str, np.ndarray]
  region: Bool[np.ndarray, "H W"] | None
  classes: Collection[int]
  spec: dict[str, Any]


def open_criterion(config: RankingConfig, images: ClassifierOnImages) -> Criterion:
  """What the settings name.

  Raises:
    ValueError: the region is no part of the images; the pool is too small; or there is no such component, it is of
      another classifier, or the classifier cannot be split.
  """
  return open_region(config, images) if config.component is None else open_components(config, images)


def open_region(config: RankingConfig, images: ClassifierOnImages) -> Criterion:
  region = read_region(config.region, images.classifier.input_shape[:2])
  pool, of_pool = read_pool(config, images)
  completion = {"kind": config.completion, "num_draws": config.num_draws, "seed": config.seed, "images": of_pool}
  return Criterion(
    judge=Judge(predict_fn=images.predict_fn, region=region, removal=config.removal, completion=config.settings),
    beside={} if pool is None else {"pool": pool},
    region=region,
    classes=range(len(images.class_names)),
    spec={
      "region": np.packbits(region).tobytes().hex(),
      "removal": config.removal,
      "completion": None if config.completion is None else completion,
    },
  )


def read_pool(config: RankingConfig, images: ClassifierOnImages) -> tuple[np.ndarray | None, dict[str, Any] | None]:
  """The images to draw from, normalised, and what they are; ValueError if they are too few."""
  if config.pool is None:
    return None, None
  drawn = pools.draw_pool(config, images, config.pool, config.pool_split, seed=config.seed, count=config.num_pooled)
  if len(drawn.pixels) < max(config.num_draws, 2):
    raise ValueError(
      f"--pool must hold at least as many different images as there are draws, {max(config.num_draws, 2)}, got "
      f"{len(drawn.pixels)}; name more images, or fewer --draws."
    )
  return images.normalise(drawn.pixels), {**drawn.data, **pools.describe_part(drawn.digests)}


def open_components(config: RankingConfig, images: ClassifierOnImages) -> Criterion:
  head = find_linear_head(images.classifier, images.predict_fn, images.params)
  try:
    known = component_file.read_components(
      pathlib.Path(config.components or "") / component_file.NAME,
      model=describe_model(images.classifier)["model"]["sha256"],
    )
  except ValueError as error:
    raise ValueError(
      f"--components must be the folder of a finished `jax-sis components` of the same classifier: {error}"
    ) from error
  chosen = [one for one in known if one.number == config.component]
  if not chosen:
    raise ValueError(
      f"--component must be one of the {max(one.number for one in known)} of a class in {config.components}, got "
      f"{config.component}."
    )
  num_features, num_classes = head.kernel.shape
  beside = {"weights": np.zeros((num_classes, num_features), np.float32), "offsets": np.zeros(num_classes, np.float32)}
  for one in chosen:
    beside["weights"][one.class_number], beside["offsets"][one.class_number] = one.weights, one.offset
  return Criterion(
    judge=ComponentJudge(predict_fn=images.predict_fn, features_fn=head.features_fn),
    beside=beside,
    region=None,
    classes={one.class_number for one in chosen},
    spec={"component": {"number": config.component, "sha256": hash_arrays(beside)}},
  )
