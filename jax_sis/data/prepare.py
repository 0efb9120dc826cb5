"""The original CIFAR archives -> TFDS data sets in array_record form, without TensorFlow.

TFDS's own builders download the archives and need TensorFlow to read them. Here the same builders get their images
from `cifar_archives`, and the data set appears in its place either whole or not at all.
"""

import contextlib
import fcntl
import io
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from jaxtyping import UInt8
from PIL import Image

from jax_sis.core.messages import first_line
from jax_sis.data import cifar_archives
from jax_sis.data.cifar_archives import Cifar, Split
from jax_sis.data.tfds import find_root
from jax_sis.runtime.progress import Progress

NUM_IMAGES = {"train": 50_000, "test": 10_000}
LOCK_FILE = "lock"


class FromArchive:
  """A mixin that replaces the methods of a stock builder that download or need TensorFlow."""

  cifar: Cifar
  progress: Progress
  info: Any
  # Otherwise TFDS looks for the checksums of downloads with importlib_resources, which it does not install.
  url_infos = None

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
    for feature, names in self.cifar.class_names.items():
      self.info.features[feature].names = names
    return {name: self._generate_examples(name, split) for name, split in self.cifar.splits.items()}

  def _generate_examples(self, split_name: str, split: Split) -> Iterator[tuple[int, dict[str, Any]]]:
    """The stock builder's keys and examples. TFDS orders a split by a hash of the key."""
    for index, image in enumerate(split.images):
      labels = {feature: int(values[index]) for feature, values in split.labels.items()}
      yield index, {"id": f"{split_name}_{index:05}", "image": encode_png(image), **labels}
      self.progress.advance()


def prepare(name: str, *, source: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
  """Makes `cifar10` or `cifar100` for TFDS from the original archive, unless it is already there.

  An interrupted run leaves nothing that could be taken for a data set; the same call starts again.

  Args:
    name: `cifar10` or `cifar100`.
    source: the archive of the binary version, the folder that it unpacks to, or the one above.
    data_dir: the TFDS folder to write to; None for TFDS's default.

  Returns:
    The data set's folder.

  Raises:
    ValueError: another name; the archive cannot be read, is cut short or holds something else; or the data set cannot
      be written, is being prepared by another process, or is already there but damaged.
  """
  return prepare_images(name, source=pathlib.Path(source), data_dir=data_dir, num_images=NUM_IMAGES)


def prepare_images(
  name: str, *, source: pathlib.Path, data_dir: str | os.PathLike[str] | None, num_images: Mapping[str, int]
) -> pathlib.Path:
  """`prepare` for archives with `num_images` of each split."""
  if name not in cifar_archives.ARCHIVES:
    raise ValueError(f"name must be one of {', '.join(cifar_archives.ARCHIVES)}, got {name!r}.")
  root = find_root(data_dir)
  directory = root / name / str(tfds.builder_cls(name).VERSION)
  if directory.exists():
    if fault := find_fault(directory, num_images):
      wanted = " and ".join(f"{number:,} {split_name}" for split_name, number in num_images.items())
      raise ValueError(
        f"--data-dir must not hold {name} in another form, but {str(directory)!r} is there and does not have {wanted} "
        f"images in array_record form ({fault}); move it away or name another folder."
      )
    print(f"{name} is already prepared.")
    return directory
  # TFDS's progress bars would draw over ours.
  tfds.disable_progress_bar()
  with Progress(f"Reading {source.name}", total=sum(num_images.values()), unit="image") as progress:
    cifar = cifar_archives.read_cifar(name, source, num_images)
    progress.restart(f"Writing {name}")
    try:
      with staging_folder(root / f"{name}.jax-sis-incomplete") as staging:
        # Another process may have finished meanwhile.
        if not directory.exists():
          staged = write_dataset(name, cifar, staging, progress)
          if fault := find_fault(staged, num_images):
            raise OSError(f"what was written does not read back: {fault}")
          publish(staged, directory)
    except (OSError, RuntimeError) as error:
      # array_record raises RuntimeError where a file cannot be written.
      raise ValueError(
        f"--data-dir must be a folder with room for {name}, about 140 MB, but writing to {str(root)!r} failed: "
        f"{first_line(error)}. Nothing was kept."
      ) from error
  return directory


def write_dataset(name: str, cifar: Cifar, data_dir: pathlib.Path, progress: Progress) -> pathlib.Path:
  """Runs TFDS's builder of this name on our images, and returns the folder that it makes."""
  stock = tfds.builder_cls(name)
  # With the stock builder's name, since TFDS writes class and module into the data set.
  metaclass: Any = type(stock)
  builder_class = metaclass(
    stock.__name__, (FromArchive, stock), {"__module__": stock.__module__}, skip_registration=True
  )
  builder = builder_class(data_dir=data_dir, file_format="array_record")
  builder.cifar, builder.progress = cifar, progress
  # The builder prints that it downloads, but it does not.
  with contextlib.redirect_stdout(io.StringIO()):
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
  return pathlib.Path(builder.data_dir)


@contextlib.contextmanager
def staging_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """An empty folder for this process alone, removed at the end; ValueError if another process is using it."""
  path.mkdir(parents=True, exist_ok=True)
  with open(path / LOCK_FILE, "w") as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      if not os.fstat(lock.fileno()).st_nlink:
        raise BlockingIOError("the process that held the lock removed it")
    except BlockingIOError:
      raise ValueError(
        f"--data-dir must not be in use, but another process is writing {str(path)!r}; wait until it is done."
      ) from None
    except OSError:
      # Some network file systems have no locks; there, two runs at a time may make each other fail.
      pass
    try:
      staging = path / "data"
      if staging.exists():
        shutil.rmtree(staging)
      yield staging
    finally:
      shutil.rmtree(path, ignore_errors=True)


def publish(staged: pathlib.Path, directory: pathlib.Path) -> None:
  """Moves a finished data set to its place in one step, after its files have reached the disk."""
  for path in staged.iterdir():
    with open(path, "rb") as file:
      os.fsync(file.fileno())
  directory.parent.mkdir(parents=True, exist_ok=True)
  os.rename(staged, directory)


def find_fault(directory: pathlib.Path, num_images: Mapping[str, int]) -> str:
  """What is wrong with the data set in this folder; empty if it is whole."""
  try:
    info = tfds.builder_from_directory(directory).info
    if info.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
      return f"its files are {info.file_format}"
    for split_name, expected in num_images.items():
      paths = [os.fspath(path) for path in info.splits[split_name].filepaths]
      if (found := len(ArrayRecordDataSource(paths))) != expected:
        return f"{found:,} images in {split_name}"
  except Exception as error:
    # Damaged files raise errors of TFDS, protobuf or array_record.
    return f"{type(error).__name__}: {first_line(error)}"
  return ""


def encode_png(image: UInt8[np.ndarray, "H W 3"]) -> bytes:
  file = io.BytesIO()
  Image.fromarray(image).save(file, "PNG")
  return file.getvalue()
