"""Flax NNX classifiers. Each gives a trainable module and a frozen `(predict_fn, params)` for the search."""

import dataclasses
from typing import Any

import jax
from flax import nnx

from jax_sis.classifiers.convnext import ConvNext, ConvNextConfig
from jax_sis.classifiers.ensemble import Average, Ensemble, EnsembleConfig
from jax_sis.classifiers.fixed import FixConfig, Fixed
from jax_sis.classifiers.frozen import FrozenParams, FrozenPart, FrozenPredictor, freeze, split
from jax_sis.classifiers.inception import Inception, InceptionConfig
from jax_sis.classifiers.mobile import MobileConfig, MobileNet
from jax_sis.classifiers.mobile_sizes import MOBILE_NETWORKS
from jax_sis.classifiers.model_function import ImageModel
from jax_sis.classifiers.resnet import ResNet, ResNetConfig
from jax_sis.classifiers.squeezenet import SqueezeNet, SqueezeNetConfig
from jax_sis.classifiers.vgg import Vgg, VggConfig
from jax_sis.classifiers.vit import VITS, ViT, ViTConfig
from jax_sis.classifiers.wide_resnet import WideResNet, WideResNetConfig
from jax_sis.data.images import WHOLE_FRAMING, Framing
from jax_sis.data.normalisation import Normalisation

__all__ = [
  "ARCHITECTURES",
  "Average",
  "Classifier",
  "ConvNext",
  "ConvNextConfig",
  "Ensemble",
  "EnsembleConfig",
  "FixConfig",
  "Fixed",
  "Framing",
  "FrozenParams",
  "FrozenPart",
  "FrozenPredictor",
  "ImageModel",
  "Inception",
  "InceptionConfig",
  "MobileConfig",
  "MobileNet",
  "Normalisation",
  "ResNet",
  "ResNetConfig",
  "SqueezeNet",
  "SqueezeNetConfig",
  "Vgg",
  "VggConfig",
  "ViT",
  "ViTConfig",
  "WideResNet",
  "WideResNetConfig",
  "architecture",
  "build",
  "build_abstract",
  "build_ensemble",
  "freeze",
  "split",
]

ArchitectureConfig = (
  ResNetConfig
  | VggConfig
  | WideResNetConfig
  | InceptionConfig
  | MobileConfig
  | SqueezeNetConfig
  | ConvNextConfig
  | ViTConfig
)

IMAGENET_RESNET = ResNetConfig(
  blocks=(2, 2, 2, 2), widths=(64, 128, 256, 512), stem="large", projection=True, num_classes=1000
)
ARCHITECTURES: dict[str, ArchitectureConfig] = {
  "resnet20": ResNetConfig(blocks=(3, 3, 3), widths=(16, 32, 64)),
  "resnet32": ResNetConfig(blocks=(5, 5, 5), widths=(16, 32, 64)),
  "resnet44": ResNetConfig(blocks=(7, 7, 7), widths=(16, 32, 64)),
  "resnet56": ResNetConfig(blocks=(9, 9, 9), widths=(16, 32, 64)),
  "resnet18": ResNetConfig(blocks=(2, 2, 2, 2), widths=(64, 128, 256, 512), projection=True),
  "resnet18_imagenet": IMAGENET_RESNET,
  "resnet34": dataclasses.replace(IMAGENET_RESNET, blocks=(3, 4, 6, 3)),
  "resnet50": dataclasses.replace(IMAGENET_RESNET, blocks=(3, 4, 6, 3), bottleneck=True),
  "resnet101": dataclasses.replace(IMAGENET_RESNET, blocks=(3, 4, 23, 3), bottleneck=True),
  "vgg16": VggConfig(widths=((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)),
  "wrn28_10": WideResNetConfig(),
  "inception_v3": InceptionConfig(),
  **MOBILE_NETWORKS,
  "squeezenet1_1": SqueezeNetConfig(),
  "convnext_t": ConvNextConfig(blocks=(3, 3, 9, 3), widths=(96, 192, 384, 768)),
  **VITS,
}
MODULES: dict[type, Any] = {
  ResNetConfig: ResNet,
  VggConfig: Vgg,
  WideResNetConfig: WideResNet,
  InceptionConfig: Inception,
  MobileConfig: MobileNet,
  SqueezeNetConfig: SqueezeNet,
  ConvNextConfig: ConvNext,
  ViTConfig: ViT,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier:
  """A trained module and what is needed to use it.

  Attributes:
    model_name: a key of ARCHITECTURES, or the name of an ensemble or of a fixed classifier.
    module: the trained module.
    class_names: a name for each logit.
    normalisation: how its input is made from pixels.
    input_shape: height, width and channels of an image.
    framing: what to show of an image of another size.
    recipe: the name of the published recipe that its input is made by; None for inputs of its own.
    ensemble: what an ensemble is made of; None for a single network.
    fix: which components were removed from its logits; None for none.

  Examples:
    >>> from jax_sis import classifiers
    >>> plain = classifiers.Normalisation(mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> module = classifiers.build("resnet20", num_classes=2)
    >>> classifier = classifiers.Classifier(
    ...   model_name="resnet20", module=module, class_names=("cat", "dog"), normalisation=plain, input_shape=(32, 32, 3)
    ... )
    >>> predict_fn, params = classifiers.freeze(classifier.module)
    >>> classifier.class_names, classifier.framing.crop
    (('cat', 'dog'), 1.0)
  """

  model_name: str
  module: Any
  class_names: tuple[str, ...]
  normalisation: Normalisation
  input_shape: tuple[int, ...]
  framing: Framing = WHOLE_FRAMING
  recipe: str | None = None
  ensemble: EnsembleConfig | None = None
  fix: FixConfig | None = None


def build(model_name: str, *, num_classes: int, seed: int = 0) -> Any:
  """A freshly initialised module: normalised images `[B, H, W, 3]` -> logits `[B, K]`.

  Args:
    model_name: a key of ARCHITECTURES.
    num_classes: K.
    seed: of its random weights.

  Returns:
    The module, in training mode.

  Raises:
    ValueError: no such architecture.

  Examples:
    The trainable module, and what searches take of it; here what it gives is asked without being computed:

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jax_sis import classifiers
    >>> predict_fn, params = classifiers.freeze(classifiers.build("resnet20", num_classes=2))
    >>> jax.eval_shape(predict_fn, params, jnp.ones((1, 32, 32, 3))).shape
    (1, 2)
  """
  config = dataclasses.replace(architecture(model_name), num_classes=num_classes)
  return MODULES[type(config)](config, rngs=nnx.Rngs(seed))


def build_abstract(model_name: str, *, num_classes: int) -> Any:
  """What `build` gives, with shapes in place of arrays: several times as fast, since nothing random is counted.

  Args:
    model_name: a key of ARCHITECTURES.
    num_classes: K.

  Returns:
    The module, whose arrays are `jax.ShapeDtypeStruct`.

  Raises:
    ValueError: no such architecture.

  Examples:
    How many parameters a network has, without making any:

    >>> import jax
    >>> from flax import nnx
    >>> from jax_sis import classifiers
    >>> module = classifiers.build_abstract("resnet20", num_classes=10)
    >>> sum(one.size for one in jax.tree.leaves(nnx.state(module, nnx.Param)))
    269722
  """
  config = dataclasses.replace(architecture(model_name), num_classes=num_classes)
  return nnx.eval_shape(lambda: MODULES[type(config)](config, rngs=OneKey()))


class OneKey(nnx.Rngs):
  """Gives the same key again and again. The counts of `nnx.Rngs` cost time that grows with their square in a trace."""

  def __init__(self) -> None:
    pass

  def params(self) -> Any:
    """The key."""
    return jax.random.key(0)


def build_ensemble(config: EnsembleConfig, *, num_classes: int) -> Ensemble:
  """Freshly initialised members, each with a seed of its own.

  Args:
    config: the members' architectures, and what is averaged.
    num_classes: K, of each of them.

  Returns:
    The ensemble, in training mode.

  Raises:
    ValueError: no such architecture.

  Examples:
    >>> from jax_sis import classifiers
    >>> config = classifiers.EnsembleConfig(members=("resnet20", "resnet20"))
    >>> ensemble = classifiers.build_ensemble(config, num_classes=2)
    >>> [type(member).__name__ for member in ensemble.members]
    ['ResNet', 'ResNet']
  """
  members = [build(name, num_classes=num_classes, seed=seed) for seed, name in enumerate(config.members)]
  return Ensemble(members, config)


def architecture(model_name: str) -> ArchitectureConfig:
  """The configuration of the architecture with this name.

  Args:
    model_name: a key of ARCHITECTURES.

  Returns:
    The configuration, for as many classes as are usual; `dataclasses.replace` gives it others.

  Raises:
    ValueError: there is none.

  Examples:
    >>> from jax_sis import classifiers
    >>> classifiers.architecture("resnet20").blocks, "resnet20" in classifiers.ARCHITECTURES
    ((3, 3, 3), True)
  """
  if model_name not in ARCHITECTURES:
    raise ValueError(f"model must be one of {sorted(ARCHITECTURES)}, got {model_name!r}.")
  return ARCHITECTURES[model_name]
