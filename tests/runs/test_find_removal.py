"""`find --removal layer`, and what reads such a run: verify, status and the controls."""

import pathlib
from typing import Any

import numpy as np
import pytest
from tiny_runs import GRADIENT, find_tiny

from jax_sis.runs import status, verify
from jax_sis.runs.completion import CompletionSettings
from jax_sis.runs.config import FindConfig, settings_from_json, settings_to_json
from jax_sis.studies.controls.config import ControlsConfig
from jax_sis.studies.controls.program import controls
from jax_sis.studies.controls.views import NAMES


@pytest.mark.slow
@pytest.mark.usefixtures("allow_rank_promotion")
def test_a_run_is_found_verified_and_controlled(tiny_checkpoint: str, tmp_path: pathlib.Path, capsys):
  # The controls refuse a subset whose confidence they do not find again.
  store = find_tiny(tmp_path / "run", tiny_checkpoint, removal="layer", **GRADIENT)
  assert store.spec["removal"] == "layer"
  assert verify.verify(str(tmp_path / "run"), num_sampled=1)
  status.status(str(tmp_path / "run"))
  assert "masked pixels are absent, removal layer" in capsys.readouterr().out
  answer = controls(ControlsConfig(run_dir=str(tmp_path / "run"), num_wrong_class=2))
  rows = {row["name"]: row for row in answer["kinds"]["sis"]["controls"]}
  assert set(rows) == set(NAMES)
  assert rows["subset"]["is_sufficient"]["share"] == 1
  # With everything absent, all images look alike.
  assert np.isfinite(rows["empty"]["confidence"])


def test_a_run_by_value_is_stored_as_it_was():
  assert "removal" not in settings_to_json(FindConfig(out="out"))
  config = FindConfig(out="out", removal="layer")
  assert settings_from_json(settings_to_json(config)) == config
  assert config.command_in("other") == "jax-sis find --out other --removal layer"


def test_nothing_is_shown_where_pixels_are_absent():
  options: dict[str, Any] = {"completion": CompletionSettings(kind="noise"), "baseline": 0.5}
  for name, value in options.items():
    with pytest.raises(ValueError, match=f"--{name} must not come with --removal layer"):
      FindConfig(out="out", removal="layer", **{name: value})
