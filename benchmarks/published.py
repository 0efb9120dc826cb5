"""What the comparisons on CIFAR-10 share: the published ResNet-20, test images by id, and masks judged in float64."""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_sis.classifiers import frozen, state_dicts, torch_weights
from jax_sis.core.scores import log_odds, lost_by
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
  predict_fn, params = load_classifier(options.weights)
  training_set: Any = training_sets.open_training_set(
    "cifar10", "test", data_dir=options.data_dir, image_size=None, on_error="refuse"
  )
  return predict_fn, params, IMAGENET_NORMALISATION.apply(training_set.images, dtype=np.float32)


def load_classifier(weights: str) -> tuple[PredictFn, Params]:
  """The frozen classifier alone."""
  return frozen.freeze(torch_weights.load_module("resnet20", state_dicts.read_state_dict(weights)))


def first_confident(
  predict_fn: PredictFn, params: Params, inputs: Any, *, threshold: float, num_images: int
) -> list[int]:
  """The first images, by id, of which the classifier is as confident as this."""
  confidence = jax.nn.softmax(jax.jit(predict_fn)(params, inputs)).max(1)
  return np.flatnonzero(np.asarray(confidence) >= threshold)[:num_images].tolist()


def judge_in_float64(predict_fn: Any, params: Any, inputs: Any, kept: Any, targets: Any) -> tuple[Any, Any]:
  """The confidence on each subset alone, and by how much the class is lost without it."""
  with jax.enable_x64(True):
    params = jax.tree.map(lambda array: jnp.asarray(array, jnp.float64), params)
    inputs, kept = jnp.asarray(inputs, jnp.float64), jnp.asarray(kept)[..., None]
    targets = jnp.asarray(targets, jnp.int32)
    shown, hidden = (predict_fn(params, inputs * mask) for mask in (kept, ~kept))
    return np.asarray(jax.nn.sigmoid(log_odds(shown, targets))), np.asarray(lost_by(hidden, targets))
