"""What `jax-sis ranking` found: printed, and as JSON, CSV and pictures."""

import dataclasses
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from jax_sis.classifiers.on_images import ClassifierOnImages
from jax_sis.core.messages import name_some
from jax_sis.results.answer import describe_provenance, encode_csv, write_answer
from jax_sis.results.folder import Folder
from jax_sis.runtime.records import to_json
from jax_sis.statistics.estimates import DASH, show_percent
from jax_sis.studies.ranking import figure
from jax_sis.studies.ranking.config import RankingConfig
from jax_sis.studies.ranking.summaries import ClassRanking, DataRanking, Judged

WIDTH = 120
MAX_NAMED = 5
# Of more classes, those with the largest gaps.
MAX_CLASSES = 20
CLASS_FORMAT = "{:<24} {:>7} {:>19} {:>19} {:>19} {:>20} {:>8}"
CLASS_HEADER = ("class", "images", "accuracy, %", "says most of it", "says least", "gap, points", "alone, %")
DATA_FORMAT = "{:<40} {:>7} {:>19} {:>20} {:>17} {:>22} {:>19}"
DATA_HEADER = ("data", "images", "accuracy, %", "beyond the first", "region alone, %", "most called", "gap, points")
# The region alone is taken for one class this many times as often as all classes alike would be.
MUCH_TOO_OFTEN = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranking:
  """What was ranked.

  Attributes:
    data: the rankings of each data set, that of --data first.
    judged: all images of each, by its name, as they were read.
    images: the classifier, and the images of --data.
    region: the pixels that were shown alone; None where a component ranks.
    spec: what fixed the results.
  """

  data: tuple[DataRanking, ...]
  judged: Mapping[str, tuple[Judged, ...]]
  images: ClassifierOnImages
  region: Bool[np.ndarray, "H W"] | None
  spec: Mapping[str, Any]


def choose_classes(classes: Sequence[ClassRanking]) -> list[ClassRanking]:
  """The classes that tables and pictures have, the largest gaps first."""
  return sorted(classes, key=lambda one: (-(one.gap.value or 0), one.name))[:MAX_CLASSES]


def make_class_table(data: DataRanking) -> str:
  lines = [CLASS_FORMAT.format(*CLASS_HEADER)]
  for one in choose_classes(data.classes):
    cells = [show_percent(share) for share in (one.accuracy, one.highest, one.lowest, one.gap)]
    alone = DASH if one.alone is None else f"{one.alone.percent.value:.1f}"
    lines.append(CLASS_FORMAT.format(one.name[:24], f"{one.accuracy.num_images:,}", *cells, alone))
  more = len(data.classes) - len(lines) + 1
  lines += [f"{more} more classes are in ranking.json."] if more > 0 else []
  return "\n".join(lines)


def make_data_table(data: Sequence[DataRanking]) -> str:
  lines = [DATA_FORMAT.format(*DATA_HEADER)]
  for one in data:
    called = DASH if one.share_called is None else f"{one.called[:12]} {one.share_called:.1%}".split(" [")[0]
    lines.append(
      DATA_FORMAT.format(
        one.name if len(one.name) <= 40 else f"...{one.name[-37:]}",
        f"{one.accuracy.num_images:,}",
        show_percent(one.accuracy),
        DASH if one.beyond is None else show_percent(one.beyond),
        show_percent(one.alone),
        called,
        show_percent(one.gap),
      )
    )
  return "\n".join(lines)


def describe_reading(found: Ranking, config: RankingConfig) -> str:
  """What the first data set shows, and whether the region alone says anything but one class."""
  first = found.data[0]
  if not first.classes:
    return "No class has two images, so that none can be ranked."
  beyond = [one for one in first.classes if one.gap.is_beyond() > 0]
  sentences = [
    f"Images of whose class {config.ranked_by} says most are right by {first.gap.percent:.1f} points more often than "
    f"those where it says least, in the mean of {len(first.classes)} classes.",
  ]
  if beyond:
    named = [f"{one.name} ({one.gap.percent.value:.0f})" for one in choose_classes(beyond)]
    sentences.append(f"Beyond chance are {name_some(named, most=MAX_NAMED)}.")
  else:
    sentences.append("No class by itself is beyond chance.")
  if first.share_called is None:
    return " ".join(sentences)
  num_classes = len(found.images.class_names)
  sentences.append(f"The region alone is taken for '{first.called}' in {first.share_called:.1%} of the images.")
  if first.share_called.is_beyond(MUCH_TOO_OFTEN / num_classes) > 0 and (
    config.removal == "value" and config.completion is None
  ):
    sentences.append(
      "That is more than twice its part, so that what stands in the place of the rest says much by itself: rank again "
      "with --removal layer, or with --completion images."
    )
  return " ".join(sentences)


def describe_criterion(region: Bool[np.ndarray, "H W"] | None, config: RankingConfig) -> str:
  """What images are ranked by, and what stands in the place of the rest."""
  if region is None:
    return f"{config.ranked_by} of each class, of {config.components}"
  return f"{int(region.sum())} of {region.size} pixels ({config.region}), {config.shown_elsewhere}"


def describe_tables(found: Ranking, config: RankingConfig) -> str:
  measure = "its log-odds on that alone" if config.component is None else "how much of it an image holds"
  caution = (
    "Alone: images whose class the region alone gives. A gap says that accuracy goes with the region, not that it is "
    "the cause: images may be harder for other reasons."
    if config.component is None
    else "A component is a part of the class's own logit, so that little of it makes for errors by itself; a gap says "
    "how much accuracy goes with it, and only a person that it is not the object."
  )
  return (
    "In brackets 95 % intervals: of shares Wilson's, of differences Newcombe's, of means over classes by the classes' "
    f"own. Ranked by {describe_criterion(found.region, config)}: each class by {measure}. Its ends are the "
    f"{config.ends:.0%} where {config.ranked_by} says most and least of it, and the gap is the accuracy on whole "
    f"images of the one minus the other. {caution}"
  )


def write_report(folder: Folder, found: Ranking, config: RankingConfig) -> dict[str, Any]:
  """Prints what was found and writes it; returns what `ranking.json` holds."""
  reading, notes = describe_reading(found, config), describe_tables(found, config)
  print(f"\n{make_class_table(found.data[0])}\n\n{make_data_table(found.data)}\n")
  print("\n".join(textwrap.fill(text, WIDTH) for text in (reading, notes)))
  unknown = {name: {image.id: image.error for image in images if image.error} for name, images in found.judged.items()}
  for name, images in unknown.items():
    if images:
      print(f"Left out of {name}: {name_some(list(images), most=MAX_NAMED)}.")
  answer = {
    "format": found.spec["format"],
    "provenance": describe_provenance(folder, found.spec, command=config.command, seed=config.seed),
    "region": None if found.region is None else config.region,
    "component": config.component,
    "num_pixels": None if found.region is None else int(found.region.sum()),
    "shown_elsewhere": None if found.region is None else config.shown_elsewhere,
    "ends": config.ends,
    "data": [to_json(one) for one in found.data],
    "left_out": unknown,
    "reading": reading,
    "notes": notes,
  }
  classes = choose_classes(found.data[0].classes)
  files = {"ranking.csv": encode_csv(make_rows(found))}
  if classes:
    note = figure.OF_A_REGION if config.component is None else figure.OF_A_COMPONENT
    title = f"Accuracy along the ranking: {found.images.classifier.model_name}"
    files["ranking.png"] = figure.draw_gaps(classes, found.data, title=title, ranked_by=config.ranked_by)
    files["ends.png"] = figure.draw_ends(classes, read_ends(found, classes), ranked_by=config.ranked_by, note=note)
  return write_answer(folder, "ranking.json", answer, files)


def read_ends(found: Ranking, classes: Sequence[ClassRanking]) -> dict[str, tuple[Any, str]]:
  """The picture and caption of each image that is shown, by id."""
  judged = found.judged[found.data[0].name]
  places = {image.id: place for place, image in enumerate(judged)}
  shown = {}
  for one in classes:
    for name in (*one.most[: figure.NUM_SHOWN], *one.least[: figure.NUM_SHOWN]):
      image = judged[places[name]]
      predicted = found.images.name_class(image.predicted)
      caption = f"{name}\n{image.evidence:+z.1f}\n{predicted}"
      picture = found.images.source[places[name]]["image"]
      if found.region is not None:
        picture = figure.darken_rest(picture, found.region)
      shown[name] = picture, caption
  return shown


def make_rows(found: Ranking) -> Iterable[dict[str, Any]]:
  """A line an image, as they were read."""
  for name, images in found.judged.items():
    for image in images:
      if not image.error:
        yield {
          "data": name,
          "image": image.id,
          "label": found.images.name_class(image.label if image.label is not None else -1),
          "predicted": found.images.name_class(image.predicted),
          "probability": image.probability,
          "evidence": image.evidence,
          "region_alone": found.images.name_class(image.alone),
        }
