"""`jax-sis audit`: can a classifier be trusted? The package's studies of a data set, by stages, on one page."""

import os
import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from jax_sis.reproduction import engine
from jax_sis.reproduction.audit import report, stages, words
from jax_sis.reproduction.audit.config import AuditConfig
from jax_sis.reproduction.audit.reading import Found, read_found
from jax_sis.reproduction.engine import Done
from jax_sis.reproduction.stages import StudyStage
from jax_sis.results.answer import write_answer
from jax_sis.results.folder import open_folder
from jax_sis.runtime.provenance import all_versions, describe_commit
from jax_sis.runtime.records import to_json
from jax_sis.statistics.estimates import show_percent

FORMAT = "jax_sis.audit/1"
ANSWER_FILE, REPORT_FILE = "audit.json", "audit.html"
NUM_PRINTED = 5
WIDTH = 120


def audit(config: AuditConfig) -> pathlib.Path:
  """Runs or resumes an audit; prints what to look at first, and writes `audit.json` and the page.

  Returns:
    The folder.

  Raises:
    ValueError: another process works in the folder, classifier or images cannot be opened, or a stage fails.
  """
  directory = pathlib.Path(config.out)
  planned = stages.make_stages(config)
  with engine.hold(directory):
    engine.list_stages(planned, directory, config.data_dir)
    done = engine.run_stages(planned, directory, config.data_dir)
    found = read_found(done)
    content = make_content(config, planned, done, found)
    page = report.make_report(content, found, stages.open_subject(config)[0])
    write_answer(open_folder(config.out), ANSWER_FILE, content, {REPORT_FILE: page})
  print_found(found)
  return directory


def show_plan(config: AuditConfig) -> None:
  """Prints the stages, what is done of them, and how long the rest takes.

  Raises:
    ValueError: classifier or images cannot be opened, or what was done cannot be read.
  """
  engine.list_stages(stages.make_stages(config), pathlib.Path(config.out), config.data_dir)


def make_content(
  config: AuditConfig, planned: Sequence[StudyStage], done: Mapping[str, Done], found: Found
) -> dict[str, Any]:
  """What `audit.json` holds."""
  directory = pathlib.Path(config.out)
  return {
    "format": FORMAT,
    "size": config.size,
    "seconds": sum(one.seconds for one in done.values()),
    "provenance": {
      "command": config.command,
      "versions": all_versions(),
      "commit": describe_commit(),
      "num_cores": os.cpu_count(),
    },
    "subject": found.subject,
    "ranking": [
      {
        "name": one.name,
        "class": one.of_class,
        "kind": "place" if one.cluster else "component",
        "number": one.number,
        "turns": to_json(one.turns),
        "strength": one.strength,
        "taken_away": to_json(one.taken),
      }
      for one in found.suspects
    ],
    "classes": {name: to_json(one) for name, one in found.by_class.items()},
    "precision": to_json(found.precision),
    "stages": [
      {
        "name": stage.name,
        "title": stage.title,
        "folder": done[stage.name].folder.relative_to(directory).as_posix(),
        "seconds": done[stage.name].seconds,
        "fingerprint": done[stage.name].fingerprint,
      }
      for stage in planned
    ],
  }


def print_found(found: Found) -> None:
  """The first of the list, on the screen."""
  print("\nLook at these first: by themselves they make so many images of other classes the class, %")
  for place, one in enumerate(found.suspects[:NUM_PRINTED], start=1):
    print(f"  {place}. {one.name:<32} {show_percent(one.turns):>20}  {one.strength}")
  print(textwrap.fill(words.CANNOT[0], WIDTH), flush=True)
