"""The paper's studies again, docs/results/study.json and docs/results/imagenet/study.json, and what others quote."""

import html
import re
from collections.abc import Iterator
from typing import Any

from page_numbers import INTERVAL, normalise
from traced import REPOSITORY, RESULTS, Texts, Trace, estimate_of, fixed, join, percent, read_json, row, share, traces

from jax_sis.statistics.estimates import Estimate

STUDIES = {"docs/results/README.md": "", "docs/results/imagenet/README.md": "imagenet/"}
Numbers = tuple[float, float, float]


def estimates_in(content: Any) -> Iterator[Estimate]:
  """All means and shares with an interval that JSON holds."""
  if isinstance(content, dict):
    if content.get("low") is not None and content.keys() & {"mean", "share"}:
      value, low, high = (content.get(name) for name in ("mean" if "mean" in content else "share", "low", "high"))
      yield Estimate(value=value, low=low, high=high, num_images=0)
    content = list(content.values())
  if isinstance(content, list):
    for one in content:
      yield from estimates_in(one)


def intervals_of(folder: str) -> list[Numbers]:
  """Every estimate of a study, also in per cent and the other way round, and those of its report as they stand."""
  found = estimates_in(read_json(f"{folder}study.json"))
  numbers = [one.scale(factor).numbers for one in found for factor in (1, -1, 100, -100)]
  report = re.sub(r"base64,[^\"]*|<[^>]+>", " ", (RESULTS / folder / "report.html").read_text())
  return numbers + [numbers_of(one) for one in INTERVAL.finditer(normalise(html.unescape(report)))]


def numbers_of(found: re.Match[str]) -> Numbers:
  value, low, high = (float(part.replace(",", "").replace("none", "0")) for part in found.groups())
  return value, low, high


def is_rounded(found: re.Match[str], numbers: Numbers) -> bool:
  """Whether an interval of a page is these numbers, rounded to as many places as it shows."""
  places = [len(part.partition(".")[2]) for part in found.groups()]
  differences = zip(numbers_of(found), numbers, places, strict=True)
  return all(abs(shown - number) <= 0.5 * 10**-count + 1e-9 for shown, number, count in differences)


def trace_intervals(folder: str) -> Trace:
  """Of a page the intervals that its study or the study's report has; three numbers do not agree by chance."""

  def intervals(page: str) -> Texts:
    known = intervals_of(folder)
    for found in INTERVAL.finditer(normalise(page)):
      if any(is_rounded(found, numbers) for numbers in known):
        yield found[0]

  return intervals


for page_of, folder_of in STUDIES.items():
  traces(page_of)(trace_intervals(folder_of))


@traces("docs/results/README.md")
def cifar10_study(page: str) -> Texts:
  study = read_json("study.json")
  minutes = round(study["seconds"] / 60)
  yield f"All {len(study['stages'])} stages, {minutes // 60} h {minutes % 60} min in sum"
  (outcome,) = study["outcomes"]
  verdicts = {one["claim"]: (f"{one['difference']['num_images']:,}", one["verdict"]) for one in outcome["claims"]}
  for name in ("Trained and tested on 5 %", "Shown 5 %", "At the same confidence", "A classifier trained and"):
    (verdict,) = (one for claim, one in verdicts.items() if claim.startswith(name))
    yield row(*verdict)
  for name in ("ensemble", "input dropout"):
    counts, found = zip(*(one for claim, one in verdicts.items() if name in claim), strict=True)
    yield row("; ".join(counts), "; ".join(found))
  seeds = [fixed(100 * accuracy, 2) for accuracy in outcome["seeds"]]
  yield f"from three seeds: {join(seeds[:2])} and {seeds[2]} %"
  by_needed, by_random = outcome["echoes"]
  yield f"Of its {by_needed['repeated']['num_images']:,} mistakes on whole images"
  yield f"repeats {share(by_random['repeated']['share'])} and puts {share(by_random['right']['share'])} right"
  accuracy = {(one["model"], one["shown"]): one["accuracy"]["share"] for one in outcome["cells"]}
  needed = "5 % that resnet20-full-0 needs most"
  yield f"So {share(accuracy['resnet20-subsets', needed], 1)} says how well"
  yield f"points below the first one itself ({share(accuracy['resnet20-full-0', needed], 1)})"
  leaks = {(one["run"], one["kind"]): one for one in outcome["leaks"]}
  yield f"in the mean of {leaks['resnet20-full-0-smallest', 'smallest']['num_subsets']} images"
  white = leaks["resnet20-orders-test", "most needed 5%"]["by_name"]["shape_white"]
  yield f"{share(white['share'])} for the gradient's, {white['num_images']} images"
  errors = [fixed(one["expected_calibration_error"], 3) for one in outcome["mitigations"]]
  yield row("expected calibration error (no interval)", *errors)


@traces("docs/results/README.md")
def cifar10_samples(page: str) -> Texts:
  (outcome,) = read_json("study.json")["outcomes"]
  sample, exact = outcome["samples"]["sample"], outcome["samples"]["exact"]
  sizes = {
    (threshold, one["label"]): one["pixels"]
    for threshold, some in ((0.99, sample), (0.9, exact))
    for one in some["comparison"]["sizes"]
    if one["threshold"] == threshold
  }
  for name in ("gradient, 16 a step", "gradient, one a step", "screened", "exact"):
    (needed,) = (one for one in exact["positions"][name] if one["what"] == "most_needed")
    pixels = ["" if one not in sizes else f"{estimate_of(sizes[one]):.0f}" for one in ((0.99, name), (0.9, name))]
    yield row(name, *pixels, percent(estimate_of(needed["border"]), ".1f"), needed["num_images"])
  means = [fixed(one["pixels"]["mean"]) for one in exact["comparison"]["sizes"] if one["threshold"] == 0.99]
  yield f"the means are {join(means[:-1])} and {means[-1]} pixels"
  (even,) = {one["even_border"] for some in sample["positions"].values() for one in some}
  yield f"outermost rows and columns, {share(even, 1)} of an image"
  overlap = next(one for one in sample["comparison"]["overlaps"] if one["second"] == "screened")
  yield f"by chance it would be {share(overlap['expected'], 1)}"


@traces("docs/concepts/what_it_proves.md")
def where_subsets_lie(page: str) -> Texts:
  (outcome,) = read_json("study.json")["outcomes"]
  positions = outcome["samples"]["exact"]["positions"]
  gradient, exact = (
    next(one for one in positions[name] if one["what"] == "most_needed") for name in ("gradient, 16 a step", "exact")
  )
  yield f"the gradient puts {share(gradient['border']['mean'])} into the outermost rows and columns"
  yield f"rows and columns ({gradient['num_images']} images), exact search {share(exact['border']['mean'])}"
  yield f"exact search {share(exact['border']['mean'])} ({exact['num_images']} images"


@traces("docs/results/imagenet/README.md")
def imagenet_study(page: str) -> Texts:
  outcomes = read_json("imagenet/study.json")["outcomes"]
  borders = [outcome["border"][0] for outcome in outcomes]
  parts = [{one["what"]: one["kept"] for one in outcome["parts"][:10]} for outcome in outcomes]

  def cells(contents: Iterator[Any] | list[Any], form: str = ".1f") -> list[str]:
    return [f"{estimate_of(one).percent:{form}}" for one in contents]

  yield row("images of 0.9 or more, all with a certified subset", *(one["num_confident"] for one in outcomes))
  yield row("mean size of the subset, % of the pixels", *cells([one["sizes"][0]["mean"] for one in outcomes]))
  yield row("of the 10 % needed most, in the outer 11 pixels, %", *cells([one["share"] for one in borders]))
  yield row("that ring's share of the area, %", *(fixed(100 * one["even"], 1) for one in borders))
  yield row("the same for squares of random order, %", *cells([one["squares"] for one in borders]))
  yield row("for a class at random, 32 of these images, %", *cells([one["random_class"] for one in borders]))
  yield row("predicted class minus that, paired, points", *cells([one["over_random_class"] for one in borders], "+.1f"))
  for name, what in {
    "class kept by the 10 % needed most, %": "needed",
    "by 10 % at random, %": "pixels",
    "by the border ring alone, %": "border",
    "by as many pixels at random, %": "many_pixels",
    "by a centre of the ring's area, %": "centre",
    "by all but the ring, %": "inside",
  }.items():
    yield row(name, *cells([one[what] for one in parts]))
  reached = [one["random_class"]["reached"] for one in outcomes]
  yield row("a class at random predicted on the 10 % found for it, %", *cells(reached))
  yield f"On {reached[0]['count']} of {reached[0]['num_images']} images these make"
  yield f"and on {reached[1]['count']} of {reached[1]['num_images']} SqueezeNet"
  shown = outcomes[0]["shown_to"][0]
  yield f"of {shown['same_class']['count']} images"
  yield f"the two choices share {share(shown['overlap']['mean'])} of their pixels"


# What the table calls settings of benchmarks.md, and to how many places it gives pixels and seconds.
FRONT = {
  "`smallest_subsets(...)`; `find --search smallest`": ("`Forward(candidates=64)`, exchanged: `jax-sis find`", 1, 1),
  "`effort=jax_sis.THOROUGH`; `--thorough`": ("`Forward()`, thorough: `jax-sis find --thorough`", 1, 1),
  "`backselect(search=Gradient(per_step=1))`": ("`Gradient()`", 0, 1),
  "`backselect(search=Screened())`": ("`Screened()`", 1, 0),
  "`backselect(search=Exact())`": ("`Exact()`", 1, 0),
}


@traces("docs/how_to/which_search.md")
def front_in_short(page: str) -> Texts:
  table = (REPOSITORY / "docs/results/benchmarks.md").read_text().partition("| setting | images | mean pixels |")[2]
  rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.partition("\n\n")[0].splitlines()[2:]]
  found = {name: cells for name, *cells in rows}
  for name, (setting, places, places_of_seconds) in FRONT.items():
    num_images, pixels, *_, seconds = found[setting]
    size = fixed(float(pixels), places) + f", first {num_images}" * (num_images != "64")
    yield row(name, size, fixed(float(seconds), places_of_seconds))[2:]
