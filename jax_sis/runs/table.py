"""The table of a run: one line per image, on the screen and as CSV and JSON."""

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from jax_sis import results
from jax_sis.core.bounds import hold_together
from jax_sis.core.certificate_words import REASONS, describe_alone, describe_certificate
from jax_sis.core.subsets import Status
from jax_sis.results.answer import encode_csv, encode_json
from jax_sis.results.schema import (
  ALONE_DTYPES,
  DRAWN_DTYPES,
  FULL_DTYPES,
  KIND_TITLES,
  KINDS,
  NO_CLASS,
  NOT_SEARCHED,
  QUESTION_KINDS,
  STATUS_NAMES,
  kinds_of,
)
from jax_sis.runs.lattice import TABLE_FIELDS, count_lattices, describe_lattices, lattice_cells

# What stands beside the tables.
GALLERY_FILE = "gallery.png"
# What the table shows as it is; the certificate says the rest in words.
MEASURED = ("num_kept", "status", "certified_confidence")
IMAGE_FORMAT = "{:<16} {:<{width}} {:<{width}} {:>10}"
# Letters of the names of classes that fit: CIFAR's have all room, and of ImageNet's most.
FEWEST_LETTERS, MOST_LETTERS = 10, 20
ANSWER_FORMAT = " {:>8} {:>7} {:>9}"
# What the table says of each kind beside its size, where that is not the confidence alone.
MEASURES = {"robust": "kept on", "contrastive": "lost by"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
  """What a run says of one subset of one image.

  The rate of a robust one is that at which it keeps its class. `lost_by` is what WITHOUT_DTYPES says.
  """

  num_pixels: int
  share: float
  confidence: float
  certificate: str
  status: str
  rate: float | None = None
  lost_by: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """One line of the table: what a run says of one image, and of each kind of subset."""

  image: str
  true_class: str
  predicted_class: str
  target_class: str
  confidence: float
  answers: dict[str, Answer]
  lattice: dict[str, Any]

  def flat(self) -> dict[str, Any]:
    """The line's cells by column, those of the subsets with the kind in front."""
    cells = {name: value for name, value in vars(self).items() if name not in ("answers", "lattice")}
    for kind, answer in self.answers.items():
      cells |= {f"{kind}_{column}": value for column, value in vars(answer).items() if value is not None}
    return cells | self.lattice


def make_rows(fields: Mapping[str, np.ndarray], class_names: tuple[str, ...], *, num_features: int) -> list[Row]:
  kinds = kinds_of(fields)

  def name_class(index: int) -> str:
    return class_names[index] if index != NO_CLASS else "-"

  rows = []
  for i in range(len(fields["target"])):
    text = {name: bytes(fields[name][i]).rstrip(b"\0").decode() for name in ("id", "error")}
    is_searched = int(fields[f"{kinds[0]}_status"][i]) != NOT_SEARCHED
    rows.append(
      Row(
        image=text["id"],
        true_class=name_class(int(fields["label"][i])),
        predicted_class=name_class(int(fields["predicted"][i])),
        target_class=name_class(int(fields["target"][i])) if is_searched else "-",
        confidence=float(fields["full_confidence"][i]) if is_searched else float("nan"),
        answers={kind: make_answer(fields, i, kind, error=text["error"], num_features=num_features) for kind in kinds},
        lattice=lattice_cells(fields, i),
      )
    )
  return rows


def make_answer(fields: Mapping[str, np.ndarray], i: int, kind: str, *, error: str, num_features: int) -> Answer:
  is_full, is_drawn = f"{kind}_num_droppable" in fields, f"{kind}_rate" in fields
  of_kind = {name: fields[f"{kind}_{name}"][i].item() for name in (FULL_DTYPES if is_full else ALONE_DTYPES)}
  status = of_kind["status"]
  drawn = {name: fields[f"{kind}_{name}"][i].item() for name in DRAWN_DTYPES} if is_drawn else {}
  if status == NOT_SEARCHED:
    certificate = f"none: {error}"
  elif is_drawn:
    certificate = describe_drawn(Status(status), drawn)
  else:
    judged = {name: value for name, value in of_kind.items() if name not in MEASURED}
    describe = describe_certificate if is_full else describe_alone
    question: Any = kind if kind in QUESTION_KINDS else "sufficient"
    certificate = describe(status=Status(status), question=question, **judged)
  return Answer(
    num_pixels=of_kind["num_kept"],
    share=of_kind["num_kept"] / num_features,
    confidence=of_kind["certified_confidence"],
    certificate=certificate,
    status=STATUS_NAMES[status],
    rate=drawn.get("rate"),
    lost_by=fields[f"{kind}_lost_by"][i].item() if kind in QUESTION_KINDS else None,
  )


def choose_width(class_names: Sequence[str]) -> int:
  """The letters of the columns of classes."""
  return min(MOST_LETTERS, max(FEWEST_LETTERS, *map(len, class_names)))


def describe_drawn(status: Status, drawn: Mapping[str, Any]) -> str:
  """The certificate of a robust subset in a few words; `drawn` as DRAWN_DTYPES says."""
  if status == Status.OK:
    return f"certified: class kept on {drawn['rate']:.1%} of unseen draws, on {drawn['rate_bound']:g} at least"
  if status == Status.NON_FINITE:
    return REASONS[status]
  return f"not certified: {drawn['num_judged']} pixels keep the class on {drawn['rate']:.1%} of unseen draws"


def print_header(kinds: tuple[str, ...], class_names: Sequence[str]) -> None:
  width = choose_width(class_names)
  above = IMAGE_FORMAT.format("", "", "", "", width=width)
  below = IMAGE_FORMAT.format("image", "true", "predicted", "confidence", width=width)
  for kind in kinds:
    above += ANSWER_FORMAT.format(KIND_TITLES[kind], "", "")
    below += ANSWER_FORMAT.format("pixels", "share", MEASURES.get(kind, "alone"))
  print(f"{above}\n{below}  certificate", flush=True)


def print_rows(rows: list[Row], class_names: Sequence[str]) -> None:
  width = choose_width(class_names)
  for row in rows:
    name = row.image if len(row.image) <= 16 else "..." + row.image[-13:]
    classes = (text[:width] for text in (row.true_class, row.predicted_class))
    line = IMAGE_FORMAT.format(name, *classes, format_confidence(row.confidence), width=width)
    for kind, answer in row.answers.items():
      has_subset = answer.status == "ok"
      line += ANSWER_FORMAT.format(
        answer.num_pixels if has_subset else "-",
        f"{answer.share:.1%}" if has_subset else "-",
        format_measure(kind, answer),
      )
    # Once where they agree.
    certificates = dict.fromkeys(answer.certificate for answer in row.answers.values())
    print(f"{line}  {' | '.join(certificates)}")
  sys.stdout.flush()


def format_measure(kind: str, answer: Answer) -> str:
  """What the table says of a subset beside its size."""
  if answer.rate is not None:
    return f"{answer.rate:.1%}"
  if kind == "contrastive" and answer.lost_by is not None:
    return "-" if np.isnan(answer.lost_by) else f"{answer.lost_by:.2f}"
  return format_confidence(answer.confidence)


def describe_outcome(totals: Mapping[str, Any], threshold: float) -> str:
  lines = [
    describe_robust(totals) if kind == "robust" else describe_totals(totals, kind, threshold)
    for kind in KINDS
    if kind in totals
  ]
  return "\n".join([*lines, *([describe_lattices(totals["lattice"])] if "lattice" in totals else [])])


def describe_totals(totals: Mapping[str, Any], kind: str, threshold: float) -> str:
  """What a run says of one kind of subset, in a sentence or two."""
  of_kind, title = totals[kind], KIND_TITLES[kind]
  num_found = of_kind["status"].get("ok", 0)
  asked = {"contrastive": "to lose the class", "both": f"for {threshold:g} and to lose the class"}.get(kind)
  if not num_found:
    what = f"a sufficient subset at {threshold:g}" if asked is None else f"a subset {asked}"
    return f"{title}: no image has {what}; the certificate column says why."
  return (
    f"{title}: {num_found} of {totals['num_images']} images have a subset, {of_kind['num_certified']} certified. "
    f"Pixels needed {asked or f'for {threshold:g}'}: median {of_kind['median_pixels']:g} "
    f"({of_kind['median_share']:.1%} of the image), from {of_kind['min_pixels']} to {of_kind['max_pixels']}."
  )


def describe_robust(totals: Mapping[str, Any]) -> str:
  """What a run says of its robust subsets, in a sentence or two."""
  of_kind, num_images = totals["robust"], totals["num_images"]
  asked = f"{of_kind['claimed_rate']:g} of unseen draws at level {of_kind['level']:g}"
  if not of_kind["num_certified"]:
    return f"robust: of {num_images} images none has a subset that is certified to keep its class on {asked}."
  return (
    f"robust: {of_kind['num_certified']} of {num_images} images have a subset that is certified to keep its class on "
    f"{asked}, {of_kind['num_certified_together']} if all must hold at once; measured {of_kind['mean_rate']:.3f}. "
    f"Pixels: median {of_kind['median_pixels']:g} ({of_kind['median_share']:.1%} of the image), from "
    f"{of_kind['min_pixels']} to {of_kind['max_pixels']}."
  )


def make_summary(store: results.Results, class_names: tuple[str, ...]) -> tuple[dict[str, bytes], dict[str, Any]]:
  """`summary.csv`, one line per image, and `summary.json`, the specification and totals; and these totals."""
  num_features = math.prod(store.spec["grid"])
  names = sorted({*store.table_fields, *(name for name in TABLE_FIELDS if name in store.fields)})
  rows = (
    row.flat()
    for _, fields in store.iterate(names=names)
    for row in make_rows(fields, class_names, num_features=num_features)
  )
  totals = count_totals(store, num_features=num_features)
  return {"summary.csv": encode_csv(rows), "summary.json": encode_json({"spec": store.spec, **totals})}, totals


def count_totals(store: results.Results, *, num_features: int) -> dict[str, Any]:
  indices = store.done_images()
  totals: dict[str, Any] = {"num_images": len(indices)}
  for kind in kinds_of(store.fields):
    values = {name: store.read(f"{kind}_{name}", indices) for name in ALONE_DTYPES}
    is_ok = values["status"] == Status.OK
    num_pixels = values["num_kept"][is_ok]
    found, counts = np.unique(values["status"], return_counts=True)
    counted = zip(found.tolist(), counts.tolist(), strict=True)
    totals[kind] = {
      "status": {STATUS_NAMES[status]: count for status, count in counted},
      "num_certified": int((is_ok & values["is_reproduced"] & values["is_sufficient"]).sum()),
      "median_pixels": float(np.median(num_pixels)) if len(num_pixels) else None,
      "median_share": float(np.median(num_pixels)) / num_features if len(num_pixels) else None,
      "mean_pixels": float(np.mean(num_pixels)) if len(num_pixels) else None,
      "min_pixels": int(num_pixels.min()) if len(num_pixels) else None,
      "max_pixels": int(num_pixels.max()) if len(num_pixels) else None,
    }
    if kind == "robust":
      totals[kind] |= count_claims(store, indices, is_ok)
    if kind == "optimum":
      totals["lattice"] = count_lattices(store, values["status"] != NOT_SEARCHED)
  return totals


def count_claims(store: results.Results, indices: Int[np.ndarray, "M"], is_ok: Bool[np.ndarray, "M"]) -> dict[str, Any]:
  """What a run claims of its robust subsets, and of how many if all claims must hold at once."""
  asked = store.spec["completion"]
  rates, p_values = (store.read(f"robust_{name}", indices) for name in ("rate", "p_value"))
  # The draws chose the sizes.
  together = hold_together(p_values, asked["level"], correction="bonferroni") & is_ok
  return {
    "claimed_rate": asked["rate"],
    "level": asked["level"],
    "num_certified_together": int(together.sum()),
    "mean_rate": float(rates[is_ok].mean(dtype=np.float64)) if is_ok.any() else None,
  }


def format_confidence(confidence: float) -> str:
  """Four decimals, never rounded up to 1; a dash for none."""
  if np.isnan(confidence):
    return "-"
  return ">0.9999" if 0.99995 <= confidence else f"{confidence:.4f}"
