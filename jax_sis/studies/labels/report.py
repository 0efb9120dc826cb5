"""What `jax-sis labels` found: printed, and as JSON, CSV and a picture."""

import dataclasses
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jax_sis.classifiers.on_images import ClassifierOnImages
from jax_sis.core.messages import name_some
from jax_sis.display import pixels
from jax_sis.display.beside import Cell, draw_lines
from jax_sis.display.style import finish
from jax_sis.results.answer import describe_provenance, encode_csv, write_answer
from jax_sis.results.folder import Folder
from jax_sis.runtime.records import to_json
from jax_sis.statistics.estimates import Estimate, show, show_percent
from jax_sis.studies.labels.config import LabelsConfig
from jax_sis.studies.labels.sizes import RunSizes
from jax_sis.studies.labels.summaries import NUM_FOLDS, NUM_REPEATS, Added, Agreement, Found, Truth

WIDTH = 120
MAX_NAMED = 5
NUM_SHOWN, NUM_COLUMNS = 24, 4
FOUND_FORMAT = "{:<18} {:>7} {:>7} {:>21} {:>20} {:>20}"
FOUND_HEADER = ("truth", "images", "errors", "AUC of p(label)", "precision, %", "recall, %")
ADDED_FORMAT = "{:<18} {:<18} {:>7} {:>7} {:>8} {:>18} {:>18} {:>18} {:>22}"
ADDED_HEADER = ("truth", "sizes of", "images", "errors", "without", "p(label)", "size", "both", "added by size")
AGREEMENT_FORMAT = "{:<36} {:>7} {:>24} {:>24}"
AGREEMENT_HEADER = ("with people's disagreement", "images", "rank correlation", "beyond p(label)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Human:
  """What people's own labels say.

  Attributes:
    disagreement: of each image, the share of people who say another class than the label.
    mean: of these.
    agreement: how the classifier's numbers go with it.
  """

  disagreement: Float[np.ndarray, "N"]
  mean: Estimate
  agreement: tuple[Agreement, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doubts:
  """What was found of labels.

  Attributes:
    images: the classifier and its images.
    spec: what fixed the logits.
    ids: of the images that could be used.
    labels: as given.
    predicted: by the classifier.
    own: what it says of the labels as given; nothing is known of them.
    truths: what is known of labels, changed or given.
    found: how well the errors of each are found.
    runs: subset sizes.
    added: what these add, for each truth and run.
    human: what people's own labels say; None where there are none.
    left_out: images that could not be used, and why.
  """

  images: ClassifierOnImages
  spec: Mapping[str, Any]
  ids: Sequence[str]
  labels: Int[np.ndarray, "N"]
  predicted: Int[np.ndarray, "N"]
  own: Truth
  truths: tuple[Truth, ...]
  found: tuple[Found, ...]
  runs: tuple[RunSizes, ...]
  added: tuple[Added, ...]
  human: Human | None
  left_out: Mapping[str, str]

  @property
  def candidates(self) -> list[int]:
    """The places of the labels in doubt, the least probable one first."""
    places = np.flatnonzero(self.own.confident.is_candidate)
    return places[np.argsort(self.own.log_odds[places], kind="stable")].tolist()


def show_known(estimate: Estimate | None, form: str) -> str:
  """A number with its interval, and a dash where there is none, whose reason is in the JSON file."""
  return show(None if estimate is None or estimate.value is None else estimate, form)


def make_found_table(found: Sequence[Found]) -> str:
  lines = [FOUND_FORMAT.format(*FOUND_HEADER)]
  lines += [
    FOUND_FORMAT.format(
      one.title,
      f"{one.auc.num_images:,}",
      f"{one.num_wrong:,}",
      show_known(one.auc, ".3f"),
      show_percent(one.precision),
      show_percent(one.recall),
    )
    for one in found
  ]
  return "\n".join(lines)


def make_added_table(added: Sequence[Added]) -> str:
  lines = [ADDED_FORMAT.format(*ADDED_HEADER)]
  lines += [
    ADDED_FORMAT.format(
      one.title,
      one.run[:18],
      f"{one.probability.num_images:,}",
      f"{one.num_wrong:,}",
      f"{one.num_without:,}",
      *(show_known(number, ".2f") for number in (one.probability, one.size, one.both)),
      show_known(one.added, "+.3f"),
    )
    for one in added
  ]
  return "\n".join(lines)


def make_agreement_table(agreement: Sequence[Agreement]) -> str:
  lines = [AGREEMENT_FORMAT.format(*AGREEMENT_HEADER)]
  lines += [
    AGREEMENT_FORMAT.format(
      one.title[:36],
      f"{one.correlation.num_images:,}",
      show_known(one.correlation, "+.2f"),
      show_known(one.beyond, "+.2f"),
    )
    for one in agreement
  ]
  return "\n".join(lines)


def describe_reading(doubts: Doubts) -> str:
  """How many labels are in doubt, and what sizes add to that."""
  confident, num_images = doubts.own.confident, len(doubts.ids)
  sentences = [
    f"{len(doubts.candidates):,} of {num_images:,} labels are in doubt by confident learning, which takes "
    f"{confident.share_wrong:.1%} of all for wrong; a classifier's own errors are among these."
  ]
  compared = [one for one in doubts.added if one.added.value is not None]
  if compared:
    telling = [f"{one.run} by {one.title} ({one.added:+.3f})" for one in compared if one.added.is_beyond() > 0]
    named = f": {name_some(telling, most=MAX_NAMED)}" if telling else ""
    sentences.append(
      f"Subset size adds to the area under the curve of p(label) beyond chance in {len(telling)} of {len(compared)} "
      f"comparisons{named}."
    )
  if doubts.human is not None:
    sentences.append(f"People say another class than the label in {doubts.human.mean:.1%} of their answers.")
  return " ".join(sentences)


def describe_tables(doubts: Doubts) -> str:
  sentences = [
    "In brackets 95 % intervals: DeLong's of areas under the ROC curve, Wilson's of shares, the bootstrap's of rank "
    "correlations. AUC: how often an error has a lower p(label) than an image that is none. Precision and recall are "
    "of the labels in doubt by the confident joint, among the images of which the truth is known; errors that the data "
    "set had before any were planted count as none."
  ]
  if any(truth.title == "votes" for truth in doubts.truths):
    sentences.append("Votes are on images that were in doubt before; with the rest right, all other labels count so.")
  if doubts.added:
    sentences.append(
      "Sizes: an image without a subset counts as all its features (without). Both: a logistic regression on the "
      "label's log-odds, their square, whether there is a subset, and the logarithm of its size, asked about unseen "
      f"folds ({NUM_FOLDS}, {NUM_REPEATS} times); added is that minus the same without the size. These intervals take "
      "the regressions as given."
    )
  if doubts.human is not None:
    sentences.append(
      "Beyond p(label): Spearman's correlation of what a line on its ranks leaves of both, in the ranks."
    )
  return " ".join(sentences)


def write_report(folder: Folder, doubts: Doubts, config: LabelsConfig) -> dict[str, Any]:
  """Prints what was found and writes it; returns what `labels.json` holds."""
  reading, notes = describe_reading(doubts), describe_tables(doubts)
  tables = [make_found_table(doubts.found)] if doubts.found else []
  tables += [make_added_table(doubts.added)] if doubts.added else []
  tables += [make_agreement_table(doubts.human.agreement)] if doubts.human is not None else []
  print("".join(f"\n{table}\n" for table in tables))
  print("\n".join(textwrap.fill(text, WIDTH) for text in (reading, notes)))
  if doubts.left_out:
    print(f"Left out: {name_some(list(doubts.left_out), most=MAX_NAMED)}.")
  human = doubts.human
  answer = {
    "format": doubts.spec["format"],
    "provenance": describe_provenance(folder, doubts.spec, command=config.command, seed=config.seed),
    "num_images": len(doubts.ids),
    "share_wrong": doubts.own.confident.share_wrong,
    "joint": doubts.own.confident.joint.tolist(),
    "found": to_json(doubts.found),
    "added": to_json(doubts.added),
    "human": None if human is None else {"mean": to_json(human.mean), "agreement": to_json(human.agreement)},
    "candidates": [doubts.ids[place] for place in doubts.candidates],
    "left_out": dict(doubts.left_out),
    "reading": reading,
    "notes": notes,
  }
  files = {"labels.csv": encode_csv(make_rows(doubts)), "candidates.png": draw_candidates(doubts)}
  return write_answer(folder, "labels.json", answer, files)


def make_rows(doubts: Doubts) -> Iterable[dict[str, Any]]:
  """A line an image."""
  name_class, confident = doubts.images.name_class, doubts.own.confident
  for place, name in enumerate(doubts.ids):
    row = {
      "image": name,
      "label": name_class(int(doubts.labels[place])),
      "predicted": name_class(int(doubts.predicted[place])),
      "p_label": float(confident.probability[place]),
      "confidently": name_class(int(confident.suggested[place])),
      "is_in_doubt": bool(confident.is_candidate[place]),
    }
    for truth in doubts.truths:
      row[f"wrong by {truth.title}"] = bool(truth.is_wrong[place]) if truth.is_known[place] else None
    for run in doubts.runs:
      row[f"size in {run.title}"] = int(run.size[place]) if run.has_subset[place] else None
    if doubts.human is not None:
      row["people_disagree"] = float(doubts.human.disagreement[place])
    yield row


def draw_candidates(doubts: Doubts) -> bytes:
  """Draws the labels that are most in doubt, the least probable one first."""
  cells = []
  places = {name: place for place, name in enumerate(doubts.images.source.ids())}
  for place in doubts.candidates[:NUM_SHOWN]:
    picture = pixels.to_rgb(doubts.images.source[places[doubts.ids[place]]]["image"])
    label, suggested = (
      doubts.images.name_class(int(number)) for number in (doubts.labels[place], doubts.own.confident.suggested[place])
    )
    probability = doubts.own.confident.probability[place]
    cells.append(Cell(picture=picture, caption=f"{doubts.ids[place]}\n{label}, {probability:.2g}\n{suggested}?"))
  cells += [Cell(picture=None)] * (-len(cells) % NUM_COLUMNS)
  lines = [cells[start : start + NUM_COLUMNS] for start in range(0, len(cells), NUM_COLUMNS)]
  note = "Below each name, the label with its probability, and the class that the image is confidently counted as."
  return finish(
    draw_lines(["labels most in doubt", *[""] * (NUM_COLUMNS - 1)], lines or ["No label is in doubt."], note=note)
  )
