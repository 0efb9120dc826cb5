"""Data sets of TensorFlow Datasets, read without TensorFlow.

TFDS is imported when a data set is opened: other images need neither it nor array_record.
"""

import contextlib
import os
import pathlib
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Any

from jax_sis.core.messages import first_line, make_printable
from jax_sis.data.cifar_archives import ARCHIVES

DEFAULT_SPLIT = "test"
# `cifar10`, `imagenet_resized/32x32:0.1.0`.
NAME = re.compile(r"[A-Za-z]\w*(/[\w.-]+)?(:[\w.]+)?")
INFO_FILE = "dataset_info.json"


def is_meant(
  name: str, *, split: str | None, data_dir: str | os.PathLike[str] | None, argument: str = "--data"
) -> bool:
  """Whether a TFDS data set is meant, and not files.

  Args:
    name: what the user calls the images.
    split: as the user gives it; that, like a data_dir, says that a data set is meant.
    data_dir: as the user gives it.
    argument: what the user calls `name`.

  Raises:
    ValueError: it may be both, or is a path beside a split or data_dir.
  """
  path = pathlib.Path(name)
  if split is not None or data_dir is not None:
    if are_files(name, data_dir) or not NAME.fullmatch(name):
      raise ValueError(
        f"--data-dir and --split are for TFDS data sets, but {argument} names files, {name!r}; leave them out, or name "
        "a data set."
      )
    return True
  if not path.exists():
    # A mistyped folder is not a data set with a configuration.
    return NAME.fullmatch(name) is not None and (path.name == name or (find_root(None) / dataset_of(name)).exists())
  is_here = any((folder / "features.json").exists() for folder in path.glob("*") if (folder / INFO_FILE).exists())
  if path.name == name and (is_here or name in ARCHIVES or (find_root(None) / name).exists()):
    raise ValueError(
      f"{argument} must mean one thing, but {name!r} is both in the working folder and a TFDS data set; say {argument} "
      f"./{name} for what is here, --data-dir {'.' if is_here else 'DIR'}"
      f"{' or --split NAME' if argument == '--data' else ''} for the data set."
    )
  if is_here:
    whole = path.resolve()
    raise ValueError(
      f"{argument} must be the name of a TFDS data set and not its folder, got {name!r}; say {argument} {whole.name} "
      f"--data-dir {shlex.quote(str(whole.parent))}."
    )
  return False


def are_files(name: str, data_dir: str | os.PathLike[str] | None) -> bool:
  """Whether this is a file, or a folder that cannot be taken for a data set in this TFDS folder."""
  path = pathlib.Path(name)
  is_below = path.is_dir() and path.name != name and not (find_root(data_dir) / dataset_of(name)).exists()
  return is_below or path.is_file()


def find_root(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
  """The TFDS folder that is meant; None is TFDS's default, which must not need TFDS."""
  default = os.environ.get("TFDS_DATA_DIR", os.path.join("~", "tensorflow_datasets"))
  return pathlib.Path(data_dir or default).expanduser()


def tfds_id(example: Mapping[str, Any], index: int) -> str:
  """The id or the name of its file that the data set gives an example, or its place if it gives neither."""
  raw_id = example.get("id", example.get("file_name", f"{index:08}"))
  return make_printable(raw_id.decode(errors="backslashreplace") if isinstance(raw_id, bytes) else str(raw_id))


def read_example(source: Any, index: int) -> Mapping[str, Any]:
  """The example at a place of what `open_data_source` gives; ValueError if its record is damaged."""
  try:
    return source[index]
  except Exception as error:
    # Damaged files raise errors of array_record, protobuf or the decoder of images.
    problem = make_printable(first_line(error)) or type(error).__name__
    raise ValueError(f"record {index} cannot be read: {problem}.") from error


def read_all(source: Any, *, refuse_fn: Callable[[ValueError], None]) -> dict[int, Mapping[str, Any]]:
  """All examples that can be read, by place; `refuse_fn` is called with the error of each damaged record."""
  with contextlib.suppress(Exception):
    return dict(enumerate(source.__getitems__(range(len(source)))))
  # One by one, which is slower, it shows which record it is.
  examples = {}
  for index in range(len(source)):
    try:
      examples[index] = read_example(source, index)
    except ValueError as error:
      refuse_fn(error)
  return examples


def open_data_source(
  name: str, split: str, data_dir: str | os.PathLike[str] | None, *, with_images: bool = True
) -> Any:
  """`tfds.data_source` without downloads, with errors that say what to do.

  Args:
    name: the data set.
    split: its split.
    data_dir: the TFDS folder; None for TFDS's default.
    with_images: whether images are decoded; otherwise they stay encoded bytes, which is quicker.

  Raises:
    ValueError: the data set is not there in array_record form, or has no such split, or TFDS cannot be imported.
  """
  try:
    import array_record  # noqa: F401  TFDS imports it too late for a clear error.
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise ValueError(
      f"--data {name} is read by tensorflow-datasets and array-record, which cannot be imported here ({error}); "
      "install them, or give a folder of images, which needs neither."
    ) from error
  decoders = None if with_images else {"image": tfds.decode.SkipDecoding()}
  try:
    return tfds.data_source(name, split=split, data_dir=find_root(data_dir), download=False, decoders=decoders)
  except Exception as error:
    place = f"--data-dir {str(data_dir)!r}" if data_dir else "the default TFDS folder (name one by --data-dir)"
    raise ValueError(
      f"--data must be a TFDS data set prepared as array_record, with the split asked for; {name!r}, split {split!r}, "
      f"could not be opened in {place}: {advise_on_missing(name, data_dir) or first_line(error)}"
    ) from error


def labelled_features(source: Any, name: str) -> Any:
  """The features of a data set; ValueError if it has no images or no labels."""
  features = source.dataset_info.features
  if features is None or not {"image", "label"} <= set(features):
    raise ValueError(f"data set {name!r} must have the features image and label, got {sorted(features or ())}.")
  return features


def advise_on_missing(name: str, data_dir: str | os.PathLike[str] | None) -> str:
  """Says that a data set is not there, and how to get it; empty if it is there in some form."""
  root = find_root(data_dir)
  folder = root / dataset_of(name)
  if any(folder.rglob(INFO_FILE)):
    return ""
  here = f"; what is called so here is meant by --data ./{name} alone" if pathlib.Path(name).exists() else ""
  if folder.name in ARCHIVES:
    return (
      f"it is not there{here}. Make it from the original archive, {ARCHIVES[folder.name].file}, by jax-sis data "
      f"prepare {folder.name} --from ARCHIVE --data-dir {shlex.quote(str(root))}"
    )
  return f"it is not there{here}. Put its files into {str(folder / 'VERSION')!r}, {INFO_FILE} among them."


def dataset_of(name: str) -> str:
  """`imagenet_resized/32x32:0.1.0` -> `imagenet_resized`."""
  return name.partition(":")[0].partition("/")[0]
