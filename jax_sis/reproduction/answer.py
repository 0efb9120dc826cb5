"""The content of `study.json`: what a study found, of what, and by which stages."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jax_sis.reproduction.config import ReproduceConfig
from jax_sis.reproduction.engine import Done
from jax_sis.reproduction.imagenet.setting import Study
from jax_sis.reproduction.presets import Preset
from jax_sis.reproduction.stages import DATA, DATA_FILE, StudyStage
from jax_sis.runtime.provenance import all_versions, describe_commit
from jax_sis.runtime.records import to_json

FORMAT = "jax_sis.study/1"
STUDY_FILE, TABLE_FILE, REPORT_FILE = "study.json", "study.csv", "report.html"


def make_answer(
  config: ReproduceConfig,
  preset: Preset | Study,
  stages: Sequence[StudyStage],
  done: Mapping[str, Done],
  outcomes: Sequence[Any],
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
