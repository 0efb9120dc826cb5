"""Leak controls as text: a table for each kind of subset, and the numbers that it lacks."""

import textwrap
from collections.abc import Sequence

from jax_sis.statistics.estimates import DASH, show, show_percent
from jax_sis.studies.controls.summaries import OTHER_FILL_DISTANCE, ControlSummary, FillSummary
from jax_sis.studies.controls.views import CONTROLS, SUBSET
from jax_sis.studies.controls.wrong_class import CLASS_TITLES, PREDICTED, TowardsSummary

LINE = "{:<29} {:>6}  {:<21}  {:<21}  {:>10}  {:<22}"


def make_table(summaries: Sequence[ControlSummary], threshold: float) -> str:
  titles = ("shown", "images", "keeps the class, %", f"at {threshold:g}, %", "confidence", "class kept, change")
  lines = [LINE.format(*titles)]
  for summary in summaries:
    lines.append(
      LINE.format(
        CONTROLS[summary.name].title,
        summary.num_images,
        show_percent(summary.keeps_class),
        show_percent(summary.is_sufficient),
        DASH if summary.confidence is None else f"{summary.confidence:.4f}",
        DASH if summary.name == SUBSET else show_percent(summary.keeps_class_change, "+.1f"),
      )
    )
  return "\n".join(line.rstrip() for line in lines)


def note_similar_fills(summaries: Sequence[ControlSummary]) -> str:
  """Which fills are nearly that of the search, in a line; empty where none is."""
  titles = [
    f"{CONTROLS[summary.name].title} ({summary.fill_distance:.2f})"
    for summary in summaries
    if CONTROLS[summary.name].group == "fill" and summary.fill_distance is not None and not summary.is_other_fill
  ]
  if not titles:
    return ""
  return (
    f"Nearly the search's own fill (median distance in normalised units, below {OTHER_FILL_DISTANCE:g}): "
    f"{', '.join(titles)}"
  )


def describe_controls(summaries: Sequence[ControlSummary], fill_summary: FillSummary, threshold: float) -> str:
  kept = {summary.name: show(summary.keeps_class, ".0%") for summary in summaries}
  by_name = {summary.name: summary for summary in summaries}
  one_only, every, of_class = (
    show(share, ".0%") for share in (fill_summary.one_fill_only, fill_summary.every_fill, fill_summary.one_fill_class)
  )
  return (
    f"Of {by_name[SUBSET].num_images} subsets, {kept[SUBSET]} keep the class by themselves and "
    f"{show(by_name[SUBSET].is_sufficient, '.0%')} reach {threshold:g}. Of the {fill_summary.num_images} that reach it "
    f"and leave something to fill, {one_only} reach it with no fill that differs from the search's, and {every} with "
    f"every one. Of those that keep the class, {of_class} keep it with no fill that differs. The white shape alone "
    f"keeps it in {kept['shape_white']}, moved elsewhere in {kept['moved_white']}; the difference in points is "
    f"{show_percent(by_name['shape_white'].keeps_class_over_reference, '+.1f')}."
  )


def make_class_table(summaries: Sequence[TowardsSummary]) -> str:
  form = "{:<39} {:>6}  {:<21}  {:>11}  {:<28}"
  lines = [form.format("evidence for", "images", "found, %", "median size", "mean size, change")]
  for summary in summaries:
    change = summary.size_change
    compared = DASH
    if change is not None and summary.name != PREDICTED:
      compared = f"{change:+.1f} on {summary.num_paired}"
    lines.append(
      form.format(
        CLASS_TITLES[summary.name],
        summary.found.num_images,
        show_percent(summary.found),
        DASH if summary.median_size is None else f"{summary.median_size:g}",
        compared,
      )
    )
  return "\n".join(line.rstrip() for line in lines)


def describe_classes(summaries: Sequence[TowardsSummary], *, max_features: int, threshold: float) -> str:
  found = ", ".join(f"for {CLASS_TITLES[summary.name]} on {summary.found:.0%}" for summary in summaries)
  return (
    f"The search, which adds at most {max_features} cells, makes a class {threshold:g} probable {found} of "
    f"{summaries[0].found.num_images} images; a change in size whose interval holds 0 shows no difference."
  )


def wrap(paragraph: str) -> str:
  return textwrap.fill(paragraph, 118)
