"""Writes CIFAR archives as their authors did: binary records, and pickles in the opcodes of Python 2."""

import io
import pathlib
import struct
import tarfile
from typing import Any

import numpy as np

FOLDERS = {
  ("cifar10", "binary"): "cifar-10-batches-bin",
  ("cifar10", "python"): "cifar-10-batches-py",
  ("cifar100", "binary"): "cifar-100-binary",
  ("cifar100", "python"): "cifar-100-python",
}
CLASS_NAMES = {
  "cifar10": {"label": "airplane automobile bird cat deer dog frog horse ship truck".split()},
  "cifar100": {
    "coarse_label": [f"coarse_{7 * number % 20}" for number in range(20)],
    "label": [f"fine_{7 * number % 100}" for number in range(100)],
  },
}
SMALL = {"train": 25, "test": 10}

# Images [N, 32, 32, 3] and the labels of each feature [N], for each split.
Splits = dict[str, tuple[np.ndarray, dict[str, np.ndarray]]]


def make_splits(name: str, num_images: dict[str, int] = SMALL) -> Splits:
  """Random images and labels."""
  rng = np.random.default_rng(0)
  splits = {}
  for split_name, number in num_images.items():
    images = rng.integers(0, 256, (number, 32, 32, 3), np.uint8)
    splits[split_name] = (
      images,
      {feature: rng.integers(0, len(names), number) for feature, names in CLASS_NAMES[name].items()},
    )
  return splits


def make_files(name: str, kind: str, splits: Splits) -> dict[str, bytes]:
  """The contents of the files of a version."""
  files = {}
  for split_name, (images, labels) in splits.items():
    if name == "cifar100":
      stems = [split_name]
    else:
      stems = [f"data_batch_{number}" for number in range(1, 6)] if split_name == "train" else ["test_batch"]
    for stem, rows in zip(stems, np.array_split(np.arange(len(images)), len(stems)), strict=True):
      batch = images[rows].transpose(0, 3, 1, 2).reshape(len(rows), 3072)
      batch_labels = {feature: values[rows] for feature, values in labels.items()}
      if kind == "binary":
        files[f"{stem}.bin"] = binary_records(batch, list(batch_labels.values()))
      else:
        files[stem] = pickled_batch(batch, batch_labels, name)
  return files | names_files(name, kind)


def names_files(name: str, kind: str) -> dict[str, bytes]:
  """The files that name the classes."""
  names = CLASS_NAMES[name]
  if kind == "python":
    file = "batches.meta" if name == "cifar10" else "meta"
    prefixes = {"label": "" if name == "cifar10" else "fine_", "coarse_label": "coarse_"}
    content = {f"{prefixes[feature]}label_names".encode(): [n.encode() for n in names[feature]] for feature in names}
    return {file: pickle_2({b"num_vis": 3072, **content})}
  if name == "cifar10":
    return {"batches.meta.txt": "\n".join([*names["label"], "", ""]).encode()}
  return {
    "coarse_label_names.txt": "\n".join([*names["coarse_label"], ""]).encode(),
    "fine_label_names.txt": "\n".join([*names["label"], ""]).encode(),
  }


def binary_records(rows: np.ndarray, labels: list[np.ndarray]) -> bytes:
  """For each image its labels, a byte each, and its pixels."""
  return np.column_stack([*(values.astype(np.uint8) for values in labels), rows]).tobytes()


def pickled_batch(rows: np.ndarray, labels: dict[str, np.ndarray], name: str) -> bytes:
  """The dictionary of a Python version's file."""
  keys = {"label": b"labels" if name == "cifar10" else b"fine_labels", "coarse_label": b"coarse_labels"}
  content: dict[bytes, Any] = {keys[feature]: values.tolist() for feature, values in labels.items()}
  names = [b"image_%d.png" % number for number in range(len(rows))]
  return pickle_2({b"batch_label": b"batch 1 of 1", **content, b"data": rows, b"filenames": names})


def pickle_2(content: Any) -> bytes:
  """A pickle of protocol 2 as Python 2 wrote it."""
  return b"\x80\x02" + opcodes(content) + b"."


def opcodes(value: Any) -> bytes:
  """What pushes this value."""
  if isinstance(value, dict):
    return b"}(" + b"".join(opcodes(key) + opcodes(item) for key, item in value.items()) + b"u"
  if isinstance(value, list):
    return b"](" + b"".join(map(opcodes, value)) + b"e"
  if isinstance(value, bytes):
    return (
      b"U" + struct.pack("<B", len(value)) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value
    )
  if isinstance(value, int):
    return b"J" + struct.pack("<i", value)
  assert isinstance(value, np.ndarray)
  dtype = b"cnumpy\ndtype\n" + opcodes(value.dtype.str[1:].encode()) + b"K\x00K\x01\x87R"
  dtype += b"(K\x03" + opcodes(b"|") + b"NNN" + opcodes(-1) + opcodes(-1) + b"K\x00tb"
  shape = b"(" + b"".join(map(opcodes, value.shape)) + b"t"
  is_fortran = value.flags.f_contiguous and not value.flags.c_contiguous
  data = opcodes(value.tobytes("F" if is_fortran else "C"))
  start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
  return start + b"(K\x01" + shape + dtype + (b"\x88" if is_fortran else b"\x89") + data + b"tb"


def write_folder(folder: pathlib.Path, files: dict[str, bytes]) -> pathlib.Path:
  """Writes the files into a folder."""
  folder.mkdir(parents=True, exist_ok=True)
  for file, content in files.items():
    (folder / file).write_bytes(content)
  return folder


def write_tar(path: pathlib.Path, folder: str, files: dict[str, bytes], *, mode: Any = "w:gz", **options: Any) -> Any:
  """Writes the files into an archive, in a folder of it."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, mode, **options) as tar:
    directory = tarfile.TarInfo(folder)
    directory.type = tarfile.DIRTYPE
    tar.addfile(directory)
    for file, content in files.items():
      member = tarfile.TarInfo(f"{folder}/{file}")
      member.size = len(content)
      tar.addfile(member, io.BytesIO(content))
  return path
