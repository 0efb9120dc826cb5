"""The pictures of `jax-sis holds`: the share of draws that keep the class against the number of pixels."""

import itertools
from collections.abc import Mapping

from matplotlib.axes import Axes

from jax_sis.display.style import COLOURS, DASHED, INK, LINE_STYLES, finish, set_ticks, start_figure, styled
from jax_sis.studies.holds.summaries import Held, OrderSummary

# Of searches and of attributions; the former are drawn stronger.
WIDTHS = {"search": 2.2, "attribution": 1.3}


@styled
def draw_holds(held: Held, summaries: Mapping[str, Mapping[str, OrderSummary]], *, title: str) -> bytes:
  """Draws a panel for each condition, a line for each order, with intervals."""
  figure, axes = start_figure(1, len(summaries), size=(3.4 * len(summaries) + 0.6, 4.4), sharey=True)
  for axis, (condition, orders) in zip(axes[0], summaries.items(), strict=True):
    draw_orders(axis, held, orders)
    axis.set_title(held.name_condition(condition))
    axis.set_xlabel("pixels kept")
    axis.set_xlim(0, held.num_features)
  axes[0, 0].set_ylabel("draws that keep the class, %")
  figure.suptitle(title, x=0.01, ha="left")
  handles, names = axes[0, 0].get_legend_handles_labels()
  figure.legend(handles, names, loc="outside lower left", ncols=min(len(names), 2 * len(summaries)))
  return finish(figure)


@styled
def draw_stability(held: Held, orders: Mapping[str, OrderSummary], *, title: str) -> bytes:
  """Draws size against the class that is kept after true pixels came in, small sizes wide."""
  figure, ((axis,),) = start_figure(1, 1, size=(7.2, 4.8))
  draw_orders(axis, held, orders)
  axis.set_xscale("log")
  set_ticks(axis.xaxis, powers=range(6), factor=1)
  axis.set_xlabel(f"pixels kept, before {held.num_added} other true pixels come in")
  axis.set_ylabel("draws that keep the class, %")
  figure.suptitle(title, x=0.01, ha="left")
  figure.legend(loc="outside lower left", ncols=3)
  return finish(figure)


def draw_orders(axis: Axes, held: Held, orders: Mapping[str, OrderSummary]) -> None:
  """The lines of one condition, and a dashed one at the rate."""
  looks = itertools.product(LINE_STYLES, COLOURS)
  for summary, (style, colour) in zip(orders.values(), looks, strict=False):
    shares, lows, highs = zip(*(share.percent.numbers for share in summary.kept), strict=True)
    axis.fill_between(held.sizes, lows, highs, color=colour, alpha=0.12, linewidth=0)
    axis.plot(held.sizes, shares, style, color=colour, linewidth=WIDTHS[summary.kind], label=summary.title)
  axis.axhline(100 * held.rate, color=INK, linewidth=0.8, linestyle=DASHED)
  axis.set_ylim(0, 102)
  axis.grid(axis="y")
