"""`jax-sis components`: what is a class's logit made of, and which part of it is not the object?

Features weighted for a class have principal components over its images, and the class's logit is their sum (Neuhaus et
al. 2023). A person looks at the images in which each is largest, and marks those that are spurious. New here: the
pixels that raise a component, by a search for its sufficient subset, and what the classifier says of them alone.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jax_sis import results
from jax_sis.classifiers import Classifier, checkpoint, component_file
from jax_sis.classifiers.component_file import Component, encode_components
from jax_sis.classifiers.linear_head import LinearHead, find_linear_head
from jax_sis.classifiers.on_images import ClassifierOnImages, describe_set, open_images, open_on_images
from jax_sis.classifiers.spufix import remove_components
from jax_sis.core.messages import name_some
from jax_sis.data.records import ListedSource
from jax_sis.results.answer import describe_provenance, encode_json
from jax_sis.runtime.records import to_json
from jax_sis.studies.components import labels, page, report
from jax_sis.studies.components.config import ComponentsConfig
from jax_sis.studies.components.evidence import EvidenceSummary, seek, summarise_evidence, want
from jax_sis.studies.components.features import Looked, look
from jax_sis.studies.components.labels import ComponentName
from jax_sis.studies.components.principal import ClassComponents, find_components
from jax_sis.studies.components.summaries import ClassSummary, FixSummary, summarise_class, summarise_fix

FORMAT = "jax_sis.components/1"
FIXED_DIR, FIXED_FILE = "fixed", "fixed.npz"
MAX_NAMED = 5


def components(config: ComponentsConfig) -> dict[str, Any]:
  """`study`, with a table and its reading on the screen."""
  answer = study(config)
  print(report.describe(answer))
  print(f"Written to {config.out}: {', '.join(answer['files'])}", flush=True)
  return answer


def study(config: ComponentsConfig) -> dict[str, Any]:
  """Finds the components, or goes on with it; writes JSON, CSV, a page, the template of labels, a fixed classifier.

  Args:
    config: what to ask, see ComponentsConfig.

  Returns:
    What `components.json` holds.

  Raises:
    ValueError: a setting is wrong or does not fit the checkpoint or the data, the classifier cannot be split, no class
      has enough images, the labels are of another classifier, or the folder holds another run.
    StorageError: the folder cannot be written.
  """
  folder = results.open_folder(config.out)
  results.check_writable(folder)
  images = open_on_images(config, batch_size=config.batch_size, ids=config.ids, patch=config.patch)
  images.check_classifier()
  head = find_linear_head(images.classifier, images.predict_fn, images.params)
  check_names(config.classes, images.class_names)
  validation = open_validation(images, config)
  spec = results.settle_spec(config.out, make_spec(images, validation, config), command_fn=config.command_in)
  looked = look(images, head, folder, "features")
  numbers, left_out = choose_classes(images, looked, config)
  found = {
    number: find_components(looked.features[looked.label == number], head.kernel[:, number], float(head.bias[number]))
    for number in numbers
  }
  origin = {
    "format": FORMAT,
    "provenance": describe_provenance(folder, spec, command=config.command, seed=config.seed),
    "subject": f"{images.classifier.model_name} on {images.data_name}",
    "num_images": len(looked),
    "num_features": looked.features.shape[1],
    "search": {name: spec[name] for name in ("search", "completion", "threshold", "grid")},
    "left_out": left_out,
    "source_notes": list(images.source.notes),
  }
  judged = looked
  if validation is not None:
    images = dataclasses.replace(images, source=validation)
    judged = look(images, head, folder, "validation")
  identity = {name: spec[name] for name in ("model", "class_names", "normalisation", "data")}
  said = judge(images, head, (looked, judged), found, identity, config)
  answer = to_json(
    {**origin, "num_judged": len(judged), "judged_name": "" if validation is None else images.data_name, **said}
  )
  return write_files(folder, answer, images)


def judge(
  images: ClassifierOnImages,
  head: LinearHead,
  fitted_and_judged: tuple[Looked, Looked],
  found: dict[int, ClassComponents],
  identity: dict[str, Any],
  config: ComponentsConfig,
) -> dict[str, Any]:
  """What is said of the components of each class, on the images that all is judged on.

  Args:
    images: the classifier and these images.
    head: its last layer.
    fitted_and_judged: what it makes of the images that the components were found on, and of these.
    found: by the number of each class, its components.
    identity: what the file of labels is of.
    config: what to ask.
  """
  looked, judged = fitted_and_judged
  num_components = min(config.num_components, looked.features.shape[1])
  classes = [
    summarise_class(looked, judged, one, number, images.class_names, num_components=num_components)
    for number, one in found.items()
  ]
  evidence = find_evidence(images, head, judged, classes, found, config)
  parts = {
    component.name: Component(
      class_number=one.number,
      number=component.number,
      **found[one.number].direction(component.number - 1)._asdict(),
    )
    for one in classes
    for component in one.components
  }
  model = identity["model"]["sha256"]
  results.open_folder(config.out).write(component_file.NAME, encode_components(list(parts.values()), model=model))
  written = write_template(config, identity, list(parts))
  marked = {name: parts[name] for name in read_marked(config, identity, list(parts))}
  fix, fixed_files = write_fixed(images, judged, marked, model, config)
  return {
    "classes": classes,
    "evidence": {str(name): one for name, one in evidence.items()},
    "fix": fix,
    "files": ["components.json", "components.csv", "components.html", component_file.NAME, *written, *fixed_files],
  }


def write_files(folder: results.Folder, answer: dict[str, Any], images: ClassifierOnImages) -> dict[str, Any]:
  """Writes the answer, the JSON last: where it is, the others are, too; what it holds."""
  encoded = encode_json(answer)
  files = {
    "components.csv": report.make_csv(answer),
    "components.html": page.make_page(answer, images.source, images.grid),
    "components.json": encoded,
  }
  for name, content in files.items():
    folder.write(name, content)
  return json.loads(encoded)


def open_validation(images: ClassifierOnImages, config: ComponentsConfig) -> ListedSource | None:
  """The images to judge on; None for those that components are found on."""
  if config.validation is None and config.validation_split is None:
    return None
  return open_images(config, images.classifier, config.validation or config.data, config.validation_split)


def make_spec(images: ClassifierOnImages, validation: ListedSource | None, config: ComponentsConfig) -> dict[str, Any]:
  """What fixes the results, in JSON types; not the classes and components, of which more can be asked later."""
  return {
    "format": FORMAT,
    **describe_set(images),
    "validation": None if validation is None else validation.description,
    "search": config.search,
    "per_step": config.per_step,
    "completion": config.completion,
    "num_images": config.num_images,
    "threshold": config.threshold,
    "seed": config.seed,
  }


def check_names(classes: Sequence[str], class_names: Sequence[str]) -> None:
  """Raises ValueError unless these are names of classes."""
  unknown = [name for name in classes if name not in class_names]
  if unknown:
    known = name_some(class_names, most=MAX_NAMED)
    raise ValueError(f"--classes must name classes of the classifier ({known}), got {unknown[0]!r}.")


def choose_classes(
  images: ClassifierOnImages, looked: Looked, config: ComponentsConfig
) -> tuple[list[int], dict[str, str]]:
  """The classes that have enough images, and of the others the reason; ValueError where none has, or not one named."""
  wanted = [images.class_names.index(name) for name in config.classes or images.class_names]
  counts = {number: int((looked.label == number).sum()) for number in wanted}
  too_few = {number: count for number, count in counts.items() if count <= config.num_components}
  if too_few and (config.classes or len(too_few) == len(wanted)):
    number, count = max(too_few.items(), key=lambda one: one[1])
    raise ValueError(
      f"--data must hold more images of a class than the {config.num_components} components of it that are shown, but "
      f"{images.class_names[number]!r} has {count} among {len(looked)} with a label; give more images, such as those "
      "that the classifier was trained on, or fewer --components."
    )
  left_out = {images.class_names[number]: f"only {count} images" for number, count in too_few.items()}
  return [number for number in wanted if number not in too_few], left_out


def find_evidence(
  images: ClassifierOnImages,
  head: LinearHead,
  looked: Looked,
  classes: Sequence[ClassSummary],
  found: dict[int, ClassComponents],
  config: ComponentsConfig,
) -> dict[ComponentName, EvidenceSummary]:
  """The pixels of the components of each class that carry most of its logit's variance."""
  wanted = []
  for one in classes:
    largest = sorted(one.components, key=lambda component: -component.share)[: config.num_searched]
    wanted += [
      want(component, one.number, found[one.number].direction(component.number - 1), config.num_images)
      for component in largest
      if component.own or component.others
    ]
  sought = seek(images, head, looked, wanted, config)
  return {name: summarise_evidence(known, seed=config.seed) for name, known in sought.items()}


def write_template(config: ComponentsConfig, identity: dict[str, Any], names: Sequence[ComponentName]) -> list[str]:
  """Writes the file of labels into the folder, unless there is one or the user names another; its name."""
  if config.labels is not None:
    return []
  results.open_folder(config.out).write_new(labels.FILE, labels.make_template(identity, names))
  return [labels.FILE]


def read_marked(
  config: ComponentsConfig, identity: dict[str, Any], names: Sequence[ComponentName]
) -> list[ComponentName]:
  """The components that the person marked spurious."""
  path = pathlib.Path(config.labels) if config.labels is not None else pathlib.Path(config.out) / labels.FILE
  return labels.read_marked(path, identity, names)


def write_fixed(
  images: ClassifierOnImages,
  looked: Looked,
  removed: Mapping[ComponentName, Component],
  model: str,
  config: ComponentsConfig,
) -> tuple[FixSummary | None, list[str]]:
  """Writes the classifier without these components, if there are any; what that does, and what it is called."""
  if not removed:
    return None, []
  parts = list(removed.values())
  name = FIXED_DIR if isinstance(images.classifier, Classifier) else FIXED_FILE
  if isinstance(images.classifier, Classifier):
    checkpoint.save_classifier(pathlib.Path(config.out) / name, remove_components(images.classifier, parts))
  else:
    results.open_folder(config.out).write(name, encode_components(parts, model=model))
  return summarise_fix(looked, removed, seed=config.seed), [name]
