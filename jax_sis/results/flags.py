"""Which units of a store are done: a flag each, in an array of its own, written after all else of the unit."""

import numpy as np
import tensorstore as ts
from jaxtyping import Bool, Int

from jax_sis.results.arrays import DONE, ZARR_DIR
from jax_sis.results.folder import Folder
from jax_sis.results.spec import SPEC_FILE

PLACE = f"{ZARR_DIR}/{DONE}/c/"
# Flags that are read at once.
UNITS_AT_ONCE = 2**16
# What a bucket lists at the same time, by the first digit of a unit: it gives a thousand names a request.
DIGITS = "0123456789"


class Flags:
  """The flags of a store.

  Args:
    folder: the run's.
    array: of the flags.
    num_units: units in all.
  """

  def __init__(self, folder: Folder, array: ts.TensorStore, num_units: int):
    self._folder = folder
    self._array = array
    # Which were read and say done.
    self._is_known = np.zeros(num_units, bool)

  def flagged(self) -> Int[np.ndarray, "U"]:
    """The units that have a flag, whatever it says, ascending.

    Raises:
      StorageError: the flags cannot be listed.
    """
    # A folder on disk is read as a whole, whatever is asked for.
    digits = DIGITS if self._folder.path is None else ("",)
    names = self._folder.patient.list_many([f"{PLACE}{digit}" for digit in digits], witness=SPEC_FILE)
    keys = (name.removeprefix(PLACE) for name in names)
    num_units = len(self._is_known)
    return np.sort(np.fromiter((int(key) for key in keys if key.isdecimal() and int(key) < num_units), np.int64))

  def done(self) -> Int[np.ndarray, "U"]:
    """The units that are done, ascending.

    On a disk, a damaged flag counts as none; each is read once by this object. A bucket has what it was given or
    nothing, and is not asked for each flag: for a million, that takes a quarter of an hour.

    Raises:
      StorageError: the flags cannot be listed or read.
    """
    units = self.flagged()
    if self._folder.path is None:
      return units
    self._is_known[self.done_among(units[~self._is_known[units]])] = True
    return units[self._is_known[units]]

  def done_among(self, units: Int[np.ndarray, "U"]) -> Int[np.ndarray, "V"]:
    """Those of these units whose flags say so; each is read, and a damaged one counts as none.

    Raises:
      StorageError: a flag cannot be read.
    """
    blocks = [units[start : start + UNITS_AT_ONCE] for start in range(0, len(units), UNITS_AT_ONCE)]
    return np.concatenate([units[:0], *(block[self._read(block)] for block in blocks)])

  def _read(self, units: Int[np.ndarray, "U"]) -> Bool[np.ndarray, "U"]:
    try:
      return self._folder.wait(self._array[units].read(), "read", PLACE) == 1
    except ValueError:
      # If that is not for a damaged flag, the files cannot be read, either.
      self._folder.read_many([f"{PLACE}{unit}" for unit in units.tolist()])
      return np.array([is_set(flag) for flag in [self._array[unit].read() for unit in units]])


def is_set(flag: ts.Future) -> bool:
  """Whether the flag that is being read says done. A damaged one does not."""
  try:
    return int(flag.result()) == 1
  except ValueError:
    return False
