"""The picture of `jax-sis disjoint`: how many subsets images have, who is right about them, and how large they are."""

from typing import Any, BinaryIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from jax_sis.display.style import COLOURS, INK, save, start_figure
from jax_sis.statistics.estimates import Estimate

BAR_COLOUR, ACCURACY_COLOUR, CONFIDENCE_COLOUR = COLOURS[5], COLOURS[0], COLOURS[1]


def save_disjoint(file: BinaryIO, summary: Any, *, title: str) -> None:
  """Draws the distribution of the number, accuracy and confidence by number, and size by round.

  Args:
    file: gets the PNG.
    summary: a `disjoint_report.Summary` of at least one image.
    title: what was searched.
  """
  figure, ((left, middle, right),) = start_figure(1, 3, size=(12, 3.9))
  draw_numbers(left, summary)
  draw_trust(middle, summary)
  draw_sizes(right, summary)
  for axis in (left, middle, right):
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.tick_params(labelsize=9, colors=INK)
    axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
  figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
  save(figure, file)


def draw_numbers(axis: Axes, summary: Any) -> None:
  """How many images have how many subsets."""
  numbers = [one.number for one in summary.by_number]
  axis.bar(numbers, [one.num_images for one in summary.by_number], color=BAR_COLOUR)
  if summary.num_censored:
    axis.bar(numbers[-1], summary.num_censored, color=BAR_COLOUR, hatch="///", edgecolor="white", label="may have more")
    axis.legend(fontsize=9, frameon=False)
  axis.set_title(f"{summary.num_images} images", fontsize=10, loc="left", color=INK)
  axis.set_xlabel("disjoint subsets", fontsize=9)
  axis.set_ylabel("images", fontsize=9)
  axis.yaxis.set_major_locator(MaxNLocator(integer=True))


def draw_trust(axis: Axes, summary: Any) -> None:
  """Accuracy, with Wilson intervals, and confidence of the images with each number."""
  known = [one for one in summary.by_number if one.accuracy.value is not None]
  numbers = [one.number for one in known]
  axis.vlines(
    numbers, [one.accuracy.low for one in known], [one.accuracy.high for one in known], color=ACCURACY_COLOUR, alpha=0.5
  )
  axis.plot(numbers, [one.accuracy.value for one in known], "o", color=ACCURACY_COLOUR, label="accuracy (95 %)")
  every = summary.by_number
  confidences = [one.mean_confidence for one in every]
  axis.plot([one.number for one in every], confidences, "x", color=CONFIDENCE_COLOUR, label="mean confidence")
  axis.set_ylim(0, 1.04)
  axis.set_title("how often these are right", fontsize=10, loc="left", color=INK)
  axis.set_xlabel("disjoint subsets", fontsize=9)
  axis.legend(fontsize=9, frameon=False, loc="lower right")


def draw_sizes(axis: Axes, summary: Any) -> None:
  """The size of the subset found first, second, ..., as it is and against the first of the same images."""
  axis.set_title("size by round", fontsize=10, loc="left", color=INK)
  axis.set_xlabel("found as", fontsize=9)
  axis.set_ylabel("pixels", fontsize=9)
  if not summary.rounds:
    axis.text(0.5, 0.5, "no subset", transform=axis.transAxes, ha="center", fontsize=9, color=INK)
    return
  draw_line(axis, summary, [one.pixels for one in summary.rounds], COLOURS[0], "images that have so many")
  draw_line(axis, summary, [one.difference_to_first for one in summary.rounds], COLOURS[1], "minus their first subset")
  axis.axhline(0, color=INK, linewidth=0.8)
  axis.legend(fontsize=9, frameon=False)


def draw_line(axis: Axes, summary: Any, means: list[Estimate], colour: str, label: str) -> None:
  """Means by round, with their intervals."""
  places = np.array([one.number for one in summary.rounds])
  # Those of few images are NaN, which is not drawn.
  middle, low, high = np.array([mean.numbers for mean in means]).T
  axis.plot(places, middle, "o-", color=colour, markersize=4, linewidth=1.3, label=label)
  axis.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)
