"""Folders as phones, browsers, Jupyter and Macs leave them: what is searched, what is left out, and that it is said."""

import os
import pathlib

import pytest
from PIL import Image

from jax_sis.data import folders


def touch(folder: pathlib.Path, *names: str) -> None:
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()


def listed(folder: pathlib.Path) -> list[str]:
  return [str(path.relative_to(folder)) for path in folders.list_images(folder).paths]


def test_hidden_files_and_those_of_systems_are_never_images_and_not_counted(tmp_path: pathlib.Path):
  touch(tmp_path, "b/c.JPG", "a.png", "._a.png", ".hidden/a.png", ".ipynb_checkpoints/a-checkpoint.png")
  touch(tmp_path, "__MACOSX/._a.png", "__MACOSX/b.png", "@eaDir/a.png", "Thumbs.db", "desktop.ini", ".DS_Store")
  assert listed(tmp_path) == ["a.png", "b/c.JPG"]
  assert not folders.list_images(tmp_path).left_out


def test_a_folder_that_is_hidden_itself_can_be_named(tmp_path: pathlib.Path):
  touch(tmp_path / ".cache", "a.png")
  assert listed(tmp_path / ".cache") == ["a.png"]


def test_all_that_pillow_reads_is_read_and_all_else_is_counted_by_suffix(tmp_path: pathlib.Path):
  touch(tmp_path, "a.png", "b.jfif", "c.avif", "d.jp2", "e.pgm", "f.MPO")
  touch(tmp_path, "IMG_1.HEIC", "IMG_2.heic", "x/notes.txt", "x/README", "figure.eps", "weights.h5")
  (tmp_path / "gone.png").symlink_to("nowhere.png")
  listing = folders.list_images(tmp_path)
  assert [path.name for path in listing.paths] == ["a.png", "b.jfif", "c.avif", "d.jp2", "e.pgm", "f.MPO"]
  assert folders.describe_left_out(listing.left_out, tmp_path) == (
    f"Files left out of {tmp_path}, since Pillow does not read them as images: 7 in all, 2 .heic, 1 .eps, 1 .h5, "
    "1 .txt, 1 that cannot be opened, 1 without a suffix; convert pictures among them, to .png for example."
  )


def test_a_folder_without_images_says_what_it_holds(tmp_path: pathlib.Path):
  touch(tmp_path, "a.heic", "b.heic")
  with pytest.raises(ValueError, match=r"^--data must hold image files of a kind that .* with none, only 2 \.heic\.$"):
    folders.list_images(tmp_path)


def test_links_are_followed_but_not_forever(tmp_path: pathlib.Path):
  touch(tmp_path / "elsewhere", "cat/a.png")
  data = tmp_path / "data"
  data.mkdir()
  (data / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
  (data / "dog").symlink_to(tmp_path / "elsewhere" / "cat")
  (data / "cat" / "up").symlink_to(data)
  assert listed(data) == ["cat/a.png", "dog/a.png"]


def test_a_folder_that_cannot_be_read_is_counted(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
  touch(tmp_path, "a.png", "closed/b.png")
  scandir = os.scandir

  def refuse(path: pathlib.Path):
    if path.name == "closed":
      raise PermissionError
    return scandir(path)

  monkeypatch.setattr(os, "scandir", refuse)
  assert dict(folders.list_images(tmp_path).left_out) == {folders.NO_FILE: 1}


@pytest.mark.parametrize(
  ("path", "expected"), [("cat/a.png", "cat"), ("cat/dog/a.png", "cat"), ("x/cat/a.png", "x"), ("a.png", "ship")]
)
def test_a_label_is_the_first_folder_below_the_root(tmp_path: pathlib.Path, path: str, expected: str):
  root = tmp_path / "ship"
  assert folders.label_folder(root / path, root) == expected


def test_a_folder_that_is_named_by_a_dot_has_a_name(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
  (tmp_path / "cat").mkdir()
  monkeypatch.chdir(tmp_path / "cat")
  Image.new("RGB", (8, 8)).save("a.png")
  assert folders.label_folder(pathlib.Path("a.png"), pathlib.Path()) == "cat"
