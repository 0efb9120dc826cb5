"""The tables of the study of photographs, as rows for the page and the screen and as lines of a CSV file."""

from collections.abc import Sequence
from typing import Any

from jax_sis.reproduction.imagenet.asking import PARTS, SHOWN_TO
from jax_sis.reproduction.imagenet.outcome import Outcome
from jax_sis.reproduction.tables import plain_numbers
from jax_sis.statistics.estimates import DASH, show, show_percent

SIZE_HEADER = (
  "classifier",
  "confidence",
  "images with a subset",
  "mean size, %",
  "median, %",
  "smallest to largest, %",
)
BORDER_HEADER = (
  "classifier",
  "images",
  "in the border, %",
  "if even, %",
  "minus even",
  "squares at random, %",
  "class at random, %",
  "minus that, paired",
)
PART_HEADER = (
  "classifier",
  "shown",
  "images",
  "area, %",
  "class kept, %",
  "minus as many at random",
  "right, %",
  "confidence",
)
RANDOM_HEADER = ("classifier", "images", "class at random predicted, %", "class of the image kept, %", "confidence")
COMPARED_HEADER = ("classifier", "what", "wrong", "right", "mean of wrong, %", "mean of right, %", "wrong minus right")
SHOWN_HEADER = (
  "classifier",
  "pixels needed by",
  "images",
  "the same pixels, %",
  *(f"{what}, %" for what in SHOWN_TO.values()),
  "the other's minus its own",
  "the other's minus random",
)


def size_rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
  return [
    [
      outcome.label,
      f"{sizes.threshold:g}",
      f"{sizes.with_subset.count} of {sizes.with_subset.num_images}",
      show_percent(sizes.mean),
      tell_median(sizes.median, sizes.median_interval),
      DASH
      if sizes.smallest is None or sizes.largest is None
      else f"{100 * sizes.smallest:.1f} to {100 * sizes.largest:.1f}",
    ]
    for outcome in outcomes
    for sizes in outcome.sizes
  ]


def tell_median(median: float | None, interval: tuple[float, float] | None) -> str:
  if median is None:
    return DASH
  return f"{100 * median:.1f}" + ("" if interval is None else f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]")


def border_rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
  return [
    [
      outcome.label,
      f"{border.images}, {border.share.num_images}",
      show_percent(border.share),
      f"{100 * border.even:.1f}",
      show_percent(border.over_even, "+.1f"),
      show_percent(border.squares),
      show_percent(border.random_class),
      show_percent(border.over_random_class, "+.1f"),
    ]
    for outcome in outcomes
    for border in outcome.border
  ]


def part_rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
  return [
    [
      outcome.label,
      PARTS[part.what],
      f"{part.images}, {part.kept.num_images}",
      f"{100 * part.area:.1f}",
      show_percent(part.kept),
      show_percent(part.over_as_many, "+.1f", nothing=""),
      show_percent(part.right),
      show(part.confidence, ".3f"),
    ]
    for outcome in outcomes
    for part in outcome.parts
  ]


def random_rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
  return [
    [
      outcome.label,
      str(found.kept.num_images),
      show_percent(found.reached),
      show_percent(found.kept),
      show(found.confidence, ".3f"),
    ]
    for outcome in outcomes
    if (found := outcome.random_class) is not None
  ]


def compared_rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
  return [
    [
      outcome.label,
      one.what,
      str(one.matched.num_wrong),
      str(one.matched.num_right),
      *(DASH if mean is None else f"{100 * mean:.1f}" for mean in (one.matched.mean_wrong, one.matched.mean_right)),
      show_percent(one.matched.difference, "+.1f"),
    ]
    for outcome in outcomes
    for one in outcome.compared
  ]


def shown_rows(outcomes: Sequence[Outcome]) -> list[list[str]]:
  return [
    [
      one.label,
      one.chooser,
      f"{one.same_class.count} of {one.same_class.num_images}",
      show_percent(one.overlap),
      *(show_percent(one.kept[what]) for what in SHOWN_TO),
      show_percent(one.minus_own, "+.1f"),
      show_percent(one.over_pixels, "+.1f"),
    ]
    for outcome in outcomes
    for one in outcome.shown_to
  ]


def csv_rows(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
  """A line for each classifier, group of images and part."""
  return [
    {
      "classifier": outcome.label,
      "shown": part.what,
      "images": part.images,
      "num_images": part.kept.num_images,
      "area": part.area,
      **plain_numbers("kept", part.kept),
      **plain_numbers("over_as_many", part.over_as_many),
      **plain_numbers("right", part.right),
      **plain_numbers("confidence", part.confidence),
    }
    for outcome in outcomes
    for part in outcome.parts
  ]
