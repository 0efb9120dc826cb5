"""The picture of `jax-sis attributions`: pixels that suffice and areas by method, with intervals."""

from collections.abc import Mapping
from typing import Any, BinaryIO

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullFormatter, StrMethodFormatter

from jax_sis.display.style import COLOURS, INK, save, start_figure
from jax_sis.statistics.estimates import Estimate

KIND_COLOURS = {"search": COLOURS[0], "attribution": COLOURS[1], "chance": "#777777"}
KIND_TITLES = {"search": "searches", "attribution": "attributions", "chance": "chance"}
TICKS = [number * 10**power for power in range(6) for number in (1, 2, 5)]


def save_attributions(
  file: BinaryIO, summaries: Mapping[str, Any], *, title: str, threshold: float, num_images: int
) -> None:
  """Draws size at the threshold, insertion and deletion area: a line a method, a panel a number.

  Args:
    file: gets the PNG.
    summaries: by method a MethodSummary.
    title: what was compared on what.
    threshold: the confidence that is reached.
    num_images: how many images there are.
  """
  lines = list(summaries.values())
  figure, axes = start_figure(1, 3, size=(11, 1.75 + 0.3 * len(lines)), width_ratios=[1.35, 1, 1])
  left, middle, right = axes[0]
  draw_means(left, [(line.pixels, line.kind) for line in lines], digits=1)
  for place, line in enumerate(lines):
    if line.median_pixels:
      left.plot(line.median_pixels, place, "|", color=INK, markersize=11, markeredgewidth=1.6)
  left.set_xscale("log")
  left.xaxis.set_major_locator(FixedLocator(TICKS))
  left.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
  left.xaxis.set_minor_formatter(NullFormatter())
  left.set_yticks(range(len(lines)), [line.title for line in lines], fontsize=9)
  left.set_title(f"pixels that suffice for {threshold:g}", fontsize=10, loc="left", color=INK)
  left.set_xlabel("pixels (fewer: less evidence needed)", fontsize=9)
  for axis, name, better in (
    (middle, "insertion", "larger: convinced sooner"),
    (right, "deletion", "smaller: lost sooner"),
  ):
    draw_means(axis, [(getattr(line, f"{name}_area"), line.kind) for line in lines], digits=2)
    axis.set_title(f"{name} area", fontsize=10, loc="left", color=INK)
    axis.set_xlabel(f"mean confidence ({better})", fontsize=9)
    axis.set_yticks(range(len(lines)), [])
    axis.set_xlim(left=0)
  for axis in axes[0]:
    axis.set_ylim(len(lines) - 0.4, -0.6)
    axis.tick_params(labelsize=9, colors=INK)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
  kinds = dict.fromkeys(line.kind for line in lines)
  handles = [Line2D([], [], marker="o", color=KIND_COLOURS[kind], label=KIND_TITLES[kind]) for kind in kinds]
  handles.append(
    Line2D([], [], marker="|", markersize=10, markeredgewidth=1.6, linestyle="", color=INK, label="median")
  )
  figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
  figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), fontsize=9, frameon=False)
  note = f"Means over {num_images} images, with 95 % bootstrap intervals."
  figure.text(0.99, 0.012, note, fontsize=9, color=INK, ha="right", va="bottom")
  save(figure, file)


def draw_means(axis: Axes, means: list[tuple[Estimate | None, str]], *, digits: int) -> None:
  """A mark and its interval a line, with the number beside it."""
  for place, (mean, kind) in enumerate(means):
    if mean is None or mean.value is None:
      axis.text(0.02, place, "no order", transform=axis.get_yaxis_transform(), fontsize=8, color=INK, va="center")
      continue
    if mean.low is not None and mean.high is not None:
      axis.hlines(place, mean.low, mean.high, color=KIND_COLOURS[kind], linewidth=2.4, alpha=0.5)
    axis.plot(mean.value, place, "o", color=KIND_COLOURS[kind], markersize=5.5)
    axis.annotate(
      f"{mean.value:.{digits}f}",
      (mean.value, place),
      (0, 5),
      textcoords="offset points",
      fontsize=8,
      color=INK,
      ha="center",
    )
