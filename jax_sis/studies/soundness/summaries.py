"""Completeness and soundness of an order, of an image and over all."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jax_sis.statistics.estimates import Estimate, mean_of, share_of

# Below this, confidences and areas count as this (Gupta et al. 2022): how little is carried of a class that is not
# there says nothing.
FLOOR = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
  """What an order says of one image's classes, the predicted one first; lists are empty where nothing is known.

  Attributes:
    id: its name.
    error: why nothing is known; empty where it is.
    label: the true class; None where it is not known.
    classes: which.
    confidence: in each of them on the whole image.
    area: the mean confidence in each along its own order.
    size: the smallest number of features that reaches the threshold; None where none does.
  """

  id: str
  error: str
  label: str | None
  classes: list[str]
  confidence: list[float]
  area: list[float]
  size: list[int | None]

  @property
  def completeness(self) -> float:
    """How much of the predicted class's confidence its order carries, 0..1."""
    return min(max(FLOOR, self.area[0]) / min(1.0, max(self.confidence[0], FLOOR)), 1.0)

  @property
  def soundness(self) -> Float[np.ndarray, "K-1"]:
    """How little more of each other class its order carries than the image does, 0..1."""
    confidence, area = np.array(self.confidence[1:]), np.array(self.area[1:])
    return np.minimum(np.maximum(FLOOR, confidence) / np.maximum(area, FLOOR), 1.0)

  @property
  def is_largest(self) -> bool:
    """Whether no other class has a larger area than the predicted one."""
    return self.area[0] >= max(self.area[1:])

  @property
  def size_ratio(self) -> float | None:
    """The predicted class's smallest size over the smallest of any other's; None where one has none."""
    others = [size for size in self.size[1:] if size is not None]
    return self.size[0] / min(others) if others and self.size[0] is not None else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class OrderSummary:
  """An order over all images.

  Attributes:
    title: what tables call it.
    completeness: of the predicted class.
    soundness: of the other classes, the mean of each image's.
    worst: the soundness of each image's worst class.
    is_largest: images in which no other class has a larger area.
    has_other: images in which a subset of any other class reaches the threshold.
    size_ratio: the smallest size of the predicted class over that of any other, where both have one.
  """

  title: str
  completeness: Estimate
  soundness: Estimate
  worst: Estimate
  is_largest: Estimate
  has_other: Estimate
  size_ratio: Estimate


def summarise(title: str, asked: Sequence[Asked], *, seed: int) -> OrderSummary:
  """Over the images of which something is known."""
  known = [image for image in asked if not image.error]
  ratios = [image.size_ratio for image in known if image.size_ratio is not None]
  return OrderSummary(
    title=title,
    completeness=mean_of(np.array([image.completeness for image in known]), seed=seed),
    soundness=mean_of(np.array([image.soundness.mean() for image in known]), seed=seed),
    worst=mean_of(np.array([image.soundness.min() for image in known]), seed=seed),
    is_largest=share_of(np.array([image.is_largest for image in known], bool)),
    has_other=share_of(np.array([any(size is not None for size in image.size[1:]) for image in known], bool)),
    size_ratio=mean_of(np.array(ratios), seed=seed),
  )
