"""Images in an .npy file, as CIFAR-10.1 has them: 8-bit pixels [N, H, W, C], and their labels in another beside it."""

import pathlib
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped, UInt8

from jax_sis.core.messages import first_line, make_printable
from jax_sis.data.folders import hash_contents
from jax_sis.data.images import Framing, fit
from jax_sis.data.labels import NO_LABEL
from jax_sis.data.records import Record

SUFFIX = ".npy"
DATA_ENDING, LABELS_ENDING = "_data", "_labels"
# Of a folder whose arrays all have the same labels, as that of CIFAR-10-C.
SHARED_LABELS = "labels.npy"


class ArraySource:
  """An .npy file of 8-bit pixels, numbered from 0, with the labels beside it; see `find_labels`.

  Args:
    path: the file.
    class_names: the classifier's classes.
    input_shape: height, width and channels that the classifier takes.
    framing: what to show of images of another size; None refuses them.

  Raises:
    ValueError: a file cannot be read, or holds something else.
  """

  def __init__(
    self,
    path: pathlib.Path,
    *,
    class_names: tuple[str, ...],
    input_shape: tuple[int, ...],
    framing: Framing | None = None,
  ) -> None:
    self._images = load_array(path)
    shape = self._images.shape
    fits = shape[1:] == input_shape if framing is None else len(shape) == 4 and shape[3] == input_shape[2]
    if self._images.dtype != np.uint8 or not fits or not len(self._images):
      resized = "" if framing is not None or len(shape) != 4 else "; --resize brings other sizes to it"
      raise ValueError(
        f"{str(path)!r} must hold 8-bit pixels [N, {', '.join(map(str, input_shape))}], as the classifier takes them, "
        f"got {self._images.dtype}{list(shape)}{resized}."
      )
    self._input_shape = input_shape
    self._framing = framing
    self.class_names = class_names
    self.description: dict[str, str | int | bool] = {
      "data": make_printable(str(path)),
      "num_images": len(self._images),
      **({} if framing is None else framing.describe()),
      "sha256": hash_contents(path),
    }
    label_path = find_labels(path)
    self._labels = np.full(len(self._images), NO_LABEL)
    self.notes: tuple[str, ...] = (f"No image has a label: {str(name_labels(path))!r} is not there.",)
    if label_path is not None:
      self._labels = read_labels(label_path, num_images=len(self._images), num_classes=len(class_names))
      self.description["labels"] = hash_contents(label_path)
      self.notes = (f"Labels are those of {make_printable(str(label_path))}.",)

  def __len__(self) -> int:
    return len(self._images)

  def __getitem__(self, index: int) -> Record:
    image = fit(self.read_whole(index), self._input_shape, framing=self._framing)
    return Record(index=index, id=str(index), image=image, label=int(self._labels[index]), error="")

  def read_whole(self, index: int) -> UInt8[np.ndarray, "H W C"]:
    return np.array(self._images[index])

  def ids(self) -> list[str]:
    return [str(index) for index in range(len(self))]


def load_array(path: pathlib.Path) -> Shaped[np.ndarray, "..."]:
  """The array of an .npy file, read as it is used; ValueError if there is none in it."""
  try:
    return np.load(path, mmap_mode="r", allow_pickle=False)
  except (OSError, ValueError, EOFError) as error:
    raise ValueError(f"{str(path)!r} cannot be read ({first_line(error)}).") from error


def name_labels(path: pathlib.Path) -> pathlib.Path:
  """Where the labels of an array's images are expected: `x_labels.npy` for `x_data.npy` and `x.npy`."""
  return path.with_name(f"{path.stem.removesuffix(DATA_ENDING)}{LABELS_ENDING}{SUFFIX}")


def find_labels(path: pathlib.Path) -> pathlib.Path | None:
  """The labels of an array's images: those called like it, or the `labels.npy` of its folder; None for neither."""
  found = (one for one in (name_labels(path), path.with_name(SHARED_LABELS)) if one.is_file() and one != path)
  return next(found, None)


def read_labels(path: pathlib.Path, *, num_images: int, num_classes: int) -> Int[np.ndarray, "N"]:
  """A label for each image; ValueError if the file holds something else."""
  labels: Any = load_array(path)
  is_whole = labels.shape == (num_images,) and np.issubdtype(labels.dtype, np.integer)
  if not is_whole or labels.min() < 0 or labels.max() >= num_classes:
    found = f", from {labels.min()} to {labels.max()}" if is_whole else ""
    raise ValueError(
      f"{str(path)!r} must hold the label of each image beside it, [{num_images}] whole numbers from 0 to "
      f"{num_classes - 1}, got {labels.dtype}{list(labels.shape)}{found}; call it by another name to do without labels."
    )
  return np.array(labels, np.int64)
