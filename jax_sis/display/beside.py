"""Images in lines, each beside what was found of it, every picture with its caption on its right."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jax_sis.display import photographs
from jax_sis.display import pixels as painting
from jax_sis.display.photographs import Cell
from jax_sis.display.style import measure, start_figure, styled, wrap

# In inches.
PICTURE, CAPTION, GAP = 1.65, 2.1, 0.1
TEXT_LINE, HEADING = 0.3, 0.6
POINTS = 72
FONT_SIZE, HEADING_SIZE, LINE_SPACING = 10, 11, 1.45
MAX_CAPTION_LINES = int(PICTURE * POINTS / FONT_SIZE / LINE_SPACING)
MASKED_NOTE = "What is painted {} is masked."


def draw_lines(headings: Sequence[str], lines: Sequence[Sequence[Cell] | str], *, note: str = "") -> Figure:
  """Draws a table of pictures: with captions on their right, or of photographs pixel by pixel, with captions below.

  Args:
    headings: of the columns.
    lines: a cell for each column, or a text, which takes one line without pictures.
    note: what stands below.
  """
  shapes = [
    cell.picture.shape for line in lines if not isinstance(line, str) for cell in line if cell.picture is not None
  ]
  if any(map(painting.is_photograph, shapes)):
    return photographs.draw_lines(headings, lines, note=note)
  return draw_small(headings, lines, note=note)


@styled
def draw_small(headings: Sequence[str], lines: Sequence[Sequence[Cell] | str], *, note: str) -> Figure:
  """Draws images of few pixels, enlarged, with captions on their right; see `draw_lines`."""
  cells = [line for line in lines if not isinstance(line, str)]
  wrapped = {id(cell): wrap_caption(cell) for line in cells for cell in line}
  widths = [
    PICTURE + GAP + max([0.0, *(width_of(wrapped[id(line[i])]) for line in cells)]) for i in range(len(headings))
  ]
  width = max(sum(widths), PICTURE + CAPTION) + GAP
  note = wrap(note, (width - 2 * GAP) * POINTS, size=FONT_SIZE, num_lines=99)
  heights = [TEXT_LINE if isinstance(line, str) else PICTURE + GAP for line in lines]
  note_height = (1 + note.count("\n")) * FONT_SIZE * LINE_SPACING / POINTS + 2 * GAP if note else GAP
  total = HEADING + sum(heights) + note_height
  figure, axes = start_figure(1, 1, size=(width, total), places={"left": 0, "right": 1, "top": 1, "bottom": 0})
  axis: Axes = axes[0, 0]
  axis.set_axis_off()
  axis.autoscale(False)
  axis.set(xlim=(0, width), ylim=(total, 0))
  lefts = GAP + np.cumsum([0, *widths])
  for left, heading, column_width in zip(lefts, headings, widths, strict=False):
    text = wrap(heading, 0.9 * (column_width - GAP) * POINTS, size=HEADING_SIZE)
    axis.text(left, HEADING - GAP, text, fontsize=HEADING_SIZE, fontweight="bold", va="bottom")
  top = HEADING
  for line, height in zip(lines, heights, strict=True):
    if isinstance(line, str):
      text = wrap(line, (width - 2 * GAP) * POINTS, size=FONT_SIZE, num_lines=1)
      axis.text(lefts[0], top + height / 2, text, fontsize=FONT_SIZE, va="center")
    else:
      for left, cell in zip(lefts, line, strict=False):
        draw_cell(axis, cell, wrapped[id(cell)], left, top)
    top += height
  axis.text(lefts[0], top + GAP, note, fontsize=FONT_SIZE, va="top", linespacing=LINE_SPACING)
  return figure


def wrap_caption(cell: Cell) -> str:
  return "\n".join(wrap(cell.caption, CAPTION * POINTS, size=FONT_SIZE).splitlines()[:MAX_CAPTION_LINES])


def width_of(caption: str) -> float:
  """The inches of a caption, with the gap on its left."""
  return max((measure(line, size=FONT_SIZE) / POINTS + 2 * GAP for line in caption.splitlines()), default=0.0)


def draw_cell(axis: Axes, cell: Cell, caption: str, left: float, top: float) -> None:
  if cell.picture is not None:
    height, width = (PICTURE * length / max(cell.picture.shape[:2]) for length in cell.picture.shape[:2])
    axis.imshow(cell.picture, extent=(left, left + width, top + height, top), aspect="auto")
    axis.set_autoscale_on(False)
  place = left + PICTURE + GAP, top + PICTURE / 2
  axis.text(*place, caption, fontsize=FONT_SIZE, va="center", linespacing=LINE_SPACING)


def paint_heat(heat: Float[np.ndarray, "H W c"]) -> UInt8[np.ndarray, "H W 3"]:
  """Numbers as colours, yellow for the largest; where some are negative, red above 0 and blue below it. NaN is grey."""
  plane = np.where(np.isfinite(heat), heat, np.nan).mean(-1)
  known = plane[~np.isnan(plane)]
  low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
  colours = matplotlib.colormaps["viridis" if low >= 0 else "RdBu_r"].with_extremes(bad="#aaaaaa")
  if low < 0:
    high = max(-low, high)
    low = -high
  scaled = np.ma.masked_invalid((plane - low) / ((high - low) or 1))
  return colours(scaled, bytes=True)[..., :3]


def choose_colour(images: UInt8[np.ndarray, "B H W C"], masks: Sequence[Bool[np.ndarray, "B H W c"]]) -> str:
  """What is masked is painted in, in all these pictures."""
  kept = [painting.to_rgb(images)[mask.any(-1)] for mask in masks]
  return painting.choose_colour(np.concatenate([np.empty((0, 3), np.uint8), *kept]))


def draw_columns(
  images: UInt8[np.ndarray, "B H W C"],
  columns: Sequence[tuple[str, Shaped[np.ndarray, "B H W c"], Sequence[str]]],
  *,
  labels: Shaped[np.ndarray, "B H W"] | None = None,
  num_left_out: int = 0,
) -> Figure:
  """Draws images beside columns of masks and of numbers, each with a heading and a caption an image.

  Args:
    images: the pixels.
    columns: headings, what is drawn, and captions.
    labels: of the pixels, where features are of any shape: the images are shown with the borders of these.
    num_left_out: how many images are not shown.
  """
  masks = [values for _, values, _ in columns if values.dtype == bool]
  colour = choose_colour(images, masks)
  lines = []
  for i, image in enumerate(images):
    picture = painting.to_rgb(image) if labels is None else painting.draw_borders(image, labels[i])
    cells = [Cell(picture=picture, caption=f"image {i}")]
    for _, values, captions in columns:
      if values.dtype == bool:
        cells += show_subset(image, values[i] if values[i].any() else None, captions[i], colour)
      else:
        picture = paint_heat(values[i]) if np.isfinite(values[i]).any() else None
        cells.append(Cell(picture=picture, caption=captions[i]))
    lines.append(cells)
  notes = [describe_masked(images.shape[1:], colour)] if masks else []
  notes += [f"{num_left_out} more images are not shown."] if num_left_out else []
  headings = ["image"]
  for heading, values, _ in columns:
    headings += head_subset(heading, images.shape[1:]) if values.dtype == bool else [heading]
  return draw_lines(headings, lines, note=" ".join(notes))


def show_subset(
  image: UInt8[np.ndarray, "H W C"], kept: Bool[np.ndarray, "H W c"] | None, caption: str, colour: str
) -> list[Cell]:
  """A subset of an image: one picture, or of a photograph two, alone and on the greyed image; None for no subset."""
  if not painting.is_photograph(image.shape):
    picture = None if kept is None else painting.paint_kept(image, kept, colour)
    return [Cell(picture=picture, caption=caption)]
  paint_fns = (painting.paint_alone, painting.paint_on_grey)
  alone, on_grey = (None if kept is None else paint_fn(image, kept) for paint_fn in paint_fns)
  return [Cell(picture=alone, caption=caption), Cell(picture=on_grey)]


def head_subset(heading: str, shape: tuple[int, ...]) -> list[str]:
  """The headings of the columns of `show_subset` for images of this shape."""
  return [heading, "on the greyed image"] if painting.is_photograph(shape) else [heading]


def describe_masked(shape: tuple[int, ...], colour: str) -> str:
  """How images of this shape show what is masked."""
  return painting.PHOTOGRAPH_NOTE if painting.is_photograph(shape) else MASKED_NOTE.format(colour)
