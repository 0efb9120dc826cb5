"""How much memory a file may take once it is unpacked, so that a small one cannot fill it."""

import os
import zipfile
from typing import IO

# Weights and masks hardly shrink when they are compressed; small files may, to any share.
MIN_BYTES = 2**30
MAX_RATIO = 4


def check_unpacked_bytes(num_bytes: int, file_bytes: int) -> None:
  """Raises ValueError if a file of `file_bytes` would take `num_bytes`, more than any honest one, in memory."""
  most = max(MIN_BYTES, MAX_RATIO * file_bytes)
  if num_bytes > most:
    raise ValueError(f"its arrays take {num_bytes:,} bytes, where a file of {file_bytes:,} may take {most:,}")


def check_npz(file: IO[bytes]) -> None:
  """Raises ValueError or BadZipFile unless an open file is an archive of `numpy.savez` that memory can hold."""
  with zipfile.ZipFile(file) as archive:
    num_bytes = sum(entry.file_size for entry in archive.infolist())
  check_unpacked_bytes(num_bytes, file.seek(0, os.SEEK_END))
  file.seek(0)
