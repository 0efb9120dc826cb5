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
class GalleryPanel:
  """One row of a gallery.

  Attributes:
    image: 8-bit pixels.
    kept: True where the subset shows the image; broadcasts against it.
    rank: 0 where the feature is needed most; broadcasts against the image. None where there is no order.
    title: the caption of the image.
    subset_title: the caption of the subset, or the reason why there is none.
    has_subset: whether there is one.
  """

  image: UInt8[np.ndarray, "H W C"]
  kept: Bool[np.ndarray, "h w c"]
  rank: Int[np.ndarray, "h w c"] | None
  title: str
  subset_title: str
  has_subset: bool


def save_gallery(path: pathlib.Path, panels: list[GalleryPanel], *, masked_colour: Float[np.ndarray, "C"]) -> None:
  """Draws each image beside its subset on the masked background and the heat map of its order.

  Args:
    path: the PNG to write.
    panels: one a row.
    masked_colour: what a masked pixel shows, 0..255.
  """
  matplotlib.use("agg")
  plt.rcParams["font.family"] = "DejaVu Sans"
  figure, axes = plt.subplots(
    len(panels) + 1,
    5,
    figsize=(9.8, ROW_INCHES * len(panels) + HEADING_INCHES),
    dpi=DPI,
    squeeze=False,
    gridspec_kw={
      "width_ratios": [1, 1.2, 1, 1.5, 1],
      "height_ratios": [HEADING_INCHES / ROW_INCHES] + [1] * len(panels),
      "left": 0.012,
      "right": 0.988,
      "top": 0.999,
      "bottom": 0.004,
      "wspace": 0.06,
      "hspace": 0.06,
    },
  )
  for axis in axes.flat:
    axis.set_axis_off()
  headings = ("image", "its sufficient input subset,\nthe rest masked", "order: yellow is\nneeded most")
  for axis, heading in zip(axes[0, ::2], headings, strict=True):
    axis.text(0, 0.1, heading, fontsize=11, fontweight="bold", va="bottom")
  for row, panel in zip(axes[1:], panels, strict=True):
    row[0].imshow(panel.image)
    caption(row[1], panel.title)
    if panel.has_subset:
      row[2].imshow(np.where(panel.kept, panel.image, masked_colour.astype(np.uint8)))
    else:
      row[2].imshow(np.broadcast_to(masked_colour.astype(np.uint8), panel.image.shape))
    if panel.rank is not None:
      # Logarithmic, since the few most needed features matter most.
      rank = np.broadcast_to(panel.rank, panel.image.shape)[..., 0].astype(np.float64)
      row[4].imshow(-np.log1p(rank), cmap="viridis")
    caption(row[3], panel.subset_title)
  figure.savefig(path)
  plt.close(figure)


def caption(axis: Axes, text: str) -> None:
  """Text beside a picture."""
  axis.text(0.02, 0.5, text, fontsize=10, va="center", linespacing=1.5)
