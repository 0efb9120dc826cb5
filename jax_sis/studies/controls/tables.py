"""Leak controls as text: a table for each kind of subset, and what it says, put together from the numbers."""

import textwrap
from collections.abc import Mapping, Sequence

from jax_sis.statistics.estimates import Estimate
from jax_sis.studies.controls.outcomes import OTHER_FILL_DISTANCE, ControlSummary, FillSummary, Share
from jax_sis.studies.controls.views import CONTROLS, EMPTY, SUBSET
from jax_sis.studies.controls.wrong_class import CLASS_TITLES, PREDICTED, TowardsSummary

LINE = "{:<29} {:>6}  {:<21}  {:<21}  {:>10}  {:<22}"


def make_table(summaries: Sequence[ControlSummary], threshold: float) -> str:
  """A line a control."""
  titles = ("shown", "images", "keeps the class, %", f"at {threshold:g}, %", "confidence", "class kept, change")
  lines = [LINE.format(*titles)]
  for summary in summaries:
    lines.append(
      LINE.format(
        CONTROLS[summary.name].title,
        summary.num_images,
        format_share(summary.keeps_class),
        format_share(summary.is_sufficient),
        "-" if summary.confidence is None else f"{summary.confidence:.4f}",
        "-" if summary.name == SUBSET else format_change(summary.keeps_class_change),
      )
    )
  return "\n".join(line.rstrip() for line in lines)


def note_similar_fills(summaries: Sequence[ControlSummary]) -> str:
  """Which fills are nearly that of the search, in a line; empty where none is."""
  titles = [
    f"{CONTROLS[summary.name].title} ({summary.fill_distance:.2f})"
    for summary in summaries
    if CONTROLS[summary.name].group == "fill" and summary.fill_distance is not None and not summary.is_other_fill
  ]
  if not titles:
    return ""
  return (
    f"Nearly the search's own fill (median distance in normalised units, below {OTHER_FILL_DISTANCE:g}): "
    f"{', '.join(titles)}"
  )


def format_share(share: Share | None) -> str:
  """`94.1 [73.0, 99.0]`, in percent."""
  return "-" if share is None else f"{100 * share.share:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def format_change(change: Estimate | None) -> str:
  """`-5.9 [-17.6, +0.0]`, in points of percent."""
  return "-" if change is None else f"{100 * change.mean:+.1f} [{100 * change.low:+.1f}, {100 * change.high:+.1f}]"


def describe_controls(summaries: Sequence[ControlSummary], fill_summary: FillSummary, threshold: float) -> str:
  """What the table of one kind of subset says, in a paragraph."""
  by_name = {summary.name: summary for summary in summaries}
  subset = by_name[SUBSET]
  if not subset.num_images:
    return "The logits on the subsets are not finite; the controls say nothing of them."
  sentences = [
    f"Of {subset.num_images} subsets, {tell(subset.keeps_class)} keep the class by themselves and "
    f"{tell(subset.is_sufficient)} reach {threshold:g}, with a mean confidence of {subset.confidence:.4f}.",
    describe_surroundings(by_name),
    describe_fills(by_name, fill_summary),
    describe_shape(by_name),
    describe_place(by_name),
    f"Without the subset, the rest of the image keeps the class in {tell(by_name['complement'].keeps_class)}.",
  ]
  return " ".join(sentences)


def tell(share: Share | None) -> str:
  """A share with its interval, as it stands in a sentence."""
  if share is None:
    return "no image that this could be tried on"
  return f"{100 * share.share:.0f}% [{100 * share.low:.0f}, {100 * share.high:.0f}]"


def judge_change(change: Estimate | None, *, below: str, above: str) -> str:
  """One of two texts where the interval lies on one side of 0, else that it does not."""
  if change is None:
    return "nothing to compare"
  if change.high < 0:
    return below
  return above if change.low > 0 else "no difference that so many images could show"


def describe_surroundings(by_name: Mapping[str, ControlSummary]) -> str:
  """What putting pixels back does."""
  one, two = by_name["dilated_1"], by_name["dilated_2"]
  verdict = judge_change(
    one.keeps_class_change,
    below="fewer than alone: the pixels next to a subset speak against what it says by itself",
    above="more than alone: the pixels next to a subset say the same",
  )
  return (
    f"With the cells around them put back, {tell(one.keeps_class)} still keep the class ({verdict}), with two cells "
    f"around them {tell(two.keeps_class)}."
  )


def describe_fills(by_name: Mapping[str, ControlSummary], fill_summary: FillSummary) -> str:
  """What other backgrounds do."""
  tried = [
    (summary.keeps_class, CONTROLS[summary.name].title)
    for summary in by_name.values()
    if summary.is_other_fill and summary.keeps_class is not None
  ]
  if not tried:
    return "No other background differs from that of the search."
  least, most = min(tried, key=share_of), max(tried, key=share_of)
  text = f"On other backgrounds, from {tell(least[0])} ({least[1]}) to {tell(most[0])} ({most[1]}) keep it"
  if fill_summary.one_fill_only is None or fill_summary.every_fill is None:
    return f"{text}; no subset reaches the threshold, so that none can depend on one fill."
  return (
    f"{text}; of {fill_summary.num_images} subsets that reach the threshold and leave something to fill, "
    f"{tell(fill_summary.one_fill_only)} do so with no fill that differs from the search's, and "
    f"{tell(fill_summary.every_fill)} with every one; of those that keep the class, "
    f"{tell(fill_summary.one_fill_class)} do so with no fill that differs."
  )


def share_of(tried: tuple[Share, str]) -> float:
  """By which fills are compared."""
  return tried[0].share


def describe_shape(by_name: Mapping[str, ControlSummary]) -> str:
  """What the shape alone gives away."""
  white, mean, empty = by_name["shape_white"], by_name["shape_mean"], by_name[EMPTY]
  moved = by_name["moved_white"]
  verdict = judge_change(
    white.keeps_class_over_reference,
    below="fewer than moved elsewhere",
    above="more than moved elsewhere: the shape, and where it lies, leaks the class",
  )
  return (
    f"The mask's shape alone gives the class in {tell(white.keeps_class)} where it is white ({verdict}) and in "
    f"{tell(mean.keeps_class)} in the mean colour of its pixels; white and moved elsewhere it is "
    f"{tell(moved.keeps_class)}, with nothing at all {tell(empty.keeps_class)}."
  )


def describe_place(by_name: Mapping[str, ControlSummary]) -> str:
  """What as many pixels elsewhere do."""
  random, moved = by_name["random"], by_name["moved"]
  verdict = judge_change(
    random.keeps_class_change,
    below="fewer than the subsets: it matters which these are",
    above="more than the subsets",
  )
  return (
    f"As many cells at random keep the class in {tell(random.keeps_class)} ({verdict}), the same shape moved elsewhere "
    f"in {tell(moved.keeps_class)}."
  )


def make_class_table(summaries: Sequence[TowardsSummary]) -> str:
  """A line a class that evidence was looked for."""
  form = "{:<39} {:>6}  {:<21}  {:>11}  {:<28}"
  lines = [form.format("evidence for", "images", "found, %", "median size", "mean size, change")]
  for summary in summaries:
    change = summary.size_change
    compared = "-"
    if change is not None and summary.name != PREDICTED:
      compared = f"{change.mean:+.1f} [{change.low:+.1f}, {change.high:+.1f}] on {summary.num_paired}"
    lines.append(
      form.format(
        CLASS_TITLES[summary.name],
        summary.found.num_images,
        format_share(summary.found),
        "-" if summary.median_size is None else f"{summary.median_size:g}",
        compared,
      )
    )
  return "\n".join(line.rstrip() for line in lines)


def describe_classes(summaries: Sequence[TowardsSummary], *, max_features: int, threshold: float) -> str:
  """What the searches towards classes that are not predicted say, in a paragraph."""
  sentences = []
  for summary in summaries:
    size = "" if summary.median_size is None else f", with a median of {summary.median_size:g} cells"
    sentence = (
      f"For {CLASS_TITLES[summary.name]}, the search, which adds at most {max_features} cells, finds a subset that "
      f"makes it {threshold:g} probable on {tell(summary.found)} of {summary.found.num_images} images{size}"
    )
    if summary.name != PREDICTED:
      sentence += describe_size(summary)
    sentences.append(f"{sentence}.")
  return " ".join(sentences)


def describe_size(summary: TowardsSummary) -> str:
  """How much more it takes than the predicted class, where both have a subset."""
  change = summary.size_change
  if change is None:
    return "; no image has one for this class and for the predicted one"
  verdict = judge_change(
    change,
    below=f"smaller by {-change.mean:.1f} cells on average",
    above=f"larger by {change.mean:.1f} cells on average",
  )
  return f"; on the {summary.num_paired} images with one for the predicted class, too, compared with that: {verdict}"


def wrap(paragraph: str) -> str:
  """A paragraph in lines that fit a terminal."""
  return "\n".join(textwrap.wrap(paragraph, 118))
