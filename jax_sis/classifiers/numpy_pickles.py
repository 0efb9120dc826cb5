"""The arrays of NumPy that a pickle holds, made of nothing but their shape, type and bytes."""

import math
import pickle
from typing import Any

import numpy as np

# NumPy 2 has renamed its modules.
RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
FROM_BUFFER = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
DTYPE = "numpy.dtype"
# As which protocols 0 to 2 hold bytes, and that there are none.
ENCODE = "_codecs.encode"
NO_BYTES = ("__builtin__.bytes", "builtins.bytes")
CALLED = (*RECONSTRUCT, *FROM_BUFFER, DTYPE, ENCODE, *NO_BYTES)
NAMES = (*CALLED, "numpy.ndarray")
KINDS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1")
# As NumPy has it.
MAX_AXES = 64
# The same bytes may stand in as many arrays as a file likes.
MAX_ARRAYS = 100_000


class PickledPart:
  """An array of NumPy or its type: what a pickle calls for it, and what it tells it to keep, neither of it done."""

  def __init__(self, arguments: Any):
    self.arguments = arguments
    self.state: Any = None


def call(function: str, arguments: Any) -> Any:
  """What stands for the call of a function among `CALLED`."""
  if function in NO_BYTES and not arguments:
    return b""
  if function == ENCODE:
    text, encoding = arguments
    if encoding != "latin1":
      raise pickle.UnpicklingError("its pickle has bytes in a way that those of Python have not")
    return text.encode(encoding)
  part = PickledPart(arguments)
  if function in FROM_BUFFER:
    values, dtype, shape, order = arguments
    part.state = (1, shape, dtype, order == "F", values)
  return part


def take_array(part: PickledPart) -> np.ndarray:
  """The array, without a copy; UnpicklingError if it is damaged or not of weights."""
  if not (isinstance(part.state, tuple) and len(part.state) == 5):
    raise pickle.UnpicklingError("an array has no numbers")
  _, shape, kind, is_fortran, values = part.state
  dtype = find_dtype(kind)
  # Python 2 has no bytes beside texts.
  content = values.encode("latin1") if isinstance(values, str) else values
  is_shape = isinstance(shape, tuple) and len(shape) <= MAX_AXES and all(type(n) is int and n >= 0 for n in shape)
  if not (is_shape and isinstance(content, bytes | bytearray) and len(content) == math.prod(shape) * dtype.itemsize):
    raise pickle.UnpicklingError("an array has more or fewer numbers than its shape")
  return np.frombuffer(content, dtype).reshape(shape, order="F" if is_fortran else "C")


def find_dtype(part: Any) -> np.dtype:
  """The type that a part stands for, which must be one of weights."""
  kind = part.arguments[0] if isinstance(part, PickledPart) and part.arguments else None
  if kind not in KINDS:
    raise pickle.UnpicklingError(f"an array is of {str(kind)[:20]!r}, which weights never are")
  order = part.state[1] if isinstance(part.state, tuple) and len(part.state) > 1 else "|"
  return np.dtype(str(kind)).newbyteorder(order if order in ("<", ">") else "=")


class ArrayTaker:
  """Takes the arrays in dictionaries, with those of a list under the list's name and their numbers: `conv1.0`."""

  def __init__(self) -> None:
    self._num_left = MAX_ARRAYS
    self._known: dict[tuple[int, int], dict[Any, Any]] = {}

  def take_all(self, content: dict[Any, Any], depth: int) -> dict[Any, Any]:
    """The same dictionary with arrays in the place of their parts, and the dictionaries in it, `depth` levels down."""
    place = (id(content), depth)
    if place not in self._known:
      made = self._known[place] = {}
      for name, value in content.items():
        made |= self._take(name, value, depth)
    return self._known[place]

  def _take(self, name: Any, value: Any, depth: int) -> dict[Any, Any]:
    if isinstance(value, dict) and depth:
      return {name: self.take_all(value, depth - 1)}
    is_list = isinstance(value, list | tuple) and bool(value) and isinstance(value[0], PickledPart)
    parts = {f"{name}.{index}": part for index, part in enumerate(value)} if is_list else {name: value}
    self._num_left -= len(parts)
    if self._num_left < 0:
      raise pickle.UnpicklingError(f"it holds more than {MAX_ARRAYS:,} arrays")
    return {key: take_array(part) if isinstance(part, PickledPart) else part for key, part in parts.items()}
