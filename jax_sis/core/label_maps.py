"""Label maps: each pixel names its feature, in an image of its own or in all alike."""

import dataclasses
import functools
import importlib
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, Shaped

from jax_sis.core import masking
from jax_sis.core.validation import check_positive_integer, is_concrete

# Superpixels of an image, about.
NUM_SEGMENTS = 64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelMap:
  """The feature that each pixel belongs to, in each image; as searches take it and their results hold it.

  Attributes:
    labels: features are numbered from 0 in each image, in the order of the numbers in the user's map. The axes after
      the first are those of the inputs, of length 1 where one label stands for all along them.
    num_features: the most features of any image. Those that an image does not have are not available in it.

  Examples:
    The two rows of an image as its features:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, images):
    ...   return images.reshape(len(images), -1) @ weights
    >>> weights, images = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 0.0]]), jnp.ones((1, 2, 2, 1))
    >>> order = jax_sis.backselect(predict_fn, weights, images, features=jnp.array([[0, 0], [1, 1]]))
    >>> type(order.features).__name__, order.features.num_features, order.rank.tolist()
    ('LabelMap', 2, [[0, 1]])
  """

  labels: Int[Array, "B ..."]
  num_features: int = dataclasses.field(metadata={"static": True})

  @property
  def shape(self) -> tuple[int, ...]:
    """The mask's shape."""
    return (self.num_features,)

  @property
  def holds_whole_positions(self) -> bool:
    """Whether a feature has all channels of its positions."""
    return self.labels.shape[-1] == 1

  def spread(self, mask: Shaped[Array, "N F"], input_shape: tuple[int, ...]) -> Shaped[Array, "N ..."]:
    """One value a feature as one a pixel; N // B masks of each image in turn."""
    del input_shape
    num_images, places = self.labels.shape[0], self.labels.shape[1:]
    spread = jnp.take_along_axis(
      mask.reshape(num_images, -1, self.num_features), self.labels.reshape(num_images, 1, -1), axis=2
    )
    return spread.reshape(-1, *places)

  def mix(
    self, inputs: Float[Array, "N ..."], kept: Shaped[Array, "N F"], shown: Float[Array, "N ..."]
  ) -> Float[Array, "N ..."]:
    """Kept features of the inputs, and elsewhere what is shown; linear in `kept`."""
    return masking.blend(inputs, self.spread(kept, inputs.shape[1:]), shown)

  def choose(
    self, image: Float[Array, "..."], is_shown: Bool[Array, "1 F"], other: Float[Array, "..."]
  ) -> Float[Array, "..."]:
    """Some features of one image, and elsewhere those of another."""
    return jnp.where(self.spread(is_shown, image.shape)[0], image, other)

  def existing(self) -> Bool[Array, "B F"]:
    """Which features each image has."""
    counts = self.labels.reshape(self.labels.shape[0], -1).max(1) + 1
    return jnp.arange(self.num_features, dtype=jnp.int32)[None] < counts[:, None]

  def of_copies(self, num_copies: int) -> "LabelMap":
    """For `vmap` over this number of copies, those of one image after the other: each is given its own."""
    repeats = num_copies // self.labels.shape[0]
    return dataclasses.replace(self, labels=jnp.repeat(self.labels, repeats, axis=0)[:, None])

  def count_places(self, kept: Shaped[Array, "B F"]) -> Int[Array, "B"]:
    """How many pixels the kept features have."""
    spread = self.spread(kept.astype(jnp.int32), self.labels.shape[1:])
    return spread.reshape(spread.shape[0], -1).sum(1, dtype=jnp.int32)

  def __str__(self) -> str:
    return "label map"


def make_label_map(labels: Any, input_shape: tuple[int, ...]) -> LabelMap:
  """A map of whole numbers as a `LabelMap`.

  Args:
    labels: a number for each pixel, `[H, W]` for all images alike or `[B, H, W]`; for other inputs, one for each
      position, all axes but the last. With the last axis as well, one for each element, of one image or of each.
    input_shape: of the inputs, with the batch axis.

  Returns:
    The map, its labels numbered from 0 in each image, which can be given as `features=` under `jit`, too.

  Raises:
    ValueError: it is traced, not of whole numbers, of another shape, or holds one label only.

  Examples:
    >>> import numpy as np
    >>> import jax_sis
    >>> label_map = jax_sis.features.make_label_map(np.array([[7, 7], [9, 3]]), (1, 2, 2, 3))
    >>> label_map.num_features, label_map.labels[0, :, :, 0].tolist()
    (3, [[1, 1], [2, 0]])
  """
  if not hasattr(labels, "dtype") or not hasattr(labels, "shape"):
    raise ValueError(
      "features must be an array of whole numbers, one for each pixel, jax_sis.features.Dct(...) or "
      f"jax_sis.features.Basis(...), got {type(labels).__name__}."
    )
  if not is_concrete(labels):
    raise ValueError(
      "features must have values when the search is traced, got a traced array; make_label_map(labels, inputs.shape) "
      "outside of it makes what can be given as an argument."
    )
  array = np.asarray(labels)
  check_whole("features", array)
  num_images, places = input_shape[0], masking.default_grid(input_shape[1:])
  positions = places if len(input_shape) == 2 else places[:-1]
  if array.shape in (positions, (num_images, *positions)):
    array = array.reshape(-1, *places)
  elif array.shape in (input_shape[1:], input_shape):
    array = array.reshape(-1, *input_shape[1:])
  else:
    raise ValueError(
      f"features must have a label for each pixel of the inputs {list(input_shape)}, that is shape {list(positions)}, "
      f"or {[num_images, *positions]} with a map an image, got {list(array.shape)}."
    )
  numbered = np.stack([number_labels(one) for one in array])
  counts = numbered.reshape(len(numbered), -1).max(1) + 1
  if counts.min() < 2:
    image = f" in image {int(counts.argmin())}" if len(counts) > 1 else ""
    raise ValueError(f"features must hold at least two labels, got one{image}: there is nothing to choose.")
  return LabelMap(
    labels=jnp.asarray(np.broadcast_to(numbered, (num_images, *numbered.shape[1:])), jnp.int32),
    num_features=int(counts.max()),
  )


def check_whole(name: str, labels: Shaped[np.ndarray, "..."]) -> None:
  """Raises ValueError unless these are whole numbers of at least 0."""
  if not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(
      f"{name} must be whole numbers, the label of each pixel, got {labels.dtype}; use .astype(int) if they are."
    )
  if labels.size and labels.min() < 0:
    raise ValueError(
      f"{name} must be numbers of at least 0, got {labels.min()}; give such pixels a label of their own."
    )


def number_labels(labels: Integer[np.ndarray, "..."]) -> Integer[np.ndarray, "..."]:
  """The labels numbered from 0, in their order."""
  return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)


def check_label_map(features: LabelMap, input_shape: tuple[int, ...]) -> LabelMap:
  """A label map that was made before; ValueError where it is of other inputs, or holds other labels than it says."""
  shape = features.labels.shape
  if (
    len(shape) != len(input_shape)
    or shape[0] != input_shape[0]
    or any(size not in (1, length) for size, length in zip(shape, input_shape, strict=True))
  ):
    raise ValueError(f"features must be of the inputs {list(input_shape)}, got a label map {list(shape)}.")
  num_places = math.prod(shape[1:])
  if not 2 <= features.num_features <= num_places:
    raise ValueError(
      f"features.num_features must be at least 2 and at most the number of pixels, {num_places}, "
      f"got {features.num_features}."
    )
  if is_concrete(features.labels):
    low, high = int(features.labels.min()), int(features.labels.max())
    if low < 0 or high >= features.num_features:
      raise ValueError(f"features.labels must lie in 0..{features.num_features - 1}, got {low} to {high}.")
  return features


def superpixels(
  images: Any, num_segments: int = NUM_SEGMENTS, *, compactness: float = 10.0, sigma: float = 1.0
) -> Int[np.ndarray, "B H W"]:
  """A label map for each image, by scikit-image's SLIC (Achanta et al. 2012): `pip install 'jax_sis[superpixels]'`.

  Args:
    images: `[B, H, W, C]` with three channels or one, as 8-bit pixels or in 0..1 (not normalised).
    num_segments: about how many; images differ.
    compactness: how much nearness counts beside colour: higher gives squarer segments.
    sigma: of the Gaussian, in pixels, by which images are smoothed before.

  Returns:
    Labels from 0 in each image, to be given as `features=`.

  Raises:
    ValueError: these are no such images, or the number is out of range.
    ImportError: scikit-image is not installed.

  Examples:
    No superpixel crosses the edge between a black and a white half:

    >>> import numpy as np
    >>> import jax_sis
    >>> images = np.zeros((1, 16, 16, 3), np.uint8)
    >>> images[:, :, 8:] = 255
    >>> labels = jax_sis.features.superpixels(images, num_segments=4, sigma=0.0)
    >>> labels.shape, set(labels[0, :, :8].ravel()) & set(labels[0, :, 8:].ravel())
    ((1, 16, 16), set())
  """
  # The method itself does without the library.
  try:
    segmentation = importlib.import_module("skimage.segmentation")
  except ModuleNotFoundError as error:
    raise ImportError("superpixels needs scikit-image; pip install 'jax_sis[superpixels]'.") from error
  pixels = np.asarray(images)
  if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3):
    raise ValueError(f"images must be [B, H, W, C] with one channel or three, got {list(pixels.shape)}.")
  if pixels.dtype != np.uint8 and not (pixels.min() >= 0 and pixels.max() <= 1):
    raise ValueError("images must be 8-bit pixels or lie in 0..1, got others; give them before they are normalised.")
  check_positive_integer("num_segments", num_segments)
  if num_segments > pixels.shape[1] * pixels.shape[2] // 4 or num_segments < 2:
    most = pixels.shape[1] * pixels.shape[2] // 4
    raise ValueError(f"num_segments must be 2 to {most}, four pixels a segment, got {num_segments}.")
  divide = functools.partial(
    segmentation.slic, n_segments=num_segments, compactness=compactness, sigma=sigma, start_label=0
  )
  return np.stack([number_labels(divide(one, channel_axis=-1)) for one in pixels]).astype(np.int32)
