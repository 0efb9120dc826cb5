"""Progress: what is done, how fast, and how long the rest takes."""

import io
import time

import pytest
from rich.console import Console

from jax_sis.runtime import progress
from jax_sis.runtime.progress import Progress, format_seconds


def test_a_log_gets_a_line_with_the_time_left(monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr(progress, "LOG_INTERVAL_SECONDS", 0.0)
  output = io.StringIO()
  with Progress("search", total=40, start=10, unit="image", console=Console(file=output)) as bar:
    time.sleep(0.2)
    bar.advance(10)
  line = output.getvalue()
  assert line.startswith("search: 20/40 images, ")
  rate = float(line.split(", ")[1].removesuffix(" image/s"))
  # 10 images since the start in 0.2 s or more; the 10 of an earlier run do not count.
  assert 5 < rate <= 50
  assert line.endswith("left\n")


def test_a_log_is_not_flooded():
  output = io.StringIO()
  with Progress("search", total=1000, console=Console(file=output)) as bar:
    for _ in range(1000):
      bar.advance()
  assert output.getvalue() == ""


def test_a_terminal_gets_a_bar():
  output = io.StringIO()
  console = Console(file=output, force_terminal=True, width=120)
  with Progress("search", total=2, unit="image", console=console) as bar:
    bar.advance()
    bar.log("a line above")
  assert "search" in output.getvalue()
  assert "1/2" in output.getvalue()
  assert "a line above" in output.getvalue()


def test_before_anything_is_done_the_time_left_is_unknown():
  assert Progress("x", total=3, console=Console(file=io.StringIO())).describe().endswith("time left unknown")


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (75, "1:15"), (3700, "1:01:40")])
def test_durations_are_formatted_as_clock_times(seconds: float, text: str):
  assert format_seconds(seconds) == text
