"""The picture of a run: its first images, their subsets and orders."""

import io
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from jax_sis import results
from jax_sis.core import masking
from jax_sis.display import style
from jax_sis.job import Job
from jax_sis.summary import Row, describe_answer, describe_image, describe_subset, make_rows


def draw_gallery(job: Job, store: results.Results, *, num_images: int) -> bytes:
  """A PNG with a row for each of the first images of a finished run."""
  classifier = job.classifier
  indices = np.arange(min(num_images, store.num_images))
  fields = {name: store.read(name, indices) for name in store.fields}
  rows = make_rows(fields, classifier.class_names, num_features=job.num_features)
  kept = kept_features(job, fields)
  masked = classifier.normalisation.invert(np.full(classifier.input_shape[-1], job.config.baseline))
  panels = [
    make_panel(
      job,
      row,
      int(index),
      kept={answer: masks[index] for answer, masks in kept.items()},
      ranks=fields["rank"][index] if "rank" in fields else None,
    )
    for row, index in zip(rows, indices, strict=True)
  ]
  buffer = io.BytesIO()
  style.save_gallery(
    buffer,
    panels,
    headings=[describe_answer(answer, job.config.search) for answer in kept],
    with_order="rank" in fields,
    masked_colour=np.clip(masked, 0, 255),
  )
  return buffer.getvalue()


def kept_features(job: Job, fields: Mapping[str, np.ndarray]) -> dict[str, Bool[np.ndarray, "M F"]]:
  """The subsets of each kind whose pixels the run kept."""
  kept = {}
  threshold_mask = results.mask_name(threshold=job.config.threshold)
  if "rank" in fields:
    kept["sis"] = fields["rank"] < fields["sis_num_kept"][:, None]
  elif threshold_mask in fields:
    kept["sis"] = fields[threshold_mask]
  if results.SMALLEST_MASK in fields:
    kept["smallest"] = fields[results.SMALLEST_MASK]
  return kept


def make_panel(
  job: Job, row: Row, index: int, *, kept: Mapping[str, np.ndarray], ranks: np.ndarray | None
) -> style.GalleryPanel:
  """The row of one image."""
  shape = job.classifier.input_shape

  def expand(features: np.ndarray) -> np.ndarray:
    return np.asarray(masking.expand_mask(jnp.asarray(features[None]), job.search.grid, shape)[0])

  subsets = [
    style.SubsetPanel(
      kept=expand(features), title=describe_subset(row, answer), has_subset=row.answers[answer].status == "ok"
    )
    for answer, features in kept.items()
  ]
  is_ordered = "sis" in row.answers and row.answers["sis"].status not in ("non_finite", "not_searched")
  return style.GalleryPanel(
    image=job.source[index]["image"],
    title=describe_image(row),
    subsets=subsets,
    rank=expand(ranks) if ranks is not None and is_ordered else None,
  )
