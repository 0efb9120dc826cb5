"""Pictures of an evaluation: reliability and accuracies."""

import dataclasses
from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from jax_sis.display.style import ACCURACY_COLOUR, GAP_COLOUR, INK, add_title, finish, set_ticks, start_figure, styled
from jax_sis.evaluation.metrics import Calibration
from jax_sis.statistics.estimates import share_of_count

# A number on a darker cell is white.
DARK_BELOW = 0.55


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


@styled
def draw_reliability(panels: list[ReliabilityPanel], *, title: str, note: str) -> bytes:
  """Draws accuracy against confidence, and below it how many predictions each bin of confidence holds.

  A panel a column; `note` says what those after the first are, and may be empty.
  """
  width = max(2.1 * len(panels) + 0.9, 6.6)
  left = 0.75 / width
  edges = {"left": left, "right": 1 - 0.15 / width, "top": 0.76, "bottom": 0.11, "wspace": 0.1, "hspace": 0.08}
  figure, axes = start_figure(
    2, len(panels), size=(width, 4.5), places=edges, height_ratios=[2.4, 1], sharex=True, sharey="row"
  )
  for (upper, lower), panel in zip(axes.T, panels, strict=True):
    draw_bins(upper, panel)
    calibration = panel.calibration
    lower.bar(calibration.edges[:-1], calibration.count, np.diff(calibration.edges), align="edge", color="#9aa5b1")
    lower.set_yscale("log")
    set_ticks(lower.yaxis, powers=range(9), numbers=(1,), factor=1)
    lower.set_ylim(0.7, 1.5 * max(panel.calibration.count.max() for panel in panels))
    lower.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
  axes[0, 0].set_ylabel("accuracy")
  axes[1, 0].set_ylabel("predictions")
  figure.supxlabel("confidence, the probability of the predicted class", y=0.01)
  legend = "Blue: accuracy, black: its 95 % interval, orange: the gap to the mean confidence of the bin."
  add_title(figure, title, f"{legend} {note}", left=left)
  return finish(figure)


def draw_bins(axis: Axes, panel: ReliabilityPanel) -> None:
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
      _, low, high = share_of_count(round(share * count), int(count)).numbers
      axis.vlines(middle, low, high, color=INK, linewidth=0.9)
  axis.plot([0, 1], [0, 1], linestyle=(0, (4, 3)), color=INK, linewidth=0.9)
  axis.set_xlim(0, 1)
  axis.set_ylim(0, 1)
  axis.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
  heading = f"accuracy {panel.accuracy:.3f}, ECE {calibration.expected_calibration_error:.3f}"
  axis.set_title(f"{panel.title}\n{heading}", fontsize=8.5)


@styled
def draw_accuracies(
  accuracies: Mapping[tuple[str, int], float],
  *,
  groups: Mapping[str, tuple[str, ...]],
  title: str,
  note: str,
) -> bytes:
  """Draws a table of accuracies whose cells are coloured: a row a corruption, a column a severity, and the means.

  Args:
    accuracies: for each corruption and severity, and for `("clean", 0)`, a share.
    groups: the corruptions of each family, in order; those of the last, `extra`, are not in the mean.
    title: what was evaluated.
    note: what the corruptions are.
  """
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
  edges = {"left": 0.3, "right": 0.97, "bottom": 0.35 / height, "top": 1 - 1.5 / height}
  figure, ((axis,),) = start_figure(1, 1, size=(8.2, height), places=edges)
  draw_cells(axis, lines, clean)
  axis.set_xticks([*range(len(severities)), len(severities) + 0.3], [*map(str, severities), "mean"])
  add_title(figure, title, f"{note}\nOn clean images {100 * clean:.1f}, in yellow.")
  figure.text(0.585, 1 - 1.1 / height, "severity", fontsize=9, ha="center", va="center")
  return finish(figure)


def draw_cells(axis: Axes, lines: list[tuple[str, str, list[float]]], clean: float) -> None:
  """Coloured cells with numbers, the mean of each line apart on the right, families apart from each other."""
  colours = matplotlib.colormaps["cividis"]
  place, places = 0.0, []
  for number, (group, _, values) in enumerate(lines):
    if number and group != lines[number - 1][0]:
      place += 0.35
    if group and (not number or group != lines[number - 1][0]):
      axis.text(-3.05, place, group, fontsize=9, va="center", fontweight="bold")
    places.append(place)
    for column, value in enumerate([*values, float(np.mean(values))]):
      left = column - 0.5 + 0.3 * (column == len(values))
      colour = colours(value / clean if clean else 0.0)
      axis.add_patch(Rectangle((left, place - 0.5), 0.97, 0.95, color=colour, linewidth=0))
      is_dark = np.dot(colour[:3], (0.299, 0.587, 0.114)) < DARK_BELOW
      ink = "white" if is_dark else "black"
      axis.text(left + 0.485, place - 0.02, f"{100 * value:.1f}", fontsize=9, color=ink, ha="center", va="center")
    place += 1
  axis.set_yticks(places, [name.replace("_", " ") for _, name, _ in lines])
  axis.set_xlim(-0.55, len(lines[0][2]) + 0.82)
  axis.set_ylim(place - 0.4, -0.6)
  axis.xaxis.tick_top()
  axis.tick_params(length=0)
  axis.spines[:].set_visible(False)
