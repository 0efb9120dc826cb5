"""Is a folder on a disk of one machine, and are the parts of its run on several? Each would begin a run of its own."""

import os
import pathlib
from collections.abc import Mapping

MOUNTS = pathlib.Path("/proc/self/mounts")
# File systems that one machine, or one container, sees alone, unless it gives them to others by NFS.
LOCAL = frozenset({"btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"})


def warn_of_local_folder(path: str | os.PathLike[str], environ: Mapping[str, str], mounts: str | None = None) -> str:
  """What to tell the user of a part of a run, before it begins; empty if nothing is amiss, or nothing is known.

  Args:
    path: the run's folder on disk.
    environ: the environment's variables.
    mounts: what Linux says of file systems (default: what it says now).
  """
  num_hosts = count_hosts(environ)
  kind = find_file_system(os.path.realpath(path), read_mounts() if mounts is None else mounts)
  if num_hosts < 2 or kind not in LOCAL:
    return ""
  return (
    f"Warning: --out {os.fspath(path)!r} is on a file system of this machine ({kind}), and the parts of the run are on "
    f"{num_hosts}. Unless the others see it by the same path, each begins a run of its own: name a folder that all "
    "share, or a bucket."
  )


def count_hosts(environ: Mapping[str, str]) -> int:
  """The machines that a launcher says a job is on, or the containers; 1 if it says nothing.

  SLURM does not say where the other tasks of an array are.
  """
  numbers = {name: int(value) for name, value in environ.items() if value.isdecimal()}
  if "OMPI_COMM_WORLD_SIZE" in numbers:
    # As many processes on each machine.
    return -(-numbers["OMPI_COMM_WORLD_SIZE"] // max(1, numbers.get("OMPI_COMM_WORLD_LOCAL_SIZE", 1)))
  names = {name.strip() for name in environ.get("TPU_WORKER_HOSTNAMES", "").split(",")} - {""}
  slurm = numbers.get("SLURM_STEP_NUM_NODES", 1)
  return max(slurm, len(names), numbers.get("JOB_COMPLETIONS", 1))


def read_mounts() -> str:
  """What Linux says of file systems; empty elsewhere."""
  try:
    return MOUNTS.read_text()
  except OSError:
    return ""


def find_file_system(path: str, mounts: str) -> str:
  """The kind of the file system that a path is on, as Linux names it; empty if it is not among them."""
  kind, length = "", 0
  for line in mounts.splitlines():
    _, place, name, *_ = line.split(" ")
    place = place.replace("\\040", " ").rstrip("/")
    # The last of those at the same place counts.
    if f"{path}/".startswith(f"{place}/") and len(place) + 1 >= length:
      kind, length = name, len(place) + 1
  return kind
