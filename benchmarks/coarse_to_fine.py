"""How few pixels of photographs suffice, against the time that finding them takes: searches at 224 pixels.

    python benchmarks/coarse_to_fine.py --out docs/results/coarse_to_fine [--checkpoint imagenet] [--data sample]

EfficientNet-Lite0 on the photographs of the package, at a confidence of 0.9, one after the other through searches that
differ in their steps and in what they remember, and the smallest evidence on pixels and on squares. Each case is
compiled before it is timed, and adds a line to `searches.jsonl` in the folder; the same command again goes on with the
cases that are missing, prints all of them, and draws `searches.png`. `--only` picks cases by name.

Seconds are the CPU time of all threads of this process, which other processes hardly change.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import time
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import ticker

import jax_sis
from jax_sis.classifiers.on_images import ClassifierOnImages, open_on_images
from jax_sis.core.smallest import Effort
from jax_sis.runs.config import FindConfig

THRESHOLD = 0.9
# Bounds of the smallest evidence, which takes minutes an image: features that are tried at a step, and at which it is
# given up. No features are exchanged.
TRIED, MOST = 32, 192


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """One search: an order by a gradient, or where there is none, the smallest evidence.

  Attributes:
    search: the gradient search.
    square: pixels a side of what is masked together.
    num_images: how many of the images it is run on, the first ones; None for all.
  """

  search: jax_sis.Gradient | None = None
  square: int = 1
  num_images: int | None = None

  def find(self, predict_fn: Any, params: Any, inputs: Any) -> jax_sis.Subsets:
    """The subsets of a batch."""
    grid = (inputs.shape[1] // self.square, inputs.shape[2] // self.square, 1)
    if self.search is None:
      effort = Effort(jax_sis.Forward(candidates=TRIED, max_features=MOST), ())
      return jax_sis.smallest_subsets(predict_fn, params, inputs, threshold=THRESHOLD, effort=effort, grid=grid)
    order = jax_sis.backselect(predict_fn, params, inputs, search=self.search, grid=grid)
    return jax_sis.sufficient_subsets(order, THRESHOLD)


def of_steps(per_step: int, share: float = 0.0, memory: float | None = None, **options: Any) -> Case:
  """A gradient search as a case."""
  return Case(search=jax_sis.Gradient(per_step=per_step, share=share, memory=memory), **options)


CASES = {
  "10 % a step, memory 0.95": of_steps(10, 0.1, 0.95),
  "100 a step": of_steps(100),
  "1000 a step": of_steps(1000),
  "1000 a step, memory 0.95": of_steps(1000, memory=0.95),
  "10 % a step": of_steps(10, 0.1),
  "5 % a step, memory 0.975": of_steps(10, 0.05, 0.975),
  "20 % a step, memory 0.9": of_steps(10, 0.2, 0.9),
  "8x8 squares, 8 a step": of_steps(8, square=8),
  "8x8 squares, 8 a step, memory 0.9": of_steps(8, memory=0.9, square=8),
  "2 % a step, memory 0.99": of_steps(10, 0.02, 0.99),
  "10 a step": of_steps(10, num_images=1),
  "smallest evidence, 16x16 squares": Case(square=16, num_images=1),
  "smallest evidence, 8x8 squares": Case(square=8, num_images=1),
  "smallest evidence, pixels": Case(num_images=1),
  "smallest evidence, 4x4 squares": Case(square=4, num_images=1),
}


def main() -> None:
  """Measures what is missing, then prints and draws all."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--out", required=True, type=pathlib.Path, help="the folder of the lines and the picture")
  parser.add_argument("--checkpoint", default="imagenet", help="as for jax-sis find")
  parser.add_argument("--data", default="sample", help="as for jax-sis find")
  parser.add_argument("--only", nargs="+", metavar="NAME", help="these cases alone; none draws what is there")
  options = parser.parse_args()
  lines = options.out / "searches.jsonl"
  options.out.mkdir(parents=True, exist_ok=True)
  records = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
  missing = [name for name in options.only or CASES if name not in {record["case"] for record in records}]
  if missing:
    # The settings of find say what an opened classifier on images is; none of the rest of them counts here.
    config = FindConfig(checkpoint=options.checkpoint, data=options.data, resize=True, num_devices=1)
    images = open_on_images(config, batch_size=1)
    batches = list(images.read(np.arange(len(images.source))))
    inputs = np.concatenate([images.normalise(batch["image"]) for batch in batches])
    ids = [str(name) for batch in batches for name in batch["id"]]
    for name in missing:
      records.append({"case": name, **measure(CASES[name], images, inputs, ids)})
      with lines.open("a") as file:
        print(json.dumps(records[-1]), file=file)
  print(f"{'case':<36} {'images':>6} {'median':>7} {'mean %':>7} {'CPU-s an image':>14}")
  for record in records:
    sizes = pixels_of(record)
    print(
      f"{record['case']:<36} {len(record['ids']):>6} {np.median(sizes):>7.0f} "
      f"{100 * np.mean(sizes) / record['num_pixels']:>7.2f} {record['cpu_seconds_per_image']:>14.1f}"
    )
  draw(options.out / "searches.png", records)


def measure(case: Case, images: ClassifierOnImages, inputs: Any, ids: list[str]) -> dict[str, Any]:
  """Compiles a case for its images and runs it once."""
  inputs, ids = inputs[: case.num_images], ids[: case.num_images]
  find = jax.jit(functools.partial(case.find, images.predict_fn))
  with jax.default_matmul_precision("highest"):
    program = find.lower(images.params, inputs).compile()
  started = time.process_time()
  subsets = jax.block_until_ready(program(images.params, inputs))
  seconds = time.process_time() - started
  return {
    "ids": ids,
    "square": case.square,
    "num_pixels": inputs.shape[1] * inputs.shape[2],
    "num_kept": np.asarray(subsets.num_kept).tolist(),
    "status": [int(status) for status in np.asarray(subsets.status)],
    "cpu_seconds_per_image": round(seconds / len(ids), 2),
  }


def pixels_of(record: dict[str, Any]) -> np.ndarray:
  """The pixels of each image's subset; all of them where there is none."""
  sizes = np.array(record["num_kept"]) * record["square"] ** 2
  return np.where(np.array(record["status"]) == jax_sis.Status.OK, sizes, record["num_pixels"])


def draw(path: pathlib.Path, records: list[dict[str, Any]]) -> None:
  """Mean share of the pixels against CPU seconds an image; lower and further left is better."""
  figure, axes = plt.subplots(figsize=(10, 6.5), dpi=110, layout="constrained")
  num_images = max(len(record["ids"]) for record in records)
  for record in records:
    name = record["case"]
    colour = "tab:red" if "evidence" in name else "tab:green" if "memory" in name else "tab:blue"
    x, y = record["cpu_seconds_per_image"], 100 * np.mean(pixels_of(record)) / record["num_pixels"]
    axes.plot(x, y, "s" if "squares" in name else "o", color=colour)
    note = name if len(record["ids"]) == num_images else f"{name}\n({record['ids'][-1]} alone)"
    # Fast searches are close to each other: those without memory above, those with it below.
    below = -12 if "memory" in name else 4
    offset, side = ((-6, 4), "right") if x > 10 else ((6, below), "left")
    axes.annotate(note, (x, y), offset, textcoords="offset points", fontsize=8, ha=side)
  axes.set(
    xscale="log",
    yscale="log",
    xlabel="CPU seconds an image",
    ylabel=f"mean share of the pixels that suffices for {THRESHOLD:g}",
    title=f"Sufficient subsets of EfficientNet-Lite0, {num_images} photographs of 224x224 pixels: how small, how fast\n"
    "blue: the gradient of each step alone; green: with memory; red: smallest evidence; boxes: on squares",
  )
  axes.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
  axes.xaxis.set_minor_formatter(ticker.FormatStrFormatter("%g"))
  axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g %%"))
  axes.yaxis.set_minor_formatter(ticker.FormatStrFormatter("%g %%"))
  axes.margins(y=0.12)
  axes.grid(visible=True, which="both", alpha=0.25)
  figure.savefig(path)


if __name__ == "__main__":
  main()
