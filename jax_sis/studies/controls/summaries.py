"""What the controls of all subsets say together: shares, differences, and on how many fills subsets depend."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped

from jax_sis.statistics.estimates import Estimate, paired_bootstrap, share_of
from jax_sis.studies.controls.outcomes import Outcomes
from jax_sis.studies.controls.views import CONTROLS, NAMES, SUBSET

# A fill closer to the search's, in normalised units, counts as the same one; for CIFAR-10, middle grey does.
OTHER_FILL_DISTANCE = 0.25
FILL_RULE = (
  "A subset works with one fill only if it reaches the threshold with the fill of the search and with none of the "
  f"others. A fill counts as another one if it differs from the search's by at least {OTHER_FILL_DISTANCE:g} in "
  "normalised units (root mean square over what is filled), and the blurred image only where it does not reach the "
  "threshold without the subset."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ControlSummary:
  """What one control says of all images that it could be made of.

  Attributes:
    name: the key in CONTROLS.
    num_images: how many images these are. Where there is none, all that follows is None.
    keeps_class: images whose target is the predicted class.
    is_sufficient: images whose target reaches the threshold.
    confidence: the mean confidence.
    keeps_class_change: the share that keeps the class, less that of the subsets themselves, on the same images.
    is_sufficient_change: the same of the share that reaches the threshold.
    confidence_change: the same of the mean confidence.
    keeps_class_over_reference: the share that keeps the class, less that of the control's reference.
    fill_distance: the median over the images, see `Outcomes`.
  """

  name: str
  num_images: int
  keeps_class: Estimate | None = None
  is_sufficient: Estimate | None = None
  confidence: float | None = None
  keeps_class_change: Estimate | None = None
  is_sufficient_change: Estimate | None = None
  confidence_change: Estimate | None = None
  keeps_class_over_reference: Estimate | None = None
  fill_distance: float | None = None

  @property
  def is_other_fill(self) -> bool:
    """Whether it shows the subset on a background that, for most images, is not that of the search; see FILL_RULE."""
    is_far = self.fill_distance is not None and self.fill_distance >= OTHER_FILL_DISTANCE
    return CONTROLS[self.name].group == "fill" and is_far


@dataclasses.dataclass(frozen=True, kw_only=True)
class FillSummary:
  """On how many fills subsets depend, by FILL_RULE.

  Attributes:
    num_images: images whose subset reaches the threshold, and for which there is another fill.
    one_fill_only: those of them that reach it with none of the other fills; None without images.
    every_fill: those that reach it with every one of them.
    one_fill_class: the same of the class, which subsets at the threshold's edge lose less easily: of those that keep
      it, the ones that keep it with none of the other fills.
  """

  num_images: int
  one_fill_only: Estimate | None
  every_fill: Estimate | None
  one_fill_class: Estimate | None


def summarise(outcomes: Outcomes, *, level: float = 0.95) -> list[ControlSummary]:
  """Each control's shares, with Wilson intervals, and differences, with paired bootstrap intervals.

  Args:
    outcomes: what the classifier says of all images.
    level: of all intervals.

  Returns:
    A summary a control, in the order of CONTROLS. An image counts where the control could be made and the logits are
    finite; in a difference, where that holds for both sides.
  """
  return [summarise_control(outcomes, name, level) for name in CONTROLS]


def summarise_control(outcomes: Outcomes, name: str, level: float) -> ControlSummary:
  place, subset, reference = (NAMES.index(one) for one in (name, SUBSET, CONTROLS[name].reference))
  is_usable = ~np.isnan(outcomes.confidence)
  rows = is_usable[:, place]
  if not rows.any():
    return ControlSummary(name=name, num_images=0)
  both, both_reference = rows & is_usable[:, subset], rows & is_usable[:, reference]
  change = functools.partial(find_change, place=place, reference=subset, rows=both, level=level)
  return ControlSummary(
    name=name,
    num_images=int(rows.sum()),
    keeps_class=share_of(outcomes.keeps_class[rows, place], level=level),
    is_sufficient=share_of(outcomes.is_sufficient[rows, place], level=level),
    confidence=float(outcomes.confidence[rows, place].mean(dtype=np.float64)),
    keeps_class_change=change(outcomes.keeps_class),
    is_sufficient_change=change(outcomes.is_sufficient),
    confidence_change=change(outcomes.confidence),
    keeps_class_over_reference=find_change(
      outcomes.keeps_class, place=place, reference=reference, rows=both_reference, level=level
    ),
    fill_distance=float(np.median(outcomes.fill_distance[rows, place])),
  )


def find_change(
  values: Shaped[np.ndarray, "N C"], *, place: int, reference: int, rows: Bool[np.ndarray, "N"], level: float
) -> Estimate | None:
  """The mean of one control less that of another on the same images; None without images."""
  return paired_bootstrap(values[rows, place], values[rows, reference], level=level) if rows.any() else None


class FillDependence(NamedTuple):
  """Of each image, by FILL_RULE.

  Attributes:
    is_judged: whether its subset reaches the threshold, and there is another fill.
    is_one_only: whether that is so, and it does with none of the other fills.
    is_every: whether it does with every one of them.
  """

  is_judged: Bool[np.ndarray, "N"]
  is_one_only: Bool[np.ndarray, "N"]
  is_every: Bool[np.ndarray, "N"]


def find_fill_dependence(outcomes: Outcomes, *, by_class: bool = False) -> FillDependence:
  """Which subsets work with the search's fill only, and which with every fill; see FILL_RULE.

  Args:
    outcomes: what the classifier says of all images.
    by_class: a subset works where the class is kept, instead of where the threshold is reached.
  """
  works = outcomes.keeps_class if by_class else outcomes.is_sufficient
  places = [NAMES.index(name) for name, control in CONTROLS.items() if control.group == "fill"]
  is_other = ~np.isnan(outcomes.confidence[:, places]) & (outcomes.fill_distance[:, places] >= OTHER_FILL_DISTANCE)
  blur = places.index(NAMES.index("fill_blur"))
  is_other[:, blur] &= ~works[:, NAMES.index("blur_alone")]
  passes = works[:, places] & is_other
  is_judged = works[:, NAMES.index(SUBSET)] & is_other.any(1)
  return FillDependence(is_judged, is_judged & ~passes.any(1), is_judged & (passes == is_other).all(1))


def summarise_fills(outcomes: Outcomes, *, level: float = 0.95) -> FillSummary:
  dependence = find_fill_dependence(outcomes)
  rows = dependence.is_judged
  of_class = find_fill_dependence(outcomes, by_class=True)
  one_only_of_class = of_class.is_one_only[of_class.is_judged]
  return FillSummary(
    num_images=int(rows.sum()),
    one_fill_only=share_of(dependence.is_one_only[rows], level=level) if rows.any() else None,
    every_fill=share_of(dependence.is_every[rows], level=level) if rows.any() else None,
    one_fill_class=share_of(one_only_of_class, level=level) if len(one_only_of_class) else None,
  )
