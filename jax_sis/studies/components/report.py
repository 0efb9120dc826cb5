"""What `jax-sis components` found, in words, a table and a CSV file."""

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from jax_sis.results.answer import encode_csv
from jax_sis.runtime.records import read_record
from jax_sis.statistics.estimates import DASH, Estimate, show_percent

WIDTH = 120
# Of a class, the components that the table has: those of the largest share.
NUM_IN_TABLE = 2
LINE_FORMAT = "{:<22} {:>7} {:>17} {:>12} {:>7} {:>10} {:>18} {:>13} {:>13}"
HEADER = (
  "component",
  "share",
  "raised alone",
  "others called",
  "AUC",
  "its pixels",
  "they alone: class",
  "in white",
  "moved",
)
NOTES = (
  "Components are numbered by the variance of the weighted features. Share: of the variance of the class's logit "
  "over its images, in %. Raised alone: other images that are called the class where this component alone is raised "
  "to the value that one in a hundred of the class's images exceeds, in %, with a 95 % interval. Others called: of "
  "the 75 images of other classes in which it is largest, those called the class. AUC: how well the class's "
  "log-odds tell its images from these 75 (spurious score); 0.5 is not at all. Its pixels: how few raise it to the "
  "value that a tenth of the class's images exceed, everything else masked, over images of the class and others. "
  "They alone: of these, called the class; likewise, as controls, white ones in the same places, and those "
  "elsewhere."
)


def estimate(content: Mapping[str, Any]) -> Estimate:
  """An estimate as `components.json` holds it."""
  return read_record(Estimate, content)


def count(content: Mapping[str, Any]) -> str:
  """`5 of 8`."""
  return f"{content['count']} of {content['num_images']}"


def name_of(component: Mapping[str, Any]) -> str:
  return f"{component['of_class']} #{component['number']}"


def find_evidence(answer: Mapping[str, Any], component: Mapping[str, Any]) -> Mapping[str, Any] | None:
  """What is known of the pixels of a component; None where none were looked for, or found."""
  evidence = answer["evidence"].get(name_of(component))
  return evidence if evidence and evidence["smallest"] is not None else None


def sizes_of(evidence: Mapping[str, Any]) -> str:
  return f"{evidence['smallest']} to {evidence['largest']}"


def make_line(component: Mapping[str, Any], evidence: Mapping[str, Any] | None) -> tuple[str, ...]:
  """The cells of a component, below HEADER."""
  views = [count(evidence["is_class"][view]) if evidence else DASH for view in ("alone", "white", "moved")]
  area = component["score"]["area"]
  return (
    name_of(component),
    f"{100 * component['share']:.1f}",
    show_percent(estimate(component["raised"])),
    count(component["called"]),
    DASH if area is None else f"{area:.3f}",
    sizes_of(evidence) if evidence else DASH,
    *views,
  )


def make_lines(answer: Mapping[str, Any]) -> list[tuple[str, ...]]:
  """The components of the largest share of each class."""
  lines = []
  for one in answer["classes"]:
    largest = sorted(one["components"], key=lambda component: -component["share"])[:NUM_IN_TABLE]
    lines += [make_line(component, find_evidence(answer, component)) for component in largest]
  return lines


def describe_reading(answer: Mapping[str, Any]) -> str:
  """How much one component carries, and which one alone turns most images into its class."""
  firsts = [max(component["share"] for component in one["components"]) for one in answer["classes"]]
  every = [component for one in answer["classes"] for component in one["components"]]
  strongest = max(every, key=lambda component: component["raised"]["share"] or 0)
  error = max(one["identity_error"] for one in answer["classes"])
  sentences = [
    f"The largest component of a class carries {100 * min(firsts):.0f} to {100 * max(firsts):.0f} % of its logit's "
    f"variance. {name_of(strongest)} alone, raised, turns {estimate(strongest['raised']):.1%} of other images into "
    f"its class. The components sum to the logits, to {error:.1g}."
  ]
  return " ".join(sentences)


def describe_fix(answer: Mapping[str, Any]) -> str:
  """What taking the marked components away does, or how to mark them."""
  fix = answer["fix"]
  if fix is None:
    return (
      "No component is marked spurious. Look at components.html, set is_spurious to true in the file of labels where a "
      "component is not the object, and give the same command again: it writes the classifier without these."
    )
  each = [
    f"of the 75 images of other classes with most of {name}, {count(one['called'])} were called its class, and "
    f"{count(one['called_by_fixed'])} are without it"
    for name, one in fix["holders"].items()
  ]
  return (
    f"Without {', '.join(fix['removed'])}: {'; '.join(each)}. Accuracy: "
    f"{estimate(fix['accuracy']):.2%}, fixed {estimate(fix['fixed_accuracy']):.2%}. The fixed classifier is "
    f"{answer['files'][-1]} in the folder, for --checkpoint of any command."
  )


def describe(answer: Mapping[str, Any]) -> str:
  """All that stands on the screen."""
  lines = [*answer["source_notes"]]
  lines.append(f"Components of {answer['subject']}: {answer['num_images']} images, {answer['num_features']} features.")
  if answer["judged_name"]:
    lines.append(f"All else is judged on {answer['num_judged']} images of {answer['judged_name']}.")
  lines += [f"Left out: {name} ({reason})." for name, reason in answer["left_out"].items()]
  table = "\n".join(LINE_FORMAT.format(*line) for line in (HEADER, *make_lines(answer)))
  texts = (textwrap.fill(text, WIDTH) for text in (describe_reading(answer), describe_fix(answer), NOTES))
  return "\n".join([*lines, "", table, "", *texts])


def make_csv(answer: Mapping[str, Any]) -> bytes:
  """A line a component."""
  return encode_csv(make_rows(answer))


def make_rows(answer: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
  for component in (component for one in answer["classes"] for component in one["components"]):
    evidence = find_evidence(answer, component)
    yield {
      "class": component["of_class"],
      "component": component["number"],
      "share": component["share"],
      "raised": component["raised"]["share"],
      "others_called": component["called"]["share"],
      "area": component["score"]["area"],
      "average_precision": component["score"]["precision"],
      "pixels": evidence["size"]["mean"] if evidence else None,
      **{
        f"class_{view}": evidence["is_class"][view]["share"] if evidence else None
        for view in ("alone", "white", "moved", "nothing")
      },
      "class_on_unseen": evidence["unseen_is_class"]["mean"] if evidence else None,
      "own": " ".join(image["id"] for image in component["own"]),
      "others": " ".join(image["id"] for image in component["others"]),
    }
