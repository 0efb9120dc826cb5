"""The part of an image that is shown alone: its border, a square, or a mask in a file."""

import pathlib
import re

import numpy as np
from jaxtyping import Bool

from jax_sis.data.arrays import SUFFIX, load_array
from jax_sis.data.images import read_image

# Of the shorter side.
BORDER_SHARE = 5 / 32
BORDER = re.compile(r"border(?::(\d+))?")
SQUARE = re.compile(r"square:(\d+),(\d+),(\d+)")
BLACK, MIDDLE_GREY = (0, 0, 0), 127


def read_region(text: str, shape: tuple[int, ...]) -> Bool[np.ndarray, "H W"]:
  """True for the pixels that are shown.

  Args:
    text: as for `--region`.
    shape: height and width of the images.

  Raises:
    ValueError: it is none of these, or not of images of this shape, or shows all of them or nothing.
  """
  region = np.zeros(shape, bool)
  if border := BORDER.fullmatch(text):
    width = max(round(BORDER_SHARE * min(shape)), 1) if border[1] is None else int(border[1])
    region[:] = True
    region[width : shape[0] - width, width : shape[1] - width] = False
  elif square := SQUARE.fullmatch(text):
    row, column, side = map(int, square.groups())
    if row + side > shape[0] or column + side > shape[1]:
      raise ValueError(f"--region must lie within {shape[0]} rows and {shape[1]} columns, got {text}.")
    region[row : row + side, column : column + side] = True
  else:
    region = read_mask(pathlib.Path(text), shape)
  if region.all() or not region.any():
    raise ValueError(
      f"--region must show some pixels and not all, got {text}, which is {int(region.sum())} of {region.size}."
    )
  return region


def read_mask(path: pathlib.Path, shape: tuple[int, ...]) -> Bool[np.ndarray, "H W"]:
  """The mask in a file; ValueError if there is none of this shape."""
  if not path.is_file():
    raise ValueError(
      f"--region must be border, border:N, square:ROW,COLUMN,SIDE or a file, got {str(path)!r}, which is not there."
    )
  if path.suffix == SUFFIX:
    mask = load_array(path)
    if not np.isin(mask, (0, 1)).all():
      raise ValueError(f"--region must be a mask of zeros and ones, got others in {str(path)!r}.")
    mask = np.array(mask, bool)
  else:
    mask = read_image(path, background=BLACK).max(-1) > MIDDLE_GREY
  if mask.shape != shape:
    raise ValueError(f"--region must be a mask of {list(shape)} pixels, got {list(mask.shape)} in {str(path)!r}.")
  return mask
