"""What the subsets of runs say, in short tables on the screen and as CSV."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jax_sis.core.messages import name_some
from jax_sis.results.schema import KIND_TITLES, STATUS_NAMES
from jax_sis.statistics.estimates import DASH
from jax_sis.studies.analysis.comparison import Comparison
from jax_sis.studies.analysis.positions import Positions
from jax_sis.studies.analysis.run import MOST_NEEDED, Correctness, RunAnalysis
from jax_sis.studies.analysis.sizes import ALL, PERCENTILES, Sizes

# More classes than these are not printed; analysis.csv has them.
MAX_PRINTED_CLASSES = 20
MAX_NAMED = 5
# Of the image, at which the mean confidence is printed.
PRINTED_SHARES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.01, 0.0)
SIZES_FORMAT = "  {:<24} {:>7} {:>7} {:>24} {:>6} {:>7} {:>6} {:>8}"
BINS_FORMAT = "  {:<24} {:>7} {:>24} {:>12}"
COMPARED_FORMAT = "  {:<24} {:>24} {:>26} {:>7} {:>9}"
COMPARED_SIZES_FORMAT = "  {:<24} {:>8} {:>24} {:>7} {:>28} {:>28}"


def describe_analysis(analysis: RunAnalysis) -> str:
  blocks = [
    describe_trust(analysis),
    describe_sizes(analysis.sizes),
    describe_classes(analysis),
    *(describe_matched(correctness) for correctness in analysis.correctness),
    *(describe_bins(correctness) for correctness in own_correctness(analysis)),
    *(describe_place(positions, analysis) for positions in analysis.positions),
    describe_removal(analysis),
    [f"  left out: {what}" for what in analysis.left_out],
  ]
  return "\n".join(line for block in blocks for line in block)


def describe_trust(analysis: RunAnalysis) -> list[str]:
  trust = analysis.trust
  line = f"  accuracy {trust.accuracy:.3f} of {trust.accuracy.num_images} images with a label"
  if trust.mean_confidence is not None:
    line += f", mean confidence {trust.mean_confidence:.3f}"
    line += f", calibration error {trust.expected_calibration_error:.3f}"
  return [line]


def describe_sizes(sizes: Sequence[Sizes]) -> list[str]:
  header = SIZES_FORMAT.format("subsets", "images", "with", "mean pixels [95 %]", "5 %", "median", "95 %", "of image")
  lines = [header, *(describe_one(one, f"{KIND_TITLES[one.answer]} at {one.threshold:g}") for one in sizes)]
  for one in sizes:
    others = [
      f"{count} {status.replace('_', ' ')}" for status, count in one.status.items() if status != STATUS_NAMES[0]
    ]
    if others:
      lines.append(f"  without, {KIND_TITLES[one.answer]} at {one.threshold:g}: {', '.join(others)}")
  return lines


def describe_one(sizes: Sizes, title: str) -> str:
  cells = [DASH] * 3
  if sizes.percentiles is not None:
    cells = [f"{sizes.percentiles[place]:g}" for place in ("5", "50", "95")]
  share = DASH if sizes.mean_share is None else f"{sizes.mean_share:.1%}"
  counts = sizes.with_subset.num_images, sizes.with_subset.count
  return SIZES_FORMAT.format(title[:24], *counts, f"{sizes.pixels:.1f}", *cells, share)


def describe_classes(analysis: RunAnalysis) -> list[str]:
  """Sizes by class, of few classes; and which classes have no images or subsets."""
  lines = []
  kinds = dict.fromkeys(sizes.answer for sizes in analysis.sizes_by_class)
  for answer in kinds:
    of_kind = [sizes for sizes in analysis.sizes_by_class if sizes.answer == answer]
    if len(of_kind) <= MAX_PRINTED_CLASSES:
      lines += [describe_one(sizes, f"{KIND_TITLES[answer]}, {sizes.group}") for sizes in of_kind]
    else:
      lines.append(f"  {KIND_TITLES[answer]} by class: {len(of_kind)} classes, in analysis.csv")
    without = analysis.classes_without_subset[answer]
    if without:
      lines.append(
        f"  classes without a subset of their images, {KIND_TITLES[answer]}: {name_some(without, most=MAX_NAMED)}"
      )
  if analysis.classes_without_images:
    lines.append(f"  classes without images: {name_some(analysis.classes_without_images, most=MAX_NAMED)}")
  return lines


def describe_matched(correctness: Correctness) -> list[str]:
  matched, title = correctness.matched, f"{KIND_TITLES[correctness.answer]} at {correctness.threshold:g}"
  return [
    f"  {title}, pixels of wrong minus right predictions of the same confidence: {matched.difference:.1f}",
    f"    {matched.num_wrong} wrong, {matched.num_right} right, {matched.num_left_out} without a match; "
    f"whatever the confidence: {matched.unmatched:.1f}",
  ]


def own_correctness(analysis: RunAnalysis) -> list[Correctness]:
  """That of each kind at the run's own threshold, which comes first."""
  first = {}
  for correctness in analysis.correctness:
    first.setdefault(correctness.answer, correctness)
  return list(first.values())


def describe_bins(correctness: Correctness) -> list[str]:
  lines = []
  if correctness.accuracy_by_size:
    title = f"{KIND_TITLES[correctness.answer]} at {correctness.threshold:g}, pixels"
    lines.append(BINS_FORMAT.format(title, "images", "accuracy [95 %]", "confidence"))
  for one in correctness.accuracy_by_size:
    cells = one.accuracy.num_images, f"{one.accuracy:.3f}", f"{one.mean_confidence:.4f}"
    lines.append(BINS_FORMAT.format(f"{one.smallest} to {one.largest}", *cells))
  return lines


def describe_place(positions: Positions, analysis: RunAnalysis) -> list[str]:
  is_most_needed = positions.what == MOST_NEEDED
  what = f"{100 * analysis.fraction:.3g} % needed most" if is_most_needed else KIND_TITLES[positions.what]
  evenness = positions.evenness
  if evenness.dispersion is None or evenness.p_value is None:
    test = f"no test of even use ({evenness.reason})"
  else:
    test = f"unevenness {evenness.dispersion:.3g} (1 if even), p = {evenness.p_value:.2g}"
  return [
    f"  places, {what}: {test}",
    f"    mean row {positions.mean_row:.1f} (even: {positions.even_row:g}), "
    f"mean column {positions.mean_column:.1f} (even: {positions.even_column:g})",
    f"    in the outermost rows and columns {positions.border.percent:.1f} % "
    f"(even: {100 * positions.even_border:.1f} %)",
  ]


def describe_removal(analysis: RunAnalysis) -> list[str]:
  removal = analysis.removal
  if removal is None:
    return []
  lines, shares = [], np.array(removal.shares)
  places = list(dict.fromkeys(int(np.abs(shares - share).argmin()) for share in PRINTED_SHARES))
  for curve in removal.curves:
    numbers = ", ".join(f"{curve.mean[i]:.3f} at {shares[i]:.1%}" for i in places)
    lines.append(f"  mean confidence, {curve.group} ({curve.num_images}): {numbers}")
  return lines


def describe_comparison(comparison: Comparison) -> str:
  lines = [f"the same {comparison.num_images} images, differences to {comparison.labels[0]}:"]
  for missing in comparison.missing:
    if missing.count:
      named = name_some(missing.ids, most=MAX_NAMED, count=missing.count)
      lines.append(f"  {missing.label} lacks {missing.count} images that others have: {named}")
  header = ("run", "accuracy [95 %]", "difference", "ECE", "same class")
  lines.append(COMPARED_FORMAT.format(*header))
  for run in comparison.runs:
    error = run.trust.expected_calibration_error
    lines.append(
      COMPARED_FORMAT.format(
        run.label[-24:],
        f"{run.trust.accuracy:.3f}",
        f"{run.accuracy_difference:.3f}",
        DASH if error is None else f"{error:.3f}",
        run.num_same_target,
      )
    )
  for answer, threshold in dict.fromkeys((sizes.answer, sizes.threshold) for sizes in comparison.sizes):
    of_kind = [sizes for sizes in comparison.sizes if (sizes.answer, sizes.threshold) == (answer, threshold)]
    lines.append(
      f"  {KIND_TITLES[answer]} at {threshold:g}, on the {of_kind[0].pixels.num_images} images that have "
      "a subset in each run:"
    )
    lines.append(
      COMPARED_SIZES_FORMAT.format("run", "with", "mean pixels [95 %]", "median", "difference", "in % of image")
    )
    lines += [
      COMPARED_SIZES_FORMAT.format(
        sizes.label[-24:],
        sizes.with_subset.count,
        f"{sizes.pixels:.1f}",
        DASH if sizes.median_pixels is None else f"{sizes.median_pixels:g}",
        f"{sizes.difference:.1f}",
        f"{sizes.share_difference.percent:.2f}",
      )
      for sizes in of_kind
    ]
  for overlap in comparison.overlaps:
    lines.append(
      f"  overlap of {KIND_TITLES[overlap.answer]}, {overlap.first} and {overlap.second}: "
      f"{overlap.observed:.3f} of either, by chance "
      f"{DASH if overlap.expected is None else f'{overlap.expected:.3f}'} ({overlap.observed.num_images} images)"
    )
  lines += [f"  left out: {what}" for what in comparison.left_out]
  return "\n".join(lines)


def size_rows(analyses: Mapping[str, RunAnalysis]) -> Iterable[dict[str, Any]]:
  for label, analysis in analyses.items():
    for sizes in (*analysis.sizes, *analysis.sizes_by_class):
      percentiles = sizes.percentiles or dict.fromkeys(map(str, PERCENTILES))
      yield {
        "run": label,
        "answer": sizes.answer,
        "threshold": sizes.threshold,
        "class": "" if sizes.group == ALL else sizes.group,
        "num_images": sizes.with_subset.num_images,
        "num_with_subset": sizes.with_subset.count,
        "mean_pixels": sizes.pixels.value,
        "mean_pixels_low": sizes.pixels.low,
        "mean_pixels_high": sizes.pixels.high,
        "mean_share": sizes.mean_share,
        **{f"pixels_at_{percent}_percent": size for percent, size in percentiles.items()},
        **{status: sizes.status.get(status, 0) for status in STATUS_NAMES.values()},
      }
