"""How far from the true optimum do searches end, and how well do attributions rank? By complete lattices of a run.

    jax-sis find --lattice --patch 8 --threshold 0.9 --data cifar10 --data-dir DATA --split 'test[:200]' --out RUN
    python benchmarks/lattice.py RUN --out lattice [--checkpoint CLASSIFIER] [--data-dir DATA] [--threshold 0.9 0.99]
      [--earlier OTHER/lattice.jsonl ...]

Takes the finished images of the run, which need not be complete. Each search is run again on the same grid, and each
order (of a search, of an attribution, of exact values, at random) is read at its smallest sufficient prefix in the
lattice; so is the smallest set that there is. `lattice/lattice.jsonl` holds a line a method and threshold with each
image's size, `lattice/lattice.png` the means. Left out are images that do not reach the threshold as a whole, and those
that reach it with all squares masked. With --earlier, runs on other images of the same data set count in.
"""

import argparse
import dataclasses
import json
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.lines import Line2D

import jax_sis
from jax_sis import results
from jax_sis.core import lattice_bits
from jax_sis.core.lattice import find_minimal
from jax_sis.display.style import COLOURS, draw_interval, finish, name_lines, start_figure, styled
from jax_sis.results.schema import decode_text
from jax_sis.runs.setup import Job, make_job_again, read_inputs
from jax_sis.runtime import devices
from jax_sis.statistics.estimates import mean_of, share_of

NUM_RANDOM = 200
KIND_COLOURS = {"search": COLOURS[0], "attribution": COLOURS[1], "exact values": COLOURS[2], "chance": "#777777"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Truth:
  """The lattices of the images of a run: what is asked of their squares, answered.

  Attributes:
    ids: of the images.
    targets: the classes in question.
    log_odds: on every mask.
    lead: over the strongest other class.
    shapley: exact values.
    banzhaf: likewise.
    falling: the share of pairs whose log-odds fall.
  """

  ids: list[str]
  targets: Int[np.ndarray, "B"]
  log_odds: Float[np.ndarray, "B M"]
  lead: Float[np.ndarray, "B M"]
  shapley: Float[np.ndarray, "B F"]
  banzhaf: Float[np.ndarray, "B F"]
  falling: Float[np.ndarray, "B"]

  @property
  def num_features(self) -> int:
    return self.shapley.shape[1]

  def suffices(self, threshold: float) -> Bool[np.ndarray, "B M"]:
    return 1 / (1 + np.exp(-self.log_odds.astype(np.float64))) >= threshold

  def optimum(self, threshold: float) -> Int[np.ndarray, "B"]:
    """The fewest squares that suffice; of those that have some."""
    num_kept = lattice_bits.count_kept(self.log_odds.shape[1])
    return np.where(self.suffices(threshold), num_kept[None], self.num_features).min(1)


def read_truth(store: results.Results) -> Truth:
  """The lattices of all finished images that could be searched."""
  indices = store.done_images()
  indices = indices[store.read("predicted", indices) >= 0]
  named = {
    name: store.read(f"lattice_{name}", indices) for name in ("log_odds", "lead", "shapley", "banzhaf", "falling")
  }
  ids = decode_text(store.read("id", indices)).tolist()
  return Truth(ids=ids, targets=store.read("target", indices), **named)


def find_prefix(suffices: Bool[np.ndarray, "B M"], rank: Int[np.ndarray, "B F"]) -> Int[np.ndarray, "B"]:
  """The fewest squares from the front of an order that suffice."""
  sizes = np.arange(rank.shape[1] + 1)
  numbers = np.stack([lattice_bits.pack(rank < size) for size in sizes], axis=1)
  return np.take_along_axis(suffices, numbers, axis=1).argmax(1)


def rank_by(values: Float[np.ndarray, "B F"]) -> Int[np.ndarray, "B F"]:
  """The ranks of features by values, the largest first."""
  return np.argsort(np.argsort(-values, axis=1, kind="stable"), axis=1)


def rank_all(job: Job, inputs: Any, truth: Truth) -> dict[str, tuple[str, Int[np.ndarray, "B F"]]]:
  """The kind and the ranks of each method that orders all squares."""
  shared: dict[str, Any] = {"grid": job.grid, "baseline": job.config.baseline}
  targets = jnp.asarray(truth.targets)
  searches = {
    "gradient, a square a step": jax_sis.Gradient(),
    "gradient, four a step": jax_sis.Gradient(per_step=4),
    "screened, 4 candidates": jax_sis.Screened(candidates=4),
    "exact backward": jax_sis.Exact(),
  }
  methods = {
    "gradient x input": jax_sis.GradientTimesInput(),
    "integrated gradients": jax_sis.IntegratedGradients(),
    "occlusion": jax_sis.Occlusion(),
    "RISE": jax_sis.Rise(),
  }
  found: dict[str, tuple[str, Int[np.ndarray, "B F"]]] = {}
  for name, search in searches.items():
    order = jax_sis.backselect(job.predict_fn, job.params, inputs, targets, search=search, **shared)
    found[name] = "search", np.asarray(order.rank)
  for name, method in methods.items():
    values = jax_sis.attribute(job.predict_fn, job.params, inputs, targets, method=method, **shared)
    found[name] = "attribution", rank_by(np.asarray(values).reshape(len(truth.ids), -1))
  alone = truth.log_odds[:, 1 << np.arange(truth.num_features)]
  exact = {"Shapley values": truth.shapley, "Banzhaf values": truth.banzhaf, "log-odds on a square alone": alone}
  return found | {name: ("exact values", rank_by(values)) for name, values in exact.items()}


def find_smallest(job: Job, inputs: Any, truth: Truth, threshold: float) -> dict[str, Int[np.ndarray, "B"]]:
  """The sizes of the searches that stop at a threshold, beyond all squares where they find nothing."""
  shared: dict[str, Any] = {"grid": job.grid, "baseline": job.config.baseline}
  arguments = job.predict_fn, job.params, inputs, jnp.asarray(truth.targets)
  search = jax_sis.Forward(threshold=threshold)
  of_forward = jax_sis.sufficient_subsets(jax_sis.forward_select(*arguments, search=search, **shared), threshold)
  found = {
    "forward": of_forward,
    "smallest_subsets, quick": jax_sis.smallest_subsets(*arguments, threshold=threshold, **shared),
    "smallest_subsets, thorough": jax_sis.smallest_subsets(
      *arguments, threshold=threshold, effort=jax_sis.THOROUGH, **shared
    ),
  }
  sizes = {}
  for name, subsets in found.items():
    is_ok = np.asarray(subsets.status == jax_sis.Status.OK)
    sizes[name] = np.where(is_ok, np.asarray(subsets.num_kept), truth.num_features + 1)
  return sizes


def make_records(job: Job, inputs: Any, truth: Truth, thresholds: list[float]) -> list[dict[str, Any]]:
  """A line for each method and threshold."""
  ranks = rank_all(job, inputs, truth)
  rng = np.random.default_rng(0)
  orders = rng.permuted(np.broadcast_to(np.arange(truth.num_features), (NUM_RANDOM, truth.num_features)), axis=1)
  records = []
  for threshold in thresholds:
    suffices, optimum = truth.suffices(threshold), truth.optimum(threshold)
    is_asked = suffices[:, -1] & ~suffices[:, 0]
    sizes = {name: ("search", size) for name, size in find_smallest(job, inputs, truth, threshold).items()}
    sizes |= {name: (kind, find_prefix(suffices, rank)) for name, (kind, rank) in ranks.items()}
    at_random = [find_prefix(suffices, np.broadcast_to(order, truth.shapley.shape)) for order in orders]
    sizes["at random"] = "chance", np.mean(at_random, axis=0)
    for name, (kind, size) in sizes.items():
      records.append(
        {
          "method": name,
          "kind": kind,
          "threshold": threshold,
          "ids": [one for one, asked in zip(truth.ids, is_asked, strict=True) if asked],
          "sizes": size[is_asked].tolist(),
          "optimum": optimum[is_asked].tolist(),
        }
      )
  return records


def add_earlier(records: list[dict[str, Any]], path: pathlib.Path) -> None:
  """Puts the images of a file of other images before those of the records."""
  earlier = {(one["method"], one["threshold"]): one for one in map(json.loads, path.read_text().splitlines())}
  for record in records:
    before = earlier.get((record["method"], record["threshold"]))
    if before is None:
      raise SystemExit(f"--earlier: {path} has nothing on {record['method']!r} at {record['threshold']:g}.")
    if both := set(before["ids"]) & set(record["ids"]):
      raise SystemExit(f"--earlier must be of other images, but {path} also has {min(both)!r}.")
    record.update({name: before[name] + record[name] for name in ("ids", "sizes", "optimum")})


def describe_truth(truth: Truth, thresholds: list[float]) -> list[str]:
  """Lines on what there is to be found."""
  lines = [f"{len(truth.ids)} images; {mean_of(truth.falling):.1%} of single squares lower the log-odds where added"]
  for threshold in thresholds:
    thresholds_of = jnp.full(len(truth.ids), threshold)
    found = find_minimal(
      jnp.asarray(truth.log_odds), jnp.asarray(truth.lead), thresholds_of, jnp.zeros_like(thresholds_of)
    )
    num_kept = lattice_bits.count_kept(truth.log_odds.shape[1])
    for question in ("sufficient", "contrastive", "both"):
      minimal = np.asarray(found[f"minimal_{question}"])
      fewest = np.where(minimal, num_kept[None], 99).min(1)
      has_some = (fewest > 0) & (fewest < 99)
      if has_some.any():
        lines.append(
          f"at {threshold:g}, {question}: {has_some.sum()} images have some, {np.median(minimal.sum(1)[has_some]):g} "
          f"minimal sets in the median, the smallest {fewest[has_some].mean():.2f} squares in the mean"
        )
  return lines


def describe(record: dict[str, Any]) -> str:
  sizes, optimum = np.array(record["sizes"]), np.array(record["optimum"])
  beyond, is_best = f"{mean_of(sizes - optimum):.2f}", f"{share_of(sizes <= optimum):.1%}"
  return (
    f"{record['threshold']:<5g} {record['method']:<28} {sizes.mean():>6.2f} {optimum.mean():>6.2f} "
    f"{beyond:>20} {is_best:>20} {(sizes - optimum).max():>6.3g}"
  )


@styled
def draw(records: list[dict[str, Any]], job: Job, *, threshold: float) -> bytes:
  """The mean squares beyond the optimum, and how often it is found, a line a method."""
  lines = sorted(
    (one for one in records if one["threshold"] == threshold),
    key=lambda one: (list(KIND_COLOURS).index(one["kind"]), np.mean(one["sizes"])),
  )
  figure, axes = start_figure(1, 2, size=(10, 1.9 + 0.3 * len(lines)), width_ratios=[1.3, 1])
  left, right = axes[0]
  for place, line in enumerate(lines):
    beyond = np.subtract(line["sizes"], line["optimum"])
    colour = KIND_COLOURS[line["kind"]]
    for axis, estimate, form in ((left, mean_of(beyond), ".2f"), (right, share_of(beyond <= 0), ".0%")):
      draw_interval(axis, place, estimate.numbers, colour=colour)
      axis.annotate(
        f"{estimate.value:{form}}",
        (estimate.numbers[0], place),
        (0, 5),
        textcoords="offset points",
        fontsize=8,
        ha="center",
      )
  name_lines(left, [line["method"] for line in lines])
  name_lines(right, [""] * len(lines))
  left.set_title("squares more than the smallest set that there is")
  right.set_title("share of images where it is found")
  right.set_xlim(-0.04, 1.06)
  num_images, optimum, side = len(lines[0]["ids"]), np.mean(lines[0]["optimum"]), job.config.patch
  figure.suptitle(
    f"{job.classifier.model_name}, {num_images} images of {job.source.description['data']} in {job.num_features} "
    f"squares of {side}x{side} pixels, at {threshold:g}: the smallest set has {optimum:.2f} squares",
    x=0.01,
    ha="left",
  )
  handles = [Line2D([], [], marker="o", color=colour, label=kind) for kind, colour in KIND_COLOURS.items()]
  figure.legend(handles=handles, loc="outside lower left", ncols=len(handles))
  figure.text(0.99, 0.012, "Means and shares over images, with 95 % intervals.", fontsize=9, ha="right", va="bottom")
  return finish(figure)


def main() -> None:
  """Measures all methods, prints a line each, and draws them."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("run", help="the folder of a run of find --lattice")
  parser.add_argument("--out", required=True, type=pathlib.Path, help="the folder for lattice.jsonl and lattice.png")
  parser.add_argument("--checkpoint", help="the classifier's folder (default: where the run had it)")
  parser.add_argument("--data-dir", help="the TFDS folder (default: where the run had it)")
  parser.add_argument("--threshold", nargs="+", type=float, help="thresholds (default: the run's)")
  parser.add_argument("--earlier", nargs="+", type=pathlib.Path, default=[], help="files of runs on other images")
  options = parser.parse_args()
  devices.use_one_cpu_device_per_core()
  store = results.open(options.run)
  job = make_job_again(
    store, checkpoint=options.checkpoint, data_dir=options.data_dir, num_devices=None, is_computing=False
  )
  indices = store.done_images()
  inputs = jnp.asarray(read_inputs(job, store, indices[store.read("predicted", indices) >= 0]))
  truth, thresholds = read_truth(store), options.threshold or [store.spec["threshold"]]
  print("\n".join(describe_truth(truth, thresholds)), flush=True)
  records = make_records(job, inputs, truth, thresholds)
  for path in reversed(options.earlier):
    add_earlier(records, path)
  options.out.mkdir(parents=True, exist_ok=True)
  (options.out / "lattice.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
  print(f"{'at':<5} {'method':<28} {'mean':>6} {'best':>6} {'more than the best':>20} {'finds it':>20} {'most':>6}")
  print("\n".join(map(describe, records)))
  (options.out / "lattice.png").write_bytes(draw(records, job, threshold=thresholds[0]))


if __name__ == "__main__":
  main()
