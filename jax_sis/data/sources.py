"""Images in: TFDS data sets, image files, arrays and the embedded sample -> fixed-size batches, without TensorFlow.

Every source gives random access to one record per image: its id, 8-bit pixels, a label if one is known, and the
reason if the image cannot be used. One bad image never stops the others.
"""

import collections
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jax_sis.core.messages import make_printable
from jax_sis.data import folders, tfds
from jax_sis.data.arrays import SUFFIX, ArraySource
from jax_sis.data.class_names import are_imagenet, find_classes
from jax_sis.data.imagenet_classes import imagenet_class_names, imagenet_wnids
from jax_sis.data.images import Colour, Framing, fit, parse_colour, read_image
from jax_sis.data.labels import NO_LABEL, find_label_file, find_wnids, label_files
from jax_sis.data.records import ListedSource, Record

SAMPLE = "sample"
SAMPLE_DIR = pathlib.Path(__file__).parents[1] / "assets" / "cifar10_test_sample"
PHOTOS_DIR = SAMPLE_DIR.parent / "imagenet_sample"
# Pixels a side from which a classifier is one of photographs.
LARGE_SIDE = 128


class TfdsSource:
  """A split of a TFDS data set in array_record form, in stored order.

  Args:
    name: a TFDS name such as `cifar10`.
    split: a TFDS split such as `test` or `test[:64]`.
    data_dir: the TFDS folder that holds it; None for TFDS's default.
    class_names: the classifier's classes.
    input_shape: height, width and channels that the classifier takes.
    framing: what to show of an image of another size; None rejects such images.

  Raises:
    ValueError: there is no such data set or split, it has no images with labels, it is empty, or its classes are not
      the classifier's.
  """

  def __init__(
    self,
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None,
    class_names: tuple[str, ...],
    input_shape: tuple[int, ...],
    framing: Framing | None = None,
  ) -> None:
    self._source = tfds.open_data_source(name, split, data_dir)
    self._place = (name, split, data_dir)
    self._input_shape = input_shape
    self._framing = framing
    own_names = tuple(tfds.labelled_features(self._source, name)["label"].names)
    self.class_names, self._label_numbers = match_classes(own_names, class_names, name)
    self.description = {
      "data": name,
      "split": split,
      "version": str(self._source.dataset_info.version),
      "num_images": len(self),
    }
    if framing is not None:
      self.description |= framing.describe()
    if not len(self):
      raise ValueError(f"split must hold at least one image, got {split!r} of {name!r}, which is empty.")
    self.notes = ()
    if "[" in split:
      self.notes = (
        f"The split {split} counts in the order in which the data set is stored, which TFDS shuffles; it begins with "
        f"{self._describe(0)[0]}.",
      )

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index: int) -> Record:
    try:
      example = tfds.read_example(self._source, index)
    except ValueError as problem:
      image_id, label = self._describe(index)
      return Record(
        index=index, id=image_id, image=np.zeros(self._input_shape, np.uint8), label=label, error=str(problem)
      )
    try:
      image, error = fit(example["image"], self._input_shape, framing=self._framing), ""
    except ValueError as problem:
      image, error = np.zeros(self._input_shape, np.uint8), str(problem)
    return Record(
      index=index,
      id=tfds.tfds_id(example, index),
      image=image,
      label=self._label_numbers[int(example["label"])],
      error=error,
    )

  def read_whole(self, index: int) -> UInt8[np.ndarray, "H W C"]:
    return tfds.read_example(self._source, index)["image"]

  def ids(self) -> list[str]:
    return [self._describe(index)[0] for index in range(len(self))]

  @functools.cached_property
  def _undecoded(self) -> Any:
    return tfds.open_data_source(*self._place, with_images=False)

  def _describe(self, index: int) -> tuple[str, int]:
    """Id and label, also of an image that cannot be decoded; of a damaged record its place, and no label."""
    try:
      example = tfds.read_example(self._undecoded, index)
      return tfds.tfds_id(example, index), self._label_numbers[int(example["label"])]
    except ValueError:
      return tfds.tfds_id({}, index), NO_LABEL


class FileSource:
  """Image files, decoded by Pillow and converted to RGB, see `images.read_image`.

  Args:
    paths: the files, in order.
    ids: a name for each.
    labels: the number of each one's class, or NO_LABEL.
    class_names: the classifier's classes.
    input_shape: height, width and channels that the classifier takes.
    framing: what to show of an image of another size; None rejects such images.
    background: the colour behind transparent pixels.
    description: what the files are.
    notes: see ListedSource.
  """

  def __init__(
    self,
    paths: Sequence[pathlib.Path],
    ids: Sequence[str],
    labels: Sequence[int],
    *,
    class_names: tuple[str, ...],
    input_shape: tuple[int, ...],
    framing: Framing | None = None,
    background: Colour,
    description: str,
    notes: tuple[str, ...] = (),
  ) -> None:
    self._paths = paths
    self._ids = ids
    self._labels = labels
    self._input_shape = input_shape
    self._framing = framing
    self._background = background
    self.class_names = class_names
    shown = {"crop": None} if framing is None else framing.describe()
    self.description = {
      "data": description,
      "num_images": len(paths),
      **shown,
      "files": folders.hash_files(paths, ids),
    }
    self.notes = notes

  def __len__(self) -> int:
    return len(self._paths)

  def __getitem__(self, index: int) -> Record:
    image, error = np.zeros(self._input_shape, np.uint8), ""
    try:
      image = fit(read_image(self._paths[index], background=self._background), self._input_shape, framing=self._framing)
    except ValueError as problem:
      error = str(problem)
    return Record(index=index, id=self._ids[index], image=image, label=self._labels[index], error=error)

  def read_whole(self, index: int) -> UInt8[np.ndarray, "H W C"]:
    return read_image(self._paths[index], background=self._background)

  def ids(self) -> list[str]:
    return list(self._ids)


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
    self.notes = source.notes
    digest = hashlib.sha256("\0".join(ids).encode())
    self.description = {**source.description, "num_images": len(ids), "ids": digest.hexdigest()}

  def __len__(self) -> int:
    return len(self._places)

  def __getitem__(self, index: int) -> Record:
    return {**self._source[self._places[index]], "index": index}

  def read_whole(self, index: int) -> UInt8[np.ndarray, "H W C"]:
    return self._source.read_whole(self._places[index])

  def ids(self) -> list[str]:
    return self._ids


def open_source(
  data: str,
  *,
  split: str | None,
  data_dir: str | os.PathLike[str] | None,
  class_names: tuple[str, ...],
  input_shape: tuple[int, ...],
  framing: Framing | None = None,
  mean_colour: Colour,
  background: str | None = None,
) -> ListedSource:
  """The source that `data` names: `sample`, an image file, a folder of images, an array, or a TFDS data set.

  A TFDS data set may name classes of which the classifier knows the numbers only.

  Args:
    data: the name.
    split: of a TFDS data set, None for `tfds.DEFAULT_SPLIT`.
    data_dir: the TFDS folder; None for TFDS's default.
    class_names: the classifier's classes.
    input_shape: height, width and channels that the classifier takes.
    framing: what to show of an image of another size; None rejects such images.
    mean_colour: what shows through transparent pixels of image files, where `background` is None.
    background: another colour, see `images.parse_colour`.

  Raises:
    ValueError: nothing has that name, or two things have, an option is not for it, its classes are not the
      classifier's, or a folder's name is that of several classes.
  """
  open_files = functools.partial(
    FileSource,
    class_names=class_names,
    input_shape=input_shape,
    framing=framing,
    background=mean_colour if background is None else parse_colour(background),
  )
  if data == SAMPLE:
    return open_sample(open_files, class_names, input_shape, split=split, data_dir=data_dir)
  if tfds.is_meant(data, split=split, data_dir=data_dir):
    if background is not None:
      raise ValueError(f"--background is for image files, but --data {data} is a TFDS data set; leave it out.")
    split = tfds.DEFAULT_SPLIT if split is None else split
    return TfdsSource(data, split, data_dir=data_dir, class_names=class_names, input_shape=input_shape, framing=framing)
  path = pathlib.Path(data)
  if path.suffix == SUFFIX and path.is_file():
    if background is not None:
      raise ValueError(f"--background is for image files, but --data {data} is an array; leave it out.")
    return ArraySource(path, class_names=class_names, input_shape=input_shape, framing=framing)
  source = open_path(open_files, path, class_names)
  colour = f"RGB {open_files.keywords['background']}{', the mean colour' if background is None else ''}"
  reading = (
    "Image files are read upright (EXIF), of several frames the first, greyscale and CMYK ones as RGB, transparent "
    f"pixels on {colour}."
  )
  source.notes = (reading, *source.notes)
  return source


def is_large(input_shape: tuple[int, ...]) -> bool:
  """Whether a classifier of such inputs (height, width, channels) is one of photographs, as ImageNet's are."""
  return min(input_shape[:2]) >= LARGE_SIDE


def open_sample(
  open_files: Callable[..., FileSource],
  class_names: tuple[str, ...],
  input_shape: tuple[int, ...],
  *,
  split: str | None,
  data_dir: str | os.PathLike[str] | None,
) -> FileSource:
  """The embedded images, photographs for large inputs; ValueError for options that are not for them."""
  if split is not None or data_dir is not None:
    raise ValueError(
      f"--data-dir and --split are for TFDS data sets, but --data is {SAMPLE!r}, the embedded images; name the data "
      "set by --data."
    )
  notes = ()
  if pathlib.Path(SAMPLE).exists():
    notes = (f"--data {SAMPLE} are the embedded images; what is here is --data ./{SAMPLE}.",)
  if is_large(input_shape):
    paths = sorted(PHOTOS_DIR.glob("*.jpg"))
    ids = [path.stem.partition("_")[2] for path in paths]
    found, name = [find_wnids(path.stem, class_names) for path in paths], f"imagenet {SAMPLE}"
  else:
    paths = sorted(SAMPLE_DIR.glob("*/*.png"), key=lambda path: path.stem)
    ids = [path.stem for path in paths]
    found, name = [find_classes(path.parent.name, class_names) for path in paths], SAMPLE
  labels = [numbers[0] if len(numbers) == 1 else NO_LABEL for numbers in found]
  return open_files(paths, ids, labels, description=name, notes=notes)


def open_path(open_files: Callable[..., FileSource], path: pathlib.Path, class_names: tuple[str, ...]) -> FileSource:
  """The images of a file or folder, with their labels, see `label_files`."""
  if not path.exists():
    raise ValueError(
      f"--data must be an existing image file, folder or .npy, a TFDS data set or {SAMPLE!r}, got {str(path)!r}."
    )
  listing = folders.Listing(paths=[path]) if path.is_file() else folders.list_images(path)
  root = path.parent if path.is_file() else path
  label_path = None
  if path.is_dir() and any(file.parent == root for file in listing.paths):
    label_path = find_label_file(root, class_names)
  if label_path is not None and label_path.parent == root:
    listing.left_out.subtract([label_path.suffix.lower()])
  labels = label_files(listing.paths, root, class_names, label_path=label_path)
  source = open_files(
    listing.paths,
    [make_printable(str(file.relative_to(root))) for file in listing.paths],
    labels.numbers,
    description=make_printable(str(path)),
    notes=tuple(filter(None, (folders.describe_left_out(+listing.left_out, path), *labels.notes))),
  )
  if label_path is not None:
    source.description["labels"] = folders.hash_contents(label_path)
  return source


def match_classes(
  own_names: tuple[str, ...], class_names: tuple[str, ...], name: str
) -> tuple[tuple[str, ...], Sequence[int]]:
  """The names of a TFDS data set's classes, and which of these each of its labels means.

  A data set whose classes are ImageNet's wnids, all or some in any order, fits a classifier of ImageNet's classes.

  Raises:
    ValueError: the classes are not the classifier's.
  """
  is_of_wnids = set(own_names) <= set(imagenet_wnids())
  if is_of_wnids and own_names != class_names and are_imagenet(class_names):
    is_numbered = class_names == number_classes(len(class_names))
    numbers = [find_classes(wnid, class_names)[0] for wnid in own_names]
    return (imagenet_class_names() if is_numbered else class_names), numbers
  if class_names not in (own_names, number_classes(len(own_names))):
    raise ValueError(
      f"the data set's classes must be the classifier's, got {len(own_names)} in {name} "
      f"({', '.join(own_names[:3])}, ...) and {len(class_names)} in the checkpoint "
      f"({', '.join(class_names[:3])}, ...)."
    )
  return own_names, range(len(own_names))


def number_classes(count: int) -> tuple[str, ...]:
  """The names of classes of which no more than the number is known."""
  return tuple(str(number) for number in range(count))
