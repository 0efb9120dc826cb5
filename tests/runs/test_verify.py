"""Verification: damage of every kind is found where it is, and nowhere else; `find` then mends that and no more."""

import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import pytest
import tiny_classifier
from PIL import Image
from tiny_runs import GRADIENT, find_tiny

import jax_sis
from jax_sis import results
from jax_sis.data.sources import SAMPLE_DIR
from jax_sis.results.schema import NOT_SEARCHED
from jax_sis.runs import find, setup, verify
from jax_sis.runs.config import FindConfig, settings_from_json
from jax_sis.runs.invariants import check_rows

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")


def run_find(out: pathlib.Path, **options: Any) -> results.Results:
  """Five units, of which the last is shorter."""
  settings = {"patch": 8, "gallery": 0, "num_devices": 2, "batch_size": 5, "threshold": 0.9, **options}
  with jax.numpy_rank_promotion("allow"):
    find.find(FindConfig(out=str(out), **settings))
  return results.open(out)


@pytest.fixture
def run_dir(tiny_run: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
  return shutil.copytree(tiny_run, tmp_path / "out")


def find_again(out: pathlib.Path) -> None:
  """The command that the run was begun with."""
  find.find(settings_from_json({**json.loads((out / "settings.json").read_text()), "out": str(out)}))


def files_of(out: pathlib.Path) -> dict[str, bytes]:
  return {str(path.relative_to(out)): path.read_bytes() for path in (out / "results.zarr").rglob("*") if path.is_file()}


def flag_times(out: pathlib.Path) -> dict[int, int]:
  """When each unit was done."""
  return {int(path.name): path.stat().st_mtime_ns for path in (out / "results.zarr/done/c").iterdir()}


def chunk(out: pathlib.Path, name: str, unit: int) -> pathlib.Path:
  return out / results.open(out).chunk_name(name, unit)


def flip_bit(path: pathlib.Path) -> None:
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 4
  path.write_bytes(content)


def damages_in(text: str) -> list[tuple[int, str]]:
  return [(int(unit), field) for unit, field in re.findall(r"^unit (\d+) \(images? [^)]*\), (\w[\w.]*):", text, re.M)]


def test_a_sound_run_is_found_sound_and_stays_as_it_is(run_dir: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  before = files_of(run_dir)
  assert verify.verify(str(run_dir), num_devices=2)
  output = capsys.readouterr().out
  assert "5 of 5 units are done, 24 of 24 images." in output
  assert "5 of 5 finished units are sound (4 were computed again); 0 units are not done yet." in output
  assert files_of(run_dir) == before


def test_damaged_chunks_are_named_and_only_their_units_computed_again(
  run_dir: pathlib.Path, tiny_run: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  truncated, flipped = chunk(run_dir, "rank", 1), chunk(run_dir, "id", 4)
  truncated.write_bytes(truncated.read_bytes()[:-3])
  flip_bit(flipped)
  chunk(run_dir, "sis_num_kept", 2).unlink()
  shutil.copy(chunk(run_dir, "label", 2), chunk(run_dir, "smallest_mask", 2))
  before = flag_times(run_dir)
  assert not verify.verify(str(run_dir), num_sampled=0)
  output = capsys.readouterr().out
  assert sorted(damages_in(output)) == [(1, "rank"), (2, "sis_num_kept"), (2, "smallest_mask"), (4, "id")]
  assert "unit 2 (images 10 to 14), sis_num_kept: is missing\n" in output
  assert "3 units are damaged and now marked as not done; the same `jax-sis find` as before computes them" in output
  assert results.open(run_dir).done_units().tolist() == [0, 3]
  find_again(run_dir)
  assert files_of(run_dir) == files_of(tiny_run)
  after = flag_times(run_dir)
  assert {unit for unit in after if after[unit] != before[unit]} == {1, 2, 4}
  assert verify.verify(str(run_dir), num_sampled=0)


@pytest.mark.parametrize(
  "swapped", [{"rank": (0, 1), "full_confidence": (2, 3)}, {"id": (0, 1), "pixel_digest": (1, 2), "checksums": (3, 4)}]
)
def test_chunks_of_other_units_are_found_without_computing_again(
  run_dir: pathlib.Path,
  tiny_run: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
  swapped: dict[str, tuple[int, int]],
):
  for name, units in swapped.items():
    paths = [chunk(run_dir, name, unit) for unit in units]
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, reversed(contents), strict=True):
      path.write_bytes(content)
  assert not verify.verify(str(run_dir), num_sampled=0)
  expected = [(unit, name) for name, units in swapped.items() for unit in units]
  assert sorted(damages_in(capsys.readouterr().out)) == sorted(expected)
  find_again(run_dir)
  assert files_of(run_dir) == files_of(tiny_run)


def test_a_missing_checksum_is_found(run_dir: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  chunk(run_dir, "checksums", 1).unlink()
  assert not verify.verify(str(run_dir), num_sampled=0, is_report_only=True)
  assert "unit 1 (images 5 to 9), checksums: is missing\n" in capsys.readouterr().out


def test_damaged_files_beside_the_units_are_named_and_mended(
  run_dir: pathlib.Path, tiny_run: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  (run_dir / "results.zarr/zarr.json").write_text('{"zarr_format": 2}')
  (run_dir / "summary.json").unlink()
  table = run_dir / "summary.csv"
  table.write_text(table.read_text().replace("cat", "dog", 1))
  (run_dir / "gallery.png").write_bytes(next(SAMPLE_DIR.glob("*/*.png")).read_bytes()[:200])
  leftovers = [run_dir / "summary.json.__lock", chunk(run_dir, "rank", 3).with_name("0.__lock")]
  leftovers.append(run_dir / ".writable-77")
  for path in leftovers:
    path.write_text("half a file")
  assert not verify.verify(str(run_dir), num_sampled=0)
  output = capsys.readouterr().out
  for line in (
    "results.zarr/zarr.json is not what the arrays and their description give; the same `jax-sis find` as before",
    "summary.csv is not what the arrays and their description give; the same",
    "summary.json is missing; the same",
    "gallery.png is no picture any more (",
    "3 files that killed workers left are removed.",
  ):
    assert f"\n{line}" in output
  assert "5 of 5 finished units are sound" in output
  assert not [path for path in leftovers if path.exists()]
  (run_dir / "gallery.png").unlink()
  leftovers[1].write_text("half a file")
  find_again(run_dir)
  assert files_of(run_dir) == files_of(tiny_run)
  assert verify.verify(str(run_dir), num_sampled=0)


def save_bitmaps(folder: pathlib.Path, names: Sequence[str], *, seed: int) -> None:
  """Noise of the same files' names and sizes, whatever the seed."""
  folder.mkdir(exist_ok=True)
  generator = np.random.default_rng(seed)
  for name in names:
    Image.fromarray(generator.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / name)


def test_other_images_of_the_same_names_and_sizes_are_refused_by_find_and_verify(
  tmp_path: pathlib.Path, tiny_checkpoint: str
):
  names = [f"{number}.bmp" for number in range(12)]
  save_bitmaps(tmp_path / "photos", names, seed=0)
  settings = {"data": str(tmp_path / "photos"), **GRADIENT}
  store = find_tiny(tmp_path / "out", tiny_checkpoint, **settings)
  store.unmark([2])
  save_bitmaps(tmp_path / "photos", names[3:4], seed=1)
  (tmp_path / "photos" / "4.bmp").write_bytes(b"x" * (tmp_path / "photos" / "4.bmp").stat().st_size)
  # In the order of names as texts: 0, 1, 10, 11, 2, 3, 4, ...
  message = (
    f"the images at hand must be those that the run in '{tmp_path}/out' searched, but 2 of the 10 that were compared "
    "are not: '3.bmp' has other pixels, '4.bmp' cannot be used any more (cannot identify image file '4.bmp'); bring"
  )
  before = files_of(tmp_path / "out")
  for action_fn in (
    lambda: find_tiny(tmp_path / "out", tiny_checkpoint, **settings),
    lambda: verify.verify(str(tmp_path / "out"), num_sampled=0),
  ):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
      action_fn()
  assert files_of(tmp_path / "out") == before
  # What the run has not searched yet may change.
  save_bitmaps(tmp_path / "photos", names, seed=0)
  save_bitmaps(tmp_path / "photos", names[8:9], seed=2)
  assert len(find_tiny(tmp_path / "out", tiny_checkpoint, **settings).done_units()) == 3


def make_older(run_dir: pathlib.Path) -> None:
  """As the version before digests and checksums wrote it."""
  path = run_dir / "spec.json"
  spec = {**json.loads(path.read_text()), "format": "jax_sis.results/2"}
  del spec["fields"]["pixel_digest"]
  path.write_text(json.dumps(spec))
  group = run_dir / "results.zarr" / "zarr.json"
  group.write_text(group.read_text().replace("results/3", "results/2"))
  for name in ("pixel_digest", "checksums"):
    shutil.rmtree(run_dir / "results.zarr" / name)


def test_a_run_of_the_version_before_digests_is_read_and_checked_but_not_gone_on_with(
  run_dir: pathlib.Path, tiny_run: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  make_older(run_dir)
  store = results.open(run_dir)
  np.testing.assert_array_equal(store.read("rank"), results.open(tiny_run).read("rank"))
  assert verify.verify(str(run_dir), num_sampled=0)
  shutil.copy(chunk(run_dir, "id", 0), chunk(run_dir, "id", 1))
  assert not verify.verify(str(run_dir), num_sampled=0, is_report_only=True)
  assert damages_in(capsys.readouterr().out) == [(1, "id")]
  with pytest.raises(ValueError, match=r"must be in the format 'jax_sis.results/3', but another version of"):
    find_again(run_dir)


def test_a_changed_rank_is_found_by_computing_again_and_its_image_named(
  run_dir: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  store = results.open(run_dir)
  rows = {name: store.read(name, np.arange(10, 15)) for name in store.fields}
  rank = rows["rank"][1]
  # Two features that every subset keeps change places, so that nothing contradicts itself.
  places = np.flatnonzero(rank < min(2, rows["sis_num_kept"][1]))
  rank[places] = rank[places[::-1]]
  store.write_unit(2, rows)
  assert verify.verify(str(run_dir), num_sampled=0)
  assert not verify.verify(str(run_dir), num_sampled=5, num_devices=2, is_report_only=True)
  output = capsys.readouterr().out
  assert "unit 2 (images 10 to 14), rank: differs from what was computed again (wrong for 11)\n" in output
  assert len(damages_in(output)) == 1
  assert "1 unit is damaged, and nothing was changed" in output
  assert len(results.open(run_dir).done_units()) == 5


def test_damaged_flags_and_units_that_are_not_done_are_told_apart(
  run_dir: pathlib.Path, tiny_run: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  flip_bit(chunk(run_dir, "done", 1))
  chunk(run_dir, "done", 3).unlink()
  assert not verify.verify(str(run_dir), num_sampled=0)
  output = capsys.readouterr().out
  assert damages_in(output) == [(1, "done")]
  assert "3 of 3 finished units are sound (0 were computed again); 2 units are not done yet." in output
  assert verify.verify(str(run_dir), num_sampled=0)
  find_again(run_dir)
  assert files_of(run_dir) == files_of(tiny_run)


def test_a_run_that_has_only_begun_is_sound(run_dir: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  results.open(run_dir).unmark(range(5))
  assert verify.verify(str(run_dir))
  assert "0 of 0 finished units are sound (0 were computed again); 5 units are not done yet." in capsys.readouterr().out


def test_the_sample_is_drawn_by_the_seed():
  units = np.arange(100)
  first = verify.sample_units(units, 4, 0)
  np.testing.assert_array_equal(first, verify.sample_units(units, 4, 0))
  assert len(set(first.tolist())) == 4
  assert first.tolist() != verify.sample_units(units, 4, 1).tolist()
  np.testing.assert_array_equal(verify.sample_units(units[:3], 4, 0), units[:3])


@pytest.mark.parametrize(
  ("name", "damage_fn", "message"),
  [
    ("spec.json", lambda text: text[:-20], "spec.json' must be the specification of a run, but cannot be read"),
    (
      "spec.json",
      lambda text: text.replace('"unit_size"', '"unit_sixe"'),
      "spec.json' must be the specification of a run, but",
    ),
    ("spec.json", lambda text: text.replace('"threshold": 0.9', '"threshold": 0.8'), "threshold: 0.8 there, 0.9 asked"),
    ("settings.json", lambda text: text[:-20], "settings.json' must be the settings of a run, but they cannot be used"),
    ("settings.json", lambda text: text.replace('"patch"', '"batch"'), "settings.json' must be the settings of a run"),
    ("settings.json", lambda text: text.replace('"log_odds"', '"log_ods"'), "settings.json' must be the settings"),
    ("results.zarr/rank/zarr.json", lambda text: text[:-20], "results.zarr/rank' could not be opened"),
    ("results.zarr/rank/zarr.json", lambda text: text.replace("uint16", "uint32"), "rank' could not be opened"),
  ],
)
def test_damage_in_what_describes_the_run_is_refused_by_the_file(
  run_dir: pathlib.Path, name: str, damage_fn: Callable[[str], str], message: str
):
  text = (run_dir / name).read_text()
  damaged = damage_fn(text)
  assert damaged != text
  (run_dir / name).write_text(damaged)
  with pytest.raises(ValueError, match=message):
    verify.verify(str(run_dir), num_sampled=0)
  assert len(flag_times(run_dir)) == 5


def test_another_version_or_device_is_refused_but_for_the_checks_without_computing(run_dir: pathlib.Path):
  path = run_dir / "spec.json"
  spec = json.loads(path.read_text())
  spec["versions"]["jax"], spec["device"] = "0.0.1", "abacus"
  path.write_text(json.dumps(spec))
  summary = run_dir / "summary.json"
  summary.write_text(json.dumps({**json.loads(summary.read_text()), "spec": spec}, indent=2) + "\n")
  message = "it differs (device: 'abacus' there, 'cpu' asked; versions.jax: '0.0.1' there, "
  with pytest.raises(ValueError, match=f"{re.escape(message)}.*use those of the run, or --sample 0"):
    verify.verify(str(run_dir))
  assert verify.verify(str(run_dir), num_sampled=0)


def test_a_negative_sample_is_refused(run_dir: pathlib.Path):
  with pytest.raises(ValueError, match=re.escape("--sample must not be negative, got -1.")):
    verify.verify(str(run_dir), num_sampled=-1)


def rows_of(store: results.Results) -> dict[str, np.ndarray]:
  return {name: np.array(store.read(name)) for name in store.fields}


def broken_rules(store: results.Results, rows: dict[str, np.ndarray]) -> list[tuple[str, list[int]]]:
  target = setup.parse_target(store.spec["target"], tuple(store.spec["class_names"]))
  violations = check_rows(rows, store.spec, target=target, num_classes=10)
  return [(violation.field, np.flatnonzero(violation.is_broken).tolist()) for violation in violations]


def image_with(rows: dict[str, np.ndarray], *, is_ok: bool) -> int:
  return int(np.flatnonzero((rows["sis_status"] == jax_sis.Status.OK) == is_ok)[0])


@pytest.mark.parametrize(
  ("name", "is_ok", "change_fn"),
  [
    ("rank", True, lambda rank: np.where(rank == 3, 4, rank)),
    ("confidence", True, lambda confidence: np.where(np.arange(len(confidence)) == 3, 1.5, confidence)),
    ("confidence", True, lambda confidence: np.where(np.arange(len(confidence)) == 3, np.nan, confidence)),
    ("full_confidence", True, lambda confidence: -confidence),
    ("full_confidence", True, lambda confidence: confidence * np.nan),
    ("predicted", True, lambda predicted: 10 + predicted),
    ("predicted", True, lambda predicted: -1 + 0 * predicted),
    ("target", True, lambda target: (target + 1) % 10),
    ("error", True, lambda error: error + 65),
    ("sis_status", True, lambda status: status + 1),
    ("sis_status", False, lambda status: 0 * status),
    ("sis_status", False, lambda status: status + 50),
    ("sis_num_kept", True, lambda count: count - 1),
    ("sis_num_kept", False, lambda count: count + 1),
    ("smallest_num_kept", True, lambda count: count + 1),
    ("smallest_mask", True, np.logical_not),
    ("smallest_mask", False, np.logical_not),
    ("mask_threshold_0.5", True, lambda mask: np.roll(mask, 1)),
    ("mask_threshold_0.9", True, lambda mask: np.roll(mask, 1)),
    ("mask_fraction_0.25", False, lambda mask: np.roll(mask, 1)),
    ("sis_certified_confidence", True, lambda confidence: confidence * np.nan),
    ("smallest_certified_confidence", True, lambda confidence: confidence + 1),
    ("sis_certified_confidence", False, np.nan_to_num),
    ("sis_is_sufficient", True, np.logical_not),
    ("sis_is_sufficient", False, np.logical_not),
    ("sis_keeps_class", False, np.logical_not),
    ("sis_is_reproduced", False, np.logical_not),
    ("smallest_is_minimal", True, np.logical_not),
    ("sis_is_smallest", False, np.logical_not),
    ("sis_has_smaller", False, np.logical_not),
    ("sis_num_droppable", True, lambda count: count + 100),
    ("smallest_num_droppable", True, lambda count: count + 1),
  ],
)
def test_a_changed_value_contradicts_the_others_of_its_image_only(
  tiny_run: pathlib.Path, name: str, is_ok: bool, change_fn: Callable[[np.ndarray], np.ndarray]
):
  store = results.open(tiny_run)
  rows = rows_of(store)
  assert broken_rules(store, rows) == []
  image = image_with(rows, is_ok=is_ok)
  before = rows[name][image].copy()
  rows[name][image] = change_fn(before)
  assert not np.array_equal(rows[name][image], before)
  broken = broken_rules(store, rows)
  assert broken
  assert {tuple(images) for _, images in broken} == {(image,)}


def make_photos(folder: pathlib.Path) -> None:
  """Three good images, one of them without a label, and a damaged one."""
  (folder / "cat").mkdir(parents=True)
  for path in itertools.islice(sorted(SAMPLE_DIR.glob("cat/*.png")), 2):
    shutil.copy(path, folder / "cat")
  shutil.copy(next(SAMPLE_DIR.glob("ship/*.png")), folder / "unlabelled.png")
  (folder / "cat" / "damaged.png").write_bytes(next(SAMPLE_DIR.glob("ship/*.png")).read_bytes()[:300])


@pytest.mark.slow
@pytest.mark.parametrize(
  "options",
  [
    {"target": "label", "smallest": None, "saved": "mask", "mask_fractions": (0.25, 0.5)},
    {"target": "cat", "search": None, "smallest": jax_sis.Forward(candidates=2), "exchanges": (), "threshold": 0.3},
  ],
)
def test_images_that_could_not_be_searched_are_sound(tmp_path: pathlib.Path, options: dict[str, Any]):
  make_photos(tmp_path / "photos")
  store = run_find(tmp_path / "out", data=str(tmp_path / "photos"), batch_size=2, certificate="alone", **options)
  answer = "smallest" if "search" in options and options["search"] is None else "sis"
  assert (store.read(f"{answer}_status") == NOT_SEARCHED).sum() == (2 if options["target"] == "label" else 1)
  assert verify.verify(str(tmp_path / "out"), num_sampled=1, num_devices=1)
  (tmp_path / "photos" / "cat").rename(tmp_path / "photos" / "dog")
  with pytest.raises(ValueError, match=re.escape("it differs (data.files: ")):
    verify.verify(str(tmp_path / "out"), num_sampled=0)


def run_command(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
  environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(pathlib.Path(verify.__file__).parents[2])])}
  return subprocess.run(
    [*command], env=environment, capture_output=True, text=True, check=False, timeout=300, **options
  )


@pytest.mark.slow
def test_the_command_says_by_its_exit_code_what_it_found(run_dir: pathlib.Path):
  command = [*tiny_classifier.COMMAND, "verify", str(run_dir), "--sample", "0"]
  chunk(run_dir, "rank", 1).unlink()
  # A namespace of its own, where the folder is read-only even for root.
  script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
  namespace = ["unshare", "--map-root-user", "--mount"]
  if shutil.which("unshare") and run_command(*namespace, "sh", "-c", script, str(run_dir), "true").returncode == 0:
    unwritable = run_command(*namespace, "sh", "-c", script, str(run_dir), *command)
    assert unwritable.returncode == 1, unwritable.stderr
    assert "1 unit is damaged, but could not be marked as not done: " in unwritable.stdout
    assert "Read-only file system" in unwritable.stdout
  damaged = run_command(*command)
  assert (damaged.returncode, damages_in(damaged.stdout)) == (1, [(1, "rank")])
  assert run_command(*command).returncode == 0
  (run_dir / "spec.json").unlink()
  refused = run_command(*command)
  assert refused.returncode == 2
  assert refused.stderr.startswith("jax-sis verify: directory must hold the results of a run (spec.json)")
