"""How others name the parts of an architecture of ours.

For each part of our modules (a convolution with its norm, a norm, a linear layer), a table has PyTorch's names of the
convolution or linear layer and of the norm.
"""

import dataclasses

Parts = dict[str, tuple[str | None, str | None]]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Naming:
  """How one family of repositories names the parts of an architecture.

  Attributes:
    source: whose names these are.
    parts: the path of a part of ours -> the names of its convolution or linear layer, and of its norm; None if it has
      none. `{a}` stands for one step of a path, and `{a+1}` for that number counted from one.
    not_used: prefixes of names that evaluation does not need.
  """

  source: str
  parts: Parts
  not_used: tuple[str, ...] = ()
