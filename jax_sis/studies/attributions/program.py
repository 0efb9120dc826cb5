"""`jax-sis attributions`: what attributions are worth as orders of pixels, beside searches, on the same images.

How many of the first pixels suffice, and how does confidence change while pixels are shown or masked in that order?
Every order is evaluated at every size, so sizes and areas are exact and do not depend on the step of a search.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from jax_sis import results
from jax_sis.classifiers.attributions import Attribution, Random, Search, hash_id, make_allowed, split_for_grad_cam
from jax_sis.classifiers.on_images import ClassifierOnImages, describe_set, open_image_set
from jax_sis.core.attribution import order_by_scores
from jax_sis.core.attribution_methods import GradientTimesInput, IntegratedGradients, Occlusion, Rise
from jax_sis.core.curves import deletion_area, deletion_confidence, insertion_area
from jax_sis.core.forward import forward_select
from jax_sis.core.minimise import minimise
from jax_sis.core.scores import log_odds, predict_logits
from jax_sis.core.searches import Gradient, Screened
from jax_sis.core.smallest import QUICK
from jax_sis.core.subsets import Status, sufficient_subsets
from jax_sis.core.types import Params, PredictFn
from jax_sis.runtime.device_program import DeviceProgram
from jax_sis.runtime.engines import LOCAL, Engine, open_workers
from jax_sis.runtime.progress import Progress
from jax_sis.runtime.records import append_record, read_records
from jax_sis.studies.attributions import report
from jax_sis.studies.attributions.config import METHODS, AttributionsConfig
from jax_sis.studies.attributions.report import Judged, Looked

FORMAT = "jax_sis.attributions/1"
LINES_FILE = "attributions.jsonl"


def attributions(config: AttributionsConfig, engine: Engine = LOCAL) -> dict[str, Any]:
  """Runs or resumes a comparison; prints the table and its reading, writes JSON, CSV and a figure.

  Args:
    config: what to compare, see AttributionsConfig.
    engine: where; times are those of the devices of one host.

  Returns:
    What `attributions.json` holds.

  Raises:
    ValueError: a setting is wrong or does not fit the checkpoint or the data, the classifier is confident of no image,
      or the folder holds another run.
    StorageError: the folder cannot be written.
  """
  folder = results.open_folder(config.out)
  results.check_writable(folder)
  lines = pathlib.Path(config.out) / LINES_FILE
  make_fn = functools.partial(Judging, config)
  claim = results.claim(folder, "attributions")
  with open_workers(engine, make_fn, claim=claim, num_devices=config.num_devices) as workers:
    about: About = workers.about
    spec = results.settle_spec(config.out, about.spec, command_fn=config.command_in)
    print(about.headline, flush=True)
    for name, reason in about.left_out.items():
      print(f"Left out: {METHODS[name].title} ({reason}).", flush=True)
    looked = about.looked
    print(looked.describe(config.threshold, asked=config.num_images), flush=True)
    judged = {record["method"]: Judged(**record) for record in read_records(lines)}
    missing = [number for number, name in enumerate(about.methods) if name not in judged]
    total, done = (count * len(looked.images) for count in (len(judged) + len(missing), len(judged)))
    with Progress("orders", total=total, start=done, unit="image") as progress:
      for number, found in workers.run(missing, progress, "orders"):
        record = {"method": about.methods[number], **found}
        append_record(lines, record)
        judged[record["method"]] = Judged(**record)
        progress.log(f"{METHODS[record['method']].title}: done")
  return report.write_report(
    folder,
    looked,
    {name: judged[name] for name in about.methods},
    left_out=about.left_out,
    spec=spec,
    subject=about.subject,
    command=config.command,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
  """What a worker says of itself; `subject` is the classifier and the data."""

  spec: dict[str, Any]
  num_first: int = 1
  methods: tuple[str, ...]
  left_out: dict[str, str]
  looked: Looked
  headline: str
  subject: str


class Judging:
  """A worker, whose units are methods, see `About.methods`; what it finds are their lines in the file."""

  def __init__(self, config: AttributionsConfig):
    self._images = images = open_image_set(config)
    self._methods, left_out = make_methods(images, config)
    self._program = images.make_program(functools.partial(judge, images, config.threshold))
    self.about = About(
      spec=make_spec(images, config),
      methods=tuple(self._methods),
      left_out=left_out,
      looked=choose_images(images, config),
      headline=(
        f"Orders of pixels by {images.classifier.model_name} on images of {images.data_name}, {images.devices_name}."
      ),
      subject=f"{images.classifier.model_name} on {images.data_name}",
    )

  def get_ready(self) -> None:
    """As for `Worker`; programs are compiled as they are needed."""

  def __call__(self, units: Sequence[int], advance_fn: Callable[[int], Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Sizes, areas and seconds, as `judge_method` gives them."""
    looked = self.about.looked
    numbers = np.array([hash_id(image["id"]) for image in looked.images], np.int32)
    for unit in units:
      method = self._methods[self.about.methods[unit]]
      yield unit, judge_method(self._images, method, self._program, looked.pixels, numbers, advance_fn)


def make_spec(images: ClassifierOnImages, config: AttributionsConfig) -> dict[str, Any]:
  """What fixes the results of a run, in JSON types; not the methods, since more can be added later."""
  return {
    "format": FORMAT,
    **describe_set(images),
    "num_images": config.num_images,
    "threshold": config.threshold,
    "per_step": config.per_step,
    "seed": config.seed,
  }


class Smallest(NamedTuple):
  """The smallest evidence of `jax-sis find`, which comes without an order."""

  threshold: float

  def __call__(
    self, images: ClassifierOnImages, params: Params, inputs: Float[Array, "B H W C"], numbers: Int[Array, "B"]
  ) -> dict[str, Array]:
    """Sizes and statuses, as `judge` gives them."""
    search = dataclasses.replace(QUICK.forward, threshold=self.threshold)
    order = forward_select(images.predict_fn, params, inputs, search=search, grid=images.grid)
    subsets = sufficient_subsets(order, self.threshold)
    smaller = minimise(images.predict_fn, params, inputs, subsets, exchanges=QUICK.exchanges)
    return {"num_kept": smaller.num_kept, "status": smaller.status}


Method = Search | Attribution | Smallest | Random


def make_methods(images: ClassifierOnImages, config: AttributionsConfig) -> tuple[dict[str, Method], dict[str, str]]:
  """The methods that are asked for, and why others are left out."""
  makers: Mapping[str, Callable[[], Method]] = {
    "sis": lambda: Search(Gradient()),
    "sis_batched": lambda: Search(Gradient(per_step=config.per_step)),
    "screened": lambda: Search(Screened()),
    "smallest": lambda: Smallest(config.threshold),
    "gradient_x_input": lambda: Attribution(GradientTimesInput()),
    "integrated_gradients": lambda: Attribution(IntegratedGradients()),
    "grad_cam": lambda: Attribution(split_for_grad_cam(images)),
    "occlusion": lambda: Attribution(Occlusion()),
    "occlusion_5x5": lambda: Attribution(Occlusion(window=5)),
    # Of the probability, as in its source.
    "rise": lambda: Attribution(Rise(seed=config.seed), "probability"),
    "rise_log_odds": lambda: Attribution(Rise(seed=config.seed)),
    "random": lambda: Random(config.seed),
  }
  methods, left_out = make_allowed(makers, config.methods)
  if not methods:
    raise ValueError(f"--methods must name one that this classifier allows: {'; '.join(left_out.values())}.")
  return methods, left_out


def choose_images(images: ClassifierOnImages, config: AttributionsConfig) -> Looked:
  """The first images of which the classifier is confident enough. Raises ValueError if there is none."""
  program = images.make_program(functools.partial(classify, images.predict_fn))
  rows: list[dict[str, Any]] = []
  pixels, num_seen, unreadable = [], 0, {}
  for batch in images.read(range(len(images.source))):
    predicted, confidence = program.run(batch["image"]).found
    for place in range(len(batch["image"])):
      num_seen += 1
      if batch["error"][place]:
        unreadable[str(batch["id"][place])] = str(batch["error"][place])
      elif confidence[place] >= config.threshold and len(rows) < config.num_images:
        pixels.append(batch["image"][place])
        rows.append(
          {
            "index": int(batch["index"][place]),
            "id": str(batch["id"][place]),
            "label": images.name_class(int(batch["label"][place])) or None,
            "predicted": images.name_class(int(predicted[place])),
            "confidence": float(confidence[place]),
          }
        )
      if len(rows) == config.num_images:
        return Looked(images=rows, pixels=np.stack(pixels), num_seen=num_seen, unreadable=unreadable)
  if not rows:
    raise ValueError(
      f"--threshold must be one that the classifier reaches on an image, but of the {num_seen} images of --data it "
      f"reaches {config.threshold:g} on none."
    )
  return Looked(images=rows, pixels=np.stack(pixels), num_seen=num_seen, unreadable=unreadable)


def classify(
  predict_fn: PredictFn, params: Params, inputs: Float[Array, "B H W C"]
) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
  """The predicted class, and how confident the classifier is of it."""
  logits = predict_logits(predict_fn, params, inputs)
  predicted = logits.argmax(-1).astype(jnp.int32)
  return predicted, jax.nn.sigmoid(log_odds(logits, predicted))


def judge_method(
  images: ClassifierOnImages,
  method: Method,
  judge_program: DeviceProgram,
  pixels: UInt8[np.ndarray, "N H W C"],
  numbers: Int[np.ndarray, "N"],
  advance_fn: Callable[[int], None],
) -> dict[str, Any]:
  """Sizes, areas and seconds of one method, in JSON types."""
  program = images.make_program(functools.partial(method, images))
  sizes: list[int | None] = []
  areas: dict[str, list[float | None]] = {"insertion_area": [], "deletion_area": []}
  seconds: list[tuple[float, float]] = []
  evaluation_seconds: list[tuple[float, float]] = []
  for start in range(0, len(pixels), images.launch_size):
    some = slice(start, start + images.launch_size)
    found, *timing = program.run(pixels[some], numbers[some])
    seconds.append((timing[0], timing[1]))
    if not isinstance(found, dict):
      found, *timing = judge_program.run(pixels[some], found)
      evaluation_seconds.append((timing[0], timing[1]))
      for name, values in areas.items():
        values += [float(area) if np.isfinite(area) else None for area in found[name]]
    is_ok = found["status"] == Status.OK
    sizes += [int(size) if ok else None for size, ok in zip(found["num_kept"], is_ok, strict=True)]
    advance_fn(len(pixels[some]))
  return {
    "num_kept": sizes,
    **{name: values or None for name, values in areas.items()},
    **name_seconds(seconds, "", images.launch_size),
    **name_seconds(evaluation_seconds, "evaluation_", images.launch_size),
  }


def name_seconds(seconds: Sequence[tuple[float, float]], prefix: str, launch_size: int) -> dict[str, float | None]:
  """The means over launches of core-seconds and seconds an image that was computed, padding among them."""
  core_seconds, on_clock = (np.mean(seconds, axis=0) / launch_size).tolist() if seconds else (None, None)
  return {f"{prefix}core_seconds": core_seconds, f"{prefix}seconds": on_clock}


def judge(
  images: ClassifierOnImages,
  threshold: float,
  params: Params,
  inputs: Float[Array, "B H W C"],
  scores: Float[Array, "B F"],
) -> dict[str, Array]:
  """Sizes and statuses of the subsets, insertion and deletion area of the order that scores make."""
  order = order_by_scores(images.predict_fn, params, inputs, scores, grid=images.grid)
  deletion = deletion_confidence(images.predict_fn, params, inputs, order)
  subsets = sufficient_subsets(order, threshold)
  return {
    "num_kept": subsets.num_kept,
    "status": subsets.status,
    "insertion_area": insertion_area(order),
    "deletion_area": deletion_area(order, deletion),
  }
