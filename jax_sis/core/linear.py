"""Features of a linear map: groups of coefficients, such as frequency bands, wavelets or mixed channels."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer, Shaped

from jax_sis.core.label_maps import check_whole, number_labels
from jax_sis.core.messages import first_line
from jax_sis.core.validation import check_positive_integer, is_concrete

# How far from an image, as a share of its largest number, what is put together again from its coefficients may be.
RECONSTRUCTION_TOLERANCE = 1e-3


class Linear:
  """Features that are groups of the coefficients of a linear map; a mask puts those of what is shown for the others."""

  @property
  def groups(self) -> Integer[np.ndarray, "..."]:
    """The feature of each coefficient, from 0; of what broadcasts to one image's coefficients."""
    raise NotImplementedError

  def analyse(self, image: Float[Array, "..."]) -> Float[Array, "..."]:
    """The coefficients of one image."""
    raise NotImplementedError

  def synthesise(self, coefficients: Float[Array, "..."]) -> Float[Array, "..."]:
    """The image of these coefficients."""
    raise NotImplementedError

  @property
  def shape(self) -> tuple[int, ...]:
    """The mask's shape."""
    return (int(self.groups.max()) + 1,)

  @property
  def holds_whole_positions(self) -> bool:
    """False: no position has a feature of its own."""
    return False

  def spread(self, mask: Shaped[Array, "N F"], input_shape: tuple[int, ...]) -> Shaped[Array, "N ..."]:
    """Raises ValueError: coefficients lie in no pixels."""
    del mask, input_shape
    raise ValueError(f"features must be pixels for this, got {self}, whose features are coefficients of whole images.")

  def mix(
    self, inputs: Float[Array, "N ..."], kept: Shaped[Array, "N F"], shown: Float[Array, "N ..."]
  ) -> Float[Array, "N ..."]:
    """Kept features of the inputs, and elsewhere what is shown; the inputs bit by bit where all are kept."""
    removed = 1 - kept[:, self.groups].astype(inputs.dtype)
    return inputs - jax.vmap(self.synthesise)(removed * jax.vmap(self.analyse)(inputs - shown))

  def choose(
    self, image: Float[Array, "..."], is_shown: Bool[Array, "1 F"], other: Float[Array, "..."]
  ) -> Float[Array, "..."]:
    """Some features of one image, and elsewhere those of another."""
    return self.mix(image[None], is_shown, other[None])[0]

  def existing(self) -> None:
    """None: every image has all features."""
    return

  def of_copies(self, num_copies: int) -> "Linear":
    """The same: all images have the same features."""
    del num_copies
    return self

  def check(self, inputs: Float[Array, "B ..."]) -> "Linear":
    """The same for inputs of this shape; ValueError where it cannot take them to coefficients and back."""
    image = jax.ShapeDtypeStruct(inputs.shape[1:], inputs.dtype)
    try:
      coefficients = jax.eval_shape(self.analyse, image)
      back = jax.eval_shape(self.synthesise, coefficients)
    except Exception as error:
      raise ValueError(
        f"features must take inputs of shape {list(image.shape)} (without the batch axis) to coefficients and back, "
        f"but raised {type(error).__name__}: {first_line(error)}"
      ) from error
    fits = len(coefficients.shape) == self.groups.ndim and all(
      size in (1, length) for size, length in zip(self.groups.shape, coefficients.shape, strict=True)
    )
    if not fits:
      raise ValueError(
        f"Basis.group_map must have the shape of one image's coefficients, {list(coefficients.shape)}, with axes of "
        f"length 1 where one group stands for all along them, got {list(self.groups.shape)}."
      )
    if back.shape != image.shape:
      raise ValueError(f"features must make images {list(image.shape)} of coefficients, got {list(back.shape)}.")
    if is_concrete(inputs):
      self.check_reconstruction(inputs[0])
    return self

  def check_reconstruction(self, image: Float[Array, "..."]) -> None:
    """Raises ValueError unless an image comes back from its coefficients, and nothing from none."""
    back = np.asarray(self.synthesise(self.analyse(image)))
    error = np.abs(back - np.asarray(image)).max() / max(np.abs(np.asarray(image)).max(), 1e-30)
    if error > RECONSTRUCTION_TOLERANCE:
      raise ValueError(
        f"features must give an image back from its coefficients, got one that differs by {error:.1%} of its largest "
        "number; synthesise_fn must be the inverse of analyse_fn."
      )
    if np.asarray(self.analyse(jnp.zeros_like(image))).any():
      raise ValueError("features must be linear, got coefficients that are not 0 for an image of zeros.")


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class Basis(Linear):
  """A linear map of one's own. Programs are compiled for the object: make it once.

  Attributes:
    analyse_fn: one input -> its coefficients, linear, and pure as predict_fn is.
    synthesise_fn: coefficients -> the input, its inverse.
    group_map: the feature of each coefficient: whole numbers of the coefficients' shape, with axes of length 1 where
      all along them belong together. Features are numbered in the order of these numbers.

  Examples:
    Sums and differences of two numbers as features:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> mixing = jnp.array([[1.0, 1.0], [1.0, -1.0]])
    >>> basis = jax_sis.features.Basis(lambda image: image @ mixing, lambda found: found @ mixing / 2, [0, 1])
    >>> basis.analyse(jnp.array([3.0, 1.0])).tolist(), basis.shape
    ([4.0, 2.0], (2,))
  """

  analyse_fn: Callable[[Any], Any]
  synthesise_fn: Callable[[Any], Any]
  group_map: Any

  def __post_init__(self) -> None:
    for name in ("analyse_fn", "synthesise_fn"):
      if not callable(getattr(self, name)):
        raise ValueError(f"Basis.{name} must be a function, got {type(getattr(self, name)).__name__}.")
    check_whole("Basis.group_map", np.asarray(self.group_map))
    if len(np.unique(np.asarray(self.group_map))) < 2:
      raise ValueError("Basis.group_map must hold at least two groups, got one: there is nothing to choose.")

  @property
  def groups(self) -> Integer[np.ndarray, "..."]:
    """The group map, its numbers from 0."""
    return number_labels(np.asarray(self.group_map))

  def analyse(self, image: Float[Array, "..."]) -> Float[Array, "..."]:
    """What `analyse_fn` gives."""
    return self.analyse_fn(image)

  def synthesise(self, coefficients: Float[Array, "..."]) -> Float[Array, "..."]:
    """What `synthesise_fn` gives."""
    return self.synthesise_fn(coefficients)

  def __str__(self) -> str:
    return "basis"


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Dct(Linear):
  """Frequencies of images `[H, W, C]`: the orthonormal cosine transform (DCT-II) of each whole channel.

  Attributes:
    bands: features from low to high: a coefficient `[u, v]` belongs to band `b` where the larger of u / H and v / W
      lies in b / bands to (b + 1) / bands. None makes each coefficient a feature, in row-major order. All channels
      together.
    size: height and width; known once it is checked against inputs.

  Examples:
    A classifier of the mean brightness needs the low frequencies, and the high ones not at all:

    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> def predict_fn(weights, images):
    ...   return images.mean((1, 2)) @ weights
    >>> images, bands = jnp.ones((1, 4, 4, 1)).at[0, 0].set(2.0), jax_sis.features.Dct(bands=2)
    >>> jax_sis.backselect(predict_fn, jnp.array([[1.0, 0.0]]), images, features=bands).rank.tolist()
    [[0, 1]]
  """

  bands: int | None = 16
  size: tuple[int, int] | None = None

  def __post_init__(self) -> None:
    if self.bands is not None:
      check_positive_integer("Dct.bands", self.bands)

  @property
  def groups(self) -> Integer[np.ndarray, "H W 1"]:
    """The feature of each coefficient."""
    assert self.size is not None
    height, width = self.size
    if self.bands is None:
      return np.arange(height * width).reshape(height, width, 1)
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    return np.maximum(rows * self.bands // height, columns * self.bands // width)[..., None]

  def analyse(self, image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
    """The coefficients `[u, v]` of each channel."""
    return transform(image, *(cosines(length) for length in image.shape[:2]))

  def synthesise(self, coefficients: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
    """The image."""
    return transform(coefficients, *(cosines(length).T for length in coefficients.shape[:2]))

  def check(self, inputs: Float[Array, "B ..."]) -> "Dct":
    """For images of this size; ValueError where they are none, or have fewer frequencies than there are bands."""
    if inputs.ndim != 4:
      raise ValueError(f"Dct is for images [B, H, W, C], got inputs of shape {inputs.shape}.")
    height, width = inputs.shape[1:3]
    if self.bands is not None and not 2 <= self.bands <= max(height, width):
      raise ValueError(f"Dct.bands must be 2 to {max(height, width)} for images of {height}x{width}, got {self.bands}.")
    return dataclasses.replace(self, size=(height, width))

  def __str__(self) -> str:
    return "DCT coefficients" if self.bands is None else "DCT bands"


def cosines(length: int) -> Float[np.ndarray, "L L"]:
  """The orthonormal DCT-II as a matrix, a frequency a row."""
  frequencies, places = np.arange(length)[:, None], np.arange(length)[None]
  rows = np.cos(np.pi * frequencies * (2 * places + 1) / (2 * length)) * np.sqrt(2 / length)
  return np.where(frequencies == 0, rows / np.sqrt(2), rows)


def transform(
  image: Float[Array, "H W C"], vertical: Float[np.ndarray, "H H"], horizontal: Float[np.ndarray, "W W"]
) -> Float[Array, "H W C"]:
  vertical_map, horizontal_map = (jnp.asarray(matrix, image.dtype) for matrix in (vertical, horizontal))
  return jnp.einsum("uh,vw,hwc->uvc", vertical_map, horizontal_map, image, precision="highest")
