"""What an evaluation predicted of each image, so that two of them can be compared image by image.

A file a condition in the evaluation's folder, `predictions/clean.npz` or `predictions/fog_3.npz`, with the arrays of
`Predictions`. With them, the difference of two accuracies has a paired interval:

  first, second = predictions.pair(predictions.read("runs/a"), predictions.read("runs/b"))
  estimates.paired_bootstrap(first.is_correct, second.is_correct)
"""

import dataclasses
import io
import os
import pathlib
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy import special

from jax_sis.core.messages import first_line
from jax_sis.results.folder import write_atomically
from jax_sis.runtime.archives import check_npz

PREDICTIONS_DIR = "predictions"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictions:
  """Of each classified image, in the order of the data: its label, the most probable class, and its probability."""

  id: Shaped[np.ndarray, "N"]
  label: Int[np.ndarray, "N"]
  predicted: Int[np.ndarray, "N"]
  confidence: Float[np.ndarray, "N"]

  @property
  def is_correct(self) -> Bool[np.ndarray, "N"]:
    return self.predicted == self.label

  def select(self, places: Int[np.ndarray, "M"]) -> "Predictions":
    return Predictions(**{name: values[places] for name, values in vars(self).items()})


def make_predictions(ids: Sequence[str], logits: Float[np.ndarray, "N K"], labels: Int[np.ndarray, "N"]) -> Predictions:
  return Predictions(
    id=np.array(ids, np.str_),
    label=labels.astype(np.int32),
    predicted=logits.argmax(1).astype(np.int32),
    confidence=special.softmax(logits.astype(np.float64), 1).max(1).astype(np.float32),
  )


def predictions_file(directory: pathlib.Path, condition: tuple[str, int]) -> pathlib.Path:
  """Where the predictions under a condition, a corruption at a severity, are."""
  corruption, severity = condition
  return directory / PREDICTIONS_DIR / f"{corruption}{f'_{severity}' if severity else ''}.npz"


def write(directory: pathlib.Path, condition: tuple[str, int], predictions: Predictions) -> None:
  """Writes the predictions under one condition, whole or not at all; StorageError if they cannot be written."""
  content = io.BytesIO()
  np.savez_compressed(content, **vars(predictions))
  write_atomically(predictions_file(directory, condition), content.getvalue())


def read(directory: str | os.PathLike[str], corruption: str = "clean", severity: int = 0) -> Predictions:
  """Reads what an evaluation predicted under one condition; ValueError if the file is missing or damaged."""
  path = predictions_file(pathlib.Path(directory), (corruption, severity))
  try:
    with open(path, "rb") as file:
      check_npz(file)
      with np.load(file, allow_pickle=False) as archive:
        return Predictions(**dict(archive))
  except (OSError, EOFError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
    raise ValueError(
      f"directory must hold the predictions of an evaluation under {corruption} at severity {severity}, but "
      f"{str(path)!r} cannot be read ({type(error).__name__}: {first_line(error)})."
    ) from error


def pair(first: Predictions, second: Predictions) -> tuple[Predictions, Predictions]:
  """The predictions of two evaluations of the same images, both in the order of the ids.

  Raises:
    ValueError: they are not of the same images, or these have not the same labels.
  """
  first, second = (predictions.select(np.argsort(predictions.id, kind="stable")) for predictions in (first, second))
  if not np.array_equal(first.id, second.id):
    only_first, only_second = np.setdiff1d(first.id, second.id), np.setdiff1d(second.id, first.id)
    raise ValueError(
      f"predictions must be of the same images, but {len(only_first)} of {len(first.id)} are of the first alone and "
      f"{len(only_second)} of {len(second.id)} of the second; evaluate the same split with the same limit."
    )
  wrong = np.flatnonzero(first.label != second.label)
  if len(wrong):
    raise ValueError(
      f"predictions must be of images with the same labels, but {len(wrong)} differ, as of {str(first.id[wrong[0]])!r}."
    )
  return first, second
