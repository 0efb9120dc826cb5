"""The store of a run: what is written is read back, what is not done is not counted, and nothing is mixed up."""

import concurrent.futures
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import Any

import hypothesis
import jax.numpy as jnp
import made_runs
import numpy as np
import pytest
import zarr
from fake_gcs import FakeGcs
from hypothesis import strategies
from numcodecs.checksum32 import CRC32C
from numcodecs.zstd import Zstd

import jax_sis
from jax_sis import results
from jax_sis.core.order import FeatureOrder
from jax_sis.results import flags, folder, schema
from jax_sis.results import store as results_store
from jax_sis.results.folder import StorageError
from jax_sis.results.schema import Field

DRIVER = pathlib.Path(__file__).parents[1] / "results_driver.py"
FIELDS = {
  "id": results.TEXT,
  "rank": Field(shape=(5,), dtype="uint16"),
  "is_sufficient": Field(shape=(), dtype="bool"),
  "smallest_mask": results.mask_field(11),
}
SPEC = {"threshold": 0.99, "search": {"name": "Gradient", "per_step": 1}}
NUM_IMAGES, UNIT_SIZE = 7, 3
NUM_UNITS = 3


def make_store(directory: pathlib.Path | str, **changes: Any) -> results.Results:
  spec = {**SPEC, **changes}
  return results.create_or_resume(directory, spec=spec, num_images=NUM_IMAGES, unit_size=UNIT_SIZE, fields=FIELDS)


def make_rows(start: int, stop: int) -> dict[str, np.ndarray]:
  indices = np.arange(start, stop)
  return {
    "id": results.encode_text([f"image {index}" for index in indices]),
    "rank": indices[:, None] * 10 + np.arange(5),
    "is_sufficient": indices % 2 == 0,
    "smallest_mask": (indices[:, None] >> np.arange(11)) % 2 == 1,
  }


def write_units(store: results.Results, units: Any) -> results.Results:
  for unit in units:
    store.write_unit(unit, make_rows(*store.unit_range(unit)))
  return store


def files_of(directory: pathlib.Path) -> dict[str, bytes]:
  return {
    str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
  }


@pytest.fixture(params=["disk", "memory", "s3", "gcs"])
def location(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
  if request.param in ("s3", "gcs"):
    return f"{request.getfixturevalue(f'{request.param}_bucket')}/{tmp_path.name}"
  return str(tmp_path / "run") if request.param == "disk" else f"memory://{tmp_path.name}"


def test_rows_come_back_as_they_were_written(location: str):
  write_units(make_store(location), range(NUM_UNITS))
  expected = make_rows(0, 7)
  reopened = results.open(location)
  assert reopened.done_units().tolist() == [0, 1, 2]
  for name in FIELDS:
    np.testing.assert_array_equal(reopened.read(name), expected[name])
    np.testing.assert_array_equal(reopened.read(name, np.array([4, 1, 6])), expected[name][[4, 1, 6]])
    assert len(reopened.read(name, np.array([], int))) == 0
  assert reopened.read("smallest_mask").dtype == bool
  assert reopened.read_text("id", slice(5, 7)) == ["image 5", "image 6"]


@pytest.mark.parametrize("kind", ["s3", "gcs"])
def test_a_bucket_holds_what_a_disk_holds(kind: str, tmp_path: pathlib.Path, request: pytest.FixtureRequest):
  write_units(make_store(tmp_path / "run"), range(NUM_UNITS))
  location = f"{request.getfixturevalue(f'{kind}_bucket')}/{tmp_path.name}"
  store = write_units(make_store(location), range(NUM_UNITS))
  names = store.folder.list()
  contents = store.folder.read_many(names)
  assert dict(zip(names, contents, strict=True)) == files_of(tmp_path / "run")


def test_a_bucket_that_may_not_be_listed_is_refused_and_not_taken_for_empty(monkeypatch: pytest.MonkeyPatch):
  with FakeGcs("other-bucket") as server:
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", server.url)
    monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "test")
    store = write_units(make_store("gs://other-bucket/run"), [1])
    assert store.done_units().tolist() == [1]
    server.may_list = False
    message = (
      "'gs://other-bucket/run' could not be listed: spec.json is there, and is not listed; see whether the credentials "
      "allow to list the bucket (storage.objects.list)."
    )
    with pytest.raises(results.StorageError, match=f"^{re.escape(message)}$"):
      store.done_units()


def test_the_store_says_what_it_is(tmp_path: pathlib.Path):
  store = make_store(tmp_path)
  assert (store.num_images, store.unit_size, store.num_units) == (7, 3, 3)
  assert store.fields == FIELDS
  assert [store.unit_range(unit) for unit in range(3)] == [(0, 3), (3, 6), (6, 7)]
  assert store.num_bytes_per_image == 128 + 10 + 1 + 2
  assert (store["rank"].shape, store["rank"].dtype.name) == ((7, 5), "uint16")
  assert store.spec["format"] == "jax_sis.results/3"


def test_a_chunk_is_the_file_that_it_is_said_to_be(tmp_path: pathlib.Path):
  store = make_store(tmp_path)
  before = set(files_of(tmp_path))
  for unit in range(NUM_UNITS):
    write_units(store, [unit])
    chunks = {store.chunk_name(name, unit) for name in [*FIELDS, "checksums", "done"]}
    assert set(files_of(tmp_path)) - before == chunks
    before |= chunks


def test_the_zarr_package_alone_reads_the_store(tmp_path: pathlib.Path):
  write_units(make_store(tmp_path), [1, 2])
  group = zarr.open_group(tmp_path / "results.zarr", mode="r")
  expected = make_rows(3, 7)
  np.testing.assert_array_equal(np.asarray(group["rank"])[3:], expected["rank"])
  assert np.asarray(group["done"]).tolist() == [0, 1, 1]
  # As the docstring of the module says.
  assert [bytes(row).rstrip(b"\0").decode() for row in np.asarray(group["id"])[5:]] == ["image 5", "image 6"]
  masks = np.unpackbits(np.asarray(group["smallest_mask"]), axis=1, count=11, bitorder="little").astype(bool)
  np.testing.assert_array_equal(masks[3:], expected["smallest_mask"])


@hypothesis.given(strategies.integers(1, 70), strategies.integers(0, 2**32 - 1))
@hypothesis.settings(deadline=None, max_examples=50)
def test_masks_are_stored_in_bits_and_come_back(num_features: int, seed: int):
  field = results.mask_field(num_features)
  masks = np.random.default_rng(seed).random((4, num_features)) < 0.5
  stored = field.encode("mask", masks, 4)
  assert stored.shape == (4, *field.shape) == (4, (num_features + 7) // 8)
  assert all(
    bool(stored[row, feature // 8] >> (feature % 8) & 1) == masks[row, feature]
    for row in range(4)
    for feature in range(num_features)
  )
  np.testing.assert_array_equal(field.decode(stored), masks)


def test_only_finished_units_count_as_done(location: str):
  store = make_store(location)
  assert store.done_units().tolist() == store.done_images().tolist() == []
  write_units(store, [2])
  assert make_store(location).done_images().tolist() == [6]
  write_units(store, [0])
  assert results.open(location).done_images().tolist() == [0, 1, 2, 6]
  store.unmark([2, 1])
  assert results.open(location).done_images().tolist() == [0, 1, 2]


def test_a_run_may_have_as_many_units_as_imagenet(tmp_path: pathlib.Path):
  fields = {"label": Field(shape=(), dtype="int32")}
  store = results.create_or_resume(tmp_path, spec={}, num_images=1_281_167, unit_size=64, fields=fields)
  store.write_unit(store.num_units - 1, {"label": np.arange(15)})
  flag = tmp_path / store.chunk_name("done", store.num_units - 1)
  for unit in range(0, store.num_units - 1, 2):
    (tmp_path / store.chunk_name("done", unit)).write_bytes(flag.read_bytes())
  assert store.done_units().tolist() == [*range(0, 20018, 2), 20018]
  assert len(store.done_images()) == 1_281_167 - 64 * 10009
  (tmp_path / store.chunk_name("done", 1000)).write_bytes(b"")
  assert len(results.open(tmp_path).done_units()) == 10009


def test_a_flag_is_read_once_and_a_bucket_is_not_asked_for_any(location: str, monkeypatch: pytest.MonkeyPatch):
  write_units(make_store(location), [0, 1])
  store, asked = results.open(location), []
  read = flags.Flags.done_among
  monkeypatch.setattr(flags.Flags, "done_among", lambda self, units: asked.append(units.tolist()) or read(self, units))
  assert store.done_units().tolist() == [0, 1]
  write_units(store, [2])
  store.unmark([0])
  assert store.done_units().tolist() == [1, 2]
  assert asked == ([[0, 1], [2]] if "://" not in location else [])
  assert store.flags.done_among(np.array([0, 2])).tolist() == [2]
  assert (store.count_done(), store.count_images(np.array([0, 1]))) == (4, 6)


def test_a_chunk_is_the_same_bytes_whatever_came_before(tmp_path: pathlib.Path):
  write_units(make_store(tmp_path / "first"), [0, 1, 2])
  write_units(make_store(tmp_path / "second"), [2, 0, 0])
  write_units(make_store(tmp_path / "second"), [1, 2])
  expected = files_of(tmp_path / "first")
  assert len(expected) == 2 + 6 + 6 * 3
  assert files_of(tmp_path / "second") == expected


def test_zeros_are_stored_so_that_a_lost_chunk_shows(tmp_path: pathlib.Path):
  store = make_store(tmp_path)
  rows = {name: np.zeros_like(values) for name, values in make_rows(0, 3).items()}
  store.write_unit(0, rows)
  (tmp_path / store.chunk_name("rank", 0)).unlink()
  with pytest.raises(StorageError) as caught:
    store.read("rank", slice(0, 3))
  assert str(caught.value).startswith(f"'{tmp_path}/results.zarr/rank' could not be read: chunk {{0, 0}} stored at")
  assert str(caught.value).endswith(
    "is missing; see whether these images are finished; jax-sis verify names what is damaged."
  )


DAMAGES = {
  "empty": lambda content: b"",
  "truncated": lambda content: content[: len(content) // 2],
  "flipped": lambda content: content[:-6] + bytes([content[-6] ^ 1]) + content[-5:],
  "longer": lambda content: content + b"\0",
  "foreign": lambda content: b"{}",
  "nothing": lambda content: bytes(CRC32C(location="end").encode(Zstd(level=1).encode(b""))),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("unit", [1, 2])
def test_a_damaged_chunk_is_an_error_and_is_written_again(tmp_path: pathlib.Path, damage: str, unit: int):
  store = write_units(make_store(tmp_path), range(NUM_UNITS))
  undamaged = files_of(tmp_path)
  for name in FIELDS:
    path = tmp_path / store.chunk_name(name, unit)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(StorageError, match=rf"results\.zarr/{name}' could not be read: .*verify names what is damaged"):
      results.open(tmp_path).read(name, np.array([NUM_IMAGES - 1, 3]))
    np.testing.assert_array_equal(store.read(name, slice(0, 3)), make_rows(0, 3)[name])
  store.unmark([unit])
  write_units(make_store(tmp_path), [unit])
  assert files_of(tmp_path) == undamaged


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_flag_counts_as_not_done_and_hides_no_other(tmp_path: pathlib.Path, damage: str):
  store = write_units(make_store(tmp_path), range(NUM_UNITS))
  undamaged = files_of(tmp_path)
  path = tmp_path / store.chunk_name("done", 1)
  path.write_bytes(DAMAGES[damage](path.read_bytes()))
  assert store.done_units().tolist() == [0, 2]
  assert results.open(tmp_path).done_images().tolist() == [0, 1, 2, 6]
  write_units(store, [1])
  assert files_of(tmp_path) == undamaged


def test_a_flag_that_another_compressor_wrote_is_read(tmp_path: pathlib.Path):
  store = write_units(make_store(tmp_path), [0, 1])
  for unit, value in enumerate([b"\1", b"\0"]):
    content = bytes(CRC32C(location="end").encode(Zstd(level=19, checksum=True).encode(value)))
    assert content != (tmp_path / store.chunk_name("done", 1)).read_bytes()
    (tmp_path / store.chunk_name("done", unit)).write_bytes(content)
  (tmp_path / "results.zarr" / "done" / "c" / "99").write_bytes(b"no unit")
  (tmp_path / "results.zarr" / "done" / "c" / "notes.txt").write_bytes(b"no unit")
  assert store.done_units().tolist() == [0]


def test_what_a_killed_process_left_does_not_get_into_a_chunk(tmp_path: pathlib.Path):
  write_units(make_store(tmp_path / "undisturbed"), range(NUM_UNITS))
  store = make_store(tmp_path / "run")
  for name, unit in itertools.product([*FIELDS, "checksums", "done"], range(NUM_UNITS)):
    path = tmp_path / "run" / f"{store.chunk_name(name, unit)}{folder.TEMPORARY_SUFFIX}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"left" * 1000)
  assert store.done_units().tolist() == []
  write_units(store, range(NUM_UNITS))
  assert files_of(tmp_path / "run") == files_of(tmp_path / "undisturbed")


def start(*arguments: object) -> subprocess.Popen[str]:
  command = [sys.executable, str(DRIVER), *map(str, arguments)]
  environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(DRIVER.parents[1]), *sys.path[1:]])}
  return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def drive(*arguments: object) -> Any:
  process = start(*arguments)
  stdout, stderr = process.communicate(timeout=60)
  assert process.returncode == 0, stderr
  return json.loads(stdout.splitlines()[-1])


@pytest.mark.slow
def test_a_run_is_whole_wherever_its_process_is_killed(tmp_path: pathlib.Path):
  num_images, all_units = 2399, list(range(600))
  assert drive("unlimited", tmp_path / "undisturbed", num_images) == all_units
  undisturbed = files_of(tmp_path / "undisturbed")
  for kill in range(4):
    process = start("unlimited", tmp_path / "run", num_images)
    assert process.stdout is not None
    first = int(process.stdout.readline())
    for _ in range(3 * kill):
      process.stdout.readline()
    time.sleep(0.0011 * kill)
    process.kill()
    process.communicate()
    store = results.open(tmp_path / "run")
    done = store.done_units().tolist()
    assert first + 3 * kill < len(done) < 600
    for unit, name in itertools.product(done, store.fields):
      chunk = store.chunk_name(name, unit)
      assert (tmp_path / "run" / chunk).read_bytes() == undisturbed[chunk]
  assert drive("unlimited", tmp_path / "run", num_images) == all_units
  assert files_of(tmp_path / "run") == undisturbed


@pytest.mark.slow
def test_a_full_disk_is_said_and_the_run_goes_on_after_it(tmp_path: pathlib.Path):
  outcome = drive("limited", tmp_path / "full", 2000)
  chunk = f"{tmp_path}/full/results.zarr/noise/c/1/0"
  assert outcome == [
    [0],
    f"'{chunk}' could not be written: File too large; free some space or raise the limit on the size of files, and "
    "the same command goes on.",
    [0],
  ]
  assert drive("unlimited", tmp_path / "full") == [0, 1, 2]
  assert drive("unlimited", tmp_path / "undisturbed") == [0, 1, 2]
  assert files_of(tmp_path / "full") == files_of(tmp_path / "undisturbed")


def test_a_run_is_read_where_only_others_may_write():
  # Not below tmp_path, which is closed to strangers altogether.
  with tempfile.TemporaryDirectory() as directory:
    store = write_units(make_store(directory), [0, 2])
    for path in (pathlib.Path(directory), *pathlib.Path(directory).rglob("*")):
      path.chmod(0o555 if path.is_dir() else 0o444)
    outcome = drive("stranger", directory)
    for path in (pathlib.Path(directory), *pathlib.Path(directory).rglob("*")):
      path.chmod(0o755)
    refusal = "Permission denied; see who may read and write there, or name another folder"
    assert outcome == [
      [0, 1, 2, 6],
      ["image 0", "image 1", "image 2", "image 6"],
      f"'{directory}/{store.chunk_name('done', 0)}' could not be removed: {refusal}.",
    ]


def test_a_flag_that_cannot_be_read_is_an_error_and_not_undone():
  with tempfile.TemporaryDirectory() as directory:
    store = write_units(make_store(directory), [0, 2])
    os.chmod(directory, 0o755)
    flag = store.chunk_name("done", 2)
    assert drive("unreadable", directory, flag) == (
      f"'{directory}/{flag}' could not be read: Permission denied; see who may read and write there, or name another "
      "folder."
    )


def test_workers_that_begin_a_run_at_once_share_it(location: str):
  def begin(worker: int) -> results.Results:
    return write_units(make_store(location), [worker % NUM_UNITS])

  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    stores = list(pool.map(begin, range(8)))
  assert all(store.spec == stores[0].spec for store in stores)
  np.testing.assert_array_equal(results.open(location).read("rank"), make_rows(0, 7)["rank"])


def test_of_different_runs_that_begin_at_once_one_gets_the_folder(location: str):
  def begin(worker: int) -> str:
    try:
      make_store(location, threshold=(worker + 1) / 10)
    except ValueError as error:
      assert "holds another run (threshold " in str(error)
      return "refused"
    return "made"

  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    outcomes = list(pool.map(begin, range(8)))
  assert sorted(outcomes) == ["made"] + ["refused"] * 7
  assert results.open(location).spec["threshold"] == (outcomes.index("made") + 1) / 10


def test_another_run_in_the_same_folder_is_refused_with_the_difference(tmp_path: pathlib.Path):
  make_store(tmp_path, model={"name": "resnet20", "sha256": "12" * 32}, note="x" * 100)
  message = (
    f"out {str(tmp_path)!r} holds another run (limit nothing there, 5 here, "
    f"other weights of the model, note '{'x' * 76}... there, {{'a': 1}} here, "
    "threshold 0.99 there, 0.9 here); name another folder by --out, or remove this one."
  )
  changes: Any = {"model": {"name": "resnet20", "sha256": "34" * 32}, "note": {"a": 1}, "limit": 5, "threshold": 0.9}
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    make_store(tmp_path, **changes)


def test_a_folder_without_a_run_is_refused(location: str):
  message = f"directory must hold the results of a run (spec.json), got {location!r}."
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    results.open(location)


@pytest.mark.parametrize(
  ("content", "reason"),
  [
    ('{"format": "jax_sis', ", but cannot be read: Unterminated string starting at: line 1 column 12 (char 11)."),
    ("[]", " in the format 'jax_sis.results/3'."),
    (json.dumps({"format": "something else"}), " in the format 'jax_sis.results/3'."),
  ],
)
def test_a_foreign_specification_is_refused(tmp_path: pathlib.Path, content: str, reason: str):
  (tmp_path / "spec.json").write_text(content)
  message = f"'{tmp_path}/spec.json' must be the specification of a run{reason}"
  for action_fn in (make_store, results.open):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
      action_fn(tmp_path)
  assert (tmp_path / "spec.json").read_text() == content


def test_a_run_of_an_older_version_is_refused(tmp_path: pathlib.Path):
  (tmp_path / "spec.json").write_text(json.dumps({"format": "jax_sis.results/1"}))
  message = (
    f"'{tmp_path}/spec.json' must be in the format 'jax_sis.results/3', but another version of jax_sis made it, as "
    "'jax_sis.results/1'; name another folder, or use that version."
  )
  for action_fn in (make_store, results.open):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
      action_fn(tmp_path)


def test_a_specification_that_lacks_something_is_refused(tmp_path: pathlib.Path):
  (tmp_path / "spec.json").write_text(json.dumps({"format": "jax_sis.results/3", "num_images": 7}))
  message = f"'{tmp_path}/spec.json' must be the specification of a run, but lacks unit_size, fields."
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    results.open(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "truncated", "of another shape"])
def test_an_array_that_is_not_ours_is_refused(tmp_path: pathlib.Path, damage: str):
  make_store(tmp_path)
  path = tmp_path / "results.zarr" / "rank" / "zarr.json"
  content = path.read_text()
  path.unlink()
  if damage != "missing":
    path.write_text(content[:20] if damage == "truncated" else content.replace("[7,5]", "[8,5]"))
  with pytest.raises(StorageError, match=r"results\.zarr/rank' could not be opened: ") as caught:
    results.open(tmp_path)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"id": results.encode_text(["a", "b"])}, "rows['id'] must have the shape [3, 128], got [2, 128]."),
    ({"rank": np.zeros((3, 1), int)}, "rows['rank'] must have the shape [3, 5], got [3, 1]."),
    ({"rank": np.full((3, 5), 70_000)}, "rows['rank'] must be values that uint16 can hold, got others as int64."),
    ({"rank": np.full((3, 5), -1)}, "rows['rank'] must be values that uint16 can hold, got others as int64."),
    ({"is_sufficient": np.full(3, 0.5)}, "rows['is_sufficient'] must be values that bool can hold, got others as"),
    ({"smallest_mask": np.zeros((3, 2), np.uint8)}, "rows['smallest_mask'] must have the shape [3, 11], got [3, 2]."),
    ({"smallest_mask": np.full((3, 11), 2)}, "rows['smallest_mask'] must be a mask of Booleans, got int64."),
  ],
)
def test_rows_that_do_not_fit_are_refused_and_nothing_is_written(
  tmp_path: pathlib.Path, changes: dict[str, np.ndarray], message: str
):
  store = make_store(tmp_path)
  before = files_of(tmp_path)
  with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
    store.write_unit(0, {**make_rows(0, 3), **changes})
  assert files_of(tmp_path) == before


def test_a_missing_field_is_refused(tmp_path: pathlib.Path):
  rows = make_rows(0, 3)
  del rows["rank"]
  message = "rows must have the fields ['id', 'is_sufficient', 'rank', 'smallest_mask'], got "
  with pytest.raises(ValueError, match=re.escape(message)):
    make_store(tmp_path).write_unit(0, rows)


@pytest.mark.parametrize("unit", [-1, 3])
def test_a_unit_that_is_none_is_refused(tmp_path: pathlib.Path, unit: int):
  with pytest.raises(ValueError, match=re.escape(f"unit must be in 0..2, got {unit}.")):
    make_store(tmp_path).write_unit(unit, make_rows(0, 3))


def test_an_unknown_field_is_refused(tmp_path: pathlib.Path):
  names = "['checksums', 'done', 'id', 'is_sufficient', 'rank', 'smallest_mask']"
  with pytest.raises(ValueError, match=re.escape(f"name must be one of {names}, got 'order'.")):
    make_store(tmp_path).read("order")


def test_a_long_text_keeps_its_end_and_stays_valid_utf8(tmp_path: pathlib.Path):
  store = make_store(tmp_path)
  rows = make_rows(6, 7)
  rows["id"] = results.encode_text(["ä" * 100 + "/cat.png"])
  store.write_unit(2, rows)
  (text,) = store.read_text("id", slice(6, 7))
  assert text.startswith("...")
  assert text.endswith("ää/cat.png")
  assert len(text.encode()) <= results.TEXT_BYTES
  assert store.table()["id"].tolist() == [text]
  assert store.find_images(["ä" * 100 + "/cat.png", text]).tolist() == [6, 6]


def test_the_table_has_one_value_an_image(tmp_path: pathlib.Path):
  store = write_units(make_store(tmp_path), [0, 2])
  table = store.table()
  assert list(table) == ["id", "is_sufficient"]
  assert table["id"].tolist() == ["image 0", "image 1", "image 2", "image 6"]
  assert table["is_sufficient"].tolist() == [True, False, True, True]
  assert store.table(np.array([6, 0]))["id"].tolist() == ["image 6", "image 0"]
  assert store.table(np.array([], int))["id"].tolist() == []


@pytest.mark.parametrize(
  ("num_images_at_once", "expected"),
  [(1, [1] * 7), (2, [2, 1, 2, 1, 1]), (3, [3, 3, 1]), (5, [3, 3, 1]), (6, [6, 1]), (100, [7])],
)
def test_images_are_read_some_at_a_time(tmp_path: pathlib.Path, num_images_at_once: int, expected: list[int]):
  store = write_units(make_store(tmp_path), range(NUM_UNITS))
  pieces = list(store.iterate(num_images_at_once))
  assert [len(indices) for indices, _ in pieces] == expected
  np.testing.assert_array_equal(np.concatenate([indices for indices, _ in pieces]), np.arange(7))
  for name, values in make_rows(0, 7).items():
    np.testing.assert_array_equal(np.concatenate([rows[name] for _, rows in pieces]), values)


def test_only_finished_images_are_read_in_turn(tmp_path: pathlib.Path):
  store = write_units(make_store(tmp_path), [0, 2])
  ((indices, rows),) = store.iterate(names=["is_sufficient"])
  assert indices.tolist() == [0, 1, 2, 6]
  assert list(rows) == ["is_sufficient"]
  new = make_store(tmp_path / "new", grid=[11, 1, 1])
  assert list(new.iterate()) == []
  assert new.table()["id"].tolist() == []
  assert new.masks(kind="smallest").shape == (0, 11, 1, 1)


def test_images_are_found_by_their_ids(tmp_path: pathlib.Path):
  store = write_units(make_store(tmp_path), [0, 2])
  assert store.find_images(["image 6", "image 1", "image 6"]).tolist() == [6, 1, 6]
  assert store.find_images([]).tolist() == []
  message = f"ids must be those of finished images, but {str(tmp_path)!r} has none of 'image 3', 'cat'."
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    store.find_images(["image 0", "image 3", "cat"])
  with pytest.raises(ValueError, match=r"none of 'x0', .*, 'x9' and 90 more\.$"):
    store.find_images([f"x{number}" for number in range(100)])


def test_an_id_that_two_images_have_is_refused(tmp_path: pathlib.Path):
  store = make_store(tmp_path)
  store.write_unit(0, {**make_rows(0, 3), "id": results.encode_text(["a", "b", "a"])})
  assert store.find_images(["b"]).tolist() == [1]
  message = "ids must name one image each, but 'a' is the id of images 0 and 2; use their numbers."
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    store.find_images(["b", "a"])


SIZES = (0, 1, 3, 5, 7, 9, 11, 12)
GRID = (3, 4, 1)


def make_order(rng: np.random.Generator, num_images: int) -> FeatureOrder:
  """Random orders of 12 features, whose confidences pass here and there, some of them not finite."""
  confidence = rng.random((num_images, len(SIZES))).astype(np.float32) ** rng.choice([0.2, 1, 5], (num_images, 1))
  confidence[rng.random(confidence.shape) < 0.1] = 0.5
  finite = rng.random(num_images) < 0.8
  confidence[~finite, 3:] = np.nan
  return FeatureOrder(
    rank=jnp.asarray(rng.permuted(np.tile(np.arange(12, dtype=np.int32), (num_images, 1)), axis=1)),
    confidence=jnp.asarray(confidence.astype(np.float32)),
    target=jnp.zeros(num_images, jnp.int32),
    finite=jnp.asarray(finite),
    baseline=jnp.zeros((num_images, 1, 1, 1)),
    sizes=SIZES,
    grid=GRID,
    score="log_odds",
  )


def store_order(order: FeatureOrder, threshold: float) -> results.Results:
  """A run that found these orders; every seventh image was not searched."""
  num_images = len(order.target)
  fields = {
    "id": results.TEXT,
    "rank": Field(shape=(12,), dtype="uint16"),
    "confidence": Field(shape=(len(SIZES),), dtype="float32"),
    "sis_status": Field(shape=(), dtype="int8"),
    "smallest_mask": results.mask_field(12),
    "mask_fraction_0.25": results.mask_field(12),
  }
  store = results.create_or_resume(
    f"memory://{np.random.default_rng().integers(2**62)}",
    spec={"threshold": threshold, "sizes": list(SIZES), "grid": list(GRID)},
    num_images=num_images,
    unit_size=num_images,
    fields=fields,
  )
  status = np.array(jax_sis.sufficient_subsets(order, threshold).status)
  status[::7] = -1
  masks = np.arange(12) == np.arange(num_images)[:, None] % 12
  rows = {
    "id": results.encode_text([f"image {number}" for number in range(num_images)]),
    "rank": np.asarray(order.rank),
    "confidence": np.asarray(order.confidence),
    "sis_status": status,
    "smallest_mask": masks,
    "mask_fraction_0.25": masks,
  }
  store.write_unit(0, rows)
  return store


@pytest.mark.parametrize("run_threshold", [0.1, 0.9])
def test_masks_of_every_threshold_and_fraction_are_those_of_the_kernel(run_threshold: float):
  order = make_order(np.random.default_rng(0), 500)
  statuses = set(np.asarray(jax_sis.sufficient_subsets(order, run_threshold).status).tolist())
  assert statuses == {status.value for status in jax_sis.Status} - {jax_sis.Status.NOT_REACHED}
  store = store_order(order, run_threshold)
  is_searched = (np.arange(500) % 7 != 0)[:, None, None, None]
  for threshold in (0.01, 0.3, 0.5, 0.7, 0.99, None):
    expected = jax_sis.sufficient_subsets(order, threshold or run_threshold).mask & is_searched
    np.testing.assert_array_equal(store.masks(threshold=threshold), expected)
  for fraction in (0.01, 1 / 12, 0.5, 0.58, 7 / 12, 1.0):
    expected = jax_sis.keep_fraction(order, fraction).mask & is_searched
    np.testing.assert_array_equal(store.masks(fraction=fraction), expected)


def test_masks_are_read_some_at_a_time_and_by_id(monkeypatch: pytest.MonkeyPatch):
  store = store_order(make_order(np.random.default_rng(0), 30), 0.5)
  expected = store.masks()
  assert expected.shape == (30, 3, 4, 1)
  assert expected.any()
  monkeypatch.setattr(results_store, "FEATURES_AT_ONCE", 7 * 12)
  np.testing.assert_array_equal(store.masks(), expected)
  np.testing.assert_array_equal(store.masks(["image 29", "image 3"]), expected[[29, 3]])
  assert store.masks([]).shape == (0, 3, 4, 1)


def test_stored_masks_are_those_that_are_given():
  store = store_order(make_order(np.random.default_rng(0), 30), 0.5)
  expected = (np.arange(12) == np.arange(30)[:, None] % 12).reshape(30, 3, 4, 1)
  np.testing.assert_array_equal(store.masks(fraction=0.25), expected)
  np.testing.assert_array_equal(store.masks(kind="smallest"), expected)
  np.testing.assert_array_equal(store.masks(["image 5"], kind="smallest", threshold=0.5), expected[[5]])


def test_masks_that_a_run_does_not_hold_are_refused(tmp_path: pathlib.Path):
  fields = {"id": results.TEXT, results.mask_name(threshold=0.9): results.mask_field(4)}
  spec = {"threshold": 0.9, "grid": [2, 2, 1]}
  store = results.create_or_resume(tmp_path, spec=spec, num_images=1, unit_size=1, fields=fields)
  store.write_unit(0, {"id": results.encode_text(["a"]), "mask_threshold_0.9": np.array([[True, False, False, True]])})
  assert store.masks().tolist() == [[[[True], [False]], [[False], [True]]]]
  message = (
    f"{str(tmp_path)!r} must hold the masks that are asked for (threshold 0.5, kind 'sis'); it holds "
    "mask_threshold_0.9 (kind 'sis')."
  )
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    store.masks(threshold=0.5)
  with pytest.raises(ValueError, match=re.escape("(threshold 0.9, kind 'smallest')")):
    store.masks(kind="smallest")
  whole = store_order(make_order(np.random.default_rng(0), 3), 0.5)
  message = (
    "(threshold 0.6, kind 'smallest'); it holds mask_fraction_0.25 (kind 'sis'), those of every threshold and "
    "fraction (kind 'sis'), those of threshold 0.5 (kind 'smallest')."
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    whole.masks(threshold=0.6, kind="smallest")


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"threshold": 0.5, "fraction": 0.5}, "threshold and fraction must not both be given, got 0.5 and 0.5."),
    ({"threshold": 1}, "threshold must be a probability strictly between 0 and 1, got 1.0."),
    ({"fraction": 0}, "fraction must be above 0 and at most 1, got 0.0."),
    ({"fraction": float("nan")}, "fraction must be above 0 and at most 1, got nan."),
  ],
)
def test_masks_of_no_subset_are_refused(options: Any, message: str):
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    store_order(make_order(np.random.default_rng(0), 3), 0.5).masks(**options)


def test_an_out_path_that_is_a_file_is_refused(tmp_path: pathlib.Path):
  (tmp_path / "file").write_text("")
  with pytest.raises(StorageError, match=r"file/run/spec\.json' could not be written: Not a directory;"):
    make_store(tmp_path / "file" / "run")


def test_the_axes_have_names_by_which_xarray_reads_the_store(tmp_path: pathlib.Path):
  xarray = pytest.importorskip("xarray")
  write_units(make_store(tmp_path), range(NUM_UNITS))
  with xarray.open_zarr(tmp_path / "results.zarr", consolidated=False) as data:
    assert data.sizes == {"image": 7, "feature": 5, "byte": 128, "feature_byte": 2, "unit": 3, "field": 4}
    assert data["smallest_mask"].dims == ("image", "feature_byte")
    np.testing.assert_array_equal(data["rank"].isel(image=slice(3, 7)), make_rows(3, 7)["rank"])


def test_a_store_of_an_earlier_version_whose_axes_have_no_names_goes_on(tmp_path: pathlib.Path):
  write_units(make_store(tmp_path / "new"), range(NUM_UNITS))
  chunks = {name: content for name, content in files_of(tmp_path / "new").items() if "zarr.json" not in name}
  write_units(make_store(tmp_path / "old"), [0])
  for path in (tmp_path / "old/results.zarr").glob("*/zarr.json"):
    metadata = json.loads(path.read_text())
    assert metadata.pop("dimension_names")[0] in ("image", "unit")
    path.write_text(json.dumps(metadata))
  write_units(make_store(tmp_path / "old"), [1, 2])
  assert {name: content for name, content in files_of(tmp_path / "old").items() if "zarr.json" not in name} == chunks


def test_a_prompt_and_a_notebook_show_a_run(tmp_path: pathlib.Path):
  rows = made_runs.make_rows(6, has_smallest=True)
  rows["id"][2] = "<b>"
  store = made_runs.make_run(tmp_path / "run", rows, num_done=4)
  assert repr(store) == (
    f"Results('{tmp_path}/run': made on made, 4 of 6 images done; SIS, smallest, orders, smallest_mask)"
  )
  text = store._repr_html_()
  assert text.count("<tr>") == 5
  assert "<td>&lt;b&gt;</td>" in text
  assert "sis_num_kept" in text


def test_a_run_becomes_a_data_frame(tmp_path: pathlib.Path):
  pandas = pytest.importorskip("pandas")
  rows = made_runs.make_rows(6, has_odd_ones=True)
  frame = made_runs.make_run(tmp_path / "run", rows).to_pandas()
  assert isinstance(frame, pandas.DataFrame)
  assert frame.index.tolist() == list(range(6))
  assert frame["id"].tolist() == rows["id"].tolist()
  assert frame["sis_status"].tolist() == [schema.STATUS_NAMES[int(status)] for status in rows["sis_status"]]
