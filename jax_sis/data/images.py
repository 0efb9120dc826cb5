"""An image file: which there are, and how one becomes an array of the right size."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any, Literal, get_args

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
Interpolation = Literal["none", "bilinear", "bicubic"]
WholePixels = Literal["none", "resized", "original"]
RESAMPLINGS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# Beyond the rounding of a ratio of two numbers of pixels, and far less than such ratios differ by.
NEARLY = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Framing:
  """What a classifier is shown of an image of another size: the middle, resized without changing its proportions.

  Attributes:
    crop: the share that is shown of each side of the largest part with the classifier's proportions; for ImageNet that
      is 224 of 256 pixels, 0.875.
    interpolation: how the part is resized; where it shrinks, over all pixels that it covers. With `none` nothing is:
      whatever the crop, the middle pixels are shown as they are, with black beyond the edges of a small image.
    whole_pixels: whose whole pixels the part is made of: with `none` it begins and ends within pixels and is exactly
      the middle; `resized` are those of the resized image, as in torchvision and timm; `original` those of the image as
      it is, as in TensorFlow's EfficientNet.

  Raises:
    ValueError: one of these is not that.

  Examples:
    The middle 224 of 256 pixels of the shorter side:

    >>> from jax_sis.classifiers import Framing
    >>> Framing(crop=0.875).describe()
    {'crop': 0.875}
  """

  crop: float = 1.0
  interpolation: Interpolation = "bilinear"
  whole_pixels: WholePixels = "none"

  def __post_init__(self) -> None:
    if not 0 < self.crop <= 1:
      raise ValueError(f"crop must be above 0 and at most 1, got {self.crop!r}.")
    for name, known in (("interpolation", get_args(Interpolation)), ("whole_pixels", get_args(WholePixels))):
      if getattr(self, name) not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}.")

  def describe(self) -> dict[str, Any]:
    """Its settings in JSON types; of those beside the crop only what is not the default."""
    others = {"interpolation": self.interpolation, "whole_pixels": self.whole_pixels}
    return {
      "crop": self.crop,
      **{name: value for name, value in others.items() if value != getattr(WHOLE_FRAMING, name)},
    }


WHOLE_FRAMING = Framing()
# Of evaluated images: 224 of 256 pixels of the shorter side.
CENTRAL_FRAMING = Framing(crop=0.875)


def read_framing(description: Mapping[str, Any]) -> Framing:
  """The framing that is described among other things, by `Framing.describe`; the default one where none is."""
  names = [field.name for field in dataclasses.fields(Framing)]
  return Framing(**{name: description[name] for name in names if description.get(name) is not None})


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


def fit(
  image: UInt8[np.ndarray, "H W C"], shape: tuple[int, ...], *, framing: Framing | None
) -> UInt8[np.ndarray, "h w C"]:
  """An image in the shape that the classifier takes.

  Raises:
    ValueError: it has another size but `framing` is None, or another number of channels.
  """
  if image.shape == shape:
    return image
  if image.shape[2] != shape[2]:
    raise ValueError(f"{image.shape[2]} channels, but the classifier takes {shape[2]}")
  if framing is None:
    raise ValueError(
      f"{image.shape[1]}x{image.shape[0]} pixels, but the classifier takes {shape[1]}x{shape[0]}; use --resize"
    )
  return central_crop(image, (shape[0], shape[1]), framing)


def central_crop(
  image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int], framing: Framing
) -> UInt8[np.ndarray, "h w 3"]:
  """The middle of an image, resized to `size` (height, width); one that has this size is returned as it is."""
  if image.shape[:2] == size:
    return image
  box = find_central_box(image.shape[:2], size, framing)
  return resize(image, size, box, interpolation=framing.interpolation)


def find_central_box(
  whole: tuple[int, ...], size: tuple[int, int], framing: Framing
) -> tuple[float, float, float, float]:
  """The part (left, top, right, bottom) of an image of `whole` (height, width) that `central_crop` shows."""
  height, width = whole
  if (height, width) == size:
    return 0, 0, width, height
  is_resized = framing.interpolation != "none"
  scale = framing.crop * min(height / size[0], width / size[1]) if is_resized else 1.0
  whole_pixels = framing.whole_pixels if is_resized else "original"
  (top, bottom), (left, right) = (
    find_central_part(length, shown, scale, whole_pixels) for length, shown in zip(whole, size, strict=True)
  )
  return left, top, right, bottom


def find_central_part(length: int, shown: int, scale: float, whole_pixels: WholePixels) -> tuple[float, float]:
  """Where the middle of `length` pixels begins and ends of which `shown` are made, each of about `scale` pixels."""
  if whole_pixels == "resized":
    resized = int(length / scale + NEARLY)
    start = round((resized - shown) / 2)
    return start * length / resized, (start + shown) * length / resized
  size = shown * scale
  if whole_pixels == "original":
    size = int(size + NEARLY)
    start = (length - size + 1) // 2
    return start, start + size
  start = (length - size) / 2
  return start, start + size


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
  image: UInt8[np.ndarray, "H W 3"],
  size: tuple[int, int],
  box: tuple[float, float, float, float],
  *,
  interpolation: Interpolation = "bilinear",
) -> UInt8[np.ndarray, "h w 3"]:
  """The part of an image in `box` (left, top, right, bottom), resized to `size` (height, width)."""
  picture = Image.fromarray(image)
  if interpolation == "none":
    return np.asarray(picture.crop(box))
  return np.asarray(picture.resize((size[1], size[0]), RESAMPLINGS[interpolation], box=box))


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
  return central_crop(image, (size, size), WHOLE_FRAMING)
