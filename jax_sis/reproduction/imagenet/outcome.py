"""What the stages of the study of photographs found, as numbers with intervals."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from jax_sis.core.subsets import Status
from jax_sis.data.labels import NO_LABEL
from jax_sis.reproduction.engine import Done
from jax_sis.reproduction.imagenet import asking, reading, regions
from jax_sis.reproduction.imagenet.reading import Searched
from jax_sis.reproduction.imagenet.setting import FRACTION, LOWER_THRESHOLD, THRESHOLD, Stages
from jax_sis.reproduction.leaks import Leak, make_leaks
from jax_sis.reproduction.names import Names
from jax_sis.reproduction.readings import read_answer
from jax_sis.statistics.estimates import Estimate, difference_of, mean_of, median_interval, share_of
from jax_sis.statistics.matching import Matched, match_by_confidence

ALL, CONFIDENT = "all", f"of {THRESHOLD:g} or more"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
  """Sizes of sufficient subsets at one threshold, in shares of the image.

  Attributes:
    threshold: the confidence.
    with_subset: the share of the images that has one.
    mean: their mean size.
    median: the median, and its interval; None without an image.
    smallest: the smallest; None likewise.
    largest: the largest.
  """

  threshold: float
  with_subset: Estimate
  mean: Estimate
  median: float | None
  median_interval: tuple[float, float] | None
  smallest: float | None
  largest: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Border:
  """How much of the 10 % needed most lies in the border.

  Attributes:
    images: which images.
    share: the mean over them of the share of these pixels.
    even: the border's share of the area, which even use would give.
    over_even: the difference.
    squares: the same share of as many pixels in squares of random order.
    over_squares: the difference, paired.
    random_class: of what a class at random needs most, on the images that were searched for one; None without any.
    over_random_class: the difference on these images, paired; None likewise.
  """

  images: str
  share: Estimate
  even: float
  over_even: Estimate
  squares: Estimate
  over_squares: Estimate
  random_class: Estimate | None
  over_random_class: Estimate | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """What a classifier says of one part of the images.

  Attributes:
    what: a key of PARTS.
    images: which images.
    area: the mean share of the image that is shown.
    kept: the share that keeps the class of the whole image.
    over_as_many: that minus the share with as many pixels at random, paired; None where these are not shown.
    over_centre: of the border, that minus the share with the centre, paired; None of other parts.
    right: the share that is classified rightly, of the images with a label.
    confidence: the mean in the class of the whole image.
  """

  what: str
  images: str
  area: float
  kept: Estimate
  over_as_many: Estimate | None
  over_centre: Estimate | None
  right: Estimate
  confidence: Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfRandomClass:
  """What is said of the 10 % that a class at random needs most.

  Attributes:
    reached: the share of the images on which that class is then predicted.
    kept: the share on which the class of the whole image still is.
    confidence: the mean in the class at random.
  """

  reached: Estimate
  kept: Estimate
  confidence: Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
  """Wrong against right predictions of the same confidence in one number, as a share; see `statistics.matching`."""

  what: str
  matched: Matched


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShownTo:
  """One classifier shown what another one needs, on images that both see as the same class.

  Attributes:
    label: the classifier that is asked.
    chooser: the one that needs the pixels.
    same_class: the share of all images that both see as the same class.
    overlap: the mean share of the chooser's 10 % that is among the classifier's own.
    kept: by a key of SHOWN_TO, the share that keeps that class.
    minus_own: `needed` minus `own`, paired.
    over_pixels: `needed` minus `pixels`, paired.
  """

  label: str
  chooser: str
  same_class: Estimate
  overlap: Estimate
  kept: dict[str, Estimate]
  minus_own: Estimate
  over_pixels: Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
  """All that was found of one classifier; what is None or empty is not done.

  Attributes:
    label: the classifier.
    num_images: images that could be searched.
    num_confident: images of the threshold or more.
    right: the share of the labelled ones that is classified rightly.
    sizes: at each threshold.
    certified: the share of the subsets that reaches the threshold when evaluated again; the class is kept.
    border: on all images, and on the confident ones.
    parts: on these, by part.
    random_class: see OfRandomClass.
    compared: wrong against right predictions.
    shown_to: this classifier, shown what others need.
    leaks: the controls of its subsets.
  """

  label: str
  num_images: int
  num_confident: int
  right: Estimate
  sizes: list[Sizes]
  certified: Estimate
  certified_class: Estimate
  border: list[Border]
  parts: list[Part]
  random_class: OfRandomClass | None
  compared: list[Compared]
  shown_to: list[ShownTo]
  leaks: list[Leak]


def read_outcome(names: Stages, done: Mapping[str, Done]) -> Outcome | None:
  """The outcome of one classifier; None if not even its images are searched."""
  if names.orders not in done:
    return None
  searched = reading.read_searched(done[names.orders].product)
  other = reading.read_searched(done[names.random_class].product) if names.random_class in done else None
  has_subset = searched.status == Status.OK
  found = searched.indices[has_subset]
  certified, keeps_class = (searched.store.read(f"sis_{name}", found) for name in ("is_sufficient", "keeps_class"))
  is_labelled = searched.label != NO_LABEL
  parts = read_answer(done, names.parts, asking.PARTS_FILE) if names.parts in done else None
  return Outcome(
    label=names.label,
    num_images=len(searched),
    num_confident=int(is_confident(searched).sum()),
    right=share_of(searched.predicted[is_labelled] == searched.label[is_labelled]),
    sizes=[measure_sizes(searched, threshold) for threshold in (THRESHOLD, LOWER_THRESHOLD)],
    certified=share_of(certified.astype(bool)),
    certified_class=share_of(keeps_class.astype(bool)),
    border=measure_borders(searched, other),
    parts=[] if parts is None else read_parts(searched, parts),
    random_class=None if parts is None else read_random_class(searched, other, parts),
    compared=compare_right(searched),
    shown_to=[make_shown_to(one, done) for one in done if one.endswith(f"-shown-to-{names.label}")],
    leaks=make_leaks(Names(architecture=names.label), done),
  )


def read_maps(names: Stages, done: Mapping[str, Done]) -> dict[str, Float[np.ndarray, "H W"]]:
  """By a title, the share of the images whose 10 % needed most hold each pixel."""
  titles = {names.orders: "the predicted class", names.random_class: "a class at random"}
  searched = {title: reading.read_searched(done[name].product) for name, title in titles.items() if name in done}
  return {f"for {title}, {len(one)} images": one.masks(fraction=FRACTION).mean(0) for title, one in searched.items()}


def is_confident(searched: Searched) -> Bool[np.ndarray, "N"]:
  return searched.confidence >= THRESHOLD


def choose_images(searched: Searched) -> dict[str, Bool[np.ndarray, "N"]]:
  """The groups of images that numbers are given of."""
  return {CONFIDENT: is_confident(searched), ALL: np.ones(len(searched), bool)}


def find_sizes(searched: Searched, threshold: float) -> Int[np.ndarray, "N"]:
  """The pixels of the subsets at a threshold, 0 where there is none."""
  return searched.masks(threshold=threshold).sum((1, 2))


def measure_sizes(searched: Searched, threshold: float) -> Sizes:
  sizes = find_sizes(searched, threshold)
  shares = sizes[sizes > 0] / searched.num_pixels
  return Sizes(
    threshold=threshold,
    with_subset=share_of(sizes > 0),
    mean=mean_of(shares),
    median=float(np.median(shares)) if len(shares) else None,
    median_interval=median_interval(shares),
    smallest=float(shares.min()) if len(shares) else None,
    largest=float(shares.max()) if len(shares) else None,
  )


def measure_borders(searched: Searched, other: Searched | None) -> list[Border]:
  """Beside even use, squares at random, and what a class at random needs."""
  shares = regions.measure_border(searched.masks(fraction=FRACTION))
  squares = regions.measure_border(asking.make_parts(searched)["squares"])
  even = float(regions.make_border(searched.size).mean())
  of_other = np.full(len(searched), np.nan)
  if other is not None:
    of_other[searched.find(other.ids)] = regions.measure_border(other.masks(fraction=FRACTION))
  found = []
  for images, rows in choose_images(searched).items():
    both = rows & ~np.isnan(of_other)
    found.append(
      Border(
        images=images,
        share=mean_of(shares[rows]),
        even=even,
        over_even=mean_of(shares[rows] - even),
        squares=mean_of(squares[rows]),
        over_squares=difference_of(shares[rows], squares[rows]),
        random_class=mean_of(of_other[both]) if both.any() else None,
        over_random_class=difference_of(shares[both], of_other[both]) if both.any() else None,
      )
    )
  return found


def read_parts(searched: Searched, answer: Mapping[str, Any]) -> list[Part]:
  """What was said of each part; the answer is of the same images in the same order."""
  area = {name: masks.mean((1, 2)) for name, masks in asking.make_parts(searched).items()}
  kept = {name: np.array(said["predicted"]) == searched.predicted for name, said in answer["said"].items()}
  found = []
  for images, rows in choose_images(searched).items():
    labelled = rows & (searched.label != NO_LABEL)
    for name, said in answer["said"].items():
      as_many = asking.AS_MANY.get(name)
      found.append(
        Part(
          what=name,
          images=images,
          area=float(area[name][rows].mean()) if rows.any() else 0.0,
          kept=share_of(kept[name][rows]),
          over_as_many=difference_of(kept[name][rows], kept[as_many][rows]) if as_many else None,
          over_centre=difference_of(kept[name][rows], kept["centre"][rows]) if name == "border" else None,
          right=share_of(np.array(said["predicted"])[labelled] == searched.label[labelled]),
          confidence=mean_of(np.array(said["confidence"])[rows]),
        )
      )
  return found


def read_random_class(searched: Searched, other: Searched | None, answer: Mapping[str, Any]) -> OfRandomClass | None:
  if other is None:
    return None
  said = answer["said_of_random_class"][asking.RANDOM_CLASS]
  predicted = np.array(said["predicted"])
  return OfRandomClass(
    reached=share_of(predicted == other.target),
    kept=share_of(predicted == searched.predicted[searched.find(other.ids)]),
    confidence=mean_of(np.array(said["confidence"])),
  )


def compare_right(searched: Searched) -> list[Compared]:
  """Wrong against right predictions of the same confidence, by the sizes of their subsets and by the border."""
  is_labelled = searched.label != NO_LABEL
  is_right = searched.predicted == searched.label
  borders = regions.measure_border(searched.masks(fraction=FRACTION))
  found = []
  for threshold in (THRESHOLD, LOWER_THRESHOLD):
    sizes = find_sizes(searched, threshold)
    rows = is_labelled & (sizes > 0)
    matched = match_by_confidence(sizes[rows] / searched.num_pixels, is_right[rows], searched.confidence[rows])
    found.append(Compared(what=f"size at {threshold:g}", matched=matched))
  matched = match_by_confidence(borders[is_labelled], is_right[is_labelled], searched.confidence[is_labelled])
  return [*found, Compared(what="the 10 % in the border", matched=matched)]


def make_shown_to(name: str, done: Mapping[str, Done]) -> ShownTo:
  chooser, _, label = name.partition("-shown-to-")
  answer = read_answer(done, name, asking.TRANSFER_FILE)
  own, other = (reading.read_searched(done[Stages(label=one).orders].product) for one in (label, chooser))
  predicted = own.predicted[own.find(answer["ids"])]
  places = other.find(answer["ids"])
  is_same = predicted == other.predicted[places]
  has_subset = other.status[places] == Status.OK
  kept = {key: np.array(said["predicted"]) == predicted for key, said in answer["said"].items()}
  return ShownTo(
    label=label,
    chooser=chooser,
    same_class=share_of(is_same),
    overlap=mean_of(np.array(answer["overlap"])[is_same]),
    kept={key: share_of(values[is_same & has_subset if key == "subset" else is_same]) for key, values in kept.items()},
    minus_own=difference_of(kept["needed"][is_same], kept["own"][is_same]),
    over_pixels=difference_of(kept["needed"][is_same], kept["pixels"][is_same]),
  )
