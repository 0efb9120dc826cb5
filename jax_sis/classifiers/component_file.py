"""Components of classes as functions of a classifier's features, and the file that holds them."""

import dataclasses
import io
import os
import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jax_sis.core.messages import first_line

# In the folder of `jax-sis components`.
NAME = "components.npz"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Component:
  """A part of the logit of a class: `features @ weights - offset`.

  Attributes:
    class_number: the class.
    number: its number there, from 1.
    weights: of the features, `[E]`.
    offset: what is less.
  """

  class_number: int
  number: int
  weights: Float[np.ndarray, "E"]
  offset: float


def encode_components(components: Sequence[Component], *, model: str) -> bytes:
  """The file of these components.

  Args:
    components: one at least.
    model: the SHA-256 of the classifier's arrays, by which `read_components` tells a file of another.
  """
  content = io.BytesIO()
  np.savez(
    content,
    model=np.array(model),
    classes=np.array([one.class_number for one in components]),
    components=np.array([one.number for one in components]),
    directions=np.stack([one.weights for one in components]).astype(np.float32),
    offsets=np.array([one.offset for one in components], np.float32),
  )
  return content.getvalue()


def read_components(path: str | os.PathLike[str], *, model: str) -> list[Component]:
  """The components in a file of this classifier, in single precision.

  Raises:
    ValueError: the file cannot be read, or is of another classifier.
  """
  try:
    with np.load(pathlib.Path(path), allow_pickle=False) as archive:
      of_model = str(archive["model"])
      names = archive["classes"].tolist(), archive["components"].tolist()
      parts = archive["directions"], archive["offsets"].tolist()
    components = [
      Component(class_number=class_number, number=number, weights=weights, offset=offset)
      for class_number, number, weights, offset in zip(*names, *parts, strict=True)
    ]
  except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
    raise ValueError(
      f"path must be a file of components as `jax-sis components` writes it, got {str(path)!r} "
      f"({type(error).__name__}: {first_line(error)})."
    ) from error
  if of_model != model:
    raise ValueError(f"path must be of this classifier, but the components in {str(path)!r} are another one's.")
  return components
