"""Names in messages: what is shown of them, and that it changes nothing around them."""

import os

import pytest

from jax_sis.core.messages import make_printable, name_some


@pytest.mark.parametrize(
  ("name", "shown"),
  [
    ("photo 1.png", "photo 1.png"),
    # Accents in both encodings, a family of four, and the narrow space of macOS's screenshots.
    ("café cafe\u0301 👨\u200d👩\u200d👧 9.41\u202fAM.png", "café cafe\u0301 👨\u200d👩\u200d👧 9.41\u202fAM.png"),
    ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
    ("two\r\nlines\u2028", r"two\r\nlines\u2028"),
    ("gnp\u202e.exe", r"gnp\u202e.exe"),
    ("\x9b2J", r"\x9b2J"),
    (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
  ],
)
def test_names_change_nothing_where_they_are_shown(name: str, shown: str):
  assert make_printable(name) == shown
  shown.encode()


def test_the_first_names_are_named():
  assert name_some(["a", "b", "c"], most=2) == "a, b and 1 more"
