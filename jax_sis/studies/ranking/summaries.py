"""The ranking of a class, what lies at its ends, and all classes of a data set."""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from jax_sis.statistics.estimates import NO_IMAGES, Estimate, no_mean, share_of
from jax_sis.statistics.independent import difference_of_shares, mean_of_groups

# That a part alone gives, where none is shown alone.
NO_CLASS = -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
  """What the classifier says of an image.

  Attributes:
    id: its name.
    error: why nothing is known; empty where it is.
    label: the number of its class; None where it is not known.
    predicted: the class of the whole image.
    probability: of the label, on the whole image.
    evidence: the log-odds of the label on the region alone, or how much it holds of its class's component.
    alone: the class of the region alone; NO_CLASS for a component.
  """

  id: str
  error: str = ""
  label: int | None
  predicted: int = NO_CLASS
  probability: float = 0.0
  evidence: float = 0.0
  alone: int = NO_CLASS

  @property
  def is_right(self) -> bool:
    return self.predicted == self.label


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassRanking:
  """A class whose images are in the order of the evidence.

  Attributes:
    name: the class.
    accuracy: on whole images, of all.
    highest: that of the end with the most evidence.
    lowest: that of the end with the least.
    gap: the first minus the second.
    alone: images that the region alone is enough for; None of a component.
    most: the ids of the end with the most evidence, the most first.
    least: those of the other end, the least first.
  """

  name: str
  accuracy: Estimate
  highest: Estimate
  lowest: Estimate
  gap: Estimate
  alone: Estimate | None
  most: tuple[str, ...]
  least: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataRanking:
  """A data set.

  Attributes:
    name: what people call it.
    accuracy: on whole images.
    beyond: that of the first data set subtracted; None of the first itself.
    alone: images that the region alone is enough for; None of a component.
    called: the class that the region alone is most often taken for; empty of a component.
    share_called: how often; None of a component.
    gap: the mean of the classes' gaps.
    classes: those with two images at least.
  """

  name: str
  accuracy: Estimate
  beyond: Estimate | None
  alone: Estimate | None
  called: str
  share_called: Estimate | None
  gap: Estimate
  classes: tuple[ClassRanking, ...]


def share_alone(images: Sequence[Judged]) -> Estimate | None:
  """The images that the region alone is enough for; None where none was shown."""
  if all(image.alone == NO_CLASS for image in images):
    return None
  return share_of(np.array([image.alone == image.label for image in images], bool))


def rank_class(name: str, images: Sequence[Judged], *, ends: float) -> ClassRanking:
  """Ranks a class; of equal evidence, the first id comes first.

  Args:
    name: the class.
    images: all of its images, two at least.
    ends: the share of them that is an end, rounded, one image at least, and none that is at both ends.
  """
  ordered = sorted(images, key=lambda image: (-image.evidence, image.id))
  count = min(max(round(ends * len(ordered)), 1), len(ordered) // 2)
  most, least = ordered[:count], ordered[: -count - 1 : -1]
  highest, lowest = (share_of(np.array([image.is_right for image in end], bool)) for end in (most, least))
  return ClassRanking(
    name=name,
    accuracy=share_of(np.array([image.is_right for image in images], bool)),
    highest=highest,
    lowest=lowest,
    gap=difference_of_shares(highest, lowest),
    alone=share_alone(images),
    most=tuple(image.id for image in most),
    least=tuple(image.id for image in least),
  )


def rank_data(
  name: str, images: Sequence[Judged], class_names: Sequence[str], *, ends: float, first: DataRanking | None
) -> DataRanking:
  """Ranks the classes of a data set.

  Args:
    name: what people call it.
    images: those that could be judged.
    class_names: by number.
    ends: the share of a class that is an end.
    first: what it is compared with.
  """
  by_class: dict[int, list[Judged]] = collections.defaultdict(list)
  for image in images:
    if image.label is not None:
      by_class[image.label].append(image)
  classes = tuple(
    rank_class(class_names[label], by_class[label], ends=ends) for label in sorted(by_class) if len(by_class[label]) > 1
  )
  accuracy = share_of(np.array([image.is_right for image in images], bool))
  counts = collections.Counter(image.alone for image in images if image.alone != NO_CLASS)
  called = min(counts, key=lambda number: (-counts[number], number)) if counts else NO_CLASS
  return DataRanking(
    name=name,
    accuracy=accuracy,
    beyond=None if first is None else difference_of_shares(accuracy, first.accuracy),
    alone=share_alone(images),
    called=class_names[called] if counts else "",
    share_called=share_of(np.array([image.alone == called for image in images], bool)) if counts else None,
    gap=mean_of_groups([one.gap for one in classes]) if classes else no_mean(NO_IMAGES),
    classes=classes,
  )
