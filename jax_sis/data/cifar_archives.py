"""The original CIFAR-10 and CIFAR-100 archives -> arrays: the binary version, packed or unpacked.

Archives are read in memory, member by member, and never extracted. The Python version is not read, since a foreign
pickle can run code.
"""

import gzip
import pathlib
import tarfile
import zlib
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from jax_sis.core.messages import first_line

IMAGE_BYTES = 3 * 32 * 32
# The largest original archive has less than 190 MB unpacked.
MAX_UNPACKED_BYTES = 2**28
# What a name in an archive may take; those of the original ones have some tens of bytes.
MAX_HEADER_BYTES = 2**16
CHUNK_BYTES = 2**20
GZIP_MAGIC = b"\x1f\x8b"
HOME_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"


class Label(NamedTuple):
  """One label of a data set: its TFDS feature, how many classes it has, and the file with their names."""

  feature: str
  num_classes: int
  names_file: str


class Archive(NamedTuple):
  """The binary version of a data set.

  Attributes:
    file: what the archive is called.
    folder: the folder in it.
    labels: in the order of the bytes at the start of each record.
    split_files: the files of each split.
    python_folder: the folder in the archive of the Python version.
  """

  file: str
  folder: str
  labels: tuple[Label, ...]
  split_files: dict[str, tuple[str, ...]]
  python_folder: str

  @property
  def image_files(self) -> tuple[str, ...]:
    return tuple(file for files in self.split_files.values() for file in files)

  @property
  def files(self) -> tuple[str, ...]:
    """All that a data set is made from."""
    return self.image_files + tuple(label.names_file for label in self.labels)


class Split(NamedTuple):
  """The images of a split in the archive's order, and for each label's feature their classes."""

  images: UInt8[np.ndarray, "N 32 32 3"]
  labels: dict[str, Int[np.ndarray, "N"]]


class Cifar(NamedTuple):
  """A whole data set: its splits by name, and for each label's feature the names of the classes."""

  splits: dict[str, Split]
  class_names: dict[str, list[str]]


ARCHIVES = {
  "cifar10": Archive(
    file="cifar-10-binary.tar.gz",
    folder="cifar-10-batches-bin",
    labels=(Label("label", 10, "batches.meta.txt"),),
    split_files={
      "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
      "test": ("test_batch.bin",),
    },
    python_folder="cifar-10-batches-py",
  ),
  "cifar100": Archive(
    file="cifar-100-binary.tar.gz",
    folder="cifar-100-binary",
    labels=(Label("coarse_label", 20, "coarse_label_names.txt"), Label("label", 100, "fine_label_names.txt")),
    split_files={"train": ("train.bin",), "test": ("test.bin",)},
    python_folder="cifar-100-python",
  ),
}


def read_cifar(name: str, source: pathlib.Path, num_images: Mapping[str, int]) -> Cifar:
  """Reads a data set from its archive or folder.

  Args:
    name: `cifar10` or `cifar100`.
    source: the archive of the binary version, the folder that it unpacks to, or the one above.
    num_images: the images that each split must have.

  Raises:
    ValueError: no such archive or folder, one that cannot be read or lacks a file, or a file that is damaged.
  """
  archive = ARCHIVES[name]
  contents = read_files(name, source)
  splits = {}
  for split_name, files in archive.split_files.items():
    num_records = num_images[split_name] // len(files)
    parts = [parse_records(contents[file], archive.labels, num_records, f"{file} of {str(source)!r}") for file in files]
    splits[split_name] = Split(
      np.concatenate([part.images for part in parts]),
      {label.feature: np.concatenate([part.labels[label.feature] for part in parts]) for label in archive.labels},
    )
  return Cifar(
    splits,
    {
      label.feature: parse_class_names(contents[label.names_file], label, f"{label.names_file} of {str(source)!r}")
      for label in archive.labels
    },
  )


def read_files(name: str, source: pathlib.Path) -> dict[str, bytes]:
  """The files of a data set; ValueError if one is missing or cannot be read."""
  if not source.exists():
    raise ValueError(f"--from must be an existing archive or folder, got {str(source)!r}.")
  try:
    found = list_folder(source) if source.is_dir() else read_tar(source)
    prefix = find_prefix(name, source, found)
    contents = {file: found[prefix + file] for file in ARCHIVES[name].files}
    return {file: content if isinstance(content, bytes) else content.read_bytes() for file, content in contents.items()}
  except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
    raise ValueError(
      f"--from must be a whole archive (.tar.gz) or a folder, but {str(source)!r} cannot be read: "
      f"{first_line(error)}; if it is damaged, download it again."
    ) from error


def list_folder(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """The files in a folder, and in the archives' folders there, by their path below it."""
  names = [name for archive in ARCHIVES.values() for name in (archive.folder, archive.python_folder)]
  folders = [folder, *(folder / name for name in names if (folder / name).is_dir())]
  paths = [path for place in folders for path in place.iterdir() if path.is_file()]
  return {path.relative_to(folder).as_posix(): path for path in paths}


class BoundedFile:
  """A file that refuses to read more than `most` bytes at once, before it takes them."""

  def __init__(self, file: Any):
    self.file, self.seek, self.tell, self.most = file, file.seek, file.tell, MAX_HEADER_BYTES

  def read(self, num_bytes: int) -> bytes:
    if num_bytes > self.most:
      raise tarfile.ReadError(f"it has something of {num_bytes:,} bytes where {self.most:,} are the most")
    return self.file.read(num_bytes)


def read_tar(path: pathlib.Path) -> dict[str, bytes]:
  """The contents of an archive's files by their path in it; empty for files of no use to us."""
  known_files = {file for archive in ARCHIVES.values() for file in archive.files}
  contents = {}
  with open(path, "rb") as file:
    is_packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    file.seek(0)
    # Browsers may unpack what they download.
    unpacked: Any = BoundedFile(gzip.open(file) if is_packed else file)
    with tarfile.open(fileobj=unpacked, mode="r:") as tar:
      for member in tar:
        if member.offset_data + member.size > MAX_UNPACKED_BYTES:
          raise tarfile.ReadError(f"it has more than {MAX_UNPACKED_BYTES:,} bytes unpacked")
        if member.isfile() and (content := tar.extractfile(member)):
          member_path = pathlib.PurePosixPath(member.name)
          unpacked.most = MAX_UNPACKED_BYTES
          contents[member_path.as_posix()] = content.read() if member_path.name in known_files else b""
          unpacked.most = MAX_HEADER_BYTES
    # The checksum stands at the end, behind the last file.
    unpacked.most = CHUNK_BYTES
    while unpacked.read(CHUNK_BYTES):
      pass
  return contents


def find_prefix(name: str, source: pathlib.Path, found: Collection[str]) -> str:
  """What precedes the names of a data set's files in all the paths found; ValueError if files are missing."""
  archive = ARCHIVES[name]
  missing = {
    prefix: [file for file in archive.files if prefix + file not in found] for prefix in (f"{archive.folder}/", "")
  }
  prefix = min(missing, key=lambda prefix: len(missing[prefix]))
  if not missing[prefix]:
    return prefix
  if any(prefix + file in found for file in archive.image_files):
    raise ValueError(
      f"--from must hold all files of {archive.folder!r}, but {str(source)!r} lacks {', '.join(missing[prefix])}; "
      "download the archive again."
    )
  raise ValueError(
    f"--from must be the binary version of {name} ({archive.file}, or the folder {archive.folder!r} that it unpacks "
    f"to), got {str(source)!r}, which holds {describe_files(name, source, found)}; download "
    f"{archive.file} from {HOME_PAGE}."
  )


def describe_files(wanted: str, source: pathlib.Path, found: Collection[str]) -> str:
  """Which data sets these files are of, other than the one that is wanted."""
  paths = [source / path for path in found]
  names, folders = {path.name for path in paths}, {path.parent.name for path in paths}
  held = []
  for name, archive in ARCHIVES.items():
    if name != wanted and names & set(archive.image_files):
      held.append(name)
    if archive.python_folder in folders:
      held.append(f"the Python version of {name}")
  return " and ".join(held) or "none of its files"


def parse_records(content: bytes, labels: tuple[Label, ...], num_records: int, where: str) -> Split:
  """Records of a byte a label, then all red pixels, then the green, then the blue.

  Raises:
    ValueError: another size, or a label out of range.
  """
  record_bytes = len(labels) + IMAGE_BYTES
  if len(content) != num_records * record_bytes:
    raise ValueError(
      f"{where} must have {num_records * record_bytes:,} bytes ({num_records:,} records of {record_bytes:,}), "
      f"got {len(content):,}."
    )
  records = np.frombuffer(content, np.uint8).reshape(num_records, record_bytes)
  images = records[:, len(labels) :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
  classes = {label.feature: records[:, index].astype(np.int64) for index, label in enumerate(labels)}
  for label in labels:
    values = classes[label.feature]
    if len(wrong := np.flatnonzero(values >= label.num_classes)):
      raise ValueError(
        f"{label.feature} must lie in 0..{label.num_classes - 1}, got {values[wrong[0]]} in record {wrong[0]} (from 0) "
        f"of {where}."
      )
  return Split(images, classes)


def parse_class_names(content: bytes, label: Label, where: str) -> list[str]:
  """The names of a label's classes, one a line, in the order of their numbers.

  Raises:
    ValueError: there are not as many different names as classes.
  """
  names = [line.strip() for line in content.decode().splitlines() if line.strip()] if content.isascii() else []
  if not len(names) == len(set(names)) == label.num_classes:
    raise ValueError(
      f"{where} must name {label.num_classes} different classes of {label.feature}, got {len(names)} names, "
      f"{len(set(names))} of them different."
    )
  return names
