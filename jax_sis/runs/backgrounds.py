"""The picture of a run under a completion: robust subsets on backgrounds that no search saw, and the class on each."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from jax_sis import results
from jax_sis.core.drawing import Purpose, draw_fills, repeat_images
from jax_sis.core.scores import predict_logits
from jax_sis.core.subsets import Status
from jax_sis.data.records import Record
from jax_sis.display import beside, pixels
from jax_sis.display.beside import Cell
from jax_sis.display.style import finish
from jax_sis.results.schema import OWN_MASKS
from jax_sis.runs.setup import Job
from jax_sis.runs.table import format_confidence

BACKGROUNDS_FILE = "backgrounds.png"
NUM_BACKGROUNDS = 6
MOST_IMAGES = 8
NOTE = (
  "Each robust subset on six draws that neither the search nor the choice of its size saw, and the class that the "
  "classifier then predicts, with its probability."
)


def draw_backgrounds(job: Job, store: results.Results, *, num_images: int) -> bytes:
  """The first images with a robust subset as a PNG file, a line an image."""
  indices = np.flatnonzero(store.read("robust_status") == Status.OK)[: min(num_images, MOST_IMAGES)]
  lines = [make_line(job, store, index) for index in indices.tolist()]
  headings = ["image", *[f"draw {number + 1}" for number in range(NUM_BACKGROUNDS)]]
  figure = beside.draw_lines(headings, lines or ["No image has a robust subset."], note=NOTE)
  return finish(figure)


def make_line(job: Job, store: results.Results, index: int) -> list[Cell]:
  """An image, and its subset on draws."""
  record = job.source[index]
  target = int(store.read("target", np.array([index]))[0])
  kept = store.read(OWN_MASKS["robust"], np.array([index]))
  shown, logits = show_on_draws(job, record, target, kept)
  predicted, confidence = logits.argmax(-1), jax.nn.softmax(logits).max(-1)
  caption = f"{record['id']}\n{job.name_class(target)}\n{int(kept.sum())} pixels"
  cells = [Cell(picture=pixels.to_rgb(record["image"]), caption=caption)]
  for number, picture in enumerate(shown):
    words = f"{job.name_class(int(predicted[number]))}\n{format_confidence(float(confidence[number]))}"
    cells.append(Cell(picture=pixels.to_rgb(picture), caption=words))
  return cells


def show_on_draws(
  job: Job, record: Record, target: int, kept: Bool[np.ndarray, "1 F"]
) -> tuple[UInt8[np.ndarray, "N H W C"], Float[Array, "N K"]]:
  """A subset with what N draws show elsewhere, and the logits of that."""
  batch = {name: np.asarray([record[name]]) for name in ("index", "image", "label", "id")}
  images, _, *beside = job.launch_arrays(batch)
  inputs = jnp.asarray(job.normalise(images))
  params = job.params if job.pools is None else (job.params, jax.tree.map(jnp.asarray, job.pools.arrays))
  targets = jnp.full(1, target, jnp.int32)
  problem = job.search.with_unseen(params, job.search.make_problem(params, inputs, targets, *map(jnp.asarray, beside)))
  assert problem.distribution is not None
  assert problem.keys is not None
  masks, numbers = jnp.asarray(kept, inputs.dtype), jnp.arange(NUM_BACKGROUNDS, dtype=jnp.int32)
  fills = draw_fills(
    problem.distribution, problem.keys, inputs, masks, numbers, features=problem.features, purpose=Purpose.MEASURE
  )
  copies, kept_in_each = (repeat_images(array, NUM_BACKGROUNDS) for array in (inputs, masks))
  shown = problem.features.mix(copies, kept_in_each, fills[0])
  with jax.default_matmul_precision(job.precision):
    logits = predict_logits(problem.predict_fn, job.params, shown)
  whole = job.classifier.normalisation.invert(np.asarray(shown))
  return np.clip(np.rint(whole), 0, 255).astype(np.uint8), logits
