"""`jax-sis soundness`: do the first features of an order speak for their class, and for it alone?

A sufficient subset is complete by construction: it makes the classifier say the class. It is sound only if no subset
makes it say other classes as well. So an order is made for each class of an image, and asked how confident its first
features are of that class (completeness and soundness, Gupta et al. 2022, arXiv 2211.02912).
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jax_sis import results
from jax_sis.classifiers.attributions import Attribution, Random, Search, hash_id, make_allowed, split_for_grad_cam
from jax_sis.classifiers.on_images import ClassifierOnImages, describe_set, open_image_set
from jax_sis.core.attribution_methods import GradientTimesInput, IntegratedGradients
from jax_sis.core.completions import Images
from jax_sis.core.searches import Gradient
from jax_sis.runtime.device_program import DeviceProgram
from jax_sis.runtime.progress import Progress
from jax_sis.runtime.records import append_record, read_records
from jax_sis.studies.soundness import report
from jax_sis.studies.soundness.config import NUM_DRAWS, ORDERS, SoundnessConfig
from jax_sis.studies.soundness.judge import NO_SIZE, Judge
from jax_sis.studies.soundness.summaries import Asked

FORMAT = "jax_sis.soundness/1"
LINES_FILE = "soundness.jsonl"


def soundness(config: SoundnessConfig) -> dict[str, Any]:
  """Asks the orders, or goes on with it; prints a table and its reading, writes JSON, CSV and a figure.

  Args:
    config: what to ask, see SoundnessConfig.

  Returns:
    What `soundness.json` holds.

  Raises:
    ValueError: a setting is wrong or does not fit the checkpoint or the data, or the folder holds another run.
    StorageError: the folder cannot be written.
  """
  folder = results.open_folder(config.out)
  results.check_writable(folder)
  images = open_image_set(config)
  num_images = min(len(images.source), config.num_images)
  num_classes = min(len(images.class_names), config.num_classes)
  spec = results.settle_spec(config.out, make_spec(images, config), command_fn=config.command_in)
  judges, left_out = make_judges(images, config, num_classes)
  print(
    f"Completeness and soundness of orders of {images.classifier.model_name}: {num_images} images of "
    f"{images.data_name}, {num_classes} classes each, {images.devices_name}.",
    flush=True,
  )
  for name, reason in left_out.items():
    print(f"Left out: {ORDERS[name]} ({reason}).", flush=True)
  lines = pathlib.Path(config.out) / LINES_FILE
  asked: dict[str, list[Asked]] = {name: [] for name in ORDERS}
  for record in read_records(lines):
    asked[record["order"]] += [Asked(**image) for image in record["images"]]
  ask_missing(images, config, judges, num_images, asked, lines)
  return report.write_report(
    folder,
    {name: asked[name] for name in judges},
    left_out=left_out,
    spec=spec,
    seed=config.seed,
    subject=f"{images.classifier.model_name} on {images.data_name}",
    command=config.command,
  )


def make_spec(images: ClassifierOnImages, config: SoundnessConfig) -> dict[str, Any]:
  """What fixes the results, in JSON types; not the orders, since more can be added later."""
  return {
    "format": FORMAT,
    **describe_set(images),
    "num_images": config.num_images,
    "num_classes": config.num_classes,
    "threshold": config.threshold,
    "per_step": config.per_step,
    "seed": config.seed,
  }


def make_judges(
  images: ClassifierOnImages, config: SoundnessConfig, num_classes: int
) -> tuple[dict[str, DeviceProgram], dict[str, str]]:
  """The orders that are asked for as programs, and why others are left out.

  Raises:
    ValueError: the classifier allows none of them.
  """
  search = Gradient(per_step=config.per_step)
  makers: Mapping[str, Callable[[], Search | Attribution | Random]] = {
    "gradient": lambda: Search(search),
    "gradient_images": lambda: Search(search, draw_images(images, config), config.seed),
    "gradient_x_input": lambda: Attribution(GradientTimesInput()),
    "integrated_gradients": lambda: Attribution(IntegratedGradients()),
    "grad_cam": lambda: Attribution(split_for_grad_cam(images)),
    "random": lambda: Random(config.seed),
  }
  made, left_out = make_allowed(makers, config.orders)
  judges = {
    name: images.make_program(Judge(images=images, scores=scores, num_classes=num_classes, threshold=config.threshold))
    for name, scores in made.items()
  }
  if not judges:
    raise ValueError(f"--orders must name one that this classifier allows: {'; '.join(left_out.values())}.")
  return judges, left_out


def draw_images(images: ClassifierOnImages, config: SoundnessConfig) -> Images:
  """What masked pixels show instead of a colour: the other images that are asked about.

  Raises:
    ValueError: of these images too few can be read.
  """
  batches = images.read(range(min(len(images.source), config.num_images)))
  readable = [batch["image"][batch["error"] == ""] for batch in batches]
  pool = images.normalise(np.unique(np.concatenate(readable), axis=0))
  if len(pool) < NUM_DRAWS:
    raise ValueError(
      f"--images must be {NUM_DRAWS} different ones at least for other images to show behind pixels, got {len(pool)}"
    )
  return Images(pool=pool, num_draws=NUM_DRAWS)


def ask_missing(
  images: ClassifierOnImages,
  config: SoundnessConfig,
  judges: Mapping[str, DeviceProgram],
  num_images: int,
  asked: Mapping[str, list[Asked]],
  lines: pathlib.Path,
) -> None:
  """Asks about the missing images and appends a line to the file for each batch of a device.

  A line depends on its batch alone: neither a kill nor the number of devices changes it.
  """
  total = len(judges) * num_images
  with Progress("orders", total=total, start=sum(len(asked[name]) for name in judges), unit="image") as progress:
    for name, judge in judges.items():
      launches = (
        (batch, (batch["image"], np.array([hash_id(str(one)) for one in batch["id"]], np.int32)))
        for batch in images.read(range(len(asked[name]), num_images))
      )
      for batch, found in judge.run_all(launches):
        described = [describe_image(images, batch, found, place) for place in range(len(batch["id"]))]
        for start in range(0, len(described), config.batch_size):
          some = described[start : start + config.batch_size]
          append_record(lines, {"order": name, "images": some})
          asked[name].extend(Asked(**image) for image in some)
        progress.advance(len(described))


def describe_image(
  images: ClassifierOnImages, batch: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], place: int
) -> dict[str, Any]:
  """The fields of Asked for one image, in JSON types."""
  error = str(batch["error"][place])
  classes = [images.name_class(int(number)) for number in found["classes"][place]]
  numbers = {
    "confidence": found["confidence"][place].tolist(),
    "area": found["area"][place].tolist(),
    "size": [None if size == NO_SIZE else int(size) for size in found["size"][place]],
  }
  if not error and not np.isfinite([*numbers["confidence"], *numbers["area"]]).all():
    error = "its logits are not finite numbers"
  if error:
    classes, numbers = [], {"confidence": [], "area": [], "size": []}
  label = images.name_class(int(batch["label"][place])) or None
  return {"id": str(batch["id"][place]), "error": error, "label": label, "classes": classes, **numbers}
