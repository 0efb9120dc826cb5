"""PyTorch state dicts -> our modules, by the tables of names in `torch_namings`."""

import collections
import dataclasses
import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_sis import classifiers
from jax_sis.classifiers.torch_namings import COUNTER, VARIABLES, Naming, find_namings
from jax_sis.core.messages import name_some

Shapes = dict[str, tuple[int, ...]]
# What trainers keep among the arrays and evaluation does not use: averages' counters and the weights of a loss.
TRAINING_ONLY = ("n_averaged", "criterion.", "loss.", "loss_fn.", "loss_fct.")
# The share of the names that must fit for an architecture to be near.
NEAR = 0.25
MAX_NAMED = 4
MAX_PREFIXES = 4
# Last layers, that of every network first, each with an output a class.
HEADS = ("head", "head_distilled")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Match:
  """How well a state dict fits an architecture under one naming.

  Attributes:
    model_name: a key of `classifiers.ARCHITECTURES`.
    naming: the table.
    prefix: what the names of the network begin with, before those of the table.
    num_classes: K, from the last layer of the state dict; 1 for a single logit.
    missing: names that the architecture needs and the state dict lacks, all without the prefix.
    unused: names that may change what the network computes, and that the architecture does not need.
    left_out: names beside the network, and of what only training uses.
    misshapen: name -> the shape that it must have, in PyTorch's layout.
    num_fitting: how many names are there in the right shape.
    others: further architectures that the arrays fit, where none was asked for.
  """

  model_name: str
  naming: Naming
  prefix: str
  num_classes: int
  missing: tuple[str, ...]
  unused: tuple[str, ...]
  left_out: tuple[str, ...]
  misshapen: Shapes
  num_fitting: int
  others: tuple[str, ...] = ()

  @property
  def is_exact(self) -> bool:
    return self.is_whole and not self.unused

  @property
  def is_whole(self) -> bool:
    return not (self.missing or self.misshapen)

  @property
  def likeness(self) -> float:
    """The share that fits, of all names that are present or needed."""
    num_wrong = len(self.missing) + len(self.unused) + len(self.misshapen)
    return self.num_fitting / max(1, self.num_fitting + num_wrong)


def load_module(model_name: str, state_dict: dict[str, np.ndarray]) -> Any:
  """Builds an architecture of ours with the arrays of a PyTorch state dict, in evaluation mode.

  Args:
    model_name: a key of `classifiers.ARCHITECTURES`.
    state_dict: names -> arrays, from `state_dicts.read_state_dict`; the last layer decides the number of classes. The
      network's names may all begin with one prefix, with other arrays beside them.

  Raises:
    ValueError: there is no such architecture; names are missing, not needed or of another shape; or there are several
      such networks. The message says which, and the architecture that the state dict looks like.
  """
  return build_module(find_match(state_dict, model_name), state_dict)


def identify(state_dict: dict[str, np.ndarray]) -> str:
  """The architecture whose state dict this is.

  Raises:
    ValueError: it is none of ours; the message names the most similar one, and what differs.
  """
  return find_match(state_dict).model_name


def build_module(match: Match, state_dict: dict[str, np.ndarray]) -> Any:
  """The module of an exact match, in evaluation mode. A single logit z of two classes becomes [0, z]."""
  is_single = match.num_classes == 1
  graphdef, state = nnx.split(abstract_module(match.model_name, 2 if is_single else match.num_classes))
  names = torch_names(match.model_name, match.naming, match.num_classes)
  arrays = {}
  for path, variable in nnx.to_flat_state(state):
    joined = np.concatenate([state_dict[match.prefix + name] for name in split_name(names[path])])
    array = to_our_layout(with_axes(joined, len(variable.shape)))
    if is_single and path[0] in HEADS:
      array = np.concatenate([np.zeros_like(array), array], axis=-1)
    arrays[path] = variable.replace(jnp.asarray(array, variable.dtype))
  module = nnx.merge(graphdef, nnx.from_flat_state(arrays))
  module.eval()
  return module


def find_match(state_dict: dict[str, np.ndarray], model_name: str | None = None) -> Match:
  """The architecture, or the naming of `model_name`, and the prefix that a state dict fits exactly.

  Raises:
    ValueError: it fits none, or under several prefixes; see `load_module`.
  """
  if model_name is not None and not find_namings(classifiers.architecture(model_name)):
    raise ValueError(f"model must be an architecture that other libraries have, too, got {model_name!r}.")
  matches = all_matches(state_dict, find_likely(state_dict) if model_name is None else (model_name,))
  exact = [match for match in matches if match.is_exact]
  # A second network of the same kind, such as averaged weights.
  whole = [match for match in matches if exact and match.model_name == exact[0].model_name and match.is_whole]
  if len(whole) > 1:
    prefixes = [repr(match.prefix.removesuffix(".")) for match in whole]
    raise ValueError(
      f"state_dict must hold one network, got several of {exact[0].model_name}, whose names begin with "
      f"{name_some(prefixes, most=MAX_NAMED)}; say by key which is meant."
    )
  if not exact:
    others = all_matches(state_dict, find_likely(state_dict))
    if not any(match.is_exact for match in others):
      others = all_matches(state_dict, tuple(classifiers.ARCHITECTURES))
    best = max(matches if model_name else others, key=likeness_of)
    raise ValueError(explain(best, others, state_dict, is_asked=model_name is not None))
  others = dict.fromkeys(match.model_name for match in exact if match.model_name != exact[0].model_name)
  return dataclasses.replace(exact[0], others=tuple(others))


def likeness_of(match: Match) -> float:
  return match.likeness


def find_likely(state_dict: dict[str, np.ndarray]) -> tuple[str, ...]:
  """The architectures whose last layer is there under one of its names; to outline all of them takes seconds."""
  last = {
    name: {f".{naming.parts['head'][0]}.bias" for naming in find_namings(config)}
    for name, config in classifiers.ARCHITECTURES.items()
  }
  given = [f".{name}" for name in state_dict if name.endswith(".bias")]
  return tuple(name for name, endings in last.items() if any(key.endswith(tuple(endings)) for key in given))


def all_matches(state_dict: dict[str, np.ndarray], model_names: tuple[str, ...]) -> list[Match]:
  """How a state dict fits each of these architectures, in each naming, under each prefix."""
  matches = []
  for name in model_names:
    config = classifiers.architecture(name)
    for naming in find_namings(config):
      needed = needed_shapes(name, naming, config.num_classes)
      matches += [compare(state_dict, name, naming, needed, prefix) for prefix in find_prefixes(state_dict, needed)]
  return matches


def find_prefixes(state_dict: dict[str, np.ndarray], needed: Shapes) -> list[str]:
  """What may stand before the names of a network: what stands before three that it needs, and has most names behind."""
  names = list(needed)
  found = {
    name.removesuffix(anchor)
    for anchor in (names[0], names[len(names) // 2], names[-1])
    for name in state_dict
    if name.endswith(f".{anchor}")
  }
  counts = collections.Counter(
    prefix for name in state_dict for dot in re.finditer(r"\.", name) if (prefix := name[: dot.end()]) in found
  )
  return ["", *(prefix for prefix, _ in counts.most_common(MAX_PREFIXES))]


def compare(state_dict: dict[str, np.ndarray], model_name: str, naming: Naming, needed: Shapes, prefix: str) -> Match:
  """Compares the names and shapes of a state dict behind a prefix with those that an architecture needs."""
  present = {
    name.removeprefix(prefix): array
    for name, array in state_dict.items()
    if name.startswith(prefix) and not name.endswith(COUNTER)
    if not name.removeprefix(prefix).startswith(naming.not_used or ("\0",))
  }
  head, *heads = (naming.parts[part][0] for part in HEADS if part in naming.parts)
  default = needed[f"{head}.bias"]
  num_classes = (present[f"{head}.bias"].shape or default)[0] if f"{head}.bias" in present else default[0]
  needed = {
    name: (num_classes, *shape[1:]) if name.rpartition(".")[0] in (head, *heads) else shape
    for name, shape in needed.items()
  }
  others = {name: array for name, array in present.items() if name not in needed}
  # Whole numbers are counters and places. A matrix beside the network that takes K numbers takes its logits further.
  left_out = [name for name, array in others.items() if name.startswith(TRAINING_ONLY) or array.dtype.kind in "iub"]
  beside = {name: array for name, array in state_dict.items() if not name.startswith(prefix)}
  taking = [name for name, array in beside.items() if array.ndim == 2 and array.shape[1] == num_classes]
  return Match(
    model_name=model_name,
    naming=naming,
    prefix=prefix,
    num_classes=num_classes,
    missing=tuple(name for name in needed if name not in present),
    unused=(*(name for name in others if name not in left_out), *taking),
    left_out=(*left_out, *(name for name in beside if name not in taking)),
    misshapen={name: shape for name, shape in needed.items() if name in present and not fits(present[name], shape)},
    num_fitting=sum(name in present and fits(present[name], shape) for name, shape in needed.items()),
  )


def explain(match: Match, matches: Sequence[Match], state_dict: dict[str, np.ndarray], *, is_asked: bool) -> str:
  """Why a state dict does not fit, by some names of each kind, and which architecture is nearest, in some lines."""
  likely = max(matches, key=likeness_of)
  source = f"in the names of {match.naming.source}{say_prefix(match)}"
  if is_asked:
    lines = [f"state_dict must hold exactly the arrays of {match.model_name}, {source}"]
  elif likely.likeness >= NEAR:
    share = f"{match.likeness:.0%} of the names fit"
    lines = [f"state_dict looks most like {match.model_name}, {source} ({share}), but must hold exactly its arrays"]
  else:
    return (
      "state_dict must be that of an architecture of ours, but none is near: of the names of the most similar, "
      f"{likely.model_name}, {likely.likeness:.0%} fit. There are {', '.join(classifiers.ARCHITECTURES)}; its arrays "
      f"are {name_some(shorten(state_dict), most=MAX_NAMED)}."
    )
  for title, names in (("missing", match.missing), ("not used", match.unused)):
    if names:
      lines.append(f"{title}: {name_some(shorten(names), most=MAX_NAMED)}")
  for name, shape in list(match.misshapen.items())[:MAX_NAMED]:
    lines.append(f"{name} must have the shape {shape}, got {state_dict[match.prefix + name].shape}")
  if len(match.misshapen) > MAX_NAMED:
    lines.append(f"{len(match.misshapen) - MAX_NAMED} more have another shape")
  if likely.likeness < NEAR:
    lines.append("no other architecture of ours is near")
  elif likely.model_name != match.model_name and likely.likeness > match.likeness:
    how = "is" if likely.is_exact else f"looks most like ({likely.likeness:.0%} of the names fit)"
    lines.append(
      f"it {how} a state dict of {likely.model_name} in the names of {likely.naming.source}{say_prefix(likely)}"
    )
  return "; ".join(lines) + "."


def say_prefix(match: Match) -> str:
  return f", behind {match.prefix!r}" if match.prefix else ""


def shorten(names: Iterable[str]) -> list[str]:
  return [f"{name:.60}" for name in names]


def describe(match: Match) -> list[str]:
  """What a user should know of an exact match: what is left out, and that a single logit becomes two."""
  lines = []
  if match.left_out:
    left_out = name_some(shorten(match.left_out), most=MAX_NAMED)
    lines.append(f"Left out, since no part of {match.model_name}{say_prefix(match)}: {left_out}.")
  if match.num_classes == 1:
    lines.append("Its single logit z becomes the logits [0, z] of two classes; z speaks for the second.")
  if match.others:
    lines.append(
      f"The arrays fit {', '.join(match.others)} as well, whose inputs or settings of layers are others; taken for "
      f"{match.model_name}, unless --model says otherwise."
    )
  return lines


@functools.cache
def needed_shapes(model_name: str, naming: Naming, num_classes: int) -> Shapes:
  """The names and shapes, in PyTorch's layout, of all arrays that an architecture needs."""
  names = torch_names(model_name, naming, num_classes)
  shapes: Shapes = {}
  for path, variable in nnx.to_flat_state(nnx.state(abstract_module(model_name, num_classes))):
    joined = split_name(names[path])
    first, *rest = torch_shape(variable.shape)
    shapes |= {name: (first // len(joined), *rest) for name in joined}
  return shapes


@functools.cache
def torch_names(model_name: str, naming: Naming, num_classes: int) -> dict[tuple[Any, ...], str]:
  """The path of each of our variables -> PyTorch's name, or several as `split_name` takes them."""
  state = nnx.state(abstract_module(model_name, num_classes))
  return {path: torch_name(naming, path) for path, _ in nnx.to_flat_state(state)}


def torch_name(naming: Naming, path: tuple[Any, ...]) -> str:
  tail = path[-2:] if path[-2:] in VARIABLES and path[-1:] not in (("kernel",),) else path[-1:]
  if tail not in VARIABLES:
    # An array that belongs to no layer.
    return str(part_names(naming, ".".join(map(str, path)))[0])
  is_norm, suffix = VARIABLES[tail]
  names = part_names(naming, ".".join(map(str, path[: -len(tail)])))
  # A layer norm of ours is a part of its own, whose bias is not known from a convolution's.
  name = str(names[is_norm] or names[True])
  return name + ("" if name.endswith("_") else ".") + suffix


def split_name(name: str) -> list[str]:
  """The names of the arrays whose first axes are joined: `attention.(query|key).bias` -> those of both."""
  found = re.search(r"\((.+)\)", name)
  return [name.replace(found[0], option) for option in found[1].split("|")] if found else [name]


def part_names(naming: Naming, part: str) -> tuple[str | None, str | None]:
  for pattern, names in naming.parts.items():
    found = compile_pattern(pattern).fullmatch(part)
    if found:
      conv_name, norm_name = (name and fill_in(name, found.groupdict()) for name in names)
      return conv_name, norm_name
  raise KeyError(f"{naming.source} has no name for {part}")


@functools.cache
def compile_pattern(pattern: str) -> re.Pattern[str]:
  """`stages.{s}.{b}` as an expression that finds both steps."""
  return re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^.]+)", re.escape(pattern)))


def fill_in(name: str, steps: dict[str, str]) -> str:
  """`layer{s+1}.{b}` with `s=0, b=2` -> `layer1.2`."""
  return re.sub(r"\{(\w+)(\+1)?\}", lambda found: str(int(steps[found[1]]) + 1) if found[2] else steps[found[1]], name)


@functools.cache
def abstract_module(model_name: str, num_classes: int) -> Any:
  return classifiers.build_abstract(model_name, num_classes=num_classes)


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
  """HWIO -> OIHW for kernels; linear layers are transposed; tokens stay."""
  return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1] if len(shape) == 2 else shape


def fits(array: np.ndarray, shape: tuple[int, ...]) -> bool:
  """Whether an array has this shape, beside ones at its end: a linear layer may be written as a 1x1 convolution."""
  num_axes = max(array.ndim, len(shape))
  return array.shape + (1,) * (num_axes - array.ndim) == shape + (1,) * (num_axes - len(shape))


def with_axes(array: np.ndarray, num_axes: int) -> np.ndarray:
  """The array with so many axes: ones at the end of its shape are added or left out."""
  return array.reshape((*array.shape, *(1,) * num_axes)[:num_axes])


def to_our_layout(array: np.ndarray) -> np.ndarray:
  """OIHW -> HWIO for kernels; linear layers are transposed; tokens stay."""
  return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T if array.ndim == 2 else array
