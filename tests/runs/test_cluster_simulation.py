"""Simulated runs against known answers, and what they say of units and storage."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from jax_sis.runs.cluster_simulation import Costs, Fleet, Simulated, Simulation

ALONE = Fleet(num_workers=1, preempted_every=math.inf, replaced_after=0.0, spread=0.0)
COSTS = Costs(
  startup_seconds=10.0,
  launch_seconds=2.0,
  launch_size=32,
  unit_size=32,
  write_seconds=0.0,
  turn_seconds=0.0,
  notice_seconds=0.0,
)


def simulate(fleet: Fleet, costs: Costs, num_units: int, *, num_runs: int = 1) -> list[Simulated]:
  return [Simulation(fleet, costs, num_units, np.random.default_rng(seed)).run() for seed in range(num_runs)]


@pytest.mark.parametrize(("num_workers", "num_units"), [(1, 7), (4, 400), (256, 25600)])
def test_without_preemption_the_work_is_divided(num_workers: int, num_units: int):
  fleet = dataclasses.replace(ALONE, num_workers=num_workers)
  (run,) = simulate(fleet, COSTS, num_units)
  # All workers end within a unit of each other.
  ideal = COSTS.startup_seconds + num_units * COSTS.launch_seconds / num_workers
  assert ideal - 1e-6 <= run.seconds <= ideal + COSTS.launch_seconds
  assert run[1:] == (0, 0)


def test_one_worker_with_restarts_takes_what_the_formula_says():
  # A unit needs the start and a launch within one life, of rate r: (exp(r t) - 1) / r, and a replacement after each of
  # the exp(r t) - 1 lives that were too short.
  rate, replaced = 1 / 40, 5.0
  fleet = dataclasses.replace(ALONE, preempted_every=1 / rate, replaced_after=replaced)
  runs = simulate(fleet, COSTS, 1, num_runs=4000)
  needed = COSTS.startup_seconds + COSTS.launch_seconds
  num_failed = math.exp(rate * needed) - 1
  seconds = [run.seconds for run in runs]
  error = 4 * float(np.std(seconds)) / math.sqrt(len(runs))
  assert error < 0.06 * np.mean(seconds)
  assert np.mean(seconds) == pytest.approx(num_failed / rate + num_failed * replaced, abs=error)
  # The search begins after the start, and is cut at the mean of an exponential time below a launch's.
  cut = math.exp(rate * COSTS.launch_seconds) - 1
  lost = [run.lost_seconds for run in runs]
  assert np.mean(lost) == pytest.approx(
    cut / rate - COSTS.launch_seconds, abs=4 * float(np.std(lost)) / math.sqrt(len(runs))
  )
  assert np.mean([run.num_preempted for run in runs]) == pytest.approx(num_failed, rel=0.1)


def test_many_tasks_at_once_are_like_one_after_the_other(monkeypatch: pytest.MonkeyPatch):
  fleet = Fleet(num_workers=8, preempted_every=300.0, replaced_after=30.0, spread=0.1)
  together = simulate(fleet, COSTS, 4000, num_runs=30)
  monkeypatch.setattr("jax_sis.runs.cluster_simulation.TASKS_AHEAD", 10**9)
  apart = simulate(fleet, COSTS, 4000, num_runs=30)
  for field in range(3):
    means = [np.mean([run[field] for run in runs]) for runs in (together, apart)]
    assert means[0] == pytest.approx(means[1], rel=0.1)


@pytest.mark.parametrize(
  ("changes", "stored"),
  [
    ({"write_seconds": 0.5}, [2.5, 4.5, 6.5, 8.5]),
    # Two in a launch are stored one after the other.
    ({"unit_size": 16, "write_seconds": 0.5}, [2.5, 3.0, 4.5, 5.0]),
    ({"unit_size": 64}, [4.0, 8.0, 12.0, 16.0]),
    ({"write_seconds": 3.0}, [5.0, 8.0, 11.0, 14.0]),
  ],
)
def test_units_are_stored_while_the_search_goes_on(changes: dict[str, Any], stored: list[float]):
  costs = dataclasses.replace(COSTS, **changes)
  assert [costs.stored_at(index) for index in range(4)] == stored
  assert [costs.count_stored(seconds, 4) for seconds in (0, stored[0], stored[2] - 0.1, 1000)] == [0, 1, 2, 4]


def test_a_unit_that_no_worker_outlives_ends_the_run():
  fleet = dataclasses.replace(ALONE, preempted_every=200.0)
  (run,) = simulate(fleet, dataclasses.replace(COSTS, unit_size=32 * 1000), 3)
  assert (run.seconds, run.num_preempted >= 5) == (math.inf, True)


def test_what_a_dead_worker_stored_stays_done():
  fleet = Fleet(num_workers=4, preempted_every=100.0, replaced_after=0.0, spread=0.0)
  for run in simulate(fleet, COSTS, 500, num_runs=5):
    # A death costs less than a unit, however long the task was.
    assert 0 < run.lost_seconds <= run.num_preempted * COSTS.launch_seconds
