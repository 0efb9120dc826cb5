"""Records in JSON: dataclasses, and files that grow by a line for each finished piece of work and survive a kill."""

import dataclasses
import json
import os
import pathlib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar


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


def to_json(value: Any) -> Any:
  """The JSON form of dataclasses and containers of them; a method `to_json` overrides it."""
  if hasattr(value, "to_json"):
    return value.to_json()
  if dataclasses.is_dataclass(value):
    return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
  if isinstance(value, Mapping):
    return {key: to_json(one) for key, one in value.items()}
  return [to_json(one) for one in value] if isinstance(value, list | tuple) else value


T = TypeVar("T")


def read_record(kind: type[T], content: Any, place: str = "record") -> T:
  """A dataclass from its JSON form, as `to_json` and `json` make it; other keys are left out.

  Args:
    kind: the dataclass, whose fields are numbers, texts, truth values, dataclasses, tuples, dictionaries by text, or
      None.
    content: what `json.loads` returned.
    place: what messages call it.

  Raises:
    ValueError: something is missing, or of another kind, and where.
  """
  if not isinstance(content, Mapping):
    raise ValueError(f"{place} must be an object, got {content!r:.40}.")
  content = kind.from_json(content) if hasattr(kind, "from_json") else content  # pyright: ignore
  hints = typing.get_type_hints(kind)
  values = {}
  for field in dataclasses.fields(typing.cast(Any, kind)):
    if field.name in content:
      values[field.name] = read_value(hints[field.name], content[field.name], f"{place}.{field.name}")
    elif field.default is dataclasses.MISSING:
      raise ValueError(f"{place} must have {field.name!r}, but lacks it; another version of jax_sis may have made it.")
  return kind(**values)


def read_value(kind: Any, value: Any, place: str) -> Any:
  origin, inner = typing.get_origin(kind), typing.get_args(kind)
  if origin is types.UnionType:
    if value is None and types.NoneType in inner:
      return None
    return read_value(next(one for one in inner if one is not types.NoneType), value, place)
  if dataclasses.is_dataclass(kind):
    return read_record(typing.cast(type, kind), value, place)
  if origin is tuple and isinstance(value, list) and (inner[-1] is Ellipsis or len(inner) == len(value)):
    kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
    return tuple(read_value(one, part, f"{place}[{i}]") for i, (one, part) in enumerate(zip(kinds, value, strict=True)))
  if origin is dict and isinstance(value, Mapping):
    return {key: read_value(inner[1], part, f"{place}.{key}") for key, part in value.items()}
  if type(value) is kind or (kind is float and type(value) is int):
    return value
  raise ValueError(f"{place} must be {getattr(kind, '__name__', kind)}, got {value!r:.40}.")
