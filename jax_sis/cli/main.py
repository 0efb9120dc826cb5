"""`jax-sis`: finds the command that is meant, hands its settings over, and ends as a command should."""

import difflib
import functools
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from jax_sis.cli import layout
from jax_sis.version import __version__

if TYPE_CHECKING:
  from jax_sis.cli import parsing

DESCRIPTION = """\
Which few pixels are enough for an image classifier's answer? jax-sis finds the sufficient input subset (SIS) of each
image: a small set of pixels on which the classifier alone, everything else masked, is still confident. Where such a
set shows nothing that a person could recognise, the classifier overinterprets (Carter et al., NeurIPS 2021).
"""
EXAMPLES = {
  "jax-sis find": "the embedded ResNet-20 on 24 CIFAR-10 test images",
  "jax-sis find --search smallest": "only the smallest evidence",
  "jax-sis find --data photos/ --resize": "your own images",
  "jax-sis evaluate --corruptions made": "how often it is right, and how sure, also on corrupted images",
  "jax-sis bench --batch 8 32": "how fast this machine is",
}
# The file of each command, imported only when needed, and what the command does.
COMMANDS = {
  "find": ("find", "find the sufficient input subset of each image"),
  "plan": ("find", "say what a run of find will cost"),
  "verify": ("runs", "check what a run of find has stored"),
  "controls": ("studies", "see whether subsets still work when what may leak is taken away"),
  "status": ("runs", "show what a run has done"),
  "export": ("runs", "write a run's results as CSV, parquet or the authors' npz, or its masks"),
  "analyse": ("studies", "say what the subsets of whole runs show, and compare runs"),
  "attributions": ("studies", "compare searches with attribution methods by the same curves"),
  "clusters": ("studies", "find what the subsets of a class share, and whether that alone carries it"),
  "disjoint": ("studies", "count the disjoint sufficient subsets of each image"),
  "holds": ("studies", "see on which backgrounds the first pixels of an order keep the class"),
  "soundness": ("studies", "see whether the first pixels of an order speak for one class alone"),
  "demo shortcut": ("studies", "plant a shortcut and see whether it is found"),
  "components": ("studies", "see what a class's logit is made of, and remove what is spurious"),
  "ranking": ("studies", "rank the images of a class by what their border alone says of it"),
  "labels": ("studies", "look for label errors, and see whether subset sizes add to that"),
  "report": ("runs", "write what a run shows as one HTML file"),
  "evaluate": ("classifiers", "measure accuracy, calibration and robustness"),
  "bench": ("classifiers", "measure this machine's throughput"),
  "train": ("classifiers", "train a classifier from a configuration file"),
  "reproduce": ("reproduce", "run the paper's study of CIFAR-10, or that of photographs"),
  "audit": ("reproduce", "say on one page whether a classifier can be trusted"),
  "checkpoint import": ("classifiers", "make a classifier of PyTorch's weights"),
  "checkpoint ensemble": ("classifiers", "make one classifier of several"),
  "data prepare": ("data", "make a TFDS data set from the original CIFAR archive"),
}
OPTIONS = {
  "-h, --help": "show this, or with a command what that takes",
  "--version": "show the version",
  "--print-completion SHELL": "print the script of completion for bash, zsh or fish, to be kept where it looks "
  "for such, as ~/.local/share/bash-completion/completions/jax-sis",
}
# What a shell calls a command that SIGPIPE ended.
BROKEN_PIPE = 141


def main(words: Sequence[str] | None = None) -> int:
  try:
    try:
      return run(list(sys.argv[1:] if words is None else words))
    finally:
      sys.stdout.flush()
  except BrokenPipeError:
    # The reader has seen enough, as `| head` does. Python flushes once more as it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BROKEN_PIPE


def run(words: list[str]) -> int:
  """Runs a command; error messages go to standard error."""
  name = next((name for name in (" ".join(words[:2]), *words[:1]) if name in COMMANDS), None)
  if name is None:
    return answer_without_command(words)
  from jax_sis.cli import parsing
  from jax_sis.core.messages import make_printable
  from jax_sis.runtime import interrupts

  command = load_command(name)
  # TFDS recommends another decoder of images whenever it opens a data set.
  logging.getLogger("absl").setLevel(logging.ERROR)
  try:
    settings = parsing.parse(name, command, words[len(name.split()) :])
    with interrupts.leave_on_signals(name, command.after_interrupt):
      return RUNNERS[name](settings) or 0
  except ValueError as error:
    # It may quote names that others gave.
    lines = map(make_printable, f"jax-sis {name}: {error}".split("\n"))
    print("\n".join(lines), file=sys.stderr)
    return 2


def load_command(name: str) -> "parsing.Command":
  return importlib.import_module(f"jax_sis.cli.{COMMANDS[name][0]}").COMMANDS[name]


def run_command(name: str, settings: tuple[Any, ...]) -> int | None:
  return load_command(name).run_fn(*settings)


RUNNERS: dict[str, Callable[[tuple[Any, ...]], int | None]] = {
  name: functools.partial(run_command, name) for name in COMMANDS
}


def answer_without_command(words: list[str]) -> int:
  """Help, the version, completion, or what may have been meant."""
  prefix = "" if not words or words[0].startswith("-") else words[0]
  members = [name for name in COMMANDS if name.startswith(f"{prefix} ")] if prefix else list(COMMANDS)
  match words[1:] if prefix else words:
    case ["-h" | "--help", *_] if members:
      print(make_help(members, prefix))
      return 0
    case ["--version"]:
      print(f"jax-sis {__version__}")
      return 0
    case ["--print-completion", ("bash" | "zsh" | "fish") as shell]:
      from jax_sis.cli import parsing

      print(parsing.make_completion({name: load_command(name) for name in COMMANDS}, shell))
      return 0
    case ["--print-completion", *_]:
      print("jax-sis: --print-completion must name bash, zsh or fish.", file=sys.stderr)
      return 2
    case [] if members:
      # A script that has lost its words should not go on.
      print(make_help(members, prefix), file=sys.stderr)
      return 2
  written = " ".join(words[:2] if prefix and members else words[:1])
  known = [*members, *(option.split()[-1] for option in ("--help", "--version", "--print-completion"))]
  nearest = difflib.get_close_matches(written, known if members else [*COMMANDS], n=1)
  hint = f"did you mean {nearest[0]}?" if nearest else "jax-sis --help lists all commands."
  print(f"jax-sis: there is no command {written!r}; {hint}", file=sys.stderr)
  return 2


def make_help(names: Sequence[str], prefix: str) -> str:
  width = layout.width()
  described = {name: COMMANDS[name][1] for name in names}
  blocks = [f"usage: jax-sis {prefix}{' ' if prefix else ''}COMMAND [-h] [OPTIONS]"]
  blocks += [] if prefix else [layout.wrap(DESCRIPTION, width)]
  blocks.append(layout.make_table("commands", described, width))
  blocks += [] if prefix else [layout.make_table("options", OPTIONS, width)]
  blocks += [] if prefix else [layout.make_table("examples", EXAMPLES, width)]
  return "\n\n".join(blocks)
