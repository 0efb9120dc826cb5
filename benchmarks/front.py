"""How small against how fast: mean pixels at 0.99 and seconds an image for every search and setting.

    python benchmarks/front.py --weights resnet20-12fca82f.th --data-dir DATA --out front

The published ResNet-20 on the first CIFAR-10 test images, by id, of which it is at least 0.99 confident, on all local
devices. Each setting is compiled before it is timed, and adds a line to `front/front.jsonl`; the same
command again goes on with the settings that are missing. `--only` picks settings by name, such as exact, which takes
minutes an image and is left out otherwise.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import published

from jax_sis import devices
from jax_sis.backselect import backselect
from jax_sis.certify import certify
from jax_sis.forward import forward_select
from jax_sis.minimise import minimise
from jax_sis.search import BackwardSearch, Exact, Forward, Gradient, Screened
from jax_sis.subsets import Status, Subsets, sufficient_subsets
from jax_sis.types import Params, PredictFn

THRESHOLD = 0.99
NUM_CONSIDERED = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
  """One point of the front: a search, and whether its subsets are minimised."""

  search: BackwardSearch | Forward
  minimised: bool = False

  def find(self, predict_fn: PredictFn, params: Params, inputs: Any) -> Subsets:
    """The subsets of a batch."""
    if isinstance(self.search, Forward):
      order = forward_select(predict_fn, params, inputs, search=self.search)
    else:
      order = backselect(predict_fn, params, inputs, search=self.search)
    subsets = sufficient_subsets(order, THRESHOLD)
    return minimise(predict_fn, params, inputs, subsets, order=order) if self.minimised else subsets


SETTINGS = {
  "gradient": Setting(search=Gradient()),
  "gradient 4": Setting(search=Gradient(per_step=4)),
  "gradient 16": Setting(search=Gradient(per_step=16)),
  "screened": Setting(search=Screened()),
  "screened 8": Setting(search=Screened(candidates=8)),
  "screened 128 from 128": Setting(search=Screened(candidates=128, gradient_until=128)),
  "screened, minimised": Setting(search=Screened(), minimised=True),
  "forward 16": Setting(search=Forward(candidates=16)),
  "forward": Setting(search=Forward()),
  "forward 256": Setting(search=Forward(candidates=256)),
  "forward 16, minimised": Setting(search=Forward(candidates=16), minimised=True),
  "forward, minimised": Setting(search=Forward(), minimised=True),
  "forward 256, minimised": Setting(search=Forward(candidates=256), minimised=True),
  "exact": Setting(search=Exact()),
}
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
  confidence = jax.nn.softmax(jax.jit(predict_fn)(params, inputs)).max(1)
  ids = np.flatnonzero(np.asarray(confidence) >= THRESHOLD)[: options.images]
  names = options.only or [name for name in SETTINGS if name not in SLOW]
  print(f"{'setting':<24} {'found':>7} {'mean':>7} {'median':>7} {'1-minimal':>9} {'s/image':>8}")
  for name in names:
    if name not in done:
      record = measure(
        functools.partial(SETTINGS[name].find, predict_fn), predict_fn, params, inputs[ids], options.batch
      )
      with lines.open("a") as file:
        file.write(json.dumps({"setting": name, "ids": ids.tolist(), **record}) + "\n")
  for line in lines.read_text().splitlines():
    print_record(json.loads(line))


def measure(
  find_fn: Callable[[Params, Any], Subsets],
  predict_fn: PredictFn,
  params: Params,
  inputs: Any,
  batch_size: int,
) -> dict[str, Any]:
  """Sizes, certificates and seconds an image of one setting."""
  local_devices = devices.local_devices()
  replicated = devices.replicate(params, local_devices)
  per_launch = len(local_devices) * batch_size
  padded = np.concatenate([inputs, np.repeat(inputs[-1:], -len(inputs) % per_launch, axis=0)])
  launches = [
    devices.shard((padded[start : start + per_launch],), len(local_devices))[0]
    for start in range(0, len(padded), per_launch)
  ]
  find_shards = jax.pmap(find_fn, in_axes=(None, 0), devices=local_devices)
  compiled = find_shards.lower(replicated, launches[0]).compile()
  started, core_started = time.perf_counter(), time.process_time()
  found = [jax.block_until_ready(compiled(replicated, launch)) for launch in launches]
  seconds = (time.perf_counter() - started) / len(padded)
  core_seconds = (time.process_time() - core_started) / len(padded)
  subsets = jax.tree.map(lambda *parts: np.concatenate([np.concatenate(np.asarray(part)) for part in parts]), *found)
  report = certify(predict_fn, params, padded, jax.tree.map(jax.numpy.asarray, subsets))
  kept = slice(len(inputs))
  is_ok = subsets.status[kept] == Status.OK
  assert np.asarray(report.is_sufficient)[kept][is_ok].all(), "a subset that was found does not suffice"
  return {
    "num_kept": [int(size) if ok else None for size, ok in zip(subsets.num_kept[kept], is_ok, strict=True)],
    "features": [np.flatnonzero(mask).tolist() for mask in subsets.mask[kept]],
    "is_minimal": np.asarray(report.is_minimal)[kept].tolist(),
    "seconds_per_image": seconds,
    "core_seconds_per_image": core_seconds,
    "device": f"{len(local_devices)} x {local_devices[0].device_kind}",
  }


def print_record(record: dict[str, Any]) -> None:
  """A line of the table."""
  sizes = [size for size in record["num_kept"] if size is not None]
  print(
    f"{record['setting']:<24} {len(sizes):>3}/{len(record['ids']):<3} {np.mean(sizes):>7.2f} {np.median(sizes):>7.1f} "
    f"{sum(record['is_minimal']):>9} {record['seconds_per_image']:>8.2f}",
    flush=True,
  )


if __name__ == "__main__":
  main()
