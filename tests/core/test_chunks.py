"""How many masked copies are worked on at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_sis.core import chunks


@pytest.mark.parametrize(
  ("platform", "shape", "expected"),
  [
    ("cpu", (32, 32, 3), 64),
    ("cpu", (224, 224, 3), 64),
    ("gpu", (32, 32, 3), 16384),
    ("tpu", (224, 224, 3), 512),
    ("gpu", (2**14, 2**14, 3), 1),
  ],
)
def test_accelerators_work_on_as_many_copies_as_suit_the_images(platform: str, shape: tuple[int, ...], expected: int):
  assert chunks.default_chunk_size(platform, shape) == expected


def test_what_is_asked_for_counts_and_else_the_platform_of_the_inputs():
  inputs = jax.device_put(np.zeros((1, 4), np.float32), jax.devices("cpu")[0])
  assert chunks.settle_chunk_size(7, inputs) == 7
  assert chunks.settle_chunk_size(None, inputs, on_cpu=128) == 128
  seen = []
  jax.make_jaxpr(lambda traced: seen.append(chunks.settle_chunk_size(None, traced)))(jnp.zeros((1, 4)))
  assert seen == [chunks.default_chunk_size(jax.default_backend(), (4,))]
