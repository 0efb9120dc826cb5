"""Sharding over devices, and memory that is asked for before it is needed."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_sis.runtime import devices


def test_shards_are_consecutive_parts_of_the_batch():
  batch = np.arange(12).reshape(6, 2)
  assert devices.shard({"a": batch}, 3)["a"].tolist() == batch.reshape(3, 2, 2).tolist()


def test_a_batch_that_cannot_be_shared_out_is_refused():
  with pytest.raises(ValueError, match=re.escape("must be a multiple of the 4 devices, got 6 examples; pad it first.")):
    devices.shard(np.zeros((6, 2)), 4)


def test_more_devices_than_there_are_is_refused():
  with pytest.raises(ValueError, match=re.escape("num_devices must be at most the 8 local cpu device(s), got 9;")):
    devices.local_devices(9)


def test_replicated_arrays_lie_on_every_device_and_feed_pmap():
  local_devices = devices.local_devices(4)
  weights = devices.replicate(np.arange(3.0, dtype=np.float32), local_devices)
  assert weights.sharding.device_set == set(local_devices)
  products = jax.pmap(jnp.multiply, in_axes=(None, 0), devices=local_devices)(weights, np.ones((4, 3), np.float32))
  np.testing.assert_array_equal(products, np.broadcast_to(np.arange(3.0), (4, 3)))


def compile_outer_product(size: int) -> jax.stages.Compiled:
  return (
    jax.jit(lambda x: jnp.sin(x[:, None] * x[None]).sum(1)).lower(jax.ShapeDtypeStruct((size,), np.float32)).compile()
  )


def test_a_program_that_fits_is_accepted():
  devices.check_memory(compile_outer_product(64), batch_size=8, devices=devices.local_devices(1), argument="--batch")


def test_a_program_beyond_the_memory_is_refused_with_a_batch_that_fits(monkeypatch: pytest.MonkeyPatch):
  compiled = compile_outer_product(64)
  available = devices.program_bytes(compiled) // 4 + 1
  # The one thing that cannot be had for real in a test is a machine without memory.
  monkeypatch.setattr(devices, "free_memory_bytes", lambda: 2 * available)
  message = (
    r"--batch must be small enough for the memory, but 8 examples a device need .* on each of 2 cpu device\(s\); "
  )
  with pytest.raises(ValueError, match=message + "--batch 2 fits"):
    devices.check_memory(compiled, batch_size=8, devices=devices.local_devices(2), argument="--batch")
  with pytest.raises(ValueError, match="not even one example fits"):
    devices.check_memory(compiled, batch_size=2, devices=devices.local_devices(2), argument="--batch")


def test_free_memory_is_a_plausible_number():
  assert 2**20 < devices.free_memory_bytes() < 2**50


@pytest.mark.parametrize(
  ("count", "text"), [(0, "0 B"), (1536, "1.5 KiB"), (3 * 2**30, "3 GiB"), (2**50, "1.02e+03 TiB")]
)
def test_bytes_are_formatted_in_binary_units(count: int, text: str):
  assert devices.format_bytes(count) == text
