"""A user's Flax NNX, Linen or Equinox model -> the pair `(predict_fn, params)` that searches take.

The pair is fast inside a search: convolutions of images are replaced by ours, whose input gradient stays fast inside
XLA:CPU loops. Batch norm is not folded, since that would need the order of the layers.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jaxtyping import Array, Float

from jax_sis.classifiers.conv import conv2d
from jax_sis.classifiers.frozen import make_predictor
from jax_sis.core import traced
from jax_sis.core.types import Params, PredictFn

__all__ = ["from_equinox", "from_linen", "from_nnx", "from_single_logit", "use_fast_convolutions"]

# Calls whose programs are run inline; JAX has renamed the first. Those with derivatives of their own keep them.
INLINED = frozenset({"jit", "pjit", "checkpoint", "remat2"})


def from_nnx(module: nnx.Module) -> tuple[PredictFn, Params]:
  """The pair for an NNX module that maps `[B, ...]` to logits `[B, K]`.

  Args:
    module: the module, which is left as it is. A copy is set to evaluation mode by `module.eval()`, which decides what
      dropout and batch norm do.

  Returns:
    `(predict_fn, params)`, as searches take them.

  Examples:
    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from jax_sis.classifiers import adapters
    >>> predict_fn, params = adapters.from_nnx(nnx.Linear(4, 3, rngs=nnx.Rngs(0)))
    >>> predict_fn(params, jnp.ones((2, 4))).shape
    (2, 3)
  """
  graphdef, state = nnx.split(module)
  copy = nnx.merge(graphdef, state, copy=True)
  copy.eval()
  graphdef, state = nnx.split(copy)
  return use_fast_convolutions(make_predictor(copy, graphdef)), nnx.to_pure_dict(state)


@dataclasses.dataclass(frozen=True)
class LinenPredictor:
  """`predict_fn(variables, inputs)` of a Linen module: pure, and equal for equal modules and options."""

  module: linen.Module
  options: tuple[tuple[str, Any], ...]

  def __call__(self, variables: Params, inputs: Float[Array, "B ..."]) -> Float[Array, "B K"]:
    logits: Any = self.module.apply(variables, inputs, **dict(self.options))
    return logits


def from_linen(module: linen.Module, variables: Params, **options: Any) -> tuple[PredictFn, Params]:
  """The pair for a Linen module that maps `[B, ...]` to logits `[B, K]`.

  Args:
    module: the module.
    variables: the trained variables, `{"params": ..., "batch_stats": ...}`.
    **options: arguments of its `__call__` that select evaluation mode, such as `train=False`.

  Returns:
    `(predict_fn, params)`, as searches take them.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from flax import linen
    >>> from jax_sis.classifiers import adapters
    >>> module = linen.Dense(3)
    >>> predict_fn, params = adapters.from_linen(module, module.init(jax.random.key(0), jnp.ones((1, 4))))
    >>> predict_fn(params, jnp.ones((2, 4))).shape
    (2, 3)
  """
  hashable = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
  return use_fast_convolutions(LinenPredictor(module, tuple(sorted(hashable.items())))), variables


@dataclasses.dataclass(frozen=True)
class EquinoxPredictor:
  """`predict_fn(params, inputs)` of an Equinox module, which sees one example at a time."""

  treedef: Any
  static_leaves: tuple[Any, ...]
  channels_first: bool
  is_stateful: bool

  def __call__(self, params: Params, inputs: Float[Array, "B ..."]) -> Float[Array, "B K"]:
    import equinox

    arrays, state = params
    model = equinox.combine(arrays, jax.tree.unflatten(self.treedef, self.static_leaves))
    if self.channels_first:
      inputs = jnp.moveaxis(inputs, -1, 1)
    if self.is_stateful:
      return jax.vmap(lambda example: model(example, state)[0])(inputs)
    return jax.vmap(model)(inputs)


def from_equinox(model: Any, state: Any = None, *, channels_first: bool = True) -> tuple[PredictFn, Params]:
  """The pair for an Equinox module that maps one example to logits `[K]`.

  Args:
    model: the module; `equinox.nn.inference_mode` is applied.
    state: the `equinox.nn.State` of a module with batch norm, which is called as `model(example, state)`.
    channels_first: whether the module takes examples `[C, H, W]`, as Equinox's convolutions do, and not `[H, W, C]`.

  Returns:
    `(predict_fn, params)`, as searches take them: of inputs `[B, ...]`, images with channels last.

  Examples:
    >>> import equinox
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jax_sis.classifiers import adapters
    >>> model = equinox.nn.Linear(4, 3, key=jax.random.key(0))
    >>> predict_fn, params = adapters.from_equinox(model, channels_first=False)
    >>> predict_fn(params, jnp.ones((2, 4))).shape
    (2, 3)
  """
  import equinox

  arrays, static = equinox.partition(equinox.nn.inference_mode(model), equinox.is_array)
  static_leaves, treedef = jax.tree.flatten(static)
  predictor = EquinoxPredictor(treedef, tuple(static_leaves), channels_first, state is not None)
  return use_fast_convolutions(predictor), (arrays, state)


@dataclasses.dataclass(frozen=True)
class TwoLogits:
  """A `predict_fn` of two classes, made of one with a single logit."""

  predict_fn: PredictFn

  def __call__(self, params: Params, inputs: Float[Array, "B ..."]) -> Float[Array, "B 2"]:
    """`[0, z]`, whose softmax is the sigmoid of z."""
    logit = self.predict_fn(params, inputs)
    if logit.ndim > 2 or logit.shape[1:] not in ((), (1,)):
      raise ValueError(f"predict_fn must give a single logit, [B] or [B, 1], got the shape {logit.shape}.")
    logit = logit.reshape(-1, 1)
    return jnp.concatenate([jnp.zeros_like(logit), logit], axis=1)


def from_single_logit(predict_fn: PredictFn) -> PredictFn:
  """The same classifier with the logits `[0, z]`, for one of two classes that gives one logit z, for the second class.

  Args:
    predict_fn: gives `[B]` or `[B, 1]`: logits, as before a sigmoid.

  Returns:
    A `predict_fn` with logits `[B, 2]`, whose softmax is the sigmoid of z. It raises ValueError where z is none.

  Examples:
    A sum, of which the sigmoid is the probability of the second class:

    >>> import jax.numpy as jnp
    >>> from jax_sis.classifiers import adapters
    >>> def predict_one(params, inputs):
    ...   return inputs @ params
    >>> adapters.from_single_logit(predict_one)(jnp.ones(4), jnp.ones((2, 4))).tolist()
    [[0.0, 4.0], [0.0, 4.0]]
  """
  return TwoLogits(predict_fn)


@dataclasses.dataclass(frozen=True)
class FastPredictor:
  """A `predict_fn` whose convolutions are ours."""

  predict_fn: PredictFn

  def __call__(self, params: Params, inputs: Float[Array, "B ..."]) -> Float[Array, "B K"]:
    """The same as `predict_fn`, up to rounding."""
    closed, shapes = jax.make_jaxpr(self.predict_fn, return_shape=True)(params, inputs)
    outputs = traced.evaluate(traced.as_program(closed), jax.tree.leaves((params, inputs)), exchange_convolution)
    # Whatever it returns: a search says what is wrong with anything but logits.
    return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

  @property
  def presence_fn(self) -> Any:
    """What the function has of this name: how it is asked for images of which a part is missing; None if it cannot."""
    return getattr(self.predict_fn, "presence_fn", None)


def use_fast_convolutions(predict_fn: PredictFn) -> PredictFn:
  """The same function with two-dimensional convolutions replaced by ours, whatever library wrote them.

  Their gradients stay fast inside of the loops of searches on CPUs. Transposed convolutions and those that cut off
  margins or give another type than they take stay as they are.

  Args:
    predict_fn: `(params, inputs) -> logits`, as for `backselect`.

  Returns:
    A `predict_fn` with the same logits, up to rounding.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jax_sis.classifiers import adapters
    >>> def predict_fn(kernel, images):
    ...   return jax.lax.conv(images, kernel, (1, 1), "SAME").mean((2, 3))
    >>> kernel, images = jnp.ones((2, 3, 3, 3)), jnp.ones((1, 3, 4, 4))
    >>> fast_fn = adapters.use_fast_convolutions(predict_fn)
    >>> bool(jnp.allclose(fast_fn(kernel, images), predict_fn(kernel, images)))
    True
  """
  return FastPredictor(predict_fn)


def exchange_convolution(equation: Any, inputs: list[Any]) -> list[Any] | None:
  """A step by `conv2d` where it can do it, also inside calls; None where it stays as it is."""
  name = equation.primitive.name
  if name == "conv_general_dilated" and is_supported(inputs, equation.params):
    images, kernel = inputs
    return [convolve(images, kernel, equation.params)]
  program = traced.called_program(equation) if name in INLINED else None
  return None if program is None else traced.evaluate(program, inputs, exchange_convolution)


def is_supported(arrays: Sequence[Array], params: dict[str, Any]) -> bool:
  """Whether `conv2d` can do the convolution."""
  dtype, kernel_dtype = (array.dtype for array in arrays)
  # NumPy takes None for float64, so that it cannot stand in a list of types.
  out_dtype = dtype if params["preferred_element_type"] is None else params["preferred_element_type"]
  return (
    len(params["window_strides"]) == 2
    and params["batch_group_count"] == 1
    and set(params["lhs_dilation"]) == {1}
    and min(pad for pads in params["padding"] for pad in pads) >= 0
    and jnp.issubdtype(dtype, jnp.floating)
    and dtype == kernel_dtype == out_dtype
  )


def convolve(inputs: Array, kernel: Array, params: dict[str, Any]) -> Array:
  """A supported convolution of any layout by `conv2d`."""
  layout = params["dimension_numbers"]
  inputs = inputs.transpose(layout.lhs_spec[0], *layout.lhs_spec[2:], layout.lhs_spec[1])
  kernel = kernel.transpose(*layout.rhs_spec[2:], layout.rhs_spec[1], layout.rhs_spec[0])
  outputs = conv2d(
    inputs,
    kernel,
    stride=params["window_strides"],
    padding=params["padding"],
    dilation=params["rhs_dilation"],
    groups=params["feature_group_count"],
    precision=params["precision"],
  )
  # For each axis of the result, its place in our layout.
  order = np.argsort([layout.out_spec[0], *layout.out_spec[2:], layout.out_spec[1]])
  return outputs.transpose(*order.tolist())
