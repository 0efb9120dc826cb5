"""What must hold between the stored values of each image, whatever the classifier: damage shows without its help."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from jax_sis.core.subsets import Status, count_of_fraction
from jax_sis.results.query import make_query, own_queries, parse_mask_name
from jax_sis.results.schema import NO_CLASS, NOT_SEARCHED, QUESTION_KINDS, has_order, kinds_of
from jax_sis.runs.config import RANDOM_TARGET
from jax_sis.runs.lattice import check_lattice

Rows = Mapping[str, Shaped[np.ndarray, "M ..."]]
NO_NUMBER = "must be a probability from 0 to 1"


class Violation(NamedTuple):
  """A rule that some images break.

  Attributes:
    field: what is wrong, as far as one can tell: two fields that disagree do not say which of them is.
    rule: what should hold.
    is_broken: of which images it does not.
  """

  field: str
  rule: str
  is_broken: Bool[np.ndarray, "M"]


def check_rows(rows: Rows, spec: Mapping[str, Any], *, target: int | None, num_classes: int) -> list[Violation]:
  """The rules that all fields of M images break, masks as Booleans `[M, F]`; `target` is as in `Job`."""
  kinds = kinds_of(rows)
  is_searched = rows["predicted"] != NO_CLASS
  is_random = spec["target"] == RANDOM_TARGET
  violations = check_classes(rows, is_searched, target=target, is_random=is_random, num_classes=num_classes)
  violations += check_statuses(rows, is_searched, kinds)
  if "rank" in rows:
    violations += check_order(rows, spec)
  violations += check_masks(rows, spec)
  if "lattice" in spec:
    violations += [Violation(*rule) for rule in check_lattice(rows, spec)]
  for kind in kinds:
    violations += check_subset(rows, kind, spec)
    violations += check_drawn(rows, spec) if kind == "robust" else check_sufficient(rows, kind, spec)
    if f"{kind}_num_droppable" in rows:
      violations += check_certificate(rows, kind)
  return [violation for violation in violations if violation.is_broken.any()]


def check_classes(
  rows: Rows, is_searched: Bool[np.ndarray, "M"], *, target: int | None, is_random: bool, num_classes: int
) -> list[Violation]:
  predicted, targets = rows["predicted"], rows["target"]
  violations = [
    Violation("predicted", f"must be a class, 0 to {num_classes - 1}", is_searched & ~is_class(predicted, num_classes)),
    Violation("target", f"must be a class, 0 to {num_classes - 1}", is_searched & ~is_class(targets, num_classes)),
  ]
  if is_random:
    violations.append(Violation("target", "must not be the predicted class", is_searched & (targets == predicted)))
  elif target == NO_CLASS:
    violations.append(Violation("target", "must be the predicted class", is_searched & (targets != predicted)))
  elif target is None:
    violations.append(Violation("target", "must be the label", is_searched & (targets != rows["label"])))
  else:
    violations.append(Violation("target", f"must be {target}, as the run asks", is_searched & (targets != target)))
  return violations


def check_statuses(rows: Rows, is_searched: Bool[np.ndarray, "M"], kinds: Iterable[str]) -> list[Violation]:
  """Which images were searched, and the confidence on those whole."""
  has_error = rows["error"].any(1)
  violations = [Violation("predicted", f"must be {NO_CLASS} where error says why", has_error == is_searched)]
  is_number = is_probability(rows["full_confidence"])
  for kind in kinds:
    status = rows[f"{kind}_status"]
    is_known = np.isin(status, [NOT_SEARCHED, *Status])
    rule = f"must be {NOT_SEARCHED} where the image was not searched, and nowhere else"
    violations += [
      Violation(f"{kind}_status", "must be one that there is", ~is_known),
      Violation(f"{kind}_status", rule, (status == NOT_SEARCHED) == is_searched),
      Violation("full_confidence", f"{NO_NUMBER} where {kind} is found", (status == Status.OK) & ~is_number),
    ]
  is_out_of_range = ~is_number & ~np.isnan(rows["full_confidence"])
  violations.append(Violation("full_confidence", f"{NO_NUMBER}, or none", is_out_of_range))
  return violations


def check_order(rows: Rows, spec: Mapping[str, Any]) -> list[Violation]:
  rank, confidence, status = rows["rank"], rows["confidence"], rows["sis_status"]
  num_features = rank.shape[1]
  is_finite = has_order(status)
  is_permutation = (np.sort(rank, axis=1) == np.arange(num_features)).all(1)
  counts, expected = make_query(spec).read_stored_order(rows, spec)
  return [
    Violation("rank", f"must be a permutation of 0 to {num_features - 1}", is_finite & ~is_permutation),
    Violation("confidence", NO_NUMBER, is_finite & ~is_probability(confidence).all(1)),
    Violation("sis_status", "must be what confidence says at the threshold", is_finite & (status != expected)),
    Violation("sis_num_kept", "must be the size that confidence gives", is_finite & (rows["sis_num_kept"] != counts)),
  ]


def check_masks(rows: Rows, spec: Mapping[str, Any]) -> list[Violation]:
  """The stored masks, by their size, and where the order is stored, too, feature by feature."""
  violations = []
  for name, mask in rows.items():
    query = parse_mask_name(name, spec)
    if query is None or query.kind != "sis":
      continue
    if "rank" in rows:
      num_kept, _ = query.read_stored_order(rows, spec)
      is_wrong = (mask != (rows["rank"] < num_kept[:, None])).any(1)
      violations.append(Violation(name, "must be what the order gives", is_wrong))
    elif query.fraction is not None:
      counts = np.where(has_order(rows["sis_status"]), count_of_fraction(query.fraction, mask.shape[1]), 0)
      violations.append(Violation(name, "must keep the share of the features", mask.sum(1) != counts))
  for query in own_queries(spec, rows):
    name, num_kept = query.mask_field, f"{query.kind}_num_kept"
    if name in rows:
      is_wrong = rows[name].sum(1) != rows[num_kept]
      violations.append(Violation(name, f"must keep as many features as {num_kept} says", is_wrong))
  return violations


def check_subset(rows: Rows, kind: str, spec: Mapping[str, Any]) -> list[Violation]:
  status, confidence = rows[f"{kind}_status"], rows[f"{kind}_certified_confidence"]
  is_ok = status == Status.OK
  has_none = ~is_ok
  num_kept, num_features = rows[f"{kind}_num_kept"], int(np.prod(spec["grid"]))
  violations = [
    Violation(f"{kind}_num_kept", "must be 0 where there is no subset", has_none & (num_kept != 0)),
    Violation(f"{kind}_num_kept", f"must be 1 to {num_features}", is_ok & ((num_kept < 1) | (num_kept > num_features))),
    Violation(
      f"{kind}_certified_confidence", f"{NO_NUMBER} where there is a subset", is_ok & ~is_probability(confidence)
    ),
    Violation(f"{kind}_certified_confidence", "must be NaN where there is no subset", has_none & ~np.isnan(confidence)),
  ]
  for name in ("is_sufficient", "keeps_class"):
    is_wrong = has_none & rows[f"{kind}_{name}"]
    violations.append(Violation(f"{kind}_{name}", "must be false where there is no subset", is_wrong))
  is_wrong = has_none & ~rows[f"{kind}_is_reproduced"]
  violations.append(Violation(f"{kind}_is_reproduced", "must be true where there is no subset", is_wrong))
  if kind in ("smallest", "both"):
    is_below = is_ok & ~(rows["full_confidence"] >= spec["threshold"])
    violations.append(Violation("full_confidence", f"must reach the threshold where {kind} is found", is_below))
  return violations


def check_sufficient(rows: Rows, kind: str, spec: Mapping[str, Any]) -> list[Violation]:
  is_sufficient, confidence = rows[f"{kind}_is_sufficient"], rows[f"{kind}_certified_confidence"]
  is_ok, reaches = rows[f"{kind}_status"] == Status.OK, confidence >= spec["threshold"]
  if kind not in QUESTION_KINDS:
    rule = "must say whether the certified confidence reaches the threshold"
    return [Violation(f"{kind}_is_sufficient", rule, is_ok & (is_sufficient != reaches))]
  lost_by = rows[f"{kind}_lost_by"]
  answers = (lost_by >= spec["margin"]) & (reaches | (kind == "contrastive"))
  rule = "must say whether the class is lost by the margin without the subset, and where both is asked, kept alone"
  return [
    Violation(f"{kind}_is_sufficient", rule, is_ok & (is_sufficient != answers)),
    Violation(
      f"{kind}_lost_by", "must be a number where there is a subset, and only there", is_ok == np.isnan(lost_by)
    ),
  ]


def check_drawn(rows: Rows, spec: Mapping[str, Any]) -> list[Violation]:
  """Robust subsets: what is certified is the rate that was asked for, of a prefix of the order."""
  status = rows["robust_status"]
  is_ok, is_judged = status == Status.OK, has_order(status)
  bound = np.where(is_ok, np.float32(spec["completion"]["rate"]), np.float32(0))
  num_judged, num_kept = rows["robust_num_judged"], rows["robust_num_kept"]
  violations = [
    Violation("robust_is_sufficient", "must say whether a subset is certified", rows["robust_is_sufficient"] != is_ok),
    Violation("robust_rate_bound", "must be what is certified", is_judged & (rows["robust_rate_bound"] != bound)),
    Violation("robust_num_judged", "must be the size of the certified subset", is_ok & (num_judged != num_kept)),
  ]
  violations += [
    Violation(name, NO_NUMBER, is_judged & ~is_probability(rows[name])) for name in ("robust_rate", "robust_p_value")
  ]
  if "rank" in rows:
    is_wrong = (rows["robust_mask"] != (rows["rank"] < num_kept[:, None])).any(1)
    violations.append(Violation("robust_mask", "must be what the order gives", is_wrong))
    violations.append(Violation("rate", NO_NUMBER, is_judged & ~is_probability(rows["rate"]).all(1)))
  return violations


def check_certificate(rows: Rows, kind: str) -> list[Violation]:
  is_sufficient, num_droppable = rows[f"{kind}_is_sufficient"], rows[f"{kind}_num_droppable"]
  is_minimal, is_smallest = rows[f"{kind}_is_minimal"], rows[f"{kind}_is_smallest"]
  has_smaller = rows[f"{kind}_has_smaller"]
  is_out_of_range = (num_droppable < 0) | (num_droppable > rows[f"{kind}_num_kept"])
  rules = {
    "num_droppable": ("must be 0 to num_kept", is_out_of_range),
    "is_minimal": (
      "must say whether the subset is sufficient and none of it droppable",
      is_minimal != (is_sufficient & (num_droppable == 0)),
    ),
    "is_smallest": ("must not go without is_minimal, or with has_smaller", is_smallest & (~is_minimal | has_smaller)),
    "has_smaller": ("must not go without is_sufficient", has_smaller & ~is_sufficient),
  }
  return [Violation(f"{kind}_{name}", rule, is_broken) for name, (rule, is_broken) in rules.items()]


def is_class(values: Int[np.ndarray, "M"], num_classes: int) -> Bool[np.ndarray, "M"]:
  return (values >= 0) & (values < num_classes)


def is_probability(values: Float[np.ndarray, "*shape"]) -> Bool[np.ndarray, "*shape"]:
  return (values >= 0) & (values <= 1)
