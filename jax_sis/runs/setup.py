"""A run of `find`: what its settings name, opened and checked, its batch and units chosen, and its store."""

import contextlib
import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from jax_sis import results
from jax_sis.classifiers.on_images import ClassifierOnImages, open_on_images
from jax_sis.core.messages import name_some
from jax_sis.data import batches
from jax_sis.data.class_names import find_classes, name_numbers
from jax_sis.results import spec
from jax_sis.results.schema import NO_CLASS
from jax_sis.runs.config import RANDOM_TARGET, FindConfig, settings_from_json, settings_to_json
from jax_sis.runs.device_search import ImageSearch
from jax_sis.runs.feature_maps import MAPS_FILE, FeatureMaps, open_maps
from jax_sis.runs.identity import MAX_NAMED, find_changes, read_compared, refuse_changes
from jax_sis.runs.lattice import check_patch
from jax_sis.runs.pools import Pools, describe_completion, draw_step, hash_ids, open_pools
from jax_sis.runs.presets import settle_preset
from jax_sis.runs.sizes import (
  Open,
  Sizes,
  choose_unit_size,
  default_batch_size,
  describe_certificate_chunk,
  find_open,
  read_sizes,
  settle_chunks,
  shrink,
)
from jax_sis.runtime import devices
from jax_sis.runtime.device_program import DeviceProgram

# All settings, paths among them; the specification holds only what fixes the results.
SETTINGS_FILE = "settings.json"
# Whose versions fix the last bits of the results.
LIBRARIES = ("jax",)
# The share of the memory that such a batch may fill.
FITTING_SHARE = 0.8
# Where images of a run are read again.
IMAGES_READ_AT_ONCE = 64
# What may have changed since the run, as long as nothing is computed again.
OF_COMPUTING = ("model", "program", "versions", "device")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job(ClassifierOnImages):
  """A run of `find`, opened and checked; see ClassifierOnImages for the classifier, the images and the devices.

  Attributes:
    config: what was asked for, and how many masked copies are worked on at a time.
    target: NO_CLASS for what follows from the predicted class, None for the label, else a class.
    search: what each device computes.
    unit_size: images that are stored together.
    is_new: whether the folder held no run when this was opened.
    pools: what masked pixels show, if that is other images.
    maps: which feature each pixel belongs to, where label maps say so.
    program: the search on all devices, where choosing the batch took compiling it.
  """

  config: FindConfig
  target: int | None
  search: ImageSearch
  unit_size: int
  is_new: bool
  pools: Pools | None = None
  maps: FeatureMaps | None = None
  program: DeviceProgram | None = None

  @property
  def num_images(self) -> int:
    return len(self.source)

  @property
  def platform(self) -> str:
    """Of the devices, as JAX names it."""
    return self.local_devices[0].platform

  @property
  def sizes(self) -> Sizes:
    """What a device works on at a time."""
    return read_sizes(self.config, self.batch_size)

  def unit_range(self, unit: int) -> tuple[int, int]:
    """As that of `Results`, also where there is no store yet."""
    return unit * self.unit_size, min((unit + 1) * self.unit_size, self.num_images)

  def launch_arrays(self, batch: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """What the program takes of these images.

    Their pixels `[B, H, W, C]`, the class to keep up or NO_CLASS for the predicted one `[B]` (a random one is counted
    from that), and where there are draws or label maps, what their keys are made from `[B, 2]`, and these.
    """
    labels = batch["label"]
    if self.config.target == RANDOM_TARGET:
      requested = np.array([draw_step(str(name), len(self.class_names)) for name in batch["id"]])
    else:
      requested = labels if self.target is None else np.full_like(labels, self.target)
    hashes = () if self.config.completion is None else (hash_ids(batch["id"]),)
    labels = () if self.maps is None else (np.asarray(self.maps.of_images(batch["index"]).labels),)
    return batch["image"], requested.astype(np.int32), *hashes, *labels

  def make_search_program(self, function: Callable[..., Any]) -> DeviceProgram:
    """A function of what the search takes, see `ImageSearch`, as a program on all devices."""
    return self.make_program(function, beside=None if self.pools is None else self.pools.arrays)


def make_job(config: FindConfig, folder: results.Folder) -> Job:
  """Opens what the settings name, and checks that it fits together.

  The preset that suits the classifier settles what the settings leave open. Where they leave the batch, the unit or
  the copies at a time open, those of the run in the folder count; without a run, they are chosen.

  Raises:
    ValueError: as for `find`.
  """
  images = open_on_images(
    config, batch_size=config.batch_size or 1, ids=config.ids, patch=config.patch, precision=config.precision
  )
  config = settle_preset(config, images.classifier.input_shape)
  if config.lattice:
    check_patch(images)
  stored = read_stored_spec(folder)
  maps = open_maps(images, config, folder, stored)
  if maps is not None:
    images = dataclasses.replace(images, grid=maps.grid)
  job = Job(
    **vars(images),
    config=config,
    target=parse_target(config.target, images.class_names),
    search=ImageSearch(config=config, predict_fn=images.predict_fn, grid=images.grid, has_maps=maps is not None),
    unit_size=0,
    is_new=stored is None,
    pools=open_pools(images, config, stored),
    maps=maps,
  )
  job = with_settings(job, settle_chunks(config, job.platform, job.classifier.input_shape, stored=stored))
  if stored is not None:
    job = dataclasses.replace(job, batch_size=config.batch_size or stored["batch_size"])
  elif config.batch_size is None:
    job = choose_batch(job, config)
  unit_size = config.unit_size or (stored["unit_size"] if stored else choose_unit_size(job.num_images, job.batch_size))
  if unit_size % job.batch_size:
    raise ValueError(f"--unit must be a multiple of the batch ({job.batch_size}), got {unit_size}.")
  return dataclasses.replace(job, unit_size=unit_size)


def with_settings(job: Job, config: FindConfig) -> Job:
  return dataclasses.replace(job, config=config, search=dataclasses.replace(job.search, config=config), program=None)


def read_stored_spec(folder: results.Folder) -> Mapping[str, Any] | None:
  """The specification of the run in the folder; None if there is none."""
  return results.read_spec(folder.location) if folder.read(results.SPEC_FILE) is not None else None


def choose_batch(job: Job, asked: FindConfig) -> Job:
  """The job with the batch that suits the platform and fits the memory, compiled.

  Raises:
    ValueError: not even one image fits.
  """
  batch_size = default_batch_size(
    job.platform,
    job.classifier.input_shape,
    num_images=job.num_images,
    num_devices=len(job.local_devices),
    num_draws=asked.num_draws,
  )
  if asked.unit_size is not None:
    batch_size = math.gcd(batch_size, asked.unit_size)
  return fit_memory(dataclasses.replace(job, batch_size=batch_size), asked)


def fit_memory(job: Job, asked: FindConfig) -> Job:
  """The job compiled, with smaller sizes than it has where those need too much memory and `asked` leaves them open.

  Raises:
    ValueError: it does not fit.
  """
  available = devices.available_bytes(job.local_devices)
  # A batch that is asked for may fill the memory.
  share = FITTING_SHARE if asked.batch_size is None else 1.0
  while True:
    program = devices.unless_out_of_memory(functools.partial(compile_search, job, checks_memory=False))
    if program is None:
      job = after_out_of_memory(job, asked)
      continue
    needed = devices.program_bytes(program.compiled)
    if available is None or needed <= share * available:
      return dataclasses.replace(job, program=program)
    smaller = shrink(job.sizes, job.platform, find_open(asked), fitting_share=share * available / needed)
    if smaller is None and asked.batch_size is not None:
      devices.check_memory(program.compiled, batch_size=job.batch_size, devices=job.local_devices, argument="--batch")
    if smaller is None:
      raise ValueError(
        f"--batch must be small enough for the memory, but one image needs {devices.format_bytes(needed)} of "
        f"{devices.format_bytes(available)} on each device; use a smaller model, or a larger --patch."
      )
    job = resize(job, asked, smaller)


def after_out_of_memory(job: Job, asked: FindConfig) -> Job:
  """The job with the next smaller sizes, and a line that says so; ValueError if there are none to try."""
  smaller = shrink(job.sizes, job.platform, find_open(asked))
  if smaller is None:
    raise ValueError(
      f"--batch and --chunk must be small enough for the memory, but {job.sizes} at a time need more; "
      f"{advise_sizes(job)}."
    )
  print(f"Out of memory with {job.sizes} at a time; trying {smaller}.", flush=True)
  return resize(job, asked, smaller)


def advise_sizes(job: Job) -> str:
  """Which options to try where the sizes of a job need too much."""
  smaller = shrink(job.sizes, job.platform, Open(batch=True, chunk=True))
  if smaller is None:
    return "use a smaller model, or a larger --patch"
  return f"try --batch {smaller.batch}" + (f" --chunk {smaller.copies}" if smaller.copies < job.sizes.copies else "")


def resize(job: Job, asked: FindConfig, sizes: Sizes) -> Job:
  """The job with other sizes, of a new run."""
  config = job.config
  if sizes.copies != job.sizes.copies:
    asked_chunk = dataclasses.replace(asked, chunk_size=sizes.copies)
    config = settle_chunks(asked_chunk, job.platform, job.classifier.input_shape)
  unit_size = asked.unit_size or choose_unit_size(job.num_images, sizes.batch)
  return dataclasses.replace(with_settings(job, config), batch_size=sizes.batch, unit_size=unit_size)


@contextlib.contextmanager
def explain_out_of_memory(job: Job) -> Iterator[None]:
  """Says of a run that has begun why it cannot go on with smaller sizes, in a ValueError."""
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if not devices.is_out_of_memory(error):
      raise
    raise ValueError(
      f"the memory of each device must hold {job.sizes} at a time, which are part of what the run in "
      f"{job.config.out!r} is, but it ran out; go on where more memory is free, or begin anew with another --out: "
      f"{advise_sizes(job)}."
    ) from error


def compile_search(job: Job, *, checks_memory: bool = True) -> DeviceProgram:
  """The search on all devices, of pixels and requested classes, see `Job.launch_arrays`.

  Raises:
    ValueError: the batch does not fit the memory, where that is checked.
  """
  program = job.make_search_program(job.search)
  pixels = jax.ShapeDtypeStruct((1, *job.classifier.input_shape), np.uint8)
  keyed = [] if job.config.completion is None else [jax.ShapeDtypeStruct((1, 2), np.uint32)]
  labelled = [] if job.maps is None else [jax.ShapeDtypeStruct((1, *job.maps.labels.shape[1:], 1), np.int32)]
  program.compile(pixels, jax.ShapeDtypeStruct((1,), np.int32), *keyed, *labelled, checks_memory=checks_memory)
  return program


def make_spec(job: Job) -> dict[str, Any]:
  """What fixes the results of a run, in JSON types."""
  config, settings = job.config, settings_to_json(job.config)
  return {
    **job.describe(*LIBRARIES),
    "search": settings["search"],
    "sizes": list(job.search.sizes),
    "smallest": settings["smallest"],
    "exchanges": [list(exchange) for exchange in config.exchanges],
    "score": config.score,
    "threshold": config.threshold,
    **({} if config.asked is None else {"question": config.question, "margin": config.margin}),
    "target": config.target,
    "baseline": config.baseline,
    **describe_completion(config, job.pools),
    **({} if config.removal == "value" else {"removal": config.removal}),
    **({"lattice": True} if config.lattice else {}),
    "grid": list(job.grid),
    **({} if job.maps is None else {"features": job.maps.description}),
    "certificate": config.certificate,
    **describe_certificate_chunk(config),
    "tolerance": config.certificate_tolerance,
  }


def create_or_resume(job: Job, asked: FindConfig) -> results.Results:
  """The store of the run; ValueError if it cannot be written, or the folder holds another run than is `asked`."""
  if job.maps is not None and job.is_new:
    # Before the specification, for whoever goes on with the run reads them.
    results.open_folder(job.config.out).write_new(MAPS_FILE, job.maps.encode())
  store = results.create_or_resume(
    job.config.out,
    spec=make_spec(job),
    num_images=job.num_images,
    unit_size=job.unit_size,
    fields=job.search.fields(),
    command_fn=asked.command_in,
  )
  store.folder.write_new(SETTINGS_FILE, json.dumps(settings_to_json(job.config), indent=2).encode() + b"\n")
  return store


def read_settings(folder: results.Folder) -> FindConfig:
  """The settings with which the run in this folder was started; ValueError if the folder holds none."""
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


def parse_target(target: str, class_names: tuple[str, ...]) -> int | None:
  """`predicted` or `random` -> NO_CLASS, `label` -> None, a class name or number -> its index; else a ValueError."""
  if target == RANDOM_TARGET and len(class_names) < 2:
    raise ValueError("--target random must have another class than the predicted one, but the checkpoint has one only.")
  if target in ("predicted", RANDOM_TARGET):
    return NO_CLASS
  if target == "label":
    return None
  numbers = find_classes(target, class_names)
  if len(numbers) == 1:
    return numbers[0]
  if numbers:
    raise ValueError(
      f"--target must name one class, but {target!r} is the name of {name_numbers(numbers)}; give the number."
    )
  raise ValueError(
    f"--target must be 'predicted', 'label', 'random', or a class of the checkpoint ({', '.join(class_names[:12])}"
    f"{', ...' if len(class_names) > 12 else ''}, or 0 to {len(class_names) - 1}), got {target!r}."
  )


def read_inputs(job: Job, store: results.Results, indices: Int[np.ndarray, "M"]) -> Float[np.ndarray, "M H W C"]:
  """The run's normalised images with these numbers; ValueError if there are others, or one cannot be read."""
  changes, unreadable, images = [], [], []
  for batch in batches.iterate_batches(job.source, indices, IMAGES_READ_AT_ONCE):
    changes += find_changes(read_compared(store, batch["index"]), batch)
    unreadable += [f"{str(name)!r} ({error})" for name, error in zip(batch["id"], batch["error"], strict=True) if error]
    images.append(job.normalise(batch["image"]))
  refuse_changes(store.folder.location, changes, len(indices))
  if unreadable:
    raise ValueError(
      f"the images of the run must be readable, but these are not: {name_some(unreadable, most=MAX_NAMED)}."
    )
  return np.concatenate(images)


def make_job_again(
  store: results.Results,
  *,
  checkpoint: str | None = None,
  model_function: str | None = None,
  data_dir: str | None = None,
  num_devices: int | None,
  is_computing: bool,
) -> Job:
  """The job of a stored run, from what is at hand now; ValueError, with the differences, if that is another."""
  config = read_settings(store.folder)
  split = store.spec["data"].get("split")
  if checkpoint or model_function:
    config = dataclasses.replace(config, checkpoint=checkpoint, model_function=model_function)
  config = dataclasses.replace(
    config,
    out=store.folder.location,
    # Of other images than TFDS's there is neither.
    split=split,
    data_dir=None if split is None else data_dir or config.data_dir,
    num_devices=num_devices,
  )
  job = make_job(config, store.folder)
  asked = {**make_spec(job), "num_images": job.num_images, "unit_size": job.unit_size, "fields": job.search.fields()}
  if not store.has_checksums:
    del asked["fields"][results.PIXEL_DIGEST]
  compared = set(asked) - (set() if is_computing else set(OF_COMPUTING))
  stored = {**store.spec, "fields": store.fields}
  there = {name: stored.get(name) for name in compared}
  here = {name: json.loads(json.dumps(asked[name])) if name != "fields" else asked[name] for name in compared}
  differences = spec.find_differences(there, here)
  if differences:
    raise ValueError(
      f"what is at hand must be what {store.folder.location!r} was made from, but it differs ({'; '.join(differences)})"
      f"; {spec.explain_model(there, here)}{advise(differences)}."
    )
  return job


def advise(differences: Sequence[str]) -> str:
  if all(difference.startswith(("versions", "device")) for difference in differences):
    return "other versions and devices compute other last bits: use those of the run, or --sample 0"
  return f"name the right --checkpoint, --model or --data-dir, and see whether {results.SPEC_FILE} is damaged"
