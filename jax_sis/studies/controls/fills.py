"""What the pixels around a subset may show instead of the mean colour: other colours, noise, other images, guesses."""

import numpy as np
import scipy.ndimage
import scipy.sparse
import scipy.sparse.linalg
from jaxtyping import Bool, Float

from jax_sis.data.normalisation import Normalisation

# The eight neighbours of a pixel, and how much each counts (Rong et al. 2022): those beside it twice the others.
NEIGHBOURS = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1) if (row, column) != (0, 0))
NEIGHBOUR_WEIGHTS = tuple(1 / 6 if 0 in offset else 1 / 12 for offset in NEIGHBOURS)
# The standard deviation of the noise on imputed pixels, in normalised units; the authors' own.
IMPUTATION_NOISE = 0.01
# The standard deviation of the blur, as a share of the shorter side: 4 pixels of 32.
BLUR_SHARE = 1 / 8
MIDDLE_GREY = 127.5


def colour(value: float, normalisation: Normalisation, shape: tuple[int, ...]) -> Float[np.ndarray, "H W C"]:
  """An image whose every byte is `value`, normalised."""
  return normalisation.apply(np.full(shape, value, np.float32))


def own_mean(image: Float[np.ndarray, "H W C"]) -> Float[np.ndarray, "H W C"]:
  return np.broadcast_to(image.mean((0, 1)), image.shape)


def blur(image: Float[np.ndarray, "H W C"]) -> Float[np.ndarray, "H W C"]:
  """The image through a Gaussian, see BLUR_SHARE, mirrored beyond its borders. Coarse forms and colours remain."""
  sigma = BLUR_SHARE * min(image.shape[:2])
  return scipy.ndimage.gaussian_filter(image, (sigma, sigma, 0))


def noise(
  generator: np.random.Generator, normalisation: Normalisation, shape: tuple[int, ...]
) -> Float[np.ndarray, "H W C"]:
  """Uniformly random bytes, normalised."""
  return normalisation.apply(generator.integers(0, 256, shape, np.uint8))


def impute_linearly(
  image: Float[np.ndarray, "H W C"], kept: Bool[np.ndarray, "H W"], generator: np.random.Generator
) -> Float[np.ndarray, "H W C"]:
  """Noisy linear imputation: each missing pixel is about the weighted mean of its neighbours, known or missing.

  The shape of what is kept shows less in such an image than on an even background. The weights are NEIGHBOUR_WEIGHTS,
  at a border scaled to the sum 1; the means of all missing pixels make a sparse linear system, and its solution gets a
  little Gaussian noise, see IMPUTATION_NOISE.

  Args:
    image: normalised.
    kept: the known pixels.
    generator: draws the noise.

  Returns:
    The imputed pixels where pixels are missing, the image elsewhere.

  Raises:
    ValueError: no pixel is kept, so that there is nothing to start from.

  Source: Rong et al. 2022 (ICML), A consistent and efficient evaluation strategy for attribution methods, on noisy
  linear imputation.
  """
  if not kept.any():
    raise ValueError("kept must hold at least one pixel that others can be imputed from, got none.")
  if kept.all():
    return image
  height, width = kept.shape
  missing = np.flatnonzero(~kept)
  place = np.full(height * width, -1)
  place[missing] = np.arange(len(missing))
  rows, columns = np.divmod(missing, width)
  known = np.zeros((len(missing), image.shape[2]))
  total = np.zeros(len(missing))
  entries = []
  for (down, right), weight in zip(NEIGHBOURS, NEIGHBOUR_WEIGHTS, strict=True):
    row, column = rows + down, columns + right
    inside = np.flatnonzero((row >= 0) & (row < height) & (column >= 0) & (column < width))
    neighbour = row[inside] * width + column[inside]
    is_known = kept.reshape(-1)[neighbour]
    total[inside] += weight
    known[inside[is_known]] += weight * image.reshape(-1, image.shape[2])[neighbour[is_known]]
    entries.append((inside[~is_known], place[neighbour[~is_known]], np.full((~is_known).sum(), -weight)))
  from_rows, to_columns, values = (np.concatenate(parts) for parts in zip(*entries, strict=True))
  system = scipy.sparse.coo_array((values, (from_rows, to_columns)), shape=(len(missing), len(missing)))
  system = (system + scipy.sparse.diags_array(total)).tocsc()
  solution = scipy.sparse.linalg.splu(system).solve(known)
  imputed = image.reshape(-1, image.shape[2]).copy()
  imputed[missing] = solution + IMPUTATION_NOISE * generator.standard_normal(solution.shape)
  return imputed.reshape(image.shape)
