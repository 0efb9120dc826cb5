"""What the report of a run is made of: its numbers, its certificates, its controls, and who computed it."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any

from jax_sis import results
from jax_sis.core.subsets import Status
from jax_sis.results.schema import kinds_of
from jax_sis.results.store import Results
from jax_sis.runs import setup
from jax_sis.runs.config import FindConfig
from jax_sis.runtime.records import read_record
from jax_sis.statistics.estimates import Estimate, share_of
from jax_sis.studies.analysis.config import StudyConfig
from jax_sis.studies.analysis.program import FORMAT as ANALYSIS_FORMAT
from jax_sis.studies.analysis.run import RunAnalysis, analyse_run
from jax_sis.studies.controls.report import FORMAT as CONTROLS_FORMAT
from jax_sis.studies.controls.summaries import ControlSummary, FillSummary
from jax_sis.studies.controls.wrong_class import TowardsSummary

ANALYSIS_FILE, CONTROLS_FILE = "analysis.json", "controls.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certificates:
  """What evaluating the subsets of one kind again, alone and in the highest precision, said of them.

  Attributes:
    reaches: those that reach the run's threshold.
    keeps_class: those that are classified as the class in question.
    is_reproduced: those whose confidence is the one that the search saw.
    is_minimal: those from which no single feature can be dropped; None where the run did not try.
  """

  reaches: Estimate
  keeps_class: Estimate
  is_reproduced: Estimate
  is_minimal: Estimate | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class KindControls:
  """What `controls.json` says of one kind of subset; see `studies.controls`."""

  title: str
  num_images: int
  controls: tuple[ControlSummary, ...]
  fills: FillSummary
  reading: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassControls:
  """What `controls.json` says of evidence for classes that are not predicted."""

  max_features: int
  classes: tuple[TowardsSummary, ...]
  reading: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ControlsProvenance:
  """What `controls.json` says of its making."""

  spec_sha256: str
  command: str
  seed: int
  versions: dict[str, str]
  device: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Controls:
  """What reports show of `controls.json`."""

  format: str
  provenance: ControlsProvenance
  threshold: float
  fill_rule: str
  kinds: dict[str, KindControls]
  wrong_class: ClassControls | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
  """All that a report says of a run, but for its images.

  Attributes:
    store: the run.
    spec_sha256: of its specification.
    settings: what it was begun with; None where that is not there, or of another version.
    analysis: its numbers.
    analysis_origin: where these are from, in words.
    certificates: by kind of subset.
    controls: what its leak controls say; None where there are none.
    no_controls: why there are none; empty where there are.
  """

  store: Results
  spec_sha256: str
  settings: FindConfig | None
  analysis: RunAnalysis
  analysis_origin: str
  certificates: dict[str, Certificates]
  controls: Controls | None
  no_controls: str

  @property
  def spec(self) -> dict[str, Any]:
    return self.store.spec

  @property
  def kinds(self) -> tuple[str, ...]:
    return kinds_of(self.store.fields)


def read_inputs(
  store: Results,
  *,
  analysis_dir: str | None,
  seed: int,
  controls_dir: str | None = None,
  advance_fn: Callable[[int], object] = lambda _: None,
) -> Inputs:
  """Reads a run and what was written of it.

  Args:
    store: the run.
    analysis_dir: where `jax-sis analyse` wrote; None analyses the run here.
    seed: of that analysis.
    controls_dir: the folder with `controls.json`; None for the run's own.
    advance_fn: called with the number of images that were read since the last call.

  Raises:
    ValueError: nothing is finished, or the analysis is not of this run as it is now.
    StorageError: the run cannot be read.
  """
  spec_sha256 = hashlib.sha256(store.folder.read(results.SPEC_FILE) or b"").hexdigest()
  if analysis_dir is None:
    analysis = analyse_run(store, thresholds=StudyConfig.thresholds, seed=seed, advance_fn=advance_fn)
    origin = f"computed for this report, seed {seed}"
  else:
    analysis, origin = read_analysis(store, analysis_dir, spec_sha256)
  controls, no_controls = read_controls(
    store.folder if controls_dir is None else results.open_folder(controls_dir), spec_sha256
  )
  return Inputs(
    store=store,
    spec_sha256=spec_sha256,
    settings=read_settings(store),
    analysis=analysis,
    analysis_origin=origin,
    certificates=count_certificates(store),
    controls=controls,
    no_controls=no_controls,
  )


def read_analysis(store: Results, directory: str, spec_sha256: str) -> tuple[RunAnalysis, str]:
  """What `jax-sis analyse` wrote of this run, and by which command.

  Raises:
    ValueError: there is nothing of this run, or of another state of it.
    StorageError: it cannot be read.
  """
  folder = results.open_folder(directory)
  place = folder.join(ANALYSIS_FILE)
  content = folder.read(ANALYSIS_FILE)
  if content is None:
    raise ValueError(f"--analysis must be a folder that jax-sis analyse wrote, but {place!r} is not there.")
  try:
    parsed = json.loads(content)
    if parsed["format"] != ANALYSIS_FORMAT:
      raise ValueError(f"its format is {parsed['format']!r}")
    provenance = parsed["provenance"]
    label = next((name for name, run in provenance["runs"].items() if run["spec_sha256"] == spec_sha256), None)
    analysis = None if label is None else read_record(RunAnalysis, parsed["runs"][label])
    origin = f"{provenance['command']} (seed {provenance['seed']})"
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"{place!r} must be in the format {ANALYSIS_FORMAT!r}, but cannot be used ({type(error).__name__}: {error}); run "
      "jax-sis analyse again, or leave out --analysis."
    ) from error
  if analysis is None:
    raise ValueError(
      f"--analysis must be of the run in {store.folder.location!r}, but {place!r} is of runs with other "
      "specifications; leave it out, and the report analyses the run."
    )
  num_done = len(store.done_images())
  if analysis.num_finished != num_done:
    raise ValueError(
      f"--analysis must be of the run as it is now, with {num_done} finished images, but {place!r} is of "
      f"{analysis.num_finished}; run jax-sis analyse again, or leave out --analysis."
    )
  return analysis, origin


def read_controls(folder: results.Folder, spec_sha256: str) -> tuple[Controls | None, str]:
  """What `jax-sis controls` wrote, or why that cannot be shown."""
  try:
    content = folder.read(CONTROLS_FILE)
    if content is None:
      return None, "they were not run"
    controls = read_record(Controls, json.loads(content), CONTROLS_FILE)
  except ValueError as error:
    return None, f"{CONTROLS_FILE} cannot be used ({error})"
  if controls.format != CONTROLS_FORMAT:
    return None, f"{CONTROLS_FILE} has the format {controls.format!r} and not {CONTROLS_FORMAT!r}"
  if controls.provenance.spec_sha256 != spec_sha256:
    return None, f"{CONTROLS_FILE} is of a run with another specification"
  return controls, ""


def read_settings(store: Results) -> FindConfig | None:
  """What the run was begun with, if that is there and can be read."""
  try:
    return setup.read_settings(store.folder)
  except results.StorageError:
    raise
  except ValueError:
    return None


def count_certificates(store: Results) -> dict[str, Certificates]:
  """For each kind of subset, what its certificates say."""
  done = store.done_images()
  found = {}
  for kind in kinds_of(store.fields):
    is_ok = store.read(f"{kind}_status", done) == Status.OK
    shares = {
      name: share_of(store.read(f"{kind}_{name}", done).astype(bool)[is_ok])
      for name in ("is_sufficient", "keeps_class", "is_reproduced", "is_minimal")
      if f"{kind}_{name}" in store.fields
    }
    found[kind] = Certificates(
      reaches=shares["is_sufficient"],
      keeps_class=shares["keeps_class"],
      is_reproduced=shares["is_reproduced"],
      is_minimal=shares.get("is_minimal"),
    )
  return found
