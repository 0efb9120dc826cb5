"""Folders on disk and in buckets: one behaviour, whoever writes at once, and whatever goes wrong is one line."""

import concurrent.futures
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

import pytest
import storage_driver
import tensorstore as ts

from jax_sis.results.folder import (
  PROBE_PREFIX,
  TEMPORARY_SUFFIX,
  StorageError,
  check_writable,
  open_folder,
  patient_context,
  shared_context,
  write_atomically,
)

DRIVER = pathlib.Path(storage_driver.__file__)
KINDS = ("path", "file", "memory", "s3", "gcs")


@pytest.fixture(params=KINDS)
def location(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
  """A folder of each kind that is not there yet, with a name that is not plain."""
  name = f"{tmp_path.name}/a run, größer#1"
  match request.param:
    case "path":
      return str(tmp_path / name)
    case "file":
      return f"file://{tmp_path}/{name.replace('#', '%23')}"
    case "memory":
      return f"memory://{name.replace('#', '%23')}"
    case _:
      return f"{request.getfixturevalue(f'{request.param}_bucket')}/{name.replace('#', '%23')}"


def drive(*arguments: object) -> subprocess.Popen[str]:
  command = [sys.executable, str(DRIVER), *map(str, arguments)]
  return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def outcome_of(process: subprocess.Popen[str]) -> object:
  stdout, stderr = process.communicate(timeout=60)
  assert (process.returncode, stderr) == (0, "")
  return json.loads(stdout)


def test_a_file_is_what_was_written_last(location: str):
  folder = open_folder(location)
  assert folder.location == location
  assert folder.list() == []
  assert folder.read("spec.json") is None
  folder.write("spec.json", b"one, and longer")
  assert folder.read("spec.json") == b"one, and longer"
  folder.write("spec.json", b"two")
  assert open_folder(location).read("spec.json") == b"two"
  folder.write("empty", b"")
  assert folder.read("empty") == b""
  folder.delete("spec.json")
  folder.delete("spec.json")
  assert folder.read_many(["spec.json", "empty"]) == [None, b""]


def test_files_are_listed_by_how_their_names_begin(location: str):
  folder = open_folder(location)
  names = ["spec.json", "workers/b.json", "workers/a.json", "workers2/c.json", "results.zarr/done/c/10"]
  for name in names:
    folder.write(name, b"")
  assert folder.list() == sorted(names)
  assert folder.list("workers/") == ["workers/a.json", "workers/b.json"]
  assert folder.list("workers") == ["workers/a.json", "workers/b.json", "workers2/c.json"]
  assert folder.list("workers/b") == ["workers/b.json"]
  assert folder.list("none/") == []


def test_a_new_file_is_the_first_ones(location: str):
  folder = open_folder(location)
  assert folder.write_new("spec.json", b"first") == b"first"
  assert folder.write_new("spec.json", b"second, longer") == b"first"
  folder.delete("spec.json")
  assert folder.write_new("spec.json", b"third") == b"third"
  assert folder.read("spec.json") == b"third"


def test_of_eight_threads_that_make_a_file_at_once_exactly_one_wins(location: str):
  barrier = threading.Barrier(8)

  def make(me: int) -> list[bytes]:
    folder = open_folder(location)
    found = []
    for number in range(10):
      barrier.wait()
      found.append(folder.write_new(f"file {number}", f"{me}".encode() * (me + 1)))
    return found

  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    found = list(pool.map(make, range(8)))
  assert all(same == found[0] for same in found)
  names = [f"file {number}" for number in range(10)]
  assert open_folder(location).read_many(names) == found[0]
  assert set(found[0]) <= {f"{me}".encode() * (me + 1) for me in range(8)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["path", "s3"])
def test_of_eight_processes_that_make_a_file_at_once_exactly_one_wins(
  kind: str, tmp_path: pathlib.Path, request: pytest.FixtureRequest
):
  location = str(tmp_path / "run") if kind == "path" else f"{request.getfixturevalue('s3_bucket')}/{tmp_path.name}"
  start_time = time.time() + 4
  processes = [drive("race", location, f"process {me}", 20, start_time) for me in range(8)]
  found = [outcome_of(process) for process in processes]
  assert all(same == found[0] for same in found)
  contents = open_folder(location).read_many([f"file {number}" for number in range(20)])
  assert [content.decode() for content in contents if content is not None] == found[0]


def test_a_sub_folder_opens_in_tensorstore(location: str):
  folder = open_folder(location)
  store = ts.KvStore.open(folder.kvstore_spec("results.zarr/rank"), context=patient_context()).result()
  store.write("c/0", b"chunk").result()
  assert folder.read("results.zarr/rank/c/0") == b"chunk"
  assert folder.list() == ["results.zarr/rank/c/0"]


def test_a_path_is_on_disk_and_stays_where_it_was(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
  monkeypatch.chdir(tmp_path)
  folder = open_folder("run")
  assert folder.path == pathlib.Path("run")
  monkeypatch.chdir("/")
  folder.write("a/b", b"content")
  assert (tmp_path / "run" / "a" / "b").read_bytes() == b"content"
  assert open_folder(f"file://{tmp_path}/run").path == tmp_path / "run"
  assert open_folder(tmp_path).location == str(tmp_path)
  assert open_folder("memory://run").path is None


@pytest.mark.parametrize("location", ["../run", "./run/../../run", "link/../run"])
def test_a_path_may_lead_up(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, location: str):
  (tmp_path / "here").mkdir()
  (tmp_path / "there").mkdir()
  (tmp_path / "here" / "link").symlink_to(tmp_path / "there")
  monkeypatch.chdir(tmp_path / "here")
  open_folder(location).write("file", b"content")
  assert (tmp_path / "run" / "file").read_bytes() == b"content"


def test_what_is_written_on_disk_is_brought_to_safety():
  assert shared_context()["file_io_sync"].to_json() is True
  assert patient_context()["file_io_sync"].to_json() is True


def test_a_bucket_is_not_asked_before_it_is_used():
  folder = open_folder("gs://some-bucket/runs/first/")
  assert folder.kvstore_spec("results.zarr") == {
    "driver": "gcs",
    "bucket": "some-bucket",
    "path": "runs/first/results.zarr/",
  }
  assert open_folder("s3://some-bucket").kvstore_spec("results.zarr")["path"] == "results.zarr/"
  spec = open_folder("s3+https://host:9000/some-bucket/runs").kvstore_spec("a")
  assert (spec["endpoint"], spec["bucket"], spec["path"]) == ("https://host:9000", "some-bucket", "runs/a/")


@pytest.mark.parametrize(
  ("location", "message"),
  [
    (
      "ftp://host/run",
      "'ftp://host/run' must be a path or begin with file://, gs://, s3://, s3+http://, s3+https://, memory://; "
      "got ftp://.",
    ),
    ("gs://b/run", "'gs://b/run' must be the URL of a folder: Invalid GCS bucket name: \"b\"."),
    *[
      (location, f"'{location}' must be s3+http://HOST:PORT/BUCKET/PATH, with no ? or # but as %3F and %23.")
      for location in ("s3+http://host:9000", "s3+http:///bucket", "s3+http://host/bucket/run#1")
    ],
    ("gs://bucket/run#1", "'gs://bucket/run#1' must be the URL of a folder: Fragment identifier not supported."),
  ],
)
def test_a_url_that_is_none_of_ours_is_refused(location: str, message: str):
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    open_folder(location)


@pytest.mark.parametrize("action", ["write", "write_new"])
def test_nothing_stays_of_what_a_killed_process_was_writing(tmp_path: pathlib.Path, action: str):
  (tmp_path / f"spec.json{TEMPORARY_SUFFIX}").write_bytes(b"what was to be written, and longer")
  getattr(open_folder(tmp_path), action)("spec.json", b"short")
  assert (tmp_path / "spec.json").read_bytes() == b"short"
  assert os.listdir(tmp_path) == ["spec.json"]


def test_what_a_killed_process_left_is_removed_and_the_file_stays(tmp_path: pathlib.Path):
  folder = open_folder(tmp_path)
  folder.write("file", b"content")
  (tmp_path / f"file{TEMPORARY_SUFFIX}").write_bytes(b"left")
  assert folder.list() == ["file"]
  folder.clear_leftovers(["file", "none"])
  assert os.listdir(tmp_path) == ["file"]
  assert folder.read("file") == b"content"


def test_what_a_process_tried_a_folder_with_is_removed_in_a_bucket_too(location: str):
  folder = open_folder(location)
  folder.write("file", b"content")
  folder.write(f"{PROBE_PREFIX}1234", b"")
  assert folder.remove_leftovers() == 1
  assert folder.list() == ["file"]


def test_a_file_is_whole_wherever_its_writer_is_killed(tmp_path: pathlib.Path):
  folder = open_folder(tmp_path)
  for kill in range(6):
    process = drive("rewrite", tmp_path)
    assert process.stdout is not None
    for _ in range(3 + kill):
      process.stdout.readline()
    time.sleep(0.0007 * kill)
    process.kill()
    process.communicate()
    assert folder.read("file") in (storage_driver.LONG, storage_driver.SHORT)
    folder.write("file", b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_said_and_the_rest_stays(tmp_path: pathlib.Path):
  message = outcome_of(drive("limited", tmp_path, 1000))
  assert message == (
    f"'{tmp_path}/large' could not be written: File too large; free some space or raise the limit on the size of "
    "files, and the same command goes on."
  )
  assert os.listdir(tmp_path) == ["small"]


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A file system of 64 KiB, where this user may make one."""
  disk = tmp_path / "disk"
  disk.mkdir()
  command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
  if subprocess.run(command, capture_output=True, check=False).returncode != 0:
    pytest.skip("mounting is not allowed here")
  yield disk
  # Whatever may still have a file there open.
  subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_disk_that_is_full_takes_files_again_after_some_are_gone(small_disk: pathlib.Path):
  folder = open_folder(small_disk)
  folder.write("a", b"a" * 40_000)
  message = (
    f"'{small_disk}/b' could not be written: No space left on device; free some space, and the same command goes on."
  )
  with pytest.raises(StorageError, match=f"^{re.escape(message)}$"):
    folder.write("b", b"b" * 40_000)
  assert folder.list() == ["a"]
  folder.delete("a")
  folder.write("b", b"b" * 40_000)
  assert folder.read("b") == b"b" * 40_000


def test_a_folder_that_only_others_may_write_to_is_read_and_otherwise_refused():
  # Not below tmp_path, which is closed to strangers altogether.
  with tempfile.TemporaryDirectory() as directory:
    open_folder(directory).write("file", b"content")
    os.chmod(directory, 0o555)
    outcome = outcome_of(drive("stranger", directory))
    os.chmod(directory, 0o755)
  refusal = "Permission denied; see who may read and write there, or name another folder."
  assert outcome == [
    "content",
    f"'{directory}/file' could not be written: {refusal}",
    f"'{directory}/other' could not be written: {refusal}",
    f"'{directory}/file' could not be removed: {refusal}",
    f"--out must be a folder that can be written, but '{directory}' cannot: Permission denied.",
  ]


@pytest.mark.parametrize("below", ["", "/run"])
def test_a_path_that_is_a_file_is_refused(tmp_path: pathlib.Path, below: str):
  (tmp_path / "file").write_text("")
  folder = open_folder(f"{tmp_path}/file{below}")
  assert folder.read("spec.json") is None
  message = (
    f"{folder.join('spec.json')!r} could not be written: Not a directory; name a folder that no file is in the way of."
  )
  with pytest.raises(StorageError, match=f"^{re.escape(message)}$"):
    folder.write_new("spec.json", b"")
  message = f"--data-dir must be a folder that can be written, but {folder.location!r} cannot: Not a directory."
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    check_writable(folder, "--data-dir")


def test_a_writable_folder_is_made_and_left_empty(location: str):
  folder = open_folder(location)
  check_writable(folder)
  assert folder.list() == []
  assert folder.path is None or folder.path.is_dir()


@pytest.mark.slow
def test_a_server_that_is_not_there_is_said_in_one_line(s3_bucket: str):
  with socket.socket() as unused:
    unused.bind(("127.0.0.1", 0))
    port = unused.getsockname()[1]
    folder = open_folder(f"s3+http://127.0.0.1:{port}/bucket/run")
    begin = time.monotonic()
    with pytest.raises(StorageError) as caught:
      folder.read("spec.json")
    assert time.monotonic() - begin < 15
  assert str(caught.value).startswith(
    f"'s3+http://127.0.0.1:{port}/bucket/run/spec.json' could not be read: CURL error Could not connect to server"
  )
  assert str(caught.value).endswith("; see whether the bucket's name, the credentials and the network are right.")
  assert "\n" not in str(caught.value)


def test_a_bucket_that_is_not_there_is_said_in_one_line(s3_bucket: str):
  location = f"{s3_bucket.removesuffix('bucket')}no-such-bucket/run"
  reason = "NoSuchBucket: The specified bucket does not exist"
  message = f"--out must be a folder that can be written, but '{location}' cannot: {reason}."
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    check_writable(open_folder(location))
  advice = "see whether the bucket's name, the credentials and the network are right"
  message = f"'{location}' could not be listed: {reason}; {advice}."
  with pytest.raises(StorageError, match=f"^{re.escape(message)}$"):
    open_folder(location).list()


def test_who_knows_that_a_bucket_is_there_asks_it_for_longer(monkeypatch: pytest.MonkeyPatch):
  asked = []
  monkeypatch.setattr(ts.KvStore, "open", lambda _, context: asked.append(id(context)))
  folder = open_folder("s3://some-bucket/run")
  for one in (folder, folder.patient):
    with pytest.raises(AttributeError):
      one.read("spec.json")
  assert asked == [id(shared_context()), id(patient_context())]


def test_what_takes_long_is_said_until_it_is_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
  monkeypatch.setattr("jax_sis.results.folder.SILENT_SECONDS", 0.02)
  promise, future = ts.Promise.new()
  threading.Timer(0.1, promise.set_result, ["there"]).start()
  assert open_folder("gs://bucket/run").wait(future, "read", "spec.json") == "there"
  line, *_ = capsys.readouterr().err.splitlines()
  why = "the bucket is asked again, for up to half an hour"
  assert line == f"'gs://bucket/run/spec.json' is not read after 0 s: {why}."


def test_a_bucket_that_never_answers_is_left_in_the_end(monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setenv("TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS", "3")
  monkeypatch.delenv("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", raising=False)
  open_folder("gs://bucket/run")
  # A user's own stays.
  assert os.environ["TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS"] == "3"
  assert os.environ["TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS"] == "30"


def test_a_file_on_disk_is_replaced_whole(tmp_path: pathlib.Path):
  write_atomically(tmp_path / "new" / "summary.json", b"one, and longer")
  write_atomically(tmp_path / "new" / "summary.json", b"two")
  assert (tmp_path / "new" / "summary.json").read_bytes() == b"two"
  assert os.listdir(tmp_path / "new") == ["summary.json"]
