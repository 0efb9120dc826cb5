"""Pixels become the same inputs on the host and on a device."""

import jax
import numpy as np
import pytest

from jax_sis.data.normalisation import NORMALISATIONS, Normalisation

# Every value in every channel.
PIXELS = np.stack([np.arange(256, dtype=np.uint8).reshape(16, 16)] * 3, axis=-1)


@pytest.mark.parametrize("normalisation", NORMALISATIONS.values(), ids=NORMALISATIONS)
def test_a_device_gives_the_bits_of_the_host(normalisation: Normalisation):
  images = np.stack([PIXELS, PIXELS[::-1]])
  expected = normalisation.apply(images)
  found = np.asarray(jax.jit(normalisation.look_up)(images))
  assert found.dtype == expected.dtype
  assert found.tobytes() == expected.tobytes()
