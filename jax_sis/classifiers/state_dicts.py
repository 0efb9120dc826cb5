"""Reads state dicts from files of PyTorch (old and new format), safetensors, NumPy and pickles of arrays, safely.

Until PyTorch 1.6, `torch.save` wrote several pickles followed by raw storages; since then it writes a zip archive of
one pickle and raw storages. What stands beside the weights is not built, so that a foreign file cannot run code.
"""

import contextlib
import io
import os
import pathlib
import pickle
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from jax_sis.classifiers import numpy_pickles
from jax_sis.classifiers.foreign_files import say_what_file_it_is
from jax_sis.classifiers.torch_pickles import (
  HOW_TO_SAVE,
  STORAGE_DTYPES,
  PickleFile,
  PickleReader,
  Tensor,
  say_what_is_foreign,
)
from jax_sis.core.messages import first_line
from jax_sis.runtime.archives import check_npz, check_unpacked_bytes

LEGACY_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
# Added by DataParallel, torch.compile, and modules that hold the network as an attribute.
WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")
# How deep a state dict may be nested. One more, and the moments of an optimizer would count as weights.
MAX_DEPTH = 2
# A file can name the same dictionary in as many places as it likes.
MAX_STATE_DICTS = 1000
MAX_NAMED = 20
# Weights are far smaller; the square of such a number is near the end of float32, and a changed bit leads beyond.
LARGEST_WEIGHT = 1e18

Arrays = dict[str, np.ndarray]


def read_state_dict(path: str | os.PathLike[str], *, key: str | None = None) -> Arrays:
  """The arrays of a checkpoint by name, in PyTorch's layout.

  The content decides the kind of file: what `torch.save` writes (.pt, .pth, .th, .bin), safetensors, .npz, or a pickle
  of arrays of NumPy (.pkl), of which those in a list get the list's name and their number, `conv1.0`. In a PyTorch file
  or a pickle the state dict may be nested in one or two dictionaries, beside anything else, none of which is built. A
  prefix such as DataParallel's `module.` is removed if all names have it. Bfloat16 becomes float32; other dtypes stay.

  Args:
    path: the file.
    key: which state dict, if the file holds several: the keys that lead to it, joined by dots, and behind them, where
      only some of its arrays are meant, what their names begin with.

  Raises:
    ValueError: the file is missing, of another kind or damaged; it holds no state dict, or several; or weights are not
      finite.
  """
  path = pathlib.Path(path)
  if not path.exists():
    raise ValueError(f"path must be an existing PyTorch checkpoint, got {str(path)!r}.")
  with explained(path):
    content = read_content(path)
  chosen = choose_state_dict(content, key=key, path=path)
  with explained(path):
    views = {name: tensor.take() if isinstance(tensor, Tensor) else tensor for name, tensor in chosen.items()}
    check_unpacked_bytes(sum(view.nbytes for view in views.values()), path.stat().st_size)
    state_dict = without_prefixes({name: own_array(view) for name, view in views.items()})
  if damaged := name_damaged(state_dict):
    raise ValueError(f"path must hold finite weights, but in {str(path)!r} {damaged}; take an earlier checkpoint.")
  return state_dict


@contextlib.contextmanager
def explained(path: pathlib.Path) -> Iterator[None]:
  """Says of any error that the file is none of weights."""
  try:
    yield
  # On damaged or hostile bytes, zipfile, NumPy and safetensors raise almost anything.
  except Exception as error:
    raise ValueError(
      f"path must be a state dict in a file of PyTorch, safetensors or NumPy, but {str(path)!r} cannot be read so: "
      f"{first_line(error) or type(error).__name__}."
    ) from error


def name_damaged(arrays: Mapping[str, np.ndarray]) -> str:
  """Says which arrays hold numbers that weights never are; empty if none do."""
  # Not by comparing arrays, since float16 cannot hold the limit. NaN is the largest, and no less than anything.
  damaged = [
    name
    for name, array in arrays.items()
    if array.dtype.kind == "f" and not float(np.abs(array).max(initial=0)) <= LARGEST_WEIGHT
  ]
  if not damaged:
    return ""
  what = f"NaN, infinity or numbers beyond {LARGEST_WEIGHT:g}"
  return f"{len(damaged)} of {len(arrays)} arrays hold {what}, first {damaged[:5]}"


def read_content(path: pathlib.Path) -> dict[Any, Any]:
  """What the file holds, weights as NumPy arrays or as `Tensor`; dictionaries may be nested."""
  if kind := say_what_file_it_is(path):
    raise ValueError(kind)
  with open(path, "rb") as file:
    start = file.read(9)
    file.seek(0)
    if start.startswith(b"PK"):
      return read_zip(file)
    if start[8:] == b"{":
      return read_safetensors(path)
    return read_pickle(file)


def choose_state_dict(
  content: dict[Any, Any], *, key: str | None, path: pathlib.Path
) -> dict[str, Tensor | np.ndarray]:
  """The arrays of the state dict that `key` names, or of the only one.

  Raises:
    ValueError: there is none, there are several and `key` is None, or `key` names none of them.
  """
  found = find_state_dicts(content, MAX_DEPTH)
  names = shorten(sorted(found))
  if not found:
    raise ValueError(f"path must hold a state dict of tensors, got {str(path)!r} with the keys {shorten(content)[:5]}.")
  if key is None and len(found) > 1:
    raise ValueError(f"key must say which state dict of {str(path)!r} is meant, out of {names}.")
  place, prefix = (next(iter(found)), "") if key is None else split_key(key, found)
  if place is None:
    known = "None, or begin names of arrays, since it holds one state dict and no dictionary" if names == [""] else ""
    raise ValueError(f"key must be {known or f'one of {names}'} in {str(path)!r}, got {key!r}.")
  tensors = arrays_of(found[place])
  # A trainer's checkpoint may hold anything besides; a file that is nothing but a state dict holds only tensors.
  if not place and len(tensors) < len(content):
    others = shorten(name for name in content if name not in tensors)
    raise ValueError(
      f"path must hold a state dict of tensors, or one inside a dictionary, but in {str(path)!r} {others[:5]} are not "
      f"tensors; {HOW_TO_SAVE}."
    )
  return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def split_key(key: str, found: Mapping[str, dict[Any, Any]]) -> tuple[str | None, str]:
  """Where the state dict lies that a key means, and what the names meant in it begin with; None if it means none."""
  if key in found:
    return key, ""
  for place, state_dict in found.items():
    prefix = key.removeprefix(f"{place}." if place else "") + "."
    if key.startswith(place) and any(name.startswith(prefix) for name in arrays_of(state_dict)):
      return place, prefix
  return None, ""


def shorten(names: Iterable[Any]) -> list[Any]:
  """The first of these names, each so short that a message can hold it."""
  return [name[:80] if isinstance(name, str) else name for name, _ in zip(names, range(MAX_NAMED), strict=False)]


def find_state_dicts(
  content: dict[Any, Any], depth: int, known: dict[tuple[int, int], Any] | None = None
) -> dict[str, dict[Any, Any]]:
  """The dictionaries of tensors in `content`, by the keys that lead to them; "" is `content` itself.

  A dictionary that contains one, at most `depth` levels down, does not count as one, whatever else it holds. Nor does a
  dictionary of scalars: trainers keep best accuracies as tensors.

  Args:
    content: where to look.
    depth: how many levels down.
    known: what has been found in dictionaries that stand in several places, by their identity and the depth.
  """
  known = {} if known is None else known
  found: dict[str, dict[Any, Any]] = {}
  for name, value in content.items() if depth else ():
    if isinstance(name, str) and isinstance(value, dict):
      place = (id(value), depth)
      if place not in known:
        known[place] = find_state_dicts(value, depth - 1, known)
      found |= {f"{name}.{key}" if key else name: state_dict for key, state_dict in known[place].items()}
      if len(found) > MAX_STATE_DICTS:
        raise ValueError(f"it holds more than {MAX_STATE_DICTS:,} state dicts")
  if not found and any(tensor.ndim for tensor in arrays_of(content).values()):
    found[""] = content
  return found


def arrays_of(content: dict[Any, Any]) -> dict[str, Tensor | np.ndarray]:
  """The arrays that a dictionary holds under strings, without those of inner dictionaries."""
  return {
    name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor | np.ndarray)
  }


def own_array(array: np.ndarray) -> np.ndarray:
  """A writable copy, of a type that NumPy itself knows."""
  dtype = np.float32 if array.dtype == ml_dtypes.bfloat16 else array.dtype.newbyteorder("=")
  return array.astype(dtype, order="C")


def without_prefixes(state_dict: Arrays) -> Arrays:
  """The same arrays, without any prefixes of wrappers that all names share."""
  for prefix in WRAPPER_PREFIXES:
    if all(name.startswith(prefix) for name in state_dict):
      return without_prefixes({name.removeprefix(prefix): array for name, array in state_dict.items()})
  return state_dict


def read_safetensors(path: pathlib.Path) -> Arrays:
  with safetensors.safe_open(path, framework="numpy") as file:
    return {name: check_dtype(name, file.get_tensor(name)) for name in file.keys()}


def read_npz(file: io.BufferedReader) -> Arrays:
  """The arrays of a `numpy.savez` archive; arrays of Python objects are refused."""
  check_npz(file)
  with np.load(file, allow_pickle=False) as archive:
    return {name: check_dtype(name, archive[name]) for name in archive.files}


def check_dtype(name: str, array: np.ndarray) -> np.ndarray:
  """The array in this machine's byte order; ValueError if its dtype is not one of weights."""
  if array.dtype.newbyteorder("=") not in STORAGE_DTYPES.values():
    raise ValueError(f"its array {name!r} is of {array.dtype}, which weights never are")
  return array.astype(array.dtype.newbyteorder("="), copy=False)


def read_pickle(file: io.BufferedReader) -> Any:
  """The arrays in a pickle of `torch.save`'s old format, or in one of Python's that holds arrays of NumPy."""
  size = os.fstat(file.fileno()).st_size
  reader = PickleReader()
  first = reader.load(PickleFile(file, size))
  foreign = [name for name in reader.foreign if name not in numpy_pickles.NAMES]
  if isinstance(first, dict):
    content = numpy_pickles.ArrayTaker().take_all(first, MAX_DEPTH)
    if foreign and not find_state_dicts(content, MAX_DEPTH):
      raise pickle.UnpicklingError(say_what_is_foreign(foreign))
    return content
  if foreign:
    raise pickle.UnpicklingError(say_what_is_foreign(foreign))
  if first != LEGACY_MAGIC_NUMBER:
    raise pickle.UnpicklingError("it does not begin with PyTorch's magic number")
  return read_legacy(file, size)


def read_legacy(file: io.BufferedReader, size: int) -> Any:
  """What follows the magic number: the pickled object, its tensors filled from the storages that follow it."""
  for _ in ("protocol version", "system information"):
    read_plain(file, size)
  reader = PickleReader()
  content = check_content(reader.load(PickleFile(file, size)), reader)
  keys = read_plain(file, size)
  num_left = size - file.tell()
  for key in keys:
    storage = reader.storages.get(str(key))
    if storage is None:
      raise pickle.UnpicklingError(f"its storage {key!s:.20} holds numbers of a kind that weights are not")
    num_left -= 8 + storage.num_bytes
    if num_left < 0 or int.from_bytes(file.read(8), "little") != storage.size:
      raise EOFError(f"it ends inside storage {key}")
    # Big-endian machines write little-endian storages, too.
    storage.fill(file.read(storage.num_bytes), is_big_endian=False)
  return content


def read_plain(file: io.BufferedReader, size: int) -> Any:
  """The next object of the file, of Python's own types."""
  reader = PickleReader()
  content = reader.load(PickleFile(file, size))
  if reader.foreign:
    raise pickle.UnpicklingError(say_what_is_foreign(list(reader.foreign)))
  return content


def check_content(content: Any, reader: PickleReader) -> dict[Any, Any]:
  """The dictionary; an error that says what is there instead, unless a state dict may be in it."""
  if reader.foreign and not (isinstance(content, dict) and find_state_dicts(content, MAX_DEPTH)):
    raise pickle.UnpicklingError(say_what_is_foreign(list(reader.foreign)))
  if not isinstance(content, dict):
    raise ValueError(f"it holds a {type(content).__name__}")
  return content


def read_zip(file: io.BufferedReader) -> Any:
  """The object in a `torch.save` archive, or the arrays in a `numpy.savez` archive."""
  with zipfile.ZipFile(file) as archive:
    if not all(name.endswith(".npy") for name in archive.namelist()):
      return read_torch_archive(archive, os.fstat(file.fileno()).st_size)
  file.seek(0)
  return read_npz(file)


def read_torch_archive(archive: zipfile.ZipFile, size: int) -> Any:
  """The pickled object, its tensors filled from the storages, which are files beside it."""
  names = archive.namelist()
  roots = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
  if len(roots) != 1:
    raise ValueError(f"it is a zip archive of something else, with {shorten(names)[:3]}")
  root = roots[0]
  if any(name.startswith((f"{root}constants.pkl", f"{root}code/")) for name in names):
    raise ValueError(
      "it is a TorchScript archive; with PyTorch, save its weights alone: "
      "torch.save(torch.jit.load(...).state_dict(), ...)"
    )
  pickled = read_stored(archive, f"{root}data.pkl")
  reader = PickleReader()
  content = check_content(reader.load(PickleFile(io.BytesIO(pickled), len(pickled))), reader)
  # Entries could share their bytes.
  if sum(storage.num_bytes for storage in reader.storages.values()) > size:
    raise ValueError("its storages have more bytes than the file")
  is_big_endian = f"{root}byteorder" in names and read_stored(archive, f"{root}byteorder") == b"big"
  for key, storage in reader.storages.items():
    storage.fill(read_stored(archive, f"{root}data/{key}"), is_big_endian=is_big_endian)
  return content


def read_stored(archive: zipfile.ZipFile, name: str) -> bytes:
  """A file of the archive, with its checksum verified."""
  entry = archive.getinfo(name)
  # PyTorch does not compress, and a small file must not unpack to more than memory holds.
  if entry.compress_type != zipfile.ZIP_STORED:
    raise ValueError(f"its {name} is compressed")
  return archive.read(entry)
