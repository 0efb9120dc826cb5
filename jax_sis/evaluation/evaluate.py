"""`jax-sis evaluate`: accuracy, likelihood and calibration of a classifier, and what corruptions do to them."""

import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from jax_sis import results
from jax_sis.data import corruptions
from jax_sis.evaluation import predictions, report
from jax_sis.evaluation.config import EvaluateConfig
from jax_sis.evaluation.setup import (
  Batch,
  Evaluation,
  check_records,
  describe_corruptions,
  make_spec,
  open_evaluation,
  read_batches,
)
from jax_sis.results import pixel_subsets
from jax_sis.runtime.device_program import DeviceProgram
from jax_sis.runtime.progress import Progress


def evaluate(config: EvaluateConfig) -> pathlib.Path:
  """Runs or resumes an evaluation; prints a line a condition and the table, writes metrics, predictions and figures.

  Returns:
    The folder of the results.

  Raises:
    ValueError: a setting is wrong or does not fit the checkpoint or the data, the subset is not one of these images, an
      image has no label or a wrong one, or the batch does not fit the memory.
  """
  out_dir = pathlib.Path(config.out)
  results.check_writable(results.open_folder(out_dir))
  evaluation = open_evaluation(config)
  spec = results.settle_spec(out_dir, make_spec(evaluation), command_fn=config.command_in)
  rows = report.read_conditions(out_dir)
  print("\n".join([headline(evaluation), *evaluation.source.notes]), flush=True)
  if rows:
    print(f"{len(rows)} of {len(evaluation.conditions)} conditions are done already in {out_dir}.", flush=True)
  report.print_header(config.level)
  for row in rows:
    report.print_condition(row)
  if len(rows) < len(evaluation.conditions):
    rows += evaluate_conditions(evaluation, out_dir, rows)
  rows.sort(key=lambda row: evaluation.conditions.index(row.condition))
  print_outcome(evaluation, rows)
  report.write_report(
    out_dir,
    rows,
    spec=spec,
    corruptions=describe_corruptions(evaluation),
    subject=f"{evaluation.classifier.model_name} on {evaluation.subject}",
    what=evaluation.corruptions_title,
  )
  return out_dir


def evaluate_conditions(
  evaluation: Evaluation, out_dir: pathlib.Path, done: list[report.ConditionMetrics]
) -> list[report.ConditionMetrics]:
  """Evaluates the conditions that are not done yet; writes and prints each as soon as it is."""
  conditions_done = {row.condition for row in done}
  total = sum(evaluation.num_images(condition) for condition in evaluation.conditions)
  start = sum(evaluation.num_images(condition) for condition in conditions_done)
  rows: list[report.ConditionMetrics] = []
  memory: list[Batch] = []
  with Progress("compiling", total=total, start=start, unit="image") as progress:
    program = evaluation.make_program(evaluation.predict_fn)
    evaluation.check_classifier()
    shown_type = np.uint8 if evaluation.masks is None else np.float32
    program.compile(jax.ShapeDtypeStruct((1, *evaluation.classifier.input_shape), shown_type))
    progress.restart("evaluating")
    for condition in evaluation.conditions:
      if condition not in conditions_done:
        row = evaluate_condition(evaluation, program, condition, memory, progress)
        report.append_condition(out_dir, row)
        report.print_condition(row)
        rows.append(row)
  return rows


class RecordsRead(NamedTuple):
  """What is remembered of a batch while the devices classify it: ids, labels, and which images could be read."""

  ids: list[str]
  labels: Int[np.ndarray, "B"]
  is_read: Bool[np.ndarray, "B"]


def evaluate_condition(
  evaluation: Evaluation,
  program: DeviceProgram,
  condition: tuple[str, int],
  memory: list[Batch],
  progress: Progress,
) -> report.ConditionMetrics:
  """Classifies all images of a condition and measures.

  Raises:
    ValueError: an image has no label, a wrong one or logits that are not finite, or none can be read.
  """
  logits, labels, ids, skipped = [], [], [], {}
  # The host reads and corrupts one batch while the devices work on the one before.
  for records, found in program.run_all(prepare_batches(evaluation, condition, memory, skipped)):
    check_finite(found, records)
    logits.append(np.asarray(found, np.float32)[records.is_read])
    labels.append(records.labels[records.is_read])
    ids += [name for name, is_read in zip(records.ids, records.is_read, strict=True) if is_read]
    progress.advance(len(records.ids))
  if not ids:
    raise ValueError(
      f"--data must hold at least one image that can be read. {report.describe_skipped(skipped, len(skipped))}"
    )
  all_logits, all_labels = np.concatenate(logits), np.concatenate(labels)
  predicted = predictions.make_predictions(ids, all_logits, all_labels)
  # Before the row, which marks the condition as done.
  predictions.write(pathlib.Path(evaluation.config.out), condition, predicted)
  return report.measure_condition(
    condition,
    all_logits,
    all_labels,
    class_names=evaluation.class_names,
    skipped=skipped,
    num_bins=evaluation.config.num_bins,
    level=evaluation.config.level,
  )


def prepare_batches(
  evaluation: Evaluation, condition: tuple[str, int], memory: list[Batch], skipped: dict[str, str]
) -> Iterator[tuple[RecordsRead, tuple[np.ndarray]]]:
  """What to remember of each batch, and its images as they are shown; adds to `skipped` what is unreadable."""
  for batch in read_batches(evaluation, condition, memory):
    is_read = check_records(evaluation, batch)
    ids = [str(name) for name in batch["id"]]
    skipped |= {ids[place]: str(batch["error"][place]) for place in np.flatnonzero(~is_read)}
    yield RecordsRead(ids, batch["label"], is_read), (evaluation.show(batch),)


def check_finite(logits: Float[np.ndarray, "B K"], records: RecordsRead) -> None:
  """Raises ValueError where the logits of an image that could be read are not finite."""
  is_finite = np.isfinite(logits).all(1) | ~records.is_read
  if not is_finite.all():
    raise ValueError(
      f"the checkpoint's logits must be finite, but those of image {records.ids[int(np.argmin(is_finite))]!r} are not."
    )


def headline(evaluation: Evaluation) -> str:
  """What the evaluation is about to do, and which corruptions are not part of it."""
  line = f"Evaluation of {evaluation.classifier.model_name} on {evaluation.subject}, {evaluation.devices_name}."
  if evaluation.masks is not None:
    line += f"\nShown of each image: {pixel_subsets.describe_subset(evaluation.masks.description)}."
  described = describe_corruptions(evaluation)
  if described is None:
    return line
  counts = f"{len(described['included'])} of {len(corruptions.ALL_CORRUPTIONS)}"
  left_out = ", ".join(f"{name} ({reason})" for name, reason in described["left_out"].items())
  return f"{line}\n{evaluation.corruptions_title}: {counts}{f', without {left_out}' if left_out else ''}."


def print_outcome(evaluation: Evaluation, rows: list[report.ConditionMetrics]) -> None:
  """Prints what is known at the end: images left out, weak classes, and the table of corruptions."""
  clean = rows[0]
  if clean.skipped:
    print(report.describe_skipped(clean.skipped, evaluation.num_images(clean.condition)))
  print(report.describe_classes(clean))
  if len(rows) > 1:
    title = f"{evaluation.corruptions_title}: accuracy in % by severity, {rows[-1].num_examples:,} images each"
    report.print_table(rows[1:], f"{title} (clean: {100 * clean.accuracy:.2f})")
