"""What a vision transformer makes of images of which tokens are missing, by the mean colour and by leaving them out.

    python benchmarks/tokens.py --checkpoint runs/cifar10_vit_cifar/classifier --data-dir DATA

First table: accuracy on CIFAR-10 test images, by id, with a share of each image's tokens kept at random, the others in
the mean colour or out of the attention, and the entropy of the predicted classes (2.30 nats if all are alike). Second
table: the smallest sets of tokens that reach 0.9 on the first confident images, found and read under each removal.
"""

import argparse
from typing import Any

import jax
import numpy as np

import jax_sis
from jax_sis.classifiers import checkpoint, freeze
from jax_sis.core.types import Removal
from jax_sis.data import training_sets

THRESHOLD = 0.9
BATCH_SIZE = 100
REMOVALS: tuple[Removal, ...] = ("value", "tokens")


class Reader:
  """The classifier, asked for images of which tokens are missing."""

  def __init__(self, folder: str):
    classifier = checkpoint.load_classifier(folder)
    predict_fn, self.params = freeze(classifier.module)
    if predict_fn.presence_fn is None:
      raise SystemExit(f"--checkpoint must be a vision transformer's, got {classifier.model_name}.")
    self.predict_fn = predict_fn
    config = classifier.module.config
    self.patch_size, self.side = config.patch_size, config.image_size // config.patch_size
    self.normalisation = classifier.normalisation
    self.plain_fn, self.presence_fn = jax.jit(predict_fn), jax.jit(predict_fn.presence_fn)

  def probabilities(self, images: np.ndarray, kept: np.ndarray, removal: Removal) -> np.ndarray:
    """Of all classes, with `kept` `[N, side, side]` saying which tokens are there."""
    present = kept.repeat(self.patch_size, 1).repeat(self.patch_size, 2).astype(np.float32)
    padding = -len(images) % BATCH_SIZE
    images, present = (np.concatenate([array, array[:1].repeat(padding, 0)]) for array in (images, present))
    logits = []
    for start in range(0, len(images), BATCH_SIZE):
      some, there = images[start : start + BATCH_SIZE], present[start : start + BATCH_SIZE]
      if removal == "tokens":
        logits.append(self.presence_fn(self.params, some, there))
      else:
        logits.append(self.plain_fn(self.params, some * there[..., None]))
    return np.asarray(jax.nn.softmax(np.concatenate(logits)))[: len(images) - padding]


def main() -> None:
  """Prints both tables."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--checkpoint", required=True, help="the folder of a vision transformer")
  parser.add_argument("--data-dir", required=True, help="the TFDS folder with cifar10")
  parser.add_argument("--images", type=int, default=2000, help="of the first table (default: %(default)s)")
  parser.add_argument("--searched", type=int, default=64, help="of the second table (default: %(default)s)")
  options = parser.parse_args()
  reader = Reader(options.checkpoint)
  test_set: Any = training_sets.open_training_set(
    "cifar10", "test", data_dir=options.data_dir, image_size=None, on_error="refuse"
  )
  images = reader.normalisation.apply(test_set.images[: options.images], dtype=np.float32)
  print_accuracy(reader, images, test_set.labels[: options.images])
  print_subsets(reader, images, options.searched)


def print_accuracy(reader: Reader, images: np.ndarray, labels: np.ndarray) -> None:
  print(f"{'kept':>5} {'removal':<8} {'accuracy':>8} {'entropy':>8}", flush=True)
  # The rank of each token by chance, so that what is kept of a quarter is kept of a half, too.
  ranks = np.random.default_rng(0).random((len(images), reader.side**2)).argsort(1).argsort(1)
  for share in (1.0, 0.75, 0.5, 0.25):
    kept = (ranks < share * ranks.shape[1]).reshape(-1, reader.side, reader.side)
    for removal in REMOVALS:
      predicted = reader.probabilities(images, kept, removal).argmax(1)
      shares = np.bincount(predicted, minlength=10) / len(predicted)
      entropy = -(shares[shares > 0] * np.log(shares[shares > 0])).sum()
      print(f"{share:>5.0%} {removal:<8} {(predicted == labels).mean():>8.1%} {entropy:>8.2f}", flush=True)


def print_subsets(reader: Reader, images: np.ndarray, num_searched: int) -> None:
  """Sizes, and on how many images the class is kept: read under both removals, in white, and in white elsewhere."""
  everything = np.ones((len(images), reader.side, reader.side), bool)
  whole = reader.probabilities(images, everything, "value")
  ids = np.flatnonzero(whole.max(1) >= THRESHOLD)[:num_searched]
  images, targets = images[ids], whole[ids].argmax(1)
  white = np.broadcast_to(reader.normalisation.apply(np.full((1, 1, 1, 3), 255, np.uint8)), images.shape)
  rng = np.random.default_rng(1)
  print(
    f"\n{'found by':<8} {'tokens':>6} {'by value':>8} {'by tokens':>9} {'white':>6} {'moved white':>11}", flush=True
  )
  for removal in REMOVALS:
    subsets = jax_sis.smallest_subsets(
      reader.predict_fn,
      reader.params,
      images,
      targets,
      threshold=THRESHOLD,
      grid=(reader.side, reader.side),
      removal=removal,
    )
    found = np.asarray(subsets.status) == jax_sis.Status.OK
    kept = np.asarray(subsets.mask).reshape(-1, reader.side, reader.side)
    moved = np.stack([np.roll(mask, divmod(rng.integers(1, mask.size), reader.side), (0, 1)) for mask in kept])
    shown: tuple[tuple[np.ndarray, np.ndarray, Removal], ...]
    shown = ((images, kept, "value"), (images, kept, "tokens"), (white, kept, removal), (white, moved, removal))
    shares = [(reader.probabilities(*one).argmax(1) == targets)[found].mean() for one in shown]
    print(
      f"{removal:<8} {kept.sum((1, 2))[found].mean():>6.1f} "
      + " ".join(f"{share:>{width}.0%}" for share, width in zip(shares, (8, 9, 6, 11), strict=True))
      + f"   ({found.sum()} images)",
      flush=True,
    )


if __name__ == "__main__":
  main()
