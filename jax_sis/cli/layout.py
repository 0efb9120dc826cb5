"""Text of help, as wide as the terminal."""

import re
import shutil
import textwrap
from collections.abc import Mapping

# Longer lines are hard to read.
MAX_WIDTH = 100


def width() -> int:
  return min(shutil.get_terminal_size().columns, MAX_WIDTH)


def wrap(text: str, width: int) -> str:
  return "\n\n".join(textwrap.fill(" ".join(paragraph.split()), width) for paragraph in text.strip().split("\n\n"))


def make_table(heading: str, rows: Mapping[str, str], width: int) -> str:
  indent = max(map(len, rows)) + 4
  lines = [
    textwrap.fill(text, width, initial_indent=f"  {term}".ljust(indent), subsequent_indent=" " * indent)
    for term, text in rows.items()
  ]
  return "\n".join([f"{heading}:", *lines])


def wrap_command(line: str, width: int) -> str:
  r"""A command line on several lines, each but the last with a `\` at its end."""
  lines = [" "]
  for word in re.findall(r"(?:--\S+ (?!-))?(?:'[^']*'|\S)+", line):
    if len(lines[-1]) + len(word) + 3 > width:
      lines.append("     ")
    lines[-1] += f" {word}"
  return " \\\n".join(lines)
