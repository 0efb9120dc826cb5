"""What `jax-sis soundness` found: printed, and as JSON, CSV and a figure."""

import dataclasses
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jax_sis.core.messages import name_some
from jax_sis.results.answer import describe_provenance, encode_csv, write_answer
from jax_sis.results.folder import Folder
from jax_sis.runtime.records import to_json
from jax_sis.statistics.estimates import show, show_percent
from jax_sis.studies.soundness import figure
from jax_sis.studies.soundness.config import ORDERS
from jax_sis.studies.soundness.summaries import FLOOR, Asked, OrderSummary, summarise

WIDTH = 120
MAX_NAMED = 5
LINE_FORMAT = "{:<22} {:>17} {:>17} {:>17} {:>17} {:>17} {:>20}"
HEADER = ("order", "completeness", "soundness", "worst class", "largest, %", "other class, %", "size over other's")


def make_table(summaries: Mapping[str, OrderSummary]) -> str:
  lines = [LINE_FORMAT.format(*HEADER)]
  lines += [
    LINE_FORMAT.format(
      summary.title,
      show(summary.completeness, ".2f"),
      show(summary.soundness, ".2f"),
      show(summary.worst, ".2f"),
      show_percent(summary.is_largest, ".0f"),
      show_percent(summary.has_other, ".0f"),
      show(summary.size_ratio, ".2f"),
    )
    for summary in summaries.values()
  ]
  return "\n".join(lines)


def describe_reading(summaries: Mapping[str, OrderSummary], threshold: float) -> str:
  """What the first order carries of its class, and of the others."""
  first = next(iter(summaries.values()))
  if first.completeness.value is None:
    return "No image could be asked about."
  sentences = [
    f"'{first.title}' carries {first.completeness:.0%} of the predicted class's confidence (completeness), and is "
    f"{first.soundness:.0%} sound: an order made for another class makes the classifier confident of it, too. "
    f"No other class has a larger area in {first.is_largest:.0%} of the images, and in {first.has_other:.0%} pixels "
    f"suffice for another class at {threshold:g}."
  ]
  soundest = max(summaries.values(), key=lambda one: one.soundness.value or 0)
  if soundest is not first:
    sentences.append(
      f"The soundest order is '{soundest.title}', {soundest.soundness:.0%} sound and {soundest.completeness:.0%} "
      "complete."
    )
  return " ".join(sentences)


def describe_table(num_images: int, num_classes: int) -> str:
  return (
    f"In brackets 95 % intervals over {num_images} images. An order is made for each of {num_classes} classes of an "
    "image; its area is the mean confidence in that class over 32 equal steps of size, the most needed pixels first. "
    "Completeness: the area of the predicted class over its confidence. Soundness: of the other classes, their "
    f"confidence over their area, the mean of each image's; each at most 1, and below {FLOOR:g} counted as that. Worst "
    "class: the least sound one of each image. Largest: no other class has a larger area. Other class: pixels suffice "
    "for one that is not predicted. Size over other's: the smallest subset of the predicted class over the smallest of "
    "any other, where both have one."
  )


def write_report(
  folder: Folder,
  asked: Mapping[str, Sequence[Asked]],
  *,
  left_out: Mapping[str, str],
  spec: Mapping[str, Any],
  seed: int,
  subject: str,
  command: str,
) -> dict[str, Any]:
  """Prints what was found and writes it; returns what `soundness.json` holds.

  Args:
    folder: gets the files.
    asked: by order, its images.
    left_out: orders that the classifier does not allow, and why.
    spec: what fixed the results.
    seed: of the intervals.
    subject: the classifier and the data.
    command: the command line.
  """
  summaries = {name: summarise(ORDERS[name], images, seed=seed) for name, images in asked.items()}
  first = next(iter(asked.values()))
  unknown = {image.id: image.error for image in first if image.error}
  num_classes = max((len(image.classes) for image in first), default=0)
  reading = describe_reading(summaries, spec["threshold"])
  notes = describe_table(len(first) - len(unknown), num_classes)
  print(f"\n{make_table(summaries)}\n")
  print("\n".join(textwrap.fill(text, WIDTH) for text in (reading, notes)))
  if unknown:
    print(f"Left out: {name_some(list(unknown), most=MAX_NAMED)}.")
  answer = {
    "format": spec["format"],
    "provenance": describe_provenance(folder, spec, command=command, seed=seed),
    "grid": spec["grid"],
    "threshold": spec["threshold"],
    "num_images": len(first) - len(unknown),
    "num_classes": num_classes,
    "orders": {
      name: {**to_json(summary), "images": [dataclasses.asdict(image) for image in asked[name]]}
      for name, summary in summaries.items()
    },
    "left_out": {**{ORDERS[name]: reason for name, reason in left_out.items()}, **unknown},
    "reading": reading,
    "notes": notes,
  }
  files = {"soundness.csv": encode_csv(make_rows(asked))}
  if first and len(unknown) < len(first):
    files["soundness.png"] = figure.draw_soundness(summaries, title=f"Completeness and soundness: {subject}")
  return write_answer(folder, "soundness.json", answer, files)


def make_rows(asked: Mapping[str, Sequence[Asked]]) -> Iterable[dict[str, Any]]:
  for name, images in asked.items():
    for image in images:
      for place, one in enumerate(image.classes):
        yield {
          "order": ORDERS[name],
          "image": image.id,
          "label": image.label,
          "class": one,
          "is_predicted": place == 0,
          "confidence": image.confidence[place],
          "area": image.area[place],
          "size": image.size[place],
        }
