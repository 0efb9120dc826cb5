"""The picture of docs/contrastive.md: several sufficient subsets of an image that may share some of their pixels.

    python benchmarks/overlapping.py --out docs/overlapping.png

Of the embedded images and classifier: the first ones of 0.99 or more. Prints the sizes, and the largest Dice
coefficient of any two subsets of each image.
"""

import argparse
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import jax_sis
from jax_sis.classifiers.on_images import open_on_images
from jax_sis.display.style import finish
from jax_sis.runs.config import FindConfig

THRESHOLD, CONFIDENT = 0.9, 0.99


def main() -> None:
  """Draws the picture."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--images", type=int, default=3, help="how many (default: %(default)s)")
  parser.add_argument("--subsets", type=int, default=4, help="of each image (default: %(default)s)")
  parser.add_argument("--max-overlap", type=float, default=0.5, help="of any two (default: %(default)s)")
  parser.add_argument("--out", required=True, type=pathlib.Path, help="the picture")
  options = parser.parse_args()
  sample = open_on_images(FindConfig(out="unused"), batch_size=1)
  batches = list(sample.read(range(len(sample.source.ids()))))
  images = np.concatenate([batch["image"] for batch in batches])
  confidence = jax.nn.softmax(jax.jit(sample.predict_fn)(sample.params, sample.normalise(images))).max(1)
  pixels = images[np.flatnonzero(np.asarray(confidence) >= CONFIDENT)[: options.images]]
  collection = jax_sis.sis_collection(
    sample.predict_fn,
    sample.params,
    jnp.asarray(sample.normalise(pixels)),
    threshold=THRESHOLD,
    search=jax_sis.Gradient(per_step=8),
    max_subsets=options.subsets,
    max_overlap=options.max_overlap,
  )
  kept = np.stack([np.asarray(subsets.kept, int) for subsets in collection])
  for i in range(len(pixels)):
    sizes = kept[:, i].sum(1)
    pairs = itertools.combinations(np.flatnonzero(sizes), 2)
    alike = [2 * (kept[one, i] & kept[other, i]).sum() / (sizes[one] + sizes[other]) for one, other in pairs]
    print(f"image {i}: {sizes.tolist()} pixels, alike by {max(alike, default=0):.3f} at most")
  columns = {f"subset {number}": subsets for number, subsets in enumerate(collection, 1)}
  found = {**columns, "in how many": kept.sum(0)}
  figure = jax_sis.show(pixels, found, class_names=sample.class_names)
  options.out.write_bytes(finish(figure))


if __name__ == "__main__":
  main()
