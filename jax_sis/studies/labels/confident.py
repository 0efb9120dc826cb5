"""Confident learning: which labels the classifier's probabilities speak against, and how many there may be.

Northcutt, Jiang and Chuang 2021, Confident learning: estimating uncertainty in dataset labels, sections 3.1 and 3.2.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

# Of an image that is confidently of no class.
NO_CLASS = -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Confident:
  """What confident learning says of labels.

  Attributes:
    probability: p(label) of each image.
    suggested: the class that an image is confidently counted as, or NO_CLASS.
    is_candidate: whether that is another class than its label.
    joint: the share of the images with each label (first axis) and true class, estimated; sums to 1.
  """

  probability: Float[np.ndarray, "N"]
  suggested: Int[np.ndarray, "N"]
  is_candidate: Bool[np.ndarray, "N"]
  joint: Float[np.ndarray, "K K"]

  @property
  def share_wrong(self) -> float:
    """The share of labels that is estimated to be wrong."""
    return float(max(1 - np.trace(self.joint), 0.0))


def learn_confidently(probabilities: Float[np.ndarray, "N K"], labels: Int[np.ndarray, "N"]) -> Confident:
  """Counts images by their label and the class that they are confidently of.

  An image is confidently of a class where its probability is at least the mean that images with that label have; of
  several such classes, it is counted as the most probable one. The counts of a label are scaled to its images.

  Args:
    probabilities: by a classifier that was not trained on these images, or their labels look right.
    labels: as given.
  """
  num_classes = probabilities.shape[1]
  own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
  counts = np.bincount(labels, minlength=num_classes)
  # No image is confidently of a class without images.
  thresholds = np.divide(
    np.bincount(labels, own, num_classes), counts, out=np.full(num_classes, np.inf), where=counts > 0
  )
  confident = np.where(probabilities >= thresholds, probabilities, -1.0)
  suggested = np.where((confident >= 0).any(1), confident.argmax(1), NO_CLASS)
  is_counted = suggested != NO_CLASS
  joint = np.zeros((num_classes, num_classes))
  np.add.at(joint, (labels[is_counted], suggested[is_counted]), 1)
  totals = joint.sum(1)
  # Of a label none of whose images is counted, nothing speaks against it.
  joint[np.diag_indices(num_classes)] += (totals == 0) & (counts > 0)
  joint *= (counts / np.maximum(joint.sum(1), 1))[:, None]
  return Confident(
    probability=own,
    suggested=suggested,
    is_candidate=is_counted & (suggested != labels),
    joint=joint / max(joint.sum(), 1),
  )


def plant_errors(
  labels: Int[np.ndarray, "N"], num_classes: int, *, share: float, seed: int
) -> tuple[Int[np.ndarray, "N"], Bool[np.ndarray, "N"]]:
  """The labels with a share of them changed, each to any other class alike, and which these are."""
  rng = np.random.default_rng(seed)
  chosen = rng.permutation(len(labels))[: round(share * len(labels))]
  changed, is_changed = labels.copy(), np.zeros(len(labels), bool)
  changed[chosen] = (labels[chosen] + rng.integers(1, num_classes, len(chosen))) % num_classes
  is_changed[chosen] = True
  return changed, is_changed
