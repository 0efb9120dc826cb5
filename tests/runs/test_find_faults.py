"""The main job in its own process, killed, interrupted, out of space or split: the same bytes come out in the end.

Everything here runs the real command on the real sample with the embedded classifier, patches instead of pixels, in
units of five images, so that the last is shorter.
"""

import csv
import itertools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from jax_sis import results
from jax_sis.data.sources import SAMPLE_DIR

pytestmark = pytest.mark.slow

DRIVER = pathlib.Path(__file__).parents[1] / "find_driver.py"
OPTIONS = ("--patch", "8", "--gallery", "0", "--batch", "5", "--threshold", "0.9")
OPTIONS += ("--search", "gradient", "--certificate", "alone", "--save", "both")
UNITS = range(5)
# Two runs, side by side. Each kill is of a run that goes on after the one before; in brackets the units that are done
# then. What is there of a unit that is not done is half a file, half of its fields, or all of them.
KILLS = (
  (
    ("before_spec", 0, []),
    ("after_spec", 0, []),
    ("mid_arrays", 3, []),
    ("before_launch", 0, []),
    ("mid_fields", 0, []),
    ("before_write", 1, [0]),
    ("after_done", 2, [0, 1, 2]),
  ),
  (
    ("before_done", 0, []),
    ("mid_flag", 2, [0, 1]),
    ("mid_chunk", 4, [0, 1, 2, 3]),
    ("before_summary", 0, [0, 1, 2, 3, 4]),
    ("mid_summary", 0, [0, 1, 2, 3, 4]),
  ),
)
# A namespace of its own, in which also a user who is not root may mount.
NAMESPACE = ("unshare", "--map-root-user", "--mount", "sh", "-c")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
  """What the driver runs in. It has its own compiled programs, since a killed process may leave half of one."""
  cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled"))}
  return {**os.environ, **cache, "PYTHONPATH": os.pathsep.join([str(DRIVER.parents[1]), *sys.path[1:]])}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> pathlib.Path:
  out = tmp_path_factory.mktemp("undisturbed") / "out"
  finished = drive(out, environment)
  assert finished.returncode == 0, finished.stderr
  return out


def command_of(out: pathlib.Path, point: str = "none", unit: int = 0, *options: str) -> list[str]:
  # The last of two --devices counts.
  command = [sys.executable, str(DRIVER), point, str(unit), "find", "--out", str(out), *OPTIONS, "--devices", "1"]
  return [*command, *options]


def drive(
  out: pathlib.Path, environment: dict[str, str], point: str = "none", unit: int = 0, *options: str
) -> subprocess.CompletedProcess[str]:
  """One run of the driver."""
  command = command_of(out, point, unit, *options)
  return subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=300)


def files_of(out: pathlib.Path) -> dict[str, bytes]:
  """All that the settings of a run decide, and what does not belong there."""
  paths = [path for path in out.rglob("*") if path.is_file()]
  return {str(path.relative_to(out)): path.read_bytes() for path in paths if path.name != "settings.json"}


def assert_same_run(out: pathlib.Path, undisturbed: pathlib.Path) -> None:
  actual, expected = files_of(out), files_of(undisturbed)
  assert sorted(actual) == sorted(expected)
  assert [name for name in actual if actual[name] != expected[name]] == []


def rows_printed(output: str) -> list[str]:
  return [line[:10] for line in output.splitlines() if line.startswith("test_")]


def done_units(out: pathlib.Path) -> list[int]:
  """By the files: a store that has hardly begun cannot be opened."""
  paths = (out / results.ZARR_DIR / results.DONE / "c").glob("*")
  return sorted(int(path.name) for path in paths if path.name.isdecimal())


def test_an_undisturbed_run_holds_every_image_once(undisturbed: pathlib.Path):
  with open(undisturbed / "summary.csv") as file:
    images = [row["image"] for row in csv.DictReader(file)]
  assert images == sorted(path.stem for path in SAMPLE_DIR.glob("*/*.png"))
  assert results.open(undisturbed).read_text("id") == images
  assert done_units(undisturbed) == list(UNITS)


def kill_repeatedly(
  out: pathlib.Path, environment: dict[str, str], kills: Sequence[tuple[str, int, list[int]]]
) -> subprocess.CompletedProcess[str]:
  """A run that is killed at each of these points, and then left alone."""
  for point, unit, done in kills:
    killed = drive(out, environment, point, unit)
    assert killed.returncode == -signal.SIGKILL, (point, unit, killed.stderr)
    assert done_units(out) == done, (point, unit)
    if point == "before_done":
      store = results.open(out)
      assert [name for name in store.fields if not (out / store.chunk_name(name, unit)).exists()] == []
  return drive(out, environment)


def test_a_run_killed_at_every_point_ends_bitwise_where_an_undisturbed_one_does(
  tmp_path: pathlib.Path, undisturbed: pathlib.Path, environment: dict[str, str]
):
  outs = [tmp_path / str(number) for number in range(len(KILLS))]
  with ThreadPoolExecutor(len(KILLS)) as executor:
    finished = list(executor.map(kill_repeatedly, outs, itertools.repeat(environment), KILLS))
  for out, last in zip(outs, finished, strict=True):
    assert last.returncode == 0, last.stderr
    assert sorted(rows_printed(last.stdout)) == [f"test_{index:05}" for index in range(24)]
    assert_same_run(out, undisturbed)
  assert "24 of 24 images are done already" in finished[-1].stdout


def test_a_run_interrupted_twice_leaves_within_seconds_and_ends_the_same(
  tmp_path: pathlib.Path, undisturbed: pathlib.Path, environment: dict[str, str]
):
  out = tmp_path / "out"
  for signum in (signal.SIGINT, signal.SIGTERM):
    done = done_units(out)
    with subprocess.Popen(
      command_of(out, "slowly"), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
      # Until it has stored a unit; others follow, a second apart, until the signal is heeded.
      while done_units(out) == done:
        assert process.poll() is None
        time.sleep(0.05)
      process.send_signal(signum)
      start = time.monotonic()
      _, errors = process.communicate(timeout=60)
    assert time.monotonic() - start < 8
    assert process.returncode == 128 + signum, errors
    assert "the same command goes on where it stopped." in errors
    assert "Traceback" not in errors
  assert 0 < len(done_units(out)) < 5
  assert drive(out, environment).returncode == 0
  assert_same_run(out, undisturbed)


def test_files_that_cannot_grow_end_the_run_in_one_line_and_keep_what_is_done(
  tmp_path: pathlib.Path, undisturbed: pathlib.Path, environment: dict[str, str]
):
  out = tmp_path / "out"
  limited = drive(out, environment, "full_disk", 2)
  assert limited.returncode == 2, limited.stderr
  (message,) = limited.stderr.splitlines()
  assert message.startswith(f"jax-sis find: '{out}/results.zarr/")
  assert message.endswith(
    "could not be written: File too large; free some space or raise the limit on the size of files, and the same "
    "command goes on."
  )
  assert done_units(out) == [0, 1]
  assert drive(out, environment).returncode == 0
  assert_same_run(out, undisturbed)


def can_mount() -> bool:
  return bool(shutil.which("unshare")) and subprocess.run(
    [*NAMESPACE, "mount -t tmpfs none /tmp"], check=False, capture_output=True
  ).returncode == 0  # fmt: skip


@pytest.mark.skipif(not can_mount(), reason="needs to mount in a namespace of its own")
def test_a_full_disk_ends_the_run_in_one_line_and_with_more_space_it_goes_on(
  tmp_path: pathlib.Path, undisturbed: pathlib.Path, environment: dict[str, str]
):
  disk, out = tmp_path / "disk", tmp_path / "copy"
  disk.mkdir()
  # A block a file: the arrays' descriptions fit, and not all units.
  script = (
    'disk="$1"; copy="$2"; shift 2; mount -t tmpfs -o size=384k none "$disk"; "$@"; echo "exit code $?"; '
    'mount -o remount,size=64m "$disk"; "$@" >&2 && cp -r "$disk/out" "$copy"'
  )
  command = [*NAMESPACE, script, "sh", str(disk), str(out), *command_of(disk / "out")]
  process = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=300)
  assert process.returncode == 0, process.stderr
  assert "exit code 2" in process.stdout, process.stdout
  message, second = process.stderr.split("\n", 1)
  assert message.startswith(f"jax-sis find: '{disk}/out/results.zarr/")
  assert message.endswith("No space left on device; free some space, and the same command goes on.")
  assert 0 < len(rows_printed(process.stdout)) < 24
  assert "images are done already" in second
  assert_same_run(out, undisturbed)


@pytest.mark.skipif(not can_mount(), reason="needs to mount in a namespace of its own: root writes to all folders")
def test_a_read_only_folder_is_refused(tmp_path: pathlib.Path, environment: dict[str, str]):
  script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && "$@"'
  command = [*NAMESPACE, script, str(tmp_path), *command_of(tmp_path / "out")]
  process = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=300)
  assert process.returncode == 2
  assert process.stderr == (
    f"jax-sis find: --out must be a folder that can be written, but '{tmp_path}/out' cannot: Read-only file system.\n"
  )


def test_eight_devices_write_the_same_bytes_as_one(
  tmp_path: pathlib.Path, undisturbed: pathlib.Path, environment: dict[str, str]
):
  assert drive(tmp_path / "out", environment, "none", 0, "--devices", "8").returncode == 0
  assert_same_run(tmp_path / "out", undisturbed)


def test_two_processes_that_begin_at_once_write_the_same_bytes_as_one(
  tmp_path: pathlib.Path, undisturbed: pathlib.Path, environment: dict[str, str]
):
  out = tmp_path / "out"
  with ThreadPoolExecutor(2) as executor:
    runs = [executor.submit(drive, out, environment, "slowly", 0, "--shard", f"{index}/2") for index in range(2)]
    finished = [run.result() for run in runs]
  assert [run.returncode for run in finished] == [0, 0], [run.stderr for run in finished]
  assert_same_run(out, undisturbed)


def test_the_part_of_a_killed_process_is_done_by_the_command_for_all_and_the_bytes_are_the_same(
  tmp_path: pathlib.Path, undisturbed: pathlib.Path, environment: dict[str, str]
):
  out = tmp_path / "out"
  assert drive(out, environment, "mid_fields", 2, "--shard", "2/3").returncode == -signal.SIGKILL
  first = drive(out, environment, "none", 0, "--shard", "0/3")
  assert first.returncode == 0
  assert "This worker's part is done; 14 images of other workers are not." in first.stdout
  assert done_units(out) == [0, 3]
  last = drive(out, environment)
  assert last.returncode == 0, last.stderr
  shown = itertools.chain(range(5), range(15, 20), range(5, 15), range(20, 24))
  assert rows_printed(last.stdout) == [f"test_{index:05}" for index in shown]
  assert_same_run(out, undisturbed)
