"""The paper's claims beside what was found here, each judged by a rule on the interval of one number."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jax_sis.reproduction.engine import Done
from jax_sis.reproduction.names import Names
from jax_sis.reproduction.presets import Preset
from jax_sis.reproduction.readings import (
  read_answer,
  read_comparison,
  read_paired,
  read_predictions,
  sizes_at_threshold,
)
from jax_sis.runtime.records import read_record
from jax_sis.statistics.estimates import Estimate, difference_of, share_of

AGREES, DISAGREES, OPEN, NOT_JUDGED = "agrees", "disagrees", "undecided", "not judged"
# Bounds of the claims, in shares of the images.
NEARLY = 0.05
FAR = 0.20
NEAR_CHANCE = 0.05


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
  difference: Estimate
  unit: str = "share"
  is_mitigation: bool = False


def make_claims(preset: Preset, names: Names, done: Mapping[str, Done]) -> list[Claim]:
  """The paper's claims whose stages are done, in its order (sections 4.1 to 4.3)."""
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
    verdict=judge(chance.scale(-1), -NEAR_CHANCE),
    found=f"It is right on {percent(on_random)} of them.",
    difference=chance,
  )


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
  difference = read_record(Estimate, matched["difference"])
  return Claim(
    claim="At the same confidence, wrong predictions rest on smaller sufficient subsets than right ones.",
    rule="smaller: the mean of the wrong ones minus that of the right ones is below zero, at the lowest threshold "
    "analysed, which has the most wrong ones",
    verdict=judge(difference.scale(-1), 0.0),
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
    single, *others = sizes_at_threshold(comparison)
    for compared in others:
      difference = read_record(Estimate, compared["difference"])
      claims.append(
        Claim(
          claim=f"The sufficient subsets of the {compared['label']} classifier are larger ({what}).",
          rule="larger: their mean minus the single classifier's is above zero, on the images that have a subset in "
          "every classifier compared, which are the surest ones",
          is_mitigation=True,
          verdict=judge(difference, 0.0),
          found=f"Mean {number(compared['pixels']['mean'])} pixels against {number(single['pixels']['mean'])}; "
          f"{100 * compared['with_subset']['share']:.0f} % of the images have a subset, "
          f"{100 * single['with_subset']['share']:.0f} % for the single one.",
          difference=difference,
          unit="pixels",
        )
      )
  return claims


def judge(difference: Estimate, bound: float) -> str:
  """Whether a difference is above a bound, by its interval."""
  return {1: AGREES, -1: DISAGREES, 0: OPEN}[difference.is_beyond(bound)]


def percent(is_correct: np.ndarray) -> str:
  share = share_of(is_correct)
  return f"{share:.1%} of {share.num_images:,}"


def number(value: float | None) -> str:
  return "no" if value is None else f"{value:.1f}"
