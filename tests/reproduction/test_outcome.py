"""What a study concludes of the files of its stages: its tables, the paper's claims, mitigation and transfer."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping

import numpy as np
import pytest
from html_pages import check_page, read_page
from made_evaluations import write_evaluation
from made_runs import make_rows, make_run

from jax_sis.reproduction import claims, mitigations, outcome, program, subset_sections, tables
from jax_sis.reproduction.asking_stages import AnalyseStage, EvaluateStage
from jax_sis.reproduction.engine import Done
from jax_sis.reproduction.names import Names
from jax_sis.reproduction.presets import BUDGET
from jax_sis.reproduction.stage_lists import make_stages
from jax_sis.reproduction.stages import StudyStage
from jax_sis.results.answer import encode_csv
from jax_sis.runtime.records import to_json
from jax_sis.statistics.estimates import Estimate, no_mean
from jax_sis.studies.analysis.program import StudyConfig, analyse

RESNET20 = Names(architecture="resnet20")


@pytest.mark.parametrize(
  ("low", "high", "bound", "verdict"),
  [
    (-0.04, -0.01, -0.05, "agrees"),
    (-0.06, -0.01, -0.05, "undecided"),
    (-0.09, -0.06, -0.05, "disagrees"),
    (0.1, 0.3, 0.2, "undecided"),
    (None, None, 0.2, "undecided"),
  ],
)
def test_a_claim_is_judged_by_the_whole_interval(low: float | None, high: float | None, bound: float, verdict: str):
  assert claims.judge(Estimate(value=0.0, low=low, high=high, num_images=100), bound) == verdict


def finish(stage: StudyStage, folder: pathlib.Path) -> Done:
  """A stage that left its files there."""
  return Done(stage=stage, folder=folder, key="", fingerprint="", seconds=1, record={})


def make_study(
  tmp_path: pathlib.Path,
  right: Mapping[str, int],
  num_images: int,
  *,
  corrupted: Mapping[tuple[str, int], int] | None = None,
) -> dict[str, Done]:
  """Evaluations of the budget of which so many first images are right; `analyse` and all else is missing.

  Args:
    tmp_path: where they lie.
    right: by stage.
    num_images: of each.
    corrupted: how many are right fewer by corruption and severity, in those of corrupted images.
  """
  done = {}
  for stage in make_stages(BUDGET):
    if isinstance(stage, EvaluateStage) and stage.name in right:
      conditions = {("clean", 0): 0, **((corrupted or {}) if stage.config.corruptions else {})}
      counts = {condition: right[stage.name] - fewer for condition, fewer in conditions.items()}
      write_evaluation(tmp_path / stage.name, {one: np.arange(num_images) < count for one, count in counts.items()})
      done[stage.name] = finish(stage, tmp_path / stage.name)
  return done


def test_claims_are_what_the_predictions_say(tmp_path: pathlib.Path):
  right = {"full-0-on-whole": 180, "full-0-on-subsets": 150, "full-0-on-random": 104}
  right |= {"subsets-on-subsets": 176, "random-on-random": 90}
  done = make_study(tmp_path, {f"resnet20-{name}": count for name, count in right.items()}, 200)
  nearly, far, chance = claims.make_claims(BUDGET, RESNET20, done)
  assert nearly.difference.value == pytest.approx(-0.02)
  assert far.difference.value == pytest.approx(0.43)
  # Two classes.
  assert chance.difference.value == pytest.approx(104 / 200 - 0.5)
  assert [claim.verdict for claim in (nearly, far, chance)] == ["agrees", "agrees", "undecided"]
  assert nearly.found.startswith("88.0% [82.8, 91.8] of 200 against 90.0% [85.1, 93.4] of 200")
  assert {claim.difference.num_images for claim in (nearly, far, chance)} == {200}
  del done["resnet20-random-on-random"]
  assert claims.make_claims(BUDGET, RESNET20, done) == [nearly, chance]
  plumbing = dataclasses.replace(BUDGET, is_plumbing=True)
  found = claims.make_claims(plumbing, RESNET20, done)
  assert {claim.verdict for claim in found} == {"not judged"}


@pytest.mark.parametrize(("num_right", "verdict"), [(2000, "agrees"), (1200, "agrees"), (2480, "disagrees")])
def test_at_chance_is_what_is_not_far_above_it(tmp_path: pathlib.Path, num_right: int, verdict: str):
  """Of 4,000 images in two classes; below chance is not above it."""
  done = make_study(tmp_path, {"resnet20-full-0-on-random": num_right}, 4000)
  (claim,) = claims.make_claims(BUDGET, RESNET20, done)
  assert claim.verdict == verdict


def test_mistakes_that_are_repeated_are_counted(tmp_path: pathlib.Path):
  """Of 200 images 20 are wrong as a whole, of 2 classes: wrong again is the same answer."""
  done = make_study(tmp_path, {"resnet20-full-0-on-whole": 180, "resnet20-subsets-on-subsets": 185}, 200)
  (echo,) = outcome.make_echoes(RESNET20, done)
  assert echo.agreement.count == 195
  assert (echo.repeated.count, echo.right.count, echo.repeated.num_images) == (15, 5, 20)


def test_the_report_of_an_unfinished_study_is_whole_and_says_what_is_missing(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  counts = {"full-0-on-whole": 180, "full-0-on-subsets": 150, "subsets-on-subsets": 176}
  done = make_study(tmp_path, {f"resnet20-{name}": count for name, count in counts.items()}, 200)
  folder = tmp_path / "data"
  folder.mkdir()
  images = {split: {"num_images": 200, "num_images_by_class": {"a": 200}, "sha256": "0"} for split in ("train", "test")}
  (folder / "data.json").write_text(json.dumps(images))
  stages = make_stages(BUDGET)
  record = {"key": "k", "fingerprint": "f", "finished": "now", "versions": {}, "commit": "c0", "devices": ["cpu"]}
  done["data"] = Done(stage=stages[0], folder=folder, key="k", fingerprint="f", seconds=60, record=record)
  done = {name: dataclasses.replace(one, record=record) for name, one in done.items()}
  config = program.ReproduceConfig(preset="budget", out=str(tmp_path))
  found = outcome.read_outcome(BUDGET, RESNET20, done)
  program.write_files(config, BUDGET, stages, done, [found])
  assert capsys.readouterr().out == (
    f"Written to {tmp_path}: study.json, report.html, study.csv, resnet20-accuracy.png\n"
  )
  page = read_page((tmp_path / "report.html").read_bytes())
  check_page(page)
  assert f"{len(stages) - 4} stages are not done yet" in page.text
  assert "-2.0 [-4.0, -0.5] points, 200 images" in page.text
  assert "adversarial training" in page.text
  study = json.loads((tmp_path / "study.json").read_bytes())
  assert [cell["accuracy"]["count"] for cell in study["outcomes"][0]["cells"]] == [180, 150, 176]
  assert {one["name"] for one in study["not_done"]} == {stage.name for stage in stages} - set(done)


def test_the_table_has_a_line_an_evaluation(tmp_path: pathlib.Path):
  done = make_study(tmp_path, {"resnet20-full-0-on-whole": 180, "resnet20-random-on-random": 90}, 200)
  cells = outcome.make_cells(RESNET20, done)
  assert [cell[:5] for cell in tables.cell_rows(cells)] == [
    ["resnet20-full-0", "all pixels", "all pixels", "90.0 [85.1, 93.4]", ""],
    ["resnet20-random", "5 % random", "5 % at random", "45.0 [38.3, 51.9]", "-45.0 [-52.0, -38.5]"],
  ]
  lines = encode_csv(tables.csv_row("resnet20", cell) for cell in cells).decode().splitlines()
  assert lines[0].startswith("architecture,classifier,trained_on,shown,num_images,accuracy,")
  assert lines[1].startswith("resnet20,resnet20-full-0,all pixels,all pixels,200,0.9,0.85")
  assert len({line.count(",") for line in lines}) == 1


def test_differences_from_whole_images_are_paired(tmp_path: pathlib.Path):
  """Corrupted, the first 170 of 200 are right under fog and 150 in noise, of those trained on subsets 20 fewer."""
  full, subsets = "resnet20-full-0-on-whole", "resnet20-subsets-on-subsets"
  right = {full: 180, subsets: 176, f"{full}-corrupted": 180, f"{subsets}-corrupted": 160}
  corrupted = {("fog", 1): 10, ("gaussian_noise", 3): 30}
  done = make_study(tmp_path, right, 200, corrupted=corrupted)
  first, second = outcome.make_cells(RESNET20, done)
  assert (first.difference, first.corrupted_difference) == (None, None)
  assert first.corrupted is not None
  assert second.difference is not None
  assert second.corrupted_difference is not None
  assert first.corrupted.value == pytest.approx(160 / 200)
  assert first.num_corruptions == 2
  assert second.difference.value == pytest.approx(-4 / 200)
  assert second.corrupted_difference.value == pytest.approx(-20 / 200)
  # Paired: of 200 images four differ; of accuracies apart, intervals are wider than the difference.
  assert second.difference.high is not None
  assert second.difference.high < 0
  done = make_study(tmp_path / "fewer", right, 190, corrupted=corrupted) | {full: done[full]}
  with pytest.raises(ValueError, match="same images"):
    outcome.make_cells(RESNET20, done)


def test_the_pixels_of_one_classifier_are_shown_to_others(tmp_path: pathlib.Path):
  other = "resnet20-full-1"
  right = {"resnet20-full-0-on-subsets": 150, f"{other}-on-resnet20-orders-test": 100, f"{other}-on-random": 30}
  done = make_study(tmp_path, {**right, "resnet20-subsets-on-subsets": 170}, 200)
  assert outcome.make_transfers(BUDGET, RESNET20, done) == []
  (orders,) = (stage for stage in make_stages(BUDGET) if stage.name == "resnet20-orders-test")
  done[orders.name] = finish(orders, tmp_path)
  (transfer,) = outcome.make_transfers(BUDGET, RESNET20, done)
  assert (transfer.model, transfer.chooser, transfer.accuracy.count) == (other, "resnet20-full-0", 100)
  assert transfer.minus_random is not None
  assert transfer.minus_chooser.value == pytest.approx(-0.25)
  assert transfer.minus_random.value == pytest.approx(0.35)


@pytest.fixture
def compared_sizes(tmp_path: pathlib.Path) -> dict[str, Done]:
  """A single classifier and an ensemble with random subsets; those of input dropout are the single one's less one."""
  rows = {"single": make_rows(60, seed=1), "ensemble": make_rows(60, seed=2), "input dropout": make_rows(60, seed=1)}
  for name in ("label", "id"):
    rows["ensemble"][name] = rows["single"][name]
  dropout = rows["input dropout"]
  dropout["sis_num_kept"] = np.maximum(dropout["sis_num_kept"] - 1, 0)
  for label, made in rows.items():
    make_run(tmp_path / label, made)
  (stage,) = (stage for stage in make_stages(BUDGET) if stage.name == "resnet20-sizes-compared")
  assert isinstance(stage, AnalyseStage)
  assert stage.config.labels == tuple(rows)
  folder = tmp_path / "compared"
  analyse(StudyConfig(run_dirs=tuple(str(tmp_path / label) for label in rows), out=str(folder), labels=tuple(rows)))
  return {stage.name: finish(stage, folder)}


def test_larger_subsets_are_judged_on_the_same_images(compared_sizes: dict[str, Done]):
  of_ensemble, of_dropout = claims.larger_claims(RESNET20, compared_sizes)
  assert "ensemble" in of_ensemble.claim
  assert "input dropout" in of_dropout.claim
  # All have the same difference, so that the interval is that number.
  difference = of_dropout.difference
  assert (difference.value, difference.low, difference.high) == (-1, -1, -1)
  assert 0 < difference.num_images < 60
  assert (of_dropout.verdict, of_dropout.unit, of_dropout.is_mitigation) == ("disagrees", "pixels", True)
  assert of_ensemble.verdict == "undecided"


def test_mitigations_stand_beside_the_single_classifier(tmp_path: pathlib.Path, compared_sizes: dict[str, Done]):
  right = {
    f"resnet20-{model}-on-whole": count for model, count in (("full-0", 180), ("ensemble", 190), ("dropout", 180))
  }
  right |= {f"{name}-corrupted": count - 20 for name, count in right.items()}
  done = make_study(tmp_path / "made", right, 200, corrupted={("fog", 1): 0}) | compared_sizes
  disjoint = {"full-0": {"a": [3], "b": [], "c": [5], "d": [2], "e": [3], "f": [9]}}
  disjoint["ensemble"] = {name: [*sizes, 4] for name, sizes in disjoint["full-0"].items() if name != "c"} | {
    "g": [1, 1]
  }
  for stage in make_stages(BUDGET):
    model = stage.name.removeprefix("resnet20-").removesuffix("-disjoint")
    if stage.name.endswith("-disjoint") and model in disjoint:
      folder = tmp_path / stage.name
      folder.mkdir()
      images = [{"id": name, "num_kept": sizes} for name, sizes in disjoint[model].items()]
      (folder / "disjoint.json").write_text(json.dumps({"images": images, "left_out": {"b": "not confident"}}))
      done[stage.name] = finish(stage, folder)
  single, ensemble, dropout = mitigations.make_mitigations(RESNET20, done)
  assert [one.label for one in (single, ensemble, dropout)] == ["single", "ensemble", "input dropout"]
  assert ensemble.accuracy_difference.value == pytest.approx(0.05)
  assert ensemble.corrupted_difference is not None
  assert ensemble.corrupted_difference.value == pytest.approx(0.05)
  # All are equally sure; the single one is right in 180 and the ensemble in 190 of 200 images.
  sure = 1 / (1 + np.exp(-2.0))
  assert single.brier_score.value == pytest.approx(0.9 * (1 - sure) ** 2 + 0.1 * sure**2, abs=1e-6)
  assert single.brier_difference is None
  assert ensemble.brier_difference is not None
  assert ensemble.brier_difference.value == pytest.approx(0.05 * ((1 - sure) ** 2 - sure**2), abs=1e-6)
  assert dropout.brier_difference is not None
  assert (dropout.brier_difference.low, dropout.brier_difference.high) == (0, 0)
  assert set(dropout.sizes) == {"sis"}
  assert dropout.sizes["sis"]["difference"]["mean"] == -1
  assert single.num_disjoint is not None
  assert ensemble.num_disjoint is not None
  assert ensemble.num_disjoint_difference is not None
  assert (single.num_disjoint.value, single.num_disjoint.num_images) == (1, 5)
  assert (ensemble.num_disjoint.value, ensemble.num_disjoint.num_images) == (2, 5)
  # Of the images counted in both: a, d, e and f.
  assert (ensemble.num_disjoint_difference.value, ensemble.num_disjoint_difference.num_images) == (1, 4)
  assert dropout.num_disjoint is None
  assert len(tables.mitigation_rows([single, ensemble, dropout])[0]) == len(tables.MITIGATION_HEADER)


def test_wrong_predictions_with_smaller_subsets_agree_with_the_paper(tmp_path: pathlib.Path):
  """Of 400 images of like confidence the wrong ones have subsets of 5, the right ones of 11."""
  rows = make_rows(400, seed=3)
  is_wrong = np.arange(400) % 2 == 0
  rows["full_confidence"][:] = 0.99
  rows["label"] = np.where(is_wrong, (rows["predicted"] + 1) % 4, rows["predicted"])
  rows["confidence"] = np.tile(np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.99], np.float32), (400, 1))
  rows["confidence"][is_wrong, 2:] = 0.99
  rows["confidence"][~is_wrong, 4:] = 0.99
  rows["sis_status"][:] = 0
  rows["sis_num_kept"] = np.where(is_wrong, 5, 11)
  make_run(tmp_path / "run", rows)
  (stage,) = (stage for stage in make_stages(BUDGET) if stage.name == "resnet20-analysis")
  analyse(StudyConfig(run_dirs=(str(tmp_path / "run"),), out=str(tmp_path / "analysis"), labels=("resnet20-full-0",)))
  claim = claims.wrong_claim(RESNET20, {stage.name: finish(stage, tmp_path / "analysis")})
  assert claim is not None
  assert claim.difference.value == pytest.approx(-6)
  assert (claim.verdict, claim.unit) == ("agrees", "pixels")
  assert "200 wrong predictions beside 200 right ones" in claim.found


def test_a_sample_says_how_large_subsets_are_and_how_many_lie_at_the_border(compared_sizes: dict[str, Done]):
  (name,) = compared_sizes
  sample = outcome.read_sample(compared_sizes, name)
  sizes = tables.sample_rows(sample)
  assert all(len(row) == len(tables.SAMPLE_HEADER) for row in sizes)
  assert [row[:2] for row in sizes[:3]] == [["single", "0.9"], ["ensemble", "0.9"], ["input dropout", "0.9"]]
  assert [row[-1] for row in (sizes[0], sizes[2])] == ["", "-1.0 [-1.0, -1.0]"]
  summary = subset_sections.summarise_sample(sample["comparison"])
  assert summary is not None
  assert summary.startswith("Pixels for 0.9 on ")
  assert summary.endswith(" by input dropout.")
  few = [{**compared, "difference": to_json(no_mean("few"))} for compared in sample["comparison"]["sizes"]]
  assert subset_sections.summarise_sample({**sample["comparison"], "sizes": few}) is None
  # The one pixel of 4 x 5 that is needed most, of 60 images.
  first = np.argmin(make_rows(60, seed=2)["rank"], axis=1)
  is_border = (first < 5) | (first >= 15) | (first % 5 == 0) | (first % 5 == 4)
  border = tables.border_rows(sample)
  assert [row[:2] for row in border] == [["single", "60"], ["ensemble", "60"], ["input dropout", "60"]]
  assert border[1][2].startswith(f"{100 * is_border.mean():.1f} [")
  assert {row[3] for row in border} == {"70.0"}
