"""Reads the files of a study's stages, image by image where differences are paired."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from jax_sis.data.corruptions import MAIN_CORRUPTIONS
from jax_sis.evaluation import predictions
from jax_sis.evaluation.predictions import Predictions
from jax_sis.reproduction.engine import Done, read_json
from jax_sis.statistics.estimates import Estimate, difference_of


def read_answer(done: Mapping[str, Done], name: str, file: str) -> dict[str, Any]:
  """The content of a file that a stage wrote.

  Raises:
    ValueError: it cannot be read.
  """
  answer = read_json(done[name].folder / file)
  if answer is None:
    raise ValueError(f"stage {name} must have left {file}, but {str(done[name].folder / file)!r} cannot be read.")
  return answer


def read_predictions(done: Mapping[str, Done], name: str) -> Predictions:
  """An evaluation's predictions for the clean images, sorted by id."""
  found = predictions.read(done[name].folder)
  return found.select(np.argsort(found.id, kind="stable"))


def read_paired(done: Mapping[str, Done], names: Sequence[str]) -> list[Bool[np.ndarray, "N"]]:
  """Whether each image is classified correctly, for several evaluations with the images in the same order.

  Raises:
    ValueError: they are not of the same images.
  """
  first = read_predictions(done, names[0])
  return [predictions.pair(first, read_predictions(done, name))[1].is_correct for name in names]


def read_corrupted(done: Mapping[str, Done], name: str) -> tuple[Float[np.ndarray, "N"] | None, int]:
  """The share of each image's corruptions that is classified correctly, by id, and the number of corruptions."""
  one = done.get(f"{name}-corrupted")
  if one is None:
    return None, 0
  conditions = [
    (row["corruption"], row["severity"])
    for row in read_answer(done, f"{name}-corrupted", "metrics.json")["conditions"]
    if row["corruption"] in MAIN_CORRUPTIONS
  ]
  is_correct = []
  for corruption, severity in conditions:
    _, found = predictions.pair(predictions.read(one.folder), predictions.read(one.folder, corruption, severity))
    is_correct.append(found.is_correct)
  return np.mean(is_correct, axis=0), len({corruption for corruption, _ in conditions})


def compare_corrupted(done: Mapping[str, Done], name: str, first: str) -> Estimate | None:
  """The accuracy of an evaluation on corrupted images minus another one's; None if one was not made.

  Raises:
    ValueError: they are not of the same images.
  """
  if not {f"{name}-corrupted", f"{first}-corrupted"} <= set(done):
    return None
  predictions.pair(*(predictions.read(done[f"{one}-corrupted"].folder) for one in (name, first)))
  ours, theirs = (read_corrupted(done, one)[0] for one in (name, first))
  assert ours is not None
  assert theirs is not None
  return difference_of(ours, theirs)


def read_comparison(done: Mapping[str, Done], name: str) -> dict[str, Any] | None:
  """What `analyse` found of several runs; None if that stage is not done."""
  return read_answer(done, name, "analysis.json")["comparison"] if name in done else None


def sizes_at_threshold(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
  """A comparison's sizes at the threshold of the search, the first run first."""
  return [sizes for sizes in comparison["sizes"] if sizes["threshold"] == comparison["threshold"]]
