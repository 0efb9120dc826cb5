"""How all pictures look, by Matplotlib.

A function that draws a picture is `@styled`, begins with `start_figure` and ends with `finish`, which gives the PNG.
The same numbers give the same bytes, since no date is in the file, and Matplotlib's own settings stay as they are.
"""

import bisect
import contextlib
import io
import math
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

DPI = 100
INK = "#333333"
# Okabe and Ito's colours, which people of every colour vision tell apart, without the yellow, which is too light.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
ACCURACY_COLOUR, GAP_COLOUR = COLOURS[:2]
LINE_STYLES = ("-", "--", ":", "-.")
DASHED = (0, (3, 3))
MAX_LABEL_LENGTH = 44
MAX_CLASS_LENGTH = 24

STYLE: dict[Any, Any] = {
  "font.family": "DejaVu Sans",
  # Classes may have dollar signs in their names.
  "text.parse_math": False,
  "text.color": INK,
  "axes.labelcolor": INK,
  "xtick.color": INK,
  "ytick.color": INK,
  "axes.titlesize": 10,
  "axes.titlelocation": "left",
  "axes.labelsize": 9,
  "xtick.labelsize": 8.5,
  "ytick.labelsize": 8.5,
  "legend.fontsize": 9,
  "legend.frameon": False,
  "figure.titlesize": 11,
  "figure.titleweight": "bold",
  "figure.labelsize": 8.5,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.axisbelow": True,
  "grid.color": "#dddddd",
  "grid.linewidth": 0.6,
}
# Decorates what draws a picture.
styled = matplotlib.rc_context(STYLE)


class ShownFigure(Figure):
  """A figure that notebooks show without pyplot, which it does not belong to."""

  def _repr_png_(self) -> bytes:
    return finish(self)


def start_figure(
  num_rows: int,
  num_columns: int,
  *,
  size: tuple[float, float],
  dpi: int = DPI,
  places: Mapping[str, Any] | None = None,
  **options: Any,
) -> tuple[Figure, np.ndarray]:
  """A figure and its axes `[rows, columns]`.

  Args:
    num_rows: of axes.
    num_columns: of axes.
    size: in inches; empty edges are cut off.
    dpi: dots an inch.
    places: the `gridspec_kw` of `Figure.subplots`, if nothing is to be moved or cut off; by default the layout gives
      all texts room.
    **options: as `Figure.subplots` takes them.
  """
  figure = ShownFigure(figsize=size, dpi=dpi, layout=None if places else "constrained")
  return figure, figure.subplots(num_rows, num_columns, squeeze=False, gridspec_kw=dict(places or {}), **options)


def finish(figure: Figure) -> bytes:
  file = io.BytesIO()
  # The layout gives maps with long headings too little room, so that it takes the edges of what is drawn.
  edges = {} if figure.get_layout_engine() is None else {"bbox_inches": "tight", "pad_inches": 0.1}
  with ignoring_missing_glyphs():
    figure.savefig(file, format="png", **edges)
  return file.getvalue()


def add_title(figure: Figure, title: str, note: str, *, left: float = 0.02) -> None:
  """A title and a note below it, on a figure whose axes have their places and leave an inch free above them."""
  height = figure.get_figheight()
  figure.text(left, 1 - 0.25 / height, title, fontsize=11, fontweight="bold", va="center")
  figure.text(left, 1 - 0.42 / height, note, fontsize=8.5, va="top", linespacing=1.5)


def name_lines(axis: Axes, names: Sequence[str]) -> None:
  """Gives every line of a picture its name, the first one at the top; only values have an axis and a grid."""
  axis.set_yticks(range(len(names)), names)
  axis.set_ylim(len(names) - 0.4, -0.6)
  axis.tick_params(axis="y", length=0)
  axis.spines["left"].set_visible(False)
  axis.grid(axis="x")


def draw_interval(
  axis: Axes,
  place: float,
  numbers: tuple[float, float, float],
  *,
  colour: str,
  marker: str = "o",
  size: float = 5.5,
) -> None:
  """A mark on a line and its interval, of a number and the ends; what is NaN is not drawn."""
  middle, low, high = numbers
  if not math.isnan(low + high):
    axis.hlines(place, low, high, color=colour, linewidth=2.2, alpha=0.6)
  if not math.isnan(middle):
    axis.plot(middle, place, marker, color=colour, markersize=size)


def set_share_axis(axis: Axes, *, low: float | None = None) -> None:
  """A logarithmic axis of shares of the image, labelled in per cent."""
  axis.set_xscale("log")
  set_ticks(axis.xaxis)
  smallest = axis.dataLim.intervalx[0] if low is None else low
  axis.set_xlim(smallest if low is not None else max(smallest, 1e-6) / 1.15, 1.12)


def set_ticks(
  axis: Axis, *, powers: Iterable[int] = range(-6, 1), numbers: Sequence[int] = (1, 2, 5), factor: float = 100
) -> None:
  """Ticks at these numbers of every decade of a logarithmic axis, by default of shares, in per cent."""
  axis.set_major_locator(FixedLocator([number * 10.0**power for power in powers for number in numbers]))
  axis.set_major_formatter(FuncFormatter(lambda value, _: f"{factor * value:g}"))
  axis.set_minor_locator(NullLocator())


def format_p(p_value: float) -> str:
  """`p = 0.02`, or `p < 0.001`."""
  return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"


def shorten(text: str, length: int = MAX_LABEL_LENGTH) -> str:
  """A text, or its end after three dots."""
  return text if len(text) <= length else f"...{text[3 - length :]}"


@contextlib.contextmanager
def ignoring_missing_glyphs() -> Iterator[None]:
  """Names in scripts that the font lacks are drawn as boxes; the tables have them."""
  with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="Glyph .* missing from font")
    yield


def measure(text: str, *, size: float) -> float:
  """How wide a line of text is at this size of font, in points."""
  font = FontProperties(family=STYLE["font.family"], size=size)
  with ignoring_missing_glyphs():
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]


def wrap(text: str, width: float, *, size: float, num_lines: int = 2) -> str:
  """A text in lines of at most `width` points at this size of font, as many of each of its own; dots for the rest."""

  def fits(line: str) -> bool:
    return measure(line, size=size) <= 0.97 * width

  return "\n".join(part for line in text.splitlines() for part in wrap_line(line, fits, num_lines=num_lines))


def wrap_line(line: str, fits: Callable[[str], bool], *, num_lines: int) -> list[str]:
  """The pieces of a line, broken at spaces where there are some, and the last one ended where more is left."""
  pieces = []
  rest = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in line).strip()
  while rest and not fits(rest):
    end = find_longest(rest, fits)
    if len(pieces) == num_lines - 1:
      return [*pieces, f"{rest[: find_longest(rest, lambda text: fits(f'{text}...'))]}..."]
    at_space = rest.rfind(" ", 0, end + 1)
    end = at_space if at_space > 0 else end
    pieces.append(rest[:end].rstrip())
    rest = rest[end:].lstrip()
  return [*pieces, rest]


def find_longest(text: str, fits: Callable[[str], bool]) -> int:
  """How many letters of its beginning fit, at least one."""
  return max(1, bisect.bisect_left(range(1, len(text) + 1), True, key=lambda count: not fits(text[:count])))


def name_class(text: str) -> str:
  """A class's name in at most two lines, with three dots for what is left."""
  return "\n".join(textwrap.wrap(text, MAX_CLASS_LENGTH, max_lines=2, placeholder="..."))
