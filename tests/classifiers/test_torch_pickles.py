"""What trainers save beside weights is read as nothing, and no pickle takes time or memory without end."""

import argparse
import collections
import datetime
import decimal
import enum
import io
import pathlib
import pickle
import sys
import zipfile
from collections.abc import Callable
from typing import Any, ClassVar

import fake_torch
import numpy as np
import pytest
from fake_torch import FakeTensor
from weight_files import in_both_formats, refuses_to_read, write

from jax_sis.classifiers import state_dicts, torch_pickles
from jax_sis.runtime import archives


class Phase(enum.Enum):
  """As configurations have them."""

  TRAIN = 1


class Trap:
  """Tells when it is built, or gets its state back."""

  built: ClassVar[list[str]] = []

  def __new__(cls, *arguments: Any) -> "Trap":
    cls.built.append("made")
    return super().__new__(cls)

  def __setstate__(self, state: Any) -> None:
    self.built.append("told")

  def __reduce__(self) -> Any:
    return Trap, ("argument",), {"state": 1}


class AsTorchSaves:
  """Pickles as PyTorch's devices do."""

  def __reduce__(self) -> Any:
    return sys.modules["torch"].device, ("cpu",)


BESIDE: dict[str, Callable[[], Any]] = {
  "argparse.Namespace": lambda: argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("runs")),
  "NumPy scalar": lambda: np.float64(91.2),
  "NumPy array": lambda: np.arange(12.0).reshape(3, 4),
  "defaultdict": lambda: collections.defaultdict(list, loss=[1.0]),
  "Counter, deque": lambda: [collections.Counter("abc"), collections.deque([1, 2])],
  "path": lambda: pathlib.PurePosixPath("runs"),
  "dates": lambda: [datetime.date(2020, 1, 2), datetime.datetime(2020, 1, 2), datetime.timedelta(1)],
  "device": AsTorchSaves,
  "dtype": lambda: sys.modules["torch"].FloatStorage,
  "enumeration": lambda: {"phase": Phase.TRAIN},
  "sets": lambda: [{1, "a"}, frozenset((2, 3))],
  "numbers": lambda: [1j, decimal.Decimal("0.1"), 10**40, slice(1, 2), range(3)],
  "tuple keys": lambda: {("a", 1): 2, None: 3, 1.5: 4, b"b": 5, 7: 6},
  "class of theirs": Trap,
}


@pytest.mark.usefixtures("pytorch_names")
@pytest.mark.parametrize("name", BESIDE)
@in_both_formats
def test_what_stands_beside_the_weights_is_neither_built_nor_needed(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, save_fn: Callable[[Any], bytes], name: str
):
  monkeypatch.setattr(fake_torch.rebuild_tensor, "__name__", "_rebuild_tensor_v2")
  device = type("device", (), {"__module__": "torch"})
  monkeypatch.setattr(sys.modules["torch"], "device", device, raising=False)
  weight = FakeTensor(np.ones((2, 3), np.float32))
  content = {"args": BESIDE[name](), "model": {"conv1.weight": weight}, "epoch": 3, "best": BESIDE[name]()}
  path = write(tmp_path / "checkpoint.pth", save_fn(content))
  Trap.built.clear()
  for key in (None, "model"):
    np.testing.assert_array_equal(state_dicts.read_state_dict(path, key=key)["conv1.weight"], np.ones((2, 3)))
  assert Trap.built == []


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_every_protocol_gives_what_python_reads(tmp_path: pathlib.Path, protocol: int):
  content = {
    "texts": ["a", "\xe4\u20ac\U0001f600", "", "x" * 300],
    "numbers": [0, 1, -1, 255, 256, 70_000, -(2**31), 2**70, 1.5, True, False, None],
    "nested": {"list": [[], [1], [1, 2]], "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)), "dict": {1: {}}},
    "twice": [shared := ["shared"], shared],
  }
  path = write(tmp_path / "content.pkl", pickle.dumps(content, protocol))
  with open(path, "rb") as file:
    read = torch_pickles.PickleReader().load(torch_pickles.PickleFile(file, path.stat().st_size))
  assert read == content
  assert read["twice"][0] is read["twice"][1]


def test_what_pytorch_saves_beside_weights_is_left_out(tmp_path: pathlib.Path):
  torch = pytest.importorskip("torch")
  weights = {"conv1.weight": torch.ones(2, 3, 3, 3), "conv1.bias": torch.nn.Parameter(torch.zeros(2))}
  weights["conv1.bias"].kept = "an attribute"
  beside = [
    *(make_fn() for name, make_fn in BESIDE.items() if name not in ("device", "dtype")),
    *(torch.device("cpu"), torch.float32, torch.Size([1]), torch.Generator(), torch.ones(2).to(torch.complex64)),
    *(torch.ones(3).to_sparse(), torch.ones(1).expand(3), torch.ones(2).to(torch.float8_e4m3fn)),
  ]
  torch.save({"model": weights, "epoch": 3, "args": beside, "network": torch.nn.Linear(2, 2)}, tmp_path / "zip.pth")
  content = {"model": weights, "args": beside[:-5], "network": torch.nn.Linear(2, 2)}
  torch.save(content, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
  for name in ("zip.pth", "legacy.pth"):
    assert list(state_dicts.read_state_dict(tmp_path / name)) == list(weights)


# Pickles that would hang or fill memory.


def archive_of(tmp_path: pathlib.Path, pickled: bytes) -> pathlib.Path:
  return write(tmp_path / "evil.pt", fake_torch.archive_bytes(pickled, {}))


# A tuple of a tuple twice, fifty levels deep: its hash would take weeks.
NESTED = b")" + b"2\x86" * 50


@pytest.mark.parametrize(
  ("pickled", "reason"),
  [
    (b"\x80\x02}" + NESTED + b"K\x01s.", "with the keys ['<tuple>']"),
    (b"\x80\x02(" + NESTED + b"K\x01d.", "with the keys ['<tuple>']"),
    (b"\x80\x04\x8f(" + NESTED + b"\x90.", "it holds a list"),
    (b"\x80\x02(U\x07storagectorch\nFloatStorage\n" + NESTED + b"U\x03cpuK\x01tQ.", "it refers to a storage in a way"),
    (b"\x80\x02}r" + (2**31 - 1).to_bytes(4, "little") + b".", "numbers an object 2147483647, but has fewer objects"),
    (b"\x80\x02X" + (2**31 - 1).to_bytes(4, "little") + b"a.", "it ends inside its pickle"),
    (b"\x80\x04\x8d" + (2**40).to_bytes(8, "little") + b"a.", "it ends inside its pickle"),
    (b"\x80\x028\x00.", "cannot be read so: "),
  ],
)
def test_a_small_pickle_takes_neither_time_nor_memory(tmp_path: pathlib.Path, pickled: bytes, reason: str):
  contents = {"zip": fake_torch.archive_bytes(pickled, {}), "legacy": fake_torch.legacy_header() + pickled + b"]."}
  for name, content in contents.items():
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError) as error:
      state_dicts.read_state_dict(path)
    assert reason in str(error.value)


def test_a_list_that_becomes_a_dictionary_again_and_again_counts_each_time(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setattr(torch_pickles, "MAX_OPERATIONS", 3000)
  pairs = pickle.dumps([[str(number), number] for number in range(200)], 2)[:-1] + b"q\xff0"
  for num_copies, is_read in ((5, True), (20, False)):
    copies = b"(" + b"ccollections\nOrderedDict\nh\xff\x85R" * num_copies + b"l."
    with pytest.raises(ValueError) as error:
      state_dicts.read_state_dict(archive_of(tmp_path, pairs + copies))
    reason = "it holds a list" if is_read else "its pickle has more than 3,000 operations, which no checkpoint has"
    assert f"cannot be read so: {reason}." in str(error.value)


def test_one_state_dict_in_many_places_is_refused(tmp_path: pathlib.Path):
  inner = {str(number): 0 for number in range(2000)}
  content = {str(number): {str(number): inner for number in range(2000)} for number in range(2)}
  content["0"] = content["1"]
  pickled = pickle.dumps(content, 2)
  # Deep and wide, but without arrays: looked through once.
  with pytest.raises(ValueError, match="must hold a state dict of tensors"):
    state_dicts.read_state_dict(archive_of(tmp_path, pickled))


@pytest.mark.usefixtures("pytorch_names")
@in_both_formats
def test_views_of_one_storage_cannot_fill_memory(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, save_fn: Callable[[Any], bytes]
):
  monkeypatch.setattr(archives, "MIN_BYTES", 2**20)
  values = np.ones(2**14, np.float32)
  path = write(tmp_path / "weights.pt", save_fn({f"a{number}": FakeTensor(values) for number in range(20)}))
  with pytest.raises(
    ValueError, match=r"its arrays take 1,310,720 bytes, where a file of \d+,\d+ may take 1,048,576\.$"
  ):
    state_dicts.read_state_dict(path)


@pytest.mark.usefixtures("pytorch_names")
def test_storages_cannot_be_larger_than_the_file(tmp_path: pathlib.Path):
  with zipfile.ZipFile(io.BytesIO(fake_torch.zip_bytes({"a": FakeTensor(np.ones(2**10, np.float32))}))) as archive:
    pickled = archive.read("archive/data.pkl")
  size = b"M" + (2**10).to_bytes(2, "little")
  path = archive_of(tmp_path, pickled.replace(size, b"J" + (2**30).to_bytes(4, "little")))
  with refuses_to_read(path, "its storages have more bytes than the file"):
    state_dicts.read_state_dict(path)


def test_compressed_arrays_cannot_fill_memory(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
  path = tmp_path / "weights.npz"
  np.savez_compressed(path, allow_pickle=False, weight=np.zeros(2**19, np.float32))
  assert list(state_dicts.read_state_dict(path)) == ["weight"]
  monkeypatch.setattr(archives, "MIN_BYTES", 2**20)
  size = path.stat().st_size
  with refuses_to_read(path, f"its arrays take 2,097,280 bytes, where a file of {size:,} may take 1,048,576"):
    state_dicts.read_state_dict(path)
