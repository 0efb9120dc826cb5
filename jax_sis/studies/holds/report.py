"""What `jax-sis holds` found: summed up, printed, and as JSON, CSV and figures."""

import dataclasses
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from jax_sis.results.answer import describe_provenance, encode_csv, write_answer
from jax_sis.results.folder import Folder
from jax_sis.runtime.records import to_json
from jax_sis.statistics.estimates import DASH, Estimate, difference_of, mean_of, share_of
from jax_sis.studies.holds import figure
from jax_sis.studies.holds.config import CONDITIONS

WIDTH = 120
# Of the sizes that are evaluated, those nearest to these shares of the features are columns of the table.
SHOWN = (1 / 8, 1 / 4, 3 / 8, 1 / 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
  """What an order is called, and whether a search or an attribution made it."""

  title: str
  kind: Literal["search", "attribution"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Held:
  """What was counted.

  Attributes:
    orders: by key.
    conditions: keys of CONDITIONS.
    ids: of the images.
    sizes: how many pixels are kept, without all of them.
    num_features: all of them.
    num_draws: a condition.
    num_added: true pixels, where the condition is `added`.
    rate: the share of the draws on which the class must be kept.
    kept: by order and condition, the share of the draws on which it is, of each image at each size.
  """

  orders: Mapping[str, Order]
  conditions: tuple[str, ...]
  ids: list[str]
  sizes: tuple[int, ...]
  num_features: int
  num_draws: int
  num_added: int
  rate: float
  kept: Mapping[tuple[str, str], Float[np.ndarray, "N S"]]

  def name_condition(self, condition: str) -> str:
    """As tables and figures call it."""
    return CONDITIONS[condition].format(self.num_added)

  def smallest(self, order: str, condition: str) -> Int[np.ndarray, "N"]:
    """The smallest size at which each image's class is kept at the rate; all features where no evaluated one does."""
    holds = self.kept[order, condition] >= self.rate
    first = np.asarray(self.sizes)[holds.argmax(1)]
    return np.where(holds.any(1), first, self.num_features)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OrderSummary:
  """One order under one condition, over all images.

  Attributes:
    title: what tables call the order.
    kind: a search or an attribution.
    kept: for each size, the mean share of the draws on which the class is kept.
    size: the mean of the smallest size at which it is kept at the rate; all features count where no size does.
    with_smaller: the share of the images in which a size below all does.
    difference: size minus that of the best order, on the same images.
    is_best: no order's size is smaller.
  """

  title: str
  kind: Literal["search", "attribution"]
  kept: tuple[Estimate, ...]
  size: Estimate
  with_smaller: Estimate
  difference: Estimate
  is_best: bool


def summarise(held: Held, *, seed: int) -> dict[str, dict[str, OrderSummary]]:
  """By condition and order."""
  return {condition: summarise_condition(held, condition, seed=seed) for condition in held.conditions}


def summarise_condition(held: Held, condition: str, *, seed: int) -> dict[str, OrderSummary]:
  sizes = {order: held.smallest(order, condition) for order in held.orders}
  best = min(sizes, key=lambda order: sizes[order].mean())
  return {
    order: OrderSummary(
      title=named.title,
      kind=named.kind,
      kept=tuple(mean_of(values, seed=seed) for values in held.kept[order, condition].T),
      size=mean_of(sizes[order], seed=seed),
      with_smaller=share_of(sizes[order] < held.num_features),
      difference=difference_of(sizes[order], sizes[best], seed=seed),
      is_best=order == best,
    )
    for order, named in held.orders.items()
  }


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
