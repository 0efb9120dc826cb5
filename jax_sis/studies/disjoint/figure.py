"""The picture of `jax-sis disjoint`: how many subsets images have, who is right about them, and how large they are."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from jax_sis.display.style import ACCURACY_COLOUR, COLOURS, INK, finish, start_figure, styled
from jax_sis.statistics.estimates import Estimate

BAR_COLOUR, CONFIDENCE_COLOUR = COLOURS[5], COLOURS[1]


@styled
def draw_disjoint(summary: Any, *, title: str) -> bytes:
  """Draws the distribution of the number, accuracy and confidence by number, and size by round.

  `summary` is a `report.Summary` of at least one image.
  """
  figure, ((left, middle, right),) = start_figure(1, 3, size=(12, 3.9))
  draw_numbers(left, summary)
  draw_trust(middle, summary)
  draw_sizes(right, summary)
  for axis in (left, middle, right):
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(axis="y")
  figure.suptitle(title, x=0.01, ha="left")
  return finish(figure)


def draw_numbers(axis: Axes, summary: Any) -> None:
  numbers = [one.number for one in summary.by_number]
  axis.bar(numbers, [one.num_images for one in summary.by_number], color=BAR_COLOUR)
  if summary.num_censored:
    axis.bar(numbers[-1], summary.num_censored, color=BAR_COLOUR, hatch="///", edgecolor="white", label="may have more")
    axis.legend()
  axis.set_title(f"{summary.num_images} images")
  axis.set_xlabel("disjoint subsets")
  axis.set_ylabel("images")
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
  axis.set_title("how often these are right")
  axis.set_xlabel("disjoint subsets")
  axis.legend(loc="lower right")


def draw_sizes(axis: Axes, summary: Any) -> None:
  """The size of the first, second, ... subset found, and its difference to the first one of the same image."""
  axis.set_title("size by round")
  axis.set_xlabel("found as")
  axis.set_ylabel("pixels")
  if not summary.rounds:
    axis.text(0.5, 0.5, "no subset", transform=axis.transAxes, ha="center")
    return
  draw_line(axis, summary, [one.pixels for one in summary.rounds], COLOURS[0], "all images that have one")
  draw_line(axis, summary, [one.difference_to_first for one in summary.rounds], COLOURS[1], "minus their first subset")
  axis.axhline(0, color=INK, linewidth=0.8)
  axis.legend()


def draw_line(axis: Axes, summary: Any, means: list[Estimate], colour: str, label: str) -> None:
  places = np.array([one.number for one in summary.rounds])
  # Those of few images are NaN, which is not drawn.
  middle, low, high = np.array([mean.numbers for mean in means]).T
  axis.plot(places, middle, "o-", color=colour, markersize=4, linewidth=1.3, label=label)
  axis.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)
