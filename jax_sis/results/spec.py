"""`spec.json`: what a run computes, fixed when it begins and compared whenever it goes on."""

import contextlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jax_sis.core.messages import name_some
from jax_sis.results.folder import Folder, open_folder

SPEC_FILE = "spec.json"
# Of a run of `find`.
FORMAT = "jax_sis.results/3"
# Older formats that are read, and not gone on with: this one has no digests of pixels, and no checksums of units.
OLDER = {FORMAT: ("jax_sis.results/2",)}
# Characters of a value in the text of a difference, and differences that one names.
MAX_VALUE_LENGTH = 80
MAX_NAMED = 6
NOTHING = object()
# What goes without saying where anything else differs.
CONSEQUENCES = frozenset({"fields", "sizes", "num_images", "batch_size", "unit_size"})
# What people call settings that stand somewhere else in the specification, or as a hash.
NAMES = {
  "data.data": "data",
  "data.files": "names or sizes of the files",
  "data.ids": "ids",
  "data.num_images": "number of images",
  "model.name": "model",
  "model.sha256": "weights of the model",
  "versions.jax": "JAX",
  "versions.jax_sis": "jax_sis",
}
HASH = re.compile(r"[0-9a-f]{32,}")


def settle_spec(
  directory: str | os.PathLike[str], spec: Mapping[str, Any], *, command_fn: Callable[[str], str] | None = None
) -> dict[str, Any]:
  """Writes the specification of a run into its folder, or finds the same one there.

  Several processes may do so at once.

  Args:
    directory: the run's folder, see `open_folder`.
    spec: what fixes the results, in JSON types; `format` names the kind of run.
    command_fn: the command that begins this run in another folder; a ValueError says that there is none.

  Returns:
    The specification as JSON gives it back.

  Raises:
    ValueError: the folder belongs to another run, whose differences are named.
    StorageError: it cannot be written.

  Examples:
    A second run with the same settings finds them there; one with others is refused:

    >>> from jax_sis import results
    >>> spec = {"format": "my.results/1", "threshold": 0.99}
    >>> results.settle_spec("memory://settle-spec-example", spec) == spec
    True
    >>> try:
    ...   results.settle_spec("memory://settle-spec-example", {**spec, "threshold": 0.9})
    ... except ValueError as error:
    ...   print(str(error).partition(";")[0])
    out 'memory://settle-spec-example' holds another run (threshold 0.99 there, 0.9 here)
  """
  folder = open_folder(directory)
  asked: dict[str, Any] = json.loads(json.dumps(spec))
  content = folder.write_new(SPEC_FILE, json.dumps(asked, indent=2).encode() + b"\n")
  stored = parse_spec(folder, content, asked["format"])
  if stored != asked:
    advice = "name another folder by --out, or remove this one."
    if command_fn is not None:
      with contextlib.suppress(ValueError):
        advice = f"this command begins yours in another: {command_fn(find_free(folder))}"
    raise ValueError(
      f"out {folder.location!r} holds another run ({describe_differences(stored, asked)}); "
      f"{explain_model(stored, asked)}{explain_releases(stored, asked)}{advice}"
    )
  return stored


def read_spec(directory: str | os.PathLike[str], expected_format: str = FORMAT) -> dict[str, Any]:
  """The specification of the run in this folder.

  Args:
    directory: the run's folder, see `open_folder`.
    expected_format: the kind of run.

  Raises:
    ValueError: there is none, or it is not one of ours.
    StorageError: it cannot be read.

  Examples:
    >>> from jax_sis import results
    >>> results.settle_spec("memory://read-spec-example", {"format": "my.results/1", "threshold": 0.99})["threshold"]
    0.99
    >>> results.read_spec("memory://read-spec-example", "my.results/1")["threshold"]
    0.99
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


def find_differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
  """A line for each setting of which one is not as in the other."""
  return [
    f"{path}: {tell(there)} there, {tell(here)} asked" for path, there, here in iterate_differences(stored, asked)
  ]


def iterate_differences(
  stored: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
  """Where a setting is, what it is in both; NOTHING where it is not there."""
  for key in sorted({*stored, *asked}):
    there, here = stored.get(key, NOTHING), asked.get(key, NOTHING)
    if isinstance(there, dict) and isinstance(here, dict):
      yield from iterate_differences(there, here, f"{prefix}{key}.")
    elif there is not here and there != here:
      yield f"{prefix}{key}", there, here


def explain_model(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
  """What has changed of the model that the same function of a user's makes; empty for other differences."""
  if "program" not in asked or stored["model"]["name"] != asked["model"]["name"]:
    return ""
  parts = {"model": "its parameters", "program": "what its predict_fn computes"}
  changed = [words for key, words in parts.items() if stored.get(key) != asked[key]]
  return (
    f"--model {asked['model']['name']} has changed since the run began: {' and '.join(changed)}; " if changed else ""
  )


def explain_releases(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
  """What to do where a machine has other releases than the one that began the run; empty for other differences."""
  is_release = [path.startswith("versions.") for path, _, _ in iterate_differences(stored, asked)]
  return "all machines of a run need the same releases; " if all(is_release) else ""


def describe_differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
  """The same for people: without what follows from other differences, and without hashes."""
  found = list(iterate_differences(stored, asked))
  own = [one for one in found if one[0].partition(".")[0] not in CONSEQUENCES] or found
  told = []
  for path, there, here in own:
    name = NAMES.get(path, path.replace("_", " ").replace(".", " "))
    is_hashed = all(isinstance(value, str) and HASH.fullmatch(value) for value in (there, here))
    told.append(f"other {name}" if is_hashed else f"{name} {tell_name(there)} there, {tell_name(here)} here")
  return name_some(told, most=MAX_NAMED)


def tell(value: Any) -> str:
  text = "nothing" if value is NOTHING else repr(value)
  return text if len(text) <= MAX_VALUE_LENGTH else f"{text[: MAX_VALUE_LENGTH - 3]}..."


def tell_name(value: Any) -> str:
  """Of settings with a name only that, such as `Gradient`."""
  return value["name"] if isinstance(value, dict) and "name" in value else "none" if value is None else tell(value)


def find_free(folder: Folder) -> str:
  """Where a run may begin beside this folder: it and the next number that no run has."""
  names = (f"{folder.location.rstrip('/')}-{number}" for number in itertools.count(2))
  return next(name for name in names if open_folder(name).read(SPEC_FILE) is None)


def refuse_label_maps(run: Mapping[str, Any], location: str, what: str = "RUN_DIR") -> None:
  """For what is about pixels and squares alone.

  Args:
    run: the specification of a run of `find`.
    location: where the run is.
    what: the argument that names it.

  Raises:
    ValueError: the run's features are label maps.
  """
  if "features" in run:
    raise ValueError(
      f"{what} must be a run on pixels or squares, but the features of {location!r} are label maps; find --patch makes "
      "squares."
    )
