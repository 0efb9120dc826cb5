"""What `jax-sis disjoint` found: summed up, printed, and as JSON, CSV and a figure."""

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_sis.core.messages import name_some
from jax_sis.core.subsets import Status
from jax_sis.results.answer import describe_provenance, encode_csv, write_answer
from jax_sis.results.folder import Folder
from jax_sis.results.schema import STATUS_NAMES
from jax_sis.runtime.records import to_json
from jax_sis.statistics.estimates import Estimate, difference_of, mean_of, rank_correlation, share_of
from jax_sis.statistics.matching import Matched, match_by_confidence
from jax_sis.studies.disjoint import figure

NUMBER_FORMAT = "{:<10} {:>7} {:>24} {:>12}"
ROUND_FORMAT = "{:<10} {:>7} {:>24} {:>7} {:>24}"
WIDTH = 120
MAX_NAMED = 5
# Images of these have no number of subsets: nothing is needed, or nothing could be searched.
UNCOUNTED = ("not_searched", STATUS_NAMES[Status.BASELINE_SUFFICIENT], STATUS_NAMES[Status.NON_FINITE])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collected:
  """The disjoint subsets of one image.

  Attributes:
    index: its place in the data.
    id: its name.
    error: why it could not be read; empty where it could.
    label: the true class; None where it is not known.
    predicted: the class that the subsets are for; None where it could not be read, as is the next.
    confidence: in that class on the whole image; None also where it is not finite.
    num_kept: pixels of each subset, in the order in which they were found.
    alone: confidence on each of them alone.
    end: why there is no further subset; `ok` where there may be one.
  """

  index: int
  id: str
  error: str
  label: str | None
  predicted: str | None
  confidence: float | None
  num_kept: list[int]
  alone: list[float]
  end: str

  @property
  def number(self) -> int:
    return len(self.num_kept)

  @property
  def is_counted(self) -> bool:
    """Whether the image has a number of subsets, 0 among them."""
    return self.number > 0 or self.end not in UNCOUNTED

  @property
  def is_censored(self) -> bool:
    """Whether the search ended at the largest number allowed."""
    return self.end == STATUS_NAMES[Status.OK]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NumberBin:
  """The images with one number of subsets.

  Attributes:
    number: of disjoint subsets.
    num_images: images with that number.
    accuracy: the share of the labelled ones that are classified rightly.
    mean_confidence: on the whole images.
  """

  number: int
  num_images: int
  accuracy: Estimate
  mean_confidence: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
  """The subsets that were found as the first, the second, ...

  Attributes:
    number: which, from 1.
    pixels: mean size over the images that have one.
    median_pixels: the median.
    difference_to_first: the mean of size minus that of the first subset of the same image.
  """

  number: int
  pixels: Estimate
  median_pixels: float
  difference_to_first: Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
  """What disjoint subsets say of a classifier.

  Attributes:
    num_images: images with a number of subsets, 0 among them.
    num_censored: of these, images in which the search ended at the largest number allowed.
    number: mean number of subsets; too low by what the censored ones have more.
    ends: by status, how many images have no further subset for this reason.
    by_number: a NumberBin for each number that occurs, ascending.
    rounds: a Round for each number of subsets that an image has.
    correctness: the number of wrong predictions beside right ones of the same confidence, of all labelled images.
    correctness_with_subset: the same of those that have a subset at all, since images below the threshold have none
      whatever they show.
    rank_correlation: Spearman's, of number and confidence, with its bootstrap interval.
  """

  num_images: int
  num_censored: int
  number: Estimate
  ends: dict[str, int]
  by_number: tuple[NumberBin, ...]
  rounds: tuple[Round, ...]
  correctness: Matched
  correctness_with_subset: Matched
  rank_correlation: Estimate


def summarise(collected: Sequence[Collected], *, seed: int) -> Summary:
  counted = [image for image in collected if image.is_counted]
  numbers = np.array([image.number for image in counted], np.int64)
  confidence = np.array([image.confidence for image in counted], np.float64)
  ends = [image.end for image in counted]
  with_subset = [image for image in counted if image.number]
  return Summary(
    num_images=len(counted),
    num_censored=sum(image.is_censored for image in counted),
    number=mean_of(numbers, seed=seed),
    ends={end: ends.count(end) for end in sorted(set(ends))},
    by_number=tuple(
      describe_number(number, [image for image in counted if image.number == number])
      for number in np.unique(numbers).tolist()
    ),
    rounds=tuple(describe_round(place, counted, seed=seed) for place in range(max(numbers.tolist(), default=0))),
    correctness=match(counted, seed=seed),
    correctness_with_subset=match(with_subset, seed=seed),
    rank_correlation=rank_correlation(numbers, confidence, seed=seed),
  )


def describe_number(number: int, images: Sequence[Collected]) -> NumberBin:
  labelled = [image for image in images if image.label is not None]
  return NumberBin(
    number=number,
    num_images=len(images),
    accuracy=share_of(np.array([image.predicted == image.label for image in labelled], bool)),
    mean_confidence=float(np.array([image.confidence for image in images], np.float64).mean()),
  )


def describe_round(place: int, images: Sequence[Collected], *, seed: int) -> Round:
  sizes = np.array([image.num_kept[place] for image in images if image.number > place])
  first = np.array([image.num_kept[0] for image in images if image.number > place])
  return Round(
    number=place + 1,
    pixels=mean_of(sizes, seed=seed),
    median_pixels=float(np.median(sizes)),
    difference_to_first=difference_of(sizes, first, seed=seed),
  )


def match(images: Sequence[Collected], *, seed: int) -> Matched:
  labelled = [image for image in images if image.label is not None]
  return match_by_confidence(
    np.array([image.number for image in labelled], np.int64),
    np.array([image.predicted == image.label for image in labelled], bool),
    np.array([image.confidence for image in labelled], np.float64),
    seed=seed,
  )


def describe_summary(summary: Summary) -> str:
  lines = [NUMBER_FORMAT.format("subsets", "images", "accuracy [95 %]", "confidence")]
  for one in summary.by_number:
    cells = one.num_images, f"{one.accuracy:.3f}", f"{one.mean_confidence:.4f}"
    lines.append(NUMBER_FORMAT.format(one.number, *cells))
  if summary.rounds:
    titles = ("found as", "images", "mean pixels [95 %]", "median", "minus the first [95 %]")
    lines += ["", ROUND_FORMAT.format(*titles)]
  for one in summary.rounds:
    cells = one.pixels.num_images, f"{one.pixels:.1f}", f"{one.median_pixels:g}"
    difference = "-" if one.number == 1 else f"{one.difference_to_first:.1f}"
    lines.append(ROUND_FORMAT.format(one.number, *cells, difference))
  return "\n".join(lines)


def describe_reading(summary: Summary, max_subsets: int) -> str:
  if not summary.num_images:
    return "No image has a number of subsets."
  alone = summary.correctness_with_subset
  return (
    f"{summary.num_images} images have {summary.number:.1f} disjoint subsets each, in the mean; of "
    f"{summary.num_censored} of them the search stopped at {max_subsets}, so they may have more. Wrong minus right "
    f"predictions: {summary.correctness.unmatched:.2f} where images below the threshold count as 0, "
    f"{alone.unmatched:.2f} on the images that have a subset, and on these at the same confidence "
    f"{alone.difference:.2f} ({alone.num_wrong} wrong, {alone.num_right} right); rank correlation of number and "
    f"confidence: {summary.rank_correlation:.2f}."
  )


def write_report(
  folder: Folder, collected: Sequence[Collected], *, spec: Mapping[str, Any], seed: int, subject: str, command: str
) -> dict[str, Any]:
  """Prints what was found and writes it; returns what `disjoint.json` holds."""
  summary = summarise(collected, seed=seed)
  reading = describe_reading(summary, spec["max_subsets"])
  left_out = {image.id: image.error or image.end for image in collected if not image.is_counted}
  print(f"\n{describe_summary(summary)}\n")
  print(textwrap.fill(reading, WIDTH))
  if left_out:
    named = name_some([f"{name} ({reason})" for name, reason in left_out.items()], most=MAX_NAMED)
    print(f"Without a number: {named}.")
  answer = {
    "format": spec["format"],
    "provenance": describe_provenance(folder, spec, command=command, seed=seed),
    **{name: spec[name] for name in ("threshold", "grid", "per_step", "max_subsets", "is_minimised")},
    **to_json(summary),
    "left_out": left_out,
    "images": [dataclasses.asdict(image) for image in collected],
    "reading": reading,
  }
  files = {"disjoint.csv": encode_csv(map(make_row, collected))}
  if summary.num_images:
    title = f"Disjoint sufficient subsets at {spec['threshold']:g}: {subject}"
    files["disjoint.png"] = figure.draw_disjoint(summary, title=title)
  return write_answer(folder, "disjoint.json", answer, files)


def make_row(image: Collected) -> dict[str, Any]:
  """The line of an image in the CSV; the sizes of its subsets share a cell, separated by blanks."""
  return {
    "image": image.id,
    "label": image.label,
    "predicted": image.predicted,
    "confidence": image.confidence,
    "subsets": image.number if image.is_counted else None,
    "is_censored": image.is_censored if image.is_counted else None,
    "end": image.end,
    "pixels": " ".join(map(str, image.num_kept)),
    "error": image.error,
  }
