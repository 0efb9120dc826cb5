"""The report of a study: one HTML page, with what was found first and how it was made last."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from jax_sis.core.searches import Gradient
from jax_sis.display import page
from jax_sis.reproduction import subset_sections, tables
from jax_sis.reproduction.claims import AGREES, DISAGREES, NOT_JUDGED, OPEN, Claim
from jax_sis.reproduction.engine import Done, describe_seconds
from jax_sis.reproduction.figure import ANSWER_HEADINGS, picture_name
from jax_sis.reproduction.names import Names
from jax_sis.reproduction.outcome import Outcome
from jax_sis.reproduction.presets import Preset
from jax_sis.statistics.estimates import show_percent

UNKNOWN = "a commit that was not recorded"


def make_report(
  content: Mapping[str, Any],
  preset: Preset,
  outcomes: Sequence[Outcome],
  done: Mapping[str, Done],
  pictures: Mapping[str, bytes],
  *,
  data_dir: str | None,
) -> bytes:
  """The page; `content` is that of `study.json`, `pictures` are from `figure.draw_outcome`."""
  blocks: list[Element] = []
  if preset.is_plumbing:
    blocks.append(page.paragraph(page.strong(preset.purpose), kind="note"))
  for outcome in outcomes:
    names = Names(architecture=outcome.architecture)
    sections = [
      claims_section(preset, outcome),
      cells_section(preset, outcome, pictures),
      echo_section(outcome),
      transfer_section(preset, outcome),
      mitigation_section(preset, outcome, pictures),
      *subset_sections.make_sections(outcome, done, names, data_dir=data_dir),
    ]
    found = [section for section in sections if section is not None]
    blocks += [name_architecture(section, outcome.architecture) for section in found] if len(outcomes) > 1 else found
  blocks.append(not_run_section(content))
  blocks.append(provenance_section(content))
  lead = f"{preset.purpose} {len(done)} stages, {describe_seconds(content['seconds'])} in all."
  return page.document("Overinterpretation on CIFAR-10: the study of Carter et al. again", blocks, lead=lead)


def name_architecture(block: Element, architecture: str) -> Element:
  heading = block.find("h2")
  assert heading is not None
  heading.text = f"{heading.text}: {architecture}"
  block.set("id", f"{block.get('id')}-{architecture}")
  return block


def claims_section(preset: Preset, outcome: Outcome) -> Element | None:
  if not outcome.claims:
    return None
  blocks = [
    page.paragraph(
      "Each claim is judged by a rule that was fixed before, on the 95 % bootstrap interval of a difference over "
      "images, paired where two classifiers or views are compared. An interval on both sides of the bound leaves it "
      "undecided.",
      kind="soft",
    ),
    *map(describe_claim, outcome.claims),
    page.paragraph(
      "Orders are those of the gradient search, not the exact ones of the paper's CIFAR-10 study. What that changes is "
      + ("shown on a sample below." if outcome.samples else "not known here yet.")
      if isinstance(preset.search, Gradient)
      else "Orders are exact, as in the paper.",
      kind="note",
    ),
    page.paragraph(
      "Seeds: accuracies of the classifiers trained on whole images, by seed: "
      f"{', '.join(f'{100 * accuracy:.2f}' for accuracy in outcome.seeds)} %. All else has one seed: the intervals are "
      "over images, and do not cover the variance of training."
    ),
  ]
  return page.section("The paper's claims", name="the-papers-claims", answer=summarise_claims(outcome), blocks=blocks)


def describe_claim(claim: Claim) -> Element:
  numbers = f": {tables.describe_difference(claim)}, {claim.difference.num_images:,} images. {claim.found}"
  return page.section(
    claim.claim,
    level=3,
    blocks=[
      page.paragraph(page.strong(claim.verdict.capitalize()), numbers),
      page.paragraph(f"Rule: {claim.rule}.", kind="soft"),
    ],
  )


def summarise_claims(outcome: Outcome) -> str:
  if any(claim.verdict == NOT_JUDGED for claim in outcome.claims):
    return "Nothing is judged: too few images and too little training."
  counts = collections.Counter(claim.verdict for claim in outcome.claims)
  first = outcome.claims[0]
  numbers = f"{tables.describe_difference(first)}, {first.difference.num_images:,} images"
  claim = f"{first.claim[0].lower()}{first.claim[1:-1]}"
  return (
    f"Of {len(outcome.claims)} claims, this study agrees with {counts[AGREES]}, disagrees with {counts[DISAGREES]} and "
    f"leaves {counts[OPEN]} undecided. The first, that {claim}: {first.verdict}, {numbers}."
  )


def cells_section(preset: Preset, outcome: Outcome, pictures: Mapping[str, bytes]) -> Element | None:
  if not outcome.cells:
    return None
  corrupted = next((cell for cell in outcome.cells if cell.corrupted is not None), None)
  note = ""
  if corrupted is not None and corrupted.corrupted is not None:
    note = (
      f" Corrupted: the mean over {corrupted.num_corruptions} corruptions at five severities, made with CIFAR-10-C's "
      f"constants, of {corrupted.corrupted.num_images:,} images each. Pixels shown of a corrupted image are those of "
      "the image as it is."
    )
  picture = page.Picture(
    png=pictures[picture_name(outcome.architecture, "accuracy")],
    alt="The accuracies of the table below, each with its interval.",
  )
  share = f"{100 * preset.fraction:g} %"
  return page.section(
    "Who is right on what",
    name="who-is-right-on-what",
    answer=f"{len({cell.model for cell in outcome.cells})} classifiers, shown whole images, the {share} of the pixels "
    "that a classifier of whole images needs most, or as many at random.",
    blocks=[
      page.figure(picture, f"Accuracy and 95 % intervals.{note}"),
      page.table(
        "In brackets 95 % intervals: Wilson's for accuracy, bootstrap over images for the rest. Differences are "
        "paired: minus the first classifier of whole images on whole images, in points.",
        tables.CELL_HEADER,
        tables.cell_rows(outcome.cells),
        num_text_columns=3,
      ),
    ],
  )


def echo_section(outcome: Outcome) -> Element | None:
  """Do the most needed pixels show the image's class, or the answer of the classifier that chose them?"""
  if not outcome.echoes:
    return None
  first = outcome.echoes[0]
  return page.section(
    "Whose answer the pixels carry",
    name="whose-answer-the-pixels-carry",
    answer=f"Where the classifier of whole images is wrong ({first.repeated.num_images:,} images), {first.model} gives "
    f"the same wrong answer in {first.repeated:.1%} and the right one in "
    f"{first.right:.1%}.",
    blocks=[
      page.paragraph(
        "Which pixels are needed most is found with the answer of the classifier of whole images, right or wrong, and "
        "without the label. So accuracy on them says how well that answer can be read from them again, and cannot say "
        "how much of the image's class they show. The classifier of random pixels, which nobody chose, stands beside."
      ),
      page.table(
        "Beside the classifier of whole images; in brackets Wilson's 95 % intervals.",
        tables.ECHO_HEADER,
        tables.echo_rows(outcome.echoes),
      ),
    ],
  )


def transfer_section(preset: Preset, outcome: Outcome) -> Element | None:
  if not outcome.transfers:
    return None
  first = outcome.transfers[0]
  share = f"{100 * preset.fraction:g} %"
  difference = show_percent(first.minus_chooser, "+.1f")
  return page.section(
    "Transfer",
    name="transfer",
    answer=f"Of the {share} of the pixels that {first.chooser} needs most, {first.model} classifies "
    f"{first.accuracy:.1%} rightly: {difference} points beside {first.chooser} itself.",
    blocks=[
      page.table(
        "Classifiers of whole images shown the pixels that another one needs; in brackets 95 % intervals, differences "
        "paired over images, in points.",
        tables.TRANSFER_HEADER,
        tables.transfer_rows(outcome.transfers),
        num_text_columns=2,
      )
    ],
  )


def mitigation_section(preset: Preset, outcome: Outcome, pictures: Mapping[str, bytes]) -> Element | None:
  if len(outcome.mitigations) < 2:
    return None
  drawn = [
    page.figure(
      page.Picture(png=pictures[name], alt=f"Of the sizes in the table below: {heading}, each with its interval."),
      f"Mean size of the {heading}, on the images that have one in every classifier.",
    )
    for answer, heading in ANSWER_HEADINGS.items()
    if (name := picture_name(outcome.architecture, answer)) in pictures
  ]
  blocks = [page.beside(drawn)] if drawn else []
  blocks.append(
    page.table(
      f"Sizes at confidence {preset.threshold:g}, on the images that have a subset in every classifier; differences "
      "are paired over images, in brackets 95 % intervals.",
      tables.MITIGATION_HEADER,
      tables.mitigation_rows(outcome.mitigations),
    )
  )
  larger = [claim for claim in outcome.claims if claim.unit == "pixels" and claim.is_mitigation]
  agreeing = [claim for claim in larger if claim.verdict == AGREES]
  answer = f"In {len(agreeing)} of {len(larger)} comparisons the subsets are larger than the single classifier's."
  if preset.is_plumbing:
    answer = "Nothing is judged."
  return page.section("Mitigation", name="mitigation", answer=answer, blocks=blocks)


def not_run_section(content: Mapping[str, Any]) -> Element:
  blocks = [page.paragraph(page.strong(one["what"]), f": {one['reason']}.") for one in content["not_run"]]
  if content["not_done"]:
    named = [f"{stage['name']}: {stage['title']}" for stage in content["not_done"]]
    text = f"Of this study itself {len(named)} stages are not done yet; the same command goes on with them."
    blocks = [page.paragraph(page.strong(text), kind="note"), page.folded("which", map(page.paragraph, named)), *blocks]
  return page.section(
    "Not run",
    name="not-run",
    answer=f"The preset {content['preset']} leaves out {len(content['not_run'])} parts of the paper.",
    blocks=blocks,
  )


def provenance_section(content: Mapping[str, Any]) -> Element:
  provenance = content["provenance"]
  facts = {
    "this page": f"written at the commit {provenance['commit']}",
    "stages": f"computed at {', '.join(sorted({stage['commit'] or UNKNOWN for stage in content['stages']}))}",
    "versions": ", ".join(f"{name} {version}" for name, version in provenance["versions"].items()),
    "cores": str(provenance["num_cores"]),
    **{
      f"data, {split}": f"{one['num_images']:,} images, SHA-256 {one['sha256']}"
      for split, one in provenance["data"].items()
    },
    "time": f"{describe_seconds(content['seconds'])}, the sum of the stages",
  }
  rows = [
    [stage["name"], stage["title"], describe_seconds(stage["seconds"]), stage["fingerprint"][:12]]
    for stage in content["stages"]
  ]
  return page.section(
    "How it was made",
    name="how-it-was-made",
    blocks=[
      page.command(provenance["command"]),
      page.description(facts),
      page.folded(
        f"{len(rows)} stages",
        [page.table("Stages in order", ("stage", "what", "time", "SHA-256"), rows, num_text_columns=2)],
      ),
    ],
  )
