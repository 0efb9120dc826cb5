"""Pictures of subsets as arrays: what is kept, and where it lies; and their PNG files."""

import io

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from PIL import Image

# Colours that photographs rarely have, and how far from them, in the sum of the channels, pixels are told apart.
UNLIKELY = {"magenta": (226, 92, 226), "green": (60, 208, 130), "light blue": (92, 190, 255), "orange": (255, 160, 50)}
FAR_ENOUGH = 120
# Brightness of what is not kept, where places are shown on the image.
SHADE = 0.3
MARK = np.array([255, 208, 40])
# From so many pixels a side an image is a photograph: it is shown pixel by pixel, and its subset on grey. In smaller
# ones each pixel is to be seen, so that they are enlarged, and what is masked has a colour that they do not have.
PHOTOGRAPH_SIDE = 128
# The colour of lines between features of any shape.
BORDER = (255, 230, 0)
MIDDLE_GREY = 127
# The darkest grey of a greyed image, and the share of its contrast that is left: kept black and white stand out.
LOWEST_GREY, CONTRAST_LEFT = 96, 0.35
PHOTOGRAPH_NOTE = "Of photographs, the subset stands alone on grey, and beside that on the greyed image."


def to_rgb(pixels: UInt8[np.ndarray, "*B H W C"]) -> UInt8[np.ndarray, "*B H W 3"]:
  return np.broadcast_to(pixels, (*pixels.shape[:-1], 3))


def choose_colour(kept: Shaped[np.ndarray, "N 3"]) -> str:
  """The name in UNLIKELY of the first colour that is far from all of these pixels, or else of the farthest."""
  colours = np.unique(kept, axis=0).astype(np.int32)
  nearest = {name: np.abs(colours - colour).sum(1).min(initial=FAR_ENOUGH) for name, colour in UNLIKELY.items()}
  return max(nearest, key=lambda name: nearest[name])


def paint_kept(
  pixels: UInt8[np.ndarray, "H W C"], kept: Bool[np.ndarray, "H W c"], colour: str
) -> UInt8[np.ndarray, "H W 3"]:
  """The kept pixels as they are, the others in one colour, see `choose_colour`."""
  return np.where(kept, to_rgb(pixels), UNLIKELY[colour]).astype(np.uint8)


def paint_over(
  pixels: UInt8[np.ndarray, "H W C"], kept: Bool[np.ndarray, "H W c"], colour: str
) -> UInt8[np.ndarray, "H W 3"]:
  """The kept pixels as they are on the darkened image in tones of one colour, see `choose_colour`."""
  return np.where(kept, to_rgb(pixels), darken(pixels) + SHADE * np.array(UNLIKELY[colour])).astype(np.uint8)


def paint_places(pixels: UInt8[np.ndarray, "H W C"], kept: Bool[np.ndarray, "H W c"]) -> UInt8[np.ndarray, "H W 3"]:
  """The kept pixels in one bright colour on the darkened image in grey."""
  return np.where(kept, MARK, darken(pixels)).astype(np.uint8)


def draw_borders(pixels: UInt8[np.ndarray, "H W C"], labels: Shaped[np.ndarray, "H W"]) -> UInt8[np.ndarray, "h w 3"]:
  """The image with lines where neighbours have other labels; small images are enlarged, so that lines are thin."""
  # As large as possible without being taken for a photograph.
  factor = max(1, (PHOTOGRAPH_SIDE - 1) // max(labels.shape))
  large, numbers = (array.repeat(factor, 0).repeat(factor, 1) for array in (to_rgb(pixels), labels))
  is_border = np.zeros(numbers.shape, bool)
  is_border[:, :-1] |= numbers[:, :-1] != numbers[:, 1:]
  is_border[:-1] |= numbers[:-1] != numbers[1:]
  return np.where(is_border[..., None], BORDER, large).astype(np.uint8)


def is_photograph(shape: tuple[int, ...]) -> bool:
  """Whether images of this height and width, and whatever comes after these, are shown pixel by pixel."""
  return max(shape[:2]) >= PHOTOGRAPH_SIDE


def paint_alone(pixels: UInt8[np.ndarray, "H W C"], kept: Bool[np.ndarray, "H W c"]) -> UInt8[np.ndarray, "H W 3"]:
  """The kept pixels as they are, the others in grey, which is near the mean colour that classifiers are shown."""
  return np.where(kept, to_rgb(pixels), MIDDLE_GREY).astype(np.uint8)


def paint_on_grey(pixels: UInt8[np.ndarray, "H W C"], kept: Bool[np.ndarray, "H W c"]) -> UInt8[np.ndarray, "H W 3"]:
  """The kept pixels as they are on the pale image in grey."""
  grey = LOWEST_GREY + CONTRAST_LEFT * pixels.mean(-1, keepdims=True)
  return np.where(kept, to_rgb(pixels), grey).astype(np.uint8)


def darken(pixels: UInt8[np.ndarray, "H W C"]) -> Float[np.ndarray, "H W 1"]:
  return SHADE * pixels.mean(-1, keepdims=True)


def encode_png(pixels: UInt8[np.ndarray, "H W C"]) -> bytes:
  """The bytes of a PNG file of one or three channels."""
  buffer = io.BytesIO()
  Image.fromarray(np.squeeze(pixels, -1) if pixels.shape[-1] == 1 else pixels).save(buffer, "png", optimize=True)
  return buffer.getvalue()
