"""What `status` says of real runs, and of stores written by hand with faults that no run can be made to have."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from listening import LISTENING

from jax_sis import results
from jax_sis.cli import main
from jax_sis.core.subsets import Status
from jax_sis.runs import status

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

NOW = 2e9


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


def write_units(store: results.Results, *ages: float) -> None:
  """The first units, each as if it had been stored so many seconds before NOW."""
  for unit, age in enumerate(ages):
    write_unit(store, unit)
    os.utime(pathlib.Path(store.folder.location) / store.chunk_name(results.DONE, unit), (NOW - age, NOW - age))


def show(store: results.Results, capsys: pytest.CaptureFixture[str]) -> list[str]:
  capsys.readouterr()
  assert main.main(["status", store.folder.location]) == 0
  return capsys.readouterr().out.splitlines()


def test_a_real_run_of_one_part_of_two(half_run: results.Results, capsys: pytest.CaptureFixture[str]):
  lines = show(half_run, capsys)
  assert lines[0] == f"{half_run.folder.location}: tiny on sample, 24 images, target predicted, threshold 0.9"
  assert lines[1].startswith("Gradient(per_step=3), certificate alone, 3 images per device at a time, ")
  assert lines[2].startswith("12 of 24 images done (50.0%)")
  assert lines[3].startswith("missing: 4 units, 12 images")
  codes = half_run.table()["sis_status"]
  counts = [(int((codes == code).sum()), code.name.lower().replace("_", " ")) for code in Status]
  assert lines[4:] == ["SIS: " + ", ".join(f"{count} {name}" for count, name in counts if count)]


def test_no_model_is_imported(half_run: results.Results):
  code = "import sys; from jax_sis.cli import main as cli; cli.main(sys.argv[1:]); print(*sorted(sys.modules))"
  finished = subprocess.run(
    [sys.executable, "-c", code, "status", half_run.folder.location], capture_output=True, text=True, check=True
  )
  modules = finished.stdout.splitlines()[-1].split()
  assert "jax_sis.runs.status" in modules
  assert set(modules) & {"flax", "orbax", "grain", "tensorflow_datasets", "jax_sis.classifiers"} == set()


@pytest.mark.parametrize(
  ("ages", "said"),
  [
    ((), ""),
    ((5,), "; the last were stored 0:05 ago"),
    # 12 images in 65 s.
    ((65, 45, 25, 5), ", 0.185 images/s, 3:36:13 left; the last were stored 0:05 ago"),
    # As many devices end theirs at once.
    ((300, 300, 5, 5), ", 0.0267 images/s, 24:56:52 left; the last were stored 0:05 ago"),
    # Before and after a pause: only the last minutes count.
    ((9000, 8000, 185, 5, 5), ", 0.0432 images/s, 15:21:32 left; the last were stored 0:05 ago"),
    # Slow ones.
    ((5000, 2000), ", 0.0008 images/s, 834:22:30 left; the last were stored 33:20 ago"),
    ((3800, 3700), "; the last were stored 1:01:40 ago"),
  ],
)
def test_speed_and_time_left_are_by_when_units_were_stored(tmp_path: pathlib.Path, ages: tuple[float, ...], said: str):
  store = make_store(tmp_path, num_images=2411)
  write_units(store, *ages)
  state = dataclasses.replace(status.read_state(store), now=NOW)
  lines, num_done = status.describe_state(state).splitlines(), 4 * len(ages)
  assert lines[2] == f"{num_done} of 2411 images done ({status.percentage(num_done, 2411)}){said}"
  rest = "" if "images/s" in said else "; if nobody is at work, the same command goes on where it stopped"
  assert lines[3] == f"missing: {603 - len(ages)} units, {2411 - num_done} images{rest}"


def test_programs_get_the_same_as_json(half_run: results.Results, capsys: pytest.CaptureFixture[str]):
  capsys.readouterr()
  assert main.main(["status", half_run.folder.location, "--json"]) == 0
  (line,) = capsys.readouterr().out.splitlines()
  told = json.loads(line)
  assert (told["num_images"], told["num_done"], told["num_units"], told["num_missing_units"]) == (24, 12, 8, 4)
  assert (told["is_finished"], told["damaged_units"]) == (False, [])
  assert told["seconds_since_stored"] >= 0
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


def test_a_bucket_tells_what_comes_while_it_is_watched(capsys: pytest.CaptureFixture[str]):
  store = make_store("memory://status/run")
  write_unit(store, 2)
  assert show(store, capsys)[2] == "3 of 11 images done (27.2%); how fast it goes, --watch sees"
  before = status.read_state(store)
  write_unit(store, 0)
  state = status.read_state(store, before)
  assert state.rate == pytest.approx(4 / (state.now - before.now))
  assert status.read_state(store, state).times.tolist() == [state.now, before.now]


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
  assert lines[0] == "4 of 8 images done (50.0%); the last were stored 0:00 ago"
  assert lines[-1] == "8 of 8 images done (100.0%); the run is finished"
  assert {line[:22] for line in lines} == {lines[0][:22], lines[-1][:22]}


def test_ctrl_c_ends_the_watch(tmp_path: pathlib.Path):
  make_store(tmp_path)
  command = [*LISTENING, "status", str(tmp_path), "--watch", "60"]
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
