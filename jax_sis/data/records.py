"""What a source of images gives: a record for each, and the ids of all."""

from typing import Protocol, TypedDict, runtime_checkable

import numpy as np
from jaxtyping import UInt8


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
  """A source that knows the ids of its images without decoding them.

  Attributes:
    notes: lines that say how the images are read, and which are not.
  """

  notes: tuple[str, ...]

  def ids(self) -> list[str]: ...

  def read_whole(self, index: int) -> UInt8[np.ndarray, "H W C"]:
    """An image at its own size; it is one that could be read."""
    ...
