"""A server of HTTP before a bucket's own that goes wrong, by a seed: it is busy, slow, or loses connections."""

import collections
import contextlib
import enum
import http.client
import random
import threading
import time
import urllib.parse
from collections.abc import Iterator

from local_server import LocalServer, QuietHandler, answer

SLOW_SECONDS = 0.3
UPSTREAM_SECONDS = 60


class Fault(enum.Enum):
  """What befalls a request."""

  TOO_MANY = 429
  UNAVAILABLE = 503
  SLOW = "answered late"
  LOST = "the connection ends before the server hears of it"
  UNHEARD = "the server does it, and the connection ends before it says so"
  CUT = "the connection ends in the middle of the answer"
  # Not drawn.
  NEVER = "nothing is answered as long as that lasts"


DRAWN = tuple(fault for fault in Fault if fault is not Fault.NEVER)


class FaultProxy(LocalServer):
  """Passes requests on to a server, but for a share of them.

  Attributes:
    counts: how many requests met each fault that was drawn.
  """

  def __init__(self, target: str, *, rate: float, seed: int):
    super().__init__()
    self._target = urllib.parse.urlsplit(target).netloc
    self._rate = rate
    self._random = random.Random(seed)
    self._lock = threading.Lock()
    self._always: Fault | None = None
    self.counts: collections.Counter[Fault] = collections.Counter()

  @contextlib.contextmanager
  def always(self, fault: Fault) -> Iterator[None]:
    """Every request meets this fault."""
    self._always = fault
    try:
      yield
    finally:
      self._always = None

  def serve(self, handler: QuietHandler, content: bytes) -> None:
    fault = self._draw()
    if fault in (Fault.TOO_MANY, Fault.UNAVAILABLE):
      answer(handler, fault.value, [], b"")
      return
    while fault is Fault.NEVER and self._always is Fault.NEVER:
      time.sleep(0.05)
    if fault in (Fault.LOST, Fault.NEVER):
      handler.close_connection = True
      return
    if fault is Fault.SLOW:
      time.sleep(SLOW_SECONDS)
    status, headers, body = self._ask(handler, content)
    handler.close_connection = fault in (Fault.UNHEARD, Fault.CUT)
    if fault is not Fault.UNHEARD:
      answer(handler, status, headers, body, num_sent=len(body) // 2 if fault is Fault.CUT else None)

  def _draw(self) -> Fault | None:
    """The fault of one more request."""
    if self._always is not None:
      return self._always
    with self._lock:
      fault = self._random.choice(DRAWN) if self._random.random() < self._rate else None
      self.counts.update([fault] if fault else [])
    return fault

  def _ask(self, handler: QuietHandler, content: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    with contextlib.closing(http.client.HTTPConnection(self._target, timeout=UPSTREAM_SECONDS)) as connection:
      connection.request(handler.command, handler.path, body=content, headers=dict(handler.headers))
      response = connection.getresponse()
      return response.status, response.getheaders(), response.read()
