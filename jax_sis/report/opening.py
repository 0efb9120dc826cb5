"""What a report says first: one sentence, and one picture of an image and of what suffices of it."""

import dataclasses
from xml.etree.ElementTree import Element

import numpy as np
from jaxtyping import Bool

from jax_sis.core.subsets import Status
from jax_sis.display import page, pixels
from jax_sis.display.beside import MASKED_NOTE
from jax_sis.report.gallery import Images, read_masks, show_pixels, show_subset
from jax_sis.report.inputs import Inputs
from jax_sis.report.sizes import own_sizes
from jax_sis.report.words import name_unit, tell_claim, tell_count
from jax_sis.studies.controls.views import expand

# The sides of an image in the picture, at least, and what is between two.
SIDE_PIXELS, GAP_PIXELS = 256, 16
WHITE = 255


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
  """The image with the middle one of the subsets by size.

  Attributes:
    kind: of subset.
    index: its number in the run.
    name: its id.
    mask: its subset in the grid's shape; None where the run did not keep it.
  """

  kind: str
  index: int
  name: str
  mask: Bool[np.ndarray, "h w 1"] | None


def choose_example(inputs: Inputs) -> Example | None:
  """An image with the smallest kind of subset that some have; None where there is none."""
  store, done = inputs.store, inputs.store.done_images()
  for kind in reversed(inputs.kinds):
    indices = done[store.read(f"{kind}_status", done) == Status.OK]
    if len(indices):
      order = np.argsort(store.read(f"{kind}_num_kept", indices), kind="stable")
      chosen = indices[order[[(len(indices) - 1) // 2]]]
      masks, index = read_masks(store, kind, chosen), int(chosen[0])
      name = store.read_text("id", chosen)[0]
      return Example(kind=kind, index=index, name=name, mask=None if masks is None else masks[index])
  return None


def make_opening(inputs: Inputs, example: Example | None, images: Images) -> list[Element]:
  sentence = page.paragraph(describe(inputs, example), kind="answer")
  if example is None or example.mask is None:
    return [sentence]
  image = images.pixels.get(example.index)
  num_kept = int(example.mask.sum())
  kept = f"{num_kept:,} {name_unit(inputs)} of {example.name}"
  if image is None:
    places = pixels.paint_places(np.zeros((*example.mask.shape[:2], 3), np.uint8), example.mask)
    parts, caption = [places], f"In yellow, where the {kept} lie that are enough."
  elif pixels.is_photograph(image.shape):
    shown = {"image": show_pixels(image, f"Image {example.name}.")}
    shown |= show_subset(image, expand(example.mask, image.shape), f"of {example.name}", "")
    caption = f"An image, and beside it the {kept} that are enough, alone and on the greyed image."
    return [sentence, page.photographs(shown, caption)]
  else:
    mask = expand(example.mask, image.shape)
    colour = pixels.choose_colour(pixels.to_rgb(image)[mask.any(-1)])
    parts = [pixels.to_rgb(image), pixels.paint_kept(image, mask, colour)]
    caption = f"An image, and beside it the {kept} that are enough. {MASKED_NOTE.format(colour)}"
  png = pixels.encode_png(join([enlarge(part) for part in parts]))
  return [sentence, page.figure(page.Picture(png=png, alt=caption), caption)]


def describe(inputs: Inputs, example: Example | None) -> str:
  unit, num_features = name_unit(inputs), inputs.analysis.num_features
  what = tell_claim(inputs, inputs.kinds[0] if example is None else example.kind)
  if example is None:
    return f"In none of {tell_count(inputs.analysis.num_finished, 'image')} were {unit} found that {what}."
  sizes = own_sizes(inputs, example.kind)
  assert sizes.median is not None
  count = sizes.with_subset.count or 0
  size = f"{sizes.median:g} of {num_features:,} {unit} ({sizes.median / num_features:.1%})"
  if count == 1:
    return f"In the one image with a subset, {size} {what}."
  return f"In half of the {count:,} images with a subset, at most {size} {what}."


def enlarge(picture: np.ndarray) -> np.ndarray:
  """Each pixel as a square of several, where the picture is small."""
  times = max(1, SIDE_PIXELS // max(picture.shape[:2]))
  return picture.repeat(times, 0).repeat(times, 1)


def join(pictures: list[np.ndarray]) -> np.ndarray:
  """Pictures beside each other."""
  gap = np.full((len(pictures[0]), GAP_PIXELS, 3), WHITE, np.uint8)
  return np.concatenate([part for picture in pictures for part in (gap, picture)][1:], axis=1)
