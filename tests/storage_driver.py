"""Does one thing to a folder in a process of its own, and prints what came of it as JSON.

python storage_driver.py race LOCATION ME NUM_FILES START_TIME   each file once, by whoever is first
python storage_driver.py rewrite LOCATION                        one file again and again, until it is killed
python storage_driver.py limited LOCATION BYTES                  as on a full disk: no file may be larger
python storage_driver.py stranger LOCATION                       as a user to whom nothing belongs
"""

import importlib.util
import json
import os
import pathlib
import resource
import sys
import time

# Alone, for importing the package takes a second, and several of these run at once.
_package = importlib.util.find_spec("jax_sis")
assert _package is not None and _package.submodule_search_locations is not None
_spec = importlib.util.spec_from_file_location(
  "storage", pathlib.Path(*_package.submodule_search_locations) / "results" / "folder.py"
)
assert _spec is not None
assert _spec.loader is not None
storage = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(storage)

LONG, SHORT = b"long" * 100_000, b"short" * 50_000
NOBODY = 65534


def race(location: str, me: str, num_files: str, start_time: str) -> list[str]:
  """Makes files at the same time as others do; what they hold then."""
  folder = storage.open_folder(location)
  folder.read("warm up")
  time.sleep(max(0.0, float(start_time) - time.time()))
  return [folder.write_new(f"file {number}", me.encode()).decode() for number in range(int(num_files))]


def rewrite(location: str) -> None:
  """Replaces a file by a longer and a shorter one in turn."""
  folder = storage.open_folder(location)
  while True:
    for content in (LONG, SHORT):
      folder.write("file", content)
      print("written", flush=True)


def limited(location: str, num_bytes: str) -> str:
  """The kernel then fails writes, as it does on a full disk; Python ignores the signal that comes with it."""
  folder = storage.open_folder(location)
  folder.write("small", b"small")
  resource.setrlimit(resource.RLIMIT_FSIZE, (int(num_bytes), int(num_bytes)))
  return attempt(lambda: folder.write("large", LONG))


def stranger(location: str) -> list[str]:
  """Reads and writes where others only may."""
  folder = storage.open_folder(location)
  if os.geteuid() == 0:
    os.seteuid(NOBODY)
  return [
    folder.read("file").decode(),
    attempt(lambda: folder.write("file", b"new")),
    attempt(lambda: folder.write_new("other", b"new")),
    attempt(lambda: folder.delete("file")),
    attempt(lambda: storage.check_writable(folder)),
  ]


def attempt(action_fn) -> str:
  """The text of the error."""
  try:
    action_fn()
  except ValueError as error:
    return str(error)
  return "no error"


if __name__ == "__main__":
  print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
