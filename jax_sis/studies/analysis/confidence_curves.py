"""How confidence falls along the removal of pixels: its mean and quantiles over images at every share that is kept."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Points of a curve: half of them evenly spaced, half of them evenly on a logarithmic axis.
NUM_POINTS_A_HALF = 50
# Confidences are counted in levels, so that memory does not depend on the number of images.
NUM_LEVELS = 2000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
  """The confidence of some images at each size.

  Attributes:
    group: which images.
    num_images: how many.
    mean: mean confidence at each size.
    quantiles: by share, as QUANTILES, the confidence that this share does not exceed, to half a thousandth; empty for
      the curves of classes.
  """

  group: str
  num_images: int
  mean: tuple[float, ...]
  quantiles: dict[str, tuple[float, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Removal:
  """The curves of a run.

  Attributes:
    sizes: how many features are kept at each point, ascending.
    shares: the same as a share of the image.
    curves: of all images, and of others that have images.
    classes: by target, where asked for.
  """

  sizes: tuple[int, ...]
  shares: tuple[float, ...]
  curves: tuple[Curve, ...]
  classes: tuple[Curve, ...]


class RemovalCounts:
  """Counts confidences along orders, some images at a time.

  Args:
    sizes: the T sizes that the orders were evaluated at, ascending.
    num_features: F.
    groups: names of the groups of images that curves are drawn of.
    class_names: the classes, where they get curves of their own; else empty.
  """

  def __init__(
    self, sizes: Sequence[int], *, num_features: int, groups: Sequence[str], class_names: Sequence[str] = ()
  ):
    self._num_features = num_features
    self._points = choose_points(sizes, num_features)
    self._sizes = np.asarray(sizes)[self._points]
    shape = (len(self._points), NUM_LEVELS)
    self._levels = {group: np.zeros(shape, np.int64) for group in groups}
    self._sums = {group: np.zeros(len(self._points)) for group in groups}
    self._class_names = class_names
    self._class_sums = np.zeros((len(class_names), len(self._points)))
    self._class_counts = np.zeros(len(class_names), np.int64)

  def add(
    self,
    confidence: Float[np.ndarray, "M T"],
    groups: Mapping[str, Bool[np.ndarray, "M"]],
    target: Int[np.ndarray, "M"],
  ) -> None:
    """Counts these images, all of whose confidences are finite; `groups` says by name which images belong."""
    chosen = confidence[:, self._points].astype(np.float64)
    num_points = len(self._points)
    levels = np.minimum((chosen * NUM_LEVELS).astype(np.int64), NUM_LEVELS - 1) + NUM_LEVELS * np.arange(num_points)
    for group, belongs in groups.items():
      counts = np.bincount(levels[belongs].ravel(), minlength=num_points * NUM_LEVELS)
      self._levels[group] += counts.reshape(num_points, NUM_LEVELS)
      self._sums[group] += chosen[belongs].sum(0)
    if len(self._class_names):
      np.add.at(self._class_sums, target, chosen)
      np.add.at(self._class_counts, target, 1)

  def describe(self) -> Removal:
    """What was counted, of the groups and classes that have images."""
    curves = []
    for group, levels in self._levels.items():
      num_images = int(levels[0].sum())
      if num_images:
        quantiles = {f"{share:g}": tuple(read_quantile(levels, share).tolist()) for share in QUANTILES}
        mean = tuple((self._sums[group] / num_images).tolist())
        curves.append(Curve(group=group, num_images=num_images, mean=mean, quantiles=quantiles))
    classes = [
      Curve(group=name, num_images=count, mean=tuple((sums / count).tolist()), quantiles={})
      for name, count, sums in zip(self._class_names, self._class_counts.tolist(), self._class_sums, strict=True)
      if count
    ]
    return Removal(
      sizes=tuple(self._sizes.tolist()),
      shares=tuple((self._sizes / self._num_features).tolist()),
      curves=tuple(curves),
      classes=tuple(classes),
    )


def choose_points(sizes: Sequence[int], num_features: int) -> Int[np.ndarray, "P"]:
  """Which of the ascending sizes a curve shows: those next to evenly and to logarithmically spaced ones."""
  wanted = np.concatenate(
    [np.linspace(0, num_features, NUM_POINTS_A_HALF + 1), np.geomspace(1, num_features, NUM_POINTS_A_HALF)]
  )
  available = np.asarray(sizes)
  after = np.clip(np.searchsorted(available, wanted), 1, len(available) - 1)
  is_before = wanted - available[after - 1] <= available[after] - wanted
  return np.unique(np.where(is_before, after - 1, after))


def read_quantile(levels: Shaped[np.ndarray, "P L"], share: float) -> Float[np.ndarray, "P"]:
  """The middle of the level at which each row's cumulative count reaches this share."""
  summed = levels.cumsum(1)
  reached = summed >= share * summed[:, -1:]
  return (reached.argmax(1) + 0.5) / NUM_LEVELS
