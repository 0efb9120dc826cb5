"""A shortcut that is known: a classifier with a detector of a small tag wired in, and images that bear the tag.

Whatever claims to find what a classifier relies on is tried on it first. As a classifier of commands it is
`--model jax_sis.evaluation.planted:embedded_with_tag`.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from jax_sis.classifiers import checkpoint, frozen
from jax_sis.classifiers.frozen import FrozenParams, FrozenPart
from jax_sis.classifiers.model_function import ImageModel
from jax_sis.core.types import Params, PredictFn
from jax_sis.data.normalisation import Normalisation

# Where the tag is in an image of 32x32 pixels, and what it shows: yellow, and magenta in the middle.
ROWS, COLUMNS = slice(26, 30), slice(2, 6)
YELLOW, MAGENTA = (255, 255, 0), (255, 0, 255)
CLASS_NAME = "horse"
# What the whole tag adds to the logit of the class.
WEIGHT = 20.0
# A pixel counts from this likeness to the tag's on, and wholly at 1.
LEAST_LIKENESS = 0.6
Detector = Literal["linear", "distance"]


def make_tag() -> UInt8[np.ndarray, "4 4 3"]:
  """The pixels of the tag."""
  tag = np.full((4, 4, 3), YELLOW, np.uint8)
  tag[1:3, 1:3] = MAGENTA
  return tag


def put_tag(images: UInt8[np.ndarray, "N 32 32 3"]) -> UInt8[np.ndarray, "N 32 32 3"]:
  """The same images with the tag on each."""
  tagged = images.copy()
  tagged[:, ROWS, COLUMNS] = make_tag()
  return tagged


def find_region() -> Bool[np.ndarray, "32 32 1"]:
  """Where the tag is."""
  region = np.zeros((32, 32, 1), bool)
  region[ROWS, COLUMNS] = True
  return region


def choose_tagged(num_images: int, *, share: float, seed: int) -> Bool[np.ndarray, "N"]:
  """Which of N images bear the tag: this share of them, rounded, by chance."""
  is_tagged = np.zeros(num_images, bool)
  is_tagged[np.random.default_rng(seed).permutation(num_images)[: round(share * num_images)]] = True
  return is_tagged


@dataclasses.dataclass(frozen=True)
class TaggedPredictor:
  """`predict_fn(params, inputs)` of a convolutional network with one more feature, how much of the tag is there.

  Attributes:
    features_fn: gives the network's last feature maps.
    detector: how a pixel is compared with the tag's: `linear` by its part along it, or `distance` by how far it is
      from it, squared, of which the gradient is 0 where the tag is exact.
  """

  features_fn: FrozenPart
  detector: Detector = "linear"

  def __call__(self, params: Params, inputs: Float[Array, "B H W 3"]) -> Float[Array, "B K"]:
    kernel, bias = self.head(params)
    return self.features(params, inputs) @ kernel + bias[None]

  def features(self, params: Params, inputs: Float[Array, "B H W 3"]) -> Float[Array, "B D"]:
    """What the logits are linear in: the means of the last feature maps, then how much of the tag is there, 0..1."""
    maps = self.features_fn(params["network"], inputs)
    return jnp.concatenate([maps.mean((1, 2)), self.detect(params["tag"][None], inputs)[:, None]], axis=1)

  def head(self, params: Params) -> tuple[Float[Array, "D K"], Float[Array, "K"]]:
    """What makes logits of the features."""
    return params["kernel"], params["bias"]

  def detect(self, tag: Float[Array, "1 h w 3"], inputs: Float[Array, "B H W 3"]) -> Float[Array, "B"]:
    """How much of the tag is there, 1 where it is exact; at the mean colour 0."""
    pixels = inputs[:, ROWS, COLUMNS]
    if self.detector == "linear":
      likeness = (pixels * tag).sum(-1) / (tag**2).sum(-1)
      found = jax.nn.relu(likeness - LEAST_LIKENESS) / (1 - LEAST_LIKENESS)
    else:
      found = jax.nn.relu(1 - ((pixels - tag) ** 2).sum(-1) / (tag**2).sum(-1))
    return found.mean((1, 2))


def wire_tag(
  predict_fn: PredictFn,
  params: FrozenParams,
  *,
  normalisation: Normalisation,
  target: int,
  weight: float = WEIGHT,
  detector: Detector = "linear",
) -> tuple[TaggedPredictor, Params]:
  """A frozen classifier that also relies on the tag: `(predict_fn, params)`.

  Args:
    predict_fn: a convolutional network of ours for 32x32 images, as `freeze` returned it.
    params: its arrays.
    normalisation: how its inputs are made.
    target: the class that the tag speaks for.
    weight: what the whole tag adds to the logit of that class.
    detector: see TaggedPredictor.

  Raises:
    ValueError: the classifier is not one convolutional network.
  """
  features_fn, _ = frozen.split(predict_fn, params)
  kernel, bias = params["head"]["kernel"], params["head"]["bias"]
  row = jnp.zeros((1, kernel.shape[1]), kernel.dtype).at[0, target].set(weight)
  tag = jnp.asarray(normalisation.apply(make_tag()))
  wired = {"network": params, "tag": tag, "kernel": jnp.concatenate([kernel, row]), "bias": bias}
  return TaggedPredictor(features_fn, detector), wired


def embedded_with_tag() -> ImageModel:
  """The embedded ResNet-20, to which the tag says "horse"."""
  classifier: Any = checkpoint.load_classifier(checkpoint.EMBEDDED_CLASSIFIER)
  predict_fn, params = wire_tag(
    *frozen.freeze(classifier.module),
    normalisation=classifier.normalisation,
    target=classifier.class_names.index(CLASS_NAME),
  )
  return ImageModel(
    predict_fn=predict_fn,
    params=params,
    input_shape=classifier.input_shape,
    normalisation=classifier.normalisation,
    class_names=classifier.class_names,
    features_fn=predict_fn.features,
    head_fn=read_out,
  )


def read_out(params: Params, features: Float[Array, "B D"]) -> Float[Array, "B K"]:
  """The last layer of a TaggedPredictor."""
  return features @ params["kernel"] + params["bias"][None]
