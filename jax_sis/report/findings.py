"""Where subsets lie, wrong against right predictions, and confidence along the removal: sections of a report."""

from collections.abc import Sequence
from xml.etree.ElementTree import Element

import numpy as np

from jax_sis.display import page
from jax_sis.display.style import format_p
from jax_sis.report import figures
from jax_sis.report.inputs import Inputs
from jax_sis.report.words import KIND_NAMES, capitalise, find_left_out, name_unit, name_what, tell_count
from jax_sis.results.schema import KIND_TITLES
from jax_sis.statistics.estimates import DASH, show
from jax_sis.studies.analysis.confidence_curves import Curve, Removal
from jax_sis.studies.analysis.panels import describe_what
from jax_sis.studies.analysis.positions import Positions
from jax_sis.studies.analysis.run import Correctness
from jax_sis.studies.analysis.tables import PRINTED_SHARES

# The share of the image in the headline of the section on removal.
HEADLINE_SHARE = 0.05


def make_positions(inputs: Inputs) -> Element:
  analysis, unit = inputs.analysis, name_unit(inputs)
  found = [positions for positions in analysis.positions if positions.num_images]
  left_out = [page.paragraph(f"Left out: {text}.", kind="note") for text in find_left_out(analysis, "positions of")]
  heading, name = "Where it lies", "positions"
  if not found:
    return page.section(heading, answer="Not known: there are no subsets to look at.", blocks=left_out, name=name)
  rows = [
    [
      capitalise(name_what(positions.what, analysis, unit=unit)),
      tell_count(positions.num_images),
      f"{positions.mean_row:.1f}",
      f"{positions.even_row:g}",
      f"{positions.mean_column:.1f}",
      f"{positions.even_column:g}",
      f"{positions.border.percent:.1f}",
      f"{100 * positions.even_border:.1f}",
      tell_unevenness(positions),
      tell_test(positions),
    ]
    for positions in found
  ]
  header = (
    "which",
    "images",
    "mean row [95%]",
    "if even",
    "mean column [95%]",
    "if even",
    "at the border, % [95%]",
    "if even",
    "unevenness",
    "even use",
  )
  caption = (
    "Rows are counted from 0 at the top, columns from 0 at the left; the border are the outermost ones. Unevenness: "
    "how far the counts of the places are apart, 1 were each image's subset moved to a random place; the last column "
    "is the test of that."
  )
  pictures = [draw_place(inputs, positions) for positions in found]
  table = page.table(caption, header, rows)
  return page.section(
    heading, answer=describe_place(inputs, found[0]), blocks=[page.beside(pictures), table, *left_out], name=name
  )


def tell_unevenness(positions: Positions) -> str:
  evenness = positions.evenness
  return f"{evenness.dispersion:.3g}" if evenness.dispersion is not None else evenness.reason or DASH


def tell_test(positions: Positions) -> str:
  return DASH if positions.evenness.p_value is None else format_p(positions.evenness.p_value)


def describe_place(inputs: Inputs, positions: Positions) -> str:
  what = capitalise(name_what(positions.what, inputs.analysis, unit=name_unit(inputs)))
  height, width = len(positions.shares), len(positions.shares[0])
  return (
    f"{what}: their mean row is {positions.mean_row:.1f} of 0 to {height - 1} ({positions.even_row:g} in even use), "
    f"their mean column {positions.mean_column:.1f} of 0 to {width - 1} ({positions.even_column:g}), and "
    f"{positions.border.percent:.1f} % of their {name_unit(inputs)} are in the outermost rows and columns "
    f"({100 * positions.even_border:.1f} %); unevenness, 1 for subsets at random places: {tell_unevenness(positions)} "
    f"({tell_test(positions)}); {tell_count(positions.num_images, 'image')}."
  )


def draw_place(inputs: Inputs, positions: Positions) -> Element:
  shares = np.array(positions.shares)
  row, column = np.unravel_index(shares.argmax(), shares.shape)
  name = name_what(positions.what, inputs.analysis, unit=name_unit(inputs))
  picture = page.Picture(
    png=figures.draw_positions(positions, describe_what(positions.what, inputs.analysis)),
    alt=f"Map of how often each place is among {name}: most often row {row}, column {column}, in "
    f"{shares.max():.1%} of {tell_count(positions.num_images, 'image')}; least often in {shares.min():.1%}.",
  )
  return page.figure(picture, f"{capitalise(name)}: orange places are used less than evenly, violet ones more.")


def make_correctness(inputs: Inputs) -> Element:
  analysis = inputs.analysis
  heading, name = "Wrong against right predictions", "correctness"
  found = [one for one in analysis.correctness if one.num_images]
  trust = analysis.trust
  model = f"The model is right in {trust.accuracy:.1%} of {tell_count(trust.accuracy.num_images, 'image')}"
  if trust.mean_confidence is not None and trust.expected_calibration_error is not None:
    model += (
      f", with a mean confidence of {trust.mean_confidence:.3f} and an expected calibration error of "
      f"{trust.expected_calibration_error:.3f}"
    )
  blocks = [page.paragraph(f"{model}.")]
  if not found:
    reasons = find_left_out(analysis, "size against correctness") or ["no image has a subset and a label"]
    return page.section(heading, answer=f"Not known: {'; '.join(reasons)}.", blocks=blocks, name=name)
  own = first_of_each_kind(found)
  blocks.append(make_matched_table(inputs, found))
  for one in own:
    blocks += [page.beside(draw_correctness(inputs, one)), make_bins_table(inputs, one)]
  return page.section(heading, answer=describe_matched(inputs, found[0]), blocks=blocks, name=name)


def first_of_each_kind(found: Sequence[Correctness]) -> list[Correctness]:
  """Those at the run's own threshold, which come first."""
  return list({one.answer: one for one in reversed(found)}.values())[::-1]


def describe_matched(inputs: Inputs, correctness: Correctness) -> str:
  matched = correctness.matched
  return (
    f"Size of wrong minus right predictions of the same confidence: {matched.difference:.1f} {name_unit(inputs)} "
    f"({KIND_NAMES[correctness.answer]}, {matched.num_wrong:,} wrong and {matched.num_right:,} right of "
    f"{tell_count(correctness.num_images, 'image')}); below 0, wrong predictions rest on smaller subsets, and an "
    "interval that holds 0 shows no difference."
  )


def make_matched_table(inputs: Inputs, found: Sequence[Correctness]) -> Element:
  """Wrong minus right, by kind and threshold."""
  rows = [
    [
      f"{KIND_TITLES[one.answer]} at {one.threshold:g}",
      f"{one.matched.num_wrong:,}",
      f"{one.matched.num_right:,}",
      f"{one.matched.num_left_out:,}",
      f"{one.matched.difference:.1f}",
      f"{one.matched.unmatched:.1f}",
    ]
    for one in found
  ]
  caption = f"Size of the subsets of wrong predictions minus that of right ones, in {name_unit(inputs)}."
  header = ("subsets", "wrong", "right", "without a match", "same confidence [95%]", "any confidence [95%]")
  return page.table(caption, header, rows)


def draw_correctness(inputs: Inputs, correctness: Correctness) -> list[Element]:
  bins, kind = correctness.accuracy_by_size, KIND_NAMES[correctness.answer]
  accuracy = page.Picture(
    png=figures.draw_accuracy(inputs.analysis, correctness),
    alt=f"Accuracy by size of the {kind}: from {bins[0].accuracy:.1%} of the smallest to "
    f"{bins[-1].accuracy:.1%} of the largest.",
  )
  drawn = [page.figure(accuracy, "Filled: accuracy with its 95% interval; hollow: mean confidence of the same images.")]
  if correctness.matched.difference.value is not None:
    differences = page.Picture(
      png=figures.draw_differences(inputs.analysis, correctness.answer),
      alt=f"Size of wrong minus right predictions of the same confidence, by threshold; at {correctness.threshold:g} "
      f"{correctness.matched.difference:.1f} {name_unit(inputs)}.",
    )
    drawn.append(page.figure(differences, f"{capitalise(kind)}: below 0, wrong predictions rest on smaller subsets."))
  return drawn


def make_bins_table(inputs: Inputs, correctness: Correctness) -> Element:
  rows = [
    [
      f"{one.smallest:,}" + (f" to {one.largest:,}" if one.largest > one.smallest else ""),
      f"{one.accuracy.num_images:,}",
      show(one.accuracy, ".1%"),
      f"{one.mean_confidence:.4f}",
    ]
    for one in correctness.accuracy_by_size
  ]
  caption = f"How often the model is right, by the size of the {KIND_NAMES[correctness.answer]}."
  return page.table(caption, (name_unit(inputs), "images", "accuracy [95%]", "mean confidence"), rows)


def make_removal(inputs: Inputs) -> Element:
  heading, name = "Confidence along the removal", "removal"
  removal = inputs.analysis.removal
  if removal is None or not removal.curves:
    reasons = find_left_out(inputs.analysis, "confidence along") or ["no image has an order"]
    return page.section(heading, answer=f"Not known: {'; '.join(reasons)}.", blocks=[], name=name)
  places = list(dict.fromkeys(nearest(removal, share) for share in PRINTED_SHARES))
  rows = [
    [curve_name(curve), tell_count(curve.num_images), *(f"{curve.mean[place]:.3f}" for place in places)]
    for curve in removal.curves
  ]
  table = page.table(
    f"Mean confidence with so much of the image kept, the {name_unit(inputs)} that are needed most.",
    ("images", "number", *(f"{removal.shares[place]:.1%}" for place in places)),
    rows,
  )
  threshold = inputs.spec["threshold"]
  picture = page.Picture(
    png=figures.draw_removal(removal, threshold=threshold),
    alt="; ".join(
      f"{curve_name(curve)}: mean confidence "
      + ", ".join(f"{curve.mean[place]:.2f} with {removal.shares[place]:.1%} kept" for place in places)
      for curve in removal.curves
    ),
  )
  caption = f"Lines: means, bands: quartiles, marks on the right: nothing kept, dotted: the threshold, {threshold:g}."
  return page.section(
    heading, answer=describe_removal(inputs, removal), blocks=[page.figure(picture, caption), table], name=name
  )


def nearest(removal: Removal, share: float) -> int:
  """The point of the curves nearest to a share of the image."""
  return int(np.abs(np.array(removal.shares) - share).argmin())


def curve_name(curve: Curve) -> str:
  return {"all": "All images"}.get(curve.group, f"{capitalise(curve.group)} predictions")


def describe_removal(inputs: Inputs, removal: Removal) -> str:
  curve = next((one for one in removal.curves if one.group == "all"), removal.curves[0])
  place, nothing, everything = nearest(removal, HEADLINE_SHARE), nearest(removal, 0), nearest(removal, 1)
  return (
    f"With the {removal.shares[place]:.1%} of the {name_unit(inputs)} kept that are needed most, the mean confidence "
    f"is {curve.mean[place]:.3f}, against {curve.mean[everything]:.3f} with {removal.shares[everything]:.0%} and "
    f"{curve.mean[nothing]:.3f} with {removal.shares[nothing]:.0%} kept ({tell_count(curve.num_images, 'image')})."
  )
