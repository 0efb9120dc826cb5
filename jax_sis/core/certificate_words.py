"""What a certificate says of one image, in a few words."""

from jax_sis.core.questions import QuestionName
from jax_sis.core.subsets import Status

# What a subset is called that answers its question.
ANSWERED: dict[str, str] = {
  "sufficient": "sufficient",
  "contrastive": "contrastive",
  "both": "sufficient and contrastive",
}
REASONS = {
  Status.BELOW_THRESHOLD: "none: full image below threshold",
  Status.NOT_REACHED: "none: search stopped before threshold",
  Status.BASELINE_SUFFICIENT: "none needed: masked image passes",
  Status.NON_FINITE: "none: NaN or inf in image or model",
}
OF_CONTRASTIVE = {
  Status.BELOW_THRESHOLD: "none: full image has another class",
  Status.NOT_REACHED: "none: search stopped before the class was lost",
}


def describe_certificate(
  *,
  status: Status,
  keeps_class: bool,
  is_reproduced: bool,
  is_sufficient: bool,
  is_minimal: bool,
  is_smallest: bool,
  has_smaller: bool,
  num_droppable: int,
  num_pairs_tried: int = 0,
  question: QuestionName = "sufficient",
) -> str:
  """One image's certificate in a few words; arguments as in Certificate, `is_sufficient` its `answers`."""
  alone = describe_alone(
    status=status,
    keeps_class=keeps_class,
    is_reproduced=is_reproduced,
    is_sufficient=is_sufficient,
    question=question,
  )
  if alone != ANSWERED[question]:
    return alone
  if is_smallest:
    size = "no smaller exists"
  elif has_smaller:
    size = "a smaller exists"
  else:
    size = "1-minimal" if is_minimal else f"{num_droppable} droppable"
  pairs = f", {num_pairs_tried} pairs tried" if num_pairs_tried else ""
  return f"{ANSWERED[question]}, {size}{pairs}"


def describe_alone(
  *,
  status: Status,
  keeps_class: bool,
  is_reproduced: bool,
  is_sufficient: bool,
  question: QuestionName = "sufficient",
) -> str:
  """What one evaluation of a subset says of it, in a few words; arguments as for `describe_certificate`."""
  if status != Status.OK:
    return explain_status(status, question)
  if not is_reproduced:
    return "FAILED: confidence not reproduced"
  if is_sufficient:
    return ANSWERED[question]
  kept = f", class {'kept' if keeps_class else 'lost'}" if question == "sufficient" else ""
  return f"not {ANSWERED[question]}{kept}"


def explain_status(status: Status, question: QuestionName = "sufficient") -> str:
  """Why an image has no subset that answers the question."""
  return (REASONS | OF_CONTRASTIVE if question == "contrastive" else REASONS)[status]
