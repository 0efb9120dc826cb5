"""A classifier and images that are opened together: what one knows of the classes, the other need not."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jax_sis.classifiers import checkpoint, on_images
from jax_sis.data.cifar_c import CLASS_NAMES
from jax_sis.data.config import ImageSetConfig
from jax_sis.data.images import Framing, central_crop
from jax_sis.data.sources import number_classes


def test_classes_that_are_only_numbered_get_the_names_of_the_data_set(
  tiny_checkpoint: str, shared_dir: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  tiny = checkpoint.load_classifier(tiny_checkpoint)
  checkpoint.save_classifier(tmp_path / "numbered", dataclasses.replace(tiny, class_names=number_classes(10)))
  data: dict[str, Any] = {"data": "cifar10", "split": "test[:3]", "data_dir": str(shared_dir / "data/tfds")}
  config = ImageSetConfig(out=str(tmp_path), checkpoint=str(tmp_path / "numbered"), **data)
  images = on_images.open_on_images(config, batch_size=1)
  assert images.class_names == images.classifier.class_names == CLASS_NAMES
  assert capsys.readouterr().out == "The checkpoint only numbers its classes; they get the names of cifar10.\n"
  named = on_images.open_on_images(dataclasses.replace(config, checkpoint=tiny_checkpoint), batch_size=1)
  assert named.describe() == images.describe()
  assert capsys.readouterr().out == ""


def test_images_are_read_by_the_recipe_of_the_checkpoint_without_being_asked(
  tiny_checkpoint: str, tmp_path: pathlib.Path
):
  framing = Framing(crop=0.8, interpolation="bicubic", whole_pixels="resized")
  tiny = dataclasses.replace(checkpoint.load_classifier(tiny_checkpoint), framing=framing, recipe="of-a-test")
  checkpoint.save_classifier(tmp_path / "classifier", tiny)
  pixels = np.random.default_rng(0).integers(0, 256, (40, 51, 3), np.uint8)
  Image.fromarray(pixels).save(tmp_path / "a.png")
  config = ImageSetConfig(out=str(tmp_path), checkpoint=str(tmp_path / "classifier"), data=str(tmp_path / "a.png"))
  source = on_images.open_on_images(config, batch_size=1).source
  np.testing.assert_array_equal(source[0]["image"], central_crop(pixels, (32, 32), framing))
  note = (
    "Images of other sizes are shown by the recipe of-a-test: the middle 32 pixels of 40 of the shorter side, bicubic."
  )
  assert source.notes[-1] == note
  shown = {"crop": 0.8, "interpolation": "bicubic", "whole_pixels": "resized"}
  assert source.description.items() >= shown.items()
