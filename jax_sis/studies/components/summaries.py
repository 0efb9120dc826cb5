"""What is said of a component: how much of the logit it carries, which images it is largest in, what it does alone."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from jax_sis.classifiers.component_file import Component
from jax_sis.statistics.estimates import Estimate, difference_of, share_of
from jax_sis.statistics.separation import Separation, separate
from jax_sis.studies.components.features import Looked
from jax_sis.studies.components.labels import ComponentName
from jax_sis.studies.components.principal import ClassComponents

NUM_MAXIMAL = 8
# Of other classes, the images in which a component is largest, which stand for those that hold it alone: as many as
# the authors of Spurious ImageNet chose by eye.
NUM_HOLDERS = 75
LEVEL, TOP = 0.9, 0.99


@dataclasses.dataclass(frozen=True, kw_only=True)
class Maximal:
  """An image in which a component is large.

  Attributes:
    id: its name.
    place: in the data.
    label: its true class.
    value: the component, in units of the logit.
    confidence: in the component's class.
  """

  id: str
  place: int
  label: str
  value: float
  confidence: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComponentSummary:
  """A component of a class.

  Attributes:
    of_class: the class.
    number: of the component, from 1, by the variance of the weighted features.
    share: of the logit's variance over the class's images.
    level: the value that a tenth of the class's images exceed, which counts as having it.
    top: the value that one in a hundred exceeds.
    spread: its standard deviation over the class's images.
    own: the images of the class in which it is largest.
    others: those of other classes.
    raised: of the images of other classes that are not called the class, those that are where it alone is raised to
      `top`.
    called: of the NUM_HOLDERS images of other classes in which it is largest, those that are called the class.
    score: how well the class's log-odds tell its images from these (spurious score): low where the feature is enough.
  """

  of_class: str
  number: int
  share: float
  level: float
  top: float
  spread: float
  own: list[Maximal]
  others: list[Maximal]
  raised: Estimate
  called: Estimate
  score: Separation

  @property
  def name(self) -> ComponentName:
    return ComponentName(self.of_class, self.number)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassSummary:
  """A class and its components.

  Attributes:
    name: of the class.
    number: of its logit.
    num_images: labelled as it, that its components were found on.
    accuracy: on those of it that all else is judged on.
    identity_error: how far the logits of all judged images are from what their components sum to, at most.
    components: those shown.
  """

  name: str
  number: int
  num_images: int
  accuracy: Estimate
  identity_error: float
  components: list[ComponentSummary]


def class_log_odds(logits: Float[np.ndarray, "N K"], number: int) -> Float[np.ndarray, "N"]:
  """The logit less the logsumexp of the others, which never rounds to a common confidence of 1."""
  others = np.delete(logits.astype(np.float64), number, axis=1)
  return logits[:, number] - np.logaddexp.reduce(others, axis=1)


def find_holders(values: Float[np.ndarray, "N"], is_own: Bool[np.ndarray, "N"]) -> Int[np.ndarray, "M"]:
  """The images of other classes in which a component is largest, the largest first."""
  others = np.flatnonzero(~is_own)
  return others[np.argsort(-values[others], kind="stable")[:NUM_HOLDERS]]


def summarise_class(
  fitted: Looked,
  judged: Looked,
  found: ClassComponents,
  number: int,
  class_names: Sequence[str],
  *,
  num_components: int,
) -> ClassSummary:
  """The class of this number, and its first components.

  Args:
    fitted: the images that components were found on, whose values say what is much of a component.
    judged: those of which all else is said.
    found: the class's components.
    number: of its logit.
    class_names: of all classes.
    num_components: how many are summarised.
  """
  is_own = judged.label == number
  values = found.project(judged.features)
  own_values = found.project(fitted.features[fitted.label == number])
  predicted = judged.logits.argmax(1)
  error = np.abs(values.sum(1) + found.constant - judged.logits[:, number]).max()
  return ClassSummary(
    name=class_names[number],
    number=number,
    num_images=len(own_values),
    accuracy=share_of(predicted[is_own] == number),
    identity_error=float(error),
    components=[
      summarise_component(
        judged, values[:, place], own_values[:, place], found.shares[place], place, number, class_names
      )
      for place in range(num_components)
    ],
  )


def summarise_component(
  looked: Looked,
  values: Float[np.ndarray, "N"],
  own_values: Float[np.ndarray, "M"],
  share: float,
  place: int,
  number: int,
  class_names: Sequence[str],
) -> ComponentSummary:
  is_own, predicted = looked.label == number, looked.logits.argmax(1)
  own = np.flatnonzero(is_own)
  level, top = np.quantile(own_values, (LEVEL, TOP))
  log_odds = class_log_odds(looked.logits, number)
  holders = find_holders(values, is_own)

  def describe(image: int) -> Maximal:
    return Maximal(
      id=str(looked.id[image]),
      place=int(looked.place[image]),
      label=class_names[int(looked.label[image])],
      value=float(values[image]),
      confidence=float(1 / (1 + np.exp(-log_odds[image]))),
    )

  asked = ~is_own & (predicted != number)
  rest = np.delete(looked.logits, number, axis=1).max(1)
  is_turned = looked.logits[:, number] + np.maximum(top - values, 0) > rest
  return ComponentSummary(
    of_class=class_names[number],
    number=place + 1,
    share=float(share),
    level=float(level),
    top=float(top),
    spread=float(own_values.std()),
    own=[describe(image) for image in own[np.argsort(-values[own], kind="stable")[:NUM_MAXIMAL]]],
    others=[describe(image) for image in holders[:NUM_MAXIMAL]],
    raised=share_of(is_turned[asked]),
    called=share_of(predicted[holders] == number),
    score=separate(log_odds[own], log_odds[holders]),
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixSummary:
  """What taking components away does, on the images that are judged.

  Attributes:
    removed: the components.
    accuracy: of the classifier as it is.
    fixed_accuracy: of the fixed one.
    change: the second less the first.
    holders: for each component, of the NUM_HOLDERS images of other classes in which it is largest, those that the
      classifier calls the class, and those that the fixed one does; and the fixed one's spurious score.
  """

  removed: list[str]
  accuracy: Estimate
  fixed_accuracy: Estimate
  change: Estimate
  holders: dict[str, dict[str, Any]]


def fix_logits(
  logits: Float[np.ndarray, "N K"],
  features: Float[np.ndarray, "N E"],
  removed: Sequence[Component],
) -> Float[np.ndarray, "N K"]:
  """The logits less the positive part of these components of these classes."""
  fixed = logits.astype(np.float64)
  for one in removed:
    fixed[:, one.class_number] -= np.maximum(features @ one.weights - one.offset, 0)
  return fixed


def summarise_fix(looked: Looked, removed: Mapping[ComponentName, Component], *, seed: int) -> FixSummary:
  """What taking these away does."""
  fixed = fix_logits(looked.logits, looked.features, list(removed.values()))
  was_right, is_right = (logits.argmax(1) == looked.label for logits in (looked.logits, fixed))
  holders = {}
  for name, one in removed.items():
    number, is_own = one.class_number, looked.label == one.class_number
    places = find_holders(looked.features @ one.weights - one.offset, is_own)
    log_odds = class_log_odds(fixed, number)
    holders[str(name)] = {
      "called": share_of(looked.logits[places].argmax(1) == number),
      "called_by_fixed": share_of(fixed[places].argmax(1) == number),
      "fixed_score": separate(log_odds[is_own], log_odds[places]),
    }
  return FixSummary(
    removed=[str(name) for name in removed],
    accuracy=share_of(was_right),
    fixed_accuracy=share_of(is_right),
    change=difference_of(is_right, was_right, seed=seed),
    holders=holders,
  )
