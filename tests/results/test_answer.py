"""The files of an answer: what they hold, and in which order they come."""

import json
import pathlib

import pytest

from jax_sis.results.answer import encode_csv, encode_json, write_answer
from jax_sis.results.folder import Folder, open_folder


def test_the_numbers_come_last_and_all_files_are_named(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
  written = []
  write = Folder.write
  monkeypatch.setattr(Folder, "write", lambda self, name, content: (written.append(name), write(self, name, content)))
  files = {"a.csv": b"1\r\n", "a.png": b"png"}
  found = write_answer(open_folder(tmp_path), "a.json", {"sizes": (1, 2), "none": None}, files, beside=["more"])
  assert written == ["a.csv", "a.png", "a.json"]
  assert found == json.loads((tmp_path / "a.json").read_bytes()) == {"sizes": [1, 2], "none": None}
  assert (tmp_path / "a.png").read_bytes() == b"png"
  assert capsys.readouterr().out == f"Written to {tmp_path}: a.json, a.csv, a.png, more\n"


def test_a_number_that_is_not_finite_is_refused_before_anything_is_written(tmp_path: pathlib.Path):
  with pytest.raises(ValueError, match="not JSON compliant"):
    write_answer(open_folder(tmp_path), "a.json", {"mean": float("nan")}, {"a.csv": b""})
  assert list(tmp_path.iterdir()) == []
  assert encode_json({"a": 1}) == b'{\n  "a": 1\n}\n'


def test_the_table_is_read_again(tmp_path: pathlib.Path):
  rows = [{"id": 'a "b", c', "size": 3, "is_right": True}, {"id": "d", "size": None, "is_right": False}]
  assert encode_csv(rows) == b'id,size,is_right\r\n"a ""b"", c",3,True\r\nd,,False\r\n'
  assert encode_csv([]) == b""


@pytest.mark.parametrize(
  ("text", "cell"),
  [
    ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
    ("+1", "'+1"),
    ("-1+2.png", "'-1+2.png"),
    ("@SUM", "'@SUM"),
    ("-", "-"),
    ("a=1", "a=1"),
    (-0.5, "-0.5"),
  ],
)
def test_a_formula_is_a_text(text: object, cell: str):
  assert encode_csv([{"id": text}]) == f"id\r\n{cell}\r\n".encode()
