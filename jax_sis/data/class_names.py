"""Names of classes: which class a name means, and names that tell classes apart."""

import collections
import functools
import unicodedata
from collections.abc import Sequence

from jax_sis.core.messages import make_printable
from jax_sis.data.imagenet_classes import read_classes


def find_classes(name: str, class_names: tuple[str, ...]) -> tuple[int, ...]:
  """The numbers of the classes that a name means: none, one, or several where it stands more than once.

  A class's number is a name of it, too, and its number with its name, as `distinct_names` writes it; of ImageNet's
  classes, so are the wnid and WordNet's name. Where nothing is written so, case, `_` and `-` for a space, and how
  accents are encoded make no difference.
  """
  if found := number_names(class_names).get(name):
    return found
  if name.isdecimal() and int(name) < len(class_names):
    return (int(name),)
  return number_names(class_names, is_folded=True).get(fold(name), ())


@functools.lru_cache(maxsize=8)
def number_names(class_names: tuple[str, ...], *, is_folded: bool = False) -> dict[str, tuple[int, ...]]:
  """The classes by each way to write their names."""
  numbers: dict[str, tuple[int, ...]] = {}
  for number, text in enumerate(class_names):
    bare = text.removeprefix(f"{number} ")
    for name in (bare, f"{number} {bare}"):
      written = fold(name) if is_folded else name
      numbers[written] = (*numbers.get(written, ()), number)
  return {**number_imagenet(is_folded=is_folded), **numbers} if are_imagenet(class_names) else numbers


@functools.cache
def number_imagenet(*, is_folded: bool) -> dict[str, tuple[int, ...]]:
  """ImageNet's classes by wnid and by name, with and without what tells two of one name apart."""
  numbers: dict[str, tuple[int, ...]] = {}
  for number, (wnid, text) in enumerate(read_classes()):
    for name in dict.fromkeys((wnid, text, text.partition(" (")[0])):
      written = fold(name) if is_folded else name
      numbers[written] = (*numbers.get(written, ()), number)
  return numbers


@functools.lru_cache(maxsize=8)
def are_imagenet(class_names: tuple[str, ...]) -> bool:
  """Whether these are ImageNet's 1,000 classes in its order: numbers, wnids, or words of which most are WordNet's."""
  classes = read_classes()
  if len(class_names) != len(classes):
    return False
  num_alike = sum(
    given == str(number) or given == wnid or fold(given.partition(",")[0]) == fold(name.partition(" (")[0])
    for number, (given, (wnid, name)) in enumerate(zip(class_names, classes, strict=True))
  )
  return num_alike > len(classes) / 2


def fold(name: str) -> str:
  return " ".join(unicodedata.normalize("NFC", name).casefold().replace("_", " ").replace("-", " ").split())


@functools.lru_cache(maxsize=8)
def distinct_names(class_names: tuple[str, ...]) -> tuple[str, ...]:
  """These names as they may be shown; those that stand more than once, as `crane` in ImageNet, with their numbers."""
  shown = tuple(map(make_printable, class_names))
  counts = collections.Counter(shown)
  return tuple(f"{number} {name}" if counts[name] > 1 else name for number, name in enumerate(shown))


def name_numbers(numbers: Sequence[int]) -> str:
  """`134 and 517`."""
  return " and ".join(map(str, numbers))
