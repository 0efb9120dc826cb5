"""Where the work of a program is done: in this process, or by a worker for the devices of each host of a Ray cluster.

A program says what a worker is, and which numbered units of work are missing. What a unit gives does not depend on the
worker, so that each engine may hand them out as it likes.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, Protocol, TypeVar

from jax_sis.runtime import ray_cluster
from jax_sis.runtime.command_line import Option
from jax_sis.runtime.progress import Progress
from jax_sis.runtime.ray_cluster import Task, Worker

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engine:
  """Where the work is done.

  Attributes:
    engine: local: this process, on its devices; ray: one worker for the devices of each host of a Ray cluster, as long
      as there is work; hosts may come, go and die meanwhile.
    address: HOST:PORT of the head of a running Ray cluster, with --engine ray (default: the one that this machine
      belongs to, or else one that ends with the command).
  """

  engine: Literal["local", "ray"] = "local"
  address: Annotated[str | None, Option(metavar="HOST:PORT")] = None

  def __post_init__(self) -> None:
    if self.address and self.engine != "ray":
      raise ValueError(f"--address must come with --engine ray, got {self.address!r} and --engine {self.engine}.")


# For programs that are called without.
LOCAL = Engine()


class Workers(Protocol):
  """The workers of an engine."""

  @property
  def about(self) -> Any:
    """What the first of them says of itself."""
    ...

  def run(self, units: Sequence[int], progress: Progress, title: str) -> Iterator[tuple[int, Any]]:
    """What they find of these units, as they find it.

    Args:
      units: the numbers of what is to be done.
      progress: is restarted with the title once they are ready, and advanced by what they say.
      title: what is being done.
    """
    ...


class LocalWorkers:
  """This process."""

  def __init__(self, worker: Worker, check_fn: Callable[[], object]):
    self._worker = worker
    self._check_fn = check_fn
    self.about = worker.about

  def run(self, units: Sequence[int], progress: Progress, title: str) -> Iterator[tuple[int, Any]]:
    """As for `Workers`."""
    if units:
      self._worker.get_ready()
      progress.restart(title)
      for found in self._worker(units, progress.advance):
        self._check_fn()
        yield found


@contextlib.contextmanager
def open_workers(
  engine: Engine,
  make_fn: Callable[[], Worker],
  *,
  claim: contextlib.AbstractContextManager[Callable[[], object]],
  num_devices: int | None = None,
  left_fn: Callable[[Task], Sequence[int]] = tuple,
) -> Iterator[Workers]:
  """The workers of a program, of whom one has opened what it needs.

  Args:
    engine: where they are.
    make_fn: makes a worker where it is to be.
    claim: held meanwhile; gives what is called before units are taken for done, and raises where another command does
      the same work.
    num_devices: how many of its devices each uses; None for all.
    left_fn: of the units that a dead worker had, those that it left undone, where workers store what they find.

  Raises:
    ValueError: as for `ray_cluster.connect`, what `make_fn` raises, or another command does the same work.
  """
  if engine.engine == LOCAL.engine:
    worker = make_fn()
    with claim as check_fn:
      yield LocalWorkers(worker, check_fn)
  else:
    with ray_cluster.connect(engine.address) as ray, claim as check_fn:
      yield ray_cluster.Cluster(ray, make_fn, num_devices=num_devices, check_fn=check_fn, left_fn=left_fn)


def in_order(found: Iterable[tuple[int, T]], following: int) -> Iterator[T]:
  """What was found of the unit `following` and of those after it, by number, each once all before it are there."""
  waiting: dict[int, T] = {}
  for unit, value in found:
    waiting[unit] = value
    while following in waiting:
      yield waiting.pop(following)
      following += 1
