"""The 1,000 classes of ImageNet (ILSVRC 2012), in the order in which its classifiers number them.

Wnids are those that TensorFlow Datasets lists. A name is the first word of the class's synset in WordNet 3.0 and, where
two would differ in no more than case, the word above it. WordNet's licence lies beside the file.
"""

import functools
import pathlib

CLASSES_FILE = pathlib.Path(__file__).parents[1] / "assets" / "imagenet_classes" / "classes.txt"


@functools.cache
def read_classes() -> tuple[tuple[str, str], ...]:
  """Wnid and name of each class."""
  lines = CLASSES_FILE.read_text(encoding="utf-8").splitlines()
  return tuple((wnid, name) for wnid, _, name in (line.partition(" ") for line in lines))


def imagenet_wnids() -> tuple[str, ...]:
  """The WordNet ids of the classes, such as `n01440764`."""
  return tuple(wnid for wnid, _ in read_classes())


def imagenet_class_names() -> tuple[str, ...]:
  """A name for each class, no two of them the same even in lower case."""
  return tuple(name for _, name in read_classes())
