"""The frozen form of a classifier: `(predict_fn, params)` with every batch norm folded, at inference speed."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jax_sis.classifiers.layers import ConvNorm, PreNorm

FrozenParams = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class FrozenPredictor:
  """`predict_fn(params, inputs)` of an NNX module: pure, without arrays, and equal for equal architectures."""

  graphdef: nnx.GraphDef

  def __call__(self, params: FrozenParams, inputs: Float[Array, "B ..."]) -> Float[Array, "B K"]:
    """Normalised inputs -> logits."""
    return nnx.merge(self.graphdef, params)(inputs)


def freeze(module: nnx.Module) -> tuple[FrozenPredictor, FrozenParams]:
  """Folds batch norm and returns `(predict_fn, params)`: the same logits as in evaluation mode, at inference speed.

  `params` is a plain pytree of arrays; `predict_fn` is pure and holds no arrays, so that equal architectures share
  one compilation. The module itself is left as it is.
  """
  graphdef, state = nnx.split(module)
  # On the host, where nothing needs compiling.
  frozen = nnx.merge(graphdef, jax.device_get(state))
  frozen.eval()
  for _, node in list(nnx.iter_graph(frozen)):
    if isinstance(node, ConvNorm | PreNorm):
      node.fold()
  frozen_graphdef, frozen_state = nnx.split(frozen)
  return FrozenPredictor(frozen_graphdef), jax.tree.map(jnp.asarray, nnx.to_pure_dict(frozen_state))
