"""What the paper says of ImageNet beside what was found, and what the controls say of it; see `reproduction.claims`."""

from collections.abc import Sequence

from jax_sis.reproduction.claims import FAR, Claim, judge
from jax_sis.reproduction.imagenet.outcome import CONFIDENT, Outcome


def make_claims(outcomes: Sequence[Outcome]) -> list[Claim]:
  """Those whose stages are done, classifier by classifier."""
  return [
    claim for outcome in outcomes for claim in (*part_claims(outcome), *border_claims(outcome), *wrong_claims(outcome))
  ]


def part_claims(outcome: Outcome) -> list[Claim]:
  """Do few pixels keep the class that the whole image has, and does the border?"""
  parts = {part.what: part for part in outcome.parts if part.images == CONFIDENT}
  if not parts:
    return []
  needed, border = parts["needed"], parts["border"]
  assert needed.over_as_many is not None and border.over_as_many is not None and border.over_centre is not None
  kept = {what: f"{part.kept:.1%}" for what, part in parts.items()}
  return [
    Claim(
      claim=f"{outcome.label}: 10 % of the pixels alone keep the class.",
      rule=f"keep: more than {100 * FAR:g} points more often than 10 % at random",
      verdict=judge(needed.over_as_many, FAR),
      found=f"{kept['needed']} with those needed most, {kept['pixels']} with 10 % at random; images {CONFIDENT}.",
      difference=needed.over_as_many,
    ),
    Claim(
      claim=f"{outcome.label}: the border alone keeps the class.",
      rule="keep: more often than as many pixels at random",
      verdict=judge(border.over_as_many, 0.0),
      found=f"{kept['border']} with the border, {kept['many_pixels']} with as many at random; images {CONFIDENT}.",
      difference=border.over_as_many,
    ),
    Claim(
      claim=f"{outcome.label}: it does so more often than the centre (a control, not in the paper).",
      rule="more often: the share with the border alone minus that with a centre of its area, paired, is above zero",
      verdict=judge(border.over_centre, 0.0),
      found=f"{kept['border']} with the border, {kept['centre']} with the centre; images {CONFIDENT}.",
      difference=border.over_centre,
    ),
  ]


def border_claims(outcome: Outcome) -> list[Claim]:
  """Do these pixels lie at the border, and more so than for a class that is not there?"""
  border = next(one for one in outcome.border if one.images == CONFIDENT)
  claims = [
    Claim(
      claim=f"{outcome.label}: the pixels needed most lie at the border more than elsewhere.",
      rule="more: the share of the 10 % in the outer 11 of 224 pixels, minus the share of the area, is above zero",
      verdict=judge(border.over_even, 0.0),
      found=f"{border.share:.1%} of them beside {border.even:.1%} of the area; images {CONFIDENT}.",
      difference=border.over_even,
    )
  ]
  if border.random_class is not None and border.over_random_class is not None:
    claims.append(
      Claim(
        claim=f"{outcome.label}: they do so more than what a class at random needs (a control, not in the paper).",
        rule="more: the share in the border minus that of the search for a class at random, paired, is above zero; "
        "otherwise the border says nothing of the class",
        verdict=judge(border.over_random_class, 0.0),
        found=f"For a class at random {border.random_class:.1%}; images {CONFIDENT} that were searched for both.",
        difference=border.over_random_class,
      )
    )
  return claims


def wrong_claims(outcome: Outcome) -> list[Claim]:
  """At equal confidence, do wrong predictions rest on smaller subsets? Not where there are none to compare."""
  return [
    Claim(
      claim=f"{outcome.label}: at the same confidence, wrong predictions rest on smaller sufficient subsets "
      f"({one.what}).",
      rule="smaller: the mean share of the image of the wrong ones minus that of the right ones is below zero",
      verdict=judge(one.matched.difference.scale(-1), 0.0),
      found=f"{one.matched.num_wrong} wrong predictions beside {one.matched.num_right} right ones.",
      difference=one.matched.difference,
    )
    for one in outcome.compared
    if one.what.startswith("size") and one.matched.num_wrong
  ]
