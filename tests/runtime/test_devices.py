"""The devices of this process, and memory that is asked for before it is needed."""

import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_sis.runtime import devices


def test_more_devices_than_there_are_is_refused():
  with pytest.raises(ValueError, match=re.escape("num_devices must be at most the 8 local cpu device(s), got 9;")):
    devices.local_devices(9)


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
  free = devices.free_memory_bytes()
  assert free is not None
  assert 2**20 < free < 2**50


def test_systems_other_than_linux_need_not_say_what_is_free(monkeypatch: pytest.MonkeyPatch):
  cores = devices.count_cores()
  monkeypatch.delattr(os, "sched_getaffinity", raising=False)
  assert devices.count_cores() == os.cpu_count()
  assert devices.count_cores() >= cores >= 1
  monkeypatch.setattr(os.path, "exists", lambda path: False)
  free = devices.free_memory_bytes()
  assert free is not None
  assert 2**20 < free < 2**50
  monkeypatch.delattr(os, "sysconf")
  assert devices.free_memory_bytes() is None
  devices.check_memory(compile_outer_product(64), batch_size=8, devices=devices.local_devices(1), argument="--batch")


@pytest.mark.parametrize(
  ("count", "text"), [(0, "0 B"), (1536, "1.5 KiB"), (3 * 2**30, "3 GiB"), (2**50, "1.02e+03 TiB")]
)
def test_bytes_are_formatted_in_binary_units(count: int, text: str):
  assert devices.format_bytes(count) == text
