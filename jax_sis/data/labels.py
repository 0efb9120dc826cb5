"""Labels of image files: by the folder that a file is in, by a file of labels beside it, or by a wnid in its name."""

import dataclasses
import functools
import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence

from jax_sis.core.messages import make_printable, name_some
from jax_sis.data import folders
from jax_sis.data.class_names import are_imagenet, find_classes, name_numbers
from jax_sis.data.imagenet_classes import CLASSES_FILE

NO_LABEL = -1
WNID = re.compile(r"(?<![A-Za-z0-9])n\d{8}(?![A-Za-z0-9])")
# ImageNet's validation images, by the place of each one's line in the ground truth.
VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})")
# A number a line, counted from 1 in the challenge's own order of the classes.
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
SOLUTION = "LOC_val_solution.csv"
# Where the ground truth lies beside the folder of the images, and how far above it Kaggle's archive has the solution.
DEVELOPMENT_KIT = "ILSVRC2012_devkit_t12/data"
NUM_ABOVE = 4
OWN_FILES = ("labels.csv", "labels.txt")
CHALLENGE_ORDER = CLASSES_FILE.parent / "ilsvrc2012_order.txt"
HEADERS = frozenset({"imageid", "image", "file", "filename", "name", "id"})
# Images that an error names.
MAX_NAMED = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels:
  """The labels of image files.

  Attributes:
    numbers: of each file's class, or NO_LABEL.
    notes: lines that say where they come from, and which files have none.
  """

  numbers: list[int]
  notes: tuple[str, ...]


def label_files(
  paths: Sequence[pathlib.Path], root: pathlib.Path, class_names: tuple[str, ...], *, label_path: pathlib.Path | None
) -> Labels:
  """The label of each file at or below the folder `root`.

  Below it, the folder there says the class. Files in `root` itself have the label that a file of labels gives them;
  without one, the class that a wnid in their names means, or else the one that `root` is called as.

  Args:
    paths: the files.
    root: the folder.
    class_names: the classifier's classes.
    label_path: the file of labels, see `find_label_file`; None for none.

  Raises:
    ValueError: a folder's name is that of several classes, or a file of labels leaves out an image, or cannot be read.
  """
  named = None if label_path is None else read_label_file(label_path, class_names)
  names = [folders.label_folder(path, root) for path in paths]
  label_of = {name: find_label(name, class_names) for name in dict.fromkeys(names)}
  numbers, missing = [], []
  for path, name in zip(paths, names, strict=True):
    number = label_of[name]
    if path.parent == root and named is not None:
      number = named.get(path.name, named.get(path.stem))
      missing += [path.name] if number is None else []
    elif path.parent == root and (found := find_wnids(path.stem, class_names)):
      number = found[0]
    numbers.append(NO_LABEL if number is None else number)
  if missing:
    named_ones = name_some([make_printable(name) for name in missing], most=MAX_NAMED)
    raise ValueError(
      f"--data must have a label for each image in {make_printable(str(root))}, but {make_printable(str(label_path))} "
      f"has none for {len(missing)} of {len(paths)}: {named_ones}; "
      "add their lines, take these images out of the folder, or call the file by another name to do without labels."
    )
  notes = (describe_source(label_path), *describe_unlabelled(paths, numbers, root, class_names))
  return Labels(numbers=numbers, notes=tuple(filter(None, notes)))


def describe_source(label_path: pathlib.Path | None) -> str:
  return "" if label_path is None else f"Labels are those of {make_printable(str(label_path))}."


def describe_unlabelled(
  paths: Sequence[pathlib.Path], numbers: Sequence[int], root: pathlib.Path, class_names: tuple[str, ...]
) -> tuple[str, ...]:
  """Lines on images without a label: those in folders called as no class, and ImageNet's validation images."""
  is_unlabelled = [number == NO_LABEL for number in numbers]
  in_folders = [is_none and path.parent != root for path, is_none in zip(paths, is_unlabelled, strict=True)]
  names = [folders.label_folder(path, root) for path in itertools.compress(paths, in_folders)]
  bare = [path.name for path in itertools.compress(paths, is_unlabelled) if VALIDATION.match(path.stem)]
  ground_truth = ""
  if bare and are_imagenet(class_names):
    ground_truth = (
      f"Images without a label: {len(bare)} of ImageNet's validation images, such as {bare[0]}. Put {GROUND_TRUTH} or "
      f"{SOLUTION} into {make_printable(str(root))}, or labels.txt with a name and a class a line."
    )
  return folders.describe_unlabelled(names, root), ground_truth


def find_label(folder: str, class_names: tuple[str, ...]) -> int:
  """The class that a folder's name means, or NO_LABEL; ValueError if it means several."""
  numbers = find_classes(folder, class_names)
  if len(numbers) > 1:
    raise ValueError(
      f"--data must have folders whose names mean one class each, but {folder!r} is the name of "
      f"{name_numbers(numbers)}; call the folder by the number."
    )
  return numbers[0] if numbers else NO_LABEL


def find_wnids(name: str, class_names: tuple[str, ...]) -> tuple[int, ...]:
  """The classes whose wnids stand in a name, as in `n01440764_10026` and `ILSVRC2012_val_00000293_n01440764`."""
  return tuple(number for wnid in WNID.findall(name) for number in find_classes(wnid, class_names))


def find_label_file(root: pathlib.Path, class_names: tuple[str, ...]) -> pathlib.Path | None:
  """The file that gives the images in a folder their labels; for ImageNet's classes the challenge's comes first."""
  candidates = [root / name for name in OWN_FILES]
  if are_imagenet(class_names):
    above = list(itertools.islice(root.resolve().parents, NUM_ABOVE))
    places = [root, *above, *(folder / DEVELOPMENT_KIT for folder in above[:1])]
    candidates = [*(place / name for place in places for name in (GROUND_TRUTH, SOLUTION)), *candidates]
  return next((path for path in candidates if path.is_file()), None)


def read_label_file(path: pathlib.Path, class_names: tuple[str, ...]) -> Mapping[str, int]:
  """The class of each image by its name, with and without the suffix.

  A line is a name and a class (a wnid, a number, a name), with a comma, a tab or a space between; Kaggle's has boxes
  after the wnid. Lines of a single word are the classes of ImageNet's validation images in their order.

  Raises:
    ValueError: it cannot be read as text, holds nothing, or a line names no class or several.
  """
  try:
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(f"labels in {str(path)!r} must be a text file, but it cannot be read ({error}).") from error
  rows = [re.split(r"\s*[,\t]\s*|\s+", line, maxsplit=1) for line in lines]
  if rows and rows[0][0].casefold() in HEADERS:
    del rows[0]
  if not rows:
    raise ValueError(f"labels in {str(path)!r} must have a line for each image, but there is none.")
  if all(len(row) == 1 for row in rows):
    rows = [[f"ILSVRC2012_val_{place:08}", word] for place, (word,) in enumerate(rows, start=1)]
    if all(word.isdecimal() for _, word in rows):
      rows = [[name, name_challenge_class(int(word), path)] for name, word in rows]
  labels: dict[str, int] = {}
  number_of: dict[str, int] = {}
  for name, *words in rows:
    text = words[0] if words else ""
    if text not in number_of:
      number_of[text] = find_labelled(text, path, name, class_names)
    base = pathlib.PurePath(name).name
    labels[base] = labels[base.rpartition(".")[0] or base] = number_of[text]
  return labels


@functools.cache
def challenge_wnids() -> tuple[str, ...]:
  """The classes in the order of the challenge's own numbers."""
  return tuple(CHALLENGE_ORDER.read_text(encoding="utf-8").split())


def name_challenge_class(number: int, path: pathlib.Path) -> str:
  """The wnid of a number of the challenge, counted from 1; ValueError if there is none."""
  wnids = challenge_wnids()
  if not 1 <= number <= len(wnids):
    raise ValueError(f"labels in {str(path)!r} must be the challenge's numbers, 1 to {len(wnids)}, got {number}.")
  return wnids[number - 1]


def find_labelled(text: str, path: pathlib.Path, name: str, class_names: tuple[str, ...]) -> int:
  """The class that a line means: by the whole text, or the wnid that it begins with."""
  numbers = find_classes(text, class_names) or find_wnids(text, class_names)[:1]
  if len(numbers) != 1:
    means = f"is the name of {name_numbers(numbers)}" if numbers else "is none of the checkpoint's classes"
    raise ValueError(
      f"labels in {str(path)!r} must be classes, by wnid, number or name, but {text!r}, of {name!r}, {means}; correct "
      "the line, or call the file by another name to do without labels."
    )
  return numbers[0]
