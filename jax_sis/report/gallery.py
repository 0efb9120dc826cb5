"""The most and the least overinterpreted images of a run: chosen by the sizes of their subsets, and shown."""

import dataclasses
import io
from collections.abc import Sequence
from xml.etree.ElementTree import Element

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from jax_sis import results
from jax_sis.core.subsets import Status
from jax_sis.data import batches
from jax_sis.data.normalisation import Normalisation
from jax_sis.display import page
from jax_sis.report.inputs import Inputs
from jax_sis.report.words import KIND_NAMES, capitalise, name_unit, tell_count
from jax_sis.results import schema
from jax_sis.results.query import make_query
from jax_sis.results.store import Results
from jax_sis.runs.setup import check_ids, make_job_again
from jax_sis.runs.table import Row, format_confidence, make_rows
from jax_sis.studies.controls.views import expand

# Brightness of what is not kept, where places are shown.
SHADE = 0.3
PLACE_COLOUR = (255, 208, 40)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extremes:
  """The images of a run with the smallest and the largest subsets of one kind.

  Attributes:
    kind: of subset.
    num_chosen_from: images that have one.
    smallest: the smallest first, by their numbers in the run.
    largest: the largest first.
    rows: what the run says of each.
    masks: their subsets in the grid's shape; None where the run did not keep them.
  """

  kind: str
  num_chosen_from: int
  smallest: tuple[int, ...]
  largest: tuple[int, ...]
  rows: dict[int, Row]
  masks: dict[int, Bool[np.ndarray, "h w 1"]] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images:
  """The images of a gallery as they are at hand now.

  Attributes:
    pixels: by number, those that could be read.
    fill: what a pixel that is not kept shows.
    missing: why images are not there; empty where they are.
  """

  pixels: dict[int, UInt8[np.ndarray, "H W C"]]
  fill: UInt8[np.ndarray, "C"]
  missing: str


def choose_extremes(inputs: Inputs, kind: str, *, num_images: int) -> Extremes:
  """The images with the smallest and the largest subsets, at most `num_images` of each; of equal size, the first."""
  store = inputs.store
  done = store.done_images()
  indices = done[store.read(f"{kind}_status", done) == Status.OK]
  order = indices[np.argsort(store.read(f"{kind}_num_kept", indices), kind="stable")]
  smallest = order[: min(num_images, (len(order) + 1) // 2)]
  largest = order[len(smallest) :][::-1][:num_images]
  chosen = np.sort(np.concatenate([smallest, largest]))
  names = inputs.spec["class_names"]
  fields = {name: store.read(name, chosen) for name in store.table_fields}
  rows = make_rows(fields, tuple(names), num_features=inputs.analysis.num_features)
  return Extremes(
    kind=kind,
    num_chosen_from=len(indices),
    smallest=tuple(smallest.tolist()),
    largest=tuple(largest.tolist()),
    rows=dict(zip(chosen.tolist(), rows, strict=True)),
    masks=read_masks(store, kind, chosen),
  )


def read_masks(store: Results, kind: str, indices: Int[np.ndarray, "M"]) -> dict[int, Bool[np.ndarray, "h w 1"]] | None:
  """The subsets of some images, if the run kept them."""
  query = make_query(store.spec, kind=kind)
  if not store.find_subsets(query).mask_fields:
    return None
  grid = tuple(store.spec["grid"])
  masks = store.iterate_masks(query, indices)
  return dict(zip(indices.tolist(), (mask.reshape(grid) for some in masks for mask in some), strict=True))


def read_images(store: Results, indices: Sequence[int], **places: str | None) -> Images:
  """Images from where the run had them, or from these `places` as in ReportConfig; or why they are not there."""
  nothing = np.zeros(3, np.uint8)
  try:
    job = make_job_again(store, **places, num_devices=1, is_computing=False)
    found: dict[int, UInt8[np.ndarray, "H W C"]] = {}
    ids, errors = [], []
    wanted = np.array(indices, np.int64)
    for batch in batches.iterate_batches(job.source, wanted, min(64, len(wanted))):
      ids += [str(name) for name in batch["id"]]
      errors += [str(error) for error in batch["error"] if error]
      found |= {
        int(index): image
        for index, image, error in zip(batch["index"], batch["image"], batch["error"], strict=True)
        if not error
      }
    check_ids(store.read_text("id", wanted), schema.decode_text(results.encode_text(ids)).tolist())
  except (OSError, ValueError) as error:
    return Images(pixels={}, fill=nothing, missing=str(error))
  fill = make_fill(job.classifier.normalisation, job.config.baseline)
  return Images(pixels=found, fill=fill, missing="; ".join(dict.fromkeys(errors)))


def make_fill(normalisation: Normalisation, baseline: float) -> UInt8[np.ndarray, "C"]:
  """What a masked pixel shows, as bytes."""
  inverted = normalisation.invert(np.full(len(normalisation.mean), baseline))
  return np.clip(np.round(inverted), 0, 255).astype(np.uint8)


def make_section(inputs: Inputs, *, num_images: int, **places: str | None) -> Element:
  extremes = [choose_extremes(inputs, kind, num_images=num_images) for kind in inputs.kinds]
  extremes = [one for one in extremes if one.rows]
  heading, name = "The most and the least overinterpreted images", "gallery"
  if not extremes:
    answer = "Nothing to show: no image has a subset." if num_images else "Left out: --gallery 0."
    return page.section(heading, answer=answer, blocks=[], name=name)
  indices = sorted({index for one in extremes for index in one.rows})
  images = read_images(inputs.store, indices, **places)
  blocks = []
  if images.missing:
    blocks.append(
      page.paragraph(
        page.strong("Images that are not shown: " if images.pixels else "The images are not shown: "),
        f"{images.missing.rstrip('.')}. Where they lie elsewhere now, --data-dir and --checkpoint name the folders.",
        kind="note",
      )
    )
  for one in extremes:
    parts = [
      page.section(
        f"{title} overinterpreted",
        level=4,
        blocks=[page.cards(make_card(inputs, one, index, images) for index in chosen)],
      )
      for title, chosen in (("Most", one.smallest), ("Least", one.largest))
      if chosen
    ]
    blocks.append(page.section(capitalise(KIND_NAMES[one.kind]), level=3, blocks=parts))
  return page.section(heading, answer=describe(inputs, extremes[0]), blocks=blocks, name=name)


def describe(inputs: Inputs, extremes: Extremes) -> str:
  sides = extremes.smallest, extremes.largest
  few, many = ([extremes.rows[index].answers[extremes.kind] for index in one[:1]] for one in sides)
  text = f"The smallest of the {KIND_NAMES[extremes.kind]} has {few[0].num_pixels:,} {name_unit(inputs)}"
  text += f" ({few[0].share:.1%} of the image)"
  if many:
    text += f", the largest {many[0].num_pixels:,} ({many[0].share:.1%})"
  return f"{text}, of {tell_count(extremes.num_chosen_from, 'image')} that have one."


def make_card(inputs: Inputs, extremes: Extremes, index: int, images: Images) -> Element:
  row = extremes.rows[index]
  answer = row.answers[extremes.kind]
  pictures: dict[str, page.Picture] = {}
  kept = f"{answer.num_pixels:,} {name_unit(inputs)}"
  pixels = images.pixels.get(index)
  mask = None if extremes.masks is None else extremes.masks[index]
  if pixels is not None:
    pictures["image"] = encode(pixels, f"Image {row.image}, of the class {row.true_class}.")
  if pixels is not None and mask is not None:
    shown = np.where(expand(mask, pixels.shape), pixels, images.fill)
    pictures["kept"] = encode(shown, f"What the subset keeps of {row.image}: {kept}, the rest in the fill's colour.")
  if mask is not None:
    pictures["places"] = encode(draw_places(mask, pixels), f"Where the {kept} lie, in yellow.")
  facts = {
    "true class": row.true_class,
    "predicted": row.predicted_class,
    "confidence": format_confidence(row.confidence),
    "size": f"{kept} ({answer.share:.1%})",
    "alone": format_confidence(answer.confidence),
    "certificate": answer.certificate,
  }
  if row.target_class != row.predicted_class:
    facts["subset for"] = row.target_class
  return page.card(row.image, pictures, facts, level=5)


def draw_places(
  mask: Bool[np.ndarray, "h w 1"], pixels: UInt8[np.ndarray, "H W C"] | None
) -> UInt8[np.ndarray, "H W 3"]:
  """Kept features in one colour, on the darkened grey image if there is one."""
  shape = (*mask.shape[:2], 3) if pixels is None else (*pixels.shape[:2], 3)
  grey = np.zeros(shape) if pixels is None else np.broadcast_to(pixels.mean(-1, keepdims=True), shape)
  return np.where(expand(mask, shape), np.array(PLACE_COLOUR), SHADE * grey).astype(np.uint8)


def encode(pixels: UInt8[np.ndarray, "H W C"], alt: str) -> page.Picture:
  buffer = io.BytesIO()
  Image.fromarray(np.squeeze(pixels, -1) if pixels.shape[-1] == 1 else pixels).save(buffer, "png", optimize=True)
  return page.Picture(png=buffer.getvalue(), alt=alt, is_pixelated=True)
