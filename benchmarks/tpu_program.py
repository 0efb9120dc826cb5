"""Reads from a compiled TPU program how many bytes a step of its search moves between chip and memory."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+)\[([\d,]*)\](?:\{([^}]*)\})?")
INSTRUCTION = re.compile(r"^ +(?:ROOT )?(%[\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)$")
# Names for what is there already, or the end of what was counted at its start.
FREE = ("get-tuple-element", "tuple", "parameter", "bitcast", "constant", "after-all")


class Instruction(NamedTuple):
  """A line of a computation: what it yields, what it does, and of which others."""

  name: str
  result: str
  opcode: str
  operands: tuple[str, ...]


def step_bytes(text: str) -> int:
  """Bytes that one round of the program's largest loop reads from the chip's memory and writes to it.

  Operands and results of every instruction of its body, padded to tiles as they lie there; what lies in the chip's own
  fast memory, marked S(1), does not count. A part of an array that an instruction reads counts as all of it.
  """
  bodies = [list(read_computation(text, name)) for name in set(re.findall(r"body=(%[\w.-]+)", text))]
  body = max(bodies, key=len)
  results = {instruction.name: instruction.result for instruction in body}
  total = 0
  for instruction in body:
    if instruction.opcode in FREE or instruction.opcode.endswith(("-done", "-update")):
      continue
    # What is started in the background yields where it goes, where it comes from, and a flag.
    written = (
      first_array(instruction.result) if instruction.opcode.endswith("-start") else array_bytes(instruction.result)
    )
    total += written + sum(array_bytes(results[name]) for name in instruction.operands if name in results)
  return total


def read_computation(text: str, name: str) -> Iterator[Instruction]:
  start = text.index(f"\n{name} (")
  for line in text[start + 1 : text.index("\n}", start)].splitlines()[1:]:
    match = INSTRUCTION.match(line)
    if match:
      operands = match[4].split("), ")[0]
      yield Instruction(match[1], match[2], match[3], tuple(re.findall(r"%[\w.-]+", operands)))


def first_array(result: str) -> int:
  match = ARRAY.search(result)
  return array_bytes(match[0]) if match else 0


def array_bytes(result: str) -> int:
  """Bytes of all arrays of a result that lie in the chip's memory."""
  return sum(padded_bytes(*match) for match in ARRAY.findall(result) if "S(" not in match[2])


def padded_bytes(kind: str, shape: str, layout: str) -> int:
  """Bytes of one array; its last axes, in the order of the layout, are padded to multiples of the tile."""
  lengths = [int(length) for length in shape.split(",") if length]
  order = [int(axis) for axis in layout.partition(":")[0].split(",") if axis]
  tile = re.search(r"T\(([\d,]+)\)", layout)
  if tile:
    for axis, multiple in zip(order, map(int, reversed(tile[1].split(","))), strict=False):
      lengths[axis] = -(-lengths[axis] // multiple) * multiple
  bits = 8 if kind == "pred" else int(re.sub(r"\D", "", kind))
  return math.prod(lengths) * bits // 8
