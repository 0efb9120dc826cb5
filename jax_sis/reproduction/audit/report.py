"""The page of `jax-sis audit`: first what to look at, then each class, then how sure it all is."""

from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from jax_sis.classifiers.on_images import ClassifierOnImages
from jax_sis.display import beside, page, pixels
from jax_sis.report.controls import make_kind
from jax_sis.reproduction.audit import words
from jax_sis.reproduction.audit.config import SIZES
from jax_sis.reproduction.audit.reading import Found, Suspect
from jax_sis.reproduction.engine import describe_seconds
from jax_sis.statistics.estimates import DASH, show_percent
from jax_sis.studies.clusters.figure import enlarge
from jax_sis.studies.clusters.summaries import ClassClusters, Cluster
from jax_sis.studies.components import page as component_page
from jax_sis.studies.components.report import find_evidence

# Of the list: how many lines it has, and how many of them with pictures.
NUM_LISTED, NUM_SHOWN = 15, 8
# Of more classes, those of the list and then the worst.
MAX_CLASSES = 20


def make_report(content: Mapping[str, Any], found: Found, images: ClassifierOnImages) -> bytes:
  """The page as the bytes of its file.

  Args:
    content: what `audit.json` holds.
    found: what the stages found.
    images: the classifier with the images that it was judged on.
  """
  pictures = Pictures(found, images)
  sections = [
    list_section(found, pictures),
    classes_section(found),
    *(class_section(name, found, pictures) for name in choose_classes(found)),
    sure_section(content, found),
    cannot_section(found),
    made_section(content),
  ]
  return page.document(
    f"Can {images.classifier.model_name} be trusted on {images.data_name}?",
    sections,
    lead="For a person who has to decide: what this classifier relies on, class by class, how many images hang on it, "
    "what taking it away does, and how sure that is. In brackets are 95 % intervals.",
    opening=[page.paragraph(words.describe_opening(found), kind="answer")],
  )


class Pictures:
  """The pictures of places and components; each image is read when it is shown."""

  def __init__(self, found: Found, images: ClassifierOnImages):
    self._found = found
    self._judged = images
    self._places = {name: place for place, name in enumerate(self._judged.source.ids())} if found.classes else {}

  def of_place(self, cluster: Cluster) -> Element:
    """Where the subsets of a cluster lie, and the images whose subsets are most like that."""
    height, width, _ = self._judged.classifier.input_shape
    shape = (height, width)
    mean_map = np.array(cluster.mean_map)
    region = np.zeros(mean_map.size, bool)
    region[list(cluster.region)] = True
    edges = enlarge(region.reshape(mean_map.shape), shape)
    heat = beside.paint_heat(enlarge(mean_map, shape)[..., None])
    shown = [
      (
        "where they lie",
        page.Picture(png=pixels.encode_png(heat), alt="How often each pixel is kept.", is_pixelated=True),
      )
    ]
    for name in cluster.nearest:
      record = self._judged.source[self._places[name]]
      marked = pixels.draw_borders(record["image"], edges.astype(np.int32))
      picture = page.Picture(png=pixels.encode_png(marked), alt=f"{name}, with the edges of the place")
      shown.append((self._judged.name_class(record["label"]) or name, picture))
    return page.thumbnails(shown, "Where the pixels needed most lie, and the images most like that; lines: the place")

  def of_component(self, component: Mapping[str, Any]) -> list[Element]:
    """The images in which a component is largest, and its pixels."""
    source, of_class = self._judged.source, component["of_class"]
    blocks = [
      component_page.show_images(
        f"Images of {of_class} with most of it, and their confidence", component["own"], source
      ),
      component_page.show_images(
        f"Images of other classes with most of it, and their confidence in {of_class}", component["others"], source
      ),
    ]
    evidence = find_evidence(self._found.components, component)
    if evidence is not None:
      blocks += component_page.show_evidence(evidence, of_class, source, self._judged.grid)[1:]
    return blocks


def list_section(found: Found, pictures: Pictures) -> Element:
  listed = found.suspects[:NUM_LISTED]
  rows = [
    [
      f"{place}. {one.name}",
      one.strength,
      show_percent(one.turns),
      words.show_hang(one),
      DASH if one.taken is None else show_percent(one.taken.accuracy, "+.1f"),
    ]
    for place, one in enumerate(listed, start=1)
  ]
  header = ("what", "strength", "other images it turns, %", "images that hang on it, %", "accuracy without it, points")
  table = page.table(f"The first {len(listed)} of {len(found.suspects)}", header, rows, num_text_columns=2)
  cards = [show_suspect(place, one, found, pictures) for place, one in enumerate(listed[:NUM_SHOWN], start=1)]
  answer = "Nothing was found to look at."
  if listed:
    answer = f"{listed[0].name}, then {', '.join(one.name for one in listed[1:4]) or 'nothing else'}."
  blocks = [page.paragraph(words.RULE, kind="soft"), *([table] if rows else []), *cards]
  return page.section("Look at these first", name="first", answer=answer, blocks=blocks)


def show_suspect(place: int, one: Suspect, found: Found, pictures: Pictures) -> Element:
  """One of the list: its pictures, and the four questions."""
  evidence = None if one.component is None else find_evidence(found.components, one.component)
  facts = {
    "what it does alone": words.describe_alone(one, evidence),
    "how many images hang on it": words.describe_hang(one),
    "what taking it away does": words.describe_fix(one),
    "how sure that is": words.describe_sure(one, found),
  }
  if one.cluster is not None:
    total = next(group.num_images for group in found.classes if group.name == one.of_class)
    blocks = [page.paragraph(words.describe_place(one.of_class, one.cluster, total)), pictures.of_place(one.cluster)]
  else:
    assert one.component is not None
    text = f"It carries {one.component['share']:.0%} of how the class's logit varies over its images."
    blocks = [page.paragraph(text), *pictures.of_component(one.component)]
  return page.section(f"{place}. {one.name}", level=3, blocks=[*blocks, page.description(facts)])


def classes_section(found: Found) -> Element:
  """All classes in one table."""
  if found.data is None:
    return page.section("Class by class", name="classes", answer="Not known.", blocks=[])
  clusters = {one.name: one for one in found.classes}
  rows = [
    [
      one.name,
      f"{one.accuracy.num_images:,}",
      show_percent(one.accuracy),
      show_percent(found.precision.get(one.name)),
      str(len(clusters[one.name].clusters)) if one.name in clusters else DASH,
      show_percent(one.gap, "+.1f"),
      words.name_ranks(one.name, found.suspects, NUM_LISTED),
    ]
    for one in found.data.classes
  ]
  header = (
    "class",
    "images",
    "of its images, right, %",
    "of those called it, right, %",
    "clusters of subsets",
    "border gap, points",
    "places in the list",
  )
  return page.section(
    "Class by class",
    name="classes",
    answer=words.describe_border(found),
    blocks=[
      page.table("All classes", header, rows),
      page.paragraph(
        "Border gap: accuracy of the tenth of a class of which the outermost pixels alone, other images in place "
        "of the rest, say most, less that of the tenth of which they say least.",
        kind="soft",
      ),
    ],
  )


def choose_classes(found: Found) -> list[str]:
  """The classes that get a section, in their order."""
  names = list(found.by_class) or [one.name for one in found.classes]
  listed = {one.of_class for one in found.suspects[:NUM_LISTED]}
  ranked = sorted(names, key=lambda name: (name not in listed, accuracy_of(name, found)))[:MAX_CLASSES]
  return [name for name in names if name in ranked]


def accuracy_of(name: str, found: Found) -> float:
  one = found.by_class.get(name)
  return 1.0 if one is None or one.accuracy.value is None else one.accuracy.value


def class_section(name: str, found: Found, pictures: Pictures) -> Element:
  """What a class's subsets share, and what else is known of it that the list does not show."""
  shown = {one.name for one in found.suspects[:NUM_SHOWN]}
  own = [one for one in found.suspects if one.of_class == name]
  group = next((one for one in found.classes if one.name == name), None)
  blocks = [page.paragraph(describe_class(name, found)), *describe_group(name, group)]
  for number, cluster in enumerate(() if group is None else group.clusters, start=1):
    suspect = next((one for one in own if one.cluster is not None and one.number == number), None)
    told = [page.paragraph(words.describe_place(name, cluster, group.num_images))] if group else []
    if suspect is not None and suspect.name in shown:
      told.append(page.paragraph("Shown in the list above."))
    else:
      texts = [] if suspect is None else [words.describe_alone(suspect, None), words.describe_hang(suspect)]
      told += [pictures.of_place(cluster), *map(page.paragraph, texts)]
    blocks.append(page.section(f"{name}: place {number}", level=3, blocks=told))
  for one in own:
    if one.component is not None and one.name not in shown:
      texts = [
        words.describe_alone(one, find_evidence(found.components, one.component)),
        words.describe_hang(one),
        words.describe_fix(one),
      ]
      heading = f"{one.name}: {one.component['share']:.0%} of the logit's variance"
      blocks.append(page.folded(heading, [*map(page.paragraph, texts), *pictures.of_component(one.component)]))
  return page.section(name, blocks=blocks, name=f"class-{list_number(name, found)}")


def list_number(name: str, found: Found) -> int:
  return found.subject["class_names"].index(name) if name in found.subject["class_names"] else -1


def describe_class(name: str, found: Found) -> str:
  one = found.by_class.get(name)
  if one is None:
    return "None of the images that were judged is of this class."
  return (
    f"Of {one.accuracy.num_images} images {words.percent(one.accuracy)} are right, and of those called {name} "
    f"{words.percent(found.precision.get(name))}. Places in the list: "
    f"{words.name_ranks(name, found.suspects, NUM_LISTED)}."
  )


def describe_group(name: str, group: ClassClusters | None) -> list[Element]:
  if group is None or group.reason:
    reason = "no images that are called it were searched" if group is None else group.reason
    return [page.paragraph(f"What its subsets share is not known: {reason}.", kind="note")]
  count = len(group.clusters)
  share = "lie in one way" if count == 1 else f"lie in {count} ways"
  return [page.paragraph(f"The pixels needed most of {group.num_images} images called {name} {share}.")]


def sure_section(content: Mapping[str, Any], found: Found) -> Element:
  """Numbers of images, the controls, and what the intervals leave out."""
  size = SIZES[content["size"]]
  num_images, num_seen = (sum(found.subject[f"num_images_{name}"].values()) for name in ("judged", "components"))
  num_searched = sum(one.num_images for one in found.classes)
  facts = {
    "images judged": f"{0 if found.data is None else found.data.accuracy.num_images:,} of {num_images:,} with labels",
    "images searched": f"{num_searched:,}, {size.per_step} pixels a step",
    "components": found.components.get("refusal") or f"from {num_seen:,} images",
    "intervals": "95 %, over images: the classifier is the one it is, and another training may rely on other things",
    "seed": "one, of what is drawn by chance; the number of clusters may change with another",
  }
  blocks: list[Element] = [page.description(facts)]
  if content["size"] != "full":
    blocks.insert(0, page.paragraph("This is a first look at few images: take --preset full to decide.", kind="note"))
  if found.controls is not None:
    blocks += [make_kind(found.controls, kind) for kind in found.controls.kinds.values()]
  answer = "The list is a list of what to look at, each number with its interval; it is no verdict."
  return page.section("How sure all this is", name="sure", answer=answer, blocks=blocks)


def cannot_section(found: Found) -> Element:
  items = [page.element("li", page.paragraph(text)) for text in words.CANNOT]
  refusal = found.components.get("refusal")
  notes = [page.paragraph(f"This classifier has no components here: {refusal}", kind="note")] if refusal else []
  return page.section("What this cannot say", name="cannot", blocks=[*notes, page.element("ul", *items)])


def made_section(content: Mapping[str, Any]) -> Element:
  provenance = content["provenance"]
  rows = [
    [stage["name"], stage["title"], describe_seconds(stage["seconds"]), stage["folder"]] for stage in content["stages"]
  ]
  facts = {
    "time": f"{describe_seconds(content['seconds'])}, the sum of the stages, on {provenance['num_cores']} cores",
    "versions": ", ".join(f"{name} {version}" for name, version in provenance["versions"].items()),
    "commit": str(provenance["commit"]),
  }
  fix = (
    "To take components away, set is_spurious to true in labels.json of the stage components and give the command that "
    "its components.json names: it writes the mended classifier, which every --checkpoint takes."
  )
  return page.section(
    "How it was made, and how to go on",
    name="made",
    blocks=[
      page.command(provenance["command"]),
      page.description(facts),
      page.table("Stages", ("stage", "what", "time", "folder"), rows, num_text_columns=4),
      page.paragraph(fix),
    ],
  )
