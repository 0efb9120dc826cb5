"""Corruptions against the authors' program, against slow loops, and against what must always hold."""

import colorsys
import math
import pathlib
import re
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

import jax_sis
from jax_sis.data import corruptions

SAMPLE = pathlib.Path(jax_sis.__file__).parent / "assets" / "cifar10_test_sample"
SEVERITIES = range(1, 6)
# Where another library interpolates or decodes, numbers that are almost whole may be cut off to either side.
ROUNDED = {"defocus_blur", "zoom_blur", "snow", "elastic_transform", "jpeg_compression"}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
  paths = sorted(SAMPLE.glob("*/*.png"), key=lambda path: path.stem)
  return np.stack([np.asarray(Image.open(path)) for path in paths])


def corrupt(images: np.ndarray, name: str, severity: int, *, seed: int = 0) -> np.ndarray:
  return corruptions.corrupt(
    images, name, severity, ids=[f"test_{index:05}" for index in range(len(images))], seed=seed
  )


def generators(name: str, severity: int, num_images: int) -> list[np.random.Generator]:
  return [corruptions.make_generator(0, name, severity, f"test_{index:05}") for index in range(num_images)]


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", corruptions.MADE_CORRUPTIONS)
def test_the_authors_program_gives_the_same_image(images: np.ndarray, name: str, severity: int):
  # golden/corruptions.png: what make_cifar_c.py (github.com/hendrycks/robustness at ca36008) makes of the first image
  # of the sample, a row a corruption and a column a severity, its calls of numpy.random answered by our generators,
  # with OpenCV 5.0, scikit-image 0.26, ImageMagick 6.9.11 and Pillow 13.0.
  grid = np.asarray(Image.open(pathlib.Path(__file__).parents[1] / "golden" / "corruptions.png"))
  row, column = 32 * corruptions.MADE_CORRUPTIONS.index(name), 32 * (severity - 1)
  expected = grid[row : row + 32, column : column + 32].astype(int)
  difference = np.abs(corrupt(images[:1], name, severity)[0] - expected)
  assert difference.max() <= (1 if name in ROUNDED else 0)
  assert (difference > 0).mean() < 0.1


@pytest.mark.parametrize("name", corruptions.MADE_CORRUPTIONS)
def test_an_image_does_not_depend_on_its_batch(images: np.ndarray, name: str):
  ids = [f"image {index}" for index in range(len(images))]
  together = corruptions.corrupt(images, name, 5, ids=ids)
  assert together.dtype == np.uint8 and together.shape == images.shape
  backwards = corruptions.corrupt(images[::-1], name, 5, ids=ids[::-1])[::-1]
  np.testing.assert_array_equal(together, backwards)
  for index in (0, 7, 23):
    alone = corruptions.corrupt(images[index : index + 1], name, 5, ids=ids[index : index + 1])
    np.testing.assert_array_equal(together[index], alone[0])


@pytest.mark.parametrize("name", corruptions.MADE_CORRUPTIONS)
def test_black_and_white_images_are_no_special_case(name: str):
  for value in (0, 255):
    even = np.full((1, 32, 32, 3), value, np.uint8)
    for severity in SEVERITIES:
      assert corrupt(even, name, severity).shape == even.shape


@pytest.mark.parametrize("name", corruptions.MADE_CORRUPTIONS)
def test_the_images_passed_in_are_left_alone_and_changed_in_what_comes_back(images: np.ndarray, name: str):
  before = images.copy()
  after = corrupt(images, name, 5)
  np.testing.assert_array_equal(images, before)
  assert (after != images).mean() > 0.05


def test_random_corruptions_change_with_the_seed_the_id_and_the_severity(images: np.ndarray):
  random_ones = [
    name
    for name in corruptions.MADE_CORRUPTIONS
    if (corrupt(images, name, 3) != corrupt(images, name, 3, seed=1)).any()
  ]
  assert random_ones == [
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "glass_blur",
    "motion_blur",
    "snow",
    "fog",
    "elastic_transform",
    "speckle_noise",
  ]
  for name in random_ones:
    one, other = corruptions.corrupt(np.stack([images[0]] * 2), name, 3, ids=["a", "b"])
    assert (one != other).any()


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "contrast", "fog"])
def test_a_higher_severity_takes_an_image_further_away(images: np.ndarray, name: str):
  distances = [np.abs(corrupt(images, name, severity).astype(int) - images).mean() for severity in SEVERITIES]
  assert distances == sorted(distances)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_has_the_spread_of_its_constant(severity: int):
  grey = np.full((40, 32, 32, 3), 128, np.uint8)
  spread = corrupt(grey, "gaussian_noise", severity).std() / 255
  assert spread == pytest.approx((0.04, 0.06, 0.08, 0.09, 0.1)[severity - 1], rel=0.01)
  # The deviation of a Poisson count of mean m is sqrt(m).
  num_photons = (500, 250, 100, 75, 50)[severity - 1]
  spread = corrupt(grey, "shot_noise", severity).std() / 255
  assert spread == pytest.approx(math.sqrt(128 / 255 / num_photons), rel=0.02)
  values, counts = np.unique(corrupt(grey, "impulse_noise", severity), return_counts=True)
  share = (0.01, 0.02, 0.03, 0.05, 0.07)[severity - 1]
  assert values.tolist() == [0, 128, 255]
  np.testing.assert_allclose(counts / counts.sum(), [share / 2, 1 - share, share / 2], rtol=0.1)


@pytest.mark.parametrize(("severity", "sigma", "num_rounds"), [(1, 0.05, 1), (5, 0.4, 2)])
def test_glass_blur_is_a_loop_over_pixels_that_overwrite_each_other(
  images: np.ndarray, severity: int, sigma: float, num_rounds: int
):
  actual = corrupt(images[:2], "glass_blur", severity)
  for image, output, generator in zip(images, actual, generators("glass_blur", severity, 2), strict=False):
    shifts = generator.integers(-1, 1, (num_rounds, 30, 30, 2))
    values = slow_gaussian(image, sigma)
    for shift in shifts:
      for row in range(31, 1, -1):
        for column in range(31, 1, -1):
          across, down = shift[31 - row, 31 - column]
          values[row, column] = values[row + down, column + across]
    difference = np.abs(output.astype(int) - slow_gaussian(values, sigma))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01


def slow_gaussian(image: np.ndarray, sigma: float) -> np.ndarray:
  radius = int(4 * sigma + 0.5)
  offsets = np.arange(-radius, radius + 1)
  weights = np.exp(-(offsets**2) / (2 * sigma**2))
  weights /= weights.sum()
  padded = np.pad(image / 255, ((radius, radius), (radius, radius), (0, 0)), mode="edge")
  down = np.sum([weight * padded[place : place + 32] for place, weight in enumerate(weights)], axis=0)
  both = np.sum([weight * down[:, place : place + 32] for place, weight in enumerate(weights)], axis=0)
  return (np.clip(both, 0, 1) * 255).astype(np.uint8)


def test_motion_blur_is_a_loop_over_pixels_and_steps(images: np.ndarray):
  radius, sigma = 9, 2.5
  actual = corrupt(images[:2], "motion_blur", 5)
  for image, output, generator in zip(images, actual, generators("motion_blur", 5, 2), strict=False):
    angle = math.radians(generator.uniform(-45, 45))
    weights = [math.exp(-(step**2) / (2 * sigma**2)) for step in range(2 * radius + 1)]
    for row in (0, 13, 31):
      for column in range(32):
        total = np.zeros(3)
        for step, weight in enumerate(weights):
          source_row = min(max(row + math.ceil(step * math.sin(angle) - 0.5), 0), 31)
          source_column = min(max(column + math.ceil(step * math.cos(angle) - 0.5), 0), 31)
          total += weight / sum(weights) * image[source_row, source_column]
        np.testing.assert_array_equal(output[row, column], (np.rint(total * 257) // 257).astype(int))


def test_the_clouds_of_fog_are_a_diamond_square_loop_over_points():
  (generator,) = generators("fog", 1, 1)
  grid = np.zeros((32, 32))
  step, amplitude = 32, 100.0
  while step >= 2:
    half = step // 2
    # Squares, then the points above and below the centres, then those beside them.
    for start_row, start_column, offsets in (
      (half, half, [(-half, -half), (-half, half), (half, -half), (half, half)]),
      (0, half, [(-half, 0), (half, 0), (0, -half), (0, half)]),
      (half, 0, [(-half, 0), (half, 0), (0, -half), (0, half)]),
    ):
      noise = generator.uniform(-amplitude, amplitude, (32 // step, 32 // step))
      for i, row in enumerate(range(start_row, 32, step)):
        for j, column in enumerate(range(start_column, 32, step)):
          mean = np.mean([grid[(row + down) % 32, (column + across) % 32] for down, across in offsets])
          grid[row, column] = mean + amplitude * noise[i, j]
    step, amplitude = half, amplitude / 3
  expected = (grid - grid.min()) / (grid.max() - grid.min())
  np.testing.assert_allclose(corruptions.make_clouds(generators("fog", 1, 1), 3)[0], expected, atol=1e-12)


@pytest.mark.parametrize(
  ("name", "change_fn"),
  [
    ("brightness", lambda hue, saturation, value: (hue, saturation, min(value + 0.3, 1))),
    ("saturate", lambda hue, saturation, value: (hue, min(saturation * 2.5 + 0.2, 1), value)),
  ],
)
def test_brightness_and_saturation_change_one_coordinate_of_a_colour(
  images: np.ndarray, name: str, change_fn: Callable[[float, float, float], tuple[float, float, float]]
):
  actual = corrupt(images[:1], name, 5)[0].reshape(-1, 3)
  for pixel, output in zip(images[0].reshape(-1, 3), actual, strict=True):
    expected = np.array(colorsys.hsv_to_rgb(*change_fn(*colorsys.rgb_to_hsv(*pixel / 255)))) * 255
    np.testing.assert_allclose(output, expected, atol=1.001)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_an_even_image_stays_even_under_every_blur_and_warp(severity: int):
  even = np.broadcast_to(np.array([30, 128, 250], np.uint8), (2, 32, 32, 3)).copy()
  for name in (
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "elastic_transform",
    "pixelate",
    "gaussian_blur",
  ):
    assert np.abs(corrupt(even, name, severity).astype(int) - even).max() <= 1, name


@pytest.mark.parametrize("side", [24, 20])
def test_pixelated_images_have_no_more_pixels_than_they_are_shrunk_to(images: np.ndarray, side: int):
  output = corrupt(images[:1], "pixelate", {24: 4, 20: 5}[side])[0]
  assert len(np.unique(output, axis=0)) <= side
  assert len(np.unique(output, axis=1)[0]) <= side


def test_the_names_are_those_of_the_benchmark():
  assert len(corruptions.MAIN_CORRUPTIONS) == 15
  assert len(corruptions.EXTRA_CORRUPTIONS) == 4
  assert set(corruptions.ALL_CORRUPTIONS) - set(corruptions.MADE_CORRUPTIONS) == {"frost", "spatter"}


def test_what_cannot_be_corrupted_is_refused(images: np.ndarray):
  ids = ["a", "b"]
  with pytest.raises(ValueError, match=re.escape("name must be one of gaussian_noise, shot_noise, ")):
    corruptions.corrupt(images[:2], "frost", 1, ids=ids)
  with pytest.raises(ValueError, match=re.escape("severity must be 1 to 5, got 0.")):
    corruptions.corrupt(images[:2], "snow", 0, ids=ids)
  with pytest.raises(ValueError, match=re.escape("images must be uint8[B, 32, 32, 3], got float64[2, 32, 32, 3].")):
    corruptions.corrupt(images[:2] / 255, "snow", 1, ids=ids)
  with pytest.raises(ValueError, match=re.escape("images must be uint8[B, 32, 32, 3], got uint8[2, 16, 32, 3].")):
    corruptions.corrupt(images[:2, :16], "snow", 1, ids=ids)
  with pytest.raises(ValueError, match=re.escape("ids must name each of the 3 images, got 2.")):
    corruptions.corrupt(images[:3], "snow", 1, ids=ids)
