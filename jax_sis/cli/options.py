"""What several commands say in the same words."""

from jax_sis.runtime import devices
from jax_sis.runtime.engines import LOCAL, Engine

# Names of settings by heading.
IMAGE = "checkpoint model_function data data_dir split resize background"
DEVICE = "batch_size num_devices"
WORKER = "engine address"


def get_devices_ready(num_devices: int | None = None, engine: Engine = LOCAL) -> None:
  """Uses every core of a CPU, and keeps compiled programs, where that is this process's work; before JAX is used."""
  if engine.engine != LOCAL.engine:
    return
  devices.use_one_cpu_device_per_core(num_devices)
  devices.use_compilation_cache()
