"""Where numbers come from: the versions of what computed them, and the commit of a checkout."""

import importlib.metadata
import pathlib
import platform
import subprocess

from jax_sis.version import __version__

# What the package computes and draws with.
LIBRARIES = ("jax", "numpy", "scipy", "matplotlib")
PACKAGE = pathlib.Path(__file__).absolute().parents[1]
GIT_SECONDS = 20


def library_versions(*libraries: str) -> dict[str, str]:
  """The versions of this package and of these others, by their names in the package index."""
  return {"jax_sis": __version__, **{name: importlib.metadata.version(name) for name in libraries}}


def all_versions() -> dict[str, str]:
  """The versions of this package, of all that it computes and draws with, and of Python."""
  return {**library_versions(*LIBRARIES), "python": platform.python_version()}


def describe_commit(package: pathlib.Path = PACKAGE) -> str:
  """The Git commit of a package's files, and whether they were changed since, in words.

  A package that was installed below some other checkout is not part of it.
  """
  commit = run_git(package, "log", "-1", "--format=%H")
  if commit is None:
    return "not known: the package does not lie in a Git checkout, or git is not at hand"
  if run_git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
    return "not known: the package does not belong to the Git checkout around it"
  changed = run_git(package, "status", "--porcelain", "--", ".")
  return commit if changed == "" else f"{commit}, with changes that are not committed"


def run_git(folder: pathlib.Path, *words: str) -> str | None:
  """What git says there, or None where it fails."""
  try:
    finished = subprocess.run(
      ["git", "-C", str(folder), *words], capture_output=True, text=True, check=False, timeout=GIT_SECONDS
    )
  except (OSError, subprocess.TimeoutExpired):
    return None
  return finished.stdout.strip() if finished.returncode == 0 else None
