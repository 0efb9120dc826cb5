"""As much of Google Cloud Storage's JSON interface as TensorStore speaks, in memory: for TENSORSTORE_GCS_HTTP_URL."""

import itertools
import json
import re
import threading
import urllib.parse
from typing import Any

from local_server import LocalServer, QuietHandler, answer

# As few as make a run's lists need several requests.
PAGE = 20
OBJECT = re.compile(r"/storage/v1/b/([^/]+)/o/(.+)")
LIST = re.compile(r"/storage/v1/b/([^/]+)/o")
UPLOAD = re.compile(r"/upload/storage/v1/b/([^/]+)/o")
RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class FakeGcs(LocalServer):
  """A server with one bucket.

  Attributes:
    objects: by name, the generation and content of each.
    may_list: whether one may list them, or is told that one may not.
  """

  def __init__(self, bucket: str):
    super().__init__()
    self._bucket = bucket
    self._lock = threading.Lock()
    self._generations = itertools.count(1)
    self.objects: dict[str, tuple[int, bytes]] = {}
    self.may_list = True

  def serve(self, handler: QuietHandler, content: bytes) -> None:
    parts = urllib.parse.urlsplit(handler.path)
    query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    status, headers, body = 400, [], b""
    with self._lock:
      for command, pattern, serve_fn in (
        ("GET", OBJECT, self._read),
        ("GET", LIST, self._list),
        ("POST", UPLOAD, self._write),
        ("DELETE", OBJECT, self._delete),
      ):
        match = pattern.fullmatch(parts.path)
        if handler.command == command and match is not None:
          name = query.get("name") or (urllib.parse.unquote(match[2]) if pattern is OBJECT else "")
          found = match[1] == self._bucket
          status, headers, body = serve_fn(handler, name, query, content) if found else (404, [], b"no such bucket")
          break
    answer(handler, status, headers, body)

  def _is_met(self, name: str, query: dict[str, str]) -> bool:
    """Whether the conditions of a request hold."""
    generation = self.objects.get(name, (0, b""))[0]
    asked, unwanted = query.get("ifGenerationMatch"), query.get("ifGenerationNotMatch")
    return (asked is None or int(asked) == generation) and (unwanted is None or int(unwanted) != generation)

  def _read(self, handler: Any, name: str, query: dict[str, str], content: bytes) -> Any:
    del content
    if name not in self.objects:
      return 404, [], b""
    if not self._is_met(name, query):
      return (304 if "ifGenerationNotMatch" in query else 412), [], b""
    if query.get("alt") != "media":
      return 200, [], json.dumps(self._describe(name)).encode()
    generation, body = self.objects[name]
    headers = [("x-goog-generation", str(generation))]
    match = RANGE.fullmatch(handler.headers.get("Range", ""))
    if match is None:
      return 200, headers, body
    start, stop = int(match[1]), min(int(match[2] or len(body)) + 1, len(body))
    return 206, [*headers, ("Content-Range", f"bytes {start}-{stop - 1}/{len(body)}")], body[start:stop]

  def _write(self, handler: Any, name: str, query: dict[str, str], content: bytes) -> Any:
    del handler
    if not self._is_met(name, query):
      return 412, [], b""
    self.objects[name] = next(self._generations), content
    return 200, [], json.dumps(self._describe(name)).encode()

  def _delete(self, handler: Any, name: str, query: dict[str, str], content: bytes) -> Any:
    del handler, content
    if name not in self.objects:
      return 404, [], b""
    if not self._is_met(name, query):
      return 412, [], b""
    del self.objects[name]
    return 204, [], b""

  def _list(self, handler: Any, name: str, query: dict[str, str], content: bytes) -> Any:
    del handler, name, content
    if not self.may_list:
      error = {"code": 403, "message": "somebody does not have storage.objects.list access to the bucket."}
      return 403, [], json.dumps({"error": error}).encode()
    start, end = query.get("startOffset", ""), query.get("endOffset")
    start = max(start, query.get("pageToken", ""))
    names = sorted(name for name in self.objects if name >= start and (end is None or name < end))
    page: dict[str, Any] = {"items": [self._describe(name) for name in names[:PAGE]]}
    if len(names) > PAGE:
      page["nextPageToken"] = names[PAGE]
    return 200, [], json.dumps(page).encode()

  def _describe(self, name: str) -> dict[str, str]:
    generation, content = self.objects[name]
    return {"name": name, "generation": str(generation), "metageneration": "1", "size": str(len(content))}
