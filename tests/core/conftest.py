"""The kernel's tests run on toys, whose programs take longer to compile than to run however they are compiled."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def programs_of_toys(request: pytest.FixtureRequest) -> Iterator[None]:
  """Leaves out of compilation what can be, but where a file says that its networks are no toys."""
  jax.config.update("jax_disable_most_optimizations", not getattr(request.module, "ARE_NETWORKS_LARGE", False))
  yield
  jax.config.update("jax_disable_most_optimizations", False)
