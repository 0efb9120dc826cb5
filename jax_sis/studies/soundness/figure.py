"""The picture of `jax-sis soundness`: how complete each order is, and how sound."""

from collections.abc import Mapping

from jax_sis.display.style import COLOURS, finish, start_figure, styled
from jax_sis.studies.soundness.summaries import OrderSummary

COLUMNS = {
  "completeness": "completeness of the predicted class",
  "soundness": "soundness of the other classes",
  "worst": "soundness of the worst one",
}


@styled
def draw_soundness(summaries: Mapping[str, OrderSummary], *, title: str) -> bytes:
  """Draws the three numbers of each order with their intervals, an order a line."""
  figure, ((axis,),) = start_figure(1, 1, size=(8, 0.62 * len(summaries) + 1.9))
  for number, (name, label) in enumerate(COLUMNS.items()):
    for line, summary in enumerate(summaries.values()):
      value, low, high = getattr(summary, name).numbers
      height = line + 0.2 * (number - 1)
      axis.plot([low, high], [height, height], color=COLOURS[number], linewidth=1.4)
      axis.plot(value, height, "o", color=COLOURS[number], markersize=5, label=label if line == 0 else None)
  axis.set_yticks(range(len(summaries)), [summary.title for summary in summaries.values()])
  axis.invert_yaxis()
  axis.set_xlim(0, 1.02)
  axis.set_xlabel("of 1, with 95 % intervals")
  axis.grid(axis="x")
  figure.suptitle(title, x=0.01, ha="left")
  figure.legend(loc="outside lower left", ncols=len(COLUMNS))
  return finish(figure)
