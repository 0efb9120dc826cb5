"""Dataclasses from what JSON holds of them, so that numbers that one program wrote can be used by another."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def read_record(kind: type[T], content: Any, place: str = "record") -> T:
  """A dataclass from its JSON form, as `dataclasses.asdict` and `json` make it; other keys are left out.

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
  hints = typing.get_type_hints(kind)
  values = {}
  for field in dataclasses.fields(typing.cast(Any, kind)):
    if field.name in content:
      values[field.name] = read_value(hints[field.name], content[field.name], f"{place}.{field.name}")
    elif field.default is dataclasses.MISSING:
      raise ValueError(f"{place} must have {field.name!r}, but lacks it; another version of jax_sis may have made it.")
  return kind(**values)


def read_value(kind: Any, value: Any, place: str) -> Any:
  """A value of this type from its JSON form."""
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
