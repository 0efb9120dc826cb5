"""Command lines -> settings, by tyro: options, types, defaults and help are those of the settings classes."""

# Types are made while the program runs.
# pyright: reportInvalidTypeForm=false

import contextlib
import dataclasses
import inspect
import io
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union

import tyro

from jax_sis.cli import layout
from jax_sis.runtime.command_line import MadeBy, Setting, read_settings, without_none

GOES_ON = "the same command goes on where it stopped"
BEGINS_ANEW = "the same command begins anew"
GIVEN = "given"
KEEPS_NOTHING = "no half file was kept, and the same command begins anew"
MARKERS = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone, tyro.conf.OmitSubcommandPrefixes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
  """A command: what it takes, what it calls, and what its help says beside the options.

  Attributes:
    settings: the classes that its options make.
    run_fn: called with an instance of each; returns the exit code, None for 0.
    description: paragraphs.
    tables: explanations of terms, by heading.
    examples: command lines without `jax-sis`.
    groups: names of settings by their heading in help; others have none.
    after_interrupt: what to say after an interrupt.
  """

  settings: tuple[type, ...]
  run_fn: Callable[..., int | None]
  description: str
  tables: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
  examples: Sequence[str] = ()
  groups: Mapping[str, str] = dataclasses.field(default_factory=dict)
  after_interrupt: str = GOES_ON


def parse(name: str, command: Command, words: Sequence[str]) -> tuple[Any, ...]:
  """The settings that these words ask for; exits after `--help` and after errors.

  Raises:
    ValueError: each option is understood, but a settings class refuses what it says.
  """
  filled, printed = run_tyro(make_form(command), prog=f"jax-sis {name}", words=words)
  if filled is None:
    _, boxes = printed.split("\n", 1)
    print(f"{describe(name, command)}\n{boxes}", end="")
    sys.exit(0)
  values = {name: value for part in vars(filled).values() for name, value in vars(part).items()}
  given = frozenset(word[2:].partition("=")[0].replace("_", "-") for word in words if word.startswith("--"))
  return tuple(make_settings(owner, {**values, GIVEN: given}) for owner in command.settings)


def run_tyro(form: Any, *, prog: str, words: Sequence[str]) -> tuple[Any, str]:
  """What tyro fills in (None with `--help` and completion), and what it prints.

  It exits after the box of an error. Nothing has colours, since tyro takes standard output for a file.
  """
  printed = io.TextIOWrapper(io.BytesIO(), encoding=sys.stdout.encoding)
  filled = None
  with contextlib.redirect_stdout(printed):
    try:
      filled = tyro.cli(form, prog=prog, description="", args=words, config=MARKERS)
    except SystemExit as finished:
      if finished.code:
        raise
  printed.seek(0)
  return filled, printed.read()


def make_completion(commands: Mapping[str, Command], shell: str) -> str:
  tree: dict[str, Any] = {}
  for name, command in commands.items():
    *parents, last = name.split()
    branch = tree
    for parent in parents:
      branch = branch.setdefault(parent, {})
    branch[last] = make_form(command)
  return run_tyro(join_forms(tree), prog="jax-sis", words=["--tyro-write-completion", shell, "-"])[1]


def join_forms(tree: Mapping[str, Any]) -> Any:
  """The union of which tyro makes subcommands, from a tree of forms by name."""
  forms = [Annotated[dataclasses.make_dataclass("Help", []), tyro.conf.subcommand("--help")]]
  for name, branch in tree.items():
    form = branch
    if isinstance(branch, Mapping):
      form = dataclasses.make_dataclass("Commands", [("command", join_forms(branch))])
    forms.append(Annotated[form, tyro.conf.subcommand(name)])
  return Union[tuple(forms)]  # noqa: UP007


def make_settings(owner: type, values: Mapping[str, Any]) -> Any:
  # Settings whose defaults depend on the model must know which of them are asked for.
  fields: dict[str, Any] = {GIVEN: values[GIVEN]} if hasattr(owner, GIVEN) else {}
  for setting in read_settings(owner):
    if isinstance(setting, MadeBy):
      fields |= make_settings(setting.options, values).make()
      continue
    value = values[setting.field]
    if setting.option.word_for_none is not None and value == setting.option.word_for_none:
      value = None
    elif setting.option.read_fn is not None and value is not None:
      value = setting.option.read_fn(value)
    fields[setting.field] = value
  return owner(**fields)


def make_form(command: Command) -> type:
  """A dataclass for tyro with a dataclass for each heading, whose fields are the options."""
  heading_of = {field: heading for heading, fields in command.groups.items() for field in fields.split()}
  groups: dict[str, list[Any]] = {heading: [] for heading in ("", *command.groups)}
  for setting in iterate_options(command.settings):
    groups[heading_of.pop(setting.field, "")].append(make_field(setting))
  assert not heading_of, f"no such settings: {heading_of}"
  parts = []
  for heading, fields in groups.items():
    group = dataclasses.make_dataclass("Group", fields, kw_only=True)
    parts.append((f"group_{len(parts)}", Annotated[group, tyro.conf.arg(name=heading)]))
  return dataclasses.make_dataclass("Form", parts, kw_only=True)


def iterate_options(owners: Sequence[type]) -> Iterator[Setting]:
  for owner in owners:
    for setting in read_settings(owner):
      if isinstance(setting, MadeBy):
        yield from iterate_options([setting.options])
      else:
        yield setting


def make_field(setting: Setting) -> Any:
  """An option as a field of a dataclass that tyro reads."""
  option = setting.option
  kind, default = setting.type, setting.default
  # The docstring says what None means.
  hint = "" if default is None or default is False or default in ((), "") else None
  if option.word_for_none is not None:
    kind, default = without_none(kind) | Literal[option.word_for_none], option.word_for_none
  elif option.read_fn is not None:
    kind = str | None
  argument = tyro.conf.arg(
    name=setting.name,
    prefix_name=False,
    metavar=option.metavar,
    help=describe_setting(setting),
    help_behavior_hint=hint,
  )
  markers = [tyro.conf.Positional] if option.is_positional else []
  markers += [tyro.conf.UseAppendAction] if option.is_repeated else []
  field = dataclasses.field() if default is dataclasses.MISSING else dataclasses.field(default=default)
  return (setting.field, Annotated[(kind, argument, *markers)], field)  # pyright: ignore


def describe_setting(setting: Setting) -> str:
  """What the docstring of a settings class, or of a base, says of a field."""
  for owner in setting.owner.__mro__:
    found = re.search(rf"^  {setting.field}: (.+(?:\n    .+)*)", inspect.cleandoc(owner.__doc__ or ""), re.MULTILINE)
    if found:
      return " ".join(found[1].split()).removesuffix(".").replace("`", "'")
  raise ValueError(f"{setting.owner.__name__}.{setting.field} must stand in a docstring.")


def describe(name: str, command: Command) -> str:
  width = layout.width()
  positional = [option for option in iterate_options(command.settings) if option.option.is_positional]
  metavars = [option.option.metavar or option.name for option in positional]
  blocks = [" ".join([f"usage: jax-sis {name} [-h] [OPTIONS]", *metavars]), layout.wrap(command.description, width)]
  blocks += [layout.make_table(heading, rows, width) for heading, rows in command.tables.items()]
  if command.examples:
    examples = [layout.wrap_command(f"jax-sis {line}", width) for line in command.examples]
    blocks.append("\n".join(["examples:", *examples]))
  return "\n\n".join(blocks)
