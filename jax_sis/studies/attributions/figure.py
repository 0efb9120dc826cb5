"""The picture of `jax-sis attributions`: pixels that suffice and areas by method, with intervals."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from jax_sis.display.style import COLOURS, INK, draw_interval, finish, name_lines, set_ticks, start_figure, styled
from jax_sis.statistics.estimates import Estimate

KIND_COLOURS = {"search": COLOURS[0], "attribution": COLOURS[1], "chance": "#777777"}
KIND_TITLES = {"search": "searches", "attribution": "attributions", "chance": "chance"}


@styled
def draw_attributions(summaries: Mapping[str, Any], *, title: str, threshold: float, num_images: int) -> bytes:
  """Draws size at the threshold, insertion and deletion area: a line a method, a panel a number."""
  lines = list(summaries.values())
  figure, axes = start_figure(1, 3, size=(11, 1.75 + 0.3 * len(lines)), width_ratios=[1.35, 1, 1])
  left, middle, right = axes[0]
  draw_means(left, [(line.pixels, line.kind) for line in lines], digits=1)
  for place, line in enumerate(lines):
    if line.median_pixels:
      left.plot(line.median_pixels, place, "|", color=INK, markersize=11, markeredgewidth=1.6)
  left.set_xscale("log")
  set_ticks(left.xaxis, powers=range(6), factor=1)
  left.set_title(f"pixels that suffice for {threshold:g}")
  left.set_xlabel("pixels (fewer: less evidence needed)")
  for axis, name, better in (
    (middle, "insertion", "larger: convinced sooner"),
    (right, "deletion", "smaller: lost sooner"),
  ):
    draw_means(axis, [(getattr(line, f"{name}_area"), line.kind) for line in lines], digits=2)
    axis.set_title(f"{name} area")
    axis.set_xlabel(f"mean confidence ({better})")
    axis.set_xlim(left=0)
  for axis in axes[0]:
    name_lines(axis, [line.title if axis is left else "" for line in lines])
  kinds = dict.fromkeys(line.kind for line in lines)
  handles = [Line2D([], [], marker="o", color=KIND_COLOURS[kind], label=KIND_TITLES[kind]) for kind in kinds]
  handles.append(
    Line2D([], [], marker="|", markersize=10, markeredgewidth=1.6, linestyle="", color=INK, label="median")
  )
  figure.suptitle(title, x=0.01, ha="left")
  figure.legend(handles=handles, loc="outside lower left", ncols=len(handles))
  note = f"Means over {num_images} images, with 95 % bootstrap intervals."
  figure.text(0.99, 0.012, note, fontsize=9, ha="right", va="bottom")
  return finish(figure)


def draw_means(axis: Axes, means: list[tuple[Estimate | None, str]], *, digits: int) -> None:
  for place, (mean, kind) in enumerate(means):
    if mean is None or mean.value is None:
      axis.text(0.02, place, "no order", transform=axis.get_yaxis_transform(), fontsize=8, va="center")
      continue
    draw_interval(axis, place, mean.numbers, colour=KIND_COLOURS[kind])
    text = f"{mean.value:.{digits}f}"
    axis.annotate(text, (mean.value, place), (0, 5), textcoords="offset points", fontsize=8, ha="center")
