"""Reads state dicts from files of PyTorch (old and new format), safetensors and NumPy, without PyTorch.

Until PyTorch 1.6, `torch.save` wrote several pickles followed by raw storages; since then it writes a zip archive of
one pickle and raw storages. The unpickler accepts only tensors and dictionaries, so that a foreign file cannot run
code.
"""

import collections
import io
import math
import os
import pathlib
import pickle
import pickletools
import zipfile
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from jax_sis.core.messages import first_line

LEGACY_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
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
STATE_DICT_NAMES = (
  "collections.OrderedDict",
  "torch.Size",
  "torch._utils._rebuild_tensor",
  "torch._utils._rebuild_tensor_v2",
  "torch._utils._rebuild_parameter",
  *(f"torch.{name}" for name in STORAGE_DTYPES),
)
# Added by DataParallel, torch.compile, and modules that hold the network as an attribute.
WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")
# How deep a state dict may be nested. One more, and the moments of an optimizer would count as weights.
MAX_DEPTH = 2

PickleFile = io.BufferedReader | io.BytesIO
HOW_TO_SAVE = "with PyTorch, save the weights alone: torch.save(model.state_dict(), ...)"


def read_state_dict(path: str | os.PathLike[str], *, key: str | None = None) -> dict[str, np.ndarray]:
  """The arrays of a checkpoint by name, in PyTorch's layout.

  The content decides the kind of file: what `torch.save` writes (.pt, .pth, .th, .bin), safetensors, or .npz. In a
  PyTorch file the state dict may be nested in one or two dictionaries, beside epochs and the like. A prefix such as
  DataParallel's `module.` is removed if all names have it. Bfloat16 becomes float32; other dtypes stay.

  Args:
    path: the file.
    key: which state dict, if the file holds several: the keys that lead to it, joined by dots.

  Raises:
    ValueError: the file is missing, of another kind or damaged; it holds anything but tensors and plain values, no
      state dict or several; or weights are not finite.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f"path must be an existing PyTorch checkpoint, got {str(path)!r}.")
  try:
    content = read_content(path)
  # On damaged or hostile bytes, pickle, zipfile, NumPy and safetensors raise almost anything.
  except Exception as error:
    raise ValueError(
      f"path must be a state dict in a file of PyTorch, safetensors or NumPy, but {str(path)!r} cannot be read so: "
      f"{first_line(error) or type(error).__name__}."
    ) from error
  state_dict = without_prefixes(choose_state_dict(content, key=key, path=path))
  damaged = [name for name, array in state_dict.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
  if damaged:
    raise ValueError(
      f"path must hold finite weights, but in {str(path)!r} {len(damaged)} of {len(state_dict)} arrays hold NaN or "
      f"infinity, first {damaged[:5]}; take an earlier checkpoint."
    )
  return state_dict


def read_content(path: pathlib.Path) -> dict[Any, Any]:
  """What the file holds, weights as NumPy arrays or as `Tensor`; dictionaries may be nested."""
  with open(path, "rb") as file:
    start = file.read(9)
    file.seek(0)
    if start.startswith(b"PK"):
      content = read_zip(file)
    elif start[8:] == b"{":
      content = read_safetensors(path)
    else:
      content = read_legacy(file)
  if not isinstance(content, dict):
    raise ValueError(f"it holds a {type(content).__name__}")
  return content


def choose_state_dict(content: dict[Any, Any], *, key: str | None, path: pathlib.Path) -> dict[str, np.ndarray]:
  """The arrays of the state dict that `key` names, or of the only one.

  Raises:
    ValueError: there is none, there are several and `key` is None, or `key` names none of them.
  """
  found = find_state_dicts(content, MAX_DEPTH)
  if not found:
    raise ValueError(f"path must hold a state dict of tensors, got {str(path)!r} with the keys {list(content)[:5]}.")
  if key is None and len(found) > 1:
    raise ValueError(f"key must say which state dict of {str(path)!r} is meant, out of {sorted(found)}.")
  if key is not None and list(found) == [""]:
    raise ValueError(f"key must be None, since {str(path)!r} holds one state dict and no dictionary, got {key!r}.")
  if key is not None and key not in found:
    raise ValueError(f"key must be one of {sorted(found)} in {str(path)!r}, got {key!r}.")
  key = key or next(iter(found))
  arrays = {name: own_array(array) for name, array in arrays_of(found[key]).items()}
  # A trainer's checkpoint may hold anything besides; a file that is nothing but a state dict holds only tensors.
  if not key and len(arrays) < len(content):
    others = [name for name in content if name not in arrays]
    raise ValueError(
      f"path must hold a state dict of tensors, or one inside a dictionary, but in {str(path)!r} {others[:5]} are not "
      f"tensors; {HOW_TO_SAVE}."
    )
  return arrays


def find_state_dicts(content: dict[Any, Any], depth: int) -> dict[str, dict[str, Any]]:
  """The dictionaries of tensors in `content`, by the keys that lead to them; "" is `content` itself.

  A dictionary that contains one, at most `depth` levels down, does not count as one, whatever else it holds. Nor does a
  dictionary of scalars: trainers keep best accuracies as tensors.
  """
  found = {}
  # Not `content.items()`: a pickle can give an OrderedDict an attribute with that name.
  for name, value in dict.items(content) if depth else ():
    if isinstance(name, str) and isinstance(value, dict):
      inner = find_state_dicts(value, depth - 1)
      found |= {f"{name}.{key}" if key else name: state_dict for key, state_dict in inner.items()}
  if not found and any(array.ndim for array in arrays_of(content).values()):
    found[""] = content
  return found


def arrays_of(content: dict[Any, Any]) -> dict[str, np.ndarray]:
  """The arrays that a dictionary holds under strings, without those of inner dictionaries."""
  arrays = {name: value.array if isinstance(value, Tensor) else value for name, value in dict.items(content)}
  return {name: array for name, array in arrays.items() if isinstance(name, str) and isinstance(array, np.ndarray)}


def own_array(array: np.ndarray) -> np.ndarray:
  """A writable copy, of a type that NumPy itself knows."""
  return array.astype(np.float32 if array.dtype == ml_dtypes.bfloat16 else array.dtype, order="C")


def without_prefixes(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The same arrays, without any prefixes of wrappers that all names share."""
  for prefix in WRAPPER_PREFIXES:
    if all(name.startswith(prefix) for name in state_dict):
      return without_prefixes({name.removeprefix(prefix): array for name, array in state_dict.items()})
  return state_dict


def read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  with safetensors.safe_open(path, framework="numpy") as file:
    return {name: check_dtype(name, file.get_tensor(name)) for name in file.keys()}


def read_npz(file: io.BufferedReader) -> dict[str, np.ndarray]:
  """The arrays of a `numpy.savez` archive; arrays of Python objects are refused."""
  with np.load(file, allow_pickle=False) as archive:
    return {name: check_dtype(name, archive[name]) for name in archive.files}


def check_dtype(name: str, array: np.ndarray) -> np.ndarray:
  """The array in this machine's byte order; ValueError if its dtype is not one of weights."""
  if array.dtype.newbyteorder("=") not in STORAGE_DTYPES.values():
    raise ValueError(f"its array {name!r} is of {array.dtype}, which weights never are")
  return array.astype(array.dtype.newbyteorder("="), copy=False)


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
  """A view of a storage, in `array` once `take` has been called."""

  def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any):
    self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

  def take(self) -> None:
    """Makes the view, without a copy, after the storage has been filled."""
    last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
    is_inside = min(self.offset, *self.strides, 0) >= 0 and last < self.storage.values.size
    if math.prod(self.shape) and not is_inside:
      raise pickle.UnpicklingError("a tensor lies outside its storage")
    # A view that repeats its numbers could claim any amount of memory.
    if math.prod(self.shape) > self.storage.values.size:
      raise pickle.UnpicklingError("a tensor has more numbers than its storage")
    values = self.storage.values[self.offset :]
    strides = [stride * values.itemsize for stride in self.strides]
    self.array = np.lib.stride_tricks.as_strided(values, self.shape, strides, writeable=False)


class StateDictUnpickler(pickle.Unpickler):
  """Unpickles state dicts and nothing else.

  The names in a pickle stand for strings, built-in types and bound methods, never for a class of ours: a pickle cannot
  change those, so one file cannot affect how the next is read.
  """

  def __init__(self, file: PickleFile):
    super().__init__(file)
    self.storages: dict[str, Storage] = {}
    self.tensors: list[Tensor] = []

  def find_class(self, module_name: str, global_name: str) -> Any:
    name = f"{module_name}.{global_name}"
    if name not in STATE_DICT_NAMES:
      raise pickle.UnpicklingError(say_what_is_foreign([name]))
    known = {
      "collections.OrderedDict": collections.OrderedDict,
      "torch.Size": tuple,
      "torch._utils._rebuild_tensor": self.rebuild_tensor,
      "torch._utils._rebuild_tensor_v2": self.rebuild_tensor,
      "torch._utils._rebuild_parameter": self.rebuild_parameter,
    }
    return known.get(name, global_name)

  def persistent_load(self, pid: Any) -> Storage:
    kind, storage_name, key, _, size, *view = pid
    if kind != "storage" or any(view):
      raise pickle.UnpicklingError(f"it refers to a {kind} in a way that state dicts do not")
    dtype = STORAGE_DTYPES[storage_name]
    storage = self.storages.setdefault(key, Storage(dtype, size))
    if (storage.dtype, storage.size) != (dtype, size):
      raise pickle.UnpicklingError(f"it gives storage {key} two types or sizes")
    return storage

  def rebuild_tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    """Takes the arguments of `torch._utils._rebuild_tensor_v2`; those that follow are about gradients."""
    self.tensors.append(Tensor(storage, offset, shape, strides))
    return self.tensors[-1]

  def rebuild_parameter(self, tensor: Any, *_: Any) -> Any:
    """A parameter is its tensor; the other arguments are about gradients."""
    return tensor


def unpickle(file: PickleFile) -> tuple[Any, StateDictUnpickler]:
  """The next object of the file, after its pickle has been checked, and the unpickler with its storages and tensors."""
  start = file.tell()
  check_pickle(file)
  file.seek(start)
  unpickler = StateDictUnpickler(file)
  return unpickler.load(), unpickler


def check_pickle(file: PickleFile) -> None:
  """Refuses a pickle with foreign names before any of it is built; the error lists all of them."""
  names = []
  for index, (opcode, argument, _) in enumerate(pickletools.genops(file)):
    if opcode.name in ("GLOBAL", "INST"):
      names.append(str(argument).replace(" ", "."))
    # Pickles number the objects in their memo, and the unpickler reserves memory up to the largest number.
    if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(str(argument)) > index:
      raise pickle.UnpicklingError(f"its pickle numbers an object {argument}, but has fewer objects so far")
  foreign = [name for name in dict.fromkeys(names) if name not in STATE_DICT_NAMES]
  if foreign:
    raise pickle.UnpicklingError(say_what_is_foreign(foreign))


def say_what_is_foreign(names: list[str]) -> str:
  if any(name.startswith("torch.nn.modules.") for name in names):
    return f"it is a whole module ({names[0]}), which needs its own code; {HOW_TO_SAVE}"
  listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
  verb = "is" if len(names) == 1 else "are"
  return f"it names {listed}, which {verb} not part of a state dict; {HOW_TO_SAVE}"


def read_legacy(file: io.BufferedReader) -> Any:
  """The pickled object, its tensors filled from the storages that follow it."""
  magic_number, _ = unpickle(file)
  if magic_number != LEGACY_MAGIC_NUMBER:
    raise pickle.UnpicklingError("it does not begin with PyTorch's magic number")
  for _ in ("protocol version", "system information"):
    unpickle(file)
  content, unpickler = unpickle(file)
  keys, _ = unpickle(file)
  num_left = os.fstat(file.fileno()).st_size - file.tell()
  for key in keys:
    storage = unpickler.storages[key]
    num_left -= 8 + storage.num_bytes
    if num_left < 0 or int.from_bytes(file.read(8), "little") != storage.size:
      raise EOFError(f"it ends inside storage {key}")
    # Big-endian machines write little-endian storages, too.
    storage.fill(file.read(storage.num_bytes), is_big_endian=False)
  return with_arrays(content, unpickler)


def read_zip(file: io.BufferedReader) -> Any:
  """The object in a `torch.save` archive, or the arrays in a `numpy.savez` archive."""
  with zipfile.ZipFile(file) as archive:
    if not all(name.endswith(".npy") for name in archive.namelist()):
      return read_torch_archive(archive)
  file.seek(0)
  return read_npz(file)


def read_torch_archive(archive: zipfile.ZipFile) -> Any:
  """The pickled object, its tensors filled from the storages, which are files beside it."""
  names = archive.namelist()
  roots = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
  if len(roots) != 1:
    raise ValueError(f"it is a zip archive of something else, with {names[:3]}")
  root = roots[0]
  if any(name.startswith((f"{root}constants.pkl", f"{root}code/")) for name in names):
    raise ValueError(
      "it is a TorchScript archive; with PyTorch, save its weights alone: "
      "torch.save(torch.jit.load(...).state_dict(), ...)"
    )
  content, unpickler = unpickle(io.BytesIO(read_stored(archive, f"{root}data.pkl")))
  is_big_endian = f"{root}byteorder" in names and read_stored(archive, f"{root}byteorder") == b"big"
  for key, storage in unpickler.storages.items():
    storage.fill(read_stored(archive, f"{root}data/{key}"), is_big_endian=is_big_endian)
  return with_arrays(content, unpickler)


def read_stored(archive: zipfile.ZipFile, name: str) -> bytes:
  """A file of the archive, with its checksum verified."""
  entry = archive.getinfo(name)
  # PyTorch does not compress, and a small file must not unpack to more than memory holds.
  if entry.compress_type != zipfile.ZIP_STORED:
    raise ValueError(f"its {name} is compressed")
  return archive.read(entry)


def with_arrays(content: Any, unpickler: StateDictUnpickler) -> Any:
  """The content, after making the view of every tensor in it."""
  for tensor in unpickler.tensors:
    tensor.take()
  return content
