"""What holds one thing for each image of a batch: parts of it, and what a prompt and a notebook show of it."""

import base64
import dataclasses
import html
import struct
import zlib
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import UInt8

from jax_sis.core.validation import is_concrete

# Images of a batch that a notebook shows.
MAX_ROWS = 10
PICTURE_PIXELS = 72

T = TypeVar("T", bound="PerImage")


class PerImage:
  """A dataclass of arrays whose first axis is the images, with its own `_describe` and `_make_table`."""

  def __len__(self) -> int:
    """The number of images."""
    return jax.tree.leaves(self)[0].shape[0]

  def __getitem__(self: T, index: Any) -> T:
    """Of some images alone: `[3]`, `[:10]`, `[[4, 2]]` or Booleans. The axis of the images stays, also for one.

    Raises:
      IndexError: there is no such image.
    """
    places = np.atleast_1d(np.arange(len(self))[np.asarray(index) if isinstance(index, jax.Array) else index])
    if places.ndim != 1:
      raise IndexError(f"the index must choose images, along one axis, got {index!r}.")
    return jax.tree.map(lambda array: array[places], self)

  def __repr__(self) -> str:
    if not has_values(self):
      fields = dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
      return f"{type(self).__name__}({', '.join(f'{one.name}={getattr(self, one.name)!r}' for one in fields)})"
    return f"{type(self).__name__}({self._describe()})"

  def _repr_html_(self) -> str | None:
    """The first images as a table, for notebooks."""
    if not has_values(self):
      return None
    header, rows = self[:MAX_ROWS]._make_table()
    return make_html(repr(self), header, rows, num_more=len(self) - len(rows))

  def _count(self) -> str:
    return f"{len(self)} image{'' if len(self) == 1 else 's'}"

  def _describe(self) -> str:
    raise NotImplementedError

  def _make_table(self) -> tuple[Sequence[str], list[list[str]]]:
    """Columns, and of each image its cells, in HTML."""
    raise NotImplementedError


def has_values(batch: Any) -> bool:
  """Whether the arrays are those of one batch, and can be read here."""
  leaves = jax.tree.leaves(batch)
  return (
    is_concrete(leaves)
    and all(isinstance(leaf, np.ndarray | jax.Array) for leaf in leaves)
    and all(getattr(leaf, "is_fully_addressable", True) for leaf in leaves)
    # A batch of batches, such as `pmap` makes, has more.
    and min(leaf.ndim for leaf in leaves) == 1
    and len({leaf.shape[0] for leaf in leaves}) == 1
  )


def make_html(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, num_more: int = 0) -> str:
  """A table for a notebook; the cells are HTML, caption and header text."""
  head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
  body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
  more = f"<p>and {num_more:,} more</p>" if num_more else ""
  return f"<div><p>{html.escape(caption)}</p><table><tr>{head}</tr>{body}</table>{more}</div>"


def make_picture(values: np.ndarray) -> str:
  """Numbers in 0..1 over a grid as a grey picture in HTML, white for 1; nothing where the grid is no plane."""
  plane = values.max(-1) if values.ndim == 3 else values
  if plane.ndim != 2:
    return ""
  encoded = base64.b64encode(encode_grey(np.rint(255 * plane).astype(np.uint8))).decode("ascii")
  style = f"width:{PICTURE_PIXELS}px;max-width:none;image-rendering:pixelated"
  return f'<img src="data:image/png;base64,{encoded}" style="{style}">'


def encode_grey(pixels: UInt8[np.ndarray, "h w"]) -> bytes:
  """The bytes of a PNG file; the method does without a library for pictures."""
  height, width = pixels.shape
  lines = np.pad(pixels, ((0, 0), (1, 0))).tobytes()
  header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
  chunks = {b"IHDR": header, b"IDAT": zlib.compress(lines), b"IEND": b""}
  parts = [
    struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    for kind, data in chunks.items()
  ]
  return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
