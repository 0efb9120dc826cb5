"""jax_sis, ReX, captum, SHAP and LIME rank the pixels of the same images of one classifier: which few are enough?

    python benchmarks/peers.py peers --weights resnet20-12fca82f.th --data-dir DATA [--images 12]
    python benchmarks/pytorch_peers.py peers --weights resnet20-12fca82f.th
    python benchmarks/peers.py peers --weights resnet20-12fca82f.th --data-dir DATA

The published ResNet-20 on the first CIFAR-10 test images, by id, of which it is at least 0.9 confident. The first
command writes these to `peers/images.npz` and runs the searches of jax_sis, the second one the other packages; each
leaves a map an image in `peers/maps`. The third judges what is there: `peers/peers.jsonl` has a line a method and
image, `peers/peers.png` the means. All of them go on where they were stopped.

Every map is read alike: its pixels from the highest to the lowest, equal ones by row and column, all else the mean
colour. Core-seconds are the CPU time of all threads, without compiling.
"""

import argparse
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import published
from backgrounds import GRID, Judge, draw_backgrounds, smallest_passing
from jaxtyping import Float, Int
from matplotlib.lines import Line2D
from peer_maps import package_of, save

import jax_sis
from jax_sis import completions
from jax_sis.core.types import Params, PredictFn
from jax_sis.display.style import COLOURS, draw_interval, finish, name_lines, set_ticks, start_figure, styled
from jax_sis.runtime import devices
from jax_sis.runtime.device_program import DeviceProgram
from jax_sis.statistics.estimates import mean_of, share_of

THRESHOLD, EQUAL_SIZE = 0.9, 384
NUM_PIXELS = 32 * 32
# Above this an order is read at every fourth size, so that what suffices may be three pixels too many.
ALL_SIZES_TO = 64
READ_SIZES = (*range(ALL_SIZES_TO), *range(ALL_SIZES_TO, NUM_PIXELS + 1, 4))
HELD_SIZES = (64, 128, 256, 384, 512, 640, 768, 896)
NUM_CONSIDERED, NUM_POOLED, NUM_UNSEEN = 256, 4096, 50
BATCH_SIZE = 2
PACKAGE_COLOURS: dict[str, str] = dict(zip(("jax_sis", "ReX", "captum", "SHAP", "LIME"), COLOURS, strict=False))

# The arrays of the classifier and the pool, and inputs -> a number a pixel `[B, 32, 32]`, the larger, the more it is
# needed; -inf where a search did not get to it.
FindFn = Callable[[tuple[Params, Any], Any], Any]


def to_scores(order: jax_sis.FeatureOrder) -> Any:
  scores = jnp.where(order.rank == jax_sis.NOT_RANKED, -jnp.inf, -order.rank.astype(jnp.float32))
  return scores.reshape(-1, *order.grid[:2])


def make_searches(predict_fn: PredictFn) -> dict[str, FindFn]:
  """The searches by name."""

  def smallest(arrays: tuple[Params, Any], inputs: Any) -> Any:
    subsets = jax_sis.smallest_subsets(predict_fn, arrays[0], inputs, threshold=THRESHOLD)
    return jnp.where(subsets.mask[..., 0], 0.0, -jnp.inf)

  def forward(arrays: tuple[Params, Any], inputs: Any) -> Any:
    search = jax_sis.Forward(threshold=THRESHOLD)
    return to_scores(jax_sis.forward_select(predict_fn, arrays[0], inputs, search=search))

  def gradient(arrays: tuple[Params, Any], inputs: Any) -> Any:
    return to_scores(jax_sis.backselect(predict_fn, arrays[0], inputs, search=jax_sis.Gradient()))

  def on_other_images(arrays: tuple[Params, Any], inputs: Any) -> Any:
    params, pool = arrays
    search, completion = jax_sis.Gradient(per_step=8, share=0.05), completions.Images(pool)
    return to_scores(jax_sis.backselect(predict_fn, params, inputs, search=search, completion=completion))

  return {
    "jax_sis smallest_subsets": smallest,
    "jax_sis Forward": forward,
    "jax_sis Gradient": gradient,
    "jax_sis Gradient, other images": on_other_images,
  }


def choose_images(path: pathlib.Path, options: argparse.Namespace) -> dict[str, Any]:
  """What all methods are given, and what they are judged on; written where it is not yet."""
  if not path.exists():
    predict_fn, params, tests = published.load(options)
    ids = published.first_confident(
      predict_fn, params, tests[:NUM_CONSIDERED], threshold=THRESHOLD, num_images=options.images
    )
    unseen, pool = draw_backgrounds(options.data_dir, tests, num_pooled=NUM_POOLED)
    normalisation = published.IMAGENET_NORMALISATION
    save(
      path,
      ids=np.array(ids),
      inputs=tests[ids],
      targets=np.asarray(predict_fn(params, tests[ids]).argmax(1)),
      pool=np.asarray(pool),
      unseen=np.asarray(unseen[:NUM_UNSEEN]),
      mean=np.array(normalisation.mean),
      std=np.array(normalisation.std),
    )
  with np.load(path) as arrays:
    return dict(arrays)


def run_search(folder: pathlib.Path, find_fn: FindFn, arrays: tuple[Params, Any], given: dict[str, Any]) -> None:
  """Leaves the maps that are not there yet."""
  folder.mkdir(parents=True, exist_ok=True)
  program = DeviceProgram(find_fn, arrays, local_devices=devices.local_devices(), batch_size=BATCH_SIZE)
  for start in range(0, len(given["ids"]), program.launch_size):
    places = slice(start, start + program.launch_size)
    paths = [folder / f"{one}.npz" for one in given["ids"][places]]
    if all(path.exists() for path in paths):
      continue
    finished = program.run(given["inputs"][places])
    seconds = finished.core_seconds / program.launch_size
    for path, scores in zip(paths, finished.found, strict=True):
      save(path, scores=scores, seconds=seconds, version=f"jax_sis {jax_sis.__version__}")
    print(f"{folder.name:<32} {places.stop:>4} {seconds:8.2f} s", flush=True)


def rank_pixels(scores: Float[np.ndarray, "B H W"]) -> Int[np.ndarray, "B F"]:
  """0 is the highest; equal ones by row and column."""
  return (-scores.reshape(len(scores), -1)).argsort(1, kind="stable").argsort(1)


def judge_method(
  name: str, folder: pathlib.Path, given: dict[str, Any], classifier: tuple[PredictFn, Params], judge: Judge
) -> list[Any]:
  """A line an image of what a method's maps are worth."""
  maps = [dict(np.load(folder / f"{one}.npz")) for one in given["ids"]]
  scores = np.stack([one["scores"] for one in maps])
  ranks, sizes = rank_pixels(scores), np.isfinite(scores).sum((1, 2))
  is_order = bool((sizes == NUM_PIXELS).all())
  targets, inputs = jnp.asarray(given["targets"], jnp.int32), jnp.asarray(given["inputs"])
  if is_order:
    order = jax_sis.order_by_scores(
      *classifier, inputs, -ranks.astype(np.float32), targets, grid=GRID, sizes=READ_SIZES
    )
    subsets = jax_sis.sufficient_subsets(order, THRESHOLD)
    assert (subsets.status == jax_sis.Status.OK).all(), "an image has no subset"
    sizes = np.asarray(subsets.num_kept)
  kept = ranks < sizes[:, None]
  confidence, _ = published.judge_in_float64(*classifier, given["inputs"], kept.reshape(-1, *GRID[:2]), targets)
  there = np.asarray(judge.on_backgrounds(kept))
  records = [
    {
      "method": name,
      "version": str(maps[place]["version"]),
      "id": int(given["ids"][place]),
      "target": int(targets[place]),
      "pixels": int(sizes[place]),
      "confidence": round(float(confidence[place]), 6),
      "kept_alone": round(float(there[place]), 4),
      "core_seconds": round(float(maps[place]["seconds"]), 3),
      "mask": np.packbits(kept[place]).tobytes().hex(),
    }
    for place in range(len(maps))
  ]
  if is_order:
    shares = np.stack([np.asarray(judge.on_backgrounds(ranks < size)) for size in HELD_SIZES])
    first = smallest_passing(shares, HELD_SIZES, NUM_PIXELS)
    for place, record in enumerate(records):
      record["kept"] = dict(zip(HELD_SIZES, shares[:, place].round(4).tolist(), strict=True))
      record["size_90"] = int(first[place])
  return records


def summarise(name: str, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Means over the images of a method; of a search that ends with one subset, no more than that."""
  lines = [record for record in records if record["method"] == name]
  columns = {
    "pixels": [line["pixels"] for line in lines],
    "kept_alone": [line["kept_alone"] for line in lines],
    "core_seconds": [line["core_seconds"] for line in lines],
  }
  if "kept" in lines[0]:
    columns["kept"] = [line["kept"][str(EQUAL_SIZE)] for line in lines]
    columns["size_90"] = [line["size_90"] for line in lines]
  return {column: mean_of(np.array(values)) for column, values in columns.items()} | {
    "holds": share_of(np.array([line["confidence"] >= THRESHOLD for line in lines]))
  }


def print_table(summaries: dict[str, dict[str, Any]]) -> None:
  """A row of a Markdown table a method."""
  print("| method | pixels | in float64 | class kept by these | by 384 | pixels for 90 % | core-seconds |")
  print("|---|---|---|---|---|---|---|")
  for name, found in summaries.items():
    kept = f"{found['kept']:.0%}" if "kept" in found else ""
    size = f"{found['size_90']:.0f}" if "size_90" in found else ""
    holds = f"{found['holds'].count} of {found['holds'].num_images}"
    print(
      f"| {name} | {found['pixels']:.1f} | {holds} | {found['kept_alone']:.0%} | {kept} | {size} "
      f"| {found['core_seconds']:.2f} |"
    )


@styled
def draw(summaries: dict[str, dict[str, Any]], num_images: int) -> bytes:
  """The means of every method, a line each."""
  panels = (
    ("pixels", "pixels that suffice\non the mean colour", "{:.0f}"),
    ("kept", f"class kept on unseen\nimages by {EQUAL_SIZE} pixels", "{:.0%}"),
    ("size_90", "pixels that keep it on\n90 % of unseen images", "{:.0f}"),
    ("core_seconds", "core-seconds\nan image", "{:.2g}"),
  )
  figure, axes = start_figure(1, len(panels), size=(12, 1.6 + 0.33 * len(summaries)), sharey=True)
  for axis, (column, title, form) in zip(axes[0], panels, strict=True):
    for place, (name, found) in enumerate(summaries.items()):
      if column in found:
        middle, *ends = found[column].numbers
        draw_interval(axis, place, (middle, *ends), colour=PACKAGE_COLOURS[package_of(name)])
        axis.annotate(form.format(middle), (middle, place), (0, 5), textcoords="offset points", fontsize=8, ha="center")
    name_lines(axis, list(summaries))
    axis.set_title(title)
    if column in ("pixels", "core_seconds"):
      axis.set_xscale("log")
      set_ticks(axis.xaxis, powers=range(-3, 4), numbers=(1,), factor=1)
  figure.suptitle(f"ResNet-20, {num_images} CIFAR-10 test images of 1,024 pixels, at {THRESHOLD:g}", x=0.01, ha="left")
  handles = [Line2D([], [], marker="o", color=colour, label=name) for name, colour in PACKAGE_COLOURS.items()]
  figure.legend(handles=handles, loc="outside lower left", ncols=len(handles))
  figure.text(0.99, 0.012, "Means over images, with 95 % intervals.", fontsize=9, ha="right", va="bottom")
  return finish(figure)


def main() -> None:
  """Searches and judges what is not there yet, prints a row a method, and draws them."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("folder", type=pathlib.Path, help="the folder for images, maps, lines and the picture")
  published.add_options(parser)
  parser.add_argument("--images", type=int, default=12, help="how many confident images (default: %(default)s)")
  options = parser.parse_args()
  devices.use_one_cpu_device_per_core()
  options.folder.mkdir(parents=True, exist_ok=True)
  given = choose_images(options.folder / "images.npz", options)
  predict_fn, params = published.load_classifier(options.weights)
  for name, find_fn in make_searches(predict_fn).items():
    run_search(options.folder / "maps" / name, find_fn, (params, given["pool"]), given)
  judge = Judge(predict_fn, params, jnp.asarray(given["inputs"]), jnp.asarray(given["unseen"]))
  path = options.folder / "peers.jsonl"
  done = {json.loads(line)["method"] for line in path.read_text().splitlines()} if path.exists() else set()
  for folder in sorted((options.folder / "maps").iterdir()):
    if folder.name not in done and len(list(folder.glob("*[0-9].npz"))) == len(given["ids"]):
      records = judge_method(folder.name, folder, given, (predict_fn, params), judge)
      with path.open("a") as file:
        file.write("".join(json.dumps(record) + "\n" for record in records))
  records = [json.loads(line) for line in path.read_text().splitlines()]
  packages = list(PACKAGE_COLOURS)
  found = {name: summarise(name, records) for name in {record["method"] for record in records}}
  names = sorted(found, key=lambda name: (packages.index(package_of(name)), found[name]["pixels"].value))
  summaries = {name: found[name] for name in names}
  print_table(summaries)
  (options.folder / "peers.png").write_bytes(draw(summaries, len(given["ids"])))


if __name__ == "__main__":
  main()
