"""What people say of the images: votes on candidate label errors, and labels of their own, joined by ids."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from jax_sis.classifiers.state_dicts import read_state_dict
from jax_sis.core.messages import first_line, name_some
from jax_sis.data.arrays import SUFFIX, load_array

# The number that ends an id, as in `test_00020` and `cat/00020.png`.
NUMBER = re.compile(r"(\d+)(?:\.\w+)?$")
DIGITS = re.compile(r"(\d+)")
ID_ARRAYS = ("id", "ids")
MAX_NAMED = 4
HOW_TO_CONVERT = (
  "a dictionary in an .npy is a pickle, which may run code; where you trust it, write it anew by "
  "numpy.savez('labels.npz', **numpy.load(FILE, allow_pickle=True).item())"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Votes:
  """People's votes on candidates.

  Attributes:
    is_asked: the images that they were asked about.
    is_wrong: those of which most did not choose the label alone.
  """

  is_asked: Bool[np.ndarray, "N"]
  is_wrong: Bool[np.ndarray, "N"]


def sort_naturally(ids: Sequence[str]) -> Int[np.ndarray, "N"]:
  """The places of ids in their order, in which numbers count as such: `test_9` comes before `test_10`."""
  keys = [[int(part) if part.isdecimal() else part for part in DIGITS.split(name)] for name in ids]
  return np.array(sorted(range(len(ids)), key=keys.__getitem__), np.int64)


def read_votes(path: str, ids: Sequence[str], labels: Int[np.ndarray, "N"]) -> Votes:
  """The votes in a file of cleanlab's label-errors on images of the data.

  Args:
    path: a JSON list of objects with `id`, the number of an image, `given_original_label` and `mturk`, the number of
      people who chose `given`, `guessed`, `both` and `neither`.
    ids: of the images.
    labels: as given.

  Raises:
    ValueError: it cannot be read, or is of other images or classes.
  """
  try:
    votes = [
      (int(one["id"]), int(one["given_original_label"]), {name: int(count) for name, count in one["mturk"].items()})
      for one in json.loads(pathlib.Path(path).read_bytes())
    ]
  except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"--votes must be a list in JSON with id, given_original_label and mturk of each image, but {path!r} cannot be "
      f"used ({type(error).__name__}: {first_line(error)})."
    ) from error
  places = place_numbers(ids)
  is_asked, is_wrong = np.zeros(len(ids), bool), np.zeros(len(ids), bool)
  other = []
  for number, given, counts in votes:
    place = places.get(number)
    if place is None:
      continue
    is_asked[place] = True
    is_wrong[place] = 2 * counts.get("given", 0) < sum(counts.values())
    if given != labels[place]:
      other.append(ids[place])
  if not is_asked.any() or other:
    raise ValueError(
      f"--votes must be on images of --data with the labels that they have there, but of {len(votes)} images in "
      f"{path!r}, {int(is_asked.sum())} are in the data and {len(other)} of these have another label"
      f"{', such as ' + name_some(other, most=MAX_NAMED) if other else ''}."
    )
  return Votes(is_asked=is_asked, is_wrong=is_wrong)


def place_numbers(ids: Sequence[str]) -> dict[int, int]:
  """Where the image of each number is; ValueError if ids end in no number, or several in the same."""
  numbers = [match and int(match[1]) for match in map(NUMBER.search, ids)]
  known = [number for number in numbers if number is not None]
  if not known or len(set(known)) < len(known):
    raise ValueError(
      f"--votes names images by number, but the ids of --data ({name_some(list(ids), most=2)}) do not each end in a "
      "number of their own."
    )
  return {number: place for place, number in enumerate(numbers) if number is not None}


def read_human(
  path: str, people: Sequence[str], all_ids: Sequence[str], ids: Sequence[str], num_classes: int
) -> Float[np.ndarray, "N K"]:
  """How many people gave each image each label.

  Args:
    path: the file, see LabelsConfig.
    people: the arrays that are asked; none for all.
    all_ids: of the data, whose order the rows of the file have where it holds no ids.
    ids: of the images that are asked about.
    num_classes: K.

  Raises:
    ValueError: it cannot be read, or is of other images or classes.
  """
  if pathlib.Path(path).suffix == SUFFIX:
    if people:
      raise ValueError(
        f"--people is for a dictionary of label arrays, but --human is an array, {path!r}; leave it out."
      )
    own_ids, counts = None, read_counts(path, num_classes)
  else:
    own_ids, counts = count_labels(path, people, num_classes)
  if own_ids is None:
    if len(counts) != len(all_ids):
      raise ValueError(
        f"--human must have a row for each of the {len(all_ids)} images of --data, in the order of their ids, got "
        f"{len(counts)} in {path!r}; name the whole split, and choose images by --images or --ids."
      )
    own_ids = [all_ids[place] for place in sort_naturally(all_ids)]
  place_of = {name: place for place, name in enumerate(own_ids)}
  missing = [name for name in ids if name not in place_of]
  if missing:
    raise ValueError(
      f"--human must hold all images that are asked about by their ids, but {path!r} lacks {len(missing)} of "
      f"{len(ids)}, such as {name_some(missing, most=MAX_NAMED)}."
    )
  return counts[[place_of[name] for name in ids]]


def read_counts(path: str, num_classes: int) -> Float[np.ndarray, "N K"]:
  """Counts of people by image and class; ValueError if the file holds something else."""
  try:
    counts: Any = load_array(pathlib.Path(path))
  except ValueError as error:
    advice = f" {HOW_TO_CONVERT[0].upper()}{HOW_TO_CONVERT[1:]}." if "pickle" in str(error) else ""
    raise ValueError(f"--human must be an .npy of counts: {error}{advice}") from error
  if counts.ndim != 2 or counts.shape[1] != num_classes or counts.dtype.kind not in "iuf":
    raise ValueError(
      f"--human must hold counts [N, {num_classes}] by image and class of the classifier, got "
      f"{counts.dtype}{list(counts.shape)} in {path!r}."
    )
  counts = np.array(counts, np.float64)
  if not np.isfinite(counts).all() or (counts < 0).any() or not counts.sum(1).all():
    raise ValueError(
      f"--human must hold counts of people, at least one an image and none negative, got others in {path!r}."
    )
  return counts


def count_labels(
  path: str, people: Sequence[str], num_classes: int
) -> tuple[list[str] | None, Float[np.ndarray, "N K"]]:
  """The ids that a dictionary of label arrays holds, if any, and how many of its people gave each label."""
  try:
    arrays = dict(np.load(path, allow_pickle=False)) if path.endswith(".npz") else read_state_dict(path)
  except (OSError, ValueError, EOFError) as error:
    raise ValueError(f"--human must be a dictionary of label arrays, but {path!r}: {first_line(error)}") from error
  own_ids = next(([str(one) for one in arrays.pop(name)] for name in ID_ARRAYS if name in arrays), None)
  unknown = [name for name in people if name not in arrays]
  if unknown or not arrays:
    raise ValueError(
      f"--people must be arrays of --human, {', '.join(arrays) or 'which has none'}, got {' '.join(unknown) or 'none'}."
    )
  labels = {name: np.asarray(arrays[name]) for name in people or arrays}
  lengths = {*map(np.shape, labels.values()), *([] if own_ids is None else [(len(own_ids),)])}
  for name, values in labels.items():
    is_known = values.ndim == 1 and values.dtype.kind in "iu" and 0 <= values.min() and values.max() < num_classes
    if not is_known or len(lengths) > 1:
      raise ValueError(
        f"--human must hold arrays of as many labels each, whole numbers from 0 to {num_classes - 1}, the classifier's "
        f"classes, but {name!r} of {path!r} is {values.dtype}{list(values.shape)}"
        f"{f' from {values.min()} to {values.max()}' if values.size else ''}."
      )
  first = next(iter(labels.values()))
  counts = np.zeros((len(first), num_classes))
  for values in labels.values():
    counts[np.arange(len(values)), values] += 1
  return own_ids, counts
