"""Feature grids and masked inputs.

A grid is the mask's shape: every input axis is a multiple of the grid's. For images `[32, 32, 3]` the grid
`(32, 32, 1)` has a feature a pixel (all channels together), `(8, 8, 1)` one for each 4x4 patch, `(1, 1, 3)` one a
channel; for sequences `[T, D]` the grid `(T, 1)` has one a token. Features are numbered in row-major order.
"""

import itertools
import math
import operator
import warnings

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped


def default_grid(input_shape: tuple[int, ...]) -> tuple[int, ...]:
  """A feature for each position, all channels together: `(H, W, C)` -> `(H, W, 1)`; a plain vector is its own grid."""
  return input_shape if len(input_shape) == 1 else (*input_shape[:-1], 1)


def check_grid(grid: tuple[int, ...] | None, input_shape: tuple[int, ...]) -> tuple[int, ...]:
  """Returns the grid, or the default one for None; one without an entry for the last axis takes all channels together.

  Raises:
    ValueError: an input axis is not a multiple of the grid's, or there is none and the inputs look channels first.
  """
  if grid is None:
    check_channels_last(input_shape)
    return default_grid(input_shape)
  try:
    grid = tuple(operator.index(size) for size in grid)
  except TypeError:
    raise ValueError(
      f"grid must be a tuple of integers, such as {default_grid(input_shape)} for a feature a position, got {grid!r}."
    ) from None
  if len(grid) == len(input_shape) - 1:
    grid = (*grid, 1)
  fits = len(grid) == len(input_shape) and all(
    size > 0 and length % size == 0 for size, length in zip(grid, input_shape, strict=True)
  )
  if not fits:
    raise ValueError(
      f"grid must have one entry for each input axis and divide it, got grid {grid} for inputs of shape {input_shape} "
      f"(without the batch axis); a feature a position is {default_grid(input_shape)}."
    )
  return grid


def check_channels_last(input_shape: tuple[int, ...]) -> None:
  """Looks for images whose positions the default grid would mistake; warns where they may be sequences as well.

  Raises:
    ValueError: one, three or four numbers along the first of several axes, and more along all others: channels.
  """
  first, *others = input_shape
  if len(others) > 1 and first in (1, 3, 4) and min(others) > 4:
    meant = ", ".join(map(str, (*others, first)))
    raise ValueError(
      f"inputs of shape {input_shape} (without the batch axis) look channels first, and features would be whole rows; "
      f"give inputs of shape [B, {meant}], by jnp.moveaxis(inputs, 1, -1), or for a classifier of channels first "
      f"grid={(1, *others)}, a feature a position; grid={default_grid(input_shape)} if the last axis is the channels."
    )
  if len(others) == 1 and first == others[0] > 4:
    warnings.warn(
      f"inputs of shape {input_shape} (without the batch axis) are taken for {first} positions of {first} numbers; "
      f"for images without a channel axis, give grid={input_shape} for a feature a pixel.",
      stacklevel=6,
    )


def num_features(grid: tuple[int, ...]) -> int:
  return math.prod(grid)


def flatten_features(
  values: Shaped[Array, "..."], *, num_images: int, grid: tuple[int, ...]
) -> Shaped[Array, "B F"] | None:
  """What has a number a feature, for each image or for all alike, as `[B, F]`; None where the shape is no such one.

  Axes of the grid of length 1 may be left out.
  """
  count = num_features(grid)
  tails = {(count,), grid, tuple(size for size in grid if size > 1)}
  if values.shape not in {(*lead, *tail) for lead in ((), (1,), (num_images,)) for tail in tails}:
    return None
  return jnp.broadcast_to(values.reshape(-1, count), (num_images, count))


def describe_features(*, num_images: int, grid: tuple[int, ...]) -> str:
  """The shapes that `flatten_features` takes, in words."""
  count = num_features(grid)
  return f"shape {[num_images, count]} or {[num_images, *grid]}, or {[count]} or {list(grid)} for all images alike"


def check_baseline(
  baseline: float | Shaped[Array, "..."] | np.ndarray, inputs: Float[Array, "B ..."]
) -> Float[Array, "B ..."]:
  """The baseline in the inputs' dtype, with a batch axis and one axis, maybe of length 1, for each input axis.

  Args:
    baseline: what a masked feature shows: a number, an array that broadcasts against one input, or one with a
      leading batch axis.
    inputs: the batch it is for.

  Raises:
    ValueError: the shape does not broadcast against the inputs.
  """
  array = jnp.asarray(baseline).astype(inputs.dtype)
  if array.ndim < inputs.ndim:
    array = array.reshape((1,) * (inputs.ndim - array.ndim) + array.shape)
  fits = array.ndim == inputs.ndim and all(
    size in (1, length) for size, length in zip(array.shape, inputs.shape, strict=True)
  )
  if not fits:
    raise ValueError(
      f"baseline must be a number or an array that broadcasts against inputs {inputs.shape}, "
      f"got shape {np.shape(baseline)}."
    )
  return jnp.broadcast_to(array, (inputs.shape[0], *array.shape[1:]))


def expand_mask(
  mask: Shaped[Array, "B F"], grid: tuple[int, ...], input_shape: tuple[int, ...]
) -> Shaped[Array, "B ..."]:
  """One value a feature -> one a input element, or an array of axes of length 1 that broadcasts to that."""
  # An axis of length g that must grow to g * r becomes the pair (g, r): a broadcast, whose gradient is a plain sum.
  repeats = [1 if size == 1 else length // size for size, length in zip(grid, input_shape, strict=True)]
  paired = mask.reshape(-1, *(part for size in grid for part in (size, 1)))
  paired = jnp.broadcast_to(paired, (mask.shape[0], *itertools.chain(*zip(grid, repeats, strict=True))))
  return paired.reshape(-1, *(size * repeat for size, repeat in zip(grid, repeats, strict=True)))


def mask_inputs(
  inputs: Float[Array, "B ..."],
  kept: Shaped[Array, "B F"],
  *,
  baseline: Float[Array, "B ..."],
  grid: tuple[int, ...],
) -> Float[Array, "B ..."]:
  """Kept features show the input, the others the baseline (Carter et al. 2021, section 3).

  Linear in `kept`, which may lie between 0 and 1, so that it can be differentiated; exact at 0 and 1 as long as the
  values are finite.

  Args:
    inputs: the normalised batch.
    kept: 1 (or True) where a feature is kept, 0 where it is masked.
    baseline: what masked features show, with as many axes as the inputs, of length 1 where it broadcasts.
    grid: the mask's shape, as for `backselect`.

  Returns:
    The masked batch, in the inputs' shape and dtype.

  Examples:
    >>> import jax.numpy as jnp
    >>> import jax_sis
    >>> inputs, grey = jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[0.5]])
    >>> jax_sis.mask_inputs(inputs, jnp.array([[True, False, True]]), baseline=grey, grid=(3,)).tolist()
    [[1.0, 0.5, 3.0]]
  """
  return blend(inputs, expand_mask(kept, grid, inputs.shape[1:]), baseline)


def blend(
  inputs: Float[Array, "B ..."], expanded: Shaped[Array, "B ..."], baseline: Float[Array, "B ..."]
) -> Float[Array, "B ..."]:
  """The inputs where a mask of their own axes is 1, and the baseline where it is 0."""
  expanded = expanded.astype(inputs.dtype)
  return expanded * inputs + (1 - expanded) * baseline


def make_grid(patch: int, input_shape: tuple[int, ...]) -> tuple[int, ...]:
  """The grid of squares of `patch` pixels a side.

  Raises:
    ValueError: they do not fill the image.
  """
  height, width, _ = input_shape
  if height % patch or width % patch:
    raise ValueError(f"--patch must divide the image's sides, {height} and {width}, got {patch}.")
  return (height // patch, width // patch, 1)
