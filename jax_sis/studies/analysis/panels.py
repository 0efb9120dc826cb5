"""The panels of pictures of what the subsets of runs say, each drawn on an axis of Matplotlib."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from jax_sis.display.style import (
  COLOURS,
  DASHED,
  INK,
  LINE_STYLES,
  draw_interval,
  format_p,
  name_class,
  set_share_axis,
  set_ticks,
)
from jax_sis.results.schema import KIND_TITLES
from jax_sis.studies.analysis.confidence_curves import Removal
from jax_sis.studies.analysis.positions import Positions
from jax_sis.studies.analysis.run import MOST_NEEDED, Correctness, RunAnalysis
from jax_sis.studies.analysis.sizes import Sizes

RIGHT_COLOUR, WRONG_COLOUR = COLOURS[:2]
# More classes than these are drawn as a curve, with some names.
MAX_NAMED_CLASSES = 20
NUM_EXTREME_CLASSES = 3
# The colours of a map reach from a quarter to four times the use that each place would have if all were used alike.
LARGEST_LOG2_USE = 2
# Widths of a map and of its rows' means.
MAP_TO_ROWS = 4


def sizes_of(analysis: RunAnalysis, answer: str) -> Sizes | None:
  """The sizes of a kind at the run's own threshold, which come first, if it has subsets."""
  found = next((sizes for sizes in analysis.sizes if sizes.answer == answer), None)
  return found if found is not None and found.percentiles is not None else None


def title_of(answer: str, thresholds: set[float]) -> str:
  where = f"{thresholds.pop():g}" if len(thresholds) == 1 else "each run's own threshold"
  return f"{KIND_TITLES[answer]} subsets at {where}"


def draw_distributions(axis: Axes, found: Mapping[str, Sizes | None], analyses: Mapping[str, RunAnalysis]) -> None:
  styles = styles_of(analyses)
  for label, sizes in found.items():
    assert sizes is not None and sizes.distribution is not None
    shares = np.array(sizes.distribution) / analyses[label].num_features
    axis.step(shares, np.linspace(0, 1, len(shares)), where="post", linewidth=1.8, **styles[label])
  set_share_axis(axis)
  axis.set_ylim(0, 1.02)
  axis.set_ylabel("share of the images with a subset")
  axis.set_xlabel("size, in % of the image (at most)")
  axis.grid()


def draw_classes(axis: Axes, analyses: Mapping[str, RunAnalysis], answer: str) -> None:
  """Median and quartiles of each class, one line per class; of many classes the medians in ascending order."""
  by_run = {
    label: [sizes for sizes in analysis.sizes_by_class if sizes.answer == answer and sizes.percentiles is not None]
    for label, analysis in analyses.items()
  }
  names = list(dict.fromkeys(sizes.group for of_run in by_run.values() for sizes in of_run))
  if len(names) > MAX_NAMED_CLASSES:
    draw_many_classes(axis, by_run, analyses)
    return
  styles = styles_of(analyses)
  for number, (label, of_run) in enumerate(by_run.items()):
    offset = 0.7 * ((number + 0.5) / len(by_run) - 0.5)
    for sizes in of_run:
      assert sizes.percentiles is not None
      low, middle, high = (sizes.percentiles[place] / analyses[label].num_features for place in ("25", "50", "75"))
      place = names.index(sizes.group) + offset
      axis.hlines(place, low, high, color=styles[label]["color"], linewidth=2.2, alpha=0.55)
      axis.plot(middle, place, "o", color=styles[label]["color"], markersize=4.5)
  axis.set_yticks(range(len(names)), [name_class(name) for name in names])
  axis.set_ylim(len(names) - 0.5, -0.5)
  set_share_axis(axis)
  axis.grid(axis="x")
  axis.set_xlabel("size, in % of the image: median and quartiles")
  axis.set_title("by the class that the subset is for")


def draw_many_classes(axis: Axes, by_run: Mapping[str, Sequence[Sizes]], analyses: Mapping[str, RunAnalysis]) -> None:
  """The medians of all classes in ascending order, with the names of the first run's extreme ones."""
  styles = styles_of(analyses)
  is_first = True
  for label, of_run in by_run.items():
    ordered = sorted(of_run, key=lambda sizes: (sizes.median or 0.0, sizes.group))
    medians = [(sizes.median or 0.0) / analyses[label].num_features for sizes in ordered]
    axis.plot(np.arange(len(ordered)), medians, linewidth=1.8, **styles[label])
    if is_first and ordered:
      is_first = False
      low = "\n".join(name_class(sizes.group) for sizes in ordered[:NUM_EXTREME_CLASSES])
      high = "\n".join(name_class(sizes.group) for sizes in reversed(ordered[-NUM_EXTREME_CLASSES:]))
      box = {"fontsize": 8, "color": styles[label]["color"], "transform": axis.transAxes, "linespacing": 1.3}
      axis.text(0.03, 0.97, f"largest:\n{high}", ha="left", va="top", **box)
      axis.text(0.97, 0.03, f"smallest:\n{low}", ha="right", va="bottom", **box)
  axis.set_yscale("log")
  set_ticks(axis.yaxis)
  axis.set_ylabel("median size, in % of the image")
  axis.set_xlabel("classes, by their median")
  axis.set_title("by the class that the subset is for")
  axis.grid()


def describe_what(what: str, analysis: RunAnalysis) -> str:
  return f"the {100 * analysis.fraction:.3g} % needed most" if what == MOST_NEEDED else f"{KIND_TITLES[what]} subsets"


def relative_use(positions: Positions) -> np.ndarray:
  """How often each place is used, relative to even use."""
  shares = np.array(positions.shares)
  return shares / shares.mean()


def draw_positions(axis: Axes, positions: Positions, *, title: str) -> Any:
  """Draws the map of one kind of subset, with mean row and test in its heading. Returns the colours for the bar."""
  use = relative_use(positions)
  smallest = 2.0 ** -(LARGEST_LOG2_USE + 1)
  picture = axis.imshow(
    np.log2(np.maximum(use, smallest)),
    cmap="PuOr",
    vmin=-LARGEST_LOG2_USE,
    vmax=LARGEST_LOG2_USE,
    interpolation="nearest",
  )
  evenness = positions.evenness
  lines = [
    title,
    f"{positions.num_images} images, mean row {positions.mean_row:.1f}",
    f"(even use: {positions.even_row:g})",
  ]
  if evenness.dispersion is not None and evenness.p_value is not None:
    lines[-1] += f", unevenness {evenness.dispersion:.3g}, {format_p(evenness.p_value)}"
  axis.set_title("\n".join(lines), fontsize=8.5, linespacing=1.35)
  axis.set_xticks([0, use.shape[1] - 1])
  axis.set_yticks([0, use.shape[0] - 1])
  axis.spines[:].set_visible(True)
  return picture


def draw_rows(axis: Axes, positions: Positions) -> None:
  use = relative_use(positions)
  means = use.mean(1)
  axis.set_box_aspect(MAP_TO_ROWS * use.shape[0] / use.shape[1])
  axis.plot(means, np.arange(len(means)), color=INK, linewidth=1.3)
  axis.axvline(1, color=INK, linewidth=0.8, linestyle=DASHED)
  axis.set_ylim(len(means) - 0.5, -0.5)
  axis.set_xlim(0, max(2.0, 1.05 * float(means.max())))
  axis.set_xticks([0, 1], ["0", "1"])
  axis.set_yticks([])


def draw_removal(axis: Axes, removal: Removal, *, threshold: float) -> None:
  """The curves of one run, from the whole image on the left to nothing on the right."""
  curves = {curve.group: curve for curve in removal.curves}
  styles = {"right": (RIGHT_COLOUR, "-"), "wrong": (WRONG_COLOUR, "--")}
  drawn = [group for group in styles if group in curves] or [group for group in ("all",) if group in curves]
  shares = np.array(removal.shares)
  is_kept = shares > 0
  at_nothing = shares[is_kept].min() / 2
  for group in drawn:
    colour, line = styles.get(group, (INK, "-"))
    curve = curves[group]
    name = f"{group} predictions" if group in styles else "all images"
    label = f"{name} ({curve.num_images})"
    axis.plot(shares[is_kept], np.array(curve.mean)[is_kept], color=colour, linestyle=line, linewidth=1.8, label=label)
    low, high = (np.array(curve.quantiles[share]) for share in ("0.25", "0.75"))
    axis.fill_between(shares[is_kept], low[is_kept], high[is_kept], color=colour, alpha=0.16, linewidth=0)
    # The fully masked image has no place on a logarithmic axis.
    axis.plot(at_nothing, curve.mean[0], "D", color=colour, markersize=5, clip_on=False)
  axis.axhline(threshold, color=INK, linewidth=0.9, linestyle=":")
  set_share_axis(axis, low=at_nothing / 1.3)
  axis.invert_xaxis()
  axis.set_ylim(-0.02, 1.03)
  axis.grid()
  if drawn:
    axis.legend(loc="upper right", frameon=True, framealpha=0.9)


def draw_accuracy(axis: Axes, of_kind: Mapping[str, Correctness], analyses: Mapping[str, RunAnalysis]) -> None:
  """Accuracy by bins of size, and the mean confidence of each bin, which may explain it."""
  styles = styles_of(analyses)
  for label, correctness in of_kind.items():
    bins = correctness.accuracy_by_size
    shares = np.array([one.mean_pixels for one in bins]) / analyses[label].num_features
    accuracy = np.array([one.accuracy.numbers for one in bins])
    axis.vlines(shares, accuracy[:, 1], accuracy[:, 2], color=styles[label]["color"], linewidth=1.4, alpha=0.7)
    axis.plot(shares, accuracy[:, 0], marker="o", markersize=5, linewidth=1.4, **styles[label])
    confidence = [one.mean_confidence for one in bins]
    axis.plot(shares, confidence, "o", color=styles[label]["color"], markersize=5, markerfacecolor="white")
  set_share_axis(axis)
  axis.set_xlabel("mean size of the bin, in % of the image")
  axis.set_ylabel("accuracy")
  low, _ = axis.get_ylim()
  axis.set_ylim(min(low, 0.9), 1.01)
  axis.grid()


def draw_differences(
  axis: Axes, of_kind: Mapping[str, Sequence[Correctness]], analyses: Mapping[str, RunAnalysis]
) -> None:
  """The difference in size of wrong and right predictions at the same confidence, a line a run and threshold."""
  styles = styles_of(analyses)
  lines = [(label, correctness) for label, of_run in of_kind.items() for correctness in of_run]
  for place, (label, correctness) in enumerate(lines):
    matched, difference = correctness.matched, correctness.matched.difference
    text = f"at {correctness.threshold:g}: {matched.num_wrong} wrong, {matched.num_right} right"
    if difference.low is None:
      text += ", no interval" if difference.value is not None else ", none to compare"
    axis.text(0.02, place - 0.3, text, fontsize=8, va="center", transform=axis.get_yaxis_transform())
    numbers = difference.scale(100 / analyses[label].num_features).numbers
    draw_interval(axis, place, numbers, colour=styles[label]["color"])
  axis.axvline(0, color=INK, linewidth=0.8, linestyle=DASHED)
  axis.set_yticks([])
  axis.set_ylim(len(lines) - 0.5, -0.6)
  axis.spines["left"].set_visible(False)
  axis.margins(x=0.1)
  axis.set_xlabel("difference in size, in % of the image, 95 % interval")
  axis.set_title("wrong minus right predictions of the same confidence")


def styles_of(analyses: Mapping[str, RunAnalysis]) -> dict[str, dict[str, Any]]:
  """The colour and the line of each run, the same in every picture."""
  styles = {}
  for number, label in enumerate(analyses):
    turn, place = divmod(number, len(COLOURS))
    styles[label] = {"color": COLOURS[place], "linestyle": LINE_STYLES[(number + turn) % len(LINE_STYLES)]}
  return styles
