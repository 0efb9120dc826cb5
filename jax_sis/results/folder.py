"""A run's folder, on a disk or in a bucket, by one code path through TensorStore's key-value stores.

A location is a path or a URL: `file:///runs/a`, `gs://BUCKET/PATH`, `s3://BUCKET/PATH`, for other servers that speak S3
`s3+http://HOST:PORT/BUCKET/PATH` (or `s3+https`), and for tests `memory://NAME`. Credentials come from where the
bucket's own tools look for them, such as AWS_ACCESS_KEY_ID or GOOGLE_APPLICATION_CREDENTIALS.
"""

import builtins
import contextlib
import functools
import os
import pathlib
import re
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

import tensorstore as ts

SCHEMES = ("file", "gs", "s3", "s3+http", "s3+https", "memory")
# A bucket is asked again for some seconds (6), so that a wrong name or address is said soon; one that has answered, and
# that the rows of a running search come from or go to, for as long as TensorStore would (a quarter of an hour).
FEW_RETRIES = {"max_retries": 4, "initial_delay": "0.5s", "max_delay": "2s"}
MANY_RETRIES = {"max_retries": 32, "initial_delay": "1s", "max_delay": "32s"}
# TensorStore would wait for ever for a server that takes a request and never answers, and minutes for an address behind
# which nobody is. Variables of the user's come first.
TIME_LIMITS = {"TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "30", "TENSORSTORE_CURL_CONNECT_TIMEOUT_SECONDS": "10"}
# Until a line says what is waited for, and again until the next.
SILENT_SECONDS = 30.0
# Mostly they wait for the disk to say that a file is safe.
NUM_FILES_AT_ONCE = 32
# What TensorStore adds to the name of a file on disk while it writes it.
TEMPORARY_SUFFIX = ".__lock"
# Of the files by which `check_writable` tries a folder.
PROBE_PREFIX = ".writable-"
TENSORSTORE_ERRORS = (ValueError, IndexError, NotImplementedError, OSError)
# What TensorStore's errors say beside the reason.
STATUS_CODE = re.compile(r"^[A-Z_]+: ")
ATTEMPTS = re.compile(r"^All \d+ retry attempts failed: ")
OS_ERROR = re.compile(r"\[os_error_code='(\d+)")
ANNOTATIONS = re.compile(r" \[[\w -]+='.*")
ADVICE = {
  "No space left on device": "free some space, and the same command goes on",
  "Disk quota exceeded": "free some space, and the same command goes on",
  "File too large": "free some space or raise the limit on the size of files, and the same command goes on",
  "Permission denied": "see who may read and write there, or name another folder",
  "Operation not permitted": "see who may read and write there, or name another folder",
  "Read-only file system": "name a folder on another disk",
  "Not a directory": "name a folder that no file is in the way of",
  "Is a directory": "name a file that no folder is in the way of",
}
DISK_ADVICE = "see whether the disk is sound"
BUCKET_ADVICE = "see whether the bucket's name, the credentials and the network are right"


class StorageError(ValueError):
  """A disk or bucket could not do what was asked.

  Attributes:
    reason: why, in a few words such as "No space left on device".

  Examples:
    >>> from jax_sis import results
    >>> error = results.StorageError("'a' could not be written: No space left on device.", "No space left on device")
    >>> isinstance(error, ValueError), error.reason
    (True, 'No space left on device')
  """

  def __init__(self, message: str, reason: str):
    super().__init__(message)
    self.reason = reason


class Folder:
  """Named files below one place. Use `open_folder`.

  Attributes:
    location: as the user gave it.
    path: the folder on disk; None in a bucket.

  Examples:
    >>> import tempfile
    >>> from jax_sis import results
    >>> with tempfile.TemporaryDirectory() as place:
    ...   folder = results.open_folder(place)
    ...   folder.write("notes/first.txt", b"hello")
    ...   print(folder.list(), folder.read("notes/first.txt"), folder.read("other.txt"))
    ['notes/first.txt'] b'hello' None
  """

  def __init__(self, location: str, spec: dict[str, Any], path: pathlib.Path | None, *, is_patient: bool = False):
    self.location = location
    self.path = path
    self._spec = spec
    self._is_patient = is_patient

  @functools.cached_property
  def patient(self) -> "Folder":
    """The same, for those who know that it is there: a bucket is asked again for many minutes, and not for seconds."""
    return Folder(self.location, self._spec, self.path, is_patient=True)

  @functools.cached_property
  def _kvstore(self) -> ts.KvStore:
    with self.explain("opened"):
      context = patient_context() if self._is_patient else shared_context()
      return ts.KvStore.open(self._spec, context=context).result()

  def read(self, name: str) -> bytes | None:
    """The content of a file, or None where there is none.

    Raises:
      StorageError: it cannot be read.
    """
    return self.read_many([name])[0]

  def read_many(self, names: Sequence[str]) -> builtins.list[bytes | None]:
    """As `read`, for many files at once.

    Raises:
      StorageError: one of them cannot be read.
    """
    futures = [self._kvstore.read(name) for name in names]
    found = [self.wait(future, "read", name) for name, future in zip(names, futures, strict=True)]
    return [None if result.state == "missing" else result.value for result in found]

  def write(self, name: str, content: bytes) -> None:
    """Makes or replaces a file, whole or not at all; on a disk it outlasts a loss of power.

    Raises:
      StorageError: it cannot be written.
    """
    self.clear_leftovers([name])
    self.wait(self._kvstore.write(name, content), "written", name)

  def write_new(self, name: str, content: bytes) -> bytes:
    """Makes a file unless there is one. Of several processes that do so at once, one makes it.

    Returns:
      What the file holds now, the same for all of them.

    Raises:
      StorageError: it can be neither read nor written.
    """
    while True:
      self.clear_leftovers([name])
      found = self.wait(self._kvstore.read(name), "written", name)
      if found.state != "missing":
        return found.value
      # An empty condition would stand for any file, and not for none.
      written = self._kvstore.write(name, content, if_equal=missing_generation())
      if self.wait(written, "written", name).generation:
        return content

  def delete(self, name: str) -> None:
    """Removes a file, if it is there.

    Raises:
      StorageError: it cannot be removed.
    """
    self.wait(self._kvstore.write(name, None), "removed", name)

  def clear_leftovers(self, names: Sequence[str]) -> None:
    """Removes what processes left on a disk that were killed while they wrote these files.

    TensorStore writes into the same temporary file again, without making it shorter first, and so what comes after
    the new content would stay at its end.

    Raises:
      StorageError: it cannot be removed.
    """
    if self.path is None:
      return
    for name in names:
      if os.path.exists(f"{self._spec['path']}{name}{TEMPORARY_SUFFIX}"):
        with self.explain("written", name):
          # This takes the lock that writers take, removes the temporary file, and leaves the file itself alone.
          self._kvstore.write(name, None, if_equal=missing_generation()).result()

  def remove_leftovers(self) -> int:
    """Removes all that processes left that were killed while they wrote on a disk or tried a folder; how many files.

    Processes that write now lose nothing.

    Raises:
      StorageError: one cannot be removed.
    """
    found = []
    if self.path is not None:
      found = [str(path.relative_to(self.path)) for path in sorted(self.path.rglob(f"*{TEMPORARY_SUFFIX}"))]
      self.clear_leftovers([name.removesuffix(TEMPORARY_SUFFIX) for name in found])
    probes = self.list(PROBE_PREFIX)
    for probe in probes:
      self.delete(probe)
    return len(found) + len(probes)

  def list(self, prefix: str = "", *, witness: str | None = None) -> builtins.list[str]:
    """The names of all files below that begin so, sorted.

    Args:
      prefix: how they begin.
      witness: a file that is there. TensorStore takes it for an empty list where Google refuses to list a bucket; with
        a witness, that is an error.

    Raises:
      StorageError: they cannot be listed.
    """
    return self.list_many([prefix], witness=witness)

  def list_many(self, prefixes: Sequence[str], *, witness: str | None = None) -> builtins.list[str]:
    """As `list`, for several beginnings at once, none of which begins so as another.

    Raises:
      StorageError: they cannot be listed.
    """
    ends = [prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else "" for prefix in prefixes]
    futures = [self._kvstore.list(ts.KvStore.KeyRange(start, end)) for start, end in zip(prefixes, ends, strict=True)]
    names: builtins.list[bytes] = []
    for prefix, future in zip(prefixes, futures, strict=True):
      names += self.wait(future, "listed", prefix)
    if not names and witness is not None and not self.list(witness):
      reason = f"{witness} is there, and is not listed"
      raise StorageError(
        f"{self.location!r} could not be listed: {reason}; see whether the credentials allow to list the bucket "
        "(storage.objects.list).",
        reason,
      )
    return sorted(map(os.fsdecode, names))

  def kvstore_spec(self, name: str) -> dict[str, Any]:
    """TensorStore's JSON specification of a folder below this one."""
    return {**self._spec, "path": f"{self._spec['path']}{name}/"}

  def join(self, name: str) -> str:
    """Where a file is, as the user would say."""
    return f"{self.location.rstrip('/')}/{name}" if name else self.location

  def wait(self, future: ts.Future | ts.WriteFutures, done: str, name: str = "", advice: str = "") -> Any:
    """What a future of TensorStore's gives; where that takes long, a line on standard error says so now and then.

    Args:
      future: which.
      done: as for `explain`, as are the others.
      name: of which file.
      advice: what to do.

    Raises:
      StorageError: it failed.
    """
    begin = time.monotonic()
    with self.explain(done, name, advice):
      while True:
        try:
          return future.result(timeout=SILENT_SECONDS)
        except TimeoutError:
          if future.done():
            raise
          from jax_sis.runtime import progress

          why = "the bucket is asked again, for up to half an hour" if self.path is None else "the disk does not answer"
          progress.say(f"{self.join(name)!r} is not {done} after {time.monotonic() - begin:.0f} s: {why}.")

  @contextlib.contextmanager
  def explain(self, done: str, name: str = "", advice: str = "") -> Iterator[None]:
    """Turns the errors of TensorStore that are raised within into StorageErrors.

    Args:
      done: what was to be, such as "read".
      name: of which file.
      advice: what to do, unless the reason says more.

    Raises:
      StorageError: there was one.
    """
    try:
      yield
    except StorageError:
      raise
    except TENSORSTORE_ERRORS as error:
      reason = find_reason(str(error))
      advice = ADVICE.get(reason) or advice or (BUCKET_ADVICE if self.path is None else DISK_ADVICE)
      raise StorageError(f"{self.join(name)!r} could not be {done}: {reason}; {advice}.", reason) from error


@functools.cache
def shared_context() -> ts.Context:
  """What all folders share: how often a bucket is asked again, and what `memory://` holds."""
  return ts.Context(
    {
      "file_io_concurrency": {"limit": NUM_FILES_AT_ONCE},
      "s3_request_retries": FEW_RETRIES,
      "gcs_request_retries": FEW_RETRIES,
    }
  )


@functools.cache
def missing_generation() -> bytes:
  """What TensorStore gives as the generation of a file that does not exist."""
  return ts.KvStore.open("memory://", context=ts.Context()).result().read("none").result().stamp.generation


@functools.cache
def patient_context() -> ts.Context:
  """The same for what a long run reads and writes."""
  return ts.Context({"s3_request_retries": MANY_RETRIES, "gcs_request_retries": MANY_RETRIES}, shared_context())


def open_folder(location: str | os.PathLike[str]) -> Folder:
  """The folder at a path or URL, which need not exist; no bucket is asked yet.

  Args:
    location: a path, or a URL: `file:///runs/a`, `gs://BUCKET/PATH`, `s3://BUCKET/PATH`, for other servers that speak
      S3 `s3+http://HOST:PORT/BUCKET/PATH` (or `s3+https`), and for tests `memory://NAME`.

  Raises:
    ValueError: it is a URL that we cannot read.

  Examples:
    The same for a folder on disk and in a bucket, and for tests in memory:

    >>> from jax_sis import results
    >>> folder = results.open_folder("memory://open-folder-example")
    >>> folder.write("first.txt", b"hello")
    >>> folder.join("first.txt"), folder.read("first.txt")
    ('memory://open-folder-example/first.txt', b'hello')
  """
  location = os.fspath(location)
  scheme, separator, _ = location.partition("://")
  if not separator:
    # TensorStore takes no "..".
    return Folder(location, {"driver": "file", "path": f"{os.path.realpath(location)}/"}, pathlib.Path(location))
  if scheme not in SCHEMES:
    raise ValueError(
      f"{location!r} must be a path or begin with {', '.join(f'{known}://' for known in SCHEMES)}; got {scheme}://."
    )
  spec = parse_s3_server(location) if scheme.startswith("s3+") else parse_url(location)
  if scheme == "file":
    path = pathlib.Path(spec["path"])
    return Folder(location, {**spec, "path": f"{path}/"}, path)
  for name, seconds in TIME_LIMITS.items():
    os.environ.setdefault(name, seconds)
  if spec["driver"] == "s3" and "AWS_ACCESS_KEY_ID" in os.environ:
    # They come first anyway, but TensorStore would complain on the terminal of missing configuration files.
    spec["aws_credentials"] = {"type": "environment"}
  path_in_bucket = spec.get("path", "").strip("/")
  return Folder(location, {**spec, "path": path_in_bucket and f"{path_in_bucket}/"}, None)


def parse_url(location: str) -> dict[str, Any]:
  """TensorStore's JSON specification of a URL; ValueError if TensorStore does not know it."""
  try:
    return ts.KvStore.Spec(location).to_json()
  except ValueError as error:
    _, _, reason = find_reason(str(error)).rpartition('": ')
    raise ValueError(f"{location!r} must be the URL of a folder: {reason}.") from error


def parse_s3_server(location: str) -> dict[str, Any]:
  """TensorStore's JSON specification of `s3+http://HOST:PORT/BUCKET/PATH`; ValueError without server or bucket."""
  parts = urllib.parse.urlsplit(location)
  bucket, _, path = urllib.parse.unquote(parts.path).strip("/").partition("/")
  if not parts.netloc or not bucket or parts.query or parts.fragment:
    raise ValueError(f"{location!r} must be s3+http://HOST:PORT/BUCKET/PATH, with no ? or # but as %3F and %23.")
  return {
    "driver": "s3",
    "endpoint": f"{parts.scheme.removeprefix('s3+')}://{parts.netloc}",
    "bucket": bucket,
    "path": path,
    # Servers sign by a region, and those that are not Amazon's have none.
    "aws_region": os.environ.get("AWS_REGION", "us-east-1"),
    # TensorStore has Amazon make a file only if it is missing, but would ask other servers beforehand whether it is.
    "use_conditional_write": True,
  }


def find_reason(text: str) -> str:
  """Why TensorStore failed, in a few words of one line."""
  if match := OS_ERROR.search(text):
    return os.strerror(int(match[1]))
  line = (text.splitlines() or [""])[0]
  for noise in (STATUS_CODE, ATTEMPTS, ANNOTATIONS):
    line = noise.sub("", line)
  return line.rstrip(".")


def check_writable(folder: Folder, argument: str = "--out") -> None:
  """Makes the folder, and a file in it for a moment.

  Args:
    folder: which.
    argument: what the user calls it.

  Raises:
    ValueError: it cannot be made or written to.

  Examples:
    Nothing is left behind where all is well:

    >>> from jax_sis import results
    >>> folder = results.open_folder("memory://check-writable-example")
    >>> results.check_writable(folder)
    >>> folder.list()
    []
  """
  probe = f"{PROBE_PREFIX}{os.getpid()}"
  try:
    folder.write(probe, b"")
    folder.delete(probe)
  except StorageError as error:
    raise ValueError(
      f"{argument} must be a folder that can be written, but {folder.location!r} cannot: {error.reason}."
    ) from error


def write_atomically(path: pathlib.Path, content: bytes) -> None:
  """Replaces a file on disk whole or not at all; StorageError if it cannot be written."""
  open_folder(path.parent).write(path.name, content)
