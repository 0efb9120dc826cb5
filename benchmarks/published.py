"""What the comparisons on CIFAR-10 run on: the published ResNet-20 and test images by id."""

import argparse
from typing import Any

import jax
import numpy as np

from jax_sis.classifiers import frozen, state_dicts, torch_weights
from jax_sis.core.types import Params, PredictFn
from jax_sis.data import training_sets
from jax_sis.data.normalisation import Normalisation

IMAGENET_NORMALISATION = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def add_options(parser: argparse.ArgumentParser) -> None:
  """Where the classifier and the images are."""
  parser.add_argument("--weights", required=True, help="the published ResNet-20 state dict, resnet20-12fca82f.th")
  parser.add_argument("--data-dir", required=True, help="the TFDS folder with cifar10")


def load(options: argparse.Namespace) -> tuple[PredictFn, Params, Any]:
  """The frozen classifier `(predict_fn, params)`, and all test images by id as inputs `[10000, 32, 32, 3]`."""
  module = torch_weights.load_module("resnet20", state_dicts.read_state_dict(options.weights))
  predict_fn, params = frozen.freeze(module)
  training_set: Any = training_sets.open_training_set(
    "cifar10", "test", data_dir=options.data_dir, image_size=None, on_error="refuse"
  )
  return predict_fn, params, IMAGENET_NORMALISATION.apply(training_set.images, dtype=np.float32)


def first_confident(
  predict_fn: PredictFn, params: Params, inputs: Any, *, threshold: float, num_images: int
) -> list[int]:
  """The first images, by id, of which the classifier is as confident as this."""
  confidence = jax.nn.softmax(jax.jit(predict_fn)(params, inputs)).max(1)
  return np.flatnonzero(np.asarray(confidence) >= threshold)[:num_images].tolist()
