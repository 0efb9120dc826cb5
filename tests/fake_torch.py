"""Writes files as `torch.save` does, without PyTorch, and so also such as PyTorch never would."""

import collections
import io
import pickle
import sys
import types
import zipfile
from typing import Any

import numpy as np
import pytest

STORAGE_NAMES = {"<f4": "FloatStorage", "<f8": "DoubleStorage", "<f2": "HalfStorage", "<i8": "LongStorage"}


def rebuild_tensor(*arguments: Any) -> None:
  """Stands for `torch._utils._rebuild_tensor_v2` in the pickles that we write."""


class FakeTensor:
  """Pickles as a tensor does: a view of a storage that is written beside the pickle."""

  def __init__(self, values: np.ndarray, *, offset: int = 0, shape: Any = None, strides: Any = None):
    self.storage = values
    self.offset = offset
    self.shape = values.shape if shape is None else shape
    element_strides = tuple(stride // values.itemsize for stride in values.strides)
    self.strides = element_strides if strides is None else strides

  def __reduce__(self) -> Any:
    arguments = (Storage(self.storage), self.offset, self.shape, self.strides, False, collections.OrderedDict())
    return rebuild_tensor, arguments


class Storage:
  """Pickled by reference."""

  def __init__(self, values: np.ndarray):
    self.values = values


class FakePickler(pickle.Pickler):
  """Writes storages as persistent ids, as `torch.save` does."""

  def __init__(self, file: io.BytesIO):
    super().__init__(file, protocol=2)
    self.storages: dict[str, np.ndarray] = {}

  def persistent_id(self, obj: Any) -> Any:
    """Names a storage."""
    if not isinstance(obj, Storage):
      return None
    key = next((key for key, values in self.storages.items() if values is obj.values), str(len(self.storages)))
    self.storages[key] = obj.values
    storage_type = getattr(sys.modules["torch"], STORAGE_NAMES[obj.values.dtype.newbyteorder("<").str])
    return ("storage", storage_type, key, "cpu", obj.values.size)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
  """Gives Python the names of PyTorch that its pickles refer to, so that we can write them."""
  torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
  for name in STORAGE_NAMES.values():
    setattr(torch, name, type(name, (), {"__module__": "torch"}))
  monkeypatch.setattr(rebuild_tensor, "__module__", "torch._utils")
  monkeypatch.setattr(rebuild_tensor, "__qualname__", "_rebuild_tensor_v2")
  monkeypatch.setattr(utils, "_rebuild_tensor_v2", rebuild_tensor, raising=False)
  monkeypatch.setitem(sys.modules, "torch", torch)
  monkeypatch.setitem(sys.modules, "torch._utils", utils)


def legacy_header() -> bytes:
  """What stands before the content in a file of before PyTorch 1.6."""
  return b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))


def legacy_bytes(content: Any) -> bytes:
  """What `torch.save(content, _use_new_zipfile_serialization=False)` writes."""
  file = io.BytesIO()
  file.write(legacy_header())
  pickler = FakePickler(file)
  pickler.dump(content)
  pickle.dump(list(pickler.storages), file, protocol=2)
  for values in pickler.storages.values():
    file.write(values.size.to_bytes(8, "little"))
    file.write(values.tobytes())
  return file.getvalue()


def zip_bytes(content: Any, *, byteorder: str = "little", compression: int = zipfile.ZIP_STORED) -> bytes:
  """What `torch.save(content)` writes."""
  file = io.BytesIO()
  pickler = FakePickler(file)
  pickler.dump(content)
  storages = {key: values.tobytes() for key, values in pickler.storages.items()}
  return archive_bytes(file.getvalue(), storages, byteorder=byteorder, compression=compression)


def archive_bytes(
  pickled: bytes, storages: dict[str, bytes], *, byteorder: str = "little", compression: int = zipfile.ZIP_STORED
) -> bytes:
  """An archive of a pickle and storages."""
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w", compression) as archive:
    archive.writestr("archive/data.pkl", pickled)
    archive.writestr("archive/byteorder", byteorder)
    for key, values in storages.items():
      archive.writestr(f"archive/data/{key}", values)
  return file.getvalue()
