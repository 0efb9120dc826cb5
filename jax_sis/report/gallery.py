"""The most and the least overinterpreted images of a run: chosen by the sizes of their subsets, and shown."""

import dataclasses
from collections.abc import Sequence
from xml.etree.ElementTree import Element

import numpy as np
from jaxtyping import Bool, Int, UInt8

from jax_sis.core.subsets import Status
from jax_sis.data import batches
from jax_sis.display import page, pixels
from jax_sis.display.beside import describe_masked
from jax_sis.report.inputs import Inputs
from jax_sis.report.words import KIND_NAMES, capitalise, name_unit, tell_count
from jax_sis.results.query import make_query
from jax_sis.results.store import Results
from jax_sis.runs.feature_maps import open_kept
from jax_sis.runs.gallery import WORDS
from jax_sis.runs.identity import find_changes, read_compared, refuse_changes
from jax_sis.runs.setup import make_job_again
from jax_sis.runs.table import Row, format_confidence, make_rows
from jax_sis.studies.controls.views import expand


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
    missing: why images are not there; empty where they are.
  """

  pixels: dict[int, UInt8[np.ndarray, "H W C"]]
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
  grid, maps = tuple(store.spec["grid"]), open_kept(store)
  masks = [mask for some in store.iterate_masks(query, indices) for mask in some]
  if maps is not None and masks:
    return dict(zip(indices.tolist(), maps.spread(np.stack(masks), indices), strict=True))
  return dict(zip(indices.tolist(), (mask.reshape(grid) for mask in masks), strict=True))


def read_images(store: Results, indices: Sequence[int], **places: str | None) -> Images:
  """Images from where the run had them, or from these `places` as in ReportConfig; or why they are not there."""
  try:
    job = make_job_again(store, **places, num_devices=1, is_computing=False)
    found: dict[int, UInt8[np.ndarray, "H W C"]] = {}
    changes, errors = [], []
    wanted = np.array(indices, np.int64)
    for batch in batches.iterate_batches(job.source, wanted, min(64, len(wanted))):
      changes += find_changes(read_compared(store, batch["index"]), batch)
      errors += [str(error) for error in batch["error"] if error]
      found |= {
        int(index): image
        for index, image, error in zip(batch["index"], batch["image"], batch["error"], strict=True)
        if not error
      }
    refuse_changes(store.folder.location, changes, len(wanted))
  except (OSError, ValueError) as error:
    return Images(pixels={}, missing=str(error))
  return Images(pixels=found, missing="; ".join(dict.fromkeys(errors)))


def choose_shown(inputs: Inputs, *, num_images: int) -> list[Extremes]:
  """For each kind of subset that some images have, which of them are shown."""
  extremes = [choose_extremes(inputs, kind, num_images=num_images) for kind in inputs.kinds]
  return [one for one in extremes if one.rows]


def make_section(inputs: Inputs, extremes: Sequence[Extremes], images: Images) -> Element:
  heading, name = "The most and the least overinterpreted images", "gallery"
  if not extremes:
    has_some = any(certificates.reaches.num_images for certificates in inputs.certificates.values())
    answer = "Left out: --gallery 0." if has_some else "Nothing to show: no image has a subset."
    return page.section(heading, answer=answer, blocks=[], name=name)
  blocks = []
  if images.missing:
    blocks.append(
      page.paragraph(
        page.strong("Images that are not shown: " if images.pixels else "The images are not shown: "),
        f"{images.missing.rstrip('.')}. Where they lie elsewhere now, --data-dir and --checkpoint name the folders.",
        kind="note",
      )
    )
  colour = choose_colour(extremes, images)
  shape = find_shape(images)
  notes = [describe_masked(shape, colour)] if images.pixels else []
  blocks.append(page.paragraph(" ".join([*notes, WORDS]), kind="soft"))
  for one in extremes:
    parts = [
      page.section(
        f"{title} overinterpreted",
        level=4,
        blocks=[
          page.cards(
            [make_card(inputs, one, index, images, colour) for index in chosen],
            are_of_photographs=pixels.is_photograph(shape),
          )
        ],
      )
      for title, chosen in (("Most", one.smallest), ("Least", one.largest))
      if chosen
    ]
    blocks.append(page.section(capitalise(KIND_NAMES[one.kind]), level=3, blocks=parts))
  return page.section(heading, answer=describe(inputs, extremes[0]), blocks=blocks, name=name)


def find_shape(images: Images) -> tuple[int, ...]:
  """Of the images, which have one size; of none, nothing."""
  return next((image.shape for image in images.pixels.values()), (0, 0))


def choose_colour(extremes: Sequence[Extremes], images: Images) -> str:
  """What is masked is painted in, in all pictures of the gallery."""
  kept = [
    pixels.to_rgb(image)[expand(one.masks[index], image.shape).any(-1)]
    for one in extremes
    if one.masks is not None
    for index in one.rows
    if (image := images.pixels.get(index)) is not None
  ]
  return pixels.choose_colour(np.concatenate([np.empty((0, 3), np.uint8), *kept]))


def describe(inputs: Inputs, extremes: Extremes) -> str:
  sides = extremes.smallest, extremes.largest
  few, many = ([extremes.rows[index].answers[extremes.kind] for index in one[:1]] for one in sides)
  text = f"The smallest of the {KIND_NAMES[extremes.kind]} has {few[0].num_pixels:,} {name_unit(inputs)}"
  text += f" ({few[0].share:.1%} of the image)"
  if many:
    text += f", the largest {many[0].num_pixels:,} ({many[0].share:.1%})"
  return f"{text}, of {tell_count(extremes.num_chosen_from, 'image')} that have one."


def make_card(inputs: Inputs, extremes: Extremes, index: int, images: Images, colour: str) -> Element:
  row = extremes.rows[index]
  answer = row.answers[extremes.kind]
  pictures: dict[str, page.Picture] = {}
  kept = f"{answer.num_pixels:,} {name_unit(inputs)}"
  image = images.pixels.get(index)
  mask = None if extremes.masks is None else extremes.masks[index]
  if image is not None:
    pictures["image"] = show_pixels(image, f"Image {row.image}, of the class {row.true_class}.")
  if image is not None and mask is not None:
    pictures |= show_subset(image, expand(mask, image.shape), f"of {row.image}: {kept}", colour)
  if mask is not None and (image is None or not pixels.is_photograph(image.shape)):
    below = np.zeros((*mask.shape[:2], 3), np.uint8) if image is None else image
    places = pixels.paint_places(below, expand(mask, below.shape))
    pictures["places"] = show_pixels(places, f"Where the {kept} lie, in yellow.")
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


def show_pixels(image: UInt8[np.ndarray, "H W C"], alt: str) -> page.Picture:
  return page.Picture(png=pixels.encode_png(image), alt=alt, is_pixelated=not pixels.is_photograph(image.shape))


def show_subset(
  image: UInt8[np.ndarray, "H W C"], kept: Bool[np.ndarray, "H W c"], what: str, colour: str
) -> dict[str, page.Picture]:
  """What a subset keeps of an image, in one picture, or of a photograph in two; `what` ends a sentence."""
  if not pixels.is_photograph(image.shape):
    shown = pixels.paint_kept(image, kept, colour)
    return {"kept": show_pixels(shown, f"What the subset keeps {what}, the rest {colour}.")}
  alone, on_grey = pixels.paint_alone(image, kept), pixels.paint_on_grey(image, kept)
  return {
    "kept": show_pixels(alone, f"What the subset keeps {what}, alone on grey."),
    "on the greyed image": show_pixels(on_grey, f"What the subset keeps {what}, on the greyed image."),
  }
