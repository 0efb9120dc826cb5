"""The answer of a study or an evaluation, as files: numbers with where they come from, tables, pictures."""

import csv
import hashlib
import io
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jax_sis.results.folder import Folder
from jax_sis.results.spec import SPEC_FILE


def encode_json(content: Any) -> bytes:
  """JSON that people can read, too; ValueError if a number is not finite: what is missing is None."""
  return json.dumps(content, indent=2, allow_nan=False).encode() + b"\n"


def neutralise(cell: Any) -> Any:
  """A cell for a table that people open in a spreadsheet: a text that it would take for a formula begins with `'`."""
  is_formula = isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) and cell != "-"
  return f"'{cell}" if is_formula else cell


def encode_csv(rows: Iterable[Mapping[str, Any]]) -> bytes:
  """A table, its header from the columns of the first row; None is an empty cell, formulas are texts."""
  text = io.StringIO(newline="")
  writer = None
  for row in rows:
    if writer is None:
      writer = csv.DictWriter(text, list(row))
      writer.writeheader()
    writer.writerow({column: neutralise(cell) for column, cell in row.items()})
  return text.getvalue().encode()


def write_answer(
  folder: Folder, name: str, content: Mapping[str, Any], files: Mapping[str, bytes], *, beside: Sequence[str] = ()
) -> dict[str, Any]:
  """Writes all files of an answer, the JSON last: where it is, the others are, too. Names them on the screen.

  Args:
    folder: gets the files; each is replaced whole.
    name: the JSON file.
    content: the numbers, in JSON types.
    files: the tables and pictures, by name.
    beside: what else was written there before, and is named with them.

  Returns:
    What the JSON file holds.

  Raises:
    StorageError: a file cannot be written.
  """
  encoded = encode_json(content)
  for file_name, file_content in {**files, name: encoded}.items():
    folder.write(file_name, file_content)
  print(f"Written to {folder.location}: {', '.join([name, *files, *beside])}", flush=True)
  return json.loads(encoded)


def hash_spec(folder: Folder) -> str:
  """The SHA-256 of a run's `spec.json`, which tells it from all other runs."""
  return hashlib.sha256(folder.read(SPEC_FILE) or b"").hexdigest()


def describe_provenance(folder: Folder, spec: Mapping[str, Any], *, command: str, seed: int) -> dict[str, Any]:
  """Where the numbers of a study come from that has a folder and a specification of its own."""
  return {
    "command": command,
    "seed": seed,
    "spec_sha256": hash_spec(folder),
    "versions": {**spec["versions"], "python": platform.python_version()},
    **{name: spec[name] for name in ("model", "data", "device")},
  }
