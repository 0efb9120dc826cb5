"""What a run will cost: counted as the papers count, and as the run then finds it."""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jax_sis import results
from jax_sis.core.searches import Exact, Gradient, Phase, Screened
from jax_sis.results import folder
from jax_sis.runs import find, forecast, plan, roofline, setup
from jax_sis.runs.completion import CompletionSettings
from jax_sis.runs.config import FindConfig
from jax_sis.runs.device_search import ImageSearch
from jax_sis.runs.options import PlanOptions

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")
SETTINGS: dict[str, Any] = {"patch": 8, "gallery": 0, "num_devices": 2, "smallest": None, "certificate": "alone"}
NUM_FEATURES = 16


@pytest.mark.slow
def test_a_plan_writes_nothing_and_agrees_with_the_run(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  out = tmp_path / "out"
  config = FindConfig(out=str(out), **SETTINGS)
  before = plan.plan_here(config, num_workers=1)
  text = capsys.readouterr().out
  assert not out.exists()
  assert before.num_images == before.num_left == 24
  assert (before.num_gradients, before.num_forwards) == (NUM_FEATURES + 1, 0)
  # A gradient of a ResNet-20 is 40.8 million multiplications and additions forward, and as many back.
  assert before.flops_per_image == pytest.approx(17 * 4 * 40.8e6, rel=0.1)
  assert before.seconds > before.startup_seconds > 0
  assert "images       24, of which 24 are not done" in text

  find.find(config)
  store = results.open(out)
  assert store.spec["batch_size"] == 2
  assert f"batch        {store.spec['batch_size']} a device, 2" in text
  assert before.num_bytes == 24 * store.num_bytes_per_image
  chunks = [path for path in (out / results.ZARR_DIR).rglob("*") if path.is_file() and path.name != "zarr.json"]
  assert before.num_files == len(chunks)

  assert plan.plan_here(config, num_workers=1).num_left == 0


@pytest.mark.parametrize(
  ("search", "num_gradients", "num_trials"),
  [
    (Gradient(per_step=5), 5, 0),
    # Carter et al. 2019: d (d + 1) / 2, and one evaluation at each size.
    (Exact(), 0, NUM_FEATURES * (NUM_FEATURES + 1) // 2 + NUM_FEATURES + 1),
    (Screened(candidates=4, gradient_until=None), NUM_FEATURES + 1, 13 * 4 + 3 + 2 + 1),
  ],
)
def test_evaluations_are_counted(tmp_path: pathlib.Path, search: Any, num_gradients: int, num_trials: int):
  config = FindConfig(out=str(tmp_path), **{**SETTINGS, "search": search, "batch_size": 2})
  opened = setup.make_job(config, folder.open_folder(tmp_path))
  assert forecast.count_evaluations(opened) == (num_gradients, num_trials)


def test_draws_multiply_the_evaluations_and_certificates_come_after(tmp_path: pathlib.Path, tiny_checkpoint: str):
  noise = CompletionSettings(kind="noise", num_draws=8, num_tried=2, num_tested=50)
  search = Screened(candidates=4, gradient_until=None)
  options = {**SETTINGS, "checkpoint": tiny_checkpoint, "search": search, "completion": noise}
  config = FindConfig(out=str(tmp_path), **options)
  opened = setup.make_job(config, folder.open_folder(tmp_path))
  num_trials = 2 * (13 * 4 + 3 + 2 + 1)
  # Sixteen sizes at most, and the measurement.
  assert forecast.count_evaluations(opened) == (8 * (NUM_FEATURES + 1), num_trials + 17 * 50)


def test_a_probe_of_one_exact_step_tries_the_features():
  def predict(params: Any, inputs: Any) -> Any:
    return jnp.tanh(inputs.reshape(inputs.shape[0], -1)) @ params

  def count_flops(phase: Phase) -> float:
    search = ImageSearch(config=FindConfig(), predict_fn=predict, grid=(4, 4, 1))
    probe = functools.partial(plan.search_phase, search, phase=phase)
    arrays = jnp.ones((3072, 10)), jnp.ones((1, 32, 32, 3)), jnp.zeros(1, jnp.int32)
    analysis: Any = jax.jit(probe).lower(*arrays).compile().cost_analysis()
    return analysis.get("flops", 0.0)

  # Its own evaluation, and at least one for the features that are left.
  assert count_flops(Phase(Exact(), (NUM_FEATURES,))) > 2 * 2 * 3072 * 10


def test_a_plan_for_no_worker_is_refused(tmp_path: pathlib.Path):
  with pytest.raises(ValueError, match="--workers must be positive, got 0"):
    plan.plan(FindConfig(out=str(tmp_path), **SETTINGS), PlanOptions(num_workers=0))


@pytest.mark.parametrize(("accelerator", "patch_bytes"), [("h100", None), ("v5e", 10**5)])
def test_a_forecast_is_of_the_sizes_that_the_accelerator_gets(
  tiny_checkpoint: str,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
  monkeypatch: pytest.MonkeyPatch,
  accelerator: Any,
  patch_bytes: int | None,
):
  if patch_bytes is not None:
    # With so little memory.
    chip = dataclasses.replace(roofline.ACCELERATORS[accelerator], gigabytes=patch_bytes / 1e9)
    monkeypatch.setitem(roofline.ACCELERATORS, accelerator, chip)
  config = FindConfig(out=str(tmp_path / "out"), checkpoint=tiny_checkpoint, **{**SETTINGS, "num_devices": None})
  options = PlanOptions(num_workers=2, accelerator=accelerator, preempted_every="1h", is_json=True)
  found = plan.plan(config, options)
  out, text = capsys.readouterr()
  assert isinstance(found, forecast.Forecast)
  assert (found.batch_size == 32) == (patch_bytes is None)
  assert ("IT DOES NOT FIT" in text) == (patch_bytes is not None)
  assert found.num_left == 24
  assert f"{found.batch_size} images a device at a time, 1 {accelerator} a machine, 2 machine(s)" in text
  assert list(tmp_path.iterdir()) == []
  assert found.cluster is not None
  # A batch, twice that, and so on, as long as both workers get a unit.
  assert [unit.unit_size for unit in found.cluster.units] == ([32] if patch_bytes is None else [1, 2, 4, 8])
  assert f"best         --unit {found.cluster.best.unit_size}: " in text
  said = json.loads(out)
  assert said["batch_size"] == found.batch_size
  assert said["cluster"]["best"]["seconds"] == list(found.cluster.best.seconds)
  assert said["cluster"]["fleet"] == {"num_workers": 2, "preempted_every": 3600, "replaced_after": 120, "spread": 0.1}


def test_a_forecast_needs_steps_to_count(tmp_path: pathlib.Path):
  with pytest.raises(ValueError, match="--on must come with a backward search"):
    plan.plan(FindConfig(out=str(tmp_path), search=None), PlanOptions(accelerator="h100"))
