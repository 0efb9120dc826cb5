"""`find --lattice` on the tiny classifier, where a few squares have few subsets."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from tiny_runs import find_tiny

import jax_sis
from jax_sis.core.subsets import Status
from jax_sis.results.schema import NOT_SEARCHED
from jax_sis.runs import verify
from jax_sis.runs.config import FindConfig, settings_from_json, settings_to_json
from jax_sis.runs.lattice import check_lattice, clear_lattice
from jax_sis.runs.setup import make_job_again, read_inputs
from jax_sis.runs.shards import Shard

IDS = tuple(f"test_{number:05}" for number in range(6))
OPTIONS: dict[str, Any] = {
  "lattice": True,
  "patch": 16,
  "threshold": 0.7,
  "ids": IDS,
  "saved": "order",
  "mask_thresholds": (),
  "mask_fractions": (),
  "certificate": "alone",
  "smallest": None,
  "batch_size": 1,
  "unit_size": 2,
  "gallery": 2,
}


@pytest.fixture(scope="module")
def run(tiny_checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
  """A run whose first half was searched on another number of devices."""
  out = tmp_path_factory.mktemp("lattice") / "run"
  find_tiny(out, tiny_checkpoint, shard=Shard(0, 2), **{**OPTIONS, "num_devices": 1})
  return find_tiny(out, tiny_checkpoint, **OPTIONS)


@pytest.mark.slow
def test_the_store_holds_what_the_function_finds(run: Any):
  rows = {name: run.read(name, np.arange(6)) for name in run.fields}
  job = make_job_again(run, num_devices=None, is_computing=False)
  inputs = read_inputs(job, run, np.arange(6))
  with jax.numpy_rank_promotion("allow"), jax.default_matmul_precision("highest"):
    found = jax_sis.lattice(job.predict_fn, job.params, inputs, grid=(2, 2), threshold=0.7)
  np.testing.assert_allclose(rows["lattice_log_odds"], found.log_odds, atol=1e-5)
  np.testing.assert_allclose(rows["lattice_shapley"], found.shapley, atol=1e-5)
  np.testing.assert_array_equal(rows["optimum_mask"], found.smallest("sufficient").kept)
  np.testing.assert_array_equal(rows["lattice_contrastive_mask"], found.smallest("contrastive").kept)
  np.testing.assert_array_equal(rows["lattice_num_contrastive"], found.minimal_contrastive.sum(1))
  assert (rows["optimum_num_kept"] <= rows["sis_num_kept"]).all()
  assert (rows["optimum_status"] == Status.OK).all()
  assert rows["optimum_is_sufficient"].all()


@pytest.mark.slow
def test_devices_and_interruptions_change_nothing(run: Any):
  with jax.numpy_rank_promotion("allow"):
    assert verify.verify(run.folder.location, num_sampled=3)


def test_rows_that_contradict_each_other_are_found():
  rows = {
    "lattice_log_odds": np.array([[-1, 1, 0.5, 3]], np.float32),
    "lattice_lead": np.array([[-1, 1, 0.5, 3]], np.float32),
    "lattice_shapley": np.array([[2.25, 1.75]], np.float32),
    "lattice_contrastive_size": np.array([2], np.int32),
    "lattice_contrastive_mask": np.array([[True, True]]),
    "optimum_mask": np.array([[True, False]]),
    "optimum_status": np.array([Status.OK]),
  }
  spec = {"threshold": 0.7}
  assert not any(is_broken.any() for _, _, is_broken in check_lattice(rows, spec))
  damages = {
    "optimum_mask": np.array([[True, True]]),
    "lattice_contrastive_mask": np.array([[True, False]]),
    "lattice_contrastive_size": np.array([1], np.int32),
    "lattice_shapley": np.array([[2.25, 1.5]], np.float32),
    "lattice_lead": np.array([[-1, 1, -0.5, 3]], np.float32),
  }
  for name, values in damages.items():
    broken = {field for field, _, is_broken in check_lattice(rows | {name: values}, spec) if is_broken.any()}
    assert (name if name != "lattice_lead" else "lattice_contrastive_mask") in broken


@pytest.mark.slow
def test_the_table_names_the_sets(run: Any):
  totals = json.loads(run.folder.read("summary.json"))
  assert totals["optimum"]["num_certified"] == 6
  assert 0 <= totals["lattice"]["mean_falling"] <= 1
  header, first = run.folder.read("summary.csv").decode().splitlines()[:2]
  row = dict(zip(header.split(","), first.split(","), strict=False))
  kept = np.flatnonzero(run.read("optimum_mask", np.array([0]))[0])
  assert row["optimum_features"] == " ".join(map(str, kept))
  assert len(row["shapley"].split()) == 4
  assert run.folder.read("gallery.png")


def test_images_that_cannot_be_searched_have_no_numbers():
  fields: dict[str, np.ndarray] = {
    "lattice_log_odds": np.ones((2, 4), np.float32),
    "lattice_num_sufficient": np.ones(2, np.int32),
    "lattice_contrastive_mask": np.ones((2, 2), bool),
    "optimum_status": np.full(2, NOT_SEARCHED),
  }
  cleared = clear_lattice(fields, np.array([True, False]))
  assert set(cleared) == {"lattice_log_odds", "lattice_num_sufficient"}
  np.testing.assert_array_equal(cleared["lattice_log_odds"], [[np.nan] * 4, [1] * 4])
  np.testing.assert_array_equal(cleared["lattice_num_sufficient"], [0, 1])


def test_too_many_squares_are_refused_with_the_patch_that_fits(tiny_checkpoint: str, tmp_path: pathlib.Path):
  with pytest.raises(ValueError, match=r"grid must have at most 16 features .* got 64 .*such as --patch 8"):
    find_tiny(tmp_path / "run", tiny_checkpoint, **{**OPTIONS, "patch": 4})
  with pytest.raises(ValueError, match="--lattice must not come with --completion"):
    from jax_sis.runs.completion import CompletionSettings

    FindConfig(lattice=True, completion=CompletionSettings(kind="noise"))


def test_settings_of_other_runs_stay_as_they_were():
  assert "lattice" not in settings_to_json(FindConfig())
  config = FindConfig(lattice=True, patch=8)
  assert settings_from_json(json.loads(json.dumps(settings_to_json(config)))) == dataclasses.replace(
    config, ids=config.ids
  )
