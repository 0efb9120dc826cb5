"""From 8-bit pixels to what a classifier takes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from jax_sis.core.validation import require_positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class Normalisation:
  """How a classifier's input is made from 8-bit pixels: `(pixel / 255 - mean) / std`, a value a channel.

  Attributes:
    mean: of each channel, as a share of white, 0..1.
    std: the standard deviation of each, in the same unit.

  Raises:
    ValueError: they are not of the same channels, or a deviation is not positive.

  Examples:
    A black and a white pixel:

    >>> import numpy as np
    >>> from jax_sis.classifiers import Normalisation
    >>> grey = Normalisation(mean=(0.5,), std=(0.25,))
    >>> grey.apply(np.array([[0], [255]], np.uint8)).tolist()
    [[-2.0], [2.0]]
  """

  mean: tuple[float, ...]
  std: tuple[float, ...]

  def __post_init__(self) -> None:
    if len(self.mean) != len(self.std):
      raise ValueError(
        f"Normalisation.mean and std must have one value a channel, got {len(self.mean)} and {len(self.std)} values."
      )
    for value in self.std:
      require_positive("Normalisation.std", value)

  @property
  def mean_colour(self) -> tuple[int, int, int]:
    """The mean as 8-bit red, green and blue."""
    red, green, blue = (round(255 * value) for value in (self.mean if len(self.mean) == 3 else self.mean[:1] * 3))
    return red, green, blue

  def apply(self, images: Any, dtype: Any = np.float32) -> Any:
    """Pixels `[..., C]` in 0..255 -> normalised inputs; NumPy in, NumPy out, and the same for JAX."""
    mean, std = np.asarray(self.mean, dtype), np.asarray(self.std, dtype)
    return (images.astype(dtype) / dtype(255) - mean) / std

  def look_up(self, images: UInt8[Array, "... C"]) -> Float[Array, "... C"]:
    """As `apply`, for programs on devices, with the bits of NumPy.

    XLA multiplies by the inverse of a constant instead of dividing by it, which rounds differently.
    """
    values = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None], (256, len(self.mean)))
    channels = jax.lax.broadcasted_iota(jnp.int32, images.shape, images.ndim - 1)
    return jnp.asarray(self.apply(values)).at[images, channels].get(mode="promise_in_bounds")

  def invert(self, inputs: Any) -> Any:
    """Normalised inputs -> pixels as floats in 0..255."""
    return (inputs * np.asarray(self.std, inputs.dtype) + np.asarray(self.mean, inputs.dtype)) * 255


# The means and standard deviations of the training sets; those of ImageNet also serve for folders of pictures.
CIFAR_NORMALISATION = Normalisation(
  mean=(125.3 / 255, 123.0 / 255, 113.9 / 255), std=(63.0 / 255, 62.1 / 255, 66.7 / 255)
)
IMAGENET_NORMALISATION = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
NORMALISATIONS = {
  "cifar10": CIFAR_NORMALISATION,
  "cifar100": Normalisation(mean=(129.3 / 255, 124.1 / 255, 112.4 / 255), std=(68.2 / 255, 65.4 / 255, 70.4 / 255)),
  "imagenet2012": IMAGENET_NORMALISATION,
}
