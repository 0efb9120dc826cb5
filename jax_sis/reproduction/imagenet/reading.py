"""Reads a finished search of the study: its images, its masks, and its classifier on them."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jax_sis import results
from jax_sis.core.scores import log_odds
from jax_sis.core.types import Params, PredictFn
from jax_sis.data.images import find_central_box, place_mask, read_framing
from jax_sis.results.schema import NOT_SEARCHED
from jax_sis.runs.setup import Job, make_job_again, read_inputs
from jax_sis.runs.sizes import default_batch_size
from jax_sis.runtime.progress import Progress

# Left, top, right and bottom of a part of an image, in pixels.
Box = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Searched:
  """The images of a run that could be searched, and what it found of them.

  Attributes:
    store: the run.
    indices: the numbers of the images.
    ids: their names.
    label: the true class, or NO_CLASS.
    predicted: the class of the whole image.
    target: the class that was searched for.
    confidence: in the target, of the whole image.
    status: whether there is a subset at the threshold, see `core.subsets.Status`.
    num_kept: its pixels, 0 where there is none.
  """

  store: results.Results
  indices: Int[np.ndarray, "N"]
  ids: list[str]
  label: Int[np.ndarray, "N"]
  predicted: Int[np.ndarray, "N"]
  target: Int[np.ndarray, "N"]
  confidence: Float[np.ndarray, "N"]
  status: Int[np.ndarray, "N"]
  num_kept: Int[np.ndarray, "N"]

  def __len__(self) -> int:
    return len(self.indices)

  @property
  def size(self) -> tuple[int, int]:
    """Height and width of what the classifier takes."""
    height, width, _ = self.store.spec["grid"]
    return height, width

  @property
  def num_pixels(self) -> int:
    return self.size[0] * self.size[1]

  def masks(self, *, threshold: float | None = None, fraction: float | None = None) -> Bool[np.ndarray, "N H W"]:
    """The kept pixels of each image; asked for as in `Results.masks`."""
    return self.store.masks(self.ids, threshold=threshold, fraction=fraction)[..., 0]

  def find(self, ids: Sequence[str]) -> Int[np.ndarray, "M"]:
    """The places of these images here."""
    place_of = {name: place for place, name in enumerate(self.ids)}
    return np.array([place_of[name] for name in ids], np.int64)


def read_searched(folder: pathlib.Path) -> Searched:
  """What a finished run found.

  Raises:
    ValueError: it could use none of its images.
  """
  store = results.open(folder)
  done = store.done_images()
  indices = done[store.read("sis_status", done) != NOT_SEARCHED]
  if not len(indices):
    raise ValueError(f"the run in {str(folder)!r} must have images that it could search, but it has none.")
  names = ("label", "predicted", "target", "full_confidence", "sis_status", "sis_num_kept")
  label, predicted, target, confidence, status, num_kept = store.read_many(names, indices).values()
  return Searched(
    store=store,
    indices=indices,
    ids=store.read_text("id", indices),
    label=label,
    predicted=predicted,
    target=target,
    confidence=confidence,
    status=status,
    num_kept=num_kept,
  )


def reopen(searched: Searched, checkpoint: pathlib.Path) -> tuple[Job, Float[np.ndarray, "N H W C"]]:
  """The classifier and the normalised images of a run, as they are at hand now; ValueError if they are others.

  The run's batch may be that of another machine, and is not kept.
  """
  job = make_job_again(searched.store, checkpoint=str(checkpoint), num_devices=None, is_computing=False)
  batch_size = default_batch_size(
    job.platform, job.classifier.input_shape, num_images=len(searched), num_devices=len(job.local_devices)
  )
  return dataclasses.replace(job, batch_size=batch_size), read_inputs(job, searched.store, searched.indices)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Said:
  """What a classifier says of images of which it is shown a part.

  Attributes:
    predicted: the class.
    confidence: in the class that was asked for.
  """

  predicted: Int[np.ndarray, "N"]
  confidence: Float[np.ndarray, "N"]


def ask(
  job: Job, inputs: Float[np.ndarray, "N H W C"], targets: Int[np.ndarray, "N"], shown: dict[str, np.ndarray]
) -> dict[str, Said]:
  """What the classifier of a run says of the images where only these pixels are shown, the others as in the search.

  Args:
    job: the run, opened again.
    inputs: its normalised images.
    targets: the class that is asked for.
    shown: by name, Boolean masks `[N, H, W]` of all images.
  """
  program = job.make_program(functools.partial(judge_masked, job.predict_fn, job.config.baseline))
  places = [slice(start, start + job.launch_size) for start in range(0, len(inputs), job.launch_size)]
  said = {}
  with Progress("parts of the images", total=len(shown) * len(inputs), unit="image") as progress:
    for name, masks in shown.items():
      launches = ((len(inputs[at]), (inputs[at], masks[at][..., None], targets[at])) for at in places)
      parts = []
      for count, part in program.run_all(launches):
        parts.append(part)
        progress.advance(count)
      predicted, confidence = (np.concatenate(values) for values in zip(*parts, strict=True))
      said[name] = Said(predicted=predicted, confidence=confidence)
  return said


def judge_masked(
  predict_fn: PredictFn,
  baseline: float,
  params: Params,
  inputs: Float[Array, "B H W C"],
  masks: Bool[Array, "B H W 1"],
  targets: Int[Array, "B"],
) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
  """The predicted class and the probability of the target of images that show nothing but what the masks keep."""
  logits = predict_fn(params, jnp.where(masks, inputs, jnp.float32(baseline)))
  return logits.argmax(-1).astype(jnp.int32), 1 / (1 + jnp.exp(-log_odds(logits, targets)))


def find_box(searched: Searched, whole: tuple[int, ...]) -> Box:
  """The part of an image of `whole` (height, width) that the classifier of a run took."""
  return find_central_box(whole, searched.size, read_framing(searched.store.spec["data"]))


def move_mask(
  mask: Bool[np.ndarray, "h w"], whole: tuple[int, ...], box: Box, other_size: tuple[int, int], other_box: Box
) -> Bool[np.ndarray, "H W"]:
  """A mask of one part of an image as one of another part of it, for a classifier that takes that; False outside."""
  # A part may reach beyond the image, where nothing is kept.
  kept = np.pad(place_mask(mask, whole, box), 1)
  left, top, right, bottom = other_box
  rows = top + (np.arange(other_size[0]) + 0.5) * (bottom - top) / other_size[0]
  columns = left + (np.arange(other_size[1]) + 0.5) * (right - left) / other_size[1]
  places = (np.floor(at).astype(int).clip(-1, length) + 1 for at, length in zip((rows, columns), whole, strict=True))
  return kept[np.ix_(*places)]


def to_lists(said: dict[str, Said]) -> dict[str, Any]:
  """In JSON types."""
  return {
    name: {"predicted": one.predicted.tolist(), "confidence": np.round(one.confidence.astype(float), 6).tolist()}
    for name, one in said.items()
  }
