"""The report of an evaluation: a line a condition, on disk and on the screen, tables, CSV and JSON.

A condition is the data as it is (`clean`, severity 0), or one corruption of it at one severity.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from rich.console import Console
from rich.table import Table

from jax_sis.data.corruptions import ALL_CORRUPTIONS, EXTRA_CORRUPTIONS, FAMILIES, MAIN_CORRUPTIONS, NUM_SEVERITIES
from jax_sis.evaluation import figures, metrics
from jax_sis.results.answer import encode_csv, write_answer
from jax_sis.results.folder import open_folder
from jax_sis.runtime.records import append_record, read_records
from jax_sis.statistics.estimates import Estimate, share_of

CLEAN = "clean"
FORMAT = "jax_sis.evaluation/2"
CONDITIONS_FILE = "conditions.jsonl"
SEVERITIES = range(1, NUM_SEVERITIES + 1)
LINE_FORMAT = "{:<18} {:>8} {:>7} {:>24} {:>8} {:>7}"
MAX_NAMED = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConditionMetrics:
  """What was measured under one condition.

  Attributes:
    corruption: `clean`, or a corruption's name.
    severity: 0 for clean, else 1..5.
    num_examples: images that were classified.
    num_correct: of those, rightly.
    accuracy: their share.
    accuracy_low: the lower end of its interval.
    accuracy_high: the upper end.
    negative_log_likelihood: mean, in nats.
    expected_calibration_error: see `metrics.calibration`.
    bin_confidence: for each bin of confidence the mean; None in an empty one.
    bin_accuracy: the share of right predictions; None in an empty one.
    bin_count: predictions.
    class_accuracy: for each class that has images, the share of them that was classified rightly.
    class_count: for each class, its images.
    skipped: id and reason of each image that could not be read.
  """

  corruption: str
  severity: int
  num_examples: int
  num_correct: int
  accuracy: float
  accuracy_low: float
  accuracy_high: float
  negative_log_likelihood: float
  expected_calibration_error: float
  bin_confidence: list[float | None]
  bin_accuracy: list[float | None]
  bin_count: list[int]
  class_accuracy: dict[str, float]
  class_count: dict[str, int]
  skipped: dict[str, str]

  @property
  def condition(self) -> tuple[str, int]:
    return self.corruption, self.severity


CSV_COLUMNS = tuple(field.name for field in dataclasses.fields(ConditionMetrics))[:9]


def measure_condition(
  condition: tuple[str, int],
  logits: Float[np.ndarray, "N K"],
  labels: Int[np.ndarray, "N"],
  *,
  class_names: tuple[str, ...],
  skipped: Mapping[str, str],
  num_bins: int,
  level: float,
) -> ConditionMetrics:
  """Measures one condition from the logits of its images."""
  is_correct = logits.argmax(1) == labels
  accuracy, low, high = share_of(is_correct, level=level).numbers
  calibration = metrics.calibration(logits, labels, num_bins)
  class_count = np.bincount(labels, minlength=len(class_names))
  class_correct = np.bincount(labels, is_correct, len(class_names))
  return ConditionMetrics(
    corruption=condition[0],
    severity=condition[1],
    num_examples=len(labels),
    num_correct=int(is_correct.sum()),
    accuracy=accuracy,
    accuracy_low=low,
    accuracy_high=high,
    negative_log_likelihood=metrics.negative_log_likelihood(logits, labels),
    expected_calibration_error=calibration.expected_calibration_error,
    bin_confidence=none_for_nan(calibration.confidence),
    bin_accuracy=none_for_nan(calibration.accuracy),
    bin_count=calibration.count.tolist(),
    class_accuracy={
      name: float(right / count)
      for name, right, count in zip(class_names, class_correct, class_count, strict=True)
      if count
    },
    class_count=dict(zip(class_names, class_count.tolist(), strict=True)),
    skipped=dict(skipped),
  )


def none_for_nan(values: Float[np.ndarray, "M"]) -> list[float | None]:
  """A list that JSON can hold."""
  return [None if np.isnan(value) else float(value) for value in values]


def append_condition(directory: pathlib.Path, row: ConditionMetrics) -> None:
  append_record(directory / CONDITIONS_FILE, dataclasses.asdict(row))


def read_conditions(directory: pathlib.Path) -> list[ConditionMetrics]:
  """The finished conditions. A last line that was cut off by a kill is removed from the file.

  Raises:
    ValueError: the file is damaged elsewhere.
  """
  path = directory / CONDITIONS_FILE
  try:
    return [ConditionMetrics(**record) for record in read_records(path)]
  except TypeError as error:
    raise ValueError(f"{str(path)!r} is damaged ({error}); remove it to evaluate again.") from error


def print_header(level: float) -> None:
  print(LINE_FORMAT.format("corruption", "severity", "images", f"accuracy [{100 * level:g} %]", "NLL", "ECE"))


def print_condition(row: ConditionMetrics) -> None:
  share = Estimate(value=row.accuracy, low=row.accuracy_low, high=row.accuracy_high, num_images=row.num_examples)
  accuracy = f"{share:.4f}"
  likelihood, error = f"{row.negative_log_likelihood:.4f}", f"{row.expected_calibration_error:.4f}"
  severity = str(row.severity) if row.corruption != CLEAN else "-"
  print(LINE_FORMAT.format(row.corruption, severity, row.num_examples, accuracy, likelihood, error), flush=True)


def describe_skipped(skipped: Mapping[str, str], num_images: int) -> str:
  """How many images were left out, and the first of them by name."""
  named = "; ".join(f"{image}: {reason}" for image, reason in list(skipped.items())[:MAX_NAMED])
  more = f"; and {len(skipped) - MAX_NAMED} more" if len(skipped) > MAX_NAMED else ""
  return f"Skipped {len(skipped)} of {num_images} images, which cannot be read: {named}{more}."


def describe_classes(row: ConditionMetrics) -> str:
  lowest = sorted(row.class_accuracy.items(), key=lambda item: item[1])[:MAX_NAMED]
  shares = ", ".join(f"{name} {accuracy:.4f}" for name, accuracy in lowest)
  return f"Least accurate classes of {len(row.class_accuracy)}: {shares}."


def corruptions_of(rows: Iterable[ConditionMetrics]) -> tuple[str, ...]:
  """The corruptions of these rows, in the benchmark's order."""
  present = {row.corruption for row in rows}
  return tuple(name for name in ALL_CORRUPTIONS if name in present)


def mean_over(rows: Iterable[ConditionMetrics], name: str) -> float:
  return float(np.mean([getattr(row, name) for row in rows]))


def main_conditions(rows: Iterable[ConditionMetrics]) -> list[ConditionMetrics]:
  """The rows that the benchmark's mean is over: those of its fifteen corruptions."""
  return [row for row in rows if row.corruption in MAIN_CORRUPTIONS]


def print_table(rows: list[ConditionMetrics], title: str) -> None:
  """Accuracies in per cent: a line a corruption, a column a severity, means last."""
  table = Table(title=title, title_justify="left", caption_justify="left")
  table.add_column("corruption")
  for severity in SEVERITIES:
    table.add_column(str(severity), justify="right")
  table.add_column("mean", justify="right")
  groups = [*FAMILIES.values(), EXTRA_CORRUPTIONS]
  for group in groups:
    if group is EXTRA_CORRUPTIONS:
      main = main_conditions(rows)
      if main:
        table.add_row(f"mean of {len(corruptions_of(main))}", *accuracy_cells(main), style="bold")
        table.add_section()
    for name in group:
      of_name = [row for row in rows if row.corruption == name]
      if of_name:
        table.add_row(name, *accuracy_cells(of_name))
    table.add_section()
  Console(file=sys.stdout, highlight=False).print(table)


def accuracy_cells(rows: list[ConditionMetrics]) -> list[str]:
  """The mean accuracy at each severity, and over all, in per cent."""
  by_severity = [[row for row in rows if row.severity == severity] for severity in SEVERITIES]
  return [f"{100 * mean_over(group, 'accuracy'):.2f}" for group in [*by_severity, rows]]


def pool_calibration(rows: list[ConditionMetrics]) -> metrics.Calibration:
  """The calibration of several conditions as if they were one."""
  count = np.array([row.bin_count for row in rows])
  confidence, accuracy = (
    np.array([getattr(row, name) for row in rows], np.float64) for name in ("bin_confidence", "bin_accuracy")
  )
  edges = np.linspace(0.0, 1.0, count.shape[1] + 1)
  return metrics.make_calibration(edges, np.nansum(confidence * count, 0), np.nansum(accuracy * count, 0), count.sum(0))


def summarise(rows: list[ConditionMetrics]) -> dict[str, Any]:
  """Means over the corruptions, in JSON types; empty without corruptions."""
  main = main_conditions(rows)
  if not main:
    return {}
  names = ("accuracy", "negative_log_likelihood", "expected_calibration_error")
  return {
    "mean_over": list(corruptions_of(main)),
    **{name: mean_over(main, name) for name in names},
    "by_severity": {
      str(severity): {name: mean_over([row for row in main if row.severity == severity], name) for name in names}
      for severity in SEVERITIES
    },
    "by_corruption": {
      corruption: {name: mean_over([row for row in rows if row.corruption == corruption], name) for name in names}
      for corruption in corruptions_of(rows)
    },
  }


def write_report(
  directory: pathlib.Path,
  rows: list[ConditionMetrics],
  *,
  spec: Mapping[str, Any],
  corruptions: Mapping[str, Any] | None,
  subject: str,
  what: str,
) -> None:
  """Writes metrics.json, metrics.csv and the pictures of all conditions, clean first.

  `subject` names the classifier and the data, and `what` the corruptions; `corruptions` describes these in JSON types.
  """
  content = {
    "spec": spec,
    "clean": dataclasses.asdict(rows[0]),
    "corruptions": None if corruptions is None else {**corruptions, **summarise(rows)},
    "conditions": [dataclasses.asdict(row) for row in rows],
  }
  table = encode_csv({name: getattr(row, name) for name in CSV_COLUMNS} for row in rows)
  files = {"metrics.csv": table, **draw(rows, subject=subject, what=what)}
  write_answer(open_folder(directory), "metrics.json", content, files, beside=["predictions"])


def draw(rows: list[ConditionMetrics], *, subject: str, what: str) -> dict[str, bytes]:
  """The reliability diagrams and, with corruptions, the accuracies under them, by the names of their files."""
  clean, corrupted = rows[0], rows[1:]
  main = main_conditions(corrupted)
  panels = [make_panel(CLEAN, [clean])]
  if main:
    panels += [
      make_panel(f"severity {severity}", [row for row in main if row.severity == severity]) for severity in SEVERITIES
    ]
  pooled = f"{what}: {len(corruptions_of(main))} of the benchmark's {len(MAIN_CORRUPTIONS)}, pooled."
  pictures = {
    "calibration.png": figures.draw_reliability(panels, title=f"Calibration of {subject}", note=pooled if main else "")
  }
  if corrupted:
    left_out = [name for name in ALL_CORRUPTIONS if name not in corruptions_of(corrupted)]
    pictures["corruptions.png"] = figures.draw_accuracies(
      {row.condition: row.accuracy for row in rows},
      groups={**FAMILIES, "extra": EXTRA_CORRUPTIONS},
      title=f"Accuracy of {subject}, in %",
      note=what + (f", without {', '.join(left_out)}" if left_out else "") + ".",
    )
  return pictures


def make_panel(title: str, rows: list[ConditionMetrics]) -> figures.ReliabilityPanel:
  return figures.ReliabilityPanel(
    title=title,
    calibration=pool_calibration(rows),
    accuracy=mean_over(rows, "accuracy"),
    is_pooled=len(rows) > 1,
  )
