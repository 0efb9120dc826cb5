"""Shards given by hand and by launchers."""

import pathlib
import re

import numpy as np
import pytest
from tiny_runs import GRADIENT, find_tiny

from jax_sis import results
from jax_sis.runs import shards
from jax_sis.runs.shards import Shard

# As it is where a batch script was submitted with --ntasks=8.
BATCH_SCRIPT = {"SLURM_JOB_ID": "71", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
THIRD_TASK = {**BATCH_SCRIPT, "SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_ID": "0"}


@pytest.mark.parametrize("count", [1, 2, 3, 8, 20])
def test_every_unit_is_in_one_shard(count: int):
  units = np.array([0, 1, 4, 5, 6, 9, 13, 17])
  parts = [Shard(index, count).select(units) for index in range(count)]
  assert sorted(np.concatenate(parts).tolist()) == units.tolist()
  # Of a whole run all get as many, or one more.
  assert np.ptp([len(Shard(index, count).select(np.arange(50))) for index in range(count)]) <= 1


def test_a_shard_is_read_as_it_is_written():
  assert shards.parse_shard("2/8") == Shard(2, 8)
  assert str(Shard(2, 8)) == "2/8"
  assert Shard(2, 8).select(np.arange(20)).tolist() == [2, 10, 18]


@pytest.mark.parametrize("text", ["8/8", "-1/8", "1", "1/", "/8", "a/b", "1/8/2", "0/0", "1.0/8", " 1/8", "1/8\n", ""])
def test_what_is_no_shard_is_refused(text: str):
  message = f"--shard must be I/N with I from 0 to N - 1, such as 0/8 for the first of eight, got {text!r}."
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    shards.parse_shard(text)


@pytest.mark.parametrize(("index", "count"), [(3, 3), (-1, 3), (0, 0)])
def test_a_shard_checks_itself(index: int, count: int):
  message = f"a shard's index must be from 0 to one less than its count, got index {index} and count {count}."
  with pytest.raises(ValueError, match=message):
    Shard(index, count)


@pytest.mark.parametrize(
  ("environ", "shard", "origin"),
  [
    ({}, Shard(0, 1), "one process"),
    (THIRD_TASK, Shard(2, 8), "SLURM_PROCID of SLURM_STEP_NUM_TASKS"),
    # srun -n 4 in a job of 8 tasks.
    ({**THIRD_TASK, "SLURM_STEP_NUM_TASKS": "4"}, Shard(2, 4), "SLURM_PROCID of SLURM_STEP_NUM_TASKS"),
    (BATCH_SCRIPT, Shard(0, 1), "one process; only srun starts all 8 of SLURM_NTASKS"),
    # A shell that salloc gives, where it is a step of its own.
    (
      {**BATCH_SCRIPT, "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_ID": "4294967290"},
      Shard(0, 1),
      "one process; only srun starts all 8 of SLURM_NTASKS",
    ),
    # And where it is none.
    ({"SLURM_JOB_ID": "71", "SLURM_NTASKS": "1"}, Shard(0, 1), "one process"),
    (
      {"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "6"},
      Shard(5, 6),
      "OMPI_COMM_WORLD_RANK of OMPI_COMM_WORLD_SIZE",
    ),
    # mpirun in a batch script starts its helpers, one a machine, by srun.
    (
      {**THIRD_TASK, "OMPI_COMM_WORLD_RANK": "11", "OMPI_COMM_WORLD_SIZE": "16"},
      Shard(11, 16),
      "OMPI_COMM_WORLD_RANK of OMPI_COMM_WORLD_SIZE",
    ),
    (
      {"TPU_WORKER_ID": "3", "TPU_WORKER_HOSTNAMES": "a,b,c,d"},
      Shard(3, 4),
      "TPU_WORKER_ID of TPU_WORKER_HOSTNAMES",
    ),
    ({"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"}, Shard(0, 1), "one process"),
    (
      {"JOB_COMPLETION_INDEX": "6", "JOB_COMPLETIONS": "8"},
      Shard(6, 8),
      "JOB_COMPLETION_INDEX of JOB_COMPLETIONS",
    ),
    # Pods on a TPU slice with one machine each.
    (
      {
        "JOB_COMPLETION_INDEX": "1",
        "JOB_COMPLETIONS": "2",
        "TPU_WORKER_ID": "0",
        "TPU_WORKER_HOSTNAMES": "localhost",
      },
      Shard(1, 2),
      "JOB_COMPLETION_INDEX of JOB_COMPLETIONS",
    ),
    # A job with one task on each of a pod's machines.
    (
      {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "a,b"},
      Shard(1, 2),
      "TPU_WORKER_ID of TPU_WORKER_HOSTNAMES",
    ),
  ],
)
def test_a_launcher_gives_the_shard(environ: dict[str, str], shard: Shard, origin: str):
  assert shards.find_shard(environ) == (shard, origin)


@pytest.mark.parametrize(
  ("environ", "message"),
  [
    (
      {"OMPI_COMM_WORLD_RANK": "1"},
      "OMPI_COMM_WORLD_SIZE must be set, since OMPI_COMM_WORLD_RANK is; set it, or give the shard by --shard I/N.",
    ),
    (
      {"TPU_WORKER_HOSTNAMES": "a,b"},
      "TPU_WORKER_ID must be set, since TPU_WORKER_HOSTNAMES is; set it, or give the shard by --shard I/N.",
    ),
    (
      {"JOB_COMPLETION_INDEX": "0"},
      "JOB_COMPLETIONS must be set, since JOB_COMPLETION_INDEX is; set it, or give the shard by --shard I/N.",
    ),
    ({"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_PROCID must be set, since SLURM_STEP_NUM_TASKS is;"),
    ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, "SLURM_STEP_NUM_TASKS must be set, since SLURM_PROCID is;"),
    (
      {**THIRD_TASK, "SLURM_PROCID": "two"},
      "SLURM_PROCID must be a whole number, got 'two'; correct it, or give the shard by --shard I/N.",
    ),
    ({**THIRD_TASK, "SLURM_STEP_NUM_TASKS": ""}, "SLURM_STEP_NUM_TASKS must be a whole number, got ''"),
    (
      {"TPU_WORKER_ID": "2", "TPU_WORKER_HOSTNAMES": "a,b,"},
      "TPU_WORKER_ID must be less than the 2 of TPU_WORKER_HOSTNAMES, got 2; give the shard by --shard I/N.",
    ),
  ],
)
def test_a_launcher_that_says_half_is_refused(environ: dict[str, str], message: str):
  with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
    shards.find_shard(environ)


ARRAY = {
  "SLURM_ARRAY_TASK_ID": "7",
  "SLURM_ARRAY_TASK_MIN": "1",
  "SLURM_ARRAY_TASK_MAX": "10",
  "SLURM_ARRAY_TASK_COUNT": "4",
}


def test_a_task_of_an_array_has_a_shard_and_its_processes_have_parts_of_it():
  origin = "SLURM_ARRAY_TASK_ID of SLURM_ARRAY_TASK_COUNT"
  # --array=1-10:3
  assert shards.find_shard({**BATCH_SCRIPT, "SLURM_NTASKS": "1", **ARRAY}) == (Shard(2, 4), origin)
  nested = f"{origin}, and SLURM_PROCID of SLURM_STEP_NUM_TASKS"
  assert shards.find_shard({**THIRD_TASK, **ARRAY}) == (Shard(18, 32), nested)
  # One that failed, submitted again alone, does what is left.
  alone = dict.fromkeys(ARRAY, "7") | {"SLURM_ARRAY_TASK_COUNT": "1"}
  assert shards.find_shard(alone) == (Shard(0, 1), "one process")


@pytest.mark.parametrize("changed", [{"ID": "8"}, {"MAX": "9"}, {"ID": "13"}])
def test_an_array_with_gaps_is_refused(changed: dict[str, str]):
  environ = ARRAY | {f"SLURM_ARRAY_TASK_{name}": value for name, value in changed.items()}
  with pytest.raises(ValueError, match=r"a SLURM array must have evenly spaced indices, such as --array=0-7, got "):
    shards.find_shard(environ)


@pytest.mark.slow
@pytest.mark.usefixtures("allow_rank_promotion")
def test_parts_leave_a_command_on_ray_alone(tiny_checkpoint: str, tmp_path: pathlib.Path):
  options = {**GRADIENT, "saved": "order", "mask_thresholds": (), "mask_fractions": ()}
  with results.claim(results.open_folder(tmp_path), "find") as check:
    for index in range(2):
      find_tiny(tmp_path, tiny_checkpoint, shard=Shard(index, 2), **options)
    check()
  store = results.open(tmp_path)
  assert store.count_done() == store.num_images
