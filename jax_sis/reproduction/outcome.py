"""What a study found: the table of who is right on what, the paper's claims beside our numbers, and the mitigations.

Everything is read from the files of the stages. Images are the unit of every interval: of what a classifier says of
the same images, differences are paired.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from jax_sis import predictions
from jax_sis.corruptions import MAIN_CORRUPTIONS
from jax_sis.estimates import Mean, Share, difference_of, mean_of, share_of
from jax_sis.predictions import Predictions
from jax_sis.reproduction.engine import Done, read_json
from jax_sis.reproduction.names import Names
from jax_sis.reproduction.presets import Preset
from jax_sis.reproduction.stages import Evaluate

AGREES, DISAGREES, OPEN, NOT_JUDGED = "agrees", "disagrees", "undecided", "not judged"
# What the claims' words mean here, in shares of the images.
NEARLY = 0.05
FAR = 0.20
NEAR_CHANCE = 0.05
# The comparisons of searches, by the names of their stages, and what each shows.
SAMPLES = {
  "sample": "fewer pixels a step, and candidates tried one by one",
  "exact": "exact backward selection beside them",
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
    negative_log_likelihood: there, in nats.
    expected_calibration_error: there.
    corrupted: the mean accuracy over corruptions and severities, over images; None where it was not evaluated.
    num_corruptions: how many corruptions these are.
  """

  model: str
  trained_on: str
  shown: str
  accuracy: Share
  negative_log_likelihood: float
  expected_calibration_error: float
  corrupted: Mean | None
  num_corruptions: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
  """A claim of the paper beside what was found here.

  Attributes:
    claim: what the paper says.
    rule: what would agree with it, and what would not, in numbers.
    verdict: `agrees`, `disagrees`, `undecided` where the interval holds both, or `not judged`.
    found: the numbers, a sentence.
    difference: the number that the rule is about, with its interval; a share of the images, or pixels.
    unit: `share` or `pixels`.
    is_mitigation: whether it is about a way to train against overinterpretation.
  """

  claim: str
  rule: str
  verdict: str
  found: str
  difference: Mean
  unit: str = "share"
  is_mitigation: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mitigation:
  """One way to train against overinterpretation, beside a single classifier on the same images.

  Attributes:
    label: which.
    accuracy: on the test images.
    accuracy_difference: minus the single classifier's, paired.
    expected_calibration_error: on the test images.
    negative_log_likelihood: likewise, in nats.
    corrupted: mean accuracy on corrupted images; None where it was not evaluated.
    sizes: by kind of subset (`sis`, `smallest`), the numbers of `comparison.ComparedSizes` as JSON has them.
    num_disjoint: disjoint subsets an image; None where they were not counted.
    num_disjoint_difference: minus the single classifier's, paired; None likewise.
  """

  label: str
  accuracy: Share
  accuracy_difference: Mean
  expected_calibration_error: float
  negative_log_likelihood: float
  corrupted: Mean | None
  sizes: dict[str, dict[str, Any]]
  num_disjoint: Mean | None
  num_disjoint_difference: Mean | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Echo:
  """What a classifier of pixels says where the one of whole images is wrong: its answer again, or the truth?

  Which pixels are needed most is found with the answer of the classifier of whole images, right or wrong. A classifier
  that learns to read that answer from them is as accurate as it, and makes its mistakes.

  Attributes:
    model: the stage that made the classifier of pixels.
    agreement: the share of all images on which both answer the same.
    repeated: of those that the classifier of whole images gets wrong, the share with the same wrong answer.
    right: of these the share that is classified rightly.
  """

  model: str
  agreement: Share
  repeated: Share
  right: Share


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
  """What a study found of one architecture.

  Attributes:
    architecture: a key of `classifiers.ARCHITECTURES`.
    cells: the table.
    claims: the paper's.
    echoes: whether classifiers of pixels repeat the mistakes of the one of whole images.
    seeds: accuracies of the classifiers trained on whole images, by seed.
    mitigations: the single classifier first.
    samples: what other searches change, each on a sample of images: see SAMPLES.
  """

  architecture: str
  cells: tuple[Cell, ...]
  claims: tuple[Claim, ...]
  echoes: tuple[Echo, ...]
  seeds: tuple[float, ...]
  mitigations: tuple[Mitigation, ...]
  samples: dict[str, dict[str, Any]]


def read_outcome(preset: Preset, names: Names, done: Mapping[str, Done]) -> Outcome:
  """What the stages of an architecture say, as far as they are done."""
  cells = make_cells(names, done)
  return Outcome(
    architecture=names.architecture,
    cells=tuple(cells),
    claims=tuple(make_claims(preset, names, done)),
    echoes=tuple(make_echoes(names, done)),
    seeds=tuple(
      float(read_predictions(done, f"{names.full(seed)}-on-whole").is_correct.mean())
      for seed in range(preset.num_seeds)
      if f"{names.full(seed)}-on-whole" in done
    ),
    mitigations=tuple(make_mitigations(names, done)),
    samples={
      what: comparison
      for what in SAMPLES
      if (comparison := read_comparison(done, f"{names.architecture}-{what}-compared")) is not None
    },
  )


def make_cells(names: Names, done: Mapping[str, Done]) -> list[Cell]:
  """The table: a line an evaluation of the architecture's classifiers, with that on corrupted images beside it."""
  cells = []
  for name, one in done.items():
    stage = one.stage
    if not isinstance(stage, Evaluate) or stage.config.corruptions or not name.startswith(f"{names.architecture}-"):
      continue
    clean = read_answer(done, name, "metrics.json")["clean"]
    corrupted, num_corruptions = read_corrupted(done, name)
    cells.append(
      Cell(
        model=stage.model,
        trained_on=stage.trained_on,
        shown=stage.shown,
        accuracy=share_of(read_predictions(done, name).is_correct),
        negative_log_likelihood=clean["negative_log_likelihood"],
        expected_calibration_error=clean["expected_calibration_error"],
        corrupted=None if corrupted is None else mean_of(corrupted),
        num_corruptions=num_corruptions,
      )
    )
  return cells


def read_answer(done: Mapping[str, Done], name: str, file: str) -> dict[str, Any]:
  """What a stage wrote into a file.

  Raises:
    ValueError: it cannot be read.
  """
  answer = read_json(done[name].folder / file)
  if answer is None:
    raise ValueError(f"stage {name} must have left {file}, but {str(done[name].folder / file)!r} cannot be read.")
  return answer


def read_predictions(done: Mapping[str, Done], name: str) -> Predictions:
  """What an evaluation predicted of the images as they are, in the order of their ids."""
  found = predictions.read(done[name].folder)
  return found.select(np.argsort(found.id, kind="stable"))


def read_paired(done: Mapping[str, Done], names: Sequence[str]) -> list[Bool[np.ndarray, "N"]]:
  """Which images several evaluations are right about, all in one order.

  Raises:
    ValueError: they are not of the same images.
  """
  first = read_predictions(done, names[0])
  return [predictions.pair(first, read_predictions(done, name))[1].is_correct for name in names]


def read_corrupted(done: Mapping[str, Done], name: str) -> tuple[Float[np.ndarray, "N"] | None, int]:
  """Of each image the share of its corruptions that are classified rightly, and the number of corruptions."""
  one = done.get(f"{name}-corrupted")
  if one is None:
    return None, 0
  conditions = [
    (row["corruption"], row["severity"])
    for row in read_answer(done, f"{name}-corrupted", "metrics.json")["conditions"]
    if row["corruption"] in MAIN_CORRUPTIONS
  ]
  is_correct = []
  for corruption, severity in conditions:
    _, found = predictions.pair(predictions.read(one.folder), predictions.read(one.folder, corruption, severity))
    is_correct.append(found.is_correct)
  return np.mean(is_correct, axis=0), len({corruption for corruption, _ in conditions})


def make_claims(preset: Preset, names: Names, done: Mapping[str, Done]) -> list[Claim]:
  """The paper's claims, in its order (sections 4.1 to 4.3), as far as their stages are done."""
  found = [
    nearly_claim(preset, names, done),
    far_claim(preset, names, done),
    chance_claim(preset, names, done),
    wrong_claim(names, done),
    *larger_claims(names, done),
  ]
  claims = [claim for claim in found if claim is not None]
  if preset.is_plumbing:
    return [dataclasses.replace(claim, verdict=NOT_JUDGED) for claim in claims]
  return claims


def nearly_claim(preset: Preset, names: Names, done: Mapping[str, Done]) -> Claim | None:
  """Is a classifier of the most needed pixels nearly as accurate as one of whole images?"""
  full = names.full(0)
  needed = (f"{names.subsets}-on-subsets", f"{full}-on-whole", f"{full}-on-subsets")
  if not set(needed) <= set(done):
    return None
  subsets, on_full, on_subsets = read_paired(done, needed)
  loss = difference_of(subsets, on_full)
  return Claim(
    claim=f"A classifier trained and tested on the {100 * preset.fraction:g} % of the pixels that another one needs "
    "most is nearly as accurate as that one on whole images.",
    rule=f"nearly: less than {100 * NEARLY:g} points below",
    verdict=judge(loss, -NEARLY),
    found=f"{percent(subsets)} against {percent(on_full)} (the classifier of whole images is right on "
    f"{percent(on_subsets)} of these subsets itself).",
    difference=loss,
  )


def far_claim(preset: Preset, names: Names, done: Mapping[str, Done]) -> Claim | None:
  """Is a classifier of random pixels far less accurate?"""
  needed = (f"{names.subsets}-on-subsets", f"{names.random}-on-random")
  if not set(needed) <= set(done):
    return None
  subsets, random = read_paired(done, needed)
  gap = difference_of(subsets, random)
  return Claim(
    claim=f"Trained and tested on {100 * preset.fraction:g} % of the pixels at random, a classifier is far less "
    "accurate.",
    rule=f"far: more than {100 * FAR:g} points below the one on the most needed pixels",
    verdict=judge(gap, FAR),
    found=f"{percent(random)} on random pixels against {percent(subsets)} on the most needed ones.",
    difference=gap,
  )


def chance_claim(preset: Preset, names: Names, done: Mapping[str, Done]) -> Claim | None:
  """Is the classifier of whole images at chance on random pixels?"""
  name = f"{names.full(0)}-on-random"
  if name not in done:
    return None
  on_random = read_predictions(done, name).is_correct
  num_classes = len(read_answer(done, name, "metrics.json")["clean"]["class_count"])
  chance = difference_of(on_random, np.full(len(on_random), 1 / num_classes))
  return Claim(
    claim=f"Shown {100 * preset.fraction:g} % of the pixels at random, the classifier of whole images is at chance.",
    rule=f"at chance: less than {100 * NEAR_CHANCE:g} points above 1 in {num_classes}",
    verdict=judge(turn_around(chance), -NEAR_CHANCE),
    found=f"It is right on {percent(on_random)} of them.",
    difference=chance,
  )


def make_echoes(names: Names, done: Mapping[str, Done]) -> list[Echo]:
  """For the classifiers of the most needed and of random pixels, each on its own kind."""
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


def wrong_claim(names: Names, done: Mapping[str, Done]) -> Claim | None:
  """At equal confidence, do wrong predictions rest on smaller subsets? At the lowest threshold analysed."""
  name = f"{names.architecture}-analysis"
  if name not in done:
    return None
  analysis = read_answer(done, name, "analysis.json")
  found = min(analysis["runs"][names.full(0)]["correctness"], key=lambda one: one["threshold"], default=None)
  if found is None:
    return None
  matched = found["matched"]
  difference = Mean(**matched["difference"])
  return Claim(
    claim="At the same confidence, wrong predictions rest on smaller sufficient subsets than right ones.",
    rule="smaller: the mean of the wrong ones minus that of the right ones is below zero, at the lowest threshold "
    "analysed, which has the most wrong ones",
    verdict=judge(turn_around(difference), 0.0),
    found=f"At threshold {found['threshold']:g}, {matched['num_wrong']} wrong predictions beside "
    f"{matched['num_right']} right ones of the same confidence.",
    difference=difference,
    unit="pixels",
  )


def larger_claims(names: Names, done: Mapping[str, Done]) -> list[Claim]:
  """Do an ensemble and input dropout need more pixels? By both kinds of subset."""
  claims = []
  for kind, what in (("sizes", "read from orders"), ("smallest", "the smallest evidence")):
    comparison = read_comparison(done, f"{names.architecture}-{kind}-compared")
    if comparison is None:
      continue
    for compared in comparison["sizes"][1:]:
      difference = Mean(**compared["difference"])
      claims.append(
        Claim(
          claim=f"The sufficient subsets of the {compared['label']} classifier are larger ({what}).",
          rule="larger: their mean minus the single classifier's is above zero, on the images that have a subset in "
          "every classifier compared, which are the surest ones",
          is_mitigation=True,
          verdict=judge(difference, 0.0),
          found=f"Mean {number(compared['pixels']['mean'])} pixels against "
          f"{number(comparison['sizes'][0]['pixels']['mean'])}; "
          f"{100 * compared['with_subset']['share']:.0f} % of the images have a subset, "
          f"{100 * comparison['sizes'][0]['with_subset']['share']:.0f} % for the single one.",
          difference=difference,
          unit="pixels",
        )
      )
  return claims


def judge(difference: Mean, bound: float) -> str:
  """Whether a difference is above a bound, by its interval."""
  if difference.low is None or difference.high is None:
    return OPEN
  if difference.low > bound:
    return AGREES
  return DISAGREES if difference.high < bound else OPEN


def turn_around(difference: Mean) -> Mean:
  """The second minus the first instead of the first minus the second."""
  mean, low, high = (None if value is None else -value for value in (difference.mean, difference.high, difference.low))
  return dataclasses.replace(difference, mean=mean, low=low, high=high)


def percent(is_correct: np.ndarray) -> str:
  """A share of images in words, with its interval and the number of images."""
  share = share_of(is_correct)
  assert share.share is not None and share.low is not None and share.high is not None
  return f"{100 * share.share:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}] of {share.num_images:,}"


def number(value: float | None) -> str:
  """A number of pixels, or that there is none."""
  return "no" if value is None else f"{value:.1f}"


def make_mitigations(names: Names, done: Mapping[str, Done]) -> list[Mitigation]:
  """The single classifier and the others on the same images."""
  comparisons = {kind: read_comparison(done, f"{names.architecture}-{kind}-compared") for kind in ("sizes", "smallest")}
  if f"{names.full(0)}-on-whole" not in done:
    return []
  models = {
    "single": names.full(0),
    "ensemble": names.ensemble,
    "input dropout": names.dropout,
    "adversarial": names.adversarial,
  }
  found = []
  for label, model in models.items():
    name = f"{model}-on-whole"
    if name not in done:
      continue
    clean = read_answer(done, name, "metrics.json")["clean"]
    single, is_correct = read_paired(done, (f"{names.full(0)}-on-whole", name))
    corrupted, _ = read_corrupted(done, name)
    num_disjoint, num_disjoint_difference = compare_disjoint(done, model, names.full(0))
    found.append(
      Mitigation(
        label=label,
        accuracy=share_of(is_correct),
        accuracy_difference=difference_of(is_correct, single),
        expected_calibration_error=clean["expected_calibration_error"],
        negative_log_likelihood=clean["negative_log_likelihood"],
        corrupted=None if corrupted is None else mean_of(corrupted),
        sizes={
          compared["answer"]: compared
          for comparison in comparisons.values()
          if comparison is not None
          for compared in comparison["sizes"]
          if compared["label"] == label
        },
        num_disjoint=num_disjoint,
        num_disjoint_difference=num_disjoint_difference,
      )
    )
  return found


def compare_disjoint(done: Mapping[str, Done], model: str, single: str) -> tuple[Mean | None, Mean | None]:
  """The number of disjoint subsets an image, and that minus the single classifier's on the images counted in both."""
  counts = []
  for name in (f"{model}-disjoint", f"{single}-disjoint"):
    if name not in done:
      return None, None
    answer = read_answer(done, name, "disjoint.json")
    counted = (image for image in answer["images"] if image["id"] not in answer["left_out"])
    counts.append({image["id"]: len(image["num_kept"]) for image in counted})
  ours, theirs = counts
  both = sorted(set(ours) & set(theirs))
  return mean_of(np.array([ours[name] for name in sorted(ours)])), difference_of(
    np.array([ours[name] for name in both]), np.array([theirs[name] for name in both])
  )


def read_comparison(done: Mapping[str, Done], name: str) -> dict[str, Any] | None:
  """What `analyse` found of several runs; None where the study has no such stage."""
  return read_answer(done, name, "analysis.json")["comparison"] if name in done else None


def total_seconds(done: Mapping[str, Done]) -> float:
  """How long all stages took together."""
  return sum(one.seconds for one in done.values())
