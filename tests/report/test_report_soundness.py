"""Soundness beside the sizes of a run: what stands there, and which study is refused."""

import json
import pathlib
from typing import Any

import html_pages
import pytest
from made_runs import make_rows, make_run

from jax_sis.display.page import document, section
from jax_sis.report.soundness import make_blocks, read_soundness
from jax_sis.results.store import Results
from jax_sis.runtime.records import to_json
from jax_sis.studies.soundness.program import FORMAT
from jax_sis.studies.soundness.summaries import Asked, summarise


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Results:
  return make_run(tmp_path / "run", make_rows(8))


def write_study(folder: pathlib.Path, run: Results, **change: Any) -> str:
  asked = [
    Asked(id=f"{number}", error="", label="a", classes=["a", "b"], confidence=[1.0, 0.2], area=[0.8, 0.4], size=[3, 6])
    for number in range(6)
  ]
  provenance = {"model": run.spec["model"], "data": {"data": "made", "split": "test"}}
  answer = {
    "format": FORMAT,
    "provenance": provenance,
    "grid": run.spec["grid"],
    "threshold": 0.9,
    "num_images": len(asked),
    "orders": {"gradient": {**to_json(summarise("SIS, gradient", asked, seed=0)), "images": []}},
    "reading": "It is half sound.",
    **change,
  }
  folder.mkdir(exist_ok=True)
  (folder / "soundness.json").write_text(json.dumps(answer))
  return str(folder)


def test_the_table_and_its_reading_stand_there(run: Results, tmp_path: pathlib.Path):
  found = read_soundness(run, write_study(tmp_path / "study", run))
  blocks = make_blocks(found)
  page = html_pages.read_page(document("made", [section("sizes", answer="", blocks=blocks, name="sizes")]))
  (table,) = page.find("sizes").find_all("table")
  row = html_pages.rows_of(table)[1]
  assert row[0] == "SIS, gradient"
  assert [cell.split()[0] for cell in row[1:]] == ["0.80", "0.50", "0.50", "100%", "0.50"]
  text = page.find("sizes").text
  assert "It is half sound." in text
  assert "6 images of made test, subsets at 0.9" in text


def test_studies_of_others_and_damaged_ones_are_refused(run: Results, tmp_path: pathlib.Path):
  with pytest.raises(ValueError, match="--soundness must be a folder that jax-sis soundness wrote, but"):
    read_soundness(run, str(tmp_path))
  other = {"model": {"name": "other", "sha256": "0"}, "data": {"data": "made"}}
  for change in ({"provenance": other}, {"grid": [1, 1, 1]}):
    with pytest.raises(ValueError, match="--soundness must be of the classifier and the masks of the run in"):
      read_soundness(run, write_study(tmp_path / "study", run, **change))
  with pytest.raises(ValueError, match=r"must be in the format 'jax_sis\.soundness/1', but cannot be used"):
    read_soundness(run, write_study(tmp_path / "study", run, orders={"gradient": {}}))
