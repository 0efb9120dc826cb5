"""Which size of unit a plan names, what it times for that, and the options that it refuses."""

import dataclasses
import math
import pathlib

import pytest

from jax_sis import results
from jax_sis.results.folder import open_folder
from jax_sis.runs import cluster_forecast, write_probe
from jax_sis.runs.cluster_forecast import UnitForecast
from jax_sis.runs.cluster_simulation import Costs, Fleet
from jax_sis.runs.options import PlanOptions

COSTS = Costs(
  startup_seconds=60.0,
  launch_seconds=3.2,
  launch_size=32,
  unit_size=32,
  write_seconds=0.02,
  turn_seconds=0.1,
  notice_seconds=2.0,
)
FLEET = Fleet(num_workers=32, preempted_every=600.0, replaced_after=120.0, spread=0.1)


def forecast(unit_size: int, fleet: Fleet = FLEET, **changes: float) -> UnitForecast:
  costs = dataclasses.replace(COSTS, unit_size=unit_size, **changes)
  return cluster_forecast.forecast_units(fleet, costs, num_left=40_000, num_files=0)


def test_small_units_suit_preempted_workers_and_large_ones_slow_storage():
  small, large = forecast(32), forecast(1024)
  assert small.share_twice < large.share_twice
  assert cluster_forecast.choose_best([small, large]) == small
  slow = [forecast(size, write_seconds=6.0) for size in (32, 256)]
  assert cluster_forecast.choose_best(slow) == slow[1]
  low, median, high = small.seconds
  assert low < median < high


def test_of_sizes_that_are_as_good_the_largest_is_named_unless_it_ends_runs():
  unit = forecast(32, dataclasses.replace(FLEET, preempted_every=math.inf))
  equal = dataclasses.replace(unit, unit_size=64)
  assert cluster_forecast.choose_best([unit, equal]) == equal
  assert cluster_forecast.choose_best([unit, dataclasses.replace(equal, num_ended=1)]) == unit
  ended = dataclasses.replace(unit, seconds=(math.inf,) * 3, num_ended=cluster_forecast.NUM_RUNS)
  found = cluster_forecast.ClusterForecast(fleet=FLEET, startup_seconds=1, launch_seconds=1, units=(ended,), best=ended)
  assert "best         --unit 32: - (- to -)" in cluster_forecast.describe_cluster(found)[-1]
  assert cluster_forecast.cluster_to_json(found)["best"]["seconds"] == [None] * 3


def test_storing_a_unit_is_timed_and_leaves_nothing(tmp_path: pathlib.Path):
  fields = {
    "id": results.TEXT,
    "label": results.Field(shape=(), dtype="int32"),
    "is_sufficient": results.Field(shape=(), dtype="bool"),
    "confidence": results.Field(shape=(3,), dtype="float32"),
    "smallest_mask": results.mask_field(11),
  }
  assert 0 < write_probe.time_writes(str(tmp_path / "a" / "b"), fields, 4) < 60
  assert list(tmp_path.iterdir()) == []
  bucket = f"memory://{tmp_path.name}/run"
  assert write_probe.time_writes(bucket, fields, 4) > 0
  assert open_folder(bucket).list() == []


def test_durations_are_numbers_with_a_unit():
  texts = ("90s", "30m", "1.5h", "2d")
  assert [cluster_forecast.parse_duration("--x", text) for text in texts] == [90, 1800, 5400, 172800]
  assert cluster_forecast.read_fleet(PlanOptions()) is None
  never = cluster_forecast.read_fleet(PlanOptions(num_workers=3, preempted_every="never"))
  assert never == Fleet(num_workers=3, preempted_every=math.inf, replaced_after=120, spread=0.1)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (PlanOptions(preempted_every="30"), "--preempted-every must be a number with s, m, h or d, such as 30m, got '30'."),
    (PlanOptions(preempted_every="0s"), "--preempted-every must be positive, got 0.0"),
    (PlanOptions(preempted_every="1h", replaced_after="-2m"), "--replaced-after must be a number with s, m, h or d"),
    (PlanOptions(preempted_every="1h", spread=1.0), "--spread must be a share of the mean, from 0 to less than 1"),
  ],
)
def test_bad_options_are_refused(options: PlanOptions, message: str):
  with pytest.raises(ValueError, match=f"^{message}"):
    cluster_forecast.read_fleet(options)
