"""Searches on arrays that lie on several devices: inside `jax.shard_map`, and where axes of a mesh are explicit."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def on_any_mesh(function: Callable[P, R]) -> Callable[P, R]:
  """Lets a function of `inputs`, or of an `order`, run where axes of a mesh are explicit, too.

  Where arrays lie inside it is left to XLA. Those of the result have the batch axis first, and lie as the images do.
  """
  signature = inspect.signature(function)
  untyped: Callable[..., Any] = function

  @functools.wraps(function)
  def run(*args: P.args, **kwargs: P.kwargs) -> R:
    leaves, structure = jax.tree.flatten((args, kwargs))
    arrays = {place: leaf for place, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)}
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.explicit_axes:
      explicit: list[Any] = [array for array in arrays.values() if jax.typeof(array).sharding.mesh.explicit_axes]
      if not explicit:
        return function(*args, **kwargs)
      if not isinstance(explicit[0], Tracer):
        with jax.set_mesh(explicit[0].sharding.mesh):
          return run(*args, **kwargs)
      mesh = jax.typeof(explicit[0]).sharding.mesh

    def call(arrays: dict[int, jax.Array]) -> Any:
      args, kwargs = structure.unflatten([arrays.get(place, leaf) for place, leaf in enumerate(leaves)])
      return untyped(*args, **kwargs)

    arguments = signature.bind(*args, **kwargs).arguments
    images = jax.tree.leaves(arguments.get("inputs", arguments.get("order")))[0]
    batch_axes = jax.typeof(images).sharding.spec[:1] if isinstance(images, jax.Array) else ()
    where = NamedSharding(mesh, PartitionSpec(*batch_axes))
    in_auto_mode: Any = jax.sharding.auto_axes(call, axes=mesh.explicit_axes, out_sharding=where)
    return in_auto_mode(arrays)

  return run


def vary_alike(tree: T) -> T:
  """The same arrays, inside `jax.shard_map` known to vary over every mesh axis over which any of them does.

  Loops carry arrays of one type only. And the gradient with respect to an array that is the same on all devices is
  summed over them, where a search wants that of its own images.
  """
  if not jax.sharding.get_abstract_mesh().manual_axes:
    return tree
  # JAX itself makes what an operation takes vary alike.
  seeds = [jnp.full_like(leaf, True, bool, ()) for leaf in jax.tree.leaves(tree)]
  seed = functools.reduce(jnp.logical_and, seeds)
  return jax.tree.map(lambda leaf: jnp.where(seed, leaf, leaf), tree)
