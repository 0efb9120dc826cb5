"""Every record says on what it was made."""

import importlib.metadata
from typing import Any

import jax

from jax_sis.runtime import devices

devices.use_one_cpu_device_per_core()

PACKAGES = ("jax_sis", "jax", "jaxlib", "flax", "numpy", "torch")


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
  """Adds the versions, the cores that this process may use, and the devices that JAX sees."""
  del config
  installed = {distribution.name for distribution in importlib.metadata.distributions()}
  machine_info["versions"] = {name: importlib.metadata.version(name) for name in PACKAGES if name in installed}
  machine_info["usable_cores"] = devices.count_cores()
  machine_info["devices"] = [device.device_kind for device in jax.local_devices()]
