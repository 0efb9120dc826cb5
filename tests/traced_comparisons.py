"""What is compared side by side: docs/results/peers, docs/results/removal and docs/results/many_machines."""

from typing import Any

import numpy as np
from traced import Texts, fixed, read_lines, row, traces

from jax_sis.core.subsets import Status
from jax_sis.statistics.estimates import mean_of

# What the page calls methods of peers/peers.jsonl.
PEERS = {
  "jax_sis smallest_subsets": "jax_sis, `smallest_subsets`",
  "jax_sis Forward": "jax_sis, Forward",
  "jax_sis Gradient": "jax_sis, Gradient",
  "jax_sis Gradient, other images": "jax_sis, Gradient on other images",
}
# Files of removal, by what the page calls their sets.
SETS = {
  "gradient's, of pixels": "gradient-pixels",
  "smallest, of pixels": "smallest-pixels",
  "smallest, of 4x4 squares": "smallest-squares",
}
WAYS = {"value": "on the mean colour", "removed": "under layer masking", "others": "on draws of other images"}
READINGS = ("value", "removed", "others", "on black", "on grey", "on white", "white", "moved")


def mean(lines: list[dict[str, Any]], name: str, form: str) -> str:
  return f"{mean_of(np.array([line[name] for line in lines])):{form}}"


def by(name: str, lines: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
  found: dict[str, list[dict[str, Any]]] = {}
  for line in lines:
    found.setdefault(line[name], []).append(line)
  return found


@traces("docs/results/peers.md")
def peers_side_by_side(page: str) -> Texts:
  for name, lines in by("method", read_lines("peers/peers.jsonl")).items():
    is_order = "kept" in lines[0]
    at_384 = [{"kept": line["kept"]["384"]} for line in lines] if is_order else []
    yield row(
      PEERS.get(name, name),
      mean(lines, "pixels", ".1f"),
      f"{sum(line['confidence'] >= 0.9 for line in lines)} of {len(lines)}",
      mean(lines, "kept_alone", ".0%"),
      mean(at_384, "kept", ".0%") if is_order else "",
      mean(lines, "size_90", ".0f") if is_order else "",
      mean(lines, "core_seconds", ".2f"),
    )


@traces("docs/removal.md")
def sets_that_are_removed(page: str) -> Texts:
  for sets, name in SETS.items():
    for way, lines in by("way", read_lines(f"removal/{name}.jsonl")).items():
      found = [line for line in lines if line["status"] == Status.OK]
      kept = {name: mean_of(np.array([line[name] for line in found])) for name in READINGS}
      leak = mean_of(np.array([line["white"] - line["moved"] for line in found]))
      readings = [fixed(100 * one.numbers[0]) for one in kept.values()]
      yield row(sets, WAYS[way], len(found), mean(found, "squares", ".1f"), *readings, f"{leak.percent:.0f}")


@traces("docs/removal.md")
def costs_of_removal(page: str) -> Texts:
  for sets, name in SETS.items():
    lines = by("way", read_lines(f"removal/{name}.jsonl"))
    plain, masked = (np.median([line["seconds"] for line in lines[way]]) for way in ("value", "removed"))
    heading = sets.replace(",", "").capitalize()
    yield f"{heading}: {plain:.2f} on the mean colour, {masked:.2f} under layer masking, {masked / plain:.1f} times."


@traces("docs/many_machines.md")
def rounds_on_ray(page: str) -> Texts:
  rounds = read_lines("many_machines/rounds.jsonl")
  same = f"{sum(one['same'] for one in rounds)} of {len(rounds)}"
  twice = [one["begun"] - 75 for one in rounds]
  yield f"every byte the same in {same}; {sum(twice)} units in all were begun twice, at most {max(twice)} a round"
