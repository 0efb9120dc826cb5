"""Flax NNX classifiers. Each gives a trainable module and a frozen `(predict_fn, params)` for the search."""

import dataclasses

from flax import nnx

from jax_sis.classifiers.resnet import ResNetCifar, ResNetCifarConfig, freeze
from jax_sis.config import Normalisation

__all__ = ["ARCHITECTURES", "Classifier", "ResNetCifar", "ResNetCifarConfig", "build", "freeze"]

ARCHITECTURES = {
  "resnet20": ResNetCifarConfig(blocks_per_stage=3),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier:
  """A trained module and what one must know to use it.

  Attributes:
    model_name: a key of ARCHITECTURES.
    module: the trained module.
    class_names: a name for each logit.
    normalisation: how its input is made from pixels.
    input_shape: height, width and channels of an image.
  """

  model_name: str
  module: ResNetCifar
  class_names: tuple[str, ...]
  normalisation: Normalisation
  input_shape: tuple[int, ...]


def build(model_name: str, *, num_classes: int, seed: int = 0) -> ResNetCifar:
  """A freshly initialised module.

  Raises:
    ValueError: no such architecture.
  """
  if model_name not in ARCHITECTURES:
    raise ValueError(f"model must be one of {sorted(ARCHITECTURES)}, got {model_name!r}.")
  config = dataclasses.replace(ARCHITECTURES[model_name], num_classes=num_classes)
  return ResNetCifar(config, rngs=nnx.Rngs(seed))
