"""`jax-sis reproduce --preset imagenet`: the study of photographs, by stages like that of CIFAR-10."""

import contextlib
import pathlib
from collections.abc import Mapping

from jax_sis.reproduction import engine
from jax_sis.reproduction.answer import REPORT_FILE, STUDY_FILE, TABLE_FILE, make_answer
from jax_sis.reproduction.claims import Claim
from jax_sis.reproduction.config import ReproduceConfig
from jax_sis.reproduction.engine import Done
from jax_sis.reproduction.imagenet import figure, report, tables
from jax_sis.reproduction.imagenet.claims import make_claims
from jax_sis.reproduction.imagenet.outcome import Outcome, read_maps, read_outcome
from jax_sis.reproduction.imagenet.setting import IMAGENET
from jax_sis.reproduction.imagenet.stages import make_stages, name_classifiers
from jax_sis.reproduction.stages import StudyStage
from jax_sis.reproduction.tables import CLAIM_HEADER, align, claim_rows, list_facts
from jax_sis.results.answer import encode_csv, write_answer
from jax_sis.results.folder import open_folder
from jax_sis.runtime.records import to_json


def choose_stages(config: ReproduceConfig) -> list[StudyStage]:
  """The stages, up to the one at which to stop.

  Raises:
    ValueError: there is no such folder, classifier or stage.
  """
  assert config.data is not None
  stages = make_stages(config.data, config.checkpoints)
  names = [stage.name for stage in stages]
  if config.until is None:
    return stages
  if config.until not in names:
    raise ValueError(f"--until must be a stage of the study ({', '.join(names)}), got {config.until!r}.")
  return stages[: names.index(config.until) + 1]


def reproduce(config: ReproduceConfig) -> pathlib.Path:
  """Runs or resumes the study; prints its tables, and writes `study.json`, `study.csv`, pictures and the page.

  Returns:
    The study's folder.

  Raises:
    ValueError: another process works in the folder, images or a classifier are missing, or a stage fails.
  """
  directory = pathlib.Path(config.out)
  stages = choose_stages(config)
  print(f"Preset {IMAGENET.name}. {IMAGENET.purpose}", flush=True)
  with contextlib.nullcontext() if config.is_summary else engine.hold(directory):
    if config.is_summary:
      done = engine.find_done(stages, directory, None)
    else:
      done = engine.run_stages(stages, directory, None)
    named = name_classifiers(config.checkpoints)
    outcomes = [found for names in named if (found := read_outcome(names, done)) is not None]
    if not outcomes:
      print("No search is done yet, so that there is nothing to tell.", flush=True)
      return directory
    claims = make_claims(outcomes)
    print_outcomes(outcomes, claims)
    write_files(config, done, outcomes, claims)
  return directory


def print_outcomes(outcomes: list[Outcome], claims: list[Claim]) -> None:
  """All tables on the screen; in brackets are 95 % intervals."""
  found = {
    "Sizes": (tables.SIZE_HEADER, tables.size_rows(outcomes)),
    "The 10 % needed most, at the border": (tables.BORDER_HEADER, tables.border_rows(outcomes)),
    "What each part says by itself": (tables.PART_HEADER, tables.part_rows(outcomes)),
    "What a class at random needs, shown alone": (tables.RANDOM_HEADER, tables.random_rows(outcomes)),
    "Right against wrong": (tables.COMPARED_HEADER, tables.compared_rows(outcomes)),
    "From one classifier to another": (tables.SHOWN_HEADER, tables.shown_rows(outcomes)),
  }
  for heading, (header, rows) in found.items():
    if rows:
      print(f"\n{heading}\n{align(header, rows)}")
  print(f"\nThe paper's claims\n{list_facts(CLAIM_HEADER, claim_rows(claims))}", flush=True)


def write_files(
  config: ReproduceConfig, done: Mapping[str, Done], outcomes: list[Outcome], claims: list[Claim]
) -> None:
  """Writes numbers, table, pictures and the page into the study's folder."""
  assert config.data is not None
  stages = make_stages(config.data, config.checkpoints)
  content = {**make_answer(config, IMAGENET, stages, done, outcomes), "claims": to_json(claims)}
  maps = {names.label: read_maps(names, done) for names in name_classifiers(config.checkpoints)}
  pictures = figure.draw_outcomes(outcomes, maps)
  rows = tables.csv_rows(outcomes)
  files = {
    REPORT_FILE: report.make_report(content, outcomes, claims, pictures),
    **({TABLE_FILE: encode_csv(rows)} if rows else {}),
    **pictures,
  }
  write_answer(open_folder(config.out), STUDY_FILE, content, files)
