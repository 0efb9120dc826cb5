"""What a study found: the table of who is right on what, the paper's claims beside our numbers, and the mitigations.

Everything is read from the files of the stages. Every interval is over images, and differences on the same images are
paired.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

from jax_sis.evaluation import predictions
from jax_sis.reproduction.asking_stages import EvaluateStage
from jax_sis.reproduction.claims import Claim, make_claims
from jax_sis.reproduction.engine import Done
from jax_sis.reproduction.leaks import Leak, make_leaks
from jax_sis.reproduction.mitigations import Mitigation, make_mitigations
from jax_sis.reproduction.names import Names
from jax_sis.reproduction.presets import Preset
from jax_sis.reproduction.readings import compare_corrupted, read_answer, read_corrupted, read_paired, read_predictions
from jax_sis.statistics.estimates import Estimate, difference_of, mean_of, share_of

# The comparisons of searches, by the names of their stages, and what each shows.
SAMPLES = {
  "sample": "fewer pixels a step, and candidates tried one by one",
  "exact": "exact backward selection beside gradient and screened search",
  "scores": "ranking by probability, as the authors' code does",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
  """What one classifier says of one kind of images.

  Attributes:
    model: the stage that made the classifier.
    trained_on: what it was trained on, in words.
    shown: what it is shown, in words.
    accuracy: on the test images as they are.
    difference: the accuracy minus that of the first classifier of whole images, on whole images, paired; None for that
      one itself, and where it was not evaluated.
    negative_log_likelihood: there, in nats.
    expected_calibration_error: there.
    corrupted: the mean accuracy over corruptions and severities, over images; None where it was not evaluated.
    num_corruptions: how many corruptions these are.
    corrupted_difference: `corrupted` minus that of the same first classifier, paired; None likewise.
  """

  model: str
  trained_on: str
  shown: str
  accuracy: Estimate
  difference: Estimate | None
  negative_log_likelihood: float
  expected_calibration_error: float
  corrupted: Estimate | None
  num_corruptions: int
  corrupted_difference: Estimate | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Echo:
  """Where the classifier of whole images is wrong, does one of pixels repeat its answer, or find the true one?

  The most needed pixels are found for the answer of the classifier of whole images, right or wrong. A classifier that
  learns to read that answer from them is as accurate, and makes the same mistakes.

  Attributes:
    model: the stage that made the classifier of pixels.
    agreement: the share of all images on which both give the same answer.
    repeated: of those that the classifier of whole images gets wrong, the share with the same wrong answer.
    right: of these, the share that is classified correctly.
  """

  model: str
  agreement: Estimate
  repeated: Estimate
  right: Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transfer:
  """What a classifier of whole images says of the pixels that another one needs most.

  Attributes:
    model: the stage that made the classifier.
    chooser: the stage that made the one that needs these pixels.
    accuracy: on these pixels of the test images.
    minus_chooser: that minus the chooser's accuracy on them, paired.
    minus_random: that minus its own accuracy on as many random pixels, paired; None where that was not evaluated.
  """

  model: str
  chooser: str
  accuracy: Estimate
  minus_chooser: Estimate
  minus_random: Estimate | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
  """What a study found of one architecture.

  Attributes:
    architecture: a key of `classifiers.ARCHITECTURES`.
    cells: the table.
    claims: the paper's.
    echoes: whether classifiers of pixels repeat the mistakes of the one of whole images.
    transfers: what its classifiers of whole images say of pixels that others need.
    leaks: what may leak, of each search that was controlled.
    seeds: accuracies of the classifiers trained on whole images, by seed.
    mitigations: the single classifier first.
    samples: what other searches change, each on a sample of images: see SAMPLES and read_sample.
  """

  architecture: str
  cells: tuple[Cell, ...]
  claims: tuple[Claim, ...]
  echoes: tuple[Echo, ...]
  transfers: tuple[Transfer, ...]
  leaks: tuple[Leak, ...]
  seeds: tuple[float, ...]
  mitigations: tuple[Mitigation, ...]
  samples: dict[str, dict[str, Any]]


def read_outcome(preset: Preset, names: Names, done: Mapping[str, Done]) -> Outcome:
  cells = make_cells(names, done)
  return Outcome(
    architecture=names.architecture,
    cells=tuple(cells),
    claims=tuple(make_claims(preset, names, done)),
    echoes=tuple(make_echoes(names, done)),
    transfers=tuple(make_transfers(preset, names, done)),
    leaks=tuple(make_leaks(names, done)),
    seeds=tuple(
      float(read_predictions(done, f"{names.full(seed)}-on-whole").is_correct.mean())
      for seed in range(preset.num_seeds)
      if f"{names.full(seed)}-on-whole" in done
    ),
    mitigations=tuple(make_mitigations(names, done)),
    samples={
      what: read_sample(done, name) for what in SAMPLES if (name := f"{names.architecture}-{what}-compared") in done
    },
  )


def read_sample(done: Mapping[str, Done], name: str) -> dict[str, Any]:
  """How several searches compare, and where the pixels of each lie, without the maps."""
  analysis = read_answer(done, name, "analysis.json")
  positions = {label: [dict(found) for found in run["positions"]] for label, run in analysis["runs"].items()}
  for found in itertools.chain(*positions.values()):
    del found["shares"]
  return {"comparison": analysis["comparison"], "positions": positions}


def make_cells(names: Names, done: Mapping[str, Done]) -> list[Cell]:
  """One cell for each evaluation of the architecture's classifiers, joined with that on corrupted images."""
  cells = []
  first = f"{names.full(0)}-on-whole"
  for name, one in done.items():
    stage = one.stage
    if (
      not isinstance(stage, EvaluateStage) or stage.config.corruptions or not name.startswith(f"{names.architecture}-")
    ):
      continue
    clean = read_answer(done, name, "metrics.json")["clean"]
    corrupted, num_corruptions = read_corrupted(done, name)
    is_compared = first in done and name != first
    cells.append(
      Cell(
        model=stage.model,
        trained_on=stage.trained_on,
        shown=stage.shown,
        accuracy=share_of(read_predictions(done, name).is_correct),
        difference=difference_of(*read_paired(done, (name, first))) if is_compared else None,
        negative_log_likelihood=clean["negative_log_likelihood"],
        expected_calibration_error=clean["expected_calibration_error"],
        corrupted=None if corrupted is None else mean_of(corrupted),
        num_corruptions=num_corruptions,
        corrupted_difference=compare_corrupted(done, name, first) if is_compared else None,
      )
    )
  return cells


def make_echoes(names: Names, done: Mapping[str, Done]) -> list[Echo]:
  """Of the classifiers of the most needed and of random pixels, each on its own kind."""
  whole = f"{names.full(0)}-on-whole"
  echoes = []
  for model, view in ((names.subsets, "subsets"), (names.random, "random")):
    name = f"{model}-on-{view}"
    if not {whole, name} <= set(done):
      continue
    of_whole, of_pixels = predictions.pair(*(predictions.read(done[one].folder) for one in (whole, name)))
    is_same, is_wrong = of_whole.predicted == of_pixels.predicted, ~of_whole.is_correct
    echoes.append(
      Echo(
        model=model,
        agreement=share_of(is_same),
        repeated=share_of(is_same[is_wrong]),
        right=share_of(of_pixels.is_correct[is_wrong]),
      )
    )
  return echoes


def make_transfers(preset: Preset, names: Names, done: Mapping[str, Done]) -> list[Transfer]:
  """The pixels that one classifier needs most, shown to another classifier of whole images."""
  of_whole = {names.full(seed) for seed in range(preset.num_seeds)}
  transfers = []
  for name, one in done.items():
    stage = one.stage
    if not isinstance(stage, EvaluateStage) or stage.config.corruptions or stage.model not in of_whole:
      continue
    chooser = find_chooser(stage, done)
    if chooser is None or chooser == stage.model or f"{chooser}-on-subsets" not in done:
      continue
    ours, theirs = read_paired(done, (name, f"{chooser}-on-subsets"))
    random = f"{stage.model}-on-random"
    transfers.append(
      Transfer(
        model=stage.model,
        chooser=chooser,
        accuracy=share_of(ours),
        minus_chooser=difference_of(ours, theirs),
        minus_random=difference_of(*read_paired(done, (name, random))) if random in done else None,
      )
    )
  return transfers


def find_chooser(stage: EvaluateStage, done: Mapping[str, Done]) -> str | None:
  """The stage that made the classifier whose most needed pixels are shown; None if other pixels are."""
  search = done.get(stage.inputs.get("subset", ""))
  return search.stage.inputs["checkpoint"] if search is not None else None
