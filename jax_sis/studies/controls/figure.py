"""The picture of leak controls: under each one, the share of images that keep their class."""

import itertools
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from jax_sis.display.style import COLOURS, INK, add_title, finish, start_figure, styled
from jax_sis.studies.controls.summaries import ControlSummary
from jax_sis.studies.controls.views import CONTROLS

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


@styled
def draw_controls(kinds: Mapping[str, Sequence[ControlSummary]], *, title: str, note: str) -> bytes:
  """Draws a bar for each control and kind of subset, with its interval and the share in percent.

  The keys of `kinds` are the names in the legend; `note` is a line below the title.
  """
  names = names_of(kinds)
  places = place_controls(names)
  height = bars_inches(kinds) + 1.6
  edges = {"left": 0.37, "right": 0.97, "bottom": 0.5 / height, "top": 1 - 1.05 / height}
  figure, ((axis,),) = start_figure(1, 1, size=(9.0, height), places=edges)
  draw_bars(axis, kinds)
  for group, heading in GROUP_TITLES.items():
    within = [place for place, name in zip(places, names, strict=True) if CONTROLS[name].group == group]
    middle = sum(within) / len(within)
    axis.text(-0.6, middle, heading, transform=axis.get_yaxis_transform(), fontsize=9, fontweight="bold", va="center")
  add_title(figure, title, note)
  figure.legend(loc="center left", bbox_to_anchor=(0.005, 1 - 0.86 / height), ncols=len(kinds))
  return finish(figure)


def names_of(kinds: Mapping[str, Sequence[ControlSummary]]) -> list[str]:
  """The controls, which are the same for every kind of subset."""
  return [summary.name for summary in next(iter(kinds.values()))]


def bars_inches(kinds: Mapping[str, Sequence[ControlSummary]]) -> float:
  """The height of all bars, with room for the numbers beside them."""
  return (0.22 + 0.13 * len(kinds)) * (place_controls(names_of(kinds))[-1] + 1)


def draw_bars(axis: Axes, kinds: Mapping[str, Sequence[ControlSummary]]) -> None:
  """Draws the bars in separate groups, each control with its name."""
  names = names_of(kinds)
  places = place_controls(names)
  thickness = BARS_HEIGHT / len(kinds)
  for number, (kind, summaries) in enumerate(kinds.items()):
    offset = (number + 0.5) * thickness - BARS_HEIGHT / 2
    draw_kind(axis, [place + offset for place in places], summaries, thickness, COLOURS[number % len(COLOURS)], kind)
  axis.set_yticks(places, [CONTROLS[name].title for name in names])
  axis.set_ylim(places[-1] + 0.6, -0.6)
  axis.set_xlim(0, 106)
  axis.set_xlabel("images that keep their class, %")
  axis.tick_params(axis="y", length=0)
  axis.spines["left"].set_visible(False)


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
  drawn = [
    (place, *summary.keeps_class.percent.numbers)
    for place, summary in zip(places, summaries, strict=True)
    if summary.keeps_class is not None
  ]
  axis.barh([place for place, *_ in drawn], [share for _, share, *_ in drawn], thickness, color=colour, label=kind)
  for place, share, low, high in drawn:
    axis.hlines(place, low, high, color=INK, linewidth=1)
    axis.text(high + 1, place, f"{share:.0f}", fontsize=7.5, va="center")
