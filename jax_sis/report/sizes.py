"""What the model needs, and how little that is: the first section of a report."""

from collections.abc import Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from jax_sis.display import page
from jax_sis.report import figures
from jax_sis.report.controls import describe_in_a_line
from jax_sis.report.inputs import Certificates, Inputs
from jax_sis.report.words import (
  KIND_NAMES,
  ONE_OF_KIND,
  STATUS_WORDS,
  capitalise,
  name_unit,
  tell_claim,
  tell_count,
  tell_median,
)
from jax_sis.results.schema import KIND_TITLES, QUESTION_KINDS
from jax_sis.runs.status import describe_search
from jax_sis.statistics.estimates import DASH, show
from jax_sis.studies.analysis.panels import sizes_of
from jax_sis.studies.analysis.sizes import Sizes

# The table of more classes is folded.
MAX_OPEN_CLASSES = 20
# Of more classes without an image only the number is given.
MAX_FOLDED_CLASSES = 100
PLAIN_HEADER = ("images", "with a subset [95%]", "mean size [95%]", "of the image", "median [95%]", "5% to 95%")


def make_section(inputs: Inputs, beside: Sequence[Element] = ()) -> Element:
  """The section; `beside` stands behind the tables of all sizes."""
  first = inputs.kinds[0]
  blocks = []
  # What is said of several kinds of subset in the same words stands once, below the last of them.
  notes = {ElementTree.tostring(note): note for note in (describe_in_a_line(inputs, kind) for kind in inputs.kinds)}
  for answer in inputs.kinds:
    blocks += [page.paragraph(describe_headline(inputs, answer), kind="answer")] if answer != first else []
    blocks += [describe_in_a_line(inputs, answer)] if len(notes) > 1 else []
  blocks += [] if len(notes) > 1 else notes.values()
  blocks.append(page.paragraph(describe_certificates(inputs)))
  blocks.append(page.paragraph(describe_search_limits(inputs), kind="soft"))
  blocks += [make_sizes_table(inputs), make_status_table(inputs), *beside]
  blocks += [make_of_kind(inputs, answer) for answer in inputs.kinds if sizes_of(inputs.analysis, answer)]
  return page.section(
    "What the model needs, and how little that is", answer=describe_headline(inputs, first), blocks=blocks, name="sizes"
  )


def own_sizes(inputs: Inputs, answer: str) -> Sizes:
  """The sizes of a kind at the run's own threshold, which come first."""
  return next(sizes for sizes in inputs.analysis.sizes if sizes.answer == answer)


def describe_headline(inputs: Inputs, answer: str) -> str:
  sizes = own_sizes(inputs, answer)
  unit = name_unit(inputs)
  what = f"{ONE_OF_KIND[answer]}, {unit} that {tell_claim(inputs, answer)}"
  if sizes.mean_share is None:
    return f"None of {tell_count(sizes.with_subset.num_images, 'image')} has {what}."
  return (
    f"{sizes.with_subset:.1%} of {tell_count(sizes.with_subset.num_images, 'image')} have {what}: on average "
    f"{sizes.pixels:.1f} {unit}, {sizes.mean_share:.1%} of the image, with a median of {tell_median(sizes)} "
    f"({tell_count(sizes.with_subset.count or 0, 'image')} with a subset)."
  )


def describe_search_limits(inputs: Inputs) -> str:
  spec = inputs.spec
  found = {answer: spec["search" if answer in ("sis", "robust") else "smallest"] for answer in inputs.kinds}
  searches = [
    f"{KIND_NAMES[answer]} by {describe_search(found[answer], spec['threshold'])}"
    for answer in inputs.kinds
    if answer != "optimum"
  ]
  return (
    f"Found: {', '.join(searches)}. Another search may find smaller ones: the sizes say how little is enough, and not "
    "how much is needed at least."
  )


def tell_question(inputs: Inputs, answer: str, certificates: Certificates) -> str:
  """The certificates of subsets that answer another question, in a sentence or two."""
  spec, count = inputs.spec, certificates.reaches.num_images
  alone = f" and reach {spec['threshold']:g} alone" if answer == "both" else ""
  sentence = (
    f"{capitalise(KIND_NAMES[answer])}: evaluated again in the highest precision, {certificates.reaches:.1%} of "
    f"{tell_count(count, 'subset')} lose the class by {spec['margin']:g} in log-odds when they alone are masked{alone}."
  )
  if certificates.is_minimal is not None:
    sentence += f" {certificates.is_minimal:.1%} are 1-minimal: without any single one they are not what is asked for."
  return f"{sentence} All of this is said under this fill."


def describe_certificates(inputs: Inputs) -> str:
  sentences = []
  for answer, certificates in inputs.certificates.items():
    count = certificates.reaches.num_images
    if not count or answer == "robust":
      continue
    if answer in QUESTION_KINDS:
      sentences.append(tell_question(inputs, answer, certificates))
      continue
    sentence = (
      f"{capitalise(KIND_NAMES[answer])}: evaluated again alone, in the highest precision, "
      f"{certificates.reaches:.1%} of {tell_count(count, 'subset')} reach {inputs.spec['threshold']:g}, "
      f"{certificates.keeps_class:.1%} keep the class, and {certificates.is_reproduced:.1%} have the "
      "confidence that the search saw."
    )
    if certificates.is_minimal is None:
      sentence += " Whether a single one could be dropped from them was not tried; --certificate full does."
    else:
      sentence += (
        f" {certificates.is_minimal:.1%} are 1-minimal: without any single one of their {name_unit(inputs)} "
        "they fall below the threshold."
      )
    sentences.append(sentence)
  return " ".join(sentences) or "There is no subset to certify."


def plain_cells(sizes: Sizes) -> list[str]:
  """The cells of PLAIN_HEADER."""
  percentiles = sizes.percentiles
  return [
    tell_count(sizes.with_subset.num_images),
    show(sizes.with_subset, ".1%"),
    f"{sizes.pixels:.1f}",
    DASH if sizes.mean_share is None else f"{sizes.mean_share:.1%}",
    tell_median(sizes),
    DASH if percentiles is None else f"{percentiles['5']:g} to {percentiles['95']:g}",
  ]


def make_sizes_table(inputs: Inputs) -> Element:
  rows = [
    [f"{KIND_TITLES[sizes.answer]} at {sizes.threshold:g}", *plain_cells(sizes)] for sizes in inputs.analysis.sizes
  ]
  caption = f"Sizes of subsets, in {name_unit(inputs)}; each image has {inputs.analysis.num_features:,}."
  return page.table(caption, ("subsets", *PLAIN_HEADER), rows)


def make_status_table(inputs: Inputs) -> Element:
  present = [name for name in STATUS_WORDS if any(sizes.status.get(name) for sizes in inputs.analysis.sizes)]
  rows = [
    [f"{KIND_TITLES[sizes.answer]} at {sizes.threshold:g}", *(f"{sizes.status.get(name, 0):,}" for name in present)]
    for sizes in inputs.analysis.sizes
  ]
  return page.table("How the search ended, in images.", ("subsets", *map(STATUS_WORDS.__getitem__, present)), rows)


def make_of_kind(inputs: Inputs, answer: str) -> Element:
  analysis = inputs.analysis
  kind, threshold = KIND_NAMES[answer], inputs.spec["threshold"]
  by_class = [sizes for sizes in analysis.sizes_by_class if sizes.answer == answer]
  medians = sorted((sizes.median, sizes.group) for sizes in by_class if sizes.median is not None)
  pictures = [
    page.figure(
      page.Picture(
        png=figures.draw_sizes(analysis, answer),
        alt=f"Cumulative distribution of the sizes of the {kind}: the median is {own_sizes(inputs, answer).median:g} "
        f"of {analysis.num_features}.",
      ),
      "Share of the images with a subset whose subset has at most this size.",
    ),
    page.figure(
      page.Picture(
        png=figures.draw_classes(analysis, answer),
        alt=f"Median and quartiles of the sizes by class, from {medians[0][1]} with a median of {medians[0][0]:g} to "
        f"{medians[-1][1]} with {medians[-1][0]:g}.",
      ),
      "Sizes by the class that the subset is for.",
    ),
  ]
  table = make_class_table(inputs, by_class, caption=f"By the class that the subset is for, at {threshold:g}.")
  if len(by_class) > MAX_OPEN_CLASSES:
    table = page.folded(f"Table of {len(by_class)} classes", [table])
  blocks = [page.beside(pictures), table]
  if analysis.classes_without_images:
    blocks.append(describe_missing_classes(analysis.classes_without_images))
  return page.section(capitalise(kind), level=3, blocks=blocks)


def make_class_table(inputs: Inputs, by_class: Sequence[Sizes], *, caption: str) -> Element:
  return page.table(
    f"{caption} Sizes in {name_unit(inputs)}.",
    ("class", *PLAIN_HEADER),
    [[sizes.group, *plain_cells(sizes)] for sizes in by_class],
  )


def describe_missing_classes(names: Sequence[str]) -> Element:
  if len(names) > MAX_FOLDED_CLASSES:
    return page.paragraph(f"No image was searched for {len(names):,} other classes.", kind="soft")
  if len(names) <= MAX_OPEN_CLASSES:
    return page.paragraph(f"No image was searched for: {', '.join(names)}.", kind="soft")
  return page.folded(f"{len(names)} classes that no image was searched for", [page.paragraph(", ".join(names))])
