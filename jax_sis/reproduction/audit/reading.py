"""What the finished stages of an audit say, and what to look at first."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_sis.report.inputs import Controls
from jax_sis.reproduction.audit import stages
from jax_sis.reproduction.audit.fix import Taken
from jax_sis.reproduction.engine import Done
from jax_sis.runtime.records import read_record, read_records
from jax_sis.statistics.estimates import Estimate, mean_of, share_of, share_of_count
from jax_sis.studies.clusters.program import LINES_FILE as CLUSTER_LINES
from jax_sis.studies.clusters.summaries import ClassClusters, Cluster, rank_clusters
from jax_sis.studies.components.report import find_evidence
from jax_sis.studies.ranking.program import LINES_FILE as RANKING_LINES
from jax_sis.studies.ranking.summaries import ClassRanking, DataRanking

# What turns so many other images into its class for sure is called strong, and what turns fewer, weak.
STRONG, WEAK = 0.1, 0.02
# Of the pixels, how many are a few.
FEW = 1 / 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suspect:
  """Something that speaks for a class by itself: a place in the image, or a component of the class's logit.

  Attributes:
    of_class: the class.
    number: of the cluster or the component, from 1.
    turns: the share of images of other classes that it makes the class: of a place, pasted into them, less the share
      that the same shape from elsewhere makes it; of a component, the pixels that raise it, where they are few.
    cluster: of a place, all that is known of it.
    is_beyond_chance: of a place, whether that is more than chance, over all places; None of a component.
    component: of a component, what `components.json` holds of it.
    taken: of a component, what taking it away does.
  """

  of_class: str
  number: int
  turns: Estimate
  cluster: Cluster | None = None
  is_beyond_chance: bool | None = None
  component: Mapping[str, Any] | None = None
  taken: Taken | None = None

  @property
  def name(self) -> str:
    return f"{self.of_class}: {'place' if self.cluster else 'component'} {self.number}"

  @property
  def least(self) -> float:
    """The lower end of what it turns, by which suspects are ranked."""
    return -1.0 if self.turns.low is None else self.turns.low

  @property
  def strength(self) -> str:
    if self.is_beyond_chance is False:
      return "within chance"
    return "strong" if self.least >= STRONG else "weak" if self.least < WEAK else "middling"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
  """What an audit found; None or empty for what is not done, or cannot be.

  Attributes:
    subject: what `subject.json` holds.
    data: accuracy, and what the border says.
    precision: of the images called each class, those that are it.
    classes: the clusters of each class.
    controls: what may leak of the subsets.
    components: what `components.json` holds.
    taken: what taking each component away does.
    suspects: what to look at first, by how many other images each surely turns.
  """

  subject: Mapping[str, Any]
  data: DataRanking | None
  precision: Mapping[str, Estimate]
  classes: list[ClassClusters]
  controls: Controls | None
  components: Mapping[str, Any]
  taken: list[Taken]
  suspects: list[Suspect]

  @property
  def by_class(self) -> dict[str, ClassRanking]:
    return {} if self.data is None else {one.name: one for one in self.data.classes}


def read_found(done: Mapping[str, Done]) -> Found:
  """What these stages found; the first one must be among them."""
  answers = {name: read_answer(one) for name, one in done.items() if isinstance(one.stage, stages.AuditStage)}
  subject = answers[stages.SUBJECT]
  ranked = answers.get(stages.RANKING)
  data = None if ranked is None else read_record(DataRanking, ranked["data"][0], "ranking.json")
  classes: list[ClassClusters] = []
  if stages.CLUSTERS in done:
    lines = done[stages.CLUSTERS].folder / CLUSTER_LINES
    classes = [read_record(ClassClusters, record, CLUSTER_LINES) for record in read_records(lines)]
  controls = answers.get(stages.CONTROLS)
  components = answers.get(stages.COMPONENTS, {})
  fixed = answers.get(stages.FIX, {"components": []})["components"]
  taken = [read_record(Taken, one, "fix.json") for one in fixed]
  return Found(
    subject=subject,
    data=data,
    precision={} if data is None else find_precision(done[stages.RANKING], subject["class_names"]),
    classes=classes,
    controls=None if controls is None else read_record(Controls, controls, "controls.json"),
    components=components,
    taken=taken,
    suspects=rank_suspects(classes, components, taken, shares_of(subject)),
  )


def read_answer(one: Done) -> Any:
  assert isinstance(one.stage, stages.AuditStage)
  if isinstance(one.stage, stages.SubsetsStage):
    return None
  return json.loads((one.folder / one.stage.file).read_bytes())


def find_precision(one: Done, class_names: list[str]) -> dict[str, Estimate]:
  """Of the images called each class, the share that are it."""
  images = [image for record in read_records(one.folder / RANKING_LINES) for image in record["images"]]
  known = [(image["label"], image["predicted"]) for image in images if not image["error"]]
  labels, predicted = np.array(known, np.int64).reshape(-1, 2).T
  return {name: share_of(labels[predicted == number] == number) for number, name in enumerate(class_names)}


def shares_of(subject: Mapping[str, Any]) -> dict[str, float]:
  """The share of the judged images that are of each class."""
  counts = subject["num_images_judged"]
  return {name: count / max(sum(counts.values()), 1) for name, count in counts.items()}


def turn_by_few(evidence: Mapping[str, Any], share: float, num_features: int, *, seed: int) -> Estimate:
  """The share of images of other classes that a few pixels that raise a component make the class.

  Args:
    evidence: what is known of the pixels; an image on which there are none, or not few, counts as 0.
    share: of the class among the images that the pixels are put into, all of which are called it.
    num_features: of an image.
    seed: of the interval.
  """
  turned = [
    (image["unseen_is_class"] - share) / (1 - share) if 0 < len(image["features"]) <= FEW * num_features else 0.0
    for image in evidence["images"]
  ]
  found = mean_of(np.maximum(turned, 0.0), seed=seed)
  if found.low is None or found.value is None or found.low < found.value:
    return found
  # All alike: their resamples are, too, and other images may be otherwise.
  others = share_of_count(0, len(turned)).numbers[-1]
  return dataclasses.replace(found, low=max(found.value - others, 0.0), high=min(found.value + others, 1.0))


def rank_suspects(
  classes: list[ClassClusters],
  components: Mapping[str, Any],
  taken: list[Taken],
  shares: Mapping[str, float],
  *,
  seed: int = 0,
) -> list[Suspect]:
  """Places, and components whose pixels were found, first what surely turns most images of other classes.

  Args:
    classes: the clusters.
    components: what `components.json` holds.
    taken: what taking components away does.
    shares: of each class among the images, fewer than all.
    seed: of intervals.
  """
  num_features = int(np.prod(components.get("search", {"grid": ()})["grid"]))
  found = [
    Suspect(
      of_class=one.name,
      number=one.number + 1,
      turns=one.cluster.pasted.difference,
      cluster=one.cluster,
      is_beyond_chance=one.is_beyond_chance,
    )
    for one in rank_clusters(classes)
    if one.cluster.pasted is not None
  ]
  by_name = {(one.of_class, one.number): one for one in taken}
  found += [
    Suspect(
      of_class=component["of_class"],
      number=component["number"],
      turns=turn_by_few(evidence, shares[component["of_class"]], num_features, seed=seed),
      component=component,
      taken=by_name.get((component["of_class"], component["number"])),
    )
    for one in components.get("classes", ())
    for component in one["components"]
    if (evidence := find_evidence(components, component)) is not None
  ]
  return sorted(found, key=lambda suspect: (-suspect.least, -(suspect.turns.value or 0.0), suspect.name))
