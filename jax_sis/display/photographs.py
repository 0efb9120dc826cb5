"""Photographs in lines, a pixel of the image for each pixel of the picture, every one with its caption below."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jax_sis.display.style import DPI, start_figure, styled, wrap

# Larger ones are shrunk to so many pixels a side.
LARGEST_SIDE = 512
# In pixels of the picture.
GAP, TEXT_GAP = 16, 6
FONT_SIZE, HEADING_SIZE = 10, 11
# Of text, in pixels, by size of font; and of points.
LINE_SPACING = 1.45
PIXELS_A_POINT = DPI / 72
MAX_LINES = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
  """A picture, none where there is nothing to show, and what is said of it."""

  picture: UInt8[np.ndarray, "H W 3"] | None
  caption: str = ""


@styled
def draw_lines(headings: Sequence[str], lines: Sequence[Sequence[Cell] | str], *, note: str = "") -> Figure:
  """Draws a table of photographs; see `beside.draw_lines`."""
  cells = [cell for line in lines if not isinstance(line, str) for cell in line]
  width, height = (
    min(LARGEST_SIDE, max(cell.picture.shape[axis] for cell in cells if cell.picture is not None)) for axis in (1, 0)
  )
  total_width = GAP + len(headings) * (width + GAP)
  heads = [wrap_to(text, width, HEADING_SIZE) for text in headings]
  texts = [
    wrap_to(line, total_width - 2 * GAP, FONT_SIZE)
    if isinstance(line, str)
    else [wrap_to(cell.caption, width, FONT_SIZE) for cell in line]
    for line in lines
  ]
  note = wrap_to(note, total_width - 2 * GAP, FONT_SIZE)
  tops = [GAP + max(measure_text(text, HEADING_SIZE) for text in heads) + TEXT_GAP]
  for text in texts:
    is_text = isinstance(text, str)
    below = measure_text(text, FONT_SIZE) if is_text else max(measure_text(one, FONT_SIZE) for one in text)
    tops.append(tops[-1] + (0 if is_text else height + TEXT_GAP) + below + GAP)
  axis = start_axis(total_width, tops[-1] + measure_text(note, FONT_SIZE) + GAP)
  lefts = [GAP + number * (width + GAP) for number in range(len(headings))]
  for left, text in zip(lefts, heads, strict=True):
    write(axis, left, tops[0] - TEXT_GAP, text, size=HEADING_SIZE, va="bottom", fontweight="bold")
  for line, text, top in zip(lines, texts, tops, strict=False):
    if isinstance(line, str):
      write(axis, GAP, top, str(text))
      continue
    for cell, caption, left in zip(line, text, lefts, strict=False):
      if cell.picture is not None:
        place = (left, left + width, top + height, top)
        axis.imshow(cell.picture, extent=place, aspect="auto", interpolation="nearest", resample=False)
      write(axis, left, top + height + TEXT_GAP, caption)
  write(axis, GAP, tops[-1], note)
  return axis.figure  # pyright: ignore


def wrap_to(text: str, width: float, size: float) -> str:
  """The text in lines of at most so many pixels; of one of its lines at most MAX_LINES."""
  return wrap(text, width / PIXELS_A_POINT, size=size, num_lines=MAX_LINES)


def measure_text(text: str, size: float) -> int:
  """How many pixels high it is."""
  num_lines = len(text.splitlines())
  return math.ceil(num_lines * size * LINE_SPACING * PIXELS_A_POINT)


def start_axis(width: int, height: int) -> Axes:
  """An axis over a whole figure of so many pixels, whose units they are."""
  places = {"left": 0, "right": 1, "top": 1, "bottom": 0}
  _, axes = start_figure(1, 1, size=(width / DPI, height / DPI), places=places)
  axis = axes[0, 0]
  axis.set_axis_off()
  axis.set_autoscale_on(False)
  axis.set(xlim=(0, width), ylim=(height, 0))
  return axis


def write(
  axis: Axes, left: float, top: float, text: str, *, size: float = FONT_SIZE, va: str = "top", **font: str
) -> None:
  axis.text(left, top, text, fontsize=size, va=va, linespacing=LINE_SPACING, **font)  # pyright: ignore
