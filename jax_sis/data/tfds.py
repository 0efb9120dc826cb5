"""Data sets of TensorFlow Datasets, read without TensorFlow.

TFDS is imported when a data set is opened: other images need neither it nor array_record.
"""

import os
import pathlib
import shlex
from collections.abc import Mapping
from typing import Any

from jax_sis.core.messages import first_line
from jax_sis.data.cifar_archives import ARCHIVES


def tfds_id(example: Mapping[str, Any], index: int) -> str:
  """The id that the data set gives an example, or its place if it gives none."""
  raw_id = example.get("id", f"{index:08}")
  return raw_id.decode() if isinstance(raw_id, bytes) else str(raw_id)


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
    return tfds.data_source(name, split=split, data_dir=data_dir, download=False, decoders=decoders)
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
  from tensorflow_datasets.core import constants

  root = pathlib.Path(data_dir or constants.DATA_DIR).expanduser()
  folder = root / dataset_of(name)
  if any(folder.rglob("dataset_info.json")):
    return ""
  if folder.name in ARCHIVES:
    return (
      f"it is not there. Make it from the original archive, {ARCHIVES[folder.name].file}, by jax-sis data prepare "
      f"{folder.name} --from ARCHIVE --data-dir {shlex.quote(str(root))}"
    )
  return f"it is not there. Put its files into {str(folder / 'VERSION')!r}, dataset_info.json among them."


def dataset_of(name: str) -> str:
  """`imagenet_resized/32x32:0.1.0` -> `imagenet_resized`."""
  return name.partition(":")[0].partition("/")[0]
