"""How preferences are ranked."""

import jax.numpy as jnp
import numpy as np

from jax_sis.core import trials


def test_what_is_no_number_is_the_last_resort_and_what_is_not_allowed_never_chosen():
  preference = jnp.array([[np.nan, 1.0, np.inf, -0.0, 0.0, -np.inf, 2.0]])
  allowed = jnp.array([[True, True, True, True, True, True, False]])
  keys = np.asarray(trials.sort_keys(preference, allowed))[0]
  assert np.argsort(-keys, kind="stable").tolist() == [2, 1, 3, 4, 0, 5, 6]
  assert np.isfinite(keys[:6]).all()
  assert keys[6] == -np.inf
  assert keys[3] == keys[4]
