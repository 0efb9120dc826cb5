"""The devices of this process: one CPU device a core, and memory that is asked for before it is needed."""

import contextlib
import hashlib
import os
import pathlib
import platform
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import jax

# Type checkers take jax.Device for a variable, so it gets a name here.
Device: TypeAlias = jax.Device  # pyright: ignore[reportInvalidTypeForm]

ResultT = TypeVar("ResultT")


def use_one_cpu_device_per_core(num_devices: int | None = None) -> None:
  """Splits the CPU into XLA devices, which run side by side.

  Only programs call it, before JAX is first used; never call it on import.

  Args:
    num_devices: how many; by default one for each core that this process may use.
  """
  jax.config.update("jax_num_cpu_devices", num_devices or count_cores())


def count_cores() -> int:
  """Cores that this process may use; where the system does not say, all of the machine."""
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_compilation_cache() -> None:
  """Keeps compiled programs on disk for later processes, unless JAX is already told where to keep them.

  Only programs call it, before JAX is first used. The folder's name has a hash of the processor and its features, since
  a program compiled for one CPU may not run on another that shares the home directory.
  """
  if jax.config.jax_compilation_cache_dir is not None:  # pyright: ignore[reportAttributeAccessIssue]
    return
  cpu = pathlib.Path("/proc/cpuinfo")
  lines = cpu.read_text().splitlines() if cpu.exists() else [platform.processor(), platform.platform()]
  described = {line for line in lines if line.startswith(("model name", "flags", "Features"))} or set(lines)
  digest = hashlib.sha256("\n".join(sorted(described)).encode()).hexdigest()[:16]
  root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
  with contextlib.suppress(OSError):
    directory = root / "jax_sis" / f"xla-{digest}"
    directory.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(directory))


def matmul_precision() -> str:
  """JAX's setting of matmul precision, as results record it."""
  return jax.config.jax_default_matmul_precision or "default"  # pyright: ignore[reportAttributeAccessIssue]


def local_devices(num_devices: int | None = None) -> list[Device]:
  """The first `num_devices` devices of this process; all by default.

  Raises:
    ValueError: there are fewer.
  """
  available = jax.local_devices()
  if num_devices is None:
    return available
  if num_devices > len(available):
    raise ValueError(
      f"num_devices must be at most the {len(available)} local {available[0].platform} device(s), got {num_devices}; "
      "on CPU, call jax_sis.runtime.devices.use_one_cpu_device_per_core(num_devices) before JAX is first used."
    )
  return available[:num_devices]


def check_memory(compiled: jax.stages.Compiled, *, batch_size: int, devices: list[Device], argument: str) -> None:
  """Refuses a compiled program that does not fit the devices' memory, before it runs.

  Args:
    compiled: the program, for all devices.
    batch_size: examples per device that it was compiled for.
    devices: where it will run.
    argument: the name of the setting that holds the batch size, for the message.

  Raises:
    ValueError: it needs more than is free; the message has the largest batch that fits.
  """
  needed = program_bytes(compiled)
  available = available_bytes(devices)
  if available is None or needed <= available:
    return
  fitting = batch_size * available // needed
  advice = f"{argument} {fitting} fits" if fitting else "not even one example fits, use a smaller model or grid"
  raise ValueError(
    f"{argument} must be small enough for the memory, but {batch_size} examples a device need {format_bytes(needed)} "
    f"of {format_bytes(available)} available on each of {len(devices)} {devices[0].platform} device(s); {advice}."
  )


def program_bytes(compiled: jax.stages.Compiled) -> int:
  """Bytes that a program needs on each device: temporaries, arguments and results."""
  analysis: Any = compiled.memory_analysis()
  return analysis.temp_size_in_bytes + analysis.argument_size_in_bytes + analysis.output_size_in_bytes


def available_bytes(devices: list[Device]) -> int | None:
  """Free bytes on each device, None if unknown; CPU devices share the machine's memory equally."""
  if devices[0].platform == "cpu":
    free = free_memory_bytes()
    return None if free is None else free // len(devices)
  stats = devices[0].memory_stats()
  return None if stats is None else stats["bytes_limit"] - stats["bytes_in_use"]


def is_out_of_memory(error: Exception) -> bool:
  """Whether this says that a device cannot hold what it should, in compiling or running a program."""
  return str(error).startswith("RESOURCE_EXHAUSTED")


def unless_out_of_memory(function: Callable[[], ResultT]) -> ResultT | None:
  """What a function returns; None where a device has not enough memory for it."""
  try:
    return function()
  except jax.errors.JaxRuntimeError as error:
    if not is_out_of_memory(error):
      raise
    return None


def free_memory_bytes() -> int | None:
  """Memory that this process may still use: what the system has free, or less if its control group has a limit.

  Where the system does not say what is free, as macOS, all memory of the machine; None where it says neither.
  """
  if not hasattr(os, "sysconf"):
    return None
  for line in pathlib.Path("/proc/meminfo").read_text().splitlines() if os.path.exists("/proc/meminfo") else ():
    if line.startswith("MemAvailable:"):
      free = int(line.split()[1]) * 1024
      break
  else:
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  limit, used = (pathlib.Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
  if limit.exists() and used.exists() and limit.read_text().strip() != "max":
    free = min(free, int(limit.read_text()) - int(used.read_text()))
  return free


def format_bytes(count: int) -> str:
  """`1536` -> `1.5 KiB`."""
  size = float(count)
  for unit in ("B", "KiB", "MiB", "GiB"):
    if size < 1024:
      return f"{size:.3g} {unit}"
    size /= 1024
  return f"{size:.3g} TiB"
