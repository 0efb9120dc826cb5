"""Runs `jax-sis find`, which goes wrong at a named point of what it writes.

At most points it kills itself with SIGKILL; `full_disk` instead limits the size of files from UNIT on, and `slowly`
takes its time for each unit. `none` leaves all as it is.

python find_driver.py POINT UNIT COMMAND...
"""

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

# Longer than what is written there, so that it would show.
HALF_A_FILE = b"\xff" * 4096
MAX_FILE_BYTES = 16
SECONDS_A_UNIT = 1.0


def die(*_: Any, **__: Any) -> None:
  """As by the kernel when memory runs out: nothing is cleaned up."""
  os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str, unit: int) -> None:
  """Arranges for what is to go wrong."""
  import tensorstore as ts

  from jax_sis import results
  from jax_sis.results import folder as results_folder
  from jax_sis.results import store
  from jax_sis.runtime import device_program

  at_files = {"before_spec": "spec.json", "before_summary": "summary.csv", "mid_summary": "summary.json"}
  if point in at_files:
    # What a process leaves that is killed while it writes the file.
    wrap(results_folder.Folder, "write_new" if point == "before_spec" else "write", leave_half, when=at_files[point])
  elif point == "after_spec":
    store.open_arrays = die
  elif point == "mid_arrays":
    ts.open = open_some(ts.open, unit)
  elif point == "before_launch":
    wrap(device_program.DeviceProgram, "start", die, when=None)
  elif point == "before_done":
    wait = results_folder.Folder.wait

    def deadly_wait(self: Any, future: Any, done: str, name: str = "", *rest: Any) -> Any:
      value = wait(self, future, done, name, *rest)
      # What is waited for last before that.
      if done == "written" and name.startswith(f"{results.ZARR_DIR}/{results.CHECKSUMS}"):
        die()
      return value

    deadly: Any = deadly_wait
    results_folder.Folder.wait = deadly
  elif point == "after_done":
    write_unit = results.Results.write_unit
    wrap(results.Results, "write_unit", lambda *arguments: die(write_unit(*arguments)), when=unit)
  elif point == "slowly":
    wrap(results.Results, "write_unit", lambda *_: time.sleep(SECONDS_A_UNIT), when=None)
  elif point != "none":
    wrap(results.Results, "write_unit", UNIT_FAULTS[point], when=unit)


def wrap(owner: Any, name: str, fault_fn: Callable[..., object], *, when: object) -> None:
  """Lets a method first do something else where its first argument is `when`, or always for None."""
  method = getattr(owner, name)

  def wrapped(self: Any, first: object, *rest: Any) -> Any:
    if when is None or when == first:
      fault_fn(self, first, *rest)
    return method(self, first, *rest)

  setattr(owner, name, wrapped)


def open_some(open_fn: Callable[..., Any], count: int) -> Callable[..., Any]:
  """Opens arrays until there are so many."""
  opened = []

  def open_or_die(*arguments: Any, **options: Any) -> Any:
    if len(opened) == count:
      die()
    future = open_fn(*arguments, **options)
    future.result()
    opened.append(future)
    return future

  return open_or_die


def leave_half(folder: Any, name: str, *_: Any) -> None:
  """Dies in the middle of a file, which TensorStore writes beside its place."""
  path = folder.path / f"{name}.__lock"
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(HALF_A_FILE)
  die()


def leave_half_a_chunk(store: Any, unit: int, *_: Any) -> None:
  """The same for a field of a unit."""
  leave_half(store.folder, store.chunk_name("rank", unit))


def leave_half_a_flag(store: Any, unit: int, *_: Any) -> None:
  """The same for the flag of a unit."""
  leave_half(store.folder, store.chunk_name("done", unit))


def write_some_fields(store: Any, unit: int, rows: dict[str, Any]) -> None:
  """Writes the first half of the fields as `write_unit` does, and dies."""
  start, stop = store.unit_range(unit)
  fields = store.fields
  for name in list(fields)[: len(fields) // 2]:
    store[name][start:stop].write(fields[name].encode(name, rows[name], stop - start)).result()
  die()


def fill_disk(*_: Any) -> None:
  """Nearly so: files larger than this cannot be written, and the kernel fails the write as on a full disk."""
  resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, MAX_FILE_BYTES))


UNIT_FAULTS = {
  "before_write": die,
  "mid_fields": write_some_fields,
  "mid_chunk": leave_half_a_chunk,
  "mid_flag": leave_half_a_flag,
  "full_disk": fill_disk,
}


def main() -> int:
  """Runs the command."""
  point, unit, *command = sys.argv[1:]
  # A shell that runs the tests in the background leaves Ctrl-C ignored, and children inherit that.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  arm(point, int(unit))
  from jax_sis.cli import main as cli_main

  return cli_main.main(command)


if __name__ == "__main__":
  sys.exit(main())
