"""An image file: which there are, and how one becomes an array of the right size."""

import contextlib
import functools
import pathlib

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageColor, ImageOps

from jax_sis.core.messages import make_printable

# Red, green and blue in 0..255.
Colour = tuple[int, int, int]

# Formats of Pillow's list of which it knows only the name, or which it has another program draw.
NOT_PIXELS = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
SIXTEEN_BITS_OR_MORE = ("I", "F")
# A random crop's share of the image's area and its ratio of width to height (Szegedy et al. 2015, section 6).
CROP_AREA = (0.08, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
# The share of an evaluated image's shorter side that its central crop shows: 224 of 256 pixels.
CENTRAL_CROP = 0.875


@functools.cache
def image_formats() -> tuple[str, ...]:
  """The formats that are read."""
  Image.init()
  return tuple(name for name in Image.OPEN if name not in NOT_PIXELS)


@functools.cache
def image_suffixes() -> frozenset[str]:
  """How the names of image files end, in lower case."""
  formats = image_formats()
  # Pillow reads what some phones and cameras call .mpo as JPEG, and lists no suffix for it.
  return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats) | {".mpo"}


def read_image(path: pathlib.Path, *, background: Colour) -> UInt8[np.ndarray, "H W 3"]:
  """The pixels of an image file as RGB: upright, as its EXIF orientation says, and of several frames the first.

  Greyscale becomes three equal channels. Of CMYK, red is what cyan and black leave of it, and so on, whatever the
  file's colour profile.

  Args:
    path: the file.
    background: what shows through transparent pixels.

  Raises:
    ValueError: it cannot be read, or has more than 8 bits a channel.
  """
  try:
    with Image.open(path, formats=image_formats()) as file:
      if file.mode.startswith(SIXTEEN_BITS_OR_MORE):
        raise ValueError(f"pixels of mode {file.mode}; convert the image to 8 bits a channel")
      upright = turn_upright(file)
      if not upright.has_transparency_data:
        return np.asarray(upright.convert("RGB"))
      opaque = Image.new("RGBA", upright.size, background)
      return np.asarray(Image.alpha_composite(opaque, upright.convert("RGBA")).convert("RGB"))
  except Exception as error:
    # Decoders of damaged files raise whatever their numbers lead to.
    problem = str(error).replace(str(path), path.name) or type(error).__name__
    raise ValueError(make_printable(problem)) from error


def turn_upright(file: Image.Image) -> Image.Image:
  """The image as viewers show it; where its EXIF data are damaged, as it is stored."""
  # Some formats are turned while they load, and then say so.
  file.load()
  try:
    return ImageOps.exif_transpose(file)
  except Exception:
    return file


def parse_colour(text: str) -> Colour:
  """A colour by its name or as #RRGGBB; ValueError if it is none, or transparent."""
  with contextlib.suppress(ValueError):
    colour = ImageColor.getrgb(text)
    if len(colour) == 3:
      return colour
  raise ValueError(f"--background must be a colour, by name or as #RRGGBB, got {text!r}.")


def fit(image: UInt8[np.ndarray, "H W C"], shape: tuple[int, ...], *, crop: float | None) -> UInt8[np.ndarray, "h w C"]:
  """An image in the shape that the classifier takes.

  Raises:
    ValueError: it has another size but `crop` is None, or another number of channels.
  """
  if image.shape == shape:
    return image
  if image.shape[2] != shape[2]:
    raise ValueError(f"{image.shape[2]} channels, but the classifier takes {shape[2]}")
  if crop is None:
    raise ValueError(
      f"{image.shape[1]}x{image.shape[0]} pixels, but the classifier takes {shape[1]}x{shape[0]}; use --resize"
    )
  return central_crop(image, (shape[0], shape[1]), crop=crop)


def central_crop(
  image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int], *, crop: float
) -> UInt8[np.ndarray, "h w 3"]:
  """The middle of an image, resized bilinearly to `size` (height, width) without changing its proportions.

  It shows the share `crop` of each side of the largest such part; for ImageNet that is 224 of 256 pixels, 0.875.
  An image that already has this size is returned as it is.
  """
  if image.shape[:2] == size:
    return image
  return resize(image, size, find_central_box(image.shape[:2], size, crop=crop))


def find_central_box(
  whole: tuple[int, ...], size: tuple[int, int], *, crop: float
) -> tuple[float, float, float, float]:
  """The part (left, top, right, bottom) of an image of `whole` (height, width) that `central_crop` shows."""
  height, width = whole
  if (height, width) == size:
    return 0, 0, width, height
  scale = crop * min(height / size[0], width / size[1])
  shown_height, shown_width = size[0] * scale, size[1] * scale
  left, top = (width - shown_width) / 2, (height - shown_height) / 2
  return left, top, left + shown_width, top + shown_height


def place_mask(
  mask: Bool[np.ndarray, "h w"], whole: tuple[int, ...], box: tuple[float, float, float, float]
) -> Bool[np.ndarray, "H W"]:
  """A mask of the part of an image in `box`, over all its pixels, `whole` (height, width); False outside the box."""
  padded = np.pad(mask, 1)
  for axis, (low, high) in enumerate(((box[1], box[3]), (box[0], box[2]))):
    centres = np.arange(whole[axis]) + 0.5
    cells = np.floor((centres - low) / (high - low) * mask.shape[axis]).astype(int)
    padded = np.take(padded, cells.clip(-1, mask.shape[axis]) + 1, axis)
  return padded


def resize(
  image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int], box: tuple[float, float, float, float]
) -> UInt8[np.ndarray, "h w 3"]:
  """The part of an image in `box` (left, top, right, bottom), resized bilinearly to `size` (height, width)."""
  return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box))


def random_crop(
  image: UInt8[np.ndarray, "H W 3"], size: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "size size 3"]:
  """A part of random place, area and ratio, resized to `size` pixels a side (Szegedy et al. 2015, section 6)."""
  height, width = image.shape[:2]
  for _ in range(10):
    area = height * width * rng.uniform(*CROP_AREA)
    ratio = np.exp(rng.uniform(*np.log(CROP_RATIO)))
    crop_width, crop_height = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
    if 0 < crop_width <= width and 0 < crop_height <= height:
      left, top = rng.integers(width - crop_width + 1), rng.integers(height - crop_height + 1)
      return resize(image, (size, size), (left, top, left + crop_width, top + crop_height))
  return central_crop(image, (size, size), crop=1.0)
