"""The original CIFAR-10 and CIFAR-100 archives -> arrays: binary and Python version, packed or unpacked.

Archives are read in memory, member by member, and never extracted. Pickles are read by an unpickler that knows arrays
and refuses everything else, so that a foreign file cannot run code.
"""

import gzip
import io
import math
import pathlib
import pickle
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from jax_sis.core.messages import first_line

IMAGE_BYTES = 3 * 32 * 32
# The largest original archive has less than 190 MB unpacked.
MAX_UNPACKED_BYTES = 2**30
CHUNK_BYTES = 2**20
GZIP_MAGIC = b"\x1f\x8b"
UNPICKLING_ERRORS = (
  pickle.UnpicklingError,
  EOFError,
  ValueError,
  TypeError,
  IndexError,
  KeyError,
  AttributeError,
  OverflowError,
  MemoryError,
)


class Label(NamedTuple):
  """One label of a data set: its TFDS feature, and where each version has its values and names."""

  feature: str
  num_classes: int
  names_file: str
  pickle_key: bytes
  names_key: bytes


class Version(NamedTuple):
  """One form of a data set: the folder in its archive, the files of each split, and those that name the classes."""

  data: str
  is_pickled: bool
  folder: str
  split_files: dict[str, tuple[str, ...]]
  names_files: tuple[str, ...]

  @property
  def image_files(self) -> tuple[str, ...]:
    """The files of all splits."""
    return tuple(file for files in self.split_files.values() for file in files)

  @property
  def files(self) -> tuple[str, ...]:
    """All that a data set is made from."""
    return self.image_files + self.names_files


class Split(NamedTuple):
  """The images of a split in the archive's order, and for each label's feature their classes."""

  images: UInt8[np.ndarray, "N 32 32 3"]
  labels: dict[str, Int[np.ndarray, "N"]]


class Cifar(NamedTuple):
  """A whole data set: its splits by name, and for each label's feature the names of the classes."""

  splits: dict[str, Split]
  class_names: dict[str, list[str]]


# Labels stand in the order in which a binary record begins with them.
LABELS = {
  "cifar10": (Label("label", 10, "batches.meta.txt", b"labels", b"label_names"),),
  "cifar100": (
    Label("coarse_label", 20, "coarse_label_names.txt", b"coarse_labels", b"coarse_label_names"),
    Label("label", 100, "fine_label_names.txt", b"fine_labels", b"fine_label_names"),
  ),
}
TRAIN_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
VERSIONS = (
  Version(
    data="cifar10",
    is_pickled=False,
    folder="cifar-10-batches-bin",
    split_files={"train": tuple(f"{file}.bin" for file in TRAIN_BATCHES), "test": ("test_batch.bin",)},
    names_files=("batches.meta.txt",),
  ),
  Version(
    data="cifar10",
    is_pickled=True,
    folder="cifar-10-batches-py",
    split_files={"train": TRAIN_BATCHES, "test": ("test_batch",)},
    names_files=("batches.meta",),
  ),
  Version(
    data="cifar100",
    is_pickled=False,
    folder="cifar-100-binary",
    split_files={"train": ("train.bin",), "test": ("test.bin",)},
    names_files=("coarse_label_names.txt", "fine_label_names.txt"),
  ),
  Version(
    data="cifar100",
    is_pickled=True,
    folder="cifar-100-python",
    split_files={"train": ("train",), "test": ("test",)},
    names_files=("meta",),
  ),
)


def read_cifar(name: str, source: pathlib.Path, num_images: Mapping[str, int]) -> Cifar:
  """Reads a data set from its archive or folder.

  Args:
    name: `cifar10` or `cifar100`.
    source: the archive of the binary or of the Python version, the folder that it unpacks to, or the one above.
    num_images: the images that each split must have.

  Raises:
    ValueError: no such archive or folder, one that cannot be read or lacks a file, or a file that is damaged.
  """
  version, contents = read_files(name, source)
  labels = LABELS[name]
  parse_fn = parse_pickle if version.is_pickled else parse_binary
  splits = {}
  for split_name, files in version.split_files.items():
    num_records = num_images[split_name] // len(files)
    parts = [parse_fn(contents[file], labels, num_records, f"{file} of {str(source)!r}") for file in files]
    splits[split_name] = Split(
      np.concatenate([part.images for part in parts]),
      {label.feature: np.concatenate([part.labels[label.feature] for part in parts]) for label in labels},
    )
  return Cifar(splits, {label.feature: read_class_names(label, version, contents, source) for label in labels})


def read_files(name: str, source: pathlib.Path) -> tuple[Version, dict[str, bytes]]:
  """The version of a data set that is there, and its files.

  Raises:
    ValueError: there is none, it cannot be read, or a file of it is not there.
  """
  if not source.exists():
    raise ValueError(f"--from must be an existing archive or folder, got {str(source)!r}.")
  try:
    found = list_folder(source) if source.is_dir() else read_tar(source)
    version, prefix = choose_version(name, source, found)
    contents = {file: found[prefix + file] for file in version.files}
    return version, {
      file: content if isinstance(content, bytes) else content.read_bytes() for file, content in contents.items()
    }
  except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
    raise ValueError(
      f"--from must be a whole archive (.tar.gz) or a folder, but {str(source)!r} cannot be read: "
      f"{first_line(error)}; if it is damaged, download it again."
    ) from error


def list_folder(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """The files in a folder, and in the versions' folders there, by their path below it."""
  folders = [folder, *(folder / version.folder for version in VERSIONS if (folder / version.folder).is_dir())]
  paths = [path for place in folders for path in place.iterdir() if path.is_file()]
  return {path.relative_to(folder).as_posix(): path for path in paths}


def read_tar(archive: pathlib.Path) -> dict[str, bytes]:
  """The contents of all files of an archive that belong to a version, by their path in it."""
  known_files = {file for version in VERSIONS for file in version.files}
  contents = {}
  with open(archive, "rb") as file:
    is_packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    file.seek(0)
    # Browsers may unpack what they download.
    unpacked: Any = gzip.open(file) if is_packed else file
    with tarfile.open(fileobj=unpacked, mode="r:") as tar:
      for member in tar:
        if member.offset_data + member.size > MAX_UNPACKED_BYTES:
          raise tarfile.ReadError(f"it has more than {MAX_UNPACKED_BYTES:,} bytes unpacked")
        path = pathlib.PurePosixPath(member.name)
        if path.name in known_files and member.isfile() and (content := tar.extractfile(member)):
          contents[path.as_posix()] = content.read()
    # The checksum stands at the end, behind the last file.
    while unpacked.read(CHUNK_BYTES):
      pass
  return contents


def choose_version(name: str, source: pathlib.Path, found: Mapping[str, Any]) -> tuple[Version, str]:
  """The version of which most is there, and what stands before its files' names."""
  candidates = []
  for version in VERSIONS:
    for prefix in (f"{version.folder}/", ""):
      missing = [file for file in version.files if prefix + file not in found]
      if any(prefix + file in found for file in version.image_files):
        candidates.append((len(missing), version, prefix, missing))
  own = [candidate for candidate in candidates if candidate[1].data == name]
  if not own:
    folders = " or ".join(repr(version.folder) for version in VERSIONS if version.data == name)
    others = " and ".join(sorted({version.data for _, version, _, _ in candidates}))
    raise ValueError(
      f"--from must be an archive of {name} or the folder that it unpacks to ({folders}), got {str(source)!r}, which "
      f"holds {others or 'none of its files'}."
    )
  _, version, prefix, missing = min(own, key=lambda candidate: candidate[0])
  if missing:
    raise ValueError(
      f"--from must hold all files of {version.folder!r}, but {str(source)!r} lacks {', '.join(missing)}."
    )
  return version, prefix


def parse_binary(content: bytes, labels: Sequence[Label], num_records: int, where: str) -> Split:
  """Records of a byte a label, then the red, the green and the blue pixels.

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
  return Split(
    to_images(records[:, len(labels) :]),
    {label.feature: check_labels(records[:, index], label, where) for index, label in enumerate(labels)},
  )


def parse_pickle(content: bytes, labels: Sequence[Label], num_records: int, where: str) -> Split:
  """A dictionary of `data`, an array with a row an image, and a list for each label.

  Raises:
    ValueError: it is not such a dictionary, has another number of records, or a label is out of range.
  """
  batch = unpickle(content, where)
  data = batch.get(b"data")
  shape = (num_records, IMAGE_BYTES)
  try:
    if not isinstance(data, PickledArray):
      raise ValueError(type(data).__name__)
    rows = data.numpy()
    if rows.shape != shape:
      raise ValueError(f"uint8{list(rows.shape)}")
  except ValueError as error:
    raise ValueError(f"{where} must have as data an array uint8{list(shape)}, got {error}.") from error
  classes = {}
  for label in labels:
    values = batch.get(label.pickle_key)
    key = label.pickle_key.decode()
    if not isinstance(values, list) or not all(type(value) is int for value in values) or len(values) != num_records:
      got = f"a list of {len(values):,}" if isinstance(values, list) else type(values).__name__
      raise ValueError(f"{where} must have as {key} a list of {num_records:,} numbers, got {got}.")
    classes[label.feature] = check_labels(values, label, where)
  return Split(to_images(rows), classes)


def to_images(rows: UInt8[np.ndarray, "N 3072"]) -> UInt8[np.ndarray, "N 32 32 3"]:
  """All red pixels, then the green, then the blue -> channels last."""
  return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def check_labels(values: Sequence[int] | np.ndarray, label: Label, where: str) -> Int[np.ndarray, "N"]:
  """The labels as an array.

  Raises:
    ValueError: one is not a class.
  """
  for record, value in enumerate(values):
    if not 0 <= value < label.num_classes:
      raise ValueError(
        f"{label.feature} must lie in 0..{label.num_classes - 1}, got {value} in record {record} (from 0) of {where}."
      )
  return np.asarray(values, np.int64)


def read_class_names(label: Label, version: Version, contents: Mapping[str, bytes], source: pathlib.Path) -> list[str]:
  """The names of a label's classes, in the order of their numbers.

  Raises:
    ValueError: there are not as many different names as classes.
  """
  file = version.names_files[0] if version.is_pickled else label.names_file
  where = f"{file} of {str(source)!r}"
  if version.is_pickled:
    raw = unpickle(contents[file], where).get(label.names_key)
  else:
    raw = [line.strip() for line in contents[file].splitlines() if line.strip()]
  names = []
  if isinstance(raw, list) and all(isinstance(name, bytes) and name.isascii() for name in raw):
    names = [name.decode() for name in raw]
  if not len(names) == len(set(names)) == label.num_classes:
    raise ValueError(
      f"{where} must name {label.num_classes} different classes of {label.feature}, got {len(names)} names, "
      f"{len(set(names))} of them different."
    )
  return names


class PickledArray:
  """Stands for `numpy.ndarray`, whose own unpickling can be led to read arbitrary memory.

  Takes the arguments of `numpy.core.multiarray._reconstruct`, of which the state needs none.
  """

  def __init__(self, *_: Any):
    self.state: Any = None

  def __setstate__(self, state: Any) -> None:
    self.state = state

  def numpy(self) -> UInt8[np.ndarray, "..."]:
    """The array.

    Raises:
      ValueError: it is not one of bytes, or does not have as many as its shape asks for.
    """
    match self.state:
      case (_, tuple(shape), PickledDtype(name=b"u1" | "u1"), int(is_fortran), bytes(data)):
        if all(type(size) is int and size >= 0 for size in shape) and math.prod(shape) == len(data):
          return np.frombuffer(data, np.uint8).reshape(shape, order="F" if is_fortran else "C")
        raise ValueError(f"an array of {len(data):,} bytes for the shape {shape}")
    raise ValueError("an array of another kind")


class PickledDtype:
  """Stands for `numpy.dtype`; of its arguments only the name is looked at."""

  def __init__(self, name: Any = None, *_: Any):
    self.name = name

  def __setstate__(self, state: Any) -> None:
    """Byte order and the like, of which a byte has none."""


PICKLED_CLASSES = {
  ("numpy.core.multiarray", "_reconstruct"): PickledArray,
  ("numpy._core.multiarray", "_reconstruct"): PickledArray,
  ("numpy", "ndarray"): PickledArray,
  ("numpy", "dtype"): PickledDtype,
}


class ArrayUnpickler(pickle.Unpickler):
  """Unpickles arrays in Python's own containers and nothing else."""

  def find_class(self, module_name: str, global_name: str) -> Any:
    """The few names that an array needs."""
    if (module_name, global_name) not in PICKLED_CLASSES:
      raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, which is not part of an array")
    return PICKLED_CLASSES[module_name, global_name]


def unpickle(content: bytes, where: str) -> dict[Any, Any]:
  """The dictionary of a file of the Python version; arrays come as PickledArray, texts as bytes.

  Raises:
    ValueError: it is cut short, names anything but arrays, or holds no dictionary.
  """
  try:
    value = ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
  except UNPICKLING_ERRORS as error:
    raise ValueError(f"{where} must be a pickle of arrays, but cannot be read so: {first_line(error)}.") from error
  if not isinstance(value, dict):
    raise ValueError(f"{where} must be a pickled dictionary, got {type(value).__name__}.")
  return value
