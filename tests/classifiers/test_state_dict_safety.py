"""State dicts in damaged, foreign and hostile files: they are refused, and nothing in them is run."""

import argparse
import collections
import fractions
import io
import os
import pathlib
import pickle
import re
import sys
import zipfile
from collections.abc import Callable
from typing import Any

import fake_torch
import numpy as np
import pytest
import safetensors.numpy
from fake_torch import FakeTensor
from weight_files import GOLDEN_DIR, PREFIX, TENSOR_FILES, in_both_formats, refuses, refuses_to_read, write

from jax_sis.classifiers import state_dicts, torch_pickles


@pytest.mark.usefixtures("pytorch_names")
@pytest.mark.parametrize("dtype", [">f4", ">f8", ">f2", ">i8"])
def test_numbers_of_a_big_endian_machine_are_read(tmp_path: pathlib.Path, dtype: str):
  values = np.arange(24).astype(dtype).reshape(2, 3, 4)
  path = write(tmp_path / "w.pt", fake_torch.zip_bytes({"weight": FakeTensor(values)}, byteorder="big"))
  np.testing.assert_array_equal(
    state_dicts.read_state_dict(path)["weight"], values.astype(values.dtype.newbyteorder("=")), strict=True
  )
  np.savez(tmp_path / "w.npz", allow_pickle=False, weight=values)
  assert state_dicts.read_state_dict(tmp_path / "w.npz")["weight"].dtype.isnative


@pytest.mark.usefixtures("pytorch_names")
@pytest.mark.parametrize(
  ("tensor", "reason"),
  [
    (FakeTensor(np.ones(4, np.float32), offset=2, shape=(3,), strides=(1,)), "a tensor lies outside its storage"),
    (FakeTensor(np.ones(4, np.float32), offset=-1, shape=(3,), strides=(1,)), "a tensor lies outside its storage"),
    # The last element lies inside, others before and behind.
    (
      FakeTensor(np.ones(4, np.float32), offset=2, shape=(2, 2), strides=(100, -100)),
      "a tensor lies outside its storage",
    ),
    (
      FakeTensor(np.ones(4, np.float32), shape=(10**9, 10**9), strides=(0, 0)),
      "a tensor has more numbers than its storage",
    ),
  ],
)
@in_both_formats
def test_a_tensor_outside_its_storage_is_refused(
  tmp_path: pathlib.Path, save_fn: Callable[[Any], bytes], tensor: FakeTensor, reason: str
):
  path = write(tmp_path / "weights.pt", save_fn({"weight": tensor}))
  with refuses_to_read(path, reason):
    state_dicts.read_state_dict(path)


@pytest.mark.usefixtures("pytorch_names", "without_type_checks")
@pytest.mark.parametrize("shape", [(2.0,), "22", (-2, -2), (1, 1), (None,), (2**62, 4)])
@in_both_formats
def test_a_tensor_of_an_impossible_shape_is_refused(
  tmp_path: pathlib.Path, save_fn: Callable[[Any], bytes], shape: Any
):
  tensor = FakeTensor(np.ones(4, np.float32), shape=shape, strides=(1,) * min(len(shape), 1))
  path = write(tmp_path / "weights.pt", save_fn({"weight": tensor}))
  with pytest.raises(ValueError, match=f"^{re.escape(PREFIX + repr(str(path)))} cannot be read so: "):
    state_dicts.read_state_dict(path)


def check_truncated(path: pathlib.Path, content: bytes, step: int) -> None:
  """Every `step`-th beginning of the content is refused, and the whole is not."""
  pattern = re.compile(f"^{re.escape(PREFIX + repr(str(path)))} cannot be read so: .")
  for length in range(0, len(content), step):
    write(path, content[:length])
    with pytest.raises(ValueError, match=pattern):
      state_dicts.read_state_dict(path)
  state_dicts.read_state_dict(write(path, content))


@pytest.mark.usefixtures("pytorch_names")
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: pathlib.Path):
  values = np.arange(4, dtype=np.float32)
  check_truncated(tmp_path / "zip.pt", fake_torch.zip_bytes({"weight": FakeTensor(values)}), 1)
  check_truncated(tmp_path / "legacy.pt", fake_torch.legacy_bytes({"weight": FakeTensor(values)}), 1)
  check_truncated(tmp_path / "weights.safetensors", safetensors.numpy.save({"weight": values}), 1)
  archive = io.BytesIO()
  np.savez(archive, allow_pickle=False, weight=values)
  check_truncated(tmp_path / "weights.npz", archive.getvalue(), 1)


@pytest.mark.parametrize("name", TENSOR_FILES)
def test_a_truncated_file_of_pytorch_is_refused(tmp_path: pathlib.Path, name: str):
  check_truncated(tmp_path / "part.pt", (GOLDEN_DIR / name).read_bytes(), 17)


def test_the_published_file_is_refused_when_it_is_cut_short(shared_dir: pathlib.Path, tmp_path: pathlib.Path):
  content = (shared_dir / "data/weights/resnet20-12fca82f.th").read_bytes()
  path = write(tmp_path / "part.th", content[:-1000])
  with pytest.raises(ValueError, match=r"cannot be read so: it ends inside storage \d+\.$"):
    state_dicts.read_state_dict(path)


def test_a_changed_bit_in_the_weights_of_an_archive_is_noticed(tmp_path: pathlib.Path):
  content = (GOLDEN_DIR / "tensors.pt").read_bytes()
  start = content.index(np.abs(np.arange(12) - 2).astype(np.float64).tobytes())
  for place in range(start, start + 12 * 8):
    changed = bytearray(content)
    changed[place] ^= 4
    path = write(tmp_path / "weights.pt", bytes(changed))
    with refuses_to_read(path, "Bad CRC-32 for file 'tensors/data/2'"):
      state_dicts.read_state_dict(path)


@pytest.mark.parametrize("name", TENSOR_FILES)
def test_changed_bytes_lead_to_our_error_or_to_arrays(tmp_path: pathlib.Path, name: str):
  content = (GOLDEN_DIR / name).read_bytes()
  rng = np.random.default_rng(0)
  num_refused = 0
  for _ in range(300):
    changed = bytearray(content)
    for place in rng.integers(len(content), size=rng.integers(1, 4)):
      changed[place] = rng.integers(256)
    path = write(tmp_path / "weights.pt", bytes(changed))
    try:
      arrays = state_dicts.read_state_dict(path)
    except ValueError as error:
      num_refused += 1
      assert repr(str(path)) in str(error)
    else:
      assert all(isinstance(array, np.ndarray) for array in arrays.values())
  assert num_refused > 100


@pytest.mark.usefixtures("pytorch_names")
def test_archives_are_as_pytorch_writes_them(tmp_path: pathlib.Path):
  content = {"a": FakeTensor(np.ones(3, np.float32))}
  path = write(tmp_path / "w.pt", fake_torch.zip_bytes(content, compression=zipfile.ZIP_DEFLATED))
  with refuses_to_read(path, "its archive/data.pkl is compressed"):
    state_dicts.read_state_dict(path)
  with zipfile.ZipFile(io.BytesIO(fake_torch.zip_bytes(content))) as archive:
    pickled = archive.read("archive/data.pkl")
  write(path, fake_torch.archive_bytes(pickled, {"0": bytes(8)}))
  with refuses_to_read(path, "a storage has 8 bytes instead of 12"):
    state_dicts.read_state_dict(path)
  write(path, fake_torch.archive_bytes(pickled, {}))
  with refuses_to_read(path, "\"There is no item named 'archive/data/0' in the archive\""):
    state_dicts.read_state_dict(path)


class Reference:
  """Pickled as a persistent id."""

  def __init__(self, *pid: Any):
    self.pid = pid


class ReferencePickler(pickle.Pickler):
  """Writes any persistent ids."""

  def persistent_id(self, obj: Any) -> Any:
    """What the reference says."""
    return obj.pid if isinstance(obj, Reference) else None


@pytest.mark.usefixtures("pytorch_names")
def test_references_to_storages_are_as_pytorch_writes_them(tmp_path: pathlib.Path):
  kind = sys.modules["torch"].FloatStorage
  for references, reason in (
    ([Reference("array", kind, "0", "cpu", 4)], "it refers to a array in a way that state dicts do not"),
    # As before PyTorch 0.4: a storage that is a part of another.
    (
      [Reference("storage", kind, "0", "cpu", 4, ("1", 0, 2))],
      "it refers to a storage in a way that state dicts do not",
    ),
    (
      [Reference("storage", kind, "0", "cpu", size) for size in (4, 5)],
      "it gives storage 0 two types or sizes",
    ),
  ):
    pickled = io.BytesIO()
    ReferencePickler(pickled, 2).dump(dict(enumerate(references)))
    path = write(tmp_path / "weights.pt", fake_torch.archive_bytes(pickled.getvalue(), {"0": bytes(16)}))
    with refuses_to_read(path, reason):
      state_dicts.read_state_dict(path)


def test_a_legacy_file_begins_with_the_magic_number(tmp_path: pathlib.Path):
  content = (GOLDEN_DIR / "tensors_legacy.pt").read_bytes()
  number = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
  assert content.count(number) == 1
  path = write(tmp_path / "weights.pt", content.replace(number, number[::-1]))
  with refuses_to_read(path, "it does not begin with PyTorch's magic number"):
    state_dicts.read_state_dict(path)


def test_arrays_of_anything_but_weights_are_refused(tmp_path: pathlib.Path):
  path = tmp_path / "weights.npz"
  np.savez(path, allow_pickle=True, weight=np.array([{"a": 1}], dtype=object))
  with refuses_to_read(path, "Object arrays cannot be loaded when allow_pickle=False"):
    state_dicts.read_state_dict(path)
  np.savez(path, allow_pickle=False, weight=np.array(["a"]))
  with refuses_to_read(path, "its array 'weight' is of <U1, which weights never are"):
    state_dicts.read_state_dict(path)
  np.savez(path, allow_pickle=False, weight=np.ones(2, np.complex64))
  with refuses_to_read(path, "its array 'weight' is of complex64, which weights never are"):
    state_dicts.read_state_dict(path)


def test_another_archive_is_refused(tmp_path: pathlib.Path):
  path = tmp_path / "photos.zip"
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("cat.png", b"")
    archive.writestr("dog.npy", b"")
  with refuses_to_read(path, "it is a zip archive of something else, with ['cat.png', 'dog.npy']"):
    state_dicts.read_state_dict(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x89PNG\r\n", b"{" * 20, pickle.dumps([1, 2])])
def test_another_format_is_refused(tmp_path: pathlib.Path, content: bytes):
  path = write(tmp_path / "other.pt", content)
  with pytest.raises(ValueError, match=f"^{re.escape(PREFIX + repr(str(path)))} cannot be read so: "):
    state_dicts.read_state_dict(path)


def test_a_missing_file_is_refused(tmp_path: pathlib.Path):
  path = tmp_path / "none.pt"
  with refuses(f"path must be an existing PyTorch checkpoint, got {str(path)!r}."):
    state_dicts.read_state_dict(path)


# Pickles that would do more than hold weights.


class Command:
  """Runs a command when it is unpickled."""

  def __init__(self, command: str):
    self.command = command

  def __reduce__(self) -> Any:
    return os.system, (self.command,)


PLACES: dict[str, Callable[[bytes], bytes]] = {
  "first": lambda attack: attack,
  "content": lambda attack: fake_torch.legacy_header() + attack,
  "keys": lambda attack: fake_torch.legacy_header() + pickle.dumps({"epoch": 7}, 2) + attack,
  "archive": lambda attack: fake_torch.archive_bytes(attack, {}),
}


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("place_fn", PLACES.values(), ids=PLACES)
def test_a_pickle_that_would_run_a_command_is_refused_and_not_run(
  tmp_path: pathlib.Path, place_fn: Callable[[bytes], bytes], protocol: int
):
  marker = tmp_path / "executed"
  attack = pickle.dumps(Command(f"touch {marker}"), protocol)
  # The attack works on an unguarded unpickler.
  pickle.loads(attack)
  assert marker.exists()
  marker.unlink()
  path = write(tmp_path / "evil.pt", place_fn(attack))
  names = f"it names {os.name}.system, which is not part of a state dict"
  reason = f"{names} and can run code where Python loads it; do not trust it"
  with refuses_to_read(path, reason):
    state_dicts.read_state_dict(path)
  assert not marker.exists()


@pytest.mark.parametrize(
  ("module_name", "global_name"),
  [("builtins", "eval"), ("posix", "system"), ("torch", "load"), ("torch._utils", "os"), ("collections", "deque")],
)
@pytest.mark.parametrize("place_fn", PLACES.values(), ids=PLACES)
def test_only_the_names_of_a_state_dict_are_known(
  tmp_path: pathlib.Path, place_fn: Callable[[bytes], bytes], module_name: str, global_name: str
):
  for pickled in (
    f"c{module_name}\n{global_name}\n.".encode(),
    # As protocol 4 says names: from the stack.
    b"\x80\x04" + b"".join(pickle.dumps(name, 4)[2:-1] for name in (module_name, global_name)) + b"\x93.",
  ):
    path = write(tmp_path / "foreign.pt", place_fn(pickled))
    with pytest.raises(ValueError, match=re.escape(f"it names {module_name}.{global_name}, which is not part of")):
      state_dicts.read_state_dict(path)


def test_all_foreign_names_of_a_checkpoint_are_said_at_once(tmp_path: pathlib.Path):
  content = {"args": argparse.Namespace(lr=np.float32(0.1)), "share": fractions.Fraction(1, 3)}
  path = write(tmp_path / "c.pt", fake_torch.archive_bytes(pickle.dumps(content, 2), {}))
  with pytest.raises(ValueError) as error:
    state_dicts.read_state_dict(path)
  for name in ("argparse.Namespace, ", "numpy._core.multiarray.scalar, ", ", fractions.Fraction, which are not"):
    assert name in str(error.value)


@pytest.mark.parametrize(
  "name",
  [
    name.replace(".", " ")[::-1].replace(" ", "\n", 1)[::-1].replace(" ", ".")
    for name in torch_pickles.STATE_DICT_NAMES
  ],
)
def test_a_file_cannot_change_how_the_next_one_is_read(tmp_path: pathlib.Path, name: str):
  module_name, _, global_name = name.rpartition(".")
  # BUILD with a pair sets attributes of what lies below it on the stack, here of what a known name stands for.
  attributes = pickle.dumps((None, {"array": 1, "__call__": 1, "append": 1, "__init__": 1, "__defaults__": ()}), 2)
  pickled = f"c{module_name}\n{global_name}\n".encode() + attributes[2:-1] + b"b."
  path = write(tmp_path / "evil.pt", fake_torch.archive_bytes(pickled, {}))
  with pytest.raises(ValueError, match="cannot be read so: "):
    state_dicts.read_state_dict(path)
  arrays = state_dicts.read_state_dict(GOLDEN_DIR / "tensors.pt")
  assert list(arrays)[:2] == ["float16", "float32"]
  np.testing.assert_array_equal(arrays["part"], [[5, 6], [7, 8]])


class Disguise:
  """Unpickles as a dictionary whose methods are hidden behind attributes."""

  def __reduce__(self) -> Any:
    return collections.OrderedDict, (), {"items": 3, "keys": 3, "get": 3}, None, iter([("epoch", 7)])


def test_attributes_that_a_file_gives_to_its_dictionary_are_not_used(tmp_path: pathlib.Path):
  path = write(tmp_path / "evil.pt", fake_torch.archive_bytes(pickle.dumps(Disguise(), 2), {}))
  with refuses(f"path must hold a state dict of tensors, got {str(path)!r} with the keys ['epoch']."):
    state_dicts.read_state_dict(path)
