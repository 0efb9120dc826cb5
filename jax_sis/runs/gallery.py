"""The picture of a run: its first images, their subsets and orders."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Shaped, UInt8

from jax_sis import results
from jax_sis.core import masking
from jax_sis.core.order import rank_to_heat
from jax_sis.core.searches import BackwardSearch
from jax_sis.display import beside, pixels
from jax_sis.display.beside import Cell
from jax_sis.display.style import finish
from jax_sis.results.schema import CONTRASTIVE_MASK, has_order
from jax_sis.runs.pictures import find_own
from jax_sis.runs.setup import Job
from jax_sis.runs.table import Row, format_confidence, make_rows

ORDER_HEADING = "order: yellow is\nneeded most"
CONTRASTIVE_HEADING = "the smallest set whose\nmasking loses the class"
SHAPLEY_HEADING = "exact Shapley\nvalues"
# What the words of certificates mean.
WORDS = (
  "Droppable: each of so many kept pixels could be masked alone, and the others would still be sufficient. 1-minimal: "
  "none is droppable; a smaller subset of other pixels may exist all the same."
)
LATTICE_WORDS = (
  " Shapley values are of the log-odds: yellow is the largest; where some are below 0, red is above it and blue below."
)


def draw_gallery(job: Job, store: results.Results, *, num_images: int) -> bytes:
  """The gallery as a PNG file: a line an image, with its pictures where it has a subset."""
  indices = np.arange(min(num_images, store.num_images))
  fields = {name: store.read(name, indices) for name in store.fields}
  rows = make_rows(fields, job.class_names, num_features=job.num_features)
  kept = {kind: spread(job, stored.masks(fields), indices) for kind, stored in find_own(store).items()}
  heat = spread(job, rank_to_heat(fields["rank"]), indices) if "rank" in fields else None
  lost, values = (
    spread(job, fields[name], indices) if name in fields else None for name in (CONTRASTIVE_MASK, "lattice_shapley")
  )
  images = np.stack([job.source[int(index)]["image"] for index in indices])
  colour = beside.choose_colour(images, list(kept.values()))
  is_ordered = has_order(fields["sis_status"]) if heat is not None else None
  lines = []
  for i, row in enumerate(rows):
    if not any(answer.status == "ok" for answer in row.answers.values()):
      lines.append(describe_without(row))
      continue
    cells = [Cell(picture=draw_image(job, images[i], int(indices[i])), caption=describe_image(row))]
    for kind, masks in kept.items():
      kept_here = masks[i] if row.answers[kind].status == "ok" else None
      cells += beside.show_subset(images[i], kept_here, describe_subset(row, kind, job, int(indices[i])), colour)
    if lost is not None and values is not None:
      cells += beside.show_subset(images[i], lost[i] if lost[i].any() else None, describe_lattice(row), colour)
      cells.append(Cell(picture=beside.paint_heat(values[i])))
    if heat is not None and is_ordered is not None:
      cells.append(Cell(picture=beside.paint_heat(heat[i]) if is_ordered[i] else None))
    lines.append(cells)
  shape = job.classifier.input_shape
  headings = ["image"]
  for kind in kept:
    headings += beside.head_subset(describe_kind(kind, job.config.search), shape)
  if lost is not None:
    headings += [*beside.head_subset(CONTRASTIVE_HEADING, shape), SHAPLEY_HEADING]
  figure = beside.draw_lines(
    [*headings, *([ORDER_HEADING] if heat is not None else [])],
    lines,
    note=f"{beside.describe_masked(shape, colour)} {WORDS}" + (LATTICE_WORDS if lost is not None else ""),
  )
  return finish(figure)


def draw_image(job: Job, image: UInt8[np.ndarray, "H W C"], index: int) -> UInt8[np.ndarray, "h w 3"]:
  """The image, with the borders of its features where these are of any shape."""
  if job.maps is None:
    return pixels.to_rgb(image)
  return pixels.draw_borders(image, job.maps.labels[index])


def spread(job: Job, values: Shaped[np.ndarray, "M F"], indices: Int[np.ndarray, "M"]) -> Shaped[np.ndarray, "M H W c"]:
  """One value a feature as one a pixel."""
  if job.maps is not None:
    return job.maps.spread(values, indices)
  return np.asarray(masking.expand_mask(jnp.asarray(values), job.search.grid, job.classifier.input_shape))


def describe_kind(kind: str, search: BackwardSearch | None) -> str:
  if kind == "smallest":
    return "the smallest evidence\nfound"
  if kind == "contrastive":
    return "the fewest found without\nwhich the class is lost"
  if kind == "both":
    return "the fewest found that suffice\nand are missed when gone"
  if kind == "optimum":
    return "the smallest subset\nthat there is"
  if kind == "robust":
    return "its robust subset, certified\non unseen draws"
  return f"its sufficient input subset\nby {type(search).__name__} search"


def describe_image(row: Row) -> str:
  return f"{row.image}\ntrue: {row.true_class}\npredicted: {row.predicted_class}\n{format_confidence(row.confidence)}"


def describe_without(row: Row) -> str:
  """An image without any subset in one line."""
  reasons = " | ".join(dict.fromkeys(answer.certificate for answer in row.answers.values()))
  classes = f"true: {row.true_class}, predicted: {row.predicted_class} {format_confidence(row.confidence)}"
  return f"{row.image}, {classes}: {reasons}"


def describe_subset(row: Row, kind: str, job: Job, index: int) -> str:
  answer = row.answers[kind]
  if answer.status != "ok":
    return answer.certificate
  if job.maps is None:
    size = f"{answer.num_pixels} pixels ({answer.share:.1%})"
  else:
    size = f"{answer.num_pixels} of {job.maps.num_existing[index]} features"
  lines = (
    size,
    f"{row.target_class} {format_confidence(answer.confidence)}",
    *([] if answer.lost_by is None else [f"lost by {answer.lost_by:.2f} without"]),
    *answer.certificate.split(", ", 1),
  )
  return "\n".join(lines)


def describe_lattice(row: Row) -> str:
  """The caption of the smallest contrastive set."""
  found = row.lattice
  features = found["contrastive_features"].split()
  return "\n".join(
    (
      f"{len(features)} pixels" if features else "none",
      f"{found['minimal_sufficient_sets']:,} minimal sets suffice",
      f"{found['minimal_contrastive_sets']:,} lose the class",
    )
  )
