"""Weights and inputs made from names and seeds alone, so that PyTorch and our modules can be given the same ones."""

import dataclasses
import functools
import json
import pathlib
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

LOGITS_FILES = sorted((pathlib.Path(__file__).parent / "golden").glob("torch_logits*.npz"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class GoldenLogits:
  """What PyTorch makes of one architecture with random weights, statistics and inputs.

  `shapes` are those of its state dict, in its order; `inputs()` is in PyTorch's layout `[B, 3, H, W]`, and `logits`
  `[B, K]` were computed in float64.
  """

  shapes: dict[str, tuple[int, ...]]
  kernel_gain: float
  input_shape: tuple[int, ...]
  seed: int
  logits: np.ndarray

  def state_dict(self) -> dict[str, np.ndarray]:
    """The weights and statistics under PyTorch's names and in its layout."""
    return random_state_dict(self.shapes, kernel_gain=self.kernel_gain)

  def inputs(self) -> np.ndarray:
    """The inputs of which `logits` are."""
    return random_inputs(self.input_shape, self.seed)


def read_golden_logits(name: str) -> GoldenLogits:
  """The golden logits of one architecture and naming."""
  with np.load(find_logits_file(name)) as file:
    description = json.loads(str(file[f"{name}/description"]))
    logits = file[f"{name}/logits"]
  shapes = {key: tuple(shape) for key, shape in description["shapes"].items()}
  return GoldenLogits(
    shapes=shapes,
    kernel_gain=description["kernel_gain"],
    input_shape=tuple(description["input_shape"]),
    seed=description["seed"],
    logits=logits,
  )


def slow_but_resnet20(names: Iterable[str]) -> list[Any]:
  """The names of networks to test; the quick tests do with the smallest."""
  return [name if name == "resnet20" else pytest.param(name, marks=pytest.mark.slow) for name in names]


def golden_names() -> list[str]:
  """The architectures and namings that have golden logits."""
  return [name for path in LOGITS_FILES for name in names_in(path)]


@functools.cache
def names_in(path: pathlib.Path) -> list[str]:
  """The architectures and namings in a file of golden logits."""
  with np.load(path) as file:
    return [name.removesuffix("/logits") for name in file if name.endswith("/logits")]


def find_logits_file(name: str) -> pathlib.Path:
  return next(path for path in LOGITS_FILES if name in names_in(path))


def random_state_dict(shapes: dict[str, tuple[int, ...]], *, kernel_gain: float = 1.0) -> dict[str, np.ndarray]:
  """Random weights and statistics in float32, each array by its own name alone; counters are int64 zeros.

  Args:
    shapes: PyTorch's name of every array -> its shape, `[out, in, ...]` for kernels.
    kernel_gain: kernels have this times the standard deviation of He et al. (2015) for the forward pass.
  """
  return {name: random_array(name, shape, kernel_gain) for name, shape in shapes.items()}


def random_array(name: str, shape: tuple[int, ...], kernel_gain: float) -> np.ndarray:
  """One array of a state dict, of the kind that its name and number of axes say."""
  # The legacy generator, since its streams are promised never to change.
  rng = np.random.RandomState(zlib.crc32(name.encode()))
  kind = name.rsplit(".", maxsplit=1)[-1]
  if kind == "num_batches_tracked":
    return np.zeros(shape, np.int64)
  if kind == "running_var" or (kind == "weight" and len(shape) == 1):
    values = rng.uniform(0.5, 1.5, shape)
  elif kind in ("bias", "running_mean"):
    values = 0.1 * rng.standard_normal(shape)
  elif kind == "weight":
    values = kernel_gain * np.sqrt(2 / np.prod(shape[1:])) * rng.standard_normal(shape)
  else:
    raise ValueError(f"name must end in that of a layer's array, got {name!r}.")
  return values.astype(np.float32)


def random_inputs(shape: tuple[int, ...], seed: int) -> np.ndarray:
  """Standard normal numbers in float32."""
  return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)
