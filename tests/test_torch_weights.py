"""PyTorch checkpoints without PyTorch: what is read, what is refused, and that nothing foreign is run."""

import collections
import functools
import io
import pathlib
import pickle
import re
import sys
import types
from typing import Any

import numpy as np
import pytest

from jax_sis import classifiers, torch_weights

STORAGE_NAMES = {"<f4": "FloatStorage", "<f8": "DoubleStorage", "<f2": "HalfStorage", "<i8": "LongStorage"}
PREFIX = "path must be a state dict that torch.save wrote with _use_new_zipfile_serialization=False, but "


def rebuild_tensor(*arguments: Any) -> None:
  """Stands for `torch._utils._rebuild_tensor_v2` in the pickles that we write."""


class FakeTensor:
  """Pickles as a tensor does: a view of a storage that is written after the pickle."""

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
    return ("storage", storage_type, key, "cpu", obj.values.size, None)


@pytest.fixture
def fake_torch(monkeypatch: pytest.MonkeyPatch) -> None:
  """The names of PyTorch that its pickles refer to, so that we can write them."""
  torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
  for name in STORAGE_NAMES.values():
    setattr(torch, name, type(name, (), {"__module__": "torch"}))
  monkeypatch.setattr(rebuild_tensor, "__module__", "torch._utils")
  monkeypatch.setattr(rebuild_tensor, "__qualname__", "_rebuild_tensor_v2")
  monkeypatch.setattr(utils, "_rebuild_tensor_v2", rebuild_tensor, raising=False)
  monkeypatch.setitem(sys.modules, "torch", torch)
  monkeypatch.setitem(sys.modules, "torch._utils", utils)


def legacy_bytes(content: Any) -> bytes:
  """What `torch.save(content, _use_new_zipfile_serialization=False)` writes."""
  file = io.BytesIO()
  for header in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
    pickle.dump(header, file, protocol=2)
  pickler = FakePickler(file)
  pickler.dump(content)
  pickle.dump(list(pickler.storages), file, protocol=2)
  for values in pickler.storages.values():
    file.write(values.size.to_bytes(8, "little"))
    file.write(values.tobytes())
  return file.getvalue()


def write(path: pathlib.Path, content: bytes) -> pathlib.Path:
  path.write_bytes(content)
  return path


def refuses(message: str) -> Any:
  return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


@pytest.mark.usefixtures("fake_torch")
@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<f2", "<i8"])
def test_tensors_of_every_dtype_are_read(tmp_path: pathlib.Path, dtype: str):
  values = np.arange(24).astype(dtype).reshape(2, 3, 4)
  path = write(tmp_path / "weights.pt", legacy_bytes({"weight": FakeTensor(values)}))
  tensors = torch_weights.read_state_dict(path)
  assert list(tensors) == ["weight"]
  assert tensors["weight"].dtype == dtype
  np.testing.assert_array_equal(tensors["weight"], values)


@pytest.mark.usefixtures("fake_torch")
def test_views_of_one_storage_are_told_apart(tmp_path: pathlib.Path):
  storage = np.arange(12, dtype=np.float32)
  content = {
    "all": FakeTensor(storage),
    "transposed": FakeTensor(storage, shape=(3, 4), strides=(1, 3)),
    "part": FakeTensor(storage, offset=5, shape=(2, 2), strides=(2, 1)),
    "number": FakeTensor(storage, offset=11, shape=(), strides=()),
    "empty": FakeTensor(storage, offset=12, shape=(0,), strides=(1,)),
  }
  tensors = torch_weights.read_state_dict(write(tmp_path / "weights.pt", legacy_bytes(content)))
  np.testing.assert_array_equal(tensors["all"], storage)
  np.testing.assert_array_equal(tensors["transposed"], storage.reshape(4, 3).T)
  np.testing.assert_array_equal(tensors["part"], [[5, 6], [7, 8]])
  assert tensors["number"].shape == ()
  assert tensors["number"] == 11
  assert tensors["empty"].shape == (0,)


@pytest.mark.usefixtures("fake_torch")
def test_a_checkpoint_with_more_than_weights_gives_its_weights(tmp_path: pathlib.Path):
  weight = FakeTensor(np.ones(3, np.float32))
  content = {"epoch": 7, "state_dict": collections.OrderedDict({"module.a": weight, "b": weight, "step": 3})}
  tensors = torch_weights.read_state_dict(write(tmp_path / "weights.pt", legacy_bytes(content)))
  assert sorted(tensors) == ["a", "b"]


@pytest.mark.usefixtures("fake_torch")
def test_a_tensor_outside_its_storage_is_refused(tmp_path: pathlib.Path):
  tensors = {
    "far": FakeTensor(np.ones(4, np.float32), offset=2, shape=(3,), strides=(1,)),
    "negative": FakeTensor(np.ones(4, np.float32), offset=-1, shape=(3,), strides=(1,)),
    # The last element lies inside, others before and behind.
    "both ways": FakeTensor(np.ones(4, np.float32), offset=2, shape=(2, 2), strides=(100, -100)),
  }
  for name, tensor in tensors.items():
    path = write(tmp_path / f"{name}.pt", legacy_bytes({"weight": tensor}))
    with pytest.raises(ValueError, match="a tensor lies outside its storage"):
      torch_weights.read_state_dict(path)


@pytest.mark.usefixtures("fake_torch")
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: pathlib.Path):
  content = legacy_bytes({"weight": FakeTensor(np.arange(4, dtype=np.float32))})
  assert list(torch_weights.read_state_dict(write(tmp_path / "whole.pt", content))) == ["weight"]
  for length in range(len(content)):
    path = write(tmp_path / "part.pt", content[:length])
    with pytest.raises(ValueError, match=f"^{re.escape(PREFIX + repr(str(path)))} cannot be read so: "):
      torch_weights.read_state_dict(path)


def test_the_published_file_is_refused_when_it_is_cut_short(shared_dir: pathlib.Path, tmp_path: pathlib.Path):
  content = (shared_dir / "data/weights/resnet20-12fca82f.th").read_bytes()
  path = write(tmp_path / "part.th", content[:-1000])
  with pytest.raises(ValueError, match=r"cannot be read so: it ends inside storage \d+\.$"):
    torch_weights.read_state_dict(path)


@pytest.mark.usefixtures("fake_torch")
@pytest.mark.parametrize("place", ["first", "content"])
def test_a_pickle_that_would_run_a_command_is_refused_and_not_run(tmp_path: pathlib.Path, place: str):
  marker = tmp_path / "executed"
  command = f"touch {marker}"
  attack = f"cos\nsystem\n(S'{command}'\ntR.".encode()
  # The attack works on an unguarded unpickler.
  pickle.loads(attack)
  assert marker.exists()
  marker.unlink()
  header = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {}))
  path = write(tmp_path / "evil.pt", attack if place == "first" else header + attack)
  message = f"{PREFIX}{str(path)!r} cannot be read so: it names os.system, which is not part of a state dict."
  with refuses(message):
    torch_weights.read_state_dict(path)
  assert not marker.exists()


@pytest.mark.parametrize(
  ("module_name", "global_name"),
  [("builtins", "eval"), ("posix", "system"), ("torch", "load"), ("torch._utils", "os"), ("collections", "deque")],
)
def test_only_the_names_of_a_state_dict_are_known(tmp_path: pathlib.Path, module_name: str, global_name: str):
  path = write(tmp_path / "foreign.pt", f"c{module_name}\n{global_name}\n.".encode())
  with pytest.raises(ValueError, match=re.escape(f"it names {module_name}.{global_name}, which is not part of")):
    torch_weights.read_state_dict(path)


@pytest.mark.parametrize(
  "content", [b"", b"PK\x03\x04 a zip file of PyTorch 1.6", b"\x89PNG\r\n", pickle.dumps([1, 2])]
)
def test_another_format_is_refused(tmp_path: pathlib.Path, content: bytes):
  path = write(tmp_path / "other.pt", content)
  with pytest.raises(ValueError, match=f"^{re.escape(PREFIX + repr(str(path)))} cannot be read so: "):
    torch_weights.read_state_dict(path)


@pytest.mark.usefixtures("fake_torch")
@pytest.mark.parametrize(
  ("content", "keys"), [({"epoch": 7, "lr": 0.1}, ["epoch", "lr"]), ({"state_dict": {}}, ["state_dict"])]
)
def test_a_file_without_tensors_is_refused(tmp_path: pathlib.Path, content: Any, keys: list[str]):
  path = write(tmp_path / "empty.pt", legacy_bytes(content))
  with refuses(f"path must hold a state dict of tensors, got {str(path)!r} with the keys {keys}."):
    torch_weights.read_state_dict(path)


@pytest.mark.usefixtures("fake_torch", "without_type_checks")
@pytest.mark.parametrize("content", [[1, 2], 3, {"state_dict": [1]}])
def test_a_file_that_holds_no_dictionary_is_refused(tmp_path: pathlib.Path, content: Any):
  path = write(tmp_path / "list.pt", legacy_bytes(content))
  with pytest.raises(ValueError, match=re.escape(repr(str(path)))):
    torch_weights.read_state_dict(path)


def test_a_missing_file_is_refused(tmp_path: pathlib.Path):
  path = tmp_path / "none.pt"
  with refuses(f"path must be an existing PyTorch checkpoint, got {str(path)!r}."):
    torch_weights.read_state_dict(path)


# From names to our modules.


@functools.cache
def our_shapes(num_classes: int) -> dict[str, tuple[int, ...]]:
  """PyTorch's name of every array -> the shape of ours."""
  names = torch_weights.resnet_cifar_names(classifiers.build("resnet20", num_classes=num_classes))
  return {name: variable.shape for name, variable in names.items()}


def make_state_dict(num_classes: int = 10) -> dict[str, np.ndarray]:
  """Random arrays under PyTorch's names and in its layout."""
  rng = np.random.default_rng(0)
  state_dict = {}
  for name, shape in our_shapes(num_classes).items():
    torch_shape = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]
    state_dict[name] = rng.normal(size=torch_shape).astype(np.float32)
  return state_dict


def test_arrays_go_to_their_places_in_our_layout():
  state_dict = make_state_dict(num_classes=7)
  module = torch_weights.load_resnet_cifar("resnet20", state_dict)
  block = module.blocks[3]
  assert block.norm2.scale is not None
  assert block.norm2.bias is not None
  np.testing.assert_array_equal(block.conv1.kernel[...], np.einsum("oihw->hwio", state_dict["layer2.0.conv1.weight"]))
  np.testing.assert_array_equal(module.stem_conv.kernel[0, 2, 1], state_dict["conv1.weight"][:, 1, 0, 2])
  np.testing.assert_array_equal(block.norm2.scale[...], state_dict["layer2.0.bn2.weight"])
  np.testing.assert_array_equal(block.norm2.bias[...], state_dict["layer2.0.bn2.bias"])
  np.testing.assert_array_equal(block.norm2.mean[...], state_dict["layer2.0.bn2.running_mean"])
  np.testing.assert_array_equal(block.norm2.var[...], state_dict["layer2.0.bn2.running_var"])
  np.testing.assert_array_equal(module.head.kernel[...], state_dict["linear.weight"].T)
  assert module.head.bias is not None
  np.testing.assert_array_equal(module.head.bias[...], state_dict["linear.bias"])
  assert block.norm2.use_running_average


def test_missing_and_unused_keys_are_listed():
  state_dict = make_state_dict()
  del state_dict["conv1.weight"], state_dict["layer1.0.bn1.bias"]
  state_dict["fc.weight"] = np.zeros((10, 64), np.float32)
  with refuses(
    "state_dict must hold exactly the arrays of resnet20; missing: ['conv1.weight', 'layer1.0.bn1.bias']; "
    "not used: ['fc.weight']."
  ):
    torch_weights.load_resnet_cifar("resnet20", state_dict)
  state_dict = make_state_dict() | {"extra": np.zeros(1, np.float32)}
  with refuses("state_dict must hold exactly the arrays of resnet20; missing: none; not used: ['extra']."):
    torch_weights.load_resnet_cifar("resnet20", state_dict)


def test_an_array_of_another_shape_is_refused():
  state_dict = make_state_dict()
  state_dict["layer3.0.conv1.weight"] = np.zeros((64, 16, 3, 3), np.float32)
  with refuses(
    "state_dict['layer3.0.conv1.weight'] must have the shape (3, 3, 32, 64) in our layout, got (3, 3, 16, 64)."
  ):
    torch_weights.load_resnet_cifar("resnet20", state_dict)


def test_the_published_file_holds_resnet20(shared_dir: pathlib.Path):
  tensors = torch_weights.read_state_dict(shared_dir / "data/weights/resnet20-12fca82f.th")
  assert set(tensors) == set(our_shapes(10))
  assert tensors["conv1.weight"].shape == (16, 3, 3, 3)
  assert all(np.isfinite(array).all() and array.dtype == np.float32 for array in tensors.values())
  assert all((array > 0).all() for name, array in tensors.items() if name.endswith("running_var"))
  module = torch_weights.load_resnet_cifar("resnet20", tensors)
  np.testing.assert_array_equal(module.head.kernel[...], tensors["linear.weight"].T)
