"""Which commit the package is of, in real checkouts."""

import pathlib
import shutil
import subprocess

import pytest

from jax_sis.runtime import provenance


@pytest.fixture
def checkout(tmp_path: pathlib.Path) -> pathlib.Path:
  """A package in a repository with one commit."""
  if shutil.which("git") is None:
    pytest.skip("needs git")
  package = tmp_path / "package"
  package.mkdir()
  (package / "__init__.py").write_text("")
  git(tmp_path, "init", "-q")
  git(tmp_path, "add", "package")
  git(tmp_path, "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-q", "-m", "first")
  return package


def git(folder: pathlib.Path, *words: str) -> str:
  return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True).stdout.strip()


def test_the_commit_is_named_and_changes_are_said(checkout: pathlib.Path):
  commit = git(checkout, "rev-parse", "HEAD")
  assert provenance.describe_commit(checkout) == commit
  (checkout.parent / "elsewhere").write_text("x")
  assert provenance.describe_commit(checkout) == commit
  (checkout / "__init__.py").write_text("x = 1")
  assert provenance.describe_commit(checkout) == f"{commit}, with changes that are not committed"


def test_a_package_that_only_lies_in_a_checkout_is_not_of_its_commit(checkout: pathlib.Path):
  installed = checkout.parent / "venv" / "package"
  installed.mkdir(parents=True)
  (installed / "__init__.py").write_text("")
  message = "not known: the package does not belong to the Git checkout around it"
  assert provenance.describe_commit(installed) == message


def test_without_a_checkout_it_is_not_known(tmp_path: pathlib.Path):
  assert provenance.describe_commit(tmp_path).startswith("not known: the package does not lie in a Git checkout")
