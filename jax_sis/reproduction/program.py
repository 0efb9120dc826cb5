"""`jax-sis reproduce`: the paper's study of CIFAR-10, by stages that are done once and go on where they were."""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jax_sis.reproduction import engine, figure, report, tables
from jax_sis.reproduction.config import ReproduceConfig
from jax_sis.reproduction.engine import Done
from jax_sis.reproduction.names import Names
from jax_sis.reproduction.outcome import Outcome, read_outcome
from jax_sis.reproduction.presets import PRESETS, Preset
from jax_sis.reproduction.stage_lists import make_stages
from jax_sis.reproduction.stages import DATA, DATA_FILE, StudyStage
from jax_sis.results.answer import encode_csv, write_answer
from jax_sis.results.folder import open_folder
from jax_sis.runtime.provenance import all_versions, describe_commit
from jax_sis.runtime.records import to_json

FORMAT = "jax_sis.study/1"
STUDY_FILE, TABLE_FILE, REPORT_FILE = "study.json", "study.csv", "report.html"


def reproduce(config: ReproduceConfig) -> pathlib.Path:
  """Runs or resumes a study; prints its tables, and writes `study.json`, `study.csv` and the report.

  Returns:
    The study's folder.

  Raises:
    ValueError: another process works in the folder, the data set is missing, or a stage fails.
  """
  directory = pathlib.Path(config.out)
  preset = PRESETS[config.preset]
  stages = make_stages(preset)
  print(f"Preset {preset.name}. {preset.purpose}", flush=True)
  # A summary may be asked for while another process is at work: it reads what is done, and replaces its own files.
  with contextlib.nullcontext() if config.is_summary else engine.hold(directory):
    if config.is_summary:
      done = engine.find_done(stages, directory, config.data_dir)
    else:
      done = engine.run_stages(stages, directory, config.data_dir)
    outcomes = [read_outcome(preset, Names(architecture=name), done) for name in preset.architectures]
    for outcome in outcomes:
      tables.print_outcome(outcome)
    if len(done) < len(stages):
      print(f"{len(stages) - len(done)} of {len(stages)} stages are not done; what follows from them is not here.")
    if preset.is_plumbing:
      print(f"{preset.purpose} No number above says anything about a classifier.")
    write_files(config, preset, stages, done, outcomes)
  return directory


def write_files(
  config: ReproduceConfig,
  preset: Preset,
  stages: Sequence[StudyStage],
  done: Mapping[str, Done],
  outcomes: Sequence[Outcome],
) -> None:
  """Writes numbers, table, pictures and the page into the study's folder.

  Raises:
    ValueError: not even the data were read.
  """
  if DATA not in done:
    raise ValueError(f"--out must hold a study of which some stages are done, but {config.out!r} has none of this one.")
  content = make_answer(config, preset, stages, done, outcomes)
  num_classes = len(content["provenance"]["data"][preset.test_split]["num_images_by_class"])
  pictures: dict[str, bytes] = {}
  for outcome in outcomes:
    pictures |= figure.draw_outcome(outcome, num_classes=num_classes)
  rows = [tables.csv_row(outcome.architecture, cell) for outcome in outcomes for cell in outcome.cells]
  files = {
    REPORT_FILE: report.make_report(content, preset, outcomes, done, pictures, data_dir=config.data_dir),
    **({TABLE_FILE: encode_csv(rows)} if rows else {}),
    **pictures,
  }
  write_answer(open_folder(config.out), STUDY_FILE, content, files)


def show_plan(config: ReproduceConfig) -> None:
  """Prints the stages of a study, what is done of them, and how long the rest takes.

  Raises:
    ValueError: the data set is not there, or what was done cannot be read.
  """
  preset = PRESETS[config.preset]
  print(f"Preset {preset.name}. {preset.purpose}")
  engine.list_stages(make_stages(preset), pathlib.Path(config.out), config.data_dir)
  for what, reason in preset.not_run:
    print(f"Not run: {what}; {reason}.")


def make_answer(
  config: ReproduceConfig,
  preset: Preset,
  stages: Sequence[StudyStage],
  done: Mapping[str, Done],
  outcomes: Sequence[Outcome],
) -> dict[str, Any]:
  """The content of `study.json`."""
  directory = pathlib.Path(config.out)
  return {
    "format": FORMAT,
    "preset": preset.name,
    "purpose": preset.purpose,
    "is_plumbing": preset.is_plumbing,
    "seconds": sum(one.seconds for one in done.values()),
    "provenance": {
      "command": config.command,
      "versions": all_versions(),
      "commit": describe_commit(),
      "num_cores": os.cpu_count(),
      "data": json.loads((done[DATA].folder / DATA_FILE).read_bytes()),
      "settings": json.loads(json.dumps(dataclasses.asdict(preset))),
    },
    "outcomes": to_json(outcomes),
    "not_run": [{"what": what, "reason": reason} for what, reason in preset.not_run],
    "not_done": [{"name": stage.name, "title": stage.title} for stage in stages if stage.name not in done],
    "stages": [
      {
        "name": name,
        "title": one.stage.title,
        "program": one.stage.program,
        "folder": one.folder.relative_to(directory).as_posix(),
        "seconds": one.seconds,
        **{key: one.record.get(key) for key in ("key", "fingerprint", "finished", "versions", "commit", "devices")},
      }
      for name, one in done.items()
    ],
  }
