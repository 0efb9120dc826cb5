"""What was counted of each order under each condition, and what that comes to over all images."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from jax_sis.statistics.estimates import Estimate, difference_of, mean_of, share_of
from jax_sis.studies.holds.config import CONDITIONS


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
