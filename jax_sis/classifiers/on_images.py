"""A classifier and the images of a study of it: opened, read, and worked on by all local devices."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jax_sis.classifiers import Classifier, checkpoint, frozen
from jax_sis.classifiers.frozen import FrozenPredictor
from jax_sis.core import masking, validation
from jax_sis.core.masking import make_grid
from jax_sis.core.types import Params
from jax_sis.data import batches, sources
from jax_sis.data.config import ImageSetConfig
from jax_sis.runtime import devices
from jax_sis.runtime.provenance import library_versions

# Float32 throughout, also where accelerators would compute in fewer bits by default.
PRECISION = "highest"
# Whose versions fix the last bits of the results.
LIBRARIES = ("jax", "numpy", "scipy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSet:
  """An ImageSetConfig with everything that it names opened and checked.

  Attributes:
    config: what was asked for.
    classifier: the trained classifier.
    predict_fn: its frozen form.
    params: the arrays of that.
    replicated: the same on every device.
    source: the images.
    grid: the mask's shape.
    local_devices: where it runs.
  """

  config: ImageSetConfig
  classifier: Classifier
  predict_fn: FrozenPredictor
  params: Params
  replicated: Params
  source: sources.ImageSource
  grid: tuple[int, ...]
  local_devices: list[devices.Device]

  @property
  def num_features(self) -> int:
    """F, the number of features of an image."""
    return masking.num_features(self.grid)

  @property
  def launch_size(self) -> int:
    """Images that all devices work on at once."""
    return len(self.local_devices) * self.config.batch_size

  @property
  def class_names(self) -> tuple[str, ...]:
    """A name for each class."""
    return self.classifier.class_names

  def read(self, indices: Sequence[int] | Int[np.ndarray, "N"]) -> Iterator[dict[str, np.ndarray]]:
    """The images at these places, as many at a time as all devices take; see `data.iterate_batches`."""
    return batches.iterate_batches(self.source, indices, self.launch_size)

  def normalise(self, images: Any) -> Float[np.ndarray, "N H W C"]:
    """8-bit pixels -> inputs."""
    return self.classifier.normalisation.apply(images)

  def name_class(self, number: int) -> str:
    """The name of a class; empty for none."""
    return self.class_names[number] if 0 <= number < len(self.class_names) else ""

  def describe(self) -> str:
    """The data, in words."""
    description = self.source.description
    split = f" {description['split']}" if "split" in description else ""
    return f"{description['data']}{split}"


def open_image_set(config: ImageSetConfig) -> ImageSet:
  """Opens what the settings name, and checks that it fits together.

  Raises:
    ValueError: a setting does not fit the checkpoint or the data, or the classifier mixes up the images of a batch.
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
  predict_fn, params = frozen.freeze(classifier.module)
  noise = jnp.asarray(np.random.default_rng(0).normal(size=(2, *classifier.input_shape)).astype(np.float32))
  validation.check_predict_fn(predict_fn, params, noise)
  validation.check_examples_independent(predict_fn, params, noise, jnp.zeros_like(noise))
  local_devices = devices.local_devices(config.num_devices)
  return ImageSet(
    config=config,
    classifier=classifier,
    predict_fn=predict_fn,
    params=params,
    replicated=devices.replicate(params, local_devices),
    source=source if config.ids is None else sources.SelectedSource(source, config.ids),
    grid=make_grid(config.patch, classifier.input_shape),
    local_devices=local_devices,
  )


def describe_set(images: ImageSet) -> dict[str, Any]:
  """What fixes results on these images beside the settings of a study, in JSON types."""
  return {
    "model": {"name": images.classifier.model_name, "sha256": checkpoint.hash_params(images.classifier)},
    "class_names": list(images.class_names),
    "normalisation": dataclasses.asdict(images.classifier.normalisation),
    "data": images.source.description,
    "grid": list(images.grid),
    "batch_size": images.config.batch_size,
    "precision": PRECISION,
    "versions": library_versions(*LIBRARIES),
    "device": images.local_devices[0].device_kind,
  }
