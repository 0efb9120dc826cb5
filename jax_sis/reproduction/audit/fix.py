"""What taking a component away (SpuFix) does: how many images hang on it, and who is right without it."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from jax_sis import results
from jax_sis.classifiers.component_file import Component
from jax_sis.classifiers.linear_head import find_linear_head
from jax_sis.classifiers.on_images import ClassifierOnImages
from jax_sis.runtime.records import to_json
from jax_sis.statistics.estimates import MIN_IMAGES, Estimate, difference_of, share_of
from jax_sis.studies.components.features import Looked, look
from jax_sis.studies.components.principal import find_components
from jax_sis.studies.components.summaries import fix_logits

FILE = "fix.json"
FORMAT = "jax_sis.audit_fix/1"
NUM_RESAMPLES = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Taken:
  """What taking one component away does.

  Attributes:
    of_class: its class.
    number: of the component.
    hang: of the images called the class, those that are called another without the component.
    were_wrong: of these, the ones that were wrong.
    own: by how much the share of the class's own images that are right changes.
    false_calls: by how much the share of other images that are called the class changes.
    accuracy: by how much accuracy on all images changes.
  """

  of_class: str
  number: int
  hang: Estimate
  were_wrong: Estimate
  own: Estimate
  false_calls: Estimate
  accuracy: Estimate


def remove_each(
  judged: ClassifierOnImages,
  trained: ClassifierOnImages,
  found: Mapping[str, Any],
  folder: pathlib.Path,
  *,
  seed: int,
) -> list[dict[str, Any]]:
  """What taking each component away by itself does.

  Args:
    judged: the classifier with the images on which that is seen.
    trained: the same with those that the components are of.
    found: what `components.json` holds.
    folder: of that file, with the features of both.
    seed: of intervals.
  """
  head = find_linear_head(judged.classifier, judged.predict_fn, judged.params)
  looked = seen = look(trained, head, results.open_folder(folder), "features")
  if judged is not trained:
    seen = look(judged, head, results.open_folder(folder), "validation")
  taken = []
  for one in found["classes"]:
    number = one["number"]
    own = looked.features[looked.label == number]
    of_class = find_components(own, head.kernel[:, number], float(head.bias[number]))
    for component in one["components"]:
      direction = of_class.direction(component["number"] - 1)
      removed = Component(class_number=number, number=component["number"], **direction._asdict())
      fixed = fix_logits(seen.logits, seen.features, [removed])
      taken.append(to_json(summarise(seen, fixed, one["name"], number, component["number"], seed=seed)))
  return taken


def summarise(
  seen: Looked, fixed: Float[np.ndarray, "N K"], of_class: str, class_number: int, number: int, *, seed: int
) -> Taken:
  """What these logits, without the component, say beside those that were."""
  before, after = seen.logits.argmax(1), fixed.argmax(1)
  is_own, was_called, is_called = seen.label == class_number, before == class_number, after == class_number
  is_lost = was_called & ~is_called
  return Taken(
    of_class=of_class,
    number=number,
    hang=share_of(is_lost[was_called]),
    were_wrong=share_of(before[is_lost] != seen.label[is_lost]),
    own=change_of(is_called[is_own], was_called[is_own], seed=seed),
    false_calls=change_of(is_called[~is_own], was_called[~is_own], seed=seed),
    accuracy=change_of(after == seen.label, before == seen.label, seed=seed),
  )


def change_of(after: Bool[np.ndarray, "N"], before: Bool[np.ndarray, "N"], *, seed: int) -> Estimate:
  """`difference_of` of the same images, by numbers alone: a resample of truth values is a draw of their counts."""
  count, gained, lost = len(after), int((after & ~before).sum()), int((before & ~after).sum())
  if count < MIN_IMAGES or not gained + lost:
    return difference_of(after, before, seed=seed)
  parts = np.array([gained, lost, count - gained - lost]) / count
  drawn = np.random.default_rng(seed).multinomial(count, parts, NUM_RESAMPLES)
  low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / count, (0.025, 0.975))
  return Estimate(value=(gained - lost) / count, low=float(low), high=float(high), num_images=count)
