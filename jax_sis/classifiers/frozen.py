"""The frozen form of a classifier: `(predict_fn, params)` with every batch norm folded, at inference speed."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jax_sis.classifiers.fixed import Fixed
from jax_sis.classifiers.layers import ConvNet, ConvNorm, PreNorm
from jax_sis.core.types import PredictFn

FrozenParams = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class FrozenPredictor:
  """`predict_fn(params, inputs)` of an NNX module: pure, without arrays, and equal for equal architectures.

  Attributes:
    graphdef: the module without its arrays.
    takes_presence: whether the module can be told which pixels are there, see `ViT`.

  Examples:
    Two networks of the same architecture share one function, and so one compilation:

    >>> from flax import nnx
    >>> from jax_sis import classifiers
    >>> config = classifiers.ResNetConfig(blocks=(1,), widths=(4,), num_classes=3)
    >>> modules = [classifiers.ResNet(config, rngs=nnx.Rngs(seed)) for seed in range(2)]
    >>> (first_fn, _), (second_fn, _) = map(classifiers.freeze, modules)
    >>> first_fn == second_fn
    True
  """

  graphdef: nnx.GraphDef
  takes_presence: bool = False

  def __call__(self, params: FrozenParams, inputs: Float[Array, "B ..."]) -> Float[Array, "B K"]:
    return nnx.merge(self.graphdef, params)(inputs)

  @property
  def presence_fn(self) -> "FrozenPresence | None":
    """The same with a third argument, which pixels are there; None where the module takes none."""
    return FrozenPresence(self.graphdef) if self.takes_presence else None


@dataclasses.dataclass(frozen=True)
class FrozenPresence:
  """`(params, inputs, present)` -> the logits of an NNX module that is told which pixels are there."""

  graphdef: nnx.GraphDef

  def __call__(
    self, params: FrozenParams, inputs: Float[Array, "B H W C"], present: Float[Array, "B H W"]
  ) -> Float[Array, "B K"]:
    return nnx.merge(self.graphdef, params)(inputs, present)


@dataclasses.dataclass(frozen=True)
class FrozenPart:
  """One of the two functions that make up a frozen network, with the same arrays.

  Attributes:
    graphdef: the module without its arrays.
    method: which part of it.

  Examples:
    The half of a network from its last feature maps to its logits:

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from jax_sis import classifiers
    >>> config = classifiers.ResNetConfig(blocks=(1,), widths=(4,), num_classes=3)
    >>> predict_fn, params = classifiers.freeze(classifiers.ResNet(config, rngs=nnx.Rngs(0)))
    >>> features_fn, head_fn = classifiers.split(predict_fn, params)
    >>> isinstance(head_fn, classifiers.FrozenPart), head_fn(params, jnp.ones((2, 8, 8, 4))).shape
    (True, (2, 3))
  """

  graphdef: nnx.GraphDef
  method: Literal["features", "classify", "penultimate", "read_out"]

  def __call__(self, params: FrozenParams, inputs: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    return getattr(nnx.merge(self.graphdef, params), self.method)(inputs)


def split(predict_fn: PredictFn, params: FrozenParams) -> tuple[FrozenPart, FrozenPart]:
  """The functions `(features_fn, head_fn)` that make up a frozen network, one after the other, as `GradCam` takes them.

  Args:
    predict_fn: what `freeze` gave of a convolutional network.
    params: the same.

  Returns:
    `features_fn(params, inputs)`, which gives the last feature maps `[B, h, w, D]`, after their rectifier and before
    pooling, and `head_fn(params, features)`, which gives the logits `[B, K]`.

  Raises:
    ValueError: it is not a single convolutional network of ours.

  Examples:
    Both halves together are the network:

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from jax_sis import classifiers
    >>> config = classifiers.ResNetConfig(blocks=(1,), widths=(4,), num_classes=3)
    >>> predict_fn, params = classifiers.freeze(classifiers.ResNet(config, rngs=nnx.Rngs(0)))
    >>> features_fn, head_fn = classifiers.split(predict_fn, params)
    >>> images = jnp.ones((1, 8, 8, 3))
    >>> bool(jnp.allclose(head_fn(params, features_fn(params, images)), predict_fn(params, images), rtol=1e-4))
    True
  """
  if not isinstance(predict_fn, FrozenPredictor):
    raise ValueError(f"predict_fn must be what `freeze` returned, got {type(predict_fn).__name__}.")
  module = nnx.merge(predict_fn.graphdef, params)
  if not isinstance(module.base if isinstance(module, Fixed) else module, ConvNet):
    raise ValueError(
      f"predict_fn must be one convolutional network, got {type(module).__name__}, which has no feature maps of its "
      "own; split each member of an ensemble."
    )
  return FrozenPart(predict_fn.graphdef, "features"), FrozenPart(predict_fn.graphdef, "classify")


def freeze(module: nnx.Module) -> tuple[FrozenPredictor, FrozenParams]:
  """Folds batch norm: the same logits as in evaluation mode, at inference speed.

  Args:
    module: one of ours, or any NNX module; it does not change.

  Returns:
    `(predict_fn, params)`. `params` is a plain pytree of arrays. `predict_fn` is pure and holds no arrays, so that
    equal architectures share one compilation.

  Examples:
    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from jax_sis import classifiers
    >>> config = classifiers.ResNetConfig(blocks=(1,), widths=(4,), num_classes=3)
    >>> predict_fn, params = classifiers.freeze(classifiers.ResNet(config, rngs=nnx.Rngs(0)))
    >>> predict_fn(params, jnp.ones((1, 8, 8, 3))).shape
    (1, 3)
  """
  graphdef, state = nnx.split(module)
  # On the host, where nothing is compiled.
  frozen = nnx.merge(graphdef, jax.device_get(state))
  frozen.eval()
  for _, node in list(nnx.iter_graph(frozen)):
    if isinstance(node, ConvNorm | PreNorm):
      node.fold()
  frozen_graphdef, frozen_state = nnx.split(frozen)
  return make_predictor(frozen, frozen_graphdef), jax.tree.map(jnp.asarray, nnx.to_pure_dict(frozen_state))


def make_predictor(module: nnx.Module, graphdef: nnx.GraphDef) -> FrozenPredictor:
  """The function of a module, with all that the module can be asked."""
  return FrozenPredictor(graphdef, takes_presence=getattr(module, "takes_presence", False))
