"""The page of `jax-sis components`: the images in which each component is largest, and the pixels that raise it."""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
from PIL import Image

from jax_sis.data.records import ListedSource
from jax_sis.display import page, pixels
from jax_sis.studies.components import report

# Larger images are shown smaller.
LARGEST_SIDE = 160
LEAD = (
  "What is the logit of a class made of? Components of its features that sum to it, each with the images in "
  " which it is largest. One that shows something else than the object is spurious if images of other classes "
  "that have it are called the class."
)


def make_page(answer: Mapping[str, Any], source: ListedSource, grid: tuple[int, ...]) -> bytes:
  """The page as the bytes of its file.

  Args:
    answer: what `components.json` holds.
    source: the images.
    grid: the mask's shape.
  """
  reading = page.section(
    "What it shows",
    blocks=[
      page.paragraph(report.describe_fix(answer), kind="note"),
      make_table(answer),
      page.paragraph(report.NOTES, kind="soft"),
    ],
    answer=report.describe_reading(answer),
    name="reading",
  )
  sections = [make_class(one, answer, source, grid) for one in answer["classes"]]
  return page.document(f"Components of {answer['subject']}", [reading, *sections], lead=LEAD)


def make_table(answer: Mapping[str, Any]) -> Element:
  return page.table("The two largest components of each class", report.HEADER, report.make_lines(answer))


def make_class(
  one: Mapping[str, Any], answer: Mapping[str, Any], source: ListedSource, grid: tuple[int, ...]
) -> Element:
  blocks = [
    make_component(component, report.find_evidence(answer, component), source, grid) for component in one["components"]
  ]
  accuracy = (
    f"Components of {one['num_images']} images. Of the images of it judged, {report.estimate(one['accuracy']):.1%} are "
    "called it."
  )
  return page.section(one["name"], blocks=[page.paragraph(accuracy), *blocks], name=f"class-{one['number']}")


def make_component(
  component: Mapping[str, Any], evidence: Mapping[str, Any] | None, source: ListedSource, grid: tuple[int, ...]
) -> Element:
  """Its numbers, its images, and its pixels where they were looked for."""
  of_class = component["of_class"]
  blocks = [
    page.paragraph(
      f"{100 * component['share']:.1f} % of the logit's variance; raised alone it turns "
      f"{report.estimate(component['raised']):.1%} of other images into {of_class}; of the 75 images of other classes "
      f"with most of it, {report.count(component['called'])} are called {of_class}."
    ),
    show_images(f"Largest in {of_class}", component["own"], source),
    show_images(f"Largest in other classes, with the confidence in {of_class}", component["others"], source),
  ]
  if evidence is not None:
    blocks += show_evidence(evidence, of_class, source, grid)
  return page.section(f"{of_class} #{component['number']}", blocks=blocks, level=3)


def show_images(caption: str, images: Sequence[Mapping[str, Any]], source: ListedSource) -> Element:
  shown = (
    (f"{image['label']} {image['confidence']:.2f}", picture_of(source[image["place"]]["image"], image["id"]))
    for image in images
  )
  return page.thumbnails(shown, caption)


def show_evidence(
  evidence: Mapping[str, Any], of_class: str, source: ListedSource, grid: tuple[int, ...]
) -> list[Element]:
  """The pixels that raise a component, and what the classifier says of them."""
  found = [image for image in evidence["images"] if image["features"]]
  views = evidence["is_class"]
  text = (
    f"{report.sizes_of(evidence)} pixels raise it on {len(found)} of {evidence['num_asked']} images. The classifier "
    f"calls them {of_class} on {report.count(views['alone'])}; their shape in white on {report.count(views['white'])}; "
    f"moved elsewhere on {report.count(views['moved'])}; nothing at all on {report.count(views['nothing'])}; and "
    f"on unseen images as background on {report.estimate(evidence['unseen_is_class']):.0%}."
  )
  shown = (
    (f"{image['label']} {image['confidence']['alone']:.2f}", paint(source[image["place"]]["image"], image, grid))
    for image in found
  )
  return [page.paragraph(text), page.thumbnails(shown, f"The pixels, with the confidence in {of_class} on them alone")]


def paint(pixels_of: np.ndarray, image: Mapping[str, Any], grid: tuple[int, ...]) -> page.Picture:
  """The pixels of an image that raise a component, as they are on the darkened image."""
  kept = np.isin(np.arange(np.prod(grid)), image["features"]).reshape(grid)
  kept = kept.repeat(pixels_of.shape[0] // grid[0], 0).repeat(pixels_of.shape[1] // grid[1], 1)
  colour = pixels.choose_colour(pixels.to_rgb(pixels_of)[kept[..., 0]])
  return picture_of(pixels.paint_over(pixels_of, kept, colour), f"{image['id']}, its pixels")


def picture_of(image: np.ndarray, alt: str) -> page.Picture:
  """A picture of an image, small ones pixel by pixel."""
  side = max(image.shape[:2])
  if side > LARGEST_SIDE:
    size = tuple(max(1, round(length * LARGEST_SIDE / side)) for length in image.shape[1::-1])
    image = np.asarray(Image.fromarray(pixels.to_rgb(image)).resize((size[0], size[1])))
  return page.Picture(png=pixels.encode_png(image), alt=alt, is_pixelated=not pixels.is_photograph(image.shape))
