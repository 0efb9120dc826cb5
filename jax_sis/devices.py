"""Several devices: one CPU device a core, shards of a batch, and replicated parameters."""

import os
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def use_one_cpu_device_per_core(num_devices: int | None = None) -> None:
  """Splits the CPU into XLA devices, which `pmap` runs side by side.

  Call it before JAX is first used, and from a program only, never on import. Without effect on GPU and TPU.

  Args:
    num_devices: how many; by default the cores that this process may use.
  """
  jax.config.update("jax_num_cpu_devices", num_devices or len(os.sched_getaffinity(0)))


def local_devices(num_devices: int | None = None) -> list[jax.Device]:
  """The first `num_devices` devices of this process; all by default.

  Raises:
    ValueError: there are fewer.
  """
  available = jax.local_devices()
  if num_devices is None:
    return available
  if num_devices > len(available):
    raise ValueError(
      f"num_devices must be at most the {len(available)} local {available[0].platform} device(s), got {num_devices}; "
      "on CPU, call jax_sis.devices.use_one_cpu_device_per_core(num_devices) before JAX is first used."
    )
  return available[:num_devices]


def shard(tree: Any, num_devices: int) -> Any:
  """Splits the leading axis of every array: `[D * B, ...]` -> `[D, B, ...]`.

  Raises:
    ValueError: an array's leading axis is not a multiple of `num_devices`.
  """

  def shard_one(array: np.ndarray) -> np.ndarray:
    if array.shape[0] % num_devices:
      raise ValueError(
        f"the batch must be a multiple of the {num_devices} devices, got {array.shape[0]} examples; pad it first."
      )
    return array.reshape(num_devices, array.shape[0] // num_devices, *array.shape[1:])

  return jax.tree.map(shard_one, tree)


def stack_replicas(tree: Any, num_devices: int) -> Any:
  """Repeats every array along a new leading device axis, for state that each device updates for itself."""
  return jax.tree.map(lambda array: np.stack([np.asarray(array)] * num_devices), tree)


def first_replica(tree: Any) -> Any:
  """The copy of device 0, as NumPy arrays."""
  return jax.tree.map(lambda array: np.asarray(array[0]), tree)


def replicate(tree: Any, devices: list[jax.Device]) -> Any:
  """Puts read-only arrays on every device once; pass them to `pmap` with `in_axes=None`."""
  sharding = NamedSharding(Mesh(np.array(devices), ("devices",)), PartitionSpec())
  return jax.device_put(tree, sharding)
