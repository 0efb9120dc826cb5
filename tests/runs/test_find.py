"""The main job, on the real sample; patches instead of pixels, and mostly the tiny classifier, keep it quick."""

import csv
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from typing import Any

import jax
import numpy as np
import pytest
from listening import LISTENING
from PIL import Image
from tiny_runs import GRADIENT, find_tiny

import jax_sis
from jax_sis import results
from jax_sis.classifiers import checkpoint, frozen
from jax_sis.data.config import read_ids
from jax_sis.results.folder import open_folder
from jax_sis.results.schema import NO_CLASS, NOT_SEARCHED
from jax_sis.runs import find, setup, verify
from jax_sis.runs.config import FindConfig
from jax_sis.runs.invariants import check_rows
from jax_sis.runtime import devices

SAMPLE = pathlib.Path(jax_sis.__file__).parent / "assets" / "cifar10_test_sample"
COMMAND = [sys.executable, "-m", "jax_sis", "find"]

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")


def run_find(out: pathlib.Path, **options: Any) -> results.Results:
  find.find(
    FindConfig(
      out=str(out), **{"patch": 8, "gallery": 0, "num_devices": 2, "batch_size": 3, "smallest": None, **options}
    )
  )
  return results.open(out)


def out_of(store: results.Results) -> pathlib.Path:
  assert store.folder.path is not None
  return store.folder.path


def read_all(store: results.Results) -> dict[str, np.ndarray]:
  return {name: np.asarray(store.read(name)) for name in store.fields}


@pytest.fixture(scope="module")
def sample_run(tmp_path_factory: pytest.TempPathFactory) -> results.Results:
  """Both kinds of subset, by the embedded classifier."""
  with jax.numpy_rank_promotion("allow"):
    return run_find(tmp_path_factory.mktemp("run") / "out", threshold=0.9, smallest=jax_sis.Forward())


@pytest.fixture
def copied_run(tiny_run: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
  return shutil.copytree(tiny_run, tmp_path / "out")


@pytest.mark.parametrize("is_embedded", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_store_holds_what_the_kernel_gives(request: pytest.FixtureRequest, is_embedded: bool):
  if is_embedded:
    store, folder = request.getfixturevalue("sample_run"), checkpoint.EMBEDDED_CLASSIFIER
  else:
    store, folder = results.open(request.getfixturevalue("tiny_run")), request.getfixturevalue("tiny_checkpoint")
  classifier = checkpoint.load_classifier(folder)
  predict_fn, params = frozen.freeze(classifier.module)
  paths = sorted(SAMPLE.glob("*/*.png"), key=lambda path: path.stem)
  inputs = classifier.normalisation.apply(np.stack([np.asarray(Image.open(path)) for path in paths]))
  order = jax_sis.backselect(predict_fn, params, inputs, grid=(4, 4, 1))
  subsets = jax_sis.sufficient_subsets(order, 0.9)
  report = jax_sis.certify(predict_fn, params, inputs, subsets)
  stored = read_all(store)
  np.testing.assert_array_equal(stored["rank"], order.rank)
  np.testing.assert_allclose(stored["confidence"], order.confidence, atol=1e-5)
  for name in ("num_kept", "status"):
    np.testing.assert_array_equal(stored[f"sis_{name}"], getattr(subsets, name))
  for name in ("is_sufficient", "is_minimal", "keeps_class", "is_reproduced"):
    np.testing.assert_array_equal(stored[f"sis_{name}"], getattr(report, name))
  np.testing.assert_allclose(stored["sis_certified_confidence"], report.confidence, atol=1e-5)
  assert store.read_text("id") == [path.stem for path in paths]


@pytest.mark.slow
def test_the_smallest_evidence_is_that_of_the_kernel_certified_and_no_larger(sample_run: results.Results):
  stored = read_all(sample_run)
  is_ok = stored["smallest_status"] == jax_sis.Status.OK
  np.testing.assert_array_equal(stored["smallest_status"], stored["sis_status"])
  assert stored["smallest_is_minimal"][is_ok].all()
  assert (stored["smallest_num_kept"] <= stored["sis_num_kept"]).all()
  assert stored["smallest_num_kept"].sum() < stored["sis_num_kept"].sum()
  np.testing.assert_array_equal(stored["smallest_mask"].sum(1), stored["smallest_num_kept"])
  # Alone, and with the images that are below the threshold among them.
  classifier = checkpoint.load_classifier(checkpoint.EMBEDDED_CLASSIFIER)
  predict_fn, params = frozen.freeze(classifier.module)
  paths = sorted(SAMPLE.glob("*/*.png"), key=lambda path: path.stem)
  inputs = classifier.normalisation.apply(np.stack([np.asarray(Image.open(path)) for path in paths]))
  order = jax_sis.forward_select(predict_fn, params, inputs, search=jax_sis.Forward(threshold=0.9), grid=(4, 4, 1))
  subsets = jax_sis.minimise(predict_fn, params, inputs, jax_sis.sufficient_subsets(order, 0.9))
  np.testing.assert_array_equal(stored["smallest_mask"][is_ok], subsets.mask.reshape(24, -1)[is_ok])


@pytest.mark.slow
@pytest.mark.parametrize(
  ("search", "smallest"), [(None, jax_sis.Forward()), (jax_sis.Screened(candidates=4, gradient_until=8), None)]
)
def test_a_run_may_find_one_kind_of_subset_only(tmp_path: pathlib.Path, search: Any, smallest: Any):
  store = run_find(tmp_path, search=search, smallest=smallest, gallery=2)
  assert ("rank" in store.fields) == (search is not None)
  assert ("smallest_mask" in store.fields) == (smallest is not None)
  assert (tmp_path / "gallery.png").exists()


def test_the_summary_has_a_line_an_image_and_its_totals(tiny_run: pathlib.Path):
  with open(tiny_run / "summary.csv") as file:
    rows = list(csv.DictReader(file))
  summary = json.loads((tiny_run / "summary.json").read_text())
  assert [row["image"] for row in rows] == [f"test_{index:05}" for index in range(24)]
  assert rows[0]["true_class"] == "cat"
  assert summary["num_images"] == 24
  for answer in ("sis", "smallest"):
    assert sum(summary[answer]["status"].values()) == 24
    sizes = [int(row[f"{answer}_num_pixels"]) for row in rows if row[f"{answer}_status"] == "ok"]
    assert summary[answer]["median_pixels"] == np.median(sizes)
    certified = [row for row in rows if row[f"{answer}_certificate"].startswith("sufficient")]
    assert summary[answer]["num_certified"] == len(certified)


def test_the_gallery_is_a_picture_with_a_row_an_image(copied_run: pathlib.Path, tiny_checkpoint: str):
  find_tiny(copied_run, tiny_checkpoint, gallery=3)
  with Image.open(copied_run / "gallery.png") as picture:
    assert picture.format == "PNG"
    assert picture.width > 900
    assert picture.height > 3 * 160


@pytest.mark.slow
def test_one_device_and_eight_write_the_same_numbers(tmp_path: pathlib.Path):
  one = read_all(run_find(tmp_path / "one", num_devices=1))
  eight = read_all(run_find(tmp_path / "eight", num_devices=8))
  for name, values in one.items():
    np.testing.assert_array_equal(values, eight[name], err_msg=name)


@pytest.mark.slow
def test_devices_never_wait_for_each_other(tmp_path: pathlib.Path):
  config = FindConfig(out=str(tmp_path), patch=8, batch_size=2, num_devices=8, saved="both")
  program = setup.compile_search(setup.make_job(config, open_folder(tmp_path)))
  text = program.compiled.as_text()
  assert text is not None
  assert "while" in text
  communication = re.findall(r"all-reduce|all-gather|all-to-all|collective|reduce-scatter|\b(?:send|recv)\b", text)
  assert not communication


def wait_for_line(process: subprocess.Popen[str], start: str) -> None:
  assert process.stdout is not None
  for line in process.stdout:
    if line.startswith(start):
      return
  pytest.fail(f"the program ended without a line that starts with {start!r}")


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tmp_path: pathlib.Path, sample_run: results.Results):
  out = tmp_path / "out"
  settings = ["--patch", "8", "--gallery", "0", "--devices", "2", "--batch", "3", "--threshold", "0.9"]
  settings += ["--search", "both"]
  command = [*COMMAND, "--out", str(out), *settings]
  with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
    wait_for_line(process, "test_00003")
    process.kill()
  num_done = len(results.open(out).done_images())
  assert 3 <= num_done < 24
  resumed = subprocess.run(command, capture_output=True, text=True, check=True)
  assert f"{num_done} of 24 images are done already" in resumed.stdout
  assert [line[:10] for line in resumed.stdout.splitlines() if line.startswith("test_")] == [
    f"test_{index:05}" for index in range(24)
  ]
  for name, values in read_all(results.open(out)).items():
    np.testing.assert_array_equal(values, sample_run.read(name), err_msg=name)


@pytest.mark.slow
def test_ctrl_c_leaves_within_seconds_and_says_how_to_go_on(tmp_path: pathlib.Path):
  command = [*LISTENING, "find", "--out", str(tmp_path / "out"), "--batch", "2"]
  with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
    wait_for_line(process, "image")
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
  assert process.returncode == 130
  assert "interrupted; the same command goes on where it stopped." in errors
  assert "Traceback" not in errors


def test_a_finished_run_is_shown_again_without_searching(
  tmp_path: pathlib.Path, tiny_checkpoint: str, capsys: pytest.CaptureFixture[str]
):
  find_tiny(tmp_path, tiny_checkpoint, **GRADIENT)
  first = capsys.readouterr().out
  find_tiny(tmp_path, tiny_checkpoint, **GRADIENT)
  second = capsys.readouterr().out
  assert "24 of 24 images are done already" in second
  assert [line for line in first.splitlines() if line.startswith("test_")] == [
    line for line in second.splitlines() if line.startswith("test_")
  ]


def test_other_settings_in_the_same_folder_are_refused(copied_run: pathlib.Path, tiny_checkpoint: str):
  (copied_run.parent / "out-2").mkdir()
  (copied_run.parent / "out-2" / "spec.json").write_text("{}")
  with pytest.raises(ValueError, match=re.escape("holds another run (threshold 0.9 there, 0.5 here); ")) as caught:
    find_tiny(copied_run, tiny_checkpoint, threshold=0.5)
  # What it says to type asks for the same in the next folder that is free.
  assert str(caught.value).partition("; this command begins yours in another: ")[2] == (
    f"jax-sis find --out {copied_run}-3 --checkpoint {tiny_checkpoint} --threshold 0.5 --patch 8 --save both "
    "--mask-threshold 0.5 0.9 --mask-fraction 0.25 --batch 5 --devices 2 --gallery 0"
  )


def test_another_search_is_told_apart_in_words(copied_run: pathlib.Path, tiny_checkpoint: str):
  message = "holds another run (search Gradient there, none here, smallest candidates 64 there, 7 here); name another"
  options = {"search": None, "smallest": jax_sis.Forward(candidates=7), "saved": "order"}
  with pytest.raises(ValueError, match=re.escape(message)):
    find_tiny(copied_run, tiny_checkpoint, mask_thresholds=(), mask_fractions=(), **options)


@pytest.mark.slow
def test_bad_images_are_listed_and_the_others_searched(tmp_path: pathlib.Path):
  folder = tmp_path / "photos"
  folder.mkdir()
  paths = sorted(SAMPLE.glob("*/*.png"), key=lambda path: path.stem)[:5]
  for path in paths:
    (folder / path.name).write_bytes(path.read_bytes())
  (folder / "test_00001.png").write_bytes(paths[1].read_bytes()[:300])
  Image.new("RGB", (50, 40)).save(folder / "test_00003.png")
  store = run_find(tmp_path / "out", data=str(folder), threshold=0.9)
  alone = run_find(tmp_path / "all", threshold=0.9)
  assert store.read("sis_status")[[1, 3]].tolist() == [NOT_SEARCHED] * 2
  assert store.read_text("error")[3] == "50x40 pixels, but the classifier takes 32x32; use --resize"
  np.testing.assert_array_equal(store.read("rank")[[0, 2, 4]], alone.read("rank")[[0, 2, 4]])
  with open(tmp_path / "out" / "summary.csv") as file:
    rows = list(csv.DictReader(file))
  assert [row["sis_status"] for row in rows][1::2] == ["not_searched"] * 2
  assert "truncated" in rows[1]["sis_certificate"]


def test_an_image_that_was_not_searched_has_no_subset(tmp_path: pathlib.Path, tiny_checkpoint: str):
  folder = tmp_path / "photos"
  folder.mkdir()
  for place, path in enumerate(sorted(SAMPLE.glob("*/*.png"), key=lambda path: path.stem)[:2]):
    (folder / path.name).write_bytes(path.read_bytes()[: 300 if place else None])
  # Of the black image that stands for the damaged one, it would have been a quarter.
  store = find_tiny(tmp_path / "out", tiny_checkpoint, data=str(folder), **{**GRADIENT, "saved": "mask"})
  stored = read_all(store)
  assert stored["sis_status"].tolist()[1] == NOT_SEARCHED
  assert stored["predicted"].tolist()[1] == NO_CLASS
  assert stored["mask_fraction_0.25"].sum(1).tolist() == [4, 0]
  assert stored["sis_num_kept"][1] == 0
  assert np.isnan([stored["sis_certified_confidence"][1], stored["full_confidence"][1]]).all()
  assert not stored["sis_keeps_class"][1]
  assert store.masks(fraction=0.25)[1].sum() == 0


def test_an_image_without_a_label_is_not_searched_for_its_label(tmp_path: pathlib.Path, tiny_checkpoint: str):
  folder = tmp_path / "photos"
  for name in ("cat", "unknown"):
    (folder / name).mkdir(parents=True)
    (folder / name / "a.png").write_bytes((SAMPLE / "cat" / "test_00000.png").read_bytes())
  store = find_tiny(tmp_path / "out", tiny_checkpoint, data=str(folder), target="label", **GRADIENT)
  assert store.read("target")[0] == 3
  assert store.read("sis_status")[1] == NOT_SEARCHED
  assert store.read_text("error") == ["", "no label; use another --target"]


@pytest.mark.parametrize(
  ("target", "expected"), [("label", [3, 8, 8, 0]), ("truck", [9] * 4), ("2", [2] * 4), ("predicted", None)]
)
def test_the_target_may_be_the_label_or_a_class(
  tmp_path: pathlib.Path, tiny_checkpoint: str, target: str, expected: list[int] | None
):
  ids = tuple(f"test_{index:05}" for index in range(5))
  store = find_tiny(tmp_path, tiny_checkpoint, target=target, ids=ids, **GRADIENT)
  targets = store.read("target")[:4].tolist()
  assert targets == (store.read("predicted")[:4].tolist() if expected is None else expected)


def test_a_random_target_is_another_class_than_the_predicted_one_and_follows_from_the_id(
  tmp_path: pathlib.Path, tiny_checkpoint: str
):
  ids = tuple(f"test_{index:05}" for index in range(5))
  store = find_tiny(tmp_path / "five", tiny_checkpoint, target="random", ids=ids, **GRADIENT)
  predicted, target = store.read("predicted"), store.read("target")
  steps = [np.random.default_rng(zlib.crc32(name.encode())).integers(1, 10) for name in ids]
  assert target.tolist() == ((predicted + steps) % 10).tolist()
  assert check_rows(store.read_many(store.fields, np.arange(5)), store.spec, target=NO_CLASS, num_classes=10) == []
  rows = {**store.read_many(store.fields, np.arange(5)), "target": predicted}
  broken = check_rows(rows, store.spec, target=NO_CLASS, num_classes=10)
  assert [violation.rule for violation in broken] == ["must not be the predicted class"]


@pytest.mark.slow
def test_a_tfds_split_is_searched(tmp_path: pathlib.Path, shared_dir: pathlib.Path):
  store = run_find(
    tmp_path, data="cifar10", data_dir=str(shared_dir / "data/tfds"), split="test[:4]", batch_size=2, target="label"
  )
  assert store.read("label").tolist() == store.read("target").tolist()
  assert len(set(store.read_text("id"))) == 4


@pytest.mark.slow
def test_a_file_of_ids_says_what_is_searched(
  tmp_path: pathlib.Path, shared_dir: pathlib.Path, sample_run: results.Results
):
  (tmp_path / "ids.txt").write_text("test_00019\n\n test_00002\ntest_00007 \n")
  data_options = ["--data", "cifar10", "--data-dir", str(shared_dir / "data/tfds"), "--ids", str(tmp_path / "ids.txt")]
  search_options = ["--patch", "8", "--threshold", "0.9", "--search", "gradient", "--batch", "2", "--devices", "1"]
  command = [*COMMAND, *data_options, *search_options, "--gallery", "0", "--out", str(tmp_path / "out")]
  run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
  assert run.returncode == 0, run.stderr
  store = results.open(tmp_path / "out")
  assert store.read_text("id") == ["test_00019", "test_00002", "test_00007"]
  np.testing.assert_array_equal(store.read("rank"), sample_run.read("rank")[[19, 2, 7]])
  # What was read is kept with the run, and the file is not needed again.
  (tmp_path / "ids.txt").unlink()
  assert verify.verify(str(tmp_path / "out"), num_devices=1)


@pytest.mark.parametrize(
  ("ids", "message"),
  [
    ((), "--ids must name at least one image, got none."),
    (("a", "b", "a"), "--ids must name each image once, got 'a' 2 times."),
    (("test_00001", "nothing"), "--ids must name images of the data ('test_00000', ... in 24), but 1 of 2 belong to"),
  ],
)
def test_ids_that_do_not_name_images_are_refused(tmp_path: pathlib.Path, ids: tuple[str, ...], message: str):
  with pytest.raises(ValueError, match=re.escape(message)):
    run_find(tmp_path, ids=ids)


def test_a_file_of_ids_that_is_no_text_is_refused(tmp_path: pathlib.Path):
  (tmp_path / "ids.bin").write_bytes(b"\xff\xfe\x00")
  for name in ("ids.bin", "missing.txt"):
    message = f"--ids must be a text file with one id per line, got '{tmp_path / name}'"
    with pytest.raises(ValueError, match=re.escape(message)):
      read_ids(tmp_path / name)


def test_an_unknown_class_is_refused_with_the_known_ones(tmp_path: pathlib.Path):
  message = (
    "--target must be 'predicted', 'label', 'random', or a class of the checkpoint (airplane, automobile, bird, cat,"
  )
  with pytest.raises(ValueError, match=re.escape(message)):
    run_find(tmp_path, target="zebra")


@pytest.mark.parametrize("threshold", [0.0, 1.0, 1.5, -0.1, float("nan")])
def test_a_threshold_that_is_no_probability_is_refused(tmp_path: pathlib.Path, threshold: float):
  with pytest.raises(ValueError, match="threshold must be a probability strictly between 0 and 1"):
    run_find(tmp_path, threshold=threshold)


def test_a_patch_that_does_not_fit_is_refused(tmp_path: pathlib.Path):
  with pytest.raises(ValueError, match=re.escape("--patch must divide the image's sides, 32 and 32, got 5.")):
    run_find(tmp_path, patch=5)


def test_an_out_path_that_cannot_be_written_is_refused(tmp_path: pathlib.Path):
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match="--out must be a folder that can be written"):
    run_find(tmp_path / "file" / "out")


def test_a_batch_that_cannot_fit_is_refused_before_it_runs(
  tmp_path: pathlib.Path, tiny_checkpoint: str, monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setattr(devices, "free_memory_bytes", lambda: 2**20)
  with pytest.raises(ValueError, match="--batch must be small enough for the memory, but 5 examples a device need"):
    find_tiny(tmp_path, tiny_checkpoint, **GRADIENT)
  # No run has begun, so that the same folder takes one of a smaller batch.
  assert not (tmp_path / results.SPEC_FILE).exists()


def test_errors_on_the_command_line_are_one_line(tmp_path: pathlib.Path):
  finished = subprocess.run(
    [*COMMAND, "--out", str(tmp_path), "--checkpoint", str(tmp_path / "none")],
    capture_output=True,
    text=True,
    check=False,
    env={**os.environ, "PYTHONWARNINGS": "default"},
  )
  assert finished.returncode == 2
  assert finished.stderr.startswith("jax-sis find: checkpoint must be a folder with classifier.json")
  assert len(finished.stderr.splitlines()) == 1
