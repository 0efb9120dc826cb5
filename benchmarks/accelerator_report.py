"""Lines of JSON, a time budget, failures that are counted, and timing, for `accelerator.py` and its sections."""

import contextlib
import dataclasses
import importlib
import json
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

# What PyTorch's variants are called, by our precision.
TORCH_NAMES = {"highest": "f32", "default": "tf32", "bf16": "bf16"}
PRECISIONS_BY_TORCH_NAME = {name: precision for precision, name in TORCH_NAMES.items()}


@dataclasses.dataclass(kw_only=True)
class Report:
  """What is printed, and what went wrong.

  Attributes:
    budget: seconds after which nothing new is begun.
    failures: checks that failed, and parts that had an error.
    headlines: lines for the summary at the end.
  """

  budget: float
  failures: list[str] = dataclasses.field(default_factory=list)
  headlines: list[str] = dataclasses.field(default_factory=list)
  started: float = dataclasses.field(default_factory=time.perf_counter)

  @property
  def seconds(self) -> float:
    return time.perf_counter() - self.started

  def emit(self, section: str, **values: Any) -> None:
    """Prints a line of JSON."""
    print(json.dumps({"section": section, "at_s": round(self.seconds, 1), **values}), flush=True)

  def check(self, section: str, name: str, passed: Any, **values: Any) -> None:
    """Prints whether a check passed, and remembers it if it did not."""
    if not passed:
      self.failures.append(f"{section}: {name}")
    self.emit(section, check=name, passed=bool(passed), **values)

  @contextlib.contextmanager
  def part(self, section: str, **values: Any) -> Iterator[None]:
    """Turns an error of the block into a line and a failure, so that the other parts still run."""
    try:
      yield
    except Exception as error:
      self.failures.append(f"{section}: {type(error).__name__}")
      where = [
        f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)
      ]
      self.emit(section, error=f"{type(error).__name__}: {shorten(error)}", where=where[-3:], **values)

  def is_late(self, section: str, seconds: float) -> bool:
    """Whether less than so many seconds of the budget are left; says so."""
    left = self.budget - self.seconds
    if left < seconds:
      self.emit(section, skipped=f"{left:.0f} s of the budget left, {seconds:.0f} needed")
    return left < seconds

  def time_in_turn(self, section: str, functions: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each function; all run once unmeasured, then all once before any runs again."""
    working = {}
    for name, function in functions.items():
      with self.part(section, variant=name):
        function()
        working[name] = function
    seconds: dict[str, list[float]] = {name: [] for name in working}
    for _ in range(repeats):
      for name, function in working.items():
        seconds[name].append(time_once(function))
    return {name: statistics.median(measured) for name, measured in seconds.items()}


def shorten(error: BaseException) -> str:
  return " ".join(str(error).split())[:300]


def time_once(function: Callable[[], Any]) -> float:
  started = time.perf_counter()
  function()
  return time.perf_counter() - started


def place(tree: Any, device: Any, dtype: Any = None) -> Any:
  """The arrays on a device, the floating point ones in another type if one is given."""

  def put(array: Any) -> jax.Array:
    array = np.asarray(array)
    is_real = np.issubdtype(array.dtype, np.floating)
    return jax.device_put(array.astype(dtype) if dtype is not None and is_real else array, device)

  return jax.tree.map(put, tree)


def import_peer() -> Any:
  """The PyTorch side, which needs PyTorch."""
  return importlib.import_module("pytorch_accelerator")


def peak_mib(device: Any) -> float:
  """The most memory that JAX has held on the device, in MiB; 0 where the platform does not say."""
  return round((device.memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**20, 1)


def make_noise(batch_size: int, size: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
  """Noise as normalised images `[B, size, size, 3]`, and classes `[B]`."""
  generator = np.random.default_rng(0)
  images = generator.standard_normal((batch_size, size, size, 3), np.float32)
  return images, generator.integers(num_classes, size=batch_size, dtype=np.int32)
