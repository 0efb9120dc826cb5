"""`jax-sis labels`: which labels are in doubt, how well doubts are borne out, and whether subset sizes add to them.

Doubts are those of confident learning (Northcutt, Jiang and Chuang 2021). They are judged on errors that are planted,
on people's votes, and on labels that people gave.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.special
from jaxtyping import Float, Int

from jax_sis import results
from jax_sis.classifiers.on_images import ClassifierOnImages, describe_set, open_on_images
from jax_sis.core.scores import predict_logits
from jax_sis.data.labels import NO_LABEL
from jax_sis.data.sources import SelectedSource
from jax_sis.runtime.progress import Progress
from jax_sis.runtime.records import append_record, read_records
from jax_sis.studies.labels import people, report, sizes, summaries
from jax_sis.studies.labels.confident import learn_confidently, plant_errors
from jax_sis.studies.labels.config import LabelsConfig
from jax_sis.studies.labels.report import Doubts, Human
from jax_sis.studies.labels.summaries import Truth

FORMAT = "jax_sis.labels/1"
LINES_FILE, LOGITS_FILE = "labels.jsonl", "logits.npy"


def labels(config: LabelsConfig) -> dict[str, Any]:
  """Looks for label errors, or goes on with it; prints tables and their reading, writes JSON, CSV and a picture.

  Args:
    config: what to ask, see LabelsConfig.

  Returns:
    What `labels.json` holds.

  Raises:
    ValueError: as for `study`.
    StorageError: the folder cannot be written.
  """
  found = study(config, tell_fn=lambda line: print(line, flush=True))
  return report.write_report(results.open_folder(config.out), found, config)


def study(config: LabelsConfig, *, tell_fn: Callable[[str], object] = lambda _: None) -> Doubts:
  """Looks for label errors, or goes on with it.

  Args:
    config: what to ask.
    tell_fn: is told what is read and done, in lines.

  Returns:
    The doubts, and how well they are borne out.

  Raises:
    ValueError: a setting is wrong or does not fit the checkpoint or the data, images have no labels, a file of people's
      labels or a run is of other images or classes, or the folder holds another run.
    StorageError: the folder cannot be written, or a run not be read.
  """
  results.check_writable(results.open_folder(config.out))
  images = open_on_images(config, batch_size=config.batch_size)
  all_ids = images.source.ids()
  if config.ids is not None:
    images = dataclasses.replace(images, source=SelectedSource(images.source, config.ids))
  images.check_classifier()
  num_images = min(len(images.source), config.num_images or len(images.source))
  spec = results.settle_spec(config.out, make_spec(images, num_images), command_fn=config.command_in)
  for note in images.source.notes:
    tell_fn(note)
  tell_fn(
    f"Labels of {num_images} images of {images.data_name} by {images.classifier.model_name}, {images.devices_name}."
  )
  known, logits = predict_missing(images, num_images, pathlib.Path(config.out))
  usable = np.array([not one["error"] for one in known], bool)
  if not usable.any():
    raise ValueError(f"--data must hold images with labels, got none, the first since {known[0]['error']}.")
  asked = [one for one in known if not one["error"]]
  return ask(
    config,
    images,
    all_ids,
    asked,
    logits[usable],
    spec,
    left_out={one["id"]: one["error"] for one in known if one["error"]},
  )


def make_spec(images: ClassifierOnImages, num_images: int) -> dict[str, Any]:
  """What fixes the logits, in JSON types; all else is asked of these anew."""
  return {"format": FORMAT, **describe_set(images), "num_images": num_images}


def predict_missing(
  images: ClassifierOnImages, num_images: int, folder: pathlib.Path
) -> tuple[list[dict[str, Any]], Float[np.ndarray, "N K"]]:
  """The logits of all images, and of each its id, label, digest and why it cannot be used; goes on where it stopped.

  The logits lie in a file of their own, and a line says of a batch that its logits are there.
  """
  shape = (num_images, len(images.class_names))
  path, lines = folder / LOGITS_FILE, folder / LINES_FILE
  known = [image for record in read_records(lines) for image in record["images"]] if path.exists() else []
  if not known:
    lines.unlink(missing_ok=True)
    np.lib.format.open_memmap(path, "w+", np.float32, shape).flush()
  logits = np.lib.format.open_memmap(path, "r+")
  program = images.make_program(lambda params, inputs: predict_logits(images.predict_fn, params, inputs))
  launches = ((batch, (batch["image"],)) for batch in images.read(range(len(known), num_images)))
  with Progress("logits", total=num_images, start=len(known), unit="image") as progress:
    for batch, found in program.run_all(launches):
      logits[len(known) : len(known) + len(found)] = found
      logits.flush()
      described = [describe_image(batch, found, place) for place in range(len(found))]
      append_record(lines, {"images": described})
      known += described
      progress.advance(len(found))
  return known, np.array(logits, np.float64)


def describe_image(batch: Mapping[str, np.ndarray], logits: Float[np.ndarray, "B K"], place: int) -> dict[str, Any]:
  label, error = int(batch["label"][place]), str(batch["error"][place])
  if not error and not np.isfinite(logits[place]).all():
    error = "its logits are not finite numbers"
  if not error and label == NO_LABEL:
    error = "it has no label"
  digest = results.digest_pixels(batch["image"][place : place + 1]).tobytes().hex()
  return {"id": str(batch["id"][place]), "label": label, "digest": digest, "error": error}


def ask(
  config: LabelsConfig,
  images: ClassifierOnImages,
  all_ids: Sequence[str],
  asked: Sequence[Mapping[str, Any]],
  logits: Float[np.ndarray, "N K"],
  spec: Mapping[str, Any],
  *,
  left_out: Mapping[str, str],
) -> Doubts:
  """All that is said of the images that can be used."""
  ids, given = [one["id"] for one in asked], np.array([one["label"] for one in asked], np.int64)
  num_classes = logits.shape[1]
  own = make_truth("given", logits, given, np.zeros(len(ids), bool), np.zeros(len(ids), bool))
  everywhere = np.ones(len(ids), bool)
  truths = []
  if config.planted:
    changed, is_changed = plant_errors(given, num_classes, share=config.planted, seed=config.seed)
    truths.append(make_truth(f"planted, {config.planted:.0%}", logits, changed, everywhere, is_changed))
  if config.votes is not None:
    votes = people.read_votes(config.votes, ids, given)
    truths.append(dataclasses.replace(own, title="votes", is_known=votes.is_asked, is_wrong=votes.is_wrong))
    # Candidates are those that some classifier doubted: among them p(label) says less than among all.
    truths.append(dataclasses.replace(truths[-1], title="votes, rest right", is_known=everywhere))
  human = None
  runs = sizes.read_runs(config, images, ids, [one["digest"] for one in asked])
  if config.human is not None:
    counts = people.read_human(config.human, config.people, all_ids, ids, num_classes)
    is_outvoted = summaries.find_outvoted(counts, given)
    truths.append(dataclasses.replace(own, title="human labels", is_known=everywhere, is_wrong=is_outvoted))
    disagreement = summaries.find_disagreement(counts, given)
    human = Human(
      disagreement=disagreement,
      mean=summaries.mean_disagreement(disagreement, seed=config.seed),
      agreement=tuple(summaries.find_agreement(disagreement, own.log_odds, runs, seed=config.seed)),
    )
  return Doubts(
    images=images,
    spec=spec,
    ids=ids,
    labels=given,
    predicted=logits.argmax(1),
    own=own,
    truths=tuple(truths),
    found=tuple(summaries.judge_truth(truth) for truth in truths),
    runs=tuple(runs),
    added=tuple(
      summaries.judge_sizes(truth, run, seed=config.seed) for truth, run in summaries.pair_differing(truths, runs)
    ),
    human=human,
    left_out=left_out,
  )


def make_truth(
  title: str, logits: Float[np.ndarray, "N K"], given: Int[np.ndarray, "N"], is_known: np.ndarray, is_wrong: np.ndarray
) -> Truth:
  """What is known of labels, with what the classifier says of these."""
  rows = np.arange(len(given))
  others = logits.copy()
  others[rows, given] = -np.inf
  return Truth(
    title=title,
    is_known=is_known,
    is_wrong=is_wrong,
    log_odds=logits[rows, given] - scipy.special.logsumexp(others, axis=1),
    confident=learn_confidently(scipy.special.softmax(logits, axis=1), given),
  )
