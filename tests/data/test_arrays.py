"""Data sets beside the training one: arrays as CIFAR-10.1 has them, folders as ImageNetV2 has them."""

import pathlib
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jax_sis.data import sources
from jax_sis.data.arrays import ArraySource
from jax_sis.data.images import WHOLE_FRAMING
from jax_sis.data.labels import NO_LABEL

CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck truck2 truck3".split())
SHAPE = (32, 32, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)


def open_source(path: pathlib.Path, **options: Any) -> sources.ListedSource:
  defaults = {"split": None, "data_dir": None, "class_names": CLASSES, "input_shape": SHAPE}
  return sources.open_source(str(path), **{**defaults, "mean_colour": (0, 0, 0), **options})


def save(path: pathlib.Path, *labels: int, name: str = "v6_labels.npy", pixels: np.ndarray = PIXELS) -> pathlib.Path:
  np.save(path / "v6_data.npy", pixels)
  if labels:
    np.save(path / name, np.array(labels, np.int32))
  return path / "v6_data.npy"


@pytest.mark.parametrize("name", ["v6_labels.npy", "labels.npy"])
def test_an_array_gives_its_images_by_number_with_the_labels_beside_it(tmp_path: pathlib.Path, name: str):
  source = open_source(save(tmp_path, 9, 0, 3, name=name))
  assert isinstance(source, ArraySource)
  assert [source[index]["label"] for index in range(3)] == [9, 0, 3]
  assert source.ids() == ["0", "1", "2"]
  np.testing.assert_array_equal([source[index]["image"] for index in range(3)], PIXELS)
  assert source.notes == (f"Labels are those of {tmp_path / name}.",)


def test_an_array_without_labels_says_where_they_were_looked_for(tmp_path: pathlib.Path):
  source = open_source(save(tmp_path))
  assert source[0]["label"] == NO_LABEL
  assert source.notes == (f"No image has a label: {str(tmp_path / 'v6_labels.npy')!r} is not there.",)


def test_images_of_another_size_are_resized_where_that_is_asked_for(tmp_path: pathlib.Path):
  path = save(tmp_path, pixels=np.full((2, 64, 48, 3), 7, np.uint8))
  with pytest.raises(ValueError, match=re.escape("got uint8[2, 64, 48, 3]; --resize brings other sizes to it.")):
    open_source(path)
  source = open_source(path, framing=WHOLE_FRAMING)
  assert source[1]["image"].shape == SHAPE
  assert source.read_whole(1).shape == (64, 48, 3)


@pytest.mark.parametrize(
  ("labels", "message"),
  [
    ((0, 1), "must hold the label of each image beside it, [3] whole numbers from 0 to 11, got int32[2];"),
    ((0, 1, 12), "from 0 to 11, got int32[3], from 0 to 12;"),
  ],
)
def test_labels_that_are_not_of_the_images_are_refused(tmp_path: pathlib.Path, labels: tuple[int, ...], message: str):
  with pytest.raises(ValueError, match=re.escape(message)):
    open_source(save(tmp_path, *labels))


@pytest.mark.parametrize("pixels", [PIXELS / 255, PIXELS[0], PIXELS[..., :1], PIXELS[:0]])
def test_arrays_of_anything_but_pixels_are_refused(tmp_path: pathlib.Path, pixels: np.ndarray):
  with pytest.raises(ValueError, match=re.escape("must hold 8-bit pixels [N, 32, 32, 3], as the classifier takes")):
    open_source(save(tmp_path, pixels=pixels))


def test_a_damaged_array_is_refused(tmp_path: pathlib.Path):
  path = save(tmp_path)
  path.write_bytes(path.read_bytes()[:50])
  with pytest.raises(ValueError, match=r"v6_data.npy' cannot be read"):
    open_source(path)


def test_folders_called_by_number_are_classes_in_the_order_of_numbers(tmp_path: pathlib.Path):
  for number in (0, 2, 10, 11):
    folder = tmp_path / str(number)
    folder.mkdir()
    Image.fromarray(PIXELS[0]).save(folder / "a.png")
  source = open_source(tmp_path)
  assert {source[index]["id"]: source[index]["label"] for index in range(4)} == {
    "0/a.png": 0,
    "2/a.png": 2,
    "10/a.png": 10,
    "11/a.png": 11,
  }
