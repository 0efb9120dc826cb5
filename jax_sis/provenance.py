"""Which state of the code computes: the commit, where the package lies in a checkout of its own."""

import pathlib
import subprocess

SECONDS = 10


def describe_checkout(package: pathlib.Path | None = None) -> str | None:
  """The commit that the package is checked out at, with `+changes` where its files differ from it.

  Args:
    package: the package's folder; None for this one.

  Returns:
    None where the package was installed as files, or there is no git. A repository of somebody else, in which the
    package merely lies, as in a virtual environment, does not count.
  """
  package = package or pathlib.Path(__file__).parent
  top = ask_git(package, "rev-parse", "--show-toplevel")
  if top is None or pathlib.Path(top).resolve() != package.parent.resolve():
    return None
  commit = ask_git(package, "rev-parse", "HEAD")
  if commit is None:
    return None
  changes = ask_git(package, "status", "--porcelain", "--", ".")
  return commit if changes == "" else f"{commit}+changes"


def ask_git(folder: pathlib.Path, *words: str) -> str | None:
  """What git answers; None where it cannot."""
  try:
    found = subprocess.run(
      ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=SECONDS, check=False
    )
  except (OSError, subprocess.TimeoutExpired):
    return None
  return found.stdout.strip() if found.returncode == 0 else None
