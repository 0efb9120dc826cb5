"""The pictures of a run's report: one panel each, so narrow that their words can be read on a telephone."""

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jax_sis.display.style import finish, start_figure, styled
from jax_sis.studies.analysis import panels
from jax_sis.studies.analysis.confidence_curves import Removal
from jax_sis.studies.analysis.positions import Positions
from jax_sis.studies.analysis.run import Correctness, RunAnalysis
from jax_sis.studies.controls import figure as controls_figure
from jax_sis.studies.controls.summaries import ControlSummary

WIDTH, HEIGHT = 4.4, 3.3
# For screens with two dots a pixel.
DPI = 200
CLASS_INCHES = 0.24


@styled
def draw_sizes(analysis: RunAnalysis, answer: str) -> bytes:
  runs = {"": analysis}
  return draw(lambda axis: panels.draw_distributions(axis, {"": panels.sizes_of(analysis, answer)}, runs), HEIGHT)


@styled
def draw_classes(analysis: RunAnalysis, answer: str) -> bytes:
  """Medians and quartiles of the sizes by class."""
  num_classes = sum(sizes.answer == answer and sizes.percentiles is not None for sizes in analysis.sizes_by_class)
  is_named = num_classes <= panels.MAX_NAMED_CLASSES
  height = max(HEIGHT, 1 + CLASS_INCHES * num_classes) if is_named else HEIGHT
  return draw(lambda axis: panels.draw_classes(axis, {"": analysis}, answer), height)


@styled
def draw_positions(positions: Positions, title: str) -> bytes:
  """A map of how often each place is used, beside the means of its rows."""
  figure, axes = start(WIDTH + 0.2, ratios=[panels.MAP_TO_ROWS, 1])
  picture = panels.draw_positions(axes[0], positions, title=title)
  panels.draw_rows(axes[1], positions)
  ticks = range(-panels.LARGEST_LOG2_USE, panels.LARGEST_LOG2_USE + 1)
  bar = figure.colorbar(picture, ax=list(axes), location="bottom", shrink=0.8, aspect=40, extend="both")
  bar.set_ticks(list(ticks), labels=[f"{2.0**tick:g}" for tick in ticks])
  bar.set_label("how often each place is kept, relative to even use")
  return finish(figure)


@styled
def draw_removal(removal: Removal, *, threshold: float) -> bytes:

  def draw_panel(axis: Axes) -> None:
    panels.draw_removal(axis, removal, threshold=threshold)
    axis.set_xlabel("pixels kept, in % of the image")
    axis.set_ylabel("confidence in the target")

  return draw(draw_panel, HEIGHT)


@styled
def draw_accuracy(analysis: RunAnalysis, correctness: Correctness) -> bytes:
  """How often the model is right by the size of the subset, and its mean confidence there."""
  return draw(lambda axis: panels.draw_accuracy(axis, {"": correctness}, {"": analysis}), HEIGHT)


@styled
def draw_differences(analysis: RunAnalysis, answer: str) -> bytes:
  """How much smaller the subsets of wrong predictions are than those of right ones of the same confidence."""
  found = [one for one in analysis.correctness if one.answer == answer and one.num_images]
  return draw(lambda axis: panels.draw_differences(axis, {"": found}, {"": analysis}), max(2.0, 1.2 + 0.4 * len(found)))


@styled
def draw_controls(kinds: Mapping[str, Sequence[ControlSummary]]) -> bytes:
  """The share of images that keep their class under each control."""

  def draw_panel(axis: Axes) -> None:
    controls_figure.draw_bars(axis, kinds)
    axis.legend(loc="lower center", bbox_to_anchor=(0.3, 1))

  return draw(draw_panel, controls_figure.bars_inches(kinds) + 0.6 + 0.2 * len(kinds))


def draw(draw_fn: Callable[[Axes], None], height: float) -> bytes:
  figure, (axis,) = start(height)
  draw_fn(axis)
  return finish(figure)


def start(height: float, *, ratios: Sequence[float] = (1,)) -> tuple[Figure, list[Axes]]:
  figure, axes = start_figure(1, len(ratios), size=(WIDTH, height), dpi=DPI, width_ratios=ratios)
  return figure, list(axes[0])
