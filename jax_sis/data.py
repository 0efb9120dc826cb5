"""Images in: TFDS data sets through `tfds.data_source`, without TensorFlow."""

import dataclasses
import os

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int, UInt8

from jax_sis.config import Normalisation

CIFAR_NORMALISATION = Normalisation(
  mean=(125.3 / 255, 123.0 / 255, 113.9 / 255), std=(63.0 / 255, 62.1 / 255, 66.7 / 255)
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetInfo:
  """What the programs need to know of a data set besides its images."""

  name: str
  class_names: tuple[str, ...]
  normalisation: Normalisation

  @property
  def num_classes(self) -> int:
    return len(self.class_names)


def load_arrays(
  name: str, split: str, *, data_dir: str | os.PathLike[str] | None
) -> tuple[UInt8[np.ndarray, "N H W 3"], Int[np.ndarray, "N"], DatasetInfo]:
  """Reads a whole split into memory, ordered by id."""
  source = tfds.data_source(name, split=split, data_dir=data_dir, download=False)
  examples = sorted(source.__getitems__(range(len(source))), key=lambda example: example["id"])
  images = np.stack([example["image"] for example in examples])
  labels = np.array([example["label"] for example in examples], np.int32)
  info = DatasetInfo(
    name=name,
    class_names=tuple(source.dataset_info.features["label"].names),
    normalisation=CIFAR_NORMALISATION,
  )
  return images, labels, info
