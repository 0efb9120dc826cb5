"""What `jax-sis controls` found of chance and leaks, in a line and as a section."""

import shlex
from collections.abc import Mapping
from xml.etree.ElementTree import Element

from jax_sis.display import page
from jax_sis.report import figures
from jax_sis.report.inputs import ClassControls, Controls, Inputs, KindControls
from jax_sis.report.words import capitalise, tell_count
from jax_sis.statistics.estimates import DASH, show, show_percent
from jax_sis.studies.controls.summaries import ControlSummary
from jax_sis.studies.controls.tables import note_similar_fills
from jax_sis.studies.controls.views import CONTROLS, SUBSET
from jax_sis.studies.controls.wrong_class import CLASS_TITLES, PREDICTED

HEADER = ("shown to the classifier", "images", "keeps the class [95%]", "reaches the threshold [95%]", "confidence")
CHANGE = "change of the class kept, in points [95%]"


def make_command(inputs: Inputs) -> str:
  """The shortest command line that runs the controls, for people to type."""
  return shlex.join(["jax-sis", "controls", inputs.store.folder.location])


def describe_in_a_line(inputs: Inputs, answer: str) -> Element:
  """What stands beside the headline number of one kind of subset."""
  controls = inputs.controls
  if controls is None or answer not in controls.kinds:
    reason = inputs.no_controls or "they were run without these subsets"
    return page.paragraph(
      page.strong("Leak controls: none"),
      f" ({reason}). Whether these subsets work by what they show, or by their shape and by what fills the rest, is "
      "not known; to see it, run ",
      page.code(make_command(inputs)),
      kind="note",
    )
  kind = controls.kinds[answer]
  by_name = name_summaries(kind)
  fills = kind.fills
  return page.paragraph(
    page.strong(f"Leak controls, {tell_count(kind.num_images, 'subset')}: "),
    f"{show(fills.one_fill_only, '.0%')} of {tell_count(fills.num_images)} reach {controls.threshold:g} on no "
    f"fill but the search's own, {show(fills.every_fill, '.0%')} on every other one that was tried. The white "
    f"shape of the subset alone keeps the class in {tell_kept(by_name, 'shape_white')}, moved elsewhere in "
    f"{tell_kept(by_name, 'moved_white')}; as many at random keep it in {tell_kept(by_name, 'random')}.",
    kind="note",
  )


def name_summaries(kind: KindControls) -> dict[str, ControlSummary]:
  return {summary.name: summary for summary in kind.controls}


def tell_kept(by_name: Mapping[str, ControlSummary], name: str) -> str:
  summary = by_name.get(name)
  return show(summary and summary.keeps_class, ".0%")


def make_section(inputs: Inputs) -> Element:
  heading, name = "How far from chance, and from what leaks", "controls"
  controls = inputs.controls
  if controls is None or not controls.kinds:
    reason = inputs.no_controls or "they hold no subsets"
    return page.section(
      heading,
      answer=f"Not known: there are no leak controls of this run ({reason}).",
      blocks=[
        page.paragraph(
          "A subset may convince a classifier by more than its pixels: by the shape of the mask, by its edges, by the "
          "colour that fills the rest. This shows each subset with one of these changed at a time:"
        ),
        page.command(make_command(inputs)),
      ],
      name=name,
    )
  first = next(iter(controls.kinds.values()))
  return page.section(
    heading,
    answer=describe_answer(first),
    blocks=[
      *(make_kind(controls, kind) for kind in controls.kinds.values()),
      draw(controls),
      make_classes(controls.wrong_class, controls.threshold),
      page.paragraph(controls.fill_rule, kind="soft"),
    ],
    name=name,
  )


def describe_answer(kind: KindControls) -> str:
  by_name = name_summaries(kind)
  return (
    f"Of {tell_count(kind.num_images, 'subset')} ({kind.title}), {tell_kept(by_name, SUBSET)} keep the class by "
    f"themselves; as many at random do so in {tell_kept(by_name, 'random')}, the same shape moved elsewhere in "
    f"{tell_kept(by_name, 'moved')}, their white shape alone in {tell_kept(by_name, 'shape_white')}, nothing at all in "
    f"{tell_kept(by_name, 'empty')}."
  )


def make_kind(controls: Controls, kind: KindControls) -> Element:
  rows = [
    [
      CONTROLS[summary.name].title,
      tell_count(summary.num_images),
      show(summary.keeps_class, ".1%"),
      show(summary.is_sufficient, ".1%"),
      DASH if summary.confidence is None else f"{summary.confidence:.4f}",
      DASH if summary.name == SUBSET else show_percent(summary.keeps_class_change, "+.1f"),
    ]
    for summary in kind.controls
  ]
  similar = note_similar_fills(kind.controls)
  table = page.table(
    f"{capitalise(kind.title)}: what is left of the answer when a subset is changed, threshold {controls.threshold:g}.",
    (*HEADER, CHANGE),
    rows,
  )
  blocks = [page.paragraph(kind.reading), table, *([page.paragraph(f"{similar}.", kind="soft")] if similar else [])]
  return page.section(f"{capitalise(kind.title)}, {tell_count(kind.num_images, 'image')}", level=3, blocks=blocks)


def draw(controls: Controls) -> Element:
  kinds = {f"{kind.title}, {tell_count(kind.num_images, 'image')}": kind.controls for kind in controls.kinds.values()}
  shares = [
    f"{heading}: {', '.join(f'{CONTROLS[one.name].title} {tell_kept({one.name: one}, one.name)}' for one in summaries)}"
    for heading, summaries in kinds.items()
  ]
  return page.figure(
    page.Picture(png=figures.draw_controls(kinds), alt=f"Share of images that keep their class. {'. '.join(shares)}."),
    "Share of the images that keep their class under each control; black lines: 95% intervals.",
  )


def make_classes(wrong_class: ClassControls | None, threshold: float) -> Element:
  heading = "Evidence for other classes"
  if wrong_class is None:
    text = "Not looked for: the controls were run with --wrong-class 0."
    return page.section(heading, level=3, blocks=[page.paragraph(text)])
  rows = [
    [
      CLASS_TITLES[one.name],
      tell_count(one.found.num_images),
      show(one.found, ".1%"),
      DASH if one.median_size is None else f"{one.median_size:g}",
      DASH
      if one.name == PREDICTED or one.size_change is None
      else f"{one.size_change:+.1f} on {one.size_change.num_images}",
    ]
    for one in wrong_class.classes
  ]
  caption = f"The smallest evidence for a class, at {threshold:g}, of at most {wrong_class.max_features} cells."
  header = ("evidence for", "images", "found [95%]", "median size", "mean size, change [95%]")
  return page.section(heading, level=3, blocks=[page.paragraph(wrong_class.reading), page.table(caption, header, rows)])
