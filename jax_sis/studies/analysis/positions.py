"""Where the pixels of subsets lie: heat maps, mean row and column, the border, and whether all are used evenly."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float

from jax_sis.statistics.estimates import Estimate, mean_of

# The test relies on sums over many images.
MIN_IMAGES_FOR_TEST = 10
NUM_DRAWS = 4999
# Random numbers in memory at once.
MOST_NUMBERS = 4_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evenness:
  """Whether subsets use all places of the image equally often.

  Attributes:
    dispersion: the variance of the counts over places, divided by the variance expected if each image's subset were
      moved to a random place. About 1 if all places are used equally; None where it cannot be computed.
    p_value: how likely a dispersion this large would be in that case.
    reason: why these are missing; None where they are not.
  """

  dispersion: float | None
  p_value: float | None
  reason: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Positions:
  """Where the kept features of some images lie.

  Attributes:
    what: which features.
    num_images: images that keep any.
    shares: by row and column the share of the images that keep the feature there.
    mean_row: the mean over images of the mean row of the kept features, counted from 0 at the top.
    mean_column: the same for columns, from the left.
    even_row: the mean row if all were used equally.
    even_column: the mean column.
    border: the mean over images of the share of the kept features that lie in the outermost rows and columns.
    even_border: that share if all places were used equally.
    evenness: a test of that.
  """

  what: str
  num_images: int
  shares: tuple[tuple[float, ...], ...]
  mean_row: Estimate
  mean_column: Estimate
  even_row: float
  even_column: float
  border: Estimate
  even_border: float
  evenness: Evenness


class PositionCounts:
  """Counts where kept features lie, some images at a time.

  Args:
    grid: height, width and channels of the masks.
  """

  def __init__(self, grid: tuple[int, int, int]):
    self._grid = grid
    self._counts = np.zeros(grid[:2])
    self._power = np.zeros(grid[:2])
    self._rows: list[np.ndarray] = []
    self._columns: list[np.ndarray] = []
    self._borders: list[np.ndarray] = []
    self._is_border = np.ones(grid[:2], bool)
    self._is_border[1:-1, 1:-1] = False

  def add(self, kept: Bool[np.ndarray, "M F"]) -> None:
    """Counts these images, except those that keep nothing. The channels of a place count as one."""
    maps = kept[kept.any(1)].reshape(-1, *self._grid).any(-1).astype(np.float64)
    total = maps.sum((1, 2))
    self._counts += maps.sum(0)
    self._power += (np.abs(np.fft.fft2(maps)) ** 2).sum(0)
    self._rows.append(maps.sum(2) @ np.arange(self._grid[0]) / total)
    self._columns.append(maps.sum(1) @ np.arange(self._grid[1]) / total)
    self._borders.append((maps * self._is_border).sum((1, 2)) / total)

  def describe(self, what: str, *, seed: int = 0) -> Positions:
    """What was counted of the features called `what`; `seed` is that of the intervals and the test."""
    rows, columns, borders = (
      np.concatenate([np.zeros(0), *parts]) for parts in (self._rows, self._columns, self._borders)
    )
    return Positions(
      what=what,
      num_images=len(rows),
      shares=tuple(map(tuple, (self._counts / max(len(rows), 1)).tolist())),
      mean_row=mean_of(rows, seed=seed),
      mean_column=mean_of(columns, seed=seed),
      even_row=(self._grid[0] - 1) / 2,
      even_column=(self._grid[1] - 1) / 2,
      border=mean_of(borders, seed=seed),
      even_border=float(self._is_border.mean()),
      evenness=check_evenness(self._counts, self._power, num_images=len(rows), seed=seed),
    )


def check_evenness(
  counts: Float[np.ndarray, "h w"],
  power: Float[np.ndarray, "h w"],
  *,
  num_images: int,
  seed: int = 0,
) -> Evenness:
  """Tests whether subsets use all places equally often, with each image counted as one.

  Pixels of a subset lie together, so they are not independent draws. The test therefore moves whole subsets. If each
  image's mask were shifted by a random number of rows and columns, wrapping around the edges, each Fourier coefficient
  of the sum over images would be a sum of numbers of known size and random phase. For many images that is a normally
  distributed complex number, and the variance of the counts, their power without the mean, is a sum of exponentially
  distributed numbers.

  Args:
    counts: how many images keep the feature of each place.
    power: the squared magnitudes of the Fourier coefficients of the images' masks, summed over images.
    num_images: how many.
    seed: of the draws from that distribution.
  """
  if num_images < MIN_IMAGES_FOR_TEST:
    return Evenness(dispersion=None, p_value=None, reason=f"fewer than {MIN_IMAGES_FOR_TEST} images")
  spectrum = np.abs(np.fft.fft2(counts)).ravel() ** 2
  expected = power.ravel()
  # In a real map each coefficient has a conjugate partner, except for those that are their own.
  places = np.arange(counts.size).reshape(counts.shape)
  partners = np.roll(places[::-1, ::-1], (1, 1), (0, 1)).ravel()
  places = places.ravel()
  is_pair, is_own = places < partners, (places == partners) & (places > 0)
  total = expected[1:].sum()
  # Zero, up to rounding.
  if total <= 1e-9 * expected[0]:
    return Evenness(dispersion=None, p_value=None, reason="every subset is the whole image")
  observed = spectrum[1:].sum()
  rng = np.random.default_rng(seed)
  num_larger = 0
  step = max(1, MOST_NUMBERS // counts.size)
  for start in range(0, NUM_DRAWS, step):
    count = min(step, NUM_DRAWS - start)
    drawn = rng.standard_exponential((count, int(is_pair.sum()))) @ (2 * expected[is_pair])
    drawn += rng.standard_normal((count, int(is_own.sum()))) ** 2 @ expected[is_own]
    num_larger += int((drawn >= observed).sum())
  return Evenness(dispersion=float(observed / total), p_value=(1 + num_larger) / (1 + NUM_DRAWS))
