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
from jax_sis.classifiers import checkpoint, ensemble, ndf_squeezenet, state_dicts, torch_weights
from jax_sis.classifiers.recipes import Recipe, find_recipe
from jax_sis.data import images, sources, tfds
from jax_sis.data.imagenet_classes import imagenet_class_names
from jax_sis.data.normalisation import NORMALISATIONS, Normalisation

# Pixels a side of networks that no recipe is known of.
IMAGE_SIZE = 32
NUM_OF_IMAGENET = 1000


def import_weights(
  path: str | os.PathLike[str],
  *,
  out_dir: str | os.PathLike[str],
  normalisation: Normalisation | None = None,
  recipe: str | None = None,
  model_name: str | None = None,
  class_names: Sequence[str] | None = None,
  image_size: int | None = None,
  key: str | None = None,
) -> classifiers.Classifier:
  """Makes a classifier from a PyTorch state dict, writes it, returns it, and prints how its input is made.

  A network with a single logit z is one of two classes, with the logits [0, z].

  Args:
    path: a `.pt`, `.pth`, `.th`, `.npz` or `.safetensors` file, or the `.pkl` file of the package ndf.
    out_dir: the classifier's folder.
    normalisation: what is made of pixels, where that is not the recipe's; the file does not say.
    recipe: a key of `recipes.RECIPES`; None for that of the architecture's published weights.
    model_name: a key of `classifiers.ARCHITECTURES`; None recognises it by the names of the weights.
    class_names: a name for each logit; None for those of ImageNet where there is a recipe and 1,000 logits, and else
      for numbers.
    image_size: pixels a side; None for the recipe's.
    key: which state dict of the file, if it holds several, or what the names meant begin with; see `read_state_dict`.

  Raises:
    ValueError: the file cannot be read or does not hold that architecture, there are more or fewer names than classes,
      or how the input is made is not known, or said in two ways.
  """
  state_dict = state_dicts.read_state_dict(path, key=key)
  is_ndf = ndf_squeezenet.is_ndf(state_dict)
  if is_ndf:
    state_dict = ndf_squeezenet.to_torch(state_dict)
    print(ndf_squeezenet.NOTE)
  match = torch_weights.find_match(state_dict, model_name)
  model_name, module = match.model_name, torch_weights.build_module(match, state_dict)
  source = ndf_squeezenet.SOURCE if is_ndf else match.naming.source
  published = find_recipe(recipe, model_name=model_name, source=source, path=path)
  inputs = choose_inputs(published, normalisation, image_size, model_name=model_name, is_named=recipe is not None)
  classifier = classifiers.Classifier(
    model_name=model_name,
    module=module,
    class_names=name_classes(class_names, module.head.kernel.shape[1], is_published=published is not None),
    normalisation=inputs.normalisation,
    input_shape=(inputs.size, inputs.size, 3),
    framing=inputs.framing,
    recipe=inputs.name or None,
  )
  checkpoint.save_classifier(out_dir, classifier)
  for line in torch_weights.describe(match):
    print(line)
  if inputs.name:
    print(f"Inputs are made by the recipe {inputs}, unless --recipe, or --normalisation and --size, say otherwise.")
  return classifier


def choose_inputs(
  published: Recipe | None,
  normalisation: Normalisation | None,
  image_size: int | None,
  *,
  model_name: str,
  is_named: bool,
) -> Recipe:
  """The recipe, or with another normalisation or size what is made of it, without a name; see `import_weights`."""
  if normalisation is None:
    if published is None:
      raise ValueError(
        f"--normalisation must say how the inputs of {model_name} are made, since no recipe of it is known; give it or "
        "a --recipe."
      )
    if image_size not in (None, published.size):
      raise ValueError(
        f"--size must be {published.size}, that of the recipe {published.name}, got {image_size}; leave it out or give "
        "--normalisation as well, for inputs of your own."
      )
    return published
  if is_named:
    raise ValueError("--recipe and --normalisation must not both be given; a recipe has a normalisation of its own.")
  chosen = Recipe(
    name="",
    size=image_size or (IMAGE_SIZE if published is None else published.size),
    framing=images.WHOLE_FRAMING if published is None else published.framing,
    normalisation=normalisation,
  )
  return published if published and dataclasses.replace(chosen, name=published.name) == published else chosen


def name_classes(class_names: Sequence[str] | None, num_classes: int, *, is_published: bool) -> tuple[str, ...]:
  """A name for each class; see `import_weights`."""
  has_background = is_published and num_classes == NUM_OF_IMAGENET + 1
  if class_names is None and not has_background:
    is_imagenet = is_published and num_classes == NUM_OF_IMAGENET
    return imagenet_class_names() if is_imagenet else sources.number_classes(num_classes)
  if class_names is None or len(class_names) != num_classes:
    advice = "; the first of 1,001 is TensorFlow's background, so begin --classes by a name for it." * has_background
    got = 0 if class_names is None else len(class_names)
    raise ValueError(f"class_names must have a name for each of the {num_classes} classes, got {got}{advice or '.'}")
  return tuple(class_names)


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
    if member.fix is not None:
      raise ValueError(f"members must not have components removed, but {str(directory)!r} has; name its base.")
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
    recipe=first.recipe,
    ensemble=config,
  )
  checkpoint.save_classifier(out_dir, classifier)
  return classifier
