"""Pictures of what the subsets of runs say, by Matplotlib: sizes, places, confidence along the removal, correctness."""

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jax_sis.display import style
from jax_sis.display.style import finish, start_figure, styled
from jax_sis.results.schema import KIND_TITLES
from jax_sis.studies.analysis import panels
from jax_sis.studies.analysis.confidence_curves import Curve
from jax_sis.studies.analysis.run import MOST_NEEDED, RunAnalysis

PANELS_A_ROW = 3


@styled
def draw_sizes(analyses: Mapping[str, RunAnalysis]) -> bytes:
  """Draws how sizes are distributed in each run, and by class: a row a kind. At least one run must have a subset."""
  kinds = [answer for answer in KIND_TITLES if any(panels.sizes_of(analysis, answer) for analysis in analyses.values())]
  num_classes = len({sizes.group for analysis in analyses.values() for sizes in analysis.sizes_by_class})
  num_lines = num_classes if num_classes <= panels.MAX_NAMED_CLASSES else panels.MAX_NAMED_CLASSES / 2
  height = max(3.4, 0.9 + num_lines * (0.13 + 0.1 * len(analyses)))
  figure, axes = start_figure(len(kinds), 2, size=(10, 0.5 + 0.2 * len(analyses) + height * len(kinds)))
  for (left, right), answer in zip(axes, kinds, strict=True):
    found = {label: panels.sizes_of(analysis, answer) for label, analysis in analyses.items()}
    panels.draw_distributions(left, {label: sizes for label, sizes in found.items() if sizes}, analyses)
    left.set_title(panels.title_of(answer, {sizes.threshold for sizes in found.values() if sizes}))
    panels.draw_classes(right, analyses, answer)
  add_legend(figure, analyses)
  return finish(figure)


@styled
def draw_positions(analyses: Mapping[str, RunAnalysis]) -> bytes:
  """Draws how often each place is used, against even use: a row a run, a column a kind of subset.

  At least one run must have positions of an image.
  """
  found = {
    label: {positions.what: positions for positions in analysis.positions if positions.num_images}
    for label, analysis in analyses.items()
  }
  kinds = [what for what in (*KIND_TITLES, MOST_NEEDED) if any(what in of_run for of_run in found.values())]
  figure, axes = start_figure(
    len(found),
    2 * len(kinds),
    size=(max(6.6, 3.6 * len(kinds)), 0.8 + 3.5 * len(found)),
    width_ratios=[part for _ in kinds for part in (panels.MAP_TO_ROWS, 1)],
  )
  picture: Any = None
  for row, (label, of_run) in zip(axes, found.items(), strict=True):
    for left, right, what in zip(row[::2], row[1::2], kinds, strict=True):
      if what in of_run:
        picture = panels.draw_positions(
          left, of_run[what], title=f"{style.shorten(label)}\n{panels.describe_what(what, analyses[label])}"
        )
        panels.draw_rows(right, of_run[what])
      else:
        left.set_axis_off()
        right.set_axis_off()
  bar = figure.colorbar(picture, ax=axes, location="bottom", shrink=0.6, aspect=50, extend="both")
  ticks = range(-panels.LARGEST_LOG2_USE, panels.LARGEST_LOG2_USE + 1)
  bar.set_ticks(list(ticks), labels=[f"{2.0**tick:g}" for tick in ticks])
  bar.set_label("how often each place is kept, relative to even use; right of each map: the means of its rows")
  return finish(figure)


@styled
def draw_confidence(analyses: Mapping[str, RunAnalysis], *, thresholds: Mapping[str, float]) -> bytes:
  """Draws confidence along the removal of pixels, for right and wrong predictions apart: a panel a run.

  At least one run must have orders. Each run's own threshold is marked.
  """
  found = {label: analysis.removal for label, analysis in analyses.items() if analysis.removal is not None}
  found = {label: removal for label, removal in found.items() if removal.curves}
  num_columns = min(PANELS_A_ROW, len(found))
  num_rows = math.ceil(len(found) / num_columns)
  figure, axes = start_figure(num_rows, num_columns, size=(max(5.2, 4.2 * num_columns), 0.6 + 3.5 * num_rows))
  for axis in axes.flat[len(found) :]:
    axis.set_axis_off()
  for axis, (label, removal) in zip(axes.flat, found.items(), strict=False):
    panels.draw_removal(axis, removal, threshold=thresholds[label])
    axis.set_title(style.shorten(label))
    axis.set_xlabel("pixels kept, in % of the image")
  for axis in axes[:, 0]:
    axis.set_ylabel("confidence in the target")
  note = "Lines: means over images, bands: quartiles, marks on the right: nothing kept; dotted: the run's threshold."
  figure.supxlabel(note)
  return finish(figure)


def curves_of(analysis: RunAnalysis) -> tuple[Curve, ...]:
  return analysis.removal.curves if analysis.removal is not None else ()


@styled
def draw_accuracy(analyses: Mapping[str, RunAnalysis]) -> bytes:
  """Draws accuracy by size, and how much smaller the subsets of wrong predictions are: a row a kind.

  At least one run must have subsets of labelled images.
  """
  found = {
    answer: {
      label: [one for one in analysis.correctness if one.answer == answer and one.num_images]
      for label, analysis in analyses.items()
    }
    for answer in KIND_TITLES
  }
  found = {answer: of_kind for answer, of_kind in found.items() if any(of_kind.values())}
  num_lines = max(sum(map(len, of_kind.values())) for of_kind in found.values())
  row_height = max(3.2, 1.0 + 0.36 * num_lines)
  figure, axes = start_figure(
    len(found), 2, size=(10, 0.6 + 0.2 * len(analyses) + row_height * len(found)), width_ratios=[1.25, 1]
  )
  for (left, right), (answer, of_kind) in zip(axes, found.items(), strict=True):
    panels.draw_accuracy(left, {label: of_run[0] for label, of_run in of_kind.items() if of_run}, analyses)
    left.set_title(panels.title_of(answer, {of_run[0].threshold for of_run in of_kind.values() if of_run}))
    panels.draw_differences(right, of_kind, analyses)
  add_legend(figure, analyses)
  figure.supxlabel("Filled: accuracy with its 95 % interval, hollow: mean confidence of the same images.")
  return finish(figure)


def add_legend(figure: Figure, analyses: Mapping[str, RunAnalysis]) -> None:
  styles = panels.styles_of(analyses)
  handles = [Line2D([], [], linewidth=2, **styles[label]) for label in analyses]
  labels = [f"{style.shorten(label)}: {analysis.num_finished} images" for label, analysis in analyses.items()]
  num_columns = 2 if len(labels) > 1 else 1
  figure.legend(handles, labels, loc="outside upper left", ncols=num_columns, handlelength=3)
