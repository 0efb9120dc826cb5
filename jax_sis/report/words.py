"""How reports say numbers, in plain words and with their intervals."""

from jax_sis.report.inputs import Inputs
from jax_sis.results.schema import QUESTION_KINDS
from jax_sis.statistics.estimates import Estimate
from jax_sis.studies.analysis.run import MOST_NEEDED, RunAnalysis
from jax_sis.studies.analysis.sizes import PREDICTED, Sizes

KIND_NAMES = {
  "sis": "sufficient input subsets (SIS)",
  "smallest": "smallest subsets found",
  "robust": "robust subsets",
  "contrastive": "contrastive subsets",
  "both": "sufficient and contrastive subsets",
  "optimum": "smallest subsets that there are",
}
ONE_OF_KIND = {
  "sis": "a sufficient input subset (SIS)",
  "smallest": "a smallest sufficient subset",
  "robust": "a robust subset",
  "contrastive": "a contrastive subset",
  "both": "a subset that is sufficient and contrastive",
  "optimum": "a subset, the smallest that there is,",
}
STATUS_WORDS = {
  "ok": "with a subset",
  "below_threshold": "the whole image is below the threshold",
  "not_reached": "the search stopped before the threshold",
  "baseline_sufficient": "the fill alone is enough",
  "non_finite": "a number is not finite",
  "not_searched": "could not be searched",
}


def tell_count(number: int, noun: str = "") -> str:
  """`10,000 images`; of one thing without the s."""
  return f"{number:,}" + (f" {noun}{'' if number == 1 else 's'}" if noun else "")


def tell_median(sizes: Sizes) -> str:
  """`208 [200, 216]`."""
  low, high = sizes.median_interval or (None, None)
  return f"{Estimate(value=sizes.median, low=low, high=high, num_images=sizes.pixels.num_images):g}"


def name_unit(inputs: Inputs) -> str:
  patch = inputs.settings.patch if inputs.settings is not None else None
  if patch is None:
    return "features"
  if inputs.spec.get("features"):
    return "features"
  return "pixels" if patch == 1 else f"squares of {patch} x {patch} pixels"


def name_target(inputs: Inputs) -> str:
  target = inputs.spec["target"]
  names = {PREDICTED: "the class that it predicts", "label": "the true class", "random": "a class drawn at random"}
  return names.get(target, f"the class {target}")


def tell_claim(inputs: Inputs, answer: str) -> str:
  """What is said of the features of a subset of this kind."""
  model = inputs.spec["model"]["name"]
  if answer == "robust":
    return f"keep {model} at {name_target(inputs)} on {inputs.spec['completion']['rate']:.0%} of unseen draws"
  if answer in QUESTION_KINDS:
    alone = f", and alone make it at least {inputs.spec['threshold']:g} confident" if answer == "both" else ""
    return f"take {name_target(inputs)} away from {model} when they alone are masked{alone}"
  return f"alone make {model} at least {inputs.spec['threshold']:g} confident in {name_target(inputs)}"


def name_data(inputs: Inputs) -> str:
  data = inputs.spec["data"]
  return " ".join(str(data[name]) for name in ("data", "split") if name in data)


def name_what(what: str, analysis: RunAnalysis, *, unit: str) -> str:
  if what == MOST_NEEDED:
    return f"the {100 * analysis.fraction:.3g}% of the {unit} that are needed most"
  return KIND_NAMES[what]


def find_left_out(analysis: RunAnalysis, beginning: str) -> list[str]:
  """What the analysis left out for reasons that begin like this."""
  return [text for text in analysis.left_out if text.startswith(beginning)]


def capitalise(text: str) -> str:
  return text[:1].upper() + text[1:]
