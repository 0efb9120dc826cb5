"""Pickles of NumPy's arrays give the arrays, and nothing in them is built or can fill memory."""

import pathlib
import pickle
from typing import Any

import numpy as np
import pytest
from weight_files import refuses_to_read, write

from jax_sis.classifiers import numpy_pickles, state_dicts
from jax_sis.runtime import archives

ARRAYS = {
  "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
  "float16": np.ones(3, np.float16),
  "big": np.arange(4, dtype=">f8"),
  "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
  "part": np.arange(10.0)[::3],
  "whole": np.arange(3),
  "empty": np.zeros((0, 3), np.float32),
  "scalar": np.array(2.5),
  "flags": np.array([True, False]),
}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_every_protocol_gives_the_arrays(tmp_path: pathlib.Path, protocol: int):
  path = write(tmp_path / "weights.pkl", pickle.dumps({"model": ARRAYS, "epoch": 3}, protocol))
  read = state_dicts.read_state_dict(path)
  assert list(read) == list(ARRAYS)
  for name, array in ARRAYS.items():
    np.testing.assert_array_equal(read[name], array.astype(array.dtype.newbyteorder("=")), strict=True)
    assert read[name].flags.writeable


def test_names_of_earlier_numpy_and_the_texts_of_python_2_are_read(tmp_path: pathlib.Path):
  pickled = pickle.dumps({"a": ARRAYS["float32"]}, 2).replace(b"numpy._core.", b"numpy.core.")
  np.testing.assert_array_equal(
    state_dicts.read_state_dict(write(tmp_path / "a.pkl", pickled))["a"], ARRAYS["float32"], strict=True
  )
  raw = np.array([1, 2], np.float32).tobytes()
  pickled = b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
  pickled += (
    b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
  )
  pickled += b"\x89U\x08" + raw + b"tbs."
  np.testing.assert_array_equal(state_dicts.read_state_dict(write(tmp_path / "b.pkl", pickled))["a"], [1, 2])


def test_arrays_in_a_list_are_numbered(tmp_path: pathlib.Path):
  content = {"conv/a": [np.ones((3, 3, 2, 4)), np.ones(4)], "dense": (np.ones(2),)}
  path = write(tmp_path / "weights.pkl", pickle.dumps(content, 3))
  assert list(state_dicts.read_state_dict(path)) == ["conv/a.0", "conv/a.1", "dense.0"]


def damaged(old: bytes, new: bytes) -> bytes:
  pickled = pickle.dumps({"a": np.arange(6, dtype=np.float32).reshape(2, 3)}, 3)
  assert pickled.count(old) == 1
  return pickled.replace(old, new)


@pytest.mark.parametrize(
  ("pickled", "reason"),
  [
    (damaged(b"K\x02K\x03\x86", b"K\x02K\x04\x86"), "an array has more or fewer numbers than its shape"),
    (damaged(b"K\x02K\x03\x86", b"K\x02J\xff\xff\xff\xff\x86"), "an array has more or fewer numbers than its shape"),
    (damaged(b"X\x02\x00\x00\x00f4", b"X\x02\x00\x00\x00c8"), "an array is of 'c8', which weights never are"),
    (pickle.dumps({"a": np.array([{}, None])}, 3), "an array is of 'O8', which weights never are"),
    (pickle.dumps({"a": np.array(["a"])}, 3), "an array is of 'U1', which weights never are"),
    (
      b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87Rs.",
      "an array has no numbers",
    ),
  ],
)
def test_a_damaged_array_or_one_of_another_kind_is_refused(tmp_path: pathlib.Path, pickled: bytes, reason: str):
  path = write(tmp_path / "weights.pkl", pickled)
  with refuses_to_read(path, reason):
    state_dicts.read_state_dict(path)


def test_the_same_bytes_in_many_arrays_cannot_fill_memory(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
  shared = np.ones(2**14, ">f4")
  path = write(tmp_path / "a.pkl", pickle.dumps({str(number): shared for number in range(20)}, 3))
  monkeypatch.setattr(archives, "MIN_BYTES", 2**20)
  with pytest.raises(ValueError, match=r"its arrays take 1,310,720 bytes, where a file of [0-9,]+ may take"):
    state_dicts.read_state_dict(path)
  monkeypatch.setattr(numpy_pickles, "MAX_ARRAYS", 99)
  arrays = [np.ones(1)] * 10
  path = write(tmp_path / "b.pkl", pickle.dumps({str(number): arrays for number in range(10)}, 3))
  with refuses_to_read(path, "it holds more than 99 arrays"):
    state_dicts.read_state_dict(path)


def test_a_dictionary_that_holds_itself_is_read(tmp_path: pathlib.Path):
  content: dict[str, Any] = {"a": np.ones(2)}
  content["again"] = content
  path = write(tmp_path / "a.pkl", pickle.dumps(content, 3))
  assert list(state_dicts.read_state_dict(path)) == ["a"]


class Foreign:
  """What a trainer might pickle."""


def test_a_pickle_of_other_objects_is_refused_by_their_names(tmp_path: pathlib.Path):
  path = write(tmp_path / "a.pkl", pickle.dumps({"a": Foreign()}, 3))
  with pytest.raises(ValueError, match=r"it names .*test_numpy_pickles\.Foreign, which is not part of a state dict"):
    state_dicts.read_state_dict(path)
  path = write(tmp_path / "b.pkl", pickle.dumps({"a": Foreign(), "weight": np.ones(3)}, 3))
  with pytest.raises(ValueError, match=r"in '.*' \['a'\] are not tensors"):
    state_dicts.read_state_dict(path)
