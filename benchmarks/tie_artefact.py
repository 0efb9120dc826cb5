"""What ranking by the saturating softmax probability does to exact orders: they end at the bottom border.

    python benchmarks/tie_artefact.py --weights resnet20-12fca82f.th --data-dir DATA --images 0 1

For each image and each score: the exact order (BackSelect), the mean row of the 30 pixels that it keeps longest (15.5
of 0..31 if rows were used evenly), at how many of its sizes the confidence is exactly 1.0, and the size of the subset
at 0.99. About 525,000 forward passes an image and score: minutes each. Squares of 2x2 pixels (`--patch 2`) take a
sixteenth of that.
"""

import argparse
import time

import numpy as np
import published

import jax_sis

NUM_LAST = 30


def main() -> None:
  """Prints a line an image and score."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  published.add_options(parser)
  parser.add_argument("--images", type=int, nargs="+", default=[0, 1], help="CIFAR-10 test images by id")
  parser.add_argument("--patch", type=int, default=1, help="mask squares of so many pixels a side")
  parser.add_argument("--chunk-size", type=int, default=64, help="masked copies a model call")
  options = parser.parse_args()
  side = 32 // options.patch
  num_last = -(-NUM_LAST // options.patch**2)
  predict_fn, params, images = published.load(options)
  print(
    f"{'image':>5} {'score':>12} {'mean row of last 30':>19} {'steps at 1.0':>12} {'pixels at 0.99':>14} {'seconds':>8}"
  )
  for index in options.images:
    inputs = images[index : index + 1]
    for score in ("log_odds", "probability"):
      started = time.perf_counter()
      order = jax_sis.backselect(
        predict_fn,
        params,
        inputs,
        search=jax_sis.Exact(chunk_size=options.chunk_size),
        score=score,
        grid=(side, side, 1),
      )
      feature_rows = np.nonzero(np.asarray(order.rank[0]).reshape(side, side) < num_last)[0]
      rows = feature_rows * options.patch + (options.patch - 1) / 2
      num_saturated = int((np.asarray(order.confidence[0]) == 1.0).sum())
      num_kept = int(jax_sis.sufficient_subsets(order, 0.99).num_kept[0]) * options.patch**2
      seconds = time.perf_counter() - started
      print(
        f"{index:>5} {score:>12} {rows.mean():>19.1f} {num_saturated:>12} {num_kept:>14} {seconds:>8.0f}", flush=True
      )


if __name__ == "__main__":
  main()
