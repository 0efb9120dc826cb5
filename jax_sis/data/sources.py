"""Images in: TFDS data sets, image files and the embedded sample -> fixed-size batches, without TensorFlow.

Every source gives random access to one record per image: its id, 8-bit pixels, a label if one is known, and the
reason if the image cannot be used. One bad image never stops the others.
"""

import collections
import functools
import hashlib
import os
import pathlib
from collections.abc import Sequence
from typing import Protocol, TypedDict, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from jax_sis.data.images import IMAGE_SUFFIXES, UNREADABLE, find_image_files, fit, read_image
from jax_sis.data.tfds import labelled_features, open_data_source, tfds_id

NO_LABEL = -1
SAMPLE_DIR = pathlib.Path(__file__).parents[1] / "assets" / "cifar10_test_sample"


class Record(TypedDict):
  """One image. If it could not be read, `image` is all zeros and `error` says why."""

  index: int
  id: str
  image: UInt8[np.ndarray, "H W C"]
  label: int
  error: str


@runtime_checkable
class ImageSource(Protocol):
  """Random access to the images of a run.

  Attributes:
    class_names: the names that the labels index; empty if the source has no labels of its own.
    description: what the images are, for the run's specification.
  """

  class_names: tuple[str, ...]
  description: dict[str, str | int | bool]

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Record: ...


@runtime_checkable
class ListedSource(ImageSource, Protocol):
  """A source that knows the ids of its images without decoding them."""

  def ids(self) -> list[str]: ...


class TfdsSource:
  """A split of a TFDS data set in array_record form, in stored order.

  Args:
    name: a TFDS name such as `cifar10`.
    split: a TFDS split such as `test` or `test[:64]`.
    data_dir: the TFDS folder that holds it; None for TFDS's default.
    input_shape: height, width and channels that the classifier takes.
    crop: how much to show of an image of another size, see `images.central_crop`; None rejects such images.

  Raises:
    ValueError: there is no such data set or split, it has no images with labels, or it is empty.
  """

  def __init__(
    self,
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None,
    input_shape: tuple[int, ...],
    crop: float | None = None,
  ) -> None:
    self._source = open_data_source(name, split, data_dir)
    self._place = (name, split, data_dir)
    self._input_shape = input_shape
    self._crop = crop
    self.class_names = tuple(labelled_features(self._source, name)["label"].names)
    self.description = {
      "data": name,
      "split": split,
      "version": str(self._source.dataset_info.version),
      "num_images": len(self),
    }
    if crop is not None:
      self.description["crop"] = crop
    if not len(self):
      raise ValueError(f"split must hold at least one image, got {split!r} of {name!r}, which is empty.")

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Record:
    example = self._source[index]
    try:
      image, error = fit(example["image"], self._input_shape, crop=self._crop), ""
    except ValueError as problem:
      image, error = np.zeros(self._input_shape, np.uint8), str(problem)
    return Record(
      index=index,
      id=tfds_id(example, index),
      image=image,
      label=int(example["label"]),
      error=error,
    )

  def ids(self) -> list[str]:
    undecoded = open_data_source(*self._place, with_images=False)
    return [tfds_id(undecoded[index], index) for index in range(len(undecoded))]


class FileSource:
  """Image files, decoded by Pillow and converted to RGB.

  An image's label is the class with the name of the file's folder, if there is one.

  Args:
    paths: the files, in order.
    ids: a name for each.
    class_names: the classifier's classes.
    input_shape: height, width and channels that the classifier takes.
    crop: how much to show of an image of another size, see `images.central_crop`; None rejects such images.
    description: what the files are.
  """

  def __init__(
    self,
    paths: Sequence[pathlib.Path],
    ids: Sequence[str],
    *,
    class_names: tuple[str, ...],
    input_shape: tuple[int, ...],
    crop: float | None = None,
    description: str,
  ) -> None:
    self._paths = paths
    self._ids = ids
    self._input_shape = input_shape
    self._crop = crop
    self.class_names = class_names
    self.description = {"data": description, "num_images": len(paths), "crop": crop, "files": hash_files(paths, ids)}

  def __len__(self) -> int:
    return len(self._paths)

  def __getitem__(self, index: int) -> Record:
    path = self._paths[index]
    image, error = np.zeros(self._input_shape, np.uint8), ""
    try:
      image = self._decode(path)
    except UNREADABLE as problem:
      error = str(problem).replace(str(path), path.name)
    label = self.class_names.index(path.parent.name) if path.parent.name in self.class_names else NO_LABEL
    return Record(index=index, id=self._ids[index], image=image, label=label, error=error)

  def ids(self) -> list[str]:
    return list(self._ids)

  def _decode(self, path: pathlib.Path) -> UInt8[np.ndarray, "H W C"]:
    return fit(read_image(path), self._input_shape, crop=self._crop)


class SelectedSource:
  """Some images of another source, in the order of `ids`.

  Args:
    source: all images.
    ids: the images to show; each must be the id of exactly one image.

  Raises:
    ValueError: an id belongs to no image, or to several.
  """

  def __init__(self, source: ListedSource, ids: Sequence[str]) -> None:
    counts = collections.Counter(available := source.ids())
    wrong = [name for name in ids if counts[name] != 1]
    if wrong:
      raise ValueError(
        f"--ids must name images of the data ({available[0]!r}, ... in {len(available)}), but {len(wrong)} of "
        f"{len(ids)} belong to no image or to several, such as {wrong[0]!r}."
      )
    place_of = {name: place for place, name in enumerate(available)}
    self._places = [place_of[name] for name in ids]
    self._ids = list(ids)
    self._source = source
    self.class_names = source.class_names
    digest = hashlib.sha256("\0".join(ids).encode())
    self.description = {**source.description, "num_images": len(ids), "ids": digest.hexdigest()}

  def __len__(self) -> int:
    return len(self._places)

  def __getitem__(self, index: int) -> Record:
    return {**self._source[self._places[index]], "index": index}

  def ids(self) -> list[str]:
    return self._ids


def open_source(
  data: str,
  *,
  split: str,
  data_dir: str | os.PathLike[str] | None,
  class_names: tuple[str, ...],
  input_shape: tuple[int, ...],
  crop: float | None = None,
) -> ListedSource:
  """The source that `data` names: `sample`, an image file, a folder of images, or a TFDS data set.

  A TFDS data set may name classes of which the classifier knows the numbers only.

  Raises:
    ValueError: nothing has that name, or its classes are not the classifier's.
  """
  open_files = functools.partial(FileSource, class_names=class_names, input_shape=input_shape, crop=crop)
  if data == "sample":
    paths = sorted(SAMPLE_DIR.glob("*/*.png"), key=lambda path: path.stem)
    return open_files(paths, [path.stem for path in paths], description="sample")
  path = pathlib.Path(data)
  if path.exists():
    paths = [path] if path.is_file() else find_image_files(path)
    root = path.parent if path.is_file() else path
    return open_files(paths, [str(file.relative_to(root)) for file in paths], description=str(path))
  if os.sep in data or path.suffix.lower() in IMAGE_SUFFIXES:
    raise ValueError(f"--data must be an existing image file or folder, a TFDS data set or 'sample', got {data!r}.")
  source = TfdsSource(data, split, data_dir=data_dir, input_shape=input_shape, crop=crop)
  if class_names not in (source.class_names, number_classes(len(source.class_names))):
    raise ValueError(
      f"the data set's classes must be the classifier's, got {len(source.class_names)} in {data} "
      f"({', '.join(source.class_names[:3])}, ...) and {len(class_names)} in the checkpoint "
      f"({', '.join(class_names[:3])}, ...)."
    )
  return source


def number_classes(count: int) -> tuple[str, ...]:
  """The names of classes of which no more than the number is known."""
  return tuple(str(number) for number in range(count))


def hash_files(paths: Sequence[pathlib.Path], ids: Sequence[str]) -> str:
  """SHA-256 over names and sizes, which shows that a folder has changed without reading all of it."""
  digest = hashlib.sha256()
  for path, name in zip(paths, ids, strict=True):
    digest.update(f"{name}\0{path.stat().st_size}\0".encode())
  return digest.hexdigest()
