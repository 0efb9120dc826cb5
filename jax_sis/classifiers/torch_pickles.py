"""Reads the pickles of `torch.save`, and of arrays of NumPy, and builds nothing that they name.

The interpreter is our own: a name is a text, a call of anything but the few functions that make dictionaries, tensors
and arrays is an inert stand-in, and what a pickle tells any other object to keep or do is left out. So what a trainer
saves beside its weights need not be known, a foreign file cannot run code, and no file can affect how the next is read.
Nothing but texts and small whole numbers is a key, since the hash of nested tuples can take forever.
"""

import io
import math
import pickle
import pickletools
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from jax_sis.classifiers import numpy_pickles
from jax_sis.core.messages import name_some

STORAGE_DTYPES = {
  "FloatStorage": np.dtype(np.float32),
  "DoubleStorage": np.dtype(np.float64),
  "HalfStorage": np.dtype(np.float16),
  "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
  "LongStorage": np.dtype(np.int64),
  "IntStorage": np.dtype(np.int32),
  "ShortStorage": np.dtype(np.int16),
  "CharStorage": np.dtype(np.int8),
  "ByteStorage": np.dtype(np.uint8),
  "BoolStorage": np.dtype(np.bool_),
}
DICTIONARIES = ("builtins.dict", "__builtin__.dict", "collections.OrderedDict", "collections.defaultdict")
TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
SUBCLASS = "torch._tensor._rebuild_from_type_v2"
STATE_DICT_NAMES = (
  *DICTIONARIES,
  *TENSORS,
  *PARAMETERS,
  SUBCLASS,
  "torch.Size",
  *(f"torch.{name}" for name in STORAGE_DTYPES),
)
# What only a hostile file names: where it is loaded by Python's own pickle, it runs what it likes.
HOSTILE_MODULES = (
  "os",
  "posix",
  "nt",
  "subprocess",
  "pty",
  "runpy",
  "socket",
  "shutil",
  "ctypes",
  "importlib",
  "pickle",
)
HOSTILE_NAMES = tuple(
  f"{module}.{name}"
  for module in ("builtins", "__builtin__")
  for name in ("eval", "exec", "execfile", "compile", "open", "__import__", "breakpoint")
)
# A checkpoint's pickle has some thousands of operations; each takes at most about a hundred bytes.
MAX_OPERATIONS = 5_000_000
# The longest text or number in a pickle; weights do not stand in it.
MAX_ARGUMENT_BYTES = 2**28
# As NumPy has it.
MAX_AXES = 64
MAX_NAMED = 5
HOW_TO_SAVE = "with PyTorch, save the weights alone: torch.save(model.state_dict(), ...)"

# Operations whose argument is what they put.
VALUES = (
  "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES "
  "BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8"
)


class Name(str):
  """What a pickle calls a class or function; never looked up."""


class StandIn(dict[Any, Any]):
  """Stands for an object of a foreign class, and holds no more than the items that it is given as a dictionary."""


class Storage:
  """A flat array, filled after the pickle that names it has been read."""

  def __init__(self, dtype: np.dtype, size: int):
    self.dtype, self.size = dtype, size
    self.values = np.zeros(0, dtype)

  @property
  def num_bytes(self) -> int:
    return self.size * self.dtype.itemsize

  def fill(self, content: bytes, *, is_big_endian: bool) -> None:
    """Takes the bytes from the file."""
    if len(content) != self.num_bytes:
      raise ValueError(f"a storage has {len(content)} bytes instead of {self.num_bytes}")
    unsigned = np.dtype(f"u{self.dtype.itemsize}")
    values = np.frombuffer(content, unsigned.newbyteorder(">" if is_big_endian else "<"))
    self.values = values.astype(unsigned, copy=False).view(self.dtype)


class Tensor:
  """A view of a storage, made by `take` once that has been filled."""

  def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any):
    is_view = isinstance(storage, Storage) and max(len(shape), len(strides)) <= MAX_AXES
    if not (is_view and all(type(number) is int for number in (offset, *shape, *strides))):
      raise pickle.UnpicklingError("a tensor is not a view of a storage")
    self.storage, self.offset, self.shape, self.strides = storage, offset, tuple(shape), tuple(strides)

  @property
  def ndim(self) -> int:
    return len(self.shape)

  def take(self) -> np.ndarray:
    """The view, without a copy."""
    last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
    is_inside = min(self.offset, *self.strides, 0) >= 0 and last < self.storage.values.size
    if math.prod(self.shape) and not is_inside:
      raise pickle.UnpicklingError("a tensor lies outside its storage")
    # A view that repeats its numbers could claim any amount of memory.
    if math.prod(self.shape) > self.storage.values.size:
      raise pickle.UnpicklingError("a tensor has more numbers than its storage")
    values = self.storage.values[self.offset :]
    strides = [stride * values.itemsize for stride in self.strides]
    return np.lib.stride_tricks.as_strided(values, self.shape, strides, writeable=False)


class PickleFile:
  """A file of `size` bytes that pickles are read from; it reads no more at once than there is and pickles need."""

  def __init__(self, file: io.BufferedReader | io.BytesIO, size: int):
    self.file, self.size, self.tell = file, size, file.tell

  def read(self, num_bytes: int) -> bytes:
    if num_bytes > self.size - self.tell():
      raise EOFError("it ends inside its pickle")
    if num_bytes > MAX_ARGUMENT_BYTES:
      raise pickle.UnpicklingError(f"its pickle holds something of {num_bytes:,} bytes, which weights never are")
    return self.file.read(num_bytes)

  def readline(self) -> bytes:
    return self.file.readline(MAX_ARGUMENT_BYTES)


class PickleReader:
  """Reads one pickle of a file.

  Attributes:
    storages: those that it refers to, by their names.
    foreign: the names in it that are not of state dicts, in order.
  """

  def __init__(self) -> None:
    self.storages: dict[str, Storage] = {}
    self.foreign: dict[str, None] = {}
    self._stack: list[Any] = []
    self._marks: list[int] = []
    self._memo: dict[int, Any] = {}
    self._num_left = MAX_OPERATIONS

  def load(self, file: PickleFile) -> Any:
    """The object; UnpicklingError if it could be none of a checkpoint's."""
    for opcode, argument, _ in pickletools.genops(file):  # pyright: ignore[reportArgumentType]
      self._spend(1)
      if opcode.name == "STOP":
        return self._stack.pop()
      self._do(opcode.name, argument)
    raise EOFError("its pickle does not end")

  def _spend(self, num_operations: int) -> None:
    self._num_left -= num_operations
    if self._num_left < 0:
      raise pickle.UnpicklingError(f"its pickle has more than {MAX_OPERATIONS:,} operations, which no checkpoint has")

  def _do(self, name: str, argument: Any) -> None:
    if name in MAKERS:
      self._stack.append(MAKERS[name](self, argument))
    elif name in CHANGERS:
      CHANGERS[name](self, argument)
    else:
      raise pickle.UnpicklingError(f"its pickle has the operation {name}, which those of PyTorch have not")

  def _remember(self, number: int) -> None:
    # Any number could be chosen so that all have one hash.
    if not 0 <= number <= MAX_OPERATIONS - self._num_left:
      raise pickle.UnpicklingError(f"its pickle numbers an object {number}, but has fewer objects so far")
    self._memo[number] = self._stack[-1]

  def _extend(self, values: list[Any]) -> None:
    if isinstance(self._stack[-1], list):
      self._stack[-1].extend(values)

  def _set(self, items: list[Any]) -> None:
    if isinstance(self._stack[-1], dict):
      set_items(self._stack[-1], items)

  def _tell(self, state: Any) -> None:
    if isinstance(self._stack[-1], numpy_pickles.PickledPart):
      self._stack[-1].state = state

  def _drop(self) -> None:
    is_mark = self._marks[-1:] == [len(self._stack)]
    (self._marks if is_mark else self._stack).pop()

  def _pop(self, count: int) -> list[Any]:
    if count > len(self._stack):
      raise pickle.UnpicklingError("its pickle takes what it has not put")
    values = self._stack[-count:]
    del self._stack[-count:]
    return values

  def _pop_mark(self) -> list[Any]:
    start = self._marks.pop()
    values = self._stack[start:]
    del self._stack[start:]
    return values

  def _name(self, module_name: Any, name: Any) -> Name:
    if not (isinstance(module_name, str) and isinstance(name, str)):
      raise pickle.UnpicklingError("its pickle has a name that is no text")
    full = f"{module_name}.{name}"
    if module_name.partition(".")[0] in HOSTILE_MODULES or full in HOSTILE_NAMES:
      raise pickle.UnpicklingError(
        f"it names {full}, which is not part of a state dict and can run code where Python loads it; do not trust it"
      )
    if full not in STATE_DICT_NAMES:
      self.foreign[full] = None
    return Name(full)

  def _call(self, function: Any, arguments: Sequence[Any]) -> Any:
    if not (isinstance(function, Name | StandIn) and isinstance(arguments, list | tuple)):
      raise pickle.UnpicklingError(f"its pickle calls a {type(function).__name__}")
    if function in DICTIONARIES:
      made = {}
      # Those of Python 2 come with a list of pairs.
      for pair in arguments[-1] if arguments and isinstance(arguments[-1], list) else ():
        self._spend(1)
        key, value = pair
        set_items(made, (key, value))
      return made
    # A storage of another kind, such as complex numbers, is a stand-in.
    if function in TENSORS and not isinstance(arguments[0], StandIn):
      return Tensor(*arguments[:4])
    if function in PARAMETERS or function == "torch.Size":
      return arguments[0]
    if function == SUBCLASS:
      return self._call(arguments[0], arguments[2])
    return numpy_pickles.call(str(function), arguments) if function in numpy_pickles.CALLED else StandIn()

  def _call_first(self, values: list[Any]) -> Any:
    return self._call(values[0], values[1:])

  def _refer(self, place: Any) -> Any:
    """The storage that a persistent id names, or the class, with which old files keep its source."""
    if place[0] == "module":
      return place[1]
    kind, name, key, _, size, *view = place
    if kind != "storage" or any(view):
      raise pickle.UnpicklingError(f"it refers to a {kind} in a way that state dicts do not")
    if not (isinstance(name, Name) and isinstance(key, str) and type(size) is int and size >= 0):
      raise pickle.UnpicklingError("it refers to a storage in a way that state dicts do not")
    dtype = STORAGE_DTYPES.get(name.removeprefix("torch."))
    if dtype is None:
      return StandIn()
    storage = self.storages.setdefault(key, Storage(dtype, size))
    if (storage.dtype, storage.size) != (dtype, size):
      raise pickle.UnpicklingError(f"it gives storage {key} two types or sizes")
    return storage


# The operations that put something: of the reader and their argument, what they put. Sets are lists here, since their
# elements need no hash so.
MAKERS: dict[str, Callable[[PickleReader, Any], Any]] = {
  **{name: lambda _, argument: argument for name in VALUES.split()},
  "NONE": lambda *_: None,
  "NEWTRUE": lambda *_: True,
  "NEWFALSE": lambda *_: False,
  "EMPTY_LIST": lambda *_: [],
  "EMPTY_SET": lambda *_: [],
  "EMPTY_TUPLE": lambda *_: (),
  "EMPTY_DICT": lambda *_: {},
  "LIST": lambda reader, _: reader._pop_mark(),
  "FROZENSET": lambda reader, _: reader._pop_mark(),
  "TUPLE": lambda reader, _: tuple(reader._pop_mark()),
  "TUPLE1": lambda reader, _: tuple(reader._pop(1)),
  "TUPLE2": lambda reader, _: tuple(reader._pop(2)),
  "TUPLE3": lambda reader, _: tuple(reader._pop(3)),
  "DICT": lambda reader, _: set_items({}, reader._pop_mark()),
  "DUP": lambda reader, _: reader._stack[-1],
  **{name: lambda reader, number: reader._memo[number] for name in ("GET", "BINGET", "LONG_BINGET")},
  "GLOBAL": lambda reader, names: reader._name(*names.split(" ", 1)),
  "STACK_GLOBAL": lambda reader, _: reader._name(*reader._pop(2)),
  "INST": lambda reader, names: reader._call(reader._name(*names.split(" ", 1)), reader._pop_mark()),
  "OBJ": lambda reader, _: reader._call_first(reader._pop_mark()),
  "REDUCE": lambda reader, _: reader._call(*reader._pop(2)),
  "NEWOBJ": lambda reader, _: reader._call(*reader._pop(2)),
  "NEWOBJ_EX": lambda reader, _: reader._call(*reader._pop(3)[:2]),
  "BINPERSID": lambda reader, _: reader._refer(reader._stack.pop()),
}
# The operations that put nothing. Of what an object is told to keep, by BUILD, only that of arrays is of use.
CHANGERS: dict[str, Callable[[PickleReader, Any], Any]] = {
  "PROTO": lambda *_: None,
  "FRAME": lambda *_: None,
  "MARK": lambda reader, _: reader._marks.append(len(reader._stack)),
  **{name: PickleReader._remember for name in ("PUT", "BINPUT", "LONG_BINPUT")},
  "MEMOIZE": lambda reader, _: reader._remember(len(reader._memo)),
  "APPEND": lambda reader, _: reader._extend(reader._pop(1)),
  "APPENDS": lambda reader, _: reader._extend(reader._pop_mark()),
  "ADDITEMS": lambda reader, _: reader._extend(reader._pop_mark()),
  "SETITEM": lambda reader, _: reader._set(reader._pop(2)),
  "SETITEMS": lambda reader, _: reader._set(reader._pop_mark()),
  "BUILD": lambda reader, _: reader._tell(reader._stack.pop()),
  "POP": lambda reader, _: reader._drop(),
  "POP_MARK": lambda reader, _: reader._pop_mark(),
}


def set_items(target: dict[Any, Any], items: Sequence[Any]) -> dict[Any, Any]:
  """The dictionary with these keys and values, which come one after the other."""
  for key, value in zip(items[::2], items[1::2], strict=True):
    is_plain = isinstance(key, str) or (isinstance(key, int) and abs(key) < 2**60)
    target[key if is_plain else f"<{type(key).__name__}>"] = value
  return target


def say_what_is_foreign(names: Sequence[str]) -> str:
  """Why a file without a state dict, which names these, is refused."""
  modules = [name for name in names if name.startswith("torch.nn.modules.")]
  if modules:
    return f"it is a whole module ({modules[0]}), which needs its own code; {HOW_TO_SAVE}"
  listed = name_some([f"{name:.80}" for name in names], most=MAX_NAMED)
  return f"it names {listed}, which {'is' if len(names) == 1 else 'are'} not part of a state dict; {HOW_TO_SAVE}"
