"""What `jax-sis attributions` found: summed up, printed, and as JSON, CSV and a figure."""

import dataclasses
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from jax_sis.core.messages import name_some
from jax_sis.results.answer import describe_provenance, encode_csv, write_answer
from jax_sis.results.folder import Folder
from jax_sis.runtime.records import to_json
from jax_sis.statistics.estimates import DASH, Estimate, difference_of, mean_of, share_of, show
from jax_sis.studies.attributions import figure
from jax_sis.studies.attributions.config import METHODS, Kind

LINE = "{:<25} {:>6} {:>22} {:>7} {:>22} {:>20} {:>20} {:>9}"
WIDTH = 120
MAX_NAMED = 5
SECONDS_NOTE = (
  "Core-seconds are the CPU time of all threads of this process for an image, compiling left out; on an accelerator "
  "the seconds on the clock, in attributions.json, say more. They are of the scores, or of the search, alone. To "
  "know sizes and areas, an order is then evaluated at every size twice, shown and masked"
)
AREA_NOTE = (
  "The insertion area is the mean confidence while pixels are shown, the most needed first (larger is sooner "
  "convinced), the deletion area that while they are masked (smaller is sooner lost)."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
  """What one method gave, one value per image, in their order; a line of the run's file.

  Attributes:
    method: a key of METHODS.
    num_kept: pixels that suffice; None where none do, or a search gave up.
    insertion_area: see `curves`; None for a method without an order, and where it is not finite.
    deletion_area: likewise.
    core_seconds: CPU time an image of the scores or the search.
    seconds: the same on the clock.
    evaluation_core_seconds: CPU time an image of both curves; None without an order.
    evaluation_seconds: the same on the clock.
  """

  method: str
  num_kept: list[int | None]
  insertion_area: list[float | None] | None
  deletion_area: list[float | None] | None
  core_seconds: float
  seconds: float
  evaluation_core_seconds: float | None
  evaluation_seconds: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Looked:
  """The images that all methods are asked about.

  Attributes:
    images: index, id, label, predicted class and confidence of each.
    pixels: the same as 8-bit pixels.
    num_seen: images that were classified to find them.
    unreadable: id and reason of those that could not be read.
  """

  images: list[dict[str, Any]]
  pixels: UInt8[np.ndarray, "N H W C"]
  num_seen: int
  unreadable: dict[str, str]

  def describe(self, threshold: float, *, asked: int) -> str:
    fewer = f" ({asked} were asked for)" if len(self.images) < asked else ""
    text = (
      f"{len(self.images)} images{fewer}: the first ones of which it is at least {threshold:g} confident, found among "
      f"{self.num_seen}."
    )
    if self.unreadable:
      named = name_some([f"{name} ({reason})" for name, reason in self.unreadable.items()], most=MAX_NAMED)
      text += f" Not read: {named}."
    return text


@dataclasses.dataclass(frozen=True, kw_only=True)
class MethodSummary:
  """One method over all images.

  Attributes:
    title: what tables call it.
    kind: a search, an attribution, or chance.
    with_subset: the share of the images in which some of its pixels suffice.
    pixels: mean size of these subsets.
    median_pixels: their median; None without one.
    difference: the mean of size minus that of the reference, on the images where both have a subset.
    insertion_area: mean over the images; None for a method without an order.
    deletion_area: likewise.
    insertion_difference: that area minus the reference's on the same images; None where either has no order.
    deletion_difference: likewise.
  """

  title: str
  kind: Kind
  with_subset: Estimate
  pixels: Estimate
  median_pixels: float | None
  difference: Estimate
  insertion_area: Estimate | None
  deletion_area: Estimate | None
  insertion_difference: Estimate | None
  deletion_difference: Estimate | None


def summarise(judged: Mapping[str, Judged], *, seed: int) -> dict[str, MethodSummary]:
  reference = next(iter(judged.values()))
  return {name: summarise_method(one, reference, seed=seed) for name, one in judged.items()}


def summarise_method(judged: Judged, reference: Judged, *, seed: int) -> MethodSummary:
  sizes = [size for size in judged.num_kept if size is not None]
  areas = {}
  for name in ("insertion", "deletion"):
    values, others = getattr(judged, f"{name}_area"), getattr(reference, f"{name}_area")
    areas[f"{name}_area"] = values and mean_of(np.array([value for value in values if value is not None]), seed=seed)
    areas[f"{name}_difference"] = values and others and difference_of(*pair_up(values, others), seed=seed)
  return MethodSummary(
    title=METHODS[judged.method].title,
    kind=METHODS[judged.method].kind,
    with_subset=share_of(np.array([size is not None for size in judged.num_kept])),
    pixels=mean_of(np.array(sizes), seed=seed),
    median_pixels=float(np.median(sizes)) if sizes else None,
    difference=difference_of(*pair_up(judged.num_kept, reference.num_kept), seed=seed),
    **areas,
  )


def pair_up(
  values: Sequence[float | None], others: Sequence[float | None]
) -> tuple[Float[np.ndarray, "M"], Float[np.ndarray, "M"]]:
  """The numbers of the images that have both."""
  pairs = [pair for pair in zip(values, others, strict=True) if None not in pair]
  paired = np.array(pairs, np.float64).reshape(-1, 2)
  return paired[:, 0], paired[:, 1]


def make_table(summaries: Mapping[str, MethodSummary], judged: Mapping[str, Judged], threshold: float) -> str:
  header = ("order", "with", f"mean at {threshold:g} [95 %]", "median", "difference [95 %]")
  lines = [LINE.format(*header, "insertion area", "deletion area", "core-s")]
  first = next(iter(summaries))
  for name, summary in summaries.items():
    areas = (summary.insertion_area, summary.deletion_area)
    lines.append(
      LINE.format(
        summary.title,
        summary.with_subset.count,
        f"{summary.pixels:.1f}",
        DASH if summary.median_pixels is None else f"{summary.median_pixels:g}",
        DASH if name == first else f"{summary.difference:.1f}",
        *(show(area, ".3f") for area in areas),
        f"{judged[name].core_seconds:.3f}",
      )
    )
  return "\n".join(lines)


def describe_reading(summaries: Mapping[str, MethodSummary], threshold: float, *, num_images: int) -> str:
  first = next(iter(summaries.values()))
  return (
    f"On these {num_images} images, {first.pixels:.1f} pixels of the order '{first.title}' reach {threshold:g}, in the "
    "mean; another order needs more or fewer where the interval of its difference leaves 0 out."
  )


def describe_seconds(judged: Mapping[str, Judged]) -> str:
  evaluations = [one.evaluation_core_seconds for one in judged.values() if one.evaluation_core_seconds is not None]
  cost = f", for {np.median(evaluations):.3f} core-seconds an image." if evaluations else "."
  return f"{SECONDS_NOTE}{cost}"


def write_report(
  folder: Folder,
  looked: Looked,
  judged: Mapping[str, Judged],
  *,
  left_out: Mapping[str, str],
  spec: Mapping[str, Any],
  subject: str,
  command: str,
) -> dict[str, Any]:
  """Prints what was found and writes it; returns what `attributions.json` holds.

  Args:
    folder: gets the files.
    looked: the images.
    judged: by method; the others are compared with the first.
    left_out: by method the reason.
    spec: what fixed the results.
    subject: the classifier and the data.
    command: the command line.
  """
  threshold, num_images = spec["threshold"], len(looked.images)
  summaries = summarise(judged, seed=spec["seed"])
  reading = describe_reading(summaries, threshold, num_images=num_images)
  seconds = describe_seconds(judged)
  print(f"\n{make_table(summaries, judged, threshold)}\n")
  print("\n".join(textwrap.fill(text, WIDTH) for text in (reading, AREA_NOTE, seconds)))
  answer = {
    "format": spec["format"],
    "provenance": describe_provenance(folder, spec, command=command, seed=spec["seed"]),
    "threshold": threshold,
    "grid": spec["grid"],
    "per_step": spec["per_step"],
    "num_images": num_images,
    "num_seen": looked.num_seen,
    "unreadable": looked.unreadable,
    "reference": next(iter(judged)),
    "methods": {
      name: {**to_json(summaries[name]), "per_image": dataclasses.asdict(one)} for name, one in judged.items()
    },
    "left_out": dict(left_out),
    "images": looked.images,
    "reading": reading,
    "notes": [AREA_NOTE, seconds],
  }
  title = f"Orders of pixels: {subject}"
  files = {
    "attributions.csv": encode_csv(make_rows(looked, judged)),
    "attributions.png": figure.draw_attributions(summaries, title=title, threshold=threshold, num_images=num_images),
  }
  return write_answer(folder, "attributions.json", answer, files)


def make_rows(looked: Looked, judged: Mapping[str, Judged]) -> Iterable[dict[str, Any]]:
  nothing = [None] * len(looked.images)
  for name, one in judged.items():
    for place, image in enumerate(looked.images):
      yield {
        "method": name,
        "image": image["id"],
        **{key: image[key] for key in ("label", "predicted", "confidence")},
        "pixels": one.num_kept[place],
        "insertion_area": (one.insertion_area or nothing)[place],
        "deletion_area": (one.deletion_area or nothing)[place],
      }
