"""Words that error messages share."""

from collections.abc import Sequence


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
