"""The pictures of `jax-sis ranking`: the gap of each class, and the images at the ends."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, UInt8

from jax_sis.display import pixels
from jax_sis.display.beside import Cell, draw_lines
from jax_sis.display.style import COLOURS, draw_interval, finish, name_class, name_lines, start_figure, styled
from jax_sis.studies.ranking.summaries import ClassRanking, DataRanking

# Images of each end in a picture.
NUM_SHOWN = 3
OF_A_REGION = (
  "Whole images, darker where the region is not. Below each name, the label's log-odds on the region alone, and the "
  "class of the whole image."
)
OF_A_COMPONENT = (
  "Below each name, how much the image holds of the component, in units of the logit, and the class that it is called."
)


@styled
def draw_gaps(classes: Sequence[ClassRanking], data: Sequence[DataRanking], *, title: str, ranked_by: str) -> bytes:
  """Draws the gap of each of these classes and their mean, of every data set beside each other."""
  names = [*(one.name for one in classes), "mean of all classes"]
  figure, ((axis,),) = start_figure(1, 1, size=(7, 0.32 * len(names) * max(len(data), 1.5) / 1.5 + 1.4))
  for number, one in enumerate(data):
    by_name = {ranked.name: ranked.gap for ranked in one.classes}
    shift = 0.6 * ((number + 0.5) / len(data) - 0.5)
    for line, gap in enumerate([*(by_name.get(name) for name in names[:-1]), one.gap]):
      if gap is not None:
        draw_interval(axis, line + shift, gap.percent.numbers, colour=COLOURS[number % len(COLOURS)])
    axis.plot([], [], "o", color=COLOURS[number % len(COLOURS)], label=one.name)
  name_lines(axis, [name_class(name) for name in names])
  axis.axvline(0, color="#888888", linewidth=0.8)
  axis.set_xlabel(
    f"accuracy where {ranked_by} says most of the class minus where it says least, points, 95 % intervals"
  )
  figure.suptitle(title, x=0.01, ha="left")
  if len(data) > 1:
    figure.legend(loc="outside lower left", ncols=len(data))
  return finish(figure)


def draw_ends(
  classes: Sequence[ClassRanking],
  shown: Mapping[str, tuple[UInt8[np.ndarray, "H W C"], str]],
  *,
  ranked_by: str,
  note: str,
) -> bytes:
  """Draws the first images of each end of these classes, a line a class.

  Args:
    classes: which.
    shown: the picture and the caption of each image, by id.
    ranked_by: what says most or least of a class.
    note: what is shown.
  """
  headings = [f"{end} {number + 1}" for end in ("most", "least") for number in range(NUM_SHOWN)]
  lines: list[Sequence[Cell] | str] = []
  for one in classes:
    lines.append(f"{one.name}: accuracy {one.highest:.0%} where {ranked_by} says most, {one.lowest:.0%} where least")
    cells = []
    for end in (one.most, one.least):
      some = [Cell(picture=pixels.to_rgb(shown[name][0]), caption=shown[name][1]) for name in end[:NUM_SHOWN]]
      cells += [*some, *[Cell(picture=None)] * (NUM_SHOWN - len(some))]
    lines.append(cells)
  return finish(draw_lines(headings, lines, note=note))


def darken_rest(image: UInt8[np.ndarray, "H W C"], region: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W C"]:
  """The image, half as bright where the region is not."""
  return np.where(region[..., None], image, image // 2).astype(np.uint8)
