"""A run of `find` with everything that its settings name opened, checked and fixed."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jax_sis import results
from jax_sis.classifiers import Classifier, checkpoint, frozen
from jax_sis.core import masking, validation
from jax_sis.core.masking import make_grid
from jax_sis.core.messages import name_some
from jax_sis.core.types import Params
from jax_sis.data import batches, sources
from jax_sis.results import schema, spec
from jax_sis.results.folder import Folder
from jax_sis.results.schema import NO_CLASS
from jax_sis.runs.config import FindConfig, settings_from_json, settings_to_json
from jax_sis.runs.device_search import ImageSearch
from jax_sis.runtime import devices
from jax_sis.runtime.provenance import library_versions

# What the run was begun with, paths among it; the specification is what fixes the results.
SETTINGS_FILE = "settings.json"
# Whose versions fix the last bits of the results.
LIBRARIES = ("jax",)
# Batches beyond these gain nothing: on two CPU cores 16 to 32 are the fastest, and accelerators are full before 256.
LARGEST_BATCHES = {"cpu": 16}
LARGEST_BATCH = 256
# A batch chosen here leaves each device that many launches at least, so that they end together.
MIN_LAUNCHES = 4
# Of the memory, the share that a batch chosen here may fill.
MEMORY_SHARE = 0.8
# Units are so small that a run has some dozens of them, and so large that writing them costs little: 4 ms of CPU each,
# where two CPU cores search an image of 32x32 in 6 ms at 128 pixels a step.
MIN_UNITS = 64
LARGEST_UNIT = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
  """A FindConfig with everything that it names opened and checked.

  Attributes:
    config: what was asked for.
    classifier: the trained classifier.
    params: the arrays of its frozen form.
    source: the images.
    target: NO_CLASS for the predicted class, None for the label, else a class.
    search: what each device computes.
    batch_size: images a device at a time.
    unit_size: images that are stored together.
    local_devices: where it runs.
    compiled: the search of one launch, where choosing the batch took compiling it.
  """

  config: FindConfig
  classifier: Classifier
  params: Params
  source: sources.ImageSource
  target: int | None
  search: ImageSearch
  batch_size: int
  unit_size: int
  local_devices: list[devices.Device]
  compiled: jax.stages.Compiled | None = None

  @property
  def num_images(self) -> int:
    """N."""
    return len(self.source)

  @property
  def num_features(self) -> int:
    """F, the number of features of an image."""
    return self.search.num_features


def make_job(config: FindConfig, folder: Folder) -> Job:
  """Opens what the settings name, and checks that it fits together.

  A batch and a unit that are left open are those of the run that the folder holds; else they are chosen.

  Args:
    config: what is asked for.
    folder: the run's folder.

  Raises:
    ValueError: as for `find`.
  """
  classifier = checkpoint.load_classifier(config.checkpoint or checkpoint.EMBEDDED_CLASSIFIER)
  source = sources.open_source(
    config.data,
    split=config.split,
    data_dir=config.data_dir,
    class_names=classifier.class_names,
    input_shape=classifier.input_shape,
    crop=classifier.crop if config.resize else None,
  )
  if config.ids is not None:
    source = sources.SelectedSource(source, config.ids)
  grid = make_grid(config.patch, classifier.input_shape)
  predict_fn, params = frozen.freeze(classifier.module)
  job = Job(
    config=config,
    classifier=classifier,
    params=params,
    source=source,
    target=parse_target(config.target, classifier.class_names),
    search=ImageSearch(config=config, predict_fn=predict_fn, grid=grid),
    batch_size=config.batch_size or 1,
    unit_size=config.unit_size or 1,
    local_devices=devices.local_devices(config.num_devices),
  )
  stored = read_stored_spec(folder)
  if stored is not None:
    job = dataclasses.replace(job, batch_size=config.batch_size or stored["batch_size"])
  elif config.batch_size is None:
    job = choose_batch(job)
  unit_size = config.unit_size or (stored["unit_size"] if stored else choose_unit_size(len(source), job.batch_size))
  if unit_size % job.batch_size:
    raise ValueError(f"--unit must be a multiple of the batch ({job.batch_size}), got {unit_size}.")
  return dataclasses.replace(job, unit_size=unit_size)


def read_stored_spec(folder: Folder) -> Mapping[str, Any] | None:
  """The specification of the run that the folder holds, if it holds one."""
  return results.read_spec(folder.location) if folder.read(results.SPEC_FILE) is not None else None


def choose_batch(job: Job) -> Job:
  """Takes as batch the largest power of two that fits the memory, gains by its size, and keeps all devices busy.

  Raises:
    ValueError: not even one image fits.
  """
  num_devices, platform = len(job.local_devices), job.local_devices[0].platform
  largest = min(LARGEST_BATCHES.get(platform, LARGEST_BATCH), job.num_images // (num_devices * MIN_LAUNCHES))
  batch_size = floor_power_of_two(max(largest, 1))
  if job.config.unit_size is not None:
    batch_size = math.gcd(batch_size, job.config.unit_size)
  available = devices.available_bytes(job.local_devices)
  while True:
    job = dataclasses.replace(job, batch_size=batch_size)
    compiled = compile_search(job)
    needed = devices.program_bytes(compiled)
    if available is None or needed <= MEMORY_SHARE * available:
      return dataclasses.replace(job, compiled=compiled)
    if batch_size == 1:
      raise ValueError(
        f"--batch must be small enough for the memory, but one image needs {devices.format_bytes(needed)} of "
        f"{devices.format_bytes(available)} on each device; use a smaller model, or a larger --patch."
      )
    fitting = int(batch_size * MEMORY_SHARE * available / needed)
    batch_size = floor_power_of_two(max(1, min(batch_size // 2, fitting)))


def floor_power_of_two(number: int) -> int:
  """The largest power of two that is not above `number`."""
  return 1 << (number.bit_length() - 1)


def choose_unit_size(num_images: int, batch_size: int) -> int:
  """A multiple of the batch that gives the run some dozens of units, if it has the images."""
  return batch_size * max(1, min(LARGEST_UNIT, num_images // MIN_UNITS) // batch_size)


def compile_search(job: Job) -> jax.stages.Compiled:
  """The search of one launch, for all devices of this process: `[D, B, ...]` images and `[D, B]` requested classes."""
  shape = (len(job.local_devices), job.batch_size)
  inputs = jax.ShapeDtypeStruct((*shape, *job.classifier.input_shape), np.float32)
  requested = jax.ShapeDtypeStruct(shape, np.int32)
  replicated = devices.replicate(job.params, job.local_devices)
  search_shards = jax.pmap(job.search, in_axes=(None, 0, 0), devices=job.local_devices)
  return search_shards.lower(replicated, inputs, requested).compile()


def launch_arguments(job: Job, batch: Mapping[str, np.ndarray]) -> tuple[Params, Any, Any]:
  """What the compiled search takes for the images `[D * B, H, W, C]` and labels `[D * B]` of a launch."""
  images = job.classifier.normalisation.apply(batch["image"])
  requested = requested_targets(job.target, batch["label"])
  replicated = devices.replicate(job.params, job.local_devices)
  return replicated, *devices.shard((images, requested), len(job.local_devices))


def check_examples_independent(job: Job) -> None:
  """As `backselect` does, on random inputs of a batch."""
  shape = (job.batch_size, *job.classifier.input_shape)
  noise = jnp.asarray(np.random.default_rng(0).normal(size=shape).astype(np.float32))
  validation.check_predict_fn(job.search.predict_fn, job.params, noise)
  baseline = masking.check_baseline(job.config.baseline, noise)
  validation.check_examples_independent(job.search.predict_fn, job.params, noise, baseline)


def make_spec(job: Job) -> dict[str, Any]:
  """What fixes the results of a run, in JSON types."""
  config, classifier = job.config, job.classifier
  settings = settings_to_json(config)
  return {
    "model": {"name": classifier.model_name, "sha256": checkpoint.hash_params(classifier)},
    "class_names": list(classifier.class_names),
    "normalisation": dataclasses.asdict(classifier.normalisation),
    "data": job.source.description,
    "search": settings["search"],
    "sizes": list(job.search.sizes),
    "smallest": settings["smallest"],
    "exchanges": [list(exchange) for exchange in config.exchanges],
    "score": config.score,
    "threshold": config.threshold,
    "target": config.target,
    "baseline": config.baseline,
    "grid": list(job.search.grid),
    "certificate": config.certificate,
    "tolerance": config.tolerance,
    "precision": config.precision,
    "batch_size": job.batch_size,
    "versions": library_versions(*LIBRARIES),
    "device": job.local_devices[0].device_kind,
  }


def create_or_resume(job: Job) -> results.Results:
  """The store of the run.

  Raises:
    ValueError: the folder holds another run, or cannot be written.
  """
  store = results.create_or_resume(
    job.config.out,
    spec=make_spec(job),
    num_images=job.num_images,
    unit_size=job.unit_size,
    fields=job.search.fields(),
  )
  store.folder.write_new(SETTINGS_FILE, json.dumps(settings_to_json(job.config), indent=2).encode() + b"\n")
  return store


def read_settings(folder: Folder) -> FindConfig:
  """The settings that the run in this folder was begun with.

  Raises:
    ValueError: the folder holds none.
  """
  content = folder.read(SETTINGS_FILE)
  if content is None:
    raise ValueError(
      f"RUN_DIR must be the folder of a run of `jax-sis find`, but {folder.location!r} has no {SETTINGS_FILE}."
    )
  try:
    return settings_from_json(json.loads(content))
  except ValueError as error:
    raise ValueError(
      f"'{folder.location}/{SETTINGS_FILE}' must be the settings of a run, but they cannot be used: {error}"
    ) from error


def requested_targets(target: int | None, labels: Int[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
  """For each image the class to keep up, NO_CLASS for the predicted one; `target` None asks for the labels."""
  return (labels if target is None else np.full_like(labels, target)).astype(np.int32)


def parse_target(target: str, class_names: tuple[str, ...]) -> int | None:
  """`predicted` -> NO_CLASS, `label` -> None, a class name or number -> its index.

  Raises:
    ValueError: there is no such class.
  """
  if target == "predicted":
    return NO_CLASS
  if target == "label":
    return None
  if target in class_names:
    return class_names.index(target)
  if target.isdecimal() and int(target) < len(class_names):
    return int(target)
  raise ValueError(
    f"--target must be 'predicted', 'label', or a class of the checkpoint ({', '.join(class_names[:12])}"
    f"{', ...' if len(class_names) > 12 else ''}, or 0 to {len(class_names) - 1}), got {target!r}."
  )


MAX_NAMED = 10


IMAGES_READ_AT_ONCE = 64


def read_inputs(job: Job, store: results.Results, indices: Int[np.ndarray, "M"]) -> Float[np.ndarray, "M H W C"]:
  """The normalised images of these numbers, from where the run had them.

  Raises:
    ValueError: there are other images, or one cannot be read.
  """
  expected = store.read_text("id", indices)
  found, errors, images = [], [], []
  for batch in batches.iterate_batches(job.source, indices, IMAGES_READ_AT_ONCE):
    found += [str(name) for name in batch["id"]]
    errors += [str(error) for error in batch["error"]]
    images.append(job.classifier.normalisation.apply(batch["image"]))
  check_ids(expected, schema.decode_text(results.encode_text(found)).tolist())
  unreadable = [f"{name!r} ({error})" for name, error in zip(found, errors, strict=True) if error]
  if unreadable:
    raise ValueError(
      f"the images of the run must be readable, but these are not: {name_some(unreadable, most=MAX_NAMED)}."
    )
  return np.concatenate(images)


def check_ids(expected: Sequence[str], found: Sequence[str]) -> None:
  """Refuses images that are not those of the run.

  Raises:
    ValueError: some ids differ; which.
  """
  different = [
    f"{there!r} in the run is {here!r}" for there, here in zip(expected, found, strict=True) if there != here
  ]
  if different:
    raise ValueError(
      f"the images at hand must be those of the run, but {len(different)} of {len(expected)} have other ids: "
      f"{name_some(different, most=MAX_NAMED)}; name the right --data-dir."
    )


# What the checks need not know, as long as nothing is computed again.
OF_COMPUTING = ("model", "versions", "device")


def make_job_again(
  store: results.Results,
  *,
  checkpoint: str | None,
  data_dir: str | None,
  num_devices: int | None,
  is_computing: bool,
) -> Job:
  """The job of the run, of what is at hand now.

  Raises:
    ValueError: that is not what the run was begun with, and how it differs.
  """
  config = read_settings(store.folder)
  config = dataclasses.replace(
    config,
    out=store.folder.location,
    checkpoint=checkpoint or config.checkpoint,
    data_dir=data_dir or config.data_dir,
    num_devices=num_devices,
  )
  job = make_job(config, store.folder)
  asked = {**make_spec(job), "num_images": job.num_images, "unit_size": job.unit_size, "fields": job.search.fields()}
  compared = set(asked) - (set() if is_computing else set(OF_COMPUTING))
  stored = {**store.spec, "fields": store.fields}
  differences = spec.find_differences(
    {name: stored.get(name) for name in compared},
    {name: json.loads(json.dumps(asked[name])) if name != "fields" else asked[name] for name in compared},
  )
  if differences:
    raise ValueError(
      f"what is at hand must be what {store.folder.location!r} was made of, but it differs ({'; '.join(differences)})"
      f"{advise(differences)}."
    )
  return job


def advise(differences: Sequence[str]) -> str:
  """What to do about differences between the run and what is at hand."""
  if all(difference.startswith(OF_COMPUTING[1:]) for difference in differences):
    return "; other versions and devices compute other last bits, so use those of the run, or --sample 0"
  return f"; name the right --checkpoint or --data-dir, and see whether {results.SPEC_FILE} is damaged"
