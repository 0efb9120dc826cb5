"""ImageNet's 1,000 classes: their order, and names that can be told apart."""

import pathlib

import pytest

from jax_sis.data.class_names import distinct_names, find_classes
from jax_sis.data.imagenet_classes import imagenet_class_names, imagenet_wnids

LISTED = pathlib.Path(__file__).parents[3] / "shared" / "data" / "imagenet" / "classes.txt"


def test_a_thousand_classes_in_the_order_of_their_wnids():
  assert len(imagenet_wnids()) == len(imagenet_class_names()) == 1000
  assert list(imagenet_wnids()) == sorted(set(imagenet_wnids()))
  named = dict(zip(imagenet_wnids(), imagenet_class_names(), strict=True))
  assert (named["n01440764"], named["n15075141"]) == ("tench", "toilet tissue")
  assert imagenet_wnids().index("n02510455") == 388
  assert named["n02510455"] == "giant panda"


def test_names_of_two_classes_are_told_apart_by_words():
  names = imagenet_class_names()
  assert distinct_names(names) == names
  assert all(find_classes(name.upper(), names) == (number,) for number, name in enumerate(names))
  assert [name for name in names if name.startswith(("crane", "maillot"))] == [
    "crane (wading bird)",
    "crane (lifting device)",
    "maillot (tights)",
    "maillot (swimsuit)",
  ]


@pytest.mark.skipif(not LISTED.exists(), reason="needs shared/data/imagenet, which is not part of the project")
def test_the_classes_are_those_of_another_list():
  listed = [line.partition(" ")[::2] for line in LISTED.read_text().splitlines()]
  assert [wnid for wnid, _ in listed] == list(imagenet_wnids())
  ours = [name.partition(" (")[0] for name in imagenet_class_names()]
  assert [name for _, name in listed] == ours
