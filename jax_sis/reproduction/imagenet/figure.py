"""The pictures of the study of photographs: maps of where the pixels lie, and what each part says by itself."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from jax_sis.display.style import COLOURS, draw_interval, finish, name_lines, styled
from jax_sis.report.figures import start
from jax_sis.reproduction.imagenet import regions
from jax_sis.reproduction.imagenet.asking import PARTS
from jax_sis.reproduction.imagenet.outcome import CONFIDENT, Outcome
from jax_sis.reproduction.imagenet.setting import FRACTION

PART_INCHES = 0.3
# The colours of a map reach from no use to this many times even use.
MOST_USE = 3.0


@styled
def draw_map(shares: Float[np.ndarray, "H W"], *, title: str) -> bytes:
  """A PNG of how often each pixel is among those needed most, relative to even use, with the border's edge."""
  figure, (axis,) = start(4.6)
  use = shares / FRACTION
  picture = axis.imshow(use, cmap="viridis", vmin=0, vmax=MOST_USE, interpolation="nearest")
  inside = np.argwhere(~regions.make_border((use.shape[0], use.shape[1])))
  top, left = inside[0] - 0.5
  bottom, right = inside[-1] + 0.5
  axis.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color="white", linewidth=0.9)
  axis.set_title(title)
  axis.set_xticks([0, use.shape[1] - 1])
  axis.set_yticks([0, use.shape[0] - 1])
  bar = figure.colorbar(picture, ax=axis, location="bottom", shrink=0.8, aspect=40, extend="max")
  bar.set_label("how often each pixel is kept, relative to even use")
  return finish(figure)


@styled
def draw_parts(outcomes: Sequence[Outcome]) -> bytes:
  """A PNG with a row for each part of the confident images: how often it keeps the class, by classifier."""
  figure, (axis,) = start(1.1 + PART_INCHES * len(PARTS))
  for number, outcome in enumerate(outcomes):
    colour = COLOURS[number % len(COLOURS)]
    offset = 0.3 * (number - (len(outcomes) - 1) / 2)
    kept = {part.what: part.kept for part in outcome.parts if part.images == CONFIDENT}
    for place, what in enumerate(PARTS):
      if what in kept:
        draw_interval(axis, place + offset, kept[what].percent.numbers, colour=colour)
    axis.plot([], [], "o", color=colour, label=outcome.label)
  name_lines(axis, list(PARTS.values()))
  axis.set_xlim(0, 100)
  axis.set_xlabel("keeps the class of the whole image, %")
  figure.legend(loc="outside upper center", ncols=2)
  return finish(figure)


def draw_outcomes(
  outcomes: Sequence[Outcome], maps: Mapping[str, Mapping[str, Float[np.ndarray, "H W"]]]
) -> dict[str, bytes]:
  """The PNGs by the names of their files; `maps` are by classifier, see `outcome.read_maps`."""
  pictures = {
    map_name(label, number): draw_map(shares, title=f"{label}\n{title}")
    for label, of_classifier in maps.items()
    for number, (title, shares) in enumerate(of_classifier.items())
  }
  if any(outcome.parts for outcome in outcomes):
    pictures["parts.png"] = draw_parts([outcome for outcome in outcomes if outcome.parts])
  return pictures


def map_name(label: str, number: int) -> str:
  return f"{label}-map-{number}.png"
