"""The page of the study of photographs. It shows numbers and mean maps, and none of the photographs."""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from jax_sis.display import page
from jax_sis.reproduction import subset_sections
from jax_sis.reproduction.claims import Claim
from jax_sis.reproduction.engine import describe_seconds
from jax_sis.reproduction.imagenet import tables
from jax_sis.reproduction.imagenet.outcome import CONFIDENT, Border, Outcome
from jax_sis.reproduction.report import describe_claim, not_run_section, provenance_section

Rows = list[list[str]]
BRACKETS = (
  "In brackets 95 % intervals: Wilson's for shares, bootstrap over images for means and differences, in points."
)


def make_report(
  content: Mapping[str, Any], outcomes: Sequence[Outcome], claims: Sequence[Claim], pictures: Mapping[str, bytes]
) -> bytes:
  """The page; `content` is that of `study.json`, `pictures` are from `figure.draw_outcomes`."""
  sections = [
    claims_section(claims),
    sizes_section(outcomes),
    border_section(outcomes, pictures),
    parts_section(outcomes, pictures),
    table_section(
      "Right against wrong",
      "right-against-wrong",
      "Wrong and right predictions of the same confidence, an eighth of a decade of 1 - p wide.",
      tables.COMPARED_HEADER,
      tables.compared_rows(outcomes),
    ),
    transfer_section(outcomes),
    subset_sections.leak_section([leak for outcome in outcomes for leak in outcome.leaks]),
    not_run_section(content),
    provenance_section(content),
  ]
  blocks = [section for section in sections if section is not None]
  lead = f"{content['purpose']} {len(content['stages'])} stages, {describe_seconds(content['seconds'])} in all."
  return page.document("Overinterpretation on photographs: the study of Carter et al. on ImageNet", blocks, lead=lead)


def claims_section(claims: Sequence[Claim]) -> Element | None:
  if not claims:
    return None
  note = "Each is judged by a rule that was fixed before, on the 95 % interval of one number over images."
  return page.section(
    "What the paper says, and what the controls say of it",
    name="the-papers-claims",
    answer=f"{claims[0].claim} {claims[0].verdict.capitalize()}: {claims[0].found}",
    blocks=[page.paragraph(note, kind="soft"), *map(describe_claim, claims)],
  )


def table_section(heading: str, name: str, answer: str, header: Sequence[str], rows: Rows) -> Element | None:
  """A section of one table; None where it has no rows."""
  if not rows:
    return None
  return page.section(
    heading, name=name, answer=answer, blocks=[page.table(BRACKETS, header, rows, num_text_columns=2)]
  )


def transfer_section(outcomes: Sequence[Outcome]) -> Element | None:
  found = [one for outcome in outcomes for one in outcome.shown_to]
  answers = [
    f"Shown the 10 % that {one.chooser} needs, {one.label} keeps the class that both see on {one.kept['needed']:.0%} "
    f"of the images, on {one.kept['own']:.0%} shown its own."
    for one in found
  ]
  section = table_section(
    "From one classifier to another",
    "transfer",
    " ".join(answers),
    tables.SHOWN_HEADER,
    tables.shown_rows(outcomes),
  )
  if section is not None:
    section.append(
      page.paragraph(
        "By chance two choices of 10 % have 10 % of their pixels in common. Pixels moved elsewhere keep the mask's "
        "shape and lose its place.",
        kind="soft",
      )
    )
  return section


def sizes_section(outcomes: Sequence[Outcome]) -> Element:
  first = outcomes[0]
  answer = (
    f"On the {first.num_confident} of {first.num_images} images that {first.label} is sure of at "
    f"{first.sizes[0].threshold:g}, {first.sizes[0].mean:.1%} of the pixels suffice in the mean."
  )
  certified = [
    f"{outcome.label}: evaluated again alone, {outcome.certified:.1%} of the subsets reach the threshold, and "
    f"{outcome.certified_class:.1%} keep the class. Of the labelled images {outcome.right:.1%} are classified rightly."
    for outcome in outcomes
  ]
  return page.section(
    "How few pixels suffice",
    name="sizes",
    answer=answer,
    blocks=[page.table(BRACKETS, tables.SIZE_HEADER, tables.size_rows(outcomes)), *map(page.paragraph, certified)],
  )


def border_section(outcomes: Sequence[Outcome], pictures: Mapping[str, bytes]) -> Element:
  first = next(one for one in outcomes[0].border if one.images == CONFIDENT)
  maps = [
    page.figure(
      page.Picture(png=png, alt=f"The map {name}: how often each pixel is kept."), "White: the border's edge."
    )
    for name, png in pictures.items()
    if "-map-" in name
  ]
  return page.section(
    "Where the 10 % needed most lie",
    name="border",
    answer=f"In {outcomes[0].label} {first.share:.1%} of them lie in the border, the outer 11 of 224 pixels, which "
    f"holds {first.even:.1%} of the area. {describe_random_class(first)}",
    blocks=[
      page.table(BRACKETS, tables.BORDER_HEADER, tables.border_rows(outcomes), num_text_columns=2),
      page.beside(maps),
    ],
  )


def describe_random_class(border: Border) -> str:
  """Whether the border has to do with the class, in words."""
  if border.random_class is None or border.over_random_class is None:
    return "For a class at random it is not known yet."
  told = {
    1: "So the border holds more of the class's own evidence than of a search's habits",
    0: "No difference is shown, so that the border is no evidence of the class",
    -1: "So the border is preferred less for the class that is seen",
  }[border.over_random_class.is_beyond()]
  return (
    f"For a class at random it is {border.random_class:.1%}, on {border.random_class.num_images} images spread over "
    f"those {CONFIDENT}. {told}."
  )


def parts_section(outcomes: Sequence[Outcome], pictures: Mapping[str, bytes]) -> Element | None:
  found = [outcome for outcome in outcomes if outcome.parts]
  if not found:
    return None
  kept = {part.what: part.kept for part in found[0].parts if part.images == CONFIDENT}
  of_random = found[0].random_class
  picture = page.Picture(png=pictures["parts.png"], alt="How often each part keeps the class, as in the table below.")
  return page.section(
    "What each part says by itself",
    name="parts",
    answer=f"{found[0].label} keeps the class on {kept['needed']:.0%} of the images of which it is shown the 10 % "
    f"needed most, on {kept['border']:.0%} shown the border alone, {kept['centre']:.0%} a centre of that area, "
    f"{kept['pixels']:.0%} 10 % at random."
    + (
      "" if of_random is None else f" The 10 % found for a class at random make it say that on {of_random.reached:.0%}."
    ),
    blocks=[
      page.figure(picture, f"Images {CONFIDENT}; bars are 95 % intervals."),
      page.table(BRACKETS, tables.PART_HEADER, tables.part_rows(found), num_text_columns=3),
      page.table(
        f"The 10 % that a class at random needs most, shown alone. {BRACKETS}",
        tables.RANDOM_HEADER,
        tables.random_rows(found),
      ),
    ],
  )
