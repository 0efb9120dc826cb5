"""Do subsets stay the same when nothing that matters changes? And does a subset depend on what hides the rest?

    python benchmarks/stability.py --weights resnet20-12fca82f.th --data-dir DATA

The published ResNet-20 on the first CIFAR-10 test images, by id, of which it is at least 0.99 confident. First table:
overlap (intersection over union) of each image's subset with that of float32 searches at the default settings, in
another precision, in batches of another shape, with another number of pixels a step. Second table: with the kept
pixels as they are and the rest shown as something else than the mean colour, how often the class is still the one
asked for, and how often at 0.99.
"""

import argparse
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import published
from PIL import Image, ImageFilter

import jax_sis
from jax_sis.core.smallest import QUICK

THRESHOLD = 0.99
NUM_CONSIDERED = 256
BLUR_RADIUS = 4.0


def main() -> None:
  """Prints both tables."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  published.add_options(parser)
  parser.add_argument("--images", type=int, default=16, help="how many confident images (default: %(default)s)")
  options = parser.parse_args()
  predict_fn, params, images = published.load(options)
  images = images[:NUM_CONSIDERED]
  logits = jax.jit(predict_fn)(params, images)
  ids = np.flatnonzero(np.asarray(jax.nn.softmax(logits)).max(1) >= THRESHOLD)[: options.images]
  inputs, targets = images[ids], np.asarray(logits)[ids].argmax(1)

  references = {}
  print(f"{'search':<10} {'changed':<28} {'overlap':>7} {'identical':>9} {'mean pixels':>11}", flush=True)
  for search, changed, find_fn in variants(predict_fn, params, inputs, targets):
    masks = np.asarray(find_fn()).reshape(len(ids), -1)
    reference = references.setdefault(search, masks)
    overlap = (masks & reference).sum(1) / np.maximum((masks | reference).sum(1), 1)
    print(
      f"{search:<10} {changed:<28} {overlap.mean():>7.2f} {(overlap == 1).sum():>6}/{len(ids)} "
      f"{masks.sum(1).mean():>11.1f}",
      flush=True,
    )

  print(f"\n{'search':<10} {'the rest shows':<28} {'class kept':>10} {'at 0.99':>8}")
  for search, masks in references.items():
    for name, fill in fills(images, ids):
      shown = np.where(masks.reshape(-1, 32, 32, 1), inputs, fill).astype(np.float32)
      probabilities = np.asarray(jax.nn.softmax(jax.jit(predict_fn)(params, shown)))
      keeps_class = probabilities.argmax(1) == targets
      is_confident = probabilities[np.arange(len(ids)), targets] >= THRESHOLD
      print(f"{search:<10} {name:<28} {keeps_class.mean():>10.0%} {is_confident.mean():>8.0%}")


def variants(
  predict_fn: Any, params: Any, inputs: np.ndarray, targets: np.ndarray
) -> Iterator[tuple[str, str, Callable[[], Any]]]:
  """What is searched, what is changed about it, and a function that returns the masks; first of each the reference."""

  def smallest(batch_size: int = 16, chunk_size: int = 64, dtype: Any = np.float32) -> Any:
    search = dataclasses.replace(QUICK.forward, chunk_size=chunk_size)
    return collect(search, dtype, minimised=True, batch_size=batch_size)

  def gradient(per_step: int = 1, dtype: Any = np.float32) -> Any:
    return collect(jax_sis.Gradient(per_step=per_step), dtype, minimised=False, batch_size=16)

  def collect(search: Any, dtype: Any, *, minimised: bool, batch_size: int) -> Any:
    with jax.enable_x64(dtype == np.float64):
      cast_params = jax.tree.map(lambda array: np.asarray(array).astype(dtype), params)
      (subsets,) = jax_sis.sis_collection(
        predict_fn,
        cast_params,
        jnp.asarray(inputs.astype(dtype)),
        targets,
        threshold=THRESHOLD,
        search=search,
        max_subsets=1,
        minimised=minimised,
        batch_size=batch_size,
      )
      return np.asarray(subsets.mask)

  yield "smallest", "nothing", smallest
  yield "smallest", "5 images a batch", functools.partial(smallest, batch_size=5)
  yield "smallest", "4 images at a time", functools.partial(smallest, chunk_size=256)
  yield "smallest", "float64", functools.partial(smallest, dtype=np.float64)
  yield "smallest", "bfloat16", functools.partial(smallest, dtype=jnp.bfloat16)
  yield "gradient", "nothing", gradient
  yield "gradient", "float64", functools.partial(gradient, dtype=np.float64)
  yield "gradient", "bfloat16", functools.partial(gradient, dtype=jnp.bfloat16)
  yield "gradient", "4 pixels a step", functools.partial(gradient, per_step=4)
  yield "gradient", "16 pixels a step", functools.partial(gradient, per_step=16)


def fills(images: np.ndarray, ids: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
  """What the masked pixels may show instead: a name and normalised images that broadcast."""
  normalise = published.IMAGENET_NORMALISATION.apply
  inputs = images[ids]
  pixels = np.clip(published.IMAGENET_NORMALISATION.invert(inputs), 0, 255).round().astype(np.uint8)
  blurred = [Image.fromarray(image).filter(ImageFilter.GaussianBlur(BLUR_RADIUS)) for image in pixels]
  noise = np.random.default_rng(0).integers(0, 256, pixels.shape)
  yield "mean colour (as searched)", np.zeros(1)
  yield "black", normalise(np.zeros(3))
  yield "grey", normalise(np.full(3, 128))
  yield "the image's own mean", inputs.mean((1, 2), keepdims=True)
  yield f"the image, blurred ({BLUR_RADIUS:g} pixels)", normalise(np.stack([np.asarray(image) for image in blurred]))
  yield "noise", normalise(noise)
  yield "another image", images[np.roll(ids, 1)]


if __name__ == "__main__":
  main()
