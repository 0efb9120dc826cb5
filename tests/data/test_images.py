"""Image files as viewers show them: upright, transparent pixels on a stated colour, and whatever Pillow reads."""

import io
import pathlib
import struct
import warnings
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from jax_sis.data import images

BACKGROUND = (200, 100, 50)
ORIENTATION = 0x0112


def make_picture() -> Image.Image:
  """Wider than high, and different in each corner."""
  pixels = np.zeros((16, 32, 3), np.uint8)
  pixels[:8, :16], pixels[:8, 16:], pixels[8:, :16] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
  return Image.fromarray(pixels)


def read(path: pathlib.Path) -> np.ndarray:
  return images.read_image(path, background=BACKGROUND)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif", "jp2"])
def test_pictures_are_upright_as_viewers_show_them(tmp_path: pathlib.Path, suffix: str, orientation: int):
  exif = Image.Exif()
  exif[ORIENTATION] = orientation
  path = tmp_path / f"a.{suffix}"
  quality: Any = {"quality": 100} if suffix in ("jpg", "webp", "avif") else {}
  make_picture().save(path, exif=exif, **quality)
  with Image.open(path) as file:
    expected = np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
  # All of these but JPEG 2000 hold EXIF.
  assert expected.shape == ((32, 16, 3) if orientation > 4 and suffix != "jp2" else (16, 32, 3))
  np.testing.assert_array_equal(read(path), expected)


def test_damaged_exif_data_leave_the_picture_as_it_is_stored(tmp_path: pathlib.Path):
  make_picture().save(tmp_path / "a.png", exif=b"Exif\0\0not TIFF at all")
  np.testing.assert_array_equal(read(tmp_path / "a.png"), np.asarray(make_picture()))


def save_transparent(path: pathlib.Path, mode: str) -> None:
  """A picture whose left half is transparent; where it is opaque, it is black, and so is what is behind."""
  alpha = np.full((16, 32), 255, np.uint8)
  alpha[:, :16] = 0
  layers = Image.new("RGBA", (32, 16))
  layers.putalpha(Image.fromarray(alpha))
  match mode:
    case "P":
      picture = Image.fromarray((alpha == 0).astype(np.uint8), mode="P")
      picture.putpalette([0, 0, 0, 255, 255, 255])
      picture.save(path, transparency=1)
    case "P, alpha of each colour":
      picture = Image.fromarray((alpha == 0).astype(np.uint8), mode="P")
      picture.putpalette([0, 0, 0, 255, 255, 255])
      picture.save(path, transparency=b"\xff\x00")
    case "RGB":
      picture = Image.fromarray(np.repeat((alpha == 0).astype(np.uint8)[..., None] * 255, 3, axis=2))
      picture.save(path, transparency=(255, 255, 255))
    case "L":
      Image.fromarray((alpha == 0).astype(np.uint8) * 255).save(path, transparency=255)
    case _:
      layers.convert(mode).save(path)


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize(
  ("mode", "suffix"),
  [
    ("RGBA", "png"),
    ("LA", "png"),
    ("P", "png"),
    ("P", "gif"),
    ("P, alpha of each colour", "png"),
    ("RGB", "png"),
    ("L", "png"),
    ("RGBA", "webp"),
    ("RGBA", "tif"),
  ],
)
def test_transparent_pixels_show_the_background(tmp_path: pathlib.Path, mode: str, suffix: str):
  save_transparent(tmp_path / f"a.{suffix}", mode)
  pixels = read(tmp_path / f"a.{suffix}")
  np.testing.assert_array_equal(pixels[:, :16], np.broadcast_to(np.array(BACKGROUND, np.uint8), (16, 16, 3)))
  assert not pixels[:, 16:].any()


def test_half_transparent_pixels_are_mixed_and_opaque_ones_are_left_alone(tmp_path: pathlib.Path):
  pixels = np.random.default_rng(0).integers(0, 256, (16, 32, 4), np.uint8)
  pixels[..., 3] = 255
  pixels[0, 0] = (0, 200, 250, 128)
  Image.fromarray(pixels).save(tmp_path / "a.png")
  found = read(tmp_path / "a.png")
  np.testing.assert_allclose(found[0, 0].astype(int), [100, 150, 150], atol=1)
  np.testing.assert_array_equal(found[1:], pixels[1:, :, :3])


def test_of_an_animation_the_first_frame_is_read(tmp_path: pathlib.Path):
  black, white = Image.new("L", (8, 8)), Image.new("L", (8, 8), 255)
  for suffix in ("gif", "webp", "tif", "png"):
    path = tmp_path / f"a.{suffix}"
    black.save(path, save_all=True, append_images=[white])
    assert not read(path).any()


def test_cmyk_pictures_become_rgb(tmp_path: pathlib.Path):
  Image.new("RGB", (8, 8), (255, 0, 0)).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
  assert np.abs(read(tmp_path / "a.jpg").astype(int) - (255, 0, 0)).max() < 4


def test_more_than_eight_bits_of_grey_are_refused_rather_than_clipped(tmp_path: pathlib.Path):
  Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "a.png")
  Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "b.tif")
  for name, mode in {"a.png": "I;16", "b.tif": "F"}.items():
    with pytest.raises(ValueError, match=f"^pixels of mode {mode}; convert the image to 8 bits a channel$"):
      read(tmp_path / name)


def test_any_damage_is_a_value_error(tmp_path: pathlib.Path):
  """Also where Pillow itself raises something else."""
  for suffix in ("png", "gif", "bmp", "tif", "webp", "jp2", "ico", "tga", "psd", "qoi", "dds", "pcx", "avif"):
    file = io.BytesIO()
    try:
      make_picture().save(file, {"jp2": "JPEG2000", "tif": "TIFF"}.get(suffix, suffix.upper()))
    except KeyError:
      # Pillow only reads this one.
      file = io.BytesIO(b"8BPS\0\1" + bytes(200))
    whole, rng = file.getvalue(), np.random.default_rng(0)
    for place in range(0, 60, 4):
      damaged = bytearray(whole[: rng.integers(8, len(whole) + 1)])
      damaged[place : place + 4] = struct.pack("<I", int(rng.integers(2**32)))
      path = tmp_path / f"a.{suffix}"
      path.write_bytes(damaged)
      with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
          read(path)
        except ValueError as error:
          assert str(error)


def test_what_is_not_an_image_or_drawn_by_another_program_is_not_read(tmp_path: pathlib.Path):
  make_picture().save(tmp_path / "a.eps")
  (tmp_path / "b.png").write_text("no image at all")
  for name in ("a.eps", "b.png"):
    with pytest.raises(ValueError, match=f"^cannot identify image file '{name}'$"):
      read(tmp_path / name)
  assert {".jfif", ".avif", ".jp2", ".pgm", ".mpo", ".tga"} < images.image_suffixes()
  assert not {".eps", ".h5", ".mpg", ".heic", ".txt"} & images.image_suffixes()


def test_a_colour_is_a_name_or_number_and_opaque():
  assert images.parse_colour("white") == images.parse_colour("#ffffff") == (255, 255, 255)
  for text in ("whitish", "#ffffff80"):
    with pytest.raises(ValueError, match=f"^--background must be a colour, by name or as #RRGGBB, got '{text}'.$"):
      images.parse_colour(text)


def make_noise(height: int, width: int) -> np.ndarray:
  return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(33, 51), (64, 47), (20, 31)])
def test_whole_pixels_of_the_resized_image_are_what_torchvision_crops(size: tuple[int, int], interpolation: Any):
  # Resize(16), CenterCrop(14): the longer side is rounded down, and half a pixel to the even one.
  picture = make_noise(*size)
  shorter = min(size)
  height, width = (int(16 * length / shorter) for length in size)
  method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
  resized = np.asarray(Image.fromarray(picture).resize((width, height), method))
  top, left = round((height - 14) / 2), round((width - 14) / 2)
  framing = images.Framing(crop=14 / 16, interpolation=interpolation, whole_pixels="resized")
  expected = resized[top : top + 14, left : left + 14].astype(int)
  # The sums are the same, but for the rounding of their weights.
  assert np.abs(images.central_crop(picture, (14, 14), framing) - expected).max() <= 1


def test_whole_pixels_of_the_original_are_what_tensorflow_crops():
  picture = make_noise(16, 25)
  framing = images.Framing(crop=14 / 16, interpolation="bicubic", whole_pixels="original")
  # The shorter side is 16 pixels, of which 14 need no resizing; an odd pixel is left out before the middle.
  np.testing.assert_array_equal(images.central_crop(picture, (14, 14), framing), picture[1:15, 6:20])


def test_pixels_are_shown_as_they_are_with_black_beyond_the_edges():
  picture = make_noise(20, 9)
  shown = images.central_crop(picture, (14, 14), images.Framing(interpolation="none"))
  np.testing.assert_array_equal(shown, np.pad(picture[3:17], ((0, 0), (2, 3), (0, 0))))


def test_a_framing_is_described_by_what_is_not_the_default_and_refuses_others():
  assert images.CENTRAL_FRAMING.describe() == {"crop": 0.875}
  for framing in (images.CENTRAL_FRAMING, images.Framing(crop=0.5, interpolation="bicubic", whole_pixels="resized")):
    assert images.read_framing({"num_images": 3, **framing.describe()}) == framing
  with pytest.raises(ValueError, match=r"^interpolation must be one of none, bilinear, bicubic, got 'nearest'\.$"):
    images.read_framing({"interpolation": "nearest"})
