"""What the package works without: libraries that read data sets or train, and those of the tests."""

import json
import pathlib
import subprocess
import sys

import pytest

from jax_sis import results
from jax_sis.data.sources import SAMPLE_DIR
from jax_sis.data.tfds import open_data_source

TESTS = pathlib.Path(__file__).parent
NOT_FOR_FIND = ("grain", "tensorflow_datasets", "array_record", "beartype")
# LIBRARIES COMMANDS TESTS: runs commands in one process in which these libraries cannot be imported.
RUN_WITHOUT = """
import importlib.abc, json, sys

class Blocked(importlib.abc.MetaPathFinder):
  def find_spec(self, name, path, target=None):
    if name.partition(".")[0] in sys.argv[1].split(","):
      raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
sys.path.insert(0, sys.argv[3])
import tiny_classifier
from jax_sis.cli import main
tiny_classifier.register()
sys.exit(max(main.main(words) for words in json.loads(sys.argv[2])))
"""


def rows_of(run: pathlib.Path) -> dict[str, dict[str, str]]:
  """The rows of a run's table by the name of the image's file."""
  table = results.open(run).table()
  names = [pathlib.PurePath(name).stem for name in table["id"]]
  return {
    name: {column: repr(values[row]) for column, values in table.items() if column != "id"}
    for row, name in enumerate(names)
  }


@pytest.mark.slow
def test_find_needs_no_library_of_data_sets(tiny_checkpoint: str, tiny_run: pathlib.Path, tmp_path: pathlib.Path):
  options = ["--checkpoint", tiny_checkpoint, "--patch", "8", "--threshold", "0.9", "--batch", "5", "--devices", "2"]
  options += ["--gallery", "2", "--save", "both", "--mask-threshold", "0.5", "0.9", "--mask-fraction", "0.25"]
  commands = [
    ["find", "--data", data, "--out", str(tmp_path / name), *options]
    for name, data in {"sample": "sample", "folder": str(SAMPLE_DIR)}.items()
  ]
  words = [sys.executable, "-c", RUN_WITHOUT, ",".join(NOT_FOR_FIND), json.dumps(commands), str(TESTS)]
  finished = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
  assert finished.returncode == 0, finished.stderr
  assert len(rows_of(tiny_run)) == 24
  assert rows_of(tmp_path / "sample") == rows_of(tiny_run)
  assert rows_of(tmp_path / "folder") == rows_of(tiny_run)


@pytest.mark.parametrize("library", ["tensorflow_datasets", "array_record"])
def test_a_data_set_without_its_libraries_says_what_is_missing(library: str, monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setitem(sys.modules, library, None)
  message = f"--data cifar10 is read by tensorflow-datasets and array-record, which cannot be imported .*{library}"
  with pytest.raises(ValueError, match=message):
    open_data_source("cifar10", "test", None)
