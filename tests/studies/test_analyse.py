"""What `jax-sis analyse` prints, writes and refuses, on real small runs and on made-up ones."""

import csv
import io
import json
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from made_runs import CLASS_NAMES, make_rows, make_run
from PIL import Image
from tiny_runs import GRADIENT, find_tiny

from jax_sis import results
from jax_sis.cli import main
from jax_sis.core.subsets import Status
from jax_sis.studies.analysis import figures, program
from jax_sis.studies.analysis.program import StudyConfig

PICTURES = {"sizes.png", "positions.png", "confidence.png", "accuracy_by_size.png"}
FILES = {"analysis.json", "analysis.csv", *PICTURES}


@pytest.fixture(scope="module")
def runs(tiny_run: pathlib.Path, tiny_checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
  """The sample searched by both scores, the second time without the smallest subsets."""
  folder = tmp_path_factory.mktemp("runs")
  log_odds = shutil.copytree(tiny_run, folder / "log_odds")
  probability = find_tiny(folder / "probability", tiny_checkpoint, score="probability", **GRADIENT)
  return str(log_odds), probability.folder.location


@pytest.fixture(scope="module")
def printed(runs: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, str]:
  """Both runs analysed by the command line in a process of its own, and what it printed."""
  out = tmp_path_factory.mktemp("study") / "out"
  command = [sys.executable, "-W", "error", "-m", "jax_sis", "analyse", *runs, "--out", str(out), "--thresholds", "0.5"]
  finished = subprocess.run([*command, "--class-curves"], capture_output=True, text=True, check=False, timeout=120)
  assert (finished.returncode, finished.stderr) == (0, "")
  return out, finished.stdout


def read_json(folder: pathlib.Path) -> dict[str, Any]:
  def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} in JSON")

  return json.loads((folder / "analysis.json").read_text(), parse_constant=refuse)


def files_of(folder: pathlib.Path) -> set[str]:
  return {path.name for path in folder.iterdir()}


def test_everything_is_written(printed: tuple[pathlib.Path, str]):
  out, text = printed
  assert files_of(out) == FILES
  for name in PICTURES:
    with Image.open(out / name) as picture:
      assert picture.format == "PNG"
      assert picture.width <= 1200, "a report shows it in full width"
      assert np.asarray(picture.convert("L")).std() > 5
  assert text.splitlines()[-1] == (
    f"Written to {out}: analysis.json, analysis.csv, sizes.png, positions.png, confidence.png, accuracy_by_size.png"
  )
  assert max(len(line) for line in text.splitlines() if "/" not in line) <= 160


def test_the_numbers_are_those_of_the_run(printed: tuple[pathlib.Path, str], runs: tuple[str, str]):
  content = read_json(printed[0])
  assert list(content["runs"]) == ["log_odds", "probability"]
  for label, run_dir in zip(content["runs"], runs, strict=True):
    summary = json.loads(pathlib.Path(run_dir, "summary.json").read_text())
    analysis = content["runs"][label]
    assert (analysis["num_images"], analysis["num_finished"]) == (24, 24)
    sizes = analysis["sizes"][0]
    assert (sizes["answer"], sizes["threshold"]) == ("sis", 0.9)
    assert sizes["status"] == summary["sis"]["status"]
    assert sizes["pixels"]["mean"] == pytest.approx(summary["sis"]["mean_pixels"])
    assert sizes["percentiles"]["50"] == summary["sis"]["median_pixels"]
    assert len(analysis["removal"]["classes"]) + len(analysis["classes_without_images"]) == 10


def test_it_says_where_the_numbers_come_from(printed: tuple[pathlib.Path, str], runs: tuple[str, str]):
  out, _ = printed
  provenance = read_json(out)["provenance"]
  assert provenance["command"] == (
    f"jax-sis analyse {' '.join(runs)} --out {out} --thresholds 0.5 --fraction 0.05 --class-curves --seed 0"
  )
  assert set(provenance["versions"]) == {"jax_sis", "jax", "numpy", "scipy", "matplotlib", "python"}
  assert len(provenance["runs"]["log_odds"]["spec_sha256"]) == 64
  assert provenance["runs"]["log_odds"]["spec_sha256"] != provenance["runs"]["probability"]["spec_sha256"]
  assert provenance["runs"]["probability"]["score"] == "probability"


def test_the_comparison_is_of_the_same_images(printed: tuple[pathlib.Path, str], runs: tuple[str, str]):
  comparison = read_json(printed[0])["comparison"]
  stores = [results.open(run_dir) for run_dir in runs]
  tables = [store.table() for store in stores]
  has_both = np.all([table["sis_status"] == Status.OK for table in tables], axis=0)
  difference = tables[1]["sis_num_kept"].astype(int) - tables[0]["sis_num_kept"]
  assert comparison["num_images"] == 24
  assert comparison["sizes"][1]["difference"]["mean"] == pytest.approx(difference[has_both].mean())
  assert comparison["sizes"][1]["difference"]["num_images"] == has_both.sum()
  masks = [store.masks().reshape(24, -1)[has_both] for store in stores]
  overlap = (masks[0] & masks[1]).sum(1) / (masks[0] | masks[1]).sum(1)
  assert comparison["overlaps"][0]["observed"]["mean"] == pytest.approx(overlap.mean())
  assert comparison["left_out"] == ["smallest subsets at 0.9: only log_odds holds them"]


def test_the_csv_has_a_line_for_each_run_kind_threshold_and_class(printed: tuple[pathlib.Path, str]):
  content = read_json(printed[0])
  with (printed[0] / "analysis.csv").open(newline="") as file:
    lines = list(csv.DictReader(file))
  expected = [
    (label, sizes["answer"], sizes["threshold"], "" if sizes["group"] == "all" else sizes["group"])
    for label, analysis in content["runs"].items()
    for sizes in (*analysis["sizes"], *analysis["sizes_by_class"])
  ]
  assert [(line["run"], line["answer"], float(line["threshold"]), line["class"]) for line in lines] == expected
  first = content["runs"]["log_odds"]["sizes"][0]
  assert float(lines[0]["mean_pixels"]) == first["pixels"]["mean"]
  assert float(lines[0]["pixels_at_50_percent"]) == first["percentiles"]["50"]
  assert int(lines[0]["ok"]) == first["status"]["ok"]


def test_the_tables_say_what_the_json_says(printed: tuple[pathlib.Path, str]):
  out, text = printed
  content = read_json(out)
  for analysis in content["runs"].values():
    for sizes in analysis["sizes"]:
      pixels = sizes["pixels"]
      assert f"{pixels['mean']:.1f} [{pixels['low']:.1f}, {pixels['high']:.1f}]" in text
    for correctness in analysis["correctness"]:
      matched = correctness["matched"]
      assert f"{matched['num_wrong']} wrong, {matched['num_right']} right" in text
    for positions in analysis["positions"]:
      assert f"mean row {positions['mean_row']['mean']:.1f}" in text
  assert "score log_odds; 24 of 24 images are finished" in text
  assert "score probability; 24 of 24 images are finished" in text


def test_the_same_again_writes_the_same(
  printed: tuple[pathlib.Path, str], runs: tuple[str, str], tmp_path: pathlib.Path
):
  program.analyse(StudyConfig(run_dirs=runs, out=str(tmp_path), thresholds=(0.5,), has_class_curves=True))
  here, there = read_json(tmp_path), read_json(printed[0])
  del here["provenance"], there["provenance"]
  assert here == there
  assert (tmp_path / "analysis.csv").read_bytes() == (printed[0] / "analysis.csv").read_bytes()


def test_a_run_of_its_own_is_not_compared(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  make_run(tmp_path / "run", make_rows(40, has_odd_ones=True))
  program.analyse(StudyConfig(run_dirs=(str(tmp_path / "run"),), out=str(tmp_path / "out")))
  assert files_of(tmp_path / "out") == FILES
  assert read_json(tmp_path / "out")["comparison"] is None
  text = capsys.readouterr().out
  assert text.startswith("run:\n")
  assert "score log_odds; 40 of 40 images are finished, 2 of them without a label" in text
  assert "1 not searched" in text


def test_each_kind_of_subset_is_shown(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  rows = make_rows(40, has_smallest=True)
  make_run(tmp_path / "both", rows)
  make_run(tmp_path / "sis", {name: values for name, values in rows.items() if "smallest" not in name})
  run_dirs = (str(tmp_path / "both"), str(tmp_path / "sis"))
  program.analyse(StudyConfig(run_dirs=run_dirs, out=str(tmp_path / "out")))
  content = read_json(tmp_path / "out")
  analysis = content["runs"]["both"]
  assert [positions["what"] for positions in analysis["positions"]] == ["sis", "smallest", "most_needed"]
  assert {sizes["answer"] for sizes in analysis["sizes"]} == {"sis", "smallest"}
  kept = rows["smallest_mask"][rows["smallest_status"] == Status.OK]
  np.testing.assert_allclose(np.ravel(analysis["positions"][1]["shares"]), kept.mean(0))
  assert content["comparison"]["left_out"] == ["smallest subsets at 0.9: only both holds them"]
  for name in ("sizes.png", "accuracy_by_size.png"):
    with Image.open(tmp_path / "out" / name) as picture:
      assert picture.height > 700, "a row each"
  assert "smallest at 0.9" in capsys.readouterr().out


def test_a_run_without_any_subset_comes_out(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  rows = make_rows(6)
  rows["confidence"] = np.minimum(rows["confidence"], np.float32(0.3))
  rows["full_confidence"] = rows["confidence"][:, -1]
  rows["sis_status"][:], rows["sis_num_kept"][:] = Status.BELOW_THRESHOLD, 0
  make_run(tmp_path / "run", rows)
  program.analyse(StudyConfig(run_dirs=(str(tmp_path / "run"),), out=str(tmp_path / "out")))
  assert files_of(tmp_path / "out") == {"analysis.json", "analysis.csv", "positions.png", "confidence.png"}
  analysis = read_json(tmp_path / "out")["runs"]["run"]
  assert analysis["sizes"][0]["pixels"]["reason"] == "no images"
  assert analysis["sizes"][0]["percentiles"] is None
  assert analysis["correctness"][0]["accuracy_by_size"] == []
  assert "without, SIS at 0.9: 6 below threshold" in capsys.readouterr().out


def test_a_run_where_nothing_could_be_searched_comes_out(tmp_path: pathlib.Path):
  rows = make_rows(4)
  rows["sis_status"][:], rows["sis_num_kept"][:], rows["predicted"][:] = -1, 0, -1
  rows["full_confidence"][:] = np.nan
  make_run(tmp_path / "run", rows)
  program.analyse(StudyConfig(run_dirs=(str(tmp_path / "run"),), out=str(tmp_path / "out")))
  assert files_of(tmp_path / "out") == {"analysis.json", "analysis.csv"}
  assert read_json(tmp_path / "out")["runs"]["run"]["classes_without_images"] == list(CLASS_NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("num_runs", [1, 9])
def test_a_thousand_classes_and_many_runs_are_drawn(tmp_path: pathlib.Path, num_runs: int):
  names = [f"class number {index} of a thousand" for index in range(1000)]
  rows = make_rows(1500, num_classes=1000)
  run_dirs = tuple(str(tmp_path / f"a_run_with_quite_a_long_name_and_the_number_{index}") for index in range(num_runs))
  for run_dir in run_dirs:
    make_run(pathlib.Path(run_dir), rows, unit_size=500, class_names=names)
  analyses = {run_dir: program.analyse_run(results.open(run_dir), seed=0) for run_dir in run_dirs[:1]}
  analyses |= {run_dir: analyses[run_dirs[0]] for run_dir in run_dirs}
  for draw_fn in (figures.draw_sizes, figures.draw_positions, figures.draw_accuracy):
    with Image.open(io.BytesIO(draw_fn(analyses))) as picture:
      assert picture.width <= 1200
      assert picture.height <= 500 + 400 * num_runs


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
  assert main.main(["analyse", *words]) == 2
  return capsys.readouterr().err


def test_one_run_named_twice_is_refused(runs: tuple[str, str], tmp_path: pathlib.Path, capsys: Any):
  link = tmp_path / "link"
  link.symlink_to(runs[0])
  message = f"jax-sis analyse: RUN_DIR must name each run once, got {runs[0]!r} more than once.\n"
  assert refusal(capsys, runs[0], str(link), "--out", str(tmp_path / "out")) == message
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (
      ["--labels", "a"],
      "--labels must name each run, got 1 labels for 2 runs; put them in quotes where they hold spaces.",
    ),
    (["--labels", "a", "a"], "--labels must tell the runs apart, got 'a' more than once."),
    (["--thresholds", "1.5"], "--thresholds must be a probability strictly between 0 and 1, got 1.5."),
    (["--fraction", "2"], "--fraction must be above 0 and at most 1, got 2.0."),
    (["--seed", "-1"], "--seed must not be negative, got -1."),
  ],
)
def test_wrong_options_are_refused(runs: tuple[str, str], capsys: Any, options: list[str], message: str):
  assert refusal(capsys, *runs, *options) == f"jax-sis analyse: {message}\n"


def test_a_folder_without_a_run_is_refused(tmp_path: pathlib.Path, capsys: Any):
  message = f"jax-sis analyse: directory must hold the results of a run (spec.json), got {str(tmp_path)!r}.\n"
  assert refusal(capsys, str(tmp_path)) == message


def test_a_run_of_which_nothing_is_done_is_refused(tmp_path: pathlib.Path, capsys: Any):
  make_run(tmp_path / "run", make_rows(8), num_done=0)
  text = refusal(capsys, str(tmp_path / "run"), "--out", str(tmp_path / "out"))
  assert re.search("must hold finished images, but none of its 8 is done", text)
  assert not (tmp_path / "out").exists()


def test_runs_of_other_images_are_refused(tmp_path: pathlib.Path, capsys: Any):
  rows = make_rows(4)
  make_run(tmp_path / "a", rows)
  make_run(tmp_path / "b", {**rows, "id": np.array([f"other_{index}" for index in range(4)])})
  text = refusal(capsys, str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "out"))
  assert "'a' lacks 'other_0', 'other_1', 'other_2', 'other_3'; 'b' lacks 'image_0000'" in text


def test_runs_in_folders_of_one_name_are_called_by_their_paths(tmp_path: pathlib.Path):
  for name in ("a", "b"):
    make_run(tmp_path / name / "run", make_rows(8))
  run_dirs = tuple(str(tmp_path / name / "run") for name in ("a", "b"))
  program.analyse(StudyConfig(run_dirs=run_dirs, out=str(tmp_path / "out")))
  assert tuple(read_json(tmp_path / "out")["runs"]) == run_dirs
  assert read_json(tmp_path / "out")["comparison"]["sizes"][1]["difference"]["mean"] == 0
