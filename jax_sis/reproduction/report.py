"""The report of a study: one HTML page, with what was found first and how it was made last."""

import collections
import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from jax_sis import results
from jax_sis.core.searches import Gradient, Screened
from jax_sis.display import page
from jax_sis.report import controls, program, sizes
from jax_sis.report.inputs import read_inputs
from jax_sis.reproduction import tables
from jax_sis.reproduction.claims import AGREES, DISAGREES, NOT_JUDGED, OPEN, Claim
from jax_sis.reproduction.engine import Done, describe_seconds
from jax_sis.reproduction.figure import ANSWER_HEADINGS, picture_name
from jax_sis.reproduction.names import Names
from jax_sis.reproduction.outcome import SAMPLES, Outcome
from jax_sis.reproduction.presets import Preset
from jax_sis.reproduction.readings import read_answer, total_seconds
from jax_sis.reproduction.stages import DATA, DATA_FILE
from jax_sis.runtime.records import read_record
from jax_sis.statistics.estimates import DASH, Estimate, show, show_percent

UNKNOWN = "a commit that was not recorded"
# Of each kind of subset, so many of the smallest and as many of the largest are in the gallery.
NUM_SHOWN = 6


def make_report(
  content: Mapping[str, Any],
  preset: Preset,
  outcomes: Sequence[Outcome],
  done: Mapping[str, Done],
  pictures: Mapping[str, bytes],
  *,
  data_dir: str | None,
) -> bytes:
  """The page.

  Args:
    content: what `study.json` holds.
    preset: the study's size.
    outcomes: what was found, by architecture.
    done: its stages.
    pictures: PNGs, see `figure.draw_outcome`.
    data_dir: the TFDS folder, for the images of the gallery.
  """
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
      *run_sections(done, names, data_dir=data_dir),
      smallest_section(done, names),
      disjoint_section(done, names),
      attributions_section(done, names),
      sample_section(outcome, done, names),
      leak_section(outcome),
    ]
    found = [section for section in sections if section is not None]
    blocks += [name_architecture(section, outcome.architecture) for section in found] if len(outcomes) > 1 else found
  blocks.append(not_run_section(content, preset))
  blocks.append(provenance_section(content, done))
  lead = f"{preset.purpose} {len(done)} stages, {describe_seconds(total_seconds(done))} in all."
  return page.document("Overinterpretation on CIFAR-10: the study of Carter et al. again", blocks, lead=lead)


def name_architecture(block: Element, architecture: str) -> Element:
  """The same section, with the architecture in its heading and its name."""
  heading = block.find("h2")
  assert heading is not None
  heading.text = f"{heading.text}: {architecture}"
  block.set("id", f"{block.get('id')}-{architecture}")
  return block


def claims_section(preset: Preset, outcome: Outcome) -> Element | None:
  """The paper's claims beside what was found."""
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
      "over images, and do not cover the variance of training.",
    ),
  ]
  return page.section(
    "The paper's claims",
    name="the-papers-claims",
    answer=summarise_claims(outcome),
    blocks=blocks,
  )


def describe_claim(claim: Claim) -> Element:
  """One claim of the paper: what was found here, and by which rule it is judged."""
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
  """How many claims agree, in a sentence."""
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
  """The table, and its picture."""
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
  """Do the most needed pixels carry the class of the image, or the answer of the classifier that chose them?"""
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
  """What other classifiers of whole images say of the pixels that one needs most."""
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
      ),
    ],
  )


def mitigation_section(preset: Preset, outcome: Outcome, pictures: Mapping[str, bytes]) -> Element | None:
  """What an ensemble and other trainings change."""
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
  return program.make_sections(inputs, num_images=NUM_SHOWN, checkpoint=classifier, data_dir=data_dir)


def find_controls(done: Mapping[str, Done], name: str) -> str | None:
  """The folder of a stage of controls; None where that is not done, and only the run's own may be there."""
  return str(done[name].folder) if name in done else None


def smallest_section(done: Mapping[str, Done], names: Names) -> Element | None:
  """The smallest evidence of a classifier trained on whole images, and whether it leaks."""
  name = f"{names.full(0)}-smallest"
  if f"{names.architecture}-smallest-controls" not in done:
    return None
  store = results.open(str(done[name].folder))
  controls_dir = find_controls(done, f"{names.architecture}-smallest-controls")
  inputs = read_inputs(store, analysis_dir=None, seed=0, controls_dir=controls_dir)
  blocks = [sizes.describe_certificates(inputs)]
  found: list[Element] = [controls.describe_in_a_line(inputs, "smallest"), *map(page.paragraph, blocks)]
  if inputs.controls is not None:
    found += [controls.make_kind(inputs.controls, kind) for kind in inputs.controls.kinds.values()]
    found.append(controls.draw(inputs.controls))
  return page.section(
    "The smallest evidence",
    name="smallest-evidence",
    answer=sizes.describe_headline(inputs, "smallest"),
    blocks=found,
  )


def disjoint_section(done: Mapping[str, Done], names: Names) -> Element | None:
  """How many separate reasons the classifier of whole images has."""
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
  """What attributions are worth as orders of pixels."""
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
  """What exact orders, and ranking by probability, would change."""
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
  """The first and the last search of a sample, at the first confidence where enough images have a subset; else None."""
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
  """One sample: how large the subsets are, how far they are the same, and where they lie."""
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


def leak_section(outcome: Outcome) -> Element | None:
  """What may leak, of all searches beside each other."""
  if not outcome.leaks:
    return None
  by_shape = sorted(
    (leak for leak in outcome.leaks if "shape_white" in leak.by_name),
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
    tables.leak_rows(outcome.leaks),
    num_text_columns=2,
  )
  return page.section("What leaks, by search", name="what-leaks-by-search", answer=answer, blocks=[block])


def not_run_section(content: Mapping[str, Any], preset: Preset) -> Element:
  """What of the paper, and of the study itself, is not here."""
  blocks = [page.paragraph(page.strong(what), f": {reason}.") for what, reason in preset.not_run]
  if content["not_done"]:
    named = [f"{stage['name']}: {stage['title']}" for stage in content["not_done"]]
    text = f"Of this study itself {len(named)} stages are not done yet; the same command goes on with them."
    blocks = [page.paragraph(page.strong(text), kind="note"), page.folded("which", map(page.paragraph, named)), *blocks]
  return page.section(
    "Not run",
    name="not-run",
    answer=f"The preset {preset.name} leaves out {len(preset.not_run)} parts of the paper.",
    blocks=blocks,
  )


def provenance_section(content: Mapping[str, Any], done: Mapping[str, Done]) -> Element:
  """Of what, with what and how long."""
  provenance = content["provenance"]
  images = json.loads((pathlib.Path(done[DATA].folder) / DATA_FILE).read_bytes())
  facts = {
    "this page": f"written at the commit {provenance['commit']}",
    "stages": f"computed at {', '.join(sorted({stage['commit'] or UNKNOWN for stage in content['stages']}))}",
    "versions": ", ".join(f"{name} {version}" for name, version in provenance["versions"].items()),
    "cores": str(provenance["num_cores"]),
    **{f"data, {split}": f"{one['num_images']:,} images, SHA-256 {one['sha256']}" for split, one in images.items()},
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
