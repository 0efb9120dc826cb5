"""What an audit says of a suspect, of a class and of itself, in sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from jax_sis.reproduction.audit.reading import STRONG, WEAK, Found, Suspect
from jax_sis.runtime.records import read_record
from jax_sis.statistics.estimates import DASH, Estimate, show_percent
from jax_sis.studies.clusters.summaries import Cluster

CANNOT = (
  "A short list does not mean that the classifier can be trusted. Only two kinds of thing are looked for: places in "
  "the image, and directions of the last layer. A shortcut that moves from image to image, such as a texture or a logo "
  "anywhere, has no place, and one that always comes with the object may have no direction of its own.",
  "Which of these is the object and which is not, only a person can say: the numbers are the same for a wing and for "
  "the sky around it. That is what the pictures are for.",
  "Raising a component happens in the last layer, and perhaps no image can do as much. It says what would suffice, not "
  "what happens: beside it stands how many images do hang on it.",
  "The pixels that suffice are found step by step with gradients, on the mean colour. They need not suffice on another "
  "background, and evidence that is saturated, whose gradient is 0, is missed.",
  "A shortcut that holds in all of these images costs no accuracy here. Images from elsewhere were not asked.",
  "A gap between the ends of the border's ranking goes with the border, and need not come from it: images may be "
  "harder for other reasons.",
)
RULE = (
  f"Ranked by the lower end of the 95 % interval of the images of other classes that it turns into its class. Strong: "
  f"that is {STRONG:.0%} or more; weak: below {WEAK:.0%}; middling: between. A place whose effect could be chance, all "
  "places taken together, is within chance. The first of a long list looks larger than it is."
)


def percent(estimate: Estimate | None, form: str = ".1f") -> str:
  """`12.3 % [11.0, 13.6]`."""
  if estimate is None or estimate.value is None:
    return "not known"
  number, _, interval = show_percent(estimate, form).partition(" ")
  return f"{number} %{f' {interval}' if interval else ''}"


def points(estimate: Estimate) -> str:
  """`-0.3 points [-0.5, 0.0]`."""
  return percent(estimate, "+.1f").replace(" %", " points", 1)


def show_hang(one: Suspect) -> str:
  """How many images hang on it, in a cell."""
  estimate = hang_on(one)
  return DASH if estimate is None else show_percent(estimate)


def hang_on(one: Suspect) -> Estimate | None:
  """Of the images that show it, or that are called the class, the share that loses the class without it."""
  if one.cluster is not None:
    return None if one.cluster.masked is None else one.cluster.masked.difference
  return None if one.taken is None else one.taken.hang


def describe_hang(one: Suspect) -> str:
  if one.cluster is not None:
    masked = one.cluster.masked
    if masked is None:
      return "Not known: no image of these could be asked."
    low, high = (max(0, round(end * one.cluster.num_images)) for end in masked.difference.numbers[1:])
    return (
      f"Where this place is masked, {percent(masked.turned)} of its own images lose the class, and "
      f"{percent(masked.elsewhere)} where as much is masked elsewhere: {points(masked.difference)}. Of its "
      f"{one.cluster.num_images} images that is {low} to {high}."
    )
  if one.taken is None:
    return "Not known."
  hang = one.taken.hang
  return (
    f"Of {hang.num_images} images called {one.of_class}, {hang.count} are called another class without it "
    f"({percent(hang)}); of these {one.taken.were_wrong.count} were wrong before."
  )


def describe_fix(one: Suspect) -> str:
  """What taking it away does."""
  if one.taken is None:
    return "A place cannot be taken away from a classifier; see whether a component of this class is the same thing."
  taken = one.taken
  own, false_calls = taken.own.is_beyond(), taken.false_calls.is_beyond()
  verdict = {
    (0, -1): "It mends something, and no cost is seen.",
    (1, -1): "It mends something, and no cost is seen.",
    (-1, -1): "It mends something, and costs the class itself: the object hangs on it, too.",
    (-1, 0): "It costs the class itself and mends nothing here: the object hangs on it.",
  }.get((own, false_calls), "Nothing is seen to change for sure.")
  return (
    f"{verdict} Images of {one.of_class} that are right: {points(taken.own)}; other images called {one.of_class}: "
    f"{points(taken.false_calls)}; accuracy on all: {points(taken.accuracy)}."
  )


def describe_alone(one: Suspect, evidence: Mapping[str, Any] | None) -> str:
  """What it does by itself."""
  if one.cluster is not None:
    pasted = one.cluster.pasted
    assert pasted is not None
    return (
      f"Pasted into images of other classes, this place makes {percent(pasted.turned)} of them {one.of_class}, and "
      f"the same shape from elsewhere {percent(pasted.elsewhere)}."
    )
  text = f"Raised by itself in the last layer, it makes {percent(one.turns)} of images of other classes {one.of_class}."
  if evidence is None or evidence["smallest"] is None:
    return text
  alone, white, moved = (read_record(Estimate, evidence["is_class"][view]) for view in ("alone", "white", "moved"))
  unseen = read_record(Estimate, evidence["unseen_is_class"])
  return (
    f"{text} {evidence['smallest']} to {evidence['largest']} pixels are enough to raise it, and they alone are called "
    f"{one.of_class} on {alone.count} of {alone.num_images} images; white ones in their place on {white.count}, the "
    f"same shape elsewhere on {moved.count}, and on other images as background in {percent(unseen)}."
  )


def describe_sure(one: Suspect, found: Found) -> str:
  """How sure that is."""
  if one.cluster is not None:
    assert one.cluster.pasted is not None
    pasted = one.cluster.pasted
    said = "more than chance" if one.is_beyond_chance else "no more than chance"
    return (
      f"{pasted.turned.num_images} pairs of images, p = {pasted.p_value:.2g} by an exact test: {said}, all places "
      "taken together."
    )
  apart = found.subject["components_of"] != found.subject["data"]
  where = "images that it was not found on" if apart else "the same images that it was found on, so a little too good"
  return (
    f"The shares are of {one.turns.num_images} images; taking it away was tried on {where}. "
    "Its pixels were looked for on a few images only."
  )


def describe_place(name: str, cluster: Cluster, num_images: int) -> str:
  return (
    f"In {cluster.num_images} of {num_images} images called {name} ({cluster.share:.0%}) the pixels needed most lie "
    f"alike; {percent(cluster.accuracy)} of these are right."
  )


def describe_opening(found: Found) -> str:
  """The page's answer in a few sentences."""
  sentences = []
  if found.data is not None:
    sentences.append(f"{percent(found.data.accuracy)} of {found.data.accuracy.num_images:,} images are right.")
    worst = min(found.data.classes, key=lambda one: one.accuracy.value or 0.0, default=None)
    if worst is not None:
      sentences.append(f"The worst class is {worst.name}, {percent(worst.accuracy)}.")
  strong = [one for one in found.suspects if one.strength == "strong"]
  if strong:
    first = strong[0]
    sentences.append(
      f"{len(strong)} of {len(found.suspects)} things looked at speak strongly for a class by themselves. Look first "
      f"at {first.name}: alone it turns {percent(first.turns)} of images of other classes into {first.of_class}."
    )
  else:
    sentences.append(f"None of {len(found.suspects)} things looked at speaks strongly for a class by itself.")
  return " ".join(sentences)


def describe_border(found: Found) -> str:
  """Whether accuracy goes with the border."""
  assert found.data is not None
  beyond = [one for one in found.data.classes if one.gap.is_beyond() > 0]
  first = max(beyond, key=lambda one: one.gap.value or 0.0, default=None)
  mean = f"Where the border says most of the class accuracy is {points(found.data.gap)} beyond where it says least"
  if first is None:
    return f"{mean}, in the mean over classes; no class by itself shows a gap."
  return f"{mean}, in the mean over classes; the largest gap that shows is {first.name}'s, {points(first.gap)}."


def name_ranks(name: str, suspects: Sequence[Suspect], shown: int) -> str:
  """`1, 4`: where things of this class stand in the list."""
  places = [str(place) for place, one in enumerate(suspects[:shown], start=1) if one.of_class == name]
  return ", ".join(places) or DASH
