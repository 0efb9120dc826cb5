"""What a name means, files or a data set of TFDS, and data sets with damaged records."""

import pathlib
import re
from typing import Any

import cifar_files
import numpy as np
import pytest
from PIL import Image

from jax_sis.cli import main
from jax_sis.data import prepare, sources, tfds, training_sets

IMAGE_SIZE = 32
CLASS_NAMES = tuple(cifar_files.CLASS_NAMES["cifar10"]["label"])


def open_source(name: str, **options: Any):
  defaults = {"split": None, "data_dir": None, "class_names": CLASS_NAMES}
  return sources.open_source(
    name, **{**defaults, "input_shape": (IMAGE_SIZE, IMAGE_SIZE, 3), "mean_colour": (0, 0, 0), **options}
  )


@pytest.fixture(autouse=True)
def in_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "default"))


def prepare_small(data_dir: pathlib.Path | str) -> pathlib.Path:
  files = cifar_files.make_files("cifar10", cifar_files.make_splits("cifar10"))
  source = cifar_files.write_folder(pathlib.Path("source"), files)
  return prepare.prepare_images("cifar10", source=source, data_dir=data_dir, num_images=cifar_files.SMALL)


def save_picture(folder: str) -> None:
  pathlib.Path(folder).mkdir(parents=True)
  Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE)).save(pathlib.Path(folder, "mine.png"))


# A name means one thing.


def test_a_data_set_in_the_working_folder_is_found(capsys: pytest.CaptureFixture[str]):
  prepare_small(".")
  assert len(open_source("cifar10", data_dir=".")) == cifar_files.SMALL["test"]
  assert len(training_sets.open_training_set("cifar10", "train", data_dir=".", image_size=None, on_error="skip")) == 25
  message = (
    "--data must mean one thing, but 'cifar10' is both in the working folder and a TFDS data set; say --data ./cifar10 "
    "for what is here, --data-dir . or --split NAME for the data set."
  )
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    open_source("cifar10")
  with pytest.raises(ValueError, match=r"^dataset must mean one thing, .* --data-dir \. for the data set\.$"):
    training_sets.open_training_set("cifar10", "train", data_dir=None, image_size=None, on_error="skip")
  with pytest.raises(ValueError, match=r"not its folder, got './cifar10'; say --data cifar10 --data-dir /.*\.$"):
    open_source("./cifar10")


def test_data_dir_or_split_say_that_a_data_set_is_meant():
  save_picture("cifar10")
  for options in ({"data_dir": "/nowhere"}, {"split": "test[:2]"}):
    with pytest.raises(ValueError, match=r"not there; what is called so here is meant by --data \./cifar10 alone"):
      open_source("cifar10", **options)
  assert open_source("./cifar10").ids() == ["mine.png"]
  # No data set, and none that is at hand.
  save_picture("photos")
  assert open_source("photos").ids() == ["mine.png"]
  pathlib.Path("default/photos").mkdir(parents=True)
  with pytest.raises(ValueError, match="--data must mean one thing, but 'photos' is both"):
    open_source("photos")


@pytest.mark.parametrize("name", ["./photos", "photos/mine.png", "/data/photos"])
def test_files_have_no_split(name: str):
  save_picture("photos")
  message = f"--data-dir and --split are for TFDS data sets, but --data names files, {name!r}"
  for options in ({"data_dir": "."}, {"split": "test"}):
    with pytest.raises(ValueError, match=re.escape(message)):
      open_source(name, **options)


def test_the_sample_has_no_split_and_is_not_a_folder_here():
  with pytest.raises(ValueError, match=r"but --data is 'sample', the embedded images; name the data set by --data\.$"):
    open_source("sample", split="test[:4]")
  save_picture("sample")
  assert open_source("sample").notes == ("--data sample are the embedded images; what is here is --data ./sample.",)
  assert open_source("./sample").ids() == ["mine.png"]


def test_a_configuration_is_part_of_a_name():
  with pytest.raises(ValueError, match="'imagenet_resized/32x32', split 'validation', could not be opened"):
    open_source("imagenet_resized/32x32", split="validation")
  with pytest.raises(ValueError, match=r"--data must be an existing image file, folder or \.npy"):
    open_source("photos/mistyped")


def test_a_background_is_for_files():
  with pytest.raises(ValueError, match=r"^--background is for image files, but --data cifar10 is a TFDS data set"):
    open_source("cifar10", background="white")


def test_what_prepare_advises_means_the_data_set(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
  monkeypatch.setattr(prepare, "NUM_IMAGES", cifar_files.SMALL)
  files = cifar_files.make_files("cifar10", cifar_files.make_splits("cifar10"))
  source = cifar_files.write_folder(pathlib.Path("source"), files)
  prepare_command = ["data", "prepare", "cifar10", "--from", str(source)]
  for place, expected in {"--data-dir=.": "--data-dir .", "": "--split test"}.items():
    assert main.main([*prepare_command, *([place] if place else [])]) == 0
    assert capsys.readouterr().out.endswith(f"use it by jax-sis find --data cifar10 {expected}\n")
  assert len(open_source("cifar10", split="test")) == len(open_source("cifar10", data_dir=".")) == 10


# Order and damage.


def test_a_slice_says_in_which_order_it_counts():
  prepare_small("data")
  source = open_source("cifar10", split="test[:6]", data_dir="data")
  assert source.notes == (
    "The split test[:6] counts in the order in which the data set is stored, which TFDS shuffles; it begins with "
    f"{source[0]['id']}.",
  )
  assert source[0]["id"] != "test_00000"
  assert open_source("cifar10", data_dir="data").notes == ()


def test_a_damaged_record_is_the_error_of_its_image_alone():
  (shard,) = prepare_small("data").glob("*test.array_record*")
  whole = open_source("cifar10", data_dir="data")
  content = bytearray(shard.read_bytes())
  place = [found.start() for found in re.finditer(b"\x89PNG", content)][3]
  content[place + 60 : place + 100] = bytes(40)
  shard.write_bytes(content)
  source = open_source("cifar10", data_dir="data")
  records = [source[index] for index in range(10)]
  assert [index for index in range(10) if records[index]["error"]] == [3]
  assert records[3]["error"].startswith("record 3 cannot be read: Corrupted")
  assert not records[3]["image"].any()
  assert (records[3]["id"], records[3]["label"]) == ("00000003", sources.NO_LABEL)
  assert source.ids() == [record["id"] for record in records]
  for index in (0, 9):
    np.testing.assert_array_equal(records[index]["image"], whole[index]["image"])
  options: Any = {"data_dir": "data", "image_size": None}
  with pytest.raises(ValueError, match=r"^record 3 cannot be read: Corrupted.* set on_error='skip'\.$"):
    training_sets.open_training_set("cifar10", "test", **options, on_error="refuse")
  assert len(training_sets.open_training_set("cifar10", "test", **options, on_error="skip")) == 9


def test_an_image_that_cannot_be_decoded_keeps_its_id_and_label(monkeypatch: pytest.MonkeyPatch):
  prepare_small("data")
  source = open_source("cifar10", data_dir="data")
  expected = [(source[index]["id"], source[index]["label"]) for index in range(10)]
  read = tfds.read_example

  def refuse(examples: Any, index: int):
    example = read(examples, index)
    if isinstance(example["image"], np.ndarray):
      raise ValueError("no image")
    return example

  monkeypatch.setattr(tfds, "read_example", refuse)
  assert [(source[index]["id"], source[index]["label"]) for index in range(10)] == expected
  assert source[0]["error"] == "no image"


def test_ids_of_a_data_set_change_nothing_where_they_are_shown():
  assert tfds.tfds_id({"id": b"\x1b[2J\xff"}, 0) == r"\x1b[2J\xff"
