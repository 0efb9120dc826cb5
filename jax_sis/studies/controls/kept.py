"""What is found a batch at a time: joined, as JSON, and kept in the run's folder until all of it is there."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Shaped

from jax_sis import results

T = TypeVar("T")


class Kept:
  """The batches that an unfinished command has found, a file each in the run's folder.

  Their names stand for what fixes them, so that other commands leave them alone.

  Args:
    folder: the run's.
    spec: what fixes the batches, in JSON types.

  Attributes:
    records: one for each batch, in the order in which they were found.

  Raises:
    StorageError: the folder cannot be read.
  """

  def __init__(self, folder: results.Folder, spec: Mapping[str, Any]):
    self._folder = folder
    self._prefix = f"controls-{hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:12]}-"
    contents = folder.read_many(folder.list(self._prefix))
    self.records = [json.loads(content) for content in contents if content is not None]

  def append(self, record: dict[str, Any]) -> None:
    """Keeps a batch; StorageError where that cannot be written."""
    self._folder.patient.write(self._name(len(self.records)), json.dumps(record).encode())
    self.records.append(record)

  def remove(self) -> None:
    """For when all is found, and the answer is written."""
    # From the last one, so that whoever ends this early leaves the first ones.
    for number in reversed(range(len(self.records))):
      self._folder.delete(self._name(number))

  def _name(self, number: int) -> str:
    return f"{self._prefix}{number:06}.json"


def encode_arrays(found: Any) -> dict[str, list[Any]]:
  """The arrays of a dataclass as JSON, in which a number that is not finite is None."""
  arrays = {name: value for name, value in vars(found).items() if isinstance(value, np.ndarray)}
  nothing = np.array(None)
  return {name: np.where(np.isfinite(value), value, nothing).tolist() for name, value in arrays.items()}


def decode_arrays(content: Mapping[str, Sequence[Any]]) -> dict[str, Shaped[np.ndarray, "N ..."]]:
  """The same arrays again; confidences alone may be None, and are as precise as a classifier's."""
  return {name: np.array(values, np.float32 if name == "confidence" else None) for name, values in content.items()}


def join(parts: Sequence[T]) -> T:
  """A dataclass of arrays from those of its batches; what is no array is as in the first."""
  first: Any = parts[0]
  names = [name for name, value in vars(first).items() if isinstance(value, np.ndarray)]
  return dataclasses.replace(first, **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})
