"""The names of settings on the command line, and the command line for given settings.

A settings class is a dataclass. Its fields are options with the same names, unless an annotation says otherwise:
`batch_size: Annotated[int, Option(name="batch")]`. `cli.parsing` makes the parser of that, `command_line` the words.
"""

import dataclasses
import hashlib
import os
import re
import shlex
import types
import typing
from collections.abc import Callable, Collection, Iterator
from typing import Any, ClassVar, Protocol, Self


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
  """How a setting stands on the command line.

  Attributes:
    name: of the option, without the dashes; None for the field's.
    metavar: what stands for the value in help; None for its type.
    is_positional: whether the value stands there without an option.
    is_repeated: whether the option may come several times, with one value each.
    word_for_none: what may be written for None; None for nothing.
    read_fn: makes the setting of what is written, such as the content of a file whose name is given.
  """

  name: str | None = None
  metavar: str | None = None
  is_positional: bool = False
  is_repeated: bool = False
  word_for_none: str | None = None
  read_fn: Callable[[str], Any] | None = None


class OptionGroup(Protocol):
  """A settings class of options that together make fields of another one."""

  def make(self) -> dict[str, Any]:
    """The fields of the other settings."""
    ...

  @classmethod
  def of(cls, settings: Any) -> Self:
    """The options that make those of the settings."""
    ...


@dataclasses.dataclass(frozen=True)
class MadeBy:
  """Annotates a field that these options replace."""

  options: type[OptionGroup]


# Annotates a field that the command line does not set.
NOT_AN_OPTION = object()
# Settings that another answer does not come of.
NOT_ASKED = frozenset({"out", "data_dir", "num_devices", "gallery"})
MAX_FOLDER_NAME = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
  """A field of a settings class as an option.

  Attributes:
    type: without annotations.
    default: `dataclasses.MISSING` where there is none.
  """

  owner: type
  field: str
  type: Any
  default: Any
  option: Option

  @property
  def name(self) -> str:
    return self.option.name or self.field.replace("_", "-")


def read_settings(owner: type) -> Iterator[Setting | MadeBy]:
  """The options of a settings class, in the order of its fields."""
  hints = typing.get_type_hints(owner, include_extras=True)
  for field in dataclasses.fields(owner):
    annotated = hints[field.name]
    notes = getattr(annotated, "__metadata__", ())
    made_by = next((note for note in notes if isinstance(note, MadeBy)), None)
    if made_by is not None:
      yield made_by
    elif NOT_AN_OPTION not in notes:
      option = next((note for note in notes if isinstance(note, Option)), Option())
      kind = annotated.__origin__ if notes else annotated
      yield Setting(owner=owner, field=field.name, type=kind, default=field.default, option=option)


def without_none(kind: Any) -> Any:
  """`X | None` -> X."""
  if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
    return typing.Union[tuple(part for part in typing.get_args(kind) if part is not types.NoneType)]  # noqa: UP007
  return kind


def command_line(command: str, *settings: Any, has_defaults: bool = True, given: Collection[str] = ()) -> str:
  """The command line that asks for these settings, for a shell.

  Args:
    command: such as `find` or `data prepare`.
    settings: an instance of each settings class of the command.
    has_defaults: write defaults too, so that it means the same in later versions.
    given: names of options that are written in any case.

  Raises:
    ValueError: there is no command line for these settings.
  """
  positional, named = [], []
  for part in settings:
    for setting, value in iterate_values(part):
      if not has_defaults and value == setting.default and setting.name not in given:
        continue
      (positional if setting.option.is_positional else named).extend(write_option(setting, value))
  return shlex.join(["jax-sis", *command.split(), *positional, *named])


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderCommand:
  """Settings of a command that works in a folder, with the fields `out` and `num_devices`.

  `COMMAND` is the command's name.
  """

  COMMAND: ClassVar[str]

  @property
  def command(self) -> str:
    """The command line that does the same, on any devices."""
    return command_line(self.COMMAND, dataclasses.replace(self, num_devices=None))

  def command_in(self, out: str) -> str:
    """The command line that asks for the same in this folder."""
    return command_line(self.COMMAND, dataclasses.replace(self, out=out), has_defaults=False)


def iterate_values(settings: Any) -> Iterator[tuple[Setting, Any]]:
  for setting in read_settings(type(settings)):
    if isinstance(setting, MadeBy):
      yield from iterate_values(setting.options.of(settings))
    else:
      yield setting, getattr(settings, setting.field)


def name_folder(settings: Any, stem: str) -> None:
  """Gives settings that have no `out` the folder of their question: the same question has the same, others another.

  It is called `stem` and what is asked beyond the defaults, as in `jax-sis-results-photos-resize`.
  """
  if settings.out:
    return
  try:
    asked = [
      (setting.name, value)
      for setting, value in iterate_values(settings)
      if setting.field not in NOT_ASKED and value != setting.default
    ]
  except ValueError:
    # Python can ask for more than the command line.
    asked = [("", repr({name: value for name, value in vars(settings).items() if name not in NOT_ASKED}))]
  name = "-".join([stem, *(name_value(option, value) for option, value in asked)])
  if len(name) > MAX_FOLDER_NAME:
    name = f"{name[: MAX_FOLDER_NAME - 9]}-{short_hash(name)}"
  object.__setattr__(settings, "out", name)


def name_value(option: str, value: Any) -> str:
  """An option in the name of a folder; what cannot stand there as it is gets a few digits that tell it from others."""
  if value is True:
    return option
  text = str(value)
  if isinstance(value, tuple):
    text = repr(value) if "+" in "".join(map(str, value)) else "+".join(map(str, value))
  text = os.path.normpath(text) if option == "data" else text
  plain = re.sub(r"[^\w.+]+", "_", text).strip("_.")
  plain = plain if plain == text and len(plain) <= 32 else f"{plain[:24]}-{short_hash(text)}".strip("-")
  return plain if option in ("", "data") else f"{option}-{plain}"


def short_hash(text: str) -> str:
  return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]


def write_option(setting: Setting, value: Any) -> list[str]:
  """The words of one option; none for an option that is off."""
  if value is None or value is False or (value == () and setting.default == ()):
    return []
  if setting.option.is_positional:
    return list(map(str, value)) if isinstance(value, tuple) else [str(value)]
  flag = f"--{setting.name}"
  if setting.option.read_fn is not None:
    return [flag, str(setting.option.metavar)]
  if setting.option.is_repeated:
    return [word for item in value for word in write_value(flag, str(item))]
  if value is True:
    return [flag]
  return [flag, *map(str, value)] if isinstance(value, tuple) else write_value(flag, str(value))


def write_value(flag: str, value: str) -> list[str]:
  """An option with one value, which must not read as another option."""
  return [f"{flag}={value}"] if value.startswith("-") else [flag, value]
