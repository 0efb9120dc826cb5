"""Work on a Ray cluster: one worker for the devices of each host, replaced when it dies, also on hosts that join later.

Ray finds the hosts and their devices, starts the workers, and says which of them died. Who uses this says what a worker
is and which units are left; those that a dead worker had go to others.
"""

import collections
import contextlib
import dataclasses
import functools
import importlib
import io
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from jax_sis.runtime import devices, interrupts
from jax_sis.runtime.progress import Progress
from jax_sis.runtime.task_size import MAX_LOSSES, TaskSize
from jax_sis.version import __version__

# Ray's names of devices. The first of them that the cluster has does the work.
RESOURCES = ("TPU", "GPU", "CPU")
POLL_SECONDS = 2.0
PROBE_SECONDS = 5.0
QUIET_SECONDS = 60.0
# How a client of HTTP/2, in which Ray speaks, begins: with these words and a frame of settings, here an empty one. A
# server sends a frame of its own settings first (RFC 9113, 3.4).
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
FRAME_HEAD_BYTES, FRAME_TYPE_AT, SETTINGS_TYPE = 9, 3, 4
# Of the variables that a worker gets as the driver has them.
PASSED = ("JAX_", "XLA_")

Task = tuple[int, ...]


class About(Protocol):
  """What a worker says of itself.

  Attributes:
    spec: what fixes what it finds, in JSON types, the same on all hosts.
    num_first: units of its first task on a cluster.
  """

  @property
  def spec(self) -> Mapping[str, Any]: ...

  @property
  def num_first(self) -> int: ...


class Worker(Protocol):
  """What does the work; it is made where that is to be done."""

  @property
  def about(self) -> About: ...

  def get_ready(self) -> None:
    """Called before units are to be done, once or again: compiles what is to be compiled."""
    ...

  def __call__(self, units: Sequence[int], advance_fn: Callable[[int], Any]) -> Iterator[tuple[int, Any]]:
    """The units, and what it found of each; `advance_fn` is told how much is done meanwhile."""
    ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Done:
  """What a host did with a task.

  Attributes:
    text: what it printed.
    found: of each unit.
    amount: how much that is, as `advance_fn` was told.
    seconds: how long it took.
  """

  text: str
  found: list[tuple[int, Any]]
  amount: int
  seconds: float


@dataclasses.dataclass(kw_only=True)
class Host:
  """A host of the cluster; `future` is what its worker does now, None if it waits, and `task` which units that is."""

  name: str
  worker: Any
  future: Any
  task: Task | None = None


class RemoteWorker:
  """The actor of a host."""

  def open(self, version: str, packed: bytes, cwd: str, num_devices: int) -> tuple[str, About]:
    """Makes the worker; what that printed, and what it says of itself.

    Args:
      version: the driver's.
      packed: makes it, as bytes: another version could not even read them.
      cwd: the driver's folder.
      num_devices: of CPU devices, how many it has.
    """
    if version != __version__:
      raise ValueError(f"jax_sis must be {version} as where the command runs, but is {__version__}; install that one.")
    # Relative paths are those of the driver's folder, where the host has it.
    if os.path.isdir(cwd):
      os.chdir(cwd)
    devices.use_one_cpu_device_per_core(num_devices)
    devices.use_compilation_cache()
    with plain_errors(), contextlib.redirect_stdout(io.StringIO()) as text:
      self._worker: Worker = pickle.loads(packed)()
      return text.getvalue(), self._worker.about

  def work(self, task: Task) -> Done:
    started, amounts = time.monotonic(), []
    with plain_errors(), contextlib.redirect_stdout(io.StringIO()) as text:
      self._worker.get_ready()
      found = list(self._worker(task, amounts.append))
    return Done(text=text.getvalue(), found=found, amount=sum(amounts), seconds=time.monotonic() - started)


class TaskQueue:
  """Units that no host has, in tasks."""

  def __init__(self, units: Sequence[int], num_first: int):
    self._left = collections.deque(units)
    self._size = TaskSize(num_first)
    self._num_losses: collections.Counter[int] = collections.Counter()

  def take(self, num_hosts: int) -> Task | None:
    """Some units for one of so many hosts, fewer towards the end, so that all end together; None if none are left."""
    count = self._size.choose(len(self._left), num_hosts)
    return tuple(self._left.popleft() for _ in range(count)) or None

  def finish(self, task: Task, seconds: float) -> None:
    """Notes how long a task took."""
    self._size.learn(len(task), seconds)

  def put_back(self, left: Sequence[int]) -> None:
    """Takes back what a dead worker left undone; ValueError if several died of the first unit that they left."""
    if left:
      self._num_losses[left[0]] += 1
      if self._num_losses[left[0]] >= MAX_LOSSES:
        raise ValueError(
          f"workers must outlive their work, but {MAX_LOSSES} of them died of what begins with unit {left[0]}; the "
          "logs of Ray say why (/tmp/ray/session_latest/logs on the host), and memory is the likeliest: begin anew "
          "with a smaller --batch."
        )
    self._left.extendleft(reversed(left))


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
  """Makes ValueErrors of all that are, since others may not pass between processes."""
  try:
    yield
  except ValueError as error:
    raise ValueError(str(error)) from None


@contextlib.contextmanager
def connect(address: str | None) -> Iterator[Any]:
  """Ray at this address; ends this driver's workers afterwards.

  Args:
    address: HOST:PORT of the head; None for the cluster that this machine belongs to, or else one of its own.

  Raises:
    ValueError: Ray is not installed, or there is no such cluster.
  """
  try:
    # By its name: type checkers need not have it.
    ray = importlib.import_module("ray")
  except ImportError as error:
    raise ValueError("--engine ray needs Ray: pip install 'jax_sis[ray]', on all machines of the cluster.") from error
  if address is not None:
    check_address(address)
  handler = signal.getsignal(signal.SIGTERM)
  try:
    ray.init(address, log_to_driver=False, logging_level="ERROR")
  except (ConnectionError, RuntimeError, ValueError) as error:
    raise refuse_address(address or "auto", " ".join(str(error).split())) from error
  finally:
    # Ray has one of its own, which would end this process without a word.
    if handler is not None:
      with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, handler)
  with contextlib.ExitStack() as stack:
    stack.callback(ray.shutdown)
    # A process that a signal ends runs nothing else of what stands here.
    stack.enter_context(interrupts.on_interrupt(ray.shutdown))
    yield ray


def check_address(address: str) -> None:
  """Asks whether somebody listens there who may be Ray: Ray asks again for minutes."""
  host, _, port = address.rpartition(":")
  if not host or not port.isdecimal() or "/" in host:
    raise ValueError(
      f"--address must be HOST:PORT of the head of a Ray cluster, such as 10.0.0.1:6379, got {address!r}."
    )
  try:
    with socket.create_connection((host, int(port)), timeout=PROBE_SECONDS) as connection:
      # With TLS, it begins otherwise.
      is_ray = "RAY_USE_TLS" in os.environ or speaks_http2(connection)
  except (OSError, OverflowError) as error:
    raise refuse_address(address, str(error)) from error
  if not is_ray:
    raise refuse_address(address, "something else answers there, or nothing")


def speaks_http2(connection: socket.socket) -> bool:
  """Whether a server answers as Ray's does; OSError where the connection fails."""
  connection.sendall(GREETING)
  head = b""
  try:
    while len(head) < FRAME_HEAD_BYTES and (more := connection.recv(FRAME_HEAD_BYTES - len(head))):
      head += more
  except TimeoutError:
    return False
  return len(head) == FRAME_HEAD_BYTES and head[FRAME_TYPE_AT] == SETTINGS_TYPE


def refuse_address(address: str, reason: str) -> ValueError:
  return ValueError(
    f"--address must be that of a Ray cluster that runs, but {address!r} is not: {reason.rstrip('.')}; `ray start "
    "--head` starts one and says its address."
  )


class Cluster:
  """The hosts that Ray knows and what they do; when it is made, it waits for the first to have opened its worker.

  Args:
    ray: as `connect` gives it.
    make_fn: makes a worker on its host.
    num_devices: for each; None for as many as Ray gives it.
    check_fn: called every two seconds, and before work is taken for done; raises what ends all.
    left_fn: of the units that a dead worker had, those that it left undone.

  Raises:
    ValueError: what `make_fn` raises, with the host's name in front.
  """

  def __init__(
    self,
    ray: Any,
    make_fn: Callable[[], Worker],
    *,
    num_devices: int | None,
    check_fn: Callable[[], object] = lambda: None,
    left_fn: Callable[[Task], Sequence[int]] = tuple,
  ):
    self._ray = ray
    self._make_fn = make_fn
    self._num_devices = num_devices
    self._check_fn = check_fn
    self._left_fn = left_fn
    self._hosts: dict[str, Host] = {}
    self._about: About | None = None
    self._queue = TaskQueue((), 1)
    self._log_fn: Callable[[str], object] = functools.partial(print, file=sys.stderr, flush=True)
    self._heard = time.monotonic()
    while self._about is None:
      self._turn()

  @property
  def about(self) -> About:
    """What the first worker says of itself."""
    assert self._about is not None
    return self._about

  def run(self, units: Sequence[int], progress: Progress, title: str) -> Iterator[tuple[int, Any]]:
    """As for `engines.Workers`; a unit whose worker died is found by another, or given as None if that had stored it.

    Raises:
      Exception: what a worker raised, with the host's name in front if it is a ValueError.
    """
    self._queue, self._log_fn = TaskQueue(units, self.about.num_first), progress.log
    progress.restart(title)
    num_left = len(units)
    while num_left:
      for done in self._turn():
        print(done.text, end="", flush=True)
        progress.advance(done.amount)
        num_left -= len(done.found)
        yield from done.found

  def _turn(self) -> list[Done]:
    """Gives work to whoever waits, and returns what was done until then, or some seconds later."""
    self._add_hosts()
    opened = [host for host in self._hosts.values() if host.future is None or host.task is not None]
    for host in opened:
      if host.future is None and (task := self._queue.take(len(opened))) is not None:
        host.task, host.future = task, host.worker.work.remote(task)
    if not opened and time.monotonic() - self._heard > QUIET_SECONDS:
      self._heard = time.monotonic()
      self._log_fn("No host is at work yet; `ray status` shows which there are, and who has their devices.")
    busy = {host.future: name for name, host in self._hosts.items() if host.future is not None}
    ready = []
    if busy:
      ready, _ = self._ray.wait(list(busy), timeout=POLL_SECONDS)
    else:
      time.sleep(POLL_SECONDS)
    self._check_fn()
    return [done for future in ready if (done := self._receive(busy[future])) is not None]

  def _receive(self, name: str) -> Done | None:
    """What a host did; None if it has only opened its worker, or that died before it was done."""
    host, errors = self._hosts[name], self._ray.exceptions
    try:
      value = self._ray.get(host.future)
    except (errors.RayActorError, errors.ActorUnschedulableError, errors.NodeDiedError):
      del self._hosts[name]
      self._log_fn(f"The worker of {host.name} is gone; its work goes to others.")
      if host.task is None:
        return None
      left = self._left_fn(host.task)
      self._queue.put_back(left)
      stored = sorted({*host.task} - {*left})
      return Done(text="", found=[(unit, None) for unit in stored], amount=0, seconds=0)
    except errors.RayTaskError as error:
      if isinstance(error.cause, ValueError):
        raise ValueError(f"on {host.name}: {error.cause}") from error
      raise
    task, host.task, host.future = host.task, None, None
    if task is None:
      self._note_opened(host, *value)
      return None
    self._queue.finish(task, value.seconds)
    return value

  def _note_opened(self, host: Host, text: str, about: About) -> None:
    """Compares what a host is with the first one; ValueError where it would find something else."""
    if self._about is None:
      print(text, end="", flush=True)
      self._about = about
    here, there = about.spec, self._about.spec
    others = sorted(name for name in {*here, *there} if here.get(name) != there.get(name))
    if others:
      told = "; ".join(f"{name} {here.get(name)!r} and not {there.get(name)!r}" for name in others)
      raise ValueError(f"all hosts must find the same, but {host.name} has {told}; make them alike, or leave it out.")
    self._log_fn(f"{host.name} is at work.")

  def _add_hosts(self) -> None:
    """Starts a worker on each host with devices that has none, be it new or its worker dead."""
    ray = self._ray
    nodes = [node for node in ray.nodes() if node["Alive"]]
    resource = next(name for name in (*RESOURCES, "") if not name or any(name in node["Resources"] for node in nodes))
    passed = {name: value for name, value in os.environ.items() if name.startswith(PASSED)}
    for node in nodes:
      name, count = node["NodeID"], node["Resources"].get(resource, 0)
      if name in self._hosts or not count:
        continue
      asked = {"CPU": {"num_cpus": count}, "GPU": {"num_gpus": count}}.get(resource, {"resources": {resource: count}})
      worker = ray.remote(
        scheduling_strategy=ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(name, soft=False),
        runtime_env={"env_vars": passed},
        **({"num_cpus": 0} | asked),
      )(RemoteWorker).remote()
      packed = ray.cloudpickle.dumps(self._make_fn)
      future = worker.open.remote(__version__, packed, os.getcwd(), self._num_devices or int(count))
      self._hosts[name] = Host(name=f"{node['NodeManagerHostname']} ({name[:6]})", worker=worker, future=future)
