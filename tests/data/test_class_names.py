"""Names of classes that stand more than once, as two do in ImageNet's own list."""

import pytest

from jax_sis.data.class_names import distinct_names, find_classes

NAMES = ("cat", "crane", "maillot", "great_white shark", "crane", "Café")


@pytest.mark.parametrize(
  ("name", "numbers"),
  [
    ("cat", (0,)),
    ("Cat", (0,)),
    ("crane", (1, 4)),
    ("CRANE", (1, 4)),
    ("4", (4,)),
    ("4 crane", (4,)),
    ("4_Crane", (4,)),
    ("great-white_shark", (3,)),
    # As macOS writes it in names of files.
    ("cafe\u0301", (5,)),
    ("6", ()),
    ("dog", ()),
    ("", ()),
  ],
)
@pytest.mark.parametrize("is_distinct", [False, True])
def test_a_name_means_one_class_or_says_which(name: str, numbers: tuple[int, ...], is_distinct: bool):
  names = distinct_names(NAMES) if is_distinct else NAMES
  assert find_classes(name, names) == numbers


def test_a_name_comes_before_a_number():
  assert find_classes("1", ("2", "1", "0")) == (1,)
  assert find_classes("1", ("1", "2", "3")) == (0,)


def test_shown_names_can_be_told_apart_and_change_nothing_on_the_screen():
  assert distinct_names(NAMES) == ("cat", "1 crane", "maillot", "great_white shark", "4 crane", "Café")
  assert distinct_names(distinct_names(NAMES)) == distinct_names(NAMES)
  assert distinct_names(("a\x1b[2J", "b\n")) == (r"a\x1b[2J", r"b\n")
