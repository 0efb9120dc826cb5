"""Work that is handed out: in this process, and to the hosts of a cluster that is none, whose workers may die."""

import contextlib
import dataclasses
import functools
import io
import socket
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import pytest
from fake_ray import DeathError, FakeRay
from rich.console import Console

from jax_sis import results
from jax_sis.runtime import devices, engines, ray_cluster
from jax_sis.runtime.engines import Engine
from jax_sis.runtime.progress import Progress
from jax_sis.runtime.ray_cluster import MAX_LOSSES, Cluster, TaskQueue


@dataclasses.dataclass(frozen=True)
class About:
  """What is said of workers."""

  spec: dict[str, Any]
  num_first: int = 2


class Squares:
  """Finds squares."""

  # What those that are made say of themselves, and the last one's again.
  versions: ClassVar[list[str]] = ["a"]

  def __init__(self):
    self.about = About({"jax": self.versions.pop(0) if len(self.versions) > 1 else self.versions[0]})
    self.is_ready = False
    print("opened")

  def get_ready(self) -> None:
    self.is_ready = True

  def __call__(self, units: Sequence[int], advance_fn: Callable[[int], Any]) -> Iterator[tuple[int, int]]:
    assert self.is_ready
    if 13 in units:
      raise ValueError("13 must not be asked for.")
    for unit in units:
      advance_fn(10)
      yield unit, unit**2


@pytest.fixture
def progress() -> Progress:
  return Progress("starting", total=70, unit="image", console=Console(file=io.StringIO()))


@pytest.fixture
def open_cluster(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Cluster]:
  for name in ("use_one_cpu_device_per_core", "use_compilation_cache"):
    monkeypatch.setattr(devices, name, lambda *_: None)
  return functools.partial(Cluster, make_fn=Squares, num_devices=None)


def test_this_process_is_an_engine(progress: Progress, capsys: pytest.CaptureFixture[str]):
  checks: list[int] = []
  claim = contextlib.nullcontext(lambda: checks.append(1))
  with engines.open_workers(engines.LOCAL, Squares, claim=claim) as workers:
    assert workers.about.spec == {"jax": "a"}
    assert list(workers.run((), progress, "squares")) == []
    assert list(workers.run(range(3, 6), progress, "squares")) == [(3, 9), (4, 16), (5, 25)]
  assert len(checks) == 3
  assert progress.describe().startswith("squares: 30/70 images, ")
  assert capsys.readouterr().out == "opened\n"


def test_hosts_find_each_unit_once_though_workers_die(
  open_cluster: Callable[..., Cluster], progress: Progress, capsys: pytest.CaptureFixture[str]
):
  ray = FakeRay(num_hosts=2, deadly=(1, 3, 4))
  cluster = open_cluster(ray)
  assert sorted(cluster.run(range(7), progress, "squares")) == [(unit, unit**2) for unit in range(7)]
  assert list(cluster.run((9,), progress, "the rest")) == [(9, 81)]
  assert list(cluster.run((), progress, "nothing")) == []
  assert ray.num_made == 2 + 3
  assert progress._done == 80
  # What the first one printed stands for all.
  output, errors = capsys.readouterr()
  assert output == "opened\n"
  assert errors.startswith("h (")


def test_what_a_worker_refuses_is_told_with_its_host(open_cluster: Callable[..., Cluster], progress: Progress):
  ray = FakeRay(num_hosts=1)
  ray.exceptions.RayTaskError = RemoteError
  cluster = open_cluster(ray)
  get = ray.get

  def get_wrapped(future: Callable[[], Any]) -> Any:
    try:
      return get(future)
    except ValueError as error:
      raise RemoteError(error) from error

  ray.get = get_wrapped
  with pytest.raises(ValueError, match=r"^on h \(000000\): 13 must not be asked for\.$"):
    list(cluster.run((12, 13), progress, "squares"))


class RemoteError(Exception):
  """As Ray raises what was raised elsewhere."""

  def __init__(self, cause: Exception):
    super().__init__()
    self.cause = cause


def test_a_host_that_would_find_something_else_is_refused(
  open_cluster: Callable[..., Cluster], progress: Progress, monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setattr(Squares, "versions", ["a", "b"])
  cluster = open_cluster(FakeRay(num_hosts=2))
  with pytest.raises(ValueError, match=r"^all hosts must find the same, but h \(0000.*has jax 'b' and not 'a'; "):
    list(cluster.run(range(9), progress, "squares"))


def test_a_host_with_another_version_is_refused_before_it_reads_what_it_is_to_make(
  open_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
):
  ray = FakeRay(num_hosts=1)
  monkeypatch.setattr(ray_cluster, "__version__", "9.9")
  ray.cloudpickle = types.SimpleNamespace(dumps=lambda _: b"what only 9.9 can read")
  make = ray.make

  def make_older(actor: Any) -> Any:
    made = make(actor)
    made.open.remote = functools.partial(call_as, "8.8", monkeypatch, made.open.remote)
    return made

  monkeypatch.setattr(ray, "make", make_older)
  with pytest.raises(ValueError, match=r"jax_sis must be 9\.9 as where the command runs, but is 8\.8; install that"):
    open_cluster(ray)


def call_as(version: str, monkeypatch: pytest.MonkeyPatch, remote: Callable[..., Any], *arguments: Any) -> Any:
  """What the call gives, where this version of jax_sis is installed."""
  future = remote(*arguments)

  def call() -> Any:
    monkeypatch.setattr(ray_cluster, "__version__", version)
    return future()

  return call


def test_who_is_not_the_newest_command_ends(open_cluster: Callable[..., Cluster], progress: Progress):
  folder = results.open_folder("memory://older-and-newer")
  with results.claim(folder, "find") as check_fn:
    found = open_cluster(FakeRay(num_hosts=2), check_fn=check_fn).run(range(9), progress, "squares")
    begun = [next(found) for _ in range(2)]
    with results.claim(folder, "find"), pytest.raises(ValueError, match=r"^only the newest 'jax-sis find' goes on in "):
      list(found)
  assert begun == [(0, 0), (1, 1)]


def test_hosts_get_fewer_units_towards_the_end_and_what_died_goes_first():
  queue = TaskQueue(range(12), 30)
  assert queue.take(2) == (0, 1, 2)
  assert queue.take(2) == (3, 4, 5)
  queue.put_back((0, 1, 2))
  assert queue.take(2) == (0, 1, 2)
  # 10 s a unit.
  queue.finish((3, 4, 5), 30)
  assert [queue.take(1), queue.take(1), queue.take(1)] == [(6, 7, 8), (9, 10), (11,)]
  assert queue.take(1) is None
  assert TaskQueue(range(99), 4).take(1) == (0, 1, 2, 3)


def test_a_task_that_ends_every_worker_ends_the_run():
  queue = TaskQueue((7, 8), 1)
  for _ in range(MAX_LOSSES - 1):
    assert queue.take(1) == (7,)
    queue.put_back((7,))
  with pytest.raises(ValueError, match=r"^workers must outlive their work, but 5 of them died of what begins with u"):
    queue.put_back((7,))


class Stored(Squares):
  """Stores a square, and then dies of the next one, unless that is the last that is left."""

  squares: ClassVar[dict[int, int]] = {}
  fatal: ClassVar[int | None] = None

  def __init__(self):
    super().__init__()
    self.about = About(self.about.spec, num_first=20)

  def __call__(self, units: Sequence[int], advance_fn: Callable[[int], Any]) -> Iterator[tuple[int, int]]:
    for number, unit in enumerate(unit for unit in units if unit not in self.squares):
      if number or unit == self.fatal:
        raise DeathError
      self.squares[unit] = unit**2
    yield from ((unit, self.squares[unit]) for unit in units)


@pytest.mark.parametrize("fatal", [None, 13])
def test_deaths_count_only_while_nothing_is_stored(
  fatal: int | None, open_cluster: Callable[..., Cluster], progress: Progress, monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setattr(Stored, "squares", {})
  monkeypatch.setattr(Stored, "fatal", fatal)

  def left(units: Sequence[int]) -> list[int]:
    return [unit for unit in units if unit not in Stored.squares]

  ray = FakeRay(num_hosts=1)
  found = open_cluster(ray, make_fn=Stored, left_fn=left).run(range(40), progress, "squares")
  if fatal is None:
    assert [unit for unit, _ in found] == list(range(40))
    assert Stored.squares == {unit: unit**2 for unit in range(40)}
    # Of the first 20 units, each but the last one ended a worker.
    assert ray.num_made > 20
  else:
    with pytest.raises(ValueError, match=r"but 5 of them died of what begins with unit 13; "):
      list(found)
    assert sorted(Stored.squares) == list(range(13))


def test_what_comes_early_waits_for_what_is_before_it():
  taken = engines.in_order(iter([(4, "e"), (3, "d"), (6, "g"), (5, "f")]), 3)
  assert list(taken) == ["d", "e", "f", "g"]


def test_an_address_is_of_a_cluster():
  with pytest.raises(ValueError, match="--address must come with --engine ray, got 'head:6379' and --engine local"):
    Engine(address="head:6379")


@pytest.mark.parametrize("address", ["head", "ray://head:10001", ":6379", "head:port"])
def test_what_is_no_address_is_refused(address: str):
  with pytest.raises(ValueError, match=r"^--address must be HOST:PORT of the head of a Ray cluster, such as "):
    ray_cluster.check_address(address)


def test_an_address_where_nobody_listens_is_refused():
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(
      ValueError, match=f"^--address must be that of a Ray cluster that runs, but '{address}' is not: "
    ):
      ray_cluster.check_address(address)
