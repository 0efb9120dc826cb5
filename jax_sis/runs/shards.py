"""Which units of a run a process does that a launcher started as one of several."""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

ONE_PROCESS = "one process"
# The variables with a process's index and the number of processes. Open MPI comes first: under SLURM it starts one
# helper on each machine by srun, and its processes inherit the helper's SLURM variables.
LAUNCHERS = (
  ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
  # Not SLURM_NTASKS, which is also set in batch scripts and salloc shells, which run as one process.
  ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
  ("TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES"),
  # Kubernetes gives a pod of an Indexed Job its index; how many there are, only the manifest can say. Last, since pods
  # on the machines of a TPU slice have that, too.
  ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"),
)


@dataclasses.dataclass(frozen=True)
class Shard:
  """The part of a run that one of `count` processes does; `index` counts from 0."""

  index: int
  count: int

  def __post_init__(self):
    if not 0 <= self.index < self.count:
      raise ValueError(
        f"a shard's index must be from 0 to one less than its count, got index {self.index} and count {self.count}."
      )

  def __str__(self) -> str:
    return f"{self.index}/{self.count}"

  def select(self, units: Int[np.ndarray, "U"]) -> Int[np.ndarray, "V"]:
    """The units that belong to this shard; every unit belongs to exactly one."""
    return units[units % self.count == self.index]


def parse_shard(text: str) -> Shard:
  """`"2/8"` -> the third of eight; ValueError for text of another form."""
  match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
  if match is None or int(match[1]) >= int(match[2]):
    raise ValueError(f"--shard must be I/N with I from 0 to N - 1, such as 0/8 for the first of eight, got {text!r}.")
  return Shard(int(match[1]), int(match[2]))


def find_shard(environ: Mapping[str, str]) -> tuple[Shard, str]:
  """This process's shard, if Open MPI, SLURM, Kubernetes or a TPU pod started it as one of several.

  The tasks of a SLURM array, which SLURM starts apart, may each be several processes.

  Args:
    environ: the environment's variables.

  Returns:
    The shard, 0/1 if nothing says that there are other processes, and where it comes from, to tell the user.

  Raises:
    ValueError: a variable is missing or not a number.
  """
  shard, origin = find_launched(environ)
  array = read_array(environ)
  if array.count == 1:
    return shard, origin
  name = "SLURM_ARRAY_TASK_ID of SLURM_ARRAY_TASK_COUNT"
  nested = Shard(array.index * shard.count + shard.index, array.count * shard.count)
  return nested, name if shard.count == 1 else f"{name}, and {origin}"


def read_array(environ: Mapping[str, str]) -> Shard:
  """Which task of a SLURM array this is; ValueError if its indices are not evenly spaced."""
  if "SLURM_ARRAY_TASK_ID" not in environ:
    return Shard(0, 1)
  names = [f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "COUNT")]
  values = [environ.get(name, "") for name in names]
  for name, value in zip(names, values, strict=True):
    if not value.isdecimal():
      raise ValueError(f"{name} must be a whole number, got {value!r}; correct it, or give the shard by --shard I/N.")
  number, first, last, count = map(int, values)
  step, rest = divmod(last - first, max(count - 1, 1))
  index, beside = divmod(number - first, max(step, 1))
  if rest or beside or not 0 <= index < count:
    raise ValueError(
      f"a SLURM array must have evenly spaced indices, such as --array=0-7, got {number} of {count} from {first} to "
      f"{last}; give the shard by --shard I/N."
    )
  return Shard(index, count)


def find_launched(environ: Mapping[str, str]) -> tuple[Shard, str]:
  """As `find_shard`, without arrays."""
  if environ.get("SLURM_PROCID") == "0" and "SLURM_STEP_NUM_TASKS" not in environ:
    # A batch script, which srun did not start.
    environ = {name: value for name, value in environ.items() if name != "SLURM_PROCID"}
  for index_name, count_name in LAUNCHERS:
    if (index_name in environ) != (count_name in environ):
      missing, present = (index_name, count_name) if count_name in environ else (count_name, index_name)
      raise ValueError(f"{missing} must be set, since {present} is; set it, or give the shard by --shard I/N.")
    if index_name in environ:
      shard = read_shard(environ, index_name, count_name)
      if shard.count > 1:
        return shard, f"{index_name} of {count_name}"
  num_tasks = environ.get("SLURM_NTASKS", "1")
  if num_tasks != "1":
    return Shard(0, 1), f"{ONE_PROCESS}; only srun starts all {num_tasks} of SLURM_NTASKS"
  return Shard(0, 1), ONE_PROCESS


def read_shard(environ: Mapping[str, str], index_name: str, count_name: str) -> Shard:
  """The shard that these two variables give; the count may be a list of host names."""
  index, count = environ[index_name], environ[count_name]
  if count_name.endswith("HOSTNAMES"):
    count = str(len([name for name in count.split(",") if name.strip()]))
  for name, value in ((index_name, index), (count_name, count)):
    if not value.isdecimal():
      raise ValueError(f"{name} must be a whole number, got {value!r}; correct it, or give the shard by --shard I/N.")
  if int(index) >= int(count):
    raise ValueError(
      f"{index_name} must be less than the {count} of {count_name}, got {index}; give the shard by --shard I/N."
    )
  return Shard(int(index), int(count))
