"""The picture of leak controls: under each one, the share of images that keep their class."""

import itertools
from collections.abc import Mapping, Sequence
from typing import BinaryIO

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from jax_sis.display.style import ACCURACY_COLOUR, DPI, GAP_COLOUR, INK
from jax_sis.studies.controls.outcomes import ControlSummary
from jax_sis.studies.controls.views import CONTROLS

COLOURS = (ACCURACY_COLOUR, GAP_COLOUR, "#e3a23a", "#5b8c5a", "#7d5ba6")
GROUP_TITLES = {
  "subset": "",
  "around": "pixels put back",
  "fill": "other fills",
  "shape": "shape only",
  "place": "other pixels",
  "rest": "what is left",
}
# Heights, the distance of two controls being 1.
GAP_BETWEEN_GROUPS = 0.45
BARS_HEIGHT = 0.78


def save_controls(file: BinaryIO, kinds: Mapping[str, Sequence[ControlSummary]], *, title: str, note: str) -> None:
  """Draws a bar for each control and kind of subset, with its interval and the share in percent.

  Args:
    file: gets the PNG.
    kinds: for each kind of subset, by the name that the legend gives it, a summary a control.
    title: what was controlled.
    note: what else to know of it, in a line.
  """
  matplotlib.use("agg")
  plt.rcParams["font.family"] = "DejaVu Sans"
  names = names_of(kinds)
  places = place_controls(names)
  height = bars_inches(kinds) + 1.6
  figure = plt.figure(figsize=(9.0, height), dpi=DPI)
  axis = figure.add_axes((0.37, 0.5 / height, 0.6, 1 - 1.55 / height))
  draw_controls(axis, kinds)
  for group, heading in GROUP_TITLES.items():
    within = [place for place, name in zip(places, names, strict=True) if CONTROLS[name].group == group]
    middle = sum(within) / len(within)
    axis.text(
      -0.6, middle, heading, transform=axis.get_yaxis_transform(), fontsize=9, color=INK, fontweight="bold", va="center"
    )
  figure.text(0.02, 1 - 0.3 / height, title, fontsize=12, fontweight="bold", va="center")
  figure.text(0.02, 1 - 0.62 / height, note, fontsize=9, color=INK, va="center")
  figure.legend(
    loc="center left", bbox_to_anchor=(0.005, 1 - 0.92 / height), ncols=len(kinds), fontsize=9, frameon=False
  )
  figure.savefig(file, format="png")
  plt.close(figure)


def names_of(kinds: Mapping[str, Sequence[ControlSummary]]) -> list[str]:
  """The controls, which are the same for every kind of subset."""
  return [summary.name for summary in next(iter(kinds.values()))]


def bars_inches(kinds: Mapping[str, Sequence[ControlSummary]]) -> float:
  """How high the bars of these kinds are together, so that numbers beside them do not touch."""
  return (0.22 + 0.13 * len(kinds)) * (place_controls(names_of(kinds))[-1] + 1)


def draw_controls(axis: Axes, kinds: Mapping[str, Sequence[ControlSummary]]) -> None:
  """The bars, in groups that stand apart, each control with its name.

  Args:
    axis: what is drawn on.
    kinds: as for `save_controls`.
  """
  names = names_of(kinds)
  places = place_controls(names)
  thickness = BARS_HEIGHT / len(kinds)
  for number, (kind, summaries) in enumerate(kinds.items()):
    offset = (number + 0.5) * thickness - BARS_HEIGHT / 2
    draw_kind(axis, [place + offset for place in places], summaries, thickness, COLOURS[number % len(COLOURS)], kind)
  axis.set_yticks(places, [CONTROLS[name].title for name in names], fontsize=9)
  axis.set_ylim(places[-1] + 0.6, -0.6)
  axis.set_xlim(0, 106)
  axis.set_xlabel("images that keep their class, %", fontsize=9)
  axis.tick_params(axis="x", labelsize=9, colors=INK)
  axis.tick_params(axis="y", length=0)
  axis.spines[["top", "right", "left"]].set_visible(False)


def place_controls(names: Sequence[str]) -> list[float]:
  """Where each control stands, groups apart from each other."""
  places = [0.0]
  for before, name in itertools.pairwise(names):
    is_same = CONTROLS[before].group == CONTROLS[name].group
    places.append(places[-1] + 1 + (0 if is_same else GAP_BETWEEN_GROUPS))
  return places


def draw_kind(
  axis: Axes, places: Sequence[float], summaries: Sequence[ControlSummary], thickness: float, colour: str, kind: str
) -> None:
  """The bars of one kind of subset."""
  drawn = [
    (place, *summary.keeps_class.percent.numbers)
    for place, summary in zip(places, summaries, strict=True)
    if summary.keeps_class is not None
  ]
  axis.barh([place for place, *_ in drawn], [share for _, share, *_ in drawn], thickness, color=colour, label=kind)
  for place, share, low, high in drawn:
    axis.hlines(place, low, high, color=INK, linewidth=1)
    axis.text(high + 1, place, f"{share:.0f}", fontsize=7.5, color=INK, va="center")
