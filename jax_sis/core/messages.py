"""Words that error messages share, and names that may stand among them."""

import unicodedata
from collections.abc import Sequence

# Characters that steer a terminal, break lines, turn the direction of writing or are half of one.
NOT_SHOWN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Of these, what scripts and emoji join their letters with.
JOINERS = "\u200c\u200d"


def first_line(error: BaseException) -> str:
  return (str(error).splitlines() or [""])[0]


def name_some(names: Sequence[str], *, most: int, count: int | None = None) -> str:
  """The first `most` of these names, and how many more there are.

  Args:
    names: all of them, or the first ones.
    most: how many are named.
    count: how many there are; by default as many as `names`.
  """
  named = names[:most]
  num_more = (len(names) if count is None else count) - len(named)
  return ", ".join(named) + (f" and {num_more} more" if num_more > 0 else "")


def make_printable(text: str) -> str:
  r"""Text that changes nothing where it is shown: control characters and bytes that are no UTF-8 become `\x1b`."""
  if text.isprintable():
    return text
  return "".join(escape(letter) if is_not_shown(letter) else letter for letter in text)


def is_not_shown(letter: str) -> bool:
  return unicodedata.category(letter) in NOT_SHOWN and letter not in JOINERS


def escape(letter: str) -> str:
  """As Python writes it; a byte of a file's name that is no UTF-8 as that byte."""
  is_byte = "\udc80" <= letter <= "\udcff"
  return f"\\x{ord(letter) - 0xDC00:02x}" if is_byte else letter.encode("unicode_escape").decode()
