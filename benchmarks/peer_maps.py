"""What both sides of the comparison with other packages share, with neither JAX nor PyTorch."""

import os
import pathlib
from typing import Any

import numpy as np


def package_of(method: str) -> str:
  """The package that a method is from, with which its name begins."""
  return method.split(maxsplit=1)[0].rstrip(",")


def save(path: pathlib.Path, **arrays: Any) -> None:
  """A file that is there is whole."""
  unfinished = path.with_suffix(".unfinished.npz")
  np.savez(unfinished, **arrays)
  os.replace(unfinished, path)
