"""`jax-sis report`: every number is the run's own, what is missing is said, and the page needs nothing else."""

import dataclasses
import io
import json
import pathlib
import re
import shutil
import subprocess
from typing import Any

import html_pages
import jax
import numpy as np
import pytest
import tiny_classifier
from html_pages import Node
from made_runs import make_rows, make_run
from PIL import Image
from tiny_runs import GRADIENT, PATCH, find_tiny

from jax_sis import results
from jax_sis.cli import main
from jax_sis.core.subsets import Status
from jax_sis.data.sources import SAMPLE_DIR
from jax_sis.display import pixels
from jax_sis.display.page import document
from jax_sis.report import gallery, inputs
from jax_sis.report.controls import make_classes
from jax_sis.report.inputs import ClassControls
from jax_sis.report.program import ReportConfig, report
from jax_sis.report.sizes import describe_missing_classes
from jax_sis.results.answer import encode_json
from jax_sis.statistics.estimates import Estimate, share_of_count
from jax_sis.studies.analysis import program
from jax_sis.studies.analysis.run import analyse_run
from jax_sis.studies.controls.program import ControlsConfig, controls
from jax_sis.studies.controls.wrong_class import TowardsSummary

NAMES = ["sizes", "backgrounds", "positions", "controls", "correctness", "removal", "gallery", "provenance"]
ODD_CLASSES = ('<b>&"', "</style><script>x</script>", "d'og &amp;", "eel\x00\n")
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?")


@pytest.fixture(scope="module")
def run(tiny_checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> results.Results:
  """The subsets of the sample, with controls."""
  store = find_tiny(tmp_path_factory.mktemp("run") / "out", tiny_checkpoint, **GRADIENT)
  with jax.numpy_rank_promotion("allow"):
    controls(ControlsConfig(run_dir=store.folder.location, limit=8, num_wrong_class=0, mask_fractions=(0.25,)))
  return store


@pytest.fixture(scope="module")
def analysis_dir(run: results.Results, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """The folder of its analysis."""
  out = tmp_path_factory.mktemp("analysis")
  config = program.StudyConfig(run_dirs=(run.folder.location,), out=str(out))
  analysis = analyse_run(run, thresholds=(0.5,))
  answer = program.make_answer(config, {"out": run}, {"out": analysis}, None)
  (out / "analysis.json").write_bytes(encode_json(answer))
  return out


@pytest.fixture(scope="module")
def page(run: results.Results, analysis_dir: pathlib.Path) -> Node:
  """The report with the numbers of that analysis, by the command line in a process of its own."""
  python, option, code = tiny_classifier.COMMAND
  words = ["report", run.folder.location, "--gallery", "4", "--analysis", str(analysis_dir)]
  command = [python, "-W", "error", option, code, *words]
  finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
  assert (finished.returncode, finished.stderr) == (0, "")
  assert finished.stdout.splitlines()[-1] == f"Written to {run.folder.location}/report.html"
  return html_pages.read_page((path_of(run) / "report.html").read_bytes())


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, Node]:
  """A made-up run with odd classes that is not finished, its settings and controls not there, and its report."""
  folder = tmp_path_factory.mktemp("odd")
  rows = complete(make_rows(40, has_odd_ones=True, has_smallest=True))
  make_run(folder / "run", rows, num_done=36, class_names=list(ODD_CLASSES), smallest={"name": "Forward"})
  return folder / "run", make_page(folder / "run", folder / "odd.html", title=ODD_CLASSES[0])


def path_of(store: results.Results) -> pathlib.Path:
  assert store.folder.path is not None
  return store.folder.path


def read_json(path: pathlib.Path) -> dict[str, Any]:
  return json.loads(path.read_text())


def make_page(run_dir: Any, out: pathlib.Path, **options: Any) -> Node:
  with jax.numpy_rank_promotion("allow"):
    report(ReportConfig(run_dir=str(run_dir), out=str(out), **options))
  page = html_pages.read_page(out.read_bytes())
  html_pages.check_page(page)
  return page


def complete(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Made-up rows with what those of real runs hold beside."""
  is_ok = rows["sis_status"] == Status.OK
  names = ("is_sufficient", "keeps_class", "is_reproduced")
  errors = results.encode_text(["no image" if status == -1 else "" for status in rows["sis_status"]])
  more = {"error": errors}
  for answer in ("sis", "smallest"):
    if f"{answer}_status" in rows:
      more |= {f"{answer}_{name}": is_ok for name in names}
      more[f"{answer}_certified_confidence"] = np.where(is_ok, 0.95, np.nan)
  # Of every second one a feature could be dropped.
  return {**rows, **more, "sis_is_minimal": is_ok & (np.arange(len(is_ok)) % 2 == 0)}


def interval_of(count: int, num_images: int, digits: int = 1) -> str:
  return f"{share_of_count(count, num_images):.{digits}%}"


@pytest.mark.slow
def test_the_page_is_whole_and_every_section_answers_first(page: Node):
  html_pages.check_page(page)
  sections = [node for node in page.find_all("section") if "id" in node.attributes]
  assert [node.attributes["id"] for node in sections] == NAMES
  assert [link.attributes["href"] for link in page.find_all("nav")[0].find_all("a")] == [f"#{name}" for name in NAMES]
  for node in sections:
    heading, answer = [part for part in node.parts if isinstance(part, Node)][:2]
    assert heading.tag == "h2"
    assert answer.attributes["class"] == "answer"
    assert answer.text.endswith(".")
    assert re.search(r"\d", answer.text), answer.text


def list_numbers(value: Any) -> set[float]:
  """All numbers of a JSON value, those in its texts, too."""
  if isinstance(value, dict | list):
    parts = value.values() if isinstance(value, dict) else value
    return set().union(*map(list_numbers, parts)) if parts else set()
  if isinstance(value, str):
    return {float(found.replace(",", "")) for found in NUMBER.findall(value)}
  return {float(value)} if isinstance(value, int | float) else set()


@pytest.mark.slow
def test_no_number_is_from_elsewhere(run: results.Results, analysis_dir: pathlib.Path, page: Node):
  content = read_json(analysis_dir / "analysis.json")["runs"]["out"]
  files = [read_json(path_of(run) / name) for name in ("controls.json", "spec.json", "settings.json")]
  numbers = list_numbers([content, *files])
  for sizes in content["sizes"][:1]:
    # What certificates say is in the run alone.
    num_subsets = sizes["status"]["ok"]
    is_ok = run.read(f"{sizes['answer']}_status") == Status.OK
    for name in ("is_sufficient", "keeps_class", "is_reproduced"):
      count = int(run.read(f"{sizes['answer']}_{name}")[is_ok].sum())
      numbers |= {*share_of_count(count, num_subsets).numbers}
  # The number of the last row, the level of all intervals, and below what p is not told apart.
  numbers |= {32 // PATCH - 1, 95, 0.001}
  known = {f"{scale * number:.{digits}f}" for number in numbers for scale in (1, 100) for digits in range(5)}
  known |= {f"{number:.3g}" for number in numbers} | {f"{number:.2g}" for number in numbers}
  for name in ("sizes", "positions", "controls", "correctness", "removal"):
    found = [text.replace(",", "") for text in NUMBER.findall(page.find(name).text)]
    assert len(found) > 20
    assert [text for text in found if text not in known] == [], name


@pytest.mark.slow
def test_tables_hold_the_numbers_of_the_analysis_in_their_places(analysis_dir: pathlib.Path, page: Node):
  content = read_json(analysis_dir / "analysis.json")["runs"]["out"]
  table = html_pages.rows_of(page.find("sizes").find_all("table")[0])
  assert [row[0] for row in table[1:]] == ["SIS at 0.9", "SIS at 0.5"]
  for row, sizes in zip(table[1:], content["sizes"], strict=True):
    share, pixels = sizes["with_subset"], sizes["pixels"]
    assert row[1:] == [
      str(share["num_images"]),
      interval_of(share["count"], share["num_images"]),
      f"{pixels['mean']:.1f} [{pixels['low']:.1f}, {pixels['high']:.1f}]",
      f"{sizes['mean_share']:.1%}",
      f"{sizes['percentiles']['50']:g} [{sizes['median_interval'][0]:g}, {sizes['median_interval'][1]:g}]",
      f"{sizes['percentiles']['5']:g} to {sizes['percentiles']['95']:g}",
    ]
    ended = next(one for one in html_pages.rows_of(page.find("sizes").find_all("table")[1]) if one[0] == row[0])
    assert ended[1] == str(sizes["status"]["ok"])
  bins = html_pages.rows_of(page.find("correctness").find_all("table")[1])[1:]
  assert [row[1:3] for row in bins] == [
    [str(one["accuracy"]["num_images"]), interval_of(one["accuracy"]["count"], one["accuracy"]["num_images"])]
    for one in content["correctness"][0]["accuracy_by_size"]
  ]
  removal = html_pages.rows_of(page.find("removal").find_all("table")[0])
  shares, means = content["removal"]["shares"], content["removal"]["curves"][0]["mean"]
  assert (removal[0][2], removal[1][2]) == ("100.0%", f"{means[shares.index(1)]:.3f}")
  assert (removal[0][-1], removal[1][-1]) == ("0.0%", f"{means[0]:.3f}")


@pytest.mark.slow
def test_controls_stand_beside_the_headline_and_in_their_tables(run: results.Results, page: Node):
  answer = read_json(path_of(run) / "controls.json")
  tables = page.find("controls").find_all("table")
  beside = [node.text for node in page.find("sizes").find_all("p") if node.attributes.get("class") == "note"]
  assert len(beside) == 1
  assert len(tables) == len(answer["kinds"]) == 2
  for table, kind in zip(tables, answer["kinds"].values(), strict=True):
    rows = html_pages.rows_of(table)[1:]
    for row, control in zip(rows, kind["controls"], strict=True):
      kept, reached = control["keeps_class"], control["is_sufficient"]
      assert row[:4] == [
        control["title"],
        str(control["num_images"]),
        interval_of(kept["count"], kept["num_images"]),
        interval_of(reached["count"], reached["num_images"]),
      ]
    assert kind["reading"] in page.find("controls").text
  by_name = {control["name"]: control["keeps_class"] for control in answer["kinds"]["sis"]["controls"]}
  fills = answer["kinds"]["sis"]["fills"]
  white, moved, random, one, every = (
    interval_of(share["count"], share["num_images"], 0)
    for share in (
      *(by_name[name] for name in ("shape_white", "moved_white", "random")),
      *(fills[name] for name in ("one_fill_only", "every_fill")),
    )
  )
  assert beside[0] == (
    f"Leak controls, 8 subsets: {one} of {fills['num_images']} reach 0.9 on no fill but the search's own, {every} on "
    f"every other one that was tried. The white shape of the subset alone keeps the class in {white}, moved elsewhere "
    f"in {moved}; as many at random keep it in {random}."
  )


@pytest.mark.slow
def test_the_gallery_shows_the_extreme_images_as_they_are(run: results.Results, page: Node):
  ids = run.read_text("id")
  sections = [node for node in page.find("gallery").find_all("section") if node.find_all("article")]
  leaves = [node for node in sections if not node.find_all("section")]
  note = page.find("gallery").text
  colour = next(value for name, value in pixels.UNLIKELY.items() if f"painted {name} is masked" in note)
  assert "1-minimal: none is droppable" in note
  expected = [(answer, is_largest) for answer in ("sis",) for is_largest in (False, True)]
  for leaf, (answer, is_largest) in zip(leaves, expected, strict=True):
    is_ok = run.read(f"{answer}_status") == Status.OK
    sizes = np.sort(run.read(f"{answer}_num_kept")[is_ok])
    cards = leaf.find_all("article")
    indices = [ids.index(card.find_all("h5")[0].text) for card in cards]
    shown = run.read(f"{answer}_num_kept")[indices]
    np.testing.assert_array_equal(shown, sizes[::-1][:4] if is_largest else sizes[:4])
    for card, index in zip(cards, indices, strict=True):
      image, kept, places = map(html_pages.read_picture, card.find_all("img"))
      file = next(SAMPLE_DIR.rglob(f"{ids[index]}*"))
      np.testing.assert_array_equal(image, np.asarray(Image.open(file).convert("RGB")))
      mask = run.masks([ids[index]], kind=answer)[0]
      mask = mask.repeat(PATCH, 0).repeat(PATCH, 1)
      np.testing.assert_array_equal(kept[mask[..., 0]], image[mask[..., 0]])
      np.testing.assert_array_equal((kept == colour).all(-1), ~mask[..., 0])
      np.testing.assert_array_equal(places[..., 0] == 255, mask[..., 0])
      facts = dict(
        zip([node.text for node in card.find_all("dt")], [node.text for node in card.find_all("dd")], strict=True)
      )
      size = run.read(f"{answer}_num_kept")[index]
      assert facts["size"] == f"{size} squares of 8 x 8 pixels ({size / 16:.1%})"
      assert facts["predicted"] == run.spec["class_names"][run.read("predicted")[index]]
      assert facts["certificate"] == "sufficient"


def check_opening(page: Node) -> tuple[str, Node]:
  """The sentence and the picture that stand first, above the contents."""
  header = page.find_all("header")[0]
  assert [part.tag for part in header.parts if isinstance(part, Node)] == ["h1", "p", "figure"]
  (sentence,), (picture,) = header.find_all("p"), header.find_all("img")
  assert sentence.attributes["class"] == "answer"
  assert re.fullmatch(r"In half of the [\d,]+ images with a subset, at most [^;]*\.", sentence.text)
  assert len(re.findall(r"\.(?: |$)", sentence.text)) == 1
  return sentence.text, picture


@pytest.mark.slow
def test_it_opens_with_a_sentence_and_a_picture_of_the_middle_subset(run: results.Results, page: Node):
  sentence, picture = check_opening(page)
  is_ok = run.read("sis_status") == Status.OK
  median = np.median(run.read("sis_num_kept")[is_ok])
  assert sentence == (
    f"In half of the {is_ok.sum()} images with a subset, at most {median:g} of 16 squares of 8 x 8 pixels "
    f"({median / 16:.1%}) alone make tiny at least 0.9 confident in the class that it predicts."
  )
  shown = html_pages.read_picture(picture)
  name = next(name for name in run.read_text("id") if name in picture.attributes["alt"])
  file = next(SAMPLE_DIR.rglob(f"{name}*"))
  image, kept = shown[::8, :256:8], shown[::8, 272::8]
  np.testing.assert_array_equal(image, np.asarray(Image.open(file).convert("RGB")))
  mask = run.masks([name])[0].repeat(PATCH, 0).repeat(PATCH, 1)[..., 0]
  np.testing.assert_array_equal((kept == image).all(-1), mask)


def test_it_opens_with_places_where_the_images_are_gone(odd: tuple[pathlib.Path, Node]):
  run_dir, page = odd
  sentence, picture = check_opening(page)
  store = results.open(run_dir)
  done = store.done_images()
  sizes = store.read("smallest_num_kept", done)[store.read("smallest_status", done) == Status.OK]
  assert f"at most {np.median(sizes):g} of 20 features" in sentence
  shown = html_pages.read_picture(picture)[:: 256 // 5, :: 256 // 5]
  assert (shown == pixels.MARK).all(-1).sum() == np.sort(sizes)[(len(sizes) - 1) // 2]


def test_no_box_stands_twice_and_no_cell_is_without_its_heading(odd: tuple[pathlib.Path, Node]):
  _, page = odd
  texts = [(node.tag, node.text) for node in page.find_all("p", "pre", "details", "table", "article")]
  texts += [("img", node.attributes["src"]) for node in page.find_all("img") if "class" not in node.attributes]
  assert len(texts) > 50
  assert [text for text in texts if texts.count(text) > 1] == []
  # Beside each cell where the screen is too narrow for the table, which then has no columns.
  for table in page.find_all("table"):
    header, *rows = [row.find_all("th", "td") for row in table.find_all("tr")]
    for row in rows:
      assert [cell.attributes["data-label"] for cell in row[1:]] == [cell.text for cell in header[1:]]
  style = str(page.find_all("style")[0].parts[0])
  assert "content: attr(data-label)" in style
  assert "nowrap" not in style


@pytest.mark.slow
def test_it_says_where_it_comes_from(run: results.Results, page: Node):
  text = page.find("provenance").text
  answer = read_json(path_of(run) / "controls.json")["provenance"]
  for known in (
    run.spec["model"]["sha256"],
    answer["spec_sha256"],
    answer["command"],
    f"jax {jax.__version__}",
    "Gradient(per_step=1)",
    "by their dates, its files are of 2",
    f"jax-sis report {run.folder.location} --analysis",
  ):
    assert known in text, known


def test_odd_names_are_shown_as_they_are(odd: tuple[pathlib.Path, Node]):
  _, page = odd
  assert page.find_all("h1")[0].text == ODD_CLASSES[0]
  names = [row[0] for row in html_pages.rows_of(page.find("sizes").find_all("table")[2])[1:]]
  assert names == [*ODD_CLASSES[:3], "eel\N{REPLACEMENT CHARACTER}"]


def test_a_run_with_both_kinds_of_subset_is_analysed_by_the_report(odd: tuple[pathlib.Path, Node]):
  run_dir, page = odd
  store = results.open(run_dir)
  analysis = analyse_run(store, thresholds=program.StudyConfig.thresholds)
  rows = html_pages.rows_of(page.find("sizes").find_all("table")[0])[1:]
  assert [row[0] for row in rows] == ["SIS at 0.9", "smallest at 0.9", "SIS at 0.95", "SIS at 0.99"]
  assert [row[3].split()[0] for row in rows] == [f"{sizes.pixels.value:.1f}" for sizes in analysis.sizes]
  assert "computed for this report, seed 0" in page.find("provenance").text
  is_ok = store.read("sis_status", store.done_images()) == Status.OK
  is_minimal = store.read("sis_is_minimal", store.done_images())[is_ok]
  assert f"{interval_of(int(is_minimal.sum()), len(is_minimal))} are 1-minimal" in page.find("sizes").text
  answers = [node.text for node in page.find("sizes").find_all("p") if node.attributes.get("class") == "answer"]
  assert ["a sufficient input subset" in answers[0], "a smallest sufficient subset" in answers[1]] == [True, True]


def test_what_is_missing_is_said(odd: tuple[pathlib.Path, Node]):
  run_dir, page = odd
  notes = [node.text for node in page.find_all("p") if node.attributes.get("class") == "note"]
  assert notes[0] == "The run is not finished: 36 of 40 images are done, and all here is of these."
  assert notes[1].startswith("Leak controls: none (they were not run). Whether these subsets work by what they show")
  assert notes[1].endswith(f"run jax-sis controls {run_dir}")
  section = page.find("controls")
  assert "Not known: there are no leak controls of this run (they were not run)." in section.text
  assert section.find_all("pre")[0].text == f"jax-sis controls {run_dir}"
  assert notes[2].startswith("The images are not shown: RUN_DIR must be the folder of a run of `jax-sis find`, but")
  assert notes[2].endswith("--data-dir and --checkpoint name the folders.")
  assert len(notes) == 3, "what holds for both kinds of subset is said once"
  assert len(page.find("gallery").find_all("article")) == 24
  assert len(page.find("gallery").find_all("img")) == 24, "places alone"


@pytest.mark.slow
@pytest.mark.parametrize(
  ("change", "reason"),
  [
    ({"provenance": {"spec_sha256": ""}}, "controls.json is of a run with another specification"),
    ({"format": "x/9"}, "controls.json has the format 'x/9' and not 'jax_sis.controls/1'"),
    ({"threshold": "high"}, "controls.json cannot be used (controls.json.threshold must be float, got 'high'.)"),
  ],
)
def test_controls_of_another_run_and_damaged_ones_are_not_used(
  run: results.Results, tmp_path: pathlib.Path, change: dict[str, Any], reason: str
):
  answer = read_json(path_of(run) / "controls.json")
  sha256 = answer["provenance"]["spec_sha256"]
  change = {name: {**answer[name], **value} if isinstance(value, dict) else value for name, value in change.items()}
  (tmp_path / "controls.json").write_text(json.dumps({**answer, **change}))
  store = make_run(tmp_path, make_rows(4))
  assert inputs.read_controls(store.folder, sha256) == (None, reason)


def test_evidence_for_other_classes_is_shown():
  found = Estimate(count=1, num_images=4, value=0.25, low=0.1, high=0.6)
  change = Estimate(value=3.25, low=2.0, high=4.5, num_images=20)
  one = TowardsSummary(name="random", found=found, median_size=7.0, num_paired=20, size_change=change)
  shown = ClassControls(max_features=9, classes=(one,), reading="What it says.")
  block = html_pages.read_page(document("t", [make_classes(shown, 0.9)]))
  assert html_pages.rows_of(block.find_all("table")[0])[1][1:] == [
    "4",
    "25.0% [10.0, 60.0]",
    "7",
    "+3.2 [+2.0, +4.5] on 20",
  ]
  assert "What it says." in block.text


@pytest.mark.slow
def test_images_that_are_gone_are_said(run: results.Results, tmp_path: pathlib.Path):
  shutil.copytree(path_of(run), tmp_path / "run")
  file = tmp_path / "run" / "settings.json"
  file.write_text(json.dumps({**read_json(file), "data": str(tmp_path / "gone")}))
  store = results.open(tmp_path / "run")
  images = gallery.read_images(store, [0, 1], checkpoint=None, data_dir=None)
  assert images.pixels == {}
  assert f"{tmp_path}/gone" in images.missing


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
  assert main.main(["report", *words]) == 2
  return capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
  ("options", "message"),
  [
    (["--out", "x.pdf"], "--out must be a file that ends in .html or .htm, got 'x.pdf'."),
    (["--gallery", "-1"], "--gallery must not be negative, got -1."),
    (["--title", " "], "--title must not be empty; leave it out to name the model and the data."),
    (
      ["--analysis", "no/such"],
      "--analysis must be a folder that jax-sis analyse wrote, but 'no/such/analysis.json' is not there.",
    ),
  ],
)
def test_wrong_options_are_refused(run: results.Results, capsys: Any, options: list[str], message: str):
  assert refusal(capsys, run.folder.location, *options) == f"jax-sis report: {message}\n"


def test_a_folder_without_a_run_and_damaged_ones_are_refused(
  odd: tuple[pathlib.Path, Node], tmp_path: pathlib.Path, capsys: Any
):
  message = f"jax-sis report: directory must hold the results of a run (spec.json), got {str(tmp_path)!r}.\n"
  assert refusal(capsys, str(tmp_path)) == message
  make_run(tmp_path / "empty", make_rows(8), num_done=0)
  assert "must hold finished images, but none of its 8 is done" in refusal(capsys, str(tmp_path / "empty"))
  shutil.copytree(odd[0], tmp_path / "damaged")
  (tmp_path / "damaged/results.zarr/sis_status/c/3").write_bytes(b"x")
  text = refusal(capsys, str(tmp_path / "damaged"))
  assert "results.zarr/sis_status" in text
  assert "jax-sis verify names what is damaged" in text
  assert list(tmp_path.rglob("report.html")) == []


@pytest.mark.slow
def test_an_analysis_of_another_run_or_state_is_refused(
  run: results.Results, odd: tuple[pathlib.Path, Node], analysis_dir: pathlib.Path, tmp_path: pathlib.Path, capsys: Any
):
  text = refusal(capsys, str(odd[0]), "--analysis", str(analysis_dir))
  assert text.endswith("is of runs with other specifications; leave it out, and the report analyses the run.\n")
  content = read_json(analysis_dir / "analysis.json")
  content["runs"]["out"]["num_finished"] = 23
  (tmp_path / "analysis.json").write_text(json.dumps(content))
  text = refusal(capsys, run.folder.location, "--analysis", str(tmp_path))
  assert "must be of the run as it is now, with 24 finished images, but" in text
  del content["runs"]["out"]["trust"]
  (tmp_path / "analysis.json").write_text(json.dumps(content))
  text = refusal(capsys, run.folder.location, "--analysis", str(tmp_path))
  assert "record must have 'trust', but lacks it; another version of jax_sis may have made it." in text


def test_a_run_without_any_subset_gets_a_report(tmp_path: pathlib.Path):
  rows = make_rows(6)
  rows["confidence"] = np.minimum(rows["confidence"], np.float32(0.3))
  rows["full_confidence"] = rows["confidence"][:, -1]
  rows["sis_status"][:], rows["sis_num_kept"][:] = Status.BELOW_THRESHOLD, 0
  make_run(tmp_path / "run", complete(rows))
  page = make_page(tmp_path / "run", tmp_path / "page.html")
  assert "None of 6 images has a sufficient input subset (SIS)" in page.find("sizes").text
  assert (
    page.find_all("header")[0].find_all("p")[0].text.startswith("In none of 6 images were features found that alone")
  )
  assert "Nothing to show: no image has a subset." in page.find("gallery").text
  assert "There is no subset to certify." in page.find("sizes").text


def test_many_classes_are_folded_and_another_target_is_said(tmp_path: pathlib.Path):
  names = [f"class number {index} of a hundred" for index in range(100)]
  make_run(tmp_path / "run", complete(make_rows(150, num_classes=100)), class_names=names, target="label", unit_size=50)
  page = make_page(tmp_path / "run", tmp_path / "page.html", gallery=1)
  assert len(page.find("sizes").find_all("details")[0].find_all("tr")) > 50
  assert "at least 0.9 confident in the true class" in page.find("sizes").text
  assert "Not known: size against correctness" in page.find("correctness").text
  assert dataclasses.asdict(ReportConfig(run_dir="x"))["gallery"] == 6


def test_a_photograph_has_two_pictures_of_its_subset_and_a_small_image_one():
  photograph, small = (np.full((side, side, 3), 200, np.uint8) for side in (160, 32))
  kept = np.zeros((160, 160, 1), bool)
  kept[:80] = True
  shown = gallery.show_subset(photograph, kept, "of it", "magenta")
  assert list(shown) == ["kept", "on the greyed image"]
  assert not any(picture.is_pixelated for picture in shown.values())
  alone, on_grey = (np.array(Image.open(io.BytesIO(picture.png)))[[0, -1], 0, 0].tolist() for picture in shown.values())
  assert (alone, on_grey) == ([200, 127], [200, int(96 + 0.35 * 200)])
  (only,) = gallery.show_subset(small, kept[::5, ::5], "of it", "magenta").values()
  assert only.is_pixelated


def test_of_a_thousand_classes_those_without_images_are_counted():
  names = [f"class {number}" for number in range(996)]
  assert describe_missing_classes(names).text == "No image was searched for 996 other classes."
  assert "class 3, class 4" in (describe_missing_classes(names[:10]).text or "")
