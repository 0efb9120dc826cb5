"""Pictures of results, by Matplotlib."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import BinaryIO

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from jax_sis.metrics import Calibration
from jax_sis.statistics.estimates import wilson_interval

ROW_INCHES = 1.75
HEADING_INCHES = 0.7
DPI = 100
ACCURACY_COLOUR, GAP_COLOUR, INK = "#2f6db3", "#d1495b", "#333333"
# A number on a darker cell is white.
DARK_BELOW = 0.55


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubsetPanel:
  """One subset of an image.

  Attributes:
    kept: True where the subset shows the image; broadcasts against it.
    title: the caption, or the reason why there is none.
    has_subset: whether there is one.
  """

  kept: Bool[np.ndarray, "h w c"]
  title: str
  has_subset: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class GalleryPanel:
  """One row of a gallery.

  Attributes:
    image: 8-bit pixels.
    title: the caption of the image.
    subsets: its subsets, as many as there are headings.
    rank: 0 where the feature is needed most; broadcasts against the image. None where there is no order.
  """

  image: UInt8[np.ndarray, "H W C"]
  title: str
  subsets: list[SubsetPanel]
  rank: Int[np.ndarray, "h w c"] | None


def save_gallery(
  file: BinaryIO,
  panels: list[GalleryPanel],
  *,
  headings: list[str],
  with_order: bool,
  masked_colour: Float[np.ndarray, "C"],
) -> None:
  """Draws each image beside its subsets on the masked background and the heat map of its order.

  Args:
    file: gets the PNG.
    panels: one a row.
    headings: one for each subset of a row.
    with_order: whether there is a column for the order.
    masked_colour: what a masked pixel shows, 0..255.
  """
  matplotlib.use("agg")
  plt.rcParams["font.family"] = "DejaVu Sans"
  widths = [1, 1.2, *[1, 1.45] * len(headings), *[1] * with_order]
  figure, axes = plt.subplots(
    len(panels) + 1,
    len(widths),
    figsize=(ROW_INCHES * sum(widths), ROW_INCHES * len(panels) + HEADING_INCHES),
    dpi=DPI,
    squeeze=False,
    gridspec_kw={
      "width_ratios": widths,
      "height_ratios": [HEADING_INCHES / ROW_INCHES] + [1] * len(panels),
      "left": 0.01,
      "right": 0.99,
      "top": 0.999,
      "bottom": 0.004,
      "wspace": 0.06,
      "hspace": 0.06,
    },
  )
  for axis in axes.flat:
    axis.set_axis_off()
  all_headings = ["image", *headings, *["order: yellow is\nneeded most"] * with_order]
  for axis, heading in zip(axes[0, ::2], all_headings, strict=True):
    axis.text(0, 0.1, heading, fontsize=11, fontweight="bold", va="bottom")
  masked = masked_colour.astype(np.uint8)
  for row, panel in zip(axes[1:], panels, strict=True):
    row[0].imshow(panel.image)
    caption(row[1], panel.title)
    for column, subset in zip(range(2, len(widths), 2), panel.subsets, strict=False):
      shown = (
        np.where(subset.kept, panel.image, masked) if subset.has_subset else np.broadcast_to(masked, panel.image.shape)
      )
      row[column].imshow(shown)
      caption(row[column + 1], subset.title)
    if panel.rank is not None:
      # Logarithmic, since the few most needed features matter most.
      rank = np.broadcast_to(panel.rank, panel.image.shape)[..., 0].astype(np.float64)
      row[-1].imshow(-np.log1p(rank), cmap="viridis")
  figure.savefig(file, format="png")
  plt.close(figure)


def caption(axis: Axes, text: str) -> None:
  """Text beside a picture."""
  axis.text(0.02, 0.5, text, fontsize=10, va="center", linespacing=1.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReliabilityPanel:
  """One reliability diagram.

  Attributes:
    title: which images.
    calibration: confidence and accuracy in bins.
    accuracy: over all images.
    is_pooled: whether images are in it several times, under several corruptions, so that no interval can be given.
  """

  title: str
  calibration: Calibration
  accuracy: float
  is_pooled: bool


def save_reliability(path: pathlib.Path, panels: list[ReliabilityPanel], *, title: str, note: str) -> None:
  """Draws accuracy against confidence, and below it how many predictions each bin of confidence holds.

  Args:
    path: the PNG to write.
    panels: one a column.
    title: what was evaluated.
    note: what the panels after the first are; may be empty.
  """
  matplotlib.use("agg")
  plt.rcParams["font.family"] = "DejaVu Sans"
  width = max(2.1 * len(panels) + 0.9, 6.6)
  figure, axes = plt.subplots(
    2,
    len(panels),
    figsize=(width, 4.5),
    dpi=DPI,
    sharex=True,
    sharey="row",
    squeeze=False,
    gridspec_kw={
      "height_ratios": [2.4, 1],
      "left": 0.75 / width,
      "right": 1 - 0.15 / width,
      "top": 0.76,
      "bottom": 0.11,
      "wspace": 0.1,
      "hspace": 0.08,
    },
  )
  for (upper, lower), panel in zip(axes.T, panels, strict=True):
    draw_reliability(upper, panel)
    calibration = panel.calibration
    lower.bar(calibration.edges[:-1], calibration.count, np.diff(calibration.edges), align="edge", color="#9aa5b1")
    lower.set_yscale("log")
    lower.set_ylim(0.7, 1.5 * max(panel.calibration.count.max() for panel in panels))
    lower.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    for axis in (upper, lower):
      axis.spines[["top", "right"]].set_visible(False)
      axis.tick_params(labelsize=8, colors=INK)
  axes[0, 0].set_ylabel("accuracy", fontsize=9)
  axes[1, 0].set_ylabel("predictions", fontsize=9)
  figure.supxlabel("confidence, the probability of the predicted class", fontsize=9, y=0.01)
  left = 0.75 / width
  figure.text(left, 0.955, title, fontsize=11, fontweight="bold", va="center")
  legend = "Blue: accuracy, black: its 95 % interval, red: the gap to the mean confidence of the bin."
  figure.text(left, 0.905, f"{legend} {note}", fontsize=8, color=INK, va="center")
  figure.savefig(path)
  plt.close(figure)


def draw_reliability(axis: Axes, panel: ReliabilityPanel) -> None:
  """Bars of accuracy, with the gap to the mean confidence of each bin that is not empty."""
  calibration = panel.calibration
  shown = np.flatnonzero(calibration.count)
  places = calibration.edges[shown]
  widths = np.diff(calibration.edges)[shown]
  accuracy, confidence = calibration.accuracy[shown], calibration.confidence[shown]
  axis.bar(places, accuracy, widths, align="edge", color=ACCURACY_COLOUR, edgecolor="white", linewidth=0.6)
  axis.bar(
    places, confidence - accuracy, widths, bottom=accuracy, align="edge", color=GAP_COLOUR, alpha=0.35, linewidth=0
  )
  for middle, share, count in zip(places + widths / 2, accuracy, calibration.count[shown], strict=True):
    if not panel.is_pooled:
      axis.vlines(middle, *wilson_interval(round(share * count), int(count)), color=INK, linewidth=0.9)
  axis.plot([0, 1], [0, 1], linestyle=(0, (4, 3)), color=INK, linewidth=0.9)
  axis.set_xlim(0, 1)
  axis.set_ylim(0, 1)
  axis.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
  heading = f"accuracy {panel.accuracy:.3f}, ECE {calibration.expected_calibration_error:.3f}"
  axis.set_title(f"{panel.title}\n{heading}", fontsize=8.5, loc="left", color=INK)


def save_accuracies(
  path: pathlib.Path,
  accuracies: Mapping[tuple[str, int], float],
  *,
  groups: Mapping[str, tuple[str, ...]],
  title: str,
  note: str,
) -> None:
  """Draws a table of accuracies whose cells are coloured: a row a corruption, a column a severity, and the means.

  Args:
    path: the PNG to write.
    accuracies: for each corruption and severity, and for `("clean", 0)`, a share.
    groups: the corruptions of each family, in order; those of the last, `extra`, are not in the mean.
    title: what was evaluated.
    note: what the corruptions are.
  """
  matplotlib.use("agg")
  plt.rcParams["font.family"] = "DejaVu Sans"
  severities = sorted({severity for _, severity in accuracies if severity})
  lines: list[tuple[str, str, list[float]]] = []
  for group, names in groups.items():
    if group == "extra" and lines:
      lines.append(("", f"mean of {len(lines)}", list(np.mean([values for _, _, values in lines], axis=0))))
    lines += [
      (group, name, [accuracies[name, severity] for severity in severities])
      for name in names
      if (name, severities[0]) in accuracies
    ]
  clean = accuracies["clean", 0]
  height = 0.31 * len(lines) + 2.0
  figure = plt.figure(figsize=(8.2, height), dpi=DPI)
  axis = figure.add_axes((0.30, 0.35 / height, 0.67, 1 - 1.85 / height))
  draw_cells(axis, lines, clean)
  axis.set_xticks([*range(len(severities)), len(severities) + 0.3], [*map(str, severities), "mean"], fontsize=9)
  figure.text(0.02, 1 - 0.3 / height, title, fontsize=12, fontweight="bold", va="center")
  subtitle = f"{note}\nOn clean images {100 * clean:.1f}, in yellow."
  figure.text(0.02, 1 - 0.7 / height, subtitle, fontsize=9, color=INK, va="center", linespacing=1.5)
  figure.text(0.585, 1 - 1.1 / height, "severity", fontsize=9, ha="center", va="center")
  figure.savefig(path)
  plt.close(figure)


def draw_cells(axis: Axes, lines: list[tuple[str, str, list[float]]], clean: float) -> None:
  """Coloured cells with numbers, the mean of each line apart on the right, families apart from each other."""
  colours = matplotlib.colormaps["cividis"]
  place, places = 0.0, []
  for number, (group, _, values) in enumerate(lines):
    if number and group != lines[number - 1][0]:
      place += 0.35
    if group and (not number or group != lines[number - 1][0]):
      axis.text(-3.05, place, group, fontsize=9, color=INK, va="center", fontweight="bold")
    places.append(place)
    for column, value in enumerate([*values, float(np.mean(values))]):
      left = column - 0.5 + 0.3 * (column == len(values))
      colour = colours(value / clean if clean else 0.0)
      axis.add_patch(Rectangle((left, place - 0.5), 0.97, 0.95, color=colour, linewidth=0))
      is_dark = np.dot(colour[:3], (0.299, 0.587, 0.114)) < DARK_BELOW
      ink = "white" if is_dark else "black"
      axis.text(left + 0.485, place - 0.02, f"{100 * value:.1f}", fontsize=9, color=ink, ha="center", va="center")
    place += 1
  axis.set_yticks(places, [name.replace("_", " ") for _, name, _ in lines], fontsize=9)
  axis.set_xlim(-0.55, len(lines[0][2]) + 0.82)
  axis.set_ylim(place - 0.4, -0.6)
  axis.xaxis.tick_top()
  axis.tick_params(length=0)
  axis.spines[:].set_visible(False)


def start_figure(
  num_rows: int, num_columns: int, *, size: tuple[float, float], width_ratios: Sequence[float] | None = None
) -> tuple[Figure, np.ndarray]:
  """A figure and its axes `[rows, columns]`, laid out so that no text is cut off."""
  matplotlib.use("agg")
  plt.rcParams["font.family"] = "DejaVu Sans"
  return plt.subplots(
    num_rows, num_columns, figsize=size, dpi=DPI, squeeze=False, layout="constrained", width_ratios=width_ratios
  )


def save(figure: Figure, file: BinaryIO) -> None:
  """Writes the PNG and lets go of the figure."""
  # The layout gives maps with long headings too little room.
  figure.savefig(file, format="png", bbox_inches="tight", pad_inches=0.1)
  plt.close(figure)


# Okabe and Ito's colours, which people of every colour vision tell apart, without the yellow, which is too light.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


LINE_STYLES = ("-", "--", ":", "-.")


MAX_LABEL_LENGTH = 44


MAX_CLASS_LENGTH = 24


def set_share_axis(axis: Axes, *, low: float | None = None) -> None:
  """A logarithmic axis of shares of the image, labelled in per cent."""
  axis.set_xscale("log")
  set_ticks(axis.xaxis)
  smallest = axis.dataLim.intervalx[0] if low is None else low
  axis.set_xlim(smallest if low is not None else max(smallest, 1e-6) / 1.15, 1.12)
  axis.tick_params(labelsize=8, colors=INK)


def set_ticks(axis: Axis) -> None:
  """Ticks at 1, 2 and 5 of every decade of a logarithmic axis of shares."""
  axis.set_major_locator(FixedLocator([number * 10.0**power for power in range(-6, 1) for number in (1, 2, 5)]))
  axis.set_major_formatter(FuncFormatter(percent))
  axis.set_minor_locator(NullLocator())


def percent(share: float, _: float) -> str:
  """A share as a number of per cent."""
  return f"{100 * share:g}"


def format_p(p_value: float) -> str:
  """`p = 0.02`, or `p < 0.001`."""
  return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"


def shorten(text: str, length: int = MAX_LABEL_LENGTH) -> str:
  """A text, or its end after three dots."""
  return text if len(text) <= length else f"...{text[3 - length :]}"


def begin(text: str) -> str:
  """A class's name, or its beginning before three dots."""
  return text if len(text) <= MAX_CLASS_LENGTH else f"{text[: MAX_CLASS_LENGTH - 3]}..."
