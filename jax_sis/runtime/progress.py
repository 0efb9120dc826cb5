"""Progress of long work: a bar with the time left on a terminal, an occasional line in a log."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

LOG_INTERVAL_SECONDS = 10.0


class Progress:
  """Counts finished units of work and says how long the rest will take.

  Use it as a context manager. On a terminal it draws a bar; elsewhere (a log file, a pipe) it writes at most one line
  every ten seconds. Everything goes to standard error, and leaves standard output to the program.

  Args:
    title: what is being done, in a word or two.
    total: units of work in all.
    start: units that an earlier run has already done; they do not count towards the speed.
    unit: the name of one unit, singular.
    console: where to write; standard error by default.
  """

  def __init__(self, title: str, *, total: int, start: int = 0, unit: str = "item", console: Console | None = None):
    self._title = title
    self._total = total
    self._start = start
    self._done = start
    self._unit = unit
    self._console = console if console is not None else Console(file=sys.stderr)
    self._started = time.perf_counter()
    self._last_line = self._started
    self._bar: RichProgress | None = None
    if self._console.is_terminal:
      self._bar = RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        console=self._console,
        transient=True,
        # Lines printed to a terminal go above the bar; piped standard output is left alone.
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=False,
      )
      self._task = self._bar.add_task(title, total=total, completed=start, rate="")

  def __enter__(self) -> Self:
    if self._bar is not None:
      self._bar.start()
    _shown.append(self)
    return self

  def __exit__(
    self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    _shown.remove(self)
    if self._bar is not None:
      self._bar.stop()

  def advance(self, amount: int = 1) -> None:
    self._done += amount
    if self._bar is not None:
      self._bar.update(self._task, completed=self._done, rate=f"{self._rate():.3g} {self._unit}/s")
    elif time.perf_counter() - self._last_line >= LOG_INTERVAL_SECONDS:
      self._last_line = time.perf_counter()
      self.log(self.describe())

  def restart(self, title: str, *, total: int | None = None) -> None:
    """Starts the main part after preparations: a new title, the clock at zero, and a total if it is known only now."""
    self._title = title
    self._total = self._total if total is None else total
    self._started = self._last_line = time.perf_counter()
    if self._bar is not None:
      self._bar.reset(self._task, description=title, total=self._total, completed=self._start)

  def log(self, line: str) -> None:
    """Writes one line, above the bar if there is one."""
    self._console.print(line, highlight=False, markup=False, soft_wrap=True)

  def describe(self) -> str:
    """One line: units done, total, speed and time left."""
    rate = self._rate()
    left = f"{format_seconds((self._total - self._done) / rate)} left" if rate > 0 else "time left unknown"
    return f"{self._title}: {self._done}/{self._total} {self._unit}s, {rate:.3g} {self._unit}/s, {left}"

  def _rate(self) -> float:
    return (self._done - self._start) / max(time.perf_counter() - self._started, 1e-9)


def say(line: str) -> None:
  """Writes a line that belongs to no work in particular to standard error, above the bar if there is one."""
  if _shown:
    _shown[-1].log(line)
  else:
    print(line, file=sys.stderr, flush=True)


def format_seconds(seconds: float) -> str:
  """`75` -> `1:15`, `3700` -> `1:01:40`."""
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


_shown: list[Progress] = []
