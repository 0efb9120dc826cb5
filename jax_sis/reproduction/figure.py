"""The pictures of a study, as narrow as those of a run's report: who is right on what, who needs how many pixels."""

from collections.abc import Sequence

from jax_sis.display.style import ACCURACY_COLOUR, GAP_COLOUR, INK, draw_interval, finish, name_lines, styled
from jax_sis.report.figures import start
from jax_sis.reproduction.mitigations import Mitigation
from jax_sis.reproduction.outcome import Cell, Outcome
from jax_sis.runtime.records import read_record
from jax_sis.statistics.estimates import Estimate

ANSWER_HEADINGS = {"sis": "subsets read from orders", "smallest": "smallest evidence found"}
CELL_INCHES, MITIGATION_INCHES = 0.47, 0.34
# Offset of the marks of corrupted images, in rows.
BELOW = 0.3


def draw_outcome(outcome: Outcome, *, num_classes: int) -> dict[str, bytes]:
  """The PNGs of an architecture, by the names of their files."""
  pictures = {}
  if outcome.cells:
    pictures[picture_name(outcome.architecture, "accuracy")] = draw_cells(outcome.cells, num_classes=num_classes)
  for answer in ANSWER_HEADINGS:
    sizes = draw_mitigations(outcome.mitigations, answer)
    if sizes is not None:
      pictures[picture_name(outcome.architecture, answer)] = sizes
  return pictures


def picture_name(architecture: str, what: str) -> str:
  return f"{architecture}-{what}.png"


@styled
def draw_cells(cells: Sequence[Cell], *, num_classes: int) -> bytes:
  """A PNG with a row for each classifier and kind of images: accuracy, clean and corrupted, with intervals."""
  figure, (axis,) = start(1.1 + CELL_INCHES * len(cells))
  for place, cell in enumerate(cells):
    draw_interval(axis, place, cell.accuracy.percent.numbers, colour=ACCURACY_COLOUR)
    if cell.corrupted is not None:
      numbers = cell.corrupted.percent.numbers
      draw_interval(axis, place + BELOW, numbers, colour=GAP_COLOUR, marker="s", size=4)
  axis.axvline(100 / num_classes, color=INK, linewidth=1, linestyle=":", label="chance")
  name_lines(axis, [f"{cell.trained_on}\n→ {cell.shown}" for cell in cells])
  axis.set_xlim(0, 100)
  axis.set_xlabel("trained on → shown: classified rightly, %")
  axis.plot([], [], "o", color=ACCURACY_COLOUR, label="test images")
  if any(cell.corrupted is not None for cell in cells):
    axis.plot([], [], "s", color=GAP_COLOUR, markersize=4, label="corrupted")
  figure.legend(loc="outside upper center", ncols=3)
  return finish(figure)


@styled
def draw_mitigations(mitigations: Sequence[Mitigation], answer: str) -> bytes | None:
  """A PNG with the mean size of one kind of subset, a row for each training; None if no image has one in all."""
  sizes = [read_record(Estimate, one.sizes[answer]["pixels"]) if answer in one.sizes else None for one in mitigations]
  num_images = max((size.num_images for size in sizes if size is not None), default=0)
  if not num_images:
    return None
  figure, (axis,) = start(1.1 + MITIGATION_INCHES * len(mitigations))
  for place, size in enumerate(sizes):
    if size is not None:
      draw_interval(axis, place, size.numbers, colour=ACCURACY_COLOUR)
  name_lines(axis, [one.label for one in mitigations])
  axis.set_xlim(left=0)
  axis.set_title(f"{ANSWER_HEADINGS[answer]}, {num_images:,} images")
  axis.set_xlabel("mean size, pixels")
  return finish(figure)
