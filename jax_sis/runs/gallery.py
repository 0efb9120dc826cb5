"""The picture of a run: its first images, their subsets and orders."""

import dataclasses
import textwrap
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.axes import Axes

from jax_sis import results
from jax_sis.core import masking
from jax_sis.core.searches import BackwardSearch
from jax_sis.display.style import finish, start_figure, styled
from jax_sis.results.query import own_queries
from jax_sis.runs.setup import Job
from jax_sis.runs.table import Row, format_confidence, make_rows

ROW_INCHES = 1.75
HEADING_INCHES = 0.7


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubsetPanel:
  """One subset of an image; `title` is the caption, or the reason why there is none."""

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


def draw_gallery(job: Job, store: results.Results, *, num_images: int) -> bytes:
  classifier = job.classifier
  indices = np.arange(min(num_images, store.num_images))
  fields = {name: store.read(name, indices) for name in store.fields}
  rows = make_rows(fields, job.class_names, num_features=job.num_features)
  kept = kept_features(store, fields)
  masked = classifier.normalisation.invert(np.full(classifier.input_shape[-1], job.config.baseline))
  panels = [
    make_panel(
      job,
      row,
      int(index),
      kept={kind: masks[index] for kind, masks in kept.items()},
      ranks=fields["rank"][index] if "rank" in fields else None,
    )
    for row, index in zip(rows, indices, strict=True)
  ]
  return draw_panels(
    panels,
    headings=[describe_kind(kind, job.config.search) for kind in kept],
    with_order="rank" in fields,
    masked_colour=np.clip(masked, 0, 255),
  )


def kept_features(store: results.Results, fields: Mapping[str, np.ndarray]) -> dict[str, Bool[np.ndarray, "M F"]]:
  """The subsets of each kind whose pixels the run kept."""
  stored = [store.find_subsets(query) for query in own_queries(store.spec, store.fields)]
  return {one.query.kind: one.masks(fields) for one in stored if one.mask_fields}


def make_panel(
  job: Job, row: Row, index: int, *, kept: Mapping[str, np.ndarray], ranks: np.ndarray | None
) -> GalleryPanel:
  shape = job.classifier.input_shape

  def expand(features: np.ndarray) -> np.ndarray:
    return np.asarray(masking.expand_mask(jnp.asarray(features[None]), job.search.grid, shape)[0])

  subsets = [
    SubsetPanel(kept=expand(features), title=describe_subset(row, kind), has_subset=row.answers[kind].status == "ok")
    for kind, features in kept.items()
  ]
  is_ordered = "sis" in row.answers and row.answers["sis"].status not in ("non_finite", "not_searched")
  return GalleryPanel(
    image=job.source[index]["image"],
    title=describe_image(row),
    subsets=subsets,
    rank=expand(ranks) if ranks is not None and is_ordered else None,
  )


@styled
def draw_panels(
  panels: list[GalleryPanel],
  *,
  headings: list[str],
  with_order: bool,
  masked_colour: Float[np.ndarray, "C"],
) -> bytes:
  """Draws each image beside its subsets on the masked background and the heat map of its order.

  A panel a row, and a heading for each of its subsets; `masked_colour` is what a masked pixel shows, 0..255.
  """
  widths = [1, 1.2, *[1, 1.45] * len(headings), *[1] * with_order]
  figure, axes = start_figure(
    len(panels) + 1,
    len(widths),
    size=(ROW_INCHES * sum(widths), ROW_INCHES * len(panels) + HEADING_INCHES),
    places={"left": 0.01, "right": 0.99, "top": 0.999, "bottom": 0.004, "wspace": 0.06, "hspace": 0.06},
    width_ratios=widths,
    height_ratios=[HEADING_INCHES / ROW_INCHES] + [1] * len(panels),
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
  return finish(figure)


def caption(axis: Axes, text: str) -> None:
  axis.text(0.02, 0.5, text, fontsize=10, va="center", linespacing=1.5)


def describe_kind(kind: str, search: BackwardSearch | None) -> str:
  if kind == "smallest":
    return "the smallest evidence\nfound"
  return f"its sufficient input subset\nby {type(search).__name__} search"


def describe_image(row: Row) -> str:
  return f"{row.image}\ntrue: {row.true_class}\npredicted: {row.predicted_class}\n{format_confidence(row.confidence)}"


def describe_subset(row: Row, kind: str) -> str:
  answer = row.answers[kind]
  if answer.status != "ok":
    return "\n".join(textwrap.wrap(answer.certificate, 20))
  lines = (
    f"{answer.num_pixels} pixels ({answer.share:.1%})",
    f"{row.target_class} {format_confidence(answer.confidence)}",
    *answer.certificate.split(", ", 1),
  )
  return "\n".join(lines)
