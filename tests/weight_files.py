"""Files of weights: those that are kept with the tests, how to write others, and how they are refused."""

import pathlib
import re
from typing import Any

import fake_torch
import pytest

GOLDEN_DIR = pathlib.Path(__file__).parent / "golden"
TENSOR_FILES = ("tensors.pt", "tensors_legacy.pt", "tensors.safetensors", "tensors.npz")
PREFIX = "path must be a state dict in a file of PyTorch, safetensors or NumPy, but "
HOW_TO_SAVE = "with PyTorch, save the weights alone: torch.save(model.state_dict(), ...)"

FORMATS = {"legacy": fake_torch.legacy_bytes, "zip": fake_torch.zip_bytes}
in_both_formats = pytest.mark.parametrize("save_fn", FORMATS.values(), ids=FORMATS)


def write(path: pathlib.Path, content: bytes) -> pathlib.Path:
  """The file with this content."""
  path.write_bytes(content)
  return path


def refuses(message: str) -> Any:
  """The whole of an error's text."""
  return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def refuses_to_read(path: pathlib.Path, reason: str) -> Any:
  """The error of a file that is no state dict."""
  return refuses(f"{PREFIX}{str(path)!r} cannot be read so: {reason}.")
