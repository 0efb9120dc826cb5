"""What a reference of the package is made of: docstrings of public names, each with an example that stands by itself.

`python -m pytest --doctest-modules jax_sis` runs the examples, away from the settings of these tests, as a user would.
"""

import ast
import builtins
import doctest
import importlib
import inspect
import pathlib
import re
from typing import Any

import pytest

import jax_sis

PACKAGE = pathlib.Path(jax_sis.__file__).parent
STATISTICS = [
  f"jax_sis.statistics.{path.stem}" for path in sorted((PACKAGE / "statistics").glob("*.py")) if path.stem != "__init__"
]
MODULES = [
  "jax_sis",
  "jax_sis.classifiers",
  "jax_sis.classifiers.adapters",
  "jax_sis.core.completions",
  "jax_sis.core.features",
  "jax_sis.results",
  *STATISTICS,
]
# Whose functions and classes a reader might be sent to.
ROOMS = ("core", "classifiers", "data", "results", "statistics")
FILE_NAME = re.compile(r"\b[\w/]+\.(?:py|md)\b(?!:)")
CODE = re.compile(r"`([A-Za-z_]\w*(?:\.\w+)*)")


def public_values(module_name: str) -> dict[str, Any]:
  """The functions and classes of a module's `__all__`; it has constants, aliases of types and modules beside."""
  module = importlib.import_module(module_name)
  values = {name: getattr(module, name) for name in module.__all__}
  return {name: value for name, value in values.items() if inspect.isfunction(value) or inspect.isclass(value)}


def with_members(values: dict[str, Any]) -> dict[str, Any]:
  """These, and the public methods and properties of the classes."""
  found = dict(values)
  for name, value in values.items():
    for member, one in vars(value).items() if inspect.isclass(value) else ():
      if not member.startswith("_") and isinstance(one, property | staticmethod | classmethod | type(with_members)):
        found[f"{name}.{member}"] = one
  return found


def examples_of(value: Any) -> list[doctest.Example]:
  """The lines of the section Examples, with what they print."""
  _, _, section = (inspect.getdoc(value) or "").partition("\nExamples:\n")
  return doctest.DocTestParser().get_examples(section)


def find_unknown(examples: list[doctest.Example]) -> set[str]:
  """The names that the examples use without having made them."""
  nodes = list(ast.walk(ast.parse("".join(example.source for example in examples))))
  known = set(dir(builtins)) | {node.arg for node in nodes if isinstance(node, ast.arg)}
  known |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler)}
  known |= {alias.asname or alias.name.partition(".")[0] for node in nodes for alias in getattr(node, "names", ())}
  names = [node for node in nodes if isinstance(node, ast.Name)]
  stored = {node.id for node in names if isinstance(node.ctx, ast.Store)}
  return {node.id for node in names} - stored - known


@pytest.mark.parametrize("module_name", MODULES)
def test_public_functions_classes_and_their_methods_have_docstrings(module_name: str):
  described = with_members(public_values(module_name))
  assert described
  assert [name for name, value in described.items() if not inspect.getdoc(value)] == []


@pytest.mark.parametrize("module_name", MODULES)
def test_every_public_name_has_an_example_that_stands_by_itself_and_says_what_comes(module_name: str):
  examples = {name: examples_of(value) for name, value in public_values(module_name).items()}
  assert [name for name, found in examples.items() if not any(example.want for example in found)] == []
  assert {name: unknown for name, found in examples.items() if (unknown := find_unknown(found))} == {}


def test_no_public_docstring_sends_its_reader_to_a_file_or_to_what_is_not_public():
  values = {f"{name}:{key}": one for name in MODULES for key, one in public_values(name).items()}
  described = {name: inspect.getdoc(value) or "" for name, value in with_members(values).items()}
  known = {part for name in described for part in name.partition(":")[2].split(".")}
  known |= {name for value in values.values() for name in inspect.signature(value).parameters}
  paths = [path for room in ROOMS for path in (PACKAGE / room).glob("*.py")]
  nodes = [node for path in paths for node in ast.parse(path.read_text()).body]
  private = {node.name for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef)} - known
  named = {
    name: FILE_NAME.findall(text) + [word for word in CODE.findall(text) if private & {*word.split(".")}]
    for name, text in described.items()
  }
  assert {name: words for name, words in named.items() if words} == {}
