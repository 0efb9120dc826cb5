"""Pictures of results, by Matplotlib."""

from collections.abc import Sequence
from typing import BinaryIO

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

DPI = 100
ACCURACY_COLOUR, GAP_COLOUR, INK = "#2f6db3", "#d1495b", "#333333"


def start_figure(
  num_rows: int, num_columns: int, *, size: tuple[float, float], width_ratios: Sequence[float] | None = None
) -> tuple[Figure, np.ndarray]:
  """A figure and its axes `[rows, columns]`, laid out so that no text is cut off."""
  matplotlib.use("agg")
  plt.rcParams["font.family"] = "DejaVu Sans"
  return plt.subplots(
    num_rows, num_columns, figsize=size, dpi=DPI, squeeze=False, layout="constrained", width_ratios=width_ratios
  )


def save(figure: Figure, file: BinaryIO) -> None:
  """Writes the PNG and lets go of the figure."""
  # The layout gives maps with long headings too little room.
  figure.savefig(file, format="png", bbox_inches="tight", pad_inches=0.1)
  plt.close(figure)


# Okabe and Ito's colours, which people of every colour vision tell apart, without the yellow, which is too light.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


LINE_STYLES = ("-", "--", ":", "-.")


MAX_LABEL_LENGTH = 44


MAX_CLASS_LENGTH = 24


def set_share_axis(axis: Axes, *, low: float | None = None) -> None:
  """A logarithmic axis of shares of the image, labelled in per cent."""
  axis.set_xscale("log")
  set_ticks(axis.xaxis)
  smallest = axis.dataLim.intervalx[0] if low is None else low
  axis.set_xlim(smallest if low is not None else max(smallest, 1e-6) / 1.15, 1.12)
  axis.tick_params(labelsize=8, colors=INK)


def set_ticks(axis: Axis) -> None:
  """Ticks at 1, 2 and 5 of every decade of a logarithmic axis of shares."""
  axis.set_major_locator(FixedLocator([number * 10.0**power for power in range(-6, 1) for number in (1, 2, 5)]))
  axis.set_major_formatter(FuncFormatter(percent))
  axis.set_minor_locator(NullLocator())


def percent(share: float, _: float) -> str:
  """A share as a number of per cent."""
  return f"{100 * share:g}"


def format_p(p_value: float) -> str:
  """`p = 0.02`, or `p < 0.001`."""
  return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}"


def shorten(text: str, length: int = MAX_LABEL_LENGTH) -> str:
  """A text, or its end after three dots."""
  return text if len(text) <= length else f"...{text[3 - length :]}"


def begin(text: str) -> str:
  """A class's name, or its beginning before three dots."""
  return text if len(text) <= MAX_CLASS_LENGTH else f"{text[: MAX_CLASS_LENGTH - 3]}..."
