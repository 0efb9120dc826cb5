"""`spec.json`: what a run computes, fixed when it begins and compared whenever it goes on."""

import json
import os
from collections.abc import Mapping
from typing import Any

from jax_sis.results.folder import Folder, open_folder

SPEC_FILE = "spec.json"
# Of a run of `find`.
FORMAT = "jax_sis.results/3"
# Older formats that are read, and not gone on with: this one has no digests of pixels, and no checksums of units.
OLDER = {FORMAT: ("jax_sis.results/2",)}
# Characters of a value in the text of a difference.
MAX_VALUE_LENGTH = 80


def settle_spec(directory: str | os.PathLike[str], spec: Mapping[str, Any]) -> dict[str, Any]:
  """Writes the specification of a run into its folder, or finds the same one there.

  Several processes may do so at once.

  Args:
    directory: the run's folder, see `folder.open_folder`.
    spec: what fixes the results, in JSON types; `format` names the kind of run.

  Returns:
    The specification as JSON gives it back.

  Raises:
    ValueError: the folder belongs to another run, whose differences are named.
    StorageError: it cannot be written.
  """
  folder = open_folder(directory)
  asked: dict[str, Any] = json.loads(json.dumps(spec))
  content = folder.write_new(SPEC_FILE, json.dumps(asked, indent=2).encode() + b"\n")
  stored = parse_spec(folder, content, asked["format"])
  if stored != asked:
    raise ValueError(
      f"out {folder.location!r} holds a run of another kind ({'; '.join(find_differences(stored, asked))}); "
      f"{explain_model(stored, asked)}name another folder, or remove this one."
    )
  return stored


def read_spec(directory: str | os.PathLike[str], expected_format: str = FORMAT) -> dict[str, Any]:
  """The specification of the run in this folder.

  Args:
    directory: the run's folder, see `folder.open_folder`.
    expected_format: the kind of run.

  Raises:
    ValueError: there is none, or it is not one of ours.
    StorageError: it cannot be read.
  """
  folder = open_folder(directory)
  content = folder.read(SPEC_FILE)
  if content is None:
    raise ValueError(f"directory must hold the results of a run ({SPEC_FILE}), got {folder.location!r}.")
  return parse_spec(folder, content, expected_format, *OLDER.get(expected_format, ()))


def parse_spec(folder: Folder, content: bytes, expected_format: str, *older: str) -> dict[str, Any]:
  """The specification in a file's content; ValueError if it is not one of ours."""
  place = repr(folder.join(SPEC_FILE))
  try:
    spec = json.loads(content)
  except ValueError as error:
    raise ValueError(f"{place} must be the specification of a run, but cannot be read: {error}.") from error
  found = spec.get("format") if isinstance(spec, dict) else None
  if found in (expected_format, *older):
    return spec
  kind = expected_format.partition("/")[0]
  if isinstance(found, str) and found.partition("/")[0] == kind:
    raise ValueError(
      f"{place} must be in the format {expected_format!r}, but another version of jax_sis made it, as {found!r}; "
      "name another folder, or use that version."
    )
  raise ValueError(f"{place} must be the specification of a run in the format {expected_format!r}.")


def find_differences(stored: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "") -> list[str]:
  differences = []
  for key in sorted({*stored, *asked}):
    there, here = stored.get(key), asked.get(key)
    if isinstance(there, dict) and isinstance(here, dict):
      differences += find_differences(there, here, f"{prefix}{key}.")
    elif there != here or (key in stored) != (key in asked):
      told = (shorten(repr(spec[key])) if key in spec else "nothing" for spec in (stored, asked))
      differences.append(f"{prefix}{key}: {next(told)} there, {next(told)} asked")
  return differences


def explain_model(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
  """What has changed of the model that the same function of a user's makes; empty for other differences."""
  if "program" not in asked or stored["model"]["name"] != asked["model"]["name"]:
    return ""
  parts = {"model": "its parameters", "program": "what its predict_fn computes"}
  changed = [words for key, words in parts.items() if stored.get(key) != asked[key]]
  return (
    f"--model {asked['model']['name']} has changed since the run began: {' and '.join(changed)}; " if changed else ""
  )


def shorten(text: str) -> str:
  return text if len(text) <= MAX_VALUE_LENGTH else f"{text[: MAX_VALUE_LENGTH - 3]}..."
