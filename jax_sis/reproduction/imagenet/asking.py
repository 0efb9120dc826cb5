"""Asks classifiers of parts of photographs: the pixels needed most, the border, the centre, pixels at random."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from jax_sis.core.subsets import count_of_fraction
from jax_sis.reproduction.imagenet import reading, regions
from jax_sis.reproduction.imagenet.reading import Searched
from jax_sis.reproduction.imagenet.setting import FRACTION, THRESHOLD
from jax_sis.runs.setup import Job

PARTS_FORMAT, TRANSFER_FORMAT = "jax_sis.parts/1", "jax_sis.shown_to/1"
PARTS_FILE, TRANSFER_FILE = "parts.json", "shown_to.json"
# What is shown of each image, in the words of the tables.
PARTS = {
  "needed": "the 10 % needed most",
  "needed_border": "of these, those in the border",
  "needed_inside": "of these, those not in the border",
  "border": "the border alone",
  "centre": "a centre of the border's area alone",
  "inside": "all but the border",
  "pixels": "10 % at random",
  "squares": "10 % in squares at random",
  "many_pixels": "the border's area at random",
  "nothing": "nothing",
}
# The parts that hold as many pixels at random as these do.
AS_MANY = {"needed": "pixels", "squares": "pixels", "border": "many_pixels", "centre": "many_pixels"}
# The 10 % that a class at random needs most.
RANDOM_CLASS = "random_class"
SHOWN_TO = {
  "own": "the 10 % that it needs itself",
  "needed": "the 10 % that the other one needs",
  "moved": "these moved elsewhere",
  "subset": f"the other one's sufficient subset at {THRESHOLD:g}",
  "pixels": "10 % at random",
}


def ask_parts(orders: pathlib.Path, random_class: pathlib.Path, checkpoint: pathlib.Path) -> dict[str, Any]:
  """What a classifier says of parts of its images, in JSON types.

  Args:
    orders: its run for the predicted classes.
    random_class: its run for classes at random, of some of these images.
    checkpoint: the classifier.

  Raises:
    ValueError: the images or the classifier at hand are not those of the runs.
  """
  searched, other = reading.read_searched(orders), reading.read_searched(random_class)
  job, inputs = reading.reopen(searched, checkpoint)
  said = reading.ask(job, inputs, searched.predicted, make_parts(searched))
  places = searched.find(other.ids)
  shown = {RANDOM_CLASS: other.masks(fraction=FRACTION)}
  return {
    "format": PARTS_FORMAT,
    "ids": searched.ids,
    "said": reading.to_lists(said),
    "ids_of_random_class": other.ids,
    "said_of_random_class": reading.to_lists(reading.ask(job, inputs[places], other.target, shown)),
  }


def make_parts(searched: Searched) -> dict[str, Bool[np.ndarray, "N H W"]]:
  """The masks of PARTS."""
  size, num_images = searched.size, len(searched)
  num_pixels = count_of_fraction(FRACTION, searched.num_pixels)
  needed = searched.masks(fraction=FRACTION)
  border, centre = regions.make_border(size), regions.make_centre(size)
  whole = {"border": border, "centre": centre, "inside": ~border, "nothing": np.zeros(size, bool)}
  drawn = {
    "pixels": (regions.draw_pixels, num_pixels),
    "squares": (regions.draw_squares, num_pixels),
    "many_pixels": (regions.draw_pixels, int(border.sum())),
  }
  found = {
    "needed": needed,
    "needed_border": needed & border,
    "needed_inside": needed & ~border,
    **{
      what: np.stack([draw_fn(size, count, name=name) for name in searched.ids])
      for what, (draw_fn, count) in drawn.items()
    },
    **{name: np.broadcast_to(mask, (num_images, *size)) for name, mask in whole.items()},
  }
  return {name: found[name] for name in PARTS}


def ask_of_others(chooser: pathlib.Path, own: pathlib.Path, checkpoint: pathlib.Path) -> dict[str, Any]:
  """What a classifier says of the pixels that another one needs, on the images that both could search, in JSON types.

  Args:
    chooser: the other one's run.
    own: its own run.
    checkpoint: the classifier.

  Raises:
    ValueError: they have no image in common, or the images or the classifier at hand are not those of the runs.
  """
  searched, other = reading.read_searched(own), reading.read_searched(chooser)
  job, inputs = reading.reopen(searched, checkpoint)
  common = sorted(set(searched.ids) & set(other.ids))
  if not common:
    raise ValueError("the runs of both classifiers must be of the same images, but they have none in common.")
  places = searched.find(common)
  needed, subset = move_masks(searched, other, job, common)
  num_pixels = count_of_fraction(FRACTION, searched.num_pixels)
  shown = {
    "own": searched.masks(fraction=FRACTION)[places],
    "needed": needed,
    "moved": np.stack([roll(mask, name=name) for mask, name in zip(needed, common, strict=True)]),
    "subset": subset,
    "pixels": np.stack([regions.draw_pixels(searched.size, num_pixels, name=name) for name in common]),
  }
  overlap = (needed & shown["own"]).sum((1, 2)) / np.maximum(needed.sum((1, 2)), 1)
  return {
    "format": TRANSFER_FORMAT,
    "ids": common,
    "overlap": np.round(overlap, 6).tolist(),
    "said": reading.to_lists(reading.ask(job, inputs[places], searched.predicted[places], shown)),
  }


def move_masks(
  searched: Searched, other: Searched, job: Job, ids: Sequence[str]
) -> tuple[Bool[np.ndarray, "M H W"], Bool[np.ndarray, "M H W"]]:
  """Another run's 10 % and its subsets, of these images, as this run's classifier, opened as `job`, sees them."""
  indices, places = searched.indices[searched.find(ids)], other.find(ids)
  wholes = [job.source.read_whole(int(index)).shape[:2] for index in indices]
  needed, subset = (
    np.stack(
      [
        reading.move_mask(mask, whole, reading.find_box(other, whole), searched.size, reading.find_box(searched, whole))
        for mask, whole in zip(masks[places], wholes, strict=True)
      ]
    )
    for masks in (other.masks(fraction=FRACTION), other.masks(threshold=THRESHOLD))
  )
  return needed, subset


def roll(mask: Bool[np.ndarray, "H W"], *, name: str) -> Bool[np.ndarray, "H W"]:
  """The mask moved by a random number of rows and columns, not none of both, around the borders."""
  offset = divmod(int(regions.start_draw(name, "moved").integers(1, mask.size)), mask.shape[1])
  return np.roll(mask, offset, (0, 1))
