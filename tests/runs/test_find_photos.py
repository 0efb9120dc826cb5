"""The main job on folders as users have them, and on classifiers whose classes share a name."""

import dataclasses
import json
import os
import pathlib
import re

import numpy as np
import pytest
from PIL import Image
from tiny_runs import GRADIENT, find_tiny

from jax_sis import results
from jax_sis.classifiers import checkpoint
from jax_sis.data import sources
from jax_sis.runs import verify

SHIP = next(sources.SAMPLE_DIR.glob("ship/*.png"))

pytestmark = pytest.mark.usefixtures("allow_rank_promotion")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """One picture again and again, beside what phones, browsers, Jupyter and Macs leave."""
  folder = tmp_path_factory.mktemp("photos")
  ship = Image.open(SHIP).convert("RGB")
  exif = Image.Exif()
  exif[0x0112] = 6
  ship.save(folder / "upright.png")
  ship.transpose(Image.Transpose.ROTATE_90).save(folder / "phone.png", exif=exif)
  ship.save(folder / "a.jp2", irreversible=False)
  (folder / "a.jp2").rename(folder / os.fsdecode(b"\xe9\n=\x1b[2J.jp2"))
  ship.save(folder / "=1+1.tga")
  for name in (".ipynb_checkpoints/upright-checkpoint.png", "__MACOSX/._upright.png", "._upright.png", "Thumbs.db"):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"\0\5\x16\7")
  (folder / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
  return folder


@pytest.fixture(scope="module")
def run(photos: pathlib.Path, tiny_checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> results.Results:
  return find_tiny(tmp_path_factory.mktemp("run"), tiny_checkpoint, data=str(photos), **GRADIENT)


def test_the_same_picture_has_one_answer_in_every_form(run: results.Results):
  ids = run.read_text("id")
  assert ids == ["=1+1.tga", "phone.png", "upright.png", r"\xe9\n=\x1b[2J.jp2"]
  assert run.read_text("error") == [""] * 4
  assert len(np.unique(run.read("full_confidence"))) == 1
  assert (run.read("rank") == run.read("rank")[:1]).all()


def test_the_table_in_a_spreadsheet_has_no_formula(run: results.Results):
  table = (run.folder.read("summary.csv") or b"").decode().splitlines()
  assert table[1].startswith("'=1+1.tga,-,")
  assert len(table) == 5


def test_a_run_of_an_earlier_version_is_verified_that_stored_a_split(run: results.Results, tmp_path: pathlib.Path):
  settings = json.loads(run.folder.read("settings.json") or b"")
  assert (settings["split"], settings["background"]) == (None, None)
  del settings["background"]
  run.folder.write("settings.json", json.dumps({**settings, "split": "test"}).encode())
  assert verify.verify(run.folder.location, num_sampled=1, num_devices=2, data_dir=str(tmp_path))


def test_what_is_left_out_and_how_files_are_read_is_said_above_the_table(
  run: results.Results, photos: pathlib.Path, tiny_checkpoint: str, capsys: pytest.CaptureFixture[str]
):
  find_tiny(run.folder.location, tiny_checkpoint, data=str(photos), **GRADIENT)
  lines = capsys.readouterr().out.splitlines()
  assert "transparent pixels on RGB (138, 128, 128), the mean colour." in lines[3]
  assert lines[4].startswith(
    f"Files left out of {photos}, since Pillow does not read them as images: 1 in all, 1 .heic;"
  )
  assert not any("\x1b" in line for line in lines)


def test_a_target_that_is_the_name_of_several_classes_is_refused_with_their_numbers(
  tiny_checkpoint: str, tmp_path: pathlib.Path
):
  tiny = checkpoint.load_classifier(tiny_checkpoint)
  names = tuple("crane" if number in (1, 8) else name for number, name in enumerate(tiny.class_names))
  checkpoint.save_classifier(tmp_path / "cranes", dataclasses.replace(tiny, class_names=names))
  options = {**GRADIENT, "checkpoint": str(tmp_path / "cranes"), "data": str(SHIP)}
  message = "--target must name one class, but 'crane' is the name of 1 and 8; give the number."
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    find_tiny(tmp_path / "run", target="crane", **options)
  store = find_tiny(tmp_path / "run", target="8", **options)
  assert store.read("target").tolist() == [8]
  assert store.spec["class_names"][7:9] == ["horse", "8 crane"]
  assert ",8 crane," in (store.folder.read("summary.csv") or b"").decode()
