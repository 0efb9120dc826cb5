"""Are forward subsets different in kind from backward ones? Positions, spread and overlap.

    python benchmarks/kinds.py --weights resnet20-12fca82f.th --data-dir DATA --front front/front.jsonl --out kinds.png

From the subsets that front.py found. Prints two tables and draws the subsets of the first images beside each other, and
how often each position is kept.
"""

import argparse
import itertools
import json
import pathlib
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import published

SIDE = 32
BORDER = 2
KINDS = ("gradient", "screened", "exact", "forward", "forward 64, exchanged")
NUM_SHOWN = 8


def main() -> None:
  """Prints the tables and draws the picture."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  published.add_options(parser)
  parser.add_argument("--front", required=True, type=pathlib.Path, help="the front.jsonl that front.py wrote")
  parser.add_argument("--out", required=True, type=pathlib.Path, help="the picture")
  options = parser.parse_args()
  records = {record["setting"]: record for record in map(json.loads, options.front.read_text().splitlines())}
  kinds = {kind: read_masks(records[kind]) for kind in KINDS if kind in records}
  columns = f"{'images':>6} {'pixels':>7} {'row':>5} {'distance':>8} {'at random':>9} {'border':>7} {'touching':>8}"
  print(f"{'kind':<24} {columns}")
  for kind, masks in kinds.items():
    print_kind(kind, list(masks.values()))
  print(f"\n{'first kind':<24} {'second kind':<24} {'images':>6} {'first in second':>15} {'by chance':>9}")
  for first, second in itertools.permutations(kinds, 2):
    print_overlap(first, second, kinds)
  _, _, inputs = published.load(options)
  pixels = np.clip(published.IMAGENET_NORMALISATION.invert(inputs[: max(kinds["gradient"]) + 1]), 0, 255).astype(
    np.uint8
  )
  draw(options.out, kinds, pixels)


def read_masks(record: dict[str, Any]) -> dict[int, np.ndarray]:
  """The kept pixels `[32, 32]` of each image with a subset, by id."""
  masks = {}
  for index, features, size in zip(record["ids"], record["features"], record["num_kept"], strict=True):
    if size is not None:
      mask = np.zeros(SIDE * SIDE, bool)
      mask[features] = True
      masks[index] = mask.reshape(SIDE, SIDE)
  return masks


def print_kind(kind: str, masks: list[np.ndarray]) -> None:
  """Where the pixels of a kind lie: means over images, and over random subsets of the same sizes."""
  rng = np.random.default_rng(0)
  random = [rng.permuted(mask.reshape(-1)).reshape(SIDE, SIDE) for mask in masks for _ in range(20)]
  rows = np.mean([np.nonzero(mask)[0].mean() for mask in masks])
  border = np.mean([1 - mask[BORDER:-BORDER, BORDER:-BORDER].sum() / mask.sum() for mask in masks])
  print(
    f"{kind:<24} {len(masks):>6} {np.mean([mask.sum() for mask in masks]):>7.1f} {rows:>5.1f} {distance(masks):>8.1f} "
    f"{distance(random):>9.1f} {border:>7.0%} {touching(masks):>8.0%} (at random {touching(random):.0%})"
  )


def distance(masks: list[np.ndarray]) -> float:
  """The distance of two kept pixels: the mean over pairs, then over the images that have any."""
  means = []
  for mask in masks:
    places = np.argwhere(mask)
    if len(places) > 1:
      gaps = np.linalg.norm(places[:, None] - places[None], axis=-1)
      means.append(gaps.sum() / (len(places) * (len(places) - 1)))
  return float(np.mean(means))


def touching(masks: list[np.ndarray]) -> float:
  """The share of kept pixels beside which (left, right, above, below) another is kept; the mean over images."""
  shares = []
  for mask in masks:
    padded = np.pad(mask, 1)
    has_neighbour = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    shares.append((mask & has_neighbour).sum() / mask.sum())
  return float(np.mean(shares))


def print_overlap(first: str, second: str, kinds: dict[str, dict[int, np.ndarray]]) -> None:
  """How much of the first kind's subset the second one's holds, and how much it would by chance."""
  common = sorted(kinds[first].keys() & kinds[second].keys())
  pairs = [(kinds[first][index], kinds[second][index]) for index in common]
  held = np.mean([(one & other).sum() / one.sum() for one, other in pairs])
  chance = np.mean([other.mean() for _, other in pairs])
  print(f"{first:<24} {second:<24} {len(common):>6} {held:>15.0%} {chance:>9.1%}")


def draw(path: pathlib.Path, kinds: dict[str, dict[int, np.ndarray]], pixels: np.ndarray) -> None:
  """A row an image and a column a kind; below, how often each position is kept."""
  common = sorted(set.intersection(*(set(masks) for masks in kinds.values())))
  shown = common[:NUM_SHOWN]
  num_columns = 1 + len(kinds)
  figure, grid = plt.subplots(
    len(shown) + 1, num_columns, figsize=(1.75 * num_columns, 1.85 * (len(shown) + 1)), dpi=110, layout="constrained"
  )
  for axes in grid.flat:
    axes.set(xticks=[], yticks=[])
  for row, index in zip(grid[:-1], shown, strict=True):
    row[0].imshow(pixels[index])
    row[0].set_ylabel(f"test image {index}", fontsize=8)
    for axes, masks in zip(row[1:], kinds.values(), strict=True):
      # The rest in grey; what the classifier sees there is the mean colour.
      axes.imshow(np.where(masks[index][..., None], pixels[index], 120))
      axes.set_xlabel(f"{masks[index].sum()} pixels", fontsize=8)
  grid[0, 0].set_title("image", fontsize=9)
  for axes, kind in zip(grid[0, 1:], kinds, strict=True):
    axes.set_title(kind.replace(", ", ",\n"), fontsize=9)
  grid[-1, 0].axis("off")
  for axes, masks in zip(grid[-1, 1:], kinds.values(), strict=True):
    # Every image counts the same, however many pixels it keeps; sums over squares of 4x4.
    shares = np.mean([mask / mask.sum() for mask in masks.values()], axis=0)
    axes.imshow(shares.reshape(8, 4, 8, 4).sum((1, 3)), cmap="magma", vmin=0)
    axes.set_xlabel(f"positions, {len(masks)} images", fontsize=8)
  figure.savefig(path)


if __name__ == "__main__":
  main()
