"""Makes classifiers from a file of PyTorch weights, or from several classifiers as one ensemble."""

import ast
import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from jax_sis import classifiers
from jax_sis.classifiers import checkpoint, ensemble, state_dicts, torch_weights
from jax_sis.data import images, sources, tfds
from jax_sis.data.normalisation import NORMALISATIONS, Normalisation

# Pixels a side that the published weights were trained on; 32 for all others.
IMAGE_SIZES = {"resnet50": 224, "inception_v3": 299}


def import_weights(
  path: str | os.PathLike[str],
  *,
  out_dir: str | os.PathLike[str],
  normalisation: Normalisation,
  model_name: str | None = None,
  class_names: Sequence[str] | None = None,
  image_size: int | None = None,
  key: str | None = None,
) -> classifiers.Classifier:
  """Makes a classifier from a PyTorch state dict, writes it, returns it, and prints what of the file is left out.

  A network with a single logit z is one of two classes, with the logits [0, z].

  Args:
    path: a `.pt`, `.pth`, `.th`, `.npz` or `.safetensors` file.
    out_dir: the classifier's folder.
    normalisation: how its input is made; the file does not say.
    model_name: a key of `classifiers.ARCHITECTURES`; None recognises it by the names of the weights.
    class_names: a name for each logit; None numbers them.
    image_size: pixels a side; None for the size that the architecture's published weights take.
    key: which state dict of the file, if it holds several, or what the names meant begin with; see `read_state_dict`.

  Raises:
    ValueError: the file cannot be read or does not hold that architecture, or there are more or fewer names than
      classes.
  """
  state_dict = state_dicts.read_state_dict(path, key=key)
  match = torch_weights.find_match(state_dict, model_name)
  model_name, module = match.model_name, torch_weights.build_module(match, state_dict)
  num_classes = module.head.kernel.shape[1]
  if class_names is None:
    class_names = sources.number_classes(num_classes)
  if len(class_names) != num_classes:
    raise ValueError(f"class_names must have a name for each of the {num_classes} classes, got {len(class_names)}.")
  size = image_size or IMAGE_SIZES.get(model_name, 32)
  classifier = classifiers.Classifier(
    model_name=model_name,
    module=module,
    class_names=tuple(class_names),
    normalisation=normalisation,
    input_shape=(size, size, 3),
    framing=images.CENTRAL_FRAMING if model_name in IMAGE_SIZES else images.WHOLE_FRAMING,
  )
  checkpoint.save_classifier(out_dir, classifier)
  for line in torch_weights.describe(match):
    print(line)
  return classifier


def parse_normalisation(text: str) -> Normalisation:
  """A data set's normalisation by its name, or by six numbers: means, then deviations; else raises ValueError."""
  if text in NORMALISATIONS:
    return NORMALISATIONS[text]
  try:
    numbers = [float(number) for number in text.split(",")]
  except ValueError:
    numbers = []
  if len(numbers) != 6:
    raise ValueError(
      f"--normalisation must be one of {', '.join(NORMALISATIONS)} or six numbers separated by commas, got {text!r}."
    )
  return Normalisation(mean=tuple(numbers[:3]), std=tuple(numbers[3:]))


def read_class_names(source: str, *, data_dir: str | None) -> tuple[str, ...]:
  """The class names in a file, or of a TFDS data set.

  The file has a class a line, or an index in JSON or as Python writes it: a list, names by number (as
  `imagenet_class_index.json` and `id2label` of a `config.json`), or numbers by name. It may be in UTF-8 or UTF-16.

  Raises:
    ValueError: there is neither, or the file is in another encoding, or no such index.
  """
  path = pathlib.Path(source)
  if path.is_file():
    content = path.read_bytes()
    try:
      text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
      raise ValueError(f"--classes must be a text in UTF-8 or UTF-16, got {source!r} ({error.reason}).") from error
    if text.lstrip()[:1] in ("{", "["):
      return names_of_index(text, source)
    return tuple(line.strip() for line in text.splitlines() if line.strip())
  return tuple(tfds.labelled_features(tfds.open_data_source(source, "test", data_dir), source)["label"].names)


def names_of_index(text: str, source: str) -> tuple[str, ...]:
  """The names of an index, in the order of their numbers; ValueError unless these are 0, 1, 2 and so on."""
  content: Any = None
  for read_fn in (json.loads, ast.literal_eval):
    if not isinstance(content, dict | list):
      with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
        content = read_fn(text)
  if not isinstance(content, dict | list):
    raise ValueError(f"--classes must be a list of names or an index in JSON, got {source!r}, which is neither.")
  if isinstance(content, dict) and isinstance(content.get("id2label"), dict):
    content = content["id2label"]
  if isinstance(content, dict) and all(type(value) is int for value in content.values()):
    content = {number: name for name, number in content.items()}
  numbered = content.items() if isinstance(content, dict) else enumerate(content)
  # Those of ImageNet come as pairs, of the WordNet id and the name.
  names = {str(number): name[-1] if isinstance(name, list | tuple) and name else name for number, name in numbered}
  ordered: list[Any] = [names.get(str(number)) for number in range(len(names))]
  if not all(isinstance(name, str) for name in ordered):
    raise ValueError(
      f"--classes must number its names 0, 1, 2 and so on, got {source!r} with {list(names.items())[:2]}."
    )
  return tuple(ordered)


def join_ensemble(
  directories: Sequence[str | os.PathLike[str]], *, average: ensemble.Average, out_dir: str | os.PathLike[str]
) -> classifiers.Classifier:
  """Makes an ensemble of several classifiers, writes it with their arrays and returns it.

  Args:
    directories: the members' folders, at least two.
    average: what is averaged: logits or probabilities.
    out_dir: the ensemble's folder.

  Raises:
    ValueError: there are fewer than two members, one is an ensemble, or they differ in classes, input or normalisation.
  """
  if len(directories) < 2:
    raise ValueError(f"an ensemble must have at least two members, got {len(directories)}.")
  members = [checkpoint.load_classifier(directory) for directory in directories]
  # Members that only number their classes get the names of those that know them.
  numbers = sources.number_classes(len(members[0].class_names))
  names = next((member.class_names for member in members if member.class_names != numbers), numbers)
  members = [
    dataclasses.replace(member, class_names=names) if member.class_names == numbers else member for member in members
  ]
  first = members[0]
  for directory, member in zip(directories, members, strict=True):
    if member.ensemble is not None:
      raise ValueError(f"members must be single classifiers, but {str(directory)!r} is an ensemble; name its members.")
    for field in ("class_names", "input_shape", "normalisation", "framing"):
      if getattr(member, field) != getattr(first, field):
        raise ValueError(
          f"members must have the same {field}, got {getattr(first, field)} in {str(directories[0])!r} and "
          f"{getattr(member, field)} in {str(directory)!r}."
        )
  config = ensemble.EnsembleConfig(members=tuple(member.model_name for member in members), average=average)
  classifier = classifiers.Classifier(
    model_name=f"ensemble of {len(members)}",
    module=ensemble.Ensemble([member.module for member in members], config),
    class_names=first.class_names,
    normalisation=first.normalisation,
    input_shape=first.input_shape,
    framing=first.framing,
    ensemble=config,
  )
  checkpoint.save_classifier(out_dir, classifier)
  return classifier
