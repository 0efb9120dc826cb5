"""`jax-sis evaluate`: accuracy, likelihood and calibration of a classifier, and what corruptions do to them."""

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jax_sis import results
from jax_sis.classifiers import Classifier, checkpoint, frozen
from jax_sis.core import validation
from jax_sis.core.messages import name_some
from jax_sis.core.types import Params, PredictFn
from jax_sis.core.validation import require_positive
from jax_sis.data import cifar_c, corruptions, sources
from jax_sis.data.batches import iterate_batches
from jax_sis.evaluation import predictions, report
from jax_sis.results import pixel_subsets
from jax_sis.results.folder import check_writable, open_folder
from jax_sis.results.pixel_subsets import PixelMasks
from jax_sis.results.query import PixelSubset
from jax_sis.runtime import devices
from jax_sis.runtime.progress import Progress
from jax_sis.runtime.provenance import library_versions

MADE = "made"
# Whose versions fix the last bits of the results.
LIBRARIES = ("jax", "numpy", "scipy", "pillow")
# Float32 throughout, also where accelerators would compute in fewer bits by default.
PRECISION = "highest"

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
  """One run of `jax-sis evaluate`: which classifier, which labelled images, which corruptions of them.

  Attributes:
    out: the folder for the results; the same folder again goes on with an unfinished run.
    checkpoint: a classifier's folder; None for the embedded one.
    data: `sample` (embedded CIFAR-10 test images), a folder with a folder of images for each class, or a TFDS name.
    split: the TFDS split.
    data_dir: the TFDS folder; None for TFDS's default.
    resize: bring image files to the classifier's size.
    limit: evaluate only that many first images of the data and of each corruption; None for all.
    on_error: what to do with images that cannot be read: `skip` counts and names them, `refuse` ends the run.
    corruptions: `made` corrupts the images of `data`, a folder is that of the published CIFAR-10-C; None for none.
    subset: show these pixels alone; of a corrupted image those of the same image before its corruption.
    seed: of the corruptions made here.
    num_bins: bins of confidence, for the calibration.
    level: of the intervals of accuracies.
    batch_size: images a device at a time.
    num_devices: how many local devices; None for all.
  """

  out: str
  checkpoint: str | None = None
  data: str = "sample"
  split: str = "test"
  data_dir: str | None = None
  resize: bool = False
  limit: int | None = None
  on_error: Literal["skip", "refuse"] = "skip"
  corruptions: str | None = None
  subset: PixelSubset | None = None
  seed: int = 0
  num_bins: int = 15
  level: float = 0.95
  batch_size: int = 64
  num_devices: int | None = None

  def __post_init__(self) -> None:
    if self.on_error not in ("skip", "refuse"):
      raise ValueError(f"--on-error must be 'skip' or 'refuse', got {self.on_error!r}.")
    validation.check_threshold(self.level, "--level")
    require_positive("--bins", self.num_bins)
    require_positive("--batch", self.batch_size)
    if self.limit is not None:
      require_positive("--limit", self.limit)
    if self.num_devices is not None:
      require_positive("--devices", self.num_devices)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """An EvaluateConfig with everything that it names opened and checked.

  Attributes:
    config: what was asked for.
    classifier: the trained classifier.
    predict_fn: its frozen form.
    params: the arrays of that.
    source: the images as they are.
    published: CIFAR-10-C, where asked for.
    masks: which pixels of the images are shown; None for all.
    conditions: corruption and severity of each, clean first.
    local_devices: where it runs.
  """

  config: EvaluateConfig
  classifier: Classifier
  predict_fn: PredictFn
  params: Params
  source: sources.ImageSource
  published: cifar_c.CifarC | None
  masks: PixelMasks | None
  conditions: tuple[tuple[str, int], ...]
  local_devices: list[devices.Device]

  def num_images(self, condition: tuple[str, int]) -> int:
    """Images of a condition, read or not."""
    available = cifar_c.NUM_IMAGES if self.published and condition[0] != report.CLEAN else len(self.source)
    return min(available, self.config.limit or available)

  @property
  def corruptions_title(self) -> str:
    """What the corrupted images are. Only the published files may be called CIFAR-10-C."""
    return "CIFAR-10-C" if self.published else "Corruptions made by jax_sis with CIFAR-10-C's constants"


def evaluate(config: EvaluateConfig) -> pathlib.Path:
  """Runs or resumes an evaluation; prints a line a condition and the table, writes metrics, predictions and figures.

  Args:
    config: what to evaluate, see EvaluateConfig.

  Returns:
    The folder of the results.

  Raises:
    ValueError: a setting is wrong or does not fit the checkpoint or the data, the subset is not one of these images, an
      image has no label or a wrong one, or the batch does not fit the memory.
  """
  out_dir = pathlib.Path(config.out)
  check_writable(open_folder(out_dir))
  plan = make_plan(config)
  spec = results.settle_spec(out_dir, make_spec(plan))
  rows = report.read_rows(out_dir)
  print(headline(plan), flush=True)
  if rows:
    print(f"{len(rows)} of {len(plan.conditions)} conditions are done already in {out_dir}.", flush=True)
  report.print_header(config.level)
  for row in rows:
    report.print_row(row)
  if len(rows) < len(plan.conditions):
    rows += evaluate_conditions(plan, out_dir, rows)
  rows.sort(key=lambda row: plan.conditions.index(row.condition))
  print_outcome(plan, rows)
  report.write_report(
    out_dir,
    rows,
    spec=spec,
    corruptions=describe_corruptions(plan),
    subject=f"{plan.classifier.model_name} on {describe_data(plan)}",
    what=plan.corruptions_title,
  )
  return out_dir


def make_plan(config: EvaluateConfig) -> Plan:
  """Opens what the settings name, and checks that it fits together.

  Raises:
    ValueError: as for `evaluate`.
  """
  classifier = checkpoint.load_classifier(config.checkpoint or checkpoint.EMBEDDED_CLASSIFIER)
  source = sources.open_source(
    config.data,
    split=config.split,
    data_dir=config.data_dir,
    class_names=classifier.class_names,
    input_shape=classifier.input_shape,
    crop=classifier.crop if config.resize else None,
  )
  published = None
  names: tuple[str, ...] = ()
  if config.corruptions is not None:
    check_corruptible(classifier, config.corruptions)
    names = corruptions.MADE_CORRUPTIONS
    if config.corruptions != MADE:
      published = cifar_c.open_cifar_c(config.corruptions)
      names = tuple(published.images)
  predict_fn, params = frozen.freeze(classifier.module)
  masks = None
  if config.subset is not None:
    masks = pixel_subsets.open_masks(
      config.subset,
      ids=source.ids(),
      images=source.description,
      image_shape=classifier.input_shape,
      normalisation=classifier.normalisation,
    )
  plan = Plan(
    config=config,
    classifier=classifier,
    predict_fn=predict_fn,
    params=params,
    source=source,
    published=published,
    masks=masks,
    conditions=(
      (report.CLEAN, 0),
      *((name, severity) for name in names for severity in report.SEVERITIES),
    ),
    local_devices=devices.local_devices(config.num_devices),
  )
  if masks is not None and published is not None:
    # Before hours of work, whether each has a mask.
    masks.find_places([cifar_c.make_id(index) for index in range(plan.num_images(plan.conditions[-1]))])
  return plan


def check_corruptible(classifier: Classifier, asked: str) -> None:
  """Raises ValueError unless the classifier takes the images that there are corruptions of, and knows their classes."""
  expected = (corruptions.SIDE, corruptions.SIDE, 3)
  if classifier.input_shape != expected:
    raise ValueError(
      f"--corruptions has constants for images of {expected}, but the checkpoint takes {classifier.input_shape}; "
      "evaluate it without."
    )
  if asked != MADE and classifier.class_names != cifar_c.CLASS_NAMES:
    raise ValueError(
      f"--corruptions with a folder must come with a classifier of CIFAR-10's classes, got "
      f"{len(classifier.class_names)} classes ({', '.join(classifier.class_names[:3])}, ...) in the checkpoint."
    )


def evaluate_conditions(plan: Plan, out_dir: pathlib.Path, done: list[report.Row]) -> list[report.Row]:
  """Evaluates the conditions that are not done, and writes and prints each as it is finished."""
  conditions_done = {row.condition for row in done}
  total = sum(plan.num_images(condition) for condition in plan.conditions)
  start = sum(plan.num_images(condition) for condition in conditions_done)
  rows: list[report.Row] = []
  memory: list[Batch] = []
  with Progress("compiling", total=total, start=start, unit="image") as progress:
    compiled, replicated = compile_classifier(plan)
    progress.restart("evaluating")
    for condition in plan.conditions:
      if condition not in conditions_done:
        row = evaluate_condition(plan, compiled, replicated, condition, memory, progress)
        report.append_row(out_dir, row)
        report.print_row(row)
        rows.append(row)
  return rows


def compile_classifier(plan: Plan) -> tuple[jax.stages.Compiled, Params]:
  """The classifier for one batch on every device, and its arrays there.

  Raises:
    ValueError: it does not give a logit for each class and example on its own, or does not fit the memory.
  """
  config, classifier = plan.config, plan.classifier
  num_devices = len(plan.local_devices)
  inputs = np.zeros((num_devices, config.batch_size, *classifier.input_shape), np.float32)
  noise = jnp.asarray(np.random.default_rng(0).normal(size=inputs.shape[1:]).astype(np.float32))
  num_logits = validation.check_predict_fn(plan.predict_fn, plan.params, noise)
  if num_logits != len(classifier.class_names):
    raise ValueError(
      f"the checkpoint must give a logit for each of its {len(classifier.class_names)} classes, got {num_logits}."
    )
  with jax.default_matmul_precision(PRECISION):
    validation.check_examples_independent(plan.predict_fn, plan.params, noise, jnp.zeros_like(noise))
    replicated = devices.replicate(plan.params, plan.local_devices)
    predict_shards = jax.pmap(plan.predict_fn, in_axes=(None, 0), devices=plan.local_devices)
    compiled = predict_shards.lower(replicated, inputs).compile()
  devices.check_memory(compiled, batch_size=config.batch_size, devices=plan.local_devices, argument="--batch")
  return compiled, replicated


def evaluate_condition(
  plan: Plan,
  compiled: jax.stages.Compiled,
  replicated: Params,
  condition: tuple[str, int],
  memory: list[Batch],
  progress: Progress,
) -> report.Row:
  """Classifies all images of a condition and measures.

  Raises:
    ValueError: an image has no label, a wrong one or logits that are not finite, or none can be read.
  """
  num_devices = len(plan.local_devices)
  logits, labels, ids_read, skipped = [], [], [], {}
  # The host reads and corrupts one batch while the devices work on the one before.
  pending: tuple[Array, np.ndarray, list[str]] | None = None
  for batch in read_batches(plan, condition, memory):
    is_read = check_records(plan, batch)
    ids = [str(image_id) for image_id in batch["id"]]
    skipped |= {ids[place]: str(batch["error"][place]) for place in np.flatnonzero(~is_read)}
    labels.append(batch["label"][is_read])
    ids_read += batch["id"][is_read].tolist()
    inputs = plan.classifier.normalisation.apply(batch["image"])
    if plan.masks is not None:
      inputs = plan.masks.show(inputs, plan.masks.find_places(ids))
    missing = num_devices * plan.config.batch_size - len(inputs)
    padded = np.concatenate([inputs, np.repeat(inputs[-1:], missing, axis=0)])
    outputs = compiled(replicated, devices.shard(padded, num_devices))
    if pending is not None:
      logits.append(fetch_logits(*pending))
      progress.advance(len(pending[1]))
    pending = (outputs, is_read, ids)
  if pending is not None:
    logits.append(fetch_logits(*pending))
    progress.advance(len(pending[1]))
  if not sum(map(len, labels)):
    raise ValueError(
      f"--data must hold at least one image that can be read. {report.describe_skipped(skipped, len(skipped))}"
    )
  all_logits, all_labels = np.concatenate(logits), np.concatenate(labels)
  predicted = predictions.make_predictions(ids_read, all_logits, all_labels)
  # Before its row, which says that a condition is done.
  predictions.write(pathlib.Path(plan.config.out), condition, predicted)
  return report.make_row(
    condition,
    all_logits,
    all_labels,
    class_names=plan.classifier.class_names,
    skipped=skipped,
    num_bins=plan.config.num_bins,
    level=plan.config.level,
  )


def read_batches(plan: Plan, condition: tuple[str, int], memory: list[Batch]) -> Iterator[Batch]:
  """The images of a condition, enough for all devices at a time; the last batch may be shorter.

  Args:
    plan: the data and the corruptions.
    condition: corruption and severity.
    memory: is filled with the batches of clean images once they are to be corrupted again and again, 3 KiB an image.
  """
  corruption, severity = condition
  is_clean = corruption == report.CLEAN
  source = plan.source if is_clean or plan.published is None else plan.published.source(corruption, severity)
  num_places = len(plan.local_devices) * plan.config.batch_size
  batches = []
  for batch in memory or iterate_batches(source, range(plan.num_images(condition)), num_places):
    if plan.config.corruptions == MADE:
      batches.append(batch)
    if is_clean or plan.published is not None:
      yield batch
    else:
      ids = [str(image_id) for image_id in batch["id"]]
      yield {
        **batch,
        "image": corruptions.corrupt(batch["image"], corruption, severity, ids=ids, seed=plan.config.seed),
      }
  memory[:] = batches


def check_records(plan: Plan, batch: Batch) -> Bool[np.ndarray, "B"]:
  """Which images of a batch could be read.

  Raises:
    ValueError: one cannot be read and `on_error` is `refuse`, or one that can has no label or none of the classes.
  """
  is_read = batch["error"] == ""
  if plan.config.on_error == "refuse" and not is_read.all():
    place = int(np.argmin(is_read))
    raise ValueError(
      f"image {str(batch['id'][place])!r} cannot be read: {batch['error'][place]}; --on-error skip leaves it out."
    )
  is_unlabelled = is_read & (batch["label"] == sources.NO_LABEL)
  if is_unlabelled.any():
    raise ValueError(
      f"every image must have a label to be evaluated, but {name_images(batch, is_unlabelled)} have none; put image "
      f"files into folders named after the classes ({', '.join(plan.classifier.class_names[:3])}, ...)."
    )
  num_classes = len(plan.classifier.class_names)
  is_wrong = is_read & ((batch["label"] < 0) | (batch["label"] >= num_classes))
  if is_wrong.any():
    raise ValueError(
      f"labels must lie in 0..{num_classes - 1}, the checkpoint's classes, but those of "
      f"{name_images(batch, is_wrong)} do not."
    )
  return is_read


def name_images(batch: Batch, is_named: Bool[np.ndarray, "B"]) -> str:
  """The ids of some images of a batch, and how many more."""
  ids = [str(image_id) for image_id in batch["id"][is_named]]
  return name_some(ids, most=report.MAX_NAMED)


def fetch_logits(outputs: Array, is_read: Bool[np.ndarray, "B"], ids: list[str]) -> Float[np.ndarray, "N K"]:
  """Waits for the logits of a batch, and leaves out padding and images that could not be read.

  Raises:
    ValueError: one is not finite.
  """
  logits = np.asarray(outputs, np.float32).reshape(-1, outputs.shape[-1])[: len(is_read)]
  is_finite = np.isfinite(logits).all(1) | ~is_read
  if not is_finite.all():
    raise ValueError(
      f"the checkpoint's logits must be finite, but those of image {ids[int(np.argmin(is_finite))]!r} are not."
    )
  return logits[is_read]


def make_spec(plan: Plan) -> dict[str, Any]:
  """What fixes the results of a run, in JSON types."""
  config, classifier = plan.config, plan.classifier
  return {
    "format": report.FORMAT,
    "model": {"name": classifier.model_name, "sha256": checkpoint.hash_params(classifier)},
    "class_names": list(classifier.class_names),
    "normalisation": dataclasses.asdict(classifier.normalisation),
    "data": plan.source.description,
    "limit": config.limit,
    "on_error": config.on_error,
    "corruptions": describe_corruptions(plan),
    "subset": plan.masks and plan.masks.description,
    "num_bins": config.num_bins,
    "level": config.level,
    "batch_size": config.batch_size,
    "precision": PRECISION,
    "versions": library_versions(*LIBRARIES),
    "device": plan.local_devices[0].device_kind,
  }


def describe_corruptions(plan: Plan) -> dict[str, Any] | None:
  """What the corruptions are and which are left out, in JSON types."""
  if plan.config.corruptions is None:
    return None
  included = list(dict.fromkeys(name for name, _ in plan.conditions if name != report.CLEAN))
  if plan.published is None:
    where = {"seed": plan.config.seed}
    left_out = corruptions.LEFT_OUT
  else:
    where = {"folder": str(plan.published.directory)}
    left_out = dict.fromkeys(plan.published.missing, "has no file in the folder")
  return {"what": plan.corruptions_title, **where, "included": included, "left_out": left_out}


def headline(plan: Plan) -> str:
  """What is about to be done, and which corruptions are not part of it."""
  line = (
    f"Evaluation of {plan.classifier.model_name} on {describe_data(plan)}, "
    f"{len(plan.local_devices)} {plan.local_devices[0].platform} device(s)."
  )
  if plan.masks is not None:
    line += f"\nShown of each image: {pixel_subsets.describe_subset(plan.masks.description)}."
  described = describe_corruptions(plan)
  if described is None:
    return line
  counts = f"{len(described['included'])} of {len(corruptions.ALL_CORRUPTIONS)}"
  left_out = ", ".join(f"{name} ({reason})" for name, reason in described["left_out"].items())
  return f"{line}\n{plan.corruptions_title}: {counts}{f', without {left_out}' if left_out else ''}."


def describe_data(plan: Plan) -> str:
  """The images as they are, in words."""
  description = plan.source.description
  split = f" {description['split']}" if "split" in description else ""
  num_images = plan.num_images((report.CLEAN, 0))
  return f"{num_images:,} images of {description['data']}{split}"


def print_outcome(plan: Plan, rows: list[report.Row]) -> None:
  """What is known when everything is done: images left out, weak classes, and the table of corruptions."""
  clean = rows[0]
  if clean.skipped:
    print(report.describe_skipped(clean.skipped, plan.num_images(clean.condition)))
  print(report.describe_classes(clean))
  if len(rows) > 1:
    title = f"{plan.corruptions_title}: accuracy in % by severity, {rows[-1].num_examples:,} images each"
    report.print_table(rows[1:], f"{title} (clean: {100 * clean.accuracy:.2f})")
