"""Pictures of results, by Matplotlib."""

import dataclasses
import pathlib

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.axes import Axes

ROW_INCHES = 1.75
HEADING_INCHES = 0.7
DPI = 100


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
  path: pathlib.Path,
  panels: list[GalleryPanel],
  *,
  headings: list[str],
  with_order: bool,
  masked_colour: Float[np.ndarray, "C"],
) -> None:
  """Draws each image beside its subsets on the masked background and the heat map of its order.

  Args:
    path: the PNG to write.
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
  figure.savefig(path)
  plt.close(figure)


def caption(axis: Axes, text: str) -> None:
  """Text beside a picture."""
  axis.text(0.02, 0.5, text, fontsize=10, va="center", linespacing=1.5)
