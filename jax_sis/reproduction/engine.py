"""Runs the stages of a study in order: finished ones are skipped, interrupted ones resume.

The folder of a stage is named after the SHA-256 of its settings and inputs. `stage.json` is written last and says that
a stage is done, by what and how long; `begun.json` says what was asked for, so that a stage that has to run again can
say why.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from jax_sis.reproduction.stages import StudyStage, write_json
from jax_sis.results.spec import find_differences
from jax_sis.runtime.provenance import all_versions, describe_commit

STAGES_DIR = "stages"
DONE_FILE, BEGUN_FILE, CLOCK_FILE = "stage.json", "begun.json", "clock.json"
FORMAT = "jax_sis.stage/1"
KEY_LENGTH = 12
CLOCK_SECONDS = 10.0
# An input gradient of one image by a ResNet-20 on two cores, until a study has timed stages of its own.
SECONDS_PER_GRADIENT = 5.5e-4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Done:
  """A finished stage.

  Attributes:
    folder: of its results.
    key: of its settings and inputs.
    fingerprint: of its results.
    seconds: how long it took, interrupted attempts included.
    record: all of `stage.json`.
  """

  stage: StudyStage
  folder: pathlib.Path
  key: str
  fingerprint: str
  seconds: float
  record: Mapping[str, Any]

  @property
  def product(self) -> pathlib.Path:
    return self.stage.product(self.folder)


@contextlib.contextmanager
def hold(directory: pathlib.Path) -> Iterator[None]:
  """Keeps a study's folder to one process, as long as that lives.

  Raises:
    ValueError: another process has it, or the folder cannot be made.
  """
  try:
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
  except OSError as error:
    raise ValueError(
      f"--out must be a folder that can be written, got {str(directory)!r} ({error.strerror})."
    ) from error
  try:
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      raise ValueError(
        f"--out {str(directory)!r} is being worked on by another process; wait for it, or name another folder."
      ) from error
    yield
  finally:
    os.close(descriptor)


def run_stages(stages: Sequence[StudyStage], directory: pathlib.Path, data_dir: str | None) -> dict[str, Done]:
  """Runs the stages that are not done; each comes after its inputs. Returns all of them by name.

  Raises:
    ValueError: a stage cannot be done; which, and why.
  """
  done: dict[str, Done] = {}
  for number, stage in enumerate(stages, start=1):
    description = describe_stage(stage, done, data_dir)
    folder = place(directory, description)
    found = read_done(stage, folder)
    if found is None:
      reason = find_reason(stage, folder, description)
      if has_to_move(stage, folder):
        # Changed results are kept, but not used.
        os.rename(folder, find_aside(folder))
      left = describe_seconds(estimate_seconds(stages[number - 1 :], done))
      print(f"\n[{number}/{len(stages)}] {stage.name}: {stage.title}. About {left} left for all.", flush=True)
      if reason:
        print(f"It runs again: {reason}.", flush=True)
      found = run_stage(stage, folder, description, done, data_dir)
      print(f"[{number}/{len(stages)}] {stage.name}: done in {describe_seconds(found.seconds)}.", flush=True)
    else:
      print(
        f"[{number}/{len(stages)}] {stage.name}: {stage.title}. Done already, in {describe_seconds(found.seconds)}.",
        flush=True,
      )
    done[stage.name] = found
  return done


def find_done(stages: Sequence[StudyStage], directory: pathlib.Path, data_dir: str | None) -> dict[str, Done]:
  """The stages that are done, with their inputs; runs nothing.

  Raises:
    ValueError: the settings of a stage do not fit what is there.
  """
  done: dict[str, Done] = {}
  for stage in stages:
    if all(name in done for name in stage.inputs.values()):
      found = read_done(stage, place(directory, describe_stage(stage, done, data_dir)))
      if found is not None:
        done[stage.name] = found
  return done


def list_stages(stages: Sequence[StudyStage], directory: pathlib.Path, data_dir: str | None) -> None:
  """Prints what `run_stages` would do."""
  done = find_done(stages, directory, data_dir)
  for number, stage in enumerate(stages, start=1):
    state = "to do, after its inputs"
    if stage.name in done:
      state = f"done in {describe_seconds(done[stage.name].seconds)}"
    elif all(name in done for name in stage.inputs.values()):
      description = describe_stage(stage, done, data_dir)
      folder = place(directory, description)
      reason = find_reason(stage, folder, description)
      state = f"to do again: {reason}" if reason else "begun" if (folder / BEGUN_FILE).exists() else "to do"
    if stage.name not in done:
      state += f", about {describe_seconds(estimate_seconds([stage], done))}"
    print(f"[{number}/{len(stages)}] {stage.name}: {stage.title}. {state[0].upper()}{state[1:]}.")
  left = describe_seconds(estimate_seconds([stage for stage in stages if stage.name not in done], done))
  print(f"{len(done)} of {len(stages)} stages are done; the rest takes about {left} at the speed of these, ", end="")
  print("or else of two cores.")


def describe_stage(stage: StudyStage, done: Mapping[str, Done], data_dir: str | None) -> dict[str, Any]:
  """A stage's name, key and all that fixes its results, in JSON types.

  Raises:
    ValueError: its settings do not fit what is there.
  """
  inputs = {
    role: {"stage": name, "fingerprint": done[name].fingerprint, "key": done[name].key}
    for role, name in stage.inputs.items()
  }
  with named(stage):
    settings = json.loads(json.dumps(stage.settings(data_dir)))
  content = {
    "program": stage.program,
    "settings": settings,
    "inputs": {role: found["fingerprint"] for role, found in inputs.items()},
  }
  key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
  return {"format": FORMAT, "name": stage.name, "key": key, **content, "inputs": inputs}


def place(directory: pathlib.Path, description: Mapping[str, Any]) -> pathlib.Path:
  return directory / STAGES_DIR / description["name"] / description["key"][:KEY_LENGTH]


def read_done(stage: StudyStage, folder: pathlib.Path) -> Done | None:
  """The finished stage in this folder; None if it is not finished, or its results have changed."""
  record = read_record(folder / DONE_FILE)
  if record is None:
    return None
  try:
    fingerprint = stage.fingerprint(folder)
  except (ValueError, OSError):
    return None
  if fingerprint != record["fingerprint"]:
    return None
  return Done(
    stage=stage, folder=folder, key=record["key"], fingerprint=fingerprint, seconds=record["seconds"], record=record
  )


def read_record(path: pathlib.Path) -> dict[str, Any] | None:
  """The content of `stage.json` or `begun.json`; None if it is missing, damaged or of another version."""
  record = read_json(path)
  return record if isinstance(record, dict) and record.get("format") == FORMAT else None


def has_to_move(stage: StudyStage, folder: pathlib.Path) -> bool:
  """Whether a stage's folder holds what can be neither used nor resumed."""
  if read_record(folder / DONE_FILE) is not None:
    return True
  begun = read_record(folder / BEGUN_FILE)
  return begun is not None and begun.get("machine", {}) != stage.machine()


def find_aside(folder: pathlib.Path) -> pathlib.Path:
  """An unused folder beside this one, for results that have changed."""
  number = 1
  while (aside := folder.with_name(f"{folder.name}.changed{number}")).exists():
    number += 1
  return aside


def find_reason(stage: StudyStage, folder: pathlib.Path, description: Mapping[str, Any]) -> str | None:
  """Why a stage that was begun has to start again; None if it was not begun, or resumes."""
  aside = find_aside(folder).name
  if read_record(folder / DONE_FILE) is not None:
    return f"its results are not what they were, or of another version; they are in {aside}"
  if has_to_move(stage, folder):
    begun = read_record(folder / BEGUN_FILE)
    assert begun is not None
    differences = "; ".join(find_differences(begun.get("machine", {}), stage.machine()))
    return f"it was begun on another machine or with other versions ({differences}); what there was is in {aside}"
  if (folder / BEGUN_FILE).exists() or not folder.parent.is_dir():
    return None
  earlier = sorted(folder.parent.glob(f"*/{BEGUN_FILE}"), key=lambda path: path.stat().st_mtime)
  if not earlier:
    return None
  before = read_record(earlier[-1])
  if before is None:
    return f"what {earlier[-1].parent.name} was made of cannot be read"
  reasons = find_differences(before["settings"], description["settings"])
  for role, now in description["inputs"].items():
    then = before["inputs"].get(role)
    if then is None or then["fingerprint"] != now["fingerprint"]:
      reasons.append(f"its {role}, {now['stage']}, has other contents")
  return "; ".join(reasons) or "it was moved"


def run_stage(
  stage: StudyStage,
  folder: pathlib.Path,
  description: Mapping[str, Any],
  done: Mapping[str, Done],
  data_dir: str | None,
) -> Done:
  """Runs one stage and writes its record.

  Raises:
    ValueError: it fails, or made nothing.
  """
  folder.mkdir(parents=True, exist_ok=True)
  write_json(folder / BEGUN_FILE, {**description, "machine": json.loads(json.dumps(stage.machine()))})
  inputs = {role: done[name].product for role, name in stage.inputs.items()}
  with named(stage), Clock(folder / CLOCK_FILE) as clock:
    stage.run(folder, inputs, data_dir)
    fingerprint = stage.fingerprint(folder)
  # Each program's compiled code holds memory mappings, of which Linux allows a process some 65,000.
  jax.clear_caches()
  record = {
    **description,
    "title": stage.title,
    "fingerprint": fingerprint,
    "seconds": round(clock.seconds, 1),
    "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    "versions": all_versions(),
    "commit": describe_commit(),
    "devices": [device.device_kind for device in jax.local_devices()],
  }
  write_json(folder / DONE_FILE, record)
  return Done(
    stage=stage, folder=folder, key=record["key"], fingerprint=fingerprint, seconds=record["seconds"], record=record
  )


@contextlib.contextmanager
def named(stage: StudyStage) -> Iterator[None]:
  """Names the stage in errors: raises a ValueError for a ValueError or OSError."""
  try:
    yield
  except (ValueError, OSError) as error:
    raise ValueError(f"stage {stage.name}: {error}") from error


class Clock:
  """Counts the seconds of a stage over all its attempts, killed ones too, to within CLOCK_SECONDS; kept in a file."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._before = float((read_json(path) or {}).get("seconds", 0.0))
    self._started = time.monotonic()
    self._stopped = threading.Event()
    self._thread = threading.Thread(target=self._keep, name="clock", daemon=True)

  @property
  def seconds(self) -> float:
    return self._before + time.monotonic() - self._started

  def __enter__(self) -> "Clock":
    self._thread.start()
    return self

  def __exit__(self, *error: object) -> None:
    self._stopped.set()
    self._thread.join()
    self._write()

  def _keep(self) -> None:
    while not self._stopped.wait(CLOCK_SECONDS):
      # A full disk must not end the stage here: its own program reports it.
      with contextlib.suppress(OSError, ValueError):
        self._write()

  def _write(self) -> None:
    write_json(self._path, {"seconds": round(self.seconds, 1)})


def estimate_seconds(left: Sequence[StudyStage], done: Mapping[str, Done]) -> float:
  """How long these stages take at the speed of the finished ones that such devices as these did."""
  kinds = {device.device_kind for device in jax.local_devices()}
  of_these = [one for one in done.values() if set(one.record["devices"]) == kinds]
  work_done = sum(one.stage.work for one in of_these)
  seconds_done = sum(one.seconds for one in of_these)
  speed = seconds_done / work_done if work_done else SECONDS_PER_GRADIENT
  return speed * sum(stage.work for stage in left)


def describe_seconds(seconds: float) -> str:
  if seconds < 60:
    return f"{seconds:.0f} s"
  minutes = round(seconds / 60)
  return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def read_json(path: pathlib.Path) -> Any | None:
  """The content of a file; None if it is missing or damaged."""
  try:
    return json.loads(path.read_bytes())
  except (OSError, ValueError):
    return None
