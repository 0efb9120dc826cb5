"""An address where no Ray cluster is, which Ray itself would ask for minutes."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from jax_sis.runtime import ray_cluster

SETTINGS = bytes([0, 0, 6, 4, 0, 0, 0, 0, 0]) + bytes([0, 4, 0, 64, 0, 0])


@contextlib.contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
  """An address where every client gets this answer and no more; None for none at all."""
  with socket.create_server(("127.0.0.1", 0)) as server:

    def serve() -> None:
      connection, _ = server.accept()
      with connection:
        if answer is not None:
          connection.recv(1024)
          connection.sendall(answer)
        else:
          while connection.recv(1024):
            pass

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"127.0.0.1:{server.getsockname()[1]}"
    thread.join()


def test_a_server_that_speaks_as_ray_does_is_let_through(monkeypatch: pytest.MonkeyPatch):
  with answering(SETTINGS) as address:
    ray_cluster.check_address(address)
  monkeypatch.setenv("RAY_USE_TLS", "1")
  with answering(b"") as address:
    ray_cluster.check_address(address)


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0", b"", None])
def test_what_is_not_ray_is_refused_at_once(answer: bytes | None, monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr(ray_cluster, "PROBE_SECONDS", 0.2)
  begin = time.monotonic()
  with answering(answer) as address:
    with pytest.raises(ValueError, match=f"'{address}' is not: something else answers there, or nothing; `ray start"):
      ray_cluster.check_address(address)
  assert time.monotonic() - begin < 2
