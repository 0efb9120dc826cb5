"""What of Ray the package uses, without Ray: hosts that are this process, whose workers die when they are told to."""

import functools
import pickle
import types
from collections.abc import Callable, Sequence
from typing import Any


class DeathError(Exception):
  """As Ray says that an actor is dead."""


class Call:
  """A method of an actor."""

  def __init__(self, call_fn: Callable[..., Any]):
    self.remote = lambda *arguments: functools.partial(call_fn, *arguments)


class FakeRay:
  """What of Ray is used; the calls in `deadly` end their worker, counted from 0."""

  cloudpickle: Any = pickle

  def __init__(self, num_hosts: int, deadly: Sequence[int] = ()):
    self.deadly, self.num_calls, self.num_made = deadly, 0, 0
    self._nodes = [
      {"NodeID": f"{number:06}", "NodeManagerHostname": "h", "Alive": True, "Resources": {"CPU": 2.0}}
      for number in range(num_hosts)
    ]
    errors: Any = dict.fromkeys(("RayActorError", "ActorUnschedulableError", "NodeDiedError"), DeathError)
    self.exceptions = types.SimpleNamespace(**errors, RayTaskError=TypeError)
    made = types.SimpleNamespace(NodeAffinitySchedulingStrategy=lambda name, *, soft: name)
    self.util = types.SimpleNamespace(scheduling_strategies=made)

  def nodes(self) -> list[dict[str, Any]]:
    return self._nodes

  def remote(self, **_: Any) -> Any:
    return lambda actor: types.SimpleNamespace(remote=functools.partial(self.make, actor))

  def make(self, actor: Any) -> Any:
    self.num_made += 1
    made = actor()
    return types.SimpleNamespace(open=Call(made.open), work=Call(made.work))

  def wait(self, futures: list[Any], *, timeout: float) -> tuple[list[Any], list[Any]]:
    ready = futures[self.num_calls % len(futures)]
    return [ready], [future for future in futures if future is not ready]

  def get(self, future: Callable[[], Any]) -> Any:
    self.num_calls += 1
    if self.num_calls - 1 in self.deadly:
      raise DeathError
    return future()
