"""What `status` says of real runs, and of stores written by hand with faults that no run can be made to have."""

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
from typing import Any

import numpy as np
import pytest

from jax_sis import results
from jax_sis.cli import main
from jax_sis.core.subsets import Status
from jax_sis.runs import status, worker_records

COMMAND = [sys.executable, "-m", "jax_sis", "status"]
FIELDS = {
  "id": results.TEXT,
  "error": results.TEXT,
  "sis_status": results.Field(shape=(), dtype="int8"),
}
SPEC = {
  "model": {"name": "net"},
  "data": {"data": "cifar10", "split": "test"},
  "search": {"name": "Gradient", "per_step": 4},
  "smallest": None,
  "threshold": 0.9,
  "target": "label",
  "certificate": "alone",
  "batch_size": 2,
  "device": "cpu",
}


@pytest.fixture(scope="module")
def half_run(tiny_half_run: pathlib.Path) -> results.Results:
  return results.open(tiny_half_run)


def make_store(directory: str | pathlib.Path, *, num_images: int = 11) -> results.Results:
  return results.create_or_resume(directory, spec=SPEC, num_images=num_images, unit_size=4, fields=FIELDS)


def write_unit(store: results.Results, unit: int, codes: dict[int, int] | None = None, error: str = "") -> None:
  """A unit whose images are OK, but for those of the given codes."""
  start, stop = store.unit_range(unit)
  values = [(codes or {}).get(index, Status.OK) for index in range(start, stop)]
  store.write_unit(
    unit,
    {
      "id": results.encode_text([f"image {index}" for index in range(start, stop)]),
      "error": results.encode_text([error if value < 0 else "" for value in values]),
      "sis_status": np.array(values),
    },
  )


def write_worker(store: results.Results, name: str, *, age: float = 5, **changes: Any) -> None:
  now = datetime.datetime.now(datetime.UTC)
  record = {
    "host": name,
    "pid": 7,
    "shard": None,
    "started": (now - datetime.timedelta(hours=1)).isoformat(),
    "updated": (now - datetime.timedelta(seconds=age)).isoformat(),
    "num_images": 8,
    "rate": None,
    "state": worker_records.RUNNING,
    "message": "",
    **changes,
  }
  store.folder.write(f"workers/{name}-7.json", json.dumps(record).encode())


def show(store: results.Results, capsys: pytest.CaptureFixture[str]) -> list[str]:
  capsys.readouterr()
  assert main.main(["status", store.folder.location]) == 0
  return capsys.readouterr().out.splitlines()


def test_a_real_run_of_one_part_of_two(half_run: results.Results, capsys: pytest.CaptureFixture[str]):
  lines = show(half_run, capsys)
  assert lines[0] == f"{half_run.folder.location}: tiny on sample, 24 images, target predicted, threshold 0.9"
  assert lines[1].startswith("Gradient(per_step=3), certificate alone, 3 images per device at a time, ")
  assert lines[2] == "12 of 24 images done (50.0%); no worker is running"
  assert lines[3] == "workers:"
  assert re.fullmatch(r"  \S+ pid \d+ part 0/2: finished, 12 images, seen \d+:\d\d ago", lines[4])
  assert lines[5] == "missing: 4 units, 12 images"
  assert lines[6] == "  part 1/2: 4 units, not started; finish it by --shard 1/2, or --take-over on another worker"
  codes = half_run.table()["sis_status"]
  counts = [(int((codes == code).sum()), code.name.lower().replace("_", " ")) for code in Status]
  assert lines[7:] == ["SIS: " + ", ".join(f"{count} {name}" for count, name in counts if count)]


def test_no_model_is_imported(half_run: results.Results):
  code = "import sys; from jax_sis.cli import main as cli; cli.main(sys.argv[1:]); print(*sorted(sys.modules))"
  finished = subprocess.run(
    [sys.executable, "-c", code, "status", half_run.folder.location], capture_output=True, text=True, check=True
  )
  modules = finished.stdout.splitlines()[-1].split()
  assert "jax_sis.runs.status" in modules
  assert set(modules) & {"flax", "orbax", "grain", "tensorflow_datasets", "jax_sis.classifiers"} == set()


def test_speed_and_time_left_are_of_the_workers_at_work(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  store = make_store(tmp_path, num_images=2411)
  write_unit(store, 5)
  write_unit(store, 1)
  write_worker(store, "a", rate=2.0, shard="0/3")
  write_worker(store, "b", rate=3.0, shard="1/3")
  write_worker(store, "c", rate=9.0, shard="2/3", age=3600)
  lines = show(store, capsys)
  # (2411 - 8) / 5 = 480.6 s.
  assert lines[2] == "8 of 2411 images done (0.3%), 5 images/s, 8:01 left"
  assert re.fullmatch(r"  a pid 7 part 0/3: running, 8 images, 2 images/s, seen 0:0\d ago", lines[4])
  assert re.fullmatch(r"  c pid 7 part 2/3: lost \(on another .*\), 8 images, seen 1:00:0\d ago", lines[6])
  # Of 603 units a third each; units 1 and 5 are of the parts 1 and 2.
  assert lines[7:11] == [
    "missing: 601 units, 2403 images",
    "  part 2/3: 200 units, lost; finish it by --shard 2/3, or --take-over on another worker",
    "  part 0/3: 201 units, running",
    "  part 1/3: 200 units, running",
  ]


def test_a_slow_worker_is_told_from_a_dead_one_and_a_damaged_record_is_named(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  store = make_store(tmp_path)
  ended = subprocess.Popen(["true"])
  here, own, now = socket.gethostname(), os.getpid(), datetime.datetime.now(datetime.UTC)
  # It is a zombie until somebody waits for it.
  while pathlib.Path(f"/proc/{ended.pid}/stat").read_text().split()[2] != "Z":
    time.sleep(0.01)
  write_worker(store, "dead", host=here, pid=ended.pid, shard="0/5", age=40)
  write_worker(store, "silent", host=here, pid=own, shard="1/5", age=90, started=now.isoformat())
  # Its number is that of another process by now.
  write_worker(store, "gone", host=here, pid=own, shard="2/5", age=40, started="2020-01-01T00:00:00+00:00")
  advanced = (now - datetime.timedelta(seconds=400)).isoformat()
  write_worker(store, "slow", shard="3/5", rate=0.01, advanced=advanced)
  write_worker(store, "compiling", host=here, pid=own, shard="4/5", num_images=0, age=40, started=now.isoformat())
  store.folder.write("workers/torn-1.json", b'{"host"')
  shown = "\n".join(show(store, capsys))
  for part, said in {
    "0/5": r"dead \(its process is gone\), 8 images, seen 0:4\d ago",
    "1/5": r"silent \(its process is there, but cannot write\), 8 images, seen 1:3\d ago",
    "2/5": r"dead \(its process is gone\), 8 images, seen 0:4\d ago",
    "3/5": r"running, 8 images, 0.01 images/s, slow: none finished for 6:4\d, seen 0:0\d ago",
    "4/5": r"running, 0 images, seen 0:4\d ago",
  }.items():
    assert re.search(rf"^  \S+ pid \d+ part {part}: {said}$", shown, re.MULTILINE), shown
  assert "  1 record cannot be read, such as workers/torn-1.json\n" in shown
  assert "  part 0/5: 1 unit, dead; finish it by --shard 0/5, or --take-over on another worker\n" in shown
  ended.wait()


def test_programs_get_the_same_as_json(half_run: results.Results, capsys: pytest.CaptureFixture[str]):
  capsys.readouterr()
  assert main.main(["status", half_run.folder.location, "--json"]) == 0
  (line,) = capsys.readouterr().out.splitlines()
  told = json.loads(line)
  assert (told["num_images"], told["num_done"], told["num_units"], told["num_missing_units"]) == (24, 12, 8, 4)
  assert (told["is_finished"], told["seconds_left"], told["damaged_units"]) == (False, None, [])
  assert [(one["shard"], one["state"], one["num_images"]) for one in told["workers"]] == [("0/2", "finished", 12)]
  assert told["parts"] == [{"shard": "1/2", "num_missing_units": 4, "state": "not started"}]
  assert sum(told["statuses"]["sis"].values()) == 12
  assert told["spec"]["threshold"] == half_run.spec["threshold"]


def test_of_many_units_some_are_read(
  half_run: results.Results, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setattr(status, "MAX_UNITS_READ", 3)
  monkeypatch.setattr(status, "IMAGES_AT_ONCE", 6)
  assert "below, the images of 3 of 4 finished units, spread evenly over them" in show(half_run, capsys)
  state = status.read_state(half_run)
  # Of the units 0, 2, 4 and 6, in which there are three images each.
  codes = half_run.read("sis_status", half_run.images_of(np.array([0, 2, 6])))
  assert sum(state.statuses["sis"].values()) == 9
  assert state.statuses["sis"]["ok"] == (codes == Status.OK).sum()
  assert state.num_done == 12


def test_a_part_that_was_begun_again_is_not_lost(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  store = make_store(tmp_path)
  write_worker(store, "old", shard="1/2", age=300)
  write_worker(store, "new", shard="1/2")
  # Later than the last word of the one at work, which writes every ten seconds.
  write_worker(store, "second", shard="1/2", age=1, state=worker_records.INTERRUPTED)
  write_worker(store, "third", shard="3/4", age=1, state=worker_records.INTERRUPTED)
  write_worker(store, "failed", shard="0/2", age=9, state=worker_records.FAILED, message="No space left on device")
  lines = show(store, capsys)
  assert "  part 1/2: 1 unit, running" in lines
  assert "  part 0/2: 2 units, failed; finish it by --shard 0/2, or --take-over on another worker" in lines
  assert "  failed pid 7 part 0/2: failed, 8 images, seen 0:09 ago: No space left on device" in lines
  assert lines[2] == "0 of 11 images done (0.0%), time left unknown"


def test_a_run_of_one_worker_says_how_to_go_on(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  store = make_store(tmp_path)
  write_unit(store, 2)
  write_worker(store, "a", state=worker_records.INTERRUPTED)
  lines = show(store, capsys)
  assert lines[2] == "3 of 11 images done (27.2%); no worker is running"
  assert lines[5:7] == ["missing: 2 units, 8 images", "  the same command goes on where it stopped"]


def test_images_that_failed_are_counted_by_reason_with_some_ids(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  store = make_store(tmp_path)
  write_unit(store, 0, {0: -1}, "no label")
  write_unit(store, 1, dict.fromkeys([4, 5, 6, 7], -1), "image file is truncated")
  write_unit(store, 2, {8: Status.NON_FINITE, 10: Status.BELOW_THRESHOLD})
  lines = show(store, capsys)
  assert lines[2:] == [
    "11 of 11 images done (100.0%); the run is finished",
    "SIS: 5 not searched, 4 ok, 1 below threshold, 1 non finite",
    "not searched: 5 images",
    "  4 x image file is truncated (image 4, image 5, image 6, ...)",
    "  1 x no label (image 0)",
    "not finite: 1 image (image 8)",
  ]


@pytest.mark.parametrize("name", ["sis_status", "error"])
def test_a_damaged_chunk_is_named_and_hides_no_other(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], name: str
):
  store = make_store(tmp_path, num_images=27)
  for unit in range(7):
    write_unit(store, unit, {unit * 4: -1}, "no label")
  chunk = next((tmp_path / "results.zarr" / name / "c" / "3").rglob("*")) if name == "error" else None
  chunk = chunk or tmp_path / "results.zarr" / name / "c" / "3"
  chunk.write_bytes(chunk.read_bytes()[:-2])
  lines = show(store, capsys)
  assert "  6 x no label (image 0, image 4, image 8, ...)" in lines
  assert lines[-1] == (
    "damaged: 1 finished unit cannot be read, starting with unit 3; `jax-sis verify` lists all of them, and `find` "
    "computes them again"
  )


def test_a_bucket_is_read_as_a_folder_is(capsys: pytest.CaptureFixture[str]):
  store = make_store("memory://status/run")
  write_unit(store, 0)
  write_worker(store, "a", rate=1.0)
  assert show(store, capsys)[2] == "4 of 11 images done (36.3%), 1 images/s, 0:07 left"


def test_watching_ends_with_the_run(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  store = make_store(tmp_path, num_images=8)
  write_unit(store, 0)

  def finish() -> None:
    time.sleep(0.5)
    write_unit(store, 1)

  thread = threading.Thread(target=finish)
  thread.start()
  status.status(str(tmp_path), watch_seconds=0.1)
  thread.join()
  lines = [line for line in capsys.readouterr().out.splitlines() if "images done" in line]
  assert lines[0] == "4 of 8 images done (50.0%); no worker is running"
  assert lines[-1] == "8 of 8 images done (100.0%); the run is finished"
  assert set(lines) == {lines[0], lines[-1]}


def test_ctrl_c_ends_the_watch(tmp_path: pathlib.Path):
  make_store(tmp_path)
  code = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from jax_sis.cli.main import main; sys.exit(main(sys.argv[1:]))"
  )
  command = [sys.executable, "-c", code, "status", str(tmp_path), "--watch", "60"]
  with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
  assert process.returncode == 130
  assert errors == "\njax-sis status: interrupted; the run itself is not touched.\n"


def test_a_folder_without_a_run_is_refused(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  assert main.main(["status", str(tmp_path)]) == 2
  expected = f"jax-sis status: directory must hold the results of a run (spec.json), got {str(tmp_path)!r}.\n"
  assert capsys.readouterr().err == expected


@pytest.mark.parametrize("seconds", ["0", "-1", "nan"])
def test_a_time_that_is_not_positive_is_refused(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], seconds: str
):
  assert main.main(["status", str(tmp_path), f"--watch={seconds}"]) == 2
  assert capsys.readouterr().err.startswith("jax-sis status: --watch must be positive, got ")


@pytest.mark.parametrize(("precision", "expected"), [("highest", "cpu"), ("default", "cpu, precision default")])
def test_a_precision_that_is_not_the_default_is_told(precision: str, expected: str):
  spec = {**SPEC, "num_images": 3, "precision": precision}
  assert status.describe_run("out", spec)[1].endswith(f" images per device at a time, {expected}")
