"""The metrics of a training run: one JSON line per epoch, and TensorBoard events if asked for."""

import json
import pathlib
from types import TracebackType
from typing import Any, Self

from jax_sis.results.folder import write_atomically

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
  """Writes records of numbers, each with its `step`, to `metrics.jsonl` and, if asked, to `tensorboard/`.

  Args:
    directory: where to write.
    tensorboard: also write events.

  Raises:
    ValueError: events are asked for, but tensorboardX is not installed.
  """

  def __init__(self, directory: pathlib.Path, *, tensorboard: bool = False):
    self._path = directory / METRICS_FILE
    self._events = None
    if tensorboard:
      try:
        from tensorboardX import SummaryWriter
      except ImportError as error:
        raise ValueError(
          "--tensorboard must find the package tensorboardX, which is missing; pip install 'jax_sis[tensorboard]'."
        ) from error
      self._events = SummaryWriter(str(directory / "tensorboard"))

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    if self._events is not None:
      self._events.close()

  def forget_after(self, step: int) -> None:
    """Drops records of later steps, which a resumed run writes again, and a line that was cut short."""
    if not self._path.exists():
      return
    kept = []
    for line in self._path.read_text().splitlines():
      try:
        record = json.loads(line)
      except ValueError:
        break
      if record["step"] <= step:
        kept.append(line + "\n")
    write_atomically(self._path, "".join(kept).encode())

  def write(self, record: dict[str, Any]) -> None:
    with open(self._path, "a") as file:
      file.write(json.dumps(record) + "\n")
    if self._events is not None:
      for name, value in record.items():
        self._events.add_scalar(name, value, record["step"])
      self._events.flush()
