"""Activations that know which positions are there, and what convolutions and pooling make of that."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Shaped

# What keeps a mean of no neighbours from being a division by zero (the authors' number).
EPSILON = 1e-5


class Shift(NamedTuple):
  """Where slices of one array come from, which may be parts of the sum over a window.

  Attributes:
    source: the array.
    num_slices: how many of them were added.
    num_there: how many of the positions that were added are there.
    num_inside: how many of them are in the image.
  """

  source: Any
  num_slices: int
  num_there: Float[Array, "..."]
  num_inside: Float[np.ndarray, "..."]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Masked:
  """An activation and which of its positions are there.

  Attributes:
    value: the activation.
    mask: 1 where a position is there, else 0, in the same axes; that of the channels has length 1.
    inside: 1 where a position is in the image and 0 where it was padded, of length 1 in other axes; None where all are.
    roles: of each axis: n for images, h and w for positions, c for channels, 1 for an axis of length 1.
    is_hidden: whether the value is 0 wherever a position is missing.
    shift: of a slice that leaves positions out.
  """

  value: Shaped[Array, "..."]
  mask: Float[Array, "..."]
  inside: Float[np.ndarray, "..."] | None = None
  roles: str = dataclasses.field(metadata={"static": True})
  is_hidden: bool = dataclasses.field(default=False, metadata={"static": True})
  shift: Shift | None = dataclasses.field(default=None, metadata={"static": True})

  @property
  def all_inside(self) -> Float[np.ndarray, "..."]:
    """`inside`, with ones where all positions are."""
    if self.inside is not None:
      return self.inside
    return np.ones(self.axis_sizes(tuple(self.mask.shape[axis] for axis in self.spatial)), self.mask.dtype)

  @property
  def spatial(self) -> tuple[int, int]:
    """The axes of the positions."""
    return self.roles.index("h"), self.roles.index("w")

  def axis_sizes(self, size: tuple[int, ...]) -> tuple[int, ...]:
    """A number for each axis: these for rows and columns, and 1 elsewhere."""
    by_axis = dict(zip(self.spatial, size, strict=True))
    return tuple(by_axis.get(axis, 1) for axis in range(len(self.roles)))

  def hide(self, value: float = 0.0) -> Array:
    """The activation with this value at missing positions of the image."""
    if self.is_hidden and value == 0:
      return self.value
    is_there = self.mask > 0 if self.inside is None else (self.mask > 0) | (self.inside == 0)
    return jnp.where(is_there, self.value, jnp.asarray(value, self.value.dtype))

  def settle(self) -> "Masked":
    """A sum over shifted slices as what it would be if all positions were as those that are there."""
    if self.shift is None or self.shift.num_slices == 1:
      return dataclasses.replace(self, shift=None)
    value = scale_up(self.value, self.shift.num_there, self.shift.num_inside)
    return dataclasses.replace(self, value=value, shift=None)

  def hidden(self) -> "Masked":
    """The same with 0 at missing positions."""
    return dataclasses.replace(self, value=self.hide(), is_hidden=True)

  def fill(self, num_rounds: int) -> Array:
    """The activation with missing positions filled, once a round, by the mean of those around them that are there.

    What is missing in no image is not looked at.
    """
    hidden = self.hide()
    if num_rounds == 0:
      return hidden
    inside = self.all_inside.astype(hidden.dtype)

    def fill_once(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
      value, mask = carry
      num_around = self.sum_around(mask)
      share = (1 - mask) * inside / (num_around + jnp.asarray(EPSILON, mask.dtype))
      value = value + share * self.sum_around(value)
      return (value, jnp.minimum(mask + num_around, 1) * inside), None

    def fill_all(value: Array, mask: Array) -> Array:
      (value, _), _ = lax.scan(fill_once, (value, mask), None, length=num_rounds)
      return value

    is_complete = (self.mask >= inside).all()
    return lax.cond(is_complete, lambda value, mask: value, fill_all, hidden, self.mask.astype(hidden.dtype))

  def sum_around(self, array: Array) -> Array:
    """The sum of each position and the eight around it."""
    for axis in self.spatial:
      window = tuple(3 if place == axis else 1 for place in range(array.ndim))
      pads = [(1, 1) if place == axis else (0, 0) for place in range(array.ndim)]
      array = lax.reduce_window(array, np.zeros((), array.dtype), lax.add, window, (1,) * array.ndim, pads)
    return array

  def pool_mask(self, **window: Any) -> Array:
    """The mask after windows, each of which is there if any of its positions is; arguments as of `reduce_window`."""
    return lax.reduce_window(self.mask, np.zeros((), self.mask.dtype), lax.max, **window)

  def count(self, marked: Array | np.ndarray, **window: Any) -> Array:
    """How many positions of each window are marked by 1."""
    return lax.reduce_window(jnp.asarray(marked), np.zeros((), marked.dtype), lax.add, **window)


def scale_up(total: Array, num_there: Array, num_inside: Any) -> Array:
  """A sum over the positions that are there, as it would be if all in the image were like them."""
  return total * (num_inside / jnp.maximum(num_there, 1)).astype(total.dtype)
