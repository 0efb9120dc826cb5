"""The examples in docstrings run, and print what they say."""

import ast
import doctest
import importlib
import importlib.util
import pathlib
import pkgutil

import pytest

import jax_sis.core

MODULES = [module.name for module in pkgutil.iter_modules(jax_sis.core.__path__, "jax_sis.core.")]
WITH_EXAMPLES = {"scores.log_odds", "backselect.backselect", "searches.backward_sizes"}


def examples_of(name: str) -> list[doctest.DocTest]:
  """The doctests of a module, read from its source, since decorated functions hide them from `doctest`."""
  module = importlib.import_module(name)
  assert module.__file__ is not None
  parser = doctest.DocTestParser()
  tests = []
  for node in ast.walk(ast.parse(pathlib.Path(module.__file__).read_text())):
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
      title = f"{name.rpartition('.')[2]}.{getattr(node, 'name', '__doc__')}"
      docstring = ast.get_docstring(node) or ""
      test = parser.get_doctest(docstring, dict(vars(module)), title, module.__file__, getattr(node, "lineno", 0))
      tests += [test] if test.examples else []
  return tests


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_print_what_they_say(name: str, capsys: pytest.CaptureFixture[str]):
  runner = doctest.DocTestRunner()
  for test in examples_of(name):
    runner.run(test)
  assert runner.failures == 0, capsys.readouterr().out


def test_the_examples_that_we_know_of_are_found():
  found = {test.name for name in MODULES for test in examples_of(name)}
  assert found >= WITH_EXAMPLES
