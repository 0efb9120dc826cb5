"""Files that grow by a line of JSON for each finished piece of work, and outlast a kill at any moment."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any


def append_record(path: pathlib.Path, record: Mapping[str, Any]) -> None:
  """Adds a line; it is on disk when this returns."""
  with open(path, "ab") as file:
    file.write(json.dumps(record).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())


def read_records(path: pathlib.Path) -> list[dict[str, Any]]:
  """The lines of a file, none where there is no file. A last line that a kill cut off is removed from it.

  Raises:
    ValueError: the file is damaged elsewhere.
  """
  if not path.exists():
    return []
  content = path.read_bytes()
  whole = content[: content.rfind(b"\n") + 1]
  if whole != content:
    os.truncate(path, len(whole))
  try:
    return [dict(json.loads(line)) for line in whole.splitlines()]
  except (TypeError, ValueError) as error:
    raise ValueError(f"{str(path)!r} is damaged ({error}); remove it to compute it again.") from error
