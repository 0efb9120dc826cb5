"""What is brought in the place of weights is said by its name, with what to do."""

import io
import json
import pathlib

import numpy as np
import pytest
from weight_files import refuses_to_read, write

from jax_sis.classifiers import foreign_files, state_dicts

ARRAY = io.BytesIO()
np.save(ARRAY, np.ones(3), allow_pickle=False)
INDEX = {"metadata": {"total_size": 8}, "weight_map": {"a": "m-00001-of-00002.bin", "b": "m-00002-of-00002.bin"}}
FILES = {
  "lfs.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n", "it is a Git LFS pointer, not"),
  "page.pth": (b"<!DOCTYPE html><html>", "it is a web page, not weights"),
  "page2.pth": (b"\xef\xbb\xbf \n<html>", "it is a web page, not weights"),
  "error.pth": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "it is a web page, not weights"),
  "m.safetensors.index.json": (
    json.dumps(INDEX).encode(),
    "it is the index of weights in 2 files (m-00001-of-00002.bin",
  ),
  "empty.index.json": (b'{"weight_map": {}}', "it is the index of weights in other files, and names none"),
  "other.json": (b'{"a": 1}', "it is a text in JSON, not weights"),
  "broken.json": (b'{"a": ', "it is a text in JSON, not weights"),
  "deep.json": (b'{"a":' + b"[" * 100_000, "it is a text in JSON, not weights"),
  "model.h5": (b"\x89HDF\r\n\x1a\n" + bytes(90), "it is an HDF5 file (.h5), as Keras writes"),
  "plain.eqx": (ARRAY.getvalue() * 2, "it is a file of Equinox, whose arrays have no names"),
  "guide.eqx": (b'{"width": 3}\n' + ARRAY.getvalue(), "it is a file of Equinox, whose arrays have no names"),
  "a.npy": (ARRAY.getvalue(), "it is a single NumPy array (.npy)"),
  "flax.msgpack": (b"\x81\xa6params\x80", "it is a msgpack file, as Flax writes"),
  "flax": (b"\xde\x00\x11\xa6params\x80", "it is a msgpack file, as Flax writes"),
  "w.pth.gz": (b"\x1f\x8b\x08\x00", "it is packed by gzip"),
  "w.tar": (bytes(257) + b"ustar", "it is a tar archive"),
  "model.onnx": (b"\x08\x07\x12", "it is an ONNX model"),
  "model.tflite": (b"\x1c\x00\x00\x00TFL3", "it is a TensorFlow Lite model"),
  "m.keras": (b"PK\x03\x04", "it is a Keras model"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_foreign_file_is_named(tmp_path: pathlib.Path, name: str):
  content, said = FILES[name]
  path = write(tmp_path / name, content)
  assert foreign_files.say_what_file_it_is(path).startswith(said)
  with refuses_to_read(path, foreign_files.say_what_file_it_is(path)):
    state_dicts.read_state_dict(path)


@pytest.mark.parametrize(
  ("names", "said"),
  [
    (("_CHECKPOINT_METADATA", "d/x"), "it is a folder of Orbax"),
    (("default/manifest.ocdbt",), "it is a folder of Orbax"),
    (("classifier.json", "variables/_METADATA"), "it is a classifier's folder already; use it by --checkpoint"),
    (("saved_model.pb",), "it is a TensorFlow model's folder"),
    ((".metadata", "__0_0.distcp"), "it is a distributed checkpoint of PyTorch"),
    (("config.json", "model.safetensors"), "it is a folder; name the file in it, such as model.safetensors"),
    (("notes.txt",), "it is a folder without weights"),
  ],
)
def test_a_folder_is_named(tmp_path: pathlib.Path, names: tuple[str, ...], said: str):
  for name in names:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  with pytest.raises(ValueError, match=f"cannot be read so: {said}"):
    state_dicts.read_state_dict(tmp_path)
