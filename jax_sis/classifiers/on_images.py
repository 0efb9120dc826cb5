"""A classifier opened with the images that it is to be asked about: by `find`, `evaluate` and the studies."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jax_sis.classifiers import Classifier, checkpoint, frozen, model_function
from jax_sis.classifiers.model_function import LoadedModel
from jax_sis.classifiers.recipes import say_framing
from jax_sis.core import masking, validation
from jax_sis.core.features import Grid
from jax_sis.core.masking import make_grid
from jax_sis.core.removal import check_removal
from jax_sis.core.types import Params, PredictFn, Removal
from jax_sis.data import batches, sources, tfds
from jax_sis.data.class_names import distinct_names
from jax_sis.data.config import ImageSetConfig
from jax_sis.data.images import Framing
from jax_sis.data.normalisation import Normalisation
from jax_sis.runtime import devices
from jax_sis.runtime.device_program import DeviceProgram, replicate
from jax_sis.runtime.provenance import library_versions

# Float32 throughout, also where accelerators would compute in fewer bits by default.
PRECISION = "highest"
# Whose versions fix the last bits of a study's results.
LIBRARIES = ("jax", "numpy", "scipy")
# Examples of noise on which a classifier is tried.
NUM_TRIED = 2


@runtime_checkable
class ImagesAsked(Protocol):
  """The settings, of whatever program, that name a classifier, images and devices; see ImageSetConfig."""

  @property
  def checkpoint(self) -> str | None:
    """A classifier's folder; None for the embedded one."""
    ...

  @property
  def model_function(self) -> str | None:
    """What makes a classifier instead, see `model_function.load_model`."""
    ...

  @property
  def data(self) -> str:
    """`sample`, an image file, a folder of images, an .npy of them, or a TFDS name."""
    ...

  @property
  def split(self) -> str | None:
    """The TFDS split; None for the default one, and for other images."""
    ...

  @property
  def data_dir(self) -> str | None:
    """The TFDS folder; None for TFDS's default."""
    ...

  @property
  def resize(self) -> bool:
    """Whether images are brought to the classifier's size."""
    ...

  @property
  def background(self) -> str | None:
    """The colour behind transparent pixels of image files; None for the mean colour."""
    ...

  @property
  def num_devices(self) -> int | None:
    """How many local devices; None for all."""
    ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierOnImages:
  """A classifier and images, opened and checked.

  Attributes:
    classifier: the trained classifier, ours or what a function of the user's made.
    predict_fn: ours in frozen form.
    params: the arrays of that.
    source: the images.
    grid: the mask's shape.
    batch_size: images per device at a time.
    precision: JAX's matmul precision.
    local_devices: where it runs.
  """

  classifier: Classifier | LoadedModel
  predict_fn: PredictFn
  params: Params
  source: sources.ListedSource
  grid: tuple[int, ...]
  batch_size: int
  precision: str
  local_devices: list[devices.Device]

  @property
  def num_features(self) -> int:
    """F, the number of features of an image."""
    return masking.num_features(self.grid)

  @property
  def launch_size(self) -> int:
    return len(self.local_devices) * self.batch_size

  @functools.cached_property
  def replicated(self) -> Params:
    """The arrays on every device, once for all programs."""
    return replicate(self.params, self.local_devices)

  @property
  def class_names(self) -> tuple[str, ...]:
    """A name for each logit, by which it can be told from all others."""
    return distinct_names(self.classifier.class_names)

  @property
  def data_name(self) -> str:
    """The data, and the split where it has one."""
    description = self.source.description
    split = f" {description['split']}" if "split" in description else ""
    return f"{description['data']}{split}"

  @property
  def devices_name(self) -> str:
    """How many devices of which platform."""
    return f"{len(self.local_devices)} {self.local_devices[0].platform} device(s)"

  def name_class(self, number: int) -> str:
    """The name of a class; empty for none."""
    return self.class_names[number] if 0 <= number < len(self.class_names) else ""

  def read(self, indices: Sequence[int] | Int[np.ndarray, "N"]) -> Iterator[dict[str, np.ndarray]]:
    """The images at these places, as many at a time as all devices take; see `data.batches.iterate_batches`."""
    return batches.iterate_batches(self.source, indices, self.launch_size)

  def normalise(self, images: Any) -> Float[np.ndarray, "N H W C"]:
    """8-bit pixels -> inputs."""
    return self.classifier.normalisation.apply(images)

  def check_classifier(self, baseline: float = 0.0, *, removal: Removal = "value") -> None:
    """Tries the classifier on noise, beside which masked inputs show the baseline.

    Raises:
      ValueError: it does not give a logit for each class, but probabilities, or mixes up the images of a batch; or
        pixels cannot be removed from it in this way.
    """
    shape = (NUM_TRIED, *self.classifier.input_shape)
    noise = jnp.asarray(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    num_logits = validation.check_predict_fn(self.predict_fn, self.params, noise)
    if num_logits != len(self.class_names):
      raise ValueError(
        f"the classifier must give a logit for each of its {len(self.class_names)} classes, got {num_logits}."
      )
    check_removal(removal, self.predict_fn, self.params, noise, features=Grid(self.grid), completion=None)
    with jax.default_matmul_precision(self.precision):
      validation.check_values(self.predict_fn, self.params, noise, masking.check_baseline(baseline, noise))

  def make_program(self, function: Callable[..., Any], *, beside: Any = None) -> DeviceProgram:
    """A function of `(params, *arrays [B, ...])` as a program on all devices, see DeviceProgram.

    Arrays of 8-bit pixels are normalised there, and come to the function as inputs. What stands `beside` the
    classifier's arrays is the same for all examples, too: the function's first argument is then `(params, beside)`.
    """
    params = self.replicated if beside is None else (self.replicated, replicate(beside, self.local_devices))
    on_inputs = functools.partial(call_on_inputs, function, self.precision, self.classifier.normalisation)
    return DeviceProgram(on_inputs, params, local_devices=self.local_devices, batch_size=self.batch_size)

  def describe(self, *libraries: str) -> dict[str, Any]:
    """What fixes results beside the settings, in JSON types, the versions of these libraries among it."""
    return {
      **describe_model(self.classifier),
      "class_names": list(self.class_names),
      "normalisation": dataclasses.asdict(self.classifier.normalisation),
      "data": self.source.description,
      "batch_size": self.batch_size,
      "precision": self.precision,
      "versions": library_versions(*libraries),
      "device": self.local_devices[0].device_kind,
    }


def call_on_inputs(
  function: Callable[..., Any], precision: str, normalisation: Normalisation, params: Params, *arrays: Array
) -> Any:
  inputs = (normalisation.look_up(array) if array.dtype == np.uint8 else array for array in arrays)
  with jax.default_matmul_precision(precision):
    return function(params, *inputs)


def open_classifier(
  checkpoint_dir: str | None, function_name: str | None
) -> tuple[Classifier | LoadedModel, PredictFn, Params]:
  """The classifier in this folder or of this function, the embedded one for neither, and the pair that is searched.

  Raises:
    ValueError: both are given, or it cannot be opened.
  """
  if checkpoint_dir and function_name:
    raise ValueError(
      f"--checkpoint and --model must not both be given, got {checkpoint_dir!r} and {function_name!r}; each names the "
      "classifier."
    )
  if function_name:
    model = model_function.load_model(function_name)
    return model, model.predict_fn, model.params
  classifier = checkpoint.load_classifier(checkpoint_dir or checkpoint.EMBEDDED_CLASSIFIER)
  return classifier, *frozen.freeze(classifier.module)


def describe_model(classifier: Classifier | LoadedModel) -> dict[str, Any]:
  """Name and arrays, and of a user's function what it computes, in JSON types."""
  if isinstance(classifier, LoadedModel):
    sha256, program = checkpoint.hash_arrays(classifier.params), {"program": model_function.hash_program(classifier)}
  else:
    sha256, program = checkpoint.hash_params(classifier), {}
  return {"model": {"name": classifier.model_name, "sha256": sha256}, **program}


def open_on_images(
  config: ImagesAsked,
  *,
  batch_size: int,
  ids: tuple[str, ...] | None = None,
  patch: int = 1,
  precision: str = PRECISION,
) -> ClassifierOnImages:
  """Opens what the settings name, and checks that it fits together.

  Where a checkpoint only numbers its classes, a data set of as many names them, which is printed.

  Args:
    config: the classifier, the images and the devices.
    batch_size: images per device at a time.
    ids: the images of the data, in this order; None for all.
    patch: pixels a side of the squares that are masked together.
    precision: JAX's matmul precision.

  Raises:
    ValueError: a setting does not fit the checkpoint or the data.
  """
  classifier, predict_fn, params = open_classifier(config.checkpoint, config.model_function)
  source = open_images(config, classifier, config.data, config.split)
  if source.class_names != classifier.class_names:
    print(f"The checkpoint only numbers its classes; they get the names of {config.data}.", flush=True)
    classifier = dataclasses.replace(classifier, class_names=source.class_names)
  recipe = recipe_of(classifier)
  if recipe:
    shown = say_framing(classifier.input_shape[0], classifier.framing)
    source.notes = (*source.notes, f"Images of other sizes are shown by the recipe {recipe}: the {shown}.")
  local_devices = devices.local_devices(config.num_devices)
  return ClassifierOnImages(
    classifier=classifier,
    predict_fn=predict_fn,
    params=params,
    source=source if ids is None else sources.SelectedSource(source, ids),
    grid=make_grid(patch, classifier.input_shape),
    batch_size=batch_size,
    precision=precision,
    local_devices=local_devices,
  )


def open_images(
  config: ImagesAsked, classifier: Classifier | LoadedModel, data: str, split: str | None
) -> sources.ListedSource:
  """Images of this name, read as those of the settings are for this classifier; ValueError as for `open_source`.

  Where they are other files than those of the settings, the TFDS folder there is not meant for them.
  """
  are_other_files = data != config.data and split is None and tfds.are_files(data, config.data_dir)
  return sources.open_source(
    data,
    split=split,
    data_dir=None if are_other_files else config.data_dir,
    class_names=classifier.class_names,
    input_shape=classifier.input_shape,
    framing=choose_framing(classifier, data, is_resized=config.resize),
    mean_colour=classifier.normalisation.mean_colour,
    background=config.background,
  )


def recipe_of(classifier: Classifier | LoadedModel) -> str | None:
  """The name of the recipe by which a checkpoint's images are prepared, if it has one."""
  return classifier.recipe if isinstance(classifier, Classifier) else None


def choose_framing(classifier: Classifier | LoadedModel, data: str, *, is_resized: bool) -> Framing | None:
  """How images of other sizes are brought to the classifier's; None where they must have it.

  Args:
    classifier: whose inputs they become; those with a recipe always do.
    data: what the images are called; photographs of the sample always are brought to size.
    is_resized: whether the user asked for it.
  """
  is_of_photos = data == sources.SAMPLE and sources.is_large(classifier.input_shape)
  return classifier.framing if is_resized or recipe_of(classifier) or is_of_photos else None


def open_image_set(config: ImageSetConfig) -> ClassifierOnImages:
  """A study's classifier and images, tried out.

  Raises:
    ValueError: a setting does not fit the checkpoint or the data, or the classifier mixes up the images of a batch.
  """
  images = open_on_images(config, batch_size=config.batch_size, ids=config.ids, patch=config.patch)
  images.check_classifier()
  for note in images.source.notes:
    print(note, flush=True)
  return images


def describe_set(images: ClassifierOnImages) -> dict[str, Any]:
  """What fixes a study's results on these images beside its settings, in JSON types."""
  return {**images.describe(*LIBRARIES), "grid": list(images.grid)}
