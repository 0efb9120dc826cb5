"""How small against how fast: mean pixels at 0.99 and core-seconds an image for every search and setting.

    python benchmarks/front.py --weights resnet20-12fca82f.th --data-dir DATA --out front

The published ResNet-20 on the first CIFAR-10 test images, by id, of which it is at least 0.99 confident, on all local
devices. Each setting is compiled before it is timed, and adds a line to `front/front.jsonl`; the same
command again goes on with the settings that are missing, prints all of them, and draws `front/front.png`. `--only`
picks settings by name, such as exact, which takes minutes an image and is left out otherwise; `--images 12` measures
those on fewer images.

Core-seconds are the CPU time of all threads of this process, which other processes hardly change.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
import published
from matplotlib import ticker

from jax_sis.core.backselect import backselect
from jax_sis.core.certify import certify
from jax_sis.core.forward import forward_select
from jax_sis.core.local_search import Exchanges
from jax_sis.core.minimise import minimise
from jax_sis.core.searches import BackwardSearch, Exact, Forward, Gradient, Screened
from jax_sis.core.smallest import QUICK, THOROUGH
from jax_sis.core.subsets import Status, Subsets, sufficient_subsets
from jax_sis.core.types import Params, PredictFn, ScoreName
from jax_sis.runtime import devices
from jax_sis.runtime.device_program import DeviceProgram

THRESHOLD = 0.99
NUM_CONSIDERED = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
  """One point of the front: a search, what it ranks by, and whether its subsets are minimised."""

  search: BackwardSearch | Forward
  exchanges: Exchanges | None = None
  score: ScoreName = "log_odds"

  def find(self, predict_fn: PredictFn, params: Params, inputs: Any) -> Subsets:
    """The subsets of a batch."""
    select = forward_select if isinstance(self.search, Forward) else backselect
    order = select(predict_fn, params, inputs, search=self.search, score=self.score)  # pyright: ignore[reportArgumentType]
    subsets = sufficient_subsets(order, THRESHOLD)
    if self.exchanges is None:
      return subsets
    return minimise(predict_fn, params, inputs, subsets, order=order, exchanges=self.exchanges)


QUICK_EXCHANGES, THOROUGH_EXCHANGES = QUICK.exchanges, THOROUGH.exchanges
SETTINGS = {
  "gradient": Setting(search=Gradient()),
  "gradient, by probability": Setting(search=Gradient(), score="probability"),
  "gradient 4": Setting(search=Gradient(per_step=4)),
  "gradient 16": Setting(search=Gradient(per_step=16)),
  "gradient, pruned": Setting(search=Gradient(), exchanges=()),
  "gradient, exchanged": Setting(search=Gradient(), exchanges=QUICK_EXCHANGES),
  "screened": Setting(search=Screened()),
  "screened 8 from 256": Setting(search=Screened(candidates=8, gradient_until=256)),
  "screened 32 from 256": Setting(search=Screened(candidates=32, gradient_until=256)),
  "screened 64 from 256": Setting(search=Screened(candidates=64, gradient_until=256)),
  "screened 32 from 512": Setting(search=Screened(candidates=32, gradient_until=512)),
  "screened, exchanged": Setting(search=Screened(), exchanges=QUICK_EXCHANGES),
  "forward 16": Setting(search=Forward(candidates=16)),
  "forward 64": Setting(search=Forward(candidates=64)),
  "forward": Setting(search=Forward()),
  "forward 1024": Setting(search=Forward(candidates=1024)),
  "forward 64, pruned": Setting(search=Forward(candidates=64), exchanges=()),
  "forward 64, exchanged": Setting(search=Forward(candidates=64), exchanges=QUICK_EXCHANGES),
  "forward, exchanged": Setting(search=Forward(), exchanges=QUICK_EXCHANGES),
  "forward, thorough": Setting(search=Forward(), exchanges=THOROUGH_EXCHANGES),
  "exact": Setting(search=Exact()),
}
# The original code in PyTorch, on two cores: pixels of the ResNet-20's first six images, and seconds an image from to.
AUTHORS_EXACT = (np.mean([11, 13, 25, 2, 12, 14]), 211, 864)
# How many of the images exact searches are compared on.
NUM_EXACT = 12
SLOW = ("exact",)


def main() -> None:
  """Measures what is missing and prints a line a setting."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  published.add_options(parser)
  parser.add_argument("--out", required=True, type=pathlib.Path, help="the folder for front.jsonl")
  parser.add_argument("--images", type=int, default=64, help="how many confident images (default: %(default)s)")
  parser.add_argument("--batch", type=int, default=2, help="images a device at a time (default: %(default)s)")
  parser.add_argument("--only", nargs="+", choices=SETTINGS, help="settings to measure (default: all but exact)")
  options = parser.parse_args()
  devices.use_one_cpu_device_per_core()
  options.out.mkdir(parents=True, exist_ok=True)
  lines = options.out / "front.jsonl"
  done = {json.loads(line)["setting"] for line in lines.read_text().splitlines()} if lines.exists() else set()

  predict_fn, params, images = published.load(options)
  inputs = images[:NUM_CONSIDERED]
  ids = published.first_confident(predict_fn, params, inputs, threshold=THRESHOLD, num_images=options.images)
  names = options.only or [name for name in SETTINGS if name not in SLOW]
  print(f"{'setting':<24} {'found':>7} {'mean':>7} {'median':>7} {'of 12':>7} {'1-minimal':>9} {'core-s/image':>12}")
  for name in names:
    if name not in done:
      record = measure(
        functools.partial(SETTINGS[name].find, predict_fn), predict_fn, params, inputs[ids], options.batch
      )
      with lines.open("a") as file:
        file.write(json.dumps({"setting": name, "ids": ids, **record}) + "\n")
  records = sorted(
    map(json.loads, lines.read_text().splitlines()), key=lambda record: list(SETTINGS).index(record["setting"])
  )
  for record in records:
    print_record(record)
  draw(options.out / "front.png", records)


def measure(
  find_fn: Callable[[Params, Any], Subsets],
  predict_fn: PredictFn,
  params: Params,
  inputs: Any,
  batch_size: int,
) -> dict[str, Any]:
  """Sizes, certificates and seconds an image of one setting."""
  local_devices = devices.local_devices()
  program = DeviceProgram(find_fn, params, local_devices=local_devices, batch_size=batch_size)
  launches = [
    program.run(inputs[start : start + program.launch_size]) for start in range(0, len(inputs), program.launch_size)
  ]
  num_computed = len(launches) * program.launch_size
  subsets = jax.tree.map(lambda *parts: np.concatenate(parts), *(launch.found for launch in launches))
  report = certify(predict_fn, params, inputs, jax.tree.map(jax.numpy.asarray, subsets))
  is_ok = subsets.status == Status.OK
  assert np.asarray(report.is_sufficient)[is_ok].all(), "a subset that was found does not suffice"
  return {
    "num_kept": [int(size) if ok else None for size, ok in zip(subsets.num_kept, is_ok, strict=True)],
    "features": [np.flatnonzero(mask).tolist() for mask in subsets.mask],
    "is_minimal": np.asarray(report.is_minimal).tolist(),
    "seconds_per_image": sum(launch.seconds for launch in launches) / num_computed,
    "core_seconds_per_image": sum(launch.core_seconds for launch in launches) / num_computed,
    "device": f"{len(local_devices)} x {local_devices[0].device_kind}",
  }


def draw(path: pathlib.Path, records: list[dict[str, Any]]) -> None:
  """Mean pixels against core-seconds an image; lower and further left is better."""
  figure, axes = plt.subplots(figsize=(10, 6.5), dpi=110, layout="constrained")
  colours = {"gradient": "tab:blue", "screened": "tab:green", "forward": "tab:red", "exact": "black"}
  for record in records:
    name = record["setting"]
    x, y = record["core_seconds_per_image"], mean_pixels(record)
    axes.plot(x, y, "D" if "," in name and "probability" not in name else "o", color=colours[re.split("[ ,]", name)[0]])
    axes.annotate(name, (x, y), (6, 3), textcoords="offset points", fontsize=8)
  pixels, fastest, slowest = AUTHORS_EXACT
  axes.plot([2 * fastest, 2 * slowest], [pixels, pixels], color="grey", marker="|")
  axes.annotate(
    "the authors' exact code\n(6 images, from to)",
    (2 * slowest, pixels),
    (0, -26),
    textcoords="offset points",
    fontsize=8,
    ha="right",
  )
  axes.set(
    xscale="log",
    yscale="log",
    xlabel="core-seconds an image",
    ylabel=f"mean pixels of 1,024 that suffice for {THRESHOLD:g}",
    title="Sufficient subsets of the published ResNet-20: how small against how fast\n"
    "64 test images, 12 for exact and screened searches; diamonds: minimised",
  )
  axes.yaxis.set_major_formatter(ticker.ScalarFormatter())
  axes.yaxis.set_minor_formatter(ticker.ScalarFormatter())
  axes.grid(visible=True, which="both", alpha=0.25)
  figure.savefig(path)


def mean_pixels(record: dict[str, Any], num_images: int | None = None) -> float:
  """Over the images with a subset, of the first `num_images`."""
  return float(np.mean([size for size in record["num_kept"][:num_images] if size is not None]))


def print_record(record: dict[str, Any]) -> None:
  """A line of the table."""
  sizes = [size for size in record["num_kept"] if size is not None]
  print(
    f"{record['setting']:<24} {len(sizes):>3}/{len(record['ids']):<3} {mean_pixels(record):>7.2f} "
    f"{np.median(sizes):>7.1f} {mean_pixels(record, NUM_EXACT):>7.2f} {sum(record['is_minimal']):>9} "
    f"{record['core_seconds_per_image']:>12.2f}",
    flush=True,
  )


if __name__ == "__main__":
  main()
