"""The file in which a person marks components spurious."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jax_sis.core.messages import first_line

FORMAT = "jax_sis.component_labels/1"
FILE = "labels.json"
HOW_TO = "set is_spurious to true where a component is not the object itself; notes are yours"


class ComponentName(NamedTuple):
  """A component: its class, and its number there, from 1."""

  of_class: str
  number: int

  def __str__(self) -> str:
    return f"{self.of_class} #{self.number}"


def make_template(identity: Mapping[str, Any], names: Sequence[ComponentName]) -> bytes:
  """The file for these components, a line each, none of them marked.

  Args:
    identity: the classifier and the data, in JSON types, by which a file of another run is told.
    names: the components.
  """
  lines = [
    json.dumps({"class": name.of_class, "component": name.number, "is_spurious": False, "note": ""}) for name in names
  ]
  head = json.dumps({"format": FORMAT, "how_to": HOW_TO, "of": identity}, indent=2).removesuffix("\n}")
  body = ",\n    ".join(lines)
  return f'{head},\n  "components": [\n    {body}\n  ]\n}}\n'.encode()


def read_marked(path: pathlib.Path, identity: Mapping[str, Any], names: Sequence[ComponentName]) -> list[ComponentName]:
  """The components that a file marks spurious.

  Raises:
    ValueError: it cannot be read, is of another classifier or other data, or marks what is no component shown.
  """
  try:
    content = json.loads(path.read_text(encoding="utf-8"))
    marked = [
      ComponentName(str(line["class"]), int(line["component"])) for line in content["components"] if is_marked(line)
    ]
    written_for = content["of"]
  except (OSError, KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"--labels must be a file as the command writes it, got {str(path)!r} ({type(error).__name__}: "
      f"{first_line(error)})."
    ) from error
  if written_for != json.loads(json.dumps(identity)):
    differing = [name for name in identity if written_for.get(name) != json.loads(json.dumps(identity[name]))]
    raise ValueError(
      f"--labels must be of this classifier and these images, but {str(path)!r} is of others ({', '.join(differing)} "
      "differs), whose components are not the same; remove it or name another file, and mark them anew."
    )
  unknown = [name for name in marked if name not in names]
  if unknown:
    raise ValueError(
      f"--labels must mark components that are shown, but {str(path)!r} marks {unknown[0]}; see --classes and "
      "--components."
    )
  return marked


def is_marked(line: Mapping[str, Any]) -> bool:
  if not isinstance(line["is_spurious"], bool):
    raise ValueError(f"is_spurious must be true or false, got {line['is_spurious']!r}")
  return line["is_spurious"]
