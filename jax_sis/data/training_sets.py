"""Images for training: in memory where they fit, else read as they come; in an order that a seed decides.

Grain shuffles, batches and reads ahead; the state of its iterator is a small dictionary, which a checkpoint keeps.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import grain
import numpy as np
from jaxtyping import Bool, Int, UInt8

from jax_sis.data import tfds
from jax_sis.data.images import CENTRAL_CROP, UNREADABLE, central_crop, find_image_files, random_crop, read_image
from jax_sis.data.normalisation import IMAGENET_NORMALISATION, NORMALISATIONS, Normalisation

MOST_BYTES_IN_MEMORY = 2 * 2**30


class Batch(NamedTuple):
  """Images of a step: places in the data set, pixels in 0..255, labels, and which pixels are shown (None: all)."""

  indices: Int[np.ndarray, "B"]
  images: UInt8[np.ndarray, "B H W 3"]
  labels: Int[np.ndarray, "B"]
  kept: Bool[np.ndarray, "B H W 1"] | None = None


class TrainingSet(Protocol):
  """Labelled images by place.

  Attributes:
    class_names: a name for each label.
    normalisation: how inputs are made of these images unless a recipe says otherwise.
    image_shape: height, width and channels of a batch's images.
    report_fn: is told of every image that is skipped.
  """

  class_names: tuple[str, ...]
  normalisation: Normalisation
  report_fn: Callable[[str], None]

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """See above."""
    ...

  def __len__(self) -> int:
    """The number of images."""
    ...

  def read(self, indices: Int[np.ndarray, "B"], rng: np.random.Generator | None) -> Batch:
    """The images at these places; with a generator, cropped at random where crops are needed at all."""
    ...


def report_to_nobody(line: str) -> None:
  """Until a run says where its messages go."""
  del line


@dataclasses.dataclass(kw_only=True)
class InMemory:
  """A data set of equally large images, decoded once.

  Attributes:
    images: the pixels.
    labels: the classes.
    ids: a name for each image.
    description: what the images are, as `data.TfdsSource` says it.
    kept_fn: places -> which pixels of the images there are shown; None shows all.
  """

  images: UInt8[np.ndarray, "N H W 3"]
  labels: Int[np.ndarray, "N"]
  ids: tuple[str, ...]
  description: dict[str, str | int]
  class_names: tuple[str, ...]
  normalisation: Normalisation
  kept_fn: Callable[[Int[np.ndarray, "B"]], Bool[np.ndarray, "B H W 1"]] | None = None
  report_fn: Callable[[str], None] = report_to_nobody

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Height, width and channels."""
    return self.images.shape[1:]

  def __len__(self) -> int:
    """The number of images."""
    return len(self.images)

  def read(self, indices: Int[np.ndarray, "B"], rng: np.random.Generator | None) -> Batch:
    """The images at these places."""
    del rng
    kept = None if self.kept_fn is None else self.kept_fn(indices)
    return Batch(indices.astype(np.int32), self.images[indices], self.labels[indices], kept)


class Example(NamedTuple):
  """One image as it is stored."""

  id: str
  image: UInt8[np.ndarray, "H W 3"]
  label: int


@dataclasses.dataclass(kw_only=True)
class Streamed:
  """Images decoded when they are needed and, where they differ in size, cropped to one.

  Attributes:
    read_fn: place -> the image there; ValueError where it cannot be read.
    num_images: how many there are.
    is_cropped: images are brought to `image_shape`; otherwise they have it already.
    on_error: `refuse` an image that cannot be read, or `skip` it: the next one that can be takes its place.
    report_fn: is told of every image that is skipped.
  """

  read_fn: Callable[[int], Example]
  num_images: int
  class_names: tuple[str, ...]
  normalisation: Normalisation
  image_shape: tuple[int, int, int]
  is_cropped: bool
  on_error: Literal["refuse", "skip"]
  report_fn: Callable[[str], None] = report_to_nobody

  def __len__(self) -> int:
    """The number of images."""
    return self.num_images

  def read(self, indices: Int[np.ndarray, "B"], rng: np.random.Generator | None) -> Batch:
    """The images at these places; cropped ones show a random part with a generator, else their centre."""
    examples = [self.read_one(int(index)) for index in indices]
    images = [self.crop(example.image, rng) for example in examples]
    return Batch(
      indices.astype(np.int32), np.stack(images), np.array([example.label for example in examples], np.int32)
    )

  def crop(self, image: UInt8[np.ndarray, "H W 3"], rng: np.random.Generator | None) -> UInt8[np.ndarray, "h w 3"]:
    """The part of an image that a batch shows."""
    if not self.is_cropped:
      return image
    size = self.image_shape[0]
    return central_crop(image, (size, size), crop=CENTRAL_CROP) if rng is None else random_crop(image, size, rng)

  def read_one(self, index: int) -> Example:
    """The image at this place, or the next one that can be read."""
    for step in range(self.num_images):
      place = (index + step) % self.num_images
      try:
        example = self.read_fn(place)
        check_labels(np.array([example.label]), [example.id], len(self.class_names))
        return example
      except ValueError as error:
        if self.on_error == "refuse":
          raise ValueError(f"{error} To train without such images, set on_error='skip'.") from error
        self.report_fn(f"skipped: {error}")
    raise ValueError("dataset must hold an image that can be read, but none of its images can be.")


def open_training_set(
  dataset: str,
  split: str,
  *,
  data_dir: str | os.PathLike[str] | None,
  image_size: int | None,
  on_error: Literal["refuse", "skip"],
) -> TrainingSet:
  """The labelled images that `dataset` names: a folder with one directory a class, or a TFDS data set.

  Args:
    dataset: the folder or the TFDS name.
    split: the TFDS split; a folder has none.
    data_dir: the TFDS folder; None for TFDS's default.
    image_size: pixels a side of the crops; None for data sets whose images have one size.
    on_error: what is done with an image that cannot be read.

  Raises:
    ValueError: there is nothing of that name, the images need a size, or a label is out of range.
  """
  if pathlib.Path(dataset).is_dir():
    return open_image_folder(pathlib.Path(dataset), image_size=image_size, on_error=on_error)
  if os.sep in dataset:
    raise ValueError(f"dataset must be an existing folder or the name of a TFDS data set, got {dataset!r}.")
  source = tfds.open_data_source(dataset, split, data_dir)
  features = source.dataset_info.features
  if features is None or not {"image", "label"} <= set(features):
    raise ValueError(f"dataset {dataset!r} must have the features image and label, got {sorted(features or ())}.")
  class_names = tuple(features["label"].names)
  normalisation = NORMALISATIONS.get(tfds.dataset_of(dataset), IMAGENET_NORMALISATION)
  shape = features["image"].shape
  if shape[-1] != 3:
    raise ValueError(f"dataset must hold images of three channels, got {dataset!r} with the shape {shape}.")
  if image_size is None and None in shape:
    raise ValueError(f"image_size must be given for {dataset!r}, whose images have the shape {shape}.")
  if image_size is None and len(source) * np.prod(shape) <= MOST_BYTES_IN_MEMORY:
    description = {"data": dataset, "split": split, "version": str(source.dataset_info.version)}
    return read_into_memory(source, class_names, normalisation, description)
  return Streamed(
    read_fn=lambda index: tfds_example(source[index], index),
    num_images=len(source),
    class_names=class_names,
    normalisation=normalisation,
    image_shape=(image_size, image_size, 3) if image_size is not None else shape,
    is_cropped=image_size is not None,
    on_error=on_error,
  )


def read_into_memory(
  source: Any, class_names: tuple[str, ...], normalisation: Normalisation, description: Mapping[str, str | int]
) -> InMemory:
  """Decodes a whole TFDS split of equally large images, in the order of their ids."""
  examples = [tfds_example(example, index) for index, example in enumerate(source.__getitems__(range(len(source))))]
  examples.sort(key=lambda example: example.id)
  labels = np.array([example.label for example in examples], np.int32)
  check_labels(labels, [example.id for example in examples], len(class_names))
  return InMemory(
    images=np.stack([example.image for example in examples]),
    labels=labels,
    ids=tuple(example.id for example in examples),
    description={**description, "num_images": len(examples)},
    class_names=class_names,
    normalisation=normalisation,
  )


def tfds_example(example: dict[str, Any], index: int) -> Example:
  """One example of TFDS; those without an id are known by their place."""
  return Example(tfds.tfds_id(example, index), example["image"], int(example["label"]))


def check_labels(labels: Int[np.ndarray, "N"], ids: Sequence[str], num_classes: int) -> None:
  """Raises ValueError unless every label names a class."""
  wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
  if len(wrong):
    raise ValueError(
      f"labels must be in 0..{num_classes - 1}, but {len(wrong)} of {len(labels)} are not: "
      f"{', '.join(f'{ids[index]} has {labels[index]}' for index in wrong[:5])}."
    )


def open_image_folder(
  folder: pathlib.Path,
  *,
  image_size: int | None,
  on_error: Literal["refuse", "skip"],
) -> Streamed:
  """The images of a folder with one directory a class; the directories' names, sorted, are the classes.

  Raises:
    ValueError: no size is given, there are fewer than two classes, or a class has no image.
  """
  if image_size is None:
    raise ValueError(f"image_size must be given for a folder of images, {str(folder)!r}.")
  class_names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."))
  if len(class_names) < 2:
    raise ValueError(
      f"dataset must be a folder with one directory a class, at least two, got {str(folder)!r} with {len(class_names)}."
    )
  paths = [(path, label) for label, name in enumerate(class_names) for path in find_image_files(folder / name)]

  def read(index: int) -> Example:
    path, label = paths[index]
    try:
      return Example(str(path.relative_to(folder)), read_image(path), label)
    except UNREADABLE as error:
      problem = str(error).replace(str(path), path.name)
      raise ValueError(f"{path.relative_to(folder)} cannot be read: {problem}.") from error

  return Streamed(
    read_fn=read,
    num_images=len(paths),
    class_names=class_names,
    normalisation=IMAGENET_NORMALISATION,
    image_shape=(image_size, image_size, 3),
    is_cropped=True,
    on_error=on_error,
  )


def split_off_validation(
  num_images: int, num_validation: int, *, seed: int
) -> tuple[Int[np.ndarray, "N"], Int[np.ndarray, "M"]]:
  """The places to train on, and `num_validation` random ones that are held out, both ascending.

  Raises:
    ValueError: nothing would be left to train on.
  """
  if num_validation >= num_images:
    raise ValueError(f"num_validation must be below the {num_images} images of the split, got {num_validation}.")
  order = np.random.default_rng([seed, num_images]).permutation(num_images)
  return np.sort(order[num_validation:]), np.sort(order[:num_validation])


class ShuffledOrder:
  """The places of each batch, epoch after epoch, each a permutation of its own.

  A whole batch at a time, since Grain's shuffle and batch go place by place, for 20 times as long.
  """

  def __init__(self, places: Int[np.ndarray, "N"], *, batch_size: int, num_epochs: int, seed: int):
    self._places = places
    self._batch_size = batch_size
    self._num_epochs = num_epochs
    self._seed = seed
    # Batches of two epochs may be asked for in turn, when the next one is read ahead.
    self._permutation_fn = functools.lru_cache(maxsize=2)(self._permutation)

  def __len__(self) -> int:
    """Full batches of all epochs."""
    return self._num_epochs * (len(self._places) // self._batch_size)

  def __getitem__(self, index: int) -> Int[np.ndarray, "B"]:
    """The places of this batch."""
    epoch, batch = divmod(index, len(self._places) // self._batch_size)
    return self._permutation_fn(epoch)[batch * self._batch_size : (batch + 1) * self._batch_size]

  def _permutation(self, epoch: int) -> Int[np.ndarray, "N"]:
    return np.random.default_rng([self._seed, epoch]).permutation(self._places)


def training_batches(
  training_set: TrainingSet,
  indices: Int[np.ndarray, "N"],
  *,
  batch_size: int,
  num_epochs: int,
  seed: int,
  shard_index: int = 0,
  num_shards: int = 1,
) -> grain.DatasetIterator:
  """Full batches of all epochs, each epoch in an order of its own; what is left of an epoch is not seen in it.

  The iterator's `get_state()` and `set_state()` go with a checkpoint.

  Args:
    training_set: the images.
    indices: the places to train on.
    batch_size: images a batch, of this process.
    num_epochs: how often each image is seen.
    seed: decides the order and the crops.
    shard_index: which of `num_shards` parts of the places is this process's own.
    num_shards: how many processes share the places.
  """
  order = ShuffledOrder(indices[shard_index::num_shards], batch_size=batch_size, num_epochs=num_epochs, seed=seed)
  dataset = grain.MapDataset.source(order).seed(seed).random_map(training_set.read)
  return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=4, prefetch_buffer_size=8)))
