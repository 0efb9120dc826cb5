"""The pictures of a run's report: one panel each, so narrow that their words can be read on a telephone."""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jax_sis.studies.analysis import panels
from jax_sis.studies.analysis.confidence_curves import Removal
from jax_sis.studies.analysis.positions import Positions
from jax_sis.studies.analysis.run import Correctness, RunAnalysis
from jax_sis.studies.controls import figure as controls_figure
from jax_sis.studies.controls.outcomes import ControlSummary

WIDTH, HEIGHT = 4.4, 3.3
# For screens with two dots a pixel.
DPI = 200
CLASS_INCHES = 0.24


def draw_sizes(analysis: RunAnalysis, answer: str) -> bytes:
  """How the sizes of one kind of subset are distributed."""
  runs = {"": analysis}
  return draw(lambda axis: panels.draw_distributions(axis, {"": panels.sizes_of(analysis, answer)}, runs), HEIGHT)


def draw_classes(analysis: RunAnalysis, answer: str) -> bytes:
  """Their medians and quartiles by class."""
  num_classes = sum(sizes.answer == answer and sizes.percentiles is not None for sizes in analysis.sizes_by_class)
  is_named = num_classes <= panels.MAX_NAMED_CLASSES
  height = max(HEIGHT, 1 + CLASS_INCHES * num_classes) if is_named else HEIGHT
  return draw(lambda axis: panels.draw_classes(axis, {"": analysis}, answer), height)


def draw_positions(positions: Positions, title: str) -> bytes:
  """A map of how often each place is used, and beside it the means of its rows."""
  figure, axes = start(WIDTH + 0.2, ratios=[panels.MAP_TO_ROWS, 1])
  picture = panels.draw_positions(axes[0], positions, title=title)
  panels.draw_rows(axes[1], positions)
  ticks = range(-panels.LARGEST_LOG2_USE, panels.LARGEST_LOG2_USE + 1)
  bar = figure.colorbar(picture, ax=list(axes), location="bottom", shrink=0.8, aspect=40, extend="both")
  bar.set_ticks(list(ticks), labels=[f"{2.0**tick:g}" for tick in ticks], fontsize=9)
  bar.set_label("how often a place is kept, in times of even use", fontsize=9)
  return finish(figure)


def draw_removal(removal: Removal, *, threshold: float) -> bytes:
  """Confidence along the removal of pixels."""

  def draw_panel(axis: Axes) -> None:
    panels.draw_removal(axis, removal, threshold=threshold)
    axis.set_xlabel("pixels kept, in % of the image", fontsize=9)
    axis.set_ylabel("confidence in the target", fontsize=9)

  return draw(draw_panel, HEIGHT)


def draw_accuracy(analysis: RunAnalysis, correctness: Correctness) -> bytes:
  """How often the model is right by the size of the subset, and its mean confidence there."""
  return draw(lambda axis: panels.draw_accuracy(axis, {"": correctness}, {"": analysis}), HEIGHT)


def draw_differences(analysis: RunAnalysis, answer: str) -> bytes:
  """How much smaller the subsets of wrong predictions are than those of right ones of the same confidence."""
  found = [one for one in analysis.correctness if one.answer == answer and one.num_images]
  return draw(lambda axis: panels.draw_differences(axis, {"": found}, {"": analysis}), max(2.0, 1.2 + 0.4 * len(found)))


def draw_controls(kinds: Mapping[str, Sequence[ControlSummary]]) -> bytes:
  """The share of images that keep their class under each control."""

  def draw_panel(axis: Axes) -> None:
    controls_figure.draw_controls(axis, kinds)
    axis.legend(loc="lower center", bbox_to_anchor=(0.3, 1), fontsize=9, frameon=False)

  return draw(draw_panel, controls_figure.bars_inches(kinds) + 0.6 + 0.2 * len(kinds))


def draw(draw_fn: Callable[[Axes], None], height: float) -> bytes:
  """A PNG of one panel."""
  figure, axes = start(height)
  draw_fn(axes[0])
  return finish(figure)


def start(height: float, *, ratios: Sequence[float] = (1,)) -> tuple[Figure, list[Axes]]:
  """A figure and its axes, side by side."""
  matplotlib.use("agg")
  plt.rcParams["font.family"] = "DejaVu Sans"
  # Classes may have dollar signs in their names.
  plt.rcParams["text.parse_math"] = False
  figure, axes = plt.subplots(
    1, len(ratios), figsize=(WIDTH, height), dpi=DPI, squeeze=False, layout="constrained", width_ratios=ratios
  )
  return figure, list(axes[0])


def finish(figure: Figure) -> bytes:
  """The PNG of a figure, which is let go of."""
  buffer = io.BytesIO()
  with warnings.catch_warnings():
    # Names in scripts that the font lacks are drawn as boxes; the tables have them.
    warnings.filterwarnings("ignore", message="Glyph .* missing from font")
    figure.savefig(buffer, format="png", bbox_inches="tight", pad_inches=0.08)
  plt.close(figure)
  return buffer.getvalue()
