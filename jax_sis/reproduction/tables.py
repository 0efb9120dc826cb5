"""The tables of a study: as text, for the screen and the CSV, and as rows for its report."""

import textwrap
from collections.abc import Sequence
from typing import Any

from jax_sis.reproduction.claims import Claim
from jax_sis.reproduction.leaks import SHOWN, Leak
from jax_sis.reproduction.mitigations import Mitigation
from jax_sis.reproduction.outcome import SAMPLES, Cell, Echo, Outcome, Transfer
from jax_sis.runtime.records import read_record
from jax_sis.statistics.estimates import Estimate, show, show_percent
from jax_sis.studies.analysis.run import MOST_NEEDED

CELL_HEADER = (
  "classifier",
  "trained on",
  "shown",
  "accuracy, %",
  "minus the first",
  "NLL",
  "ECE",
  "corrupted, %",
  "minus the first",
)
CLAIM_HEADER = ("the paper", "here", "numbers", "difference", "images")
MITIGATION_HEADER = (
  "classifier",
  "accuracy, %",
  "minus single",
  "NLL",
  "ECE",
  "Brier score",
  "minus single",
  "corrupted, %",
  "minus single",
  "SIS, pixels",
  "minus single",
  "with one, %",
  "smallest, pixels",
  "minus single",
  "with one, %",
  "disjoint",
  "minus single",
)
# Of text on the screen, in characters.
WIDTH = 116
ECHO_HEADER = ("classifier", "same answer, %", "mistakes repeated, %", "mistakes put right, %", "mistakes")
TRANSFER_HEADER = ("classifier", "pixels needed by", "accuracy, %", "minus that one's own", "minus random pixels")
BORDER_HEADER = ("search", "images", "needed most, at the border, %", "in even use, %")
LEAK_HEADER = ("search", "which", "subsets", "with no other fill, %", *SHOWN.values())
SAMPLE_HEADER = ("search", "confidence", "images with a subset", "pixels", "median", "minus the first")


def cell_rows(cells: Sequence[Cell]) -> list[list[str]]:
  return [
    [
      cell.model,
      cell.trained_on,
      cell.shown,
      show_percent(cell.accuracy),
      show_percent(cell.difference, "+.1f", nothing=""),
      f"{cell.negative_log_likelihood:.3f}",
      f"{cell.expected_calibration_error:.3f}",
      show_percent(cell.corrupted, nothing=""),
      show_percent(cell.corrupted_difference, "+.1f", nothing=""),
    ]
    for cell in cells
  ]


def claim_rows(claims: Sequence[Claim]) -> list[list[str]]:
  return [
    [claim.claim, claim.verdict, claim.found, describe_difference(claim), f"{claim.difference.num_images:,}"]
    for claim in claims
  ]


def echo_rows(echoes: Sequence[Echo]) -> list[list[str]]:
  return [
    [
      echo.model,
      show_percent(echo.agreement),
      show_percent(echo.repeated),
      show_percent(echo.right),
      f"{echo.repeated.num_images:,}",
    ]
    for echo in echoes
  ]


def transfer_rows(transfers: Sequence[Transfer]) -> list[list[str]]:
  return [
    [
      transfer.model,
      transfer.chooser,
      show_percent(transfer.accuracy),
      show_percent(transfer.minus_chooser, "+.1f"),
      show_percent(transfer.minus_random, "+.1f", nothing=""),
    ]
    for transfer in transfers
  ]


def leak_rows(leaks: Sequence[Leak]) -> list[list[str]]:
  return [
    [
      leak.run,
      leak.kind,
      f"{leak.num_subsets:,}",
      show_percent(leak.one_fill_only, ".0f"),
      *(show_percent(leak.by_name.get(name), ".0f") for name in SHOWN),
    ]
    for leak in leaks
  ]


def mitigation_rows(mitigations: Sequence[Mitigation]) -> list[list[str]]:
  first = mitigations[0] if mitigations else None
  return [
    [
      one.label,
      show_percent(one.accuracy),
      "" if one is first else show_percent(one.accuracy_difference, "+.1f"),
      f"{one.negative_log_likelihood:.3f}",
      f"{one.expected_calibration_error:.3f}",
      show(one.brier_score, ".4f"),
      show(one.brier_difference, "+.4f", nothing=""),
      show_percent(one.corrupted, nothing=""),
      "" if one is first else show_percent(one.corrupted_difference, "+.1f", nothing=""),
      *size_cells(one, "sis", is_first=one is first),
      *size_cells(one, "smallest", is_first=one is first),
      show(one.num_disjoint, ".2f", nothing=""),
      "" if one is first else show(one.num_disjoint_difference, "+.2f", nothing=""),
    ]
    for one in mitigations
  ]


def size_cells(one: Mitigation, answer: str, *, is_first: bool) -> list[str]:
  compared = one.sizes.get(answer)
  if compared is None:
    return ["", "", ""]
  return [
    show(read_record(Estimate, compared["pixels"])),
    "" if is_first else show(read_record(Estimate, compared["difference"]), "+.1f"),
    show_percent(read_record(Estimate, compared["with_subset"])),
  ]


def name_sample(what: str, sample: dict[str, Any]) -> str:
  return f"{SAMPLES[what].capitalize()}, on a sample of {sample['comparison']['num_images']} images"


def border_rows(sample: dict[str, Any]) -> list[list[str]]:
  """Where the pixels lie that each search's order needs most."""
  return [
    [
      label,
      str(positions["num_images"]),
      show_percent(read_record(Estimate, positions["border"])),
      f"{100 * positions['even_border']:.1f}",
    ]
    for label, found in sample["positions"].items()
    for positions in found
    if positions["what"] == MOST_NEEDED
  ]


def sample_rows(sample: dict[str, Any]) -> list[list[str]]:
  comparison = sample["comparison"]
  first = comparison["labels"][0]
  return [
    [
      compared["label"],
      f"{compared['threshold']:g}",
      f"{compared['with_subset']['count']} of {compared['with_subset']['num_images']}",
      show(read_record(Estimate, compared["pixels"])),
      "-" if compared["median_pixels"] is None else f"{compared['median_pixels']:g}",
      "" if compared["label"] == first else show(read_record(Estimate, compared["difference"]), "+.1f"),
    ]
    for compared in comparison["sizes"]
  ]


def describe_difference(claim: Claim) -> str:
  if claim.difference.value is None:
    return show(claim.difference)
  if claim.unit == "share":
    return f"{show_percent(claim.difference, '+.1f')} points"
  return f"{show(claim.difference, '+.1f')} pixels"


def print_outcome(outcome: Outcome) -> None:
  """All tables on the screen; in brackets are 95 % intervals."""
  print(f"\n{outcome.architecture}: who is right on what\n{align(CELL_HEADER, cell_rows(outcome.cells))}")
  if outcome.claims:
    print(f"\nThe paper's claims\n{list_facts(CLAIM_HEADER, claim_rows(outcome.claims))}")
  if outcome.echoes:
    print(f"\nBeside the classifier of whole images\n{align(ECHO_HEADER, echo_rows(outcome.echoes))}")
  if outcome.transfers:
    print(f"\nPixels that another classifier needs\n{align(TRANSFER_HEADER, transfer_rows(outcome.transfers))}")
  if len(outcome.mitigations) > 1:
    print(f"\nMitigation, on the same images\n{list_facts(MITIGATION_HEADER, mitigation_rows(outcome.mitigations))}")
  if outcome.leaks:
    print(f"\nWhat may leak, of every search\n{align(LEAK_HEADER, leak_rows(outcome.leaks))}")
  for what, sample in outcome.samples.items():
    print(f"\n{name_sample(what, sample)}\n{align(SAMPLE_HEADER, sample_rows(sample))}")
    print(align(BORDER_HEADER, border_rows(sample)))
  if outcome.seeds:
    seeds = ", ".join(f"{100 * accuracy:.2f}" for accuracy in outcome.seeds)
    print(
      f"\nAccuracy of the {len(outcome.seeds)} classifiers trained on whole images, by seed: {seeds} %.", flush=True
    )


def align(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
  lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows))
  return "\n".join(f"  {line}".rstrip() for line in lines)


def list_facts(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A paragraph for each row, which is too long for a line: its first cell, then the others after their headings."""
  paragraphs = []
  for first, *others in rows:
    facts = "; ".join(f"{name}: {cell}" for name, cell in zip(header[1:], others, strict=True) if cell)
    paragraphs.append(
      f"{textwrap.fill(first, WIDTH, initial_indent='  ', subsequent_indent='  ')}\n"
      f"{textwrap.fill(facts, WIDTH, initial_indent='    ', subsequent_indent='    ')}"
    )
  return "\n".join(paragraphs)


def plain_numbers(name: str, mean: Estimate | None, *, suffix: str = "") -> dict[str, float | None]:
  """The CSV cells of a mean and of the ends of its interval."""
  values = (None, None, None) if mean is None else (mean.value, mean.low, mean.high)
  return dict(zip((f"{name}{suffix}", f"{name}_low", f"{name}_high"), values, strict=True))


def csv_row(architecture: str, cell: Cell) -> dict[str, Any]:
  return {
    "architecture": architecture,
    "classifier": cell.model,
    "trained_on": cell.trained_on,
    "shown": cell.shown,
    "num_images": cell.accuracy.num_images,
    **plain_numbers("accuracy", cell.accuracy),
    **plain_numbers("accuracy_difference", cell.difference),
    "negative_log_likelihood": cell.negative_log_likelihood,
    "expected_calibration_error": cell.expected_calibration_error,
    **plain_numbers("corrupted", cell.corrupted, suffix="_accuracy"),
    "num_corrupted_images": None if cell.corrupted is None else cell.corrupted.num_images,
    **plain_numbers("corrupted_difference", cell.corrupted_difference),
  }
