"""Class-wise principal components of features weighted for one class (Neuhaus et al. 2023, arXiv 2212.04871)."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Direction(NamedTuple):
  """A component as a function of features: `features @ weights - offset`, in units of its class's logit."""

  weights: Float[np.ndarray, "E"]
  offset: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassComponents:
  """What the logit of a class is made of: `f = sum(components) + sum(mean) + bias`, of any image.

  Attributes:
    kernel: how much each feature counts for the class.
    bias: of the class.
    mean: of `kernel * features` over the class's images.
    axes: its principal axes there, of the largest variance first, a row each.
    shares: of the logit's variance over the class's images, the share of each component; they sum to 1.
  """

  kernel: Float[np.ndarray, "E"]
  bias: float
  mean: Float[np.ndarray, "E"]
  axes: Float[np.ndarray, "E E"]
  shares: Float[np.ndarray, "E"]

  @property
  def constant(self) -> float:
    """What the logit is where all components are 0."""
    return float(self.mean.sum()) + self.bias

  def project(self, features: Float[np.ndarray, "N E"]) -> Float[np.ndarray, "N E"]:
    """The components of images, of the class or not."""
    return ((features * self.kernel - self.mean) @ self.axes.T) * self.axes.sum(1)

  def direction(self, place: int) -> Direction:
    """One component as a function of features."""
    axis = self.axes[place]
    return Direction(axis.sum() * axis * self.kernel, float(axis.sum() * (axis @ self.mean)))


def find_components(features: Float[np.ndarray, "N E"], kernel: Float[np.ndarray, "E"], bias: float) -> ClassComponents:
  """The components of a class.

  Args:
    features: of the class's images, at least two.
    kernel: how much each feature counts for the class.
    bias: of the class.
  """
  weighted = np.asarray(features, np.float64) * kernel
  mean = weighted.mean(0)
  centred = weighted - mean
  _, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
  axes = vectors.T[::-1]
  # A component does not depend on its axis's sign.
  axes = axes * np.where(axes.sum(1, keepdims=True) < 0, -1.0, 1.0)
  variances = ((centred @ axes.T) * axes.sum(1)).var(0)
  shares = variances / (variances.sum() or 1.0)
  return ClassComponents(kernel=kernel, bias=bias, mean=mean, axes=axes, shares=shares)
