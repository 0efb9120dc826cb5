"""Images from files, folders and TFDS: each with its id and label, and one bad image is its own affair."""

import os
import pathlib
import re
import subprocess
import sys
import types
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jax_sis.data import sources, tfds
from jax_sis.data.batches import iterate_batches
from jax_sis.data.images import WHOLE_FRAMING, Framing, central_crop

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (32, 32, 3)


MEAN_COLOUR = (125, 123, 114)


def open_source(name: str | pathlib.Path, **options: Any):
  defaults = {"split": None, "data_dir": None, "class_names": CIFAR_CLASSES, "input_shape": SHAPE}
  return sources.open_source(str(name), **{**defaults, "mean_colour": MEAN_COLOUR, **options})


def save_image(path: pathlib.Path, *, size: tuple[int, int] = (32, 32), mode: str = "RGB", seed: int = 0) -> np.ndarray:
  path.parent.mkdir(parents=True, exist_ok=True)
  num_channels = len(Image.new(mode, (1, 1)).getbands())
  pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], num_channels), np.uint8)
  Image.fromarray(pixels.squeeze()).save(path)
  return pixels


def test_the_sample_is_the_first_24_test_images_of_cifar_10(shared_dir: pathlib.Path, cifar_test):
  images, labels = cifar_test
  sample = open_source("sample")
  assert len(sample) == 24
  for index in range(24):
    record = sample[index]
    assert record["id"] == f"test_{index:05}"
    assert record["label"] == labels[index]
    np.testing.assert_array_equal(record["image"], images[index])


def test_a_folder_gives_its_images_by_path_with_labels_from_class_folders(tmp_path: pathlib.Path):
  cat = save_image(tmp_path / "cat" / "b.png", seed=1)
  save_image(tmp_path / "other" / "a.png", seed=2)
  (tmp_path / "notes.txt").write_text("not an image")
  source = open_source(tmp_path)
  assert [source[index]["id"] for index in range(len(source))] == ["cat/b.png", "other/a.png"]
  assert [source[index]["label"] for index in range(len(source))] == [3, sources.NO_LABEL]
  np.testing.assert_array_equal(source[0]["image"], cat)


def test_a_single_file_is_a_source_of_one(tmp_path: pathlib.Path):
  save_image(tmp_path / "a.png")
  assert len(open_source(tmp_path / "a.png")) == 1


def test_grey_images_become_rgb(tmp_path: pathlib.Path):
  pixels = save_image(tmp_path / "a.png", mode="L")
  np.testing.assert_array_equal(open_source(tmp_path)[0]["image"], np.broadcast_to(pixels, SHAPE))


def test_labels_are_found_whatever_the_case_and_by_number_and_others_are_said(tmp_path: pathlib.Path):
  for name in ("Cat/2024/may/a.png", "3/a.png", "misc/cat/a.png", "train/a.png", "train/b.png"):
    save_image(tmp_path / name)
  source = open_source(tmp_path)
  labels = {source[index]["id"]: source[index]["label"] for index in range(len(source))}
  none = sources.NO_LABEL
  assert labels == {
    "3/a.png": 3,
    "Cat/2024/may/a.png": 3,
    "misc/cat/a.png": none,
    "train/a.png": none,
    "train/b.png": none,
  }
  assert source.notes[1:] == (
    f"Images without a label: 3. A label is the class that the folder just below {tmp_path} is called as: no class is "
    "called 'misc', 'train'.",
  )


def test_a_folder_called_as_several_classes_is_refused_with_their_numbers(tmp_path: pathlib.Path):
  save_image(tmp_path / "crane" / "a.png")
  names = ("crane", "cat", "crane")
  message = (
    "--data must have folders whose names mean one class each, but 'crane' is the name of 0 and 2; call the folder by "
    "the number."
  )
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    open_source(tmp_path, class_names=names)
  (tmp_path / "crane").rename(tmp_path / "2")
  assert open_source(tmp_path, class_names=names)[0]["label"] == 2


def test_how_files_are_read_is_said(tmp_path: pathlib.Path):
  save_image(tmp_path / "a.png")
  (tmp_path / "b.heic").touch()
  start = (
    "Image files are read upright (EXIF), of several frames the first, greyscale and CMYK ones as RGB, transparent "
    "pixels on RGB "
  )
  assert open_source(tmp_path).notes == (
    f"{start}(125, 123, 114), the mean colour.",
    f"Files left out of {tmp_path}, since Pillow does not read them as images: 1 in all, 1 .heic; convert pictures "
    "among them, to .png for example.",
  )
  assert open_source(tmp_path / "a.png", background="white").notes == (f"{start}(255, 255, 255).",)
  assert open_source("sample").notes == ()


def test_transparent_pixels_show_the_colour_that_is_said(tmp_path: pathlib.Path):
  Image.new("RGBA", (32, 32)).save(tmp_path / "a.png")
  assert (open_source(tmp_path)[0]["image"] == np.array(MEAN_COLOUR)).all()
  assert (open_source(tmp_path, background="#ff0000")[0]["image"] == np.array([255, 0, 0])).all()


def test_names_of_files_change_nothing_where_they_are_shown(tmp_path: pathlib.Path):
  # A name that is not UTF-8, one that clears the screen, and one of two lines.
  for name in (b"caf\xe9.png", b"\x1b[2J.png", b"two\nlines.png"):
    save_image(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / os.fsdecode(name))
  source = open_source(tmp_path)
  assert source.ids() == [r"\x1b[2J.png", r"caf\xe9.png", r"two\nlines.png"]
  assert [source[index]["error"] for index in range(3)] == ["", "", ""]
  (tmp_path / os.fsdecode(b"caf\xe9.png")).write_text("no image")
  assert source[1]["error"].isprintable()


def test_an_image_of_another_size_says_what_to_do(tmp_path: pathlib.Path):
  save_image(tmp_path / "a.png", size=(50, 40))
  assert open_source(tmp_path)[0]["error"] == "50x40 pixels, but the classifier takes 32x32; use --resize"


@pytest.mark.parametrize(("crop", "box"), [(1.0, (5, 0, 45, 40)), (0.875, (7.5, 2.5, 42.5, 37.5))])
def test_an_image_of_another_size_shows_its_middle(
  tmp_path: pathlib.Path, crop: float, box: tuple[float, float, float, float]
):
  pixels = save_image(tmp_path / "a.png", size=(50, 40))
  resized = open_source(tmp_path, framing=Framing(crop=crop))[0]
  assert resized["error"] == ""
  expected = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR, box=box)
  np.testing.assert_array_equal(resized["image"], np.asarray(expected))


def test_the_middle_has_the_ratio_that_is_asked_for():
  image = np.zeros((40, 60, 3), np.uint8)
  image[10:30] = 200
  middle = central_crop(image, (5, 15), WHOLE_FRAMING)
  assert middle.shape == (5, 15, 3)
  # The outermost rows are blended with what lies beside them.
  np.testing.assert_array_equal(middle[1:4], np.full((3, 15, 3), 200))
  assert middle.min() > 150


def test_images_of_tfds_are_cropped_as_well(shared_dir: pathlib.Path):
  options = {"split": "test[:3]", "data_dir": shared_dir / "data/tfds"}
  refused = open_source("cifar10", input_shape=(24, 24, 3), **options)[0]
  assert refused["error"] == "32x32 pixels, but the classifier takes 24x24; use --resize"
  cropped = open_source("cifar10", input_shape=(24, 24, 3), framing=Framing(crop=0.75), **options)
  whole = open_source("cifar10", input_shape=(32, 32, 3), **options)
  np.testing.assert_array_equal(cropped[2]["image"], whole[2]["image"][4:28, 4:28])


def test_a_truncated_image_is_an_error_of_that_image_alone(tmp_path: pathlib.Path):
  save_image(tmp_path / "a.png")
  save_image(tmp_path / "b.png")
  (tmp_path / "a.png").write_bytes((tmp_path / "b.png").read_bytes()[:400])
  (tmp_path / "c.png").write_text("no image at all")
  errors = [open_source(tmp_path)[index]["error"] for index in range(3)]
  assert "truncated" in errors[0]
  assert errors[1] == ""
  assert errors[2] == "cannot identify image file 'c.png'"


def test_batches_hold_every_image_once_in_order(tmp_path: pathlib.Path):
  for index in range(7):
    save_image(tmp_path / f"{index}.png", seed=index)
  source = open_source(tmp_path)
  batches = list(iterate_batches(source, [0, 2, 3, 4, 6], 2))
  assert [batch["index"].tolist() for batch in batches] == [[0, 2], [3, 4], [6]]
  assert [str(text) for batch in batches for text in batch["id"]] == ["0.png", "2.png", "3.png", "4.png", "6.png"]
  np.testing.assert_array_equal(batches[1]["image"][1], source[4]["image"])


def test_a_tfds_split_is_read_with_its_ids(shared_dir: pathlib.Path, cifar_test):
  images, labels = cifar_test
  source = open_source("cifar10", split="test[:5]", data_dir=shared_dir / "data/tfds")
  assert len(source) == 5
  for index in range(5):
    record = source[index]
    number = int(record["id"].removeprefix("test_"))
    assert record["label"] == labels[number]
    np.testing.assert_array_equal(record["image"], images[number])


def test_an_empty_folder_is_refused(tmp_path: pathlib.Path):
  with pytest.raises(ValueError, match=re.escape(f"got the folder {str(tmp_path)!r} with none.")):
    open_source(tmp_path)


@pytest.mark.parametrize("name", ["no/such/folder", "missing.png"])
def test_a_missing_path_is_refused(name: str):
  with pytest.raises(
    ValueError, match=re.escape("--data must be an existing image file, folder or .npy, a TFDS data set")
  ):
    open_source(name)


def test_a_data_set_that_is_not_prepared_says_where_it_was_looked_for(tmp_path: pathlib.Path):
  message = f"'cifar10', split 'test', could not be opened in --data-dir {str(tmp_path)!r}"
  with pytest.raises(ValueError, match=re.escape(message)):
    open_source("cifar10", data_dir=tmp_path)


def test_an_unknown_split_is_refused(shared_dir: pathlib.Path):
  with pytest.raises(ValueError, match="split 'validation', could not be opened"):
    open_source("cifar10", split="validation", data_dir=shared_dir / "data/tfds")


def test_a_data_set_with_other_classes_is_refused(shared_dir: pathlib.Path):
  with pytest.raises(ValueError, match="the data set's classes must be the classifier's, got 10 in cifar10"):
    open_source("cifar10", data_dir=shared_dir / "data/tfds", class_names=CIFAR_CLASSES[::-1])


def test_a_data_set_names_classes_that_are_only_numbered(shared_dir: pathlib.Path):
  options: Any = {"split": "test", "data_dir": shared_dir / "data/tfds"}
  source = open_source("cifar10", class_names=sources.number_classes(10), **options)
  assert source.class_names == CIFAR_CLASSES
  for names in (sources.number_classes(11), sources.number_classes(10)[::-1]):
    with pytest.raises(ValueError, match="the data set's classes must be the classifier's, got 10 in cifar10"):
      open_source("cifar10", class_names=names, **options)


@pytest.mark.slow
def test_reading_data_does_not_import_tensorflow(shared_dir: pathlib.Path):
  code = (
    "import sys; from jax_sis.data import tfds; "
    f"tfds.open_data_source('cifar10', 'test', {str(shared_dir / 'data/tfds')!r})[0]; "
    "sys.exit('tensorflow' in sys.modules)"
  )
  assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_chosen_ids_are_shown_in_their_order(shared_dir: pathlib.Path, cifar_test):
  images, labels = cifar_test
  source = open_source("cifar10", data_dir=shared_dir / "data/tfds")
  numbers = [4711, 0, 9999]
  chosen = sources.SelectedSource(source, [f"test_{number:05}" for number in numbers])
  assert len(chosen) == 3
  for index, number in enumerate(numbers):
    record = chosen[index]
    assert (record["index"], record["id"], record["label"]) == (index, f"test_{number:05}", labels[number])
    np.testing.assert_array_equal(record["image"], images[number])


def test_what_is_chosen_is_part_of_the_description():
  sample = open_source("sample")
  ids = ["test_00003", "test_00001"]
  some, turned = sources.SelectedSource(sample, ids), sources.SelectedSource(sample, ids[::-1])
  assert some.description["num_images"] == 2
  assert some.description != turned.description
  assert some.description == sources.SelectedSource(sample, ids).description


def test_ids_that_are_not_there_are_refused():
  message = (
    "--ids must name images of the data ('test_00000', ... in 24), but 2 of 3 belong to no image or to several, such "
    "as 'test_1'."
  )
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    sources.SelectedSource(open_source("sample"), ["test_1", "test_00002", "test_2"])


@pytest.mark.parametrize("features", [None, {"image": None}, {"label": None, "caption": None}])
def test_a_data_set_without_images_or_labels_is_refused(features: dict[str, None] | None):
  source = types.SimpleNamespace(dataset_info=types.SimpleNamespace(features=features))
  message = f"data set 'coco' must have the features image and label, got {sorted(features or ())}."
  with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
    tfds.labelled_features(source, "coco")
