"""`jax-sis analyse`: what the subsets of one run say, or of several runs on the same images, as tables and pictures."""

import pathlib
from collections.abc import Mapping
from typing import Any

from jax_sis import results
from jax_sis.results.answer import encode_csv, hash_spec, write_answer
from jax_sis.results.schema import KINDS
from jax_sis.results.store import Results
from jax_sis.runs.status import describe_run
from jax_sis.runtime.progress import Progress
from jax_sis.runtime.provenance import all_versions
from jax_sis.runtime.records import to_json
from jax_sis.studies.analysis import figures, panels
from jax_sis.studies.analysis.comparison import Comparison, compare_runs
from jax_sis.studies.analysis.config import StudyConfig, find_twice
from jax_sis.studies.analysis.run import RunAnalysis, analyse_run, check_arguments
from jax_sis.studies.analysis.tables import describe_analysis, describe_comparison, size_rows

FORMAT = "jax_sis.analysis/3"


def analyse(config: StudyConfig) -> str:
  """Analyses runs; prints the tables, writes `analysis.json`, `analysis.csv` and the pictures.

  Args:
    config: which runs, see StudyConfig.

  Returns:
    The folder of what is written, as it was given.

  Raises:
    ValueError: a folder holds no run or nothing finished, a run is named twice, or the runs are not of the same images.
    StorageError: a run cannot be read, or the folder not be written.
  """
  folder = results.open_folder(config.out)
  stores = open_runs(config)
  for store in stores.values():
    check_arguments(store, config.thresholds, config.fraction)
  results.check_writable(folder)
  # Before the longer work, since it refuses runs that do not fit together.
  comparison = compare_runs(stores, thresholds=config.thresholds, seed=config.seed) if len(stores) > 1 else None
  analyses = {}
  num_images = sum(len(store.done_images()) for store in stores.values())
  with Progress("analysis", total=num_images, unit="image") as progress:
    for label, store in stores.items():
      analyses[label] = analyse_run(
        store,
        thresholds=config.thresholds,
        fraction=config.fraction,
        has_class_curves=config.has_class_curves,
        seed=config.seed,
        advance_fn=progress.advance,
      )
  for label, analysis in analyses.items():
    print(f"{label}:")
    for line in describe_run(stores[label].folder.location, stores[label].spec):
      print(f"  {line}")
    print(describe_finished(analysis, stores[label].spec["score"]))
    print(describe_analysis(analysis))
  if comparison is not None:
    print(describe_comparison(comparison))
  files = {"analysis.csv": encode_csv(size_rows(analyses)), **draw(stores, analyses)}
  write_answer(folder, "analysis.json", make_answer(config, stores, analyses, comparison), files)
  return config.out


def open_runs(config: StudyConfig) -> dict[str, Results]:
  """The runs by label. Raises ValueError if a folder holds none, or two names mean one run."""
  stores = [results.open(run_dir) for run_dir in config.run_dirs]
  places = [
    store.folder.location.rstrip("/") if store.folder.path is None else str(store.folder.path.resolve())
    for store in stores
  ]
  twice = find_twice(places)
  if twice is not None:
    raise ValueError(f"RUN_DIR must name each run once, got {twice!r} more than once.")
  names = [pathlib.PurePath(place).name for place in places]
  labels = config.labels or (config.run_dirs if find_twice(names) is not None else names)
  return dict(zip(labels, stores, strict=True))


def describe_finished(analysis: RunAnalysis, score: str) -> str:
  unlabelled = f", {analysis.num_unlabelled} of them without a label" if analysis.num_unlabelled else ""
  return f"  score {score}; {analysis.num_finished} of {analysis.num_images} images are finished{unlabelled}"


def make_answer(
  config: StudyConfig,
  stores: Mapping[str, Results],
  analyses: Mapping[str, RunAnalysis],
  comparison: Comparison | None,
) -> dict[str, Any]:
  return {
    "format": FORMAT,
    "provenance": {
      "command": config.command,
      "seed": config.seed,
      "versions": all_versions(),
      "runs": {label: describe_origin(store) for label, store in stores.items()},
    },
    "runs": {label: to_json(analysis) for label, analysis in analyses.items()},
    "comparison": to_json(comparison),
  }


def describe_origin(store: Results) -> dict[str, Any]:
  settings = ("search", "smallest", "score", "threshold", "target", "baseline", "completion", "removal")
  names = ("model", "data", *settings, "grid", "versions", "device")
  return {
    "location": store.folder.location,
    "spec_sha256": hash_spec(store.folder),
    **{name: store.spec[name] for name in names if name in store.spec},
  }


def draw(stores: Mapping[str, Results], analyses: Mapping[str, RunAnalysis]) -> dict[str, bytes]:
  thresholds = {label: store.spec["threshold"] for label, store in stores.items()}
  all_runs = list(analyses.values())
  pictures = {}
  if any(panels.sizes_of(run, kind) for run in all_runs for kind in KINDS):
    pictures["sizes.png"] = figures.draw_sizes(analyses)
  if any(positions.num_images for run in all_runs for positions in run.positions):
    pictures["positions.png"] = figures.draw_positions(analyses)
  if any(figures.curves_of(run) for run in all_runs):
    pictures["confidence.png"] = figures.draw_confidence(analyses, thresholds=thresholds)
  if any(correctness.num_images for run in all_runs for correctness in run.correctness):
    pictures["accuracy_by_size.png"] = figures.draw_accuracy(analyses)
  return pictures
