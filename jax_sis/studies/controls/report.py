"""What `jax-sis controls` found: printed, and as JSON, CSV and a figure in the run's folder."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from jax_sis import results
from jax_sis.core.messages import name_some
from jax_sis.results.answer import encode_csv, write_answer
from jax_sis.runs.setup import MAX_NAMED
from jax_sis.runtime.records import to_json
from jax_sis.studies.controls import tables
from jax_sis.studies.controls.figure import draw_controls
from jax_sis.studies.controls.outcomes import NO_IMAGE, Outcomes
from jax_sis.studies.controls.summaries import ControlSummary, FillSummary, find_fill_dependence
from jax_sis.studies.controls.views import CONTROLS, NAMES
from jax_sis.studies.controls.wrong_class import Towards, summarise_classes

FORMAT = "jax_sis.controls/1"
# Of all intervals.
LEVEL = 0.95
PER_IMAGE = ("confidence", "keeps_class", "is_sufficient", "num_shown", "fill_distance")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
  """The subsets of one kind.

  Attributes:
    name: `sis`, `smallest`, or the name of the masks of a fraction.
    title: what tables call it.
    indices: the images, by their numbers in the run, ascending.
    ids: their names.
    targets: the class in question.
    predicted: the class predicted on the whole image.
    masks: their subsets.
  """

  name: str
  title: str
  indices: Int[np.ndarray, "M"]
  ids: list[str]
  targets: Int[np.ndarray, "M"]
  predicted: Int[np.ndarray, "M"]
  masks: Bool[np.ndarray, "M h w 1"]

  @functools.cached_property
  def sha256(self) -> str:
    """Stands for the subsets and what they are of."""
    arrays = (self.indices, self.targets, self.predicted, self.masks)
    named = "\0".join([self.name, *self.ids]).encode()
    return hashlib.sha256(b"\0".join([named, *(array.tobytes() for array in arrays)])).hexdigest()

  @property
  def heading(self) -> str:
    return f"{self.title}, {len(self.indices)} image{'' if len(self.indices) == 1 else 's'}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Controlled:
  """A kind of subset and what its controls say."""

  kind: Kind
  outcomes: Outcomes
  summaries: list[ControlSummary]
  fill_summary: FillSummary


def report_kind(controlled: Controlled) -> dict[str, Any]:
  """Prints what was found of one kind of subset, and gives it in JSON types."""
  kind, summaries, threshold = controlled.kind, controlled.summaries, controlled.outcomes.threshold
  reading = tables.describe_controls(summaries, controlled.fill_summary, threshold)
  one_only = find_fill_dependence(controlled.outcomes).is_one_only
  ids = [name for name, is_one_only in zip(kind.ids, one_only, strict=True) if is_one_only]
  print(f"\n{kind.heading}; in brackets {100 * LEVEL:g}% intervals\n{tables.make_table(summaries, threshold)}")
  if note := tables.note_similar_fills(summaries):
    print(tables.wrap(note))
  if ids:
    print(f"Works with no fill that differs from the search's: {name_some(ids, most=MAX_NAMED)}")
  print(f"\n{tables.wrap(reading)}", flush=True)
  return {
    "title": kind.title,
    "num_images": len(kind.indices),
    "median_size": float(np.median(kind.masks.sum((1, 2, 3)))),
    "controls": [
      {"title": CONTROLS[summary.name].title, "group": CONTROLS[summary.name].group, **to_json(summary)}
      for summary in summaries
    ],
    "fills": to_json(controlled.fill_summary),
    "images_with_one_fill_only": ids,
    "reading": reading,
  }


def report_classes(towards: Mapping[str, Towards], *, max_features: int, threshold: float) -> dict[str, Any]:
  """Prints what was found for other classes, and gives it in JSON types."""
  summaries = summarise_classes(towards, level=LEVEL)
  reading = tables.describe_classes(summaries, max_features=max_features, threshold=threshold)
  print(f"\nThe smallest evidence found for other classes, at {threshold:g}, adding at most {max_features} cells")
  print(f"{tables.make_class_table(summaries)}\n\n{tables.wrap(reading)}", flush=True)
  return {"max_features": max_features, "classes": to_json(summaries), "reading": reading}


def write_files(store: results.Results, answer: Mapping[str, Any], controlled: Sequence[Controlled]) -> dict[str, Any]:
  """Writes numbers, table and picture into the run's folder. Returns what `controls.json` holds."""
  picture = draw_controls(
    {one.kind.heading: one.summaries for one in controlled},
    title="What is left of the answer when a subset is changed",
    note=f"{store.spec['model']['name']}, threshold {store.spec['threshold']:g}. Black: {100 * LEVEL:g} % intervals.",
  )
  files = {"controls.csv": encode_csv(make_rows(store, controlled)), "controls.png": picture}
  print()
  return write_answer(store.folder, "controls.json", answer, files)


def make_rows(store: results.Results, controlled: Sequence[Controlled]) -> Iterable[dict[str, Any]]:
  """The lines of the CSV, one for each image and control."""
  for one in controlled:
    kind, outcomes = one.kind, one.outcomes
    one_only = find_fill_dependence(outcomes).is_one_only
    for i, name in enumerate(kind.ids):
      other = kind.ids[outcomes.other[i]] if outcomes.other[i] != NO_IMAGE else None
      for place, control in enumerate(NAMES):
        yield {
          "kind": kind.name,
          "image": name,
          "target": store.spec["class_names"][kind.targets[i]],
          "control": control,
          **{column: getattr(outcomes, column)[i, place].item() for column in PER_IMAGE},
          "other_image": other if control == "fill_other" else None,
          "one_fill_only": bool(one_only[i]),
        }
