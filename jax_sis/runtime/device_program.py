"""One program on all devices of this process. `jax.pmap`, and how it lays arrays out, stand in this file alone."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jax_sis.runtime import devices
from jax_sis.runtime.devices import Device

# Functions may reduce over it, see `map_devices`.
DEVICE_AXIS = "devices"

Note = TypeVar("Note")


def map_devices(
  function: Callable[..., Any],
  local_devices: list[Device],
  *,
  in_axes: int | tuple[int | None, ...] = 0,
  static_argnums: tuple[int, ...] = (),
  donate_argnums: tuple[int, ...] = (),
) -> Any:
  """The function on every device at once; its results get a leading device axis.

  Args:
    function: of one device's arrays; may reduce over DEVICE_AXIS.
    local_devices: where it runs.
    in_axes: 0 for arrays with a leading device axis, see `shard` and `stack_replicas`; None for those that every device
      gets whole.
    static_argnums: arguments that are Python values; each new value compiles again.
    donate_argnums: arguments whose memory the results may take.
  """
  return jax.pmap(
    function,
    axis_name=DEVICE_AXIS,
    in_axes=in_axes,
    static_broadcasted_argnums=static_argnums,
    donate_argnums=donate_argnums,
    devices=local_devices,
  )


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


def replicate(tree: Any, local_devices: list[Device]) -> Any:
  """Puts read-only arrays on every device once; costs nothing where they are there already."""
  sharding = NamedSharding(Mesh(np.array(local_devices), (DEVICE_AXIS,)), PartitionSpec())
  return jax.device_put(tree, sharding)


class Launch(NamedTuple):
  """What the devices work on: their outputs `[D, B, ...]`, and the number of examples without padding."""

  outputs: Any
  num_examples: int


class Finished(NamedTuple):
  """The results of one launch, and how long it took.

  Attributes:
    found: the results, `[N, ...]`, in NumPy.
    core_seconds: CPU time of all threads of this process.
    seconds: time on the clock.
  """

  found: Any
  core_seconds: float
  seconds: float


class DeviceProgram:
  """A function on all devices, compiled once for launches of one size; smaller ones are padded.

  Args:
    function: `(params, *arrays [B, ...])` -> a pytree of arrays `[B, ...]`, each example on its own.
    params: its first argument, the same on all devices.
    local_devices: where it runs.
    batch_size: examples a device.
  """

  def __init__(self, function: Callable[..., Any], params: Any, *, local_devices: list[Device], batch_size: int):
    self._function = function
    self._params = replicate(params, local_devices)
    self._local_devices = local_devices
    self._batch_size = batch_size
    self._compiled: jax.stages.Compiled | None = None
    self._tried: tuple[tuple[np.ndarray, ...], Launch] | None = None

  @property
  def launch_size(self) -> int:
    """Examples that all devices work on at once."""
    return len(self._local_devices) * self._batch_size

  @property
  def compiled(self) -> jax.stages.Compiled:
    """The compiled program.

    Raises:
      ValueError: neither `compile` nor a run came before.
    """
    if self._compiled is None:
      raise ValueError("the program must be compiled first.")
    return self._compiled

  def compile(self, *arrays: Any, checks_memory: bool = True) -> None:
    """Compiles for examples like these, so that the first launch is as fast as others.

    Args:
      *arrays: arrays, or their shapes and types, `[any number, ...]`.
      checks_memory: refuse a program that does not fit.

    Raises:
      ValueError: a batch does not fit the memory.
    """
    shape = (len(self._local_devices), self._batch_size)
    shards = [jax.ShapeDtypeStruct((*shape, *array.shape[1:]), array.dtype) for array in arrays]
    mapped = map_devices(self._function, self._local_devices, in_axes=(None, *(0 for _ in shards)))
    compiled = mapped.lower(self._params, *shards).compile()
    if checks_memory:
      devices.check_memory(compiled, batch_size=self._batch_size, devices=self._local_devices, argument="--batch")
    self._compiled = compiled

  def start(self, *arrays: np.ndarray) -> Launch:
    """Hands at most `launch_size` examples to the devices, without waiting; fewer are padded by repeating the last.

    Raises:
      ValueError: there are more, or as for `compile`, which it calls if needed.
    """
    tried, self._tried = self._tried, None
    if tried is not None and all(map(np.array_equal, tried[0], arrays)):
      return tried[1]
    if self._compiled is None:
      self.compile(*arrays)
    count = len(arrays[0])
    missing = self.launch_size - count
    if missing < 0:
      raise ValueError(f"a launch takes at most {self.launch_size} examples, got {count}.")
    if missing:
      arrays = tuple(np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) for array in arrays)
    shards = shard(arrays, len(self._local_devices))
    call: Any = self.compiled
    return Launch(call(self._params, *shards), count)

  def try_launch(self, *arrays: np.ndarray) -> None:
    """Runs it once, so that what may fail has failed; if the next launch is of the same arrays, it is this one.

    Raises:
      ValueError: as for `start`.
    """
    launch = self.start(*arrays)
    jax.block_until_ready(launch.outputs)
    self._tried = arrays, launch

  def fetch(self, launch: Launch) -> Any:
    """Waits for a launch, and joins what the devices found, `[N, ...]` in NumPy, without the padding."""
    size = self.launch_size
    return jax.tree.map(
      lambda array: np.asarray(array).reshape(size, *array.shape[2:])[: launch.num_examples], launch.outputs
    )

  def run(self, *arrays: np.ndarray) -> Finished:
    """Runs it once and times it, without compiling and fetching.

    Raises:
      ValueError: as for `start`.
    """
    if self._compiled is None:
      self.compile(*arrays)
    started, core_started = time.perf_counter(), time.process_time()
    launch = self.start(*arrays)
    jax.block_until_ready(launch.outputs)
    core_seconds, seconds = time.process_time() - core_started, time.perf_counter() - started
    return Finished(self.fetch(launch), core_seconds, seconds)

  def run_all(self, batches: Iterable[tuple[Note, Sequence[np.ndarray]]]) -> Iterator[tuple[Note, Any]]:
    """Runs batches one launch ahead: batch n + 1 is started before the results of batch n are yielded.

    Args:
      batches: a note and the arrays of each, see `start`.

    Yields:
      The note of each batch, and its results, see `fetch`.
    """
    pending: tuple[Note, Launch] | None = None
    for note, arrays in batches:
      started = note, self.start(*arrays)
      if pending is not None:
        yield pending[0], self.fetch(pending[1])
      pending = started
    if pending is not None:
      yield pending[0], self.fetch(pending[1])
