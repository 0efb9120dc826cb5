"""One program on all devices: shards, padding, one compilation, and a launch ahead of the host."""

import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from jax_sis.runtime import device_program, devices
from jax_sis.runtime.device_program import DeviceProgram

WEIGHTS = np.arange(1, 4, dtype=np.float32)


def test_shards_are_consecutive_parts_of_the_batch():
  batch = np.arange(12).reshape(6, 2)
  assert device_program.shard({"a": batch}, 3)["a"].tolist() == batch.reshape(3, 2, 2).tolist()


def test_a_batch_that_cannot_be_shared_out_is_refused():
  with pytest.raises(ValueError, match=re.escape("must be a multiple of the 4 devices, got 6 examples; pad it first.")):
    device_program.shard(np.zeros((6, 2)), 4)


def test_replicated_arrays_lie_on_every_device_and_feed_a_mapped_function():
  local_devices = devices.local_devices(4)
  weights = device_program.replicate(WEIGHTS, local_devices)
  assert weights.sharding.device_set == set(local_devices)
  products = device_program.map_devices(jnp.multiply, local_devices, in_axes=(None, 0))(
    weights, np.ones((4, 3), np.float32)
  )
  np.testing.assert_array_equal(products, np.broadcast_to(WEIGHTS, (4, 3)))


def test_mapped_functions_reduce_over_the_devices():
  def total(state: Array, amounts: Array) -> Array:
    return state + jax.lax.psum(amounts.sum(), device_program.DEVICE_AXIS)

  state = device_program.stack_replicas(np.float32(1), 4)
  amounts = device_program.shard(np.arange(8, dtype=np.float32), 4)
  totals = device_program.map_devices(total, devices.local_devices(4))(state, amounts)
  assert device_program.first_replica(totals) == 29
  assert np.asarray(totals).tolist() == [29] * 4


class Counted:
  """Weighted examples, and how often they were traced."""

  def __init__(self):
    self.num_traces = 0

  def __call__(self, weights: Array, inputs: Array, scales: Array) -> dict[str, Array]:
    """What one device computes."""
    self.num_traces += 1
    return {"weighted": inputs * weights[None], "scaled": inputs.sum(1) * scales}


def make_program(function: Any) -> DeviceProgram:
  """For launches of six examples."""
  return DeviceProgram(function, WEIGHTS, local_devices=devices.local_devices(3), batch_size=2)


def make_arrays(count: int) -> tuple[np.ndarray, np.ndarray]:
  return np.random.default_rng(count).normal(size=(count, 3)).astype(np.float32), np.arange(count, dtype=np.float32)


@pytest.mark.parametrize("count", [6, 5, 1])
def test_fewer_examples_than_a_launch_takes_are_padded_and_cut_off_again(count: int):
  program = make_program(Counted())
  inputs, scales = make_arrays(count)
  finished = program.run(inputs, scales)
  assert program.launch_size == 6
  np.testing.assert_array_equal(finished.found["weighted"], inputs * WEIGHTS)
  np.testing.assert_allclose(finished.found["scaled"], inputs.sum(1) * scales, rtol=1e-6)
  assert finished.seconds > 0


def test_it_is_compiled_once_for_launches_of_all_sizes():
  counted = Counted()
  program = make_program(counted)
  program.compile(jax.ShapeDtypeStruct((1, 3), np.float32), jax.ShapeDtypeStruct((1,), np.float32))
  for count in (6, 2, 6, 4):
    program.run(*make_arrays(count))
  assert counted.num_traces == 1


def test_more_examples_than_a_launch_takes_are_refused():
  with pytest.raises(ValueError, match="a launch takes at most 6 examples, got 7"):
    make_program(Counted()).start(*make_arrays(7))


def test_a_launch_is_started_before_what_the_one_before_found_is_handed_out():
  program = make_program(Counted())
  events = []

  def read() -> Iterator[tuple[int, tuple[np.ndarray, np.ndarray]]]:
    for number in range(3):
      events.append(f"read {number}")
      yield number, make_arrays(number + 4)

  for number, found in program.run_all(read()):
    events.append(f"found {number}")
    inputs, _ = make_arrays(number + 4)
    np.testing.assert_array_equal(found["weighted"], inputs * WEIGHTS)
  assert events == ["read 0", "read 1", "found 0", "read 2", "found 1", "found 2"]


def test_a_program_beyond_the_memory_is_refused_unless_that_is_not_asked(monkeypatch: pytest.MonkeyPatch):
  # The one thing that cannot be had for real in a test is a machine without memory.
  monkeypatch.setattr(devices, "free_memory_bytes", lambda: 3)
  program = make_program(Counted())
  shapes = jax.ShapeDtypeStruct((1, 3), np.float32), jax.ShapeDtypeStruct((1,), np.float32)
  with pytest.raises(ValueError, match="--batch must be small enough for the memory, but 2 examples a device need"):
    program.compile(*shapes)
  program.compile(*shapes, checks_memory=False)
  assert devices.program_bytes(program.compiled) > 0


def test_the_launch_that_was_tried_is_the_next_one_of_the_same_arrays():
  program = make_program(Counted())
  tried, others = make_arrays(6), make_arrays(5)
  program.try_launch(*tried)
  launches = [program.start(*arrays) for arrays in (tried, tried)]
  assert launches[0].outputs is not launches[1].outputs
  for launch in launches:
    np.testing.assert_array_equal(program.fetch(launch)["weighted"], tried[0] * WEIGHTS)
  program.try_launch(*tried)
  np.testing.assert_array_equal(program.fetch(program.start(*others))["weighted"], others[0] * WEIGHTS)
