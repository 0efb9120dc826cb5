"""Corruptions of 32x32 images with the constants of CIFAR-10-C, made on the fly.

CIFAR-10-C (Hendrycks & Dietterich, ICLR 2019, https://arxiv.org/abs/1903.12261) is one fixed set of files, which
`cifar_c` reads. This module makes another draw of the same corruptions, which must not be reported as CIFAR-10-C. Its
constants are those of the authors' `make_cifar_c.py`; packages of such corruptions have ImageNet-C's, which are
stronger. Given the same random numbers, a corruption gives the same image as the authors' program (which needs
scikit-image, OpenCV and ImageMagick), up to rounding.

Two of the nineteen are left out, see LEFT_OUT.
"""

import functools
import hashlib
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colors
from PIL import Image
from scipy import ndimage

SIDE = 32
NUM_SEVERITIES = 5
# The benchmark's four families; its mean is over these fifteen.
FAMILIES = {
  "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
  "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
  "weather": ("snow", "frost", "fog", "brightness"),
  "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
MAIN_CORRUPTIONS = tuple(name for names in FAMILIES.values() for name in names)
# The authors offer these for tuning hyperparameters, and leave them out of the mean.
EXTRA_CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
ALL_CORRUPTIONS = (*MAIN_CORRUPTIONS, *EXTRA_CORRUPTIONS)
# Not made here, and why.
LEFT_OUT = {
  "frost": "overlays photographs that come with the authors' program",
  "spatter": "needs OpenCV's edge detector and distance transform",
}

Pixels = UInt8[np.ndarray, "B 32 32 3"]
Generators = Sequence[np.random.Generator]
# (images, one generator an image, the constant or constants of the severity) -> images.
CorruptFn = Callable[[Pixels, Generators, Any], Pixels]


def corrupt(images: Pixels, name: str, severity: int, *, ids: Sequence[str], seed: int = 0) -> Pixels:
  """Corrupts images. The result for an image depends on its id and the seed, not on its batch.

  Args:
    images: 8-bit RGB.
    name: one of MADE_CORRUPTIONS.
    severity: 1, the mildest, to 5.
    ids: a name for each image, which decides its random numbers.
    seed: decides them too.

  Raises:
    ValueError: there is no such corruption or severity, or the images are not 8-bit RGB of 32x32 pixels.
  """
  if name not in CORRUPTIONS:
    raise ValueError(f"name must be one of {', '.join(CORRUPTIONS)}, got {name!r}.")
  if severity not in range(1, NUM_SEVERITIES + 1):
    raise ValueError(f"severity must be 1 to {NUM_SEVERITIES}, got {severity!r}.")
  if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE, 3):
    raise ValueError(f"images must be uint8[B, {SIDE}, {SIDE}, 3], got {images.dtype}{list(images.shape)}.")
  if len(ids) != len(images):
    raise ValueError(f"ids must name each of the {len(images)} images, got {len(ids)}.")
  corrupt_fn, constants = CORRUPTIONS[name]
  generators = [make_generator(seed, name, severity, image_id) for image_id in ids]
  return corrupt_fn(images, generators, constants[severity - 1])


def make_generator(seed: int, name: str, severity: int, image_id: str) -> np.random.Generator:
  digest = hashlib.sha256(f"{seed}/{name}/{severity}/{image_id}".encode()).digest()
  return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16])))


def to_unit(images: Pixels) -> Float[np.ndarray, "B 32 32 3"]:
  """Pixels -> 0..1."""
  return images / 255.0


def to_pixels(values: Float[np.ndarray, "B 32 32 3"]) -> Pixels:
  """0..1 -> pixels, rounded down, as in the published files."""
  return (np.clip(values, 0, 1) * 255).astype(np.uint8)


def draw(generators: Generators, draw_fn: Callable[[np.random.Generator], Any]) -> Any:
  """The same draw from each image's generator, stacked."""
  return np.stack([draw_fn(generator) for generator in generators])


def gaussian_noise(images: Pixels, generators: Generators, scale: float) -> Pixels:
  return to_pixels(to_unit(images) + draw(generators, lambda generator: generator.normal(0, scale, images.shape[1:])))


def shot_noise(images: Pixels, generators: Generators, num_photons: float) -> Pixels:
  """Replaces each value by a Poisson count of photons; white has `num_photons` on average."""
  counts = [
    generator.poisson(image * num_photons) for generator, image in zip(generators, to_unit(images), strict=True)
  ]
  return to_pixels(np.stack(counts) / num_photons)


def impulse_noise(images: Pixels, generators: Generators, share: float) -> Pixels:
  """Sets a share of the values to 0 or 1, each channel by itself."""
  is_hit = draw(generators, lambda generator: generator.random(images.shape[1:])) <= share
  is_salt = draw(generators, lambda generator: generator.random(images.shape[1:])) <= 0.5
  return to_pixels(np.where(is_hit, is_salt, to_unit(images)))


def speckle_noise(images: Pixels, generators: Generators, scale: float) -> Pixels:
  """Adds normal noise in proportion to the value."""
  values = to_unit(images)
  return to_pixels(values + values * draw(generators, lambda generator: generator.normal(0, scale, images.shape[1:])))


def gaussian_blur(images: Pixels, generators: Generators, sigma: float) -> Pixels:
  del generators
  return to_pixels(smooth(to_unit(images), sigma))


def smooth(values: Float[np.ndarray, "B 32 32 3"], sigma: float) -> Float[np.ndarray, "B 32 32 3"]:
  """Gaussian filter of the image plane, borders repeated."""
  return ndimage.gaussian_filter(values, sigma, axes=(1, 2), mode="nearest")


def glass_blur(images: Pixels, generators: Generators, constants: tuple[float, int]) -> Pixels:
  """Blurs, copies pixels to random neighbours, and blurs again; constants are sigma and the number of rounds.

  The authors meant to swap two pixels, but their program, and so the published files, overwrite one by the other. It
  works backwards and copies from above or the left, so it never reads a pixel that it has overwritten: one gather does
  a whole round.
  """
  sigma, num_rounds = constants
  values = to_pixels(smooth(to_unit(images), sigma))
  side = SIDE - 2
  shifts = draw(generators, lambda generator: generator.integers(-1, 1, (num_rounds, side, side, 2)))
  rows, columns = np.arange(SIDE - 1, 1, -1)[:, None], np.arange(SIDE - 1, 1, -1)
  batch = np.arange(len(images))[:, None, None]
  for round_number in range(num_rounds):
    across, down = np.moveaxis(shifts[:, round_number], -1, 0)
    values[:, rows, columns] = values[batch, rows + down, columns + across]
  return to_pixels(smooth(to_unit(values), sigma))


def defocus_blur(images: Pixels, generators: Generators, constants: tuple[float, float]) -> Pixels:
  """Averages over a disk with a soft rim; constants are its radius and the rim's sigma, in pixels."""
  del generators
  radius, sigma = constants
  offsets = np.arange(-3, 4)
  disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.float64)
  rim = np.exp(-(np.arange(-1, 2) ** 2) / (2 * sigma**2))
  kernel = ndimage.correlate(disk / disk.sum(), np.outer(rim, rim) / rim.sum() ** 2, mode="constant")
  return to_pixels(ndimage.correlate(to_unit(images), kernel, axes=(1, 2), mode="mirror"))


def motion_blur(images: Pixels, generators: Generators, constants: tuple[int, float]) -> Pixels:
  """Smears each image in a random direction; constants are radius and sigma."""
  radius, sigma = constants
  smeared = [
    smear(image, radius, sigma, generator.uniform(-45, 45)) for image, generator in zip(images, generators, strict=True)
  ]
  return np.stack(smeared)


def smear(
  image: UInt8[np.ndarray, "32 32 ..."], radius: int, sigma: float, angle: float
) -> UInt8[np.ndarray, "32 32 ..."]:
  """ImageMagick's motion blur: half a Gaussian, of `2 radius + 1` whole-pixel steps to one side; borders repeat."""
  steps = np.arange(2 * radius + 1)
  weights = np.exp(-(steps**2) / (2 * sigma**2))
  down = np.ceil(steps * math.sin(math.radians(angle)) - 0.5).astype(int)
  across = np.ceil(steps * math.cos(math.radians(angle)) - 0.5).astype(int)
  rows = np.clip(np.arange(SIDE) + down[:, None], 0, SIDE - 1)
  columns = np.clip(np.arange(SIDE) + across[:, None], 0, SIDE - 1)
  shifted = image[rows[:, :, None], columns[:, None, :]]
  mean = np.tensordot(weights / weights.sum(), shifted.astype(np.float64), 1)
  # ImageMagick rounds to 16 bits, then truncates to 8.
  return ((mean * 257 + 0.5).astype(np.uint16) // 257).astype(np.uint8)


def zoom_blur(images: Pixels, generators: Generators, largest: float) -> Pixels:
  """The mean of the image (counted twice) and of magnified copies, in steps of 1 % up to about `largest`."""
  del generators
  values = to_unit(images)
  total = values.copy()
  # As the authors write it: the rounding of this expression decides whether `largest` is included.
  factors = np.arange(1, largest, 0.01)
  for factor in factors:
    magnified = values
    for _ in range(2):
      # One axis, then the other.
      stretched = zoom_matrix(float(factor)) @ magnified.reshape(-1, SIDE, SIDE * 3)
      magnified = stretched.reshape(values.shape).swapaxes(1, 2)
    total += magnified
  return to_pixels(total / (len(factors) + 1))


@functools.cache
def zoom_matrix(factor: float) -> Float[np.ndarray, "32 32"]:
  """SciPy's linear zoom of the middle of an image to the whole size, along one axis."""
  side = math.ceil(SIDE / factor)
  start = (SIDE - side) // 2
  zoomed = np.asarray(ndimage.zoom(np.eye(SIDE)[start : start + side], (factor, 1), order=1))
  start = (len(zoomed) - SIDE) // 2
  return zoomed[start : start + SIDE]


def snow(images: Pixels, generators: Generators, constants: tuple[float, ...]) -> Pixels:
  """Whitens the image, and adds smeared flakes twice, the second time turned by 180 degrees.

  Constants: mean and standard deviation of the noise that becomes flakes, its magnification, the smallest value of a
  flake, radius and sigma of the smear, and the share of the image that is not whitened.
  """
  mean, deviation, factor, threshold, radius, sigma, kept = constants
  matrix = zoom_matrix(factor)
  noise = matrix @ draw(generators, lambda generator: generator.normal(mean, deviation, (SIDE, SIDE))) @ matrix.T
  layers = (np.clip(np.where(noise < threshold, 0, noise), 0, 1) * 255).astype(np.uint8)
  smeared = [
    smear(layer, int(radius), sigma, generator.uniform(-135, -45))
    for layer, generator in zip(layers, generators, strict=True)
  ]
  flakes = np.stack(smeared)[..., None] / 255
  values = to_unit(images)
  luma = values @ np.array([0.299, 0.587, 0.114])
  whitened = np.maximum(values, luma[..., None] * 1.5 + 0.5)
  return to_pixels(kept * values + (1 - kept) * whitened + flakes + np.rot90(flakes, 2, (1, 2)))


def fog(images: Pixels, generators: Generators, constants: tuple[float, float]) -> Pixels:
  """Adds clouds, and darkens to the old maximum; constants are the clouds' strength and smoothness."""
  strength, decay = constants
  values = to_unit(images)
  brightest = values.max((1, 2, 3), keepdims=True)
  clouded = values + strength * make_clouds(generators, decay)[..., None]
  return to_pixels(clouded * brightest / (brightest + strength))


def make_clouds(generators: Generators, decay: float) -> Float[np.ndarray, "B 32 32"]:
  """Fractal clouds in 0..1 by the diamond-square algorithm on a torus; a high decay gives smooth ones."""
  clouds = np.zeros((len(generators), SIDE, SIDE))
  amplitude, step = 100.0, SIDE
  while step >= 2:
    half = step // 2
    corners = clouds[:, ::step, ::step]
    pairs = corners + np.roll(corners, -1, 1)
    clouds[:, half::step, half::step] = wobble(generators, pairs + np.roll(pairs, -1, 2), amplitude)
    centres = clouds[:, half::step, half::step]
    above = centres + np.roll(centres, 1, 1) + corners + np.roll(corners, -1, 2)
    clouds[:, ::step, half::step] = wobble(generators, above, amplitude)
    beside = centres + np.roll(centres, 1, 2) + corners + np.roll(corners, -1, 1)
    clouds[:, half::step, ::step] = wobble(generators, beside, amplitude)
    step = half
    amplitude /= decay
  clouds -= clouds.min((1, 2), keepdims=True)
  return clouds / clouds.max((1, 2), keepdims=True)


def wobble(generators: Generators, sums: Float[np.ndarray, "B h w"], amplitude: float) -> Float[np.ndarray, "B h w"]:
  """The means of four neighbours, plus noise of up to the square of the amplitude."""
  noise = draw(generators, lambda generator: generator.uniform(-amplitude, amplitude, sums.shape[1:]))
  return sums / 4 + amplitude * noise


def brightness(images: Pixels, generators: Generators, amount: float) -> Pixels:
  del generators
  hsv = colors.rgb_to_hsv(to_unit(images))
  hsv[..., 2] = np.clip(hsv[..., 2] + amount, 0, 1)
  return to_pixels(colors.hsv_to_rgb(hsv))


def saturate(images: Pixels, generators: Generators, constants: tuple[float, float]) -> Pixels:
  """Multiplies the saturation of the HSV colour, and adds to it."""
  del generators
  factor, amount = constants
  hsv = colors.rgb_to_hsv(to_unit(images))
  hsv[..., 1] = np.clip(hsv[..., 1] * factor + amount, 0, 1)
  return to_pixels(colors.hsv_to_rgb(hsv))


def contrast(images: Pixels, generators: Generators, factor: float) -> Pixels:
  """Pulls the values towards the mean of their channel."""
  del generators
  values = to_unit(images)
  means = values.mean((1, 2), keepdims=True)
  return to_pixels((values - means) * factor + means)


def elastic_transform(images: Pixels, generators: Generators, constants: tuple[float, float, float]) -> Pixels:
  """A random affine map, then smooth random displacements.

  Constants, in pixels: the largest displacement, its smoothness (sigma), and the largest shift of the three points that
  define the affine map.
  """
  amount, sigma, reach = constants
  corners = np.array([[26.0, 26.0], [26.0, 6.0], [6.0, 6.0]])
  places = np.mgrid[:SIDE, :SIDE].astype(np.float64)
  outputs = np.empty((len(images), SIDE, SIDE, 3))
  for output, values, generator in zip(outputs, to_unit(images), generators, strict=True):
    # Points are (column, row); the map leads from the moved points back to the original ones.
    moved = corners + generator.uniform(-reach, reach, corners.shape)
    back = np.linalg.solve(np.column_stack([moved[:, ::-1], np.ones(3)]), corners[:, ::-1])
    noise = [generator.uniform(-1, 1, (SIDE, SIDE)) for _ in range(2)]
    across, down = (ndimage.gaussian_filter(field, sigma, mode="reflect", truncate=3) * amount for field in noise)
    for channel in range(3):
      mapped = ndimage.affine_transform(values[..., channel], back[:2].T, back[2], order=1, mode="mirror")
      ndimage.map_coordinates(mapped, places + np.stack([down, across]), output[..., channel], order=1, mode="reflect")
  return to_pixels(outputs)


def pixelate(images: Pixels, generators: Generators, scale: float) -> Pixels:
  """Shrinks by averaging, and enlarges without smoothing."""
  del generators
  side = int(SIDE * scale)
  box = Image.Resampling.BOX
  shrunk = [Image.fromarray(image).resize((side, side), box) for image in images]
  return np.stack([np.asarray(image.resize((SIDE, SIDE), box)) for image in shrunk])


def jpeg_compression(images: Pixels, generators: Generators, quality: int) -> Pixels:
  del generators
  outputs = []
  for image in images:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    outputs.append(np.asarray(Image.open(buffer)))
  return np.stack(outputs)


# Each with its constants for severities 1 to 5, from the authors' make_cifar_c.py (github.com/hendrycks/robustness).
CORRUPTIONS: dict[str, tuple[CorruptFn, tuple[Any, ...]]] = {
  "gaussian_noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
  "shot_noise": (shot_noise, (500, 250, 100, 75, 50)),
  "impulse_noise": (impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
  "defocus_blur": (defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
  "glass_blur": (glass_blur, ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))),
  "motion_blur": (motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
  "zoom_blur": (zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
  "snow": (
    snow,
    (
      (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
      (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
      (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
      (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
      (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
  ),
  "fog": (fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
  "brightness": (brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
  "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
  "elastic_transform": (
    elastic_transform,
    ((0, 0, 2.56), (1.6, 6.4, 2.24), (2.56, 1.92, 1.92), (3.2, 1.28, 1.6), (3.2, 0.96, 0.96)),
  ),
  "pixelate": (pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
  "jpeg_compression": (jpeg_compression, (80, 65, 58, 50, 40)),
  "speckle_noise": (speckle_noise, (0.06, 0.1, 0.12, 0.16, 0.2)),
  "gaussian_blur": (gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1)),
  "saturate": (saturate, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))),
}
MADE_CORRUPTIONS = tuple(CORRUPTIONS)
