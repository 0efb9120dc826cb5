"""Inputs of published weights: which recipe is taken, what is said of it, and how to have another."""

import json
import pathlib
import re
from typing import Any

import numpy as np
import pytest
import random_weights

from jax_sis.classifiers import checkpoint, import_checkpoint
from jax_sis.classifiers.recipes import LITE, OF_TIMM, OF_TORCHVISION, OF_TORCHVISION_V2, RECIPES, find_recipe
from jax_sis.cli import main
from jax_sis.data.images import Framing
from jax_sis.data.normalisation import IMAGENET_NORMALISATION, NORMALISATIONS


@pytest.mark.parametrize(
  ("model_name", "source", "path", "expected"),
  [
    ("resnet50", "torchvision and timm", "resnet50-0676ba61.pth", OF_TORCHVISION),
    ("resnet50", "torchvision and timm", "weights/resnet50-11ad3fa6.pth", OF_TORCHVISION_V2),
    ("resnet50", "transformers", "pytorch_model.bin", OF_TIMM),
    ("inception_v3", "torchvision", "i.pth", RECIPES["bilinear-299-342-half"]),
    ("mobilenet_v2", "torchvision", "m.pth", OF_TORCHVISION),
    ("mobilenet_v2", "timm", "m.pth", OF_TIMM),
    ("efficientnet_lite4", "efficientnet-pytorch", "l.pth", LITE[4]),
    ("efficientnet_lite4", "timm", "l.pth", RECIPES["bilinear-380-413-half"]),
    ("resnet20", "pytorch-cifar", "r.pth", None),
  ],
)
def test_the_recipe_is_that_of_the_weights(model_name: str, source: str, path: str, expected: object):
  assert find_recipe(None, model_name=model_name, source=source, path=path) == expected


def test_a_recipe_says_its_size_crop_interpolation_and_normalisation():
  assert str(OF_TIMM) == (
    "bicubic-224-256 (the middle 224 pixels of 256 of the shorter side, bicubic; less 0.485, 0.456, 0.406, by 0.229, "
    "0.224, 0.225)"
  )
  pixels = np.array([[0, 127, 255]], np.uint8)
  np.testing.assert_allclose(LITE[0].normalisation.apply(pixels), [[-127 / 128, 0, 1]], atol=1e-6)


def test_a_recipe_is_taken_stored_and_named(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  arrays: dict[str, Any] = {**random_weights.read_golden_logits("resnet20").state_dict()}
  np.savez(tmp_path / "weights.npz", **arrays)
  out = tmp_path / "out"
  command = ["checkpoint", "import", str(tmp_path / "weights.npz"), "--out", str(out)]
  assert main.main(command) == 2
  said = " ".join(capsys.readouterr().err.split())
  assert "--normalisation must say how the inputs of resnet20 are made, since no recipe of it is known" in said
  assert main.main([*command, "--recipe", "bicubic-224-256"]) == 0
  assert capsys.readouterr().out.startswith("Inputs are made by the recipe bicubic-224-256 (the middle 224 pixels of ")
  description = json.loads((out / "classifier.json").read_text())
  assert {name: description[name] for name in ("recipe", "crop", "interpolation", "whole_pixels", "input_shape")} == {
    "recipe": "bicubic-224-256",
    "crop": 0.875,
    "interpolation": "bicubic",
    "whole_pixels": "resized",
    "input_shape": [224, 224, 3],
  }
  loaded = checkpoint.load_classifier(out)
  assert loaded.recipe == "bicubic-224-256"
  assert loaded.framing == Framing(crop=0.875, interpolation="bicubic", whole_pixels="resized")


def refuses(message: str) -> pytest.RaisesExc[ValueError]:
  return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


def test_another_size_or_normalisation_is_an_input_of_ones_own():
  options = {"model_name": "resnet50", "is_named": False}
  with refuses(
    "--size must be 224, that of the recipe bilinear-224-256, got 192; leave it out or give --normalisation as well, "
    "for inputs of your own."
  ):
    import_checkpoint.choose_inputs(OF_TORCHVISION, None, 192, **options)
  assert import_checkpoint.choose_inputs(OF_TORCHVISION, IMAGENET_NORMALISATION, None, **options) == OF_TORCHVISION
  own = import_checkpoint.choose_inputs(OF_TORCHVISION, NORMALISATIONS["cifar10"], 192, **options)
  assert (own.name, own.size, own.framing) == ("", 192, OF_TORCHVISION.framing)
  with refuses("--recipe and --normalisation must not both be given; a recipe has a normalisation of its own."):
    import_checkpoint.choose_inputs(OF_TIMM, IMAGENET_NORMALISATION, None, model_name="resnet50", is_named=True)
  with pytest.raises(ValueError, match=r"^--recipe must be one of bilinear-224-256, .*, got 'resnet'\.$"):
    find_recipe("resnet", model_name="resnet50", source="timm")


def test_classes_of_imagenet_are_named_and_a_background_must_be():
  assert import_checkpoint.name_classes(None, 1000, is_published=True)[0] == "tench"
  assert import_checkpoint.name_classes(None, 1000, is_published=False)[0] == "0"
  assert import_checkpoint.name_classes(None, 10, is_published=True) == tuple("0123456789")
  names = tuple(map(str, range(1001)))
  assert import_checkpoint.name_classes(names, 1001, is_published=True) == names
  for given in (None, names[1:]):
    got = 0 if given is None else 1000
    with refuses(
      f"class_names must have a name for each of the 1001 classes, got {got}; the first of 1,001 is TensorFlow's "
      "background, so begin --classes by a name for it."
    ):
      import_checkpoint.name_classes(given, 1001, is_published=True)
