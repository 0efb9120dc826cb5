"""The command on real runs over the sample: its numbers against the models' own, its files, and what it refuses."""

import contextlib
import csv
import dataclasses
import functools
import json
import pathlib
import re
import shutil
import signal
import subprocess
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_classifier
from fake_ray import FakeRay
from flax import nnx
from PIL import Image
from tiny_runs import GRADIENT, PATCH, THRESHOLD, find_tiny

import jax_sis
from jax_sis import results
from jax_sis.classifiers import checkpoint, frozen
from jax_sis.cli import main
from jax_sis.data.sources import SAMPLE_DIR
from jax_sis.results.folder import TEMPORARY_SUFFIX
from jax_sis.runs import shards
from jax_sis.runtime import devices, ray_cluster
from jax_sis.runtime.engines import Engine
from jax_sis.studies.controls import kept, program
from jax_sis.studies.controls.outcomes import Showing
from jax_sis.studies.controls.program import ControlsConfig
from jax_sis.studies.controls.views import NAMES
from jax_sis.studies.controls.wrong_class import ClassSearch, Towards

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")


@pytest.fixture(scope="module")
def run(tiny_run: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> results.Results:
  """Both kinds of subset of the sample."""
  return results.open(shutil.copytree(tiny_run, tmp_path_factory.mktemp("run") / "out"))


@pytest.fixture(scope="module")
def answer(run: results.Results) -> dict[str, Any]:
  """Its controls; the files are beside it."""
  with jax.numpy_rank_promotion("allow"):
    return program.controls(
      ControlsConfig(run_dir=run.folder.location, mask_fractions=(0.05,), num_wrong_class=3, max_features=12)
    )


def path_of(store: results.Results) -> pathlib.Path:
  assert store.folder.path is not None
  return store.folder.path


def read_rows(store: results.Results) -> list[dict[str, str]]:
  with (path_of(store) / "controls.csv").open(newline="") as file:
    return list(csv.DictReader(file))


def test_the_files_hold_what_is_returned(run: results.Results, answer: dict[str, Any]):
  assert json.loads((path_of(run) / "controls.json").read_text()) == answer
  assert list(answer["kinds"]) == ["sis", "smallest", "mask_fraction_0.05"]
  with Image.open(path_of(run) / "controls.png") as picture:
    assert picture.format == "PNG"
    assert picture.width == 900
  provenance = answer["provenance"]
  assert provenance["command"].startswith(f"jax-sis controls {run.folder.location} --limit 500 --wrong-class 3")
  assert provenance["command"].endswith("--max-features 12 --mask-fraction 0.05 --seed 0")
  assert provenance["versions"]["jax"] == jax.__version__
  assert len(provenance["spec_sha256"]) == 64


def test_every_subset_of_the_run_has_a_row_a_control_and_shares_are_theirs(
  run: results.Results, answer: dict[str, Any]
):
  rows = read_rows(run)
  for kind in ("sis", "smallest"):
    is_ok = run.read(f"{kind}_status") == jax_sis.Status.OK
    ids = [name for name, is_kept in zip(run.read_text("id"), is_ok, strict=True) if is_kept]
    assert 10 < len(ids) < 24
    summary = answer["kinds"][kind]
    assert summary["num_images"] == len(ids)
    for name, control in zip(NAMES, summary["controls"], strict=True):
      of_control = [row for row in rows if (row["kind"], row["control"]) == (kind, name)]
      assert [row["image"] for row in of_control] == ids
      if name not in ("subset", "empty", "blur_alone"):
        # A subset that is the whole image leaves nothing to change.
        sizes = dict(zip(run.read_text("id"), run.read(f"{kind}_num_kept"), strict=True))
        whole = {image for image in ids if sizes[image] == (32 // PATCH) ** 2}
        assert {row["image"] for row in of_control if row["confidence"] == "nan"} == whole
        of_control = [row for row in of_control if row["image"] not in whole]
      assert control["num_images"] == len(of_control)
      assert control["keeps_class"]["count"] == sum(row["keeps_class"] == "True" for row in of_control)
      assert control["is_sufficient"]["count"] == sum(float(row["confidence"]) >= THRESHOLD for row in of_control)
      assert control["confidence"] == pytest.approx(np.mean([float(row["confidence"]) for row in of_control]))
    alone = [float(row["confidence"]) for row in rows if (row["kind"], row["control"]) == (kind, "subset")]
    np.testing.assert_allclose(alone, run.read(f"{kind}_certified_confidence")[is_ok], atol=1e-5)
    sizes = [int(row["num_shown"]) for row in rows if (row["kind"], row["control"]) == (kind, "subset")]
    np.testing.assert_array_equal(sizes, run.read(f"{kind}_num_kept")[is_ok])
    others = [row["other_image"] for row in rows if (row["kind"], row["control"]) == (kind, "fill_other")]
    assert set(others) <= set(ids)
  fractions = [row for row in rows if (row["kind"], row["control"]) == ("mask_fraction_0.05", "subset")]
  assert [int(row["num_shown"]) for row in fractions] == [1] * 24


@pytest.mark.parametrize("kind", ["sis", "smallest"])
@pytest.mark.usefixtures("answer")
def test_confidences_are_those_of_pictures_painted_by_hand(run: results.Results, tiny_checkpoint: str, kind: str):
  classifier = checkpoint.load_classifier(tiny_checkpoint)
  predict_fn, params = frozen.freeze(classifier.module)
  rows = [row for row in read_rows(run) if row["kind"] == kind][: 3 * len(NAMES)]
  ids = list(dict.fromkeys(row["image"] for row in rows))
  masks = run.masks(ids, kind=kind)
  targets = run.read("target", run.find_images(ids))
  mean = 255 * np.array(tiny_classifier.MEAN)
  for name, mask, target in zip(ids, masks, targets, strict=True):
    image = np.asarray(Image.open(next(SAMPLE_DIR.glob(f"*/{name}.png")))).astype(float)
    kept = np.kron(mask[..., 0], np.ones((PATCH, PATCH))).astype(bool)[..., None]
    painted = {
      "subset": np.where(kept, image, mean),
      "fill_black": np.where(kept, image, 0),
      "fill_grey": np.where(kept, image, 127.5),
      "fill_mean": np.where(kept, image, image.mean((0, 1))),
      "shape_white": np.where(kept, 255, mean),
      "complement": np.where(kept, mean, image),
      "empty": np.broadcast_to(mean, image.shape),
    }
    inputs = jnp.asarray(classifier.normalisation.apply(np.stack(list(painted.values()))))
    logits = np.asarray(predict_fn(params, inputs), float)
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    for control, expected in zip(painted, probabilities[:, target], strict=True):
      row = next(row for row in rows if (row["image"], row["control"]) == (name, control))
      assert float(row["confidence"]) == pytest.approx(expected, abs=1e-4), control


def test_the_table_and_its_reading_say_the_numbers(
  run: results.Results, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  copy = shutil.copytree(path_of(run), tmp_path / "out")
  answer = program.controls(ControlsConfig(run_dir=str(copy), limit=5, num_wrong_class=0))
  text = capsys.readouterr().out
  assert max(len(line) for line in text.splitlines() if str(copy) not in line) <= 120
  assert answer["wrong_class"] is None
  for kind in ("sis", "smallest"):
    of_kind = answer["kinds"][kind]
    assert of_kind["num_images"] == 5
    assert of_kind["reading"] in " ".join(text.split())
    share = 100 * of_kind["controls"][0]["keeps_class"]["share"]
    assert of_kind["reading"].startswith(f"Of 5 subsets, {share:.0f}% [")
  assert "SIS, 5 images; in brackets 95% intervals" in text
  line = next(line for line in text.splitlines() if line.startswith("the rest black"))
  black = next(one for one in answer["kinds"]["sis"]["controls"] if one["name"] == "fill_black")
  assert line.split()[3:5] == [str(black["num_images"]), f"{100 * black['keeps_class']['share']:.1f}"]


def test_evidence_for_other_classes_is_reported(answer: dict[str, Any]):
  reported = answer["wrong_class"]
  assert [one["name"] for one in reported["classes"]] == ["predicted", "second", "random"]
  assert reported["classes"][0]["found"]["num_images"] == 3
  assert reported["classes"][0]["found"]["count"] > 0
  assert "for the second most probable class on " in reported["reading"]


def test_the_same_command_again_gives_the_same_numbers(run: results.Results, tmp_path: pathlib.Path):
  copy = shutil.copytree(path_of(run), tmp_path / "out")
  config = ControlsConfig(run_dir=str(copy), limit=3, num_wrong_class=0)
  first = program.controls(config)
  content = (copy / "controls.csv").read_bytes()
  second = program.controls(config)
  assert first["kinds"] == second["kinds"]
  assert (copy / "controls.csv").read_bytes() == content
  # An image's numbers do not depend on how many others there are; but the image that fills the rest is one of them.
  before = [row for row in read_rows(run) if row["control"] != "fill_other"]
  after = [row for row in csv.DictReader(content.decode().splitlines()) if row["control"] != "fill_other"]
  place = {(row["kind"], row["image"], row["control"]): float(row["confidence"]) for row in before}
  for row in after:
    expected = place[row["kind"], row["image"], row["control"]]
    assert float(row["confidence"]) == pytest.approx(expected, abs=1e-5)


def test_what_was_found_before_an_end_is_not_found_again(
  run: results.Results, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  folder = results.open_folder(shutil.copytree(path_of(run), tmp_path / "out"))
  config = ControlsConfig(run_dir=folder.location, limit=9, num_wrong_class=9, max_features=3)
  straight = program.controls(config)
  # Three batches of each of two kinds, and two of searches.
  files = {name: folder.read(name) for name in ("controls.csv", "controls.png")}
  assert not folder.list("controls-")
  shown, searched = Showing.__call__, ClassSearch.__call__
  calls: list[int] = []

  def end_or_call(call_fn: Any, self: Any, start: int) -> Any:
    calls.append(start)
    if len(calls) in (5, 9):
      raise KeyboardInterrupt
    return call_fn(self, start)

  monkeypatch.setattr(Showing, "__call__", functools.partialmethod(functools.partial(end_or_call, shown)))
  monkeypatch.setattr(ClassSearch, "__call__", functools.partialmethod(functools.partial(end_or_call, searched)))
  for num_kept in (4, 7):
    with pytest.raises(KeyboardInterrupt):
      program.controls(config)
    assert len(folder.list("controls-")) == num_kept
  # As a kill would leave it.
  unfinished = folder.list("controls-")[-1].replace("000006", "000007")
  (tmp_path / "out" / f"{unfinished}{TEMPORARY_SUFFIX}").write_bytes(b'{"name": "wro')
  # Others begin with nothing, and leave what is kept alone.
  program.controls(dataclasses.replace(config, limit=1, num_wrong_class=0))
  assert len(folder.list("controls-")) == 7
  resumed = program.controls(config)
  assert calls == [0, 4, 8, 0, 4, 4, 8, 0, 8, 0, 0, 8]
  for content in (straight, resumed):
    del content["provenance"]["seconds"]
  assert resumed == straight
  assert {name: folder.read(name) for name in files} == files
  assert not folder.list("controls-")


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_what_is_kept_is_there_again_bit_by_bit(tmp_path: pathlib.Path, place: str):
  folder = results.open_folder(f"memory://{tmp_path.name}" if place == "memory" else tmp_path)
  found = Towards(
    target=np.array([3, 1]),
    num_kept=np.array([0, 5]),
    confidence=np.array([np.nan, 0.1], np.float32),
    status=np.array([4, 0]),
  )
  kept.Kept(folder, {"seed": 0}).append({"start": 0, "found": kept.encode_arrays(found)})
  kept.Kept(folder, {"seed": 0}).append({"start": 2, "found": kept.encode_arrays(found)})
  assert kept.Kept(folder, {"seed": 1}).records == []
  again = kept.Kept(folder, {"seed": 0})
  assert [record["start"] for record in again.records] == [0, 2]
  joined = kept.join([Towards(**kept.decode_arrays(record["found"])) for record in again.records])
  for name, expected in vars(found).items():
    np.testing.assert_array_equal(getattr(joined, name), np.concatenate([expected, expected]), strict=True)
  again.remove()
  assert folder.list() == []


def test_a_host_finds_the_same(run: results.Results, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
  copies = [shutil.copytree(path_of(run), tmp_path / name) for name in ("local", "ray")]
  for name in ("use_one_cpu_device_per_core", "use_compilation_cache"):
    monkeypatch.setattr(devices, name, lambda *_: None)
  # The fourth answer is a worker's death.
  monkeypatch.setattr(ray_cluster, "connect", lambda _: contextlib.nullcontext(FakeRay(num_hosts=2, deadly=(3,))))
  for copy, engine in zip(copies, ("local", "ray"), strict=True):
    program.controls(
      ControlsConfig(run_dir=str(copy), limit=9, num_wrong_class=2, max_features=3), Engine(engine=engine)
    )
  assert (copies[0] / "controls.csv").read_bytes() == (copies[1] / "controls.csv").read_bytes()
  answers = [json.loads((copy / "controls.json").read_text()) for copy in copies]
  assert answers[0]["wrong_class"] == answers[1]["wrong_class"]


@pytest.mark.slow
def test_an_unfinished_run_and_one_in_a_bucket_have_controls(tiny_checkpoint: str, capsys: pytest.CaptureFixture[str]):
  location = "memory://controls-of-a-run"
  search = jax_sis.Gradient(per_step=4)
  options = {"search": search, **GRADIENT, "saved": "mask", "mask_thresholds": (), "batch_size": 3}
  store = find_tiny(location, tiny_checkpoint, shard=shards.Shard(0, 2), **options)
  assert len(store.done_images()) == 12
  capsys.readouterr()
  answer = program.controls(ControlsConfig(run_dir=location, mask_fractions=(0.25,), num_wrong_class=0))
  assert "SIS: the run did not keep these subsets (--save); they are left out." in capsys.readouterr().out
  assert answer["kinds"]["mask_fraction_0.25"]["num_images"] == 12
  assert json.loads(store.folder.read("controls.json") or b"") == answer
  assert (store.folder.read("controls.png") or b"").startswith(b"\x89PNG")
  message = f"{location!r} must hold the masks that are asked for (fraction 0.05, kind 'sis'); it "
  with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
    program.controls(ControlsConfig(run_dir=location, mask_fractions=(0.05,)))


def test_images_of_other_ids_are_refused_with_a_list(run: results.Results, tmp_path: pathlib.Path):
  copy = results.open(shutil.copytree(path_of(run), tmp_path / "out"))
  rows = {name: copy.read(name, np.arange(*copy.unit_range(0))) for name in copy.fields}
  names = copy.read_text("id", np.arange(*copy.unit_range(0)))
  rows["id"] = results.encode_text(["somebody else", *names[1:]])
  copy.write_unit(0, rows)
  is_ok = copy.read("sis_status") == jax_sis.Status.OK
  message = (
    f"the images at hand must be those that the run in {copy.folder.location!r} searched, but 1 of the {is_ok.sum()} "
    "that were compared are not: 'somebody else' in the run is 'test_00000'; bring these back, name"
  )
  with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
    program.controls(ControlsConfig(run_dir=copy.folder.location))


def test_another_classifier_is_refused(run: results.Results, tiny_checkpoint: str, tmp_path: pathlib.Path):
  classifier = checkpoint.load_classifier(tiny_checkpoint)
  nnx.update(classifier.module, jax.tree.map(lambda array: array * 1.01, nnx.state(classifier.module, nnx.Param)))
  checkpoint.save_classifier(tmp_path / "other", classifier)
  with pytest.raises(ValueError, match=r"^--checkpoint must be the classifier of the run, tiny with the SHA-256 "):
    program.controls(ControlsConfig(run_dir=run.folder.location, checkpoint=str(tmp_path / "other")))


def test_a_certificate_that_is_not_reproduced_is_refused(run: results.Results, tmp_path: pathlib.Path):
  copy = results.open(shutil.copytree(path_of(run), tmp_path / "out"))
  first = int((copy.read("smallest_status") == jax_sis.Status.OK).argmax())
  unit = first // copy.unit_size
  images = np.arange(*copy.unit_range(unit))
  rows = {name: copy.read(name, images) for name in copy.fields}
  rows["smallest_certified_confidence"] = np.where(images == first, 0.5, rows["smallest_certified_confidence"])
  copy.write_unit(unit, rows)
  message = f"the subsets must have the confidence that the run certified, but image {first} has 0.5 stored and "
  with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
    program.controls(ControlsConfig(run_dir=copy.folder.location, limit=3, num_wrong_class=0))


def test_a_run_without_subsets_is_refused(run: results.Results, tmp_path: pathlib.Path):
  copy = results.open(shutil.copytree(path_of(run), tmp_path / "out"))
  for unit in range(copy.num_units):
    rows = {name: copy.read(name, np.arange(*copy.unit_range(unit))) for name in copy.fields}
    for kind in ("sis", "smallest"):
      rows[f"{kind}_status"] = np.full_like(rows[f"{kind}_status"], jax_sis.Status.BELOW_THRESHOLD)
    copy.write_unit(unit, rows)
  location = copy.folder.location
  message = f"{location!r} must hold the subset of at least one image, but of its 24 finished images it holds none; "
  with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
    program.controls(ControlsConfig(run_dir=location))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"limit": 0}, "--limit must be positive, got 0."),
    ({"max_features": 0}, "--max-features must be positive, got 0."),
    ({"num_wrong_class": -1}, "--wrong-class must not be negative, got -1."),
    ({"seed": -1}, "--seed must not be negative, got -1."),
    ({"mask_fractions": (0.5, 2.0)}, "--mask-fraction must be above 0 and at most 1, got 2.0."),
  ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], message: str):
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    ControlsConfig(run_dir="out", **options)


def test_the_command_says_what_is_wrong_in_a_line(capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path):
  assert main.main(["controls", str(tmp_path)]) == 2
  assert capsys.readouterr().err == (
    f"jax-sis controls: directory must hold the results of a run (spec.json), got {str(tmp_path)!r}.\n"
  )


@pytest.mark.slow
def test_ctrl_c_says_truly_what_is_left(run: results.Results, tmp_path: pathlib.Path):
  copy = shutil.copytree(path_of(run), tmp_path / "out", ignore=shutil.ignore_patterns("controls.*"))
  # A shell that runs the tests in the background leaves Ctrl-C ignored, and children inherit that.
  python, option, code = tiny_classifier.COMMAND
  code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {code}"
  command = [python, "-u", option, code, "controls", str(copy)]
  with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
    assert process.stdout is not None
    assert process.stdout.readline().startswith(f"{copy}: SIS, ")
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
  assert process.returncode == 130
  assert "interrupted; the same command goes on where it stopped." in errors
  assert not list(copy.glob("controls.*"))
