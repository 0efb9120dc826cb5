"""What `jax-sis holds` found: printed, and as JSON, CSV and figures."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jax_sis.results.answer import describe_provenance, encode_csv, write_answer
from jax_sis.results.folder import Folder
from jax_sis.runtime.records import to_json
from jax_sis.statistics.estimates import DASH
from jax_sis.studies.holds import figure
from jax_sis.studies.holds.summaries import Held, OrderSummary, summarise

WIDTH = 120
# Of the sizes that are evaluated, those nearest to these shares of the features are columns of the table.
SHOWN = (1 / 8, 1 / 4, 3 / 8, 1 / 2)


def choose_shown(held: Held) -> list[int]:
  """The places of the sizes that are columns of the table."""
  nearest = [int(np.abs(np.asarray(held.sizes) - share * held.num_features).argmin()) for share in SHOWN]
  return list(dict.fromkeys(nearest))


def make_table(held: Held, summaries: Mapping[str, Mapping[str, OrderSummary]]) -> str:
  shown = choose_shown(held)
  line = f"{{:<26}} {'{:>13} ' * len(shown)}{{:>17}} {{:>9}} {{:>17}}"
  at_rate = f"{100 * held.rate:g}%"
  header = ("class kept, %, at pixels", *(held.sizes[place] for place in shown))
  lines = [line.format(*header, f"size for {at_rate}", "with one", "over the best")]
  for condition, orders in summaries.items():
    lines += ["", held.name_condition(condition)]
    for summary in orders.values():
      lines.append(
        line.format(
          summary.title,
          *(f"{summary.kept[place].percent:.0f}" for place in shown),
          f"{summary.size:.0f}",
          summary.with_smaller.count,
          DASH if summary.is_best else f"{summary.difference:+.0f}",
        )
      )
  return "\n".join(lines)


def describe_reading(held: Held, summaries: Mapping[str, Mapping[str, OrderSummary]]) -> str:
  """The best order under each condition, and whether the second needs more."""
  sentences = []
  for condition, orders in summaries.items():
    best, *others = sorted(orders.values(), key=lambda one: (not one.is_best, one.size.value or 0))
    sentence = (
      f"{held.name_condition(condition).capitalize()} the best order is '{best.title}', with {best.size:.0f} pixels "
      f"for {100 * held.rate:g} % in the mean"
    )
    if others:
      sentence += f"; '{others[0].title}' needs {others[0].difference:.0f} more"
    sentences.append(f"{sentence}.")
  return " ".join(sentences)


def describe_table(held: Held) -> str:
  return (
    f"In brackets 95 % bootstrap intervals over {len(held.ids)} images, {held.num_draws} draws each, the same for all "
    "orders and sizes. Size: the mean of the smallest evaluated size at which an image keeps its class on "
    f"{100 * held.rate:g} % of the draws, where none does all {held.num_features}; the curves are not monotone, so "
    "that a larger one may not. With one: images in which a size below all does. Over the best: the paired difference "
    "to the order with the smallest mean size, chosen among these."
  )


def write_report(
  folder: Folder, held: Held, *, spec: Mapping[str, Any], notes: Sequence[str], subject: str, command: str
) -> dict[str, Any]:
  """Prints what was found and writes it; returns what `holds.json` holds.

  Args:
    folder: gets the files.
    held: what was counted.
    spec: what fixed the results.
    notes: what was left out.
    subject: the classifier and the data.
    command: the command line.
  """
  summaries = summarise(held, seed=spec["seed"])
  reading = describe_reading(held, summaries)
  print(f"\n{make_table(held, summaries)}\n")
  print("\n".join(textwrap.fill(text, WIDTH) for text in (reading, describe_table(held))))
  answer = {
    "format": spec["format"],
    "provenance": describe_provenance(folder, spec, command=command, seed=spec["seed"]),
    "grid": spec["grid"],
    "sizes": held.sizes,
    "num_features": held.num_features,
    "num_draws": held.num_draws,
    "num_added": held.num_added,
    "rate": held.rate,
    "num_images": len(held.ids),
    "pool": spec["pool"],
    "images": held.ids,
    "conditions": {
      condition: {
        "title": held.name_condition(condition),
        "orders": {
          order: {**to_json(summary), "per_image": held.kept[order, condition].tolist()}
          for order, summary in orders.items()
        },
      }
      for condition, orders in summaries.items()
    },
    "reading": reading,
    "notes": [describe_table(held), *notes],
  }
  title = f"Where the first pixels of an order keep the class: {subject}"
  files = {"holds.csv": encode_csv(make_rows(held)), "holds.png": figure.draw_holds(held, summaries, title=title)}
  if "added" in summaries:
    files["stability.png"] = figure.draw_stability(held, summaries["added"], title=f"Stability: {subject}")
  return write_answer(folder, "holds.json", answer, files)


def make_rows(held: Held) -> Iterable[dict[str, Any]]:
  for (order, condition), kept in held.kept.items():
    smallest = held.smallest(order, condition)
    for place, name in enumerate(held.ids):
      yield {
        "condition": condition,
        "order": held.orders[order].title,
        "image": name,
        "size": int(smallest[place]),
        **{f"kept_{size}": float(share) for size, share in zip(held.sizes, kept[place], strict=True)},
      }
