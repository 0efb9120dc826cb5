"""The table of a run: a line an image, on the screen and as CSV and JSON."""

import csv
import dataclasses
import json
import math
import pathlib
import sys
import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_sis import results
from jax_sis.certify import describe_certificate
from jax_sis.subsets import Status

# What the store says of an image that could not be searched, its reason in `error`; beside the numbers of Status.
NOT_SEARCHED = -1
# No class: the image has no label, or was not classified.
NO_CLASS = -1
TABLE_FORMAT = "{:<22} {:<10} {:<10} {:>10} {:>6} {:>7} {:>9}  {}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """One line of the table: what a run says of one image."""

  image: str
  true_class: str
  predicted_class: str
  target_class: str
  confidence: float
  num_pixels: int
  share: float
  subset_confidence: float
  certificate: str
  status: str


def make_rows(fields: Mapping[str, np.ndarray], class_names: tuple[str, ...]) -> list[Row]:
  """The table's lines for some rows of the store."""
  num_features = fields["rank"].shape[1]

  def name_class(index: int) -> str:
    return class_names[index] if index != NO_CLASS else "-"

  rows = []
  for i in range(len(fields["status"])):
    status = int(fields["status"][i])
    text = {name: bytes(fields[name][i]).rstrip(b"\0").decode() for name in ("id", "error")}
    is_searched = status != NOT_SEARCHED
    rows.append(
      Row(
        image=text["id"],
        true_class=name_class(int(fields["label"][i])),
        predicted_class=name_class(int(fields["predicted"][i])),
        target_class=name_class(int(fields["target"][i])) if is_searched else "-",
        confidence=float(fields["confidence"][i, -1]) if is_searched else float("nan"),
        num_pixels=int(fields["num_kept"][i]),
        share=float(fields["num_kept"][i]) / num_features,
        subset_confidence=float(fields["certified_confidence"][i]),
        certificate=describe_fields(fields, i) if is_searched else f"none: {text['error']}",
        status=Status(status).name.lower() if is_searched else "not_searched",
      )
    )
  return rows


def read_rows(store: results.Results, class_names: tuple[str, ...]) -> list[Row]:
  """The lines of all finished images."""
  indices = store.done_images()
  return make_rows({name: store.read(name, indices) for name in store.fields}, class_names)


def print_header() -> None:
  """The first line of the table."""
  columns = ("image", "true", "predicted", "confidence", "pixels", "share", "SIS alone", "certificate")
  print(TABLE_FORMAT.format(*columns), flush=True)


def print_rows(rows: list[Row]) -> None:
  """Lines of the table."""
  for row in rows:
    name = row.image if len(row.image) <= 22 else "..." + row.image[-19:]
    has_subset = row.status == "ok"
    print(
      TABLE_FORMAT.format(
        name,
        row.true_class[:10],
        row.predicted_class[:10],
        format_confidence(row.confidence),
        row.num_pixels if has_subset else "-",
        f"{row.share:.1%}" if has_subset else "-",
        format_confidence(row.subset_confidence),
        row.certificate,
      )
    )
  sys.stdout.flush()


def describe_outcome(rows: list[Row], threshold: float) -> str:
  """The answer in a sentence or two."""
  found = [row for row in rows if row.status == "ok"]
  if not found:
    return f"No image has a sufficient subset at {threshold:g}; the certificate column says why."
  certified = sum(row.certificate.startswith("sufficient") for row in found)
  num_pixels = np.array([row.num_pixels for row in found])
  share = np.median([row.share for row in found])
  return (
    f"{len(found)} of {len(rows)} images have a subset, {certified} certified. Pixels needed for {threshold:g}: "
    f"median {np.median(num_pixels):g} ({share:.1%} of the image), from {num_pixels.min()} to {num_pixels.max()}."
  )


def write_summary(out_dir: pathlib.Path, rows: list[Row], spec: dict[str, Any]) -> None:
  """`summary.csv`, a line an image, and `summary.json`, the same with the run's specification and totals."""
  names = [field.name for field in dataclasses.fields(Row)]
  with open(out_dir / "summary.csv", "w", newline="") as file:
    writer = csv.DictWriter(file, names)
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
  statuses = [row.status for row in rows]
  num_pixels = [row.num_pixels for row in rows if row.status == "ok"]
  summary = {
    "spec": spec,
    "num_images": len(rows),
    "status": {status: statuses.count(status) for status in sorted(set(statuses))},
    "num_certified": sum(row.certificate.startswith("sufficient") for row in rows),
    "median_pixels": float(np.median(num_pixels)) if num_pixels else None,
    "mean_pixels": float(np.mean(num_pixels)) if num_pixels else None,
    "images": [
      {name: None if is_nan(value) else value for name, value in dataclasses.asdict(row).items()} for row in rows
    ],
  }
  results.write_atomically(out_dir / "summary.json", json.dumps(summary, indent=2).encode() + b"\n")


def is_nan(value: str | float) -> bool:
  """Whether this is the number NaN, which JSON cannot hold."""
  return isinstance(value, float) and math.isnan(value)


def describe_image(row: Row) -> str:
  """The caption of an image."""
  return f"{row.image}\ntrue: {row.true_class}\npredicted: {row.predicted_class}\n{format_confidence(row.confidence)}"


def describe_subset(row: Row) -> str:
  """The caption of a subset."""
  if row.status != "ok":
    return "\n".join(textwrap.wrap(row.certificate, 26))
  lines = (
    f"{row.num_pixels} pixels ({row.share:.1%})",
    f"{row.target_class} {format_confidence(row.subset_confidence)}",
    *row.certificate.split(", ", 1),
  )
  return "\n".join(lines)


def format_confidence(confidence: float) -> str:
  """Four decimals, never rounded up to 1; a dash for none."""
  if np.isnan(confidence):
    return "-"
  return ">0.9999" if 0.99995 <= confidence else f"{confidence:.4f}"


def describe_fields(fields: Mapping[str, np.ndarray], i: int) -> str:
  """The certificate of one row of the store."""
  return describe_certificate(
    status=Status(int(fields["status"][i])),
    keeps_class=bool(fields["keeps_class"][i]),
    is_reproduced=bool(fields["is_reproduced"][i]),
    is_sufficient=bool(fields["is_sufficient"][i]),
    is_minimal=bool(fields["is_minimal"][i]),
    num_droppable=int(fields["num_droppable"][i]),
  )
