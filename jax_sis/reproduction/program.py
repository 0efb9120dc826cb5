"""`jax-sis reproduce`: the paper's study, by stages that are done once and go on where they were."""

import contextlib
import pathlib
from collections.abc import Mapping, Sequence

from jax_sis.reproduction import engine, figure, report, tables
from jax_sis.reproduction.answer import REPORT_FILE, STUDY_FILE, TABLE_FILE, make_answer
from jax_sis.reproduction.config import ReproduceConfig
from jax_sis.reproduction.engine import Done
from jax_sis.reproduction.imagenet import program as imagenet
from jax_sis.reproduction.imagenet.setting import IMAGENET
from jax_sis.reproduction.names import Names
from jax_sis.reproduction.outcome import Outcome, read_outcome
from jax_sis.reproduction.presets import PRESETS, Preset
from jax_sis.reproduction.stage_lists import make_stages
from jax_sis.reproduction.stages import DATA, StudyStage
from jax_sis.results.answer import encode_csv, write_answer
from jax_sis.results.folder import open_folder


def reproduce(config: ReproduceConfig) -> pathlib.Path:
  """Runs or resumes a study; prints its tables, and writes `study.json`, `study.csv` and the report.

  Returns:
    The study's folder.

  Raises:
    ValueError: another process works in the folder, the data set is missing, or a stage fails.
  """
  if config.preset == IMAGENET.name:
    return imagenet.reproduce(config)
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
  is_of_photographs = config.preset == IMAGENET.name
  preset = IMAGENET if is_of_photographs else PRESETS[config.preset]
  print(f"Preset {preset.name}. {preset.purpose}")
  stages = imagenet.choose_stages(config) if is_of_photographs else make_stages(PRESETS[config.preset])
  engine.list_stages(stages, pathlib.Path(config.out), config.data_dir)
  for what, reason in preset.not_run:
    print(f"Not run: {what}; {reason}.")
