"""The pictures of a study: who is right on what, and how many pixels each way to train needs."""

import io
from collections.abc import Sequence

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jax_sis.estimates import Mean
from jax_sis.figures import ACCURACY_COLOUR, DPI, GAP_COLOUR, INK
from jax_sis.reproduction.outcome import Cell, Mitigation, Outcome

ANSWER_HEADINGS = {"sis": "subsets read from orders", "smallest": "smallest evidence found"}
ROW_HEIGHT = 0.34


def draw_outcome(outcome: Outcome, *, num_classes: int) -> dict[str, bytes]:
  """The PNGs of an architecture, by the names of their files.

  Args:
    outcome: what was found.
    num_classes: what chance is one in.
  """
  pictures = {}
  if outcome.cells:
    pictures[picture_name(outcome.architecture, "accuracy")] = draw_cells(outcome.cells, num_classes=num_classes)
  mitigation = draw_mitigations(outcome.mitigations)
  if mitigation is not None:
    pictures[picture_name(outcome.architecture, "mitigation")] = mitigation
  return pictures


def picture_name(architecture: str, what: str) -> str:
  """The file of a picture."""
  return f"{architecture}-{what}.png"


def draw_cells(cells: Sequence[Cell], *, num_classes: int) -> bytes:
  """A PNG with a line a classifier and kind of images: its accuracy, also on corrupted images, with intervals.

  Args:
    cells: the table.
    num_classes: what chance is one in.
  """
  height = 1.5 + ROW_HEIGHT * len(cells)
  figure, (axis,) = start((7.4, height), 1)
  for place, cell in enumerate(cells):
    of_all = cell.accuracy
    accuracy = Mean(mean=of_all.share, low=of_all.low, high=of_all.high, num_images=of_all.num_images)
    draw_interval(axis, place, accuracy, ACCURACY_COLOUR)
    if cell.corrupted is not None:
      draw_interval(axis, place + 0.28, cell.corrupted, GAP_COLOUR, marker="s", size=4)
  axis.axvline(100 / num_classes, color=INK, linewidth=1, linestyle=":")
  axis.text(100 / num_classes + 0.8, -0.75, "chance", fontsize=8, color=INK, va="center")
  axis.set_yticks(range(len(cells)), [f"{cell.trained_on} → {cell.shown}" for cell in cells], fontsize=8.5)
  axis.set_ylim(len(cells) - 0.4, -1.1)
  axis.set_xlim(0, 100)
  axis.set_xlabel("classified rightly, %", fontsize=9)
  axis.plot([], [], "o", color=ACCURACY_COLOUR, label="test images")
  if any(cell.corrupted is not None for cell in cells):
    axis.plot([], [], "s", color=GAP_COLOUR, markersize=4, label="corrupted, mean")
  figure.legend(loc="upper left", ncols=2, fontsize=8.5, frameon=False)
  figure.text(0.99, 1 - 0.2 / height, "trained on → shown", fontsize=8.5, color=INK, ha="right", va="center")
  return finish(figure)


def draw_mitigations(mitigations: Sequence[Mitigation]) -> bytes | None:
  """A PNG with the mean size of the subsets of each way to train, a panel a kind of subset; None without subsets."""
  kinds = [
    answer
    for answer in ANSWER_HEADINGS
    if any(one.sizes.get(answer, {}).get("pixels", {}).get("mean") is not None for one in mitigations)
  ]
  if not kinds:
    return None
  figure, axes = start((7.4, 1.3 + ROW_HEIGHT * len(mitigations)), len(kinds))
  for axis, answer in zip(axes, kinds, strict=True):
    for place, one in enumerate(mitigations):
      compared = one.sizes.get(answer)
      if compared is not None and compared["pixels"]["mean"] is not None:
        draw_interval(axis, place, Mean(**compared["pixels"]), ACCURACY_COLOUR, factor=1.0)
    axis.set_yticks(range(len(mitigations)), [one.label for one in mitigations], fontsize=9)
    axis.set_ylim(len(mitigations) - 0.4, -0.6)
    axis.set_xlim(left=0)
    num_images = next(one.sizes[answer]["pixels"]["num_images"] for one in mitigations if answer in one.sizes)
    axis.set_title(f"{ANSWER_HEADINGS[answer]}, {num_images} images", fontsize=9, loc="left", color=INK)
    axis.set_xlabel("mean size, pixels", fontsize=9)
  for axis in axes[1:]:
    axis.set_yticklabels([])
  return finish(figure)


def start(size: tuple[float, float], num_panels: int) -> tuple[Figure, list[Axes]]:
  """An empty picture of so many inches with panels beside each other."""
  matplotlib.use("agg")
  plt.rcParams["font.family"] = "DejaVu Sans"
  figure, axes = plt.subplots(1, num_panels, figsize=size, dpi=DPI, squeeze=False)
  for axis in axes[0]:
    axis.grid(axis="x", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=8.5, colors=INK)
  return figure, list(axes[0])


def draw_interval(
  axis: Axes, place: float, mean: Mean, colour: str, *, marker: str = "o", size: float = 5.5, factor: float = 100.0
) -> None:
  """A mean and its interval."""
  if mean.mean is None:
    return
  if mean.low is not None and mean.high is not None:
    axis.hlines(place, factor * mean.low, factor * mean.high, color=colour, linewidth=2)
  axis.plot(factor * mean.mean, place, marker, color=colour, markersize=size)


def finish(figure: Figure) -> bytes:
  """The picture's bytes."""
  buffer = io.BytesIO()
  figure.tight_layout(rect=(0, 0, 1, 0.97))
  figure.savefig(buffer, format="png")
  plt.close(figure)
  return buffer.getvalue()
