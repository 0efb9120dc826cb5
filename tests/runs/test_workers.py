"""Shards given by hand and by launchers, two real processes that find each other, and the records of workers."""

import dataclasses
import datetime
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from jax_sis.runs import worker_records, workers
from jax_sis.runs.workers import Heartbeat, Shard

# As it is where a batch script was submitted with --ntasks=8.
BATCH_SCRIPT = {"SLURM_JOB_ID": "71", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
THIRD_TASK = {**BATCH_SCRIPT, "SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_ID": "0"}


@pytest.mark.parametrize("count", [1, 2, 3, 8, 20])
def test_every_unit_is_in_one_shard(count: int):
  units = np.array([0, 1, 4, 5, 6, 9, 13, 17])
  shards = [Shard(index, count).select(units) for index in range(count)]
  assert sorted(np.concatenate(shards).tolist()) == units.tolist()
  # Of a whole run all get as many, or one more.
  assert np.ptp([len(Shard(index, count).select(np.arange(50))) for index in range(count)]) <= 1


def test_a_shard_is_read_as_it_is_written():
  assert workers.parse_shard("2/8") == Shard(2, 8)
  assert str(Shard(2, 8)) == "2/8"
  assert Shard(2, 8).select(np.arange(20)).tolist() == [2, 10, 18]


@pytest.mark.parametrize("text", ["8/8", "-1/8", "1", "1/", "/8", "a/b", "1/8/2", "0/0", "1.0/8", " 1/8", "1/8\n", ""])
def test_what_is_no_shard_is_refused(text: str):
  message = f"--shard must be I/N with I from 0 to N - 1, such as 0/8 for the first of eight, got {text!r}."
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    workers.parse_shard(text)


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
  assert workers.find_shard(environ) == (shard, origin)


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
    workers.find_shard(environ)


ARRAY = {
  "SLURM_ARRAY_TASK_ID": "7",
  "SLURM_ARRAY_TASK_MIN": "1",
  "SLURM_ARRAY_TASK_MAX": "10",
  "SLURM_ARRAY_TASK_COUNT": "4",
}


def test_a_task_of_an_array_has_a_shard_and_its_processes_have_parts_of_it():
  origin = "SLURM_ARRAY_TASK_ID of SLURM_ARRAY_TASK_COUNT"
  # --array=1-10:3
  assert workers.find_shard({**BATCH_SCRIPT, "SLURM_NTASKS": "1", **ARRAY}) == (Shard(2, 4), origin)
  nested = f"{origin}, and SLURM_PROCID of SLURM_STEP_NUM_TASKS"
  assert workers.find_shard({**THIRD_TASK, **ARRAY}) == (Shard(18, 32), nested)
  # One that failed, submitted again alone, does what is left.
  alone = dict.fromkeys(ARRAY, "7") | {"SLURM_ARRAY_TASK_COUNT": "1"}
  assert workers.find_shard(alone) == (Shard(0, 1), "one process")


@pytest.mark.parametrize("changed", [{"ID": "8"}, {"MAX": "9"}, {"ID": "13"}])
def test_an_array_with_gaps_is_refused(changed: dict[str, str]):
  environ = ARRAY | {f"SLURM_ARRAY_TASK_{name}": value for name, value in changed.items()}
  with pytest.raises(ValueError, match=r"a SLURM array must have evenly spaced indices, such as --array=0-7, got "):
    workers.find_shard(environ)


DISTRIBUTED = """
import functools, sys, time
import jax, numpy as np
# Five minutes otherwise.
jax.distributed.initialize = functools.partial(jax.distributed.initialize, shutdown_timeout_seconds=1)
from jax_sis.cli import main as cli
from jax_sis.runs import workers
from jax_sis.runtime import devices
def work(options):
  devices.use_one_cpu_device_per_core(2)
  shard = workers.start_distributed(timeout_seconds=int(sys.argv[2]))
  double = jax.pmap(lambda numbers: numbers * 2, devices=jax.local_devices())
  print(shard, np.asarray(double(np.ones((2, 3), np.float32))).sum(), flush=True)
  time.sleep(float(sys.argv[1]) * shard.index)
  workers.finish_distributed()
  print("finished", flush=True)
cli.RUNNERS["find"] = work
sys.exit(cli.main(["find"]))
"""


def start_distributed(seconds: float, timeout_seconds: int, variables: dict[str, str]) -> "subprocess.Popen[str]":
  return subprocess.Popen(
    [sys.executable, "-c", DISTRIBUTED, str(seconds), str(timeout_seconds)],
    env={**os.environ, **variables, "JAX_PLATFORMS": "cpu"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def start_two(seconds: float) -> "list[subprocess.Popen[str]]":
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  return [
    start_distributed(
      seconds, 60, {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(index)}
    )
    for index in range(2)
  ]


@pytest.mark.slow
def test_two_processes_find_each_other_and_wait_for_each_other():
  processes = start_two(seconds=4)
  outputs = [process.communicate(timeout=60) for process in processes]
  assert [process.returncode for process in processes] == [0, 0], outputs
  assert [output for output, _ in outputs] == ["0/2 12.0\nfinished\n", "1/2 12.0\nfinished\n"]


@pytest.mark.slow
def test_sigterm_ends_a_process_of_several_as_any_other():
  processes = start_two(seconds=60)
  try:
    for process in processes:
      assert process.stdout is not None
      process.stdout.readline()
    processes[1].send_signal(signal.SIGTERM)
    _, errors = processes[1].communicate(timeout=10)
    assert processes[1].returncode == 143
    assert errors.endswith("interrupted by SIGTERM; the same command goes on where it stopped.\n")
  finally:
    for process in processes:
      process.kill()
      process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
  ("variables", "reason"),
  [
    (
      {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"},
      "they did not all start within 1 s",
    ),
    ({}, "coordinator_address should be defined"),
    ({"JAX_NUM_PROCESSES": "many"}, "JAX_NUM_PROCESSES must be a whole number, got 'many'; correct it."),
  ],
)
def test_processes_that_do_not_find_each_other_say_so(variables: dict[str, str], reason: str):
  process = start_distributed(0, 1, variables)
  output, errors = process.communicate(timeout=60)
  assert process.returncode == 2
  assert output == ""
  line = next(line for line in errors.splitlines() if line.startswith("jax-sis"))
  assert reason in line
  if "JAX_NUM_PROCESSES must" not in reason:
    assert line == (
      f"jax-sis find: --distributed must find the other processes, but {reason}; start them all by srun, by mpirun or "
      "on a TPU pod, or set JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES=N and JAX_PROCESS_ID=I."
    )
  assert "Traceback" not in errors


class DiskFolder:
  """A run's folder, and every record that was written into it."""

  def __init__(self, path: pathlib.Path):
    self.path = path
    self.states: list[str] = []

  def read(self, name: str) -> bytes | None:
    path = self.path / name
    return path.read_bytes() if path.exists() else None

  def write(self, name: str, content: bytes) -> None:
    path = self.path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    self.states.append(json.loads(content)["state"])

  def list(self, prefix: str = "") -> "list[str]":
    names = [path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if path.is_file()]
    return sorted(name for name in names if name.startswith(prefix))


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> DiskFolder:
  (tmp_path / "spec.json").write_text("{}")
  return DiskFolder(tmp_path)


def test_a_worker_says_what_it_does(folder: DiskFolder):
  before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
  with Heartbeat(folder, Shard(2, 8)) as heartbeat:
    (worker,) = worker_records.read_workers(folder)
    assert (worker.state, worker.num_images, worker.rate) == ("running", 0, None)
    heartbeat.advance(16)
    heartbeat.advance(8)
  (worker,) = worker_records.read_workers(folder)
  assert folder.list("workers/") == [f"workers/{socket.gethostname()}-{os.getpid()}.json"]
  assert (worker.host, worker.pid, worker.shard) == (socket.gethostname(), os.getpid(), "2/8")
  assert (worker.state, worker.num_images, worker.message) == ("finished", 24, "")
  assert worker.rate is not None
  started, updated = map(datetime.datetime.fromisoformat, (worker.started, worker.updated))
  assert before <= started <= updated <= datetime.datetime.now(datetime.UTC)
  assert updated.utcoffset() == datetime.timedelta(0)


def test_a_worker_that_is_alone_has_no_shard(folder: DiskFolder):
  with Heartbeat(folder, Shard(0, 1)):
    pass
  assert [worker.shard for worker in worker_records.read_workers(folder)] == [None]


@pytest.mark.parametrize(
  ("error", "state", "message"),
  [
    (ValueError("no room in the folder"), "failed", "no room in the folder"),
    (RuntimeError(), "failed", "RuntimeError"),
    (KeyboardInterrupt(), "interrupted", ""),
  ],
)
def test_a_worker_says_how_it_ended(folder: DiskFolder, error: BaseException, state: str, message: str):
  with pytest.raises(type(error)), Heartbeat(folder, Shard(0, 2)):
    raise error
  (worker,) = worker_records.read_workers(folder)
  assert (worker.state, worker.message) == (state, message)
  time.sleep(0.05)
  assert "heartbeat" not in [thread.name for thread in threading.enumerate()]


def test_a_worker_shows_that_it_lives_while_it_is_busy_and_not_after(folder: DiskFolder):
  with Heartbeat(folder, Shard(0, 2), interval_seconds=0.1):
    time.sleep(0.75)
  num_records = len(folder.states)
  assert 4 <= num_records <= 9
  assert folder.states == ["running"] * (num_records - 1) + ["finished"]
  time.sleep(0.3)
  assert len(folder.states) == num_records


def test_counting_writes_no_record(folder: DiskFolder):
  with Heartbeat(folder, Shard(0, 2)) as heartbeat:
    for _ in range(1000):
      heartbeat.advance(1)
    assert folder.states == ["running"]


def test_a_record_that_is_slow_to_write_does_not_outlive_the_last_one(folder: DiskFolder):
  write, is_slow = folder.write, threading.Event()

  def write_slowly(name: str, content: bytes) -> None:
    if threading.current_thread() is not threading.main_thread():
      is_slow.set()
      time.sleep(0.3)
    write(name, content)

  folder.write = write_slowly
  with Heartbeat(folder, Shard(0, 2), interval_seconds=0.01) as heartbeat:
    is_slow.wait()
  time.sleep(0.4)
  assert folder.states[-1] == "finished"
  # As where the thread had decided to write just before the end.
  heartbeat._write(worker_records.RUNNING)
  assert folder.states[-1] == "finished"


def test_a_record_that_cannot_be_written_does_not_stop_the_run(folder: DiskFolder):
  (folder.path / "workers").write_text("no folder")
  done = []
  with Heartbeat(folder, Shard(0, 2), interval_seconds=0.01) as heartbeat:
    heartbeat.advance(1)
    time.sleep(0.1)
    done.append(True)
  assert done == [True]
  assert folder.states == []


def test_a_signal_is_in_the_record(folder: DiskFolder):
  code = f"""
import pathlib, sys, time
sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
from test_workers import DiskFolder
from jax_sis.cli import main as cli
from jax_sis.runs import workers
def work(options):
  with workers.Heartbeat(DiskFolder(pathlib.Path(sys.argv[1])), workers.Shard(1, 4)) as heartbeat:
    heartbeat.advance(5)
    print("working", flush=True)
    time.sleep(60)
cli.RUNNERS["find"] = work
sys.exit(cli.main(["find"]))
"""
  command = [sys.executable, "-c", code, str(folder.path)]
  with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143
  (worker,) = worker_records.read_workers(folder)
  assert (worker.pid, worker.state, worker.num_images) == (process.pid, "interrupted", 5)


def make_worker(**fields: object) -> bytes:
  worker = worker_records.WorkerRecord(
    host="tpu-3",
    pid=7,
    shard="2/8",
    started="2026-01-31T23:58:00+00:00",
    updated="2026-02-01T00:00:00+00:00",
    num_images=128,
    rate=2.5,
    state="running",
    message="",
  )
  return json.dumps({**dataclasses.asdict(worker), **fields}).encode()


@pytest.mark.parametrize(
  ("state", "seconds", "expected"),
  [("running", 60, "running"), ("running", 61, "lost"), ("finished", 10**6, "finished"), ("failed", 61, "failed")],
)
def test_a_running_worker_that_is_silent_is_lost(folder: DiskFolder, state: str, seconds: int, expected: str):
  folder.write("workers/tpu-3-7.json", make_worker(state=state))
  now = datetime.datetime(2026, 2, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=seconds)
  assert [worker.state for worker in worker_records.read_workers(folder, now=now)] == [expected]


@pytest.mark.parametrize(
  "content",
  [
    b"",
    make_worker()[:-5],
    b"\xff\xfe",
    b"[]",
    b"{}",
    make_worker(state="dancing"),
    make_worker(pid="7"),
    make_worker(num_images=None),
    make_worker(rate="fast"),
    make_worker(shard=2),
    make_worker(host=1),
    make_worker(updated="yesterday"),
    make_worker(updated=5),
    make_worker(updated="2026-02-01T00:00:00"),
    make_worker(more=1),
  ],
)
def test_damaged_records_are_left_out(folder: DiskFolder, content: bytes):
  (folder.path / "workers").mkdir()
  (folder.path / "workers/b-1.json").write_bytes(content)
  folder.write("workers/c-1.json", make_worker(host="c", rate=None, shard=None))
  folder.write("workers/a-1.json", make_worker(host="a"))
  assert [worker.host for worker in worker_records.read_workers(folder)] == ["a", "c"]


def test_a_folder_without_workers_has_none(folder: DiskFolder):
  assert worker_records.read_workers(folder) == []


def test_the_rate_is_that_of_the_last_minutes():
  rate = workers.RecentRate()
  assert rate.at(0) is None
  # The first unit comes after the compilation.
  rate.add(500, 10)
  assert rate.at(501) is None
  for second in range(501, 1001):
    rate.add(second, 10)
  assert rate.at(1000) == pytest.approx(10)
  end = 1000 + 2 * int(workers.RATE_SECONDS)
  for second in range(1001, end + 1):
    rate.add(second, 2)
  assert rate.at(end) == pytest.approx(2)
  assert rate.total == 10 * 501 + 2 * 2 * workers.RATE_SECONDS
  # Who stands still gets slower.
  assert rate.at(end + workers.RATE_SECONDS) == pytest.approx(1, rel=0.01)


def test_the_rate_of_units_that_take_longer_than_the_last_minutes():
  rate = workers.RecentRate()
  for number in range(4):
    rate.add(1000 * number, 50)
  assert rate.at(3000) == pytest.approx(0.05)
