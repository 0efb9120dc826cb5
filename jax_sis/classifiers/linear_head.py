"""A classifier in two parts: the features of an image, and logits that are a linear function of them."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jax_sis.classifiers import Classifier
from jax_sis.classifiers.frozen import FrozenPart, FrozenPredictor
from jax_sis.classifiers.model_function import LoadedModel
from jax_sis.core.messages import first_line
from jax_sis.core.types import Params, PredictFn

FeaturesFn = Callable[[Params, Array], Float[Array, "B E"]]
HeadFn = Callable[[Params, Array], Float[Array, "B K"]]
NUM_TRIED = 2
# How far logits by the two parts may be from the classifier's, as a share of the largest.
TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearHead:
  """The last layer of a classifier: `logits = features @ kernel + bias`.

  Attributes:
    features_fn: `(params, inputs [B, H, W, C]) -> features [B, E]`, with the classifier's arrays.
    kernel: how much each feature counts for each class.
    bias: of each class.
  """

  features_fn: FeaturesFn
  kernel: Float[np.ndarray, "E K"]
  bias: Float[np.ndarray, "K"]


def find_parts(classifier: Classifier | LoadedModel, predict_fn: PredictFn) -> tuple[FeaturesFn, HeadFn]:
  """What gives the features, and what makes logits of them; ValueError where a user's function does not say."""
  if isinstance(classifier, LoadedModel):
    if classifier.features_fn is None or classifier.head_fn is None:
      raise ValueError(
        "its ImageModel has no features_fn, (params, inputs) -> features [B, E], and head_fn, (params, features) -> "
        "logits; give both."
      )
    return classifier.features_fn, classifier.head_fn
  assert isinstance(predict_fn, FrozenPredictor)
  return FrozenPart(predict_fn.graphdef, "penultimate"), FrozenPart(predict_fn.graphdef, "read_out")


def find_linear_head(classifier: Classifier | LoadedModel, predict_fn: PredictFn, params: Params) -> LinearHead:
  """Splits a classifier before its last layer, and tries on noise that the parts give its logits.

  Args:
    classifier: ours, or one of a user's function.
    predict_fn: what is searched of it.
    params: the arrays of that.

  Raises:
    ValueError: it cannot be split, and why.
  """
  noise = jnp.asarray(np.random.default_rng(0).normal(size=(NUM_TRIED, *classifier.input_shape)).astype(np.float32))
  try:
    features_fn, head_fn = find_parts(classifier, predict_fn)
    with jax.default_matmul_precision("highest"):
      features = features_fn(params, noise)
      if features.ndim != 2:
        raise ValueError(f"its features must be numbers of each image, [B, E], got the shape {list(features.shape)}.")
      num_features = features.shape[1]
      bias = np.asarray(head_fn(params, jnp.zeros((1, num_features))), np.float64)[0]
      kernel = np.asarray(head_fn(params, jnp.eye(num_features)), np.float64) - bias
      logits = np.asarray(predict_fn(params, noise), np.float64)
    difference = np.abs(np.asarray(features, np.float64) @ kernel + bias - logits).max()
    if not difference <= TOLERANCE * max(np.abs(logits).max(), 1.0):
      raise ValueError(f"its logits are no linear function of its features: they differ by up to {difference:.3g}.")
  except (ValueError, TypeError) as error:
    raise ValueError(
      f"the classifier {classifier.model_name} cannot be split into features and a linear last layer: "
      f"{first_line(error)}"
    ) from error
  return LinearHead(features_fn=features_fn, kernel=kernel, bias=bias)
