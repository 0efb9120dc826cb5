"""Features of any shape: how a mask `[N, F]` becomes what the classifier sees.

A regular grid is one kind (`masking.py`). A label map names the feature of each pixel: superpixels, segments, objects,
a user's annotation. A linear basis makes features of groups of coefficients: frequency bands, wavelets, mixed channels.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer, Shaped

from jax_sis.core import masking
from jax_sis.core.label_maps import LabelMap, check_label_map, make_label_map, superpixels
from jax_sis.core.linear import Basis, Dct, Linear

__all__ = ["Basis", "Dct", "LabelMap", "make_label_map", "superpixels"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Grid:
  """Equal blocks, see `masking.py`; its shape is the mask's."""

  shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})

  @property
  def holds_whole_positions(self) -> bool:
    """Whether a feature has all channels of its positions."""
    return self.shape[-1] == 1

  def spread(self, mask: Shaped[Array, "N F"], input_shape: tuple[int, ...]) -> Shaped[Array, "N ..."]:
    """One value a feature as one an element, or as what broadcasts to that; N // B masks of each image in turn."""
    return masking.expand_mask(mask, self.shape, input_shape)

  def mix(
    self, inputs: Float[Array, "N ..."], kept: Shaped[Array, "N F"], shown: Float[Array, "N ..."]
  ) -> Float[Array, "N ..."]:
    """Kept features of the inputs, and elsewhere what is shown; linear in `kept`."""
    return masking.mask_inputs(inputs, kept, baseline=shown, grid=self.shape)

  def choose(
    self, image: Float[Array, "..."], is_shown: Bool[Array, "1 F"], other: Float[Array, "..."]
  ) -> Float[Array, "..."]:
    """Some features of one image, and those of another."""
    return jnp.where(self.spread(is_shown, image.shape)[0], image, other)

  def existing(self) -> Bool[Array, "B F"] | None:
    """Which features an image has; None where all have all."""
    return None

  def of_copies(self, num_copies: int) -> "Grid":
    """For `vmap` over this number of copies, those of one image after the other: each is given its own."""
    del num_copies
    return self


Features = Grid | LabelMap | Linear
# What the public functions take beside a grid.
Shape = LabelMap | Linear | Integer[Array, "..."] | Integer[np.ndarray, "..."]


def to_stored(features: Features) -> LabelMap | Linear | None:
  """What an order or subsets hold beside the mask's shape, which is all that a grid is."""
  return None if isinstance(features, Grid) else features


def from_stored(features: LabelMap | Linear | None, grid: tuple[int, ...]) -> Features:
  """`to_stored` undone."""
  return Grid(grid) if features is None else features


def describe_features(features: LabelMap | Linear | None, grid: tuple[int, ...]) -> str:
  """What features are, in a few words."""
  return f"grid {grid}" if features is None else str(features)


def lay_out(
  values: Shaped[np.ndarray, "B F"], features: LabelMap | Linear | None, grid: tuple[int, ...]
) -> Shaped[np.ndarray, "B ..."]:
  """One value a feature in the shape of the grid, or of the label map."""
  if isinstance(features, LabelMap):
    return np.asarray(features.spread(jnp.asarray(values), features.labels.shape[1:]))
  return values.reshape(-1, *grid)


def check_features(features: Any, grid: tuple[int, ...] | None, inputs: Float[Array, "B ..."]) -> Features:
  """What a mask means: a label map or a basis, or the grid where there is neither.

  Raises:
    ValueError: both are given, or they do not fit the inputs.
  """
  if features is None:
    return Grid(masking.check_grid(grid, inputs.shape[1:]))
  if grid is not None:
    raise ValueError(f"grid and features must not both be given, got grid {grid}; features of equal blocks are a grid.")
  if isinstance(features, Linear):
    return features.check(inputs)
  if isinstance(features, LabelMap):
    return check_label_map(features, inputs.shape)
  return make_label_map(features, inputs.shape)
