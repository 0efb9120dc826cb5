"""What steps that move numbers about make of an activation with missing positions."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jax_sis.core import traced
from jax_sis.core.masked import Masked, Shift

# What goes into a step: activations, and arrays in which nothing is missing.
Values = Sequence[Any]


def bind(equation: Any, values: Values) -> Any:
  """The one result of a step as it stands."""
  return traced.run(equation, values)[0]


def transpose(equation: Any, inputs: Values) -> list[Any]:
  (image,) = inputs
  order = equation.params["permutation"]
  moved = dataclasses.replace(
    image,
    value=image.value.transpose(order),
    mask=image.mask.transpose(order),
    inside=None if image.inside is None else image.inside.transpose(order),
    roles="".join(image.roles[axis] for axis in order),
    shift=None,
  )
  return [moved]


def broadcast(equation: Any, inputs: Values) -> list[Any] | None:
  """New axes of length 1, or that of the channels, which is the last one where it had gone."""
  image = inputs[0]
  shape, places = equation.params["shape"], [int(place) for place in equation.params["broadcast_dimensions"]]
  roles = ["1"] * len(shape)
  for place, role, size in zip(places, image.roles, image.value.shape, strict=True):
    roles[place] = role
    if size != shape[place] and role != "c":
      return None
  new = [place for place in range(len(shape)) if place not in places]
  if "c" not in roles and new:
    roles[new[-1]] = "c"
  if any(shape[place] != 1 for place in new if roles[place] != "c"):
    return None
  return [reshape_mask(image, "".join(roles), bind(equation, [image.value, *inputs[1:]]))]


def reshape(equation: Any, inputs: Values) -> list[Any] | None:
  """Axes of length 1 come and go; a map of one position becomes plain."""
  image, shape = inputs[0], equation.outvars[0].aval.shape
  if all(image.value.shape[axis] == 1 for axis in image.spatial):
    return [bind(equation, [image.hide(), *inputs[1:]])]
  long = [role for role, size in zip(image.roles, image.value.shape, strict=True) if size != 1]
  if [size for size in image.value.shape if size != 1] != [size for size in shape if size != 1]:
    return None
  rest = iter(long)
  roles = [next(rest) if size != 1 else "1" for size in shape]
  # Of the axes of length 1, those of images and positions stand first, that of the channels last.
  for role in "nhw":
    if role not in long:
      roles[roles.index("1")] = role
  if "c" not in long and "1" in roles:
    roles[len(roles) - 1 - roles[::-1].index("1")] = "c"
  return [reshape_mask(image, "".join(roles), bind(equation, [image.value, *inputs[1:]]))]


def reshape_mask(image: Masked, roles: str, value: Array) -> Masked:
  """The value of these axes, with the mask in the same ones."""

  def move(array: Any) -> Any:
    sizes = dict(zip(image.roles, array.shape, strict=True))
    return array.reshape([1 if role in "1c" else sizes[role] for role in roles])

  inside = None if image.inside is None else move(image.inside)
  return Masked(value=value, mask=move(image.mask), inside=inside, roles=roles, is_hidden=image.is_hidden)


def pad(equation: Any, inputs: Values) -> list[Any] | None:
  """Channels that are added are there where the others are; positions are outside of the image and are not filled."""
  image, fill = inputs
  config = equation.params["padding_config"]
  if isinstance(fill, Masked) or any(between for _, _, between in config):
    return None
  by_role = dict(zip(image.roles, config, strict=True))
  if any(low or high for role, (low, high, _) in by_role.items() if role in "n1"):
    return None
  at_positions = [ends if role in "hw" else (0, 0, 0) for role, ends in zip(image.roles, config, strict=True)]
  mask, inside = image.mask, image.inside
  if any(low or high for low, high, _ in at_positions):
    if min(low + high for low, high, _ in at_positions) < 0 or min(min(ends) for ends in at_positions) < 0:
      return None
    mask = lax.pad(mask, jnp.zeros((), mask.dtype), at_positions)
    inside = np.pad(image.all_inside, [ends[:2] for ends in at_positions])
  value = bind(equation, [image.hide(), fill])
  return [Masked(value=value, mask=mask, inside=inside, roles=image.roles, is_hidden=True)]


def take_slice(equation: Any, inputs: Values) -> list[Any]:
  """Some channels, or the positions of a window; their sum with others of the same array is one over the window."""
  (image,) = inputs
  params = equation.params
  strides = params["strides"] or (1,) * len(image.roles)
  limits = list(zip(params["start_indices"], params["limit_indices"], strides, strict=True))

  def cut(array: Any) -> Any:
    parts = [slice(None) if size == 1 else slice(*ends) for size, ends in zip(array.shape, limits, strict=True)]
    return array[tuple(parts)]

  result = Masked(
    value=bind(equation, [image.value]),
    mask=cut(image.mask),
    inside=None if image.inside is None else cut(image.inside),
    roles=image.roles,
    is_hidden=image.is_hidden,
  )
  if all(result.value.shape[axis] == image.value.shape[axis] for axis in image.spatial):
    return [result]
  return [dataclasses.replace(result, shift=Shift(image.value, 1, result.mask, result.all_inside))]


def concatenate(equation: Any, inputs: Values) -> list[Any] | None:
  """Of channels; a position is there if it is in any part."""
  first = next(one for one in inputs if isinstance(one, Masked))
  masked = [one for one in inputs if isinstance(one, Masked)]
  if first.roles[equation.params["dimension"]] != "c" or any(one.roles != first.roles for one in masked):
    return None
  value = bind(equation, [one.hide() if isinstance(one, Masked) else one for one in inputs])
  mask = functools.reduce(jnp.maximum, (one.mask for one in masked))
  return [Masked(value=value, mask=mask, inside=first.inside, roles=first.roles)]


def split(equation: Any, inputs: Values) -> list[Any] | None:
  """Into groups of channels."""
  (image,) = inputs
  if image.roles[equation.params["axis"]] != "c":
    return None
  return [dataclasses.replace(image, value=part) for part in traced.run(equation, [image.value])]
