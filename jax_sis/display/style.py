"""Pictures of results, by Matplotlib."""

import dataclasses
from collections.abc import Sequence
from typing import BinaryIO

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

ROW_INCHES = 1.75
HEADING_INCHES = 0.7
DPI = 100
ACCURACY_COLOUR, GAP_COLOUR, INK = "#2f6db3", "#d1495b", "#333333"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubsetPanel:
  """One subset of an image.

  Attributes:
    kept: True where the subset shows the image; broadcasts against it.
    title: the caption, or the reason why there is none.
    has_subset: whether there is one.
  """

  kept: Bool[np.ndarray, "h w c"]
  title: str
  has_subset: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class GalleryPanel:
  """One row of a gallery.

  Attributes:
    image: 8-bit pixels.
    title: the caption of the image.
    subsets: its subsets, as many as there are headings.
    rank: 0 where the feature is needed most; broadcasts against the image. None where there is no order.
  """

  image: UInt8[np.ndarray, "H W C"]
  title: str
  subsets: list[SubsetPanel]
  rank: Int[np.ndarray, "h w c"] | None


def save_gallery(
  file: BinaryIO,
  panels: list[GalleryPanel],
  *,
  headings: list[str],
  with_order: bool,
  masked_colour: Float[np.ndarray, "C"],
) -> None:
  """Draws each image beside its subsets on the masked background and the heat map of its order.

  Args:
    file: gets the PNG.
    panels: one a row.
    headings: one for each subset of a row.
    with_order: whether there is a column for the order.
    masked_colour: what a masked pixel shows, 0..255.
  """
  matplotlib.use("agg")
  plt.rcParams["font.family"] = "DejaVu Sans"
  widths = [1, 1.2, *[1, 1.45] * len(headings), *[1] * with_order]
  figure, axes = plt.subplots(
    len(panels) + 1,
    len(widths),
    figsize=(ROW_INCHES * sum(widths), ROW_INCHES * len(panels) + HEADING_INCHES),
    dpi=DPI,
    squeeze=False,
    gridspec_kw={
      "width_ratios": widths,
      "height_ratios": [HEADING_INCHES / ROW_INCHES] + [1] * len(panels),
      "left": 0.01,
      "right": 0.99,
      "top": 0.999,
      "bottom": 0.004,
      "wspace": 0.06,
      "hspace": 0.06,
    },
  )
  for axis in axes.flat:
    axis.set_axis_off()
  all_headings = ["image", *headings, *["order: yellow is\nneeded most"] * with_order]
  for axis, heading in zip(axes[0, ::2], all_headings, strict=True):
    axis.text(0, 0.1, heading, fontsize=11, fontweight="bold", va="bottom")
  masked = masked_colour.astype(np.uint8)
  for row, panel in zip(axes[1:], panels, strict=True):
    row[0].imshow(panel.image)
    caption(row[1], panel.title)
    for column, subset in zip(range(2, len(widths), 2), panel.subsets, strict=False):
      shown = (
        np.where(subset.kept, panel.image, masked) if subset.has_subset else np.broadcast_to(masked, panel.image.shape)
      )
      row[column].imshow(shown)
      caption(row[column + 1], subset.title)
    if panel.rank is not None:
      # Logarithmic, since the few most needed features matter most.
      rank = np.broadcast_to(panel.rank, panel.image.shape)[..., 0].astype(np.float64)
      row[-1].imshow(-np.log1p(rank), cmap="viridis")
  figure.savefig(file, format="png")
  plt.close(figure)


def caption(axis: Axes, text: str) -> None:
  """Text beside a picture."""
  axis.text(0.02, 0.5, text, fontsize=10, va="center", linespacing=1.5)


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
