"""Work on a Ray cluster: one worker for the devices of each host, replaced when it dies, also on hosts that join later.

Ray finds the hosts and their devices, starts the workers, and says which of them died. Who uses this says what a worker
is and which tasks are left; a task that a dead worker had goes back to that list.
"""

import contextlib
import dataclasses
import importlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from jax_sis.runtime import interrupts

# Ray's names of devices. The first of them that the cluster has does the work.
RESOURCES = ("TPU", "GPU", "CPU")
POLL_SECONDS = 2.0
# As long as Ray may take to notice that a driver is dead, and to let go of its name.
CLAIM_SECONDS = 20.0
PROBE_SECONDS = 5.0
QUIET_SECONDS = 60.0
NAMESPACE = "jax_sis"
# Of the variables that a worker gets as the driver has them.
PASSED = ("JAX_", "XLA_")


class Worker(Protocol):
  """What a host does; it is made there."""

  def __call__(self, task: Any) -> Any: ...


class Tasks(Protocol):
  """What is to be done."""

  def take(self, num_hosts: int) -> Any | None:
    """The next task for one of so many hosts; None if there is none now."""
    ...

  def put_back(self, task: Any) -> None:
    """Takes back a task whose worker died; ValueError if that happens to it again and again."""
    ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
  """What one host returned.

  Attributes:
    host: its name.
    task: what it was given; None where it has just begun.
    value: what the worker returned, or what `make_fn` returned beside it.
  """

  host: str
  task: Any
  value: Any


@dataclasses.dataclass(kw_only=True)
class Host:
  """A host of the cluster; `future` is what its worker does now, None if it waits, and `task` which task that is."""

  name: str
  worker: Any
  future: Any
  task: Any | None = None


class RemoteWorker:
  """The actor of a host."""

  def open(self, make_fn: Callable[[int], tuple[Worker, Any]], num_devices: int) -> Any:
    with plain_errors():
      self._worker, opened = make_fn(num_devices)
    return opened

  def work(self, task: Any) -> Any:
    with plain_errors():
      return self._worker(task)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
  """Makes ValueErrors of all that are, since others may not pass between processes."""
  try:
    yield
  except ValueError as error:
    raise ValueError(str(error)) from None


class Claim:
  """An actor whose name says that its driver works on something; Ray ends it with the driver."""


@contextlib.contextmanager
def connect(address: str | None, *, claim: str) -> Iterator["Cluster"]:
  """The cluster of this address, and nobody else's work on what `claim` names; ends this driver's workers afterwards.

  Args:
    address: HOST:PORT of the head; None for the cluster that this machine belongs to, or else one of its own.
    claim: what is worked on.

  Raises:
    ValueError: Ray is not installed, there is no such cluster, or another driver works on the same there.
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
    ray.init(address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR")
  except (ConnectionError, RuntimeError, ValueError) as error:
    raise refuse_address(address or "auto", str(error).strip().split("\n")[0]) from error
  finally:
    # Ray has one of its own, which would end this process without a word.
    if handler is not None:
      with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, handler)
  with contextlib.ExitStack() as stack:
    stack.callback(ray.shutdown)
    # A process that a signal ends runs nothing else of what stands here.
    stack.enter_context(interrupts.on_interrupt(ray.shutdown))
    held = hold_claim(ray, claim)
    yield Cluster(ray)
    del held


def check_address(address: str) -> None:
  """Asks whether anybody listens there: Ray asks again for minutes."""
  host, _, port = address.rpartition(":")
  if not host or not port.isdecimal() or "/" in host:
    raise ValueError(
      f"--address must be HOST:PORT of the head of a Ray cluster, such as 10.0.0.1:6379, got {address!r}."
    )
  try:
    socket.create_connection((host, int(port)), timeout=PROBE_SECONDS).close()
  except (OSError, OverflowError) as error:
    raise refuse_address(address, str(error)) from error


def refuse_address(address: str, reason: str) -> ValueError:
  return ValueError(
    f"--address must be that of a Ray cluster that runs, but {address!r} is not: {reason.rstrip('.')}; `ray start "
    "--head` starts one and says its address."
  )


def hold_claim(ray: Any, claim: str) -> Any:
  """The claim, to be held as long as the work lasts; ValueError if another driver keeps it."""
  end = time.monotonic() + CLAIM_SECONDS
  while True:
    try:
      return ray.remote(num_cpus=0)(Claim).options(name=claim).remote()
    except ValueError as error:
      if time.monotonic() > end:
        raise ValueError(
          f"only one command at a time may hand out the work of {claim!r}, but another one on this cluster does; wait "
          "for it or end it. New hosts get work from that one."
        ) from error
    time.sleep(1)


class Cluster:
  """The hosts that Ray knows and what they do."""

  def __init__(self, ray: Any):
    self._ray = ray
    self._hosts: dict[str, Host] = {}

  def run(
    self,
    make_fn: Callable[[int], tuple[Worker, Any]],
    tasks: Tasks,
    *,
    log_fn: Callable[[str], None],
  ) -> Iterator[Outcome]:
    """Makes a worker on each host, and hands out tasks until none are left or with workers.

    Args:
      make_fn: makes a worker on its host, of the number of devices that Ray gives it; and a value to be yielded here.
      tasks: what is to be done; asked whenever a worker waits.
      log_fn: is told of hosts that come and go.

    Yields:
      First of each host what `make_fn` returned, then what its tasks did, as they end.

    Raises:
      Exception: what a worker raised, with the host's name in front if it is a ValueError.
    """
    heard = time.monotonic()
    while True:
      self._add_hosts(make_fn)
      opened = [host for host in self._hosts.values() if host.future is None or host.task is not None]
      for host in opened:
        if host.future is None and (task := tasks.take(len(opened))) is not None:
          host.task, host.future = task, host.worker.work.remote(task)
      busy = {host.future: name for name, host in self._hosts.items() if host.future is not None}
      if opened and not any(host.task is not None for host in opened):
        break
      if not opened and time.monotonic() - heard > QUIET_SECONDS:
        heard = time.monotonic()
        log_fn("No host is at work yet; `ray status` shows which there are, and who has their devices.")
      if not busy:
        time.sleep(POLL_SECONDS)
        continue
      for future in self._ray.wait(list(busy), timeout=POLL_SECONDS)[0]:
        outcome = self._receive(busy[future], tasks, log_fn)
        if outcome is not None:
          yield outcome

  def _receive(self, name: str, tasks: Tasks, log_fn: Callable[[str], None]) -> Outcome | None:
    """What a host has returned; None if its worker is dead."""
    host, errors = self._hosts[name], self._ray.exceptions
    try:
      value = self._ray.get(host.future)
    except (errors.RayActorError, errors.ActorUnschedulableError, errors.NodeDiedError):
      del self._hosts[name]
      log_fn(f"The worker of {host.name} is gone; its work goes to others.")
      if host.task is not None:
        tasks.put_back(host.task)
      return None
    except errors.RayTaskError as error:
      if isinstance(error.cause, ValueError):
        raise ValueError(f"on {host.name}: {error.cause}") from error
      raise
    outcome = Outcome(host=host.name, task=host.task, value=value)
    host.task = host.future = None
    return outcome

  def _add_hosts(self, make_fn: Callable[[int], tuple[Worker, Any]]) -> None:
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
      future = worker.open.remote(make_fn, int(count))
      self._hosts[name] = Host(name=f"{node['NodeManagerHostname']} ({name[:6]})", worker=worker, future=future)
