"""`jax-sis ranking`: the images of each class, ranked by what a region alone, or a component, says of the class.

Spuriosity rankings (Moayeri et al., NeurIPS 2023) do so by features that a person has called spurious. A region that
does not hold the object says as much without a person. Where accuracy falls from one end to the other, the classifier
relies on it.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from jax_sis import results
from jax_sis.classifiers.on_images import ClassifierOnImages, describe_set, open_images, open_on_images
from jax_sis.data.labels import NO_LABEL
from jax_sis.runtime.progress import Progress
from jax_sis.runtime.records import append_record, read_records
from jax_sis.studies.ranking import report
from jax_sis.studies.ranking.config import RankingConfig
from jax_sis.studies.ranking.criterion import Criterion, open_criterion
from jax_sis.studies.ranking.report import Ranking
from jax_sis.studies.ranking.summaries import DataRanking, Judged, rank_data

FORMAT = "jax_sis.ranking/1"
LINES_FILE = "ranking.jsonl"


def ranking(config: RankingConfig) -> dict[str, Any]:
  """Ranks the images, or goes on with it; prints tables and their reading, writes JSON, CSV and pictures.

  Args:
    config: what to rank, see RankingConfig.

  Returns:
    What `ranking.json` holds.

  Raises:
    ValueError: as for `study`.
    StorageError: the folder cannot be written.
  """
  found = study(config, tell_fn=lambda line: print(line, flush=True))
  return report.write_report(results.open_folder(config.out), found, config)


def study(config: RankingConfig, *, tell_fn: Callable[[str], object] = lambda _: None) -> Ranking:
  """Ranks the images, or goes on with it.

  Args:
    config: what to rank.
    tell_fn: is told what is read and done, in lines.

  Returns:
    The rankings of each data set.

  Raises:
    ValueError: a setting is wrong or does not fit the checkpoint or the data, no image has a label, or the folder holds
      another run.
    StorageError: the folder cannot be written.
  """
  results.check_writable(results.open_folder(config.out))
  images = open_on_images(config, batch_size=config.batch_size, ids=config.ids)
  images.check_classifier(removal=config.removal)
  criterion = open_criterion(config, images)
  data = {config.data: images}
  for name in config.beside:
    data[name] = dataclasses.replace(images, source=open_images(config, images.classifier, name, None))
  spec = results.settle_spec(config.out, make_spec(images, config, criterion), command_fn=config.command_in)
  for one in data.values():
    for note in one.source.notes:
      tell_fn(note)
  tell_fn(
    f"Ranking by {report.describe_criterion(criterion.region, config)}: "
    f"{images.classifier.model_name} on {' and '.join(one.data_name for one in data.values())}, {images.devices_name}."
  )
  judged = judge_missing(criterion, data, config, pathlib.Path(config.out) / LINES_FILE)
  return summarise(judged, data, config, spec, criterion)


def make_spec(images: ClassifierOnImages, config: RankingConfig, criterion: Criterion) -> dict[str, Any]:
  """What fixes the results, in JSON types; not the data sets beside the first one, since more can be added later."""
  return {"format": FORMAT, **describe_set(images), "num_images": config.num_images, **criterion.spec}


def judge_missing(
  criterion: Criterion, data: Mapping[str, ClassifierOnImages], config: RankingConfig, lines: pathlib.Path
) -> dict[str, list[Judged]]:
  """Judges the missing images and appends a line to the file for each batch; returns all, by data set.

  Raises:
    ValueError: the file is of another state of a data set beside the first one.
  """
  judged: dict[str, list[Judged]] = {name: [] for name in data}
  for record in read_records(lines):
    if record["data"] in data:
      check_same(record, data[record["data"]])
      judged[record["data"]] += [Judged(**image) for image in record["images"]]
  counts = {name: min(len(one.source), config.num_images or len(one.source)) for name, one in data.items()}
  start = sum(map(len, judged.values()))
  program = data[config.data].make_program(criterion.judge, beside=criterion.beside)
  with Progress("ranking", total=sum(counts.values()), start=start, unit="image") as progress:
    for name, images in data.items():
      launches = (
        (batch, (batch["image"], np.maximum(batch["label"], 0).astype(np.int32)))
        for batch in images.read(range(len(judged[name]), counts[name]))
      )
      for batch, found in program.run_all(launches):
        described = [describe_image(batch, found, place, criterion.classes) for place in range(len(batch["id"]))]
        append_record(lines, {"data": name, "source": images.source.description, "images": described})
        judged[name] += [Judged(**image) for image in described]
        progress.advance(len(described))
  return judged


def check_same(record: Mapping[str, Any], images: ClassifierOnImages) -> None:
  if record["source"] != images.source.description:
    raise ValueError(
      f"--out must be another folder, since the images of {record['data']!r} have changed since they were ranked there."
    )


def describe_image(
  batch: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], place: int, classes: Collection[int]
) -> dict[str, Any]:
  """The fields of Judged for one image, in JSON types."""
  label = int(batch["label"][place])
  image: dict[str, Any] = {
    "id": str(batch["id"][place]),
    "error": str(batch["error"][place]),
    "label": None if label == NO_LABEL else label,
  }
  numbers = {name: values[place].item() for name, values in found.items()}
  if not image["error"] and not np.isfinite(list(numbers.values())).all():
    image["error"] = "its logits are not finite numbers"
  if not image["error"] and image["label"] is None:
    image["error"] = "it has no label"
  if not image["error"] and label not in classes:
    image["error"] = "its class has no such component"
  return image if image["error"] else {**image, **numbers}


def summarise(
  judged: Mapping[str, list[Judged]],
  data: Mapping[str, ClassifierOnImages],
  config: RankingConfig,
  spec: Mapping[str, Any],
  criterion: Criterion,
) -> Ranking:
  """The rankings of all data sets. Raises ValueError if one has no images with a label."""
  rankings: list[DataRanking] = []
  for name, images in data.items():
    known = [image for image in judged[name] if not image.error]
    if not known:
      reasons = collections.Counter(image.error for image in judged[name])
      raise ValueError(
        f"--data and --beside must hold images with labels, but none of the {len(judged[name])} of {name!r} can be "
        f"ranked: {reasons.most_common(1)[0][0]}."
      )
    first = rankings[0] if rankings else None
    rankings.append(rank_data(images.data_name, known, images.class_names, ends=config.ends, first=first))
  return Ranking(
    data=tuple(rankings),
    judged={one.data_name: tuple(judged[name]) for name, one in data.items()},
    images=next(iter(data.values())),
    region=criterion.region,
    spec=spec,
  )
