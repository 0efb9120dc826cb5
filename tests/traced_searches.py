"""Subsets of CIFAR-10 images: docs/results/lattice, docs/results/contrastive and docs/results/backgrounds."""

import math
import re

import numpy as np
from traced import (
  Texts,
  estimate_of,
  fixed,
  join,
  percent,
  read_json,
  read_lines,
  read_table,
  row,
  share,
  traces,
  words,
)

from jax_sis.statistics.estimates import Estimate, mean_of, share_of
from jax_sis.statistics.matching import match_by_confidence

QUESTIONS = ("contrastive", "both", "sufficient")
# What the page calls searches of backgrounds/h100.jsonl, and orders of backgrounds/holds-64.csv.
BACKGROUND_SEARCHES = {
  "mean colour, 8 a step": "mean colour, 8 a step",
  "mean colour, 4 a step": "mean colour, 4 a step",
  "images, 8 a step, arithmetic mean, no memory": "images, 8 a step, mean, no memory",
  "images, 8 a step, arithmetic mean, memory 0.9": "images, 8 a step, mean",
  "images, 8 a step, geometric mean, no memory": "images, 8 a step, no memory",
  "images, 8 a step, memory 0.75": "images, 8 a step, memory 0.75",
  "images, 8 a step (memory 0.9, the default)": "images, 8 a step",
  "images, 8 a step, memory 0.95": "images, 8 a step, memory 0.95",
  "images, 4 a step": "images, 4 a step",
  "images, 8 a step, the draw at the quantile 0.2, no memory": "images, 8 a step, quantile 0.2, no memory",
  "exact on 4x4 squares, mean colour": "exact on 4x4 squares, mean colour",
  "exact on 4x4 squares, 16 draws of images": "exact on 4x4 squares, images",
}
STABLE_SEARCHES = {
  "mean colour, 8 a step": "mean colour, 8 a step",
  "images, 8 a step": "images, 8 a step",
  "`Reveal(0.02)`, 8 a step": "reveal 0.02, 8 a step",
}
HELD_ORDERS = {
  "gradient, mean colour": "gradient, 8 a step, mean colour",
  "gradient, other images": "gradient, 8 a step, other images",
}


@traces("docs/lattice.md")
def lattice_searches(page: str) -> Texts:
  """The rows that the page has, each by the methods that its first cell names, all words of them."""
  methods = [one for one in read_lines("lattice/searches.jsonl") if one["threshold"] == 0.9]
  optimum = np.array(methods[0]["optimum"])
  assert re.search(rf"(?<![\w.,]){len(optimum)}(?![\w.,])", page), (
    f"the page does not say that it is {len(optimum)} images"
  )
  table = re.search(r"^\|[^\n]*more than the smallest there is.*?(?=\n\n)", page, re.DOTALL | re.MULTILINE)
  assert table, "no table of searches against the smallest set"
  for line in table[0].splitlines()[2:]:
    name = line.split("|")[1].strip()
    of_name = words(name)
    named = [one for one in methods if set(words(one["method"])) <= set(of_name)]
    named.sort(key=lambda one: of_name.index(words(one["method"])[0]))
    sizes = [np.array(one["sizes"]) for one in named]
    means = [fixed(size.mean(), 2) for size in sizes]
    beyond = [mean_of(size - optimum) for size in sizes]
    finds = [share_of(size <= optimum) for size in sizes]
    if len(named) == 1:
      yield row(name, *means, f"{beyond[0]:.2f}", percent(finds[0]))
    elif named:
      values = [
        [fixed(100**is_share * one.numbers[0], 2 - 2 * is_share) for one in ones]
        for is_share, ones in enumerate((beyond, finds))
      ]
      yield row(name, join(means), join(values[0]), f"{join(values[1])} %")
    else:
      yield row(name, fixed(optimum.mean(), 2), "", "")


def read_contrastive() -> dict[str, dict[str, np.ndarray]]:
  """By question the columns of the file, the images in its order."""
  rows = read_table("contrastive/subsets.csv")
  names = [name for name in rows[0] if name != "question"]
  return {
    question: {name: np.array([float(one[name]) for one in rows if one["question"] == question]) for name in names}
    for question in QUESTIONS
  }


@traces("docs/contrastive.md")
def contrastive_of_twelve(page: str) -> Texts:
  first = {
    question: {name: values[columns["id"] < 12] for name, values in columns.items()}
    for question, columns in read_contrastive().items()
  }
  contrastive, both = first["contrastive"], first["both"]
  for question in ("contrastive", "both"):
    pixels = first[question]["pixels"]
    yield row(question, join([fixed(size) for size in pixels]), fixed(pixels.mean(), 1))
  certified = np.concatenate([contrastive["is_certified"], both["is_certified"]])
  yield f"All {certified.sum():.0f} are certified on each side they ask of, and 1-minimal"
  lost = np.concatenate([contrastive["lost_by"], both["lost_by"]])
  yield f"lost by {fixed(lost.min(), 2)} to {fixed(lost.max(), 2)}, and those that are both have"
  yield f"and those that are both have {fixed(both['alone'].min(), 3)} to {fixed(both['alone'].max(), 3)} alone"
  is_below = contrastive["alone"] < 0.1
  yield f"Alone, {is_below.sum()} of the {len(is_below)} contrastive ones give the class a probability below 0.1"


def find_paired(columns: dict[str, np.ndarray]) -> np.ndarray:
  """The wrong predictions, and of the right ones those that `benchmarks/contrastive.py` pairs with them."""
  odds = np.log(columns["whole"]) - np.log1p(-np.minimum(columns["whole"], 1 - 1e-7))
  is_paired = columns["is_right"] == 0
  for wrong in np.flatnonzero(is_paired):
    distance = np.where(is_paired, np.inf, abs(odds - odds[wrong]))
    is_paired[distance.argmin()] = True
  return is_paired


@traces("docs/contrastive.md")
def contrastive_of_pairs(page: str) -> Texts:
  found = read_contrastive()
  for question, columns in found.items():
    is_paired = find_paired(columns)
    sizes, is_right = columns["pixels"][is_paired], columns["is_right"][is_paired] == 1
    matched = match_by_confidence(sizes, is_right, columns["whole"][is_paired])
    holds = (columns["is_certified"] == 1) & ((question == "contrastive") | (columns["alone"] >= 0.9))
    holds &= (question == "sufficient") | (columns["lost_by"] >= 1)
    means = [f"{mean_of(sizes[is_right == side]):.1f}" for side in (False, True)]
    yield row(question, *means, f"{matched.difference:.1f}", f"{holds[is_paired].sum()} of {is_paired.sum()}")
  contrastive, both, sufficient = (found[question] for question in QUESTIONS)
  more, count = fixed((both["pixels"] - sufficient["pixels"]).mean(), 1), len(both["pixels"])
  yield f"Both sides cost {more} pixels more than the sufficient side alone (means over all {count})"
  lost, enough = (sufficient["lost_by"] >= 1).sum(), (contrastive["alone"] >= 0.9).sum()
  yield f"Of {count} sufficient subsets {lost} lose the class when they alone are masked, and {enough} contrastive"


@traces("docs/backgrounds.md")
def backgrounds_of_searches(page: str) -> Texts:
  found = {one["search"]: one for one in read_lines("backgrounds/h100.jsonl")}
  for name, search in BACKGROUND_SEARCHES.items():
    one = found[search]
    kept = [share(one["kept"][size]) for size in ("256", "384", "512")]
    yield row(name, fixed(one["size_90"]), share(one["share_with_a_size"]), *kept)
  for name, search in STABLE_SEARCHES.items():
    one = found[search]
    kept = [share(one["kept_with_10_more"][size]) for size in ("64", "96", "128", "192")]
    yield row(name, fixed(one["size_90_with_10_more"]), *kept)
  within = math.ceil(1000 * found["images, 8 a step"]["largest_expected_less_kept"]) / 1000
  yield f"within {within:g} of the rate on the unseen backgrounds"
  yield f"the order under `Reveal` needs {fixed(found['reveal 0.02, 8 a step']['size_90'])} pixels there"


@traces("docs/backgrounds.md")
def backgrounds_over_a_data_set(page: str) -> Texts:
  classes = {one["class"]: one for one in read_table("backgrounds/find-500.csv") if one["answer"] == "robust"}
  whole = classes.pop("")
  yield f"{whole['num_with_subset']} have a prefix that is certified"
  yield f"with a median of {fixed(float(whole['pixels_at_50_percent']))} pixels of 1,024"
  hard = [classes.pop(name) for name in ("dog", "ship")]
  all_of, some_of = (sum(int(one[f"num_{what}"]) for one in classes.values()) for what in ("images", "with_subset"))
  means = [float(one["mean_pixels"]) for one in classes.values()]
  yield f"Of {all_of} images that are called neither dog nor ship, {some_of} are certified, with"
  yield f"are certified, with {fixed(min(means))} to {fixed(max(means))} pixels in the mean of a class"
  counts = [(one["num_images"], one["num_with_subset"], fixed(float(one["mean_pixels"]))) for one in hard]
  yield "Of {} dogs {} are, with {} pixels in the mean".format(*counts[0])
  yield "of {} ships {}, with {}.".format(*counts[1])


@traces("docs/backgrounds.md")
def backgrounds_under_controls(page: str) -> Texts:
  controls = read_json("backgrounds/find-500-controls.json")["kinds"]["robust"]["controls"]
  keeps = {one["name"]: estimate_of(one["keeps_class"]) for one in controls}
  whole = {name: share(one.numbers[0]) for name, one in keeps.items()}
  yield f"Of {keeps['subset'].num_images} of these subsets, shown to the classifier in other ways"
  yield f"on other images of another class {whole['fill_other']} keep their class, on black {whole['fill_black']}"
  yield f"blurred {whole['fill_blur']}, but in noise {percent(keeps['fill_noise'])}"
  yield f"with the rest imputed {percent(keeps['fill_linear'])}"
  yield f"Their white shape alone keeps it on {percent(keeps['shape_white'])}"
  yield f"moved elsewhere on {percent(keeps['moved_white'])}, as many pixels at random on {percent(keeps['random'])}"


@traces("docs/backgrounds.md")
def backgrounds_beside_attributions(page: str) -> Texts:
  rows = read_table("backgrounds/holds-64.csv")

  def mean(order: str, condition: str, name: str) -> Estimate:
    some = [float(one[name]) for one in rows if (one["order"], one["condition"]) == (order, condition)]
    return mean_of(np.array(some))

  for order in dict.fromkeys(one["order"] for one in rows):
    sizes = [f"{mean(order, condition, 'size'):.0f}" for condition in ("images", "noise", "blur", "added")]
    yield row(HELD_ORDERS.get(order, order), *sizes)
  kept = percent(mean("gradient, other images", "images", "kept_384"))
  yield f"At 384 pixels the order found under images keeps the class on {kept} of unseen ones"
