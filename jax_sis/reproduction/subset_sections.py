"""Sections of a study's report on what subsets show: those of the test images, of samples, and of other searches."""

import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from jax_sis import results
from jax_sis.core.searches import Screened
from jax_sis.display import page
from jax_sis.report import controls, program, sizes
from jax_sis.report.inputs import read_inputs
from jax_sis.reproduction import tables
from jax_sis.reproduction.engine import Done
from jax_sis.reproduction.leaks import Leak
from jax_sis.reproduction.names import Names
from jax_sis.reproduction.outcome import SAMPLES, Outcome
from jax_sis.reproduction.readings import read_answer
from jax_sis.runtime.records import read_record
from jax_sis.statistics.estimates import DASH, Estimate, show

# Of the smallest and of the largest subsets of each kind, in the gallery.
NUM_SHOWN = 6


def make_sections(
  outcome: Outcome, done: Mapping[str, Done], names: Names, *, data_dir: str | None
) -> list[Element | None]:
  """All sections of one architecture; None where nothing is known yet."""
  return [
    *run_sections(done, names, data_dir=data_dir),
    smallest_section(done, names),
    disjoint_section(done, names),
    attributions_section(done, names),
    sample_section(outcome, done, names),
    leak_section(outcome.leaks),
  ]


def run_sections(done: Mapping[str, Done], names: Names, *, data_dir: str | None) -> list[Element]:
  """What the subsets of the test images show: the report of their run."""
  name = f"{names.architecture}-analysis"
  if name not in done:
    return []
  store = results.open(str(done[names.orders("test")].folder))
  inputs = read_inputs(
    store,
    analysis_dir=str(done[name].folder),
    seed=0,
    controls_dir=find_controls(done, f"{names.architecture}-controls"),
  )
  classifier = str(done[names.full(0)].product)
  shown = program.read_shown(inputs, num_images=NUM_SHOWN, checkpoint=classifier, data_dir=data_dir)
  return program.make_sections(inputs, shown)


def find_controls(done: Mapping[str, Done], name: str) -> str | None:
  """The folder of a stage of controls; None if that is not done."""
  return str(done[name].folder) if name in done else None


def smallest_section(done: Mapping[str, Done], names: Names) -> Element | None:
  name = f"{names.full(0)}-smallest"
  if f"{names.architecture}-smallest-controls" not in done:
    return None
  store = results.open(str(done[name].folder))
  controls_dir = find_controls(done, f"{names.architecture}-smallest-controls")
  inputs = read_inputs(store, analysis_dir=None, seed=0, controls_dir=controls_dir)
  certificates = page.paragraph(sizes.describe_certificates(inputs))
  found: list[Element] = [controls.describe_in_a_line(inputs, "smallest"), certificates]
  if inputs.controls is not None:
    found += [controls.make_kind(inputs.controls, kind) for kind in inputs.controls.kinds.values()]
    found.append(controls.draw(inputs.controls))
  return page.section(
    "The smallest evidence", name="smallest-evidence", answer=sizes.describe_headline(inputs, "smallest"), blocks=found
  )


def disjoint_section(done: Mapping[str, Done], names: Names) -> Element | None:
  name = f"{names.full(0)}-disjoint"
  if name not in done:
    return None
  answer = read_answer(done, name, "disjoint.json")
  blocks = [page.paragraph(answer["reading"])]
  path = done[name].folder / "disjoint.png"
  if path.exists():
    caption = "How many disjoint subsets images have, how large they are, and how often the classifier is right."
    blocks.append(page.figure(page.Picture(png=path.read_bytes(), alt=caption), caption, is_wide=True))
  number = read_record(Estimate, answer["number"])
  return page.section(
    "Disjoint subsets",
    name="disjoint-subsets",
    answer=f"An image has {show(number)} disjoint sufficient subsets in the mean of "
    f"{number.num_images} images: separate reasons for one answer.",
    blocks=blocks,
  )


def attributions_section(done: Mapping[str, Done], names: Names) -> Element | None:
  name = f"{names.architecture}-attributions"
  if name not in done:
    return None
  answer = read_answer(done, name, "attributions.json")
  rows = [
    [
      method["title"],
      f"{method['with_subset']['count']} of {method['with_subset']['num_images']}",
      show(read_record(Estimate, method["pixels"])),
      show(read_record(Estimate, method["difference"]), "+.1f") if place else "",
      *(
        DASH if method[area] is None else format(read_record(Estimate, method[area]), ".3f")
        for area in ("insertion_area", "deletion_area")
      ),
    ]
    for place, method in enumerate(answer["methods"].values())
  ]
  caption = "Size at the threshold, insertion and deletion area of each order."
  picture = page.Picture(png=(done[name].folder / "attributions.png").read_bytes(), alt=caption)
  return page.section(
    "Beside attributions",
    name="beside-attributions",
    answer=f"How many pixels of each order suffice for {answer['threshold']:g}: {answer['num_images']} images.",
    blocks=[
      page.paragraph(answer["reading"]),
      page.figure(picture, caption, is_wide=True),
      page.table(
        "Mean pixels, those minus the first order's, and areas, with 95 % bootstrap intervals.",
        ("order", "images with a subset", "pixels", "minus the first", "insertion area", "deletion area"),
        rows,
      ),
    ],
  )


def sample_section(outcome: Outcome, done: Mapping[str, Done], names: Names) -> Element | None:
  if not outcome.samples:
    return None
  blocks = [
    page.paragraph(
      "Exact backward selection evaluates an image of 1,024 pixels 524,800 times, so these are samples of the first "
      "test images, the smaller the dearer the search. Screened selection tries the pixels that seem to matter "
      f"least one by one, {Screened().candidates} a step, and stands between gradient and exact."
    )
  ]
  for what, sample in outcome.samples.items():
    blocks += describe_sample(what, sample, done[f"{names.architecture}-{what}-compared"].folder)
  compared = [sample["comparison"] for sample in outcome.samples.values()]
  left_out = [heading for what, heading in SAMPLES.items() if what not in outcome.samples]
  if left_out:
    blocks.append(page.paragraph(f"Not done yet: {'; '.join(left_out)}.", kind="note"))
  return page.section(
    "What exact orders change",
    name="what-exact-orders-change",
    answer=" ".join(filter(None, map(summarise_sample, compared))) or "Too few images have a subset to say.",
    blocks=blocks,
  )


def summarise_sample(comparison: Mapping[str, Any]) -> str | None:
  """First and last search of a sample at the first threshold where enough images have a subset; None without one."""
  for threshold, group in itertools.groupby(comparison["sizes"], lambda compared: compared["threshold"]):
    first, *_, last = group
    difference = read_record(Estimate, last["difference"])
    if difference.low is not None:
      pixels = [show(read_record(Estimate, one["pixels"])) for one in (first, last)]
      return (
        f"Pixels for {threshold:g} on {difference.num_images} of {comparison['num_images']} images: {pixels[0]} by "
        f"{first['label']}, {pixels[1]} by {last['label']}."
      )
  return None


def describe_sample(what: str, sample: dict[str, Any], folder: pathlib.Path) -> list[Element]:
  overlaps = [
    [
      f"{overlap['first']} and {overlap['second']}",
      f"{overlap['observed']['mean']:.2f}" if overlap["observed"]["mean"] is not None else "-",
      f"{overlap['expected']:.2f}" if overlap["expected"] is not None else "-",
    ]
    for overlap in sample["comparison"]["overlaps"]
  ]
  blocks = [
    page.table(
      f"{tables.name_sample(what, sample)}: sizes on the images that have a subset in every search at this confidence.",
      tables.SAMPLE_HEADER,
      tables.sample_rows(sample),
    ),
    page.table(
      "Where the pixels lie that each order needs most, of all images that the search did: the share of them in the "
      "outermost rows and columns.",
      tables.BORDER_HEADER,
      tables.border_rows(sample),
    ),
    page.table(
      "How far two searches' subsets are the same: pixels in both divided by pixels in either, and what chance gives.",
      ("searches", "found", "chance"),
      overlaps,
    ),
  ]
  positions = folder / "positions.png"
  if positions.exists():
    caption = "Where the subsets and the last 5 % lie by each search. Where probabilities tie, raster order decides."
    blocks.append(page.figure(page.Picture(png=positions.read_bytes(), alt=caption), caption, is_wide=True))
  return blocks


def leak_section(leaks: Sequence[Leak]) -> Element | None:
  if not leaks:
    return None
  by_shape = sorted(
    (leak for leak in leaks if "shape_white" in leak.by_name),
    key=lambda leak: leak.by_name["shape_white"].value or 0.0,
  )
  answer = "The same controls of every search."
  if by_shape:
    least, most = (
      f"{leak.by_name['shape_white']:.0%} ({leak.run}, {leak.kind})" for leak in (by_shape[0], by_shape[-1])
    )
    answer = f"The shape of the mask alone, painted white, keeps the class in {least} to {most} of the subsets."
  block = page.table(
    "In brackets 95 % intervals. With no other fill: of the subsets that reach the threshold, those that do so on the "
    "search's own fill alone. The others: the share that keeps its class.",
    tables.LEAK_HEADER,
    tables.leak_rows(leaks),
    num_text_columns=2,
  )
  return page.section("What leaks, by search", name="what-leaks-by-search", answer=answer, blocks=[block])
