"""Parts of an image that are chosen without looking at it: its border, its centre, pixels and squares at random."""

import math

import numpy as np
from jaxtyping import Bool, Float

from jax_sis.studies.controls.views import stable_hash

# The border is the outer 11 of 224 pixels on each side, whatever the size: 18.7 % of the area.
BORDER_PIXELS, OF_PIXELS = 11, 224
# Squares at random: of 8 x 8 of 224 pixels.
SQUARES_A_SIDE = 28

Size = tuple[int, int]


def make_border(size: Size) -> Bool[np.ndarray, "H W"]:
  """The outermost rows and columns, as wide as 11 pixels of 224 and at least one pixel."""
  width = max(1, round(BORDER_PIXELS * min(size) / OF_PIXELS))
  border = np.ones(size, bool)
  border[width:-width, width:-width] = False
  return border


def make_centre(size: Size) -> Bool[np.ndarray, "H W"]:
  """The rectangle in the middle, of the image's proportions, whose area is nearest to that of the border."""
  share = math.sqrt(make_border(size).mean())
  centre = np.zeros(size, bool)
  (top, height), (left, width) = ((round(side * (1 - share) / 2), round(side * share)) for side in size)
  centre[top : top + height, left : left + width] = True
  return centre


def draw_pixels(size: Size, num_pixels: int, *, name: str) -> Bool[np.ndarray, "H W"]:
  """So many pixels at random, which `name`, an image's id, fixes."""
  order = start_draw(name, "pixels").permutation(math.prod(size))
  return (order < num_pixels).reshape(size)


def draw_squares(size: Size, num_pixels: int, *, name: str) -> Bool[np.ndarray, "H W"]:
  """So many pixels in squares of random order, the last of them cut off; `name`, an image's id, fixes the order."""
  rows, columns = (np.arange(side) * SQUARES_A_SIDE // side for side in size)
  order = start_draw(name, "squares").permutation(SQUARES_A_SIDE**2)
  place = order[rows[:, None] * SQUARES_A_SIDE + columns[None]].ravel()
  kept = np.zeros(math.prod(size), bool)
  kept[np.argsort(place, kind="stable")[:num_pixels]] = True
  return kept.reshape(size)


def start_draw(name: str, what: str) -> np.random.Generator:
  return np.random.default_rng((stable_hash(name), stable_hash(what)))


def measure_border(masks: Bool[np.ndarray, "N H W"]) -> Float[np.ndarray, "N"]:
  """Of each mask, none of them empty, the share of its pixels that lies in the border."""
  border = make_border((masks.shape[1], masks.shape[2]))
  return (masks & border).sum((1, 2)) / masks.sum((1, 2))
