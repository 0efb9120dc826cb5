"""`jax-sis find --engine ray`: hands out the units of a run to the hosts of a Ray cluster.

The driver, which is the command, touches no device and reads no image: hosts open the run as `find` does, search units
and write them into the store, and one of them writes the outcome. What a unit holds does not depend on the host.
"""

import contextlib
import dataclasses
import functools
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from jax_sis import results
from jax_sis.results.folder import PROBE_PREFIX
from jax_sis.runs import find
from jax_sis.runs.config import FindConfig
from jax_sis.runs.setup import explain_out_of_memory
from jax_sis.runs.table import make_rows, print_rows
from jax_sis.runs.unit_search import UnitSearch
from jax_sis.runtime import engines
from jax_sis.runtime.engines import Engine
from jax_sis.runtime.progress import Progress
from jax_sis.runtime.task_size import first_task_size

# In the place of a unit: the writing of the outcome.
OUTCOME = -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
  """What a host says of the run; its specification is compared with the store's when it is opened."""

  num_first: int
  spec: dict[str, Any] = dataclasses.field(default_factory=dict)


def find_on_ray(config: FindConfig, engine: Engine) -> str:
  """As `find`, on all hosts of a Ray cluster that have the devices; hosts may come, go and die meanwhile.

  Args:
    config: what to search. Paths in it mean the same on all hosts.
    engine: where the cluster is.

  Returns:
    The folder of the results, as given.

  Raises:
    ValueError: as for `find`; or there is no such cluster, a newer command hands out the same run, or a host does not
      see the folder of the results.
  """
  folder = results.open_folder(config.out)
  results.check_writable(folder)
  with shown(folder) as token:
    make_fn = functools.partial(HostSearch, config, token)
    left_fn = functools.partial(find_left, config.out)
    claim = results.claim(folder, "find")
    with engines.open_workers(engine, make_fn, claim=claim, num_devices=config.num_devices, left_fn=left_fn) as workers:
      store = results.open(config.out)
      missing = find.missing_units(store)
      with Progress("starting", total=store.count_images(missing), unit="image") as progress:
        for unit, _ in workers.run(missing.tolist(), progress, "search"):
          progress.advance(store.count_images(np.array([unit])))
        for _ in workers.run([OUTCOME], progress, "search"):
          pass
  return config.out


def find_left(location: str, units: Sequence[int]) -> Sequence[int]:
  """Those of the units, or of the outcome in their place, that nobody has stored."""
  return units if OUTCOME in units else drop_done(results.open(location), units).tolist()


def drop_done(store: results.Results, units: Sequence[int]) -> Int[np.ndarray, "U"]:
  """Those of the units that are not stored."""
  return np.setdiff1d(units, store.flags.done_among(np.array(units)))


@contextlib.contextmanager
def shown(folder: results.Folder) -> Iterator[str]:
  """The name of a file in the folder, by which hosts see whether they look at the same one."""
  token = f"{PROBE_PREFIX}{uuid.uuid4().hex}"
  folder.write(token, b"")
  try:
    yield token
  finally:
    folder.delete(token)


class HostSearch:
  """The worker of a host: it searches and stores the units that it is told to.

  Args:
    config: what to search.
    token: a file in the run's folder.

  Raises:
    ValueError: as for `find`, or the host does not see the folder.
  """

  def __init__(self, config: FindConfig, token: str):
    if results.open_folder(config.out).read(token) is None:
      raise ValueError(
        f"--out must be a folder that all hosts see, but what was just written into {config.out!r} is not there; "
        "name one on a file system that they share, by the same path, or in a bucket."
      )
    self._job, self._store = find.begin(config, None)
    self._search: UnitSearch | None = None
    self.about = About(num_first=first_task_size(self._job.launch_size, self._store.unit_size))

  def get_ready(self) -> None:
    """As for `Worker`; `find` says that memory is short where that is known."""

  def __call__(self, units: Sequence[int], advance_fn: Callable[[int], Any]) -> Iterator[tuple[int, None]]:
    """Searches and stores these units, but those that another process has stored meanwhile."""
    # The command counts images by their units.
    del advance_fn
    with explain_out_of_memory(self._job):
      if OUTCOME in units:
        find.write_outcome(self._job, self._store)
      else:
        # Compiled when there is work: a run that is done needs none.
        self._search = self._search or UnitSearch(self._job)
        missing = drop_done(self._store, units)
        if len(missing):
          self._search.run(missing, self._store_unit)
    yield from ((unit, None) for unit in units)

  def _store_unit(self, unit: int, rows: dict[str, np.ndarray]) -> None:
    self._store.write_unit(unit, rows)
    if find.is_printed(self._job.num_images):
      names = self._job.class_names
      print_rows(make_rows(rows, names, num_features=self._job.num_features), names)
