"""The picture of `jax-sis clusters`: of each cluster where its subsets lie, and its nearest images."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from jax_sis.display.beside import draw_lines, paint_heat
from jax_sis.display.photographs import Cell
from jax_sis.display.pixels import draw_borders, to_rgb
from jax_sis.display.style import finish
from jax_sis.studies.clusters.opened import Opened
from jax_sis.studies.clusters.summaries import Effect, Ranked

MAX_CLUSTERS = 24
NUM_SHOWN = 6
NOTE = (
  "Clusters of sufficient subsets, first those whose region turns most images of other classes. Left: how often each "
  "feature is kept. Then the images whose subsets are most like the mean; the lines are the region's edges."
)


def draw_clusters(ranked: Sequence[Ranked], opened: Opened) -> bytes:
  """Draws a line a cluster, of the first ones."""
  lines = [draw_line(one, opened) for one in ranked[:MAX_CLUSTERS]]
  more = f" {len(ranked) - MAX_CLUSTERS} more are not shown." if len(ranked) > MAX_CLUSTERS else ""
  headings = ["where the subsets lie", *("nearest images" if place == 0 else "" for place in range(NUM_SHOWN))]
  return finish(draw_lines(headings, lines, note=f"{NOTE}{more}"))


def draw_line(one: Ranked, opened: Opened) -> list[Cell]:
  cluster = one.cluster
  height, width = opened.job.classifier.input_shape[:2]
  mean_map = enlarge(np.array(cluster.mean_map), (height, width))
  region = np.zeros(mean_map.size // (height // len(cluster.mean_map)) // (width // len(cluster.mean_map[0])), bool)
  region[list(cluster.region)] = True
  edges = enlarge(region.reshape(len(cluster.mean_map), -1), (height, width))
  indices = opened.store.find_images(cluster.nearest[:NUM_SHOWN])
  pixels = show_pixels(opened, indices)
  caption = "\n".join(
    [
      f"{one.name} {one.number + 1}{' *' if one.is_beyond_chance else ''}",
      f"{cluster.num_images} images ({cluster.share:.0%})",
      f"masked: {describe_effect(cluster.masked)}",
      f"pasted: {describe_effect(cluster.pasted)}",
    ]
  )
  cells = [Cell(picture=paint_heat(mean_map[..., None]), caption=caption)]
  cells += [Cell(picture=draw_borders(image, edges.astype(np.int32)), caption="") for image in pixels]
  return cells + [Cell(picture=None)] * (1 + NUM_SHOWN - len(cells))


def describe_effect(effect: Effect | None) -> str:
  if effect is None or effect.turned.value is None or effect.elsewhere.value is None:
    return "not asked"
  return f"{effect.turned.value:.0%} turn, elsewhere {effect.elsewhere.value:.0%}"


def enlarge(plane: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
  """A number a feature as a number a pixel."""
  return plane.repeat(shape[0] // plane.shape[0], 0).repeat(shape[1] // plane.shape[1], 1)


def show_pixels(opened: Opened, indices: np.ndarray) -> UInt8[np.ndarray, "N H W 3"]:
  """The images with these numbers in the run, as people see them."""
  places = np.searchsorted(opened.indices, indices)
  pixels = opened.job.classifier.normalisation.invert(opened.read_images(places))
  return to_rgb(pixels.round().clip(0, 255).astype(np.uint8))
