"""On how many unseen backgrounds do the pixels of an order keep the class? Searches on the mean colour and under draws.

    python benchmarks/backgrounds.py --weights resnet20-12fca82f.th --data-dir DATA [--images 64] [--only NAME ...]

Published ResNet-20, the first CIFAR-10 test images of 0.99 or more, searches that draw from training images, judged on
200 other test images as background and on 48 draws of ten more true pixels. Lines of JSON: `size_90` is the mean over
images of the smallest evaluated size at which 90 % of the backgrounds keep the class (all pixels where none does).
An H100 takes about ten seconds a search of 64 images and 32 draws, two CPU cores a quarter of an hour.
"""

import argparse
import functools
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import published

import jax_sis
from jax_sis import completions
from jax_sis.data import training_sets

GRID = (32, 32, 1)
SIZES = (64, 128, 192, 256, 320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960)
SIZES_WITH_MORE = (16, 32, 64, 96, 128, 160, 192, 224, 256, 320)
# What stands for "more pixels than were looked at".
BEYOND = 512
NUM_BACKGROUNDS, NUM_ADDED, NUM_ADDITIONS = 200, 10, 48
# Test images that are backgrounds come after those that are searched.
FIRST_BACKGROUND = 5000
SQUARES = (8, 8, 1)


def make_cases(pool: Any) -> dict[str, dict[str, Any]]:
  """The searches by name, as arguments of `backselect`."""
  images = functools.partial(completions.Images, pool)
  mean = completions.Images(pool, aggregate="mean")
  return {
    "mean colour, 8 a step": {"search": jax_sis.Gradient(per_step=8)},
    "mean colour, 4 a step": {"search": jax_sis.Gradient(per_step=4)},
    "images, 8 a step": {"search": jax_sis.Gradient(per_step=8), "completion": images()},
    "images, 4 a step": {"search": jax_sis.Gradient(per_step=4), "completion": images()},
    "images, 8 a step, no memory": {"search": jax_sis.Gradient(per_step=8, memory=0.0), "completion": images()},
    "images, 8 a step, memory 0.75": {"search": jax_sis.Gradient(per_step=8, memory=0.75), "completion": images()},
    "images, 8 a step, memory 0.95": {"search": jax_sis.Gradient(per_step=8, memory=0.95), "completion": images()},
    "images, 8 a step, mean, no memory": {"search": jax_sis.Gradient(per_step=8, memory=0.0), "completion": mean},
    "images, 8 a step, mean": {"search": jax_sis.Gradient(per_step=8), "completion": mean},
    "reveal 0.02, 8 a step": {"search": jax_sis.Gradient(per_step=8), "completion": completions.Reveal(0.02)},
    "exact on 4x4 squares, mean colour": {"search": jax_sis.Exact(), "grid": SQUARES},
    "exact on 4x4 squares, images": {"search": jax_sis.Exact(), "grid": SQUARES, "completion": images(num_draws=16)},
  }


def to_pixels(order: jax_sis.FeatureOrder) -> Any:
  """Ranks of pixels `[B, 1024]`, of which those of a square follow each other."""
  side = 32 // order.grid[0]
  ranks = order.rank.reshape(-1, *order.grid[:2])
  return (ranks.repeat(side, 1).repeat(side, 2) * side**2).reshape(len(ranks), -1)


class Judge:
  """Looks at masks on backgrounds and with more true pixels that all searches share."""

  def __init__(self, predict_fn: Any, params: Any, inputs: Any, backgrounds: Any):
    self.inputs, self.backgrounds = inputs, backgrounds
    self.targets = jax.jit(predict_fn)(params, inputs).argmax(-1)
    self.keys = jax.random.split(jax.random.key(1), NUM_ADDITIONS)

    def keeps(params: Any, mask: Any, shown: Any) -> Any:
      masked = jax_sis.mask_inputs(inputs, mask, baseline=jnp.broadcast_to(shown, inputs.shape), grid=GRID)
      return predict_fn(params, masked).argmax(-1) == self.targets

    @jax.jit
    def on_backgrounds(params: Any, mask: Any) -> Any:
      return jax.lax.map(lambda shown: keeps(params, mask, shown[None]), backgrounds, batch_size=8).mean(0)

    @jax.jit
    def with_more(params: Any, mask: Any) -> Any:
      def add(key: Any) -> Any:
        noise = jnp.where(mask, 2.0, jax.random.uniform(key, mask.shape))
        is_added = noise.argsort(1).argsort(1) < NUM_ADDED
        return keeps(params, mask | is_added, jnp.zeros(inputs.shape[1:])[None])

      return jax.lax.map(add, self.keys, batch_size=8).mean(0)

    self.on_backgrounds = functools.partial(on_backgrounds, params)
    self.with_more = functools.partial(with_more, params)

  def judge(self, order: jax_sis.FeatureOrder) -> dict[str, Any]:
    """What becomes of the class along an order."""
    ranks = to_pixels(order)
    kept = np.stack([np.asarray(self.on_backgrounds(ranks < size)) for size in SIZES])
    more = np.stack([np.asarray(self.with_more(ranks < size)) for size in SIZES_WITH_MORE])
    first = smallest_passing(kept, SIZES, ranks.shape[1])
    found = {
      "size_90": float(first.mean()),
      "share_with_a_size": float((first < ranks.shape[1]).mean()),
      "kept": dict(zip(SIZES, kept.mean(1, dtype=float).round(4).tolist(), strict=True)),
      "size_90_with_10_more": float(smallest_passing(more, SIZES_WITH_MORE, BEYOND).mean()),
      "kept_with_10_more": dict(zip(SIZES_WITH_MORE, more.mean(1, dtype=float).round(4).tolist(), strict=True)),
    }
    if order.rate is not None and order.grid == GRID:
      places = [order.sizes.index(size) for size in SIZES]
      gaps = np.asarray(order.rate)[:, places].mean(0, dtype=float) - kept.mean(1, dtype=float)
      found["expected_less_kept"] = dict(zip(SIZES, gaps.round(4).tolist(), strict=True))
    return found


def smallest_passing(shares: Any, sizes: tuple[int, ...], otherwise: int) -> Any:
  """Of each image the smallest size at which at least 90 % keep the class `[S, B] -> [B]`."""
  passes = shares >= 0.9
  return np.where(passes.any(0), np.array(sizes)[passes.argmax(0)], otherwise)


def draw_backgrounds(data_dir: str, tests: Any, *, num_pooled: int) -> tuple[Any, Any]:
  """Test images that no search sees, and training images that searches draw from, both normalised."""
  generator = np.random.default_rng(0)
  unseen = generator.choice(np.arange(FIRST_BACKGROUND, len(tests)), NUM_BACKGROUNDS, replace=False)
  train: Any = training_sets.open_training_set(
    "cifar10", "train", data_dir=data_dir, image_size=None, on_error="refuse"
  )
  pooled = train.images[generator.choice(len(train.images), num_pooled, replace=False)]
  return jnp.asarray(tests[unseen]), jnp.asarray(published.IMAGENET_NORMALISATION.apply(pooled, dtype=np.float32))


def main() -> None:
  """Runs the searches that were asked for."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  published.add_options(parser)
  parser.add_argument("--images", type=int, default=64, help="how many images are searched")
  parser.add_argument("--pool", type=int, default=4096, help="training images that the searches draw from")
  parser.add_argument("--only", nargs="+", metavar="NAME", help="these searches alone")
  options = parser.parse_args()
  predict_fn, params, tests = published.load(options)
  chosen = published.first_confident(
    predict_fn, params, tests[:FIRST_BACKGROUND], threshold=0.99, num_images=options.images
  )
  backgrounds, pool = draw_backgrounds(options.data_dir, tests, num_pooled=options.pool)
  inputs = jnp.asarray(tests[chosen])
  jax.config.update("jax_default_matmul_precision", "highest")
  judge = Judge(predict_fn, params, inputs, backgrounds)
  for name, arguments in make_cases(pool).items():
    if options.only and name not in options.only:
      continue
    started = time.perf_counter()
    order = jax.block_until_ready(jax_sis.backselect(predict_fn, params, inputs, judge.targets, **arguments))
    seconds = round(time.perf_counter() - started, 1)
    print(json.dumps({"search": name, "images": len(chosen), "seconds": seconds, **judge.judge(order)}), flush=True)


if __name__ == "__main__":
  main()
