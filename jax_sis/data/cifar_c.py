"""CIFAR-10-C as published: a folder of .npy files, read where they lie.

Each corruption is one file with the 10,000 CIFAR-10 test images at severities 1 to 5, one after the other; `labels.npy`
has their classes, five times (Hendrycks & Dietterich, ICLR 2019, https://doi.org/10.5281/zenodo.2535967).
"""

import dataclasses
import os
import pathlib

import numpy as np
from jaxtyping import Int, UInt8

from jax_sis.core.messages import first_line
from jax_sis.data.corruptions import ALL_CORRUPTIONS, NUM_SEVERITIES, SIDE
from jax_sis.data.records import Record

CLASS_NAMES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
NUM_IMAGES = 10_000
LABELS_FILE = "labels.npy"
SHAPE = (NUM_SEVERITIES * NUM_IMAGES, SIDE, SIDE, 3)


class CifarCSource:
  """The images of one corruption at one severity, as an ImageSource."""

  def __init__(self, images: UInt8[np.ndarray, "N 32 32 3"], labels: Int[np.ndarray, "N"], description: str):
    self._images = images
    self._labels = labels
    self.class_names: tuple[str, ...] = CLASS_NAMES
    self.description: dict[str, str | int | bool] = {"data": description, "num_images": len(self)}

  def __len__(self) -> int:
    return len(self._labels)

  def __getitem__(self, index: int) -> Record:
    return Record(
      index=index, id=make_id(index), image=np.array(self._images[index]), label=int(self._labels[index]), error=""
    )


def make_id(index: int) -> str:
  """TFDS's id of the CIFAR-10 image that was corrupted; both follow the order of the archive."""
  return f"test_{index:05}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CifarC:
  """The published folder, opened and checked.

  Attributes:
    directory: the folder.
    images: for each corruption that is there, its file, memory-mapped.
    labels: the classes of the 10,000 images of each severity.
  """

  directory: pathlib.Path
  images: dict[str, UInt8[np.ndarray, "N 32 32 3"]]
  labels: Int[np.ndarray, "N"]

  @property
  def missing(self) -> tuple[str, ...]:
    return tuple(name for name in ALL_CORRUPTIONS if name not in self.images)

  def source(self, corruption: str, severity: int) -> CifarCSource:
    """The images of one corruption at a severity of 1 to 5."""
    rows = slice((severity - 1) * NUM_IMAGES, severity * NUM_IMAGES)
    return CifarCSource(self.images[corruption][rows], self.labels, f"CIFAR-10-C {corruption} {severity}")


def open_cifar_c(directory: str | os.PathLike[str]) -> CifarC:
  """Opens the published folder. Corruptions without a file are left out, see `missing`.

  Raises:
    ValueError: there is no such folder, it is not CIFAR-10-C, or a file is damaged.
  """
  directory = pathlib.Path(directory)
  if not directory.is_dir():
    raise ValueError(f"--corruptions must be 'made' or the folder of CIFAR-10-C, got {str(directory)!r}, not a folder.")
  names = [name for name in ALL_CORRUPTIONS if (directory / f"{name}.npy").is_file()]
  if not names:
    raise ValueError(
      f"--corruptions must be the folder of CIFAR-10-C, with files such as {ALL_CORRUPTIONS[0]}.npy, but "
      f"{str(directory)!r} has none of them."
    )
  return CifarC(
    directory=directory,
    images={name: open_images(directory / f"{name}.npy") for name in names},
    labels=read_labels(directory / LABELS_FILE),
  )


def open_images(path: pathlib.Path) -> UInt8[np.ndarray, "N 32 32 3"]:
  """Memory-maps the file of one corruption; ValueError if it does not hold the images of CIFAR-10-C."""
  images = open_array(path)
  if images.shape != SHAPE or images.dtype != np.uint8:
    raise ValueError(
      f"{str(path)!r} must hold uint8{list(SHAPE)}, {NUM_IMAGES} images at each of {NUM_SEVERITIES} severities, "
      f"got {images.dtype}{list(images.shape)}; this is not CIFAR-10-C."
    )
  return images


def read_labels(path: pathlib.Path) -> Int[np.ndarray, "N"]:
  """The classes of the images of one severity; ValueError if the file is missing or has other labels."""
  if not path.is_file():
    raise ValueError(f"the folder of CIFAR-10-C must hold {LABELS_FILE}, but {str(path)!r} is missing; copy it there.")
  labels = open_array(path)
  if labels.shape != SHAPE[:1] or not np.issubdtype(labels.dtype, np.integer):
    raise ValueError(
      f"{str(path)!r} must hold one integer label for each of the {SHAPE[0]} images of a file, "
      f"got {labels.dtype}{list(labels.shape)}; this is not CIFAR-10-C."
    )
  wrong = labels[(labels < 0) | (labels >= len(CLASS_NAMES))]
  if wrong.size:
    raise ValueError(
      f"{str(path)!r} must hold labels in 0..{len(CLASS_NAMES) - 1}, got {wrong[0]}; this is not CIFAR-10-C."
    )
  by_severity = labels.reshape(NUM_SEVERITIES, NUM_IMAGES)
  if (by_severity != by_severity[0]).any():
    raise ValueError(
      f"{str(path)!r} must label the same images at every severity, but the labels of severity "
      f"{1 + int((by_severity != by_severity[0]).any(1).argmax())} differ from those of 1; this is not CIFAR-10-C."
    )
  return by_severity[0].astype(np.int64)


def open_array(path: pathlib.Path) -> np.ndarray:
  """Memory-maps a .npy file; ValueError if it is damaged or of another kind."""
  try:
    return np.load(path, mmap_mode="r", allow_pickle=False)
  except (OSError, ValueError, EOFError) as error:
    raise ValueError(f"{str(path)!r} must be a .npy file, but cannot be read: {first_line(error)}") from error
