"""`jax-sis evaluate`: accuracy, likelihood and calibration of a classifier, and what corruptions do to them."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

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
from jax_sis.runtime.engines import LOCAL, Engine, open_workers
from jax_sis.runtime.progress import Progress


def evaluate(config: EvaluateConfig, engine: Engine = LOCAL) -> pathlib.Path:
  """Runs or resumes an evaluation; prints a line a condition and the table, writes metrics, predictions and figures.

  Args:
    config: what to evaluate, see EvaluateConfig.
    engine: where; a condition is the work of one host.

  Returns:
    The folder of the results.

  Raises:
    ValueError: a setting is wrong or does not fit the checkpoint or the data, the subset is not one of these images, an
      image has no label or a wrong one, or the batch does not fit the memory.
  """
  out_dir = pathlib.Path(config.out)
  folder = results.open_folder(out_dir)
  results.check_writable(folder)
  make_fn = functools.partial(Evaluator, config)
  claim = results.claim(folder, "evaluate")
  with open_workers(engine, make_fn, claim=claim, num_devices=config.num_devices) as workers:
    about: About = workers.about
    spec = results.settle_spec(out_dir, about.spec, command_fn=config.command_in)
    rows = report.read_conditions(out_dir)
    print("\n".join([about.headline, *about.notes]), flush=True)
    conditions = tuple(about.num_images)
    if rows:
      print(f"{len(rows)} of {len(conditions)} conditions are done already in {out_dir}.", flush=True)
    report.print_header(config.level)
    for row in rows:
      report.print_condition(row)
    done = {row.condition for row in rows}
    missing = [number for number, condition in enumerate(conditions) if condition not in done]
    total, start = sum(about.num_images.values()), sum(about.num_images[condition] for condition in done)
    with Progress("compiling", total=total, start=start, unit="image") as progress:
      for number, (row, predicted) in workers.run(missing, progress, "evaluating"):
        # Before the row, which marks the condition as done.
        predictions.write(out_dir, conditions[number], predicted)
        report.append_condition(out_dir, row)
        report.print_condition(row)
        rows.append(row)
  rows.sort(key=lambda row: conditions.index(row.condition))
  print_outcome(about, rows)
  report.write_report(out_dir, rows, spec=spec, corruptions=about.corruptions, subject=about.subject, what=about.title)
  return out_dir


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
  """What a worker says of itself.

  Attributes:
    spec: what fixes the results.
    num_first: conditions of its first task on a cluster.
    num_images: of each condition, clean first.
    corruptions: see `describe_corruptions`.
    headline: what is evaluated.
    notes: on the images.
    subject: the classifier and the data.
    title: what the corrupted images are.
  """

  spec: dict[str, Any]
  num_first: int = 1
  num_images: dict[tuple[str, int], int]
  corruptions: dict[str, Any] | None
  headline: str
  notes: tuple[str, ...]
  subject: str
  title: str


class Evaluator:
  """A worker, whose units are conditions; what it finds are their metrics and predictions."""

  def __init__(self, config: EvaluateConfig):
    self._evaluation = evaluation = open_evaluation(config)
    self._program = evaluation.make_program(evaluation.predict_fn)
    self._memory: list[Batch] = []
    self._is_ready = False
    self.about = About(
      spec=make_spec(evaluation),
      num_images={condition: evaluation.num_images(condition) for condition in evaluation.conditions},
      corruptions=describe_corruptions(evaluation),
      headline=headline(evaluation),
      notes=tuple(evaluation.source.notes),
      subject=f"{evaluation.classifier.model_name} on {evaluation.subject}",
      title=evaluation.corruptions_title,
    )

  def get_ready(self) -> None:
    """Tries the classifier, and compiles it."""
    if not self._is_ready:
      evaluation = self._evaluation
      evaluation.check_classifier()
      shown_type = np.uint8 if evaluation.masks is None else np.float32
      self._program.compile(jax.ShapeDtypeStruct((1, *evaluation.classifier.input_shape), shown_type))
      self._is_ready = True

  def __call__(
    self, units: Sequence[int], advance_fn: Callable[[int], Any]
  ) -> Iterator[tuple[int, tuple[report.ConditionMetrics, predictions.Predictions]]]:
    """Classifies all images of each condition, and measures.

    Raises:
      ValueError: an image has no label, a wrong one or logits that are not finite, or none can be read.
    """
    for unit in units:
      yield unit, self._evaluate(self._evaluation.conditions[unit], advance_fn)

  def _evaluate(
    self, condition: tuple[str, int], advance_fn: Callable[[int], Any]
  ) -> tuple[report.ConditionMetrics, predictions.Predictions]:
    evaluation = self._evaluation
    logits, labels, ids, skipped = [], [], [], {}
    # The host reads and corrupts one batch while the devices work on the one before.
    batches = prepare_batches(evaluation, condition, self._memory, skipped)
    for records, found in self._program.run_all(batches):
      check_finite(found, records)
      logits.append(np.asarray(found, np.float32)[records.is_read])
      labels.append(records.labels[records.is_read])
      ids += [name for name, is_read in zip(records.ids, records.is_read, strict=True) if is_read]
      advance_fn(len(records.ids))
    if not ids:
      raise ValueError(
        f"--data must hold at least one image that can be read. {report.describe_skipped(skipped, len(skipped))}"
      )
    all_logits, all_labels = np.concatenate(logits), np.concatenate(labels)
    measured = report.measure_condition(
      condition,
      all_logits,
      all_labels,
      class_names=evaluation.class_names,
      skipped=skipped,
      num_bins=evaluation.config.num_bins,
      level=evaluation.config.level,
    )
    return measured, predictions.make_predictions(ids, all_logits, all_labels)


class RecordsRead(NamedTuple):
  """What is remembered of a batch while the devices classify it: ids, labels, and which images could be read."""

  ids: list[str]
  labels: Int[np.ndarray, "B"]
  is_read: Bool[np.ndarray, "B"]


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


def print_outcome(about: About, rows: list[report.ConditionMetrics]) -> None:
  """Prints what is known at the end: images left out, weak classes, and the table of corruptions."""
  clean = rows[0]
  if clean.skipped:
    print(report.describe_skipped(clean.skipped, about.num_images[clean.condition]))
  print(report.describe_classes(clean))
  if len(rows) > 1:
    title = f"{about.title}: accuracy in % by severity, {rows[-1].num_examples:,} images each"
    report.print_table(rows[1:], f"{title} (clean: {100 * clean.accuracy:.2f})")
