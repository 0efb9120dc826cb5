"""Writes CIFAR archives as their authors did, the binary version."""

import io
import pathlib
import tarfile
from typing import Any

import numpy as np

FOLDERS = {"cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}
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


def make_files(name: str, splits: Splits) -> dict[str, bytes]:
  """The contents of all files of a data set."""
  files = {}
  for split_name, (images, labels) in splits.items():
    if name == "cifar100":
      stems = [split_name]
    else:
      stems = [f"data_batch_{number}" for number in range(1, 6)] if split_name == "train" else ["test_batch"]
    for stem, rows in zip(stems, np.array_split(np.arange(len(images)), len(stems)), strict=True):
      batch = images[rows].transpose(0, 3, 1, 2).reshape(len(rows), 3072)
      files[f"{stem}.bin"] = binary_records(batch, [values[rows] for values in labels.values()])
  return files | names_files(name)


def names_files(name: str) -> dict[str, bytes]:
  """The files that name the classes."""
  names = CLASS_NAMES[name]
  if name == "cifar10":
    return {"batches.meta.txt": "\n".join([*names["label"], "", ""]).encode()}
  return {
    "coarse_label_names.txt": "\n".join([*names["coarse_label"], ""]).encode(),
    "fine_label_names.txt": "\n".join([*names["label"], ""]).encode(),
  }


def binary_records(rows: np.ndarray, labels: list[np.ndarray]) -> bytes:
  """For each image its labels, a byte each, and its pixels."""
  return np.column_stack([*(values.astype(np.uint8) for values in labels), rows]).tobytes()


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
