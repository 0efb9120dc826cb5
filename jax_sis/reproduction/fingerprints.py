"""What a stage's inputs hold, as hashes."""

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jax_sis import results
from jax_sis.data import tfds
from jax_sis.data.folders import hash_contents
from jax_sis.runtime.progress import Progress
from jax_sis.runtime.provenance import library_versions

OF_THE_MACHINE = frozenset({"versions", "device"})
IMAGES_AT_ONCE = 4096


def hash_split(dataset: str, split: str, data_dir: str | None) -> dict[str, Any]:
  """The number of images, also by class, and a SHA-256 of ids, labels and pixels in stored order."""
  source = tfds.open_data_source(dataset, split, data_dir)
  names = source.dataset_info.features["label"].names
  digest = hashlib.sha256()
  counts = np.zeros(len(names), np.int64)
  with Progress(f"reading {dataset} {split}", total=len(source), unit="image") as progress:
    for index in range(len(source)):
      example = source[index]
      label = int(example["label"])
      digest.update(tfds.tfds_id(example, index).encode() + b"\0" + label.to_bytes(4, "little"))
      digest.update(np.ascontiguousarray(example["image"]).tobytes())
      counts[label] += 1
      progress.advance()
  return {
    "num_images": len(source),
    "num_images_by_class": dict(zip(names, counts.tolist(), strict=True)),
    "sha256": digest.hexdigest(),
  }


def hash_run(folder: pathlib.Path) -> str:
  """The SHA-256 of a finished run of `find`: its arrays, and its spec without machine and versions.

  Raises:
    ValueError: it is not finished, of another version, or cannot be read.
  """
  store = results.open(folder)
  if len(store.done_images()) != store.num_images:
    raise ValueError(f"the run must be finished, but {len(store.done_images())} of {store.num_images} images are.")
  digest = hashlib.sha256(json.dumps(drop(store.spec, OF_THE_MACHINE), sort_keys=True).encode())
  for name in sorted(store.fields):
    for start in range(0, store.num_images, IMAGES_AT_ONCE):
      stop = min(start + IMAGES_AT_ONCE, store.num_images)
      digest.update(np.ascontiguousarray(store.read(name, np.arange(start, stop))).tobytes())
  return digest.hexdigest()


def drop(settings: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
  return {name: value for name, value in settings.items() if name not in names}


def describe_machine(libraries: Sequence[str]) -> dict[str, Any]:
  """What fixes the last bits of a program's results, beside its settings."""
  return {"versions": library_versions(*libraries), "device": jax.local_devices()[0].device_kind}


def hash_answer(path: pathlib.Path, expected_format: str) -> str:
  """The SHA-256 of a JSON file.

  Raises:
    ValueError: it has another format.
    OSError: it cannot be read.
  """
  found = json.loads(path.read_bytes()).get("format")
  if found != expected_format:
    raise ValueError(f"{path.name} must be in the format {expected_format!r}, got {found!r}.")
  return hash_contents(path)
