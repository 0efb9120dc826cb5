"""Stages of a study: done once, resumed, run again where what they are made of changed; and which ones a preset has."""

import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pytest
from made_evaluations import write_evaluation
from made_runs import make_rows, make_run

from jax_sis import results
from jax_sis.classifiers.checkpoint import load_classifier
from jax_sis.core.searches import Forward, Gradient
from jax_sis.data.folders import hash_contents
from jax_sis.evaluation import predictions, report
from jax_sis.reproduction import engine, outcome, presets, tables
from jax_sis.reproduction.asking_stages import AnalyseStage, ControlStage, EvaluateStage
from jax_sis.reproduction.engine import Done, run_stages
from jax_sis.reproduction.fingerprints import hash_run
from jax_sis.reproduction.leaks import SHOWN, make_leaks
from jax_sis.reproduction.names import Names
from jax_sis.reproduction.presets import BUDGET, PAPER, PRESETS, SMOKE
from jax_sis.reproduction.stage_lists import make_stages
from jax_sis.reproduction.stages import DataStage, FindStage, StudyStage, TrainStage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Note(StudyStage):
  """Writes its text and those of its inputs, and counts how often it runs."""

  program: ClassVar[str] = "note"
  work: float = 1.0
  text: str
  of: tuple[str, ...] = ()

  @property
  def inputs(self) -> dict[str, str]:
    """See StudyStage."""
    return {f"source {number}": name for number, name in enumerate(self.of)}

  def settings(self, data_dir: str | None) -> dict[str, Any]:
    """See StudyStage."""
    return {"text": self.text}

  def run(self, folder: pathlib.Path, inputs: Mapping[str, pathlib.Path], data_dir: str | None) -> None:
    """See StudyStage."""
    if self.text == "bad":
      raise ValueError("text must be good, got 'bad'; write another one.")
    with (folder / "runs").open("a") as file:
      file.write("once\n")
    texts = [self.text, *((path / "text").read_text() for path in inputs.values())]
    (folder / "text").write_text(" ".join(texts))

  def fingerprint(self, folder: pathlib.Path) -> str:
    """See StudyStage."""
    return hash_contents(folder / "text")


def make_chain(first: str = "a", last: str = "c") -> list[StudyStage]:
  """Three stages: the third takes from both others."""
  return [
    Note(name="first", title="the first", text=first),
    Note(name="second", title="the second", text="b", of=("first",)),
    Note(name="third", title="the third", text=last, of=("first", "second")),
  ]


def test_time_is_estimated_by_what_such_devices_as_these_did(tmp_path: pathlib.Path):
  done = run_stages(make_chain(), tmp_path, None)
  slow = {name: dataclasses.replace(one, seconds=10.0) for name, one in done.items()}
  fast = dataclasses.replace(slow["first"], seconds=0.001, record={**slow["first"].record, "devices": ["another"]})
  assert engine.estimate_seconds([done["third"].stage], {**slow, "first": fast}) == pytest.approx(10.0)


def num_runs(done: Done) -> int:
  return len((done.folder / "runs").read_text().splitlines())


def test_stages_run_in_order_and_only_once(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  run_stages(make_chain(), tmp_path, None)
  assert "[3/3] third: the third. About" in capsys.readouterr().out
  done = run_stages(make_chain(), tmp_path, None)
  assert (done["third"].product / "text").read_text() == "c a b a"
  assert {name: num_runs(one) for name, one in done.items()} == {"first": 1, "second": 1, "third": 1}
  assert capsys.readouterr().out.count("Done already") == 3


def test_a_stage_whose_settings_changed_runs_again_and_says_why(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  before = run_stages(make_chain(), tmp_path, None)
  capsys.readouterr()
  after = run_stages(make_chain(last="d"), tmp_path, None)
  lines = capsys.readouterr().out
  assert "It runs again: text: 'c' there, 'd' asked." in lines
  assert lines.count("It runs again") == 1
  assert after["second"].folder == before["second"].folder
  assert after["third"].folder != before["third"].folder
  # The first answer is still there: going back to it costs nothing.
  again = run_stages(make_chain(), tmp_path, None)
  assert num_runs(again["third"]) == 1


def test_stages_run_again_only_where_what_they_take_has_other_contents(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  run_stages(make_chain(), tmp_path, None)
  capsys.readouterr()
  run_stages(make_chain(first="A"), tmp_path, None)
  lines = capsys.readouterr().out
  assert "It runs again: text: 'a' there, 'A' asked." in lines
  assert "It runs again: its source 0, first, has other contents." in lines
  assert "It runs again: its source 0, first, has other contents; its source 1, second, has other contents." in lines


def test_other_settings_with_the_same_result_leave_what_follows_alone(tmp_path: pathlib.Path):
  """The key of a stage is made of what its inputs hold, and not of how that came about."""

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Shouting(Note):
    def settings(self, data_dir: str | None) -> dict[str, Any]:
      return {"text": self.text, "is_loud": False}

  run_stages(make_chain(), tmp_path, None)
  chain = [Shouting(name="first", title="the first", text="a"), *make_chain()[1:]]
  done = run_stages(chain, tmp_path, None)
  assert len(list((tmp_path / "stages" / "first").iterdir())) == 2
  assert num_runs(done["second"]) == num_runs(done["third"]) == 1


@pytest.mark.parametrize("harm", ["changed", "removed"])
def test_results_that_were_changed_are_set_aside_and_made_again(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], harm: str
):
  before = run_stages(make_chain(), tmp_path, None)
  text = before["second"].folder / "text"
  if harm == "changed":
    text.write_text("forged")
  else:
    text.unlink()
  capsys.readouterr()
  after = run_stages(make_chain(), tmp_path, None)
  aside = before["second"].folder.name + ".changed1"
  reason = f"It runs again: its results are not what they were, or of another version; they are in {aside}."
  assert reason in capsys.readouterr().out
  assert (after["second"].folder / "text").read_text() == "b a"
  if harm == "changed":
    assert (before["second"].folder.with_name(aside) / "text").read_text() == "forged"
  # What follows was made of the same contents.
  assert num_runs(after["third"]) == 1


def test_a_record_that_was_cut_off_counts_for_nothing(tmp_path: pathlib.Path):
  before = run_stages(make_chain(), tmp_path, None)
  record = before["third"].folder / "stage.json"
  record.write_bytes(record.read_bytes()[:40])
  assert num_runs(run_stages(make_chain(), tmp_path, None)["third"]) == 2


def test_what_was_begun_on_another_machine_begins_anew_and_says_so(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Tied(Note):
    num_devices: int
    is_interrupted: bool = False

    def machine(self) -> dict[str, Any]:
      return {"num_devices": self.num_devices}

    def run(self, folder: pathlib.Path, inputs: Mapping[str, pathlib.Path], data_dir: str | None) -> None:
      if self.is_interrupted:
        (folder / "half").touch()
        raise KeyboardInterrupt
      super().run(folder, inputs, data_dir)

  with pytest.raises(KeyboardInterrupt):
    run_stages([Tied(name="a", title="a", text="a", num_devices=2, is_interrupted=True)], tmp_path, None)
  capsys.readouterr()
  done = run_stages([Tied(name="a", title="a", text="a", num_devices=8)], tmp_path, None)
  reason = "It runs again: it was begun on another machine or with other versions (num_devices: 2 there, 8 asked)"
  assert reason in capsys.readouterr().out
  assert not (done["a"].folder / "half").exists()
  # Once it is done, where it was done does not matter.
  again = run_stages([Tied(name="a", title="a", text="a", num_devices=2)], tmp_path, None)
  assert num_runs(again["a"]) == 1


def test_a_class_without_an_image_is_refused(tmp_path: pathlib.Path, shared_dir: pathlib.Path):
  stage = DataStage(name="data", title="data", work=1, dataset="cifar10", splits=("test[:9]",))
  with pytest.raises(
    ValueError,
    match=r"^stage data: every class must have images, but of cifar10 test\[:9\] .* have none; name a larger split",
  ):
    run_stages([stage], tmp_path, str(shared_dir / "data" / "tfds"))


@pytest.mark.parametrize("harm", ["removed", "changed"])
def test_an_evaluation_whose_predictions_were_touched_is_not_the_same(tmp_path: pathlib.Path, harm: str):
  stage = next(stage for stage in make_stages(BUDGET) if isinstance(stage, EvaluateStage))
  folder = tmp_path / "evaluation"
  write_evaluation(folder, {("clean", 0): np.arange(10) < 9})
  (folder / "spec.json").write_text(json.dumps({"format": report.FORMAT}))
  (folder / "conditions.jsonl").write_text("{}\n")
  before = stage.fingerprint(folder)
  assert stage.fingerprint(folder) == before
  path = folder / "predictions" / "clean.npz"
  content = path.read_bytes()
  path.unlink()
  if harm == "removed":
    with pytest.raises(ValueError, match=r"^predictions must hold a file for each of 1 conditions, got 0\.$"):
      stage.fingerprint(folder)
  else:
    write_evaluation(tmp_path / "other", {("clean", 0): np.arange(10) < 8})
    path.write_bytes((tmp_path / "other" / "predictions" / "clean.npz").read_bytes())
    assert path.read_bytes() != content
    assert stage.fingerprint(folder) != before


def test_a_run_is_known_by_all_that_it_holds_and_not_by_who_computed_it(tmp_path: pathlib.Path):
  rows = make_rows(8)
  make_run(tmp_path / "run", rows)
  before = hash_run(tmp_path / "run")
  make_run(tmp_path / "elsewhere", rows, versions={"jax": "99"}, device="other")
  assert hash_run(tmp_path / "elsewhere") == before
  # The order of one image, which no size or confidence shows.
  rank = rows["rank"].copy()
  rank[5, [0, 1]] = rank[5, [1, 0]]
  make_run(tmp_path / "other", {**rows, "rank": rank})
  assert hash_run(tmp_path / "other") != before
  make_run(tmp_path / "half", rows, num_done=4)
  with pytest.raises(ValueError, match=r"^the run must be finished, but 4 of 8 images are\.$"):
    hash_run(tmp_path / "half")


def test_an_error_names_its_stage(tmp_path: pathlib.Path):
  with pytest.raises(ValueError, match=r"^stage third: text must be good, got 'bad'; write another one\.$"):
    run_stages(make_chain(last="bad"), tmp_path, None)
  assert not list(tmp_path.glob("stages/third/*/stage.json"))
  assert len(list(tmp_path.glob("stages/*/*/stage.json"))) == 2


def test_the_plan_says_what_is_done_and_does_nothing(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  engine.list_stages(make_chain(), tmp_path / "new", None)
  assert not (tmp_path / "new").exists()
  run_stages(make_chain()[:1], tmp_path, None)
  capsys.readouterr()
  engine.list_stages(make_chain(), tmp_path, None)
  lines = capsys.readouterr().out.splitlines()
  assert lines[:3] == [
    "[1/3] first: the first. Done in 0 s.",
    "[2/3] second: the second. To do, about 0 s.",
    "[3/3] third: the third. To do, after its inputs, about 0 s.",
  ]
  assert lines[3].startswith("1 of 3 stages are done; the rest takes about 0 s")
  run_stages(make_chain()[:2], tmp_path, None)
  capsys.readouterr()
  engine.list_stages(make_chain(first="A"), tmp_path, None)
  assert "first: the first. To do again: text: 'a' there, 'A' asked, about 0 s." in capsys.readouterr().out


SLOW_STAGE = """
  import pathlib, sys, time
  sys.path[:0] = [{tests!r}, {tests!r} + "/reproduction"]
  from test_engine import Note, make_chain
  from jax_sis.reproduction import engine

  class Slow(Note):
    def run(self, folder, inputs, data_dir):
      (folder / "half").touch()
      time.sleep(600)

  engine.CLOCK_SECONDS = 0.05
  chain = make_chain()
  chain[1] = Slow(name="second", title="the second", text="b", of=("first",))
  directory = pathlib.Path(sys.argv[1])
  with engine.hold(directory):
    engine.run_stages(chain, directory, None)
"""


@pytest.fixture
def slow_study(tmp_path: pathlib.Path, repository: pathlib.Path):
  """A process that is in the middle of the second of three stages."""
  script = textwrap.dedent(SLOW_STAGE.format(tests=str(pathlib.Path(__file__).parents[1])))
  process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=repository)
  for _ in range(1200):
    clocks = list(tmp_path.glob("stages/second/*/clock.json"))
    if clocks and json.loads(clocks[0].read_bytes())["seconds"] >= 0.3:
      break
    assert process.poll() is None
    time.sleep(0.05)
  yield process
  process.kill()
  process.wait(timeout=60)


def test_one_process_at_a_time_works_in_a_folder_and_a_killed_one_is_followed(
  slow_study: subprocess.Popen[bytes], tmp_path: pathlib.Path
):
  with (
    pytest.raises(ValueError, match=r"^--out '.*' is being worked on by another process; wait for it, or name another"),
    engine.hold(tmp_path),
  ):
    pass
  slow_study.send_signal(signal.SIGKILL)
  assert slow_study.wait(timeout=60) == -signal.SIGKILL
  with engine.hold(tmp_path):
    done = run_stages(make_chain(), tmp_path, None)
  assert (done["third"].folder / "text").read_text() == "c a b a"
  assert num_runs(done["first"]) == 1
  # It went on in the same folder, and the time before the kill is counted.
  assert (done["second"].folder / "half").exists()
  assert done["second"].seconds >= 0.3


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: pathlib.Path):
  (tmp_path / "file").touch()
  with (
    pytest.raises(ValueError, match=r"^--out must be a folder that can be written, got '.*file.study' \(Not a dir"),
    engine.hold(tmp_path / "file" / "study"),
  ):
    pass


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS.keys())
def test_stages_have_names_of_their_own_and_come_after_what_they_take_something_from(preset: presets.Preset):
  stages = make_stages(preset)
  names = [stage.name for stage in stages]
  assert len(set(names)) == len(names)
  for place, stage in enumerate(stages):
    assert set(stage.inputs.values()) <= set(names[:place]), stage.name
    assert stage.work > 0
    assert not {"out", "data_dir", "checkpoint", "run_dir", "run_dirs"} & set(
      json.loads(json.dumps(stage.settings(None))) if stage.name != "data" else ()
    )


def test_smoke_has_every_kind_of_stage_that_the_other_presets_have():
  def kinds(preset: presets.Preset) -> set[tuple[str, ...]]:
    found = set()
    for stage in make_stages(preset):
      kind = [stage.program]
      if isinstance(stage, TrainStage):
        config = stage.config
        kind += [str(bool(part)) for part in (config.subset, config.keep_pixels < 1, config.adversarial)]
      if isinstance(stage, EvaluateStage):
        kind += [str(bool(part)) for part in (stage.config.subset, stage.config.corruptions)]
      found.add(tuple(kind))
    return found

  assert kinds(BUDGET) <= kinds(SMOKE)
  assert kinds(PAPER) <= kinds(SMOKE)
  assert ("train", "False", "False", "True") in kinds(SMOKE)


def test_the_budget_has_what_the_study_needs():
  stages = {stage.name: stage for stage in make_stages(BUDGET)}
  for model, view in (("full-0", "whole"), ("subsets", "subsets"), ("random", "random"), ("full-0", "random")):
    assert isinstance(stages[f"resnet20-{model}-on-{view}"], EvaluateStage)
  transfer = stages["resnet20-full-1-on-resnet20-orders-test"]
  assert transfer.inputs == {"data": "data", "checkpoint": "resnet20-full-1", "subset": "resnet20-orders-test"}
  assert stages["resnet20-ensemble"].inputs == {
    "member 0": "resnet20-full-0",
    "member 1": "resnet20-full-1",
    "member 2": "resnet20-full-2",
  }
  dropout = stages["resnet20-dropout"]
  assert isinstance(dropout, TrainStage)
  assert dropout.config.keep_pixels == 0.8
  controls = stages["resnet20-controls"]
  assert isinstance(controls, ControlStage)
  assert controls.config.limit >= 500
  orders = stages["resnet20-orders-train"]
  assert isinstance(orders, FindStage)
  assert orders.config.split == "train"
  assert "adversarial training" in dict(BUDGET.not_run)
  for run in ("sample-screened", "sample-exact", "ensemble-sizes", "dropout-sizes"):
    assert stages[f"resnet20-{run}-controls"].inputs["run"] == f"resnet20-{run}"
  assert stages["resnet20-ensemble-sizes-controls"].inputs["checkpoint"] == "resnet20-ensemble"
  compared = stages["resnet20-sizes-compared"]
  assert isinstance(compared, AnalyseStage)
  assert compared.config.run_dirs[0] == "resnet20-orders-test"


def test_searches_are_compared_on_samples_and_never_done_twice():
  def comparisons(preset: presets.Preset) -> dict[str, tuple[str, ...]]:
    compared = (stage for stage in make_stages(preset) if isinstance(stage, AnalyseStage))
    return {stage.name.removeprefix("resnet20-").removesuffix("-compared"): stage.config.labels for stage in compared}

  fast = ("gradient, 16 a step", "gradient, one a step", "screened")
  of_budget = comparisons(BUDGET)
  assert [of_budget[what] for what in outcome.SAMPLES] == [
    fast,
    (*fast, "exact"),
    ("exact", "exact, by probability"),
  ]
  # Where the study itself is exact, a sample of exact orders would be part of it, done again.
  of_paper = comparisons(PAPER)
  assert of_paper["exact"] == ("gradient, one a step", "screened", "exact")
  stages = {stage.name: stage for stage in make_stages(PAPER)}
  assert stages["resnet20-exact-compared"].inputs["run 2"] == "resnet20-orders-test"
  for preset in PRESETS.values():
    searches = [
      dataclasses.replace(stage.config, checkpoint=None, gallery=0)
      for stage in make_stages(preset)
      if isinstance(stage, FindStage) and "sample" in stage.name
    ]
    assert len(set(searches)) == len(searches)


def test_larger_architectures_are_expected_to_take_longer():
  work = {stage.name: stage.work for stage in make_stages(PAPER)}
  assert work["wrn28_10-full-0"] == pytest.approx(129 * work["resnet20-full-0"])
  assert work["vgg16-orders-test"] == pytest.approx(7.7 * work["resnet20-orders-test"])
  assert work["resnet20-full-0-on-vgg16-orders-test"] == work["resnet20-full-0-on-random"]


def test_trainings_of_a_preset_differ_in_nothing_but_what_is_compared():
  trainings = [stage.config for stage in make_stages(BUDGET) if isinstance(stage, TrainStage)]
  neutral = {dataclasses.replace(config, seed=0, subset=None, keep_pixels=1.0) for config in trainings}
  assert len(trainings) == 6
  assert len(neutral) == 1


REAL_STAGES = (
  "full-0",
  "orders-train",
  "orders-test",
  "subsets",
  "subsets-on-subsets",
  "analysis",
  "controls",
  "full-1",
  "ensemble",
  "ensemble-smallest",
  "ensemble-disjoint",
)
REAL_STUDY = """
  import pathlib, sys
  sys.path[:0] = [{tests!r}, {tests!r} + "/reproduction"]
  from test_engine import make_real_study
  from jax_sis.reproduction import engine

  engine.run_stages(make_real_study(), pathlib.Path(sys.argv[1]), sys.argv[2])
"""


def make_real_study() -> list[StudyStage]:
  """From training to disjoint subsets, on 64 images."""
  preset = dataclasses.replace(
    SMOKE,
    train_split="train[:64]",
    test_split="test[:64]",
    recipe=presets.make_recipe(1, batch_size=32, peak=0.05, warmup_epochs=0.5),
    search=Gradient(per_step=256),
    threshold=0.11,
    smallest=Forward(candidates=4, max_features=8),
    smallest_split="test[:8]",
    disjoint_split="test[:4]",
    num_controlled=4,
  )
  names = {"data", *(f"resnet20-{name}" for name in REAL_STAGES)}
  return [stage for stage in make_stages(preset) if stage.name in names]


@pytest.mark.slow
def test_a_real_study_that_is_killed_and_moved_goes_on_and_ends(
  tmp_path: pathlib.Path, shared_dir: pathlib.Path, repository: pathlib.Path
):
  """Real images, from training to the disjoint subsets of an ensemble; killed in the search."""
  data_dir = str(shared_dir / "data" / "tfds")
  script = textwrap.dedent(REAL_STUDY.format(tests=str(pathlib.Path(__file__).parents[1])))
  command = [sys.executable, "-c", script]
  process = subprocess.Popen([*command, str(tmp_path / "study"), data_dir], cwd=repository)
  try:
    for _ in range(6000):
      if list(tmp_path.glob("study/stages/resnet20-orders-train/*/spec.json")):
        break
      assert process.poll() is None
      time.sleep(0.05)
  finally:
    process.kill()
    process.wait(timeout=60)
  moved = tmp_path / "moved"
  (tmp_path / "study").rename(moved)

  def go_on() -> str:
    return subprocess.run(
      [*command, str(moved), data_dir], cwd=repository, check=True, capture_output=True
    ).stdout.decode()

  printed = go_on()
  assert "resnet20-full-0: resnet20 trained on whole images. Done already" in printed
  assert "resnet20-orders-train: done in" in printed
  folders = {stage.name: path for stage in make_real_study() for path in moved.glob(f"stages/{stage.name}/*")}
  records = {name: json.loads((folder / "stage.json").read_bytes()) for name, folder in folders.items()}
  assert len(records) == len(REAL_STAGES) + 1
  store = results.open(folders["resnet20-orders-test"])
  assert len(store.done_images()) == 64
  assert store.spec["model"]["sha256"] == records["resnet20-full-0"]["fingerprint"]
  assert len(predictions.read(folders["resnet20-subsets-on-subsets"]).id) == 64
  controlled = json.loads((folders["resnet20-controls"] / "controls.json").read_bytes())
  assert "mask_fraction_0.05" in controlled["kinds"]
  (stage,) = (stage for stage in make_real_study() if stage.name == "resnet20-controls")
  done = Done(stage=stage, folder=folders[stage.name], key="", fingerprint="", seconds=0, record={})
  found = make_leaks(Names(architecture="resnet20"), {stage.name: done})
  assert {leak.run for leak in found} == {"resnet20-orders-test"}
  assert [leak.kind for leak in found] == [kind["title"] for kind in controlled["kinds"].values()]
  assert all(set(leak.by_name) == set(SHOWN) for leak in found)
  rows = tables.leak_rows(found)
  assert all(len(row) == len(tables.LEAK_HEADER) for row in rows)
  white = next(one for one in next(iter(controlled["kinds"].values()))["controls"] if one["name"] == "shape_white")
  assert rows[0][4].startswith(f"{100 * white['keeps_class']['share']:.0f} [")
  ensemble = load_classifier(folders["resnet20-ensemble"] / "classifier").ensemble
  assert ensemble is not None
  assert len(ensemble.members) == 2
  assert len(results.open(folders["resnet20-ensemble-smallest"]).done_images()) == 8
  disjoint = json.loads((folders["resnet20-ensemble-disjoint"] / "disjoint.json").read_bytes())
  assert len(disjoint["images"]) == 4
  assert go_on().count("Done already") == len(records)
