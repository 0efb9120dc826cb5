"""Images for training: in memory if they fit, else read when needed; in an order that a seed decides.

Grain reads ahead; the state of its iterator is a small dictionary that goes into a checkpoint.
"""

import collections
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Int, UInt8

from jax_sis.core.messages import make_printable
from jax_sis.data import folders, tfds
from jax_sis.data.images import CENTRAL_FRAMING, central_crop, random_crop, read_image
from jax_sis.data.normalisation import IMAGENET_NORMALISATION, NORMALISATIONS, Normalisation

if TYPE_CHECKING:
  import grain

MOST_BYTES_IN_MEMORY = 2 * 2**30
NONE_READABLE = "dataset must hold an image that can be read, but none of its images can be."


class Batch(NamedTuple):
  """The images of a step: their places in the data set, pixels, labels, and which pixels are shown (None: all)."""

  indices: Int[np.ndarray, "B"]
  images: UInt8[np.ndarray, "B H W 3"]
  labels: Int[np.ndarray, "B"]
  kept: Bool[np.ndarray, "B H W 1"] | None = None


class TrainingSet(Protocol):
  """Labelled images by place.

  Attributes:
    class_names: a name for each label.
    normalisation: how inputs are made of these images unless a recipe says otherwise.
    report_fn: called with a line about every image that is skipped.
  """

  class_names: tuple[str, ...]
  normalisation: Normalisation
  report_fn: Callable[[str], None]

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Height, width and channels of a batch's images."""
    ...

  def __len__(self) -> int: ...

  def read(self, indices: Int[np.ndarray, "B"], rng: np.random.Generator | None) -> Batch:
    """The images at these places. If they need crops, a generator makes the crops random."""
    ...


def refuse(error: ValueError) -> None:
  raise ValueError(f"{error} To train without it, set on_error='skip'.") from error


def print_skipped(error: ValueError) -> None:
  print(f"skipped: {error}", flush=True)


def ignore(line: str) -> None:
  """What `report_fn` is until a run sets it."""
  del line


@dataclasses.dataclass(kw_only=True)
class InMemory:
  """A data set of equally large images, decoded once.

  Attributes:
    images: the pixels.
    labels: the classes.
    ids: a name for each image.
    description: what the images are, in the form of `sources.TfdsSource`.
    kept_fn: places -> which pixels of those images are shown; None shows all.
  """

  images: UInt8[np.ndarray, "N H W 3"]
  labels: Int[np.ndarray, "N"]
  ids: tuple[str, ...]
  description: dict[str, str | int]
  class_names: tuple[str, ...]
  normalisation: Normalisation
  kept_fn: Callable[[Int[np.ndarray, "B"]], Bool[np.ndarray, "B H W 1"]] | None = None
  report_fn: Callable[[str], None] = ignore

  @property
  def image_shape(self) -> tuple[int, int, int]:
    return self.images.shape[1:]

  def __len__(self) -> int:
    return len(self.images)

  def read(self, indices: Int[np.ndarray, "B"], rng: np.random.Generator | None) -> Batch:
    del rng
    kept = None if self.kept_fn is None else self.kept_fn(indices)
    return Batch(indices.astype(np.int32), self.images[indices], self.labels[indices], kept)


class Example(NamedTuple):
  """One image, before it is cropped."""

  id: str
  image: UInt8[np.ndarray, "H W 3"]
  label: int


@dataclasses.dataclass(kw_only=True)
class Streamed:
  """Images decoded when they are needed and, if asked, cropped to one size.

  Attributes:
    read_fn: place -> the image there; raises ValueError if it cannot be read.
    num_images: how many there are.
    is_cropped: whether images are cropped to `image_shape`; otherwise they already have that shape.
    on_error: `refuse` an image that cannot be read, or `skip` it: the next readable image takes its place.
    report_fn: called with a line about every image that is skipped.
  """

  read_fn: Callable[[int], Example]
  num_images: int
  class_names: tuple[str, ...]
  normalisation: Normalisation
  image_shape: tuple[int, int, int]
  is_cropped: bool
  on_error: Literal["refuse", "skip"]
  report_fn: Callable[[str], None] = ignore

  def __len__(self) -> int:
    return self.num_images

  def read(self, indices: Int[np.ndarray, "B"], rng: np.random.Generator | None) -> Batch:
    """The images at these places; a crop shows a random part with a generator, otherwise the centre."""
    examples = [self.read_one(int(index)) for index in indices]
    images = [self.crop(example.image, rng) for example in examples]
    return Batch(
      indices.astype(np.int32), np.stack(images), np.array([example.label for example in examples], np.int32)
    )

  def crop(self, image: UInt8[np.ndarray, "H W 3"], rng: np.random.Generator | None) -> UInt8[np.ndarray, "h w 3"]:
    if not self.is_cropped:
      return image
    size = self.image_shape[0]
    return central_crop(image, (size, size), CENTRAL_FRAMING) if rng is None else random_crop(image, size, rng)

  def read_one(self, index: int) -> Example:
    """The image at this place, or with `skip` the next one that can be read."""
    for step in range(self.num_images):
      place = (index + step) % self.num_images
      try:
        example = self.read_fn(place)
        check_labels(np.array([example.label]), [example.id], len(self.class_names))
        return example
      except ValueError as error:
        if self.on_error == "refuse":
          refuse(error)
        self.report_fn(f"skipped: {error}")
    raise ValueError(NONE_READABLE)


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
    on_error: what to do with an image that cannot be read.

  Raises:
    ValueError: nothing has that name, the images need `image_size`, or a label is out of range.
  """
  # Every recipe has a split, which so does not say that a data set of TFDS is meant.
  if not tfds.is_meant(dataset, split=None, data_dir=data_dir, argument="dataset"):
    if pathlib.Path(dataset).is_dir():
      return open_image_folder(pathlib.Path(dataset), image_size=image_size, on_error=on_error)
    raise ValueError(f"dataset must be an existing folder or the name of a TFDS data set, got {dataset!r}.")
  source = tfds.open_data_source(dataset, split, data_dir)
  features = tfds.labelled_features(source, dataset)
  class_names = tuple(features["label"].names)
  normalisation = NORMALISATIONS.get(tfds.dataset_of(dataset), IMAGENET_NORMALISATION)
  shape = features["image"].shape
  if shape[-1] != 3:
    raise ValueError(f"dataset must hold images of three channels, got {dataset!r} with the shape {shape}.")
  if image_size is None and None in shape:
    raise ValueError(f"image_size must be given for {dataset!r}, whose images have the shape {shape}.")
  if image_size is None and len(source) * np.prod(shape) <= MOST_BYTES_IN_MEMORY:
    description = {"data": dataset, "split": split, "version": str(source.dataset_info.version)}
    return read_into_memory(source, class_names, normalisation, description, on_error=on_error)
  return Streamed(
    read_fn=lambda index: tfds_example(tfds.read_example(source, index), index),
    num_images=len(source),
    class_names=class_names,
    normalisation=normalisation,
    image_shape=(image_size, image_size, 3) if image_size is not None else shape,
    is_cropped=image_size is not None,
    on_error=on_error,
  )


def read_into_memory(
  source: Any,
  class_names: tuple[str, ...],
  normalisation: Normalisation,
  description: Mapping[str, str | int],
  *,
  on_error: Literal["refuse", "skip"],
) -> InMemory:
  """Decodes a whole TFDS split of equally large images, in the order of their ids; see `Streamed` for `on_error`."""
  read = tfds.read_all(source, refuse_fn=refuse if on_error == "refuse" else print_skipped)
  examples = [tfds_example(example, index) for index, example in read.items()]
  if not examples:
    raise ValueError(NONE_READABLE)
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


def tfds_example(example: Mapping[str, Any], index: int) -> Example:
  return Example(tfds.tfds_id(example, index), example["image"], int(example["label"]))


def check_labels(labels: Int[np.ndarray, "N"], ids: Sequence[str], num_classes: int) -> None:
  """Raises ValueError unless every label is the number of a class."""
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
  """The images of a folder with one directory for each class; the sorted names of the directories are the classes.

  Raises:
    ValueError: no size is given, there are fewer than two classes, or a class has no image.
  """
  if image_size is None:
    raise ValueError(f"image_size must be given for a folder of images, {str(folder)!r}.")
  class_names = tuple(
    sorted(path.name for path in folder.iterdir() if path.is_dir() and not folders.is_hidden(path.name))
  )
  if len(class_names) < 2:
    raise ValueError(
      f"dataset must be a folder with a directory for each class, at least two, got {str(folder)!r} with "
      f"{len(class_names)}."
    )
  listings = [folders.list_images(folder / name) for name in class_names]
  paths = [(path, label) for label, listing in enumerate(listings) for path in listing.paths]
  left_out = sum((listing.left_out for listing in listings), collections.Counter[str]())
  if left_out:
    print(folders.describe_left_out(left_out, folder), flush=True)

  def read(index: int) -> Example:
    path, label = paths[index]
    image_id = make_printable(str(path.relative_to(folder)))
    try:
      return Example(image_id, read_image(path, background=IMAGENET_NORMALISATION.mean_colour), label)
    except ValueError as error:
      raise ValueError(f"{image_id} cannot be read: {error}.") from error

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
  """The places to train on, and `num_validation` random others, both ascending; ValueError if none are left."""
  if num_validation >= num_images:
    raise ValueError(f"num_validation must be below the {num_images} images of the split, got {num_validation}.")
  order = np.random.default_rng([seed, num_images]).permutation(num_images)
  return np.sort(order[num_validation:]), np.sort(order[:num_validation])


class ShuffledOrder:
  """The places of each batch; every epoch is a permutation of its own.

  Gives a whole batch at a time: Grain's own shuffle and batch work place by place, and take 20 times as long.
  """

  def __init__(self, places: Int[np.ndarray, "N"], *, batch_size: int, num_epochs: int, seed: int):
    self._places = places
    self._batch_size = batch_size
    self._num_epochs = num_epochs
    self._seed = seed
    # When the next epoch is read ahead, batches of two epochs are asked for in turn.
    self._permutation_fn = functools.lru_cache(maxsize=2)(self._permutation)

  def __len__(self) -> int:
    return self._num_epochs * (len(self._places) // self._batch_size)

  def __getitem__(self, index: int) -> Int[np.ndarray, "B"]:
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
) -> "grain.DatasetIterator":
  """The full batches of all epochs, each in an order of its own; images that fill no batch are left out of their epoch.

  A checkpoint keeps the iterator's `get_state()` for its `set_state()`.

  Args:
    training_set: the images.
    indices: the places to train on.
    batch_size: images in a batch of this process.
    num_epochs: how often each image is seen.
    seed: decides the order and the crops.
    shard_index: which of the `num_shards` parts of the places this process takes.
    num_shards: how many processes share the places.
  """
  import grain

  order = ShuffledOrder(indices[shard_index::num_shards], batch_size=batch_size, num_epochs=num_epochs, seed=seed)
  dataset = grain.MapDataset.source(order).seed(seed).random_map(training_set.read)
  return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=4, prefetch_buffer_size=8)))
