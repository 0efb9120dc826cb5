"""What pages say, made again of the files in docs/results: the words a page must hold, by page.

`traced_searches.py` and `traced_machines.py` have a function for each table or paragraph, which yields them.
"""

import csv
import decimal
import json
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jax_sis.statistics.estimates import Estimate

REPOSITORY = pathlib.Path(__file__).parents[1]
RESULTS = REPOSITORY / "docs/results"
Texts = Iterator[str]
Trace = Callable[[str], Texts]

# By page, relative to the checkout: functions of the page's text.
TRACES: dict[str, list[Trace]] = {}


def traces(*pages: str) -> Callable[[Trace], Trace]:
  """Registers a function for pages."""

  def register(function: Trace) -> Trace:
    for page in pages:
      TRACES.setdefault(page, []).append(function)
    return function

  return register


def read_lines(name: str) -> list[dict[str, Any]]:
  return [json.loads(line) for line in (RESULTS / name).read_text().splitlines()]


def read_table(name: str) -> list[dict[str, str]]:
  with (RESULTS / name).open(newline="") as file:
    return list(csv.DictReader(file))


def read_json(name: str) -> dict[str, Any]:
  return json.loads((RESULTS / name).read_text())


def fixed(number: float, places: int = 0) -> str:
  """A number as people round it, halves away from 0, with commas between thousands."""
  unit = decimal.Decimal(1).scaleb(-places)
  return f"{decimal.Decimal(repr(float(number))).quantize(unit, decimal.ROUND_HALF_UP):,}"


def share(number: float, places: int = 0) -> str:
  """A share without its interval: 87 %."""
  return f"{fixed(100 * number, places)} %"


def percent(estimate: Estimate, form: str = ".0f") -> str:
  """A share with its interval: 87 % [75, 94]."""
  value, bracket, interval = f"{estimate.percent:{form}}".partition(" [")
  return f"{value} %{bracket}{interval}"


def estimate_of(content: dict[str, Any]) -> Estimate:
  return Estimate(**Estimate.from_json(content))


def row(*cells: Any) -> str:
  return f"| {' | '.join(map(str, cells))} |"


def join(values: Sequence[Any]) -> str:
  return ", ".join(map(str, values))


def words(text: str) -> list[str]:
  return re.findall(r"[\w-]+", text.lower())
