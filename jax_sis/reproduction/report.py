"""The report of a study: one HTML page, with what was found first and how it was made last."""

import collections
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from jax_sis import page
from jax_sis.estimates import Mean
from jax_sis.reproduction import tables
from jax_sis.reproduction.engine import Done, describe_seconds
from jax_sis.reproduction.figure import picture_name
from jax_sis.reproduction.outcome import AGREES, DISAGREES, NOT_JUDGED, OPEN, Outcome, read_answer, total_seconds
from jax_sis.reproduction.presets import Names, Preset
from jax_sis.reproduction.stages import DATA, DATA_FILE

ANALYSIS_PICTURES = {
  "positions.png": "Where the subsets lie, and the most needed pixels: darker is used more often.",
  "sizes.png": "How large the subsets are, over all images and by class.",
  "accuracy_by_size.png": "How often the classifier is right, by the size of the subset.",
  "confidence.png": "Confidence along the removal of pixels.",
}


def make_report(
  content: Mapping[str, Any],
  preset: Preset,
  outcomes: Sequence[Outcome],
  done: Mapping[str, Done],
  pictures: Mapping[str, bytes],
) -> bytes:
  """The page.

  Args:
    content: what `study.json` holds.
    preset: the study's size.
    outcomes: what was found, by architecture.
    done: its stages.
    pictures: PNGs, see `figure.draw_outcome`.
  """
  is_one_of_many = len(outcomes) > 1
  blocks: list[Element] = []
  if preset.is_plumbing:
    blocks.append(page.paragraph(page.strong(preset.purpose), kind="note"))
  for outcome in outcomes:
    names = Names(architecture=outcome.architecture)
    blocks += [
      block
      for block in (
        claims_section(preset, outcome, is_one_of_many),
        cells_section(preset, outcome, pictures, is_one_of_many),
        mitigation_section(preset, outcome, pictures, is_one_of_many),
        controls_section(done, names, is_one_of_many),
        analysis_section(done, names, is_one_of_many),
        disjoint_section(done, names, is_one_of_many),
        attributions_section(done, names),
        sample_section(preset, outcome, done, names),
      )
      if block is not None
    ]
  blocks.append(not_run_section(content, preset))
  blocks.append(provenance_section(content, done))
  lead = f"{preset.purpose} {len(done)} stages, {describe_seconds(total_seconds(done))} in all."
  return page.document("Overinterpretation on CIFAR-10: the study of Carter et al. again", blocks, lead=lead)


def part(text: str, architecture: str, *, is_one_of_many: bool, answer: str, blocks: Sequence[Element]) -> Element:
  """A section on an architecture, which its heading names where there are several."""
  name = text.lower().replace("'", "").replace(" ", "-")
  if is_one_of_many:
    text, name = f"{text}: {architecture}", f"{name}-{architecture}"
  return page.section(text, name=name, answer=answer, blocks=blocks)


def claims_section(preset: Preset, outcome: Outcome, is_one_of_many: bool) -> Element | None:
  """The paper's claims beside what was found."""
  if not outcome.claims:
    return None
  blocks = [
    page.table(
      "Each claim is judged by the 95 % bootstrap interval of a paired difference over images, by a rule fixed before.",
      ("the paper", "here", "difference", "images"),
      [
        [claim.claim, claim.verdict, tables.describe_difference(claim), f"{claim.difference.num_images:,}"]
        for claim in outcome.claims
      ],
      num_text_columns=2,
    ),
    page.description({claim.claim: f"{claim.found} Rule: {claim.rule}." for claim in outcome.claims}),
    page.paragraph(
      "Orders are those of the gradient search, not the exact ones of the paper's CIFAR-10 study. What that changes is "
      "shown on a sample below."
      if type(preset.search).__name__ == "Gradient"
      else "Orders are exact, as in the paper.",
      kind="note",
    ),
    page.paragraph(
      f"Seeds: {len(outcome.seeds)} classifiers were trained on whole images, with accuracies of "
      f"{', '.join(f'{100 * accuracy:.2f}' for accuracy in outcome.seeds)} %. All else has one seed, whose variance is "
      "not part of the intervals.",
    ),
  ]
  return part(
    "The paper's claims",
    outcome.architecture,
    is_one_of_many=is_one_of_many,
    answer=summarise_claims(outcome),
    blocks=blocks,
  )


def summarise_claims(outcome: Outcome) -> str:
  """How many claims agree, in a sentence."""
  if any(claim.verdict == NOT_JUDGED for claim in outcome.claims):
    return "Nothing is judged: too few images and too little training."
  counts = collections.Counter(claim.verdict for claim in outcome.claims)
  parts = [f"{counts[verdict]} {verdict}" for verdict in (AGREES, DISAGREES, OPEN) if counts[verdict]]
  first = outcome.claims[0]
  numbers = f"{tables.describe_difference(first)}, {first.difference.num_images:,} images"
  claim = f"{first.claim[0].lower()}{first.claim[1:-1]}"
  return f"Of {len(outcome.claims)} claims: {', '.join(parts)}. The first, that {claim}: {first.verdict}, {numbers}."


def cells_section(
  preset: Preset, outcome: Outcome, pictures: Mapping[str, bytes], is_one_of_many: bool
) -> Element | None:
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
  return part(
    "Who is right on what",
    outcome.architecture,
    is_one_of_many=is_one_of_many,
    answer=f"{len({cell.model for cell in outcome.cells})} classifiers on whole images, on the {share} of the pixels "
    "that one of them needs most, and on as many at random.",
    blocks=[
      page.figure(picture, f"Accuracy and 95 % intervals.{note}"),
      page.table(
        "In brackets 95 % intervals: Wilson's for accuracy, bootstrap over images for corrupted ones.",
        tables.CELL_HEADER,
        tables.cell_rows(outcome.cells),
        num_text_columns=3,
      ),
    ],
  )


def mitigation_section(
  preset: Preset, outcome: Outcome, pictures: Mapping[str, bytes], is_one_of_many: bool
) -> Element | None:
  """What an ensemble and other trainings change."""
  if len(outcome.mitigations) < 2:
    return None
  blocks = []
  png = pictures.get(picture_name(outcome.architecture, "mitigation"))
  if png is not None:
    alt = "The mean sizes of the table below, each with its interval."
    blocks.append(page.figure(page.Picture(png=png, alt=alt), "Mean size of the subsets, on images with one in all."))
  blocks.append(
    page.table(
      f"Sizes at confidence {preset.threshold:g}, on the images that have a subset in every classifier; differences "
      "are paired over images, in brackets 95 % intervals.",
      tables.MITIGATION_HEADER,
      tables.mitigation_rows(outcome.mitigations),
    )
  )
  larger = [claim for claim in outcome.claims if claim.unit == "pixels" and claim.claim.startswith("The sufficient")]
  agreeing = [claim for claim in larger if claim.verdict == "agrees"]
  answer = f"In {len(agreeing)} of {len(larger)} comparisons the subsets are larger than the single classifier's."
  if preset.is_plumbing:
    answer = "Nothing is judged."
  return part("Mitigation", outcome.architecture, is_one_of_many=is_one_of_many, answer=answer, blocks=blocks)


def controls_section(done: Mapping[str, Done], names: Names, is_one_of_many: bool) -> Element | None:
  """What remains of the subsets when what may leak is taken away."""
  blocks = []
  for name in (f"{names.architecture}-controls", f"{names.architecture}-smallest-controls"):
    if name not in done:
      continue
    answer = read_answer(done, name, "controls.json")
    for kind in answer["kinds"].values():
      title = f"{kind['title']}, {kind['num_images']} images"
      rows = [
        [
          control["title"],
          f"{control['num_images']:,}",
          describe_json_share(control["keeps_class"]),
          describe_json_share(control["is_sufficient"]),
          "-" if control["confidence"] is None else f"{control['confidence']:.3f}",
        ]
        for control in kind["controls"]
      ]
      table = page.table(
        f"{title}: classes kept, and threshold {answer['threshold']:g} reached, in %",
        ("shown", "images", "keeps the class, %", f"at {answer['threshold']:g}, %", "confidence"),
        rows,
      )
      blocks.append(page.section(title, level=3, blocks=[page.paragraph(kind["reading"]), table]))
    picture = page.Picture(png=(done[name].folder / "controls.png").read_bytes(), alt="The tables above as bars.")
    blocks.append(page.figure(picture, "Images that keep their class under each control."))
    if answer["wrong_class"] is not None:
      blocks.append(page.paragraph(answer["wrong_class"]["reading"]))
  if not blocks:
    return None
  return part(
    "Leak controls",
    names.architecture,
    is_one_of_many=is_one_of_many,
    answer="What remains of the answer when the shape of the mask, its fill or its place cannot give it away.",
    blocks=blocks,
  )


def describe_json_share(share: Mapping[str, Any] | None) -> str:
  """A share as JSON has it, in per cent."""
  return "-" if share is None else f"{100 * share['share']:.0f} [{100 * share['low']:.0f}, {100 * share['high']:.0f}]"


def analysis_section(done: Mapping[str, Done], names: Names, is_one_of_many: bool) -> Element | None:
  """Sizes, places and confidences of the subsets of the test images."""
  if f"{names.architecture}-analysis" not in done:
    return None
  folder = done[f"{names.architecture}-analysis"].folder
  analysis = read_answer(done, f"{names.architecture}-analysis", "analysis.json")["runs"][names.full(0)]
  sizes = analysis["sizes"][0]
  share, pixels = sizes["with_subset"], sizes["pixels"]
  answer = (
    f"At confidence {sizes['threshold']:g}, {100 * share['share']:.1f} % of {share['num_images']:,} images have a "
    "sufficient subset"
  )
  if pixels["mean"] is not None:
    answer += f", of {pixels['mean']:.0f} pixels in the mean and {sizes['percentiles']['50']:g} in the median"
  blocks = []
  for file, caption in ANALYSIS_PICTURES.items():
    if (folder / file).exists():
      picture = page.Picture(png=(folder / file).read_bytes(), alt=caption)
      blocks.append(page.figure(picture, caption))
  return part(
    "What the subsets show", names.architecture, is_one_of_many=is_one_of_many, answer=f"{answer}.", blocks=blocks
  )


def disjoint_section(done: Mapping[str, Done], names: Names, is_one_of_many: bool) -> Element | None:
  """How many separate reasons the classifier of whole images has."""
  name = f"{names.full(0)}-disjoint"
  if name not in done:
    return None
  answer = read_answer(done, name, "disjoint.json")
  blocks = [page.paragraph(answer["reading"])]
  path = done[name].folder / "disjoint.png"
  if path.exists():
    caption = "How many disjoint subsets images have, how large they are, and how often the classifier is right."
    blocks.append(page.figure(page.Picture(png=path.read_bytes(), alt=caption), caption))
  number = Mean(**answer["number"])
  return part(
    "Disjoint subsets",
    names.architecture,
    is_one_of_many=is_one_of_many,
    answer=f"An image has {tables.describe_pixels(number)} disjoint sufficient subsets in the mean of "
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
      tables.describe_pixels(Mean(**method["pixels"])),
      tables.describe_pixels(Mean(**method["difference"]), is_signed=True) if place else "",
      *(
        "-" if method[area] is None else tables.describe_mean(Mean(**method[area]), 1.0, ".3f")
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
      page.figure(picture, caption),
      page.table(
        "Mean pixels, those minus the first order's, and areas, with 95 % bootstrap intervals.",
        ("order", "images with a subset", "pixels", "minus the first", "insertion area", "deletion area"),
        rows,
      ),
    ],
  )


def sample_section(preset: Preset, outcome: Outcome, done: Mapping[str, Done], names: Names) -> Element | None:
  """What exact orders, and ranking by probability, would change."""
  if outcome.sample is None:
    return None
  name = f"{names.architecture}-sample-compared"
  overlaps = [
    [
      f"{overlap['first']} and {overlap['second']}",
      f"{overlap['observed']['mean']:.2f}" if overlap["observed"]["mean"] is not None else "-",
      f"{overlap['expected']:.2f}" if overlap["expected"] is not None else "-",
    ]
    for overlap in outcome.sample["overlaps"]
  ]
  blocks = [
    page.table(
      f"Subsets at confidence {preset.threshold:g}, on images that have one in every search.",
      tables.SAMPLE_HEADER,
      tables.sample_rows(outcome.sample),
    ),
    page.table(
      "How far two searches' subsets are the same: pixels in both divided by pixels in either, and what chance gives.",
      ("searches", "found", "chance"),
      overlaps,
    ),
  ]
  positions = done[name].folder / "positions.png"
  if positions.exists():
    caption = (
      "Where the subsets and the last 5 % lie by each search. Ranking by probability piles up ties, in raster order."
    )
    blocks.append(page.figure(page.Picture(png=positions.read_bytes(), alt=caption), caption))
  num_images = outcome.sample["num_images"]
  return page.section(
    "What exact orders change",
    name="what-exact-orders-change",
    answer=f"On a sample of {num_images} images, beside the gradient search: exact backward selection by log-odds, and "
    "by probability as the authors' code ranks.",
    blocks=blocks,
  )


def not_run_section(content: Mapping[str, Any], preset: Preset) -> Element:
  """What of the paper, and of the study itself, is not here."""
  blocks = [page.description(dict(preset.not_run))]
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
    "commit": provenance["commit"] or "not known: the package was not run from a checkout",
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
