"""PyTorch state dicts -> our modules, by tables of names; PyTorch itself is not needed.

Reads the serialisation that `torch.save` used before PyTorch 1.6 (a run of pickles followed by raw storages). The
unpickler knows tensors and dictionaries and refuses everything else, so that a foreign file cannot run code.
"""

import collections
import math
import os
import pathlib
import pickle
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_sis import classifiers

LEGACY_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
STORAGE_DTYPES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8"}


class Storage:
  """A flat run of numbers, filled after the pickle that names it has been read."""

  def __init__(self, dtype: str, size: int):
    self.values = np.zeros(size, dtype)


class StateDictUnpickler(pickle.Unpickler):
  """Unpickles state dicts and nothing else."""

  def __init__(self, file: BinaryIO):
    super().__init__(file)
    self.storages: dict[str, Storage] = {}

  def find_class(self, module_name: str, global_name: str) -> Any:
    """The few names that a state dict needs."""
    if (module_name, global_name) == ("collections", "OrderedDict"):
      return collections.OrderedDict
    if module_name == "torch._utils" and global_name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
      return LazyTensor
    if module_name == "torch" and global_name in STORAGE_DTYPES:
      return STORAGE_DTYPES[global_name]
    raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, which is not part of a state dict")

  def persistent_load(self, pid: Any) -> Storage:
    """The storage with this key."""
    _, dtype, key, _, size, *_ = pid
    return self.storages.setdefault(key, Storage(dtype, size))


class LazyTensor:
  """A view of a storage, taken once its numbers are there. Arguments as in `torch._utils._rebuild_tensor_v2`."""

  def __init__(self, storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any):
    self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

  def numpy(self) -> np.ndarray:
    """The tensor as a contiguous array."""
    last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
    is_inside = min(self.offset, *self.strides, 0) >= 0 and last < self.storage.values.size
    if math.prod(self.shape) and not is_inside:
      raise pickle.UnpicklingError("a tensor lies outside its storage")
    values = self.storage.values[self.offset :]
    strides = [stride * values.itemsize for stride in self.strides]
    return np.lib.stride_tricks.as_strided(values, self.shape, strides).copy()


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """The arrays of a PyTorch checkpoint by name, without the `module.` that DataParallel puts before each.

  Raises:
    ValueError: no such file, another format, a truncated file, or one with anything but tensors in its state dict.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f"path must be an existing PyTorch checkpoint, got {str(path)!r}.")
  try:
    with open(path, "rb") as file:
      content = read_legacy(file)
    if not isinstance(content, dict):
      raise ValueError(f"it holds a {type(content).__name__}")
    state_dict = content.get("state_dict", content)
    if not isinstance(state_dict, dict):
      raise ValueError(f"its state_dict is a {type(state_dict).__name__}")
    tensors = {name: value.numpy() for name, value in state_dict.items() if isinstance(value, LazyTensor)}
  except (pickle.UnpicklingError, EOFError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
    raise ValueError(
      f"path must be a state dict that torch.save wrote with _use_new_zipfile_serialization=False, but {str(path)!r} "
      f"cannot be read so: {error}."
    ) from error
  if not tensors:
    raise ValueError(f"path must hold a state dict of tensors, got {str(path)!r} with the keys {list(content)[:5]}.")
  return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def read_legacy(file: BinaryIO) -> Any:
  """The pickled object, its tensors filled from the storages that follow it."""
  header = StateDictUnpickler(file)
  if header.load() != LEGACY_MAGIC_NUMBER:
    raise pickle.UnpicklingError("it does not begin with PyTorch's magic number")
  for _ in ("protocol version", "system information"):
    StateDictUnpickler(file).load()
  unpickler = StateDictUnpickler(file)
  content = unpickler.load()
  for key in StateDictUnpickler(file).load():
    values = unpickler.storages[key].values
    size = int.from_bytes(file.read(8), "little")
    data = file.read(values.nbytes)
    if size != values.size or len(data) != values.nbytes:
      raise EOFError(f"it ends inside storage {key}")
    values[:] = np.frombuffer(data, values.dtype)
  return content


def load_resnet_cifar(model_name: str, state_dict: dict[str, np.ndarray]) -> classifiers.ResNetCifar:
  """Builds a CIFAR ResNet from a state dict in the names of Idelbayev's `pytorch_resnet_cifar10`.

  Raises:
    ValueError: a key is missing or left over, or an array has another shape.
  """
  # A counter that PyTorch keeps for norms without a momentum; evaluation does not use it.
  state_dict = {name: array for name, array in state_dict.items() if not name.endswith("num_batches_tracked")}
  module = classifiers.build(model_name, num_classes=len(state_dict.get("linear.bias", range(10))))
  names = resnet_cifar_names(module)
  missing, unused = sorted(set(names) - set(state_dict)), sorted(set(state_dict) - set(names))
  if missing or unused:
    raise ValueError(
      f"state_dict must hold exactly the arrays of {model_name}; "
      f"missing: {missing or 'none'}; not used: {unused or 'none'}."
    )
  for name, variable in names.items():
    array = jnp.asarray(state_dict[name].T if state_dict[name].ndim == 2 else to_hwio(state_dict[name]))
    if array.shape != variable.shape:
      raise ValueError(f"state_dict[{name!r}] must have the shape {variable.shape} in our layout, got {array.shape}.")
    variable[...] = array.astype(variable.dtype)
  module.eval()
  return module


def resnet_cifar_names(module: classifiers.ResNetCifar) -> dict[str, nnx.Variable[jax.Array]]:
  """PyTorch's name of every array -> our variable."""
  names = {"conv1.weight": module.stem_conv.kernel, **norm_names("bn1", module.stem_norm)}
  blocks_per_stage = module.config.blocks_per_stage
  for index, block in enumerate(module.blocks):
    prefix = f"layer{index // blocks_per_stage + 1}.{index % blocks_per_stage}"
    for number, conv, norm in ((1, block.conv1, block.norm1), (2, block.conv2, block.norm2)):
      names[f"{prefix}.conv{number}.weight"] = conv.kernel
      names |= norm_names(f"{prefix}.bn{number}", norm)
  return names | {"linear.weight": module.head.kernel, "linear.bias": module.head.bias}


def norm_names(prefix: str, norm: nnx.BatchNorm) -> dict[str, nnx.Variable[jax.Array]]:
  """The names of one batch norm."""
  # Flax types its scale and bias as optional; ours always has them.
  assert norm.scale is not None and norm.bias is not None
  return {
    f"{prefix}.weight": norm.scale,
    f"{prefix}.bias": norm.bias,
    f"{prefix}.running_mean": norm.mean,
    f"{prefix}.running_var": norm.var,
  }


def to_hwio(array: np.ndarray) -> np.ndarray:
  """OIHW kernels -> HWIO; anything else as it is."""
  return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
