"""Settings of a recipe by name, as `jax-sis train --set NAME=VALUE` changes them."""

import ast
import contextlib
import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator
from typing import Any

SIMPLE = {int: "a whole number", float: "a number", str: "text", bool: "True or False", types.NoneType: "None"}


def override(recipe: Any, text: str, extra: str) -> Any:
  """The recipe with one setting changed.

  Args:
    recipe: a dataclass; parts of it are dataclasses too, and tuples of such.
    text: `name=value`, or `part.name=value`; the value is a Python literal or a plain word.
    extra: another name to suggest.

  Raises:
    ValueError: there is no such setting, or the value is not of its type.
  """
  name, separator, written = text.partition("=")
  if not separator:
    raise ValueError(f"--set must be name=value, got {text!r}.")
  hints = dict(iterate_hints(recipe))
  if name not in hints:
    same = [known for known in hints if known.rpartition(".")[2] == name]
    nearest = same or difflib.get_close_matches(name, [*hints, extra], n=1, cutoff=0)
    meant = " or ".join(map(repr, nearest))
    raise ValueError(
      f"--set {text}: {type(recipe).__name__} has no setting {name!r}; did you mean {meant}? It has "
      f"{', '.join([*hints, extra])}."
    )
  try:
    value = ast.literal_eval(written)
  except (SyntaxError, ValueError):
    value = written
  fitting = [one for one in (value, written) if fits(one, hints[name])]
  if not fitting:
    parts = [known for known in hints if known.startswith(f"{name}.")]
    inside = f"is set by its parts, {', '.join(parts)}" if parts else f"must be {describe(hints[name])}"
    raise ValueError(f"--set {text}: {name} {inside}, got {value!r}.")
  return replace_at(recipe, name.split("."), fitting[0])


def iterate_hints(part: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
  """The names of all settings, those of parts after the part's name and a dot, and their types."""
  hints = typing.get_type_hints(type(part))
  for field in dataclasses.fields(part):
    name, hint = prefix + field.name, hints[field.name]
    yield name, hint
    value = find_part(part, field.name)
    members = {f"{name}.": value} if dataclasses.is_dataclass(value) else {}
    if isinstance(value, tuple):
      members = {f"{name}.{place}.": item for place, item in enumerate(value) if dataclasses.is_dataclass(item)}
    for start, member in members.items():
      yield from iterate_hints(member, start)


def find_part(whole: Any, name: str) -> Any:
  """What a setting is; where it is None and may be a dataclass with defaults, that."""
  value = getattr(whole, name)
  if value is not None:
    return value
  for kind in typing.get_args(typing.get_type_hints(type(whole))[name]):
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
      with contextlib.suppress(TypeError, ValueError):
        return kind()
  return None


def fits(value: Any, hint: Any) -> bool:
  arguments = typing.get_args(hint)
  match typing.get_origin(hint):
    case typing.Union | types.UnionType:
      return any(fits(value, kind) for kind in arguments)
    case typing.Literal:
      return value in arguments
    case origin if origin is tuple:
      return isinstance(value, tuple) and all(fits(item, arguments[0]) for item in value)
  if hint in (int, float):
    return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
  return hint in SIMPLE and isinstance(value, hint)


def describe(hint: Any) -> str:
  """A type in words."""
  arguments = typing.get_args(hint)
  match typing.get_origin(hint):
    case typing.Union | types.UnionType:
      return " or ".join(map(describe, arguments))
    case typing.Literal:
      return f"one of {', '.join(map(str, arguments))}"
    case origin if origin is tuple:
      return f"several of {describe(arguments[0])} in brackets, each followed by a comma"
  return SIMPLE.get(hint) or f"a {hint.__name__}, which only a recipe's file can make,"


def replace_at(part: Any, path: list[str], value: Any) -> Any:
  """A copy of a dataclass or tuple with another value at this place."""
  if not path:
    return value
  name, *rest = path
  if isinstance(part, tuple):
    return tuple(replace_at(item, rest, value) if place == int(name) else item for place, item in enumerate(part))
  return dataclasses.replace(part, **{name: replace_at(find_part(part, name), rest, value)})
