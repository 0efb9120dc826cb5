"""What several commands say in the same words."""

from jax_sis.runtime import devices

# Names of settings by heading.
IMAGE = "checkpoint model_function data data_dir split resize background"
DEVICE = "batch_size num_devices"


def get_devices_ready(num_devices: int | None = None) -> None:
  """Uses every core of a CPU, and keeps compiled programs; before JAX has looked at the devices."""
  devices.use_one_cpu_device_per_core(num_devices)
  devices.use_compilation_cache()
