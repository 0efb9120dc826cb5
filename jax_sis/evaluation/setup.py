"""An evaluation: what its settings name, opened and checked, and the images of its conditions."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from jax_sis.classifiers import Classifier
from jax_sis.classifiers.model_function import LoadedModel
from jax_sis.classifiers.on_images import ClassifierOnImages, open_on_images
from jax_sis.core.messages import name_some
from jax_sis.data import cifar_c, corruptions, sources
from jax_sis.data.batches import iterate_batches
from jax_sis.evaluation import report
from jax_sis.evaluation.config import EvaluateConfig
from jax_sis.results import pixel_subsets
from jax_sis.results.pixel_subsets import PixelMasks

MADE = "made"
# Whose versions fix the last bits of the results.
LIBRARIES = ("jax", "numpy", "scipy", "pillow")

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation(ClassifierOnImages):
  """An evaluation, opened and checked; see ClassifierOnImages for the classifier, the images and the devices.

  Attributes:
    config: what was asked for.
    published: CIFAR-10-C, where asked for.
    masks: which pixels of the images are shown; None for all.
    conditions: corruption and severity of each, clean first.
  """

  config: EvaluateConfig
  published: cifar_c.CifarC | None
  masks: PixelMasks | None
  conditions: tuple[tuple[str, int], ...]

  def num_images(self, condition: tuple[str, int]) -> int:
    available = cifar_c.NUM_IMAGES if self.published and condition[0] != report.CLEAN else len(self.source)
    return min(available, self.config.limit or available)

  @property
  def corruptions_title(self) -> str:
    """What the corrupted images are. Only the published files may be called CIFAR-10-C."""
    return "CIFAR-10-C" if self.published else "Corruptions made by jax_sis with CIFAR-10-C's constants"

  @property
  def subject(self) -> str:
    return f"{self.num_images((report.CLEAN, 0)):,} images of {self.data_name}"

  def show(self, batch: Batch) -> UInt8[np.ndarray, "B H W C"] | Float[np.ndarray, "B H W C"]:
    """The images, which devices normalise; or the classifier's inputs, where some of their pixels are hidden."""
    if self.masks is None:
      return batch["image"]
    return self.masks.show(
      self.normalise(batch["image"]), self.masks.find_places([str(image_id) for image_id in batch["id"]])
    )


def open_evaluation(config: EvaluateConfig) -> Evaluation:
  """Opens what the settings name, and checks that it fits together; ValueError as for `evaluate`."""
  images = open_on_images(config, batch_size=config.batch_size)
  classifier = images.classifier
  published = None
  names: tuple[str, ...] = ()
  if config.corruptions is not None:
    check_corruptible(classifier, config.corruptions)
    names = corruptions.MADE_CORRUPTIONS
    if config.corruptions != MADE:
      published = cifar_c.open_cifar_c(config.corruptions)
      names = tuple(published.images)
  masks = None
  if config.subset is not None:
    masks = pixel_subsets.open_masks(
      config.subset,
      ids=images.source.ids(),
      images=images.source.description,
      image_shape=classifier.input_shape,
      normalisation=classifier.normalisation,
    )
  evaluation = Evaluation(
    **vars(images),
    config=config,
    published=published,
    masks=masks,
    conditions=((report.CLEAN, 0), *((name, severity) for name in names for severity in report.SEVERITIES)),
  )
  if masks is not None and published is not None:
    # Each corrupted image must have a mask; better to know before hours of work.
    masks.find_places([cifar_c.make_id(index) for index in range(evaluation.num_images(evaluation.conditions[-1]))])
  return evaluation


def check_corruptible(classifier: Classifier | LoadedModel, asked: str) -> None:
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


def make_spec(evaluation: Evaluation) -> dict[str, Any]:
  """What fixes the results of a run, in JSON types."""
  config = evaluation.config
  return {
    "format": report.FORMAT,
    **evaluation.describe(*LIBRARIES),
    "limit": config.limit,
    "on_error": config.on_error,
    "corruptions": describe_corruptions(evaluation),
    "subset": evaluation.masks and evaluation.masks.description,
    "num_bins": config.num_bins,
    "level": config.level,
  }


def describe_corruptions(evaluation: Evaluation) -> dict[str, Any] | None:
  """What the corruptions are, and which are left out, in JSON types."""
  if evaluation.config.corruptions is None:
    return None
  included = list(dict.fromkeys(name for name, _ in evaluation.conditions if name != report.CLEAN))
  if evaluation.published is None:
    where = {"seed": evaluation.config.seed}
    left_out = corruptions.LEFT_OUT
  else:
    where = {"folder": str(evaluation.published.directory)}
    left_out = dict.fromkeys(evaluation.published.missing, "has no file in the folder")
  return {"what": evaluation.corruptions_title, **where, "included": included, "left_out": left_out}


def read_batches(evaluation: Evaluation, condition: tuple[str, int], memory: list[Batch]) -> Iterator[Batch]:
  """The images of a condition, enough for all devices at a time; the last batch may be shorter.

  `memory` keeps the clean images that are to be corrupted again and again, 3 KiB each.
  """
  corruption, severity = condition
  is_clean = corruption == report.CLEAN
  source = (
    evaluation.source if is_clean or evaluation.published is None else evaluation.published.source(corruption, severity)
  )
  batches = []
  for batch in memory or iterate_batches(source, range(evaluation.num_images(condition)), evaluation.launch_size):
    if evaluation.config.corruptions == MADE:
      batches.append(batch)
    if is_clean or evaluation.published is not None:
      yield batch
    else:
      ids = [str(image_id) for image_id in batch["id"]]
      yield {
        **batch,
        "image": corruptions.corrupt(batch["image"], corruption, severity, ids=ids, seed=evaluation.config.seed),
      }
  memory[:] = batches


def check_records(evaluation: Evaluation, batch: Batch) -> Bool[np.ndarray, "B"]:
  """Which images of a batch could be read.

  Raises:
    ValueError: one cannot be read and `on_error` is `refuse`, or one that can has no label or none of the classes.
  """
  is_read = batch["error"] == ""
  if evaluation.config.on_error == "refuse" and not is_read.all():
    place = int(np.argmin(is_read))
    raise ValueError(
      f"image {str(batch['id'][place])!r} cannot be read: {batch['error'][place]}; --on-error skip leaves it out."
    )
  is_unlabelled = is_read & (batch["label"] == sources.NO_LABEL)
  if is_unlabelled.any():
    raise ValueError(
      f"every image must have a label to be evaluated, but {name_images(batch, is_unlabelled)} have none; put image "
      f"files into folders named after the classes ({', '.join(evaluation.class_names[:3])}, ...)."
    )
  num_classes = len(evaluation.class_names)
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
