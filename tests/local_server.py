"""An HTTP server on this machine, in a thread of its own, for tests to say what it answers."""

import contextlib
import http.server
import threading
from collections.abc import Sequence
from typing import Any, Self

METHODS = ("DELETE", "GET", "HEAD", "POST", "PUT")
HOP_BY_HOP = {"connection", "content-length", "keep-alive", "transfer-encoding"}


class QuietHandler(http.server.BaseHTTPRequestHandler):
  """Keeps connections, and says nothing on the terminal."""

  protocol_version = "HTTP/1.1"
  disable_nagle_algorithm = True
  wbufsize = -1

  def log_message(self, format: str, *arguments: Any) -> None:
    """Nothing."""


class LocalServer:
  """Use it as a context manager.

  Attributes:
    url: where it listens.
  """

  def __init__(self):
    methods = {f"do_{method}": lambda handler: self.serve(handler, read(handler)) for method in METHODS}
    self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (QuietHandler,), methods))
    self._server.daemon_threads = True
    self.url = f"http://127.0.0.1:{self._server.server_port}"

  def __enter__(self) -> Self:
    threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return self

  def __exit__(self, *_: object) -> None:
    self._server.shutdown()
    self._server.server_close()

  def serve(self, handler: QuietHandler, content: bytes) -> None:
    """Answers a request with this content; several at once."""
    raise NotImplementedError


def read(handler: QuietHandler) -> bytes:
  return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))


def answer(
  handler: QuietHandler,
  status: int,
  headers: Sequence[tuple[str, str]],
  body: bytes,
  *,
  num_sent: int | None = None,
) -> None:
  """Sends an answer, of whose body no more than `num_sent` bytes."""
  with contextlib.suppress(ConnectionError):
    handler.send_response_only(status)
    for name, value in headers:
      if name.lower() not in HOP_BY_HOP:
        handler.send_header(name, value)
    # Of a HEAD, the length of what is not sent.
    length = next((value for name, value in headers if name.lower() == "content-length"), len(body))
    handler.send_header("Content-Length", str(length if handler.command == "HEAD" else len(body)))
    handler.end_headers()
    if handler.command != "HEAD":
      handler.wfile.write(body[:num_sent])
    handler.wfile.flush()
