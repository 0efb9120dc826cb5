"""Ways to train against overinterpretation beside a single classifier, on the same images."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from jax_sis.evaluation import predictions
from jax_sis.evaluation.predictions import Predictions
from jax_sis.reproduction.engine import Done
from jax_sis.reproduction.names import Names
from jax_sis.reproduction.readings import (
  compare_corrupted,
  read_answer,
  read_comparison,
  read_corrupted,
  read_predictions,
  sizes_at_threshold,
)
from jax_sis.statistics.estimates import Estimate, difference_of, mean_of, share_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mitigation:
  """One way to train against overinterpretation, beside a single classifier on the same images.

  Attributes:
    label: which.
    accuracy: on the test images.
    accuracy_difference: minus the single classifier's, paired.
    expected_calibration_error: on the test images.
    brier_score: the mean squared difference of the predicted class's probability and whether it is right. Unlike the
      expected calibration error it is a mean over images, so that differences have intervals.
    brier_difference: that minus the single classifier's, paired; None for itself.
    negative_log_likelihood: on the test images, in nats.
    corrupted: mean accuracy on corrupted images; None where it was not evaluated.
    corrupted_difference: minus the single classifier's, paired; None likewise.
    sizes: by kind of subset (`sis`, `smallest`), `analysis.comparison.ComparedSizes` in JSON types.
    num_disjoint: disjoint subsets an image; None where they were not counted.
    num_disjoint_difference: minus the single classifier's, paired; None likewise.
  """

  label: str
  accuracy: Estimate
  accuracy_difference: Estimate
  expected_calibration_error: float
  brier_score: Estimate
  brier_difference: Estimate | None
  negative_log_likelihood: float
  corrupted: Estimate | None
  corrupted_difference: Estimate | None
  sizes: dict[str, dict[str, Any]]
  num_disjoint: Estimate | None
  num_disjoint_difference: Estimate | None


def make_mitigations(names: Names, done: Mapping[str, Done]) -> list[Mitigation]:
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
    single, ours = predictions.pair(*(read_predictions(done, one) for one in (f"{names.full(0)}-on-whole", name)))
    corrupted, _ = read_corrupted(done, name)
    num_disjoint, num_disjoint_difference = compare_disjoint(done, model, names.full(0))
    found.append(
      Mitigation(
        label=label,
        accuracy=share_of(ours.is_correct),
        accuracy_difference=difference_of(ours.is_correct, single.is_correct),
        expected_calibration_error=clean["expected_calibration_error"],
        brier_score=mean_of(brier_scores(ours)),
        brier_difference=None if model == names.full(0) else difference_of(brier_scores(ours), brier_scores(single)),
        negative_log_likelihood=clean["negative_log_likelihood"],
        corrupted=None if corrupted is None else mean_of(corrupted),
        corrupted_difference=compare_corrupted(done, name, f"{names.full(0)}-on-whole"),
        sizes={
          compared["answer"]: compared
          for comparison in comparisons.values()
          if comparison is not None
          for compared in sizes_at_threshold(comparison)
          if compared["label"] == label
        },
        num_disjoint=num_disjoint,
        num_disjoint_difference=num_disjoint_difference,
      )
    )
  return found


def brier_scores(found: Predictions) -> Float[np.ndarray, "N"]:
  """For each image, the squared difference of the predicted class's probability and whether it is right."""
  return (found.confidence.astype(np.float64) - found.is_correct) ** 2


def compare_disjoint(done: Mapping[str, Done], model: str, single: str) -> tuple[Estimate | None, Estimate | None]:
  """The number of disjoint subsets per image, and that minus the single classifier's on common images."""
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
